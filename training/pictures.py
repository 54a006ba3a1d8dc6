"""Pictures of a run: strips of (input, bicubic, ours, truth) to look at, and its curves; a viewer never sees half a file."""

import contextlib
import os
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from PIL import Image, ImageDraw, ImageFont

from errors import RunError

from .watch import LEVEL

_NAMES = ('input', 'bicubic', 'ours', 'truth')
_GAP, _BAND, _FONT = 4, 26, 16  # pixels
_INK, _BLUE, _GREY = '#222222', '#1f6fb4', '#8a8a8a'


def strip(path, rows, psnr=None, names=_NAMES):
    """Write a PNG with one line of labelled pictures per row.

    rows: tuples of (input, bicubic, ours, truth) or, where there is no truth, of the first three: [3, h, w] uint8 tensors;
          smaller ones are enlarged without interpolation to the height of the last
    psnr: tuples alike of dB, None where a picture has none
    names: labels of the pictures of a row
    """
    font = ImageFont.truetype(Path(matplotlib.get_data_path()) / 'fonts/ttf/DejaVuSans.ttf', _FONT)
    lines = [_line(row, values, names, font) for row, values in zip(rows, psnr or [()] * len(rows))]
    width = max(line.width for line in lines)
    sheet = Image.new(
        'RGB', (width, sum(line.height for line in lines) + _GAP * (len(lines) - 1)), 'white'
    )
    y = 0
    for line in lines:
        sheet.paste(line, (0, y))
        y += line.height + _GAP
    _replace(path, lambda fresh: sheet.save(fresh, format='PNG', compress_level=4))


