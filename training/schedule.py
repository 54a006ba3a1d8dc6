"""Learning rates as functions of the share of a run that is done.

They fit runs counted in images and in minutes alike.

    constant
    multistep   a factor at each milestone
    linear      constant, then a straight line down, as in pix2pixHD
    cosine      half a cosine (Loshchilov & Hutter, 2017); the default
    restarts    several of them, as BasicSR's CosineAnnealingRestartLR

All begin with a linear warm-up, and each may end in a tail: another cosine from a lower rate.
"""

import bisect
import itertools
import math
from collections.abc import Sequence

SCHEDULES = 'cosine', 'constant', 'multistep', 'linear', 'restarts'


def lr(
    progress: float,  # share of the run that is done; more than 1 counts as 1
    base: float,      # highest rate
    kind: str = 'cosine',
    *,
    warmup:     float           = 0.03,         # share of the run from `floor` up to `base`
    floor:      float           = 1e-7,         # lowest rate
    milestones: Sequence[float] = (0.5, 0.75),  # shares of the run; multistep multiplies there ...
    gamma:      float           = 0.5,          # ... by this; linear begins to fall at the first
    periods:    Sequence[float] = (1, 1),       # restarts: relative lengths of the cosines ...
    weights:    Sequence[float] = (1,),         # ... and start of each / `base`; the last repeats
    tail:       float           = 0.0,          # share of the run at its end for a last cosine ...
    tail_lr:    float           = 0.02,         # ... which starts at this share of `base`
) -> float:  # fmt: skip  # the signature reads like a table
    """Return the learning rate at `progress`.

    A cosine from a to b is b + (a - b) (1 + cos(pi t)) / 2, where t is the share of its part that
    is done. Raises ValueError for values that do not go together.
    """
    _check(progress, kind, warmup, milestones, periods, tail)
    progress = min(progress, 1.0)

    # The first and the last part of every schedule.
    if progress < warmup:
        return floor + (base - floor) * progress / warmup
    if tail and progress >= 1 - tail:
        return _cosine(tail_lr * base, floor, (progress - (1 - tail)) / tail)

    # The part between them; a constant schedule is what is left.
    done = (progress - warmup) / (1 - warmup - tail)
    if kind == 'cosine':
        return _cosine(base, floor, done)
    if kind == 'restarts':
        return _restarts(base, floor, done, periods, weights)
    # Milestones are shares of the whole run, warm-up and tail included.
    if kind == 'multistep':
        return max(base * gamma ** bisect.bisect_right(milestones, progress), floor)
    if kind == 'linear':
        left = 1 - tail - progress
        return min(base, floor + (base - floor) * left / (1 - tail - milestones[0]))
    return base


def _check(
    progress: float,
    kind: str,
    warmup: float,
    milestones: Sequence[float],
    periods: Sequence[float],
    tail: float,
) -> None:
    shares_fit = warmup >= 0 and tail >= 0 and warmup + tail < 1
    if kind not in SCHEDULES or not shares_fit or progress < 0 or min(periods) <= 0:
        raise ValueError(
            f'lr: {kind} at progress {progress}, warmup {warmup}, tail {tail}, periods {periods}; '
            'progress >= 0, warmup + tail < 1, positive periods '
            f'and one of {", ".join(SCHEDULES)} are needed'
        )
    if kind == 'linear' and not warmup <= milestones[0] < 1 - tail:
        raise ValueError(
            f'lr: linear falls from milestone {milestones[0]} on, '
            f'which must come after warmup {warmup} and before tail {tail}'
        )


def _restarts(
    base: float, floor: float, done: float, periods: Sequence[float], weights: Sequence[float]
) -> float:
    ends = list(itertools.accumulate(p / sum(periods) for p in periods))
    # Rounding may leave the last end just below 1, and `done` beyond it.
    k = min(bisect.bisect_right(ends, done), len(ends) - 1)
    start = ends[k - 1] if k else 0.0
    weight = weights[min(k, len(weights) - 1)]
    return floor + weight * (_cosine(base, floor, (done - start) / (ends[k] - start)) - floor)


def _cosine(a: float, b: float, t: float) -> float:
    return b + (a - b) * (1 + math.cos(math.pi * min(t, 1.0))) / 2
