"""Losses of a parser: cross entropy, Dice (Milletari et al., 3DV 2016), Lovász-softmax (Berman et al., CVPR 2018), OHEM (Shrivastava et al., CVPR 2016).

All take logits [B, C, H, W] and targets [B, H, W] of integer ids 0..C-1, compute in float32 and give a scalar; pixels whose target is IGNORE
do not count, and a batch of nothing else costs 0.
"""

import math

import torch
import torch.nn.functional as F

IGNORE = 255
# Per class of CelebAMask-HQ: what is rare or small counts a little more, and the necklace, 0.015 % of all pixels, double.
MILD = (0.95, 0.95, 0.95, 1, 1, 1, 1.05, 1.05, 1.05, 1.05, 1, 1, 1, 0.95, 1.05, 1.5, 2, 1, 1.05)


def cross_entropy(logits, target, weight=None):
    """Mean of -log softmax at the target, each pixel weighted by weight[target] (C numbers, default 1) over the sum of these weights."""
    target = _checked(logits, target)
    weight = (
        logits.new_ones(logits.shape[1], dtype=torch.float32)
        if weight is None
        else torch.as_tensor(weight, dtype=torch.float32, device=logits.device)
    )
    total = F.cross_entropy(logits.float(), target, weight, ignore_index=IGNORE, reduction='sum')
    counts = torch.where(target == IGNORE, 0.0, weight[target.clamp(max=len(weight) - 1)])
    return total / counts.sum().clamp_min(1e-6)


def dice(logits, target):
    """1 - mean over the classes present of (2 sum p g + 1) / (sum p + sum g + 1), sums over the batch of softmax p and one-hot g."""
    target = _checked(logits, target)
    p, valid = logits.float().softmax(1), (target != IGNORE)[:, None]
    g = _one_hot(target, logits.shape[1])
    both, either, present = ((x * valid).sum((0, 2, 3)) for x in (p * g, p + g, g))
    score = (2 * both + 1) / (either + 1)
    return _mean(1 - score, present > 0)


def lovasz_softmax(logits, target, every=1):
    """Mean over the classes present of the Lovász extension of 1 - IoU at the errors |g - p| of softmax p and one-hot g, over the batch (eq. 9).
    every: look at one of so many rows and columns; with 4, sorting costs a sixteenth."""
    target = _checked(logits, target)[:, ::every, ::every].flatten()
    p = logits[:, :, ::every, ::every].float().softmax(1).transpose(0, 1).flatten(1)
    valid, terms, present = target != IGNORE, [], []
    for c in range(len(p)):
        g = target == c
        error, order = torch.where(valid, (g.float() - p[c]).abs(), 0.0).sort(
            descending=True
        )  # an error of 0 costs nothing, wherever it stands
        terms.append(error @ _jaccard_steps(g[order], valid[order]))
        present.append(g.any())
    return _mean(torch.stack(terms), torch.stack(present))


def ohem(logits, target, threshold=0.7, least=1 / 16):
    """Mean cross entropy of the pixels whose class got a probability below `threshold`, of the hardest `least` of all pixels if those are more."""
    target = _checked(logits, target)
    loss = F.cross_entropy(logits.float(), target, ignore_index=IGNORE, reduction='none').flatten()
    loss = torch.where(target.flatten() == IGNORE, -1.0, loss)  # below every loss there is
    hard, hardest = loss > -math.log(threshold), loss.topk(max(1, int(loss.numel() * least))).values
    enough, some = hard.sum() >= len(hardest), hardest >= 0
    # Both means are computed: on a GPU a choice between them would wait for it.
    return torch.where(enough, _mean(loss, hard), _mean(hardest, some))


def _jaccard_steps(g, counts):
    """g, counts: [P] bool in order of falling errors, pixels of the class and pixels that count -> [P] float32, what each adds to 1 - IoU (algorithm 1)."""
    members, others = g.cumsum(0), (counts & ~g).cumsum(0)
    lost = 1 - (members[-1] - members).double() / (members[-1] + others).clamp_min(
        1
    )  # neighbours differ by less than float32 can tell
    return torch.diff(lost, prepend=lost.new_zeros(1)).float()


def _one_hot(target, classes):
    return torch.stack([target == c for c in range(classes)], 1).float()  # of IGNORE nothing


def _mean(x, where):
    """Mean of the elements where it is true, 0 of none."""
    return torch.where(where, x, 0.0).sum() / where.sum().clamp_min(1)


def _checked(logits, target):
    if (
        logits.dim() != 4
        or target.shape != (len(logits), *logits.shape[2:])
        or target.is_floating_point()
    ):
        raise ValueError(
            f'loss of logits {tuple(logits.shape)} against {tuple(target.shape)} {target.dtype}: needs [B, C, H, W] and [B, H, W] integer ids'
        )
    return target.long()
