"""Pixel losses: L1, its smooth forms of Charbonnier (LapSRN, Lai et al., CVPR 2017) and Huber, and squared error, plain or as the PSNR it makes."""

import torch.nn.functional as F


def l1(output, target):
    """Mean |output - target| of two [B, 3, H, W] float tensors -> scalar float32."""
    return _difference(output, target).abs().mean()


def charbonnier(output, target, eps=1e-3):
    """Mean sqrt(d^2 + eps^2) of two [B, 3, H, W] tensors -> scalar float32; eps in image units: 1/255 is a grey level."""
    return (_difference(output, target).square() + eps**2).sqrt().mean()


def smooth_l1(output, target):
    """Huber's loss with threshold 1 (Fast R-CNN, Girshick, ICCV 2015) of two [B, 3, H, W] tensors -> scalar float32; half the squared error where pictures lie in [0, 1]."""
    return F.smooth_l1_loss(
        _difference(output, target), output.new_zeros(()).float().expand(output.shape)
    )


def mse(output, target):
    """Mean squared difference of two [B, 3, H, W] tensors -> scalar float32."""
    return _difference(output, target).square().mean()


def psnr(output, target, eps=1e-8):
    """Minus the mean PSNR, in units of 10 dB: mean over the pictures of log10(MSE + eps) -> scalar float32. What the challenge scores, but for the rounding
    to 8 bits; eps caps it at 80 dB, so that a perfect picture has a gradient."""
    return (_difference(output, target).square().flatten(1).mean(1) + eps).log10().mean()


def _difference(output, target):
    if (
        output.shape != target.shape
    ):  # broadcasting would average over pairs that do not belong together
        raise ValueError(
            f'loss of {tuple(output.shape)} against {tuple(target.shape)}: the shapes must be equal'
        )
    return output.float() - target.float()
