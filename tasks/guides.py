"""Facial priors of a run: what --prior names, the modules that make them of a degraded picture, and
their weights.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

import torch
from msgspec import Meta
from torch import nn

import models
from config.stored import check_arguments, made_with, of_file
from errors import BadFile, DataError, RunError
from faces import components, dictionary, prior_file
from faces.prior_file import MadeWith, Side, Trained
from models.guided import HeatPrior, ParsePrior
from storage import records, shown, tensors
from training import checkpoint, run

from .priors import DictPrior, ParsedHeatPrior


class _Network(TypedDict):
    """What is needed to build the network that makes a prior, in plain values."""

    channels: Side
    network: str
    net: dict[str, Any]
    factor: Annotated[float, Meta(gt=0, le=1024)]  # size of its pictures / of those that come


class Described(_Network, total=False):
    """What is needed to build a prior; the rest is of a dictionary."""

    entries: dict[str, list[Side]]  # {component: shape}
    level: Annotated[int, Meta(ge=0)]  # of the feature map that it is made of


# The task of a network's run, by the name of the network in a file of priors.
TASK_OF = {'parser': 'parse', 'finder': 'landmarks'}


class Kind(NamedTuple):
    """How one kind of prior comes about."""

    # (path, side of the pictures that come) -> what is needed to build it; RunError if the path is
    # no source of it
    describe: Callable[[str, float], Described]
    # that -> module x [B, 3, h, w] in [0, 1] -> [B, channels, h, w], without its weights
    build: Callable[[Described], nn.Module]
    # (module, path): give it its weights
    fill: Callable[[Any, str], None]


def named(priors: Iterable[str] | None) -> dict[str, str]:
    """['RUN', 'FILE', 'NAME=PATH', ...] -> {name: path}.

    Without a name, a file gives all its priors and a run the one of its task. Raises RunError for
    unknown and repeated names.
    """
    paths: dict[str, str] = {}
    for text in priors or ():
        # A path may hold an equals sign: what exists under the whole text is a path.
        name, equals, path = text.partition('=')
        if equals and not Path(text).exists():
            names = [name]
        else:
            names, path = _names(text), text
        for name in names:
            run.choose(name, KINDS, 'prior')
            if name in paths:
                raise RunError(f'--prior {text}: there is one for {name} already ({paths[name]})')
            paths[name] = path
    return paths


def describe(priors: Iterable[str] | None, side: float) -> dict[str, Described]:
    """--prior and the side of the inputs -> {name: plain dict}, ready for config.json.

    Raises RunError, and DataError for a file of priors, where no prior can be built so.
    """
    paths = named(priors)
    described = {name: KINDS[name].describe(path, side) for name, path in paths.items()}
    try:
        models.shapes(lambda: build(described))
    except checkpoint.MISFITS as error:
        raise RunError(
            f'--prior {" ".join(map(shown, paths.values()))}: no prior can be built so '
            f'({tensors.first_line(error)})'
        ) from error
    return described


def build(described: dict[str, Described]) -> dict[str, nn.Module]:
    """{name: module}, without their weights. Raises RunError and BadFile for a description, as of
    config.json, that is none.
    """
    for name in described:
        run.choose(name, KINDS, 'prior')
    known: dict[str, Described] = records.convert(described, dict[str, Described])
    for of in known.values():
        check_arguments(of['net'])
    return {name: KINDS[name].build(of) for name, of in known.items()}


def fill(guides: Any, priors: Iterable[str] | None) -> None:
    """Give the modules of a new run the weights of what --prior names."""
    for name, path in named(priors).items():
        KINDS[name].fill(guides[name], path)


def _names(path: str) -> list[str]:
    """The priors that a path without a name gives."""
    if _holds_priors(path):
        return list(KINDS)
    return ['heat'] if _made_with(path, 'finder') else ['parse']


def _holds_priors(path: str) -> bool:
    """Whether this is a file, and not one of a network (tools/publish.py)."""
    return Path(path).is_file() and of_file(path) is None


def _made_with(path: str, part: Literal['parser', 'finder']) -> Trained | None:
    """network, net and size of the part of a file of priors, or of the run of its task; None where
    the path holds something else, or nothing.
    """
    if _holds_priors(path):
        made = prior_file.made_with(path).get(part)
    else:
        config = made_with(path) if Path(path).exists() else None
        if config is None or config.task != TASK_OF[part]:
            return None
        network = config.network
        made = Trained(network=network.network, net=network.net, size=config.data.size)
    if made:
        networks = models.PARSERS if part == 'parser' else models.LANDMARKERS
        run.choose(made['network'], networks, f'network in {shown(path)}:')
    return made


# ------------------------------------------------------------------------------------------------
# Parsing maps.


def _describe_parse(path: str, side: float) -> Described:
    of = _made_with(path, 'parser')
    if not of:
        raise RunError(
            f'--prior {path} is no run of a parser: train one first (python train.py --preset '
            'parse_prior)'
        )
    return _network(of, side, of['net'].get('classes', 19))


def _network(of: Trained, side: float, channels: int) -> Described:
    """What a network is built with, and how much larger its pictures were than those that come."""
    return Described(
        channels=channels, network=of['network'], net=of['net'], factor=of['size'] / side
    )


def _build_parse(of: Described) -> nn.Module:
    return ParsePrior(models.PARSERS[of['network']](**of['net']), of['factor'])


def _fill_parse(module: Any, path: str) -> None:
    _fill(module.parser, path, 'parser')


# ------------------------------------------------------------------------------------------------
# Heatmaps of landmarks.


def _describe_heat(path: str, side: float) -> Described:
    # A run of --preset landmarks first; else points follow from the masks of a parser.
    of = _made_with(path, 'finder')
    if of:
        return _network(of, side, of['net'].get('points', 28))
    try:
        return {**_describe_parse(path, side), 'channels': 28}
    except RunError:
        raise RunError(
            f'--prior heat={path} is neither a run of --preset landmarks nor one of a parser, of '
            'whose masks the points '
            'would be'
        ) from None


def _build_heat(of: Described) -> nn.Module:
    if of['network'] in models.PARSERS:
        return ParsedHeatPrior(models.PARSERS[of['network']](**of['net']), of['factor'])
    return HeatPrior(models.LANDMARKERS[of['network']](**of['net']), of['factor'])


def _fill_heat(module: Any, path: str) -> None:
    if isinstance(module, ParsedHeatPrior):
        _fill_parse(module, path)
    else:
        _fill(module.finder, path, 'finder')


# ------------------------------------------------------------------------------------------------
# Dictionaries of components.


def _describe_dict(path: str, side: float) -> Described:
    of = prior_file.made_with(path) if _holds_priors(path) else MadeWith()
    if 'level' not in of or set(of.get('dict', ())) != set(components.COMPONENTS):
        raise RunError(
            f'--prior dict={path} is no file with a dictionary: python tools/prepare.py priors '
            'makes one'
        )
    parser, shapes = _describe_parse(path, side), of['dict']
    return {**parser, 'channels': shapes['nose'][1], 'entries': shapes, 'level': of['level']}


def _build_dict(of: Described) -> nn.Module:
    parser: Any = models.PARSERS[of['network']](**of['net'])
    if of['level'] >= len(parser.encoder):
        raise BadFile(f'level {of["level"]} of a parser with {len(parser.encoder)}')
    # Shapes come from the file's description; `fill` brings the values.
    empty = {name: torch.zeros(shape) for name, shape in of['entries'].items()}
    return DictPrior(parser, dictionary.Dictionary(empty), of['level'], of['factor'])


def _fill_dict(module: Any, path: str) -> None:
    _fill_parse(module, path)
    _fill(module.entries, path, 'dict')


def _fill(module: nn.Module, path: str, part: str) -> None:
    """Weights of a run, or of a part of a file."""
    if not _holds_priors(path):
        checkpoint.load_weights(module, path)
        return
    try:
        module.load_state_dict(prior_file.part(path, part))
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f'--prior {path}: its {part} does not fit what it says it was made with ({reason})'
        ) from None


KINDS = {
    'parse': Kind(_describe_parse, _build_parse, _fill_parse),
    'heat': Kind(_describe_heat, _build_heat, _fill_heat),
    'dict': Kind(_describe_dict, _build_dict, _fill_dict),
}
