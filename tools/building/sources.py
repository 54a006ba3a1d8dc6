"""What a set is built from, cut into input shards: the same ones on every machine.

A task takes one of them. The pictures of a folder, a list or an address are cut into runs of a
fixed length, in natural order; a tar is an input shard of its own, read front to back, so that the
output of img2dataset is taken as it is.
"""

import hashlib
import os
import posixpath
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import fsspec

from errors import BadFile, DataError
from sources import addresses, files, listing, shards
from storage import counted, open_regular, shown
from tasks.batches import ahead

from . import destination

# Pictures at addresses that are fetched before they are needed.
AHEAD = 4

Photo = tuple[str, bytes | BadFile]  # name, contents of the file or why there are none


class InputShard(NamedTuple):
    """Pictures that one task takes."""

    number: int
    names: tuple[str, ...]  # of the pictures, or of the tar: the same wherever the source lies
    paths: tuple[str, ...]  # or addresses
    sizes: tuple[int, ...]  # bytes
    is_tar: bool

    @property
    def title(self) -> str:
        """For messages."""
        if self.is_tar or len(self.names) == 1:
            return shown(self.paths[0])
        return f'{shown(self.paths[0])} to {shown(self.paths[-1])}'


class Gone(BadFile):
    """Why a picture cannot be read that was there when it was listed."""


# ---- listing ----

_Entry = tuple[str, str, int]  # name, path or address, bytes


def find(source: str, length: int) -> list[InputShard]:
    """List the input shards of a folder, a list, a pattern, tars, or an address of these.

    length: pictures of an input shard, at most
    Raises DataError: nothing is there, or a store does not answer.
    """
    entries = _remote(source) if addresses.is_url(source) else _local(source)
    entries.sort(key=lambda each: (listing.natural(each[0]), each))
    tars = [each for each in entries if shards.parted(each[1])[0] == each[1]]
    pictures = [each for each in entries if shards.parted(each[1])[0] != each[1]]
    # Tars first, since their number is known before anybody chooses a length.
    runs = [([each], True) for each in tars]
    runs += [(pictures[i : i + length], False) for i in range(0, len(pictures), length)]
    shaped = []
    for i, (run, is_tar) in enumerate(runs):
        names, paths, sizes = zip(*run, strict=True)
        shaped.append(InputShard(i, names, paths, sizes, is_tar))
    return shaped


def digest(found: Sequence[InputShard]) -> str:
    """Return what two listings have in common if, and only if, they are of the same pictures."""
    # Sizes, too: many sets call their tars 00000.tar.
    lines = (
        f'{shard.number}/{size}/{name}'
        for shard in found
        for name, size in zip(shard.names, shard.sizes, strict=True)
    )
    return hashlib.blake2b(os.fsencode('\n'.join(lines)), digest_size=16).hexdigest()


def described(found: Sequence[InputShard]) -> str:
    """Say what there is."""
    tars = sum(shard.is_tar for shard in found)
    pictures = sum(len(shard.names) for shard in found if not shard.is_tar)
    parts = [counted(tars, 'tar')] * bool(tars) + [counted(pictures, 'picture')] * bool(pictures)
    return f'{" and ".join(parts)}: {counted(len(found), "input shard")}'


def _local(source: str) -> list[_Entry]:
    """What lies on a disk. Raises DataError."""
    named = listing.named_paths(source)
    for _, path in named:
        if shards.parted(path)[1]:
            raise DataError(
                f'{shown(source)} names {shown(path)}, a picture in a tar: give the tars themselves'
            )
    paths = [os.path.abspath(path) for _, path in named]
    # Of anything but a folder the names begin where the paths differ: where it lies, and from where
    # it was named, plays no part.
    root = os.path.abspath(source)
    if not os.path.isdir(source):
        root = os.path.commonpath([os.path.dirname(path) for path in paths])
    return [(Path(os.path.relpath(path, root)).as_posix(), path, _size(path)) for path in paths]


