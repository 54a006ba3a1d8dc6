"""Film grain: noise with a size, strongest in the mid-tones.

    y = clip(x + (1 - midtones + midtones 4 x (1 - x)) amount g)

With midtones 0 it is as strong everywhere, as noise that denoising or enlarging has smoothed. g is
a field of standard normal numbers, blurred by a Gaussian of `size` pixels and brought back to
variance 1. Numbers and blur are those of the operations `noise` and `blur`.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch

from . import blur, noise
from .canvas import Canvas
from .draw import Draw
from .op import Sizes, number
from .pointwise import column, combined
from .ranges import PROBABILITY, Interval, Values

STEP = 1 / 16  # the field lies around 1/2 in [0, 1]; its numbers are smaller than 4.4

Range = tuple[float, float]

# Of recipe files; see `sample`.
RANGES: Mapping[str, Values] = {
    'size': Interval(0.3, 6.5),
    'amount': Interval(0, 255),
    'midtones': PROBABILITY,
    'gray': PROBABILITY,
}


class Params(NamedTuple):
    """Size and strength of the grain, and the address of its field."""

    sigma: np.ndarray  # [B] float64 sigma in pixels
    amount: np.ndarray  # [B] float64 in image units; 0 where the step is skipped
    midtones: np.ndarray  # [B] float64 in [0, 1]
    gray: np.ndarray  # [B] bool: one plane for the three channels
    seed: np.ndarray  # [B] uint64 key of the field
    stream: np.ndarray  # [B] uint64 key of the field
    number: np.ndarray  # [B] int64 sample number of the field


def sample(
    draw: Draw,
    on: np.ndarray,
    sizes: Sizes,
    *,
    size: Range = (0.5, 1.5),
    amount: Range = (3, 20),
    midtones: float = 1.0,
    gray: float = 0.5,
) -> Params:
    """Draw sizes and strengths.

    size:   range of the blur's sigma in pixels
    amount: range of the standard deviation in the mid-tones, in grey levels
    midtones: 1 is film; 0 is as strong in light and shade
    gray:   probability of grain without colour
    """
    seed, stream = draw.stream('field')
    return Params(
        sigma=draw.uniform('size', *size),
        amount=np.where(on, draw.uniform('amount', *amount) / 255, 0.0),
        midtones=np.full(len(on), midtones),
        gray=draw.uniform('gray') < gray,
        seed=np.full(len(on), seed, np.uint64),
        stream=np.full(len(on), stream, np.uint64),
        number=draw.samples,
    )


def told(p: Params, size: np.ndarray) -> list[str]:
    """Size and strength of one sample in words, [] without any."""
    if not p.amount:
        return []
    return [f'size {number(p.sigma)}', f'amount {number(p.amount)}', f'gray {p.gray}']


def _noise(p: Params) -> noise.Params:
    """The field, times STEP."""
    return noise.Params(
        kind=np.where(p.amount > 0, noise.GAUSSIAN, noise.NONE),
        gray=p.gray,
        amount=np.full(np.shape(p.amount), STEP),
        seed=p.seed,
        stream=p.stream,
        number=p.number,
    )


def _blur(p: Params) -> blur.Params:
    return blur.gaussian(p.sigma, np.asarray(p.amount) > 0)


def _spread(p: Params) -> np.ndarray:
    """[B] float64 standard deviation of the blurred field, which one tap in the middle keeps."""
    # The sum of the squares of a separable kernel is that of one of its lines, squared.
    taps = np.arange(-20, 21)
    sigma = np.asarray(p.sigma)[..., None]
    row = np.where(np.abs(taps) <= np.ceil(3 * sigma), np.exp(-0.5 * (taps / sigma) ** 2), 0)
    return (row**2).sum(-1) / row.sum(-1) ** 2


# ---- reference: one image, float64 ----


def run_ref(x: np.ndarray, p: Params) -> np.ndarray:
    """Add grain to an image [h, w, 3] float64 in [0, 1]."""
    if not p.amount:
        return x
    field = noise.run_ref(np.full(x.shape, 0.5), _noise(p))
    g = (blur.run_ref(field, _blur(p)) - 0.5) / (STEP * _spread(p))
    strength = 1 - p.midtones + p.midtones * 4 * x * (1 - x)
    return np.clip(x + strength * p.amount * g, 0, 1)


# ---- torch and CUDA ----


def run_torch(c: Canvas, p: Params, opencv: bool = False) -> Canvas:
    """Add grain to a batch."""
    if not p.amount.any():
        return c
    field = noise.run_torch(_middle(c), _noise(p), opencv)
    return _added(c, blur.run_torch(field, _blur(p), opencv), p)


def record(p: Params, size: np.ndarray) -> np.ndarray:
    """Structs for noise.cu, each followed by one for blur.cu."""
    parts = noise.record(_noise(p), size), blur.record(_blur(p), size)
    both = np.zeros(len(size), [('noise', parts[0].dtype), ('blur', parts[1].dtype)])
    both['noise'], both['blur'] = parts
    return both


def run_cuda(c: Canvas, p: Params, r: torch.Tensor) -> Canvas:
    """Add grain to a batch on the GPU. r: `record` of p and c.size, on the GPU.

    The kernels draw and blur; the sum takes a few operations of torch's.
    """
    if not p.amount.any():
        return c
    # The two structs of each sample lie behind each other; kernels want those of a kind together.
    rows = r.view(len(p.amount), -1)
    end = noise.record(_noise(p), c.size).dtype.itemsize
    of_noise, of_blur = (part.contiguous().view(-1) for part in (rows[:, :end], rows[:, end:]))
    field = noise.run_cuda(_middle(c), _noise(p), of_noise)
    return _added(c, blur.run_cuda(field, _blur(p), of_blur), p)


def _middle(c: Canvas) -> Canvas:
    """A canvas like c, of nothing but middle grey."""
    return c._replace(pix=torch.full_like(c.pix, 0.5, dtype=torch.float32))


def _added(c: Canvas, field: Canvas, p: Params) -> Canvas:
    amount = p.amount / (STEP * _spread(p))

    def grained(x: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        midtones = column(p.midtones, x.device)
        strength = 1 - midtones + midtones * 4 * x * (1 - x)
        return x + strength * column(amount, x.device) * (numbers - 0.5)

    return combined(c, field, p.amount > 0, grained)
