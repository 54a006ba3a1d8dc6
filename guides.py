"""Facial priors of a run: what --prior names, the modules that make them of a degraded picture, and the weights these begin with."""
from pathlib import Path
from typing import Any, NamedTuple

import models
from models.guided import ParsePrior
from training import checkpoint, run
from training.run import RunError


class Kind(NamedTuple):
    """How one kind of prior comes about."""
    describe: Any        # (path, side of the pictures that come) -> plain dict with 'channels' and what `build` needs; RunError if the path is no source of it
    build:    Any        # that dict -> module x [B, 3, h, w] in [0, 1] -> [B, channels, h, w], without its weights
    fill:     Any        # (module, path): give it its weights


def _describe_parse(path, side):
    of = run.stored(path) if Path(path).is_dir() else {}
    if of.get('task') != 'parse':
        raise RunError(f'--prior {path} is no run of a parser: train one first (python train.py --preset parse_prior)')
    return dict(channels=of['net'].get('classes', 19), network=of['network'], net=of['net'], factor=of['size'] / side)


def _build_parse(of):
    return ParsePrior(models.PARSERS[of['network']](**of['net']), of['factor'])


def _fill_parse(module, path):
    checkpoint.load_weights(module.parser, path)


KINDS = {'parse': Kind(_describe_parse, _build_parse, _fill_parse)}


def named(priors):
    """['RUN', 'NAME=PATH', ...] -> {name: path}; a path without a name is a parser's run. Raises RunError for unknown and repeated names."""
    found = {}
    for text in priors or ():
        name, equals, path = text.partition('=')
        name, path = (name, path) if equals else ('parse', text)
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
