"""Facial priors of a run: what --prior names, the modules that make them of a degraded picture, and the weights these begin with."""

from pathlib import Path
from typing import Any, NamedTuple

import torch

import models
from errors import DataError, RunError
from faces import dictionary
from faces import prior_file as store
from models.guided import HeatPrior, ParsePrior
from tasks.priors import DictPrior, ParsedHeatPrior
from training import checkpoint, run

TASKS = {
    'parser': 'parse',
    'finder': 'landmarks',
}  # of a network's run, by its name in a file of priors


class Kind(NamedTuple):
    """How one kind of prior comes about."""

    describe: Any  # (path, side of the pictures that come) -> plain dict with 'channels' and what `build` needs; RunError if the path is no source of it
    build: Any  # that dict -> module x [B, 3, h, w] in [0, 1] -> [B, channels, h, w], without its weights
    fill: Any  # (module, path): give it its weights


def _made_with(path, part):
    """network, net and size of the part of a file of priors, or of the run of its task; None where the path holds something else, or nothing."""
    if Path(path).is_file():
        return store.made_with(path).get(part)
    of = run.read_config(path) if Path(path).is_dir() else {}
    return of if of.get('task') == TASKS[part] else None


def _describe_parse(path, side):
    of = _made_with(path, 'parser')
    if not of:
        raise RunError(
            f'--prior {path} is no run of a parser: train one first (python train.py --preset parse_prior)'
        )
    return dict(
        channels=of['net'].get('classes', 19),
        network=of['network'],
        net=of['net'],
        factor=of['size'] / side,
    )


def _describe_heat(path, side):
    of = _made_with(path, 'finder')
    if of:
        return dict(
            channels=of['net'].get('points', 28),
            network=of['network'],
            net=of['net'],
            factor=of['size'] / side,
        )
    try:
        return _describe_parse(path, side) | dict(channels=28)
    except RunError:
        raise RunError(
            f'--prior heat={path} is neither a run of --preset landmarks nor one of a parser, of whose masks the points would be'
        ) from None


def _describe_dict(path, side):
    of = store.made_with(path) if Path(path).is_file() else {}
    if 'dict' not in of:
        raise RunError(
            f'--prior dict={path} is no file with a dictionary: python tools/prepare.py priors makes one'
        )
    return _describe_parse(path, side) | dict(
        channels=of['dict']['nose'][1], entries=of['dict'], level=of['level']
    )


def _build_parse(of):
    return ParsePrior(models.PARSERS[of['network']](**of['net']), of['factor'])


def _build_heat(of):
    if of['network'] in models.PARSERS:
        return ParsedHeatPrior(models.PARSERS[of['network']](**of['net']), of['factor'])
    return HeatPrior(models.LANDMARKERS[of['network']](**of['net']), of['factor'])


def _build_dict(of):
    entries = dictionary.Dictionary(
        {name: torch.zeros(shape) for name, shape in of['entries'].items()}
    )
    return DictPrior(models.PARSERS[of['network']](**of['net']), entries, of['level'], of['factor'])


def _fill(module, path, part):
    """Weights of a run, or of a part of a file."""
    if not Path(path).is_file():
        checkpoint.load_weights(module, path)
        return
    try:
        module.load_state_dict(store.part(path, part))
    except RuntimeError as e:
        raise DataError(
            f'--prior {path}: its {part} does not fit what it says it was made with ({str(e).splitlines()[0]})'
        ) from None


def _fill_parse(module, path):
    _fill(module.parser, path, 'parser')


def _fill_heat(module, path):
    if isinstance(module, ParsedHeatPrior):
        _fill_parse(module, path)
    else:
        _fill(module.finder, path, 'finder')


def _fill_dict(module, path):
    _fill_parse(module, path)
    _fill(module.entries, path, 'dict')


KINDS = {
    'parse': Kind(_describe_parse, _build_parse, _fill_parse),
    'heat': Kind(_describe_heat, _build_heat, _fill_heat),
    'dict': Kind(_describe_dict, _build_dict, _fill_dict),
}


def _names(path):
    """The priors that a path without a name gives: all that a file holds, heatmaps of a run of landmarks, else parsing maps."""
    if Path(path).is_file():
        return list(KINDS)
    return ['heat'] if _made_with(path, 'finder') else ['parse']


def named(priors):
    """['RUN', 'FILE', 'NAME=PATH', ...] -> {name: path}; without a name, a file gives all its priors and a run the one of its task. Raises RunError for unknown and repeated names."""
    found = {}
    for text in priors or ():
        name, equals, path = text.partition('=')
        names, path = ([name], path) if equals and not Path(text).exists() else (_names(text), text)
        for name in names:
            run.choose(name, KINDS, 'prior')
            if name in found:
                raise RunError(f'--prior {text}: there is one for {name} already ({found[name]})')
            found[name] = path
    return found


def describe(priors, side):
    """--prior and the side of the pictures that come -> {name: plain dict}, ready for config.json."""
    return {name: KINDS[name].describe(path, side) for name, path in named(priors).items()}


def build(described):
    """-> {name: module}, without their weights"""
    return {name: KINDS[name].build(of) for name, of in described.items()}


def fill(guides, priors):
    """Give the modules of a new run the weights of what --prior names."""
    for name, path in named(priors).items():
        KINDS[name].fill(guides[name], path)