def _size(path: str) -> int:
    # What is not there is named when it is its turn.
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def _remote(source: str) -> list[_Entry]:
    """What lies at an address. Raises DataError."""
    try:
        found = [each for url in shards.braces(source) for each in _listed(url)]
    except ImportError as error:
        raise DataError(f'{shown(source)}: {error}: pip install -e .[remote]') from error
    except Exception as error:  # every file system has its own
        raise DataError(
            f'{shown(source)}: cannot be listed ({type(error).__name__}: {error}); check the '
            'address and the credentials'
        ) from error
    wanted = (*files.SUFFIXES, *files.OTHER_SUFFIXES, *shards.SUFFIXES)
    found = [each for each in dict(found).items() if each[0].lower().endswith(wanted)]
    if not found:
        raise DataError(f'{shown(source)}: no pictures and no .tar there; check the address')
    root = posixpath.commonpath([posixpath.dirname(url) for url, _ in found])
    entries = [(posixpath.relpath(url, root), url, size) for url, size in found]
    # As in a folder on a disk, what systems leave behind is none of it.
    return [each for each in entries if not any(map(shards.is_junk, each[0].split('/')))]


def _listed(url: str) -> list[tuple[str, int]]:
    """[(address, bytes)] of a pattern, a folder or a file. Raises whatever its store does."""
    fs, path = fsspec.core.url_to_fs(url)
    if '*' in url:
        found = fs.glob(path, detail=True)
    elif fs.isdir(path):
        found = fs.find(path, detail=True)
    else:
        found = {path: fs.info(path)}
    sizes = {p: info.get('size') or 0 for p, info in found.items() if info['type'] == 'file'}
    return [(fs.unstrip_protocol(p), size) for p, size in sizes.items()]


# ---- reading ----


def photos(shard: InputShard) -> Iterator[Photo]:
    """Read the pictures of an input shard, in order.

    What cannot be read comes as a BadFile, a tar that breaks off as one under the tar's own name.
    Raises OSError, and whatever a store does, where trying again may help.
    """
    if shard.is_tar:
        yield from _of_tar(shard.names[0], shard.paths[0])
        return
    with ThreadPoolExecutor(AHEAD) as pool:
        contents = ahead(pool, lambda i: _contents(shard.paths[i]), len(shard.paths), AHEAD)
        yield from zip(shard.names, contents, strict=True)


def _of_tar(name: str, path: str) -> Iterator[Photo]:
    try:
        with _opened(path) as file:
            for member, _, data in shards.walk(cast(BinaryIO, file), sequential=True):
                yield f'{name}/{member}', data
    except BadFile as error:
        yield name, error
    except FileNotFoundError:
        yield name, Gone('not there any more')


def _opened(path: str) -> Any:
    """A tar on a disk or at an address, open for reading."""
    if not addresses.is_url(path):
        return open_regular(path)
    fs, place = fsspec.core.url_to_fs(path)
    return fs.open(place, 'rb', block_size=addresses.BLOCK)


def _contents(path: str) -> bytes | BadFile:
    try:
        return _at_address(path) if addresses.is_url(path) else files.read_bytes(path)
    except BadFile as error:
        return error
    except FileNotFoundError:
        return Gone('not there any more')
    except OSError as error:
        # A store may answer the next time; a disk says the same again.
        if addresses.is_url(path) and not destination.is_final(error):
            raise
        return Gone(f'cannot be read: {error.strerror or error}')


def _at_address(url: str) -> bytes:
    fs, path = fsspec.core.url_to_fs(url)
    # Bounded before memory is taken for it.
    size = fs.size(path) or 0
    if size > files.LARGEST_FILE:
        raise BadFile(f'too large: {size:,} bytes, at most {files.LARGEST_FILE:,} are read')
    return cast(bytes, fs.cat_file(path))
