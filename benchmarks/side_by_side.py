"""This trainer beside how others degrade, load and train, in one run on one machine.

python benchmarks/side_by_side.py --data faces/ --json side.json
python benchmarks/side_by_side.py --peers --data faces/ --json side.json

Every row does the same work on the same images and is checked before it is timed:
  degrade  the whole chain of ai6126_2024, ours with parameters of its own for every sample;
           OpenCV an image at a time in a process per core; torch a batch at a time, with kinds and
           sizes drawn once for the batch, as in Real-ESRGAN's training code
  load     PNG files to mirrored batches: our pipes, first epoch and later ones; torch's DataLoader
           with Pillow, and WebDataset where it is installed
  train    steps of one network with one optimiser, fed by each side's own data
--peers adds whole chains of BasicSR, kornia and Albumentations where they are installed. Nothing is
fetched. Memory is the most that a row's processes hold in a run of its own.
"""

import program

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

import degrade
from benchmarks import (
    degrade_gpu,
    degrade_throughput,
    in_processes,
    loaders,
    opencv_chain,
    peers,
    pipe_throughput,
    soak_watch,
    torch_chain,
    train_step,
)
from benchmarks.degrade_throughput import Work
from config import flags
from degrade import workers
from degrade.draw import Draw
from errors import FacesError
from sources import manifest
from tools import arguments, timing
from training import outputs

SECTIONS = 'degrade', 'load', 'train'
RECIPE = 'ai6126_2024'
PRESET = 'unet'
OURS = 'ours'
SMOOTHED = 0.03  # most mean difference from the reference of what has a noise of its own
EVERY = 0.1  # seconds between looks at the memory

Run = Callable[[], object]


class Row(NamedTuple):
    """Who does the work of a section."""

    images: int  # of one round
    start: Callable[[], AbstractContextManager[Run]]


class Case(NamedTuple):
    """What all rows work on."""

    args: argparse.Namespace
    device: torch.device
    images: Sequence[manifest.Image]
    folder: Path  # for what a row writes

    @property
    def paths(self) -> list[str]:
        """The files."""
        return [image.path for image in self.images]


# ---- degrade ----


def degrading(case: Case) -> dict[str, Row]:
    """The rows of whole chains."""
    args = case.args
    x = degrade_throughput.load(args.data, args.size, args.plans)
    work = _planned(x, RECIPE)
    tied = _planned(x.to(case.device), torch_chain.RECIPE)
    rows = {
        OURS: Row(len(x), partial(_ours, work, case)),
        'OpenCV, image by image': Row(len(x), partial(_by_opencv, work, args.threads)),
        'torch, a batch at a time': Row(len(x), partial(_by_torch, tied, torch_chain.RUN)),
    }
    if args.peers:
        rows |= _peers(x, tied, case)
    # A row alone, whose memory is measured, has been checked among the others.
    if not args.only:
        _check_ours(work, case)
        _check_chain('torch', tied, torch_chain.RUN)
    return rows


def _check_ours(work: Work, case: Case) -> None:
    """Refuse to time our own chain, or that of OpenCV, if they are wrong. Raises FacesError."""
    with workers.make(case.args.threads) as pool:
        degrade_throughput.check(work, pool)
    if case.device.type == 'cuda':
        degrade_gpu.check(work.x.to(case.device), work.recipe, work.params)


def _planned(x: Tensor, name: str) -> Work:
    """Images [N, 3, H, W] uint8 with what a recipe does to each of them."""
    recipe = degrade.recipe(name)
    draw = Draw(0, np.arange(len(x)), tied=recipe.tied, batch=torch_chain.BATCH)
    return Work(x, recipe, degrade.sample(recipe, draw, degrade_gpu.size_of(x)))


@contextmanager
def _ours(work: Work, case: Case) -> Iterator[Run]:
    if case.device.type == 'cuda':
        x = work.x.to(case.device)
        yield degrade_gpu.runner(x, work.recipe, work.params, torch_chain.BATCH)
        return
    with workers.make(case.args.threads) as pool:
        yield partial(work.run, pool)


def _by_opencv(work: Work, processes: int) -> AbstractContextManager[Run]:
    make = partial(opencv_chain.worker, work.recipe, work.params)
    return in_processes.mapped(make, work.x.permute(0, 2, 3, 1).numpy(), processes)


@contextmanager
def _by_torch(tied: Work, operations: Mapping[Any, torch_chain.Operation]) -> Iterator[Run]:
    def run() -> None:
        for i in range(0, len(tied.x), torch_chain.BATCH):
            part = tied.some(slice(i, i + torch_chain.BATCH))
            torch_chain.degrade(part.x, part.recipe, part.params, operations)
        _wait(tied.x.device)

    yield run


