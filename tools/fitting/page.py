"""What a fit has come to, as HTML and as PNG: distributions, a table and pictures."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

import storage
from tools.html_page import document, picture, text

from .estimators import ESTIMATORS

SUFFIXES = '.html', '.png'
REAL, BEFORE, AFTER = '#222222', '#c44e52', '#1f6fb4'
SIDE, COLUMNS, SHOWN, GAP = 128, 9, 27, 2  # pictures of the contact sheet


class Measured(NamedTuple):
    """Pictures of one kind and what was measured of them."""

    name: str
    values: np.ndarray  # [N, estimators]
    pictures: Sequence[np.ndarray]  # [side, side, 3] uint8 each


def distances(real: np.ndarray, other: np.ndarray) -> np.ndarray:
    """[estimators] Kolmogorov-Smirnov distances of the columns: the largest gap of the shares."""
    return np.array([_distance(a, b) for a, b in zip(real.T, other.T, strict=True)])


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    # Distributions are steps: the largest gap is at one of the values.
    both = np.concatenate([a, b])
    shares = [np.searchsorted(np.sort(x), both, side='right') / len(x) for x in (a, b)]
    return float(np.abs(shares[0] - shares[1]).max())


def table(real: Measured, before: Measured, after: Measured) -> list[tuple[str, float, float]]:
    """One row for each estimator and one for their mean: (title, distance before, after)."""
    shown = len(ESTIMATORS)
    sides = [distances(real.values[:, :shown], side.values[:, :shown]) for side in (before, after)]
    titles = [e.title for e in ESTIMATORS]
    rows = list(zip(titles, *(side.tolist() for side in sides), strict=True))
    return [*rows, ('mean', *(float(side.mean()) for side in sides))]


def write(path: Path, real: Measured, before: Measured, after: Measured, recipe: str) -> None:
    """Write PATH.html and PATH.png. recipe: text of the file."""
    rows = table(real, before, after)
    curves = _figure(real, before, after, rows)
    sheets = [_sheet(side) for side in (real, after, before)]
    storage.write(path.with_suffix('.html'), _html(curves, sheets, rows, recipe).encode())
    buffer = io.BytesIO()
    _stacked([curves, *sheets]).save(buffer, 'PNG')
    storage.write(path.with_suffix('.png'), buffer.getvalue())


def _figure(
    real: Measured,
    before: Measured,
    after: Measured,
    rows: Sequence[tuple[str, float, float]],
) -> Image.Image:
    """Draw the distributions, estimator by estimator."""
    across = 5
    down = -(-len(ESTIMATORS) // across)
    # A panel each, in the order of the table.
    figure = Figure(figsize=(3.1 * across, 2.5 * down), dpi=90, layout='constrained')
    axes = figure.subplots(down, across).ravel()
    for i, (panel, row) in enumerate(zip(axes, rows[:-1], strict=False)):
        for side, colour in ((before, BEFORE), (real, REAL), (after, AFTER)):
            _draw(panel, side.values[:, i], side.name, colour)
        panel.set_title(f'{row[0]}\nKS {row[1]:.2f} to {row[2]:.2f}', fontsize=8)
        panel.spines[['top', 'right']].set_visible(False)
        panel.tick_params(labelsize=7)
    for panel in axes[len(ESTIMATORS) :]:
        panel.axis('off')
    axes[0].legend(fontsize=7)
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png')
    return Image.open(buffer).convert('RGB')


def _draw(panel: Axes, values: np.ndarray, name: str, colour: str) -> None:
    """A distribution as the share of the pictures below a value."""
    panel.step(np.sort(values), (np.arange(len(values)) + 1) / len(values), colour, label=name)


def _sheet(side: Measured) -> Image.Image:
    """A contact sheet under its title."""
    from PIL import ImageDraw

    shown = side.pictures[:SHOWN]
    rows = -(-len(shown) // COLUMNS)
    # Pixels are repeated where a picture is smaller than its cell.
    cell = SIDE + GAP
    page = Image.new('RGB', (COLUMNS * cell, 20 + rows * cell), 'white')
    ImageDraw.Draw(page).text((2, 4), side.name, fill=REAL)
    for i, rgb in enumerate(shown):
        image = Image.fromarray(rgb).resize((SIDE, SIDE), Image.Resampling.BOX)
        page.paste(image, (i % COLUMNS * cell, 20 + i // COLUMNS * cell))
    return page


def _stacked(images: Sequence[Image.Image]) -> Image.Image:
    # Below each other, on a page as wide as the widest.
    width = max(image.width for image in images)
    page = Image.new('RGB', (width, sum(image.height for image in images)), 'white')
    y = 0
    for image in images:
        page.paste(image, (0, y))
        y += image.height
    return page


def _html(
    curves: Image.Image,
    sheets: Sequence[Image.Image],
    rows: Sequence[tuple[str, float, float]],
    recipe: str,
) -> str:
    cells = [
        f'<tr><td>{text(title)}<td class=n>{b:.3f}<td class=n>{a:.3f}</tr>' for title, b, a in rows
    ]
    body = ''.join(
        [
            '<h1>A recipe fitted to pictures</h1>',
            '<p>Shares of the pictures below a value: real, fitted, and before.</p>',
            picture(curves, 'distributions, estimator by estimator'),
            '<h2>Kolmogorov-Smirnov distances from the real pictures</h2>',
            '<table><tr><th>estimator<th>before<th>fitted</tr>',
            *cells,
            '</table>',
            *(picture(sheet, 'a contact sheet under its title') for sheet in sheets),
            f'<h2>The recipe</h2><pre>{text(recipe)}</pre>',
        ]
    )
    return document('Fit', body)
