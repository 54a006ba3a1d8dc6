"""From files to batches: images per second of each pipe and cache, cold (first epoch) and warm (second), loading alone and with the degradation.

    python benchmarks/pipe_throughput.py [--data FOLDER] [--recipe ai6126_2024] [--json FILE]

Cold means that every image is decoded; the files themselves are in the system's page cache after the check that comes first.
"""

import argparse
import itertools
import os
import tempfile
import time
from pathlib import Path

import torch

import dali_pipes
import degrade
import synthetic
from benchmarks import timing
from sources import manifest

IN_FLIGHT = 70  # batches that DataLoader's workers may have begun before the cache was full


def load(source, size):
    """Images of a manifest; synthetic faces, drawn once, without a source."""
    if source is None:
        folder = manifest.cache_folder() / f'faces-bench-{size}'
        synthetic.write(folder, 64, first_seed=90_000, size=size)
        source = folder / 'images'
    return manifest.scan(str(source), size=size).images


def check(pipes, images, args):
    """Refuse to time pipes that do not yield the same batches."""
    first = None
    for name in pipes:
        with dali_pipes.make(
            name,
            images,
            args.recipe,
            batch=args.batch,
            size=args.size,
            device=args.device,
            say=quiet,
        ) as pipe:
            batch = next(pipe)
        if first and not (
            torch.equal(batch.target, first.target) and torch.equal(batch.input, first.input)
        ):
            raise SystemExit(f'{name} and {pipes[0]} yield different batches: not timed')
        first = first or batch


def quiet(_):
    pass


def epoch(step, count):
    """Images per second of `count` calls of step()."""
    start = time.perf_counter()
    for _ in range(count):
        step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return count / (time.perf_counter() - start)


def measure(name, mode, images, args):
    """{'load cold', 'load warm', 'batch cold', 'batch warm': [images per second of each round]}"""
    rates, steps = {}, max(len(images) // args.batch - 1, 1)
    for what in 'load', 'batch':
        for _ in range(args.rounds):
            with tempfile.TemporaryDirectory(dir=args.folder) as folder:
                os.environ['FACES_CACHE'] = folder  # where a mapped cache goes: empty, hence cold
                with dali_pipes.make(
                    name,
                    images,
                    args.recipe,
                    batch=args.batch,
                    size=args.size,
                    device=args.device,
                    threads=args.threads,
                    cache=mode,
                    say=quiet,
                ) as pipe:
                    step = pipe.load if what == 'load' else lambda: next(pipe)
                    step()  # starts threads and processes
                    rates.setdefault(f'{what} cold', []).append(args.batch * epoch(step, steps))
                    epoch(step, IN_FLIGHT if name == 'torch' and args.device != 'cpu' else 1)
                    rates.setdefault(f'{what} warm', []).append(args.batch * epoch(step, steps))
    return rates


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--data', help='HQ faces: folder, list or glob (default: 64 synthetic ones, drawn once)'
    )
    parser.add_argument('--recipe', default='ai6126_2024', help='default: %(default)s')
    parser.add_argument('--batch', type=int, default=8, help='default: %(default)s')
    parser.add_argument(
        '--size',
        type=int,
        default=512,
        help='side of the HQ images in pixels (default: %(default)s)',
    )
    parser.add_argument(
        '--rounds',
        type=int,
        default=3,
        help='epochs of each temperature; medians are reported (default: %(default)s)',
    )
    parser.add_argument('--threads', type=int, default=os.cpu_count(), help='default: all cores')
    parser.add_argument(
        '--device',
        default='cuda' if torch.cuda.is_available() else 'cpu',
        help='default: %(default)s',
    )
    parser.add_argument(
        '--folder', help="where the mapped cache is made (default: the system's temporary folder)"
    )
    parser.add_argument('--json', type=Path, help='also write the figures to this file')
    args = parser.parse_args()
    if args.device.startswith('cuda'):
        torch.cuda.set_device(torch.device(args.device))
    print(timing.header())
    images = load(args.data, args.size)
    pipes = [p for p in ('dali', 'torch') if p != 'dali' or timing.installed('nvidia.dali')]
    check(pipes, images, args)
    degrade.recipe(args.recipe)
    print(
        f'\n{len(images):,} images of {args.size} px, {args.recipe}, batch {args.batch}, {args.device}, {args.threads} threads; images per second\n'
        f'{"pipe":6} {"cache":6} {"load cold":>10} {"load warm":>10} {"ratio":>7} {"batch cold":>11} {"batch warm":>11} {"spread":>7}'
    )
    rows = []
    for name, mode in itertools.product(
        pipes, ('off', 'host', 'file', *(('gpu',) if args.device != 'cpu' else ()))
    ):
        rates = measure(name, mode, images, args)
        m = {k: timing.median(v) for k, v in rates.items()}
        rows.append({'pipe': name, 'cache': mode, **m})
        print(
            f'{name:6} {mode:6} {m["load cold"]:10.1f} {m["load warm"]:10.1f} {m["load warm"] / m["load cold"]:6.1f}x {m["batch cold"]:11.1f} {m["batch warm"]:11.1f} '
            f'{max(map(timing.spread, rates.values())):6.1f}%'
        )
    if args.json:
        timing.write(
            args.json,
            images=len(images),
            recipe=args.recipe,
            batch=args.batch,
            threads=args.threads,
            images_per_second=rows,
        )


if __name__ == '__main__':
    main()
