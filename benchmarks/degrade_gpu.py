"""The GPU's part of degrade_throughput.py.

The CUDA kernels at several batch sizes and stage by stage, against batched torch on the same card.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import degrade
from benchmarks import launches, torch_chain
from degrade import Recipe
from degrade.canvas import Canvas
from degrade.draw import Draw
from degrade.op import ChainParams
from errors import FacesError
from tools import timing

BATCHES = 1, 4, 16, 64, 256
CHECKED = 6  # plans that are compared with the reference, which is slow
STAGE_BATCH = 64  # the batch whose stages are timed one by one
COPIED = 1 << 28  # bytes that tell the copy rate: so many that no cache helps
PARITY_PLANS = 4 * torch_chain.BATCH
PARITY_NAME = 'torch, batched parity recipe'


def compare(title: str, recipe: Recipe, x: Tensor, seed: int, rounds: int) -> dict[str, Any]:
    """Time one recipe and print its table.

    x: [N, 3, H, W] uint8 on the GPU
    Returns 'images_per_second' by contender, 'peak_gb' and 'stages'. Raises FacesError where the
    kernels are wrong.
    """
    draw = Draw(seed, np.arange(len(x)), tied=recipe.tied, batch=BATCHES[-1])
    params = degrade.sample(recipe, draw, size_of(x))
    check(x, recipe, params)

    # Ours on every plan; the public way on some, since it is slower.
    contenders = {f'cuda, batch {b}': runner(x, recipe, params, b) for b in BATCHES}
    contenders[PARITY_NAME] = parity_runner(x[:PARITY_PLANS], _parity_of(recipe), seed)
    counts = dict.fromkeys(contenders, len(x)) | {PARITY_NAME: PARITY_PLANS}

    # Memory before time: timing warms up first and would hide what was there before.
    peak = _peak_memory(contenders[f'cuda, batch {BATCHES[-1]}'])
    print(
        f'\n{title} on the GPU: {len(x)} plans at {x.shape[-1]} px, checked against the reference'
    )
    seconds = timing.rounds(contenders, rounds, progress=lambda _: None)
    rates = {name: counts[name] / timing.median(s) for name, s in seconds.items()}
    _print_rates(rates, seconds)
    print(f'peak memory of the canvases at batch {BATCHES[-1]}: {peak / 1e9:.2f} GB')

    few = degrade.take(params, slice(0, STAGE_BATCH))
    return {
        'images_per_second': rates,
        'peak_gb': peak / 1e9,
        'stages': stages(recipe, x[:STAGE_BATCH], few, rounds),
    }


def check(x: Tensor, recipe: Recipe, params: ChainParams) -> None:
    """Refuse to time wrong results: compare with the reference, and two runs bit for bit."""
    x, few = x[:CHECKED], degrade.take(params, slice(0, CHECKED))
    y = degrade.degrade(x, recipe, few, 'cuda')

    # Rounding may go either way, which moves a value by one grey level at most.
    # NaN is near nothing.
    near = (y.cpu() - degrade.degrade(x.cpu(), recipe, few, 'ref')).abs() <= 1.5 / 255
    share = 1 - near.float().mean()
    if share > 0.01:
        raise FacesError(
            f'{recipe.name}: cuda differs from the reference by more than 1/255 in {share:.1%} of '
            'the values: not timed'
        )
    if not torch.equal(y, degrade.degrade(x, recipe, few, 'cuda')):
        raise FacesError(f'{recipe.name}: two runs of cuda differ: not timed')


def _print_rates(rates: dict[str, float], seconds: dict[str, list[float]]) -> None:
    """Print images per second, the spread of the rounds, and ratios."""
    best = max(rates, key=lambda name: rates[name])
    print(f'{"":30} {"img/s":>9} {"spread":>7} {"ratio to batched torch":>23}')
    for name, rate in rates.items():
        ratio = rate / rates[PARITY_NAME]
        mark = '  best' if name == best else ''
        print(f'{name:30} {rate:9.1f} {timing.spread(seconds[name]):6.1f}% {ratio:22.2f}x{mark}')


def _peak_memory(run: Callable[[], None]) -> int:
    """Bytes of GPU memory that run() takes at most, on top of what is in use."""
    base = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    return torch.cuda.max_memory_allocated() - base


# ---- contenders ----


def size_of(x: Tensor) -> tuple[int, int]:
    """(height, width) of images [N, 3, H, W]."""
    return x.shape[-2], x.shape[-1]


def _batches(x: Tensor, params: ChainParams, batch: int) -> list[tuple[Tensor, ChainParams]]:
    """Images and parameters, `batch` at a time."""
    slices = [slice(i, i + batch) for i in range(0, len(x), batch)]
    return [(x[s], degrade.take(params, s)) for s in slices]


def runner(x: Tensor, recipe: Recipe, params: ChainParams, batch: int) -> Callable[[], None]:
    """A function that degrades all of x [N, 3, H, W] by the kernels and waits for the GPU."""
    batches = _batches(x, params, batch)

    def run() -> None:
        for images, p in batches:
            degrade.degrade(images, recipe, p, 'cuda')
        torch.cuda.synchronize()

    return run


def parity_runner(x: Tensor, recipe: Recipe, seed: int) -> Callable[[], None]:
    """The same for the public way: batched torch operations, noise drawn by torch on the GPU."""
    draw = Draw(seed, np.arange(len(x)), tied=recipe.tied, batch=torch_chain.BATCH)
    batches = _batches(x, degrade.sample(recipe, draw, size_of(x)), torch_chain.BATCH)

    def run() -> None:
        for images, params in batches:
            torch_chain.degrade(images, recipe, params)
        torch.cuda.synchronize()

    return run


def _parity_of(recipe: Recipe) -> Recipe:
    """The parity recipe, which sharpens where the other one does."""
    parity = degrade.recipe(torch_chain.RECIPE)
    sharpens = any(stage.op is degrade.usm for stage in recipe.stages)
    return parity if sharpens else degrade.without_usm(parity)


# ---- stage by stage ----


class Execution(NamedTuple):
    """One execution of a stage."""

    start: torch.cuda.Event
    end: torch.cuda.Event
    moved: int  # bytes that must move: every pixel read and written once; 0 without launches
    launches: int

    @property
    def milliseconds(self) -> float:
        """Time on the GPU, which has to have finished."""
        return self.start.elapsed_time(self.end)


def stages(recipe: Recipe, x: Tensor, params: ChainParams, rounds: int) -> list[dict[str, Any]]:
    """Time the stages at one batch and print their table: time, traffic, launches.

    x: [B, 3, H, W] uint8 on the GPU
    Returns {'stage', 'ms', 'gb_per_s', 'share', 'launches'} of each; share: of the card's copy
    rate.
    """
    copy_rate = bandwidth()
    executions: dict[str, list[Execution]] = {}
    launched: list[str] = []

    def recorded(name: str, launch: Callable[[], None]) -> None:
        launched.append(name)
        launch()

    with launches.intercepted(recorded):
        for _ in range(rounds + 1):  # the first warms up
            for name, execution in _executions(recipe, x, params, launched):
                executions.setdefault(name, []).append(execution)
    torch.cuda.synchronize()

    print(
        f'stages at batch {len(x)}; the card copies {copy_rate / 1e9:,.0f} GB/s\n'
        f'{"":10} {"ms":>8} {"GB/s":>8} {"of copy rate":>13} {"launches":>9}'
    )
    # Medians without the round that warmed up. What launches nothing moves nothing, either.
    rows = []
    for name, of_stage in executions.items():
        ms = timing.median(e.milliseconds for e in of_stage[1:])
        last = of_stage[-1]
        gbs = last.moved / ms / 1e6 if last.launches else 0.0
        share = gbs * 1e9 / copy_rate
        rows.append(
            {'stage': name, 'ms': ms, 'gb_per_s': gbs, 'share': share, 'launches': last.launches}
        )
        print(f'{name:10} {ms:8.3f} {gbs:8.1f} {share:12.1%} {last.launches:9}')
    return rows


def bandwidth() -> float:
    """Bytes per second of a large copy on the device, read and written."""
    a = torch.empty(COPIED, dtype=torch.uint8, device='cuda')
    b = torch.empty_like(a)
    start = torch.cuda.Event(enable_timing=True)
    end = torch.cuda.Event(enable_timing=True)
    b.copy_(a)
    start.record()
    for _ in range(20):
        b.copy_(a)
    end.record()
    torch.cuda.synchronize()
    return 20 * 2 * a.numel() / start.elapsed_time(end) * 1000


def _executions(
    recipe: Recipe, x: Tensor, params: ChainParams, launched: list[str]
) -> Iterator[tuple[str, Execution]]:
    """(name of the stage, its execution) of every stage, which the GPU need not have finished.

    launched: where launches are noted; cleared after every stage
    """
    before = degrade.canvas.of(x)
    start = torch.cuda.Event(enable_timing=True)
    start.record()
    for stage, after in degrade.chain_cuda(x, recipe, params):
        end = torch.cuda.Event(enable_timing=True)
        end.record()
        moved = _bytes_of(before) + _bytes_of(after) if launched else 0
        yield stage.name, Execution(start, end, moved, len(launched))
        launched.clear()
        start, before = end, after


def _bytes_of(c: Canvas) -> int:
    """Bytes of the meaningful pixels of three channels."""
    return 3 * int(c.size.prod(1).sum()) * c.pix.element_size()
