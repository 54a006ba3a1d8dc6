"""The ranges of the numbers of a run, which the types of their options state."""

import program

import functools
from collections.abc import Iterator
from typing import Any, get_args

from msgspec import Meta

from . import schema

Range = program.Whole | program.Number


@functools.lru_cache(maxsize=1)
def of_options() -> dict[str, Range]:
    """{option: range of its number, or of each of its numbers}"""
    ranges = {}
    for _, option in schema.options():
        for kind, meta in _stated(option.type):
            low = meta.ge if meta.ge is not None else meta.gt
            assert low is not None and meta.le is not None
            above = meta.gt is not None
            whole = program.Whole(int(low), int(meta.le))
            ranges[option.name] = (
                whole if kind is int else program.Number(low, meta.le, above=above)
            )
    return ranges


def _stated(kind: Any) -> Iterator[tuple[Any, Meta]]:
    """(type, its range) of the numbers in a type of annotations."""
    for part in get_args(kind):
        if isinstance(part, Meta):
            yield get_args(kind)[0], part
        else:
            yield from _stated(part)
