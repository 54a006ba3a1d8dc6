"""The fading of prints and slides: dyes that lose density, yellowed paper, lifted blacks.

    y = black + (paper - black) x^dye,  channel by channel

The density of a dye is -log x; a dye that has lost part of it has the density -dye log x, with
dye < 1. `paper` is what white has become: a cast, where it differs from channel to channel.
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
RANGES: Mapping[str, Values] = {
    'dye': Interval(0.2, 2),
    'paper': Interval(0.2, 1),
    'black': Interval(0, 0.5),
}


class Params(NamedTuple):
    """What is left of the dyes, and of white and black."""

    dye: np.ndarray  # [B, 3] float64 exponents of R, G, B; 0 where the step is skipped
    paper: np.ndarray  # [B, 3] float64 of R, G, B in [0, 1]
    black: np.ndarray  # [B] float64 in [0, 1]


def sample(
    draw: Draw,
    on: np.ndarray,
    sizes: Sizes,
    *,
    dye: Range = (0.6, 1.0),
    paper: Range = (0.8, 1.0),
    black: Range = (0.0, 0.15),
) -> Params:
    """Draw what is left.

    dye:   range of the density that is left of each dye
    paper: range of what white has become in each channel
    black: range of what black has become
    """
    dyes, papers = (
        np.stack([draw.uniform(f'{name}_{channel}', *r) for channel in 'rgb'], 1)
        for name, r in (('dye', dye), ('paper', paper))
    )
    return Params(np.where(on[:, None], dyes, 0.0), papers, draw.uniform('black', *black))


def told(p: Params, size: np.ndarray) -> list[str]:
    """What is left of one sample in words, [] where it is skipped."""
    if not p.dye.any():
        return []
    return [f'dye {number(p.dye)}', f'paper {number(p.paper)}', f'black {number(p.black)}']


# ---- reference: one image, float64 ----


def run_ref(x: np.ndarray, p: Params) -> np.ndarray:
    """Fade an image [h, w, 3] float64 in [0, 1]."""
    return p.black + (p.paper - p.black) * x**p.dye if p.dye.any() else x


# ---- torch, on every device ----


def run_torch(c: Canvas, p: Params, opencv: bool = False) -> Canvas:
    """Fade a batch."""

    def faded(x: torch.Tensor) -> torch.Tensor:
        dye, paper, black = (column(values, x.device) for values in p)
        return black + (paper - black) * x**dye

    return applied(c, np.asarray(p.dye.any(1)), faded)


# ---- CUDA: what torch does, without a kernel ----


def record(p: Params, size: np.ndarray) -> np.ndarray:
    """No kernel needs the parameters."""
    return no_record(size)


def run_cuda(c: Canvas, p: Params, r: torch.Tensor) -> Canvas:
    """Fade a batch on the GPU by torch's operations."""
    return run_torch(c, p)
