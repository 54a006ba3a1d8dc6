"""Sample number -> epoch and image: a seeded permutation per epoch; a rank only chooses which numbers it takes.

Pure functions, so resume is `start` and nothing else: the same seed shows the same images in the same order on 1 or 8 GPUs,
after a crash or not.
"""

import itertools
from functools import lru_cache

import numpy as np

from degrade.draw import stream


def index(sample, count, seed):
    """[B] sample numbers >= 0 -> [B] int64 image numbers in 0..count-1: place `sample % count` of the permutation of epoch
    `sample // count`. seed: 0 <= seed < 2**63. Raises ValueError for values outside."""
    sample = np.asarray(sample, np.int64)
    if count < 1 or not 0 <= seed < 2**63 or (sample < 0).any():
        raise ValueError(
            f'order of {count} images, seed {seed}: needs count >= 1, 0 <= seed < 2**63 and sample numbers >= 0'
        )
    epoch, position = np.divmod(sample, count)
    image = np.empty_like(sample)
    for e in np.unique(epoch):
        image[epoch == e] = permutation(int(e), count, seed)[position[epoch == e]]
    return image


def shard(start, batch, rank=0, world=1):
    """Endless iterator of [batch] int64 sample numbers of one rank: global batch g is the world * batch numbers from
    start + g * world * batch on, and each rank takes a contiguous block of it. Raises ValueError for values outside."""
    if start < 0 or batch < 1 or not 0 <= rank < world:
        raise ValueError(
            f'start {start}, batch {batch}, rank {rank} of {world}: needs start >= 0, batch >= 1, 0 <= rank < world'
        )
    return (
        np.arange(first, first + batch, dtype=np.int64)
        for first in itertools.count(start + rank * batch, world * batch)
    )


@lru_cache(maxsize=2)  # a batch may lie across two epochs
def permutation(epoch, count, seed):
    """[count] int64, read-only: the order of Philox's raw words, which NumPy promises to keep (NEP 19), unlike Generator's."""
    words = np.random.Philox(key=np.array([seed, stream(f'order/{epoch}')], np.uint64)).random_raw(
        count
    )
    order = np.argsort(words, kind='stable')
    order.flags.writeable = False
    return order
