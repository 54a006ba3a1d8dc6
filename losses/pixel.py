"""Pixel losses of restorers: L1, its smooth forms, and squared error, plain or as PSNR.

All take two float tensors [B, 3, H, W] in image units, where 1/255 is one grey level, and raise
ValueError for different shapes.
"""

import torch.nn.functional as F
from torch import Tensor

from .shapes import check_equal


def l1(output: Tensor, target: Tensor) -> Tensor:
    """Mean |output - target| -> scalar float32."""
    # torch's own passes over the pictures are fewer than those of a difference that is kept.
    return F.l1_loss(*_float(output, target))


def charbonnier(output: Tensor, target: Tensor, eps: float = 1e-3) -> Tensor:
    """Mean sqrt(d^2 + eps^2) (LapSRN, Lai et al., CVPR 2017) -> scalar float32."""
    output, target = _float(output, target)
    return ((output - target).square() + eps**2).sqrt().mean()


def smooth_l1(output: Tensor, target: Tensor) -> Tensor:
    """Huber's loss with threshold 1 (Fast R-CNN, Girshick, ICCV 2015) -> scalar float32.

    For pictures in [0, 1] that is half the squared error.
    """
    return F.smooth_l1_loss(*_float(output, target))


def mse(output: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference -> scalar float32."""
    return F.mse_loss(*_float(output, target))


def psnr(output: Tensor, target: Tensor, eps: float = 1e-8) -> Tensor:
    """Minus the mean PSNR in units of 10 dB: mean over pictures of log10(MSE + eps) -> scalar.

    This is what the challenge scores, except for the rounding to 8 bits. eps caps it at 80 dB, so
    that a perfect picture has a finite gradient.
    """
    squares = F.mse_loss(*_float(output, target), reduction='none')
    return (squares.flatten(1).mean(1) + eps).log10().mean()


def _float(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    check_equal(output, target)
    return output.float(), target.float()
