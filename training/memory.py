"""GPU memory: how much a run takes, and which batch would fit after it ran out."""

from collections.abc import Callable

import torch

SHARE = 0.9  # of the free memory may be used: allocation in pieces leaves gaps


def used(device: torch.device) -> dict[str, float]:
    """Return {'gpu': peak of the GB that torch reserved there}, {} on a CPU; nothing waits."""
    if device.type != 'cuda':
        return {}
    return {'gpu': torch.cuda.max_memory_reserved(device) / 1e9}


def fitting(peak: Callable[[int], int], free: int) -> int:
    """Return the largest batch that fits into `free` bytes, 0 if none does.

    peak: maps a batch to the most bytes it takes; called for 1 and 2, and extrapolated linearly
    """
    # Weights and optimizer count once, activations for each image: a line through two points.
    try:
        one = peak(1)
        two = peak(2)
    except torch.OutOfMemoryError:
        return 0
    per_image = max(two - one, 1)
    return max(0, int((SHARE * free - one) // per_image) + 1)


def advice(batch: int, accumulate: int, device: torch.device, peak: Callable[[int], int]) -> str:
    """Return the message for a run that ran out of memory, once it has freed its own.

    batch, accumulate: the options it ran with
    peak: as for `fitting`
    """
    # What torch still holds in reserve would otherwise count as taken.
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    limit = min(fitting(peak, free), batch)
    message = (
        f'the GPU ran out of memory with --batch {batch}: '
        f'{free / 1e9:.1f} of its {total / 1e9:.1f} GB are free without this run'
    )
    if not limit:
        return (
            f'{message}, in which not even one image fits: choose a smaller --preset or --size, '
            'or end what else runs on it (nvidia-smi)'
        )
    if limit == batch:
        return f'{message}, in which it should fit: --cache host frees what cached images take'

    # The same steps need parts of equal size.
    parts = -(-batch // limit)
    while batch % parts:
        parts += 1
    return (
        f'{message}; --batch {batch // parts} --accumulate {parts * accumulate} fits and makes '
        f'the same steps ({limit} is the most at a time)'
    )


def peak(device: torch.device, work: Callable[[], object]) -> int:
    """Return the most bytes that work() takes on a GPU, beyond what is already allocated."""
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    return torch.cuda.max_memory_allocated(device) - before
