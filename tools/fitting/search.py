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
MARGINS = 1.0, 0.5, 0.25, 0.12, 0.06
LEAST_MARGIN = 0.01
SWEEPS = len(MARGINS)
LEAST = 20  # pictures of a group
SHARES = 0.25, 0.75  # of groups in a pool, at least and at most


class Faces(NamedTuple):
    """What synthetic pictures are made of."""

    images: Sequence[np.ndarray]  # [size, size, 3] uint8 each
    threads: Executor
    seed: int


def simulated(
    recipe: Recipe, faces: Faces, first: int, count: int
) -> tuple[ChainParams, np.ndarray, list[np.ndarray]]:
    """Degrade samples first, first + 1, ...: (parameters, [count, estimators], pictures)."""
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
    results = list(faces.threads.map(one, range(count)))
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
    progress: told how many steps of how many are done
    Raises RunError where `count` is too small.
    """
    wanted = knobs.of(recipe)
    states = [
        State() if isinstance(knob, knobs.Mixture) else State(*knob.part(recipe)) for knob in wanted
    ]
    total = SWEEPS * (1 + ROUNDS)
    for sweep, margin in enumerate(MARGINS):
        progress(sweep * (1 + ROUNDS), total)
        wide = _set(recipe, wanted, [state.wide(margin) for state in states])
        params, values, _ = simulated(wide, faces, sweep * count, count)
        seen = [
            _seen(knob, wide, params, s.wide(margin))
            for knob, s in zip(wanted, states, strict=True)
        ]
        stood = [state.stood(margin) for state in states]
        found = [Found(weights=np.full(s.groups, 1 / s.groups)) for s in seen]
        pictures = pool.Pool(seen, values, real)
        numbers = [pictures.numbers(k) for k in range(len(wanted))]
        for turn in range(ROUNDS):
            progress(sweep * (1 + ROUNDS) + 1 + turn, total)
            for k in range(len(wanted)):
                found[k] = pool.best(pictures, k, numbers[k], found, stood[k])
        states = [state.closed(own, margin) for state, own in zip(states, found, strict=True)]
        # What was found, for the file and for whoever looks.
        recipe = _set(recipe, wanted, states)
    progress(total, total)
    return recipe


class State(NamedTuple):
    """Where a knob stands: a part of its hull, and weights of its groups; None is even."""

    low: float = 0.0
    high: float = 1.0
    weights: tuple[float, ...] | None = None

    def wide(self, margin: float) -> 'State':
        """Return the window that the next pool covers."""
        margin = max(margin * (self.high - self.low), LEAST_MARGIN)
        weights = self.weights and tuple(float(w) for w in np.clip(self.weights, *SHARES))
        return State(max(self.low - margin, 0.0), min(self.high + margin, 1.0), weights)

    def stood(self, margin: float) -> Found:
        """Return where this is in the window."""
        low, high, _ = self.wide(margin)
        return Found((self.low - low) / (high - low), (self.high - low) / (high - low))

    def closed(self, found: Found, margin: float) -> 'State':
        """Return what was found in the window of this state."""
        window = self.wide(margin)
        low, high = (window.low + (window.high - window.low) * x for x in (found.low, found.high))
        return State(low, high, tuple(float(w) for w in np.round(found.weights, 2)))


def _set(
    recipe: Recipe, wanted: Sequence[knobs.Range | knobs.Mixture], states: Sequence[State]
) -> Recipe:
    """The recipe with every knob where it stands."""
    for knob, state in zip(wanted, states, strict=True):
        if isinstance(knob, knobs.Mixture):
            even = (1 / len(knob.names),) * len(knob.names)
            recipe = knob.set(recipe, state.weights or even)
        else:
            share = state.weights[0] if state.weights else 0.5
            recipe = knob.set(recipe, state.low, state.high, share)
    return recipe


def _seen(
    knob: knobs.Range | knobs.Mixture, recipe: Recipe, params: ChainParams, window: State
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
