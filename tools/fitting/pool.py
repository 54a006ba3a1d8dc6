"""Synthetic pictures from which it follows what pictures of other ranges would measure.

All ranges vary in a pool at once, each within a window of its own. A picture of a narrower range is
one of the pool whose draws moved: to the same place in the range as they have in the window. What
is measured moves as it does on average, and what the average leaves over grows or shrinks likewise
(regression adjustment, Beaumont, Zhang and Balding 2002). Chosen among kinds, or whether a stage
acts, become weights of the pictures.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from . import summary

PARTS = 32  # of a window, at whose borders a range may end
# Of the polynomials of what is measured, and of how much it varies.
DEGREES = 4, 2
PRIOR = 0.15  # of a window, and of weights: how far both go where the numbers say little


class Found(NamedTuple):
    """What a knob is set to."""

    low: float = 0.0  # of a range: where it begins in the window, 0 to 1
    high: float = 1.0
    weights: np.ndarray = np.ones(1)  # of the groups


class Seen(NamedTuple):
    """What the pictures of a pool drew of one knob."""

    places: np.ndarray | None  # [N, k] in the window, 0 to 1, NaN where nothing acts; of a range
    group: np.ndarray  # [N] int64: which of the groups whose weights are sought; -1 is none of them
    groups: int  # their number

    @property
    def acts(self) -> np.ndarray:
        """[N] bool: where a range acts."""
        assert self.places is not None
        return ~np.isnan(self.places).all(1)

    def weights(self, found: Found) -> np.ndarray:
        """[N] weights that bring the groups to what was found."""
        there = np.bincount(self.group[self.group >= 0], minlength=self.groups)
        ratio = found.weights * there.sum() / np.maximum(there, 1)
        return np.where(self.group >= 0, ratio[self.group], 1.0)

    def columns(self, found: Found) -> np.ndarray:
        """[N, terms] of what this knob does to the numbers of others."""
        kinds = [self.group == k for k in range(-1, self.groups - 1)]
        if self.places is None:
            return np.stack(kinds, 1).astype(np.float64)
        there = moved(self.places, found)
        middle, apart = there.mean(1) * self.acts, np.ptp(there, 1)
        return np.stack([*kinds, middle, middle * middle, apart, apart * middle, apart * apart], 1)


def moved(places: np.ndarray, found: Found) -> np.ndarray:
    """[N, k] where draws lie that had these places in the window; all 0 where nothing acts."""
    acts = ~np.isnan(places)
    known = np.where(acts, places, 0)
    # A sample's mean, where one of its stages does not act.
    mean = known.sum(1) / np.maximum(acts.sum(1), 1)
    filled = np.where(acts, places, mean[:, None])
    return found.low + (found.high - found.low) * filled


class Pool(NamedTuple):
    """Pictures, by what they drew and measure."""

    seen: Sequence[Seen]
    values: np.ndarray  # [N, estimators]
    real: np.ndarray  # [R, estimators] of the pictures that are to be met

    def numbers(self, k: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """By what knob k is judged: pairs of a number of the synthetic and of the real pictures."""
        own = self.seen[k]
        targets = []
        # Where in the window the draws lie; then to which group a picture belongs.
        if own.places is not None:
            targets.append((moved(own.places, Found()).mean(1), own.acts))
        if own.groups > 1:
            one_of = range(own.groups if own.groups > 2 else 1)
            targets += [((own.group == g).astype(np.float64), own.group >= 0) for g in one_of]
        return [summary.expected(*target, self.values, self.real) for target in targets]


def best(
    pool: Pool,
    k: int,
    numbers: Sequence[tuple[np.ndarray, np.ndarray]],
    found: Sequence[Found],
    stood: Found,
) -> Found:
    """Fit knob k, with all others as they were found.

    numbers: of `Pool.numbers`
    stood:   what it was before, which it stays if the numbers say nothing
    """
    own = pool.seen[k]
    # What the others do to the numbers, in the pool and with what was found for them.
    others = [(s, f) for j, (s, f) in enumerate(zip(pool.seen, found, strict=True)) if j != k]
    none = np.zeros((len(own.group), 0))  # a recipe may have no other knob
    before = np.concatenate([none, *(s.columns(Found()) for s, _ in others)], 1)
    after = np.concatenate([none, *(s.columns(f) for s, f in others)], 1)
    weight = np.prod([np.ones(len(own.group)), *(s.weights(f) for s, f in others)], 0)

    # Where nothing is sought, the share of the pictures is what it is.
    spared = own.group < 0
    acting = 1 - weight[spared].sum() / weight.sum()
    mixtures = _mixtures(own.groups)
    parts = _parts() if own.places is not None else (np.zeros(1), np.ones(1))
    distance = np.zeros((len(mixtures), len(parts[0])))
    for value, real in numbers:
        at = np.sort(real)
        # A picture of a group that does nothing, or of none, has no draws that could move.
        of = [own.group == g for g in range(own.groups)] + [spared]
        below = [
            _below_each(value[i], own, i, before[i], after[i], weight[i], parts, at) for i in of
        ]
        # Any mixture of groups is the mixture of their distributions.
        for m, mixture in enumerate(mixtures):
            mixed = sum(w * b for w, b in zip(mixture, below[:-1], strict=True))
            share = acting * mixed + (1 - acting) * below[-1]
            distance[m] += _distance(np.asarray(share)) / len(numbers)
    # Normal distributions around where it stood, so that it leaves for a reason only.
    away = (parts[0] - stood.low) ** 2 + (parts[1] - stood.high) ** 2
    turned = ((mixtures - stood.weights) ** 2).sum(1) / 2
    prior = (away + turned[:, None]) / (4 * len(pool.real) * PRIOR**2)
    likely = _likely(distance + prior, len(pool.real))
    return Found(
        low=float((likely * parts[0]).sum()),
        high=float((likely * parts[1]).sum()),
        weights=likely.sum(1) @ mixtures,
    )


def _mixtures(groups: int) -> np.ndarray:
    """[mixtures, groups] weights in tenths that sum to 1."""
    tenths = np.indices((11,) * groups).reshape(groups, -1).T
    return tenths[tenths.sum(1) == 10] / 10


def _parts() -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends of all parts of a window."""
    edges = np.linspace(0, 1, PARTS + 1)
    i, j = np.triu_indices(len(edges), 1)
    return edges[i], edges[j]


