"""How much detail a picture has, whether it is right or not.

A blurred restoration loses it, and PSNR hardly notices.
"""

import torch
from torch import Tensor

from .pairs import check


def sharpness(output: Tensor, target: Tensor) -> Tensor:
    """Gradient energy of [B, 3, H, W] uint8 relative to the target's -> [B] float64.

    1 for equal pictures, less where the output is blurred, more where it is noisy. The energy is
    the sum of squared differences between neighbours to the right and below, over all channels.
    For a target without any the ratio is NaN or infinite. ValueError for other types or shapes.
    """
    check('sharpness', output, target)
    return _energy(output) / _energy(target)


def _energy(x: Tensor) -> Tensor:
    """[B] float64; the sums are exact integers."""
    x = x.to(torch.int32)
    down, right = (x.diff(dim=dim).square().flatten(1).sum(1) for dim in (2, 3))
    return (down + right).double()
