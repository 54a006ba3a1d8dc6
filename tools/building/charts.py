"""Histograms of measures: counted in fixed memory however many faces there are, drawn as SVG."""

import math
from typing import NamedTuple

import numpy as np

from tools.html_page import text

BARS = 60  # of a drawn histogram, at most
TAIL = 0.001  # part of the faces that may lie beyond either edge of the drawing
KINDS = 'kept', 'by-it', 'otherwise'  # the last two: dropped by the measure, by something else
WIDTH, HEIGHT = 440, 220  # of a drawing: little wider than a telephone, where it must be legible
TOP, RIGHT, BOTTOM = 36, 18, 42  # margins
LETTER = 6.6  # width of a letter, about
STYLE = (
    ':root{--kept:#1f6fb4;--by-it:#b8430c;--otherwise:#868686}'
    '.kept{fill:var(--kept)}.by-it{fill:var(--by-it)}.otherwise{fill:var(--otherwise)}'
    'svg.chart{width:100%;max-width:520px;display:block;font-size:12px;fill:currentColor}'
    'svg.chart path.line{stroke:currentColor;fill:none}'
    'svg.chart path.limit{stroke-width:1.5;stroke-dasharray:4 3}'
    '@media(prefers-color-scheme:dark){:root{--kept:#7fb2f0;--by-it:#ff9a5c;--otherwise:#8c8c8c}}'
)


class Axis(NamedTuple):
    """How the values of a measure are counted and told."""

    title: str
    unit: str  # '' for a number without one
    low: float  # values beyond low and high count as these
    high: float
    digits: int
    log: bool = False
    bins: int = 1800

    def position(self, values: np.ndarray) -> np.ndarray:
        """Where values lie among the bins: 0 at low, `bins` at high."""
        low, high = self.low, self.high
        values = np.clip(values, low, high)
        if self.log:
            low, high, values = math.log(low), math.log(high), np.log(values)
        return (values - low) / (high - low) * self.bins

    def value(self, position: float) -> float:
        """The value at a position."""
        part = position / self.bins
        if self.log:
            return self.low * (self.high / self.low) ** part
        return self.low + (self.high - self.low) * part

    def told(self, value: float) -> str:
        """A value with its digits and its unit."""
        return f'{self.figure(value)} {self.unit}'.strip()

    def figure(self, value: float) -> str:
        """A value with its digits; a zero has no sign."""
        return f'{round(value, self.digits) + 0.0:,.{self.digits}f}'


class Counts:
    """How many faces have which value of a measure."""

    def __init__(self, axis: Axis) -> None:
        self.axis = axis
        self.bins = np.zeros((len(KINDS), axis.bins), np.int64)
        self.least = np.full(len(KINDS), np.inf)
        self.most = np.full(len(KINDS), -np.inf)
        self.without = 0  # faces that have no value

    def add(self, values: np.ndarray, kinds: np.ndarray) -> None:
        """values: [n], NaN for none; kinds: [n] int, indices of KINDS"""
        there = np.isfinite(values)
        self.without += int((~there).sum())
        values, kinds = values[there], kinds[there]
        bins = np.minimum(self.axis.position(values).astype(int), self.axis.bins - 1)
        # One count over pairs of kind and bin, of any number of faces.
        flat = np.bincount(kinds * self.axis.bins + bins, minlength=self.bins.size)
        self.bins += flat.reshape(self.bins.shape)
        np.minimum.at(self.least, kinds, values)
        np.maximum.at(self.most, kinds, values)

    def totals(self) -> list[int]:
        """Faces of each kind that have a value."""
        return [int(n) for n in self.bins.sum(1)]

    def percentile(self, part: float, kinds: list[int]) -> float:
        """The value below which `part` in 0..1 of the faces of some kinds lie, to within a bin; NaN
        where there are no faces.
        """
        bins = self.bins[kinds].sum(0)
        if not bins.any():
            return math.nan
        # Within a bin, faces are taken to lie evenly.
        upto = bins.cumsum()
        rank = part * upto[-1]
        i = int(np.searchsorted(upto, max(rank, 1)))
        inside = (rank - (upto[i] - bins[i])) / bins[i]
        value = self.axis.value(i + inside)
        return float(np.clip(value, self.least[kinds].min(), self.most[kinds].max()))


