"""Facial priors that need more than a network: dictionary entries of components, and heatmaps of
points of a predicted mask.

Also how a dictionary is made (DFDNet, Li et al., ECCV 2020).
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from faces import components, dictionary, heatmaps, landmarks
from models.guided import enlarged, sides, sized

# Columns and rows of a predicted mask with less than this share of a part's fullest one are specks.
LEAST = 0.05
# Features are taken where maps of a whole face are as large as this, or the next smaller ones
# (DFDNet).
SIDE = 128


def level(parser: Any, size: int) -> int:
    """Number of the parser's feature map nearest to SIDE x SIDE, but not above it, of pictures with
    sides of `size`; the last one where all are larger.
    """
    # Maps halve from level to level, so the first that is small enough is the nearest.
    of_levels = [size // shrink(parser, n) for n in range(len(parser.encoder))]
    return next((n for n, side in enumerate(of_levels) if side <= SIDE), len(of_levels) - 1)


def shrink(parser: Any, level: int) -> int:
    """How much smaller a feature map is than the picture."""
    return parser.stride * 2**level


def features_and_ids(parser: Any, picture: Tensor, level: int) -> tuple[Tensor, Tensor]:
    """[B, 3, H, W] in [0, 1] -> (features [B, C, h, w] float32 of a level, ids [B, H, W]) in one
    pass.
    """
    maps = parser.encode(parser.padded(picture))
    logits = parser.decode(maps, picture.shape[2:])
    logits = logits[0] if isinstance(logits, tuple) else logits
    return maps[level].float(), logits.argmax(1)


class ParsedHeatPrior(nn.Module):
    """Heatmaps of the 28 points of the mask that a parser finds. parser, factor: as of
    models.ParsePrior
    """

    def __init__(self, parser: nn.Module, factor: float = 1.0) -> None:
        super().__init__()
        self.parser = parser
        self._factor = float(factor)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, h, w] in [0, 1] -> [B, 28, h, w] float32 in [0, 1]"""
        ids = self.parser(enlarged(x, self._factor)).argmax(1)
        points, visible = landmarks.from_mask(ids, LEAST)
        reduced = heatmaps.reduced(points, ids.shape[1] / x.shape[2])
        return heatmaps.gaussians(reduced, visible, sides(x))

    def map_and_region(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(maps as of `forward`, [B, 1, h, w] in [0, 1]: their sum)"""
        maps = self(x)
        return maps, maps.sum(1, keepdim=True).clamp(0, 1)


class DictPrior(nn.Module):
    """Features of a face, and added to them, where its components are, the entries of a dictionary
    most like them.

    parser: models.ParseUNet, the one whose features the dictionary is made of
    entries: faces.dictionary.Dictionary; level: number of the feature map that it is made of
    factor: as of models.ParsePrior
    """

    def __init__(
        self, parser: nn.Module, entries: nn.Module, level: int, factor: float = 1.0
    ) -> None:
        super().__init__()
        self.parser = parser
        self.entries = entries
        self._level = level
        self._factor = float(factor)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, h, w] in [0, 1] -> [B, C, h, w] float32"""
        return self.map_and_region(x)[0]

    def map_and_region(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(maps as of `forward`, [B, 1, h, w] in [0, 1]: the boxes of the components)"""
        features, ids = features_and_ids(self.parser, enlarged(x, self._factor), self._level)
        boxes, visible = components.boxes_of_masks(ids, LEAST)
        reduced = heatmaps.reduced(boxes, shrink(self.parser, self._level))
        maps, covered = self.entries(features, reduced, visible)
        return sized(maps, sides(x)), sized(covered.float(), sides(x))


# ------------------------------------------------------------------------------------------------
# How a dictionary is made.


@torch.no_grad()
def collect(
    parser: Any,
    level: int,
    batches: Iterable[tuple[Tensor, Tensor | None]],
    device: torch.device | str,
) -> dict[str, Tensor]:
    """Crops of the components of many faces from one feature map -> {component: [n, C, s, s]
    float16 on the CPU}.

    n counts the faces that have the component.
    batches: of (pictures [B, 3, S, S] uint8, where components are: ids [B, S, S], points [B, 68, 2]
    float, or None for
        what the parser itself finds)
    """
    crops: dict[str, list[Tensor]] = {name: [] for name in components.COMPONENTS}
    for picture, given in batches:
        # One pass gives both the features and, if need be, the parser's own view of where things
        # are.
        features, ids = features_and_ids(parser, picture.to(device) / 255, level)
        where = (ids if given is None else given).to(device)
        if where.is_floating_point():
            boxes, visible = components.boxes_of_points(where, picture.shape[2])
        else:
            boxes, visible = components.boxes_of_masks(where, LEAST)
        boxes = heatmaps.reduced(boxes, shrink(parser, level))
        for i, (name, side) in enumerate(components.sides(features.shape[2]).items()):
            # Half precision is plenty for k-means, and a heap of faces fits into memory.
            aligned = components.roi_align(features, boxes[:, i], side)
            crops[name].append(aligned[visible[:, i]].half().cpu())
    return {name: torch.cat(of_batches) for name, of_batches in crops.items()}


def build(
    crops: dict[str, Tensor], count: int, seed: int, device: torch.device | str
) -> dict[str, Tensor]:
    """Crops as `collect` gives them -> {component: [K, C, s, s] float16 entries}, K = count or as
    many as there are.

    Raises ValueError for a component that no face has.
    """
    empty = [name for name, c in crops.items() if not len(c)]
    if empty:
        raise ValueError(f'no face has the component {", ".join(empty)}')
    return {
        name: dictionary.build(c.to(device).float(), count, seed).half().cpu()
        for name, c in crops.items()
    }


def batches(
    reader: Any,
    numbers: Any,
    points: np.ndarray | None,
    batch: int,
    pool: Executor | None,
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """What `collect` takes, of the faces numbered so.

    reader: Reader, or MaskReader, whose ids say where components are
    points: [N, 68, 2] of all its images, which say it instead, or None
    """
    for first in range(0, len(numbers), batch):
        decoded = reader.decoded(numbers[first : first + batch], pool)
        pixels = torch.from_numpy(np.stack([image for image, _ in decoded])).permute(0, 3, 1, 2)
        # A fourth channel holds the ids of a mask.
        where = pixels[:, 3] if pixels.shape[1] == 4 else None
        if points is not None:
            where = torch.from_numpy(points[[used for _, used in decoded]])
        yield pixels[:, :3], where
