"""What the tasks share that learn from pictures with masks: parsers and landmarks."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

import dali_pipes
from config import rules
from config.schema import Config
from faces import landmarks

from . import data as sources
from .options import MASKED, PRIORS
from .players import Criterion, Players, Step, StepResult, learn, player
from .restore import degradation


def check(config: Config, network: Callable[..., nn.Module]) -> None:
    """Raise RunError for options of restorers, and for arguments that the network refuses."""
    rules.check(config, PRIORS + MASKED)
    rules.untrained(network, config.network.net, 'net')


def load(
    config: Config, say: Callable[[str], None], bar: Callable[[str], Any]
) -> tuple[Any, dict[str, Any]]:
    """Pictures with masks, or with the points of --landmarks."""
    return sources.load_masked(config, say, bar)


def feed(config: Config, images: Any, where: dict[str, Any]) -> Any:
    """A pipe of pictures and masks, or pictures and points. where: start, rank, world, device,
    threads, say
    """
    points = None
    if config.data.landmarks:
        known = landmarks.read(config.data.landmarks)
        points = landmarks.of(known, images, config.data.size)
    return dali_pipes.make_parse(
        str(config.data.pipe),
        images,
        points=points,
        recipe=degradation(config),
        balance=config.data.balance,
        paste=config.data.paste,
        batch=config.optimization.batch,
        size=config.data.size,
        seed=config.run.seed,
        cache=config.data.cache,
        decode=config.data.decode,
        **where,
    )


def plan(config: Config, batch: int) -> Any:
    """How a batch is planned, for a trial of its memory."""
    how: dict[str, Any] = dict(batch=batch, size=config.data.size, recipe=degradation(config))
    if config.data.landmarks:
        return dali_pipes.PointPlan(np.zeros((1, landmarks.IBUG, 2)), **how)
    return dali_pipes.ParsePlan(1, **how)


def build(net: nn.Module, config: Config, device: torch.device, criterion: Criterion) -> Players:
    """The network alone."""
    return Players({'net': player(net, config, device, config.optimization.lr)}, criterion)


def step(players: Players, pipe: Any, step: Step) -> StepResult:
    """The network learns from what the pipe yields."""
    return learn(players.by_name, players.criterion, lambda: next(pipe), step)
