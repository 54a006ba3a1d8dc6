"""From files to batches on the device: `make` and, for parsers, `make_parse` return one of three pipes that yield the same batches.

with make('dali', images, recipe, batch=8) as pipe:
    for batch in pipe: ...                   # endless; batch.input, batch.target, batch.sample
"""

import difflib
import os

import torch

import degrade
from degrade import workers
from errors import DataError
from faces.masks.reader import MaskReader
from sources import manifest, stream
from sources.reader import Reader, StrictReader

from . import cache as caches
from . import paired
from . import pipe_png
from .batch import Options, Plan
from .parse_plan import ParsePlan, PointPlan
from .pipe import Pipe

PIPES = 'dali', 'torch', 'reference'
DECODERS = 'auto', 'cpu', 'gpu'


def make(
    name,
    images,
    recipe,
    *,
    batch=8,  # images per step on this device
    size=512,  # side of the target in pixels; larger images are area-resized, smaller ones refused
    seed=0,  # of order, flips and degradations, 0 <= seed < 2**63
    start=0,  # samples already seen; resume is only this number
    rank=0,  # this process of ...
    world=1,  # ... so many that share the samples out
    flip=0.5,  # probability of a horizontal flip
    lq_from_usm=True,  # degrade the sharpened target, where the recipe has it so
    target_usm=False,  # train on the sharpened target
    crop=None,  # side of random squares of the degraded pairs, in pixels of the target; None = whole images
    device='cpu',
    threads=None,  # CPU threads for decoding and degrading; None = all cores
    cache='off',  # where decoded images are kept: cache.MODES
    decode='auto',  # who decodes PNG and JPH in the dali pipe: the CPU, the GPU (png.py; DALI); auto tries both where there is a GPU and takes the faster
    say=print,
):  # takes notices: files replaced, images resized
    """A pipe: endless iterator of Batch and context manager; close() ends its threads and processes.

    name: 'dali' (DALI decodes and flips), 'torch' (DataLoader and OpenCV) or 'reference' (one image at a time through the float64 definition; slow)
    images: list of manifest.Image, or stream.Shards, or of manifest.Pair or manifest.Stacked, of which nothing but the scale is left to the recipe
    recipe: degrade.Recipe or its name
    On a GPU the CUDA kernels degrade, one batch ahead of the one that is asked for.
    Raises ValueError for unknown names, ImportError where the library of a pipe is missing, KernelError where the kernels cannot run, DataError for a cache or a decoder
    that cannot be, or for fewer shards than processes.
    """
    device, threads = _checked(name, cache, device, decode), threads or os.cpu_count()
    recipe = degrade.recipe(recipe) if isinstance(recipe, str) else recipe
    streamed, in_pairs = isinstance(images, stream.Shards), is_paired(images)
    shared = dict(batch=batch, size=size, seed=seed, flip=flip, crop=crop)
    if in_pairs:
        plan, reader = paired.planned(images, recipe.scale, say=say, **shared)
    else:
        plan = Plan(
            None if streamed else len(images),
            recipe,
            lq_from_usm=lq_from_usm,
            target_usm=target_usm,
            **shared,
        )
        reader = (
            stream.Stream(images, size, seed=seed, start=start, rank=rank, world=world, say=say)
            if streamed
            else Reader(images, size, say)
        )
    beside = plan.channels > 3
    Loader, impl = _loader(name, beside), _impl(name, device)
    kept = (
        stream.no_cache(cache, say)
        if streamed
        else caches.make(cache, images, size, device, say, channels=plan.channels, tall=plan.tall)
        if name != 'reference'
        else None
    )
    options = Options(reader, kept, workers.make(threads), start, rank, world, device, threads)
    if name == 'dali':
        who = pipe_png.decoder(decode, plan, options, say)
        Loader, options = (
            (pipe_png.PngPairs if beside else pipe_png.PngLoader) if who == 'png' else Loader,
            options._replace(mixed=who == 'mixed'),
        )
    return Pipe(Loader(plan, options), plan, device, impl, options.pool, reader, kept)


