"""The search for ranges: what synthetic pictures have to have drawn to measure like the real ones.

For one knob after the other, pictures are made whose draws cover more than the range sought, while
all other ranges stay. What they would measure with draws from a part of it follows from how the
measures depend on the draws (the regression adjustment of Beaumont, Zhang and Balding 2002), so
that a thousand ranges are tried without making another picture. The best one has the least distance
between the distributions of what summary.py makes of the measures. A few sweeps over all knobs
follow each other, each of which looks more closely.
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
from errors import RunError

from . import knobs, summary
from .estimators import measure

SWEEPS = 3
BINS = 48  # of a range while it is sought
# By which the next sweep looks beyond a range: of its width, and of the whole hull at least.
MARGIN, LEAST_MARGIN = 0.5, 0.1
DEGREES = 4, 2  # of what a number depends on, and of how much it varies beside that
LEAST = 24  # pictures of a kind
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
                drawn = knob.positions(wide, params), knob.first(wide, params)
                _check(knob.name, int((~np.isnan(drawn[0])).any(1).sum()), count)
                best = _range(*drawn, *_statistics(*drawn, values, real), window)
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


def _statistics(
    positions: np.ndarray, first: np.ndarray | None, values: np.ndarray, real: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What a range is judged by, of the synthetic and of the real pictures: [N, S] and [R, S]."""
    acts = ~np.isnan(positions).all(1)
    # Where in the hull the draws lie; then of which kind they are, or whether there are any.
    targets = [(_filled(positions).mean(1), acts)]
    if first is not None:
        kinds = (acts & ~first).any()
        targets.append((first.astype(np.float64), acts if kinds else np.ones(len(acts), bool)))
    pairs = [summary.expected(target, known, values, real) for target, known in targets]
    return np.stack([x for x, _ in pairs], 1), np.stack([y for _, y in pairs], 1)


