"""Lossless HTJ2K copies of faces, which a GPU decodes, and a CPU faster than PNG."""

import argparse
import os
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from rich.progress import track

import storage
from errors import BadFile, DataError
from sources import files, jph, manifest
from sources.manifest import BadImage
from training import log

from .prepare_data import check_beside


class Made(NamedTuple):
    """A copy; 0 and 0 where it was there already."""

    before: int  # bytes of the original
    after: int


def htj2k(args: argparse.Namespace) -> None:
    """Write every image of DATA as OUT/NAME.jph, read back by OpenCV and OpenJPH before it is
    written.
    """
    if not jph.codec():
        raise DataError('HTJ2K is written by OpenJPH: pip install -e .[htj2k]')
    images = manifest.scan(args.data, size=1, progress=log.bar('checking files')).images
    targets = _targets(args.data, args.out, images)
    check_beside({target.parent for target in targets}, images)

    # Copies that are there, whole and not older than what they were made from, are left alone.
    quiet = not sys.stderr.isatty()
    with ThreadPoolExecutor() as pool:
        copies = pool.map(_copy, images, targets)
        results = list(track(copies, 'rewriting', total=len(images), disable=quiet))
    made = [r for r in results if isinstance(r, Made)]
    bad = [r for r in results if isinstance(r, BadImage)]
    manifest.report(args.data, made, bad, False, print)

    new = [m for m in made if m.before]
    text = f'{args.out}: {len(new):,} images written, {len(made) - len(new):,} were there'
    if new:
        before, after = sum(m.before for m in new), sum(m.after for m in new)
        text += f'; {after / 1e6:,.1f} MB, {after / before:.0%} of what they were'
    print(f'{text}\nuse them with: python train.py --data {args.out}')


def _targets(source: str, out: Path, images: list[manifest.Image]) -> list[Path]:
    """Where the copies go: under OUT as the originals lie under DATA. Raises DataError where two
    would be one."""
    root = source
    if not os.path.isdir(source):
        root = os.path.commonpath([os.path.dirname(image.path) for image in images])
    relative = [Path(os.path.relpath(image.path, root)) for image in images]
    targets = [out / path.with_suffix('.jph') for path in relative]
    for target, times in Counter(targets).items():
        if times > 1:
            raise DataError(f'{source} holds two images that would be {target}: rename one')
    return targets


def _copy(image: manifest.Image, target: Path) -> Made | BadImage:
    """Copy an image, or say why it cannot be."""
    try:
        if _is_made(target, image):
            return Made(0, 0)
        data = files.read_bytes(*image.where)
        pixels = files.decode(data)
    except BadFile as error:
        return BadImage(image.path, str(error))
    except OSError as error:
        return BadImage(image.path, f'cannot be read: {error.strerror}')

    written = verified(pixels, image.path)
    storage.write(target, written)
    return Made(len(data), len(written))


def verified(rgb: np.ndarray, name: str) -> bytes:
    """Encode [H, W, 3] uint8 RGB as a JPH file that two decoders read as what it was.

    name: of the image, for messages
    Raises DataError where they do not.
    """
    written = jph.encode(rgb)
    bgr = cv2.imdecode(np.frombuffer(written, np.uint8), cv2.IMREAD_COLOR)
    assert bgr is not None
    for decoder, again in (('OpenJPH', jph.decode(written)), ('OpenCV', bgr[..., ::-1])):
        if not np.array_equal(again, rgb):
            raise DataError(
                f'{name}: {decoder} reads other pixels than were written; keep the file as it is, '
                'and please report it'
            )
    return written


def _is_made(path: Path, image: manifest.Image) -> bool:
    """Whether a copy is there, undamaged, and not older than its image. Raises OSError for an image
    that cannot be read."""
    original = os.stat(image.where[0]).st_mtime_ns
    try:
        current = os.stat(path).st_mtime_ns >= original
        return current and bool(jph.check(files.read_bytes(path)))
    except (OSError, BadFile):
        return False
