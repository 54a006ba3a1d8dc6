"""Facial components (eyes with their brows, nose, mouth): located, cropped and pasted back.

The components and the sides of their crops are those of DFDNet (Li et al., ECCV 2020). Boxes are
(left, top, right, bottom) in pixels, with pixel centres at integers; they are square, and may
extend beyond the picture.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from . import landmarks
from .masks import CLASSES

# Half the side of the smallest box, as a share of the picture's side.
LEAST = 16 / 512


class Component(NamedTuple):
    """A part of a face, by mask, by landmarks, and by the size of its crops."""

    classes: tuple[str, ...]  # of a mask; without the first one the component is absent
    points: tuple[int, ...]  # of 68 landmarks
    side: int  # pixels of a crop from maps of 128 x 128 of a whole face


# fmt: off
COMPONENTS = {
    'r_eye': Component(('r_eye', 'r_brow'),         (*range(17, 22), *range(36, 42)), 20),
    'l_eye': Component(('l_eye', 'l_brow'),         (*range(22, 27), *range(42, 48)), 20),
    'nose':  Component(('nose',),                   tuple(range(29, 36)),             12),
    'mouth': Component(('mouth', 'u_lip', 'l_lip'), tuple(range(48, 68)),             27),
}
# fmt: on


def sides(size: int) -> dict[str, int]:
    """{component: side in pixels of its crops} from maps size x size of a whole face.

    The sides are DFDNet's in proportion, but at least 4.
    """
    return {name: max(4, round(c.side * size / 128)) for name, c in COMPONENTS.items()}


# ---- boxes ----


def boxes_of_points(points: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Boxes of 68 landmarks [B, 68, 2] in pixels of pictures with sides of `size`.

    Returns [B, 4, 4] boxes, centred on the mean of each component's points, and [B, 4] bool, all
    true.
    """
    boxes = []
    for c in COMPONENTS.values():
        # The box has the larger of width and height as its side.
        own = points[:, list(c.points)]
        boxes.append(_square(own.mean(1), own.amax(1) - own.amin(1), size))
    shape = len(points), len(COMPONENTS)
    return torch.stack(boxes, 1), torch.ones(shape, dtype=torch.bool, device=points.device)


def boxes_of_masks(mask: Tensor, least: float = 0.0) -> tuple[Tensor, Tensor]:
    """Boxes of class ids [B, H, W].

    least: as in landmarks.from_mask
    Returns [B, 4, 4] float32 boxes, centred on the box around each component's classes, and [B, 4]
    bool, whether the component is present. Of a nose only the end is meant, as high as it is wide:
    that is where its landmarks are.
    """
    boxes, present = [], []
    for name, c in COMPONENTS.items():
        own = [mask == CLASSES.index(i) for i in c.classes]
        member = torch.stack(own).any(0)  # [B, H, W]
        # A closed mouth has lips only.
        deciding = member if name == 'mouth' else own[0]
        present.append(deciding.flatten(1).any(1))

        (left, right), (top, bottom) = (
            landmarks.ends(member[None].sum(axis), least) for axis in (2, 3)
        )
        if name == 'nose':
            top = torch.maximum(top, bottom - (right - left))
        first = torch.cat([left, top]).T.float()  # [B, 2] corners
        last = torch.cat([right, bottom]).T.float()
        boxes.append(_square((first + last) / 2, last - first, max(mask.shape[1:])))
    return torch.stack(boxes, 1), torch.stack(present, 1)


def _square(centre: Tensor, extent: Tensor, size: int) -> Tensor:
    """[B, 4] square boxes from centre and extent, [B, 2] each, in pictures with sides of `size`."""
    half = (extent.amax(1, keepdim=True) / 2).clamp_min(LEAST * size)
    return torch.cat([centre - half, centre + half], 1)


# ---- crops ----


def roi_align_ref(
    features: Tensor, box: Sequence[float] | Tensor, side: int, samples: int = 2
) -> Tensor:
    """Reference of `roi_align`: map [C, H, W], box of 4 numbers -> [C, side, side] float64."""
    features = features.double()
    left, top, right, bottom = (float(v) for v in box)
    out = torch.zeros(len(features), side, side, dtype=torch.float64)
    for i in range(side):
        for j in range(side):
            # The mean over a grid of samples in the cell.
            for a in range(samples):
                for b in range(samples):
                    y = top + (i + (a + 0.5) / samples) * (bottom - top) / side
                    x = left + (j + (b + 0.5) / samples) * (right - left) / side
                    out[:, i, j] += _bilinear_ref(features, x, y) / samples**2
    return out


def _bilinear_ref(features: Tensor, x: float, y: float) -> Tensor:
    """[C] at a position of a map [C, H, W]; beyond the border its last pixels are repeated."""
    h, w = features.shape[1:]
    y, x = min(max(y, 0), h - 1), min(max(x, 0), w - 1)
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, h - 1), min(x0 + 1, w - 1)
    fy, fx = y - y0, x - x0
    above = (1 - fx) * features[:, y0, x0] + fx * features[:, y0, x1]
    below = (1 - fx) * features[:, y1, x0] + fx * features[:, y1, x1]
    return (1 - fy) * above + fy * below


def roi_align(features: Tensor, boxes: Tensor, side: int, samples: int = 2) -> Tensor:
    """Crop one box [B, 4] from each map [B, C, H, W] -> [B, C, side, side].

    boxes: in pixels of the maps
    Every cell is the mean of samples x samples bilinear samples (Mask R-CNN, He et al., ICCV 2017);
    beyond the border the last pixels are repeated.
    """
    h, w = features.shape[2:]
    # Positions of the samples along one side of the box, 0..1, and in the map, [B, side * samples].
    at = (torch.arange(side * samples, device=features.device) + 0.5) / (side * samples)
    x, y = (boxes[:, i, None] + at * (boxes[:, i + 2] - boxes[:, i])[:, None] for i in (0, 1))

    grid = _grid((2 * x + 1) / w - 1, (2 * y + 1) / h - 1)
    return F.avg_pool2d(_sampled(features, grid), samples)


def pasted(crops: Tensor, boxes: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Paste crops [B, C, s, s] into their boxes [B, 4] in maps of (H, W) = size.

    Returns [B, C, H, W], bilinear and 0 outside of the box, and [B, 1, H, W] bool, true inside.
    """
    # Positions of the pixels in the box, 0..1: [B, H] and [B, W].
    v, u = (
        (torch.arange(n, device=crops.device) - boxes[:, i, None])
        / (boxes[:, i + 2] - boxes[:, i])[:, None]
        for i, n in ((1, size[0]), (0, size[1]))
    )
    # Both edges belong to the box.
    inside = ((u >= 0) & (u <= 1))[:, None, None, :] & ((v >= 0) & (v <= 1))[:, None, :, None]
    return _sampled(crops, _grid(2 * u - 1, 2 * v - 1)) * inside, inside


def _grid(x: Tensor, y: Tensor) -> Tensor:
    """[B, n, m, 2] grid of F.grid_sample from columns x [B, m] and rows y [B, n]."""
    return torch.stack(
        [x[:, None, :].expand(-1, y.shape[1], -1), y[:, :, None].expand(-1, -1, x.shape[1])], 3
    )


def _sampled(maps: Tensor, grid: Tensor) -> Tensor:
    """Bilinear samples; beyond the border the last pixels are repeated."""
    return F.grid_sample(
        maps, grid.to(maps.dtype), mode='bilinear', padding_mode='border', align_corners=False
    )
