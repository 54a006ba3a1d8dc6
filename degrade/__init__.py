"""Degradation of HQ images, with parameters of its own for every sample: draw, then apply.

The package can be used alone. Five lines degrade a batch `hq` [B, 3, 512, 512]:

    from degrade import Draw, degrade, recipe, sample
    chain  = recipe('ai6126_2024')
    draw   = Draw(seed=0, samples=range(len(hq)), tied=chain.tied, batch=len(hq))
    params = sample(chain, draw, size=(512, 512))      all randomness: [B] arrays for every stage
    lq     = degrade(hq, chain, params)                a pure function; impl='cuda' on a GPU
"""

import difflib
import traceback
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from typing import Any

import numpy as np
import torch

from errors import KernelError

from . import canvas, gray, kernels, recipe_file, usm
from .canvas import Canvas
from .draw import Draw
from .op import ChainParams, Op, Sizes
from .recipes import RECIPES, SAME_SIZE, Recipe, Stage
from .sampling import sample, size_after

__all__ = [
    'IMPLS',
    'RECIPES',
    'SAME_SIZE',
    'SHARPENING',
    'Draw',
    'Op',
    'Recipe',
    'Sizes',
    'Stage',
    'chain_cuda',
    'chain_ref',
    'chain_torch',
    'degrade',
    'gray',
    'recipe',
    'records',
    'sample',
    'sharpen',
    'sharpened',
    'take',
    'without_usm',
]

IMPLS = 'ref', 'torch', 'cuda'


# ---- recipes and their parameters ----


def recipe(name: str) -> Recipe:
    """Return a recipe by its name, or that of a file: FILE.toml.

    Raises ValueError with the nearest name, and RecipeError for a file that is no recipe.
    """
    if name.endswith('.toml'):
        return recipe_file.read(name)
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, 1)
        hint = f', did you mean {near[0]!r}?' if near else ''
        raise ValueError(
            f'unknown recipe {name!r}{hint} (there are: {", ".join(RECIPES)}; FILE.toml)'
        )
    return RECIPES[name]


def without_usm(recipe: Recipe) -> Recipe:
    """Return the recipe without sharpening, so that it starts from the plain ground truth."""
    return recipe._replace(stages=tuple(s for s in recipe.stages if s.op is not usm))


def take(params: ChainParams, i: int | slice | np.ndarray) -> ChainParams:
    """Select the samples `i` of parameters; an integer gives scalars."""
    return tuple(type(p)(*(values[i] for values in p)) for p in params)


# ---- the chain, stage by stage ----


def chain_ref(
    x: np.ndarray, recipe: Recipe, params: ChainParams
) -> Iterator[tuple[Stage, np.ndarray]]:
    """Yield (stage, image) after every stage of one image [h, w, 3] float64 in [0, 1].

    params: of one sample
    """
    for stage, p in zip(recipe.stages, params, strict=True):
        x = stage.op.run_ref(x, p)
        yield stage, x


def chain_torch(
    x: torch.Tensor, recipe: Recipe, params: ChainParams, opencv: bool = False
) -> Iterator[tuple[Stage, Canvas]]:
    """Yield (stage, Canvas) after every stage of x [B, 3, h, w] float32 or uint8."""
    c = canvas.of(x)
    for stage, p in zip(recipe.stages, params, strict=True):
        c = stage.op.run_torch(c, p, opencv)
        yield stage, c


