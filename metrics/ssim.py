"""SSIM (Wang et al., 2004) as BasicSR computes it.

8-bit RGB, 11 x 11 Gaussian window of sigma 1.5, valid region, mean over channels. Our own code,
because torchmetrics 1.9 takes variances of raw float32 values: it is off by 7e-4 on smooth
pictures, and 7 times slower.
"""

import math

import torch
from torch import Tensor

from .pairs import check

# Constants that keep the quotients finite, in squared grey levels.
_C1 = (0.01 * 255) ** 2
_C2 = (0.03 * 255) ** 2
_WINDOW = [math.exp(-i * i / (2 * 1.5**2)) for i in range(-5, 6)]
_TAPS = [w / sum(_WINDOW) for w in _WINDOW]


def ssim(output: Tensor, target: Tensor) -> Tensor:
    """[B, 3, H, W] uint8, H and W at least 11 -> [B] float64 in [-1, 1]; 1 for equal pictures.

    ValueError for other types, shapes or sizes.
    """
    check('ssim', output, target)
    if min(output.shape[-2:]) < 11:
        raise ValueError(
            f'ssim: pictures of {output.shape[-2]} x {output.shape[-1]} are smaller than the '
            '11 x 11 window'
        )
    # One picture at a time stays in the processor's cache.
    return torch.stack([_one(a, b) for a, b in zip(output, target, strict=True)])


def _one(a: Tensor, b: Tensor) -> Tensor:
    means, structures = terms(a, b)
    return (means * structures).mean(dtype=torch.float64)


def terms(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Similarity of means, and of contrasts and structures; SSIM is their product.

    Two pictures [3, H, W] of values 0 to 255 -> [3, H-10, W-10] float32 each.
    """
    # Sum and difference carry all moments in four maps instead of five:
    # var(a + b) = va + vb + 2 cov and var(a - b) = va + vb - 2 cov. Both are centred near 0 (hence
    # the 255), so that E[s^2] - E[s]^2 keeps its digits in float32.
    a = a.float()
    b = b.float()
    s = a + b - 255
    d = a - b
    mean_s, mean_d, square_s, square_d = _blur(torch.stack((s, d, s * s, d * d)))
    var_s = square_s - mean_s**2
    var_d = square_d - mean_d**2

    mean_s = mean_s + 255
    means = ((mean_s**2 - mean_d**2) / 2 + _C1) / ((mean_s**2 + mean_d**2) / 2 + _C1)
    return means, ((var_s - var_d) / 2 + _C2) / ((var_s + var_d) / 2 + _C2)


def _blur(x: Tensor) -> Tensor:
    """Apply the window, [..., H, W] float32 -> [..., H-10, W-10].

    Shifted sums are 10 times faster than conv2d here, and no TF32 rounds them.
    """
    for dim in (-2, -1):
        n = x.shape[dim] - 10
        y = x.narrow(dim, 5, n) * _TAPS[5]
        # The window is symmetric: each pair of taps is one multiplication.
        for i in range(5):
            y.add_(x.narrow(dim, i, n) + x.narrow(dim, 10 - i, n), alpha=_TAPS[i])
        x = y
    return x
