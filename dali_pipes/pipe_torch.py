"""DataLoader and OpenCV decode; flips and degradations follow on the device.

On a GPU worker processes decode ahead. On a CPU the training and the feeding want the same cores:
batches are then made when they are asked for, by all threads at once, which is faster than two
thread pools that wait for each other.
"""

import shutil
import signal
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Executor
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from sources.reader import ImageReader

from .ahead import Steps
from .loader import Options, completed, to_decode
from .plan import BatchPlan, Step

# ([k] numbers of the images that they are, [k, H, W, C] uint8 decoded, not flipped)
Item = tuple[np.ndarray, np.ndarray]


class Decoded(Dataset[Any]):
    """Data set whose items are batches, for a DataLoader.

    reader: of the images
    """

    def __init__(self, reader: ImageReader) -> None:
        """Read with one thread unless `pool` is set."""
        self.reader = reader
        self.pool: Executor | None = None  # threads, in this process only

    def __getitems__(self, wanted: list[int]) -> Item:
        """Decode the images of these numbers, of which there may be none."""
        decoded = self.reader.decoded(wanted, self.pool)
        images = np.empty((0, 0, 0, 3), np.uint8)
        if decoded:
            images = np.stack([image for image, _ in decoded])
        return np.array([used for _, used in decoded]), images


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


def _start_worker(_: int) -> None:
    """Start a worker process."""
    # One thread for OpenCV, since the processes are many already.
    cv2.setNumThreads(1)
    # A terminal and torchrun send signals to all processes of a group. What is to stop is the
    # training, which saves and then ends its workers; these end with it in any case.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _as_tensor(item: Item) -> tuple[np.ndarray, torch.Tensor]:
    return item[0], torch.from_numpy(item[1])


class TorchLoader:
    """The Loader of the torch pipe; see `dali_pipes.make`."""

    def __init__(self, plan: BatchPlan, options: Options) -> None:
        """Start the worker processes on a GPU's host."""
        self._plan = plan
        self._options = options
        self._cache = options.cache
        self._steps = Steps(plan, options)
        # (step, places of the images to decode) of the batches that are being decoded
        self._planned: deque[tuple[Step, np.ndarray]] = deque()
        self._decoded: Iterator[Any] | None = iter(self._data_loader())

    def _data_loader(self) -> DataLoader[Any]:
        plan, options = self._plan, self._options
        data = Decoded(options.reader)
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
            worker_init_fn=_start_worker,
        )

    def _wanted(self) -> Iterator[list[int]]:
        """Yield the numbers of the images that are decoded for each batch.

        It is asked for in this process, some batches ahead, so that an image may be decoded a
        second time before the cache is found to have it.
        """
        for step in self._steps:
            places = to_decode(self._cache, step.index)
            self._planned.append((step, places))
            yield step.index[places].tolist()

    def load(self) -> tuple[Step, torch.Tensor]:
        """Return the next step and its images; see Loader."""
        assert self._decoded is not None, 'the loader is closed'
        # Flipped last, because the cache holds images that are not flipped.
        used, images = next(self._decoded)
        step, places = self._planned.popleft()
        device = self._options.device
        decoded = images.to(device, non_blocking=True) if len(places) else None
        step, x = completed(self._cache, step, places, decoded, used, device)
        return step, x.permute(0, 3, 1, 2)

    def close(self) -> None:
        """End the worker processes, which live as long as the iterator."""
        self._decoded = None
        self._steps.close()
