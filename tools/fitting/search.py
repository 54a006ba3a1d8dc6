"""The search for ranges: what synthetic pictures have to have drawn to measure like the real ones.

All ranges are sought at once, each in a window of its own, in pictures that vary in all of them. A
few rounds over the knobs, each of which is set to what fits best while the others stay where they
were found, need no other pictures; see pool.py. Then the windows close around what was found, new
pictures are made, and it is looked for more closely.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import NamedTuple

import numpy as np
import torch

import degrade
from degrade import Recipe
from degrade.draw import Draw
from degrade.op import ChainParams
from errors import RunError

from . import knobs, pool
from .estimators import measure
from .pool import Found

ROUNDS = 3
# By which each sweep looks beyond a range: of its width, and of the whole hull at least.
MARGINS = 1.0, 0.5, 0.5, 0.5, 0.25
LEAST_MARGIN = 0.03
SHRINK = 0.5  # of the window before: a range that is taken for too narrow is found again
SWEEPS = len(MARGINS)
LEAST = 20  # pictures of a group
SHARES = 0.25, 0.75  # of groups in a pool, at least and at most


class Faces(NamedTuple):
    """What synthetic pictures are made of."""

    images: Sequence[np.ndarray]  # [size, size, 3] uint8 each
    threads: Executor
    seed: int


def simulated(
    recipe: Recipe,
    faces: Faces,
    first: int,
    count: int,
    made: Callable[[int], None] = lambda number: None,
) -> tuple[ChainParams, np.ndarray, list[np.ndarray]]:
    """Degrade samples first, first + 1, ...: (parameters, [count, estimators], pictures).

    made: told the number of each sample that is done
    """
    # Sample numbers go on from call to call, so that no picture is seen twice.
    draw = Draw(faces.seed, first + np.arange(count), tied=recipe.tied, batch=1)
    side = faces.images[0].shape[0]
    params = degrade.sample(recipe, draw, (side, side))

    def one(i: int) -> tuple[np.ndarray, np.ndarray]:
        face = torch.from_numpy(faces.images[(first + i) % len(faces.images)])
        own = degrade.take(params, slice(i, i + 1))
        y = degrade.degrade(face.permute(2, 0, 1)[None], recipe, own)
        lq = (y[0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        return measure(lq), lq

    # Threads go over pictures, as everything else runs on one.
    results = []
    for i, result in enumerate(faces.threads.map(one, range(count))):
        results.append(result)
        made(first + i)
    return params, np.stack([m for m, _ in results]), [lq for _, lq in results]


def fitted(
    recipe: Recipe,
    real: np.ndarray,
    faces: Faces,
    count: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Recipe:
    """Return the recipe with the ranges that measure like the real pictures.

    real:  [R, estimators] of the real pictures
    count: synthetic pictures for each of SWEEPS sweeps
    progress: told how many synthetic pictures of how many are made
    Raises RunError where `count` is too small.
    """
    wanted = knobs.of(recipe)
    # Where every knob stands, as a part of its hull, and what the last pool covered of it.
    states = windows = [_stands(knob, recipe) for knob in wanted]
    for sweep, margin in enumerate(MARGINS):
        windows = [s.wide(margin, w) for s, w in zip(states, windows, strict=True)]
        wide = _set(recipe, wanted, windows)
        params, values, _ = simulated(
            wide, faces, sweep * count, count, lambda n: progress(n + 1, SWEEPS * count)
        )
        seen = [_seen(*each, wide, params) for each in zip(wanted, windows, strict=True)]
        # Where a range stands, and then what is found for it, as a part of its window.
        found = [_inside(*each) for each in zip(states, windows, strict=True)]
        found = _settled(pool.Pool(seen, values, real), found)
        states = [w.part(f) for w, f in zip(windows, found, strict=True)]
    return _set(recipe, wanted, states)


def _settled(pictures: pool.Pool, stood: list[Found]) -> list[Found]:
    """What fits best, knob by knob, until they hardly move any more."""
    found = list(stood)
    numbers = [pictures.numbers(k) for k in range(len(found))]
    for _ in range(ROUNDS):
        for k, own in enumerate(numbers):
            found[k] = pool.best(pictures, k, own, found, stood[k])
    return found


class State(NamedTuple):
    """Where a knob stands: a part of its hull, and weights of its groups."""

    low: float
    high: float
    weights: tuple[float, ...]

    def wide(self, margin: float, before: 'State') -> 'State':
        """Return the window that the next pool covers. before: that of the last one."""
        width = self.high - self.low
        beyond = (SHRINK * (before.high - before.low) - width) / 2
        margin = max(margin * width, beyond, LEAST_MARGIN)
        weights = tuple(float(w) for w in np.clip(self.weights, *SHARES))
        return State(max(self.low - margin, 0.0), min(self.high + margin, 1.0), weights)

    def part(self, found: Found) -> 'State':
        """Return what was found in this window."""
        low, high = (self.low + (self.high - self.low) * x for x in (found.low, found.high))
        return State(low, high, tuple(float(w) for w in np.round(found.weights, 2)))


def _stands(knob: knobs.Range | knobs.Mixture, recipe: Recipe) -> State:
    """Where a knob stands in a recipe."""
    part = (0.0, 1.0) if isinstance(knob, knobs.Mixture) else knob.part(recipe)
    return State(*part, knob.weights(recipe))


def _inside(state: State, window: State) -> Found:
    """Where a knob stands, as a part of the window."""
    ends = (np.array((state.low, state.high)) - window.low) / (window.high - window.low)
    return Found(float(ends[0]), float(ends[1]), np.array(state.weights))


def _set(
    recipe: Recipe, wanted: Sequence[knobs.Range | knobs.Mixture], states: Sequence[State]
) -> Recipe:
    """The recipe with every knob where it stands."""
    for knob, state in zip(wanted, states, strict=True):
        if isinstance(knob, knobs.Mixture):
            recipe = knob.set(recipe, state.weights)
        else:
            recipe = knob.set(recipe, state.low, state.high, state.weights[0])
    return recipe


def _seen(
    knob: knobs.Range | knobs.Mixture, window: State, recipe: Recipe, params: ChainParams
) -> pool.Seen:
    """What a pool drew of a knob. Raises RunError where too few pictures show it."""
    if isinstance(knob, knobs.Mixture):
        seen = knob.seen(recipe, params)
    else:
        seen = knob.seen(recipe, params, (window.low, window.high))
    count, shown = len(seen.group), min((seen.group == g).sum() for g in range(seen.groups))
    if shown < LEAST:
        raise RunError(
            f'{knob.name}: {shown} of {count} pictures show it, {LEAST} are needed: '
            f'give --count {count * LEAST // max(shown, 1)} or another --from'
        )
    return seen
