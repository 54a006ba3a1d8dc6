"""Options that a run stored in its config.json, or a published file of weights in its header: read,
and checked as those of a command line are.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from errors import BadFile, RunError
from storage import records, shown, tensors
from training import places, run
from training.run import RECIPE, RENAMED

from .schema import Config, options, replace_options

_TYPES: dict[str, Any] = {option.name: option.type for _, option in options()} | {
    'task': str,
    'preset': str,
}
# Of numbers; what has no limit of its own, as a seed, keeps to this one.
LARGEST = 1 << 63
# Of the arguments of networks, in config.json and arch.json: blocks, channels, sides.
LARGEST_ARGUMENT = 4096
MOST_ENTRIES = 256


def from_flat(flat: Mapping[str, Any], source: str = 'the options') -> Config:
    """The options that `flatten` wrote; what is missing has its default, what is unknown is
    ignored.

    source: where they are from, for the message. Raises RunError for values of other types.
    """
    return replace_options(Config(), **checked(flat, source))


def of_run(folder: str | os.PathLike[str]) -> Config | None:
    """The options that a run directory was made with, None if it is none; `tasks.of_run` also
    builds its network. Raises RunError for a damaged config.json.
    """
    stored = run.read_config(folder)
    source = f'{shown(folder)}/config.json'
    if not stored:
        return None
    flat = places.located(folder, checked(stored, source))

    # A recipe of the user's own as it was: the run keeps it.
    if str(flat.get('recipe')).endswith('.toml') and Path(folder, RECIPE).exists():
        flat['recipe'] = str(Path(folder, RECIPE))
    return from_flat(flat, source)


def made_with(path: str | os.PathLike[str]) -> Config | None:
    """As `of_run`, or as `of_file` for a file."""
    return of_file(path) if os.path.isfile(path) else of_run(path)


def of_file(path: str | os.PathLike[str]) -> Config | None:
    """What a file of tools/publish.py says of the network in it, None if it says nothing.

    Task, network and the size of its pictures are known; all else, such as data and recipe, is that
    of no run. Raises RunError for options that are none.
    """
    # Weights of others, in whatever kind of file, say nothing.
    try:
        said = tensors.metadata(path)
    except (OSError, BadFile):
        return None
    if not {'network', 'net', 'size'} <= said.keys():
        return None
    # Its weights have 16 bits, but they were no run's that computed with so few.
    flat = {'task': said.get('task', 'restore'), 'preset': said['network'], 'precision': 'fp32'}
    flat |= {name: meant(name, said[name]) for name in ('network', 'net', 'size')}
    return from_flat(flat, shown(path))


def checked(flat: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The known ones among some options, under their present names.

    Raises RunError, with the source, for one whose value is not of its type.
    """
    # Runs of earlier versions are read, too.
    current = {RENAMED.get(name, name): value for name, value in flat.items()}
    known = {name: value for name, value in current.items() if name in _TYPES}
    for name, value in known.items():
        # Runs of the first format had one validation set.
        several = [value] if name == 'val' and isinstance(value, str) else value
        try:
            _check(several, _TYPES[name])
        except BadFile as error:
            raise RunError(
                f'{source}: {name} {records.excerpt(value)} cannot be used: {error}'
            ) from None
        known[name] = several
    return known


def meant(name: str, value: Any) -> Any:
    """The value of an option in a file, where a text stands for it as on the command line."""
    if not isinstance(value, str):
        return value
    readings: tuple[Callable[[], Any], ...] = (
        lambda: msgspec.convert(value, _TYPES[name], strict=False),
        lambda: msgspec.convert([value], _TYPES[name]),
        lambda: msgspec.convert(value.split(','), _TYPES[name], strict=False),
        lambda: records.parse(value.encode(), _TYPES[name]),
    )
    for reading in readings:
        with contextlib.suppress(ValueError, BadFile):
            return reading()
    return value


def _check(value: Any, kind: Any) -> None:
    """Raise BadFile for a value that is not of the type of an option."""
    records.convert(value, kind)
    if value == []:
        raise BadFile('an empty list says nothing')
    for text in value if isinstance(value, list) else [value]:
        if isinstance(text, str) and not _can_be_path(text):
            raise BadFile('a text that can name a file was expected')
    for number in _numbers_in(value):
        if not abs(number) <= LARGEST:
            raise BadFile(f'a number from -{LARGEST:,} to {LARGEST:,} was expected')
    if isinstance(value, dict):
        check_arguments(value)


def _can_be_path(text: str) -> bool:
    try:
        name = os.fsencode(text)
    except UnicodeEncodeError:  # half a character
        return False
    return b'\0' not in name and len(name) < 4096 and max(map(len, name.split(b'/'))) < 256


def check_arguments(value: Any) -> None:
    """Raise BadFile for arguments of a network that would take for ever to build."""
    if isinstance(value, (dict, list)) and len(value) > MOST_ENTRIES:
        raise BadFile(f'{len(value):,} entries in one list: at most {MOST_ENTRIES} were expected')
    for number in _numbers_in(value):
        if abs(number) > LARGEST_ARGUMENT:
            raise BadFile(f'numbers up to {LARGEST_ARGUMENT:,} were expected in it')
    inner = value.values() if isinstance(value, dict) else value
    if isinstance(value, (dict, list)):
        for part in inner:
            check_arguments(part)


def _numbers_in(value: Any) -> Iterator[float]:
    """The number that a value is, or the numbers of a list."""
    values = value if isinstance(value, (list, tuple)) else [value]
    yield from (v for v in values if isinstance(v, (int, float)))
