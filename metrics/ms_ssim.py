"""Multi-scale SSIM (Wang, Simoncelli and Bovik, Asilomar 2003): 8-bit RGB, five scales with the paper's weights, windows as in ssim.py, mean over channels."""

import torch
import torch.nn.functional as F

from .ssim import terms

WEIGHTS = 0.0448, 0.2856, 0.3001, 0.2363, 0.1333  # of the scales, the finest first
LEAST = 11 << len(WEIGHTS) - 1  # pixels: the coarsest scale holds one window


def ms_ssim(output, target):
    """[B, 3, H, W] uint8, H and W at least 176 -> [B] float64 in [0, 1]; 1 for equal pictures.

    The product over the scales of the mean similarity of contrasts and structures, and on the coarsest of means, too, each to the power of its weight; from scale to
    scale means of 2 x 2. Negative similarities count as 0: they have no such powers.
    """
    if output.shape != target.shape or output.dtype != torch.uint8 or target.dtype != torch.uint8:
        raise ValueError(
            f'ms_ssim of {tuple(output.shape)} {output.dtype} and {tuple(target.shape)} {target.dtype}: '
            'two uint8 tensors of one shape are needed (see to_uint8)'
        )
    if min(output.shape[-2:]) < LEAST:
        raise ValueError(
            f'ms_ssim: pictures of {output.shape[-2]} x {output.shape[-1]} are smaller than {LEAST} x {LEAST}, where the coarsest of five scales holds one window'
        )
    return torch.stack([_one(a.float(), b.float()) for a, b in zip(output, target)])


def _one(a, b):
    found = 1.0
    for level, weight in enumerate(WEIGHTS):
        means, structures = terms(a, b)
        if level == len(WEIGHTS) - 1:
            structures = means * structures
        found = found * structures.mean((1, 2), dtype=torch.float64).clamp_min(0) ** weight  # [3]
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    return found.mean()
