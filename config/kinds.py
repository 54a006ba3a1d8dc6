"""The kinds of values that options have: ranges, and how they are written on a command line."""

import json
from typing import Annotated, Any

from msgspec import Meta
from tyro.conf import arg
from tyro.constructors import PrimitiveConstructorSpec

import dali_pipes
import degrade
import losses
import models
from dali_pipes.cache import MODES as CACHES
from training.optim import OPTIMIZERS
from training.schedule import SCHEDULES

# Ranges. Numbers are checked against them by `ranges.check`, and those of a config.json as they are
# read. Wide as they are, an infinity or a slip of the keyboard is not in them.
Side = Annotated[int, Meta(ge=1, le=16_384)]  # pixels
FaceSide = Annotated[int, Meta(ge=16, le=16_384)]  # SSIM wants windows of 11
Batch = Annotated[int, Meta(ge=1, le=65_536)]
Count = Annotated[int, Meta(ge=1, le=100_000)]
Pool = Annotated[int, Meta(ge=0, le=1_000_000)]
Images = Annotated[int, Meta(ge=1, le=10**15)]
ImagesOrNone = Annotated[int, Meta(ge=0, le=10**15)]
Seed = Annotated[int, Meta(ge=0, le=2**62)]
Threads = Annotated[int, Meta(ge=1, le=4096)]
Minutes = Annotated[float, Meta(gt=0, le=525_600)]  # up to a year
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Share = Annotated[float, Meta(ge=0, le=1)]
Temperature = Annotated[float, Meta(ge=0.01, le=1)]
Weight = Annotated[float, Meta(ge=0, le=1_000_000)]
Rate = Annotated[float, Meta(gt=0, le=1000)]  # of learning
Large = Annotated[float, Meta(gt=0, le=10**12)]


def _numbers(words: list[str]) -> tuple[float, ...]:
    return tuple(float(part) for part in words[0].split(','))


def _mapping(words: list[str]) -> dict[str, Any]:
    value = json.loads(words[0])
    if not isinstance(value, dict):
        raise ValueError('a JSON object such as {"steps": 2} is needed')
    return value


_NUMBERS = PrimitiveConstructorSpec[tuple[float, ...]](
    nargs=1,
    metavar='N,N',
    instance_from_str=_numbers,
    is_instance=lambda value: isinstance(value, tuple),
    str_from_instance=lambda value: [','.join(f'{x:g}' for x in value)],
)
Shares = Annotated[tuple[Share, ...], _NUMBERS]
Weights = Annotated[tuple[Weight, ...], _NUMBERS]
Json = Annotated[
    dict[str, Any],
    PrimitiveConstructorSpec(
        nargs=1,
        metavar='JSON',
        instance_from_str=_mapping,
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda value: [json.dumps(value)],
    ),
]


def meta(text: str) -> Any:
    """What stands behind a flag in the help."""
    return arg(metavar=text)


# Options with a fixed set of values. Networks and losses depend on the task, too: see
# `rules.check_names`.
PRECISIONS = 'bf16', 'fp16', 'fp32'
CHOICES: dict[str, tuple[str, ...]] = {
    'pipe': tuple(dali_pipes.PIPES),
    'decode': tuple(dali_pipes.DECODERS),
    'cache': tuple(CACHES),
    'recipe': tuple(degrade.RECIPES),
    'loss': tuple(dict.fromkeys([*losses.RESTORE, *losses.PARSE, *losses.LANDMARKS])),
    'last_loss': tuple(losses.RESTORE),
    'features': tuple(losses.FEATURES),
    'gan': tuple(losses.ADVERSARIAL),
    'discriminator': tuple(models.DISCRIMINATORS),
    'optimizer': tuple(OPTIMIZERS),
    'schedule': tuple(SCHEDULES),
    'precision': PRECISIONS,
}


def one_of(option: str) -> Any:
    """The same for an option of CHOICES."""
    return arg(metavar='{' + ','.join(CHOICES[option]) + '}')
