"""Facial priors that need more than a network: the entries of a dictionary of components, and heatmaps of points that follow from a predicted mask; and how a dictionary is made."""
import numpy as np
import torch
from torch import nn

from dali_pipes.priors import components, dictionary, heatmaps, landmarks
from models.guided import enlarged, sized

LEAST = 0.05      # columns and rows of a predicted mask with less than this share of a part's fullest one are specks
FINE = 4          # features are taken where they are this much smaller than the picture: 128 of 512 (DFDNet, Li et al., ECCV 2020)


def level(parser):
    """Which of the parser's feature maps is FINE times smaller than its picture -> int. ValueError if none is."""
    found = (FINE // parser.stride).bit_length() - 1
    if found >= len(parser.encoder):
        raise ValueError(f'a parser of {len(parser.encoder)} levels at a stride of {parser.stride} has no features at 1/{FINE} of the picture: it needs {found + 1}')
    return found


def looked_at(parser, picture):
    """[B, 3, H, W] in [0, 1] -> (features [B, C, h, w] float32 at 1/FINE, ids [B, H, W]) in one pass."""
    maps = parser.encode(parser.padded(picture))
    logits = parser.decode(maps, picture.shape[2:])
    return maps[level(parser)].float(), (logits[0] if isinstance(logits, tuple) else logits).argmax(1)


class ParsedHeatPrior(nn.Module):
    """Heatmaps of the 28 points of the mask that a parser finds. parser, factor: as of models.ParsePrior"""

    def __init__(self, parser, factor=1.0):
        super().__init__()
        self.parser, self._factor = parser, float(factor)

    def forward(self, x):
        """x: [B, 3, h, w] in [0, 1] -> [B, 28, h, w] float32 in [0, 1]"""
        ids = self.parser(enlarged(x, self._factor)).argmax(1)
        points, there = landmarks.from_mask(ids, LEAST)
        return heatmaps.gaussians(heatmaps.reduced(points, ids.shape[1] / x.shape[2]), there, x.shape[2:])

    def see(self, x):
        """-> (maps as of `forward`, [B, 1, h, w] in [0, 1]: their sum)"""
        maps = self(x)
        return maps, maps.sum(1, keepdim=True).clamp(0, 1)


class DictPrior(nn.Module):
    """Features of a face, and added to them, where its components are, the entries of a dictionary that are most like them.

    parser: models.ParseUNet, the one whose features the dictionary is made of; entries: dali_pipes.priors.dictionary.Dictionary; factor: as of models.ParsePrior
    """

    def __init__(self, parser, entries, factor=1.0):
        super().__init__()
        self.parser, self.entries, self._factor = parser, entries, float(factor)

    def forward(self, x):
        """x: [B, 3, h, w] in [0, 1] -> [B, C, h, w] float32"""
        return self.see(x)[0]

    def see(self, x):
        """-> (maps as of `forward`, [B, 1, h, w] in [0, 1]: the boxes of the components)"""
        features, ids = looked_at(self.parser, enlarged(x, self._factor))
        boxes, there = components.boxes_of_masks(ids, LEAST)
        maps, covered = self.entries(features, heatmaps.reduced(boxes, FINE), there)
        return sized(maps, x.shape[2:]), sized(covered.float(), x.shape[2:])


@torch.no_grad()
def collect(parser, batches, device):
    """Crops of the components of many faces -> {component: [n, C, s, s] float16 on the CPU}, of the faces that have it.

    batches: of (pictures [B, 3, S, S] uint8, what tells where components are: ids [B, S, S], points [B, 68, 2] float, or None: the parser's own view)
    """
    found = {name: [] for name in components.COMPONENTS}
    for picture, told in batches:
        features, ids = looked_at(parser, picture.to(device) / 255)
        told = (ids if told is None else told).to(device)
        if told.is_floating_point():
            boxes, there = components.boxes_of_points(told, picture.shape[2])
        else:
            boxes, there = components.boxes_of_masks(told, LEAST)
        boxes = heatmaps.reduced(boxes, FINE)
        for i, (name, side) in enumerate(components.sides(features.shape[2]).items()):
            found[name].append(components.roi_align(features, boxes[:, i], side)[there[:, i]].half().cpu())
    return {name: torch.cat(crops) for name, crops in found.items()}


def build(crops, count, seed, device):
    """Crops as `collect` gives them -> {component: [K, C, s, s] float16 entries}, K = count or what there is. ValueError for a component that no face has."""
    empty = [name for name, c in crops.items() if not len(c)]
    if empty:
        raise ValueError(f'no face has the component {", ".join(empty)}')
    return {name: dictionary.build(c.to(device).float(), count, seed).half().cpu() for name, c in crops.items()}


def batches(reader, numbers, points, batch, pool):
    """What `collect` takes, of the faces numbered so. reader: Reader or masks.reader.PairReader, whose ids tell; points: [N, 68, 2] of all its images tell instead, or None."""
    for first in range(0, len(numbers), batch):
        found = reader.decoded(numbers[first:first + batch], pool)
        pixels = torch.from_numpy(np.stack([image for image, _ in found])).permute(0, 3, 1, 2)
        ids = pixels[:, 3] if pixels.shape[1] == 4 else None
        yield pixels[:, :3], ids if points is None else torch.from_numpy(points[[used for _, used in found]])
