"""What an evaluation has come to: as text, as files, and as a page."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import storage
from metrics.ms_ssim import LEAST
from storage import counted, shown

from . import scores, sets, tables
from .columns import Judge
from .folders import Found
from .gallery import Gallery
from .scores import Columns, Difference, Evaluation

EXPLAINED = (
    'Of the differences: mean over the images with its 95 % interval (Student), images that are '
    'better, worse and equal, and the p value of the two-sided sign test, which does not allow for '
    'there being several columns'
)


class Result(NamedTuple):
    """What is reported."""

    heading: str  # images, and what they are
    found: Found
    done: Mapping[str, Evaluation]
    columns: Columns
    reference: str  # the method with which the others are compared
    differences: Sequence[Difference]
    notes: Sequence[str]
    truth: str | None
    corner: str  # of the table: whether it is of a part of a test set


def of(
    found: Found,
    done: Mapping[str, Evaluation],
    judges: Sequence[Judge],
    *,
    reference: str | None,
    truth: str | None,
    known: sets.Known | None,
) -> Result:
    """Compare the methods and say what the figures are of."""
    columns = scores.columns_of(judges)
    reference = reference or next(iter(done))
    heading, corner = counted(len(found.names), 'image'), ''
    if known:
        heading = sets.counted(known, len(found.names))
        corner = sets.part(known, len(found.names))
    if truth:
        heading += f'; truth: {shown(truth)}'

    # Which files the figures depend on, and what the table does not show.
    notes = [judge.note for judge in judges if judge.note]
    present = tables.common(done, columns)
    if 'ms_ssim' in columns and 'ms_ssim' not in present:
        notes.append(f'MS-SSIM is left out: its five scales need images of {LEAST}x{LEAST} or more')
    notes += _gaps(done, columns, len(found.names))
    if known and (lacks := sets.missing(known, present)):
        notes.append(lacks)
    differences = scores.differences(done, columns, reference)
    if differences:
        notes.insert(0, EXPLAINED)
    return Result(heading, found, done, columns, reference, differences, notes, truth, corner)


def _gaps(done: Mapping[str, Evaluation], columns: Columns, images: int) -> Iterator[str]:
    """Say which means are of fewer images than the heading says."""
    for method, evaluation in done.items():
        for key, values in evaluation.each.items():
            count = len(scores.present(values))
            if count < images:
                title = columns[key].title
                yield f'{title} of {shown(method)}: {count:,} of {images:,} images have a number'


# ------------------------------------------------------------------------------------------------
# Written.


def rows(result: Result) -> list[list[tables.Row]]:
    """The table of means and, of several methods, that of the differences."""
    found = [tables.means(result.done, result.columns, result.corner)]
    if result.differences:
        found.append(tables.differences(result.differences, result.columns, result.reference))
    return found


def text(result: Result) -> str:
    """Heading, tables and notes, as Markdown."""
    return '\n\n'.join([result.heading, *map(tables.markdown, rows(result)), *result.notes])


def write(out: Path, result: Result) -> None:
    """OUT.md, OUT.json and OUT.csv. Raises RunError."""
    names, done, columns = result.found.names, result.done, result.columns
    # The same facts thrice: to be read, to be computed with, and for a spreadsheet.
    content = {
        'heading': result.heading,
        'gt': result.truth,
        'notes': list(result.notes),
        'reference': result.reference,
        **tables.content(names, done, columns, result.differences),
    }
    storage.write(out.with_name(f'{out.name}.md'), f'{text(result)}\n'.encode())
    storage.write_json(out.with_name(f'{out.name}.json'), content)
    storage.write(out.with_name(f'{out.name}.csv'), tables.rows_of_images(names, done, columns))


def write_gallery(out: Path, result: Result, count: int) -> None:
    """OUT.html with up to `count` images in a section. Raises RunError."""
    page = out.with_name(f'{out.name}.html')
    gallery = Gallery(
        result.found,
        result.done,
        result.columns,
        reference=result.reference,
        heading=result.heading,
        rows=rows(result),
        notes=result.notes,
        page=page,
    )
    storage.write(page, gallery.html(count).encode())
