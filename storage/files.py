"""Bytes: read from regular files only, and written whole or not at all."""

import contextlib
import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

from errors import BadFile, RunError

from .paths import FilePath, shown

LARGEST = 16 << 30  # bytes of a file that is read at once


def open_regular(path: FilePath) -> BinaryIO:
    """Open a file for reading.

    Raises OSError, and BadFile for what is no regular file: a pipe would be waited for.
    """
    nonblocking = getattr(os, 'O_NONBLOCK', 0) | getattr(os, 'O_BINARY', 0)
    handle = os.open(path, os.O_RDONLY | nonblocking)
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        raise BadFile('a folder, not a file' if stat.S_ISDIR(mode) else 'not a regular file')
    return os.fdopen(handle, 'rb')


def read(path: FilePath, most: int = LARGEST) -> bytes:
    """Contents of a regular file.

    most: bytes; a larger one is not read. Raises OSError and BadFile.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise BadFile(f'too large: {size:,} bytes, at most {most:,} are expected')
        return file.read(size)  # memory is taken for what is asked for, not for what is there


def write(path: FilePath, data: bytes, sync: bool = False) -> None:
    """Write a file, whole or not at all, in a folder that is made if need be.

    sync: also survive a loss of power
    Raises RunError if it cannot be written.
    """
    path = Path(path)
    fresh = path.with_name(f'.new-{path.name}')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(fresh, 'wb') as f:
            f.write(data)
            if sync:
                f.flush()
                os.fsync(f.fileno())
        os.replace(fresh, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise RunError(f'{shown(path)} cannot be written: {error.strerror}') from error


def write_json(path: FilePath, content: Any) -> None:
    """Write a value as indented JSON, as `write` does."""
    write(path, (json.dumps(content, indent=2) + '\n').encode())
