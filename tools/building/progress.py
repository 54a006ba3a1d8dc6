"""How far a set is: photos and faces a second, time left, what it has cost so far."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from .shard_task import Outcome

EVERY = 10.0  # seconds between lines where no bar can be drawn


class Meter:
    """Counts outcomes and shows them: a bar on a terminal, elsewhere a line now and then.

    Use it as a context manager.
    """

    def __init__(self, total: int, width: int, price: float | None) -> None:
        """total: shards; width: of the engine; price: of an hour of a core, in any currency"""
        self._total = total
        self._width = width
        self._price = price
        self._started = time.monotonic()
        self._told = self._started
        self.shards = self.photos = self.faces = self.kept = self.bad = self.bytes = 0
        self._seconds = 0.0
        # A line on a terminal of its own width; nothing is drawn into a file.
        self._bar = Progress(
            TextColumn('{task.description}'),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn('shards  {task.fields[told]}'),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
            transient=True,
        )
        self._task = self._bar.add_task('building', total=total, told='')

    def __enter__(self) -> 'Meter':
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def add(self, done: Outcome) -> None:
        """Count a shard that is done."""
        self.shards += 1
        self.photos += done.photos
        self.faces += done.faces
        self.kept += done.kept
        self.bad += done.bad
        self.bytes += done.bytes
        self._seconds += done.seconds
        self._bar.update(self._task, advance=1, told=self.line())
        # The last line is always there, so that a log ends with the figures.
        now = time.monotonic()
        if self._bar.disable and (now - self._told > EVERY or self.shards == self._total):
            self._told = now
            print(f'{self.shards:,} of {self._total:,} shards  {self.line()}', flush=True)

    def line(self) -> str:
        """Figures so far, in words."""
        # Rates are over all of the run: shards differ, and the last ten tell little.
        wall = max(time.monotonic() - self._started, 1e-9)
        left = wall / max(self.shards, 1) * (self._total - self.shards)
        hours = self._seconds / 3600
        parts = [
            f'{self.photos / wall:.1f} photos/s',
            f'{self.faces / wall:.1f} faces/s',
            f'{self.kept:,} kept',
            f'{self.bytes / 1e9:.2f} GB',
            f'{hours:.2f} core hours',
        ]
        if self._price is not None:
            parts.append(f'cost {hours * self._price:.2f}')
        return '  '.join([*parts, f'left {_clock(left)}'])


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f'{minutes // 60}:{minutes % 60:02}:{rest:02}'
