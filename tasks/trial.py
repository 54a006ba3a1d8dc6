"""A run tried on black images, for the memory it takes."""

import contextlib
from typing import Any, cast

import numpy as np
import torch

import tasks
from config.schema import Config, replace_options
from dali_pipes.batch import Batch
from training.world import World

from .players import Step, autocast


class Alone:
    """This process without the others: what a step asks of World."""

    size = 1

    def sync_gradients(self, nets: Any, last: bool) -> contextlib.AbstractContextManager[None]:
        """Nothing to average."""
        return contextlib.nullcontext()

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """Of one value."""
        return value


class BlackImages:
    """A pipe of one and the same batch of black images, made anew each time."""

    def __init__(self, plan: Any, batch: int, size: int, device: torch.device) -> None:
        self._plan = plan
        self._numbers = np.arange(batch)
        shape = (batch, plan.channels, size, size)
        self._black = torch.zeros(shape, dtype=torch.uint8, device=device)
        self._impl = 'cuda' if device.type == 'cuda' else 'torch'
        self._ahead = self._make()
        self.search_from = 0.0
        self.coldest = 1.0

    def _make(self) -> Batch:
        return self._plan.finish(self._black, self._plan(self._numbers), self._impl)

    def __iter__(self) -> 'BlackImages':
        return self

    def __next__(self) -> Batch:
        # As in a run, the next batch is made before the network sees this one.
        now, self._ahead = self._ahead, self._make()
        return now

    def other(self, nimg: int) -> Batch:
        """A batch of the other half, in a search."""
        return next(self)


def trial(config: Config, device: torch.device, batch: int) -> None:
    """Two steps with batches of this size: the optimizers' states come with the first."""
    config = replace_options(config, batch=batch, accumulate=1)
    task = tasks.of(config)
    # Everything that a run holds on the GPU, but for its cache of images.
    players = task.build(config, device)
    step = Step(
        nimg=config.gan.gan_from,
        progress=0.0,
        lr=0.0,
        images=batch,
        accumulate=1,
        autocast=autocast(config.run.precision, device),
        world=cast(World, Alone()),
    )
    pipe = BlackImages(task.plan(config, batch), batch, config.data.size, device)
    for _ in range(2):
        task.step(players, pipe, step)
