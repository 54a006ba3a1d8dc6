"""DataLoader and OpenCV decode and flip; then the degradation on the device.

On a GPU worker processes decode ahead. On a CPU, training and feeding want the same cores: batches are made when they are asked for, by all threads at once,
which is faster than two thread pools that wait for each other.
"""
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from . import order
from .degrade import workers


class Decoded(Dataset):
    """Sample numbers of a batch -> (Step, [B, H, W, 3] uint8)."""

    def __init__(self, plan, reader):
        self.plan, self.reader = plan, reader
        self.pool = None                         # threads, in this process only

    def __getitems__(self, samples):
        step = self.plan(np.asarray(samples))
        run = self.pool.map if self.pool else map
        return step, np.stack(list(run(self._image, step.index, step.flip)))

    def _image(self, index, flip):
        image, _ = self.reader.image(int(index))
        return image[:, ::-1] if flip else image


def _as_tensor(item):
    step, images = item
    return step, torch.from_numpy(images)


class TorchPipe:
    """Endless iterator of Batch; see `dali_pipes.make`."""

    def __init__(self, plan, options):
        self._plan, self._options = plan, options
        gpu = options.device.type == 'cuda'
        data = Decoded(plan, options.reader)
        samples = (s.tolist() for s in order.shard(options.start, plan.batch, options.rank, options.world))
        self._loader = DataLoader(data, batch_sampler=samples, num_workers=min(options.threads, 16) if gpu else 0, collate_fn=_as_tensor,
                                  pin_memory=gpu, prefetch_factor=4 if gpu else None, multiprocessing_context='spawn' if gpu else None)
        self._pool = data.pool = None if gpu else workers.make(options.threads)
        self._decoded = iter(self._loader)

    def __iter__(self):
        return self

    def __next__(self):
        step, images = next(self._decoded)
        x = images.to(self._options.device, non_blocking=True).permute(0, 3, 1, 2)
        return self._plan.finish(x, step, pool=self._pool)

    def close(self):
        self._decoded = None                     # ends the worker processes
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
