"""The rows of side_by_side.py: who does the work, and how it is made sure that it is the same."""

import argparse
import hashlib
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

import dali_pipes
import degrade
from benchmarks import (
    chain_check,
    degrade_gpu,
    degrade_throughput,
    in_processes,
    loaders,
    opencv_chain,
    peers,
    pipe_throughput,
    torch_chain,
    train_step,
)
from benchmarks.degrade_throughput import Work
from degrade import Stage, workers
from degrade.draw import Draw
from errors import FacesError
from sources import manifest
from tools import timing
from training.world import first_on_gpu

RECIPE = 'ai6126_2024'
PRESET = 'unet'
OPTIMISER: dict[str, Any] = {'optimizer': 'adamw', 'lr': 1e-3}
OURS = 'ours'
GROUPS = 16  # batches at least, as what is drawn once for a batch decides about its cost
CHECKED = 8  # images
EPOCH = 50  # batches of an epoch of others, at least: their workers stop at its end

Run = Callable[[], float]  # does the work of a round -> seconds


class Row(NamedTuple):
    """Who does the work of a section."""

    images: int  # of one round
    start: Callable[[], AbstractContextManager[Run]]
    megapixels: float = 0.0  # that a chain's operations are given for an image


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

    @property
    def often(self) -> list[str]:
        """The files again and again: an epoch that is not over in a moment."""
        times = -(-EPOCH * self.args.batch // len(self.images))
        return self.paths * times

    def wait(self) -> None:
        """Until the GPU is through."""
        if self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)


def timed(work: Callable[[], object], case: Case) -> float:
    """Seconds until the work is done."""
    start = time.perf_counter()
    work()
    case.wait()
    return time.perf_counter() - start


# ---- degrade ----


