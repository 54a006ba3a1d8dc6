"""From files to batches: images per second of every pipe with every cache.

python benchmarks/pipe_throughput.py --data FOLDER --recipe ai6126_2024 --json pipes.json

Cold is the first epoch, warm the second; loading alone and with the degradation. Cold means that
every image is decoded; the files themselves are in the system's page cache after the check that
comes first.
"""

import program

import argparse
import functools
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

import dali_pipes
import synthetic
from dali_pipes.batch import Batch
from errors import FacesError
from sources import manifest
from tools import arguments, timing
from training import outputs

FACES = 64  # that are drawn where no data are given
# Batches that DataLoader's workers may have begun before the cache was full.
IN_FLIGHT = 70


def load(source: str | None, size: int, count: int = FACES) -> list[manifest.Image]:
    """Images of a data set; of synthetic faces, drawn once, without one."""
    if source is None:
        folder = manifest.cache_folder() / f'faces-bench-{size}'
        synthetic.write(folder, count, first_seed=90_000, size=size)
        source = str(folder / 'images')
    return manifest.scan(source, size=size).images


# ---- pipes, and whether they agree ----


def pipe_of(
    name: str, images: Sequence[manifest.Image], args: argparse.Namespace, **options: Any
) -> dali_pipes.Pipe:
    """A pipe of these images that prints nothing."""
    return dali_pipes.make(
        name,
        images,
        args.recipe,
        batch=args.batch,
        size=args.size,
        device=args.device,
        say=lambda _: None,
        **options,
    )


def check(pipes: Sequence[str], images: Sequence[manifest.Image], args: argparse.Namespace) -> None:
    """Refuse to time pipes that do not yield the same batches. Raises FacesError."""
    first: Batch | None = None
    for name in pipes:
        with pipe_of(name, images, args) as pipe:
            batch = next(pipe)
        if first and not _equal(batch, first):
            raise FacesError(f'{name} and {pipes[0]} yield different batches: not timed')
        first = first or batch


def _equal(a: Batch, b: Batch) -> bool:
    return torch.equal(a.target, b.target) and torch.equal(a.input, b.input)


# ---- time ----


def epoch(step: Callable[[], object], count: int) -> float:
    """Calls per second of `count` calls of step()."""
    start = time.perf_counter()
    for _ in range(count):
        step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return count / (time.perf_counter() - start)


def measure(
    name: str, cache: str, images: Sequence[manifest.Image], args: argparse.Namespace
) -> dict[str, list[float]]:
    """Images per second of each round: 'load cold', 'load warm', 'batch cold', 'batch warm'."""
    # One batch of the epoch starts threads and processes and is not timed.
    steps = max(len(images) // args.batch - 1, 1)
    reads_ahead = name == 'torch' and args.device != 'cpu'
    rates: dict[str, list[float]] = {}
    for what, _ in itertools.product(('load', 'batch'), range(args.rounds)):
        # A mapped cache goes into an empty folder, hence is cold.
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            os.environ['FACES_CACHE'] = folder
            with pipe_of(name, images, args, threads=args.threads, cache=cache) as pipe:
                step = pipe.load if what == 'load' else functools.partial(next, pipe)
                step()  # starts threads and processes
                cold = epoch(step, steps)
                # The rest of the epoch; workers that read ahead have to see the full cache, too.
                epoch(step, IN_FLIGHT if reads_ahead else 1)
                warm = epoch(step, steps)
        rates.setdefault(f'{what} cold', []).append(args.batch * cold)
        rates.setdefault(f'{what} warm', []).append(args.batch * warm)
    return rates


def parser() -> argparse.ArgumentParser:
    """Flags of pipe_throughput.py."""
    p = arguments.described(__doc__)
    p.add_argument(
        '--data', help=f'HQ faces: folder, list or glob (default: {FACES} synthetic ones)'
    )
    p.add_argument(
        '--recipe',
        type=arguments.recipe,
        default='ai6126_2024',
        help='degradation of the inputs (default: %(default)s)',
    )
    p.add_argument(
        '--batch',
        type=program.ranges.BATCH,
        default=8,
        help='images of a batch (default: %(default)s)',
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
        default=3,
        help='epochs of each temperature; medians are reported (default: %(default)s)',
    )
    p.add_argument(
        '--threads',
        type=program.ranges.THREADS,
        default=os.cpu_count(),
        help='CPU threads (default: all cores)',
    )
    p.add_argument(
        '--device',
        default='cuda' if torch.cuda.is_available() else 'cpu',
        help='where the batches go (default: %(default)s)',
    )
    p.add_argument(
        '--folder', help="where the mapped cache is made (default: the system's temporary folder)"
    )
    p.add_argument('--json', type=Path, help='also write the figures to this file')
    return p


@program.entry
def main(argv: Sequence[str] | None = None) -> int:
    """Check the pipes, time them and print the table -> exit status."""
    args = parser().parse_args(argv)
    outputs.check({'--json': args.json}, {'--data': args.data})
    if args.device.startswith('cuda'):
        torch.cuda.set_device(torch.device(args.device))
    print(timing.header())

    # Checking reads all files once, so that cold means decoding and not the disk.
    images = load(args.data, args.size)
    pipes = ['dali', 'torch'] if timing.installed('nvidia.dali') else ['torch']
    check(pipes, images, args)
    rows = _table(pipes, images, args)
    if args.json:
        timing.write(
            args.json,
            images=len(images),
            recipe=args.recipe,
            batch=args.batch,
            threads=args.threads,
            images_per_second=rows,
        )
    return 0


def _table(
    pipes: Sequence[str], images: Sequence[manifest.Image], args: argparse.Namespace
) -> list[dict[str, Any]]:
    """Time every pipe with every cache and print a line for each -> medians."""
    print(
        f'\n{len(images):,} images of {args.size} px, {args.recipe}, batch {args.batch}, '
        f'{args.device}, {args.threads} threads; images per second\n'
        f'{"pipe":6} {"cache":6} {"load cold":>10} {"load warm":>10} {"ratio":>7} '
        f'{"batch cold":>11} {"batch warm":>11} {"spread":>7}'
    )
    caches = ['off', 'host', 'file'] + (['gpu'] if args.device != 'cpu' else [])
    rows = []
    for name, cache in itertools.product(pipes, caches):
        rates = measure(name, cache, images, args)
        m = {what: timing.median(values) for what, values in rates.items()}
        rows.append({'pipe': name, 'cache': cache, **m})
        print(
            f'{name:6} {cache:6} {m["load cold"]:10.1f} {m["load warm"]:10.1f} '
            f'{m["load warm"] / m["load cold"]:6.1f}x {m["batch cold"]:11.1f} '
            f'{m["batch warm"]:11.1f} {max(map(timing.spread, rates.values())):6.1f}%'
        )
    return rows


if __name__ == '__main__':
    sys.exit(main())
