"""JSON of which nothing is taken for granted: bounded, and compared with a type."""

import functools
import json
import re
import typing
from typing import Any, TypeVar

import msgspec

from errors import BadFile, RunError

from . import files
from .paths import FilePath, printable, shown

T = TypeVar('T')

LARGEST = 8 << 20  # bytes; what is written here itself is far smaller
# Deeper nesting is no data of ours, and would be an error of Python's while it is compared.
DEEPEST = 64


def read(path: FilePath, kind: type[T], remedy: str, most: int = LARGEST) -> T:
    """The value in a JSON file, of a given type.

    kind: a type in annotations: dataclass, TypedDict, NamedTuple, dict[str, float], ...
    remedy: what to do about a wrong file, for the end of the message
    most: bytes; a larger file is refused
    Raises FileNotFoundError or NotADirectoryError where there is none, and RunError for a file that
    cannot be read or holds something else.
    """
    try:
        return parse(files.read(path, most), kind)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise RunError(f'{shown(path)} cannot be read ({error.strerror}): {remedy}') from error
    except BadFile as error:
        raise RunError(f'{shown(path)} is damaged ({error}): {remedy}') from error


def parse(data: bytes, kind: type[T]) -> T:
    """The value of a JSON text. Raises BadFile with the field, its value and what is expected."""
    return convert(loads(data), kind)


def loads(data: bytes) -> Any:
    """The value of a JSON text, whatever it is. Raises BadFile."""
    try:
        content = json.loads(data)
        _check_depth(content)
    except RecursionError:
        raise BadFile('it is nested too deeply') from None
    except ValueError as error:  # bad syntax, bytes that are no UTF-8, numbers of many digits
        reason = str(error)
        if 'integer string conversion' in reason:
            reason = 'a number has thousands of digits'
        raise BadFile(printable(reason, 160)) from None
    return content


def convert(content: Any, kind: Any) -> Any:
    """A value of JSON or TOML as a type of annotations. Raises BadFile with the field."""
    try:
        return msgspec.convert(content, kind)
    except UnicodeEncodeError:
        raise BadFile('a name in it is no text') from None
    except msgspec.ValidationError as error:
        _name_entry(content, kind)
        raise BadFile(_described(error, content)) from None


def _name_entry(content: Any, kind: Any) -> None:
    """Raise BadFile for the first wrong entry of a plain dict, which msgspec does not name."""
    if typing.get_origin(kind) is not dict or not isinstance(content, dict):
        return
    of_keys, of_values = typing.get_args(kind)
    for key, value in content.items():
        if not isinstance(key, of_keys):
            raise BadFile(f'the name {excerpt(key)} is no text')
        try:
            convert(value, of_values)
        except BadFile as error:
            # Where a field inside is wrong, it is what is named.
            bare = str(error).startswith(('expected', 'object '))
            separator = f' is {excerpt(value)}: ' if bare else '.'
            raise BadFile(f'{printable(key, 60)}{separator}{error}') from None


def excerpt(value: Any, most: int = 40) -> str:
    """A foreign value as JSON for a message, cut after `most` characters."""
    try:
        return printable(json.dumps(value, default=str), most)
    except (ValueError, TypeError, RecursionError):  # numbers of many digits, keys that are no text
        return f'a {type(value).__name__}'


def _check_depth(content: Any) -> None:
    """Raise RecursionError for a value that is nested more deeply than DEEPEST."""
    # Level by level: a file may have millions of values.
    level = [content] if isinstance(content, (dict, list)) else []
    for _ in range(DEEPEST):
        inner = (v.values() if isinstance(v, dict) else v for v in level)
        level = [v for values in inner for v in values if isinstance(v, (dict, list))]
        if not level:
            return
    raise RecursionError


def _described(error: msgspec.ValidationError, content: Any) -> str:
    """'nimg is "x": expected `int`' of an error of msgspec's, which says where, not what."""
    reason, _, place = str(error).partition(' - at `')
    keys = re.findall(r'[^.\[\]`$]+', place)
    reason = re.sub(r', got `\w+`$', '', reason).replace('`', '')
    reason = reason[:1].lower() + reason[1:]
    if not keys or '...' in keys:
        return reason
    try:
        value = functools.reduce(
            lambda inner, key: inner[int(key) if isinstance(inner, list) else key], keys, content
        )
    except (KeyError, IndexError, TypeError, ValueError):
        return f'{".".join(keys)}: {reason}'
    return f'{".".join(keys)} is {excerpt(value)}: {reason}'
