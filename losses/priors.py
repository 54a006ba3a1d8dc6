"""Multi-prior attention loss: errors cost more in the regions of facial priors.

MFPSNet, Yu et al., TNNLS 2023. The published code has no such loss; this is a reading of the paper:
the sum over the priors of weight x mean error within the prior's region, and a bonus for weights
that do not collapse to one prior. The weights are those that the network's gate gives the priors.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from .shapes import check_equal


def multi_prior(
    output: Tensor, target: Tensor, regions: Mapping[str, Tensor], weights: Tensor | None = None
) -> Tensor:
    """Mean over pictures of sum_p a_p sum(M_p |output - target|) / sum(M_p) -> scalar float32.

    output, target: [B, 3, H, W]
    regions: M_p, {prior: [B, 1, h, w] in [0, 1]}, resized to H x W; an empty one costs 0
    weights: a_p, [B, P] in the order of the regions, with sum 1; None: all equal

    Raises ValueError for other shapes, or another number of weights.
    """
    check_equal(output, target)
    if weights is not None and weights.shape != (len(output), len(regions)):
        raise ValueError(
            f'multi_prior: weights {tuple(weights.shape)} for {len(output)} pictures and '
            f'{len(regions)} regions'
        )
    error = (output.float() - target.float()).abs().mean(1, keepdim=True)
    costs = torch.stack([_within(region, error) for region in regions.values()], 1)  # [B, P]
    return (costs.mean(1) if weights is None else (weights.float() * costs).sum(1)).mean()


def entropy(weights: Tensor) -> Tensor:
    """Mean over pictures of -sum_p a_p log a_p, weights [B, P] -> scalar float32.

    It is log P for equal weights and 0 where one prior has all of it.
    """
    weights = weights.float()
    # Clamped, so that also a weight of 0 has a finite gradient.
    return -(weights * weights.clamp_min(1e-12).log()).sum(1).mean()


def _within(region: Tensor, error: Tensor) -> Tensor:
    """Mean error within a region, [B]."""
    region = F.interpolate(region.float(), error.shape[2:], mode='bilinear')
    return (region * error).sum((1, 2, 3)) / region.sum((1, 2, 3)).clamp_min(1e-6)
