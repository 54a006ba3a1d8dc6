"""PSNR as the AI6126 challenge scores it, and the rounding to 8 bits that precedes every metric."""

import torch
from torch import Tensor

from .pairs import check


def to_uint8(x: Tensor) -> Tensor:
    """Float [0, 1] tensor of any shape -> uint8: round(255 x), values outside are clamped."""
    return (x * 255).round().clamp(0, 255).to(torch.uint8)


def psnr(output: Tensor, target: Tensor) -> Tensor:
    """20 log10(255 / sqrt(mean squared error)) of [B, 3, H, W] uint8 -> [B] float64 dB.

    8-bit RGB without a crop; inf for equal pictures. ValueError for other types or shapes.
    """
    check('psnr', output, target)
    # The sum of squares is an exact integer.
    difference = output.to(torch.int32) - target.to(torch.int32)
    mse = difference.square().flatten(1).sum(1).double() / difference[0].numel()
    return 20 * torch.log10(255 / mse.sqrt())
