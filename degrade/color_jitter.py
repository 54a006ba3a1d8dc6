"""Brightness, contrast, saturation and hue, in an order drawn for every sample.

The formulas are torchvision's for floats, which GFPGAN's training code calls (`color_jitter_pt`,
Wang et al. 2021). With L = .2989 R + .587 G + .114 B and every result clipped to [0, 1]:

    brightness  f x
    contrast    f x + (1 - f) mean of L over the picture
    saturation  f x + (1 - f) L
    hue         the hue of HSV plus f, of which 1 is the whole circle
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch

from .canvas import Canvas
from .draw import Draw
from .noise import LUMA
from .op import Sizes, number
from .pointwise import applied, column, no_record
from .ranges import Interval, Values

PARTS = 'brightness', 'contrast', 'saturation', 'hue'
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
NEUTRAL = 1.0, 1.0, 1.0, 0.0

Range = tuple[float, float]

# Of recipe files; see `sample`.
_FACTOR = Interval(0, 10)
RANGES: Mapping[str, Values] = {
    'brightness': _FACTOR,
    'contrast': _FACTOR,
    'saturation': _FACTOR,
    'hue': Interval(-0.5, 0.5),
}


class Params(NamedTuple):
    """What is changed, how much, and in which order."""

    factor: np.ndarray  # [B, 4] float64 of PARTS; NEUTRAL where the step is skipped
    order: np.ndarray  # [B, 4] int64 indices into PARTS, in the order of their turns


def sample(
    draw: Draw,
    on: np.ndarray,
    sizes: Sizes,
    *,
    brightness: Range = (0.5, 1.5),
    contrast: Range = (0.5, 1.5),
    saturation: Range = (0.0, 1.5),
    hue: Range = (-0.1, 0.1),
) -> Params:
    """Draw factors and orders.

    brightness, contrast, saturation: ranges of factors; 1 changes nothing
    hue: range of shares of the colour circle; 0 changes nothing
    """
    ranges = brightness, contrast, saturation, hue
    drawn = [draw.uniform(part, *r) for part, r in zip(PARTS, ranges, strict=True)]
    return Params(
        np.where(on[:, None], np.stack(drawn, 1), NEUTRAL),
        draw.order('order', len(PARTS)),
    )


def told(p: Params, size: np.ndarray) -> list[str]:
    """Factors of one sample in words, in their order, [] where it is skipped."""
    if (p.factor == NEUTRAL).all():
        return []
    return [f'{PARTS[i]} {number(p.factor[i])}' for i in p.order]


# ---- reference: one image, float64 ----


def run_ref(x: np.ndarray, p: Params) -> np.ndarray:
    """Change the colours of an image [h, w, 3] float64 in [0, 1]."""
    if (p.factor == NEUTRAL).all():
        return x
    for part in p.order:
        x = np.clip(_PARTS_REF[part](x, p.factor[part]), 0, 1)
    return x


def _luma_ref(x: np.ndarray) -> np.ndarray:
    return x @ np.array(LUMA)[:, None]


def _hue_ref(x: np.ndarray, turn: float) -> np.ndarray:
    # What grey pixels have for a hue does not matter: they have no saturation.
    high, low = x.max(2), x.min(2)
    spread = np.where(high > low, high - low, 1)
    r, g, b = np.moveaxis(x, 2, 0)
    # In sixths of the circle, from the channel that is the largest.
    sixths = np.select(
        [high == r, high == g], [(g - b) / spread, 2 + (b - r) / spread], 4 + (r - g) / spread
    )
    sixths = sixths + 6 * turn
    # Red falls off on both sides of 0, green of 2, blue of 4.
    away = [np.abs((sixths - at + 3) % 6 - 3) for at in (0, 2, 4)]
    shares = np.clip(2 - np.stack(away, 2), 0, 1)
    return low[..., None] + (high - low)[..., None] * shares


_PARTS_REF = {
    BRIGHTNESS: lambda x, f: f * x,
    CONTRAST: lambda x, f: f * x + (1 - f) * _luma_ref(x).mean(),
    SATURATION: lambda x, f: f * x + (1 - f) * _luma_ref(x),
    HUE: _hue_ref,
}


# ---- torch, on every device ----


def run_torch(c: Canvas, p: Params, opencv: bool = False) -> Canvas:
    """Change the colours of a batch."""
    on = (p.factor != NEUTRAL).any(1)
    return applied(c, on, lambda x: _jittered(x, p, c.size))


def _jittered(x: torch.Tensor, p: Params, size: np.ndarray) -> torch.Tensor:
    """All four turns; in each of them every sample has a part of its own."""
    for turn in range(len(PARTS)):
        now, y = p.order[:, turn], x
        # Of one image there is one part, and nothing is computed in vain.
        for part in np.unique(now):
            f = column(p.factor[:, part], x.device)
            changed = _part(int(part), x, f, size).clamp(0, 1)
            here = now == part
            y = changed if here.all() else torch.where(column(here, x.device) > 0, changed, y)
        x = y
    return x


def _part(part: int, x: torch.Tensor, f: torch.Tensor, size: np.ndarray) -> torch.Tensor:
    """One change of all samples. f: [B, 1, 1, 1]"""
    if part == BRIGHTNESS:
        return f * x
    if part == HUE:
        return _hue(x, f)
    luma = (LUMA[0] * x[:, 0] + LUMA[1] * x[:, 1] + LUMA[2] * x[:, 2])[:, None]
    if part == CONTRAST:
        luma = _mean(luma, size)
    return f * x + (1 - f) * luma


def _mean(luma: torch.Tensor, size: np.ndarray) -> torch.Tensor:
    """[B, 1, 1, 1] means of [B, 1, H, W] over the samples' true sizes [B, 2]."""
    H, W = luma.shape[-2:]
    if (size == (H, W)).all():
        return luma.mean((-2, -1), keepdim=True)
    # What lies beyond a sample may be anything, not a number even.
    rows, columns = (torch.arange(n, device=luma.device) for n in (H, W))
    h, w = (column(size[:, i], luma.device) for i in (0, 1))
    inside = (rows[:, None] < h) & (columns < w)
    return luma.masked_fill(~inside, 0).sum((-2, -1), keepdim=True) / (h * w)


def _hue(x: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
    high, low = x.amax(1, keepdim=True), x.amin(1, keepdim=True)
    spread = (high - low).masked_fill(high == low, 1)
    r, g, b = x.split(1, 1)
    # As in the reference; red, green and blue are asked in this order where two are equal.
    sixths = torch.where(
        high == r,
        (g - b) / spread,
        torch.where(high == g, 2 + (b - r) / spread, 4 + (r - g) / spread),
    )
    sixths = sixths + 6 * turn
    away = [((sixths - at + 3) % 6 - 3).abs() for at in (0, 2, 4)]
    shares = (2 - torch.cat(away, 1)).clamp(0, 1)
    return low + (high - low) * shares


# ---- CUDA ----


def record(p: Params, size: np.ndarray) -> np.ndarray:
    """No kernel needs the parameters."""
    return no_record(size)


def run_cuda(c: Canvas, p: Params, r: torch.Tensor) -> Canvas:
    """Change the colours of a batch on the GPU by torch's operations."""
    return run_torch(c, p)
