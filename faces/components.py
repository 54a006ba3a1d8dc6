"""Components of a face (eyes with their brows, nose, mouth): where they are, cut out of feature maps, and put back (DFDNet, Li et al., ECCV 2020).

Boxes are (left, top, right, bottom) in pixels, centres of pixels at integers; they are square, and may reach beyond the picture.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from . import landmarks
from .masks import CLASSES

LEAST = 16 / 512  # half of the smallest box, in shares of the picture's side


class Component(NamedTuple):
    classes: tuple  # of a mask; without the first one there is no component
    points: tuple  # of 68 landmarks
    side: int  # pixels of a crop from maps of 128 x 128 of a whole face


COMPONENTS = {
    'r_eye': Component(('r_eye', 'r_brow'), (*range(17, 22), *range(36, 42)), 20),
    'l_eye': Component(('l_eye', 'l_brow'), (*range(22, 27), *range(42, 48)), 20),
    'nose': Component(('nose',), tuple(range(29, 36)), 12),
    'mouth': Component(('mouth', 'u_lip', 'l_lip'), tuple(range(48, 68)), 27),
}


def sides(size):
    """{component: side in pixels of its crops} from maps size x size of a whole face: those of DFDNet in proportion, 4 or more"""
    return {name: max(4, round(c.side * size / 128)) for name, c in COMPONENTS.items()}


def boxes_of_points(points, size):
    """[B, 68, 2] pixels of pictures with sides of `size` -> ([B, 4, 4], [B, 4] bool, all true): centre is the mean of a component's points."""
    found = []
    for c in COMPONENTS.values():
        own = points[:, list(c.points)]
        found.append(_square(own.mean(1), own.amax(1) - own.amin(1), size))
    return torch.stack(found, 1), torch.ones(
        len(points), len(COMPONENTS), dtype=torch.bool, device=points.device
    )


def boxes_of_masks(mask, least=0.0):
    """Ids [B, H, W] -> ([B, 4, 4] float32, [B, 4] bool whether the component is there): centre is that of the box around its classes; least: as of landmarks.from_mask.

    Of a nose only the end is meant, as high as it is wide: that is where its points are.
    """
    found, there = [], []
    for name, c in COMPONENTS.items():
        own = [mask == CLASSES.index(i) for i in c.classes]
        there.append(
            (own[0] if len(own) < 3 else torch.stack(own).any(0)).flatten(1).any(1)
        )  # a mouth may be closed
        member = torch.stack(own).any(0)[None]  # [1, B, H, W]
        (left, right), (top, bottom) = (landmarks.ends(member.sum(axis), least) for axis in (2, 3))
        top = torch.maximum(top, bottom - (right - left)) if name == 'nose' else top
        corners = [torch.cat(pair).T.float() for pair in ((left, top), (right, bottom))]  # [B, 2]
        found.append(
            _square((corners[0] + corners[1]) / 2, corners[1] - corners[0], max(mask.shape[1:]))
        )
    return torch.stack(found, 1), torch.stack(there, 1)


def _square(centre, extent, size):
    half = (extent.amax(1, keepdim=True) / 2).clamp_min(LEAST * size)
    return torch.cat([centre - half, centre + half], 1)


def roi_align_ref(features, box, side, samples=2):
    """One map [C, H, W], box of 4 numbers -> [C, side, side] float64; as `roi_align` has it."""
    features, (left, top, right, bottom) = features.double(), (float(v) for v in box)
    h, w = features.shape[1:]
    out = torch.zeros(len(features), side, side, dtype=torch.float64)
    for i in range(side):
        for j in range(side):
            for a in range(samples):
                for b in range(samples):
                    y = top + (i + (a + 0.5) / samples) * (bottom - top) / side
                    x = left + (j + (b + 0.5) / samples) * (right - left) / side
                    # Bilinear; beyond the border the last pixel goes on.
                    y, x = min(max(y, 0), h - 1), min(max(x, 0), w - 1)
                    y0, x0 = int(y), int(x)
                    y1, x1 = min(y0 + 1, h - 1), min(x0 + 1, w - 1)
                    fy, fx = y - y0, x - x0
                    out[:, i, j] += (
                        (1 - fy) * ((1 - fx) * features[:, y0, x0] + fx * features[:, y0, x1])
                        + fy * ((1 - fx) * features[:, y1, x0] + fx * features[:, y1, x1])
                    ) / samples**2
    return out


def roi_align(features, boxes, side, samples=2):
    """Maps [B, C, H, W], one box [B, 4] in their pixels each -> [B, C, side, side]: mean of samples x samples bilinear samples per cell (Mask R-CNN, He et al., ICCV 2017)."""
    h, w = features.shape[2:]
    at = (torch.arange(side * samples, device=features.device) + 0.5) / (side * samples)
    x, y = (
        boxes[:, i, None] + at * (boxes[:, i + 2] - boxes[:, i])[:, None] for i in (0, 1)
    )  # [B, side * samples]
    grid = torch.stack(
        [
            ((2 * x + 1) / w - 1)[:, None, :].expand(-1, len(at), -1),
            ((2 * y + 1) / h - 1)[:, :, None].expand(-1, -1, len(at)),
        ],
        3,
    )
    found = F.grid_sample(
        features,
        grid.to(features.dtype),
        mode='bilinear',
        padding_mode='border',
        align_corners=False,
    )
    return F.avg_pool2d(found, samples)


def pasted(crops, boxes, size):
    """Crops [B, C, s, s] of boxes [B, 4] -> ([B, C, H, W] bilinear, 0 outside of the box; [B, 1, H, W] bool inside) in maps of (H, W) = size."""
    x, y = (torch.arange(n, device=crops.device) for n in (size[1], size[0]))
    u, v = (
        (n - boxes[:, i, None]) / (boxes[:, i + 2] - boxes[:, i])[:, None]
        for i, n in ((0, x), (1, y))
    )  # [B, W] and [B, H], 0..1 in the box
    inside = ((u >= 0) & (u <= 1))[:, None, None, :] & ((v >= 0) & (v <= 1))[:, None, :, None]
    grid = torch.stack(
        [
            (2 * u - 1)[:, None, :].expand(-1, size[0], -1),
            (2 * v - 1)[:, :, None].expand(-1, -1, size[1]),
        ],
        3,
    )
    found = F.grid_sample(
        crops, grid.to(crops.dtype), mode='bilinear', padding_mode='border', align_corners=False
    )
    return found * inside, inside
