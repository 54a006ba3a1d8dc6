"""Multi-scale SSIM (Wang, Simoncelli and Bovik, Asilomar 2003).

8-bit RGB, five scales with the paper's weights, windows as in ssim.py, mean over channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .pairs import check
from .ssim import terms

# Of the scales, the finest first.
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
LEAST = 11 << len(WEIGHTS) - 1  # pixels: the coarsest scale holds one window


def ms_ssim(output: Tensor, target: Tensor) -> Tensor:
    """[B, 3, H, W] uint8, H and W at least 176 -> [B] float64 in [0, 1]; 1 for equal pictures.

    The product over scales of the mean similarity of contrasts and structures, on the coarsest also
    of means, each to the power of its weight. Each scale is the one before, averaged over 2 x 2
    pixels. Negative similarities, which have no such powers, count as 0. ValueError for other
    types, shapes or sizes.
    """
    check('ms_ssim', output, target)
    if min(output.shape[-2:]) < LEAST:
        raise ValueError(
            f'ms_ssim: pictures of {output.shape[-2]} x {output.shape[-1]} are smaller than '
            f'{LEAST} x {LEAST}, where the coarsest of five scales holds one window'
        )
    pairs = zip(output, target, strict=True)
    return torch.stack([_one(a.float(), b.float()) for a, b in pairs])


def _one(a: Tensor, b: Tensor) -> Tensor:
    product = torch.ones(3, dtype=torch.float64, device=a.device)  # per channel
    for level, weight in enumerate(WEIGHTS):
        means, structures = terms(a, b)
        if level == len(WEIGHTS) - 1:
            structures = means * structures
        similarity = structures.mean((1, 2), dtype=torch.float64).clamp_min(0)
        product = product * similarity**weight
        a = F.avg_pool2d(a, 2)
        b = F.avg_pool2d(b, 2)
    return product.mean()
