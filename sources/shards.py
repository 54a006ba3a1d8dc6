"""Tar archives of images (WebDataset shards): indexed by their headers, or read front to back.

A shard holds the images of its folder tree, whatever else is in it (.json, .txt, .cls). Only plain
tar is supported: an image is then one read at its offset.
"""

import hashlib
import itertools
import math
import os
import posixpath
import re
import tarfile
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, Literal, cast, overload

from errors import BadFile, DataError
from storage import open_regular, shown

from . import scan_cache
from .aliases import FilePath, Say
from .files import LARGEST_FILE, OTHER_SUFFIXES
from .files import SUFFIXES as READABLE
from .structure import looks_like

# The compressed ones are taken for shards only to be refused by name.
SUFFIXES = '.tar', '.tar.gz', '.tgz'
VERSION = 3  # of the cached index: raise it when `walk` changes
IMAGES = *READABLE, *OTHER_SUFFIXES  # ends of names of members that are taken for images
BLOCK = 512  # bytes; a tar consists of such blocks
MOST_SKIPPED = 1 << 33  # bytes of a member that is read to come to the next one
LARGEST_HEADER = 1 << 20  # bytes of a header that gives a member a long name or other numbers
MOST_NAMES = 1_000_000  # that a brace pattern may stand for
# What macOS, Windows and network disks leave in folders and archives, beside hidden files.
_JUNK = {
    *('__macosx', 'thumbs.db', 'ehthumbs.db', 'desktop.ini', '@eadir', '$recycle.bin'),
    'system volume information',
}
_COMPRESSED = (
    (b'\x1f\x8b', 'gzip'),
    (b'BZh', 'bzip2'),
    (b'\xfd7zXZ\0', 'xz'),
    (b'(\xb5/\xfd', 'zstd'),
)


# ---- index of a shard on disk ----


def index(
    path: FilePath, folder: FilePath | None = None, say: Say = print
) -> dict[str, tuple[int, int]]:
    """Map the name of every image in a tar to its (offset, length) in bytes, in the tar's order.

    The index is cached in `folder` (default: scan_cache.cache_folder()) by real path, size and
    mtime. Raises OSError; BadFile for a broken archive, and for one with two images of one name,
    since a name must identify an image.
    """
    # One cache file for all names of a shard.
    real = os.path.realpath(path)
    stat = os.stat(path)
    key = hashlib.blake2b(os.fsencode(real), digest_size=8).hexdigest()
    store = os.path.join(
        os.path.expanduser(folder or scan_cache.cache_folder()), f'shard-{key}.json'
    )

    # An index that was cached for this very file.
    cached = scan_cache.load(store, VERSION)
    unchanged = [cached.get('size'), cached.get('mtime')] == [stat.st_size, stat.st_mtime_ns]
    if unchanged and _plausible(cached.get('images'), stat.st_size):
        return {name: (offset, length) for name, offset, length in cached['images']}

    # WebDataset allows names to repeat; a manifest needs unique paths.
    with open_regular(path) as file:
        images = list(walk(file))
    places: dict[str, tuple[int, int]] = {}
    for name, offset, length in images:
        if name in places:
            raise BadFile(
                f'two images named {shown(name)}, at bytes {places[name][0]:,} and {offset:,}: '
                'remove or rename one'
            )
        places[name] = offset, length
    content = dict(size=stat.st_size, mtime=stat.st_mtime_ns, images=images)
    scan_cache.save(store, VERSION, content, say)
    return places


def _plausible(images: Any, size: int) -> bool:
    """Whether cached JSON is an index of a tar of this size in bytes."""
    return isinstance(images, list) and all(
        isinstance(i, list)
        and list(map(type, i)) == [str, int, int]
        and 0 < i[1] <= i[1] + i[2] <= size
        for i in images
    )


# ---- reading a tar ----


@overload
def walk(file: BinaryIO, sequential: Literal[False] = False) -> Iterator[tuple[str, int, int]]: ...


@overload
def walk(
    file: BinaryIO, sequential: Literal[True]
) -> Iterator[tuple[str, int, bytes | BadFile]]: ...


