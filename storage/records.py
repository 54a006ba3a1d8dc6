"""JSON of which nothing is taken for granted: bounded, and compared with a type."""

import functools
import json
import re
from typing import Any, TypeVar

import msgspec

from errors import BadFile, RunError

from . import files
from .paths import FilePath, shown

T = TypeVar('T')

LARGEST = 64 << 20  # bytes; what is written here itself is far smaller
# Deeper nesting is no data of ours, and would be an error of Python's while it is compared.
DEEPEST = 64


def read(path: FilePath, kind: type[T], remedy: str) -> T:
    """The value in a JSON file, of a given type.

    kind: a type in annotations: dataclass, TypedDict, NamedTuple, dict[str, float], ...
    remedy: what to do about a wrong file, for the end of the message
    Raises FileNotFoundError, and RunError for a file that cannot be read or holds something else.
    """
    try:
        return parse(files.read(path, LARGEST), kind)
    except FileNotFoundError:
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
        _check_depth(content, DEEPEST)
    except RecursionError:
        raise BadFile('it is nested too deeply') from None
    except ValueError as error:  # bad syntax, bytes that are no UTF-8, numbers of many digits
        raise BadFile(str(error)) from None
    return content


def convert(content: Any, kind: Any) -> Any:
    """A value of JSON or TOML as a type of annotations. Raises BadFile with the field."""
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        raise BadFile(_described(error, content)) from None


def _check_depth(value: Any, left: int) -> None:
    if left < 0:
        raise RecursionError
    inner = value.values() if isinstance(value, dict) else value
    if isinstance(value, (dict, list)):
        for part in inner:
            _check_depth(part, left - 1)


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
    text = json.dumps(value, default=str)
    return f'{".".join(keys)} is {text[:40] + "..." * (len(text) > 40)}: {reason}'
