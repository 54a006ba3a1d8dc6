"""Which files a data set is made of, so that another one is told from it wherever they lie.

A file is known by its name, its size and, in a set of up to SMALL bytes, its contents. Folders and
times do not count: data may be moved, copied and reached by other paths.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from typing import Any, NamedTuple

from errors import BadFile
from storage import open_regular, shown, some

from . import stream
from .files import read_bytes
from .manifest import Image

SMALL = 512 << 20  # bytes of a set whose contents are compared too
BLOCK = 1 << 20
READ_BY = 4  # threads
NAMED = 3  # files that a message names


class File(NamedTuple):
    """What a file is known by."""

    name: str
    size: int
    content: str = ''  # digest; '' in a set that is not small


def of_images(images: Any) -> list[File]:
    """The files of a data set, in its order; of a stream its shards, by their names alone."""
    if isinstance(images, stream.Shards):
        return [File(os.path.basename(url), 0) for url in images.urls]
    parts = [part for item in images for part in _parts(item)]
    sizes = [_size(part) for part in parts]
    contents: Iterable[str] = [''] * len(parts)
    if sum(sizes) <= SMALL:
        with ThreadPoolExecutor(READ_BY) as pool:
            contents = list(pool.map(_content, parts))
    names = [shown(os.path.basename(part.path)) for part in parts]
    return [File(*known) for known in zip(names, sizes, contents, strict=True)]


def copies(items: Sequence[Any], others: Sequence[Any]) -> list[str]:
    """Paths of the pictures among `items` that have the very contents of one of `others`.

    Only files of equal sizes are read, which hardly happens by chance.
    """
    theirs = by_size(others)
    known: dict[int, set[str]] = {}
    found = []
    for image in map(_picture, items):
        size = _size(image)
        if size in theirs:
            if size not in known:
                known[size] = {_content(other) for other in theirs[size]}
            if _content(image) in known[size]:
                found.append(image.path)
    return found


def by_size(items: Sequence[Any]) -> dict[int, list[Image]]:
    """The pictures by their bytes."""
    found: dict[int, list[Image]] = {}
    for image in map(_picture, items):
        found.setdefault(_size(image), []).append(image)
    return found


def of_file(path: str | os.PathLike[str]) -> list[File]:
    """The one file at a path, for weights; nothing if it cannot be read, which its reader tells."""
    digest = hashlib.blake2b(digest_size=8)
    try:
        with open_regular(path) as file:
            while block := file.read(BLOCK):
                digest.update(block)
            return [File('', file.tell(), digest.hexdigest())]
    except (OSError, BadFile):
        return []


def of_text(text: str) -> list[File]:
    """A text in place of a file."""
    data = text.encode()
    return [File('', len(data), hashlib.blake2b(data, digest_size=8).hexdigest())]


def digest(files: Iterable[File]) -> str:
    """A word that stands for these files."""
    text = '\n'.join('\t'.join(map(str, file)) for file in files)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def difference(old: Sequence[File], new: Sequence[File]) -> str:
    """How a data set differs from what it was: files that changed, went or came; '' if it does
    not.
    """
    before, after = ({file.name for file in files} for files in (old, new))
    changed = [b.name for a, b in zip_longest(old, new) if a and b and a.name == b.name and a != b]
    gone = [file.name for file in old if file.name not in after]
    come = [file.name for file in new if file.name not in before]
    what: tuple[tuple[str, list[str]], ...] = (
        ('changed', changed),
        ('is missing' if len(gone) == 1 else 'are missing', gone),
        ('new', come),
    )
    said = [f'{some(names, NAMED)} {words}' for words, names in what if names]
    if not said and list(old) != list(new):
        return 'the files are others, or in another order'
    return '; '.join(said)


def _picture(item: Any) -> Image:
    """What stands for an image, or for a pair."""
    return getattr(item, 'picture', item)


def _parts(item: Any) -> list[Image]:
    """The files of a picture, or of a pair."""
    return [item] if isinstance(item, Image) else [p for p in item if isinstance(p, Image)]


def _size(image: Image) -> int:
    if image.part:
        return image.part[2]
    return _or_gone(lambda: os.stat(image.path).st_size, -1)


def _content(image: Image) -> str:
    data = _or_gone(lambda: read_bytes(*image.where), b'')
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def _or_gone(read: Callable[[], Any], otherwise: Any) -> Any:
    """What is read of a file that was there when the set was scanned."""
    try:
        return read()
    except OSError:
        return otherwise
