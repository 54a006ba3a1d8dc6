"""What was found out about files, kept as JSON in the cache folder for the next start."""

import json
import os
from pathlib import Path

from .files import read_bytes, shown


def cache_folder():
    """Path of $FACES_CACHE, or ~/.cache/faces; whoever writes there makes it."""
    return Path(os.path.expanduser(os.environ.get('FACES_CACHE') or '~/.cache/faces'))


def load(path, version):
    """The dict that `save` wrote; {} if there is none, or it is damaged or of another version: everything is found out again."""
    try:
        content = json.loads(read_bytes(path))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) and content.get('version') == version else {}


def save(path, version, content, say=print):
    """Write a dict, whole or not at all; a folder that cannot be written is told and costs the next start its time."""
    temporary = f'{path}.{os.getpid()}.tmp'
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(temporary, 'w') as f:
            json.dump({'version': version, **content}, f)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except OSError as e:
        say(
            f'{shown(path)}: cannot keep the scan ({e.strerror}); set FACES_CACHE to a writable folder'
        )
