"""A page that compares runs: one HTML file that needs no other."""

import base64
import html
import io
import json
import sys
from collections.abc import Sequence

import numpy as np
from PIL import Image

import models
from errors import BadFile, RunError
from sources import files
from storage import shown

from .finished_run import FinishedRun, curves

STYLE = (
    'body{font:15px/1.5 sans-serif;max-width:1200px;margin:2em auto;padding:0 1em;color:#222}'
    'table{border-collapse:collapse;margin:1em 0}'
    'td,th{border-bottom:1px solid #ddd;padding:.3em .8em;text-align:left}td.n{text-align:right}'
    'tr.best td{font-weight:bold}img{max-width:100%}h1,h2{font-weight:600}'
)


def page(runs: Sequence[FinishedRun]) -> str:
    """Text of the page. Raises RunError for runs of several tasks."""
    if len({r.task.name for r in runs}) > 1:
        raise RunError('the runs are of several tasks, which nothing compares: give those of one')
    body = [
        '<h1>Runs</h1>',
        _scores(runs),
        '<h2>Curves</h2>' + picture(curves(runs)),
        _options(runs),
        *map(_strip, runs),
    ]
    head = f'<!doctype html><meta charset=utf-8><title>Runs</title><style>{STYLE}</style>'
    return head + ''.join(body)


def _scores(runs: Sequence[FinishedRun]) -> str:
    """Table of the runs, the best one in bold."""
    metric = runs[0].task.metric
    columns: dict[str, str] = {}
    for r in runs:
        columns |= r.task.prose.columns(r.net)
    scores = [r.last(metric.key) for r in runs]
    best = int(np.nanargmax(scores)) if not np.isnan(scores).all() else -1

    heads = ['run', 'network', 'parameters', 'images', 'minutes', f'{metric.name}, {metric.unit}']
    rows = ['<tr>' + ''.join(f'<th>{head}' for head in [*heads, *columns]) + '</tr>']
    for i, (r, score) in enumerate(zip(runs, scores, strict=True)):
        names = f'<td>{_text(r.name)}<td>{_text(type(r.net).__name__)}'
        figures = [
            f'{models.count(r.net):,}',
            f'{r.images:,}',
            f'{r.seconds / 60:.1f}',
            f'{score:.3f}',
            *(f'{r.last(key):.4f}' for key in columns.values()),
        ]
        kind = ' class=best' if i == best else ''
        rows.append(f'<tr{kind}>{names}' + ''.join(f'<td class=n>{f}' for f in figures) + '</tr>')
    return '<table>' + ''.join(rows) + '</table>'


def _options(runs: Sequence[FinishedRun]) -> str:
    """Table of the options in which the runs differ; nothing if they do not."""
    keys = sorted({k for r in runs for k in r.stored if k not in ('out', 'format')})
    differ = [k for k in keys if len({json.dumps(r.stored.get(k)) for r in runs}) > 1]
    if not differ:
        return ''
    rows = ['<tr><th>option' + ''.join(f'<th>{_text(r.name)}' for r in runs) + '</tr>']
    for key in differ:
        values = ''.join(f'<td>{_text(r.stored.get(key))}' for r in runs)
        rows.append(f'<tr><td>{_text(key)}{values}</tr>')
    return '<h2>Options that differ</h2><table>' + ''.join(rows) + '</table>'


def _strip(r: FinishedRun) -> str:
    """The newest pictures of a run."""
    strips = sorted((r.folder / 'samples').glob('[0-9]*.png'))
    if not strips:
        return ''
    try:
        data = files.read_bytes(strips[-1])
        files.check(data)
        pictures = picture(Image.fromarray(files.decode(data)))
    except (OSError, BadFile) as error:
        reason = f'{shown(strips[-1])} cannot be shown: {error}'
        print(reason, file=sys.stderr)
        pictures = f'<p>{_text(reason)}</p>'
    return f'<h2>{_text(r.name)}: {r.task.prose.panels(r.net)}</h2>{pictures}'


def _text(value: object) -> str:
    # Names of runs and options come from outside.
    return html.escape(str(value))


def picture(image: Image.Image) -> str:
    """Return an image as HTML that needs no file."""
    buffer = io.BytesIO()
    image.save(buffer, 'JPEG', quality=88)
    return f'<img src="data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