def _below_each(
    value: np.ndarray,
    own: Seen,
    of: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    weight: np.ndarray,
    parts: tuple[np.ndarray, np.ndarray],
    at: np.ndarray,
) -> np.ndarray:
    """For every part of the window, which share of a group is below each real number.

    value:  [M] numbers of the group's pictures
    of:     [N] bool, which they are
    before: [M, terms] of the other knobs in the pool; after: as they were found
    weight: [M]
    at:     [R] sorted
    Returns [parts, R], or [1, R] where all parts are alike.
    """
    if not len(value):
        return np.zeros((1, len(at)))
    still = own.places is None or np.isnan(own.places[of]).all()
    places = np.zeros((len(value), 1)) if own.places is None else moved(own.places[of], Found())
    middle, apart = places.mean(1), np.ptp(places, 1)

    # How much a number is, and how much it varies, on average over such draws.
    terms, coarse = (_terms(middle, apart, degree) for degree in DEGREES)
    mean, others = _fit(terms, before, value)
    left = value - terms @ mean - before @ others
    size, other_sizes = _fit(coarse, before, np.abs(left))
    floor = np.abs(left).mean() / 5
    scaled = left / np.maximum(coarse @ size + before @ other_sizes, floor)

    # Then what other draws of this knob make of it, beside the others as they were found.
    there, sizes = after @ others, after @ other_sizes
    rows = []
    for low, high in [(0.0, 1.0)] if still else zip(*parts, strict=True):
        draws = low + (high - low) * middle, (high - low) * apart
        terms, coarse = (_terms(*draws, degree) for degree in DEGREES)
        new = terms @ mean + there + scaled * np.maximum(coarse @ size + sizes, floor)
        rows.append(_below(new, weight, at))
    return np.stack(rows)


def _terms(middle: np.ndarray, apart: np.ndarray, degree: int) -> np.ndarray:
    """[M, terms] of what a number depends on: the middle of the draws, and how far they differ."""
    terms = np.empty((degree + 4, len(middle)))
    terms[0] = 1
    for n in range(degree):
        terms[n + 1] = terms[n] * middle
    terms[degree + 1 :] = apart, apart * middle, apart * apart
    return terms.T


def _fit(own: np.ndarray, others: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least squares: weights of a knob's own terms, and of the others."""
    weights = np.linalg.lstsq(np.concatenate([own, others], 1), value, rcond=None)[0]
    return weights[: own.shape[1]], weights[own.shape[1] :]


def _below(value: np.ndarray, weight: np.ndarray, at: np.ndarray) -> np.ndarray:
    """[R] weights of the numbers up to each of `at`, which is sorted, of all weights."""
    # Into the gaps between the real ones, which are fewer: sorting would take twice the time.
    gaps = np.bincount(np.searchsorted(at, value), weight, len(at) + 1)
    # What is never chosen has no weight at all, and no part in any mixture.
    return np.cumsum(gaps)[:-1] / (weight.sum() or 1.0)


def _distance(share: np.ndarray) -> np.ndarray:
    """Anderson and Darling's of [..., R], shares below each of the sorted real numbers.

    It looks at the ends of a distribution as closely as at its middle, where ranges hardly differ.
    """
    even = (np.arange(share.shape[-1]) + 0.5) / share.shape[-1]
    return ((share - even) ** 2 / (even * (1 - even))).mean(-1)


def _likely(distance: np.ndarray, reals: int) -> np.ndarray:
    """Weights of all that is tried, which sum to 1: of many as good the least is an accident."""
    # R times the distance is about 1 by chance.
    weight = np.exp(-2 * (distance - distance.min()) * reals)
    normalised: np.ndarray = weight / weight.sum()
    return normalised
