"""What a run writes about itself for people: log, TensorBoard, pictures, curves, hints."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from . import log, pictures, watch
from .watch import Metric

ROWS = 200  # of losses, over a run


class Scores(Protocol):
    """Result of a validation."""

    def value(self, part: slice = slice(None)) -> float:
        """Return what the run is judged by, over a part of the images."""
        ...

    def row(self) -> dict[str, Any]:
        """Return {name: mean over the images} for the log."""
        ...

    def pictures(self) -> tuple[Any, Any, tuple[str, ...]]:
        """Return (rows, figures, names) as `pictures.strip` takes them."""
        ...

    def sentence(self) -> str:
        """Return the scores in words."""
        ...


class RunRecord:
    """Log, scalars and pictures of a run; one of its processes writes them."""

    def __init__(
        self,
        out: str | os.PathLike[str],
        nimg: int,
        metric: Metric,
        say: Callable[[str], None],
        overlapped: bool = True,
    ) -> None:
        """Open the record of the run directory `out`, and drop what it holds beyond `nimg` images.

        say: called with each hint, once
        overlapped: whether data is made while the network computes, so that waiting is worth a hint
        """
        from torch.utils.tensorboard import SummaryWriter  # --help does not wait for it

        self.out = Path(out)
        self.log = log.Log(out)
        self.log.rewind(nimg)
        # A viewer then hides what the same steps wrote before a kill.
        self._board = SummaryWriter(self.out / 'tensorboard', purge_step=nimg + 1)
        self._metric = metric
        self._say = say
        self._overlapped = overlapped
        self._hinted: set[str] = set()
        self._rows: int | None = None  # of losses written so far

    def step(
        self,
        nimg: int,
        progress: float,
        take_means: Callable[[], dict[str, float]],
        lr: float,
    ) -> None:
        """Write the losses and the learning rate, ROWS times over a run.

        progress: share of the run that is done
        take_means: returns {name: mean since its last call}
        """
        # Rows are spread over the whole run, of which a resumed run has written some already.
        row = int(ROWS * progress)
        if self._rows is None:
            self._rows = row
        if row <= self._rows:
            return
        # Steps without a finite gradient, or not read yet, leave the row to a later step.
        losses = take_means()
        if not losses:
            return
        self._rows = row
        self.log.append({'nimg': nimg} | losses | {'lr': lr})
        self._add_scalars('train', nimg, losses | {'lr': lr})

    def validation(
        self, nimg: int, scores: Mapping[str, Scores], skipped: int, **figures: Any
    ) -> None:
        """Write the scores of a validation, its pictures, the curves and new hints.

        scores: {name of the validation set: scores}; the run is judged by the first
        skipped: number of steps skipped so far
        figures: further values for the log: 'rate', 'wait', ...
        """
        # A finished run that is started again validates once more, which nobody wants to see twice.
        if any(row['nimg'] == nimg and self._metric.key in row for row in self.log.read()):
            return

        # The first set has plain names in the log, so that runs can be compared; the others have
        # theirs before each value.
        rows = {name: score.row() for name, score in scores.items()}
        first = next(iter(scores))
        named = {
            key if name == first else f'{name}/{key}': value
            for name, row in rows.items()
            for key, value in row.items()
        }
        self.log.append({'nimg': nimg} | named | figures)
        for name, row in rows.items():
            self._add_scalars(name, nimg, row)
        self._add_scalars('speed', nimg, figures)

        # Pictures of every set; then the curves, from the log that now has this validation too.
        for name, score in scores.items():
            file = f'{nimg:09d}.png' if name == first else f'{name}-{nimg:09d}.png'
            self._add_pictures(name, nimg, score, self.out / 'samples' / file)
        self._draw_curves()
        self._board.flush()
        self._hint(figures['wait'] if self._overlapped else 0.0, skipped)

    def _add_scalars(self, group: str, nimg: int, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            # Lists and names, as of an architecture, are for the log only.
            if isinstance(value, (int, float)):
                self._board.add_scalar(f'{group}/{name}', value, nimg)

    def _add_pictures(self, name: str, nimg: int, scores: Scores, path: Path) -> None:
        pictures.strip(path, *scores.pictures())
        self._board.add_image(name, np.asarray(Image.open(path)), nimg, dataformats='HWC')

    def _draw_curves(self) -> None:
        metric = self._metric
        label = f'{metric.name}, {metric.unit}'
        pictures.curves(self.out / 'curves.png', self.log.read(), metric.key, label)

    def _hint(self, wait: float, skipped: int) -> None:
        hints = watch.hints(self.log.read(), wait, skipped, self._metric)
        for topic, hint in hints.items():
            if topic not in self._hinted:
                self._hinted.add(topic)
                self._say(f'hint: {hint}')

    def close(self) -> None:
        """Close the log and TensorBoard's file."""
        self.log.close()
        self._board.close()
