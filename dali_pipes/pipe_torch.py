"""DataLoader and OpenCV decode and flip; then the degradation on the device.

On a GPU worker processes decode ahead. On a CPU, training and feeding want the same cores: batches are made when they are asked for, by all threads at once,
which is faster than two thread pools that wait for each other.
"""

import shutil

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from sources import order

from .batch import assembled, flipped


class Decoded(Dataset):
    """[(sample number, whether to decode its image)] of a batch -> (Step, places, images they are, [k, H, W, 3] uint8 decoded, not flipped)."""

    def __init__(self, plan, reader):
        self.plan, self.reader = plan, reader
        self.pool = None  # threads, in this process only

    def __getitems__(self, wanted):
        samples, decode = (np.array(column) for column in zip(*wanted))
        step, places = self.plan(samples), np.flatnonzero(decode)
        found = self.reader.decoded(step.index[places].tolist(), self.pool)
        images = (
            np.stack([image for image, _ in found]) if found else np.empty((0, 0, 0, 3), np.uint8)
        )
        return step, places, np.array([used for _, used in found]), images


def _workers(threads, batch_bytes):
    """(worker processes, batches each prepares ahead): at most 16 and 4, and what half of the shared memory holds, through which batches come here."""
    try:
        room = shutil.disk_usage('/dev/shm').free // 2 // batch_bytes
    except OSError:
        room = 64
    processes = max(1, min(threads, 16, room))
    return processes, max(1, min(4, room // processes))


def _one_thread(_):
    cv2.setNumThreads(1)  # the processes are many already


def _as_tensor(item):
    return *item[:3], torch.from_numpy(item[3])


class TorchLoader:
    """load() -> (Step, [B, 3, H, W] uint8); see `dali_pipes.make`."""

    def __init__(self, plan, options):
        self._plan, self._options, self._cache = plan, options, options.cache
        gpu = options.device.type == 'cuda'
        data = Decoded(plan, options.reader)
        data.pool = None if gpu else options.pool
        processes, ahead = (
            _workers(
                min(options.threads, len(options.reader)),
                plan.batch * plan.size**2 * plan.tall * plan.channels,
            )
            if gpu
            else (0, None)
        )
        loader = DataLoader(
            data,
            batch_sampler=self._wanted(),
            num_workers=processes,
            collate_fn=_as_tensor,
            pin_memory=gpu,
            prefetch_factor=ahead,
            multiprocessing_context='spawn' if gpu else None,
            worker_init_fn=_one_thread if gpu else None,
        )
        self._decoded = iter(loader)

    def _wanted(self):
        """What each batch is made of; asked for in this process, some batches ahead, so an image may be decoded twice before it is found in the cache."""
        for samples in order.shard(
            self._options.start, self._plan.batch, self._options.rank, self._options.world
        ):
            decode = np.ones(len(samples), bool)
            if self._cache:
                decode[:] = False
                decode[
                    self._cache.missing(order.index(samples, self._plan.count, self._plan.seed))
                ] = True
            yield list(zip(samples.tolist(), decode.tolist()))

    def load(self):
        step, places, used, images = next(self._decoded)
        images = images.to(self._options.device, non_blocking=True)
        rest = np.setdiff1d(np.arange(len(step.index)), places)
        kept = self._cache.take(step.index[rest]) if len(rest) else None
        if self._cache and len(places):
            self._cache.put(step.index[places], images, used)
        x = assembled(kept, images if len(places) else None, places, len(step.index))
        return step, flipped(x, step.flip).permute(0, 3, 1, 2)

    def close(self):
        self._decoded = None  # ends the worker processes
