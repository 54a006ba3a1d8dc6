"""A page that compares runs: one HTML file that needs no other."""

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
from .html_page import document, picture, text


def page(runs: Sequence[FinishedRun]) -> str:
    """Text of the page. Raises RunError for runs of several tasks."""
    if len({r.task.name for r in runs}) > 1:
        raise RunError('the runs are of several tasks, which nothing compares: give those of one')
    body = [
        '<h1>Runs</h1>',
        _scores(runs),
        '<h2>Curves</h2>' + picture(curves(runs), 'training loss and validation of the runs'),
        _options(runs),
        *map(_strip, runs),
    ]
    return document('Runs', ''.join(body))


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
        names = f'<td>{text(r.name)}<td>{text(type(r.net).__name__)}'
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
    rows = ['<tr><th>option' + ''.join(f'<th>{text(r.name)}' for r in runs) + '</tr>']
    for key in differ:
        values = ''.join(f'<td>{text(r.stored.get(key))}' for r in runs)
        rows.append(f'<tr><td>{text(key)}{values}</tr>')
    return '<h2>Options that differ</h2><table>' + ''.join(rows) + '</table>'


def _strip(r: FinishedRun) -> str:
    """The newest pictures of a run."""
    strips = sorted((r.folder / 'samples').glob('[0-9]*.png'))
    if not strips:
        return ''
    try:
        data = files.read_bytes(strips[-1])
        files.check(data)
        alt = f'pictures of {r.name}'
        pictures = picture(Image.fromarray(files.decode(data)), alt)
    except (OSError, BadFile) as error:
        reason = f'{shown(strips[-1])} cannot be shown: {error}'
        print(reason, file=sys.stderr)
        pictures = f'<p>{text(reason)}</p>'
    return f'<h2>{text(r.name)}: {r.task.prose.panels(r.net)}</h2>{pictures}'
