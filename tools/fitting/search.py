"""The search for ranges: what synthetic pictures have to have drawn to measure like the real ones.

For one knob after the other, pictures are made whose draws cover more than the range sought, while
all other ranges stay. The pictures whose draws lie in a part of it are exactly those of a recipe
with that part, so that thousands of ranges are tried without making another picture. The best one
has the least distance between the distributions of the knob's estimators, that of Cramer and von
Mises, less what it would be by chance. A few sweeps over all knobs follow each other, each of which
looks more closely.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from itertools import product
from typing import NamedTuple

import numpy as np
import torch

import degrade
from degrade import Recipe
from degrade.draw import Draw
from degrade.op import ChainParams

from . import knobs
from .estimators import NAMES, measure

SWEEPS = 3
BINS = 48  # of a range while it is sought
# By which the next sweep looks beyond a range: of its width, and of the whole hull at least.
MARGIN, LEAST_MARGIN = 0.5, 0.1
LEAST = 24  # pictures that a range is judged by
SHARE = 0.75  # probability of a stage while its own is sought
TENTHS = np.arange(11) / 10


class Found(NamedTuple):
    """A range as a part of its hull, and a probability."""

    low: float = 0.0
    high: float = 1.0
    share: float = 1.0


class Faces(NamedTuple):
    """What synthetic pictures are made of."""

    images: Sequence[np.ndarray]  # [size, size, 3] uint8 each
    pool: Executor  # threads
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
    results = list(faces.pool.map(one, range(count)))
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
    count: synthetic pictures for each knob and sweep
    progress: told how many steps of how many are done
    """
    wanted = knobs.of(recipe)
    # What one knob is set to is what the next one is sought with.
    found = {knob.name: Found() for knob in wanted}
    # Numbers of the samples, which never come twice.
    first = 0
    for sweep in range(SWEEPS):
        for knob in wanted:
            progress(first // count, SWEEPS * len(wanted))
            if isinstance(knob, knobs.Mixture):
                recipe = _mixture(knob, recipe, real, partial(simulated, faces=faces), first, count)
            else:
                window = _window(found[knob.name], sweep)
                wide = knob.set(recipe, *window, 0.5 if knob.kinds else SHARE)
                params, values, _ = simulated(wide, faces, first, count)
                best = _range(
                    knob.positions(wide, params),
                    knob.first(wide, params),
                    *_columns(knob.estimators, values, real),
                    window,
                )
                found[knob.name] = best
                recipe = knob.set(recipe, *best)
            first += count
    progress(SWEEPS * len(wanted), SWEEPS * len(wanted))
    return recipe


def _window(found: Found, sweep: int) -> tuple[float, float]:
    """Where a range is sought: everywhere at first, around what was found later."""
    if not sweep:
        return 0.0, 1.0
    # Wider than what was found, as the first look is a coarse one.
    margin = max(MARGIN * (found.high - found.low), LEAST_MARGIN)
    return max(found.low - margin, 0.0), min(found.high + margin, 1.0)


def _columns(
    names: Sequence[str], values: np.ndarray, real: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """For each estimator, which synthetic pictures are below which real one.

    Returns [N, E, R] float32 and the shares of the real ones themselves, [E, R].
    """
    columns = [NAMES.index(name) for name in names]
    # Equal values count half, on both sides: qualities and empty measures are often equal.
    below, shares = [], []
    for column in columns:
        at = np.sort(real[:, column])
        own = values[:, column, None]
        below.append((np.float32(own < at) + (own <= at)) / 2)
        shares.append(((at[:, None] < at).sum(0) + (at[:, None] <= at).sum(0)) / (2 * len(at)))
    return np.stack(below, 1).astype(np.float32), np.stack(shares)


def _distance(share: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Mean squared distance of distributions [..., E, R].

    That of a few pictures is larger by chance already, which keeps ranges from being narrow.
    """
    return ((share - real) ** 2).mean((-2, -1))


def _range(
    positions: np.ndarray,
    first: np.ndarray | None,
    below: np.ndarray,
    real: np.ndarray,
    window: tuple[float, float],
) -> Found:
    """The best part of the window, and the best share of the samples that are `first` [N] bool."""
    acts = ~np.isnan(positions).all(1)
    edges = np.linspace(*window, BINS + 1)
    ones = np.ones(len(acts), bool) if first is None else first
    counts, mean = _inside(positions, acts & ones, below, edges)
    # Of a part in which hardly any picture lies nothing is known.
    enough = counts >= LEAST // 2 if first is not None else counts >= LEAST

    # The others: of another kind, in the same part; or skipped, wherever it lies.
    rest: np.ndarray | None = None
    if (~ones & acts).any():
        other, rest = _inside(positions, acts & ~ones, below, edges)
        enough &= other >= LEAST // 2
    elif (~ones).any():
        rest = np.broadcast_to(below[~ones].mean(0), mean.shape)
    a, b = np.nonzero(enough)
    if not len(a):
        return Found(*window)
    if rest is None:
        return _average(_distance(mean[a, b], real)[None], a, b, edges, real.shape[1])
    mixed = [share * mean[a, b] + (1 - share) * rest[a, b] for share in TENTHS]
    distance = np.stack([_distance(each, real) for each in mixed])
    return _average(distance, a, b, edges, real.shape[1])


def _inside(
    positions: np.ndarray, of: np.ndarray, below: np.ndarray, edges: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Of the samples `of` [N] whose draws all lie in bins a to b: how many, and their mean.

    Returns [BINS, BINS] and [BINS, BINS, E, R].
    """
    # In bins of the smallest and largest of a sample's draws; then sums over all that lie inside.
    spans = [f(positions[of], 1) for f in (np.nanmin, np.nanmax)]
    i, j = (np.clip(np.digitize(span, edges) - 1, 0, BINS - 1) for span in spans)
    # Sample by sample into its bin, since several may fall into one.
    counts = np.zeros((BINS, BINS))
    sums = np.zeros((BINS, BINS, *below.shape[1:]), np.float32)
    np.add.at(counts, (i, j), 1)
    np.add.at(sums, (i, j), below[of])
    counts, sums = (np.cumsum(np.cumsum(x[::-1], 0)[::-1], 1) for x in (counts, sums))
    return counts, sums / np.maximum(counts, 1)[:, :, None, None]


def _average(
    distance: np.ndarray, a: np.ndarray, b: np.ndarray, edges: np.ndarray, reals: int
) -> Found:
    """The mean of the best ones: of many that are as good, the least one would be an accident."""
    # Distances of R pictures differ by about 1 / 12 R by chance.
    weight = np.exp(-(distance - distance.min()) * 12 * reals)
    weight /= weight.sum()
    shares = TENTHS if len(distance) > 1 else np.ones(1)
    return Found(
        low=float((weight * edges[a]).sum()),
        high=float((weight * edges[b + 1]).sum()),
        share=float(np.round((weight * shares[:, None]).sum(), 2)),
    )


def _mixture(
    knob: knobs.Mixture,
    recipe: Recipe,
    real: np.ndarray,
    simulate: Callable[..., tuple[ChainParams, np.ndarray, list[np.ndarray]]],
    first: int,
    count: int,
) -> Recipe:
    """The recipe with the best weights, in tenths."""
    even = knob.set(recipe, (1 / len(knob.names),) * len(knob.names))
    params, values, _ = simulate(even, first=first, count=count)
    chosen = knob.chosen(even, params)
    below, shares = _columns(knob.estimators, values, real)
    # Means of every kind, and of the pictures where none of them acted.
    groups = [below[chosen == k] for k in range(len(knob.names))]
    if min(map(len, groups)) < LEAST:
        return recipe
    means = np.stack([group.mean(0) for group in groups])
    off = below[chosen < 0]
    acting = 1 - len(off) / len(below)
    rest = (1 - acting) * off.mean(0) if len(off) else 0
    weights = np.array([w for w in product(range(11), repeat=len(groups)) if sum(w) == 10]) / 10
    # Any mixture of kinds is the mixture of their distributions.
    mixed = acting * np.tensordot(weights, means, 1) + rest
    distance = _distance(mixed, shares)
    likely = np.exp(-(distance - distance.min()) * 12 * shares.shape[1])
    mean = (likely[:, None] * weights).sum(0) / likely.sum()
    return knob.set(recipe, tuple(float(w) for w in np.round(mean, 2)))
