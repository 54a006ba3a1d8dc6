"""What may stand behind the keys of a recipe file: every operation has a table of these, RANGES.

`read` takes a value as TOML has it and returns what `sample` takes, or raises ValueError with what
would be right; `write` is the way back.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Protocol


class Values(Protocol):
    """Values of one key."""

    def read(self, value: Any) -> Any:
        """Return what `sample` takes for a value of TOML. Raises ValueError."""
        ...

    def write(self, value: Any) -> Any:
        """Return the value of TOML."""
        ...


@dataclass(frozen=True)
class Number:
    """A number from low to high."""

    low: float
    high: float
    whole: bool = False

    def read(self, value: Any) -> Any:
        """Return the number."""
        if not _is_number(value, self.whole) or not self.low <= value <= self.high:
            raise ValueError(f'must be {self}')
        return value

    def write(self, value: Any) -> Any:
        """Return the number."""
        return value

    def __str__(self) -> str:
        """What is right, in words."""
        return f'a {"whole " * self.whole}number from {self.low:g} to {self.high:g}'


PROBABILITY = Number(0, 1)


@dataclass(frozen=True)
class Interval:
    """Two numbers, which each draw lies between; a single one stands for both.

    unless: a word that may stand instead, read as None
    """

    low: float
    high: float
    whole: bool = False
    unless: str | None = None

    def read(self, value: Any) -> Any:
        """Return (smallest, largest)."""
        if self.unless is not None and value == self.unless:
            return None
        pair = value if isinstance(value, list) else [value, value]
        fits = len(pair) == 2 and all(_is_number(v, self.whole) for v in pair)
        if not fits or not self.low <= pair[0] <= pair[1] <= self.high:
            raise ValueError(f'must be {self}')
        return tuple(pair)

    def write(self, value: Any) -> Any:
        """Return a list, or the word."""
        return self.unless if value is None else list(value)

    def __str__(self) -> str:
        """What is right, in words."""
        kind = 'whole numbers' if self.whole else 'numbers'
        instead = '' if self.unless is None else f', or {self.unless!r}'
        return (
            f'[smallest, largest], two {kind} from {self.low:g} to {self.high:g}, or one for both'
            f'{instead}'
        )


@dataclass(frozen=True)
class Intervals:
    """Several of them, one for each name."""

    names: tuple[str, ...]
    each: Interval

    def read(self, value: Any) -> Any:
        """Return a tuple in the order of the names."""
        if not isinstance(value, dict) or set(value) != set(self.names):
            raise ValueError(f'must have the keys {", ".join(self.names)}, no more and no less')
        return tuple(_of_key(name, self.each, value[name]) for name in self.names)

    def write(self, value: Any) -> Any:
        """Return a table."""
        return {name: self.each.write(v) for name, v in zip(self.names, value, strict=True)}


@dataclass(frozen=True)
class Weights:
    """Relative weights of what a draw chooses from; what is not named is never drawn."""

    names: tuple[str, ...]

    def read(self, value: Any) -> Any:
        """Return the weights up to the last one named."""
        if not isinstance(value, dict):
            raise ValueError(f'must be a table of weights, such as {{ {self.names[0]} = 1 }}')
        for name, weight in value.items():
            known(name, self.names, 'weight')
            _of_key(name, Number(0, 1e6), weight)
        if not sum(value.values()) > 0:
            raise ValueError('must have a weight above 0')
        last = max(self.names.index(name) for name in value)
        return tuple(value.get(name, 0) for name in self.names[: last + 1])

    def write(self, value: Any) -> Any:
        """Return a table of those that are not 0."""
        return {name: v for name, v in zip(self.names, value, strict=False) if v}


@dataclass(frozen=True)
class Word:
    """One of some words."""

    words: tuple[str, ...]

    def read(self, value: Any) -> Any:
        """Return the word."""
        if not isinstance(value, str):
            raise ValueError(f'must be one of {", ".join(self.words)}')
        return known(value, self.words, 'word')

    def write(self, value: Any) -> Any:
        """Return the word."""
        return value


@dataclass(frozen=True)
class Flag:
    """Yes or no."""

    def read(self, value: Any) -> Any:
        """Return it."""
        if not isinstance(value, bool):
            raise ValueError('must be true or false')
        return value

    def write(self, value: Any) -> Any:
        """Return it."""
        return value


def known(name: str, names: Sequence[str], what: str) -> str:
    """Return a name that is among `names`. Raises ValueError with the nearest one."""
    if name not in names:
        near = get_close_matches(name, names, 1)
        hint = f', did you mean {near[0]!r}?' if near else ''
        raise ValueError(f'unknown {what} {name[:40]!r}{hint} (there are: {", ".join(names)})')
    return name


def _of_key(name: str, values: Values, value: Any) -> Any:
    """Read a value inside a table."""
    try:
        return values.read(value)
    except ValueError as e:
        raise ValueError(f'{name} = {value}: {e}') from None


def _is_number(value: Any, whole: bool) -> bool:
    kinds = int if whole else (int, float)
    return isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)
