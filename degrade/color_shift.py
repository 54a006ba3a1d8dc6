"""A colour cast as GFPGAN's training code draws it (Wang et al. 2021): a number for every channel.

    y = clip(x + shift, 0, 1)

GFPGAN calls it `color_jitter_shift`, and draws all three from one range.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch

from .canvas import Canvas
from .draw import Draw
from .op import Sizes, number
from .pointwise import applied, column, no_record
from .ranges import Interval, Values

Range = tuple[float, float]

# Of recipe files; see `sample`.
_LEVELS = Interval(-255, 255)
RANGES: Mapping[str, Values] = {
    'shift': _LEVELS,
    'red': _LEVELS,
    'green': _LEVELS,
    'blue': _LEVELS,
}


class Params(NamedTuple):
    """What is added."""

    shift: np.ndarray  # [B, 3] float64 of R, G, B in image units; 0 where the step is skipped


def sample(
    draw: Draw,
    on: np.ndarray,
    sizes: Sizes,
    *,
    shift: Range = (-20, 20),
    red: Range | None = None,
    green: Range | None = None,
    blue: Range | None = None,
) -> Params:
    """Draw shifts.

    shift: range in grey levels of R, G and B, but for those that have one of their own
    """
    ranges = [shift if own is None else own for own in (red, green, blue)]
    shifts = np.stack([draw.uniform(c, *r) for c, r in zip('rgb', ranges, strict=True)], 1)
    return Params(np.where(on[:, None], shifts / 255, 0.0))


def told(p: Params, size: np.ndarray) -> list[str]:
    """Shifts of one sample in words, [] without any."""
    if not p.shift.any():
        return []
    return [
        f'{channel} {number(255 * v)}' for channel, v in zip(('R', 'G', 'B'), p.shift, strict=True)
    ]


# ---- reference: one image, float64 ----


def run_ref(x: np.ndarray, p: Params) -> np.ndarray:
    """Shift an image [h, w, 3] float64 in [0, 1]."""
    return np.clip(x + p.shift, 0, 1) if p.shift.any() else x


# ---- torch, on every device ----


def run_torch(c: Canvas, p: Params, opencv: bool = False) -> Canvas:
    """Shift a batch."""
    return applied(c, np.asarray(p.shift.any(1)), lambda x: x + column(p.shift, x.device))


# ---- CUDA: what torch does, without a kernel ----


def record(p: Params, size: np.ndarray) -> np.ndarray:
    """No kernel needs the parameters."""
    return no_record(size)


def run_cuda(c: Canvas, p: Params, r: torch.Tensor) -> Canvas:
    """Shift a batch on the GPU by torch's operations."""
    return run_torch(c, p)
