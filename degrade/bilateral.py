"""Bilateral filter (Tomasi and Manduchi 1998): the smear that denoising in phones leaves.

    y(p) = sum of w(q) x(q) / sum of w(q),  q in a disc around p
    w(q) = exp(-|q - p|^2 / 2 space^2 - |x(q) - x(p)|^2 / 2 color^2)

with OpenCV's conventions: colours differ by the sum over the channels of absolute differences, the
disc has the radius 1.5 `space`, rounded, and borders are reflected without repeating the edge.
"""

from collections.abc import Mapping
from typing import NamedTuple

import cv2
import numpy as np
import torch

from . import canvas
from . import kernels as cuda
from .canvas import Canvas
from .draw import Draw
from .op import Sizes, number
from .ranges import Interval, Values

MOST_RADIUS = 7  # pixels; what the shared memory of a block holds

Range = tuple[float, float]

# Of recipe files; see `sample`.
RANGES: Mapping[str, Values] = {'space': Interval(0.5, 4.9), 'color': Interval(1, 765)}


class Params(NamedTuple):
    """Widths of the two Gaussians."""

    space: np.ndarray  # [B] float64 pixels
    color: np.ndarray  # [B] float64 in image units; 0 where the step is skipped


def sample(
    draw: Draw,
    on: np.ndarray,
    sizes: Sizes,
    *,
    space: Range = (1.0, 3.0),
    color: Range = (10, 50),
) -> Params:
    """Draw widths.

    space: range in pixels
    color: range in grey levels
    """
    colors = draw.uniform('color', *color) / 255
    return Params(draw.uniform('space', *space), np.where(on, colors, 0.0))


def told(p: Params, size: np.ndarray) -> list[str]:
    """Widths of one sample's filter in words, [] without one."""
    return [f'space {number(p.space)}', f'color {number(255 * p.color)}'] if p.color else []


def radius(space: np.ndarray) -> np.ndarray:
    """[B] int64 radii of the discs."""
    return np.clip(np.rint(1.5 * np.asarray(space)).astype(np.int64), 1, MOST_RADIUS)


def _disc(r: int) -> list[tuple[int, int]]:
    """Offsets (down, right) in a disc."""
    side = range(-r, r + 1)
    return [(v, u) for v in side for u in side if u * u + v * v <= r * r]


# ---- reference: one image, float64 ----


def run_ref(x: np.ndarray, p: Params) -> np.ndarray:
    """Filter an image [h, w, 3] float64."""
    if not p.color:
        return x
    # Offset by offset, for all pixels at once.
    r, (h, w, _) = int(radius(p.space)), x.shape
    padded = np.pad(x, ((r, r), (r, r), (0, 0)), 'reflect')
    total, weights = np.zeros_like(x), np.zeros((h, w, 1))
    for v, u in _disc(r):
        other = padded[v + r : v + r + h, u + r : u + r + w]
        far = np.abs(other - x).sum(2, keepdims=True)
        weight = np.exp(-(u * u + v * v) / (2 * p.space**2) - far**2 / (2 * p.color**2))
        total += weight * other
        weights += weight
    return total / weights


# ---- torch ----


def run_torch(c: Canvas, p: Params, opencv: bool = False) -> Canvas:
    """Filter a batch."""
    if not p.color.any():
        return c
    if opencv and len(p.color) == 1:
        x = canvas.unit_array(canvas.hwc(c.pix))
        side = 2 * int(radius(p.space)[0]) + 1
        # The side says the radius; of space alone OpenCV would derive the same.
        y = cv2.bilateralFilter(x, side, float(p.color[0]), float(p.space[0]))
        return canvas.of(canvas.nchw(y))
    return canvas.each_size(c, p, _run)


def _run(x: torch.Tensor, p: Params) -> torch.Tensor:
    """Samples of one size, some of which may be skipped: each radius at once."""
    y = x.clone()
    # Of few radii there are many samples: the discs are what differs.
    radii = np.where(p.color > 0, radius(p.space), 0)
    for r in set(radii.tolist()) - {0}:
        i = np.flatnonzero(radii == r)
        near, alike = (torch.from_numpy(f[i]).to(x.device) for f in _factors(p))
        y[i] = _filtered(x[i], r, near[:, None, None, None], alike[:, None, None, None])
    return y


def _filtered(x: torch.Tensor, r: int, near: torch.Tensor, alike: torch.Tensor) -> torch.Tensor:
    h, w = x.shape[-2:]
    padded = canvas.reflected(x, r)
    total, weights = torch.zeros_like(x), torch.zeros_like(x[:, :1])
    for v, u in _disc(r):
        other = padded[..., v + r : v + r + h, u + r : u + r + w]
        far = (other - x).abs().sum(1, keepdim=True)
        weight = torch.exp(near * (u * u + v * v) + alike * far * far)
        total += weight * other
        weights += weight
    return total / weights


def _factors(p: Params) -> tuple[np.ndarray, np.ndarray]:
    """[B] float32 factors of squared distances in the exponent: in the picture, and in colour."""
    near = -0.5 / p.space**2
    alike = -0.5 / np.where(p.color > 0, p.color, 1) ** 2
    return near.astype(np.float32), alike.astype(np.float32)


# ---- CUDA ----


def record(p: Params, size: np.ndarray) -> np.ndarray:
    """Structs for bilateral.cu."""
    fields = [('near', np.float32), ('alike', np.float32), ('radius', np.int32)]
    near, alike = _factors(p)
    radii = np.where(p.color > 0, radius(p.space), 0)
    return cuda.record(fields, size, near=near, alike=alike, radius=radii)


def run_cuda(c: Canvas, p: Params, r: torch.Tensor) -> Canvas:
    """Filter a batch on the GPU. r: `record` of p and c.size, on the GPU."""
    if not p.color.any():
        return c
    pix, is_bytes, *shape = cuda.canvas_of(c.pix)
    y = cuda.blank(pix)
    h, w = c.size.max(0)
    grid = (cuda.tiles(w, 32), cuda.tiles(h, 8), len(pix))
    cuda.launch('bilateral.cu', 'bilateral', grid, (32, 8), pix, is_bytes, y, *shape, r)
    return c._replace(pix=y)