# Of faces/measures.py. Wide ones do no harm: what is drawn is the part where faces are.
AXES = {
    'side': Axis('longer side of the face in the photo', 'pixels', 8, 8192, 1, log=True),
    'score': Axis('how sure the detector is', '', 0, 1, 3),
    'inside': Axis('share of the aligned square inside the photo', '', 0, 1, 3),
    'yaw': Axis('turned, positive to the right of the picture', 'degrees', -90, 90, 1),
    'pitch': Axis('looking up (positive) or down', 'degrees', -90, 90, 1),
    'roll': Axis('leaning, positive clockwise', 'degrees', -180, 180, 1),
    'resolution': Axis('side that the aligned face is worth', 'pixels', 0, 2048, 0, bins=4096),
    'blur': Axis('detail lost in one direction', 'dB', 0, 90, 1),
    # A bin for each quality: these are whole numbers.
    'jpeg': Axis('quality of the JPEG file, 100 of others', '', -0.5, 100.5, 0, bins=101),
    'exposure': Axis('mean luma of the inner face', 'levels', 0, 255, 1),
    'clipped': Axis('share of the inner face that is black or white', '', 0, 1, 3),
    'contrast': Axis('standard deviation of the luma of the inner face', 'levels', 0, 128, 1),
    'colourfulness': Axis('colourfulness of the inner face', 'levels', 0, 255, 1),
    'occluded': Axis('share of the inner face that is hidden', '', 0, 1, 3),
}

# ------------------------------------------------------------------------------------------------
# Drawn.


class Frame(NamedTuple):
    """What of an axis is drawn, and where."""

    axis: Axis
    first: int  # bin
    step: int  # bins of a bar
    bars: int
    left: float  # margin

    def x(self, value: float) -> float:
        """Where a value lies in the drawing, within its edges."""
        bar = (float(self.axis.position(np.float64(value))) - self.first) / self.step
        return self.left + self.width * min(max(bar / self.bars, 0), 1)

    @property
    def width(self) -> float:
        """Of all bars."""
        return WIDTH - RIGHT - self.left


