"""Over-sharpening of the picture as it is, as phones and editors do it: unsharp masking.

    y = clip(x + amount (x - G x), 0, 1),  G a Gaussian of `sigma` pixels

Unlike `usm`, which makes the ground truth crisper once, it stands anywhere in the chain, with a
radius and an amount of its own for every sample; halos and amplified noise are what it is for.
traiNNer-redux and neosr do the same to the LQ (`lq_usm`).
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch

from . import blur
from .canvas import Canvas
from .draw import Draw
from .op import Sizes, number
from .pointwise import column, combined
from .ranges import Interval, Values

MOST_SIGMA = 6.5  # pixels: three of them on each side of the middle are 41 taps

# Of recipe files; see `sample`.
RANGES: Mapping[str, Values] = {
    'sigma': Interval(0.1, MOST_SIGMA),
    'amount': Interval(0, 10),
}

Range = tuple[float, float]


class Params(NamedTuple):
    """Radius and strength."""

    sigma: np.ndarray  # [B] float64 pixels
    amount: np.ndarray  # [B] float64; 0 where the step is skipped


def sample(
    draw: Draw,
    on: np.ndarray,
    sizes: Sizes,
    *,
    sigma: Range = (0.5, 2.5),
    amount: Range = (0.3, 2.0),
) -> Params:
    """Draw radii and strengths.

    sigma:  range of the Gaussian's standard deviation in pixels
    amount: range of the share of the difference that is added
    """
    return Params(draw.uniform('sigma', *sigma), np.where(on, draw.uniform('amount', *amount), 0.0))


def told(p: Params, size: np.ndarray) -> list[str]:
    """Radius and strength of one sample in words, [] where it is skipped."""
    return [f'sigma {number(p.sigma)}', f'amount {number(p.amount)}'] if p.amount else []


def _blur(p: Params) -> blur.Params:
    return blur.gaussian(p.sigma, np.asarray(p.amount) > 0)


# ---- reference: one image, float64 ----


def run_ref(x: np.ndarray, p: Params) -> np.ndarray:
    """Sharpen an image [h, w, 3] float64 in [0, 1]."""
    if not p.amount:
        return x
    return np.clip(x + p.amount * (x - blur.run_ref(x, _blur(p))), 0, 1)


# ---- torch, on every device ----


def run_torch(c: Canvas, p: Params, opencv: bool = False) -> Canvas:
    """Sharpen a batch."""
    if not p.amount.any():
        return c
    return _combined(c, blur.run_torch(c, _blur(p), opencv), p)


def record(p: Params, size: np.ndarray) -> np.ndarray:
    """Structs for blur.cu."""
    return blur.record(_blur(p), size)


def run_cuda(c: Canvas, p: Params, r: torch.Tensor) -> Canvas:
    """Sharpen a batch on the GPU. r: `record` of p and c.size, on the GPU.

    The kernels blur; the sum takes a few operations of torch's.
    """
    if not p.amount.any():
        return c
    return _combined(c, blur.run_cuda(c, _blur(p), r), p)


def _combined(c: Canvas, soft: Canvas, p: Params) -> Canvas:
    def sharp(x: torch.Tensor, blurred: torch.Tensor) -> torch.Tensor:
        return torch.addcmul(x, column(p.amount, x.device), x - blurred)

    return combined(c, soft, p.amount > 0, sharp)