def walk(
    file: BinaryIO, sequential: bool = False
) -> Iterator[tuple[str, int, int | bytes | BadFile]]:
    """Iterate over the images of a tar: (name, offset, length in bytes).

    sequential: yield (name, offset, contents), and only ever call read() on the file; a BadFile for
        a member of more than LARGEST_FILE
    Links, folders, sparse and hidden members are skipped. Raises BadFile for a broken archive,
    stating up to where it could be read, and in a sequence for a member of more than MOST_SKIPPED.
    """
    recorded = _Recorder(file, sequential)
    tar: tarfile.TarFile | None = None
    count, last = 0, ''
    try:
        tar = _open_tar(recorded, sequential)
        for member in tar:
            count, last = count + 1, member.name
            _check_forward(tar, member)
            name = _image_name(member)
            if name:
                yield (
                    name,
                    member.offset_data,
                    _contents(tar, member) if sequential else member.size,
                )
    except _BadHeaderError as e:
        raise BadFile(f'damaged: {e}: write it again with tar -cf') from e
    # Members whose numbers cannot be are not all told by tarfile's own errors.
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as e:
        raise BadFile(_fault(recorded, tar, count, last)) from e

    # tarfile takes a missing end, and a block that is no header, for the end of the archive.
    if recorded.block(tar.offset) != bytes(BLOCK):
        raise BadFile(_fault(recorded, tar, count, last))
    if not sequential and recorded.continues(tar.offset):
        raise BadFile(
            f'{count:,} members up to byte {tar.offset:,}, where it ends, and then more bytes: '
            'archives glued together? Give each as a shard'
        )


class _BadHeaderError(Exception):
    """A header that would lead backwards, or to more memory than a header takes."""


class _Info(tarfile.TarInfo):
    """A member whose header is judged before anything is read or skipped by it."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> '_Info':
        """As tarfile has it. Raises _BadHeaderError."""
        info = super().frombuf(buf, encoding, errors)
        extended = info.type in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
        named = info.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
        if not 0 <= info.size < 1 << 62 or ((extended or named) and info.size > LARGEST_HEADER):
            raise _BadHeaderError(f'a header claims a length of {info.size:,} bytes')
        return info


def _check_forward(tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    """Raise _BadHeaderError unless the next header lies behind this member's."""
    # A further header may give other numbers than the one that was judged above.
    if member.size < 0 or tar.offset <= member.offset:
        raise _BadHeaderError(f'{shown(member.name)} claims a length of {member.size:,} bytes')


def _open_tar(recorded: '_Recorder', sequential: bool) -> tarfile.TarFile:
    # tarfile only reads and seeks in it.
    file = cast(BinaryIO, recorded)
    if sequential:
        return tarfile.open(fileobj=file, mode='r|', tarinfo=_Info)
    return tarfile.open(fileobj=file, mode='r:', tarinfo=_Info)


def _image_name(member: tarfile.TarInfo) -> str:
    """Normalised name of a member, './a.png' being a.png; '' of what is not an image."""
    # Absolute names and names with .. stay inside the tree.
    name = posixpath.normpath('/' + member.name.lstrip('/'))[1:]
    junk = any(map(is_junk, name.split('/')))
    plain = member.isreg() and not member.issparse()
    return name if plain and not junk and name.lower().endswith(IMAGES) else ''


