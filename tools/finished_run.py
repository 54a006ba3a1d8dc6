"""What a run directory holds, read for reports and comparisons."""

import functools
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

import models
import tasks
from tasks import restoration
from training import log, pictures


class FinishedRun:
    """A run: its options, log, result and networks. Raises RunError where there is none."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.config = tasks.of_run(str(folder))
        self.stored = json.loads((self.folder / 'config.json').read_text())
        self.task = tasks.of(self.config)
        self.name = self.folder.resolve().name
        self.rows = log.Log(folder).read()
        self.result = self._json('result.json')
        self.machine = self._json('machine.json')

    @functools.cached_property
    def net(self) -> nn.Module:
        """The network, untrained."""
        return self.task.network(self.config)

    @property
    def discriminator(self) -> nn.Module | None:
        """The discriminator of a GAN, untrained."""
        gan = self.config.gan
        if not gan.gan or not gan.discriminator:
            return None
        return models.DISCRIMINATORS[gan.discriminator](**gan.discriminator_net)

    @property
    def baseline(self) -> str:
        """What a restorer is compared with: 'bicubic' or 'input'."""
        return restoration.baseline(self.net)

    @property
    def seconds(self) -> float:
        """Time that the run took."""
        return max((row['seconds'] for row in self.rows if 'seconds' in row), default=0.0)

    @property
    def images(self) -> int:
        """Images that the run has seen."""
        return self.rows[-1]['nimg'] if self.rows else 0

    def series(self, key: str) -> tuple[list[int], list[float]]:
        """(images, values) of an entry of the log."""
        pairs = [(row['nimg'], row[key]) for row in self.rows if key in row]
        return [nimg for nimg, _ in pairs], [value for _, value in pairs]

    def last(self, key: str) -> float:
        """Of the final weights, else the last value of the log; NaN where there is none."""
        return self.result.get(key) or (self.series(key)[1] or [float('nan')])[-1]

    def _json(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        return json.loads(path.read_text()) if path.exists() else {}


def curves(runs: Sequence[FinishedRun]) -> Image.Image:
    """Training loss and validation of several runs."""
    figure = Figure(figsize=(9, 3.4), dpi=180, layout='constrained')
    left, right = figure.subplots(1, 2)
    for i, r in enumerate(runs):
        # The loss as it is, faint, and smoothed over it.
        x, y = r.series('loss')
        left.plot(x, y, linewidth=0.8, alpha=0.25, color=f'C{i}')
        left.plot(x, pictures.smooth(np.array(y)), linewidth=1.6, color=f'C{i}')

        # The metric, with its baseline as a level.
        x, y = r.series(r.task.metric.key)
        right.plot(x, y, marker='o', markersize=3, color=f'C{i}', label=r.name)
        _, y = r.series(r.baseline)
        if y:
            label = f'{r.baseline}, {r.name}'
            right.axhline(y[-1], color=f'C{i}', linestyle='--', linewidth=1, label=label)
    if any(r.series('loss')[1] for r in runs):
        left.set_yscale('log')

    metric = runs[0].task.metric
    for axes, title in (
        (left, 'training loss'),
        (right, f'validation {metric.name}, {metric.unit}'),
    ):
        axes.set_title(title, fontsize=10)
        axes.set_xlabel('images')
        axes.grid(alpha=0.25)
        axes.spines[['top', 'right']].set_visible(False)
    right.legend(frameon=False, fontsize=8)
    return rendered(figure)


def rendered(figure: Figure) -> Image.Image:
    """A figure as a picture."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png')
    return Image.open(buffer).convert('RGB')