def histogram(name: str, counts: Counts, low: float, high: float, said: str) -> str:
    """An SVG of a measure: stacked bars of the kinds of faces, thresholds as broken lines.

    name: of the measure, for ids; low, high: thresholds, infinite for none; said: what is seen, for
    those who do not see it
    """
    limits = [limit for limit in (low, high) if math.isfinite(limit)]
    # What is drawn first, then how high it is; the left margin depends on the longest number.
    first, step, bars = _window(counts, limits)
    stacked = _binned(counts.bins, first, step, bars)
    top = _top(stacked.sum(0))
    marks = [0, top // 2, top] if top % 2 == 0 else [0, top]
    left = 14 + LETTER * max(len(f'{mark:,}') for mark in marks)
    frame = Frame(counts.axis, first, step, bars, left)
    parts = [
        f'<svg class=chart viewBox="0 0 {WIDTH} {HEIGHT}" role=img '
        f'aria-labelledby="chart-{name} said-{name}">'
        f'<title id="chart-{name}">Histogram of {name}</title>'
        f'<desc id="said-{name}">{text(said)}</desc>',
        _bars(stacked, frame, top),
        *(_count_mark(mark, frame, top) for mark in marks),
        *(_value_mark(value, frame) for value in _ticks(frame)),
        f'<text x="{left + frame.width / 2:.0f}" y="{HEIGHT - 5}" text-anchor=middle>'
        f'{text(_axis_title(counts.axis))}</text>',
    ]
    for limit in limits:
        parts.append(_limit(limit, frame, '≥' if limit == low else '≤'))
    return ''.join(parts) + '</svg>'


def _window(counts: Counts, limits: list[float]) -> tuple[int, int, int]:
    """First bin, bins of a bar and number of bars that hold nearly all faces and the thresholds."""
    bins, axis = counts.bins.sum(0), counts.axis
    part = bins.cumsum() / bins.sum()
    inner = np.flatnonzero((part > TAIL) & (part - bins / bins.sum() < 1 - TAIL))
    at = [min(int(axis.position(np.float64(limit))), axis.bins - 1) for limit in limits]
    first, last = min(inner[0], *at, inner[0]), max(inner[-1], *at, inner[-1])
    # A threshold should not lie on the very edge, and one value only should still have a width.
    space = max((last - first) // 20, 2)
    first, last = max(first - space, 0), min(last + space, axis.bins - 1)
    step = -(-(last - first + 1) // BARS)
    return int(first), int(step), int(-(-(last - first + 1) // step))


def _binned(bins: np.ndarray, first: int, step: int, bars: int) -> np.ndarray:
    """[kinds, bars]: faces of each bar; what lies beyond is in the outermost ones."""
    bar = np.clip((np.arange(bins.shape[1]) - first) // step, 0, bars - 1)
    return np.stack([np.bincount(bar, row, minlength=bars) for row in bins]).astype(int)


def _bars(stacked: np.ndarray, frame: Frame, top: int) -> str:
    """One path for each kind."""
    wide, tall = frame.width / frame.bars, HEIGHT - TOP - BOTTOM
    thick = wide * 0.92
    totals = stacked.sum(0)
    heights = stacked * (tall / np.maximum(totals, top))
    # What is there is seen, however small.
    heights = np.where(stacked > 0, np.maximum(heights, 1), 0)
    base = HEIGHT - BOTTOM - np.cumsum(heights, 0)
    # A path for all bars of a kind keeps the page small.
    paths = []
    for kind, rows, ys in zip(KINDS, heights, base, strict=True):
        steps = (
            f'M{frame.left + i * wide:.1f} {ys[i]:.1f}h{thick:.1f}v{h:.1f}h-{thick:.1f}z'
            for i, h in enumerate(rows)
            if h
        )
        paths.append(f'<path class={kind} d="{"".join(steps)}"/>')
    for i in np.flatnonzero(totals > top):
        x, room = frame.left + (i + 0.5) * wide, LETTER / 2 * len(f'{totals[i]:,} ↑')
        x = min(max(x, frame.left + room), WIDTH - room)
        paths.append(f'<text x="{x:.1f}" y="{TOP - 7}" text-anchor=middle>{totals[i]:,} ↑</text>')
    return ''.join(paths)


def _count_mark(mark: int, frame: Frame, top: int) -> str:
    """A level of the vertical axis."""
    y = HEIGHT - BOTTOM - mark / top * (HEIGHT - TOP - BOTTOM)
    opacity = '' if mark == 0 else ' stroke-opacity=".2"'
    return (
        f'<path class=line{opacity} d="M{frame.left:.1f} {y:.1f}h{frame.width:.1f}"/>'
        f'<text x="{frame.left - 6:.1f}" y="{y + 4:.1f}" text-anchor=end>{mark:,}</text>'
    )


def _value_mark(value: float, frame: Frame) -> str:
    """A value of the horizontal axis."""
    x, y = frame.x(value), HEIGHT - BOTTOM
    return (
        f'<path class=line d="M{x:.1f} {y}v4"/>'
        f'<text x="{x:.1f}" y="{y + 17}" text-anchor=middle>{value:,.10g}</text>'
    )


def _limit(limit: float, frame: Frame, sign: str) -> str:
    """A threshold. The least is told on the left of its line, the greatest on the right."""
    x, said = frame.x(limit), f'{sign} {limit:g}'
    size = LETTER * len(said)
    # Away from what is kept, unless it would leave the drawing.
    leftward = x - size > frame.left if sign == '≥' else x + size > WIDTH
    anchor = 'end' if leftward else 'start'
    return (
        f'<path class="line limit" d="M{x:.1f} 4V{HEIGHT - BOTTOM}"/>'
        f'<text x="{x - 5 if leftward else x + 5:.1f}" y="13" text-anchor={anchor}>'
        f'{said}</text>'
    )


def _axis_title(axis: Axis) -> str:
    return f'{axis.title}, {axis.unit}' if axis.unit else axis.title


def _ticks(frame: Frame) -> list[float]:
    """Round values within the drawing, at most eight."""
    axis = frame.axis
    low, high = (axis.value(frame.first + frame.step * n) for n in (0, frame.bars))
    # Powers of two where the axis is of ratios, as far as there are some.
    if axis.log:
        powers = [2.0**n for n in range(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1)]
        if len(powers) > 2:
            return powers[:: -(-len(powers) // 8)]
    step = _nice((high - low) / 6)
    return [round(n * step, 10) for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _top(totals: np.ndarray) -> int:
    """Faces at the upper edge: a round number that only a bar far above all others may exceed."""
    second, first = sorted(int(n) for n in (0, *totals))[-2:]
    # Or everything but one value, such as nothing clipped, would be too flat to be seen.
    highest = second if first > 4 * second > 0 else first
    power = 10 ** (len(str(highest)) - 1)
    steps = (n * power // 10 for n in (10, 12, 16, 20, 30, 40, 50, 60, 80, 100))
    return next(step for step in steps if step >= highest)


def _nice(value: float) -> float:
    """The next of 1, 2, 5, 10, 20, ... from a value on."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(n * power for n in (1, 2, 5, 10, 20) if n * power >= value * (1 - 1e-9))