def make_parse(
    name,
    pairs,
    *,
    batch=8,
    size=512,
    points=None,  # [N, K, 2] of every picture, in pixels of `size`: the target instead of masks
    recipe=None,  # degrade.Recipe or its name: what the parser is to see through; None for the faces as they are
    seed=0,  # of order, augmentations and degradations
    start=0,
    rank=0,
    world=1,
    device='cpu',
    threads=None,
    cache='off',
    decode='auto',
    say=print,
):
    """The same of pictures and masks: input [B, 3, H, W] and target [B, H, W] uint8 ids, both moved alike (augment), the input tinted, and degraded by a recipe.

    pairs: list of masks.pairs.Pair, as masks.pairs.scan_pairs finds them, or with points of manifest.Image, and the target is as of PointPlan; everything else and what is
           raised as in `make`, and DataError for a bad file that points belong to
    """
    device, threads = _checked(name, cache, device, decode), threads or os.cpu_count()
    recipe = degrade.recipe(recipe) if isinstance(recipe, str) else recipe
    shared, masked = dict(batch=batch, size=size, seed=seed, recipe=recipe), points is None
    plan = ParsePlan(len(pairs), **shared) if masked else PointPlan(points, **shared)
    Loader, impl = _loader(name, masked), _impl(name, device)
    kept = (
        caches.make(cache, pairs, size, device, say, channels=plan.channels)
        if name != 'reference'
        else None
    )
    reader = (MaskReader if masked else StrictReader)(pairs, size, say)
    options = Options(reader, kept, workers.make(threads), start, rank, world, device, threads)
    if name == 'dali':
        who = pipe_png.decoder(decode, plan, options, say)
        Loader, options = (
            (pipe_png.PngPairs if masked else pipe_png.PngLoader) if who == 'png' else Loader,
            options._replace(mixed=who == 'mixed'),
        )
    return Pipe(Loader(plan, options), plan, device, impl, options.pool, reader, kept)


def is_paired(images):
    """Whether images to train on are stored pairs."""
    return (
        isinstance(images, list)
        and bool(images)
        and isinstance(images[0], (manifest.Pair, manifest.Stacked))
    )


def _checked(name, cache, device, decode):
    """The device, with its number, once the names are known to be good."""
    if name not in PIPES:
        near = difflib.get_close_matches(name, PIPES, 1)
        raise ValueError(
            f'unknown pipe {name!r}'
            + (f', did you mean {near[0]!r}?' if near else '')
            + f' (there are: {", ".join(PIPES)})'
        )
    if cache not in caches.MODES:
        raise ValueError(f'unknown cache {cache!r} (there are: {", ".join(caches.MODES)})')
    if decode not in DECODERS:
        raise ValueError(f'unknown decoder {decode!r} (there are: {", ".join(DECODERS)})')
    if decode == 'gpu' and name != 'dali':
        raise DataError(
            '--decode gpu: only the dali pipe decodes on a GPU; give --pipe dali, or cpu or auto'
        )
    device = torch.device(device)
    return (
        torch.device('cuda', torch.cuda.current_device() if device.index is None else device.index)
        if device.type == 'cuda'
        else device
    )


def _loader(name, beside):
    if name == 'dali':
        from .pipe_dali import DaliLoader, DaliPairs  # imports DALI

        return DaliPairs if beside else DaliLoader
    if name == 'torch':
        from .pipe_torch import TorchLoader

        return TorchLoader
    from .pipe_reference import ReferenceLoader

    return ReferenceLoader


def _impl(name, device):
    impl = 'ref' if name == 'reference' else 'cuda' if device.type == 'cuda' else 'torch'
    if impl == 'cuda':
        degrade.kernels.need_gpu(
            torch.empty(0, device=device)
        )  # better now than after the data set is read
    return impl
