"""Which files a data set consists of: a folder, a text list, a pattern, tar shards or one file.

Every program lists files here. Whatever is called a picture is listed, also what cannot be read
(GIF, JPEG XL, ...), so that it is named later on; what systems leave behind in folders never is.
"""

import codecs
import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import storage
from errors import BadFile, DataError
from storage import shown, some

from . import decoders, jph, shards
from .aliases import FilePath, Say
from .files import OTHER_SUFFIXES, SUFFIXES
from .shards import is_junk
from .structure import JPEG, PNG

Part = tuple[str, int, int]  # shard, offset and length in bytes

LARGEST_LIST = 1 << 28  # bytes
# BasicSR puts the size of a picture behind its name: 00000.png (512,512,3)
_SHAPE = re.compile(r'\s+\(\d+,\s*\d+(,\s*\d+)?\)$')


class File(NamedTuple):
    """A file of a data set, on disk or in a shard."""

    name: str  # decides the order; does not depend on where the data set is
    path: str  # of a shard's member: shard/member
    part: Part | None  # of a shard's member


def listed(folder: FilePath) -> list[str]:
    """Sorted names in a folder, junk left out; [] if it is none.

    Raises DataError where it may not be read.
    """
    try:
        found = os.listdir(folder) if os.path.isdir(folder) else []
        return sorted(name for name in found if not is_junk(name))
    except OSError as e:
        raise DataError(f'{shown(folder)} cannot be listed: {e.strerror}') from e


def natural(name: str) -> list[str | int]:
    """Sorting key by which numbers in names count by their value: 2.png before 10.png."""
    parts = re.split(r'(\d+)', name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)]


def names(source: FilePath, paths: Sequence[str], apart: bool = False) -> list[str]:
    """What each file of a data set is called: its path below the data set, without suffix.

    Of anything but a folder that is the path below the folder that all of them share.
    apart: names that several files have get their suffixes: IMG_1-heic and IMG_1-jpg
    Raises DataError where two files would have one name.
    """
    if not paths:
        return []
    root = os.fspath(source)
    if not os.path.isdir(root):
        root = os.path.commonpath([os.path.abspath(os.path.dirname(path)) for path in paths])
    short = [os.path.splitext(os.path.relpath(path, root)) for path in paths]
    count = Counter(name for name, _ in short)
    known: dict[str, str] = {}
    for path, (name, suffix) in zip(paths, short, strict=True):
        own = f'{name}-{suffix[1:].lower()}' if apart and count[name] > 1 else name
        if own in known:
            raise DataError(
                f'{shown(source)} holds two images named {shown(own)} ({shown(known[own])} and '
                f'{shown(path)}): remove or rename one'
            )
        known[own] = path
    return list(known)


def files(source: str, cache_dir: FilePath | None, say: Say) -> list[File]:
    """Files of a data set in natural order of their names, shards replaced by their images.

    cache_dir: where indices of shards are cached. Raises DataError.
    """
    # A shard is expanded only here, whichever way it was named.
    named = named_paths(source)
    indices = _Indices(cache_dir, say)
    entries: list[File] = []
    for name, path in named:
        shard, member = shards.parted(path)
        if shard and not member:
            for image, place in indices.of(path).items():
                entries.append(File(f'{name}/{image}', f'{path}/{image}', (path, *place)))
        elif shard and member in indices.of(shard):
            entries.append(File(name, path, (shard, *indices.of(shard)[member])))
        else:
            # A plain file; or a member that the shard lacks, which fails when it is read.
            entries.append(File(name, path, None))
    # Shards may hold nothing but other files.
    if not entries:
        raise DataError(f'{some([shown(path) for _, path in named], 3)}: no .png or .jpg in there')
    return sorted(entries, key=lambda file: (natural(file.name), file.name, file.path))


class _Indices:
    """Indices of shards, each read once."""

    def __init__(self, cache_dir: FilePath | None, say: Say) -> None:
        self._cache_dir = cache_dir
        self._say = say
        self._known: dict[str, dict[str, tuple[int, int]]] = {}

    def of(self, shard: str) -> dict[str, tuple[int, int]]:
        """As shards.index, but raises DataError."""
        try:
            if shard not in self._known:
                self._known[shard] = shards.index(shard, self._cache_dir, self._say)
            return self._known[shard]
        except OSError as e:
            raise DataError(f'{shown(shard)}: cannot be read ({e.strerror})') from None
        except BadFile as e:
            raise DataError(f'{shown(shard)}: {e}') from None


def named_paths(source: str) -> list[tuple[str, str]]:
    """[(name, path)] of a source, whatever its kind; shards are not expanded. Raises DataError."""
    if os.path.isdir(source):
        entries, remedy = pictures(source, ('.tar',)), 'put .png, .jpg or plain .tar files there'
    elif os.path.exists(source):
        entries, remedy = _read_list(source), 'write one image path per line'
    # What is not on the disk may still be an address, a pattern, or a member of a shard.
    elif '://' in source:
        raise DataError(
            f'{shown(source)}: an address can only be streamed, as --data of train.py; '
            'copy its files to a disk for anything else'
        )
    elif glob.has_magic(source) or shards.braces(source) != [source]:
        entries, remedy = _match(source), 'quote the pattern and check its folder'
    elif shards.parted(source)[1]:
        entries, remedy = [(os.path.basename(source), source)], ''
    else:
        raise DataError(
            f'{shown(source)}: no such file or folder; '
            'give a folder, a text list, a glob pattern, a tar or an image'
        )
    if not entries:
        raise DataError(f'{shown(source)}: no image files found; {remedy}')
    return entries


