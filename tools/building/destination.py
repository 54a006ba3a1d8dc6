"""Where a set is written to: a folder, or an address of any store that fsspec knows.

Every file appears whole or not at all. A destination is passed to other processes and machines,
so it holds nothing but its name.
"""

import contextlib
import os
import posixpath
import re
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol, cast

import fsspec

import storage
from errors import BadFile, RunError
from sources import addresses
from storage import printable, shown

# How the name of a file begins that is being written.
UNFINISHED = '.new-'
_UNFINISHED = re.compile(r'\.new-[0-9a-f]{32}-.')
LARGEST = 1 << 32  # bytes of a file that is read at once
TRIES = 3  # at making a folder that another process may just be removing
# What trying again does not mend, by the names that stores have for it.
FINAL = 'NoCredentialsError', 'PartialCredentialsError', 'InvalidAccessKeyId', 'NoSuchBucket'


class Unreachable(Exception):
    """A store that did not answer, and may do so the next time."""


class Destination(Protocol):
    """Files by name; a name may have a folder in front: LQ/pairs-000000.tar."""

    @property
    def place(self) -> str:
        """Folder or address."""

    def sizes(self) -> dict[str, int]:
        """Names of all files, and their bytes; unfinished and hidden ones are left out. Raises
        RunError and Unreachable, as everything here.
        """

    def read(self, name: str) -> bytes:
        """Contents of a file. Raises FileNotFoundError, and RunError where it cannot be read."""

    def reading(self, name: str) -> contextlib.AbstractContextManager[BinaryIO]:
        """Open a file for reading. Raises RunError."""

    def writing(self, name: str) -> contextlib.AbstractContextManager[BinaryIO]:
        """Write a file, which is there when the context ends without an error. Raises RunError."""

    def remove(self, name: str) -> None:
        """Remove a file if it is there."""

    def clean(self) -> None:
        """Remove what was never finished. Nobody may be writing."""


def make(place: str) -> Destination:
    """Return the destination of this name. Raises RunError."""
    place = place.removeprefix('file://')
    return Store(place.rstrip('/')) if addresses.is_url(place) else Folder(os.path.abspath(place))


def write(destination: Destination, name: str, data: bytes) -> None:
    """Write a small file. Raises RunError."""
    with destination.writing(name) as file:
        file.write(data)


class Folder(NamedTuple):
    """A destination on a disk, which may be one that several machines share."""

    place: str

    def sizes(self) -> dict[str, int]:
        """See Destination."""
        # Hidden files are those that are being written, or none of ours.
        found: dict[str, int] = {}
        for folder, _, names in os.walk(self.place):
            for name in names:
                path = Path(folder, name)
                # What has just been removed is not there.
                with contextlib.suppress(FileNotFoundError):
                    if not name.startswith('.'):
                        found[path.relative_to(self.place).as_posix()] = path.stat().st_size
        return found

    def read(self, name: str) -> bytes:
        """See Destination."""
        try:
            return storage.read(Path(self.place, name), LARGEST)
        except FileNotFoundError:
            raise
        except (OSError, BadFile) as error:
            raise RunError(f'{shown(Path(self.place, name))} cannot be read: {error}') from error

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[BinaryIO]:
        """See Destination."""
        try:
            with storage.open_regular(Path(self.place, name)) as file:
                yield file
        except (OSError, BadFile) as error:
            raise RunError(f'{shown(Path(self.place, name))} cannot be read: {error}') from error

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        """See Destination."""
        path = Path(self.place, name)
        # Two that write the same file do not get into each other's way: the later one wins.
        fresh = path.with_name(f'{UNFINISHED}{uuid.uuid4().hex}-{path.name}')
        with _disk(path):
            file = _opened_in_folder(fresh)
        try:
            with file:
                yield cast(BinaryIO, _Sink(file, path))
                # Before it has its name: a machine may lose its power.
                with _disk(path):
                    os.fsync(file.fileno())
            with _disk(path):
                os.replace(fresh, path)
        # Also of what was broken off; after the replacement it has no file to remove.
        finally:
            fresh.unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        """See Destination."""
        path = Path(self.place, name)
        path.unlink(missing_ok=True)
        # A folder that nothing is left in would look like a part of the set.
        if path.parent != Path(self.place):
            with contextlib.suppress(OSError):  # it is not empty
                path.parent.rmdir()

    def clean(self) -> None:
        """See Destination."""
        # A process that was killed had no chance to. Deeper folders are none of a set.
        for path in (*Path(self.place).glob('.new-*'), *Path(self.place).glob('*/.new-*')):
            if _UNFINISHED.match(path.name):
                path.unlink(missing_ok=True)


