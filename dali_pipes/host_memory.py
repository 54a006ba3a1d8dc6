"""How much host memory there is to take, in containers and batch jobs as well."""

import os
from collections.abc import Iterator
from pathlib import Path


def available_memory(groups: str = '/sys/fs/cgroup', member: str = '/proc/self/cgroup') -> int:
    """Bytes of host memory that can be had without swapping.

    That is within the limits of a container or batch job, and all of the memory where the system
    does not say how much is available.
    groups: where control groups are mounted
    member: file that names those of this process
    """
    # A container sees the memory of the whole machine, but is killed beyond its own part.
    return min([_free_memory_of_host(), *_allowances(groups, member)])


def _free_memory_of_host() -> int:
    """The system's own estimate in bytes, which counts what it would give back without swapping."""
    try:
        import psutil  # which needs parts of Linux that a sandbox may hide

        return psutil.virtual_memory().available
    except (ImportError, OSError):
        return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')


def _allowances(groups: str, member: str) -> Iterator[int]:
    """Yield the bytes that each control group with a limit still allows this process.

    These are the process's own group and all above it, of version 2 (one hierarchy, without
    controllers in `member`) or of version 1 (one of the controller `memory`).
    """
    try:
        lines = Path(member).read_text().splitlines()
    except OSError:
        return

    # Each line is hierarchy:controllers:path. The tightest limit on the way to the root counts, so
    # that every group above has to be asked as well.
    for line in lines:
        _, controllers, path = line.split(':', 2)
        if controllers not in ('', 'memory'):
            continue
        root, limit, usage = groups, 'memory.max', 'memory.current'
        if controllers:
            root = f'{groups}/memory'
            limit, usage = 'memory.limit_in_bytes', 'memory.usage_in_bytes'
        for part in (path, *map(str, Path(path).parents)):
            allowance = _allowance(root + part, limit, usage)
            if allowance is not None:
                yield allowance


def _allowance(group: str, limit: str, usage: str) -> int | None:
    """Bytes that a control group still allows, None without a limit.

    limit, usage: names of its files
    """
    try:
        most, used, stat = (Path(group, name).read_text() for name in (limit, usage, 'memory.stat'))
        counts = dict(line.split() for line in stat.splitlines())
        # Pages of files that were read are counted as used, but the kernel would give them back.
        reclaimable = counts.get('total_inactive_file', counts.get('inactive_file', 0))
        return max(int(most) - int(used) + int(reclaimable), 0)
    except (OSError, ValueError):
        # There is no limit ('max'), or no such group: in a container paths begin elsewhere.
        return None