def _peers(x: Tensor, tied: Work, case: Case) -> dict[str, Row]:
    """Whole chains of the libraries that are installed."""
    rows = {}
    for name, operations in peers.chains(case.device).items():
        if not case.args.only:
            _check_chain(name, tied, operations)
        rows[f'{name}, a batch at a time'] = Row(len(x), partial(_by_torch, tied, operations))
    if timing.installed('albumentations'):
        images = x.permute(0, 2, 3, 1).numpy()
        shape = np.asarray(peers.albumentations()(images[0], 0)).shape
        if shape != (case.args.size // 4, case.args.size // 4, 3):
            raise FacesError(f'albumentations yields {shape}: not timed')
        start = partial(in_processes.mapped, peers.albumentations, images, case.args.threads)
        rows['albumentations, image by image'] = Row(len(x), start)
    return rows


def _check_chain(
    name: str, tied: Work, operations: Mapping[Any, torch_chain.Operation], count: int = 4
) -> None:
    """Refuse to time another degradation; noises are smoothed away. Raises FacesError."""
    few = tied.some(slice(0, count))
    found = torch_chain.degrade(few.x, few.recipe, few.params, operations).cpu()
    few = few._replace(x=few.x.cpu())
    for y, expected in zip(found, few.run(None, 'ref'), strict=True):
        difference = (y - expected).permute(1, 2, 0).numpy()
        error = np.abs(cv2.blur(difference, (9, 9))).mean()
        if not error <= SMOOTHED:
            raise FacesError(f'{name}: another degradation (error {error:.3f}): not timed')


# ---- load ----


def loading(case: Case) -> dict[str, Row]:
    """The rows of loaders."""
    args, paths = case.args, case.paths
    count = len(paths)
    rows = {}
    for name in ('dali', 'torch') if timing.installed('nvidia.dali') else ('torch',):
        for cache, epoch in (('off', 'first epoch'), ('host', 'later epochs')):
            rows[f'{OURS}, {name} pipe, {epoch}'] = Row(count, partial(_piped, name, cache, case))
    pin = case.device.type == 'cuda'
    data = loaders.Files(paths)
    epochs = partial(loaders.data_loader, data, args.batch, args.threads, pin)
    rows['Pillow in a DataLoader'] = Row(count, partial(_epochs, epochs, case))
    if timing.installed('webdataset'):
        epochs = partial(loaders.web_dataset, paths, case.folder, args.batch, args.threads)
        rows['WebDataset'] = Row(count, partial(_epochs, epochs, case))
    return rows


@contextmanager
def _piped(name: str, cache: str, case: Case) -> Iterator[Run]:
    # Loading alone: decoded and mirrored, as the others do it.
    args, steps = case.args, len(case.images) // case.args.batch
    pipe_args = argparse.Namespace(
        recipe=RECIPE, batch=args.batch, size=args.size, device=str(case.device)
    )
    with pipe_throughput.pipe_of(
        name, case.images, pipe_args, threads=args.threads, cache=cache
    ) as pipe:

        def run() -> None:
            for _ in range(steps):
                pipe.load()
            _wait(case.device)

        # An epoch fills the cache; processes that read ahead have to be through with it, too.
        if cache != 'off':
            for _ in range(2):
                run()
        yield run


@contextmanager
def _epochs(
    start: Callable[[], AbstractContextManager[loaders.Epoch]], case: Case
) -> Iterator[Run]:
    """Epochs of a loader of others, whose images are checked and sent to the device."""
    with start() as epoch:
        if not case.args.only:
            _check_loader(epoch, case)

        def run() -> None:
            loaders.went_through(x.to(case.device, non_blocking=True) for x in epoch())
            _wait(case.device)

        yield run


def _check_loader(epoch: loaders.Epoch, case: Case) -> None:
    """Refuse to time a loader that yields other images. Raises FacesError."""
    # Sums do not change where an image is mirrored.
    found = [int(image.long().sum()) for batch in epoch() for image in batch]
    expected = {int(_pixels(path).astype(np.int64).sum()) for path in case.paths}
    if len(found) != len(case.paths):
        raise FacesError(f'a loader yields {len(found)} images: not timed')
    if not expected.issuperset(found):
        raise FacesError('a loader yields other images: not timed')


def _pixels(path: str) -> np.ndarray:
    bgr = cv2.imread(path)
    if bgr is None:
        raise FacesError(f'{path}: not a file that OpenCV reads')
    return bgr


# ---- train ----


def training(case: Case) -> dict[str, Row]:
    """The rows of training loops: the same network and optimiser, each side's own data."""
    args = case.args
    # DALI where it is, as train.py chooses by itself.
    count = args.steps * args.batch
    pipe = 'dali' if timing.installed('nvidia.dali') else 'torch'
    rows = {
        f'{OURS}, {pipe} pipe': Row(count, partial(_trained_by_us, pipe, case)),
        'plain loop, OpenCV in a DataLoader': Row(count, partial(_trained_plainly, case)),
    }
    if case.device.type == 'cuda':
        rows['plain loop, torch on the GPU'] = Row(count, partial(_trained_batchwise, case))
    return rows


@contextmanager
def _trained_by_us(name: str, case: Case) -> Iterator[Run]:
    args = case.args
    step = train_step.stepper(PRESET, case.device, args.precision, optimizer='adamw', lr=1e-3)
    pipe_args = argparse.Namespace(
        recipe=RECIPE, batch=args.batch, size=args.size, device=str(case.device)
    )
    with pipe_throughput.pipe_of(
        name, case.images, pipe_args, threads=args.threads, cache='auto'
    ) as pipe:
        for _ in range(len(case.images) // args.batch + 1):  # fills the cache
            pipe.load()
        yield lambda: train_step.run(step, lambda: next(pipe), args.steps, case.device)


@contextmanager
def _trained_plainly(case: Case) -> Iterator[Run]:
    """On data that the DataLoader's workers degrade, as BasicSR and its kin do."""
    args = case.args
    data = loaders.Degraded(case.paths, degrade.recipe(RECIPE), args.size)
    pin = case.device.type == 'cuda'
    step = loaders.plain_step(PRESET, case.device, args.precision, lr=1e-3)
    with loaders.data_loader(data, args.batch, args.threads, pin) as epoch:
        batches = loaders.endless(epoch)

        def run() -> None:
            for _ in range(args.steps):
                step(*next(batches))
            _wait(case.device)

        yield run


@contextmanager
def _trained_batchwise(case: Case) -> Iterator[Run]:
    """On data that torch degrades on the GPU, a batch at a time, as Real-ESRGAN does."""
    args, recipe = case.args, degrade.recipe(torch_chain.RECIPE)
    step = loaders.plain_step(PRESET, case.device, args.precision, lr=1e-3)
    data = loaders.Files(case.paths)
    with loaders.data_loader(data, args.batch, args.threads, pin=True) as epoch:
        batches = loaders.endless(epoch)

        def run() -> None:
            for i in range(args.steps):
                x = next(batches).to(case.device, non_blocking=True)
                draw = Draw(0, np.arange(args.batch) + i, tied=recipe.tied, batch=args.batch)
                params = degrade.sample(recipe, draw, (args.size, args.size))
                step(torch_chain.degrade(x, recipe, params), degrade.canvas.unit(x))
            _wait(case.device)

        yield run


def _wait(device: torch.device) -> None:
    """Until the GPU is through."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


# ---- figures ----

ROWS: dict[str, Callable[[Case], dict[str, Row]]] = {
    'degrade': degrading,
    'load': loading,
    'train': training,
}


def measure(section: str, case: Case) -> dict[str, dict[str, float]]:
    """Time a section and print its table -> {row: figures}."""
    rows = ROWS[section](case)
    if case.args.only:
        rows = {name: row for name, row in rows.items() if name == case.args.only}
    # Everybody's processes stand ready at once and take turns.
    with ExitStack() as stack:
        contenders = {n: stack.enter_context(row.start()) for n, row in rows.items()}
        seconds = timing.rounds(contenders, case.args.rounds, progress=lambda _: None)
    figures = {}
    for name, of_rounds in seconds.items():
        rate = rows[name].images / timing.median(of_rounds)
        figures[name] = {'images_per_second': rate, 'spread': timing.spread(of_rounds)}
    return figures


def add_memory(
    section: str, figures: dict[str, dict[str, float]], args: argparse.Namespace
) -> None:
    """Run every row of a section alone and add the most memory its processes held, in MB."""
    for name, of_row in figures.items():
        # The same work in a process that does nothing else.
        words = ['--sections', section, '--only', name, '--rounds', '1', '--no-memory']
        words += ['--device', args.device, '--batch', args.batch, '--size', args.size]
        words += ['--threads', args.threads, '--plans', args.plans, '--steps', args.steps]
        words += ['--precision', args.precision, *(['--peers'] if args.peers else [])]
        words += ['--data', args.data] if args.data else []
        process = subprocess.Popen(
            [sys.executable, __file__, *map(str, words)], stdout=subprocess.DEVNULL, text=True
        )
        samples = soak_watch.watch(process, EVERY)
        if process.returncode:
            raise FacesError(f'{section}, {name}: alone it ended with {process.returncode}')
        of_row['memory_mb'] = max(s.memory for s in samples)


def print_table(section: str, figures: Mapping[str, Mapping[str, float]]) -> None:
    """Print a section, ours first; ratios are to the first row."""
    # The first row is ours.
    first = next(iter(figures.values()))['images_per_second']
    print(f'\n{section:40} {"img/s":>9} {"spread":>7} {"ours / it":>10} {"memory":>9}')
    for name, row in figures.items():
        memory = f'{row["memory_mb"]:6.0f} MB' if 'memory_mb' in row else ''
        rate = row['images_per_second']
        print(f'{name:40} {rate:9.1f} {row["spread"]:6.1f}% {first / rate:9.2f}x {memory:>9}')


def plot(path: Path, results: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    """Draw images per second, a panel for each section."""
    heights = [len(rows) for rows in results.values()]
    figure = Figure(figsize=(9, 1 + 0.45 * sum(heights)), dpi=110, layout='constrained')
    panels = figure.subplots(len(results), 1, height_ratios=heights, squeeze=False)[:, 0]
    for axes, (section, rows) in zip(panels, results.items(), strict=True):
        names = list(rows)[::-1]
        rates = [rows[name]['images_per_second'] for name in names]
        spreads = [
            rows[name]['spread'] * rate / 100 for name, rate in zip(names, rates, strict=True)
        ]
        colours = ['#1f6fb4' if name.startswith(OURS) else '#8a8a8a' for name in names]
        axes.barh(names, rates, xerr=spreads, color=colours)
        axes.set_title(f'{section}, images per second', loc='left', fontsize=10)
        axes.spines[['top', 'right']].set_visible(False)
    figure.savefig(path)


# ---- the command ----


def parser() -> argparse.ArgumentParser:
    """Flags of side_by_side.py."""
    p = arguments.described(__doc__)
    gpu = torch.cuda.is_available()
    p.add_argument(
        '--sections',
        type=arguments.names,
        default=list(SECTIONS),
        help=f'comma-separated (default: {",".join(SECTIONS)})',
    )
    p.add_argument('--only', help='a row to run alone, by its name in the table')
    p.add_argument('--peers', action='store_true', help='also whole chains of installed libraries')
    p.add_argument(
        '--no-memory', dest='memory', action='store_false', help='do not measure the memory'
    )
    p.add_argument('--data', help='folder of HQ faces in PNG files (default: synthetic ones)')
    p.add_argument(
        '--device', default='cuda' if gpu else 'cpu', help='where they run (default: %(default)s)'
    )
    p.add_argument(
        '--precision',
        choices=('bf16', 'fp16', 'fp32'),
        help='of the training (default: bf16 where the hardware computes it)',
    )
    p.add_argument('--json', type=Path, help='also write the figures to this file, and a picture')
    _add_sizes(p, gpu)
    return p


def _add_sizes(p: argparse.ArgumentParser, gpu: bool) -> None:
    """Add how much is done."""
    for flag, kind, default, what in (
        ('--plans', program.ranges.COUNT, 256 if gpu else 64, 'images that are degraded'),
        ('--steps', program.ranges.COUNT, 50 if gpu else 5, 'training steps of a round'),
        ('--batch', program.ranges.BATCH, 16 if gpu else 4, 'images of a batch'),
        ('--size', program.ranges.SIDE, 512, 'side of the HQ images, pixels'),
        ('--rounds', program.ranges.ROUNDS, 5, 'medians are reported'),
        ('--threads', program.ranges.THREADS, os.cpu_count(), "threads of ours, others' processes"),
    ):
        p.add_argument(flag, type=kind, default=default, help=f'{what} (default: {default})')


@program.entry
def main(argv: Sequence[str] | None = None) -> int:
    """Measure every section -> exit status."""
    args = parser().parse_args(argv)
    for section in args.sections:
        if section not in SECTIONS:
            raise FacesError(f'--sections {section}: there are {", ".join(SECTIONS)}')
    outputs.check({'--json': args.json}, {'--data': args.data})
    args.precision = args.precision or flags.default_precision(args.device)
    device = torch.device(args.device)
    cv2.setNumThreads(1)
    torch.set_num_threads(args.threads)
    print(timing.header())

    results = {}
    with tempfile.TemporaryDirectory(prefix='side-') as folder:
        images = pipe_throughput.load(args.data, args.size)
        # Whole batches, so that every loader goes through the same images.
        images = images[: len(images) // args.batch * args.batch]
        case = Case(args, device, images, Path(folder))
        for section in args.sections:
            results[section] = measure(section, case)
            if args.memory:
                add_memory(section, results[section], args)
            print_table(section, results[section])
    if args.json:
        timing.write(args.json, batch=args.batch, threads=args.threads, sections=results)
        plot(args.json.with_suffix('.png'), results)
    return 0


if __name__ == '__main__':
    sys.exit(main())
