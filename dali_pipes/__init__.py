"""From files to batches on the device, by one of three pipes that yield the same batches.

`make` returns a pipe for restorers and `make_parse` one for parsers:

    with make('dali', images, recipe, batch=8) as pipe:
        for batch in pipe: ...                 endless; batch.input, batch.target, batch.sample
"""

import difflib
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeGuard, cast

import numpy as np
import torch

import degrade
from degrade import workers
from errors import DataError
from faces.masks import pairs as mask_pairs
from faces.masks.pairs import Pair as MaskPair
from faces.masks.reader import MaskReader
from sources import addresses, manifest, stream
from sources.aliases import Say
from sources.reader import ImageReader, Reader, StrictReader

from . import cache as caches
from . import pipe_png
from .loader import Loader, Options
from .mixed import MixedPipe, Pairs
from .paired import planned
from .parse_plan import ParsePlan, PointPlan
from .pipe import Pipe
from .pipe_dali import DaliLoader, DaliPairs
from .pipe_reference import ReferenceLoader
from .pipe_torch import TorchLoader
from .plan import BatchPlan, Plan

__all__ = [
    'DECODERS',
    'PIPES',
    'MixedPipe',
    'Pairs',
    'ParsePlan',
    'Pipe',
    'Plan',
    'PointPlan',
    'is_paired',
    'make',
    'make_parse',
]

# What --pipe and --decode offer. The reference pipe is the definition that the others are tested
# against.
PIPES = 'dali', 'torch', 'reference'
DECODERS = 'auto', 'cpu', 'gpu'

# What there is to train on: faces to degrade, LQ/GT pairs of either form, or shards to stream.
Paired = list[manifest.Pair] | list[manifest.Stacked]
Images = Sequence[manifest.Image] | Paired | addresses.Shards
LoaderClass = Callable[[BatchPlan, Options], Loader]


class _Setup(NamedTuple):
    """Where and how a pipe runs: what `make` and `make_parse` only hand on."""

    start: int
    rank: int
    world: int
    device: torch.device
    threads: int | None
    cache: str
    decode: str
    say: Say


def make(
    name: str,
    images: Images,
    recipe: degrade.Recipe | str,
    *,
    batch: int = 8,  # images per step on this device
    size: int = 512,  # side of the target; larger images are area-resized, smaller ones refused
    seed: int = 0,  # of order, flips and degradations, 0 <= seed < 2**63
    start: int = 0,  # samples already trained on; resuming needs no more than this number
    rank: int = 0,  # this process of ...
    world: int = 1,  # ... so many that share the samples
    flip: float = 0.5,  # probability of a horizontal flip
    lq_from_usm: bool = True,  # degrade the sharpened target where the recipe says so
    target_usm: bool = False,  # train on the sharpened target
    target_gray: bool = False,  # train on a target without colour where the recipe takes it away
    crop: int | None = None,  # side of random squares, in pixels of the target; None: whole images
    device: str | torch.device = 'cpu',
    threads: int | None = None,  # CPU threads for decoding and degrading; None: all cores
    cache: str = 'off',  # where decoded images are kept: cache.MODES
    decode: str = 'auto',  # what decodes PNG and JPH in the dali pipe; auto takes the faster
    say: Say = print,  # takes notices: files replaced, images resized
) -> Pipe:
    """Return a pipe: an endless iterator of Batch and a context manager.

    name:   'dali' (DALI decodes and flips), 'torch' (DataLoader and OpenCV) or 'reference' (one
            image at a time through the float64 definition; slow)
    images: from manifest.scan, addresses.find, or, in pairs, from lq_gt.scan_pairs or
            scan_stacked; pairs are not degraded, and only their scale is taken from the recipe
    On a GPU the CUDA kernels degrade, one batch ahead of the one that is asked for.
    Raises ValueError for unknown names, ImportError where the library of a pipe is missing,
    KernelError where the kernels cannot run, and DataError for a cache or a decoder that is not
    available here and for fewer shards than processes.
    """
    _check_names(name, cache, decode)
    setup = _Setup(start, rank, world, _device(device), threads, cache, decode, say)
    recipe = _recipe(recipe)
    shared: dict[str, Any] = dict(batch=batch, size=size, seed=seed, flip=flip, crop=crop)

    # Pairs have been degraded: their plan and their reader know how the two lie together.
    if is_paired(images):
        paired_plan, reader = planned(images, recipe.scale, say=say, **shared)
        return _pipe(name, images, paired_plan, reader, setup)

    # A stream has no count, since nothing in it can be read at random.
    count = None if isinstance(images, addresses.Shards) else len(images)
    targets = dict(lq_from_usm=lq_from_usm, target_usm=target_usm, target_gray=target_gray)
    plan = Plan(count, recipe, **targets, **shared)
    return _pipe(name, images, plan, _reader(images, size, seed, setup), setup)


