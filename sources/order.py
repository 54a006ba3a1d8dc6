"""Sample number -> epoch and image: one seeded permutation per epoch, shared by all ranks.

A rank only chooses which sample numbers it takes. All functions are pure, so resuming needs no more
than `start`: the same seed gives the same images in the same order on 1 or 8 GPUs, after a crash or
without one.
"""

import itertools
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from degrade.draw import stream


def index(sample: npt.ArrayLike, count: int, seed: int) -> np.ndarray:
    """Map sample numbers [B] to image numbers [B] int64 in 0..count-1.

    Sample s is at place `s % count` of the permutation of epoch `s // count`.
    Raises ValueError unless count >= 1, 0 <= seed < 2**63 and every sample number >= 0.
    """
    sample = np.asarray(sample, np.int64)
    if count < 1 or not 0 <= seed < 2**63 or (sample < 0).any():
        raise ValueError(
            f'order of {count} images, seed {seed}: needs count >= 1, 0 <= seed < 2**63 '
            'and sample numbers >= 0'
        )

    # A batch may span epochs, each of which has a permutation of its own.
    epoch, position = np.divmod(sample, count)
    image = np.empty_like(sample)
    for e in np.unique(epoch):
        image[epoch == e] = permutation(int(e), count, seed)[position[epoch == e]]
    return image


def shard(start: int, batch: int, rank: int = 0, world: int = 1) -> Iterator[np.ndarray]:
    """Iterate endlessly over the sample numbers [batch] int64 of one rank.

    Global batch g consists of the `world * batch` numbers from `start + g * world * batch` on; each
    rank takes a contiguous block of it. Raises ValueError for values out of range.
    """
    if start < 0 or batch < 1 or not 0 <= rank < world:
        raise ValueError(
            f'start {start}, batch {batch}, rank {rank} of {world}: '
            'needs start >= 0, batch >= 1, 0 <= rank < world'
        )
    return (
        np.arange(first, first + batch, dtype=np.int64)
        for first in itertools.count(start + rank * batch, world * batch)
    )


# Two entries, since a batch may lie across two epochs.
@lru_cache(maxsize=2)
def permutation(epoch: int, count: int, seed: int) -> np.ndarray:
    """[count] int64, read-only: the ranks of Philox's raw words.

    NumPy guarantees that raw words stay the same across versions (NEP 19), which does not hold for
    numpy.random.Generator.
    """
    key = np.array([seed, stream(f'order/{epoch}')], np.uint64)
    words = np.random.Philox(key=key).random_raw(count)
    order = np.argsort(words, kind='stable')
    order.flags.writeable = False
    return order
