"""Folders of pictures and masks -> pairs matched by name; what does not match is named."""

import functools
import hashlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from degrade.draw import stream
from errors import BadFile, DataError
from sources import layouts, scan_cache
from sources.aliases import FilePath, Progress, Say
from sources.files import read_bytes
from sources.listing import listed
from sources.lq_gt import by_stem, stem
from sources.manifest import BadImage, Image, Manifest, PictureProxy, cache_folder, report, scan
from storage import shown, some

from . import CLASSES, decode, lacks, sides

VERSION = 2  # of the rules in `_judge`: raise it when they change
_UNREAD = 'cannot be read: '  # begins the reason of a mask that may be readable next time


class _PictureMask(NamedTuple):
    image: Image
    mask: Image
    swap: bool  # left and right of the mask are swapped; to be repaired when it is read
    classes: tuple[int, ...] = ()  # ids in the mask, ascending


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


# ---- how often ----


def repeated(pairs: Sequence[Pair], balance: float, seed: int) -> np.ndarray:
    """[M] int64: the numbers of the pairs that an epoch shows, those with a rare class repeatedly.

    A pair is shown max(1, max_c sqrt(balance / f_c)) times on average, over the classes c in it, of
    which a share f_c of all pairs has some (repeat-factor sampling: Gupta et al., LVIS, CVPR 2019).

    balance: share of pairs below which a class is rare; 0: every pair once
    seed:    of the pairs that are shown once more than their factor rounded down
    """
    known = np.zeros((len(pairs), len(CLASSES)), bool)
    for i, pair in enumerate(pairs):
        known[i, list(pair.classes)] = True
    share = known.mean(0)
    factor = np.sqrt(balance / np.where(share > 0, share, 1))
    times = np.where(known, factor, 0).max(1).clip(min=1)
    # What is left of a factor is the chance of one more, by words that stay the same across
    # versions (see sources.order).
    whole = np.floor(times)
    words = np.random.Philox(key=np.array([seed, stream('repeated')], np.uint64)).random_raw(
        len(pairs)
    )
    more = words / 2.0**64 < times - whole
    return np.repeat(np.arange(len(pairs)), (whole + more).astype(np.int64))


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
    # Each side is scanned as a data set of its own, which names its bad files.
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


def _folders(folder: FilePath, side: _Side) -> list[str]:
    """Names of the sub-folders that may be this side."""
    return [
        name
        for name in listed(folder)
        if re.search(side.pattern, name.lower()) and os.path.isdir(os.path.join(folder, name))
    ]


class _Files(NamedTuple):
    """Files of one side, by path below its sub-folder without suffix."""

    good: dict[str, Image]
    bad: set[str]


def _files(folder: str, side: _Side, read: Callable[[str], Manifest[Image]]) -> _Files:
    """Scan one of the two sub-folders. Raises DataError."""
    names = _folders(folder, side)
    if len(names) != 1:
        remedy = '; python -m faces.masks makes masks of annotations' if side is _MASKS else ''
        published = [name for name in listed(folder) if layouts.is_annotations(name)]
        if side is _MASKS and published:
            parts = shown(os.path.join(folder, published[0]))
            remedy = f'; python -m faces.masks {parts} {shown(os.path.join(folder, "masks"))}'
            remedy += ' makes them of the parts that are published'
        raise DataError(
            f'{shown(folder)}: needs one sub-folder of {side.title}, '
            f'has {", ".join(names) or "none"}{remedy}'
        )
    root = os.path.join(folder, names[0])
    manifest = read(root)
    return _Files(by_stem(manifest.images, root), {stem(b.path, root) for b in manifest.bad})


# ---- matching ----