def make_parse(
    name: str,
    pairs: Sequence[MaskPair] | Sequence[manifest.Image],
    *,
    batch: int = 8,
    size: int = 512,
    points: np.ndarray | None = None,  # [N, K, 2] in pixels of `size`: the target instead of masks
    recipe: degrade.Recipe | str | None = None,  # what to parse through; None: clean faces
    balance: float = 0.0,  # see masks.pairs.repeated
    paste: float = 0.0,  # see ParsePlan
    seed: int = 0,  # of order, augmentations and degradations
    start: int = 0,
    rank: int = 0,
    world: int = 1,
    device: str | torch.device = 'cpu',
    threads: int | None = None,
    cache: str = 'off',
    decode: str = 'auto',
    say: Say = print,
) -> Pipe:
    """Return a pipe of pictures and masks, or of pictures and landmarks.

    pairs: from masks.pairs.scan_pairs; with points, from manifest.scan
    The input is [B, 3, H, W] and the target [B, H, W] uint8 class ids, or as PointPlan has it with
    points. Both are moved alike (faces.augment); the input is tinted and degraded by the recipe.
    Everything else, also what is raised, is as in `make`; in addition, DataError for a bad file
    that points belong to.
    """
    _check_names(name, cache, decode)
    setup = _Setup(start, rank, world, _device(device), threads, cache, decode, say)
    recipe = None if recipe is None else _recipe(recipe)
    shared: dict[str, Any] = dict(batch=batch, size=size, seed=seed, recipe=recipe)

    # A mask is replaced together with its picture if either is bad. Points are bound to the number
    # of their picture, which therefore has to be good.
    if points is None:
        epoch = mask_pairs.repeated(cast(Any, pairs), balance, seed)
        plan = ParsePlan(len(pairs), epoch=epoch, paste=paste, **shared)
        return _pipe(name, pairs, plan, MaskReader(cast(Any, pairs), size, say), setup)
    return _pipe(name, pairs, PointPlan(points, **shared), StrictReader(pairs, size, say), setup)


def is_paired(images: object) -> TypeGuard[Paired]:
    """Tell whether images to train on are LQ/GT pairs."""
    return (
        isinstance(images, list)
        and bool(images)
        and isinstance(images[0], (manifest.Pair, manifest.Stacked))
    )


# ---- what both kinds of pipe have in common ----


def _check_names(name: str, cache: str, decode: str) -> None:
    """Raise ValueError for unknown names and DataError for a decoder that a pipe cannot have."""
    if name not in PIPES:
        near = difflib.get_close_matches(name, PIPES, 1)
        hint = f', did you mean {near[0]!r}?' if near else ''
        raise ValueError(f'unknown pipe {name!r}{hint} (there are: {", ".join(PIPES)})')
    if cache not in caches.MODES:
        raise ValueError(f'unknown cache {cache!r} (there are: {", ".join(caches.MODES)})')
    if decode not in DECODERS:
        raise ValueError(f'unknown decoder {decode!r} (there are: {", ".join(DECODERS)})')
    if decode == 'gpu' and name != 'dali':
        raise DataError(
            '--decode gpu: only the dali pipe decodes on a GPU; give --pipe dali, or cpu or auto'
        )


def _device(device: str | torch.device) -> torch.device:
    """Return a device; a GPU with its number, as DALI wants it."""
    device = torch.device(device)
    if device.type == 'cuda' and device.index is None:
        return torch.device('cuda', torch.cuda.current_device())
    return device


def _recipe(recipe: degrade.Recipe | str) -> degrade.Recipe:
    """Look up a recipe that is given by its name."""
    return degrade.recipe(recipe) if isinstance(recipe, str) else recipe


def _reader(images: Images, size: int, seed: int, setup: _Setup) -> ImageReader:
    """Return the reader of images that are degraded while training. Raises DataError."""
    if not isinstance(images, addresses.Shards):
        return Reader(images, size, setup.say)
    return stream.Stream(
        images,
        size,
        seed=seed,
        start=setup.start,
        rank=setup.rank,
        world=setup.world,
        say=setup.say,
    )


def _pipe(
    name: str,
    images: Sequence[manifest.Picture] | addresses.Shards,
    plan: BatchPlan,
    reader: ImageReader,
    setup: _Setup,
) -> Pipe:
    """Put a pipe together."""
    # A GPU that cannot be used is reported now rather than after images have been decoded.
    impl = _impl(name, setup.device)
    cached = _cache(name, images, plan, setup)

    # The threads come after the cache, so that a cache that is refused leaves none behind.
    threads = setup.threads or os.cpu_count() or 1
    options = Options(
        reader,
        cached,
        pool=workers.make(threads),
        start=setup.start,
        rank=setup.rank,
        world=setup.world,
        device=setup.device,
        threads=threads,
    )

    # What lies in channels beyond the picture's three is decoded by our own threads.
    paired = plan.channels > 3
    loader = _loader(name, paired)

    # The trial of the decoders comes last, because it reads files with all of the above.
    if name == 'dali':
        decoder = pipe_png.decoder(setup.decode, plan, options, setup.say)
        options = options._replace(mixed=decoder == 'mixed')
        if decoder == 'png':
            loader = pipe_png.PngPairs if paired else pipe_png.PngLoader
    return Pipe(loader(plan, options), plan, impl, options)


def _impl(name: str, device: torch.device) -> str:
    """Return the implementation of degrade.degrade that a pipe uses. Raises KernelError."""
    if name == 'reference':
        return 'ref'
    if device.type != 'cuda':
        return 'torch'
    degrade.kernels.need_gpu(torch.empty(0, device=device))
    return 'cuda'


def _cache(
    name: str, images: Sequence[manifest.Picture] | addresses.Shards, plan: BatchPlan, setup: _Setup
) -> caches.Cache | None:
    """Return the cache of a pipe; streams and the reference have none. Raises DataError."""
    if isinstance(images, addresses.Shards):
        stream.no_cache(setup.cache, setup.say)
        return None
    # The definition does without: a cache has to change nothing, which is tested against it.
    if name == 'reference':
        return None
    return caches.make(
        setup.cache,
        images,
        plan.size,
        setup.device,
        setup.say,
        channels=plan.channels,
        tall=plan.tall,
    )


def _loader(name: str, paired: bool) -> LoaderClass:
    """Return the class of loader of a pipe. paired: of pictures with further channels."""
    if name == 'dali':
        return DaliPairs if paired else DaliLoader
    return TorchLoader if name == 'torch' else ReferenceLoader
