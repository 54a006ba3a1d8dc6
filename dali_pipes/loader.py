"""What every loader is given and gives, and how it shares its work with the cache."""

from concurrent.futures import Executor
from typing import NamedTuple, Protocol

import numpy as np
import torch

from degrade import kernels
from sources.reader import ImageReader

from .batch import assembled, flipped, rows_of
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
    device: torch.device,
) -> tuple[Step, torch.Tensor]:
    """Add the cached images of a batch to those that were decoded, cache the latter, and flip all.

    places:  [k] of the decoded images in the batch
    decoded: [k, ...] uint8, not flipped; None if k is 0
    used:    [k] numbers of the images that they really are
    device:  of the batch
    Returns the step, its records on a GPU, and [B, ...] uint8, flipped.
    """
    # Everything that is small and known by now travels to a GPU in one copy.
    others = np.arange(0) if cache is None else np.setdiff1d(np.arange(len(step.index)), places)
    index, rows = step.index[others], rows_of(places, len(step.index))
    step, (flip, index_there, rows_there) = sent(step, device, step.flip, index, rows)

    cached = None
    if cache is not None:
        if len(others):
            cached = cache.take(index, index_there)
        if decoded is not None:
            cache.put(step.index[places], decoded, used)
    return step, flipped(assembled(cached, decoded, rows_there), step.flip, flip)


def sent(step: Step, device: torch.device, *arrays: np.ndarray) -> tuple[Step, list[torch.Tensor]]:
    """Send a step's records and further arrays to the device: the step with them, and the others.

    A CPU has no records, and tensors there share the memory of the arrays.
    """
    if device.type != 'cuda':
        return step, [torch.from_numpy(array) for array in arrays]
    there = kernels.upload([*arrays, *step.records], device)
    return step._replace(records=tuple(there[len(arrays) :])), there[: len(arrays)]
