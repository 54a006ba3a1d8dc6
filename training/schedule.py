"""Learning rate: linear warm-up, then one cosine (Loshchilov & Hutter, 2017), without restarts: each costs ~50k iterations."""
import math


def lr(progress, base, warmup=0.03, floor=1e-7):
    """Learning rate at `progress`, the share of the run that is done: in [0, 1], more counts as 1.

        progress < warmup: floor + (base - floor) progress / warmup
        then:              floor + (base - floor) (1 + cos(pi t)) / 2,  t = (progress - warmup) / (1 - warmup)
    """
    if not 0 <= warmup < 1 or progress < 0:
        raise ValueError(f'lr: progress {progress}, warmup {warmup}; progress >= 0 and 0 <= warmup < 1 are needed')
    if progress < warmup:
        return floor + (base - floor) * progress / warmup
    t = min(1.0, (progress - warmup) / (1 - warmup))
    return floor + (base - floor) * (1 + math.cos(math.pi * t)) / 2
