"""GPU memory: what a run takes of it, and which batch would fit where it did not suffice."""

import torch

SHARE = 0.9  # of the free memory that a batch may take: what is allocated in pieces leaves gaps


def used(device):
    """{'gpu': GB that torch holds of this GPU at most so far}, {} on a CPU. Nobody waits for it."""
    return {'gpu': torch.cuda.max_memory_reserved(device) / 1e9} if device.type == 'cuda' else {}


def fitting(peak, free):
    """Largest batch that fits into `free` bytes, 0 if none does. peak: function of a batch -> bytes it takes at most; asked for 1 and 2, the rest is a line through them."""
    try:
        one, two = peak(1), peak(2)
    except torch.OutOfMemoryError:
        return 0
    each = max(two - one, 1)
    return max(0, int((SHARE * free - one) // each) + 1)


def advice(c, device, peak):
    """What to say when the memory did not suffice, and the rest of the process has let go of its own. peak: as of `fitting`"""
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    most = min(fitting(peak, free), c['batch'])
    said = f'the GPU ran out of memory with --batch {c["batch"]}: {free / 1e9:.1f} of its {total / 1e9:.1f} GB are free without this run'
    if not most:
        return f'{said}, in which not even one image fits: take a smaller --preset or --size, or end what else runs there (nvidia-smi)'
    if most == c['batch']:
        return f'{said}, in which it should fit: --cache host frees what decoded images take there'
    parts = -(-c['batch'] // most)
    while c['batch'] % parts:  # the same steps need equal parts
        parts += 1
    return f'{said}; --batch {c["batch"] // parts} --accumulate {parts * c["accumulate"]} fits and makes the same steps ({most} is the most at a time)'


def peak(device, work):
    """Bytes that work() takes at most of a GPU."""
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    return torch.cuda.max_memory_allocated(device) - before
