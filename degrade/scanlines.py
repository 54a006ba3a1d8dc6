"""Scan lines: the dark lines between the rows of a tube, as a camera or a capture card keeps them.

y = x (1 - amount (1 + cos(2 pi (row - phase) / period)) / 2)
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch

from .canvas import Canvas
from .draw import Draw
from .op import Sizes, number
from .pointwise import applied, no_record
from .ranges import Interval, Values
from .upload import upload

Range = tuple[float, float]

# Of recipe files; see `sample`.
RANGES: Mapping[str, Values] = {'period': Interval(2, 64), 'amount': Interval(0, 1)}


class Params(NamedTuple):
    """The lines, and how dark they are."""

    period: np.ndarray  # [B] float64 rows from line to line
    phase: np.ndarray  # [B] float64 rows, where the first is darkest
    amount: np.ndarray  # [B] float64 in [0, 1]; 0 where the step is skipped


def sample(
    draw: Draw,
    on: np.ndarray,
    sizes: Sizes,
    *,
    period: Range = (2.0, 4.0),
    amount: Range = (0.1, 0.5),
) -> Params:
    """Draw lines.

    period: range of the rows from line to line
    amount: range of the share of the light that the darkest row loses
    """
    periods = draw.uniform('period', *period)
    return Params(
        periods,
        draw.uniform('phase') * periods,
        np.where(on, draw.uniform('amount', *amount), 0.0),
    )


def told(p: Params, size: np.ndarray) -> list[str]:
    """Lines of one sample in words, [] without any."""
    return [f'period {number(p.period)}', f'amount {number(p.amount)}'] if p.amount else []


def _light(p: Params, rows: int) -> np.ndarray:
    """[B, rows] float64 share of the light that is left."""
    along = 2 * math.pi * (np.arange(rows) - p.phase[:, None]) / p.period[:, None]
    return 1 - p.amount[:, None] * (1 + np.cos(along)) / 2


# ---- reference: one image, float64 ----


def run_ref(x: np.ndarray, p: Params) -> np.ndarray:
    """Draw lines into an image [h, w, 3] float64 in [0, 1]."""
    if not p.amount:
        return x
    return x * _light(Params(*(np.array([v]) for v in p)), len(x))[0][:, None, None]


# ---- torch, on every device ----


def run_torch(c: Canvas, p: Params, opencv: bool = False) -> Canvas:
    """Draw lines into a batch."""
    light = _light(p, c.pix.shape[2]).astype(np.float32)
    return applied(c, p.amount > 0, lambda x: x * upload(light, x.device)[:, None, :, None])


# ---- CUDA: what torch does, without a kernel ----


def record(p: Params, size: np.ndarray) -> np.ndarray:
    """No kernel needs the parameters."""
    return no_record(size)


def run_cuda(c: Canvas, p: Params, r: torch.Tensor) -> Canvas:
    """Draw lines into a batch on the GPU by torch's operations."""
    return run_torch(c, p)
