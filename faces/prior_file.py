"""The file of facial priors: networks and dictionary, with what they were made with.

It is one .safetensors file, in half precision where that is enough.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any, TypedDict

import safetensors.torch
from msgspec import Meta
from torch import Tensor

from errors import BadFile, DataError
from sources.aliases import FilePath
from storage import records, shown, tensors

FORMAT = 1

Side = Annotated[int, Meta(ge=1, le=1 << 16)]


class Trained(TypedDict):
    """A network of a run."""

    network: str
    net: dict[str, Any]  # its arguments
    size: Side  # of the pictures that it was trained on


class MadeWith(TypedDict, total=False):
    """What a file of priors says of itself; parts that it has not are missing."""

    format: int
    parser: Trained
    finder: Trained
    dict: dict[str, Annotated[list[Side], Meta(min_length=4, max_length=4)]]  # {component: shape}
    level: Annotated[int, Meta(ge=0, le=16)]
    faces: int


def pack(made_with: Mapping[str, object], tensors: Mapping[str, Tensor]) -> bytes:
    """Contents of the file.

    made_with: dict for JSON
    tensors:   {'part.name': tensor}
    """
    metadata = {'priors': json.dumps({'format': FORMAT, **made_with})}
    contiguous = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    return safetensors.torch.save(contiguous, metadata)


def made_with(path: FilePath) -> MadeWith:
    """The `made_with` that was given to `pack`, without reading the tensors.

    Raises DataError for any other file.
    """
    remedy = 'python tools/prepare.py priors makes them'
    try:
        text = tensors.metadata(path).get('priors')
        if text is None:
            raise BadFile('another kind of file')
        kept: MadeWith = records.parse(text.encode(), MadeWith)
    except (OSError, BadFile) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f'{shown(path)} holds no facial priors ({reason}): {remedy}') from None
    if kept.pop('format', None) != FORMAT:
        raise DataError(f'{shown(path)} is of another version: make it again; {remedy}')
    return kept


def part(path: FilePath, name: str) -> dict[str, Tensor]:
    """{name within the part: tensor} of the tensors called 'part.name'.

    Raises DataError if there are none.
    """
    prefix = f'{name}.'
    try:
        weights = tensors.read(path)
    except (OSError, BadFile) as error:
        raise DataError(f'{shown(path)} cannot be read ({error})') from None
    found = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
    if not found:
        raise DataError(
            f'{shown(path)} holds no {name}: make it again with python tools/prepare.py priors'
        )
    return found
