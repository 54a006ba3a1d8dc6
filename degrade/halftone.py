"""Halftone: the dots of a print, on a screen that is turned by 30 degrees from channel to channel.

    t = 1/2 + (cos(2 pi u / period) + cos(2 pi v / period)) / 4
    y = (1 - amount) x + amount clip(3 (x - t) + 1/2, 0, 1)

u and v are the coordinates of a pixel, turned by `angle` and 0, 30 or 60 degrees of R, G, B. Where
x exceeds the threshold t there is light, elsewhere ink; dots have soft edges, as seen by a scanner.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch

from .canvas import Canvas
from .draw import Draw
from .op import Sizes, number
from .pointwise import applied, column, no_record
from .ranges import Interval, Values
from .upload import upload

HARDNESS = 3.0  # slope of a dot's edge
TURNS = np.array([0, math.pi / 6, math.pi / 3])  # radians, of R, G, B

Range = tuple[float, float]

# Of recipe files; see `sample`.
RANGES: Mapping[str, Values] = {'period': Interval(2, 32), 'amount': Interval(0, 1)}


class Params(NamedTuple):
    """The screen, and how far it is seen."""

    period: np.ndarray  # [B] float64 pixels between dots
    angle: np.ndarray  # [B] float64 radians
    amount: np.ndarray  # [B] float64 in [0, 1]; 0 where the step is skipped


def sample(
    draw: Draw,
    on: np.ndarray,
    sizes: Sizes,
    *,
    period: Range = (2.5, 6.0),
    amount: Range = (0.1, 0.6),
) -> Params:
    """Draw screens.

    period: range of the distance between dots in pixels
    amount: range of the share of the dots in the picture
    Angles are uniform.
    """
    return Params(
        draw.uniform('period', *period),
        draw.uniform('angle', 0, math.pi / 2),
        np.where(on, draw.uniform('amount', *amount), 0.0),
    )


def told(p: Params, size: np.ndarray) -> list[str]:
    """Screen of one sample in words, [] without one."""
    if not p.amount:
        return []
    degrees = number(math.degrees(p.angle))
    return [f'period {number(p.period)}', f'angle {degrees}', f'amount {number(p.amount)}']


# ---- the screen ----


def _waves(p: Params) -> np.ndarray:
    """[B, 3, 2, 2] float64 radians per pixel of x and y: of the waves along u and along v."""
    # u runs along the turned x axis, v along the turned y axis.
    turned = p.angle[:, None] + TURNS
    c, s = np.cos(turned), np.sin(turned)
    waves = np.stack([np.stack([c, s], -1), np.stack([-s, c], -1)], -2)
    return 2 * math.pi * waves / p.period[:, None, None, None]


# ---- reference: one image, float64 ----


def run_ref(x: np.ndarray, p: Params) -> np.ndarray:
    """Print an image [h, w, 3] float64 in [0, 1]."""
    if not p.amount:
        return x
    row, column = np.mgrid[: x.shape[0], : x.shape[1]]
    waves = _waves(Params(*(np.array([v]) for v in p)))[0]  # [3, 2, 2]
    phase = waves[..., 0, None, None] * column + waves[..., 1, None, None] * row
    t = 0.5 + np.cos(phase).sum(1).transpose(1, 2, 0) / 4
    dots = np.clip(HARDNESS * (x - t) + 0.5, 0, 1)
    return (1 - p.amount) * x + p.amount * dots


# ---- torch, on every device ----


def run_torch(c: Canvas, p: Params, opencv: bool = False) -> Canvas:
    """Print a batch."""

    def printed(x: torch.Tensor) -> torch.Tensor:
        amount = column(p.amount, x.device)
        dots = (HARDNESS * (x - _thresholds(x, p)) + 0.5).clamp(0, 1)
        return (1 - amount) * x + amount * dots

    return applied(c, p.amount > 0, printed)


def _thresholds(x: torch.Tensor, p: Params) -> torch.Tensor:
    """[B, 3, H, W] float32.

    A wave of a sum is made of those of its parts, which are [B, 3, H] and [B, 3, W] in float64:
    the phases of far pixels would not fit into float32.
    """
    waves = upload(_waves(p), x.device)
    t = torch.full_like(x, 0.5)
    for wave in (waves[:, :, 0], waves[:, :, 1]):
        across = wave[..., 0, None] * torch.arange(x.shape[3], device=x.device)
        down = wave[..., 1, None] * torch.arange(x.shape[2], device=x.device)
        # cos(a + b) = cos a cos b - sin a sin b
        for f, sign in ((torch.cos, 1), (torch.sin, -1)):
            parts = f(down).float()[..., None], f(across).float()[..., None, :]
            t = torch.addcmul(t, parts[0], parts[1], value=sign / 4)
    return t


# ---- CUDA: what torch does, without a kernel ----


def record(p: Params, size: np.ndarray) -> np.ndarray:
    """No kernel needs the parameters."""
    return no_record(size)


def run_cuda(c: Canvas, p: Params, r: torch.Tensor) -> Canvas:
    """Print a batch on the GPU by torch's operations."""
    return run_torch(c, p)
