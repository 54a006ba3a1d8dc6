"""What a table of figures is written as: text, Markdown, CSV and JSON."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from storage import shown

from .columns import Column
from .scores import Columns, Difference, Evaluation

Row = Sequence[str]


# ------------------------------------------------------------------------------------------------
# For reading.


def means(done: Mapping[str, Evaluation], columns: Columns, corner: str = '') -> list[Row]:
    """A head, and one row for each method. Means of images come with their 95 % intervals.

    corner: what stands above the names
    """
    keys = common(done, columns)
    rows: list[Row] = [[corner, *(columns[key].heading for key in keys)]]
    for name, evaluation in done.items():
        cells = [summary(evaluation, key, columns[key]) for key in keys]
        rows.append([shown(name), *cells])
    return rows


def common(done: Mapping[str, Evaluation], columns: Columns) -> list[str]:
    """Columns that every method has."""
    return [key for key in columns if all(key in e.means for e in done.values())]


def summary(evaluation: Evaluation, key: str, column: Column) -> str:
    """'28.412 ± 0.120', or the figure alone where it has no interval."""
    mean = figure(evaluation.means[key], column)
    half = evaluation.halves.get(key, math.nan)
    return mean if math.isnan(half) else f'{mean} ± {half:.{column.digits}f}'


def figure(value: float, column: Column) -> str:
    """A number of a column; '-' for none."""
    return '-' if math.isnan(value) else f'{value:.{column.digits}f}'


def differences(found: Sequence[Difference], columns: Columns, reference: str) -> list[Row]:
    """A head, and one row for each method and column."""
    name = shown(reference)
    rows: list[Row] = [['', 'column', f'difference to {name}', 'better', 'worse', 'equal', 'p']]
    for d in found:
        column = columns[d.column]
        mean = '-' if math.isnan(d.mean) else f'{d.mean:+.{column.digits}f}'
        if not math.isnan(d.half):
            mean += f' ± {d.half:.{column.digits}f}'
        counts = [f'{n:,}' for n in (d.wins, d.losses, d.ties)]
        rows.append([shown(d.method), column.heading, mean, *counts, chance(d.p)])
    return rows


def chance(p: float) -> str:
    """A probability; '-' for none, and nothing that looks like 0."""
    if math.isnan(p):
        return '-'
    return f'{p:.3f}' if p >= 0.001 else f'{p:.0e}'


def markdown(rows: Sequence[Row]) -> str:
    """Rows, of which the first is the head, aligned also for those who read them as text."""
    # A name may hold what divides cells.
    escaped = [[cell.replace('|', '\\|') for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in escaped) for i in range(len(escaped[0]))]
    lines = []
    for row in escaped:
        # Names to the left, numbers to the right.
        cells = [row[0].ljust(widths[0])]
        cells += [v.rjust(w) for v, w in zip(row[1:], widths[1:], strict=True)]
        lines.append('| ' + ' | '.join(cells) + ' |')
    rules = ['-' * (w + 1) + (':' if i else '-') for i, w in enumerate(widths)]
    return '\n'.join([lines[0], '|' + '|'.join(rules) + '|', *lines[1:]])


# ------------------------------------------------------------------------------------------------
# Every image.


def rows_of_images(names: Sequence[str], done: Mapping[str, Evaluation], columns: Columns) -> bytes:
    """CSV (RFC 4180, UTF-8) of one row per image and method; an empty cell has no number."""
    keys = [key for key in columns if all(key in e.each for e in done.values())]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(['image', 'method', *keys])
    for i, name in enumerate(names):
        for method, evaluation in done.items():
            values = [evaluation.each[key][i] for key in keys]
            # Every digit, so that means of this file are those of the table.
            cells = ['' if math.isnan(value) else repr(value) for value in values]
            writer.writerow([shown(name), shown(method), *cells])
    return text.getvalue().encode()


def content(
    names: Sequence[str],
    done: Mapping[str, Evaluation],
    columns: Columns,
    found: Sequence[Difference],
) -> dict[str, Any]:
    """Everything as JSON: means, halves of their 95 % intervals, differences, every image."""
    return {
        'images': list(names),
        'columns': {key: columns[key].heading for key in common(done, columns)},
        'mean': {name: plain(e.means) for name, e in done.items()},
        'half': {name: plain(e.halves) for name, e in done.items()},
        'differences': [plain(d._asdict()) for d in found],
        'each': {name: plain(e.each) for name, e in done.items()},
    }


def plain(values: Any) -> Any:
    """The same with None for what JSON has no number for: the PSNR of equal pictures, landmarks of
    no face."""
    if isinstance(values, dict):
        return {k: plain(v) for k, v in values.items()}
    if isinstance(values, list):
        return [plain(v) for v in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values
