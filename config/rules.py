"""What does not go together: a table of rules for every run. Tasks add rules of their own."""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

import degrade
import models
from errors import RunError
from storage import shown
from training import outputs, run, schedule

from . import flags, kinds, schema
from .documentation import flag
from .schema import Config


class Rule(NamedTuple):
    """When a rule is broken, and what to say then: the flag, its value and the remedy."""

    broken: Callable[[Config], Any]
    message: Callable[[Config], str]


def check(config: Config, rules: Iterable[Rule]) -> None:
    """Raise RunError for the first rule that is broken."""
    for rule in rules:
        if rule.broken(config):
            raise RunError(rule.message(config))


def check_names(config: Config, *, networks: Iterable[str], losses: Iterable[str]) -> None:
    """Raise RunError, with the nearest name, for a name that nothing has. networks, losses: of the
    task
    """
    of_task = {'network': tuple(networks), 'loss': tuple(losses), 'last_loss': tuple(losses)}
    flat = schema.flatten(config)
    for option, names in (kinds.CHOICES | of_task).items():
        if option == 'recipe' and str(flat[option]).endswith('.toml'):
            degrade.recipe(flat[option])  # which says what is wrong with a file
        elif flat[option] is not None:
            run.choose(flat[option], names, option)


# ------------------------------------------------------------------------------------------------
# Rules for every run.


def _unusable_device(config: Config) -> bool:
    kind = str(config.run.device).split(':')[0]
    return kind != 'cpu' and not (kind == 'cuda' and torch.cuda.is_available())


def _device_message(config: Config) -> str:
    device = str(config.run.device)
    remedy = (
        'there is no CUDA GPU that torch can use; give --device cpu'
        if device.startswith('cuda')
        else 'give cuda or cpu'
    )
    return f'--device {device}: {remedy}'


MACHINE = (
    Rule(_unusable_device, _device_message),
    Rule(
        lambda c: c.data.pipe == 'dali' and c.data.decode != 'gpu' and not flags.has_dali(),
        lambda c: (
            '--pipe dali needs NVIDIA DALI: pip install -e .[cuda13], or [cuda12] for drivers '
            '525-579; '
            '--pipe torch works without it, and so does --decode gpu where the images are PNG'
        ),
    ),
    Rule(
        lambda c: c.data.decode == 'gpu' and (c.data.pipe != 'dali' or c.run.device == 'cpu'),
        lambda c: (
            f'--decode gpu needs --pipe dali and a GPU, this is {c.data.pipe} on {c.run.device}: '
            'give --decode cpu, or auto'
        ),
    ),
)
DATA = (
    Rule(
        lambda c: c.data.size % c.scale,
        lambda c: f'--size {c.data.size} must be a multiple of the scale {c.scale}',
    ),
    Rule(
        lambda c: c.data.crop and (c.data.crop % c.scale or c.data.crop > c.data.size),
        lambda c: (
            f'--crop {c.data.crop} must be a multiple of the scale {c.scale}, up to --size '
            f'{c.data.size}'
        ),
    ),
    Rule(
        lambda c: c.network.trunk and c.network.network != 'bisenet',
        lambda c: f'--trunk {c.network.trunk} is for --preset bisenet, not for {c.network.network}',
    ),
)


def _bad_betas(config: Config) -> bool:
    betas = config.optimization.betas
    if not betas:
        return False
    in_range = all(0 <= beta < 1 for beta in betas)
    return config.optimization.optimizer == 'sgd' or len(betas) != 2 or not in_range


def _betas_message(config: Config) -> str:
    text = ','.join(f'{beta:g}' for beta in config.optimization.betas or ())
    sgd = ', and sgd none' if config.optimization.optimizer == 'sgd' else ''
    return f'--betas {text}: adam, adamw and muon take two, from 0 to below 1{sgd}'


OPTIMIZATION = (Rule(_bad_betas, _betas_message),)


def learning_rate(progress: float, config: Config) -> float:
    """Learning rate at a share of the run. Raises ValueError for a schedule that cannot be."""
    options = config.optimization
    return schedule.lr(
        progress,
        options.lr,
        options.schedule,
        warmup=options.warmup,
        milestones=options.milestones,
        periods=options.periods,
        weights=options.restart_weights,
        tail=options.tail,
    )


def check_schedule(config: Config) -> None:
    """Raise RunError for a schedule that cannot be."""
    try:
        learning_rate(0.5, config)
    except ValueError as error:
        raise RunError(f'--warmup, --tail, --periods or --milestones: {error}') from error


def check_output(config: Config) -> None:
    """Raise RunError for a run directory that is, or lies in, what the run reads."""
    data, network = config.data, config.network
    out = config.run.out or ''
    try:
        out.encode()
    except UnicodeEncodeError:
        raise RunError(
            f'--out {shown(out)}: its name is no UTF-8, which TensorBoard cannot write: '
            'give another one'
        ) from None
    outputs.check_sources({'--out': config.run.out}, {'--data': data.data, '--val': data.val})
    if network.start:
        outputs.check_same({'--out': config.run.out}, {'--start': network.start})


def untrained(
    network: Callable[..., nn.Module], arguments: Mapping[str, Any], option: str
) -> nn.Module:
    """A network without memory for its weights. Raises RunError where its arguments do not suit it.

    network: its class; option: name of the option that holds the arguments
    """
    try:
        return models.shapes(lambda: network(**arguments))
    except (TypeError, ValueError, IndexError) as error:
        name = network.__name__
        raise RunError(
            f'{flag(option)} {json.dumps(arguments)}: {name} cannot be built so ({error})'
        ) from error