def is_pattern(source: str) -> bool:
    """Whether what is no file may still name some: an address, a pattern, a shard's member."""
    matching = glob.has_magic(source) or '{' in source
    return '://' in source or matching or bool(shards.parted(source)[1])


def _match(pattern: str) -> list[tuple[str, str]]:
    """Files that match a glob or brace pattern; without a star, whether they exist or not."""
    paths: list[str] = []
    for expanded in shards.braces(pattern):
        magic = glob.has_magic(expanded)
        found = glob.glob(expanded, recursive=True) if magic else [expanded]
        paths += [path for path in found if not (magic and is_junk(os.path.basename(path)))]
    return [(path, path) for path in paths if not os.path.isdir(path)]


def walk(root: FilePath) -> Iterator[str]:
    """Paths of all files in a folder and below it, junk left out. Raises DataError."""
    visited: set[str] = set()
    refused: list[OSError] = []
    for folder, folders, found in os.walk(root, followlinks=True, onerror=refused.append):
        # A link may lead back up: every real folder is entered once.
        real = os.path.realpath(folder)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(f for f in folders if not is_junk(f))
        yield from (os.path.join(folder, name) for name in sorted(found) if not is_junk(name))

    # os.walk skips such folders silently, and the data set would be smaller than it seems.
    if refused:
        raise DataError(
            f'{shown(refused[0].filename)}: cannot be listed ({refused[0].strerror}); '
            'make it readable or move it'
        )


def pictures(root: FilePath, also: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    """[(path below the folder, path)] of what is called a picture in a folder and below it.

    also: further suffixes
    """
    wanted = (*SUFFIXES, *OTHER_SUFFIXES, *also)
    paths = (path for path in walk(root) if path.lower().endswith(wanted))
    return [(os.path.relpath(path, root), path) for path in paths]


# ---- lists ----


def list_of(paths: Iterable[str]) -> bytes:
    """A text list that reads back as these paths. Raises DataError for a name it cannot carry."""
    lines = []
    for path in paths:
        # What a list would take for a comment, blanks or two lines has no place in it.
        line = os.fsencode(path)
        if _lines(line) != [path] or _entry('', path)[1] != path:
            raise DataError(
                f'{shown(path)}: no list can carry this name (a line break, blanks at an end, or a '
                '# at the beginning): rename the file'
            )
        lines.append(line + b'\n')
    return b''.join(lines)


def _read_list(path: str) -> list[tuple[str, str]]:
    """Paths in a text list, relative to its folder; or the file itself if it is an image or tar."""
    if shards.parted(path)[0]:
        return [(os.path.basename(path), path)]
    data = _list_bytes(path)
    if data is None:
        return [(os.path.basename(path), path)]
    folder = os.path.dirname(path)
    try:
        return [_entry(folder, line) for line in _lines(data)]
    except ValueError:
        raise DataError(
            f'{shown(path)}: neither an image nor a text list; '
            'give a .png, a .jpg, a .tar or a list of paths'
        ) from None


def addresses(path: str) -> list[str]:
    """The addresses that a text list (.txt) holds; none if it is no such list.

    Raises DataError for a list of both addresses and paths.
    """
    if not path.lower().endswith('.txt') or not os.path.isfile(path):
        return []
    try:
        lines = [line.strip('"\'') for line in _lines(_list_bytes(path) or b'')]
    except ValueError:
        return []
    found = [line for line in lines if '://' in line]
    if found and len(found) < len(lines):
        other = next(line for line in lines if '://' not in line)
        raise DataError(
            f'{shown(path)} lists addresses and paths ({shown(found[0])}, {shown(other)}): data is '
            'streamed or lies on a disk; split the list, and give --data one of the two'
        )
    return found


def _list_bytes(path: str) -> bytes | None:
    """Contents of a file, None if it is an image."""
    signatures = PNG, JPEG, jph.SIGNATURE[:8]
    try:
        # An image is recognised by its first bytes, so that it is not read completely.
        with storage.open_regular(path) as f:
            head = f.read(64)
        told = head.startswith(signatures) or decoders.kind(head)
        if told or path.lower().endswith((*SUFFIXES, *OTHER_SUFFIXES)):
            return None
        return storage.read(path, LARGEST_LIST)
    except OSError as e:
        raise DataError(f'{shown(path)}: cannot be read ({e.strerror})') from None
    except BadFile as e:
        raise DataError(f'{shown(path)}: {e}; give an image, a folder or a list') from None


def _lines(data: bytes) -> list[str]:
    """Lines of a list, without comments. Raises ValueError for what is no text."""
    # Windows editors begin a text with a byte order mark, and some write UTF-16.
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        data = data.decode('utf-16').encode()
    if b'\0' in data:
        raise ValueError('not a text')
    lines = (os.fsdecode(line.strip()) for line in data.removeprefix(codecs.BOM_UTF8).splitlines())
    return [line for line in lines if line and not line.startswith('#')]


def _entry(folder: str, line: str) -> tuple[str, str]:
    """(name, path) of a line in a list.

    A line is a path as it stands. Where there is no such file, a size behind it, quotation marks
    and the backslashes of Windows are taken off.
    """
    bare = _SHAPE.sub('', line).strip('"\'')
    for name in dict.fromkeys((line, bare, bare.replace('\\', '/'))):
        path = os.path.join(folder, name)
        if os.path.lexists(path):
            break
    return name, path
