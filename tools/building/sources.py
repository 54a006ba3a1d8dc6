"""What a set is built from, cut into input shards: the same ones on every machine.

A task takes one of them. The pictures of a folder, a list or an address are cut into runs of a
fixed length, in natural order; a tar is an input shard of its own, read front to back, so that the
output of img2dataset is taken as it is.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, NamedTuple, cast

import fsspec

from errors import BadFile, DataError
from sources import files, listing, shards, stream
from storage import counted, open_regular, shown
from tasks.batches import ahead

# Pictures at addresses that are fetched before they are needed.
AHEAD = 4

Photo = tuple[str, bytes | BadFile]  # name, contents of the file or why there are none


class InputShard(NamedTuple):
    """Pictures that one task takes."""

    number: int
    names: tuple[str, ...]  # of the pictures, or of the tar: the same wherever the source lies
    paths: tuple[str, ...]  # or addresses
    is_tar: bool

    @property
    def title(self) -> str:
        """For messages."""
        if self.is_tar or len(self.names) == 1:
            return shown(self.paths[0])
        return f'{shown(self.paths[0])} to {shown(self.paths[-1])}'


# ---- listing ----


def find(source: str, length: int) -> list[InputShard]:
    """List the input shards of a folder, a list, a pattern, tars, or an address of these.

    length: pictures of an input shard, at most
    Raises DataError: nothing is there, or a store does not answer.
    """
    named = _remote(source) if stream.is_url(source) else listing.named_paths(source)
    named = sorted(named, key=lambda each: (listing.natural(each[0]), each))
    tars = [each for each in named if shards.parted(each[1])[0] == each[1]]
    pictures = [each for each in named if shards.parted(each[1])[0] != each[1]]
    # Tars first, since their number is known before anybody chooses a length.
    runs = [([each], True) for each in tars]
    runs += [(pictures[i : i + length], False) for i in range(0, len(pictures), length)]
    return [
        InputShard(i, tuple(name for name, _ in run), tuple(path for _, path in run), is_tar)
        for i, (run, is_tar) in enumerate(runs)
    ]


def digest(found: Sequence[InputShard]) -> str:
    """Return what two listings have in common if, and only if, they are of the same pictures."""
    names = '\n'.join(f'{shard.number}/{name}' for shard in found for name in shard.names)
    return hashlib.blake2b(os.fsencode(names), digest_size=16).hexdigest()


def described(found: Sequence[InputShard]) -> str:
    """Say what there is."""
    tars = sum(shard.is_tar for shard in found)
    pictures = sum(len(shard.names) for shard in found if not shard.is_tar)
    parts = [counted(tars, 'tar')] * bool(tars) + [counted(pictures, 'picture')] * bool(pictures)
    return f'{" and ".join(parts)}: {counted(len(found), "input shard")}'


def _remote(source: str) -> list[tuple[str, str]]:
    """[(name, address)] of what lies at an address. Raises DataError."""
    wanted = (*files.SUFFIXES, *files.OTHER_SUFFIXES, *shards.SUFFIXES)
    if '*' in source or shards.braces(source) != [source] or source.lower().endswith(wanted):
        urls = stream.find(source).urls
    else:
        urls = stream.find(f'{source.rstrip("/")}/**').urls
    urls = [url for url in urls if url.lower().endswith(wanted)]
    if not urls:
        raise DataError(f'{shown(source)}: no pictures and no .tar there; check the address')
    # Names begin where the addresses differ, so that a bucket may be copied.
    root = os.path.commonpath([os.path.dirname(url) for url in urls])
    return [(os.path.relpath(url, root), url) for url in urls]


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


def _opened(path: str) -> Any:
    """A tar on a disk or at an address, open for reading."""
    if not stream.is_url(path):
        return open_regular(path)
    fs, place = fsspec.core.url_to_fs(path)
    return fs.open(place, 'rb', block_size=stream.BLOCK)


def _contents(path: str) -> bytes | BadFile:
    try:
        return _at_address(path) if stream.is_url(path) else files.read_bytes(path)
    except BadFile as error:
        return error
    except FileNotFoundError:
        return BadFile('not there any more')
    except OSError as error:
        # A store may answer the next time; a disk says the same again.
        if stream.is_url(path):
            raise
        return BadFile(f'cannot be read: {error.strerror}')


def _at_address(url: str) -> bytes:
    fs, path = fsspec.core.url_to_fs(url)
    # Bounded before memory is taken for it.
    size = fs.size(path) or 0
    if size > files.LARGEST_FILE:
        raise BadFile(f'too large: {size:,} bytes, at most {files.LARGEST_FILE:,} are read')
    return cast(bytes, fs.cat_file(path))
