"""Where a program may write: apart from what it reads, and from what a run keeps of itself."""

import glob
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from errors import RunError
from storage import FilePath, check_apart, shown

# What a run directory holds of the run; everything else in it is the user's.
OWN = {
    'config.json',
    'log.jsonl',
    'machine.json',
    'result.json',
    'weights.safetensors',
    'curves.png',
    'arch.json',
    'path.png',
    'checkpoints',
    'best',
    'samples',
    'tensorboard',
}

# One path or several, as a flag has them.
Paths = FilePath | Iterable[FilePath] | None


def check(
    written: Mapping[str, Paths],
    read: Mapping[str, Paths],
    weights: Mapping[str, Paths] | None = None,
) -> None:
    """Raise RunError, before anything is written, if a source or a run would be written over.

    written: {flag: file or folder}
    read:    as for `check_sources`
    weights: {flag: file of weights or run directory}; an output may lie in its folder
    """
    check_sources(written, read)
    check_same(written, weights or {})
    for flag, target in _pairs(written):
        _check_run(flag, target)


def check_sources(written: Mapping[str, Paths], read: Mapping[str, Paths]) -> None:
    """Raise RunError if an output is something that is read, or lies in it.

    read: {flag: file, folder, pattern or address}, in any form that --data and --val of train.py
    have; what does not exist cannot be written over
    A folder that is read, a data set for instance, must not hold the output either: it would be
    taken for a part of it the next time.
    """
    for flag, target in _pairs(written):
        for source_flag, source in _pairs(read):
            check_apart({flag: target}, {source_flag: _place(source)})


def check_same(written: Mapping[str, Paths], read: Mapping[str, Paths]) -> None:
    """Raise RunError if an output is something that is read, in whose folder it may lie."""
    for flag, target in _pairs(written):
        for source_flag, source in _pairs(read):
            if os.path.realpath(target) == os.path.realpath(source):
                check_apart({flag: target}, {source_flag: source})


def _check_run(flag: str, target: FilePath) -> None:
    """Raise RunError for a run directory, and for a file or folder that a run writes itself."""
    real = Path(os.path.realpath(target))
    for folder in (real, *real.parents):
        if not _is_run(folder):
            continue
        below = real.relative_to(folder).parts
        if not below or below[0] in OWN:
            what = 'is a run directory' if not below else 'belongs to a run'
            raise RunError(f'{flag} {shown(target)} {what}: give {flag} a place of its own')


def _is_run(folder: Path) -> bool:
    # A file of that name alone may be anybody's.
    others = OWN - {'config.json'}
    return (folder / 'config.json').is_file() and any((folder / name).exists() for name in others)


def _pairs(paths: Mapping[str, Paths]) -> Iterable[tuple[str, FilePath]]:
    for flag, value in paths.items():
        if value is None:
            continue
        several = [value] if isinstance(value, (str, os.PathLike)) else value
        yield from ((flag, path) for path in several)


def _place(source: FilePath) -> FilePath:
    """The file or folder that a data set lies in."""
    text = os.fspath(source)
    # NAME=PATH names a validation set, stacked:PATH says how its pairs lie.
    if not os.path.lexists(text):
        text = text.partition('=')[2] or text
        text = text.removeprefix('stacked:')
    if not os.path.lexists(text) and glob.has_magic(text):
        return _fixed(text)
    return text


def _fixed(pattern: str) -> str:
    """The folder of a pattern above its first star."""
    folder = os.path.dirname(pattern)
    while glob.has_magic(folder):
        folder = os.path.dirname(folder)
    return folder or '.'
