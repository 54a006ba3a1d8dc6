"""Losses of a run, read from the device now and then, and what its figures say in plain words."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from errors import RunError

from . import log

# Between these shares of right judgements, discriminator and generator learn from each other.
BALANCED = (0.55, 0.95)

LATEST = 10  # rows of the log that a hint is based on
WAITING = 0.05  # share of the time spent waiting for data that is worth a hint
RISE = 1.3  # factor by which the loss may rise above its lowest mean


class Metric(Protocol):
    """What a run is judged by; higher is better."""

    @property
    def key(self) -> str:
        """Name in the log."""
        ...

    @property
    def name(self) -> str:
        """Name on curves and in sentences."""
        ...

    @property
    def unit(self) -> str:
        """Unit of its values."""
        ...

    @property
    def fall(self) -> float:
        """Distance below the best value that is worth a hint."""
        ...


# -------------------------------------------------------------------------------------------------
# Losses.


class LossMeter:
    """Losses of the steps since they were last read.

    Reading one makes a GPU wait, so they are collected on the device and read together. `smoothed`
    is {name: float}, empty until a finite step has been read.
    """

    def __init__(
        self, images_per_step: int, max_skipped: int, on_skip: Callable[[dict[str, Any]], None]
    ) -> None:
        """Start with no steps.

        max_skipped: steps in a row without finite gradients after which RunError is raised
        on_skip: called with {'skipped': loss, 'nimg': images before the step, 'samples': [first,
            last]} for every step that was skipped
        """
        self.smoothed: dict[str, float] = {}
        self._images_per_step = images_per_step
        self._max_skipped = max_skipped
        self._on_skip = on_skip
        self._unread: list[tuple[int, dict[str, Tensor], Tensor]] = []
        self._skipped_in_a_row = 0
        self._totals: dict[str, tuple[float, int]] = {}  # (sum, steps) since take_means()

    def __len__(self) -> int:
        """Return the number of steps that were not read yet."""
        return len(self._unread)

    def add(self, nimg: int, losses: dict[str, Tensor], skipped: Tensor) -> None:
        """Collect a step.

        nimg: images after the step
        losses: {name: scalar on the device}, with 'loss' among them
        skipped: scalar on the device, not 0 if the step was skipped
        """
        self._unread.append((nimg, losses, skipped))

    def read(self) -> dict[str, float]:
        """Read all collected steps and return the smoothed means.

        Raises RunError when too many steps in a row were skipped.
        """
        # One transfer for all values, in the order in which they are taken apart below.
        scalars = [v.float() for _, losses, bad in self._unread for v in (*losses.values(), bad)]
        values = iter(torch.stack(scalars).tolist())
        finite: dict[str, list[float]] = {}
        for nimg, tensors, _ in self._unread:
            losses = {name: next(values) for name in tensors}
            skipped = bool(next(values))
            if skipped:
                self._skip(nimg, losses['loss'])
                continue
            self._skipped_in_a_row = 0
            for name, value in losses.items():
                finite.setdefault(name, []).append(value)
        self._unread = []

        # Each reading counts as much as all those before it together.
        for name, steps in finite.items():
            mean = sum(steps) / len(steps)
            self.smoothed[name] = (self.smoothed.get(name, mean) + mean) / 2
            total, count = self._totals.get(name, (0.0, 0))
            self._totals[name] = (total + sum(steps), count + len(steps))
        return self.smoothed

    def _skip(self, nimg: int, loss: float) -> None:
        first = nimg - self._images_per_step
        self._skipped_in_a_row += 1
        self._on_skip({'skipped': str(loss), 'nimg': first, 'samples': [first, nimg - 1]})
        if self._skipped_in_a_row == self._max_skipped:
            raise RunError(
                f'{self._max_skipped} steps in a row had no finite gradient; the last loss is '
                f'{loss} at image {nimg:,} (samples {first:,} to {nimg - 1:,}). Checkpoints are '
                'intact; start afresh with a lower --lr or --precision fp32, and another --out'
            )

    def take_means(self) -> dict[str, float]:
        """Return {name: mean of the finite steps read since the last call}."""
        means = {name: total / steps for name, (total, steps) in self._totals.items()}
        self._totals = {}
        return means


# -------------------------------------------------------------------------------------------------
# Hints.


def hints(
    rows: Sequence[Mapping[str, Any]], wait: float, skipped: int, metric: Metric
) -> dict[str, str]:
    """Return what a user should know about a run, as {topic: sentence}.

    rows: of the log
    wait: share of the time that the network waited for data
    skipped: number of steps skipped
    """
    quality = [value for _, value in log.numbers(rows, metric.key)]
    loss = [value for _, value in log.numbers(rows, 'loss')]
    # Of two players, one loses what the other gains, and faces get sharper at a cost in what is
    # measured: neither curve says anything then.
    if any('d_accuracy' in row for row in rows):
        quality = []
        loss = []

    sentences = {
        'data': _waiting_hint(wait),
        'validation': _quality_hint(quality, metric),
        'level': _balance_hint(rows),
        'rate': _loss_hint(loss),
        'skipped': _skipped_hint(skipped),
    }
    return {topic: sentence for topic, sentence in sentences.items() if sentence}


def _waiting_hint(wait: float) -> str | None:
    if wait > WAITING:
        return (
            f'the network waits for data {wait:.0%} of the time: '
            'a --cache that holds the images, more --threads or a cheaper --recipe help'
        )
    return None


def _quality_hint(quality: Sequence[float], metric: Metric) -> str | None:
    if len(quality) < 3:
        return None
    # Below the best and still falling: a curve that recovers needs no hint.
    best = max(quality)
    falling = quality[-1] < best - metric.fall and quality[-1] < quality[-2]
    if not falling:
        return None
    return (
        f'validation fell from {best:.2f} to {quality[-1]:.2f} {metric.unit}: '
        'too few images for so long a run, or too high a --lr'
    )


def _balance_hint(rows: Sequence[Mapping[str, Any]]) -> str | None:
    # Before the generator listens to it ('gan'), a discriminator may be right on everything.
    heard = [row for row in rows if 'gan' in row]
    accuracy = [value for _, value in log.numbers(heard, 'd_accuracy')]
    accuracy = accuracy[-LATEST:]
    if len(accuracy) < LATEST:
        return None
    mean = sum(accuracy) / len(accuracy)
    message = f'the discriminator is right on {mean:.0%} of its pictures, '
    if mean > BALANCED[1]:
        return (
            f'{message}the generator can learn little from it: '
            'a lower --discriminator-lr or a higher --gan-weight helps'
        )
    if mean < BALANCED[0]:
        return (
            f'{message}the generator fools it: '
            'a higher --discriminator-lr or a lower --gan-weight helps'
        )
    return None


def _loss_hint(loss: Sequence[float]) -> str | None:
    means = [sum(loss[i : i + LATEST]) / LATEST for i in range(len(loss) - LATEST + 1)]
    # A loss that is a logarithm may be negative; its ratio says nothing.
    if not means or not 0 < RISE * min(means) < means[-1]:
        return None
    return (
        f'the loss rose from {min(means):.4f} to {means[-1]:.4f}: '
        'the learning rate is too high, start afresh with half the --lr'
    )


def _skipped_hint(skipped: int) -> str | None:
    if not skipped:
        return None
    return (
        f'{skipped} steps had no finite gradient and were skipped: '
        'a lower --lr or --precision fp32 helps'
    )
