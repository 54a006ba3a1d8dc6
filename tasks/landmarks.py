"""Landmarks of a face as heatmaps, a prior of restorers; judged by the share of points found (PCK;
Yang and Ramanan, TPAMI 2013).
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import losses
import models
from config import rules
from config.schema import Config, replace_options
from errors import RunError
from faces import heatmaps, landmarks
from training.world import World

from . import masked
from .batches import SHOWN, batches, collected
from .options import LANDMARKS, NO_RARE
from .players import Autocast, Losses, Players, autocast
from .prose import LandmarkProse
from .task import Applied, Group, Metric

# A point is found if it lies this share of the picture's side from the true one or nearer: a tenth
# of the distance of aligned eyes.
NEAR = 0.025
SIDE = heatmaps.SIDE  # errors are in pixels of faces of this side


class Landmarks:
    """Picture in, heatmaps of its points out."""

    name = 'landmarks'
    metric = Metric('pck', 'PCK', '%', 5.0)
    networks = models.LANDMARKERS
    losses = losses.LANDMARKS
    max_processes: int | None = None
    prose = LandmarkProse()
    has_report = False

    def complete(self, config: Config) -> Config:
        """A file of landmarks says how many points there are."""
        rules.check(config, LANDMARKS + NO_RARE)
        if not config.data.landmarks:
            return config
        return replace_options(config, net=config.network.net | {'points': landmarks.IBUG})

    def check(self, config: Config) -> None:
        """No options of restorers."""
        masked.check(config, self.networks[config.network.network])

    load = staticmethod(masked.load)
    plan = staticmethod(masked.plan)
    step = staticmethod(masked.step)

    def feed(self, config: Config, images: Any, *, start: int, **where: Any) -> Any:
        """A pipe of pictures and masks, or pictures and points."""
        return masked.feed(config, images, {'start': start, **where})

    def network(self, config: Config) -> nn.Module:
        """The finder of landmarks."""
        return self.networks[config.network.network](**config.network.net)

    def build(self, config: Config, device: torch.device) -> Players:
        """The finder alone."""
        criterion = LandmarkCriterion(config.loss.loss)
        return masked.build(self.network(config), config, device, criterion)

    def validate(
        self,
        net: nn.Module,
        data: Sequence[Any],
        config: Config,
        device: torch.device,
        world: World | None = None,
        show: int = SHOWN,
    ) -> 'LandmarkScores':
        """Points found, and how far off they are."""
        return validate(
            net,
            data,
            device,
            world,
            batch=config.optimization.batch,
            autocast=autocast(config.run.precision, device),
            threads=config.run.threads or 1,
            show=show,
        )

    def averages(self, config: Config) -> bool:
        """Always."""
        return True

    def finish(self, config: Config, net: nn.Module) -> list[str]:
        """Nothing but the weights."""
        return []

    def read_truth(self, path: Path) -> Tensor:
        """There is none in files."""
        raise NotImplementedError

    def check_infer(self, lpips: str | None) -> None:
        """Refused: landmarks are for restorers."""
        raise RunError(
            'the run finds landmarks, for a restorer: tools/prepare.py priors takes it; give the '
            'run of a restorer or of a parser'
        )

    def infer(
        self, net: nn.Module, groups: Iterable[Group], folder: Path, how: Applied
    ) -> list[str]:
        """Never asked for."""
        raise NotImplementedError


class LandmarkCriterion:
    """What the network is trained on. loss: a name of losses.LANDMARKS"""

    def __init__(self, loss: str) -> None:
        self.loss = loss

    def net(
        self,
        output: Any,
        batch: Any,
        discriminator: nn.Module | None,
        nimg: int,
        progress: float,
    ) -> Losses:
        """{name: scalar} of maps [B, K, h, w]; the batch's pictures are a whole multiple of their
        size.
        """
        points, visible = located(batch.target)
        size = output.shape[2:]
        reduced = heatmaps.reduced(points, batch.input.shape[2] / size[0])
        wanted = heatmaps.gaussians(reduced, visible, size)
        return {self.loss: losses.LANDMARKS[self.loss](output, wanted)}

    def discriminator(self, forward: Any, output: Any, batch: Any) -> tuple[Losses, Tensor]:
        """There is none."""
        raise NotImplementedError


def located(target: Tensor) -> tuple[Tensor, Tensor]:
    """Target of a batch -> ([B, K, 2] pixels of the picture, [B, K] bool).

    ids [B, H, W] have the points of their mask; [B, K, 3] float are x, y and whether the point is
    visible.
    """
    if target.is_floating_point():
        return target[..., :2], target[..., 2] > 0
    return landmarks.from_mask(target)


class LandmarkScores(NamedTuple):
    """Figures of every image of a validation set."""

    pck: np.ndarray  # [N] percent of the visible points that were found
    error: np.ndarray  # [N] mean distance of the visible points, in pixels of a face of SIDE
    shown: list[
        tuple[Tensor, ...]
    ]  # (input, ours, truth) uint8 [3, H, W] of the first few, points in colour over the picture

    def value(self, part: slice = slice(None)) -> float:
        """Mean PCK over a part of the images."""
        return float(self.pck[part].mean())

    def row(self) -> dict[str, float]:
        """{name: mean} of everything that is known."""
        return {'pck': self.value(), 'error': float(self.error.mean())}

    def pictures(self) -> tuple[Any, Any, tuple[str, ...]]:
        """(rows, figures, names) of pictures.strip."""
        figures = [(None, value, None) for value in self.pck]
        return self.shown, figures, ('input', 'ours', 'truth')

    def sentence(self) -> str:
        """The means in words."""
        return (
            f'PCK {self.pck.mean():.2f} % within {NEAR * SIDE:.1f} px of {SIDE}, '
            f'mean error {self.error.mean():.2f} px, {len(self.pck)} images'
        )


def find(net: nn.Module, image: Tensor) -> Tensor:
    """image [B, 3, H, W] uint8 on the device -> [B, K, 2] float32 (x, y) pixels of the image."""
    # Peaks are in pixels of the maps; pixel centres, not corners, coincide when enlarged.
    maps = net((image.float() / 255).contiguous(memory_format=torch.channels_last))
    points, _ = heatmaps.peaks(maps)
    factor = image.shape[2] / maps.shape[2]
    return (points + 0.5) * factor - 0.5


def dotted(image: Tensor, points: Tensor, visible: Tensor) -> Tensor:
    """image [3, H, W] uint8, points [K, 2] -> [3, H, W] uint8 with a green square at each visible
    point.
    """
    # A square that grows with the picture: visible at every size.
    out, radius = image.clone(), image.shape[1] // 128
    green = torch.tensor([0, 255, 0], dtype=torch.uint8)[:, None, None]
    for x, y in points[visible].round().long().tolist():
        rows = slice(max(y - radius, 0), max(y + radius + 1, 0))
        columns = slice(max(x - radius, 0), max(x + radius + 1, 0))
        out[:, rows, columns] = green
    return out


@torch.no_grad()
def validate(
    net: nn.Module,
    data: Sequence[Any],
    device: torch.device | str,
    world: World | None = None,
    *,
    batch: int = 8,
    autocast: Autocast,
    show: int = SHOWN,
    threads: int = 1,
) -> LandmarkScores:
    """Score `net` on a validation set: items (name, image uint8 [3, H, W], target as of `located`);
    else as restore.validate.
    """
    rows: list[list[float]] = []
    shown: list[tuple[Tensor, ...]] = []
    training = net.training
    net.eval()
    for image, target in batches(data, device, world, batch, threads):
        points, visible = located(target)
        with autocast():
            ours = find(net, image)
        # Means over the visible points of each image.
        distance = (ours - points).norm(dim=2) / image.shape[2]
        count = visible.sum(1).clamp_min(1)
        near, error = ((x * visible).sum(1) / count for x in ((distance <= NEAR).float(), distance))
        rows += torch.stack([100 * near, SIDE * error], 1).tolist()
        for i in range(min(len(image), show - len(shown))):
            x, a, b, v = (t[i].cpu() for t in (image, ours, points, visible))
            shown.append((x, dotted(x, a, v), dotted(x, b, v)))
    net.train(training)
    pck, errors = np.array(collected(rows, len(data), world)).T
    return LandmarkScores(pck, errors, shown)
