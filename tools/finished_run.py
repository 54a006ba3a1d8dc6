"""What a run directory holds, read for reports and comparisons."""

import functools
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
from matplotlib.figure import Figure
from msgspec import Meta
from PIL import Image
from torch import nn

import models
import tasks
from config import rules
from errors import RunError
from storage import records, shown
from tasks import restoration
from training import checkpoint, log, pictures, run

MAKE_AGAIN = 'remove it, and the command of the run makes it again'

# Result and machine hold what the version that made the run knew.
Value = Annotated[str, Meta(max_length=10_000)] | Annotated[int, Meta(le=1 << 62)] | float | None
Result = dict[str, Value | list[Any]]
Machine = dict[str, Value]


class FinishedRun:
    """A run: its options, log, result and networks. Raises RunError where there is none."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.config = tasks.of_run(str(folder))
        self.stored = run.read_config(folder)
        self.task = tasks.of(self.config)
        self.name = self.folder.resolve().name
        self.rows = log.Log(folder).read()
        self.result = result(self.folder)
        self.machine = _stored(self.folder / 'machine.json', Machine)

    @functools.cached_property
    def net(self) -> nn.Module:
        """The shapes of the network, without its weights."""
        return models.shapes(lambda: self.task.network(self.config))

    def trained(self) -> nn.Module:
        """The network with the weights of the run. Raises CheckpointError."""
        return checkpoint.network_with_weights(lambda: self.task.network(self.config), self.folder)[
            0
        ]

    @property
    def discriminator(self) -> nn.Module | None:
        """The shapes of the discriminator of a GAN."""
        gan = self.config.gan
        if not gan.gan or not gan.discriminator:
            return None
        network = models.DISCRIMINATORS[gan.discriminator]
        return rules.untrained(network, gan.discriminator_net, 'discriminator_net')

    @property
    def baseline(self) -> str:
        """What a restorer is compared with: 'bicubic' or 'input'."""
        return restoration.baseline(self.net)

    @property
    def seconds(self) -> float:
        """Time that the run took."""
        return max((v for _, v in log.numbers(self.rows, 'seconds') if v >= 0), default=0.0)

    @property
    def images(self) -> int:
        """Images that the run has seen."""
        return self.rows[-1]['nimg'] if self.rows else 0

    def series(self, key: str) -> tuple[list[int], list[float]]:
        """(images, values) of an entry of the log."""
        pairs = log.numbers(self.rows, key)
        return [nimg for nimg, _ in pairs], [value for _, value in pairs]

    def last(self, key: str) -> float:
        """Of the final weights, else the last value of the log; NaN where there is none."""
        if key in self.result:
            return self.score(key)
        return (self.series(key)[1] or [float('nan')])[-1]

    def score(self, key: str) -> float:
        """A number of result.json. Raises RunError where there is none of this name."""
        return score(self.folder, key)

    @property
    def made_of(self) -> list[str]:
        """The averages that the weights are the mean of."""
        parts = self.result.get('made_of')
        return [str(part) for part in parts] if isinstance(parts, list) else ['the last average']


def result(folder: Path) -> dict[str, Any]:
    """result.json of a run, {} if there is none. Raises RunError for another kind of file."""
    return _stored(folder / 'result.json', Result)


def score(folder: Path, key: str) -> float:
    """A number of result.json of a run. Raises RunError where there is none of this name."""
    values = result(folder)
    value = values.get(key)
    if not isinstance(value, (int, float)):
        found = f'{key} is {records.excerpt(value)}' if key in values else f'lacks {key}'
        path = shown(folder / 'result.json')
        raise RunError(f'{path}: {found}, a number was expected: {MAKE_AGAIN}')
    return float(value)


def _stored(path: Path, kind: Any) -> dict[str, Any]:
    """A JSON file of a run, {} if there is none. Raises RunError."""
    try:
        return cast(dict[str, Any], records.read(path, kind, MAKE_AGAIN))
    except (FileNotFoundError, NotADirectoryError):
        return {}


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
