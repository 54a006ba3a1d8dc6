"""Losses of a parser: cross entropy, Dice, Lovász-softmax, online hard example mining.

Milletari et al., 3DV 2016; Berman et al., CVPR 2018; Shrivastava et al., CVPR 2016. All take logits
[B, C, H, W] and targets [B, H, W] of integer ids 0..C-1, compute in float32, and return a scalar.
Pixels whose target is IGNORE do not count; a batch of nothing else costs 0. ValueError for other
shapes or types.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = 255
# Weight per class of CelebAMask-HQ: rare or small classes count a little more, and the necklace,
# 0.015 % of all pixels, double.
MILD = (0.95, 0.95, 0.95, 1, 1, 1, 1.05, 1.05, 1.05, 1.05, 1, 1, 1, 0.95, 1.05, 1.5, 2, 1, 1.05)


def cross_entropy(
    logits: Tensor, target: Tensor, weight: Sequence[float] | Tensor | None = None
) -> Tensor:
    """Weighted mean of -log softmax at the target.

    weight: C numbers; a pixel is weighted by weight[target], and the sum is divided by the sum of
        these weights. None: all 1
    """
    target = _checked(logits, target)
    if weight is None:
        per_class = logits.new_ones(logits.shape[1], dtype=torch.float32)
    else:
        per_class = torch.as_tensor(weight, dtype=torch.float32, device=logits.device)
    # Not reduction='mean', which is 0 / 0 where every pixel is ignored.
    total = F.cross_entropy(logits.float(), target, per_class, ignore_index=IGNORE, reduction='sum')
    known = target.clamp(max=len(per_class) - 1)
    counts = torch.where(target == IGNORE, 0.0, per_class[known])
    return total / counts.sum().clamp_min(1e-6)


def dice(logits: Tensor, target: Tensor) -> Tensor:
    """1 - mean over the classes present of (2 sum p g + 1) / (sum p + sum g + 1).

    Sums are over the batch, of softmax p and one-hot g.
    """
    target = _checked(logits, target)
    p = logits.float().softmax(1)
    g = _one_hot(target, logits.shape[1])
    valid = (target != IGNORE)[:, None]
    both, either, present = ((x * valid).sum((0, 2, 3)) for x in (p * g, p + g, g))  # [C] each
    score = (2 * both + 1) / (either + 1)
    return _mean(1 - score, present > 0)


def lovasz_softmax(logits: Tensor, target: Tensor, every: int = 1) -> Tensor:
    """Mean over the classes present of the Lovász extension of 1 - IoU, over the batch (eq. 9).

    It is taken at the errors |g - p| of softmax p and one-hot g.

    every: use every n-th row and column only; 4 makes sorting 16 times cheaper
    """
    target = _checked(logits, target)[:, ::every, ::every].flatten()
    p = logits[:, :, ::every, ::every].float().softmax(1).transpose(0, 1).flatten(1)  # [C, P]
    valid = target != IGNORE
    costs = []
    present = []
    for c in range(len(p)):
        g = target == c
        # An error of 0 costs nothing, wherever it stands in the order.
        error, order = torch.where(valid, (g.float() - p[c]).abs(), 0.0).sort(descending=True)
        costs.append(error @ _jaccard_steps(g[order], valid[order]))
        present.append(g.any())
    return _mean(torch.stack(costs), torch.stack(present))


def ohem(logits: Tensor, target: Tensor, threshold: float = 0.7, least: float = 1 / 16) -> Tensor:
    """Mean cross entropy of the hard pixels, those whose class has a probability below `threshold`.

    At least the hardest pixels, a share `least` of all, count.
    """
    target = _checked(logits, target)
    loss = F.cross_entropy(logits.float(), target, ignore_index=IGNORE, reduction='none').flatten()
    loss = torch.where(target.flatten() == IGNORE, -1.0, loss)  # below every possible loss
    hard = loss > -math.log(threshold)
    hardest = loss.topk(max(1, int(loss.numel() * least))).values
    # Both means are computed, because choosing one of them on a GPU would wait for it.
    return torch.where(hard.sum() >= len(hardest), _mean(loss, hard), _mean(hardest, hardest >= 0))


def _jaccard_steps(g: Tensor, counts: Tensor) -> Tensor:
    """What each pixel adds to 1 - IoU, [P] float32 (algorithm 1).

    g, counts: [P] bool in order of falling errors: pixels of the class, and pixels that count
    """
    members = g.cumsum(0)
    others = (counts & ~g).cumsum(0)
    # In float64, because neighbours differ by less than float32 resolves.
    lost = 1 - (members[-1] - members).double() / (members[-1] + others).clamp_min(1)
    return torch.diff(lost, prepend=lost.new_zeros(1)).float()


def _one_hot(target: Tensor, classes: int) -> Tensor:
    """[B, C, H, W] float32; all 0 where the target is IGNORE."""
    return torch.stack([target == c for c in range(classes)], 1).float()


def _mean(x: Tensor, where: Tensor) -> Tensor:
    """Mean of the elements where the condition holds, 0 if there are none."""
    return torch.where(where, x, 0.0).sum() / where.sum().clamp_min(1)


def _checked(logits: Tensor, target: Tensor) -> Tensor:
    fits = logits.dim() == 4 and target.shape == (len(logits), *logits.shape[2:])
    if not fits or target.is_floating_point():
        raise ValueError(
            f'loss of logits {tuple(logits.shape)} against {tuple(target.shape)} {target.dtype}: '
            'logits must be [B, C, H, W] and the target [B, H, W] integer ids'
        )
    return target.long()
