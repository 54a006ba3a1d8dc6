"""A page of the images that say most: the best, the worst, those in which two methods differ most.

It is one file with small copies of the images, which link to the originals where these are at hand.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import numpy as np
from PIL import Image

from sources import manifest
from storage import shown
from tools.html_page import document, picture, text

from . import folders, tables
from .columns import Column
from .folders import Found
from .scores import Columns, Evaluation, apart

SIDE = 320  # pixels of the longer side of a copy
STYLE = (
    '.row{display:grid;gap:.6em;grid-template-columns:repeat(auto-fit,minmax(180px,1fr))}'
    'figure{margin:0;max-width:320px}figure img{width:100%;display:block;background:#8882}'
    'figcaption{font-size:13px;overflow-wrap:anywhere}.wide{overflow-x:auto}'
    'h3{font-size:15px;margin:1.4em 0 .3em;overflow-wrap:anywhere}'
    ':focus-visible{outline:3px solid #1f6fb4;outline-offset:2px}'
    'td{font-variant-numeric:tabular-nums}'
)


class Example(NamedTuple):
    """An image that is shown."""

    number: int  # among the names
    why: str  # figures that it was chosen by


class Section(NamedTuple):
    """Images that are shown under one heading."""

    title: str
    anchor: str
    examples: list[Example]


class Gallery:
    """What is shown.

    reference: the method whose best and worst images are shown, and with which others are compared
    heading: above the tables; rows: of the tables; notes: below them
    page: the file that will hold it: links are relative to it
    """

    def __init__(
        self,
        found: Found,
        done: Mapping[str, Evaluation],
        columns: Columns,
        *,
        reference: str,
        heading: str,
        rows: Sequence[Sequence[tables.Row]],
        notes: Sequence[str],
        page: Path,
    ) -> None:
        self.found = found
        self.done = done
        self.columns = columns
        self.reference = reference
        self.heading = heading
        self.rows = rows
        self.notes = notes
        self.page = page

    def html(self, count: int) -> str:
        """The page. count: images of a section, at most"""
        sections = list(self._sections(count))
        # A page of hundreds of pictures needs a way to its parts.
        links = [f'<li><a href="#{s.anchor}">{text(s.title)}</a>' for s in sections]
        body = [
            f'<main><h1>Evaluation</h1><p>{text(self.heading)}</p>',
            *map(_table, self.rows),
            *(f'<p>{text(note)}</p>' for note in self.notes),
            f'<nav aria-label="Sections"><ul>{"".join(links)}</ul></nav>',
            *map(self._section, sections),
            '</main>',
        ]
        return document('Evaluation', ''.join(body), STYLE)

    # ---- which images ----

    def _sections(self, count: int) -> Iterable[Section]:
        """The best and the worst of the reference; of every other method, where it differs most."""
        key = self._first_column()
        if key is None:
            return
        column, name = self.columns[key], shown(self.reference)
        ours = np.array(self.done[self.reference].each[key])
        ranked = ranking(column.goodness(ours))
        # No image is among the best and the worst.
        best = ranked[: min(count, -(-len(ranked) // 2))]
        worst = ranked[::-1][: min(count, len(ranked) // 2)]
        for word, chosen in (('Best', best), ('Worst', worst)):
            examples = [Example(i, _told(column, ours[i])) for i in chosen]
            yield Section(f'{word} of {name}, by {column.title}', word.lower(), examples)

        for i, (method, evaluation) in enumerate(self.done.items()):
            if method == self.reference:
                continue
            other, theirs = shown(method), np.array(evaluation.each[key])
            examples = [
                Example(j, f'{name} {_told(column, ours[j])}, {other} {_told(column, theirs[j])}')
                for j in differing(theirs, ours)[:count]
            ]
            title = f'Where {other} and {name} differ most, by {column.title}'
            yield Section(title, f'method-{i}', examples)

    def _first_column(self) -> str | None:
        """The first column that has a number for every image."""
        for key in self.columns:
            if all(key in evaluation.each for evaluation in self.done.values()):
                return key
        return None

    # ---- how they are shown ----

    def _section(self, section: Section) -> str:
        parts = [f'<section id="{section.anchor}"><h2>{text(section.title)}</h2>']
        for example in section.examples:
            name = self.found.names[example.number]
            parts.append(f'<h3>{text(shown(name))}: {text(example.why)}</h3><div class=row>')
            parts += self._figures(name, example.number)
            parts.append('</div>')
        return ''.join(parts) + '</section>'

    def _figures(self, name: str, index: int) -> Iterable[str]:
        """The image as the input, every method and the truth have it."""
        # From what was there to what should be.
        if self.found.inputs:
            yield self._figure('input', name, self.found.inputs[name])
        for method, images in self.found.restored.items():
            each = self.done[method].each
            figures = [
                f'{column.title} {tables.figure(each[key][index], column)}'
                for key, column in self.columns.items()
                if key in each
            ]
            yield self._figure(shown(method), name, images[name], figures)
        if self.found.truth:
            yield self._figure('truth', name, self.found.truth[name])

    def _figure(
        self, title: str, name: str, image: manifest.Image, figures: Sequence[str] = ()
    ) -> str:
        shot = picture(small(image), f'{title} of {shown(name)}')
        target = link(image, self.page)
        if target:
            shot = f'<a href="{text(target)}">{shot}</a>'
        lines = ''.join(f'<br>{text(line)}' for line in figures)
        caption = f'<figcaption><b>{text(title)}</b>{lines}</figcaption>'
        return f'<figure>{shot}{caption}</figure>'


def _table(rows: Sequence[tables.Row]) -> str:
    """A table whose first row and first column are heads."""
    head, *others = rows
    lines = [''.join(f'<th scope=col>{text(cell)}</th>' for cell in head)]
    for name, *cells in others:
        figures = ''.join(f'<td class=n>{text(cell)}</td>' for cell in cells)
        lines.append(f'<th scope=row>{text(name)}</th>{figures}')
    # What scrolls must be reached by keys, too.
    return (
        '<div class=wide tabindex=0 role=region aria-label="Figures"><table>'
        + ''.join(f'<tr>{line}</tr>' for line in lines)
        + '</table></div>'
    )


def ranking(goodness: np.ndarray) -> list[int]:
    """Numbers of the images that have a figure, the best first; of equal ones the earlier first."""
    given = np.flatnonzero(~np.isnan(goodness))
    return given[np.argsort(-goodness[given], kind='stable')].tolist()


def differing(a: np.ndarray, b: np.ndarray) -> list[int]:
    """Numbers of the images in which two methods differ, the largest difference first."""
    difference = apart(a, b)
    return [i for i in ranking(np.abs(difference)) if difference[i]]


def _told(column: Column, value: float) -> str:
    return f'{column.title} {tables.figure(float(value), column)}'


def small(image: manifest.Image) -> Image.Image:
    """A copy whose longer side has at most SIDE pixels. Raises DataError for a damaged file."""
    copy = Image.fromarray(folders.read(image).permute(1, 2, 0).numpy())
    # What is smaller is enlarged by whole pixels, as an input beside what was made of it.
    factor = SIDE // max(copy.size)
    if factor > 1:
        size = copy.width * factor, copy.height * factor
        return copy.resize(size, Image.Resampling.NEAREST)
    copy.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return copy


def link(image: manifest.Image, page: Path) -> str | None:
    """Relative address of an image from a page; None for one that no browser opens by itself."""
    if image.part:
        return None
    try:
        path = os.path.relpath(os.path.realpath(image.path), os.path.realpath(page.parent))
    except ValueError:  # on another drive of Windows
        return None
    # Bytes, as a name need not be UTF-8; a colon, which would look like a protocol, is escaped.
    return quote(os.fsencode(path.replace(os.sep, '/')))
