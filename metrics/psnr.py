"""PSNR as the AI6126 challenge scores it: 8-bit RGB, no crop; and the rounding to 8 bits that goes before every metric."""

import torch


def to_uint8(x):
    """Float [0, 1] tensor of any shape -> uint8: round(255 x), values outside are clamped."""
    return (x * 255).round().clamp(0, 255).to(torch.uint8)


def psnr(output, target):
    """20 log10(255 / sqrt(mean squared error)) of [B, 3, H, W] uint8 -> [B] float64 dB; inf for equal pictures."""
    if output.shape != target.shape or output.dtype != torch.uint8 or target.dtype != torch.uint8:
        raise ValueError(
            f'psnr of {tuple(output.shape)} {output.dtype} and {tuple(target.shape)} {target.dtype}: '
            'two uint8 tensors of one shape are needed (see to_uint8)'
        )
    d = output.to(torch.int32) - target.to(torch.int32)
    mse = d.square().flatten(1).sum(1).double() / d[0].numel()  # the sum is an exact integer
    return 20 * torch.log10(255 / mse.sqrt())
