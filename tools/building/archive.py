"""Tars of which the same members make the same bytes, whoever writes them and when."""

import hashlib
import io
import tarfile
from collections.abc import Iterator
from types import TracebackType
from typing import Any, BinaryIO

import msgspec

from errors import BadFile


class Written(msgspec.Struct, frozen=True):
    """What was written of a tar."""

    bytes: int
    sha256: str


class Archive:
    """A tar that is written front to back. Use it as a context manager."""

    def __init__(self, file: BinaryIO) -> None:
        """Nothing is written yet."""
        self._file = _Hashed(file)
        sink: Any = self._file
        self._tar = tarfile.TarFile(fileobj=sink, mode='w', format=tarfile.USTAR_FORMAT)

    def __enter__(self) -> 'Archive':
        return self

    def add(self, name: str, data: bytes) -> None:
        """Append a file."""
        # Neither a time nor an owner: those differ from run to run.
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(data), 0o644
        self._tar.addfile(info, io.BytesIO(data))

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._tar.close()

    @property
    def written(self) -> Written:
        """Length and hash of what has been written."""
        return Written(self._file.length, self._file.hash.hexdigest())


def members(file: BinaryIO) -> Iterator[tuple[str, bytes]]:
    """Names and contents of what an Archive holds, in its order. Raises BadFile."""
    try:
        with tarfile.open(fileobj=file, mode='r|') as tar:
            for info in tar:
                content = tar.extractfile(info)
                if content:
                    yield info.name, content.read()
    except tarfile.TarError as error:
        raise BadFile(f'damaged: {error}') from error


class _Hashed:
    """A file that is hashed while it is written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.hash = hashlib.sha256()
        self.length = 0

    def tell(self) -> int:
        return self.length

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        self.length += len(data)
        return self._file.write(data)
