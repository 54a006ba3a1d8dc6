"""What a run writes about itself for people to look at: log, TensorBoard, pictures, curves, hints."""

from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from . import log, pictures, watch

ROWS = 200  # losses noted over a run


class Record:
    """Written by one process; a run that resumes at `nimg` forgets what was noted beyond it.

    out: run directory; metric: what the run is judged by, with key, name, unit and fall; say: takes hints, each once; beside: whether data should come beside the training, so that waiting for it is worth a hint
    """

    def __init__(self, out, nimg, metric, say, beside=True):
        self.out, self._metric, self._say, self._beside, self._hinted, self._rows = (
            Path(out),
            metric,
            say,
            beside,
            set(),
            None,
        )
        self.log, self._board = (
            log.Log(out),
            SummaryWriter(self.out / 'tensorboard', purge_step=nimg + 1),
        )
        self.log.rewind(nimg)

    def step(self, nimg, share, take, lr):
        """Note the losses and the learning rate, now and then. share: of the run that is done; take: callable, what it takes are means since it was last called, {name: float}."""
        row = int(ROWS * share)
        self._rows = row if self._rows is None else self._rows
        if row > self._rows and (losses := take()):
            self._rows = row
            self.log.append(dict(nimg=nimg) | losses | dict(lr=lr))
            self._scalars(nimg, {f'train/{k}': v for k, v in losses.items()} | {'train/lr': lr})

    def validation(self, nimg, scores, skipped, **figures):
        """scores: {name: Scores of the task}, the first of which the run is judged by; skipped: steps left out; figures: rate, wait, ... for the log."""
        first = next(iter(scores.values()))
        found = {name: s.row() for name, s in scores.items()}
        if any(r['nimg'] == nimg and self._metric.key in r for r in self.log.read()):
            return  # a finished run that was started again
        self.log.append(
            dict(nimg=nimg)
            | {
                k if scores[name] is first else f'{name}/{k}': v
                for name, row in found.items()
                for k, v in row.items()
            }
            | figures
        )
        self._scalars(
            nimg,
            {f'{name}/{k}': v for name, row in found.items() for k, v in row.items()}
            | {f'speed/{k}': v for k, v in figures.items()},
        )
        for name, s in scores.items():
            path = (
                self.out
                / 'samples'
                / (f'{nimg:09d}.png' if s is first else f'{name}-{nimg:09d}.png')
            )
            pictures.strip(path, *s.pictures())
            self._board.add_image(name, np.asarray(Image.open(path)), nimg, dataformats='HWC')
        rows = self.log.read()
        pictures.curves(
            self.out / 'curves.png',
            rows,
            self._metric.key,
            f'{self._metric.name}, {self._metric.unit}',
        )
        self._board.flush()
        for topic, hint in watch.hints(
            rows, figures['wait'] if self._beside else 0.0, skipped, self._metric
        ).items():
            if topic not in self._hinted:
                self._hinted.add(topic)
                self._say(f'hint: {hint}')

    def _scalars(self, nimg, values):
        for name, value in values.items():
            if isinstance(value, (int, float)):
                self._board.add_scalar(name, value, nimg)

    def close(self):
        self.log.close()
        self._board.close()
