"""Degradation throughput: images per second of every implementation on the same seeded plans, checked before they are timed.

    python benchmarks/degrade_throughput.py [--plans 208] [--size 512] [--data FOLDER] [--json FILE]

On a GPU first the CUDA kernels (benchmarks/degrade_gpu.py), then, and elsewhere only, the CPU. Contenders there: `torch` (OpenCV where it is faster, threads over images: what the pipes run on a CPU), `tensor` (the same without OpenCV), `ref` (the float64 definition,
a few plans only) and `opencv chain` (benchmarks/opencv_chain.py, one process per core). Ratios are of medians over the rounds of this run.
"""

import argparse
import multiprocessing
import os
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from matplotlib.figure import Figure

import degrade
import synthetic
from benchmarks import degrade_gpu, opencv_chain, peers, timing
from degrade import noise, workers
from degrade.draw import Draw
from sources import manifest
from sources.reader import Reader

CASES = (
    ('ai6126_2024 without USM', 'ai6126_2024', False),
    *((name, name, True) for name in degrade.RECIPES),
)
NO_BASELINE = (
    'ai6126_2024_parity',
    'bicubic',
)  # OpenCV has neither DiffJPEG nor an antialiased bicubic


def load(source, size, count):
    """[count, 3, size, size] uint8, channels-last."""
    if source is None:
        folder = manifest.cache_folder() / f'faces-bench-{size}'
        synthetic.write(folder, 16, first_seed=90_000, size=size)
        source = folder / 'images'
    reader = Reader(manifest.scan(str(source), size=size).images[:count], size)
    images = [reader.image(i)[0] for i in range(len(reader.images))]
    return torch.from_numpy(np.stack([images[i % len(images)] for i in range(count)])).permute(
        0, 3, 1, 2
    )


def check(x, recipe, params, pool, count=6):
    """Refuse to time what is wrong: both paths against the reference, the baseline against it in the mean. Returns nothing, raises SystemExit."""
    few = degrade.take(params, slice(0, count))
    ref = degrade.degrade(x[:count], recipe, few, 'ref', pool=pool)
    for opencv in True, False:
        off = (
            degrade.degrade(x[:count], recipe, few, opencv=opencv, pool=pool) - ref
        ).abs() > 1.5 / 255
        if off.float().mean() > 0.01:
            raise SystemExit(
                f'{recipe.name}: torch (opencv={opencv}) differs from the reference by more than 1/255 in {off.float().mean():.1%} of the values: not timed'
            )
    rng = np.random.default_rng(0)
    if recipe.scale == 1:  # noise of 40 gray levels is not averaged away by enlarging: without it
        few = tuple(
            p._replace(kind=np.full_like(p.kind, noise.NONE)) if s.op is noise else p
            for s, p in zip(recipe.stages, few)
        )
        ref = degrade.degrade(x[:count], recipe, few, 'ref', pool=pool)
    for i in range(count if recipe.name not in NO_BASELINE else 0):
        base = opencv_chain.degrade(
            x[i].permute(1, 2, 0).numpy(), recipe, degrade.take(few, i), rng
        )
        error = np.abs(cv2.blur(base - ref[i].permute(1, 2, 0).numpy(), (9, 9))).mean()
        if base.shape != tuple(ref[i].permute(1, 2, 0).shape) or error > 0.03:
            raise SystemExit(
                f'{recipe.name}: the OpenCV chain is not the same degradation (plan {i}, smoothed error {error:.3f}): not timed'
            )


_WORK = {}


def _baseline_start(*case):
    cv2.setNumThreads(1)
    _WORK['case'] = case


def _baseline_worker(part):
    x, recipe, params = _WORK['case']
    rng = np.random.default_rng(part[0])
    for i in part:
        opencv_chain.degrade(x[i], recipe, degrade.take(params, int(i)), rng)


