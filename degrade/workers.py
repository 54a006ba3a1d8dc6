"""Threads that degrade the images of a CPU batch concurrently.

Nearly all of the work is done in libraries that release the GIL.
"""

import ctypes
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import cv2
import torch

# Options of glibc's mallopt, by their numbers in malloc.h.
_TRIM_THRESHOLD = -1
_MMAP_THRESHOLD = -3


def make(count: int) -> ThreadPoolExecutor:
    """Return an executor of `count` threads for `degrade(pool=)`, which the caller shuts down.

    OpenCV and torch get one thread in each, since the images are what is shared out.
    cv2.setNumThreads applies to the whole process, torch's setting to the threads.
    """
    cv2.setNumThreads(1)
    _keep_memory()
    main = torch.get_num_threads()
    pool = ThreadPoolExecutor(
        count, thread_name_prefix='degrade', initializer=torch.set_num_threads, initargs=(1,)
    )

    # Start every thread now and restore the setting afterwards: threads of later pools would
    # inherit theirs. The barrier is needed because an idle thread would take the next task
    # before another thread is started.
    together = threading.Barrier(count)
    list(pool.map(lambda _: together.wait(), range(count)))
    torch.set_num_threads(main)
    return pool


def _keep_memory() -> None:
    """Tell glibc not to return freed temporaries of a few MB to the kernel.

    To obtain them again costs a page fault per 4 KB, which is 5-10 % of the chain's time.
    """
    if sys.platform != 'linux':
        return
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)  # absent from other C libraries
    if mallopt:
        # Blocks up to 32 MB, the largest value allowed, come from the heap, which keeps up to 1 GB.
        mallopt(_MMAP_THRESHOLD, 1 << 25)
        mallopt(_TRIM_THRESHOLD, 1 << 30)