def records(recipe: Recipe, params: ChainParams, size: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """What the kernels are given of every stage: [B] arrays of structs.

    size: (height, width) of the ground truth
    They can be made ahead for many samples at once, and be cut like the parameters.
    """
    # They hold the true sizes, which are known here and never read back from the GPU.
    now = np.full((len(params[0][0]) if params else 0, 2), size, np.int64)
    made = []
    for stage, p in zip(recipe.stages, params, strict=True):
        made.append(stage.op.record(p, now))
        now = size_after(p, now)
    return tuple(made)


def chain_cuda(
    x: torch.Tensor,
    recipe: Recipe,
    params: ChainParams,
    there: Sequence[torch.Tensor] | None = None,
) -> Iterator[tuple[Stage, Canvas]]:
    """Yield (stage, Canvas) after every stage of x [B, 3, h, w] float32 or uint8 on a GPU.

    there: the bytes of `records` on the GPU; without them they are made and sent
    """
    kernels.need_gpu(x)
    c = canvas.of(x.contiguous(memory_format=torch.channels_last))

    # The parameters of all stages travel in one copy before the first kernel starts.
    if there is None:
        there = kernels.upload(records(recipe, params, (x.shape[2], x.shape[3])), x.device)
    for stage, p, r in zip(recipe.stages, params, there, strict=True):
        c = stage.op.run_cuda(c, p, r)
        yield stage, c


# ---- whole batches ----


def degrade(
    x: torch.Tensor,
    recipe: Recipe,
    params: ChainParams,
    impl: str = 'torch',
    *,
    opencv: bool | None = None,
    pool: Executor | None = None,
    there: Sequence[torch.Tensor] | None = None,
) -> torch.Tensor:
    """Apply a recipe.

    x:      [B, 3, H, W] uint8 or float32 in [0, 1], RGB; channels-last is fastest
    params: from `sample`
    impl:   'ref' (float64, one image at a time: the definition), 'torch', or 'cuda' (kernels; x
            must be on a GPU)
    opencv: on CPU tensors, let OpenCV do what it does faster within tolerance; None means True
    pool:   executor of threads over which the images of a CPU batch are spread
    there:  bytes of `records`, where they are on the GPU already
    Returns [B, 3, h, w] float32, multiples of 1/255 in [0, 1], channels-last.
    Raises ValueError for an unknown impl and for 'cuda' without a GPU, and KernelError where the
    kernels cannot run or the GPU's memory does not suffice.
    """
    if impl not in IMPLS:
        raise ValueError(f'unknown impl {impl!r} (there are: {", ".join(IMPLS)})')
    if impl == 'cuda':
        return _on_gpu(x, recipe, params, there)
    if impl == 'torch' and x.device.type != 'cpu':
        return canvas.unit(_last(chain_torch(x, recipe, params)).pix)

    # Image by image: each then stays in the CPU's cache from stage to stage.
    def one(i: int) -> torch.Tensor:
        image, own = x[i : i + 1], take(params, slice(i, i + 1))
        if impl == 'ref':
            return _one_ref(image, recipe, own)
        return canvas.unit(_last(chain_torch(image, recipe, own, opencv is not False)).pix)

    images = pool.map(one, range(len(x))) if pool else map(one, range(len(x)))
    return torch.cat(list(images)).contiguous(memory_format=torch.channels_last)


def sharpen(
    x: torch.Tensor,
    impl: str = 'torch',
    *,
    pool: Executor | None = None,
    there: Sequence[torch.Tensor] | None = None,
) -> torch.Tensor:
    """Return USM-sharpened [B, 3, H, W] float32 of uint8 or float32 images.

    It is the target of runs that train on sharpened ground truth.
    there: bytes of the `records` of SHARPENING, where they are on the GPU already
    """
    return degrade(x, SHARPENING, sharpened(len(x)), impl, pool=pool, there=there)


SHARPENING = Recipe('usm', (Stage('usm', usm),))


def sharpened(count: int) -> ChainParams:
    """Parameters of SHARPENING that sharpen every one of `count` images."""
    return (usm.Params(np.ones(count, bool)),)


def _one_ref(x: torch.Tensor, recipe: Recipe, params: ChainParams) -> torch.Tensor:
    """Degrade one image [1, 3, H, W] by the reference."""
    scale = np.float64(255 if x.dtype == torch.uint8 else 1)
    image = x[0].permute(1, 2, 0).cpu().numpy() / scale
    y = _last(chain_ref(image, recipe, take(params, 0)))
    return canvas.nchw(y.astype(np.float32)).to(x.device)


def _on_gpu(
    x: torch.Tensor,
    recipe: Recipe,
    params: ChainParams,
    there: Sequence[torch.Tensor] | None,
) -> torch.Tensor:
    """Degrade a batch by the kernels."""
    try:
        c = _last(chain_cuda(x, recipe, params, there))
        # All samples have the size of the network's input now, and the canvas may be larger.
        h, w = c.size[0]
        return canvas.unit(c.pix[:, :, :h, :w]).contiguous(memory_format=torch.channels_last)
    except torch.OutOfMemoryError as e:
        traceback.clear_frames(e.__traceback__)  # they hold the canvases
        raise KernelError(_too_large(x, params)) from e


def _too_large(x: torch.Tensor, params: ChainParams) -> str:
    """What to say when the GPU's memory does not suffice, with the batch that would fit."""
    sizes = [p.size for p in params if hasattr(p, 'size')]
    areas = [int((-(-s // kernels.SIDE) * kernels.SIDE).prod(1).max()) for s in sizes]
    largest = max(x.shape[2] * x.shape[3], *areas)

    # At most four float32 canvases of three channels live at once.
    each = 4 * 12 * largest
    cached = torch.cuda.memory_reserved(x.device) - torch.cuda.memory_allocated(x.device)
    free = torch.cuda.mem_get_info(x.device)[0] + cached
    return (
        f'the GPU ran out of memory degrading {len(x)} images of {x.shape[3]}x{x.shape[2]}: '
        f'each takes up to {each / 1e6:.0f} MB, {free / 1e6:,.0f} MB are free. '
        f'A --batch of {max(free // each, 1)} would fit, if the network leaves it room; '
        '--cache host or off frees what the cache holds'
    )


def _last(stages: Iterable[tuple[Stage, Any]]) -> Any:
    """The result after the last stage."""
    x = None
    for _, image in stages:
        x = image
    return x
