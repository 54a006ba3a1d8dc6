"""Annotations of CelebAMask-HQ as published -> id masks such as 12.png.

The data set has one PNG per face and part, 00012_l_eye.png, in folders 0 to 14.
"""

import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from errors import BadFile, DataError
from sources import listing
from sources.aliases import FilePath, Progress, Say
from sources.files import check, decode, read_bytes
from sources.manifest import BadImage
from storage import shown, some

from . import CLASSES, lacks, png

_NAME = re.compile(r'(\d{1,9})_(\w+)\.png', re.IGNORECASE)

Parts = list[tuple[str, str]]  # of a face: name of the part, path


def paint(parts: Mapping[str, np.ndarray]) -> np.ndarray:
    """Combine {name of a class: [H, W] bool} into one mask [H, W] uint8 of ids.

    Where parts overlap the later class counts: lips cover skin, hair covers both.
    """
    # In the order of the ids, so that a later class is painted over an earlier one.
    mask = np.zeros(next(iter(parts.values())).shape, np.uint8)
    for i, name in enumerate(CLASSES[1:], 1):
        if name in parts:
            mask[parts[name]] = i
    return mask


def build(
    folder: FilePath,
    out: FilePath,
    *,
    strict: bool = False,
    progress: Progress | None = None,
    say: Say = print,
) -> list[BadImage]:
    """Write a mask for every face in a folder and below it; return the faces that have none.

    strict:   raise DataError for any bad face
    progress: called for every face
    A mask that already exists is left alone, so a run that was killed can be continued. A face is
    bad if a part cannot be read or is not one of the 18, has another size than the others or occurs
    twice, and if skin or nose is missing. Raises DataError where there are no annotations, or no
    usable ones, and where the masks cannot be written.
    """
    faces = _find(folder)
    if not faces:
        raise DataError(
            f'{shown(folder)}: no annotations such as 00000_skin.png there; '
            'give the folder CelebAMask-HQ-mask-anno'
        )
    try:
        os.makedirs(out, exist_ok=True)
    except OSError as e:
        raise DataError(
            f'{shown(out)} cannot be made: {e.strerror}; name another folder for the masks'
        ) from e

    # Decoding and compressing release the GIL, so threads are enough.
    bad: list[BadImage] = []
    todo = [number for number in sorted(faces) if not os.path.exists(_path(out, number))]
    with ThreadPoolExecutor() as pool:
        faults = pool.map(lambda number: _write(faces[number], _path(out, number)), todo)
        for done, (number, fault) in enumerate(zip(todo, faults, strict=True), 1):
            if fault:
                bad.append(BadImage(os.path.join(folder, f'{number:05d}'), fault))
            if progress:
                progress(done, len(todo))
    _report(bad, len(faces), strict, say)
    return bad


def _report(bad: Sequence[BadImage], total: int, strict: bool, say: Say) -> None:
    """Say how many faces are bad, and which. Raises DataError if `strict`, or if all are."""
    if not bad:
        return
    named = [f'{shown(b.path)} ({b.reason})' for b in bad]
    if strict or len(bad) == total:
        raise DataError(
            f'{len(bad):,} of {total:,} faces have bad annotations; repair or remove them:\n  '
            + some(named, 20, '\n  ')
        )
    say(f'{len(bad):,} of {total:,} faces skipped: {some(named, 3)}')


def _find(folder: FilePath) -> dict[int, Parts]:
    """{number of a face: its parts}."""
    faces: dict[int, Parts] = {}
    for path in listing.walk(folder):
        if match := _NAME.fullmatch(os.path.basename(path)):
            faces.setdefault(int(match[1]), []).append((match[2], path))
    return faces


def _path(out: FilePath, number: int) -> str:
    """Path of a mask: named as its picture is, without leading zeros."""
    return os.path.join(out, f'{number}.png')


def _write(parts: Parts, path: str) -> str:
    """Write one mask; return '', or why it cannot be made. Raises DataError."""
    try:
        mask = paint(_decoded(sorted(parts)))
    except (OSError, BadFile) as e:
        return str(e)
    if missing := lacks(mask):
        return f'missing parts: no {" and no ".join(missing)}'

    # Renamed when it is complete, so that no kill leaves half a mask.
    temporary = f'{path}.part'
    try:
        with open(temporary, 'wb') as f:
            f.write(png(mask))
        os.replace(temporary, path)
    except OSError as e:
        raise DataError(
            f'{shown(path)} cannot be written: {e.strerror}; the masks before it are complete, '
            'and the same command continues'
        ) from e
    return ''


def _decoded(parts: Parts) -> dict[str, np.ndarray]:
    """{part: [H, W] bool}. Raises OSError; BadFile naming the file."""
    decoded: dict[str, np.ndarray] = {}
    for name, path in parts:
        if name not in CLASSES[1:]:
            raise BadFile(f'{shown(path)}: {name} is not a part ({", ".join(CLASSES[1:])})')
        if name in decoded:
            raise BadFile(f'{shown(path)}: a second {name}')
        decoded[name] = _part(path)

        # Compared with the first part: all must have one size.
        size, expected = _size(decoded[name]), _size(next(iter(decoded.values())))
        if size != expected:
            raise BadFile(f'{shown(path)} is {size}, other parts of it {expected}')
    return decoded


def _part(path: str) -> np.ndarray:
    """[H, W] bool, where a published annotation is not black."""
    try:
        data = read_bytes(path)
        check(data)
        return np.logical_or.reduce(decode(data), 2)
    except BadFile as e:
        raise BadFile(f'{shown(path)}: {e}') from None


def _size(part: np.ndarray) -> str:
    return f'{part.shape[1]}x{part.shape[0]}'
