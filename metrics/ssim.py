"""SSIM (Wang et al., 2004) as BasicSR has it: 8-bit RGB, 11 x 11 Gaussian window of sigma 1.5, valid region, mean over channels.

Own code because torchmetrics 1.9 takes variances of raw float32 values: off by 7e-4 on smooth pictures, and 7 times slower.
"""

import math

import torch

_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_WINDOW = [math.exp(-i * i / (2 * 1.5**2)) for i in range(-5, 6)]
_TAPS = [w / sum(_WINDOW) for w in _WINDOW]


def ssim(output, target):
    """[B, 3, H, W] uint8, H and W at least 11 -> [B] float64 in [-1, 1]; 1 for equal pictures."""
    if output.shape != target.shape or output.dtype != torch.uint8 or target.dtype != torch.uint8:
        raise ValueError(
            f'ssim of {tuple(output.shape)} {output.dtype} and {tuple(target.shape)} {target.dtype}: '
            'two uint8 tensors of one shape are needed (see to_uint8)'
        )
    if min(output.shape[-2:]) < 11:
        raise ValueError(
            f'ssim: pictures of {output.shape[-2]} x {output.shape[-1]} are smaller than its 11 x 11 window'
        )
    return torch.stack(
        [_one(a, b) for a, b in zip(output, target)]
    )  # one at a time stays in the processor's cache


def _one(a, b):
    means, structures = terms(a, b)
    return (means * structures).mean(dtype=torch.float64)


def terms(a, b):
    """Two pictures [3, H, W] of values 0 to 255 -> (similarity of means, of contrasts and structures), [3, H-10, W-10] float32 each; SSIM is their product."""
    # Sum and difference carry all moments in four maps, not five: var(a + b) = va + vb + 2 cov, var(a - b) = va + vb - 2 cov.
    # Both are centred near 0 (the 255), so that E[s^2] - E[s]^2 keeps its digits in float32.
    a, b = a.float(), b.float()
    s, d = a + b - 255, a - b
    mean_s, mean_d, square_s, square_d = _blur(torch.stack((s, d, s * s, d * d)))
    var_s, var_d = square_s - mean_s**2, square_d - mean_d**2
    mean_s = mean_s + 255
    means = ((mean_s**2 - mean_d**2) / 2 + _C1) / ((mean_s**2 + mean_d**2) / 2 + _C1)
    return means, ((var_s - var_d) / 2 + _C2) / ((var_s + var_d) / 2 + _C2)


def _blur(x):
    """[..., H, W] float32 -> [..., H-10, W-10]: shifted sums, 10 times faster than conv2d here, and no TF32 rounds them."""
    for dim in (-2, -1):
        n = x.shape[dim] - 10
        y = x.narrow(dim, 5, n) * _TAPS[5]
        for i in range(5):
            y.add_(x.narrow(dim, i, n) + x.narrow(dim, 10 - i, n), alpha=_TAPS[i])
        x = y
    return x
