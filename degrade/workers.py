"""Threads that degrade the images of a CPU batch side by side: nearly all of the work releases the GIL."""

import ctypes
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import cv2
import torch


def make(count):
    """Executor of `count` threads for `degrade(pool=)`; the caller shuts it down.

    OpenCV and torch get one thread in each, since images are what is shared out. (cv2.setNumThreads counts for the whole process; torch's for the threads.)
    """
    cv2.setNumThreads(1)
    _keep_memory()
    main = torch.get_num_threads()
    pool = ThreadPoolExecutor(
        count, thread_name_prefix='degrade', initializer=torch.set_num_threads, initargs=(1,)
    )
    together = threading.Barrier(
        count
    )  # an idle thread would take the next task before another is started
    list(
        pool.map(lambda _: together.wait(), range(count))
    )  # start them: what they set must not be ...
    torch.set_num_threads(main)  # ... what threads of later pools inherit
    return pool


def _keep_memory():
    """Tell glibc not to give freed temporaries of a few MB back to the kernel: asking for them again costs a page fault per 4 KB, 5-10 % of the chain."""
    if sys.platform != 'linux':
        return
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)  # absent from other C libraries
    if mallopt:
        mallopt(
            -3, 1 << 25
        )  # M_MMAP_THRESHOLD: up to 32 MB (its limit) memory comes from the heap ...
        mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD: ... which keeps up to 1 GB
