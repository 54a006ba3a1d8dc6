"""Which files a data set consists of: a folder, a text list, a pattern, tar shards or one file."""

import glob
import os
import re
from typing import NamedTuple

from errors import BadFile, DataError
from storage import shown, some

from . import jph, shards
from .aliases import FilePath, Say
from .files import JPEG, PNG, SUFFIXES

Part = tuple[str, int, int]  # shard, offset and length in bytes


class File(NamedTuple):
    """A file of a data set, on disk or in a shard."""

    name: str  # decides the order; does not depend on where the data set is
    path: str  # of a shard's member: shard/member
    part: Part | None  # of a shard's member


def listed(folder: FilePath) -> list[str]:
    """Sorted names in a folder, [] if it is none. Raises DataError where it may not be read."""
    try:
        return sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    except OSError as e:
        raise DataError(f'{shown(folder)} cannot be listed: {e.strerror}') from e


def natural(name: str) -> list[str | int]:
    """Sorting key by which numbers in names count by their value: 2.png before 10.png."""
    parts = re.split(r'(\d+)', name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)]


def files(source: str, cache_dir: FilePath | None, say: Say) -> list[File]:
    """Files of a data set in natural order of their names, shards replaced by their images.

    cache_dir: where indices of shards are cached. Raises DataError.
    """
    # A shard is expanded only here, whichever way it was named.
    named = _named(source)
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


def _named(source: str) -> list[tuple[str, str]]:
    """[(name, path)] of a source, whatever its kind."""
    if os.path.isdir(source):
        entries, remedy = _walk_folder(source), 'put .png, .jpg or plain .tar files there'
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


def _match(pattern: str) -> list[tuple[str, str]]:
    """Files that match a glob or brace pattern; without a star, whether they exist or not."""
    paths: list[str] = []
    for expanded in shards.braces(pattern):
        magic = glob.has_magic(expanded)
        paths += glob.glob(expanded, recursive=True) if magic else [expanded]
    return [(path, path) for path in paths if not os.path.isdir(path)]


def _walk_folder(root: str) -> list[tuple[str, str]]:
    """Images and shards in a folder and below it, hidden ones left out."""
    entries: list[tuple[str, str]] = []
    visited: set[str] = set()
    refused: list[OSError] = []
    for folder, folders, names in os.walk(root, followlinks=True, onerror=refused.append):
        # A link may lead back up: every real folder is entered once.
        real = os.path.realpath(folder)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)

        folders[:] = [f for f in folders if not f.startswith('.')]
        for name in names:
            if not name.startswith('.') and name.lower().endswith((*SUFFIXES, '.tar')):
                path = os.path.join(folder, name)
                entries.append((os.path.relpath(path, root), path))

    # os.walk skips such folders silently, and the data set would be smaller than it seems.
    if refused:
        raise DataError(
            f'{shown(refused[0].filename)}: cannot be listed ({refused[0].strerror}); '
            'make it readable or move it'
        )
    return entries


def _read_list(path: str) -> list[tuple[str, str]]:
    """Paths in a text list, relative to its folder; or the file itself if it is an image or tar."""
    if shards.parted(path)[0]:
        return [(os.path.basename(path), path)]
    data = _list_bytes(path)
    if data is None:
        return [(os.path.basename(path), path)]
    if b'\0' in data:
        raise DataError(
            f'{shown(path)}: neither an image nor a text list; '
            'give a .png, a .jpg, a .tar or a list of paths'
        )

    # Windows editors begin a text with a byte order mark.
    lines = [os.fsdecode(line.strip()) for line in data.removeprefix(b'\xef\xbb\xbf').splitlines()]
    folder = os.path.dirname(path)
    return [
        (line, os.path.join(folder, line)) for line in lines if line and not line.startswith('#')
    ]


def _list_bytes(path: str) -> bytes | None:
    """Contents of a file, None if it is an image."""
    signatures = PNG, JPEG, jph.SIGNATURE[:8]
    try:
        with open(path, 'rb') as f:
            # An image is recognised by its first bytes, so that it is not read completely.
            head = f.read(8)
            if head.startswith(signatures) or path.lower().endswith(SUFFIXES):
                return None
            return head + f.read()
    except OSError as e:
        raise DataError(f'{shown(path)}: cannot be read ({e.strerror})') from None
