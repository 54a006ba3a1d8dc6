"""Pictures of a run: strips of (input, bicubic, ours, truth), and its curves.

Each file is written whole and then renamed, so that a viewer never sees half of one.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from errors import RunError

from . import log
from .watch import BALANCED

# A program that draws nothing does not wait the second that matplotlib takes to import.
if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NAMES = ('input', 'bicubic', 'ours', 'truth')

# Pixels: between pictures, the height of a band of labels, the size of its letters; small letters,
# and the distance of their lines.
_GAP = 4
_BAND = 26
_FONT = 16
_SMALL = 10
_LEADING = 14

_INK = '#222222'
_BLUE = '#1f6fb4'
_GREY = '#8a8a8a'

Rows = Sequence[Mapping[str, Any]]  # of the log
Font = ImageFont.FreeTypeFont


# -------------------------------------------------------------------------------------------------
# Strips and sheets of pictures.


def strip(
    path: str | os.PathLike[str],
    rows: Sequence[Sequence[Tensor]],
    psnr: Sequence[Sequence[float | None]] | None = None,
    names: Sequence[str] = _NAMES,
) -> None:
    """Write a PNG with one line of labelled pictures per row.

    rows: tuples of (input, bicubic, ours, truth) or, without a truth, of the first three:
        [3, h, w] uint8; smaller pictures are enlarged to the height of the last, pixels repeated
    psnr: for each row (and perhaps for more), the dB of its pictures, None where one has none
    names: labels of the pictures of a row
    Raises RunError if the file cannot be written.
    """
    font = _font(_FONT)
    # Figures may go on beyond the pictures that are shown.
    values = psnr or [()] * len(rows)
    lines = [_line(row, dB, names, font) for row, dB in zip(rows, values, strict=False)]
    width = max(line.width for line in lines)
    height = sum(line.height for line in lines) + _GAP * (len(lines) - 1)
    page = Image.new('RGB', (width, height), 'white')
    y = 0
    for line in lines:
        page.paste(line, (0, y))
        y += line.height + _GAP
    _save_png(path, page)


def _line(
    row: Sequence[Tensor], values: Sequence[float | None], names: Sequence[str], font: Font
) -> Image.Image:
    """Draw one row of pictures under their labels."""
    height = row[-1].shape[-2]
    images = []
    for pixels in row:
        image = _image(pixels.cpu())
        width = round(image.width * height / image.height)
        images.append(image.resize((width, height), Image.Resampling.NEAREST))

    width = sum(image.width for image in images) + _GAP * (len(images) - 1)
    line = Image.new('RGB', (width, height + _BAND), 'white')
    draw = ImageDraw.Draw(line)
    x = 0
    # Pictures without a figure have a name alone.
    figures = [*values, *[None] * len(images)]
    for image, name, dB in zip(images, names, figures, strict=False):
        label = name if dB is None else f'{name}  {dB:.2f} dB'
        draw.text((x + image.width // 2, _BAND // 2), label, fill=_INK, font=font, anchor='mm')
        line.paste(image, (x, _BAND))
        x += image.width + _GAP
    return line


def sheet(
    path: str | os.PathLike[str],
    rows: Sequence[tuple[str, Tensor, Tensor, Sequence[str]]],
    side: int = 256,
    columns: int = 4,
) -> None:
    """Write a PNG with a cell per row: a title, the input next to the target, lines of text.

    rows: (title, input [3, h, w] uint8, target [3, H, W] uint8, lines)
    side: of a picture on the sheet, in pixels
    columns: cells side by side
    Raises RunError if the file cannot be written.
    """
    columns = min(columns, len(rows))
    width = 2 * side + 3 * _GAP
    height = _BAND + side + _LEADING * max(len(lines) for *_, lines in rows) + 3 * _GAP
    page = Image.new('RGB', (columns * width, -(-len(rows) // columns) * height), 'white')
    draw = ImageDraw.Draw(page)
    title_font = _font(_FONT)
    text_font = _font(_SMALL)
    for i, (title, *images, lines) in enumerate(rows):
        x = i % columns * width + _GAP
        y = i // columns * height
        draw.text((x, y + _BAND // 2), title, fill=_INK, font=title_font, anchor='lm')
        # A box filter repeats the pixels of a picture that it enlarges, so that they can be seen.
        for k, pixels in enumerate(images):
            image = _image(pixels).resize((side, side), Image.Resampling.BOX)
            page.paste(image, (x + k * (side + _GAP), y + _BAND))
        for k, line in enumerate(lines):
            below = y + _BAND + side + _LEADING * k + _GAP
            draw.text((x, below), line, fill=_INK, font=text_font)
    _save_png(path, page)


def _font(size: int) -> Font:
    """Load the font that matplotlib brings, the same on every machine."""
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / 'fonts/ttf/DejaVuSans.ttf', size)


def _image(pixels: Tensor) -> Image.Image:
    """Convert [3, h, w] uint8 on the CPU."""
    return Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()))


# -------------------------------------------------------------------------------------------------
# Curves.


def curves(
    path: str | os.PathLike[str],
    log_rows: Rows,
    metric: str = 'psnr',
    label: str = 'PSNR, dB',
) -> None:
    """Write a PNG with the curves of a run.

    Panels: loss (logarithmic, raw and smoothed), learning rate, and what the run is judged by with
    its baselines. A GAN has one more: how often the discriminator is right, over the band in which
    that should lie.

    log_rows: dicts with 'nimg' and any of 'loss', 'lr', the metric's key, 'bicubic' (dB of bicubic
        enlargement on the same pictures) or 'input' (of the inputs), 'd_accuracy'
    metric, label: key in the rows, and label of the axis, of what the run is judged by
    Raises RunError if the file cannot be written.
    """
    from matplotlib.figure import Figure

    # Only the log of a GAN has 'd_accuracy'; it gets a panel of its own.
    adversarial = len(_series(log_rows, 'd_accuracy')[0]) > 0
    heights = (3, 1.8, 1.2, 3) if adversarial else (3, 1.2, 3)
    figure = Figure(figsize=(8, 9.5 if adversarial else 8), dpi=110, layout='constrained')
    panels = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    loss, *accuracy, rate, quality = panels

    for axes in accuracy:
        _draw_accuracy(axes, log_rows)
    _draw_loss(loss, log_rows)
    _draw_rate(rate, log_rows)
    _draw_quality(quality, log_rows, metric, label)

    for axes in panels:
        axes.spines[['top', 'right']].set_visible(False)
        axes.grid(alpha=0.25, linewidth=0.6)
    save(path, figure)


def _draw_accuracy(axes: Axes, rows: Rows) -> None:
    axes.axhspan(*BALANCED, color=_GREY, alpha=0.15)
    _draw_smoothed(axes, *_series(rows, 'd_accuracy'), share=0.05)
    axes.set_ylim(0, 1)
    axes.set_ylabel('discriminator right')


def _draw_loss(axes: Axes, rows: Rows) -> None:
    x, y = _series(rows, 'loss')
    _draw_smoothed(axes, x, y)
    # A logarithmic axis needs a positive value, which some losses never have.
    if (y > 0).any():
        axes.set_yscale('log')
    axes.set_ylabel('loss')


def _draw_rate(axes: Axes, rows: Rows) -> None:
    axes.plot(*_series(rows, 'lr'), color=_INK, linewidth=1.2)
    axes.set_ylim(bottom=0)
    axes.set_ylabel('learning rate')
    axes.ticklabel_format(axis='y', style='sci', scilimits=(0, 0))


def _draw_quality(axes: Axes, rows: Rows, metric: str, label: str) -> None:
    above: dict[str, Any] = {'xytext': (0, 5), 'textcoords': 'offset points'}
    x, y = _series(rows, metric)
    axes.plot(x, y, color=_BLUE, marker='o', markersize=3, linewidth=1.6)
    if len(y):
        axes.annotate(f'ours {y[-1]:.2f}', (x[-1], y[-1]), ha='right', color=_BLUE, **above)

    # What doing nothing, or next to nothing, would reach.
    for baseline in 'bicubic', 'input':
        x, y = _series(rows, baseline)
        if len(y):
            axes.axhline(y[-1], color=_GREY, linestyle='--', linewidth=1.2)
            left = axes.get_yaxis_transform()  # x as a share of the panel, y in dB
            text = f'{baseline} {y[-1]:.2f}'
            axes.annotate(text, (0.01, y[-1]), xycoords=left, color=_GREY, **above)
    axes.set_ylabel(label)
    axes.set_xlabel('images')
    axes.xaxis.set_major_formatter(lambda n, _: f'{n:,.0f}')


def _draw_smoothed(axes: Axes, x: np.ndarray, y: np.ndarray, share: float = 0.02) -> None:
    """Draw a thin curve of the values and a bold one of their average."""
    axes.plot(x, y, color=_BLUE, alpha=0.25, linewidth=0.8)
    axes.plot(x, smooth(y, share), color=_BLUE, linewidth=1.6)


def _series(rows: Iterable[Mapping[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return (nimg [n], values [n]) of the rows that have a finite value of that name."""
    known = [(nimg, value) for nimg, value in log.numbers(rows, name) if np.isfinite(value)]
    nimg, values = np.array(known, dtype=float).reshape(-1, 2).T
    return nimg, values


def smooth(y: np.ndarray, share: float = 0.02) -> np.ndarray:
    """Return an exponential average over a share of the curve, without the bias of its start."""
    keep = 1 - 1 / max(1.0, share * len(y))
    averages = np.empty_like(y)
    total = 0.0
    weight = 0.0
    for i, value in enumerate(y):
        total = keep * total + (1 - keep) * value
        weight = keep * weight + 1 - keep
        averages[i] = total / weight
    return averages


# -------------------------------------------------------------------------------------------------
# Files.


def save(path: str | os.PathLike[str], figure: Figure) -> None:
    """Write a matplotlib figure as PNG; raises RunError if the file cannot be written."""
    _replace(path, lambda fresh: figure.savefig(fresh, format='png'))


def _save_png(path: str | os.PathLike[str], image: Image.Image) -> None:
    _replace(path, lambda fresh: image.save(fresh, format='PNG', compress_level=4))


def _replace(path: str | os.PathLike[str], write: Callable[[Path], object]) -> None:
    """Let write(temporary path) make a file, and give it its name once it is whole."""
    path = Path(path)
    fresh = path.with_name(f'.new-{path.name}')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(fresh)
        os.replace(fresh, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise RunError(f'{path} cannot be written: {error.strerror or error}') from error
