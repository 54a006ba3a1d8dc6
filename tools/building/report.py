"""The page by which thresholds are chosen: what was found, kept and dropped; for every measure its
histogram and the faces at its ends and next to its thresholds. One HTML file that needs no other.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from storage import counted, printable
from storage.records import excerpt
from tools.html_page import document, text

from . import charts, sheets
from .accounts import Account, Sheet
from .charts import AXES, KINDS, Counts
from .sheets import Limits, Strip
from .tally import Example, Tally

SHOWN = 10  # reasons why photos could not be used
STYLE = (
    'h3{margin:2.2em 0 .2em;border-top:1px solid #8886;padding-top:.8em}'
    'h4{font-size:14px;margin:.8em 0 .4em}code{white-space:nowrap}'
    'td{font-variant-numeric:tabular-nums;overflow-wrap:anywhere}td.n{white-space:nowrap}'
    '.wide{overflow-x:auto}.pair{display:flex;flex-wrap:wrap;gap:0 2em;align-items:center}'
    '.pair>figure{margin:0;flex:1 1 320px;max-width:520px;min-width:0}'
    '.strips{display:grid;gap:0 1.5em;'
    'grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr))}'
    '.row{display:grid;gap:.6em;grid-template-columns:repeat(auto-fill,minmax(max(98px,22%),1fr))}'
    '@media(max-width:480px){.row{grid-template-columns:1fr 1fr}}'
    '.row figure{margin:0;max-width:150px}.row img,.none{display:block;width:96px;height:96px}'
    '.none{display:grid;place-items:center;border:1px dashed;box-sizing:border-box}'
    'figcaption{font-size:13px;overflow-wrap:anywhere}'
    '.bar{height:.8em;min-width:1px;background:var(--by-it)}.bar.keeps{background:var(--kept)}'
    'td.bars{width:30%;min-width:80px}'
    '.mark{display:inline-block;width:.8em;height:.8em;margin:0 .35em 0 0}'
    '.mark.kept{background:var(--kept)}.mark.by-it{background:var(--by-it)}'
    '.mark.otherwise{background:var(--otherwise)}.key{display:inline-block;margin-right:1em}'
    'nav li{display:inline-block;margin-right:1em}nav ul{padding:0}a{color:#0b57b0}'
    '@media(prefers-color-scheme:dark){a{color:#8ab4f8}}'
    ':focus-visible{outline:3px solid #1f6fb4;outline-offset:2px}'
)


def page(
    title: str,
    accounts: Iterable[Account],
    sheet: Callable[[int], Sheet],
    limits: Limits,
    settings: Mapping[str, Any],
) -> str:
    """The page.

    accounts: of all shards in their order; one at a time is held
    sheet: the copies of a shard by its number; asked for those few that hold faces
        which are shown
    limits: thresholds by the names of their flags (least_side)
    settings: what else to say of the build
    Raises DataError for a measure that is none.
    """
    tally = Tally(limits)
    for account in accounts:
        tally.add(account)
    copies = _copies(tally, sheet)
    body = [
        f'<main><h1>{text(printable(title))}</h1>{_summary(tally)}{_links(tally)}',
        _fates(tally),
        _bad(tally),
        _measures(tally, copies),
        _settings(settings),
        '</main>',
    ]
    return document(printable(title), ''.join(body), charts.STYLE + STYLE)


def _copies(tally: Tally, sheet: Callable[[int], Sheet]) -> dict[str, str]:
    """Base64 of the JPEGs of all faces that are shown, by key."""
    # Of a hundred thousand shards only a few hold a face that is shown.
    wanted: dict[int, set[str]] = {}
    for examples in tally.examples.values():
        for example in examples:
            wanted.setdefault(example.shard, set()).add(example.key)
    found: dict[str, str] = {}
    for shard, keys in sorted(wanted.items()):
        copies = sheet(shard).copies
        found |= {key: copies[key] for key in keys if key in copies}
    return found


# ------------------------------------------------------------------------------------------------
# Written: the whole.


def _share(part: int, whole: int) -> str:
    return f'{100 * part / whole:.1f} %' if whole else '-'


def _summary(tally: Tally) -> str:
    said = (
        f'{counted(tally.photos, "photo")} in {counted(tally.shards, "shard")}: '
        f'{counted(tally.bad, "photo")} could not be used, {tally.empty:,} had no face. '
        f'{counted(tally.faces, "face")} found, {tally.fates[""]:,} kept '
        f'({_share(tally.fates[""], tally.faces)}).'
    )
    return f'<p>{said}</p>'


def _links(tally: Tally) -> str:
    names = ['fates', *(['bad'] if tally.bad else []), *map(_anchor, tally.counts), 'settings']
    titles = ['Kept and dropped', *(['Bad photos'] if tally.bad else []), *tally.counts, 'Settings']
    links = [
        f'<li><a href="#{name}">{text(title)}</a>'
        for name, title in zip(names, titles, strict=True)
    ]
    return f'<nav aria-label=Sections><ul>{"".join(links)}</ul></nav>'


def _anchor(measure: str) -> str:
    return f'measure-{measure}'


def _fates(tally: Tally) -> str:
    """Table of what became of the faces, the kept ones first, then by number."""
    dropped = sorted((-n, reason) for reason, n in tally.fates.items() if reason)
    rows = []
    for reason, n in [('', tally.fates['']), *((reason, -n) for n, reason in dropped)]:
        name = text(printable(reason, 60)) if reason else 'kept'
        if reason in tally.counts:
            name = f'<a href="#{_anchor(reason)}">{name}</a>'
        wide = 100 * n / max(tally.faces, 1)
        bar = f'<div class="bar{"" if reason else " keeps"}" style="width:{wide:.2f}%"></div>'
        why = f'dropped: {name}' if reason else name
        rows.append(
            f'<tr><th scope=row>{why}</th><td class=n>{n:,}</td>'
            f'<td class=n>{_share(n, tally.faces)}</td><td class=bars aria-hidden=true>{bar}</td>'
        )
    head = '<th scope=col>faces<th scope=col>number<th scope=col>share<td aria-hidden=true>'
    table = _table('Faces kept and dropped', head, rows)
    return f'<section id=fates><h2>Kept and dropped</h2>{table}</section>'


def _table(label: str, head: str, rows: Sequence[str]) -> str:
    """A table. What is too wide scrolls, so it must be reached by keys, too."""
    return f'<div class=wide tabindex=0 role=region aria-label="{label}">{_rows(head, rows)}</div>'


def _rows(head: str, rows: Sequence[str]) -> str:
    return f'<table><tr>{head}</tr>{"".join(rows)}</table>'


def _bad(tally: Tally) -> str:
    """What photos could not be used."""
    if not tally.bad:
        return ''
    common = sorted(tally.reasons.items(), key=lambda item: (-item[1], item[0]))
    rows = [
        f'<tr><td>{text(reason)}<td class=n>{n:,}<td class=n>{_share(n, tally.bad)}'
        for reason, n in common[:SHOWN]
    ]
    rest = sum(n for _, n in common[SHOWN:])
    if rest:
        rows.append(f'<tr><td>others<td class=n>{rest:,}<td class=n>{_share(rest, tally.bad)}')
    names = [
        f'<li>{text(printable(name, 300))}: {text(printable(reason, 300))}'
        for name, reason in tally.named
    ]
    first = 'All' if tally.bad == len(names) else f'The first {len(names)}'
    head = '<th scope=col>reason<th scope=col>photos<th scope=col>share'
    return (
        '<section id=bad><h2>Bad photos</h2>'
        f'<p>{counted(tally.bad, "photo")} of {tally.photos:,} '
        f'({_share(tally.bad, tally.photos)}) could not be used. N stands for numbers.</p>'
        f'{_table("Reasons", head, rows)}'
        f'<details><summary>{first} by name</summary><ul>{"".join(names)}</ul></details></section>'
    )


def _settings(settings: Mapping[str, Any]) -> str:
    rows = []
    for name, value in settings.items():
        told = printable(value, 500) if isinstance(value, str) else excerpt(value, 500)
        rows.append(f'<tr><th scope=row>{text(printable(name, 60))}</th><td>{text(told)}')
    table = _table('Settings', '<th scope=col>name<th scope=col>value', rows)
    return f'<section id=settings><h2>Settings</h2>{table}</section>'


# ------------------------------------------------------------------------------------------------
# Written: the measures.


def _measures(tally: Tally, copies: Mapping[str, str]) -> str:
    if not tally.counts:
        return '<section><h2>Measures</h2><p>No faces were found.</p></section>'
    intro = (
        'A face is dropped by the first threshold that it fails, and counted there. Bars stand on '
        'each other; an arrow gives the height of one that is too tall to be drawn; broken lines '
        'are thresholds. Under each histogram are faces from its lower end to its upper one, with '
        'value, key and photo: look at those next to a threshold, and turn it where good faces are '
        'dropped or bad ones kept.'
    )
    parts = [_measure(measure, tally, copies) for measure in tally.counts]
    return f'<section><h2>Measures</h2><p>{intro}</p>{"".join(parts)}</section>'


def _measure(measure: str, tally: Tally, copies: Mapping[str, str]) -> str:
    counts = tally.counts[measure]
    low, high = sheets.bounds(tally.limits, measure)
    # What it is, how it is spread, and who lies where.
    parts = [
        f'<section id={_anchor(measure)}><h3>{measure}</h3>',
        f'<p>{_told(measure, counts, tally.limits)}</p>',
    ]
    if sum(counts.totals()):
        chart = charts.histogram(measure, counts, low, high, _said(measure, counts))
        parts.append(f'<div class=pair><figure>{chart}{_key(counts)}</figure>{_middle(counts)}')
        parts.append(f'</div>{_strips(measure, tally, copies)}')
    return ''.join(parts) + '</section>'


def _told(measure: str, counts: Counts, limits: Limits) -> str:
    """What the measure is, and which way to turn its thresholds."""
    axis = counts.axis
    said = [f'{axis.title[0].upper()}{axis.title[1:]}{f", in {axis.unit}" if axis.unit else ""}.']
    if counts.without:
        said.append(f'{counted(counts.without, "face")} without a value.')
    for word, drops, turn in ('least', 'below', 'higher'), ('most', 'above', 'lower'):
        flag, limit = f'--{word}-{measure}', limits.get(f'{word}_{measure}')
        if limit is None:
            continue
        where = f'{drops} {limit:g}'
        if measure in sheets.ANGLES:
            where = f'beyond {limit:g} either way'
        value = f'<code>{flag} {limit:g}</code>'
        said.append(f'{value} drops what lies {where}: a {turn} value drops more.')
    if len(said) == 1 + bool(counts.without):
        said.append('It has no threshold.')
    return ' '.join(said)


def _said(measure: str, counts: Counts) -> str:
    """The histogram in words."""
    everyone = list(range(len(KINDS)))
    low, middle, high = (
        counts.axis.told(counts.percentile(part, everyone)) for part in (0.05, 0.5, 0.95)
    )
    kept, by_it, otherwise = counts.totals()
    return (
        f'{measure} of {counted(kept + by_it + otherwise, "face")}: half are below {middle}, nine '
        f'in ten between {low} and {high}. {kept:,} are kept, {by_it:,} dropped by {measure}, '
        f'{otherwise:,} dropped by something else.'
    )


def _key(counts: Counts) -> str:
    """What the colours of a histogram stand for."""
    words = 'kept', 'dropped by it', 'dropped otherwise'
    parts = [
        f'<span class=key><span class="mark {kind}"></span>{word}: {n:,}</span> '
        for kind, word, n in zip(KINDS, words, counts.totals(), strict=True)
    ]
    return f'<figcaption>{"".join(parts)}</figcaption>'


def _middle(counts: Counts) -> str:
    """Table of the percentiles."""
    groups = {'found': [0, 1, 2], 'kept': [0], 'dropped by it': [1]}
    rows = []
    for name, kinds in groups.items():
        if not counts.bins[kinds].any():
            continue
        figures = [counts.axis.figure(counts.percentile(part, kinds)) for part in (0.05, 0.5, 0.95)]
        cells = ''.join(f'<td class=n>{figure}</td>' for figure in figures)
        rows.append(f'<tr><th scope=row>{name}</th>{cells}')
    head = '<th scope=col>faces<th scope=col>5 %<th scope=col>50 %<th scope=col>95 %'
    return _rows(head, rows)


def _strips(measure: str, tally: Tally, copies: Mapping[str, str]) -> str:
    """Faces along the axis; each is shown once, and rather next to a threshold."""
    low, high = sheets.bounds(tally.limits, measure)
    inner = Strip('below', True), Strip('above', False)
    shown: set[str] = set()
    done = {}
    for strip in sorted(sheets.STRIPS, key=lambda strip: strip not in inner):
        examples = [e for e in tally.examples.get((measure, strip), []) if e.key not in shown]
        shown.update(e.key for e in examples)
        if examples:
            figures = [_figure(e, measure, copies) for e in sorted(examples, key=_by_value)]
            kind = 'kept' if strip.part == 'kept' else 'by-it'
            heading = f'<span class="mark {kind}"></span>{_heading(strip, low, high)}'
            done[strip] = f'<div><h4>{heading}</h4><div class=row>{"".join(figures)}</div></div>'
    strips = ''.join(done[strip] for strip in sheets.STRIPS if strip in done)
    return f'<div class=strips>{strips}</div>'


def _by_value(example: Example) -> tuple[float, str]:
    return example.value, example.key


def _heading(strip: Strip, low: float, high: float) -> str:
    """Which faces these are."""
    limit = {'below': low, 'kept': high if strip.highest else low, 'above': high}[strip.part]
    word = 'Kept' if strip.part == 'kept' else 'Dropped'
    outer = strip in (Strip('below', False), Strip('above', True))
    if outer or math.isinf(limit):
        return f'{word}, {"highest" if strip.highest else "lowest"}'
    return f'{word}, nearest to {limit:g}'


def _figure(example: Example, measure: str, copies: Mapping[str, str]) -> str:
    value, copy = AXES[measure].told(example.value), copies.get(example.key)
    key, source = text(printable(example.key, 60)), printable(example.source)
    shot = '<div class=none>no copy</div>'
    if copy:
        data = f'data:image/jpeg;base64,{text(copy)}'
        shot = f'<img src="{data}" width=96 height=96 alt="face {key}, {measure} {value}">'
    # The end of a path says more than its beginning.
    tail = source if len(source) <= 60 else f'...{source[-57:]}'
    return (
        f'<figure>{shot}<figcaption><b>{value}</b><br>{key}<br>{text(tail)}</figcaption></figure>'
    )
