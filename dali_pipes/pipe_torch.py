"""DataLoader and OpenCV decode; flips and degradations follow on the device.

On a GPU worker processes decode ahead. On a CPU the training and the feeding want the same cores:
batches are then made when they are asked for, by all threads at once, which is faster than two
thread pools that wait for each other.
"""

import shutil
from collections.abc import Iterator
from concurrent.futures import Executor
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from sources import order
from sources.reader import ImageReader

from .batch import flipped
from .loader import Options, completed, to_decode
from .plan import BatchPlan, Step

# (step, [k] places in the batch, [k] images they are, [k, H, W, C] uint8 decoded, not flipped)
Item = tuple[Step, np.ndarray, np.ndarray, np.ndarray]


class Decoded(Dataset[Any]):
    """Data set whose items are batches, for a DataLoader.

    plan:   of the batches
    reader: of the images
    """

    def __init__(self, plan: BatchPlan, reader: ImageReader) -> None:
        """Read with one thread unless `pool` is set."""
        self.plan = plan
        self.reader = reader
        self.pool: Executor | None = None  # threads, in this process only

    def __getitems__(self, wanted: list[tuple[int, bool]]) -> Item:
        """Decode a batch. wanted: (sample number, whether to decode its image)."""
        # The whole batch is planned here, too, so that only sample numbers have to be sent.
        samples, decode = (np.array(column) for column in zip(*wanted, strict=True))
        step = self.plan(samples)
        places = np.flatnonzero(decode)
        decoded = self.reader.decoded(step.index[places].tolist(), self.pool)
        images = np.empty((0, 0, 0, 3), np.uint8)
        if decoded:
            images = np.stack([image for image, _ in decoded])
        return step, places, np.array([used for _, used in decoded]), images


def _workers(threads: int, batch_bytes: int) -> tuple[int, int]:
    """Return how many worker processes there are and how many batches each prepares ahead.

    There are at most 16 and 4, and no more than half of the shared memory holds, through which
    batches come to this process.
    """
    # Where nothing is known of the shared memory, it is taken to suffice for 16 times 4 batches.
    try:
        room = shutil.disk_usage('/dev/shm').free // 2 // batch_bytes
    except OSError:
        room = 64
    processes = max(1, min(threads, 16, room))
    return processes, max(1, min(4, room // processes))


def _one_thread(_: int) -> None:
    """Start a worker process: OpenCV gets one thread, since the processes are many already."""
    cv2.setNumThreads(1)


def _as_tensor(item: Item) -> tuple[Step, np.ndarray, np.ndarray, torch.Tensor]:
    return *item[:3], torch.from_numpy(item[3])


class TorchLoader:
    """The Loader of the torch pipe; see `dali_pipes.make`."""

    def __init__(self, plan: BatchPlan, options: Options) -> None:
        """Start the worker processes on a GPU's host."""
        self._plan = plan
        self._options = options
        self._cache = options.cache
        self._decoded: Iterator[Any] | None = iter(self._data_loader())

    def _data_loader(self) -> DataLoader[Any]:
        plan, options = self._plan, self._options
        data = Decoded(plan, options.reader)
        common: dict[str, Any] = dict(batch_sampler=self._wanted(), collate_fn=_as_tensor)
        if options.device.type != 'cuda':
            data.pool = options.pool
            return DataLoader(data, **common)
        processes, ahead = _workers(
            min(options.threads, len(options.reader)),
            plan.batch * plan.size**2 * plan.tall * plan.channels,
        )
        # To fork a process in which CUDA is initialised would not be safe.
        return DataLoader(
            data,
            **common,
            num_workers=processes,
            pin_memory=True,
            prefetch_factor=ahead,
            multiprocessing_context='spawn',
            worker_init_fn=_one_thread,
        )

    def _wanted(self) -> Iterator[list[tuple[int, bool]]]:
        """Yield what each batch is made of: (sample number, whether to decode its image).

        It is asked for in this process, some batches ahead, so that an image may be decoded a
        second time before the cache is found to have it.
        """
        options, plan = self._options, self._plan
        for samples in order.shard(options.start, plan.batch, options.rank, options.world):
            decode = np.ones(len(samples), bool)
            if self._cache:
                assert plan.count is not None, 'a stream has no cache'
                index = order.index(samples, plan.count, plan.seed)
                decode[:] = False
                decode[to_decode(self._cache, index)] = True
            yield list(zip(samples.tolist(), decode.tolist(), strict=True))

    def load(self) -> tuple[Step, torch.Tensor]:
        """Return the next step and its images; see Loader."""
        assert self._decoded is not None, 'the loader is closed'
        # Flipped last, because the cache holds images that are not flipped.
        step, places, used, images = next(self._decoded)
        images = images.to(self._options.device, non_blocking=True)
        x = completed(self._cache, step, places, images if len(places) else None, used)
        return step, flipped(x, step.flip).permute(0, 3, 1, 2)

    def close(self) -> None:
        """End the worker processes, which live as long as the iterator."""
        self._decoded = None
