"""Pictures that a network is applied to, and their ground truth, found as training finds its faces.

A file that cannot be used is named and left out; the others are not lost.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from errors import BadFile, DataError, FacesError, RunError
from sources import files, layouts, listing, manifest, selection
from sources.aliases import Say
from sources.manifest import Image, Manifest
from storage import counted, shown, some

from .images import sized

# Pixels of a picture unless more are allowed: of 4,096 x 4,096. A network keeps some hundred
# numbers a pixel, and what enlarges four times writes sixteen pixels for one.
LARGEST = 1 << 24

T = TypeVar('T')
Item = tuple[Tensor, Tensor | None]  # uint8 picture, ground truth


class LeftOutError(FacesError):
    """Everything was done but for some files."""

    exit_code = 1


class Inputs(NamedTuple):
    """Pictures by number, and the ground truth of those that have one."""

    names: list[str]  # with the sub-folders they lie in, without suffix
    get: Callable[[int], Item]  # raises BadFile, with the path, for a file that turns out bad
    bad: list[str]  # paths and reasons of what is left out; what turns out bad is added


class Listed(NamedTuple):
    """What --input names."""

    source: str
    images: list[Image]
    names: list[str]  # of the images, with the sub-folders they lie in, without suffix
    bad: list[str]  # paths and reasons of what cannot be read
    every: list[str]  # paths of good and bad ones


def listed(source: str, say: Say = print) -> Listed:
    """List what --input names, whatever its size. Raises RunError where nothing can be read."""
    # Sizes are judged later: photographs may be larger than what a network is given whole.
    found = image_files(source, '--input', files.MOST, say=say, tell=False)
    bad = [f'{shown(bad.path)}: {bad.reason}' for bad in found.bad]
    # Phones save one photo in two kinds: their names are told apart. Bad ones may be mended later.
    every = [*found.paths, *(image.path for image in found.bad)]
    names = _named('--input', source, every, apart=True)
    return Listed(source, found.images, names[: len(found.images)], bad, every)


def within(found: Listed, most: int) -> Listed:
    """Leave out pictures of more than `most` pixels. Raises RunError where none is left."""
    # Faces are written under their own names as PNG, whatever they were.
    _named('--input', found.source, found.every)
    kept, names, bad = [], [], list(found.bad)
    for image, name in zip(found.images, found.names, strict=True):
        try:
            files.check_area(image.width, image.height, most)
        except BadFile as error:
            bad.append(f'{shown(image.path)}: {error} without --max-pixels')
            continue
        kept.append(image)
        names.append(name)
    if not kept:
        raise RunError(f'--input: nothing in it can be restored: {some(bad, 3)}')
    return found._replace(images=kept, names=names, bad=bad)


def of_files(found: Listed, gt: str | None, read_truth: Callable[[Path], Tensor]) -> Inputs:
    """Read what --input names, with the ground truth that --gt names.

    Raises RunError for a ground truth that is missing or bad.
    """
    manifest.tell_changes(found.source, found.images, print)
    truths = _truths(gt, found.names) if gt else None

    def get(i: int) -> Item:
        truth = None if truths is None else _read(truths[i], lambda: read_truth(Path(truths[i])))
        return read(found.images[i]), truth

    return Inputs(found.names, get, found.bad)


def fitted(source: Inputs, side: int) -> Inputs:
    """The same pictures, brought to side x side; one that is not square turns out bad."""

    def get(i: int) -> Item:
        image, truth = source.get(i)
        _, h, w = image.shape
        if h != w:
            raise BadFile(f'{source.names[i]}: {w}x{h} is not square, as aligned faces are')
        return sized(image[None], side)[0], truth

    return source._replace(get=get)


def image_files(
    source: str,
    flag: str,
    most: int = LARGEST,
    say: Say = print,
    strict: bool = False,
    tell: bool = True,
) -> Manifest[Image]:
    """Pictures of a folder, list, pattern or shard in order, or the one picture.

    most: pixels of the largest one; strict: no file may be bad; tell: say what decoding changes
    Raises RunError.
    """
    if not (os.path.exists(source) or listing.is_pattern(source)):
        raise RunError(f'{flag} {shown(source)} does not exist')
    how: dict[str, Any] = dict(size=1, convert=True, most=most, strict=strict, tell=tell)
    try:
        return selection.scan(source, restore=True, say=say, **how)
    except DataError as error:
        raise RunError(f'{flag} {error}') from error


def _named(flag: str, source: str, paths: Sequence[str], apart: bool = False) -> list[str]:
    """What pictures are called: listing.names. Raises RunError."""
    try:
        return listing.names(source, paths, apart)
    except DataError as error:
        raise RunError(f'{flag} {error}') from error


def _truths(gt: str, names: list[str]) -> list[str]:
    """Paths of the ground truth of every picture, by its name."""
    found = image_files(gt, '--gt', files.MOST, strict=True)
    if os.path.isfile(gt) and len(names) == len(found) == 1:
        return found.paths
    names_of = _named('--gt', gt, found.paths)
    partner = layouts.partners(dict(zip(names_of, found.paths, strict=True)))
    paths = [partner(name) for name in names]
    missing = [shown(name) for name, path in zip(names, paths, strict=True) if path is None]
    if missing:
        raise RunError(
            f'--gt {shown(gt)} lacks {len(missing)} of {len(names)} images, e.g. '
            f'{", ".join(missing[:3])}'
        )
    return [path for path in paths if path is not None]


def check_complete(bad: Sequence[str]) -> None:
    """Raise LeftOutError with the files that were left out, if there are any."""
    if bad:
        raise LeftOutError(
            f'{counted(len(bad), "picture")} left out, the others are done:\n  '
            + some(bad, 100, '\n  ')
        )


def read(image: Image) -> Tensor:
    """[3, H, W] uint8 RGB of a picture. Raises BadFile with the reason."""
    pixels = _read(image.path, lambda: _decoded(image))
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _decoded(image: Image) -> np.ndarray:
    return files.decode_sound(files.read_bytes(*image.where), files.MOST, convert=True)


def _read(path: str, how: Callable[[], T]) -> T:
    try:
        return how()
    except OSError as error:
        raise BadFile(f'{shown(path)}: cannot be read: {error.strerror}') from error
    except BadFile as error:
        raise BadFile(f'{shown(path)}: {error}') from error
