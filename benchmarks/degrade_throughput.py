"""Degradation throughput: images per second of every implementation on the same seeded plans.

python benchmarks/degrade_throughput.py --plans 208 --size 512 --data FOLDER --json FILE

Everything is checked before it is timed. Where there is a GPU, the CUDA kernels come first
(benchmarks/degrade_gpu.py), then the CPU, whose contenders are

torch         OpenCV where it is faster, threads over images: what the pipes run on a CPU
tensor        the same without OpenCV
ref           the float64 definition, on a few plans only
opencv chain  the baseline (benchmarks/opencv_chain.py), a process per core

Ratios are of medians over the rounds of this run.
"""

import program

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

import degrade
from benchmarks import chain_check, degrade_gpu, in_processes, opencv_chain, peers, pipe_throughput
from degrade import Recipe, Stage, codec, recipes, workers
from degrade.draw import Draw
from degrade.op import ChainParams
from errors import FacesError
from sources.reader import Reader
from tools import arguments, timing
from training import outputs

# (title, recipe, whether it sharpens)
CASES: Sequence[tuple[str, str, bool]] = (
    ('ai6126_2024 without USM', 'ai6126_2024', False),
    *((name, name, True) for name in degrade.RECIPES),
)
FACES = 16  # that are drawn where no data are given
BASELINE = 'opencv chain'
OURS, OTHERS = '#1f6fb4', '#8a8a8a'  # colours of the bars


class Work(NamedTuple):
    """One recipe's plans."""

    x: Tensor  # [N, 3, H, W] uint8, channels-last
    recipe: Recipe
    params: ChainParams  # of N samples

    def some(self, where: slice) -> 'Work':
        """A part of it."""
        return Work(self.x[where], self.recipe, degrade.take(self.params, where))

    def run(self, pool: Executor | None, impl: str = 'torch', opencv: bool | None = None) -> Tensor:
        """Degrade everything by the threads of a pool."""
        return degrade.degrade(self.x, self.recipe, self.params, impl, opencv=opencv, pool=pool)


def load(source: str | None, size: int, count: int) -> Tensor:
    """[count, 3, size, size] uint8 channels-last, repeated where there are fewer."""
    reader = Reader(pipe_throughput.load(source, size, FACES)[:count], size)
    images = [reader.image(i)[0] for i in range(len(reader.images))]
    repeated = [images[i % len(images)] for i in range(count)]
    return torch.from_numpy(np.stack(repeated)).permute(0, 3, 1, 2)


def recipe_of(name: str, sharpens: bool) -> Recipe:
    """The recipe of a case."""
    recipe = degrade.recipe(name)
    return recipe if sharpens else degrade.without_usm(recipe)


# ---- checks ----


def check(work: Work, pool: Executor | None, count: int = 6) -> None:
    """Refuse to time wrong results; `count` plans are tried. Raises FacesError.

    Both torch paths are compared with the reference value by value, the baseline stage by stage.
    """
    work = work.some(slice(0, count))
    reference = work.run(pool, 'ref')
    for opencv in (True, False):
        near = (work.run(pool, opencv=opencv) - reference).abs() <= 1.5 / 255  # NaN is not
        share = 1 - near.float().mean()
        if share > 0.01:
            raise FacesError(
                f'{work.recipe.name}: torch (opencv={opencv}) differs from the reference by more '
                f'than 1/255 in {share:.1%} of the values: not timed'
            )
    if opencv_chain.can(work.recipe):
        _check_baseline(work)


def _check_baseline(work: Work) -> None:
    """Refuse a baseline that is another degradation. Raises FacesError."""
    rng, images = np.random.default_rng(0), work.x.permute(0, 2, 3, 1).numpy()
    chain_check.check(
        'the OpenCV chain',
        work.recipe,
        work.params,
        images,
        lambda stage, x, i: opencv_chain.RUN[stage.op](x, _of(stage, work, i), rng),
    )


def _of(stage: Stage, work: Work, i: int) -> Any:
    """Parameters of a stage for one sample."""
    return degrade.take(work.params, i)[work.recipe.stages.index(stage)]


# ---- one recipe on the CPU ----


