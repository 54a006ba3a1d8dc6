"""The log of a run: one JSON object per line in run_dir/log.jsonl; and the line on the terminal that shows how it goes."""

import json
import os
import sys
import time
from collections import deque
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.progress import Progress as RichProgress
from rich.text import Text


class Log:
    """log.jsonl of a run directory; every row is a dict of numbers and strings with the images seen so far as 'nimg'."""

    def __init__(self, run_dir):
        self.path = Path(run_dir) / 'log.jsonl'
        self._file = None

    def append(self, row):
        """Write one row; a kill right after loses nothing."""
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._drop_torn_line()
            self._file = open(self.path, 'a', encoding='utf-8')
        self._file.write(json.dumps(row) + '\n')
        self._file.flush()

    def read(self):
        """-> [dict], oldest first; [] without a file. A last line torn by a kill is left out; ValueError for other bad ones."""
        if not self.path.exists():
            return []
        rows, lines = [], self.path.read_bytes().split(b'\n')
        for number, line in enumerate(
            lines[:-1], 1
        ):  # what follows the last newline is empty or torn
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise ValueError(
                    f'{self.path}, line {number}: not JSON ({error}); remove that line'
                ) from error
        return rows

    def rewind(self, nimg):
        """Drop the rows beyond `nimg`, which a run resumed from there will write again."""
        rows = self.read()
        kept = [row for row in rows if row['nimg'] <= nimg]
        if len(kept) < len(rows):
            self.close()
            fresh = self.path.with_name('.new-log.jsonl')
            with open(fresh, 'w', encoding='utf-8') as f:
                f.writelines(json.dumps(row) + '\n' for row in kept)
                f.flush()
                os.fsync(f.fileno())
            os.replace(fresh, self.path)

    def close(self):
        if self._file is not None:
            self._file.close()
            self._file = None

    def _drop_torn_line(self):
        if self.path.exists():
            data = self.path.read_bytes()
            if not data.endswith(b'\n'):
                os.truncate(self.path, data.rfind(b'\n') + 1)


class Progress:
    """One line on the terminal: images, share done, images per second, share of time spent waiting for data, values, time left.

    On a terminal one line is redrawn twice a second; elsewhere (a file, a batch system) a plain line is written every 10 s.
    Rates are over the last 30 s. Use as a context manager.

    total: images of the whole run, None where its end is a time
    start: images seen before this process
    quiet: count and draw nothing
    """

    def __init__(self, total=None, start=0, stream=None, clock=time.monotonic, quiet=False):
        self.total, self._clock, self._quiet = total, clock, quiet
        self._stream = stream or sys.stderr
        self._live = None
        # (time, images, seconds waited so far, share done) of the last 30 s
        self._seen = deque([(clock(), start, 0.0, start / total if total else None)])
        self._drawn = -1e9
        self._values = {}

    def __enter__(self):
        console = Console(file=self._stream)
        if (
            self._stream.isatty() and not self._quiet and not console.is_dumb_terminal
        ):  # whatever FORCE_COLOR makes rich believe of a file
            self._live = Live(Text(''), console=console, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(self, *_):
        if self._drawn < self._seen[-1][0] and len(self._seen) > 1:
            self._draw(self.line())  # the last word is where it stopped
        if self._live:
            self._live.stop()

    def update(self, nimg, waited=0.0, share=None, **values):
        """After a step: images seen, seconds this step waited for its data, share of the run done (default: nimg / total).

        values: loss, lr, psnr, ...: numbers or 0-d tensors, remembered from call to call; a tensor is read, for which a GPU has
                to be waited for, only when the line is drawn.
        """
        now = self._clock()
        if share is None and self.total:
            share = nimg / self.total
        self._seen.append((now, nimg, self._seen[-1][2] + waited, share))
        while now - self._seen[1][0] > 30:
            self._seen.popleft()
        self._values.update(values)
        if now - self._drawn >= (0.5 if self._live else 10):
            self._drawn = now
            self._draw(self.line())

    def figures(self):
        """-> {'rate': images per second, 'wait': share of time waiting for data, 'left': seconds to go or None}, last 30 s."""
        (t0, n0, w0, _), (t1, n1, w1, _) = self._seen[0], self._seen[-1]
        seconds = max(t1 - t0, 1e-9)
        shares = [(t, share) for t, _, _, share in self._seen if share is not None]
        left = None
        if shares and shares[-1][1] > shares[0][1]:
            (t0, s0), (t1, s1) = shares[0], shares[-1]
            left = max(0.0, 1 - s1) * (t1 - t0) / (s1 - s0)
        return {'rate': (n1 - n0) / seconds, 'wait': min(1.0, (w1 - w0) / seconds), 'left': left}

    def line(self):
        """-> str, e.g. '12,800 images  31.2 %  104.2 img/s  data 0.3 %  loss 0.0312  lr 9.8e-04  PSNR 28.31  left 0:12:40'"""
        now, f = self._seen[-1], self.figures()
        parts = [f'{now[1]:,} images']
        if now[3] is not None:
            parts.append(f'{100 * now[3]:.1f} %')
        parts += [f'{f["rate"]:.1f} img/s', f'data {100 * f["wait"]:.1f} %']
        form = {
            'lr': 'lr {:.1e}',
            'psnr': 'PSNR {:.2f}',
            'miou': 'mIoU {:.2f}',
            'gpu': 'GPU {:.1f} GB',
        }
        parts += [
            form.get(name, name + ' {:.4f}').format(float(value))
            for name, value in self._values.items()
        ]
        if f['left'] is not None:
            s = round(f['left'])
            parts.append(f'left {s // 3600}:{s // 60 % 60:02}:{s % 60:02}')
        return '  '.join(parts)

    def _draw(self, line):
        if self._quiet:
            return
        if self._live:
            self._live.update(Text(line, no_wrap=True, overflow='ellipsis'), refresh=True)
        else:
            print(line, file=self._stream, flush=True)


def bar(title):
    """-> callable (done, total) that shows how a preparation goes: a bar on a terminal, a line when it ends elsewhere; nothing if it takes under a second."""
    progress, task, began = None, None, None

    def show(done, total):
        nonlocal progress, task, began
        began = began or time.monotonic()
        if progress is None and time.monotonic() - began > 1:
            progress = RichProgress(
                console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()
            )
            progress.start()
            task = progress.add_task(title, total=total)
        if progress is not None:
            progress.update(task, completed=done, total=total)
            if done >= total:
                progress.stop()
                print(
                    f'{title}: {total:,} in {time.monotonic() - began:.1f} s',
                    file=sys.stderr,
                    flush=True,
                )
        if done >= total:
            progress = began = None  # ready for the next one

    return show
