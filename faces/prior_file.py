"""The file of facial priors: networks and dictionary, with what they were made with.

It is one .safetensors file, in half precision where that is enough.
"""

import json
from collections.abc import Mapping
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from errors import DataError
from sources.aliases import FilePath
from storage import shown

FORMAT = 1


def pack(made_with: Mapping[str, object], tensors: Mapping[str, Tensor]) -> bytes:
    """Contents of the file.

    made_with: dict for JSON
    tensors:   {'part.name': tensor}
    """
    metadata = {'priors': json.dumps({'format': FORMAT, **made_with})}
    contiguous = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    return safetensors.torch.save(contiguous, metadata)


def made_with(path: FilePath) -> dict[str, Any]:
    """The `made_with` that was given to `pack`, without reading the tensors.

    Raises DataError for any other file.
    """
    try:
        with safetensors.safe_open(path, 'pt') as f:
            metadata = json.loads((f.metadata() or {})['priors'])
    except (OSError, KeyError, ValueError, safetensors.SafetensorError) as e:
        reason = e if isinstance(e, OSError) else 'another kind of file'
        raise DataError(
            f'{shown(path)} holds no facial priors ({reason}): '
            'python tools/prepare.py priors makes them'
        ) from None
    if metadata.pop('format', None) != FORMAT:
        raise DataError(
            f'{shown(path)} is of another version: '
            'make it again with python tools/prepare.py priors'
        )
    return metadata


def part(path: FilePath, name: str) -> dict[str, Tensor]:
    """{name within the part: tensor} of the tensors called 'part.name'.

    Raises DataError if there are none.
    """
    prefix = f'{name}.'
    try:
        with safetensors.safe_open(path, 'pt') as f:
            # Other parts are not read.
            names = [key for key in list(f.keys()) if key.startswith(prefix)]
            tensors = {key.removeprefix(prefix): f.get_tensor(key) for key in names}
    except (OSError, safetensors.SafetensorError) as e:
        raise DataError(f'{shown(path)} cannot be read ({e})') from None
    if not tensors:
        raise DataError(
            f'{shown(path)} holds no {name}: make it again with python tools/prepare.py priors'
        )
    return tensors
