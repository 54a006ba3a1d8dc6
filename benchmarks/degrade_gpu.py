"""The GPU's part of degrade_throughput.py: the CUDA kernels at several batch sizes, stage by stage, against batched torch on the same card."""

import numpy as np
import torch

import degrade
from benchmarks import timing
from degrade import kernels, noise
from degrade.draw import Draw
from degrade.upload import upload

BATCHES = 1, 4, 16, 64, 256
PARITY = 'ai6126_2024_parity'  # drawn per batch, DiffJPEG: how Real-ESRGAN, neosr and traiNNer-redux degrade
PARITY_BATCH = 32


def check(x, recipe, params):
    """Refuse to time what is wrong: against the reference, and two runs bit for bit."""
    few = degrade.take(params, slice(0, 6))
    y = degrade.degrade(x[:6], recipe, few, 'cuda')
    off = (y.cpu() - degrade.degrade(x[:6].cpu(), recipe, few, 'ref')).abs() > 1.5 / 255
    if off.float().mean() > 0.01:
        raise SystemExit(
            f'{recipe.name}: cuda differs from the reference by more than 1/255 in {off.float().mean():.1%} of the values: not timed'
        )
    if not torch.equal(y, degrade.degrade(x[:6], recipe, few, 'cuda')):
        raise SystemExit(f'{recipe.name}: two runs of cuda differ: not timed')


def runner(x, recipe, params, batch, impl):
    """callable that degrades all of x [N, 3, H, W] in batches and waits for the GPU."""
    parts = [
        (x[i : i + batch], degrade.take(params, slice(i, i + batch)))
        for i in range(0, len(x), batch)
    ]

    def run():
        for images, p in parts:
            degrade.degrade(images, recipe, p, impl)
        torch.cuda.synchronize()

    return run


def parity_runner(x, recipe, params):
    """The same for the public way: batched torch operations, noise drawn by torch on the GPU."""
    parts = [
        (x[i : i + PARITY_BATCH], degrade.take(params, slice(i, i + PARITY_BATCH)))
        for i in range(0, len(x), PARITY_BATCH)
    ]

    def run():
        for images, ps in parts:
            c = degrade.canvas.of(images)
            for stage, p in zip(recipe.stages, ps):
                c = _device_noise(c, p) if stage.op is noise else stage.op.run_torch(c, p)
        torch.cuda.synchronize()

    return run


def _device_noise(c, p):
    """One kind for the whole batch, as the parity recipe draws it."""
    x = degrade.canvas.unit(c.pix)
    gray, amount = upload(p.gray, x.device), upload(p.amount, x.device).float()
    if p.kind[0] == noise.GAUSSIAN:
        z = torch.where(gray.view(-1, 1, 1, 1), torch.randn_like(x[:1, :1]), torch.randn_like(x))
        return c._replace(pix=noise.gaussian_torch(x, z, amount))
    level, V = noise.level_torch(
        x, gray
    )  # waits once per sample for the number of levels, as the public code does
    V = V.to(x.device, x.dtype)
    counts = torch.poisson(level / 255.0 * V.view(-1, 1, 1, 1))
    return c._replace(pix=noise.poisson_torch(x, counts, level, V, amount))


def compare(title, recipe, x, seed, rounds):
    """Table of one recipe; x [N, 3, H, W] uint8 on the GPU. Returns {contender: images per second}, 'peak_gb' and 'stages'."""
    params = degrade.sample(
        recipe, Draw(seed, np.arange(len(x)), tied=recipe.tied, batch=BATCHES[-1]), x.shape[-2:]
    )
    check(x, recipe, params)
    parity = degrade.recipe(PARITY)
    parity = (
        parity if any(s.op is degrade.usm for s in recipe.stages) else degrade.without_usm(parity)
    )
    few = 4 * PARITY_BATCH
    tied = degrade.sample(
        parity, Draw(seed, np.arange(few), tied=parity.tied, batch=PARITY_BATCH), x.shape[-2:]
    )
    contenders = {f'cuda, batch {b}': runner(x, recipe, params, b, 'cuda') for b in BATCHES}
    contenders['torch, batched parity recipe'] = parity_runner(x[:few], parity, tied)
    base = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    contenders[f'cuda, batch {BATCHES[-1]}']()
    peak = torch.cuda.max_memory_allocated() - base
    print(
        f'\n{title} on the GPU: {len(x)} plans at {x.shape[-1]} px, checked against the reference'
    )
    seconds = timing.rounds(contenders, rounds, progress=lambda _: None)
    rate = {
        k: (few if k.startswith('torch') else len(x)) / timing.median(s) for k, s in seconds.items()
    }
    best = max(rate, key=rate.get)
    print(f'{"":30} {"img/s":>9} {"spread":>7} {"ratio to batched torch":>23}')
    for k in rate:
        print(
            f'{k:30} {rate[k]:9.1f} {timing.spread(seconds[k]):6.1f}% {rate[k] / rate["torch, batched parity recipe"]:22.2f}x'
            + ('  best' if k == best else '')
        )
    print(f'peak memory of the canvases at batch {BATCHES[-1]}: {peak / 1e9:.2f} GB')
    return {
        'images_per_second': rate,
        'peak_gb': peak / 1e9,
        'stages': stages(recipe, x[:64], degrade.take(params, slice(0, 64)), rounds),
    }


def bandwidth():
    """Bytes per second of a large copy on the device, read and written."""
    a = torch.empty(1 << 28, dtype=torch.uint8, device='cuda')
    b = torch.empty_like(a)

    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    b.copy_(a)
    start.record()
    for _ in range(20):
        b.copy_(a)
    end.record()
    torch.cuda.synchronize()
    return 20 * 2 * a.numel() / start.elapsed_time(end) * 1000


def stages(recipe, x, params, rounds):
    """Table of the stages at one batch: time, bytes that must move (every pixel read and written once) per second, share of the card's copy rate, launches."""
    peak, launched = bandwidth(), []
    launch = kernels.launch
    kernels.launch = lambda *a: launched.append(a[1]) or launch(*a)
    rows = {}
    try:
        for _ in range(rounds + 1):  # the first warms up
            size, last = np.array([x.shape[2:]] * len(x)), x
            start = torch.cuda.Event(enable_timing=True)
            start.record()
            for stage, c in degrade.chain_cuda(x, recipe, params):
                end = torch.cuda.Event(enable_timing=True)
                end.record()
                moved = (
                    3
                    * (
                        size.prod(1).sum() * last.element_size()
                        + c.size.prod(1).sum() * c.pix.element_size()
                    )
                    if launched
                    else 0
                )
                rows.setdefault(stage.name, []).append((start, end, moved, len(launched)))
                launched.clear()
                start, size, last = end, c.size, c.pix
        torch.cuda.synchronize()
    finally:
        kernels.launch = launch
    out = []
    print(
        f'stages at batch {len(x)}; the card copies {peak / 1e9:,.0f} GB/s\n{"":10} {"ms":>8} {"GB/s":>8} {"of copy rate":>13} {"launches":>9}'
    )
    for name, times in rows.items():
        ms = timing.median([a.elapsed_time(b) for a, b, *_ in times[1:]])
        *_, moved, launches = times[-1]
        gbs = moved / ms / 1e6 if launches else 0.0
        out.append(
            {
                'stage': name,
                'ms': ms,
                'gb_per_s': gbs,
                'share': gbs * 1e9 / peak,
                'launches': launches,
            }
        )
        print(f'{name:10} {ms:8.3f} {gbs:8.1f} {gbs * 1e9 / peak:12.1%} {launches:9}')
    return out
