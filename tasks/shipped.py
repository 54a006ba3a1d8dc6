"""What comes with the project in weights/, under the names of its files without suffix."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from config.schema import Config, replace_options

FOLDER = Path(__file__).resolve().parents[1] / 'weights'
USUAL = 'faces-psnr'  # what restores a photograph where no network is named
NIQE = 'niqe-faces'  # NIQE's model of pristine faces
SHARP = 'faces-sharp'  # trained on from an earlier state of it, against a discriminator
PARSER = 'faces-parser'  # names the parts of a face
# Options that take what comes along by its name.
NAMES = 'start', 'parser', 'prior'


def names() -> list[str]:
    """Names of all that restores."""
    known = (file.stem for file in FOLDER.glob('faces-*.safetensors'))
    return sorted(name for name in known if name != PARSER)


def resolved(name: str) -> str:
    """Path that a flag means: a name of these files, unless one of the user has it."""
    file = FOLDER / f'{name}.safetensors'
    # With a folder in it, it is a path; and what is too long for a name is none.
    return str(file) if os.path.exists(file) and not os.path.exists(name) else name


def located(config: Config) -> Config:
    """The options with the paths of what comes along in place of its names, where a run keeps
    them: it may be resumed from another folder.
    """
    named = {
        'start': config.network.start,
        'parser': config.loss.parser,
        'prior': config.priors.prior,
    }
    return replace_options(config, **paths(named))


def paths(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options by name, with the paths of what comes along in place of its names."""
    return {name: _path(value) if name in NAMES else value for name, value in options.items()}


def _path(value: Any) -> Any:
    """Of an option that is a path, or several of them, or off."""
    if isinstance(value, (list, tuple)):
        return [_prior(text) for text in value]
    return value and resolved(value)


def _prior(text: str) -> str:
    """PATH or NAME=PATH."""
    name, equals, path = text.rpartition('=')
    return name + equals + resolved(path)
