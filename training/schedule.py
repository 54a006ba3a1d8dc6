"""Learning rates as functions of the share of a run that is done, so that they fit runs counted in images and in minutes alike.

    constant    multistep    cosine (Loshchilov & Hutter, 2017; the default)    restarts: several cosines, as BasicSR's CosineAnnealingRestartLR
    linear: constant, then a straight line down, as pix2pixHD's

All begin with a linear warm-up, and any may end in a tail: another cosine from a lower rate down.
"""

import bisect
import itertools
import math

SCHEDULES = 'cosine', 'constant', 'multistep', 'linear', 'restarts'


def lr(
    progress,
    base,
    kind='cosine',
    *,
    warmup=0.03,  # share of the run from `floor` up to `base`
    floor=1e-7,  # lowest rate
    milestones=(0.5, 0.75),  # multistep: shares of the run after which the rate is multiplied ...
    gamma=0.5,  # ... by this; linear: the first is where it begins to fall
    periods=(
        1,
        1,
    ),  # restarts: relative lengths of the cosines, which share what warm-up and tail leave
    weights=(
        1,
    ),  # restarts: where each begins, relative to `base`; the last counts for all that follow
    tail=0.0,  # share of the run at its end that is another cosine ...
    tail_lr=0.02,
):  # ... from this share of `base`
    """Learning rate at `progress`, in [0, 1]; more counts as 1. With t the share of a part that is done, a cosine from a to b is b + (a - b) (1 + cos(pi t)) / 2.
    Raises ValueError for values outside."""
    if (
        kind not in SCHEDULES
        or not (0 <= warmup and 0 <= tail and warmup + tail < 1)
        or progress < 0
        or min(periods) <= 0
    ):
        raise ValueError(
            f'lr: {kind} at progress {progress}, warmup {warmup}, tail {tail}, periods {periods}; progress >= 0, warmup + tail < 1, positive periods '
            f'and one of {", ".join(SCHEDULES)} are needed'
        )
    if kind == 'linear' and not warmup <= milestones[0] < 1 - tail:
        raise ValueError(
            f'lr: linear falls from milestone {milestones[0]} on, which must come after warmup {warmup} and before tail {tail}'
        )
    progress = min(progress, 1.0)
    if progress < warmup:
        return floor + (base - floor) * progress / warmup
    if tail and progress >= 1 - tail:
        return _cosine(tail_lr * base, floor, (progress - (1 - tail)) / tail)
    t = (progress - warmup) / (1 - warmup - tail)
    if kind == 'constant':
        return base
    if kind == 'multistep':
        return max(base * gamma ** bisect.bisect_right(milestones, progress), floor)
    if kind == 'linear':
        return min(
            base, floor + (base - floor) * (1 - tail - progress) / (1 - tail - milestones[0])
        )
    if kind == 'cosine':
        return _cosine(base, floor, t)
    ends = list(itertools.accumulate(p / sum(periods) for p in periods))
    k = min(bisect.bisect_right(ends, t), len(ends) - 1)
    begin = ends[k - 1] if k else 0.0
    weight = weights[min(k, len(weights) - 1)]
    return floor + weight * (_cosine(base, floor, (t - begin) / (ends[k] - begin)) - floor)


def _cosine(a, b, t):
    return b + (a - b) * (1 + math.cos(math.pi * min(t, 1.0))) / 2