def compare(
    title: str, recipe: Recipe, x: Tensor, args: argparse.Namespace, pool: Executor
) -> dict[str, Any]:
    """Time one recipe and print its table.

    x: [N, 3, H, W] uint8
    Returns 'images_per_second' by contender and 'stages'. Raises FacesError where one is wrong.
    """
    draw = Draw(args.seed, np.arange(len(x)), tied=recipe.tied, batch=8)
    work = Work(x, recipe, degrade.sample(recipe, draw, degrade_gpu.size_of(x)))
    check(work, pool)
    print(f'\n{title}: {len(x)} plans at {x.shape[-1]} px, checked against the reference')

    # Slow contenders get fewer plans.
    some = max(len(x) // 8, 4)
    counts = {'tensor': some, 'ref': args.processes}
    seconds = _seconds(work, some, args, pool)
    rates = {name: counts.get(name, len(x)) / timing.median(s) for name, s in seconds.items()}
    _print_rates(rates, seconds)
    return {'images_per_second': rates, 'stages': stages(work.some(slice(0, 32)))}


def _seconds(
    work: Work, some: int, args: argparse.Namespace, pool: Executor
) -> dict[str, list[float]]:
    """Seconds of each round of each contender."""
    part = work.some(slice(0, some))
    make = partial(opencv_chain.worker, work.recipe, work.params)
    images = work.x.permute(0, 2, 3, 1).numpy()
    with in_processes.mapped(make, images, args.processes) as baseline:
        contenders: dict[str, Callable[[], object]] = {
            'torch': partial(work.run, pool),
            'tensor': partial(part.run, pool, opencv=False),
            BASELINE: baseline,
        }
        if not opencv_chain.can(work.recipe):
            del contenders[BASELINE]
        seconds = timing.rounds(contenders, args.rounds)

    # What a pipe gets at a batch size: threads over the images of a batch only.
    for size in args.batches:
        run = partial(_run_batches, work, size, pool)
        seconds[f'torch, batch {size}'] = _alone(run, max(args.rounds // 2, 1))
    few = work.some(slice(0, args.processes))
    seconds['ref'] = _alone(partial(few.run, pool, 'ref'), 1)
    return seconds


def _run_batches(work: Work, size: int, pool: Executor) -> None:
    for i in range(0, len(work.x), size):
        work.some(slice(i, i + size)).run(pool)


def _alone(run: Callable[[], object], rounds: int) -> list[float]:
    """Seconds of each round of one contender."""
    return timing.rounds({'it': run}, rounds, progress=lambda _: None)['it']


def _print_rates(rates: dict[str, float], seconds: dict[str, list[float]]) -> None:
    """Print the table, the fastest first."""
    print(f'{"":16} {"img/s":>8} {"spread":>7} {"ratio to the OpenCV chain":>26}')
    for name, rate in sorted(rates.items(), key=lambda item: -item[1]):
        ratio = f'{rate / rates[BASELINE]:26.2f}x' if BASELINE in rates else ''
        print(f'{name:16} {rate:8.1f} {timing.spread(seconds[name]):6.1f}%{ratio}')


def stages(work: Work) -> dict[str, float]:
    """Milliseconds per image of every stage on one thread; printed, too."""
    ms = dict.fromkeys((stage.name for stage in work.recipe.stages), 0.0)
    for i in range(len(work.x)):
        image = work.some(slice(i, i + 1))
        start = time.perf_counter()
        for stage, _ in degrade.chain_torch(image.x, image.recipe, image.params, opencv=True):
            now = time.perf_counter()
            ms[stage.name] += 1000 * (now - start) / len(work.x)
            start = now
    each = ', '.join(f'{name} {t:.2f}' for name, t in ms.items())
    print(f'ms per image on one thread: {each}; together {sum(ms.values()):.2f}')
    return ms


# ---- operation by operation ----


def operations(x: Tensor, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Milliseconds of every operation on one thread, by its name and side; printed, too.

    x: [N, 3, H, W] uint8; each is also timed on pictures of a quarter of the side, as inputs are
    Raises FacesError where one is wrong.
    """
    # Where an operation stands in a chain decides about the size that it is given.
    sides = x, x[:, :, ::4, ::4].contiguous(memory_format=torch.channels_last)
    heads = ''.join(f'{images.shape[-1]:>7} px' for images in sides)
    print(f'\n{"ms per image":16}{heads}   (medians of {args.rounds} rounds, {len(x)} images)')
    found: dict[str, dict[str, float]] = {}
    for name, op, ranges in _alone_each():
        recipe = Recipe(name, (Stage(name, op, 1, ranges),), scale=1)
        found[name] = {}
        for images in sides:
            draw = Draw(args.seed, np.arange(len(images)))
            params = degrade.sample(recipe, draw, degrade_gpu.size_of(images))
            work = Work(images, recipe, params)
            check(work, None)
            seconds = timing.median(_alone(partial(work.run, None), args.rounds))
            found[name][str(images.shape[-1])] = 1000 * seconds / len(images)
        print(f'{name:16}' + ''.join(f'{ms:10.2f}' for ms in found[name].values()), flush=True)
    return found


def _alone_each() -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """(name, operation, ranges) of all, with what they take by default; each codec on its own."""
    for name, op in recipes.OPS.items():
        if op is not codec:
            yield name, op, {}
    for i, kind in enumerate(codec.KINDS[1:]):
        yield f'codec {kind}', codec, {'kinds': tuple(float(k == i) for k in range(i + 1))}


# ---- everything ----


def plot(path: Path, results: dict[str, dict[str, Any]]) -> None:
    """Draw bars of images per second, one group for each table."""
    bars = sum(len(result['images_per_second']) + 1 for result in results.values())
    figure = Figure(figsize=(9, 1.2 + 0.32 * bars), dpi=110, layout='constrained')
    axes = figure.subplots()
    at = 0.0
    for title, result in results.items():
        where = axes.get_yaxis_transform()
        axes.text(0, at, title, fontweight='bold', va='center', transform=where)
        for name, rate in sorted(result['images_per_second'].items(), key=lambda item: -item[1]):
            at -= 1
            others = 'opencv' in name or 'parity' in name
            axes.barh(at, rate, color=OTHERS if others else OURS)
            axes.text(rate, at, f' {name}: {rate:,.1f}', va='center', fontsize=8)
        at -= 1.3
    axes.set_xscale('log')
    axes.set_xlabel('images per second')
    axes.set_yticks([])
    axes.margins(x=0.25)
    axes.spines[['top', 'right', 'left']].set_visible(False)
    figure.savefig(path)


def parser() -> argparse.ArgumentParser:
    """Flags of degrade_throughput.py."""
    p = arguments.described(__doc__)
    p.add_argument(
        '--plans',
        type=program.ranges.COUNT,
        default=208,
        help='degradations to run, seeded (default: %(default)s)',
    )
    p.add_argument(
        '--size',
        type=program.ranges.SIDE,
        default=512,
        help='side of the HQ images, pixels (default: %(default)s)',
    )
    p.add_argument(
        '--rounds',
        type=program.ranges.ROUNDS,
        default=5,
        help='timed rounds; medians are reported (default: %(default)s)',
    )
    p.add_argument(
        '--recipes',
        type=arguments.names,
        help='recipes to run, comma-separated (default: all, the default one without USM, too)',
    )
    p.add_argument(
        '--ops', action='store_true', help='time single operations, on one thread, instead'
    )
    p.add_argument(
        '--peers',
        action='store_true',
        help='also time single operations of BasicSR and kornia, where they are installed',
    )
    p.add_argument(
        '--batches',
        type=program.Several(program.ranges.BATCH),
        default=[1, 8, 64],
        help='batch sizes of `torch` on the CPU, comma-separated (default: 1,8,64)',
    )
    p.add_argument(
        '--processes',
        type=program.ranges.THREADS,
        default=os.cpu_count(),
        help='threads of ours, processes of the baseline (default: all cores)',
    )
    _add_data(p)
    return p


def _add_data(p: argparse.ArgumentParser) -> None:
    """Add what is degraded, and where the figures go."""
    p.add_argument('--data', help=f'folder of HQ faces (default: {FACES} synthetic ones)')
    p.add_argument(
        '--seed', type=program.ranges.SEED, default=0, help='of the plans (default: %(default)s)'
    )
    p.add_argument(
        '--json', type=Path, help='also write the figures to this file, and a plot next to it'
    )


@program.entry
def main(argv: Sequence[str] | None = None) -> int:
    """Time every recipe on the GPU, if there is one, and on the CPU -> exit status."""
    args = parser().parse_args(argv)
    outputs.check({'--json': args.json}, {'--data': args.data})
    cases = [
        (title, recipe_of(name, sharpens))
        for title, name, sharpens in CASES
        if not args.recipes or name in args.recipes
    ]
    cases += [(name, degrade.recipe(name)) for name in args.recipes or () if name.endswith('.toml')]
    print(timing.header())

    # Threads go over images; none of them may start more.
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    if args.ops:
        timed = operations(load(args.data, args.size, args.plans), args)
        if args.json:
            timing.write(args.json, operations=timed)
        return 0
    results: dict[str, dict[str, Any]] = {}
    singles = {}
    if torch.cuda.is_available():
        x = load(args.data, args.size, max(degrade_gpu.BATCHES)).to('cuda')
        for title, recipe in cases:
            key = f'{title}, GPU'
            results[key] = degrade_gpu.compare(title, recipe, x, args.seed, args.rounds)
        if args.peers:
            singles['GPU'] = peers.compare(x, None, args.rounds)

    x = load(args.data, args.size, args.plans)
    with workers.make(args.processes) as pool:
        for title, recipe in cases:
            results[f'{title}, CPU'] = compare(title, recipe, x, args, pool)
        if args.peers:
            torch.set_num_threads(args.processes)
            singles['CPU'] = peers.compare(x, pool, args.rounds)
    if args.json:
        timing.write(args.json, results=results, peers=singles)
        plot(args.json.with_suffix('.png'), results)
    return 0


if __name__ == '__main__':
    sys.exit(main())
