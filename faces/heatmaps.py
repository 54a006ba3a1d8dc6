"""Heatmaps of landmarks: one map per point, a Gaussian of peak 1; and the peaks of such maps.

Tompson et al., NeurIPS 2014.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

# For a face of SIDE x SIDE pixels the Gaussians have the standard deviation SIGMA in pixels; for
# other sizes in proportion.
SIDE, SIGMA = 128, 1.5


def gaussians_ref(points: Tensor, visible: Tensor, size: Sequence[int], sigma: float) -> Tensor:
    """Reference of `gaussians` for one face: [K, 2], [K] -> [K, H, W] float64."""
    h, w = size
    maps = torch.zeros(len(points), h, w, dtype=torch.float64)
    for k, (x, y) in enumerate(torch.as_tensor(points, dtype=torch.float64)):
        if not visible[k]:
            continue
        for i in range(h):
            for j in range(w):
                maps[k, i, j] = torch.exp(-((j - x) ** 2 + (i - y) ** 2) / (2 * sigma**2))
    return maps


def gaussians(
    points: Tensor, visible: Tensor, size: Sequence[int], sigma: float | None = None
) -> Tensor:
    """Heatmaps [B, K, H, W] float32 in [0, 1] of points [B, K, 2], (x, y) in pixels of the maps.

    visible: [B, K] bool; the map of an invisible point is 0
    size:    (H, W) of the maps; points may lie between pixels and outside
    sigma:   standard deviation in pixels; None: SIGMA in proportion to the longer side
    """
    sigma = sigma or SIGMA * max(size) / SIDE
    # A Gaussian is the product of one along x and one along y, [B, K, W] and [B, K, H].
    x, y = (
        torch.exp(
            -(torch.arange(n, device=points.device) - points[..., axis, None]).square()
            / (2 * sigma**2)
        )
        for axis, n in enumerate((size[1], size[0]))
    )
    return (y * visible[..., None])[..., None] * x[..., None, :]


def reduced(points: Tensor, factor: float) -> Tensor:
    """Points [..., 2] in the pixels of the same picture `factor` times smaller.

    Pixel centres are at integers.
    """
    return (points + 0.5) / factor - 0.5


def peaks(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Locate the highest value of each map [B, K, H, W].

    Returns [B, K, 2] float32 (x, y) in pixels, and [B, K] the values. Positions between pixels come
    from the parabola through the logarithms of the neighbours, which is exact for a Gaussian.
    """
    maps = maps.float()
    h, w = maps.shape[2:]
    height, place = maps.flatten(2).max(2)
    x, y = place % w, place // w
    dx, dy = _offset(maps, place, x, 1, w), _offset(maps, place, y, w, h)
    return torch.stack([x + dx, y + dy], 2), height


def _offset(maps: Tensor, place: Tensor, at: Tensor, step: int, length: int) -> Tensor:
    """[B, K] distance of the parabola's vertex from the highest pixel along one axis, in pixels.

    place:  of the highest pixel in the flattened map
    at:     its position along the axis
    step:   from a pixel to its neighbour in the flattened map
    length: of the axis
    At a border, where a neighbour is missing, it is 0.
    """
    # Places whose neighbours are read, valid even where the result is discarded below.
    inside = (at > 0) & (at < length - 1)
    place = torch.where(inside, place, step) if length > 2 else place * 0
    last = maps[0, 0].numel() - 1
    before, here, after = (
        maps.flatten(2)
        .gather(2, (place + s).clamp(0, last)[..., None])[..., 0]
        .clamp_min(1e-8)
        .log()
        for s in (-step, 0, step)
    )

    # Only a downward parabola has its maximum there; a plateau stays where it is.
    vertex = (before - after) / (2 * (before - 2 * here + after)).clamp_max(-1e-8)
    return torch.where(inside & (before + after < 2 * here), vertex, 0.0).clamp(-0.5, 0.5)
