"""The file that facial priors are kept in: networks and dictionary, with what they were made with; one .safetensors file, half precision where that is enough."""

import json

import safetensors
import safetensors.torch

from errors import DataError
from sources.files import shown

FORMAT = 1


def pack(made_with, tensors):
    """made_with: dict for JSON; tensors: {'part.name': tensor} -> bytes of the file"""
    meta = {'priors': json.dumps({'format': FORMAT} | made_with)}
    return safetensors.torch.save(
        {k: v.detach().cpu().contiguous() for k, v in tensors.items()}, meta
    )


def made_with(path):
    """What `pack` was given first, without reading the tensors. Raises DataError for any other file."""
    try:
        with safetensors.safe_open(path, 'pt') as f:
            found = json.loads((f.metadata() or {})['priors'])
    except (OSError, KeyError, ValueError, safetensors.SafetensorError) as e:
        raise DataError(
            f'{shown(path)} holds no facial priors ({e if isinstance(e, OSError) else "another kind of file"}): python tools/prepare.py priors makes them'
        ) from None
    if found.pop('format', None) != FORMAT:
        raise DataError(
            f'{shown(path)} is of another version: make it again with python tools/prepare.py priors'
        )
    return found


def part(path, name):
    """{name within the part: tensor} of the tensors called 'part.name'. Raises DataError if there are none."""
    try:
        with safetensors.safe_open(path, 'pt') as f:
            found = {
                key.removeprefix(f'{name}.'): f.get_tensor(key)
                for key in f.keys()
                if key.startswith(f'{name}.')
            }
    except (OSError, safetensors.SafetensorError) as e:
        raise DataError(f'{shown(path)} cannot be read ({e})') from None
    if not found:
        raise DataError(
            f'{shown(path)} holds no {name}: make it again with python tools/prepare.py priors'
        )
    return found
