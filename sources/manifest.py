"""Every image file of a data set: good, or named as bad before training starts.

`scan` judges each file of a data set (listing.py) and caches the verdicts for the next start. Data
sets of LQ/GT pairs are scanned by lq_gt.py.
"""

import hashlib
import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, NamedTuple, Protocol, TypeVar

from errors import BadFile, DataError
from storage import shown, some

from . import decoders, listing, scan_cache
from .aliases import FilePath, Progress, Say
from .files import LARGEST, MOST, big_enough, check, check_area, read_bytes, sound
from .listing import Part
from .scan_cache import cache_folder as cache_folder

# ---- images and pairs of them ----


class Picture(Protocol):
    """What a Reader needs to know of an image; a pair is represented by its picture."""

    @property
    def path(self) -> str:
        """Path for messages; of a shard's member: shard/member."""

    @property
    def where(self) -> tuple[str, int, int | None]:
        """Arguments of `files.read_bytes`."""

    @property
    def width(self) -> int:
        """Width in pixels, as decoded."""

    @property
    def height(self) -> int:
        """Height in pixels, as decoded."""

    @property
    def kind(self) -> str:
        """Kind of file, as `files.check` returns it."""

    @property
    def sound(self) -> bool:
        """Whether its pixels have been decoded by scan(verify=True)."""


class Image(NamedTuple):
    """A usable image file."""

    path: str  # of a shard's member: shard/member
    width: int  # pixels as decoded, i.e. after the EXIF orientation
    height: int
    kind: str  # 'png', 'jpeg', 'jph' or of decoders.NAMES: by content, whatever the file is called
    colour: str  # 'rgb', 'gray', 'palette', 'rgba', 'rgb, profile', ...: see files.check
    sound: bool = False  # its pixels were decoded by scan(verify=True)
    part: Part | None = None  # of a shard's member

    @property
    def where(self) -> tuple[str, int, int | None]:
        """Arguments of `files.read_bytes`."""
        return self.part or (self.path, 0, None)


class BadImage(NamedTuple):
    """A file that cannot be used."""

    path: str
    reason: str


# Pairs are tuples, but a NamedTuple takes no second base; hence they derive from a tuple of their
# fields and from this class.
class PictureProxy:
    """Base of pairs: a Picture that has the attributes of the image `picture`."""

    __slots__ = ()

    @property
    def picture(self) -> Image:
        """The image that represents the pair."""
        raise NotImplementedError

    @property
    def path(self) -> str:
        """Path of the picture."""
        return self.picture.path

    @property
    def where(self) -> tuple[str, int, int | None]:
        """Arguments of `files.read_bytes` for the picture."""
        return self.picture.where

    @property
    def width(self) -> int:
        """Width of the picture."""
        return self.picture.width

    @property
    def height(self) -> int:
        """Height of the picture."""
        return self.picture.height

    @property
    def kind(self) -> str:
        """Kind of file of the picture."""
        return self.picture.kind

    @property
    def sound(self) -> bool:
        """Whether the pixels of the picture have been decoded."""
        return self.picture.sound


class _LqGt(NamedTuple):
    lq: Image
    gt: Image


class Pair(_LqGt, PictureProxy):
    """An LQ and its GT, represented by the GT."""

    __slots__ = ()

    @property
    def picture(self) -> Image:
        """The GT."""
        return self.gt


class Stacked(Image):
    """An LQ/GT pair of one size in one picture, the LQ above the GT: twice as high as wide."""

    __slots__ = ()


# ---- manifests ----

P = TypeVar('P', bound=Picture)


class Manifest(Generic[P]):
    """The usable images of a data set, in natural order of their names, and its bad files."""

    def __init__(self, images: Iterable[P], bad: Iterable[BadImage] = ()) -> None:
        self.images = list(images)
        self.bad = list(bad)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def paths(self) -> list[str]:
        """Paths of the usable images."""
        return [i.path for i in self.images]

    def without(self, paths: Iterable[FilePath]) -> 'Manifest[P]':
        """The manifest less some files, by whatever links or relative names they are given."""
        # Members of shards have no real path of their own, but that of their shard is resolved.
        drop = {os.path.realpath(p) for p in paths}
        return Manifest([i for i in self.images if os.path.realpath(i.path) not in drop], self.bad)

    def split(self, val: int | float, seed: int) -> 'tuple[Manifest[P], Manifest[P]]':
        """Split into (train, val) by a hash of seed and file name.

        val: number of images (int), or their share (float in 0..1)
        A file that is added or removed moves at most one other across. Raises DataError unless at
        least one image is left for training.
        """
        count = max(1, round(val * len(self))) if isinstance(val, float) else val
        if not 0 <= count < len(self):
            remedy = f'give a number up to {len(self) - 1:,}, or a share below 1'
            if len(self) < 2:
                remedy = 'give more images, or a validation set of its own'
            raise DataError(
                f'{val} of {count_of(len(self))} for validation leaves none to train on: {remedy}'
            )

        # The images with the smallest hashes; equal names, in two folders, in their order.
        names = [f'{seed}/'.encode() + os.fsencode(os.path.basename(p)) for p in self.paths]
        hashes = [hashlib.blake2b(name, digest_size=8).digest() for name in names]
        chosen = set(sorted(range(len(self)), key=lambda i: (hashes[i], i))[:count])
        return (
            Manifest([m for i, m in enumerate(self.images) if i not in chosen], self.bad),
            Manifest([m for i, m in enumerate(self.images) if i in chosen]),
        )


