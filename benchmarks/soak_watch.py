"""What a process and its children hold while they run, and whether it grows, for soak.py."""

import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tools import timing

FEWEST = 10  # samples of which anything can be said
SHARED = Path('/dev/shm')  # shared memory, where the system has it as a folder


class Sample(NamedTuple):
    """Of a process with all its children at one moment."""

    seconds: float  # since it began
    memory: float  # MB that are theirs alone
    threads: int
    files: int  # descriptors; 0 where the system does not tell
    shared: float  # MB of shared memory in use on the machine, whoever uses it


class Growth(NamedTuple):
    """Of one quantity over a run."""

    name: str
    early: float  # median of the second fifth: caches are full, allocators have settled
    late: float  # median of the last fifth
    most: float
    flat: bool


# How much more than in the second fifth the last may hold: a share, and a number on top of it that
# the smallest unit of each moves by (allocators' arenas, a file that is just being written).
ALLOWED = {
    'memory': (0.02, 2.0),
    'threads': (0.0, 0.5),
    'files': (0.0, 1.5),
    'shared': (0.0, 1.0),
}


def watch(started: subprocess.Popen[str], every: float) -> list[Sample]:
    """Sample a process every so many seconds until it ends."""
    begun, samples = time.monotonic(), []
    while True:
        try:
            started.wait(timeout=every)
        except subprocess.TimeoutExpired:
            samples.append(sample(started.pid, time.monotonic() - begun))
        else:
            return samples


def sample(pid: int, seconds: float) -> Sample:
    """What a process and its children hold now."""
    # Imported here, as it needs what not every system has.
    import psutil

    # Memory that is theirs alone: the pages of the libraries are shared by all.
    memory, threads, files = 0, 0, 0
    for each in family(pid):
        try:
            with each.oneshot():
                memory += each.memory_full_info().uss
                threads += each.num_threads()
                files += each.num_fds() if psutil.POSIX else 0
        except psutil.Error:  # it has ended
            continue
    # What processes share belongs to none of them, and stays when they are gone.
    shared = shutil.disk_usage(SHARED).used if SHARED.is_dir() else 0
    return Sample(seconds, memory / 1e6, threads, files, shared / 1e6)


def family(pid: int) -> list[Any]:
    """A process and all that it has started, as psutil has them; [] once it has ended."""
    import psutil

    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def growth(samples: Sequence[Sample]) -> list[Growth]:
    """Compare the last fifth of a run with its second, quantity by quantity.

    Raises ValueError for fewer samples than FEWEST.
    """
    if len(samples) < FEWEST:
        raise ValueError(f'{len(samples)} samples are too few')
    fifth = len(samples) // 5
    return [_growth(name, [getattr(s, name) for s in samples], fifth) for name in ALLOWED]


def _growth(name: str, values: list[float], fifth: int) -> Growth:
    """Of the values of one quantity in their order."""
    # Medians, since a validation or a checkpoint holds more for a moment.
    early = timing.median(values[fifth : 2 * fifth])
    late = timing.median(values[-fifth:])
    share, number = ALLOWED[name]
    return Growth(name, early, late, max(values), late <= early * (1 + share) + number)
