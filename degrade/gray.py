"""Pictures without colour: the luma of OpenCV's COLOR_RGB2GRAY on all three channels.

GFPGAN makes a hundredth of its inputs grey (`gray_prob`); old photographs are.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch

from .canvas import Canvas
from .draw import Draw
from .op import Sizes
from .pointwise import applied, no_record
from .ranges import Values

LUMA = 0.299, 0.587, 0.114

RANGES: Mapping[str, Values] = {}  # of recipe files: none but `on`


class Params(NamedTuple):
    """Where the colour goes."""

    on: np.ndarray  # [B] bool


def sample(draw: Draw, on: np.ndarray, sizes: Sizes) -> Params:
    """Parameters of B samples; nothing is drawn beside whether it acts."""
    return Params(on)


def told(p: Params, size: np.ndarray) -> list[str]:
    """What is done to one sample in words, [] where nothing is."""
    return ['without colour'] if p.on else []


# ---- reference: one image, float64 ----


def run_ref(x: np.ndarray, p: Params) -> np.ndarray:
    """Make an image [h, w, 3] float64 in [0, 1] grey."""
    return np.repeat(x @ np.array(LUMA)[:, None], 3, 2) if p.on else x


# ---- torch, on every device ----


def run_torch(c: Canvas, p: Params, opencv: bool = False) -> Canvas:
    """Make a batch grey."""
    return applied(c, p.on, grayed)


def grayed(x: torch.Tensor) -> torch.Tensor:
    """Return x [B, 3, h, w] float32 without its colour."""
    luma = LUMA[0] * x[:, 0] + LUMA[1] * x[:, 1] + LUMA[2] * x[:, 2]
    return luma[:, None].expand_as(x)


# ---- CUDA: what torch does, without a kernel ----


def record(p: Params, size: np.ndarray) -> np.ndarray:
    """No kernel needs the parameters."""
    return no_record(size)


def run_cuda(c: Canvas, p: Params, r: torch.Tensor) -> Canvas:
    """Make a batch grey on the GPU by torch's operations."""
    return run_torch(c, p)
