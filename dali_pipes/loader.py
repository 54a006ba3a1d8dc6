"""What every loader is given and gives, and how it shares its work with the cache."""

from concurrent.futures import Executor
from typing import NamedTuple, Protocol

import numpy as np
import torch

from sources.reader import ImageReader

from .batch import assembled
from .cache import Cache
from .plan import Step


class Loader(Protocol):
    """Decoded images, step by step, without end."""

    def load(self) -> tuple[Step, torch.Tensor]:
        """Return the next step and its images.

        The images are [B, channels, tall * size, size] uint8, flipped, on the device.
        """
        ...

    def close(self) -> None:
        """End threads and processes."""
        ...


class Options(NamedTuple):
    """What a loader needs in addition to its plan."""

    reader: ImageReader  # of the manifest's images, or of shards
    cache: Cache | None  # of their pixels
    pool: Executor  # threads for reading and decoding
    start: int  # first sample number
    rank: int  # this process of ...
    world: int  # ... so many
    device: torch.device
    threads: int  # CPU threads for decoding and degrading
    mixed: bool = False  # DALI decodes on the GPU


def to_decode(cache: Cache | None, index: np.ndarray) -> np.ndarray:
    """Places in a batch whose images, of numbers `index` [B], are not in the cache."""
    return np.arange(len(index)) if cache is None else cache.missing(index)


def completed(
    cache: Cache | None,
    step: Step,
    places: np.ndarray,
    decoded: torch.Tensor | None,
    used: np.ndarray | None,
) -> torch.Tensor:
    """Add the cached images of a batch to those that were decoded, and cache the latter.

    places:  [k] of the decoded images in the batch
    decoded: [k, ...] uint8, not flipped; None if k is 0
    used:    [k] numbers of the images that they really are
    Returns [B, ...] uint8, not flipped.
    """
    cached = None
    if cache is not None:
        others = np.setdiff1d(np.arange(len(step.index)), places)
        if len(others):
            cached = cache.take(step.index[others])
        if decoded is not None:
            cache.put(step.index[places], decoded, used)
    return assembled(cached, decoded, places, len(step.index))