def _range(
    positions: np.ndarray,
    first: np.ndarray | None,
    values: np.ndarray,
    real: np.ndarray,
    window: tuple[float, float],
) -> Found:
    """Find the part of the window, and the share of the samples that are `first` [N] bool.

    positions: [N, k] parts of the hull, NaN where nothing acts
    values:    [N, S] numbers of the pictures with these draws
    real:      [R, S] of those that are to be like them
    """
    acts = ~np.isnan(positions).all(1)
    one = acts if first is None else acts & first
    two = acts & ~one
    edges = np.linspace(*window, BINS + 1)
    shares = np.ones(1) if first is None else TENTHS
    distance = np.zeros((len(shares), BINS * (BINS + 1) // 2))
    for value, at in zip(values.T, np.sort(real, 0).T, strict=True):
        mine = _moved(positions[one], value[one], edges, at)
        other = still = _below(np.sort(value[~acts]), at)
        acting = 1.0
        # A probability mixes with pictures that are spared, a kind with those of the other kind.
        if two.any():
            other = _moved(positions[two], value[two], edges, at)
        if two.any() or first is None:
            acting = acts.mean()
        for k, share in enumerate(shares):
            mixed = acting * (share * mine + (1 - share) * other) + (1 - acting) * still
            distance[k] += _distance(mixed)
    return _average(distance / values.shape[1], edges, shares, len(real))


def _moved(
    positions: np.ndarray, value: np.ndarray, edges: np.ndarray, at: np.ndarray
) -> np.ndarray:
    """For every part of the window, which share of its pictures would be below each real one.

    positions, value: [M, k] and [M] of the pictures of the whole window
    edges: [BINS + 1] between which the parts lie
    at:    [R] sorted
    Returns [parts, R].
    """
    # Each picture goes to the same place in the part as it has in the window. On the way its number
    # changes as it does on average, and what is left over grows or shrinks likewise.
    positions = _filled(positions)
    terms, coarse = (_terms(positions, degree) for degree in DEGREES)
    weights = _fit(terms, value)
    left = value - terms @ weights
    size = _fit(coarse, np.abs(left))
    floor = np.abs(left).mean() / 5
    scaled = left / np.maximum(coarse @ size, floor)

    inside = (positions - edges[0]) / (edges[-1] - edges[0])
    rows = []
    for a, b in zip(*_parts(edges), strict=True):
        terms, coarse = (_terms(a + (b - a) * inside, degree) for degree in DEGREES)
        moved = terms @ weights + scaled * np.maximum(coarse @ size, floor)
        rows.append(_below(np.sort(moved), at))
    return np.stack(rows)


def _fit(terms: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Least squares."""
    weights: np.ndarray = np.linalg.lstsq(terms, value, rcond=None)[0]
    return weights


def _filled(positions: np.ndarray) -> np.ndarray:
    """Parts of the hull, with a sample's mean where one of its stages does not act."""
    acts = ~np.isnan(positions)
    known = np.where(acts, positions, 0)
    mean = known.sum(1) / np.maximum(acts.sum(1), 1)
    return np.where(acts, positions, mean[:, None])


def _terms(positions: np.ndarray, degree: int) -> np.ndarray:
    """[M, terms] of what a number depends on: the middle of the draws, and how far they differ."""
    middle, apart = positions.mean(1), np.ptp(positions, 1)
    powers = [middle**k for k in range(degree + 1)]
    return np.stack([*powers, apart, apart * middle, apart * apart], 1)


def _parts(edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends of all parts of a window."""
    i, j = np.triu_indices(len(edges), 1)
    return edges[i], edges[j]


def _below(ordered: np.ndarray, at: np.ndarray) -> np.ndarray:
    """[R] shares of sorted numbers below each of `at`; equal ones count half."""
    # Qualities are often equal.
    both = [np.searchsorted(ordered, at, side) for side in ('left', 'right')]
    return (both[0] + both[1]) / max(2 * len(ordered), 1)


def _distance(share: np.ndarray) -> np.ndarray:
    """Anderson and Darling's of [..., R], shares below each of the sorted real numbers.

    It looks at the ends of a distribution as closely as at its middle, where ranges hardly differ.
    """
    even = (np.arange(share.shape[-1]) + 0.5) / share.shape[-1]
    return ((share - even) ** 2 / (even * (1 - even))).mean(-1)


def _average(distance: np.ndarray, edges: np.ndarray, shares: np.ndarray, reals: int) -> Found:
    """The mean of the best ones: of many that are as good, the least one would be an accident."""
    weight = _likely(distance, reals)
    low, high = _parts(edges)
    return Found(
        low=float((weight * low).sum()),
        high=float((weight * high).sum()),
        share=float(np.round((weight * shares[:, None]).sum(), 2)),
    )


def _likely(distance: np.ndarray, reals: int) -> np.ndarray:
    """Weights of what is tried, which sum to 1: R times the distance is about 1 by chance."""
    weight = np.exp(-2 * (distance - distance.min()) * reals)
    normalised: np.ndarray = weight / weight.sum()
    return normalised


def _mixture(
    knob: knobs.Mixture,
    recipe: Recipe,
    real: np.ndarray,
    simulate: Callable[..., tuple[ChainParams, np.ndarray, list[np.ndarray]]],
    first: int,
    count: int,
) -> Recipe:
    """Return the recipe with the best weights."""
    # As many pictures of each kind, and enough that are spared.
    kinds, on = range(len(knob.names)), knob.acting(recipe)
    even = knob.set(recipe, (1 / len(kinds),) * len(kinds), None if on is None else SHARE)
    params, values, _ = simulate(even, first=first, count=count)
    chosen = knob.chosen(even, params)
    acts = chosen >= 0
    _check(knob.name, min((chosen == k).sum() for k in kinds), count)
    acting = acts.mean() if on is None else on

    # Any mixture of kinds is the mixture of their distributions.
    weights = np.array([w for w in product(range(11), repeat=len(kinds)) if sum(w) == 10]) / 10
    distance = np.zeros(len(weights))
    for k in kinds:
        value, own = summary.expected((chosen == k).astype(np.float64), acts, values, real)
        at = np.sort(own)
        means = np.stack([_below(np.sort(value[chosen == j]), at) for j in kinds])
        still = _below(np.sort(value[~acts]), at)
        distance += _distance(acting * weights @ means + (1 - acting) * still) / len(kinds)
    mean = _likely(distance, len(real)) @ weights
    return knob.set(recipe, tuple(float(w) for w in np.round(mean, 2)))


def _check(name: str, shown: int, count: int) -> None:
    """Raise RunError where too few pictures show what is sought."""
    if shown < LEAST:
        raise RunError(
            f'{name}: {shown} of {count} pictures show it, {LEAST} are needed: '
            f'give --count {count * LEAST // max(shown, 1)} or another --from'
        )
