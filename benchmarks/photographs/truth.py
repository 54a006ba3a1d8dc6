"""What is true of made photographs: where their faces are, what is the same, and what is wrong."""

import json
from typing import Any

import msgspec

import storage
from storage import records
from storage.paths import FilePath

NAME = 'truth.json'
LARGEST = 4 << 30  # bytes of a truth that is read


class Face(msgspec.Struct):
    """A face in a photo."""

    box: list[float]  # left, top, right, bottom in pixel centres, also beyond the border
    points: list[list[float]]  # [5][2] x, y: eyes, nose, corners of the mouth, each from the left
    aligned: int  # number of the aligned face that it was made of
    group: str  # what it has in common with its copies, and with nothing else
    reasons: list[str] = []  # measures, any of which may drop it; none for a face to be kept


class Photo(msgspec.Struct):
    """A photo."""

    name: str  # below the heap, as it is printed
    width: int  # pixels, upright
    height: int
    kind: str  # plan.KINDS
    faces: list[Face]
    copy_of: str = ''  # name of another photo


class Damaged(msgspec.Struct):
    """A file that is hostile, damaged or only odd."""

    name: str
    what: str
    bad: bool  # it must be named as one that cannot be used; else it must not


class Truth(msgspec.Struct):
    """A heap of photos."""

    seed: int
    photos: list[Photo]
    damaged: list[Damaged]


def read(path: FilePath) -> Truth:
    """Read a truth. Raises FileNotFoundError and RunError."""
    return records.read(path, Truth, 'make the photographs anew', LARGEST)


def write(path: FilePath, truth: Truth) -> None:
    """Write a truth. Raises RunError."""
    plain: Any = msgspec.to_builtins(truth)
    storage.write(path, (json.dumps(plain, indent=1) + '\n').encode())