def degrading(case: Case) -> dict[str, Row]:
    """The rows of whole chains."""
    args = case.args
    x = degrade_throughput.load(args.data, args.size, args.plans)
    group = max(min(torch_chain.BATCH, args.plans // GROUPS), 1)
    work, tied = _planned(x, RECIPE, group), _planned(x, torch_chain.RECIPE, group)
    rows = {
        OURS: _row(work, partial(_by_us, work, case)),
        'OpenCV, image by image': _row(work, partial(_by_opencv, work, case)),
        'torch, a batch at a time': _row(
            tied, partial(_by_torch, tied, torch_chain.RUN, group, case)
        ),
    }
    # A row alone, whose memory is measured, has been checked among the others.
    if not args.only:
        _check_ours(work, case)
        _check_torch('torch', tied, torch_chain.RUN, case)
    if args.peers and args.only not in rows:
        rows |= _peers(x, tied, group, case)
    return rows


def _planned(x: Tensor, name: str, group: int) -> Work:
    """Images [N, 3, H, W] uint8 with what a recipe does to each of them."""
    recipe = degrade.recipe(name)
    draw = Draw(0, np.arange(len(x)), tied=recipe.tied, batch=group)
    return Work(x, recipe, degrade.sample(recipe, draw, degrade_gpu.size_of(x)))


def _row(work: Work, start: Callable[[], AbstractContextManager[Run]]) -> Row:
    size = degrade_gpu.size_of(work.x)
    return Row(len(work.x), start, chain_check.megapixels(work.recipe, work.params, size))


@contextmanager
def _by_us(work: Work, case: Case) -> Iterator[Run]:
    if case.device.type == 'cuda':
        x = work.x.to(case.device)
        run = degrade_gpu.runner(x, work.recipe, work.params, torch_chain.BATCH)
        yield partial(timed, run, case)
        return
    with workers.make(case.args.threads) as pool:
        yield partial(timed, partial(work.run, pool), case)


@contextmanager
def _by_opencv(work: Work, case: Case) -> Iterator[Run]:
    make = partial(opencv_chain.worker, work.recipe, work.params)
    with _in_processes(make, work.x, case) as run:
        yield run


@contextmanager
def _in_processes(make: Callable[[], in_processes.Work], x: Tensor, case: Case) -> Iterator[Run]:
    images = x.permute(0, 2, 3, 1).numpy()
    with in_processes.mapped(make, images, case.args.threads) as run:
        yield partial(timed, run, case)


@contextmanager
def _by_torch(
    tied: Work, operations: Mapping[Any, torch_chain.Operation], group: int, case: Case
) -> Iterator[Run]:
    tied = tied._replace(x=tied.x.to(case.device))

    def run() -> None:
        for i in range(0, len(tied.x), group):
            part = tied.some(slice(i, i + group))
            torch_chain.degrade(part.x, part.recipe, part.params, operations)

    yield partial(timed, run, case)


def _peers(x: Tensor, tied: Work, group: int, case: Case) -> dict[str, Row]:
    """Whole chains of the libraries that are installed."""
    rows = {}
    for name, operations in peers.chains(case.device).items():
        if not case.args.only:
            _check_torch(name, tied, operations, case)
        start = partial(_by_torch, tied, operations, group, case)
        rows[f'{name}, a batch at a time'] = _row(tied, start)
    if timing.installed('albumentations'):
        make, size = partial(peers.albumentations, case.args.size), case.args.size
        shape = np.asarray(make()(x[0].permute(1, 2, 0).numpy(), 0)).shape
        if shape != (size // 4, size // 4, 3):
            raise FacesError(f'albumentations yields {shape}: not timed')
        # Its draws are its own, so that only the ranges are the same.
        start = partial(_in_processes, make, x, case)
        rows['albumentations, image by image'] = Row(len(x), start)
    return rows


def _check_ours(work: Work, case: Case) -> None:
    """Refuse to time our own chain, or that of OpenCV, if they are wrong. Raises FacesError."""
    with workers.make(case.args.threads) as pool:
        degrade_throughput.check(work, pool)
    if case.device.type == 'cuda':
        degrade_gpu.check(work.x.to(case.device), work.recipe, work.params)


def _check_torch(
    name: str, tied: Work, operations: Mapping[Any, torch_chain.Operation], case: Case
) -> None:
    """Refuse to time another chain, of images from as many batches. Raises FacesError."""
    chosen = np.linspace(0, len(tied.x) - 1, min(CHECKED, len(tied.x))).astype(int)
    params = degrade.take(tied.params, chosen)

    def run(stage: Stage, x: np.ndarray, i: int) -> np.ndarray:
        p = degrade.take(params, slice(i, i + 1))[tied.recipe.stages.index(stage)]
        there = torch.from_numpy(x).permute(2, 0, 1)[None].to(case.device)
        return operations[stage.op](there, p)[0].permute(1, 2, 0).cpu().numpy()

    images = tied.x[chosen].permute(0, 2, 3, 1).numpy()
    chain_check.check(name, tied.recipe, params, images, run)


# ---- load ----


def loading(case: Case) -> dict[str, Row]:
    """The rows of loaders."""
    args, pin = case.args, case.device.type == 'cuda'
    count = args.steps * args.batch
    rows = {}
    for name in ('dali', 'torch') if timing.installed('nvidia.dali') else ('torch',):
        for cache, how in (('off', 'decoding'), ('host', 'cached')):
            start = partial(_piped, name, cache, case)
            rows[f'{OURS}, {name} pipe, {how}'] = Row(count, start)
    data = loaders.Files(case.often)
    pillow = partial(loaders.data_loader, data, args.batch, args.threads, pin)
    rows['Pillow in a DataLoader'] = Row(count, partial(_epochs, pillow, case))
    if timing.installed('webdataset'):
        shards = partial(
            loaders.web_dataset, case.often, case.folder, args.batch, args.threads, pin
        )
        rows['WebDataset'] = Row(count, partial(_epochs, shards, case))
    return rows


@contextmanager
def _pipe(name: str, cache: str, case: Case) -> Iterator[tuple[dali_pipes.Pipe, int]]:
    """Our pipe with a full cache, and how many batches it may have made ahead."""
    args = argparse.Namespace(
        recipe=RECIPE, batch=case.args.batch, size=case.args.size, device=str(case.device)
    )
    ahead = pipe_throughput.IN_FLIGHT if case.device.type == 'cuda' and name == 'torch' else 4
    with pipe_throughput.pipe_of(
        name, case.images, args, threads=case.args.threads, cache=cache
    ) as pipe:
        # The first epoch fills the cache, and is looked at. Batches that were planned before it
        # was full are decoded all the same.
        loaded: Iterator[Tensor] = (pipe.load()[1] for _ in itertools.count())
        _check_loaded(name, loaded, case.paths)
        for _ in range(ahead):
            next(loaded)
        yield pipe, ahead


@contextmanager
def _piped(name: str, cache: str, case: Case) -> Iterator[Run]:
    with _pipe(name, cache, case) as (pipe, ahead):
        yield partial(_taken, (pipe.load() for _ in itertools.count()), ahead, case)


@contextmanager
def _epochs(
    start: Callable[[], AbstractContextManager[loaders.Epoch]], case: Case
) -> Iterator[Run]:
    """A loader of others, whose images are sent to the device."""
    with start() as epoch:
        _check_loaded('a loader', epoch(), case.often)
        loaded = loaders.endless(epoch)
        there = (x.to(case.device, non_blocking=True) for x in loaded)
        yield partial(_taken, there, loaders.AHEAD * case.args.threads, case)


def _taken(batches: Iterator[Any], ahead: int, case: Case) -> float:
    """Seconds that some batches take, once those are gone that were made while others ran."""
    steps: Iterable[int] = range(case.args.steps)
    for _ in range(ahead):
        next(batches)
    return timed(lambda: [next(batches) for _ in steps], case)


def _check_loaded(name: str, batches: Iterator[Tensor], paths: Sequence[str]) -> None:
    """Refuse to time who does not yield every image once, mirrored or not. Raises FacesError."""
    count, found = 0, Counter[bytes]()
    expected = Counter(_known_by(_pixels(path)) for path in paths)
    for x in batches:
        found.update(_known_by(image.cpu().permute(1, 2, 0).numpy()) for image in x)
        count += len(x)
        if count >= len(paths):
            break
    if found != expected:
        raise FacesError(f'{name} yields other images: not timed')


def _known_by(image: np.ndarray) -> bytes:
    """The same for an image [h, w, 3] uint8 and for its mirror image."""
    both = image.astype(np.int16) + image[:, ::-1]
    return hashlib.blake2b(both.tobytes(), digest_size=16).digest()


def _pixels(path: str) -> np.ndarray:
    bgr = cv2.imread(path)
    if bgr is None:
        raise FacesError(f'{path}: not a file that OpenCV reads')
    return bgr[..., ::-1]


# ---- train ----


def training(case: Case) -> dict[str, Row]:
    """The rows of training loops: the same network and optimiser, each side's own data."""
    count = case.args.steps * case.args.batch
    # DALI where it is, as train.py chooses by itself.
    pipe = 'dali' if timing.installed('nvidia.dali') else 'torch'
    rows = {
        f'{OURS}, {pipe} pipe, cached': Row(count, partial(_trained_by_us, pipe, case)),
        'plain loop, OpenCV in a DataLoader': Row(count, partial(_trained_plainly, case)),
    }
    if case.device.type == 'cuda':
        rows['plain loop, torch on the GPU'] = Row(count, partial(_trained_batchwise, case))
    return rows


@contextmanager
def _trained_by_us(name: str, case: Case) -> Iterator[Run]:
    args = case.args
    step = train_step.stepper(PRESET, case.device, args.precision, **OPTIMISER)
    with first_on_gpu(case.device), _pipe(name, 'auto', case) as (pipe, ahead):

        def run() -> float:
            for _ in range(ahead):
                step(next(pipe))
            return train_step.run(step, lambda: next(pipe), args.steps, case.device).total

        yield run


@contextmanager
def _trained_plainly(case: Case) -> Iterator[Run]:
    """On data that the DataLoader's workers degrade, as BasicSR and its kin do."""
    args = case.args
    data = loaders.Degraded(case.often, degrade.recipe(RECIPE), args.size)
    pin = case.device.type == 'cuda'
    step = loaders.plain_step(PRESET, case.device, args.precision, **OPTIMISER)
    with loaders.data_loader(data, args.batch, args.threads, pin) as epoch:
        steps = (step(*pair) for pair in loaders.endless(epoch))
        yield partial(_taken, steps, loaders.AHEAD * args.threads, case)


@contextmanager
def _trained_batchwise(case: Case) -> Iterator[Run]:
    """On data that torch degrades on the GPU, a batch at a time, as Real-ESRGAN does."""
    args, recipe = case.args, degrade.recipe(torch_chain.RECIPE)
    step = loaders.plain_step(PRESET, case.device, args.precision, **OPTIMISER)

    def steps(batches: Iterator[Tensor]) -> Iterator[None]:
        for number, images in enumerate(batches):
            x = images.to(case.device, non_blocking=True)
            samples = np.arange(args.batch) + number * args.batch
            draw = Draw(0, samples, tied=recipe.tied, batch=args.batch)
            params = degrade.sample(recipe, draw, (args.size, args.size))
            yield step(torch_chain.degrade(x, recipe, params), degrade.canvas.unit(x))

    data = loaders.Files(case.often)
    with loaders.data_loader(data, args.batch, args.threads, pin=True) as epoch:
        batches = steps(loaders.endless(epoch))
        yield partial(_taken, batches, loaders.AHEAD * args.threads, case)
