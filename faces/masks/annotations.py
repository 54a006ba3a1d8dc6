"""The annotations of CelebAMask-HQ as published (one PNG per face and part, 00012_l_eye.png, in folders 0 to 14) -> id masks 12.png."""

import os
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from errors import BadFile, DataError
from sources.files import check, decode, read_bytes, shown
from sources.manifest import BadImage, some

from . import CLASSES, lacks, png

_NAME = re.compile(r'(\d+)_(\w+)\.png')


def paint(parts):
    """{name of a class: [H, W] bool} -> [H, W] uint8 ids; where parts overlap the later class counts: lips over skin, hair over both."""
    mask = np.zeros(next(iter(parts.values())).shape, np.uint8)
    for i, name in enumerate(CLASSES[1:], 1):
        if name in parts:
            mask[parts[name]] = i
    return mask


def build(folder, out, *, strict=False, progress=None, say=print):
    """Paint all faces of the folder (searched with what is below it) into `out` -> list of BadImage, the faces that cannot be.

    A mask that is there already is kept, so a killed run goes on. strict: raise DataError for any bad face; progress(done, total) is called per face.
    A face is bad with a part that cannot be read or is not one of the 18, of another size than the others or there twice, and without skin or nose.
    Raises DataError where there are no annotations or no usable ones.
    """
    faces, bad = _find(folder), []
    if not faces:
        raise DataError(
            f'{shown(folder)}: no annotations such as 00000_skin.png there; give the folder CelebAMask-HQ-mask-anno'
        )
    try:
        os.makedirs(out, exist_ok=True)
    except OSError as e:
        raise DataError(
            f'{shown(out)} cannot be made: {e.strerror}; name another folder for the masks'
        ) from e
    todo = [number for number in sorted(faces) if not os.path.exists(_path(out, number))]
    with ThreadPoolExecutor() as pool:
        for done, fault in enumerate(
            pool.map(lambda number: _make(faces[number], _path(out, number)), todo), 1
        ):
            bad += [BadImage(os.path.join(folder, f'{todo[done - 1]:05d}'), fault)] if fault else []
            if progress:
                progress(done, len(todo))
    named = [f'{shown(b.path)} ({b.reason})' for b in bad]
    if bad and (strict or len(bad) == len(faces)):
        raise DataError(
            f'{len(bad):,} of {len(faces):,} faces have bad annotations; repair or remove them:\n  '
            + some(named, 20, '\n  ')
        )
    if bad:
        say(f'{len(bad):,} of {len(faces):,} faces skipped: {some(named, 3)}')
    return bad


def _find(folder):
    """{number of a face: [(part, path)]}"""
    faces = {}
    for root, _, names in os.walk(folder):
        for name in names:
            if m := _NAME.fullmatch(name):
                faces.setdefault(int(m[1]), []).append((m[2], os.path.join(root, name)))
    return faces


def _path(out, number):
    return os.path.join(out, f'{number}.png')  # as the pictures are called


def _make(found, path):
    """Write one mask; -> '' or why not."""
    try:
        mask = paint(_parts(sorted(found)))
    except (OSError, BadFile) as e:
        return str(e)
    if missing := lacks(mask):
        return f'missing parts: no {" and no ".join(missing)}'
    part = f'{path}.part'
    try:
        with open(part, 'wb') as f:
            f.write(png(mask))
        os.replace(part, path)  # a kill leaves no half mask
    except OSError as e:
        raise DataError(
            f'{shown(path)} cannot be written: {e.strerror}; the masks before it are whole, and the same command goes on'
        ) from e
    return ''


def _parts(found):
    parts, shape = {}, None
    for name, path in found:
        if name not in CLASSES[1:]:
            raise BadFile(f'{shown(path)}: {name} is not a part ({", ".join(CLASSES[1:])})')
        if name in parts:
            raise BadFile(f'{shown(path)}: a second {name}')
        try:
            data = read_bytes(path)
            check(data)
            parts[name] = decode(data).any(2)
        except BadFile as e:
            raise BadFile(f'{shown(path)}: {e}') from None
        shape = shape or parts[name].shape
        if parts[name].shape != shape:
            raise BadFile(
                f'{shown(path)} is {_size(parts[name].shape)}, other parts of it {_size(shape)}'
            )
    return parts


def _size(shape):
    return f'{shape[1]}x{shape[0]}'