def count_of(images: int) -> str:
    """A number of images in words."""
    return f'{images:,} image{"s" * (images != 1)}'


# ---- scanning ----

# What decoding does to images, by how their colour ends or what is in it.
CHANGES = {
    r'alpha|rgba': 'are transparent, which is dropped',
    r', profile': 'have a colour profile such as Display P3: converted to sRGB',
    r'unusable profile': 'have a damaged or foreign colour profile: taken for sRGB',
    r'16 bits': 'have 16 bits per channel: reduced to 8',
    r'cmyk': 'are CMYK: converted to RGB',
}


def scan(
    source: FilePath,
    *,
    size: int = 512,
    verify: bool = False,
    strict: bool = False,
    convert: bool = False,
    most: int = LARGEST,
    tell: bool = True,
    cache_dir: FilePath | None = None,
    progress: Progress | None = None,
    say: Say = print,
) -> Manifest[Image]:
    """Read and check every file of a data set once.

    source:    folder (searched recursively for pictures and .tar; hidden files ignored), text list
               (one path per line, relative to the list's folder; # comments), glob pattern, brace
               pattern (faces-{000..012}.tar), or one file. A .tar stands for the images in it, as a
               folder would; a path may also lead into one: faces-000.tar/17.png
    size:      images with a shorter side, in pixels, are bad
    verify:    also decode every file (`files.sound`)
    strict:    raise DataError for any bad file, instead of a warning
    convert:   as in files.check
    most:      pixels; larger images are bad
    tell:      say what decoding changes
    cache_dir: where verdicts are cached by real path, length and mtime; default cache_folder()
    progress:  called for every file that has to be read
    Raises DataError: the source is empty or has no usable file, a tar is broken, or `strict`.
    """
    source = os.fspath(source)
    store = _Store(source, cache_dir, say, convert)
    files = _distinct(listing.files(source, cache_dir, say))

    # Only files that the cache does not know are read.
    todo = [real for real, file in files.items() if store.needs_reading(real, file, verify)]
    fresh = _inspect_all(todo, files, _Judge(verify, convert), progress)
    store.update(fresh, files)

    # Sizes are compared last: verdicts in the cache hold for any training size.
    images: list[Image] = []
    bad: list[BadImage] = []
    for real, file in files.items():
        try:
            images.append(_image(file, fresh.get(real) or store.entries.get(real), size, most))
        except BadFile as e:
            bad.append(BadImage(file.path, str(e)))
    report(source, images, bad, strict, say)
    if tell:
        tell_changes(source, images, say)
    return Manifest(images, bad)


def tell_changes(source: str, images: Sequence[Image], say: Say) -> None:
    """Say once of a source what decoding changes in its images."""
    for pattern, what in CHANGES.items():
        changed = [image for image in images if re.search(pattern, image.colour)]
        if changed:
            names = some([shown(image.path) for image in changed], 3)
            say(f'{len(changed):,} of {len(images):,} images of {shown(source)} {what}: {names}')


class _File(NamedTuple):
    path: str
    part: Part | None
    stat: os.stat_result | str  # of the shard, if it is in one; or why it cannot be read


class _Entry(NamedTuple):
    """The verdict on a file; the training size has no part in it."""

    length: int  # bytes; of the shard, where it lies in one
    mtime: int  # ns
    reason: str  # '' for a good file
    sound: bool
    kind: str
    width: int
    height: int
    colour: str


def _distinct(files: Iterable[listing.File]) -> dict[str, _File]:
    """{real path: _File}; of several names of one file the first counts."""
    distinct: dict[str, _File] = {}
    for file in files:
        real = os.path.realpath(file.path)
        if real not in distinct:
            status = _stat(file.part[0] if file.part else real)
            distinct[real] = _File(file.path, file.part, status)
    return distinct


def _stat(path: str) -> os.stat_result | str:
    """Status of a regular file, else the reason why it cannot be read."""
    try:
        status = os.stat(path)
    except OSError as e:
        return f'cannot be read: {e.strerror}'
    return status if stat.S_ISREG(status.st_mode) else 'not a regular file'


def _image(file: _File, entry: '_Entry | str | None', size: int, most: int) -> Image:
    """Image of a judged file. Raises BadFile."""
    if isinstance(file.stat, str):
        raise BadFile(file.stat)
    if isinstance(entry, str):
        raise BadFile(entry)
    assert entry is not None, file.path  # read now or known from an earlier scan
    if entry.reason:
        raise BadFile(entry.reason)
    big_enough(entry.width, entry.height, size)
    check_area(entry.width, entry.height, most)
    shape = entry.width, entry.height, entry.kind, entry.colour
    return Image(file.path, *shape, entry.sound, file.part)


