"""What of a recipe is fitted.

A range is fitted as a part of a hull, 0 to 1, that all stages of an operation share; what is chosen
among gets weights.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from degrade import (
    Recipe,
    Stage,
    blur,
    chroma_blur,
    color_jitter,
    color_shift,
    grain,
    jpeg,
    noise,
    unsharp,
)
from degrade.op import ChainParams

from .pool import Seen


class Kinds(NamedTuple):
    """Two kinds of one thing, whose shares are fitted together with a range."""

    first: Callable[[Any], np.ndarray]  # Params: [B] bool
    told: tuple[str, float]  # share of the first: key of a recipe file, and its default


class Range(NamedTuple):
    """A range of numbers, with the probability of the stage where that is a number, too."""

    name: str
    op: Any
    hulls: dict[str, tuple[float, float]]  # key of a recipe file: the smallest and largest value
    drawn: Callable[[Any], np.ndarray]  # Params: [B, k] parts of the hull, NaN where none acts
    share: bool = False  # fit the stage's probability
    kinds: 'Kinds | None' = None  # fit their shares
    where: Callable[[Stage], bool] = lambda _: True  # of the operation's stages

    def suits(self, stage: Stage) -> bool:
        """Tell whether a stage is one of those that it is about."""
        return _is(stage, self.op) and self.where(stage)

    def positions(self, recipe: Recipe, params: ChainParams) -> np.ndarray:
        """[B, k] parts of the hull that the samples drew, NaN where nothing acts."""
        # A range is that of all its stages: each has to have drawn from it.
        pairs = zip(recipe.stages, params, strict=True)
        return np.concatenate([self.drawn(p) for stage, p in pairs if self.suits(stage)], 1)

    def seen(self, recipe: Recipe, params: ChainParams, window: tuple[float, float]) -> Seen:
        """Return what the samples drew, where the range is this part of the hull."""
        positions = self.positions(recipe, params)
        acts = ~np.isnan(positions).all(1)
        places = (positions - window[0]) / (window[1] - window[0])
        if self.kinds:
            last = [p for stage, p in zip(recipe.stages, params, strict=True) if self.suits(stage)]
            first = self.kinds.first(last[-1])
            return Seen(places, np.where(acts, np.where(first, 0, 1), -1), 2)
        # Skipped samples are a group of their own where their share is sought.
        if self.shared(recipe):
            return Seen(places, np.where(acts, 0, 1), 2)
        return Seen(places, np.where(acts, 0, -1), 1)

    def shared(self, recipe: Recipe) -> bool:
        """Tell whether the probability of its stages can be fitted."""
        stages = [stage for stage in recipe.stages if self.suits(stage)]
        return self.share and len(stages) == 1 and isinstance(stages[0].on, (int, float))

    def part(self, recipe: Recipe) -> tuple[float, float]:
        """Return the part of the hull that the recipe has; all of it where it says nothing."""
        found = []
        for stage in (stage for stage in recipe.stages if self.suits(stage)):
            for key, (low, high) in self.hulls.items():
                ends = np.atleast_1d(stage.ranges.get(key, (low, high)))
                found += [float(end - low) / (high - low) for end in ends]
        return max(min(found), 0.0), min(max(found), 1.0)

    def weights(self, recipe: Recipe) -> tuple[float, ...]:
        """Return the weights of its groups in the recipe."""
        stage = next(stage for stage in recipe.stages if self.suits(stage))
        if self.kinds:
            share = float(stage.ranges.get(*self.kinds.told))
            return share, 1 - share
        if self.shared(recipe):
            share = float(stage.on)  # type: ignore[arg-type]  # shared: one number
            return share, 1 - share
        return (1.0,)

    def set(self, recipe: Recipe, low: float, high: float, share: float) -> Recipe:
        """Return the recipe with a part of the hull, and a probability."""
        ranges: dict[str, Any] = {
            key: (_rounded(a + (b - a) * low, a, b), _rounded(a + (b - a) * high, a, b))
            for key, (a, b) in self.hulls.items()
        }
        change: dict[str, Any] = {'on': share} if self.shared(recipe) else {}
        if self.kinds:
            ranges[self.kinds.told[0]] = share
        return _changed(recipe, self.suits, ranges, change)


class Mixture(NamedTuple):
    """Weights of what is chosen among."""

    name: str
    op: Any
    names: tuple[str, ...]
    drawn: Callable[[Any], np.ndarray]  # Params: [B] index into names, -1 where nothing acts
    told: str  # weights: key of a recipe file

    def suits(self, stage: Stage) -> bool:
        """Tell whether a stage is one of those that it is about."""
        return _is(stage, self.op)

    def chosen(self, recipe: Recipe, params: ChainParams) -> np.ndarray:
        """[B] index into names, of the last stage that acts; -1 where none does."""
        index = np.full(len(params[0][0]), -1)
        for stage, p in zip(recipe.stages, params, strict=True):
            if self.suits(stage):
                own = self.drawn(p)
                index = np.where(own >= 0, own, index)
        return index

    def seen(self, recipe: Recipe, params: ChainParams) -> Seen:
        """Return what the samples drew."""
        return Seen(None, self.chosen(recipe, params), len(self.names))

    def weights(self, recipe: Recipe) -> tuple[float, ...]:
        """Return the weights in the recipe, the first alone by default."""
        stage = next(stage for stage in recipe.stages if self.suits(stage))
        own = [*stage.ranges.get(self.told, (1,)), *[0] * len(self.names)][: len(self.names)]
        return tuple(float(w) / sum(own) for w in own)

    def set(self, recipe: Recipe, weights: tuple[float, ...]) -> Recipe:
        """Return the recipe with weights."""
        return _changed(recipe, self.suits, {self.told: weights}, {})


def _is(stage: Stage, op: Any) -> bool:
    """Whether a stage is of an operation; a sinc has none of the ranges of a blur."""
    return stage.op is op and stage.ranges.get('sinc', 0) < 1


def _changed(
    recipe: Recipe,
    suits: Callable[[Stage], bool],
    ranges: dict[str, Any],
    change: dict[str, Any],
) -> Recipe:
    # Other stages and other keys stay as they are.
    stages = tuple(
        stage._replace(ranges=stage.ranges | ranges, **change) if suits(stage) else stage
        for stage in recipe.stages
    )
    return recipe._replace(stages=stages)


def _rounded(value: float, low: float, high: float) -> float:
    """Three digits are enough for a file; of whole numbers none behind the point."""
    if isinstance(low, int):
        return int(np.clip(round(value), low, high))
    return float(np.clip(float(f'{value:.3g}'), low, high))


# ---- how far into a hull a sample's draws lie ----


def _part(values: np.ndarray, hull: tuple[float, float], on: np.ndarray) -> np.ndarray:
    # A column, so that an operation may have several draws of one range.
    low, high = hull
    part = (np.asarray(values, np.float64) - low) / (high - low)
    return np.where(on, part, np.nan).reshape(len(on), -1)


SIGMA_OF_BLUR = 0.1, 12.0
SIGMA_OF_NOISE, SCALE_OF_NOISE = (0.0, 60.0), (0.0, 5.0)
SIZE = 0.3, 2.0  # of grain
CHROMA = 0.2, 4.0
QUALITY = 5, 100
AMOUNT = 0.0, 4.0
SHIFT = -60.0, 60.0
FACTOR = 0.0, 2.5


def _of_blur(p: blur.Params) -> np.ndarray:
    # Only what has a sigma of its own: neither a sinc nor a motion.
    on = (p.kind != blur.DELTA) & (p.kind != blur.SINC) & (p.kind != blur.MOTION)
    sides = [_part(s, SIGMA_OF_BLUR, on) for s in (p.sigma_x, p.sigma_y)]
    return np.concatenate(sides, 1)


def _of_noise(p: noise.Params) -> np.ndarray:
    # A sample has one kind; the other's strength stands in the same field.
    gaussian = _part(255 * p.amount, SIGMA_OF_NOISE, p.kind == noise.GAUSSIAN)
    poisson = _part(p.amount, SCALE_OF_NOISE, p.kind == noise.POISSON)
    return np.where(np.isnan(gaussian), poisson, gaussian)


def _of_size(p: grain.Params) -> np.ndarray:
    return _part(p.sigma, SIZE, p.amount > 0)


def _of_grain(p: grain.Params) -> np.ndarray:
    return _part(255 * p.amount, SIGMA_OF_NOISE, p.amount > 0)


def _grey(stage: Stage) -> bool:
    return bool(stage.ranges.get('gray', 0.5) == 1)


def _coloured(stage: Stage) -> bool:
    return bool(stage.ranges.get('gray', 0.5) == 0)


def _of_chroma(p: chroma_blur.Params) -> np.ndarray:
    return _part(p.sigma, CHROMA, p.sigma > 0)


def _of_jpeg(p: jpeg.Params) -> np.ndarray:
    # In the middle of what is drawn as this whole number.
    low, high = QUALITY
    return np.where(p.quality > 0, (p.quality - low + 0.5) / (high - low + 1), np.nan)[:, None]


def _of_unsharp(p: unsharp.Params) -> np.ndarray:
    return _part(p.amount, AMOUNT, p.amount > 0)


def _of_shift(channel: int) -> Callable[[color_shift.Params], np.ndarray]:
    return lambda p: _part(255 * p.shift[:, channel], SHIFT, np.asarray(p.shift.any(1)))


def _of_factor(part: int) -> Callable[[color_jitter.Params], np.ndarray]:
    def drawn(p: color_jitter.Params) -> np.ndarray:
        on = (p.factor != color_jitter.NEUTRAL).any(1)
        return _part(p.factor[:, part], FACTOR, on)

    return drawn


def _sampling(p: jpeg.Params) -> np.ndarray:
    return np.where(p.quality > 0, p.sampling, -1)


KNOBS: tuple[Range | Mixture, ...] = (
    Range('JPEG quality', jpeg, {'quality': QUALITY}, _of_jpeg, share=True),
    Mixture('chroma of JPEG', jpeg, jpeg.SAMPLINGS, _sampling, 'sampling'),
    Range('blur', blur, {'sigma': SIGMA_OF_BLUR}, _of_blur),
    Range(
        'noise',
        noise,
        {'sigma': SIGMA_OF_NOISE, 'scale': SCALE_OF_NOISE},
        _of_noise,
        kinds=Kinds(lambda p: p.gray, ('gray', 0.4)),
    ),
    Range('grain size', grain, {'size': SIZE}, _of_size, where=_grey),
    Range('grain', grain, {'amount': SIGMA_OF_NOISE}, _of_grain, where=_grey),
    Range('chroma blur', chroma_blur, {'sigma': CHROMA}, _of_chroma, share=True),
    Range('coloured grain', grain, {'amount': SIGMA_OF_NOISE}, _of_grain, where=_coloured),
    Range('sharpening', unsharp, {'amount': AMOUNT}, _of_unsharp, share=True),
    Range('brightness', color_jitter, {'brightness': FACTOR}, _of_factor(0)),
    Range('contrast', color_jitter, {'contrast': FACTOR}, _of_factor(1)),
    Range('saturation', color_jitter, {'saturation': FACTOR}, _of_factor(2)),
    Range('cast of red', color_shift, {'red': SHIFT}, _of_shift(0)),
    Range('cast of blue', color_shift, {'blue': SHIFT}, _of_shift(2)),
)


def of(recipe: Recipe) -> tuple[Range | Mixture, ...]:
    """Those that a recipe has stages for."""
    return tuple(knob for knob in KNOBS if any(knob.suits(stage) for stage in recipe.stages))