def compare(title, name, usm, x, args, pool):
    """One table; returns {contender: images per second}."""
    recipe = degrade.recipe(name) if usm else degrade.without_usm(degrade.recipe(name))
    params = degrade.sample(
        recipe, Draw(args.seed, np.arange(len(x)), tied=recipe.tied, batch=8), x.shape[-2:]
    )
    check(x, recipe, params, pool)
    n = len(x)
    some = max(n // 8, 4)
    # Fresh processes: a fork of one with threads or a GPU may hang.
    with multiprocessing.get_context('spawn').Pool(
        args.processes, _baseline_start, (x.permute(0, 2, 3, 1).numpy(), recipe, params)
    ) as baseline:
        parts = np.array_split(np.arange(n), min(args.processes * 8, n))
        contenders = {
            'torch': lambda: degrade.degrade(x, recipe, params, pool=pool),
            'tensor': lambda: degrade.degrade(
                x[:some], recipe, degrade.take(params, slice(0, some)), opencv=False, pool=pool
            ),
            'opencv chain': lambda: baseline.map(_baseline_worker, parts, chunksize=1),
        }
        if name in NO_BASELINE:
            del contenders['opencv chain']
        print(f'\n{title}: {n} plans at {x.shape[-1]} px, checked against the reference')
        seconds = timing.rounds(contenders, args.rounds)
    few = degrade.take(params, slice(0, args.processes))
    for b in args.batches:  # what a pipe gets at a batch size: threads over the images of a batch
        parts = [slice(i, i + b) for i in range(0, n, b)]
        run = lambda: [
            degrade.degrade(x[s], recipe, degrade.take(params, s), pool=pool) for s in parts
        ]
        seconds[f'torch, batch {b}'] = timing.rounds(
            {'torch': run}, max(args.rounds // 2, 1), progress=lambda _: None
        )['torch']
    seconds['ref'] = timing.rounds(
        {'ref': lambda: degrade.degrade(x[: args.processes], recipe, few, 'ref', pool=pool)},
        1,
        progress=lambda _: None,
    )['ref']
    count = {'tensor': some, 'ref': args.processes}
    rate = {k: count.get(k, n) / timing.median(s) for k, s in seconds.items()}
    print(f'{"":16} {"img/s":>8} {"spread":>7} {"ratio to the OpenCV chain":>26}')
    for k in sorted(rate, key=rate.get, reverse=True):
        print(
            f'{k:16} {rate[k]:8.1f} {timing.spread(seconds[k]):6.1f}%'
            + (f'{rate[k] / rate["opencv chain"]:26.2f}x' if 'opencv chain' in rate else '')
        )
    return {
        'images_per_second': rate,
        'stages': stages(x[:32], recipe, degrade.take(params, slice(0, 32))),
    }


def stages(x, recipe, params):
    """{stage: milliseconds per image on one thread}, and their table."""
    ms = dict.fromkeys((s.name for s in recipe.stages), 0.0)
    for i in range(len(x)):
        start = time.perf_counter()
        for stage, _ in degrade.chain_torch(
            x[i : i + 1], recipe, degrade.take(params, slice(i, i + 1)), opencv=True
        ):
            now = time.perf_counter()
            ms[stage.name] += 1000 * (now - start) / len(x)
            start = now
    print(
        'ms per image on one thread: '
        + ', '.join(f'{name} {t:.2f}' for name, t in ms.items())
        + f'; together {sum(ms.values()):.2f}'
    )
    return ms


def plot(path, results):
    """Bars of images per second, one group for each table."""
    figure = Figure(
        figsize=(9, 1.2 + 0.32 * sum(len(r['images_per_second']) + 1 for r in results.values())),
        dpi=110,
        layout='constrained',
    )
    axes, at = figure.subplots(), 0
    for title, result in results.items():
        axes.text(
            0, at, title, fontweight='bold', va='center', transform=axes.get_yaxis_transform()
        )
        for k, v in sorted(result['images_per_second'].items(), key=lambda kv: -kv[1]):
            at -= 1
            axes.barh(
                at, v, color='#1f6fb4' if 'opencv' not in k and 'parity' not in k else '#8a8a8a'
            )
            axes.text(v, at, f' {k}: {v:,.1f}', va='center', fontsize=8)
        at -= 1.3
    axes.set_xscale('log')
    axes.set_xlabel('images per second')
    axes.set_yticks([])
    axes.margins(x=0.25)
    axes.spines[['top', 'right', 'left']].set_visible(False)
    figure.savefig(path)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--plans', type=int, default=208, help='degradations to run, seeded (default: %(default)s)'
    )
    parser.add_argument(
        '--size',
        type=int,
        default=512,
        help='side of the HQ images in pixels (default: %(default)s)',
    )
    parser.add_argument(
        '--rounds',
        type=int,
        default=5,
        help='timed rounds; medians are reported (default: %(default)s)',
    )
    parser.add_argument(
        '--recipes',
        type=lambda s: s.split(','),
        help='recipes to run, comma-separated (default: all, the default recipe without USM, too)',
    )
    parser.add_argument(
        '--peers',
        action='store_true',
        help='also time single operations of BasicSR and kornia, where they are installed',
    )
    parser.add_argument(
        '--batches',
        type=lambda s: [int(b) for b in s.split(',')],
        default=[1, 8, 64],
        help='batch sizes of `torch` on the CPU (default: 1,8,64)',
    )
    parser.add_argument(
        '--processes',
        type=int,
        default=os.cpu_count(),
        help='threads of ours, processes of the baseline (default: all cores)',
    )
    parser.add_argument('--data', help='folder of HQ faces (default: synthetic ones, drawn once)')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument(
        '--json', type=Path, help='also write the figures to this file, and a plot beside it'
    )
    args = parser.parse_args()
    cases = [c for c in CASES if not args.recipes or c[1] in args.recipes]
    cv2.setNumThreads(1)
    torch.set_num_threads(1)  # threads go over images
    print(timing.header())
    x = load(args.data, args.size, args.plans)
    results, singles = {}, {}
    if torch.cuda.is_available():
        there = load(args.data, args.size, max(degrade_gpu.BATCHES)).to('cuda')
        for title, name, usm in cases:
            recipe = degrade.recipe(name) if usm else degrade.without_usm(degrade.recipe(name))
            results[f'{title}, GPU'] = degrade_gpu.compare(
                title, recipe, there, args.seed, args.rounds
            )
        if args.peers:
            singles['GPU'] = peers.compare(there, None, args.rounds)
        del there
    with workers.make(args.processes) as pool:
        for title, name, usm in cases:
            results[f'{title}, CPU'] = compare(title, name, usm, x, args, pool)
        if args.peers:
            torch.set_num_threads(args.processes)
            singles['CPU'] = peers.compare(x, pool, args.rounds)
    if args.json:
        timing.write(args.json, results=results, peers=singles)
        plot(args.json.with_suffix('.png'), results)


if __name__ == '__main__':
    main()
