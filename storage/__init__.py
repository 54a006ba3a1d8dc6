"""What is read from a disk, within bounds and by its type, and what is written to it whole.

A file may be anything: damaged, hostile, another kind than its name says, a pipe.
"""

from .files import open_regular, read, write, write_json
from .paths import FilePath, check_apart, counted, printable, shown, some

__all__ = [
    'FilePath',
    'check_apart',
    'counted',
    'open_regular',
    'printable',
    'read',
    'shown',
    'some',
    'write',
    'write_json',
]
