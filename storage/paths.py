"""Paths in messages, and destinations that must not be sources."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from errors import RunError

FilePath = str | os.PathLike[str]


def shown(path: FilePath) -> str:
    """A path as text of one line for a message; a name need not be UTF-8, and may hold anything."""
    return printable(os.fsencode(path).decode('utf-8', 'replace'))


def printable(text: str, most: int | None = None) -> str:
    """Foreign text as one line for a message, cut after `most` characters."""
    line = ''.join(c if c.isprintable() else c.encode('unicode_escape').decode() for c in text)
    return line if most is None or len(line) <= most else f'{line[:most]}...'


def counted(number: int, noun: str) -> str:
    """A number of things for a message: '1 image', '1,200 images'."""
    return f'{number:,} {noun}{"" if number == 1 else "s"}'


def some(names: Sequence[str], most: int, separator: str = ', ') -> str:
    """The first `most` names, and how many more there are."""
    rest = [f'and {len(names) - most:,} more'] if len(names) > most else []
    return separator.join([*names[:most], *rest])


def check_apart(
    written: Mapping[str, FilePath | None], read: Mapping[str, FilePath | None]
) -> None:
    """Raise RunError if something that would be written is, or lies in, what is read.

    written, read: {flag or other name for the message: file or folder, which need not exist; None
    where nothing is given}. Both are compared by their real paths, so that links and relative
    names deceive nobody.
    """
    for flag, target in written.items():
        for source_flag, source in read.items():
            if target is None or source is None or not os.path.lexists(source):
                continue
            place = _within(target, source)
            if place:
                raise RunError(
                    f'{flag} {shown(target)} {place} {source_flag} {shown(source)}, which would be '
                    f'changed: give {flag} a place of its own'
                )


def _within(target: FilePath, source: FilePath) -> str:
    """'is' or 'lies in' if the target is the source or inside it, else ''."""
    # A file with several names is one file. (`samefile` needs both to exist.)
    real, of = Path(os.path.realpath(target)), Path(os.path.realpath(source))
    if real == of or (real.exists() and of.exists() and real.samefile(of)):
        return 'is'
    return 'lies in' if of in real.parents else ''
