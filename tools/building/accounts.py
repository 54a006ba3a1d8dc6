"""What became of an input shard: every photo that could not be used, every face and where it is.

Nothing in it tells when, where or how often it was made, so that its bytes are always the same.
"""

import json
from typing import Any

import msgspec

from errors import BadFile, RunError
from storage import records, shown

from .archive import Written
from .destination import Destination

DUPLICATE = 'duplicate'  # why a face was dropped that is there a second time


class Face(msgspec.Struct, omit_defaults=True):
    """A face; where a set is made of aligned faces, one of these."""

    key: str  # of its files, in all of the set
    source: str  # photo
    box: list[float] = []  # left, top, right, bottom in the upright photo
    points: list[list[float]] = []  # [5][2] x, y
    measures: dict[str, float | None] = {}  # None: not measured
    hash: str = ''  # hexadecimal
    dropped: str = ''  # the measure that it failed, or DUPLICATE


class Account(msgspec.Struct, omit_defaults=True):
    """An input shard."""

    shard: int
    photos: int  # that were looked at
    bad: list[tuple[str, str]]  # name and reason
    faces: list[Face]
    archives: dict[str, Written]  # tars by name

    @property
    def kept(self) -> int:
        """Number of faces that are in the set."""
        return sum(not face.dropped for face in self.faces)


class Sheet(msgspec.Struct):
    """Small copies of some faces of a shard, for the report."""

    copies: dict[str, str]  # JPEG in base64, by key


def encoded(value: Any) -> bytes:
    """JSON of an account or a sheet; what is no number is null."""
    # Python's encoder, whose numbers read the same on every machine and in every version.
    plain = msgspec.to_builtins(value)
    return (json.dumps(plain, separators=(',', ':'), allow_nan=False) + '\n').encode()


def name(kind: str, shard: int, suffix: str) -> str:
    """Name of a file of a shard: faces-000012.json."""
    return f'{kind}-{shard:06}{suffix}'


def read(place: Destination, kind: str, shard: int) -> Account:
    """Read the account of a shard. Raises RunError."""
    return _read(place, name(kind, shard, '.json'), Account)


def read_sheet(place: Destination, kind: str, shard: int) -> Sheet:
    """Read the copies of a shard. Raises RunError."""
    return _read(place, name(kind, shard, '.sheet.json'), Sheet)


def _read(place: Destination, file: str, kind: Any) -> Any:
    try:
        return records.parse(place.read(file), kind)
    except (FileNotFoundError, BadFile) as error:
        raise RunError(
            f'{shown(place.place)}/{file} is missing or damaged ({error}): remove what is left of '
            'this shard, and the same command makes it anew'
        ) from error
