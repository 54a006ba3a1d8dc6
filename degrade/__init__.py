"""Degradation of HQ images with parameters of its own for every sample: draw, then apply.

params = sample(recipe, draw, size=(512, 512))         all randomness, one NamedTuple of [B] arrays per stage
lq     = degrade(hq, recipe, params)                   a pure function
"""

import difflib
import traceback
from typing import NamedTuple

import numpy as np
import torch

from errors import KernelError

from . import canvas, kernels, usm
from .recipes import RECIPES, SAME_SIZE, Recipe, Stage

IMPLS = 'ref', 'torch', 'cuda'


class Sizes(NamedTuple):
    now: np.ndarray  # [B, 2] int64 height and width where a stage begins
    gt: np.ndarray  # [B, 2] of the ground truth
    lq: np.ndarray  # [B, 2] of the network's input


def recipe(name):
    """Recipe by name; ValueError with the near miss."""
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, 1)
        raise ValueError(
            f'unknown recipe {name!r}'
            + (f', did you mean {near[0]!r}?' if near else '')
            + f' (there are: {", ".join(RECIPES)})'
        )
    return RECIPES[name]


def without_usm(recipe):
    """The recipe starting from the plain ground truth."""
    return recipe._replace(stages=tuple(s for s in recipe.stages if s.op is not usm))


def sample(recipe, draw, size):
    """Draw the parameters of every stage.

    draw: draw.Draw of B samples; size: (height, width) of the ground truth
    Returns a tuple of NamedTuples of [B] arrays, one per stage.
    """
    b = len(draw.samples)
    gt = np.tile(np.array(size, np.int64), (b, 1))
    sizes, params = Sizes(gt, gt, gt // recipe.scale), []
    for stage in recipe.stages:
        p = stage.op.sample(draw.at(stage.name), _active(draw, stage, b), sizes, **stage.ranges)
        sizes = sizes._replace(now=getattr(p, 'size', sizes.now))  # resize alone has a size
        params.append(p)
    return tuple(params)


def _active(draw, stage, b):
    """[B] bool: where the stage acts."""
    here = np.ones(b, bool)
    if stage.place:
        name, parts, position, part = stage.place
        here = draw.order(name, parts)[:, position] == part
    if stage.on == 1:
        return here
    if isinstance(stage.on, tuple):
        name, low, high = stage.on
        u = draw.uniform(name)
        return here & (low <= u) & (u < high)
    return here & (draw.uniform(f'{stage.name}/on') < stage.on)


def take(params, i):
    """Parameters of the samples `i` (a slice or an index array; an integer gives scalars)."""
    return tuple(type(p)(*(f[i] for f in p)) for p in params)


def chain_ref(x, recipe, params):
    """One image [h, w, 3] float64 in [0, 1], params of one sample: yields (stage, image) after every stage."""
    for stage, p in zip(recipe.stages, params):
        x = stage.op.run_ref(x, p)
        yield stage, x


def chain_torch(x, recipe, params, opencv=False):
    """x [B, 3, h, w] float32 or uint8: yields (stage, Canvas) after every stage."""
    c = canvas.of(x)
    for stage, p in zip(recipe.stages, params):
        c = stage.op.run_torch(c, p, opencv)
        yield stage, c


def chain_cuda(x, recipe, params):
    """x [B, 3, h, w] float32 or uint8 on a GPU: yields (stage, Canvas) after every stage."""
    kernels.need_gpu(x)
    c, size, records = (
        canvas.of(x.contiguous(memory_format=torch.channels_last)),
        np.tile(np.array(x.shape[-2:], np.int64), (len(x), 1)),
        [],
    )
    for stage, p in zip(recipe.stages, params):
        records.append(stage.op.record(p, size))
        size = getattr(p, 'size', size)  # resize alone has a size
    for stage, p, r in zip(recipe.stages, params, kernels.upload(records, x.device)):
        c = stage.op.run_cuda(c, p, r)
        yield stage, c


def degrade(x, recipe, params, impl='torch', *, opencv=None, pool=None):
    """Apply a recipe.

    x:      [B, 3, H, W] uint8 or float32 in [0, 1], RGB; channels-last is fastest
    params: from `sample`
    impl:   'ref' (float64, one image at a time: the definition), 'torch', or 'cuda' (kernels; x must be on a GPU)
    opencv: on CPU tensors, let OpenCV do what it does faster within tolerance; None = where the tensor is on the CPU
    pool:   concurrent.futures executor of threads; images of a CPU batch are spread over it
    Returns [B, 3, h, w] float32, multiples of 1/255 in [0, 1], channels-last.
    """
    if impl not in IMPLS:
        raise ValueError(f'unknown impl {impl!r} (there are: {", ".join(IMPLS)})')
    if impl == 'cuda':
        try:
            return _whole_batch(x, recipe, params)
        except torch.OutOfMemoryError as e:
            traceback.clear_frames(e.__traceback__)  # they hold the canvases
            raise KernelError(_too_large(x, params)) from e
    if x.device.type != 'cpu' and impl == 'torch':
        return canvas.unit(_last(chain_torch(x, recipe, params)).pix)
    run = _one_ref if impl == 'ref' else _one_torch
    opencv = opencv is None or opencv
    images = (pool.map if pool else map)(
        lambda i: run(x[i : i + 1], recipe, take(params, slice(i, i + 1)), opencv), range(len(x))
    )
    return torch.cat(list(images)).contiguous(memory_format=torch.channels_last)


def _whole_batch(x, recipe, params):
    return canvas.unit(_last(chain_cuda(x, recipe, params)).pix).contiguous(
        memory_format=torch.channels_last
    )


def _too_large(x, params):
    """What to say when the GPU's memory does not suffice, with the batch that would fit."""
    largest = max(
        [
            x.shape[2] * x.shape[3],
            *(int(p.size.prod(1).max()) for p in params if hasattr(p, 'size')),
        ]
    )
    each = 4 * 12 * largest  # bytes: at most four float32 canvases live at once
    held = torch.cuda.memory_reserved(x.device) - torch.cuda.memory_allocated(x.device)
    free = torch.cuda.mem_get_info(x.device)[0] + held
    return (
        f'the GPU ran out of memory degrading {len(x)} images of {x.shape[3]}x{x.shape[2]}: each takes up to {each / 1e6:.0f} MB, {free / 1e6:,.0f} MB are free. '
        f'A --batch of {max(free // each, 1)} would fit, if the network leaves it room; --cache host or off frees what the cache holds'
    )


def sharpen(x, impl='torch', *, pool=None):
    """USM-sharpened [B, 3, H, W] float32 of uint8 or float32 images: the target of runs that train on sharpened ground truth."""
    only = Recipe('usm', (Stage('usm', usm),))
    return degrade(x, only, (usm.Params(np.ones(len(x), bool)),), impl, pool=pool)


def _one_ref(x, recipe, params, _):
    image = x[0].permute(1, 2, 0).cpu().numpy() / np.float64(255 if x.dtype == torch.uint8 else 1)
    return canvas.nchw(_last(chain_ref(image, recipe, take(params, 0))).astype(np.float32)).to(
        x.device
    )


def _one_torch(x, recipe, params, opencv):
    return canvas.unit(_last(chain_torch(x, recipe, params, opencv)).pix)


def _last(stages):
    x = None
    for _, x in stages:
        pass
    return x