def _matched(
    images: _Files, masks: _Files, verdicts: Mapping[str, '_Verdict'], repair: bool
) -> tuple[list[Pair], list[BadImage], list[str]]:
    """(pairs, bad ones, paths of swapped masks for a message)."""
    pairs: list[Pair] = []
    bad: list[BadImage] = []
    swapped: list[str] = []
    for name in [*images.good, *(m for m in masks.good if m not in images.good)]:
        # A file that the scan found bad was reported by it.
        if name in images.bad or name in masks.bad:
            continue
        image, mask = images.good.get(name), masks.good.get(name)
        if mask is None:
            assert image is not None, name
            bad.append(BadImage(image.path, 'no mask of that name'))
            continue
        verdict = verdicts[mask.path]
        reason = verdict.reason or _mismatch(image, mask)
        if reason or image is None:
            bad.append(BadImage(mask.path, reason))
            continue
        if verdict.swapped:
            swapped.append(shown(mask.path))
        pairs.append(Pair(image, mask, repair and verdict.swapped, tuple(verdict.classes)))
    return pairs, bad, swapped


def _mismatch(image: Image | None, mask: Image) -> str:
    """Why a mask does not belong to its picture, or ''."""
    if image is None:
        return 'no picture of that name'
    # One whole factor for both sides.
    times = image.width // mask.width
    if not times or (image.width, image.height) != (times * mask.width, times * mask.height):
        return f'{mask.width}x{mask.height}, but its picture {image.width}x{image.height}'
    return ''


# ---- verdicts on masks, cached for the next start ----


class _Verdict(NamedTuple):
    length: int  # bytes
    mtime: int  # ns
    reason: str  # why the mask cannot be used, or ''
    swapped: bool  # left and right are
    classes: Sequence[int]  # ids in it, ascending; a list where it comes from the cache


def _verdicts(
    folder: str,
    masks: Sequence[Image],
    cache_dir: FilePath | None,
    progress: Progress | None,
    say: Say,
) -> dict[str, _Verdict]:
    """{path: verdict}, cached by real path, length and mtime."""
    key = hashlib.blake2b(os.fsencode(os.path.realpath(folder)), digest_size=8).hexdigest()
    store = os.path.join(os.path.expanduser(cache_dir or cache_folder()), f'masks-{key}.json')
    old = scan_cache.load(store, VERSION).get('masks')
    old = old if isinstance(old, dict) else {}

    new: dict[str, _Verdict] = {}
    verdicts: dict[str, _Verdict] = {}
    with ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1))) as pool:
        judged = pool.map(lambda mask: _judge(mask, old), masks)
        for done, (mask, verdict) in enumerate(zip(masks, judged, strict=True), 1):
            verdicts[mask.path] = verdict
            # A failing read may succeed next time.
            if not verdict.reason.startswith(_UNREAD):
                new[os.path.realpath(mask.path)] = verdict
            if progress:
                progress(done, len(masks))

    # JSON has no tuples.
    if {path: [*verdict[:-1], list(verdict.classes)] for path, verdict in new.items()} != old:
        scan_cache.save(store, VERSION, {'masks': new}, say)
    return verdicts


def _judge(mask: Image, cached: Mapping[str, Any]) -> _Verdict:
    """Verdict on a mask, from the cache if it is the same file as then."""
    try:
        status = os.stat(mask.where[0])
    except OSError as e:
        return _Verdict(0, 0, f'{_UNREAD}{e.strerror}', False, ())
    identity = status.st_size, status.st_mtime_ns
    entry = cached.get(os.path.realpath(mask.path))
    if _plausible(entry) and tuple(entry[:2]) == identity:
        return _Verdict(*entry)

    try:
        ids = decode(read_bytes(*mask.where))
    except OSError as e:
        return _Verdict(0, 0, f'{_UNREAD}{e.strerror}', False, ())
    except BadFile as e:
        return _Verdict(*identity, str(e), False, ())
    missing = lacks(ids)
    reason = f'no {" and no ".join(missing)} in it' if missing else ''
    return _Verdict(*identity, reason, sides.exchanged(ids), np.unique(ids).tolist())


def _plausible(entry: object) -> TypeGuard[list[Any]]:
    """Whether cached JSON is a verdict."""
    if not isinstance(entry, list) or list(map(type, entry)) != [int, int, str, bool, list]:
        return False
    return all(type(n) is int and 0 <= n < len(CLASSES) for n in entry[-1])
