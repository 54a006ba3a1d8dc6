"""Work on one image at a time, in a process per core: how baselines on the CPU are run."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
import torch
import torch.multiprocessing

# What a process does with an image [h, w, 3] uint8 and its number.
Work = Callable[[np.ndarray, int], object]

_WORK: dict[str, Any] = {}  # of a worker process: what every call of it needs


def _start_worker(make: Callable[[], Work], images: torch.Tensor) -> None:
    cv2.setNumThreads(1)
    _WORK.update(work=make(), images=images.numpy())


def _work_on(part: np.ndarray) -> None:
    """Do the work on the images of these numbers."""
    for i in part:
        _WORK['work'](_WORK['images'][i], int(i))


@contextmanager
def mapped(
    make: Callable[[], Work], images: np.ndarray, processes: int
) -> Iterator[Callable[[], object]]:
    """A function that does the work on all images [N, h, w, 3] in processes of its own.

    make: what each process makes its work by; it has to be picklable
    """
    parts = np.array_split(np.arange(len(images)), min(processes * 8, len(images)))
    # Fresh processes: a fork of one with threads or a GPU may hang. They share the images.
    shared = torch.from_numpy(np.array(images)).share_memory_()
    context = torch.multiprocessing.get_context('spawn')
    with context.Pool(processes, _start_worker, (make, shared)) as pool:
        yield lambda: pool.map(_work_on, parts, chunksize=1)
        # What is timed next shall not share the cores with processes that end.
        pool.close()
        pool.join()
