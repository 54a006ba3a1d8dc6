"""Pixel losses: L1, and its smooth form of Charbonnier (LapSRN, Lai et al., CVPR 2017)."""


def l1(output, target):
    """Mean |output - target| of two [B, 3, H, W] float tensors -> scalar float32."""
    return _difference(output, target).abs().mean()


def charbonnier(output, target, eps=1e-3):
    """Mean sqrt(d^2 + eps^2) of two [B, 3, H, W] tensors -> scalar float32; eps in image units: 1/255 is a grey level."""
    return (_difference(output, target).square() + eps ** 2).sqrt().mean()


def _difference(output, target):
    if output.shape != target.shape:      # broadcasting would average over pairs that do not belong together
        raise ValueError(f'loss of {tuple(output.shape)} against {tuple(target.shape)}: the shapes must be equal')
    return output.float() - target.float()
