"""Numbers of a command line: each has a range that it states and keeps."""

import argparse
from dataclasses import dataclass

# A comma-separated list longer than this is a mistake.
MOST = 1000


@dataclass(frozen=True)
class Whole:
    """Type of a flag: an integer from `low` to `high`."""

    low: int
    high: int

    def __call__(self, text: str) -> int:
        """The number. Raises ArgumentTypeError."""
        try:
            value = int(text) if len(text) < 40 else None
        except ValueError:
            value = None
        if value is None or value not in self:
            raise argparse.ArgumentTypeError(f'{text[:40]} is not {self}')
        return value

    def __contains__(self, value: int) -> bool:
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return f'an integer from {self.low:,} to {self.high:,}'


@dataclass(frozen=True)
class Number:
    """Type of a flag: a number from `low`, or above it, to `high`."""

    low: float
    high: float
    above: bool = False  # `low` itself is not allowed

    def __call__(self, text: str) -> float:
        """The number. Raises ArgumentTypeError."""
        try:
            value = float(text)
        except ValueError:
            value = float('nan')
        if value not in self:
            raise argparse.ArgumentTypeError(f'{text[:40]} is not {self}')
        return value

    def __contains__(self, value: float) -> bool:
        # What is no number is in no range.
        return self.low <= value <= self.high and not (self.above and value == self.low)

    def __str__(self) -> str:
        begin = f'above {self.low:,}, up' if self.above else f'from {self.low:,}'
        return f'a number {begin} to {self.high:,}'


@dataclass(frozen=True)
class Or:
    """Type of a flag: a word, or such a number."""

    word: str
    number: Number

    def __call__(self, text: str) -> float | None:
        """The number, None for the word. Raises ArgumentTypeError."""
        if text == self.word:
            return None
        try:
            return self.number(text)
        except argparse.ArgumentTypeError:
            raise argparse.ArgumentTypeError(f'{text[:40]} is not {self}') from None

    def __str__(self) -> str:
        return f'{self.word}, or {self.number}'


@dataclass(frozen=True)
class Several:
    """Type of a flag: a comma-separated list of such numbers."""

    each: Whole | Number

    def __call__(self, text: str) -> list[int] | list[float]:
        """The numbers. Raises ArgumentTypeError."""
        words = text.split(',')
        if len(words) > MOST:
            raise argparse.ArgumentTypeError(f'{len(words):,} numbers are too many')
        return [self.each(word) for word in words]  # type: ignore[return-value]

    def __str__(self) -> str:
        return f'{self.each}, or several, comma-separated'


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Help in which the lines of a description stay as they are, and numbers state their ranges."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.help and isinstance(action.type, (Whole, Number, Or, Several)):
            return f'{action.help}; {action.type}'
        return action.help


# What programs ask for again and again.
BATCH = Whole(1, 65_536)
SIDE = Whole(1, 16_384)  # pixels
DRAWN_SIDE = Whole(2, 4096)  # of a drawn face, pixels
SEED = Whole(0, 2**62)
THREADS = Whole(1, 4096)
COUNT = Whole(1, 10**9)
NUMBER = Whole(0, 10**9)  # of something, from the first
SAMPLE = Whole(0, 10**15)  # number of a sample
LENGTH = Whole(1, 10**15)  # of a run, images
ROUNDS = Whole(1, 10_000)
LEVEL = Whole(0, 100)  # of a pyramid
MINUTES = Number(0, 525_600, above=True)  # a year
MEGABYTES = Number(0, 1_000_000, above=True)
MEMORY = Number(0, 100_000, above=True)  # GB
SHARE = Number(0, 1)
