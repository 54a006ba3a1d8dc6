"""Multi-prior attention loss: where the facial priors look, errors cost more, by the weight that the network gives to each prior (MFPSNet, Yu et al., TNNLS 2023).

The published code has no such loss; this is a reading of the paper: sum over the priors of weight x mean error inside of the prior's region, and a bonus for weights that
do not collapse to one prior.
"""

import torch
import torch.nn.functional as F


def multi_prior(output, target, regions, weights=None):
    """Mean over the pictures of sum_p a_p sum(M_p |output - target|) / sum(M_p) -> scalar float32.

    output, target: [B, 3, H, W]; regions: {prior: [B, 1, h, w] in [0, 1]}, enlarged to H x W; where one is empty it costs 0
    weights: [B, P] a_p in the order of the regions, with sum 1; None: all equal
    ValueError for other shapes, or another number of weights.
    """
    if output.shape != target.shape:
        raise ValueError(
            f'loss of {tuple(output.shape)} against {tuple(target.shape)}: the shapes must be equal'
        )
    if weights is not None and weights.shape != (len(output), len(regions)):
        raise ValueError(
            f'multi_prior: weights {tuple(weights.shape)} for {len(output)} pictures and {len(regions)} regions'
        )
    error = (output.float() - target.float()).abs().mean(1, keepdim=True)
    terms = []
    for region in regions.values():
        region = F.interpolate(region.float(), error.shape[2:], mode='bilinear')
        terms.append((region * error).sum((1, 2, 3)) / region.sum((1, 2, 3)).clamp_min(1e-6))
    terms = torch.stack(terms, 1)  # [B, P]
    return (terms.mean(1) if weights is None else (weights.float() * terms).sum(1)).mean()


def entropy(weights):
    """Mean over the pictures of -sum_p a_p log a_p of weights [B, P] -> scalar float32: log P of equal ones, 0 where one prior has it all"""
    weights = weights.float()
    return (
        -(weights * weights.clamp_min(1e-12).log()).sum(1).mean()
    )  # also of a weight that is 0 the gradient is finite
