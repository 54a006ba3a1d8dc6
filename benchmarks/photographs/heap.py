"""A heap of photographs in a folder or in tars, made by several processes.

Whoever makes it, and however often, the bytes are the same.
"""

import io
import multiprocessing
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

import cv2

from storage import FilePath, printable

from . import damaged, painting, truth
from .aligned import Faces
from .plan import COPY, SHARD, Deck, stream
from .truth import Damaged, Photo, Truth

TYPES = {
    '': tarfile.REGTYPE,
    damaged.FOLDER: tarfile.DIRTYPE,
    damaged.LINK: tarfile.SYMTYPE,
    damaged.PIPE: tarfile.FIFOTYPE,
}


class Heap(NamedTuple):
    """What is to be made."""

    seed: int
    photos: int
    faces: Faces
    damaged: int = 0  # files beside them
    tars: bool = False

    @property
    def deck(self) -> Deck:
        """Which photos there are. Raises DataError where there are too few faces."""
        return Deck(self.seed, self.photos, self.faces.count)


class Item(NamedTuple):
    """A file to be made."""

    shard: int
    at: int  # number of a photo, or of the one before which a damaged file lies
    odd: int | None = None  # number of a damaged file, or of the odd name of a photo


class Made(NamedTuple):
    """A file."""

    item: Item
    name: str  # in its shard
    data: bytes
    photo: Photo | None  # of a damaged file: none
    special: str = ''


def write(heap: Heap, root: FilePath, workers: int, progress: Callable[[int, int], None]) -> Truth:
    """Make a heap in a folder, and what is true of it.

    workers: processes; progress: called as progress(done, total)
    Raises DataError and RunError, OSError where the disk refuses, BadFile for a face that cannot
    be read.
    """
    deck, items, told = heap.deck, _items(heap), Truth(heap.seed, [], [])
    with _sink(heap, Path(root)) as sink, _workers(heap, workers) as mapped:
        for done, made in enumerate(mapped(items), 1):
            _tell(told, made, printable(sink.add(made)), heap.tars)
            progress(done, len(items))
    _name_originals(deck, told)
    truth.write(Path(root) / truth.NAME, told)
    return told


def _items(heap: Heap) -> list[Item]:
    """All files, shard by shard."""
    photos = {n: Item(n // SHARD, n) for n in range(heap.photos)}
    others = []
    for i in range(heap.damaged):
        at = int(stream(heap.seed, i, 'place').integers(heap.photos))
        if damaged.kind(i):
            others.append(Item(at // SHARD, at, i))
            continue
        # The name of a photo that has none of these yet.
        free = (n % heap.photos for n in range(at, at + heap.photos))
        at = next((n for n in free if photos[n].odd is None), at)
        photos[at] = photos[at]._replace(odd=i)
    # A photo after the damaged files before it.
    return sorted([*others, *photos.values()], key=lambda item: (item.at, _is_photo(item)))


def _is_photo(item: Item) -> bool:
    return item.odd is None or damaged.kind(item.odd) is None


def _tell(told: Truth, made: Made, name: str, tars: bool) -> None:
    """Add a file to what is true of a heap."""
    odd = made.item.odd
    if made.photo:
        made.photo.name = name
        told.photos.append(made.photo)
    if odd is not None:
        kind = damaged.kind(odd)
        what, bad = (kind.what, kind.bad) if kind else ('odd name', False)
        # In a tar, whatever is no file is passed over.
        told.damaged.append(Damaged(name, what, bad and not (tars and bool(made.special))))


def _name_originals(deck: Deck, told: Truth) -> None:
    for number, photo in enumerate(told.photos):
        if photo.kind == COPY:
            original = deck.original(number)
            assert original is not None
            photo.copy_of = told.photos[original].name


# ---- processes ----

_HEAP: dict[str, Heap | Deck] = {}  # of this process


def _start(heap: Heap) -> None:
    cv2.setNumThreads(1)
    _HEAP.update(heap=heap, deck=heap.deck)


def _made(item: Item) -> Made:
    heap, deck = _HEAP['heap'], _HEAP['deck']
    assert isinstance(heap, Heap) and isinstance(deck, Deck)
    odd = None if item.odd is None else damaged.kind(item.odd)
    if odd:
        data = odd.made(stream(heap.seed, item.odd or 0, 'damaged'))
        return Made(item, damaged.name(item.odd or 0, item.at), data, None, odd.special)
    data, photo, suffix = painting.file(deck, heap.faces, item.at)
    called = f'{item.at:06}{suffix}' if item.odd is None else damaged.name(item.odd, item.at)
    return Made(item, called, data, photo)


@contextmanager
def _workers(heap: Heap, count: int) -> Iterator[Callable[[Iterable[Item]], Iterator[Made]]]:
    """A function that makes files in their order."""
    if count == 1:
        _start(heap)
        yield lambda items: map(_made, items)
        return
    # Fresh processes: a fork of one with threads may hang.
    fresh = multiprocessing.get_context('spawn')
    with ProcessPoolExecutor(count, fresh, _start, (heap,)) as pool:
        try:
            yield lambda items: pool.map(_made, items, chunksize=4)
        finally:
            pool.shutdown(cancel_futures=True)


# ---- where they go ----


class Sink(Protocol):
    """Takes files in order."""

    def add(self, made: Made) -> str:
        """Write a file -> its name below the heap."""


class _Folders:
    def __init__(self, root: Path) -> None:
        self._root = root

    def add(self, made: Made) -> str:
        name = f'photos-{made.item.shard:06}/{made.name}'
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if made.special == damaged.FOLDER:
            path.mkdir()
        elif made.special == damaged.LINK:
            path.symlink_to(path.name)
        elif made.special == damaged.PIPE:
            os.mkfifo(path)
        else:
            path.write_bytes(made.data)
        return name


class _Tars:
    """A tar for each shard, the same bytes every time."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._tar: tarfile.TarFile | None = None
        self._shard = -1

    def add(self, made: Made) -> str:
        title = f'photos-{made.item.shard:06}.tar'
        if made.item.shard != self._shard:
            self.close()
            self._root.mkdir(parents=True, exist_ok=True)
            self._tar = tarfile.open(self._root / title, 'w')  # noqa: SIM115 - see close
            self._shard = made.item.shard
        assert self._tar
        # Neither a time nor an owner.
        info = tarfile.TarInfo(made.name)
        info.type, info.size = TYPES[made.special], len(made.data)
        info.linkname = made.name if made.special == damaged.LINK else ''
        self._tar.addfile(info, io.BytesIO(made.data))
        return f'{title}/{made.name}'

    def close(self) -> None:
        if self._tar:
            self._tar.close()


@contextmanager
def _sink(heap: Heap, root: Path) -> Iterator[Sink]:
    if not heap.tars:
        yield _Folders(root)
        return
    tars = _Tars(root)
    try:
        yield tars
    finally:
        tars.close()
