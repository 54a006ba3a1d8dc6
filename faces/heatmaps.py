"""Heatmaps of landmarks: one map per point, a gaussian of peak 1 (Tompson et al., NeurIPS 2014); and points found in such maps."""

import torch

SIDE, SIGMA = (
    128,
    1.5,
)  # of a face of 128 x 128 pixels the gaussians have this standard deviation in pixels; of others in proportion


def gaussians_ref(points, visible, size, sigma):
    """Of one face: points [K, 2], visible [K] -> [K, H, W] float64; as `gaussians` has it."""
    h, w = size
    maps = torch.zeros(len(points), h, w, dtype=torch.float64)
    for k, (x, y) in enumerate(torch.as_tensor(points, dtype=torch.float64)):
        for i in range(h):
            for j in range(w):
                maps[k, i, j] = torch.exp(-((j - x) ** 2 + (i - y) ** 2) / (2 * sigma**2)) * bool(
                    visible[k]
                )
    return maps


def gaussians(points, visible, size, sigma=None):
    """[B, K, 2] (x, y) pixels and [B, K] bool -> [B, K, H, W] float32 in [0, 1]; of what is not visible the map is 0.

    size: (H, W) of the maps; points may lie between pixels and outside
    sigma: standard deviation in pixels; None: SIGMA in proportion to the longer side
    """
    sigma = sigma or SIGMA * max(size) / SIDE
    x, y = (
        torch.exp(
            -(torch.arange(n, device=points.device) - points[..., axis, None]).square()
            / (2 * sigma**2)
        )
        for axis, n in enumerate((size[1], size[0]))
    )
    return (y * visible[..., None])[..., None] * x[..., None, :]


def reduced(points, factor):
    """[..., 2] pixels of a picture -> of the same picture `factor` times smaller (pixel centres at integers)"""
    return (points + 0.5) / factor - 0.5


def peaks(maps):
    """[B, K, H, W] -> ([B, K, 2] float32 (x, y) pixels of the highest value, [B, K] that value). Between pixels by the parabola through the logarithms, exact of a gaussian."""
    maps = maps.float()
    h, w = maps.shape[2:]
    height, place = maps.flatten(2).max(2)
    x, y = place % w, place // w
    return torch.stack(
        [x + _offset(maps, place, x, 1, w), y + _offset(maps, place, y, w, h)], 2
    ), height


def _offset(maps, place, at, step, length):
    """How far the parabola's top is from the highest pixel along one axis; 0 at a border. step: from a neighbour to the next in a flat map"""
    inside = (at > 0) & (at < length - 1)
    place = torch.where(inside, place, step) if length > 2 else place * 0
    before, here, after = (
        maps.flatten(2)
        .gather(2, (place + s).clamp(0, maps[0, 0].numel() - 1)[..., None])[..., 0]
        .clamp_min(1e-8)
        .log()
        for s in (-step, 0, step)
    )
    return torch.where(
        inside & (before + after < 2 * here),
        (before - after) / (2 * (before - 2 * here + after)).clamp_max(-1e-8),
        0.0,
    ).clamp(-0.5, 0.5)
