"""The log of a run, one JSON object a line in log.jsonl, and its progress on the terminal."""

import json
import os
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TextIO, TypedDict, TypeGuard

import torch
from msgspec import Meta
from rich.console import Console
from rich.live import Live
from rich.progress import Progress as RichProgress
from rich.progress import TaskID
from rich.text import Text

import storage
from errors import BadFile, RunError
from storage import records

Row = dict[str, Any]  # numbers, strings or lists by name, with the images seen so far as 'nimg'


class Counted(TypedDict):
    """What every row has."""

    nimg: Annotated[int, Meta(ge=0, le=1 << 62)]


class Log:
    """log.jsonl of a run directory; a kill at any moment costs at most the line being written."""

    def __init__(self, run_dir: str | os.PathLike[str]) -> None:
        """Name the file; it is made with the first row."""
        self.path = Path(run_dir) / 'log.jsonl'
        self._file: TextIO | None = None

    def append(self, row: Row) -> None:
        """Write a row, at once."""
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # A row that a kill has torn would spoil the one written after it.
            self._drop_torn_line()
            self._file = open(self.path, 'a', encoding='utf-8')  # noqa: SIM115  # open until close()
        self._file.write(json.dumps(row) + '\n')
        self._file.flush()

    def read(self) -> list[Row]:
        """Return all rows, oldest first; none without a file.

        A last line that a kill has torn is left out, and so are damaged ones, of which it warns.
        Raises RunError for what is no file.
        """
        rows: list[Row] = []
        damage: list[str] = []
        # What follows the last newline is empty or torn.
        for number, line in enumerate(self._data().split(b'\n')[:-1], 1):
            try:
                rows.append(_row(line))
            except BadFile as error:
                damage.append(f'line {number} ({error})')
        if damage:
            warnings.warn(
                f'{storage.shown(self.path)}: {storage.some(damage, 2)} cannot be read and left '
                'out; the others stay',
                stacklevel=2,
            )
        return rows

    def _data(self) -> bytes:
        """Contents of the file, nothing without one. Raises RunError."""
        try:
            return storage.read(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return b''
        except (OSError, BadFile) as error:
            raise RunError(
                f'{storage.shown(self.path)} cannot be read ({error}): move it away'
            ) from error

    def rewind(self, nimg: int) -> None:
        """Drop the rows beyond `nimg`, which a run resumed from there will write again."""
        rows = self.read()
        kept = [row for row in rows if row['nimg'] <= nimg]
        if len(kept) == len(rows):
            return

        # Written anew and renamed, so that a kill leaves the whole log, old or new.
        self.close()
        fresh = self.path.with_name('.new-log.jsonl')
        with open(fresh, 'w', encoding='utf-8') as f:
            f.writelines(json.dumps(row) + '\n' for row in kept)
            f.flush()
            os.fsync(f.fileno())
        os.replace(fresh, self.path)

    def close(self) -> None:
        """Close the file; the next row opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _drop_torn_line(self) -> None:
        data = self._data()
        if data and not data.endswith(b'\n'):
            os.truncate(self.path, data.rfind(b'\n') + 1)


def _row(line: bytes) -> Row:
    """A row of the log. Raises BadFile."""
    row: Row = records.parse(line, dict[str, Any])
    records.convert(row, Counted)
    return row


def numbers(rows: Iterable[Mapping[str, Any]], key: str) -> list[tuple[int, float]]:
    """(images, value) of the rows that have a number under this name."""
    values = [(row['nimg'], row.get(key)) for row in rows]
    return [(nimg, float(v)) for nimg, v in values if _is_number(v)]


def _is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a number of a size that computing bears."""
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < 1 << 63)


# -------------------------------------------------------------------------------------------------
# Progress of a run.

WINDOW = 30  # seconds over which rates are measured
FORMATS = {  # of values on the line; others have four decimals
    'lr': 'lr {:.1e}',
    'psnr': 'PSNR {:.2f}',
    'miou': 'mIoU {:.2f}',
    'gpu': 'GPU {:.1f} GB',
}


class _Moment(NamedTuple):
    """Where a run stood at some time."""

    time: float  # seconds, by the clock
    nimg: int
    waited: float  # seconds spent waiting for data so far
    share: float | None  # of the run that is done, where it is known


class Figures(TypedDict):
    """How fast a run is."""

    rate: float  # images per second
    wait: float  # share of the time spent waiting for data
    left: float | None  # seconds to go, where that is known


