"""The parameters of a whole recipe, drawn for the samples of a batch."""

from typing import Any

import numpy as np

from .draw import Draw
from .op import ChainParams, Sizes
from .recipes import Recipe, Stage


def sample(recipe: Recipe, draw: Draw, size: tuple[int, int]) -> ChainParams:
    """Draw the parameters of every stage.

    draw: of B samples
    size: (height, width) of the ground truth
    Returns a tuple of NamedTuples of [B] arrays, one per stage.
    """
    # Sizes are drawn on the CPU and per sample: a resize changes what later stages see.
    gt = np.tile(np.array(size, np.int64), (len(draw.samples), 1))
    sizes = Sizes(now=gt, gt=gt, lq=gt // recipe.scale)
    params = []
    for stage in recipe.stages:
        p = stage.op.sample(draw.at(stage.name), active(draw, stage), sizes, **stage.ranges)
        sizes = sizes._replace(now=size_after(p, sizes.now))
        params.append(p)
    return tuple(params)


def active(draw: Draw, stage: Stage) -> np.ndarray:
    """Return [B] bool: where the stage acts."""
    here = np.ones(len(draw.samples), bool)
    if stage.place:
        # In a drawn order the stage acts only where its part stands.
        order = draw.order(stage.place.order, stage.place.parts)
        here = order[:, stage.place.position] == stage.place.part
    if isinstance(stage.on, tuple):
        name, low, high = stage.on
        u = draw.uniform(name)
        return here & (low <= u) & (u < high)
    if stage.on == 1:
        return here
    return here & (draw.uniform(f'{stage.name}/on') < stage.on)


def size_after(p: Any, size: np.ndarray) -> np.ndarray:
    """Return the [B, 2] sizes after a stage: only a resize's parameters have a size."""
    return getattr(p, 'size', size)
