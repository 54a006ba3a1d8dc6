"""Folders of restored images, of their truth and of their inputs, matched by name."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch
from rich.progress import track
from torch import Tensor

from errors import BadFile, DataError, RunError
from sources import listing, manifest
from sources.files import decode, read_bytes
from storage import shown, some
from tasks.batches import ahead, grouped

READ_BY = 4  # threads that read and decode

Images = dict[str, manifest.Image]  # {name without suffix: image}


# ------------------------------------------------------------------------------------------------
# Which images there are.


class Found(NamedTuple):
    """Images that belong together, under the same names everywhere."""

    names: list[str]  # in their natural order
    restored: dict[str, Images]  # {method: its images}
    truth: Images | None
    inputs: Images | None


def find(restored: Sequence[str], gt: str | None = None, inputs: str | None = None) -> Found:
    """Scan the folders and match their images.

    restored: FOLDER or NAME=FOLDER each
    Raises DataError where names or sizes differ or a file is damaged, and RunError where two
    methods share a name.
    """
    paths = named(restored)
    folders = {name: scan(path) for name, path in paths.items()}
    truth = scan(gt) if gt else None
    shown_inputs = scan(inputs) if inputs else None

    # What everything is matched with: the truth, else the inputs, else the first method.
    first = next(iter(paths))
    source, wanted = paths[first], folders[first]
    if inputs and shown_inputs:
        source, wanted = inputs, shown_inputs
    if gt and truth:
        source, wanted = gt, truth
    matched = {
        name: _matched(images, wanted, paths[name], source) for name, images in folders.items()
    }
    if truth and inputs and shown_inputs:
        shown_inputs = _matched(shown_inputs, truth, inputs, source, 'add these, too')
    # Known from the heads of the files, before a pixel is read.
    if truth:
        for images in matched.values():
            _check_sizes(images, truth)
    return Found(list(wanted), matched, truth, shown_inputs)


def named(restored: Sequence[str]) -> dict[str, str]:
    """{method: folder} of FOLDER or NAME=FOLDER. Raises RunError for equal names."""
    paths: dict[str, str] = {}
    for text in restored:
        # A path may hold an equals sign: what exists under the whole text is a path.
        is_path = os.path.exists(text) or '=' not in text
        name, path = (text, text) if is_path else text.split('=', 1)
        # As typed with and without the slash that a shell adds.
        name = name.rstrip('/') or name
        if name in paths:
            raise RunError(f'{shown(name)} is named twice: give NAME=FOLDER')
        paths[name] = path
    return paths


def scan(path: str) -> Images:
    """Every image of a folder, as 8 bits of RGB; a damaged one is an error. Raises DataError."""
    images = manifest.scan(path, size=1, strict=True, convert=True).images
    names = listing.names(path, [image.path for image in images])
    # Without their folders, unless only these tell them apart.
    short = [os.path.basename(name) for name in names]
    return dict(zip(short if len(set(short)) == len(short) else names, images, strict=True))


def _matched(
    images: Images, wanted: Images, where: str, source: str, remedy: str = 'restore these too'
) -> Images:
    """The images under the names that are wanted, in that order. remedy: for missing ones

    Programs put endings behind the names of what they restore (GFPGAN and RestoreFormer write
    NAME_00.png): one ending that all have is taken off. Raises DataError for other differences.
    """
    tail = ending(list(images), list(wanted))
    if tail:
        print(f'{shown(where)}: names end with {shown(tail)}, which those of {shown(source)} lack')
        images = {name[: -len(tail)]: image for name, image in images.items()}
    _need_all(wanted, images, where, f'{remedy}, or take them out of {shown(source)}')
    remedy = f'add these there, or take them out of {shown(where)}'
    _need_all(images, wanted, source, remedy)
    return {name: images[name] for name in wanted}


def ending(names: list[str], wanted: list[str]) -> str:
    """What all names have behind those that are wanted; '' for anything else."""
    # Both sides hold as many, so the ending of one name decides for all.
    if len(names) != len(wanted):
        return ''
    first = min(wanted, key=len)
    tails = {name[len(first) :] for name in names if name.startswith(first)} - {''}
    present = set(names)
    fits = [tail for tail in tails if present == {name + tail for name in wanted}]
    return fits[0] if fits else ''


def _need_all(wanted: Images, present: Images, where: str, remedy: str) -> None:
    missing = [shown(name) for name in wanted if name not in present]
    if missing:
        raise DataError(
            f'{shown(where)} lacks {len(missing):,} of {len(wanted):,} images '
            f'({some(missing, 3)}): {remedy}'
        )


def _check_sizes(images: Images, truth: Images) -> None:
    for name, image in images.items():
        other = truth[name]
        if (image.width, image.height) != (other.width, other.height):
            raise DataError(
                f'{shown(image.path)} is {image.width}x{image.height}, its ground truth '
                f'{other.width}x{other.height}: only images of one size can be compared'
            )


def check_shapes(images: Images, what: str, least: int, square: bool = False) -> None:
    """Raise DataError for an image with a side of less than `least` pixels, or for one that is no
    square if it should be. what: needs that"""
    for image in images.values():
        size = image.width, image.height
        wanted = f'images of {least}x{least} or more' if min(size) < least else ''
        if square and size[0] != size[1]:
            wanted = 'square images'
        if wanted:
            raise DataError(
                f'{shown(image.path)} is {image.width}x{image.height}: {what} needs {wanted}'
            )


# ------------------------------------------------------------------------------------------------
# Their pixels.


class Batch(NamedTuple):
    """Images of one size, of one method."""

    method: str  # '' for images of none
    names: list[str]
    ours: Tensor  # [B, 3, H, W] uint8, on the device of the metrics
    truth: Tensor | None  # the same


def read(image: manifest.Image) -> Tensor:
    """[3, H, W] uint8. Raises DataError that names the file."""
    try:
        return torch.from_numpy(decode(read_bytes(*image.where))).permute(2, 0, 1)
    except (OSError, BadFile) as error:
        raise DataError(f'{shown(image.path)}: {error}') from error


def batches(
    ours: Mapping[str, manifest.Image],
    truth: Mapping[str, manifest.Image] | None,
    *,
    batch: int,
    device: str,
    title: str,
    method: str = '',
) -> Iterator[Batch]:
    """Up to `batch` images of one size at a time, on the device, in the order of their names.

    title: of the progress bar, which only a terminal sees
    """
    names = list(ours)

    def item(i: int) -> tuple[str, Tensor, Tensor | None]:
        return names[i], read(ours[names[i]]), read(truth[names[i]]) if truth else None

    quiet = not sys.stderr.isatty()
    with ThreadPoolExecutor(READ_BY) as pool:
        items = ahead(pool, item, len(names), 2 * batch)
        for group in grouped(track(items, title, total=len(names), disable=quiet), batch):
            some_names, a, b = zip(*group, strict=True)
            own = torch.stack(a).to(device)
            others = torch.stack(b).to(device) if truth else None
            yield Batch(method, list(some_names), own, others)
