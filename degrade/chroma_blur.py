"""Blurred chroma: colour of less resolution than the light, as video, phones and JPEG leave it.

    y = G x + L(x - G x),  G a Gaussian of `sigma` pixels, L the luma of COLOR_RGB2GRAY on all
    channels

The luma stays what it was, to rounding.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch

from . import blur
from .canvas import Canvas
from .draw import Draw
from .gray import LUMA, grayed
from .op import Sizes, number
from .pointwise import combined
from .ranges import Interval, Values

MOST_SIGMA = 6.5  # pixels: three of them on each side of the middle are 41 taps

# Of recipe files; see `sample`.
RANGES: Mapping[str, Values] = {'sigma': Interval(0.1, MOST_SIGMA)}


class Params(NamedTuple):
    """Width of the blur."""

    sigma: np.ndarray  # [B] float64 pixels; 0 where the step is skipped


def sample(
    draw: Draw, on: np.ndarray, sizes: Sizes, *, sigma: tuple[float, float] = (0.5, 2.5)
) -> Params:
    """Draw widths from a range in pixels."""
    return Params(np.where(on, draw.uniform('sigma', *sigma), 0.0))


def told(p: Params, size: np.ndarray) -> list[str]:
    """Width of one sample's blur in words, [] where it is skipped."""
    return [f'sigma {number(p.sigma)}'] if p.sigma else []


def _blur(p: Params) -> blur.Params:
    return blur.gaussian(np.maximum(p.sigma, 0.1), np.asarray(p.sigma) > 0)


# ---- reference: one image, float64 ----


def run_ref(x: np.ndarray, p: Params) -> np.ndarray:
    """Blur the chroma of an image [h, w, 3] float64 in [0, 1]."""
    if not p.sigma:
        return x
    soft = blur.run_ref(x, _blur(p))
    return np.clip(soft + (x - soft) @ np.array(LUMA)[:, None], 0, 1)


# ---- torch, on every device ----


def run_torch(c: Canvas, p: Params, opencv: bool = False) -> Canvas:
    """Blur the chroma of a batch."""
    if not p.sigma.any():
        return c
    return _combined(c, blur.run_torch(c, _blur(p), opencv), p)


def record(p: Params, size: np.ndarray) -> np.ndarray:
    """Structs for blur.cu."""
    return blur.record(_blur(p), size)


def run_cuda(c: Canvas, p: Params, r: torch.Tensor) -> Canvas:
    """Blur the chroma of a batch on the GPU. r: `record` of p and c.size, on the GPU.

    The kernels blur; the sum takes a few operations of torch's.
    """
    if not p.sigma.any():
        return c
    return _combined(c, blur.run_cuda(c, _blur(p), r), p)


def _combined(c: Canvas, soft: Canvas, p: Params) -> Canvas:
    return combined(c, soft, p.sigma > 0, lambda x, blurred: blurred + grayed(x - blurred))