def sheet(path, rows, side=256, columns=4):
    """Write a PNG with a cell per row: title, input beside target, and lines of text below.

    rows: (title, input [3, h, w] uint8, target [3, H, W] uint8, [line])
    """
    fonts = [
        ImageFont.truetype(Path(matplotlib.get_data_path()) / 'fonts/ttf/DejaVuSans.ttf', n)
        for n in (_FONT, 10)
    ]
    columns = min(columns, len(rows))
    width, height = (
        2 * side + 3 * _GAP,
        _BAND + side + 14 * max(len(lines) for *_, lines in rows) + 3 * _GAP,
    )
    page = Image.new('RGB', (columns * width, -(-len(rows) // columns) * height), 'white')
    draw = ImageDraw.Draw(page)
    for i, (title, *images, lines) in enumerate(rows):
        x, y = i % columns * width + _GAP, i // columns * height
        draw.text((x, y + _BAND // 2), title, fill=_INK, font=fonts[0], anchor='lm')
        for k, pix in enumerate(images):
            image = Image.fromarray(np.ascontiguousarray(pix.permute(1, 2, 0).numpy()))
            page.paste(
                image.resize((side, side), Image.Resampling.BOX), (x + k * (side + _GAP), y + _BAND)
            )  # enlarged, its pixels are seen
        for k, line in enumerate(lines):
            draw.text((x, y + _BAND + side + 14 * k + _GAP), line, fill=_INK, font=fonts[1])
    _replace(path, lambda fresh: page.save(fresh, format='PNG', compress_level=4))


def curves(path, log_rows, metric='psnr', label='PSNR, dB'):
    """Write a PNG with the curves of a run: loss (logarithmic, raw and smoothed), learning rate, what it is judged by, for PSNR above the line of bicubic or of the inputs;
    of two players also how often the discriminator is right, and the band in which it should be.

    log_rows: dicts with 'nimg' and any of 'loss', 'lr', the metric's key, 'bicubic' (dB of bicubic enlargement on the same pictures) or 'input' (of the inputs), 'd_accuracy'
    """
    x, right = _series(log_rows, 'd_accuracy')
    figure = Figure(figsize=(8, 9.5 if len(right) else 8), dpi=110, layout='constrained')
    loss, *level, rate, quality = all_axes = figure.subplots(
        4 if len(right) else 3,
        1,
        sharex=True,
        height_ratios=(3, 1.8, 1.2, 3) if len(right) else (3, 1.2, 3),
    )

    for axes in level:
        axes.axhspan(*LEVEL, color=_GREY, alpha=0.15)
        _thin_and_bold(axes, x, right, share=0.05)
        axes.set_ylim(0, 1)
        axes.set_ylabel('discriminator right')

    x, y = _series(log_rows, 'loss')
    _thin_and_bold(loss, x, y)
    if (y > 0).any():
        loss.set_yscale('log')
    loss.set_ylabel('loss')

    rate.plot(*_series(log_rows, 'lr'), color=_INK, linewidth=1.2)
    rate.set_ylim(bottom=0)
    rate.set_ylabel('learning rate')
    rate.ticklabel_format(axis='y', style='sci', scilimits=(0, 0))

    x, y = _series(log_rows, metric)
    quality.plot(x, y, color=_BLUE, marker='o', markersize=3, linewidth=1.6)
    if len(y):
        quality.annotate(
            f'ours {y[-1]:.2f}',
            (x[-1], y[-1]),
            xytext=(0, 5),
            textcoords='offset points',
            ha='right',
            color=_BLUE,
        )
    for baseline in 'bicubic', 'input':
        x, y = _series(log_rows, baseline)
        if len(y):
            quality.axhline(y[-1], color=_GREY, linestyle='--', linewidth=1.2)
            quality.annotate(
                f'{baseline} {y[-1]:.2f}',
                (0.01, y[-1]),
                xycoords=quality.get_yaxis_transform(),
                xytext=(0, 5),
                textcoords='offset points',
                color=_GREY,
            )
    quality.set_ylabel(label)
    quality.set_xlabel('images')
    quality.xaxis.set_major_formatter(FuncFormatter(lambda n, _: f'{n:,.0f}'))

    for axes in all_axes:
        axes.spines[['top', 'right']].set_visible(False)
        axes.grid(alpha=0.25, linewidth=0.6)
    save(path, figure)


def save(path, figure):
    """Write a matplotlib figure as PNG."""
    _replace(path, lambda fresh: figure.savefig(fresh, format='png'))


def _thin_and_bold(axes, x, y, **more):
    axes.plot(x, y, color=_BLUE, alpha=0.25, linewidth=0.8)
    axes.plot(x, smooth(y, **more), color=_BLUE, linewidth=1.6)


def _line(row, values, names, font):
    """One row of pictures under their labels -> PIL image."""
    height = row[-1].shape[-2]
    images = []
    for pix in row:
        image = Image.fromarray(np.ascontiguousarray(pix.cpu().permute(1, 2, 0).numpy()))
        images.append(
            image.resize(
                (round(image.width * height / image.height), height), Image.Resampling.NEAREST
            )
        )
    line = Image.new(
        'RGB', (sum(i.width for i in images) + _GAP * (len(images) - 1), height + _BAND), 'white'
    )
    draw, x = ImageDraw.Draw(line), 0
    for image, name, dB in zip(images, names, tuple(values) + (None,) * len(images)):
        label = name if dB is None else f'{name}  {dB:.2f} dB'
        draw.text((x + image.width // 2, _BAND // 2), label, fill=_INK, font=font, anchor='mm')
        line.paste(image, (x, _BAND))
        x += image.width + _GAP
    return line


def _series(rows, name):
    """-> (nimg [n], values [n]) of the rows that have a finite value of that name."""
    pairs = [
        (row['nimg'], row[name])
        for row in rows
        if row.get(name) is not None and np.isfinite(row[name])
    ]
    return np.array([n for n, _ in pairs], dtype=float), np.array(
        [v for _, v in pairs], dtype=float
    )


def smooth(y, share=0.02):
    """Exponential average over a share of the curve, without the bias of its start."""
    keep = 1 - 1 / max(1.0, share * len(y))
    out, total, weight = np.empty_like(y), 0.0, 0.0
    for i, value in enumerate(y):
        total, weight = keep * total + (1 - keep) * value, keep * weight + 1 - keep
        out[i] = total / weight
    return out


def _replace(path, write):
    path = Path(path)
    fresh = path.with_name(f'.new-{path.name}')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(fresh)
        os.replace(fresh, path)
    except OSError as e:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise RunError(f'{path} cannot be written: {e.strerror or e}') from e