def is_junk(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or left behind by a system."""
    return name.startswith('.') or name.lower() in _JUNK


def _contents(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | BadFile:
    if member.size > MOST_SKIPPED:
        raise _BadHeaderError(f'{shown(member.name)} claims a length of {member.size:,} bytes')
    if member.size > LARGEST_FILE:
        return BadFile(f'too large: {member.size:,} bytes, at most {LARGEST_FILE:,} are read')
    file = tar.extractfile(member)
    assert file is not None, member.name  # it is a regular file
    return file.read()


def _fault(recorded: '_Recorder', tar: tarfile.TarFile | None, count: int, last: str) -> str:
    """Describe what is wrong where reading stopped; `tar.offset` is where a header was due."""
    if tar is None:
        return _not_a_tar(recorded)
    # The last member claims more bytes than the file has.
    if recorded.end < tar.offset:
        return (
            f'truncated at byte {recorded.end:,} within {shown(last)}, its member {count:,}: '
            'copy or write it again'
        )

    # Everything so far is whole; only the end of the archive is missing or overwritten.
    read = f'{count:,} members read' + (f', the last is {shown(last)}' if last else '')
    if len(recorded.block(tar.offset)) < BLOCK:
        return (
            f'truncated at byte {recorded.end:,}, before the zero block that ends an archive '
            f'({read}): copy or write it again'
        )
    return (
        f'damaged at byte {tar.offset:,}, where no tar header is ({read}): copy or write it again'
    )


def _not_a_tar(recorded: '_Recorder') -> str:
    for start, name in _COMPRESSED:
        if recorded.head.startswith(start):
            return (
                f'{name}-compressed: recompress it as a plain tar; the images are compressed '
                'already, and only a plain tar tells where each of them lies'
            )
    if not recorded.head:
        return 'empty file (0 bytes): write or copy it again'
    cut = recorded.end < BLOCK
    reason = 'cut within its first header' if cut else looks_like(recorded.head)
    return f'not a tar archive: {reason}; make it with tar -cf, or remove it'


class _Recorder:
    """A file as tarfile reads it, which remembers its beginning and the last two pieces read.

    Where reading stopped can then be examined even in a stream, which gives no byte twice.
    """

    def __init__(self, file: BinaryIO, sequential: bool) -> None:
        self._file = file
        self._position = 0
        self._pieces = [(0, b'')] * 2  # (offset, bytes)
        self.head = b''  # first 64 bytes
        self.end = 0  # length; of a stream, as far as it was read
        if not sequential:
            self.end = file.seek(0, os.SEEK_END)
            file.seek(0)

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        # Its beginning tells what a file is that is no tar.
        if self._position < 64:
            self.head = (self.head[: self._position] + data)[:64]
        if data:
            self._pieces = [self._pieces[1], (self._position, data)]
            self._position += len(data)
            self.end = max(self.end, self._position)
        return data

    def seek(self, offset: int) -> None:
        self._position = self._file.seek(offset)

    def tell(self) -> int:
        return self._position

    def block(self, offset: int) -> bytes:
        """The 512 bytes at an offset, or as much of them as was read last."""
        (first, old), (start, data) = self._pieces
        if first + len(old) == start:  # the two pieces are adjacent
            start, data = first, old + data
        return data[offset - start : offset - start + BLOCK] if start <= offset else b''

    def continues(self, offset: int) -> bool:
        """Whether anything but zeros follows an offset.

        A tar is padded to a multiple of some 10 kB, so a megabyte decides.
        """
        self._file.seek(offset)
        return any(self._file.read(1 << 20))


# ---- names of shards ----


def parted(path: str) -> tuple[str, str]:
    """Split a path into (shard, member).

    An archive gives (path, ''), an image in one ('x.tar', 'a/0.png'), anything else ('', '').
    """
    if path.lower().endswith(SUFFIXES):
        return path, ''
    # A folder may be called x.tar too: only a file is a shard.
    for match in re.finditer(r'\.tar/', path, re.IGNORECASE):
        end = match.end() - 1
        if os.path.isfile(path[:end]):
            return path[:end], path[end + 1 :]
    return '', ''


def braces(pattern: str) -> list[str]:
    """Expand braces as shells do.

    'a-{00..11}.tar' gives 'a-00.tar' to 'a-11.tar', 'a-{x,y}' gives 'a-x' and 'a-y'; several braces
    give all combinations. Raises DataError for more than MOST_NAMES.
    """
    # Odd parts are the contents of braces.
    parts = re.split(r'\{(\d{1,18}\.\.\d{1,18}|[^{},]*(?:,[^{},]*)+)\}', pattern)
    choices = [_alternatives(part) if i % 2 else [part] for i, part in enumerate(parts)]
    if math.prod(map(len, choices)) > MOST_NAMES:
        raise DataError(f'{shown(pattern)}: stands for more than {MOST_NAMES:,} names')
    return [''.join(map(str, chosen)) for chosen in itertools.product(*choices)]


def _alternatives(inside: str) -> Sequence[object]:
    """What the contents of a pair of braces stand for."""
    if '..' not in inside or ',' in inside:
        return inside.split(',')
    first, last = inside.split('..')
    # A leading zero in either number pads all of them, as in {00..11}.
    padded = any(n[0] == '0' and len(n) > 1 for n in (first, last))
    width = max(len(first), len(last)) if padded else 1
    numbers = range(int(first), int(last) + 1)
    # Strings of so many would fill the memory.
    if len(numbers) > MOST_NAMES:
        return numbers
    return [f'{n:0{width}}' for n in numbers]
