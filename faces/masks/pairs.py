"""Folders of pictures and masks -> pairs matched by name; what does not match is named."""

import functools
import hashlib
import os
import re
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from errors import BadFile, DataError
from sources import scan_cache
from sources.aliases import FilePath, Progress, Say
from sources.files import read_bytes, shown, some
from sources.listing import listed
from sources.manifest import (
    BadImage,
    Image,
    Manifest,
    PictureProxy,
    by_stem,
    cache_folder,
    report,
    scan,
    stem,
)

from . import decode, lacks, sides

VERSION = 1  # of the rules in `_judge`: raise it when they change
_UNREAD = 'cannot be read: '  # begins the reason of a mask that may be readable next time


class _PictureMask(NamedTuple):
    image: Image
    mask: Image
    swap: bool  # left and right of the mask are swapped; to be repaired when it is read


class Pair(_PictureMask, PictureProxy):
    """A picture and its mask, represented by the picture."""

    __slots__ = ()

    @property
    def picture(self) -> Image:
        """The picture."""
        return self.image


class _Side(NamedTuple):
    """One of the two sub-folders."""

    title: str  # for messages
    pattern: str  # of its name, in lower case


_PICTURES = _Side('pictures', r'image|img')
_MASKS = _Side('masks', r'mask(?!.*anno)|label')


# ---- folders ----


def is_parsing(folder: FilePath) -> bool:
    """Whether a folder has the two sub-folders that `scan_pairs` needs."""
    return all(len(_folders(folder, side)) == 1 for side in (_PICTURES, _MASKS))


def scan_pairs(
    folder: FilePath,
    *,
    size: int = 512,
    repair: bool = False,
    verify: bool = False,
    strict: bool = False,
    cache_dir: FilePath | None = None,
    progress: Progress | None = None,
    say: Say = print,
) -> Manifest[Pair]:
    """Pairs from a folder with a sub-folder of pictures and one of masks, in natural order.

    The name of the one has image or img in it, that of the other mask or label. Files are matched
    by name without suffix. A pair is bad if one of the two is (manifest.scan, masks.decode) or is
    missing, if the picture is not as large as the mask or a whole multiple of it (CelebAMask-HQ has
    pictures of 1024 and masks of 512), or if the mask lacks skin or nose.
    size:   pairs with a shorter side, in pixels, are bad
    repair: masks with left and right swapped (sides.exchanged) are put right when they are read;
            without it they are only named
    verify, strict, cache_dir, progress: as in manifest.scan
    Raises DataError: no such sub-folders, two files of one name, no usable pair, or `strict`.
    """
    folder = os.fspath(folder)
    read = functools.partial(
        scan,
        size=size,
        verify=verify,
        strict=strict,
        cache_dir=cache_dir,
        progress=progress,
        say=say,
    )
    images, masks = _files(folder, _PICTURES, read), _files(folder, _MASKS, read)
    judged = _verdicts(folder, list(masks.good.values()), cache_dir, progress, say)

    pairs, bad, swapped = _matched(images, masks, judged, repair)
    report(folder, pairs, bad, strict, say)
    if swapped:
        say(
            f'{len(swapped):,} of {len(pairs):,} masks have left and right swapped '
            f'({some(swapped, 3)}): ' + ('put right' if repair else 'left as they are')
        )
    return Manifest(pairs, bad)