class _Judge(NamedTuple):
    """How thoroughly files are judged; see `scan`."""

    verify: bool
    convert: bool


def _inspect_all(
    todo: Sequence[str], files: Mapping[str, _File], judge: _Judge, progress: Progress | None
) -> dict[str, _Entry | str]:
    """{real path: verdict, or why it could not be read}."""
    # Verdicts arrive in the order of the files, whichever thread is first.
    fresh: dict[str, _Entry | str] = {}
    # CRC, inflate and decoding release the GIL, so threads are enough.
    pool = ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1)))
    try:
        entries = pool.map(lambda real: _inspect(real, files[real], judge), todo)
        for real, entry in zip(todo, entries, strict=True):
            fresh[real] = entry
            if progress:
                progress(len(fresh), len(todo))
    finally:
        # After Ctrl-C the files that have not been started are not waited for.
        pool.shutdown(cancel_futures=True)
    return fresh


def _inspect(real: str, file: _File, judge: _Judge) -> _Entry | str:
    assert isinstance(file.stat, os.stat_result), real
    # The status from before the read: a file that is written meanwhile is read again next time.
    identity = file.stat.st_size, file.stat.st_mtime_ns
    try:
        data = read_bytes(*(file.part or (real, 0, None)))
        kind, width, height, colour = check(data, MOST, judge.convert)
        if judge.verify:
            sound(data)
    except OSError as e:
        return f'cannot be read: {e.strerror}'
    except BadFile as e:
        return _Entry(*identity, str(e), False, '', 0, 0, '')
    return _Entry(*identity, '', judge.verify, kind, width, height, colour)


def report(
    source: FilePath, images: Sequence[object], bad: Sequence[BadImage], strict: bool, say: Say
) -> None:
    """Say how many files of a source are bad, and which.

    Raises DataError if none is good, or if one is bad and `strict`.
    """
    if not bad:
        return
    total = len(images) + len(bad)
    named = [f'{shown(b.path)} ({b.reason})' for b in bad]
    if not images:
        smaller = any('smaller than' in b.reason for b in bad)
        raise DataError(
            f'{shown(source)}: none of {total:,} files is usable: {some(named, 3)}. '
            f'Replace them{" or choose another size" if smaller else ""}'
        )
    if strict:
        raise DataError(
            f'{shown(source)}: {len(bad):,} of {total:,} files are bad; repair or remove them:\n  '
            + some(named, 20, '\n  ')
        )
    hint = '; a strict scan lists them' if len(bad) > 3 else ''
    say(f'{len(bad):,} of {total:,} files skipped: {some(named, 3)}{hint}')


# ---- verdicts cached for the next start ----


class _Store:
    """Verdicts of earlier scans of one source: a JSON file {real path: _Entry}.

    Without a usable file it is empty. Failing reads are not cached: they may succeed next time.
    """

    version = 4  # of the rules in `check` and `sound`: raise it when they change

    def __init__(self, source: str, folder: FilePath | None, say: Say, convert: bool) -> None:
        name = os.fsencode(os.path.realpath(source)) + b'\0convert' * convert
        # What is refused here today may be read once its library is installed.
        name += '\0'.join(['', *decoders.available()]).encode()
        key = hashlib.blake2b(name, digest_size=8).hexdigest()
        folder = os.path.expanduser(folder or scan_cache.cache_folder())
        self.path = os.path.join(folder, f'manifest-{key}.json')
        self.say = say
        self.entries: dict[str, _Entry] = {}

        # The file may have been damaged or edited: only entries of the right types are used.
        cached = scan_cache.load(self.path, self.version).get('files')
        types = [int, int, str, bool, str, int, int, str]
        if isinstance(cached, dict):
            for path, entry in cached.items():
                if isinstance(entry, list) and list(map(type, entry)) == types:
                    self.entries[path] = _Entry(*entry)

    def needs_reading(self, real: str, file: _File, verify: bool) -> bool:
        """Whether a readable file has yet to be judged as thoroughly as is asked now."""
        if isinstance(file.stat, str):
            return False
        entry = self.entries.get(real)
        if entry is None:
            return True
        unchanged = (entry.length, entry.mtime) == (file.stat.st_size, file.stat.st_mtime_ns)
        thorough = entry.sound or bool(entry.reason) or not verify
        return not (unchanged and thorough)

    def update(self, fresh: Mapping[str, _Entry | str], present: Mapping[str, _File]) -> None:
        """Add new verdicts, forget files that are gone, write if anything changed."""
        # A verdict without the file would never be used again.
        old = {p: e for p, e in self.entries.items() if p in present and p not in fresh}
        entries = old | {p: e for p, e in fresh.items() if isinstance(e, _Entry)}
        if entries != self.entries:
            self.entries = entries
            scan_cache.save(self.path, self.version, {'files': entries}, self.say)
