"""Results about files, cached as JSON so that the next start need not read the files again."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import storage
from errors import BadFile
from storage import shown

from .aliases import FilePath, Say

LARGEST = 1 << 30  # bytes; millions of files


def cache_folder() -> Path:
    """Path of $FACES_CACHE, or ~/.cache/faces; it is not created here."""
    return Path(os.path.expanduser(os.environ.get('FACES_CACHE') or '~/.cache/faces'))


def load(path: FilePath, version: int) -> dict[str, Any]:
    """Read the dict that `save` wrote.

    A missing or damaged file, or one of another version, gives {}: the caller then reads the files
    anew.
    """
    try:
        content = json.loads(storage.read(path, LARGEST))
    except (OSError, ValueError, BadFile, RecursionError):
        return {}
    return content if isinstance(content, dict) and content.get('version') == version else {}


def save(path: FilePath, version: int, content: Mapping[str, object], say: Say = print) -> None:
    """Write a dict completely or not at all.

    A folder that cannot be written is reported, not raised: it only makes the next start slower.
    """
    # A name per process, so that several processes of a run do not write into one file.
    temporary = f'{path}.{os.getpid()}.tmp'
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(temporary, 'w') as f:
            json.dump({'version': version, **content}, f)
            f.flush()
            # Renamed only after the data are on disk: a power cut leaves the old file or the new.
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except OSError as e:
        say(
            f'{shown(path)}: the scan cannot be cached ({e.strerror}); '
            'set FACES_CACHE to a writable folder'
        )