class Store(NamedTuple):
    """A destination at an address, where a file is one put."""

    place: str

    def sizes(self) -> dict[str, int]:
        """See Destination."""
        fs, root = self._opened()
        # What another process has written since is not in a listing that is remembered.
        fs.invalidate_cache()
        with _refusals(self.place, 'listed'):
            found = fs.find(root, detail=True)
        sizes = {posixpath.relpath(p, root): info.get('size') or 0 for p, info in found.items()}
        return {k: v for k, v in sizes.items() if not posixpath.basename(k).startswith('.')}

    def read(self, name: str) -> bytes:
        """See Destination."""
        fs, root = self._opened()
        try:
            return cast(bytes, fs.cat_file(f'{root}/{name}'))
        except FileNotFoundError:
            raise
        except Exception as error:
            raise _refused(f'{self.place}/{name}', 'read', error) from error

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[BinaryIO]:
        """See Destination."""
        fs, root = self._opened()
        with (
            _refusals(f'{self.place}/{name}', 'read'),
            fs.open(f'{root}/{name}', 'rb', block_size=addresses.BLOCK) as file,
        ):
            yield file

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        """See Destination."""
        # On the disk first: a put has to be whole, and memory would hold a shard for each worker.
        with tempfile.NamedTemporaryFile(prefix=UNFINISHED, buffering=0) as file:
            yield cast(BinaryIO, _Sink(file, Path(file.name)))
            fs, root = self._opened()
            with _refusals(f'{self.place}/{name}', 'written'):
                fs.put_file(file.name, f'{root}/{name}')

    def remove(self, name: str) -> None:
        """See Destination."""
        fs, root = self._opened()
        with _refusals(f'{self.place}/{name}', 'removed'), contextlib.suppress(FileNotFoundError):
            fs.rm_file(f'{root}/{name}')

    def clean(self) -> None:
        """See Destination; a put that was broken off leaves nothing."""

    def _opened(self) -> tuple[Any, str]:
        # fsspec keeps the connection: this costs nothing from the second time on.
        try:
            fs, root = fsspec.core.url_to_fs(self.place)
        except ImportError as error:
            raise RunError(f'{shown(self.place)}: {error}: pip install -e .[remote]') from error
        except ValueError as error:
            raise RunError(f'{shown(self.place)}: no store of that kind is known') from error
        return fs, root


class _Sink:
    """An unbuffered file, whose errors are told apart from those of what is written into it."""

    def __init__(self, file: Any, path: Path) -> None:
        self._file = file
        self._path = path

    def write(self, data: bytes) -> int:
        left = memoryview(data)
        while left:
            with _disk(self._path):
                left = left[self._file.write(left) :]
        return len(data)


def _opened_in_folder(path: Path) -> Any:
    """A new file, unbuffered, in a folder that is made if need be."""
    for left in reversed(range(TRIES)):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return open(path, 'wb', buffering=0)
        except FileNotFoundError:
            # Another builder has just removed the folder, because it was empty.
            if not left:
                raise
    raise AssertionError


@contextlib.contextmanager
def _disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(f'{shown(path)} cannot be written: {error.strerror}') from error


@contextlib.contextmanager
def _refusals(what: str, done: str) -> Iterator[None]:
    """Every store has errors of its own; each has tried again by itself before it raises one."""
    try:
        yield
    except (RunError, Unreachable):
        raise
    except Exception as error:
        raise _refused(what, done, error) from error


def _refused(what: str, done: str, error: Exception) -> RunError | Unreachable:
    said = f'{shown(what)} cannot be {done}: {printable(str(error), 300)}'
    return RunError(said) if is_final(error) else Unreachable(said)


def is_final(error: Exception) -> bool:
    """Whether a store would say the same the next time: a right or a bucket that is missing."""
    known = isinstance(error, (PermissionError, FileNotFoundError, NotADirectoryError))
    return known or any(each in f'{type(error).__name__} {error}' for each in FINAL)