class Progress:
    """One line on the terminal: images, share done, rate, waiting for data, values, time left.

    On a terminal the line is redrawn twice a second; elsewhere (a file, a batch system) a plain
    line is written every 10 s. Rates are over the last 30 s. Use it as a context manager.
    """

    def __init__(
        self,
        total: int | None = None,
        start: int = 0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        quiet: bool = False,
    ) -> None:
        """Start counting.

        total: images of the whole run, None where its end is a time
        start: images seen before this process
        stream: standard error unless given
        quiet: count and draw nothing
        """
        self.total = total
        self._clock = clock
        self._quiet = quiet
        self._stream = stream or sys.stderr
        self._live: Live | None = None
        self._values: dict[str, float | torch.Tensor] = {}
        self._drawn = -1e9  # time of the last drawing
        share = start / total if total else None
        self._moments = deque([_Moment(clock(), start, 0.0, share)])  # of the last 30 s

    def __enter__(self) -> 'Progress':
        """Begin to redraw the line, if there is a terminal."""
        console = Console(file=self._stream)
        # Ask the stream too: FORCE_COLOR makes rich believe that a file is a terminal.
        if self._stream.isatty() and not self._quiet and not console.is_dumb_terminal:
            self._live = Live(Text(''), console=console, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Draw once more, so that the last line says where the run stopped."""
        if self._drawn < self._moments[-1].time and len(self._moments) > 1:
            self._draw(self.line())
        if self._live:
            self._live.stop()

    def update(
        self,
        nimg: int,
        waited: float = 0.0,
        share: float | None = None,
        **values: float | torch.Tensor,
    ) -> None:
        """Take note of a step, and draw if it is time to.

        nimg: images so far
        waited: seconds that this step waited for its data
        share: of the run that is done; nimg / total unless given
        values: loss, lr, psnr, ...: numbers or 0-d tensors, remembered from call to call; a tensor
            is read, for which a GPU has to be waited for, only when the line is drawn
        """
        now = self._clock()
        if share is None and self.total:
            share = nimg / self.total
        self._moments.append(_Moment(now, nimg, self._moments[-1].waited + waited, share))
        # The one that is just older than the window stays: rates cover at least the window.
        while now - self._moments[1].time > WINDOW:
            self._moments.popleft()

        self._values.update(values)
        if now - self._drawn >= (0.5 if self._live else 10):
            self._drawn = now
            self._draw(self.line())

    def figures(self) -> Figures:
        """Return what the last 30 s show."""
        first = self._moments[0]
        last = self._moments[-1]
        seconds = max(last.time - first.time, 1e-9)
        return {
            'rate': (last.nimg - first.nimg) / seconds,
            'wait': min(1.0, (last.waited - first.waited) / seconds),
            'left': self._left(),
        }

    def _left(self) -> float | None:
        # From shares, not from images: a run may end by the clock.
        shares = [(m.time, m.share) for m in self._moments if m.share is not None]
        if not shares or shares[-1][1] <= shares[0][1]:
            return None
        (first_time, first), (last_time, last) = shares[0], shares[-1]
        return max(0.0, 1 - last) * (last_time - first_time) / (last - first)

    def line(self) -> str:
        """Return the line.

        For example: '12,800 images  31.2 %  104.2 img/s  data 0.3 %  loss 0.0312  lr 9.8e-04
        PSNR 28.31  left 0:12:40'.
        """
        now = self._moments[-1]
        figures = self.figures()
        parts = [f'{now.nimg:,} images']
        if now.share is not None:
            parts.append(f'{100 * now.share:.1f} %')
        parts += [f'{figures["rate"]:.1f} img/s', f'data {100 * figures["wait"]:.1f} %']
        for name, value in self._values.items():
            parts.append(FORMATS.get(name, name + ' {:.4f}').format(float(value)))
        if figures['left'] is not None:
            seconds = round(figures['left'])
            parts.append(f'left {seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}')
        return '  '.join(parts)

    def _draw(self, line: str) -> None:
        if self._quiet:
            return
        # A line that wrapped could not be redrawn in place.
        if self._live:
            self._live.update(Text(line, no_wrap=True, overflow='ellipsis'), refresh=True)
        else:
            print(line, file=self._stream, flush=True)


# -------------------------------------------------------------------------------------------------
# Progress of a preparation.


def bar(title: str) -> Callable[[int, int], None]:
    """Return a callable (done, total) that shows how far a preparation is.

    A bar on a terminal; elsewhere a line when it ends; nothing if it takes less than a second.
    """
    return _Bar(title)


class _Bar:
    """See `bar`; after the end it is ready for the next preparation."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._started: float | None = None
        self._progress: RichProgress | None = None
        self._task = TaskID(0)

    def __call__(self, done: int, total: int) -> None:
        # Time counts from the first call: preparing may begin long after the bar was made.
        self._started = self._started or time.monotonic()
        if self._progress is None and time.monotonic() - self._started > 1:
            self._show(total)
        if self._progress is not None:
            self._progress.update(self._task, completed=done, total=total)
        if done >= total:
            self._end(total, time.monotonic() - self._started)

    def _show(self, total: int) -> None:
        console = Console(stderr=True)
        hidden = not sys.stderr.isatty()
        self._progress = RichProgress(console=console, transient=True, disable=hidden)
        self._progress.start()
        self._task = self._progress.add_task(self._title, total=total)

    def _end(self, total: int, seconds: float) -> None:
        if self._progress is not None:
            self._progress.stop()
            print(f'{self._title}: {total:,} in {seconds:.1f} s', file=sys.stderr, flush=True)
        self._progress = None
        self._started = None
