"""Facial priors that need more than a network: the entries of a dictionary of components, and heatmaps of points that follow from a predicted mask; and how a dictionary is made."""

import numpy as np
import torch
from torch import nn

from faces import components, dictionary, heatmaps, landmarks
from models.guided import enlarged, sides, sized

LEAST = 0.05  # columns and rows of a predicted mask with less than this share of a part's fullest one are specks
SIDE = 128  # features are taken where maps of a whole face are as large as this, or the next smaller ones (DFDNet, Li et al., ECCV 2020)


def level(parser, size):
    """Number of the parser's feature map that is nearest to SIDE x SIDE, but not above it, of pictures with sides of `size`; the last one where all are larger."""
    sides = [size // shrink(parser, n) for n in range(len(parser.encoder))]
    return next((n for n, side in enumerate(sides) if side <= SIDE), len(sides) - 1)


def shrink(parser, level):
    """How much smaller a feature map is than the picture."""
    return parser.stride * 2**level


def looked_at(parser, picture, level):
    """[B, 3, H, W] in [0, 1] -> (features [B, C, h, w] float32 of a level, ids [B, H, W]) in one pass."""
    maps = parser.encode(parser.padded(picture))
    logits = parser.decode(maps, picture.shape[2:])
    return maps[level].float(), (logits[0] if isinstance(logits, tuple) else logits).argmax(1)


class ParsedHeatPrior(nn.Module):
    """Heatmaps of the 28 points of the mask that a parser finds. parser, factor: as of models.ParsePrior"""

    def __init__(self, parser, factor=1.0):
        super().__init__()
        self.parser, self._factor = parser, float(factor)

    def forward(self, x):
        """x: [B, 3, h, w] in [0, 1] -> [B, 28, h, w] float32 in [0, 1]"""
        ids = self.parser(enlarged(x, self._factor)).argmax(1)
        points, there = landmarks.from_mask(ids, LEAST)
        return heatmaps.gaussians(
            heatmaps.reduced(points, ids.shape[1] / x.shape[2]), there, sides(x)
        )

    def see(self, x):
        """-> (maps as of `forward`, [B, 1, h, w] in [0, 1]: their sum)"""
        maps = self(x)
        return maps, maps.sum(1, keepdim=True).clamp(0, 1)


class DictPrior(nn.Module):
    """Features of a face, and added to them, where its components are, the entries of a dictionary that are most like them.

    parser: models.ParseUNet, the one whose features the dictionary is made of; entries: faces.dictionary.Dictionary; level: number of the
    feature map that it is made of; factor: as of models.ParsePrior
    """

    def __init__(self, parser, entries, level, factor=1.0):
        super().__init__()
        self.parser, self.entries, self._level, self._factor = parser, entries, level, float(factor)

    def forward(self, x):
        """x: [B, 3, h, w] in [0, 1] -> [B, C, h, w] float32"""
        return self.see(x)[0]

    def see(self, x):
        """-> (maps as of `forward`, [B, 1, h, w] in [0, 1]: the boxes of the components)"""
        features, ids = looked_at(self.parser, enlarged(x, self._factor), self._level)
        boxes, there = components.boxes_of_masks(ids, LEAST)
        maps, covered = self.entries(
            features, heatmaps.reduced(boxes, shrink(self.parser, self._level)), there
        )
        return sized(maps, sides(x)), sized(covered.float(), sides(x))


@torch.no_grad()
def collect(parser, level, batches, device):
    """Crops of the components of many faces, of one of the parser's feature maps -> {component: [n, C, s, s] float16 on the CPU}, of the faces that have it.

    batches: of (pictures [B, 3, S, S] uint8, what tells where components are: ids [B, S, S], points [B, 68, 2] float, or None: the parser's own view)
    """
    found = {name: [] for name in components.COMPONENTS}
    for picture, told in batches:
        features, ids = looked_at(parser, picture.to(device) / 255, level)
        told = (ids if told is None else told).to(device)
        if told.is_floating_point():
            boxes, there = components.boxes_of_points(told, picture.shape[2])
        else:
            boxes, there = components.boxes_of_masks(told, LEAST)
        boxes = heatmaps.reduced(boxes, shrink(parser, level))
        for i, (name, side) in enumerate(components.sides(features.shape[2]).items()):
            found[name].append(
                components.roi_align(features, boxes[:, i], side)[there[:, i]].half().cpu()
            )
    return {name: torch.cat(crops) for name, crops in found.items()}


def build(crops, count, seed, device):
    """Crops as `collect` gives them -> {component: [K, C, s, s] float16 entries}, K = count or what there is. ValueError for a component that no face has."""
    empty = [name for name, c in crops.items() if not len(c)]
    if empty:
        raise ValueError(f'no face has the component {", ".join(empty)}')
    return {
        name: dictionary.build(c.to(device).float(), count, seed).half().cpu()
        for name, c in crops.items()
    }


def batches(reader, numbers, points, batch, pool):
    """What `collect` takes, of the faces numbered so. reader: Reader or masks.reader.MaskReader, whose ids tell; points: [N, 68, 2] of all its images tell instead, or None."""
    for first in range(0, len(numbers), batch):
        found = reader.decoded(numbers[first : first + batch], pool)
        pixels = torch.from_numpy(np.stack([image for image, _ in found])).permute(0, 3, 1, 2)
        ids = pixels[:, 3] if pixels.shape[1] == 4 else None
        yield (
            pixels[:, :3],
            ids if points is None else torch.from_numpy(points[[used for _, used in found]]),
        )
