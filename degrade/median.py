"""Median of a square window of 8-bit values: OpenCV's medianBlur.

Each channel is filtered on its own and the edge is repeated. The picture is rounded to 8 bits
first.
"""

from collections.abc import Mapping
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from . import canvas
from . import kernels as cuda
from .canvas import Canvas
from .draw import Draw
from .op import Sizes, number
from .quantize import levels_opencv
from .ranges import Interval, Values

LARGEST = 15  # side of the largest window


# Of recipe files; see `sample`.
RANGES: Mapping[str, Values] = {'side': Interval(3, LARGEST, whole=True)}


class Params(NamedTuple):
    """Sizes of the windows."""

    side: np.ndarray  # [B] int64 odd side in pixels, 3 to 15; 1 where the step is skipped


def sample(draw: Draw, on: np.ndarray, sizes: Sizes, *, side: tuple[int, int] = (7, 15)) -> Params:
    """Draw the windows' sides, odd numbers in the range `side` of at most 15.

    Raises ValueError for a larger one.
    """
    if side[1] > LARGEST:
        raise ValueError(
            f'median of {side[1]} x {side[1]} pixels: up to {LARGEST} x {LARGEST} are possible'
        )
    sides = 2 * draw.integers('side', side[0] // 2, side[1] // 2) + 1
    return Params(np.where(on, sides, 1))


def told(p: Params, size: np.ndarray) -> list[str]:
    """Window of one sample's filter in words, [] without one."""
    return [f'side {number(p.side)}'] if p.side > 1 else []


# ---- reference: one 8-bit image, row by row ----


def run_ref(x: np.ndarray, p: Params) -> np.ndarray:
    """Round an image [h, w, 3] float64 to 8 bits and filter it."""
    if p.side == 1:
        return x
    u8 = np.clip(np.rint(x * 255), 0, 255).astype(np.uint8)
    return apply_ref(u8, int(p.side)) / 255.0


def apply_ref(u8: np.ndarray, side: int) -> np.ndarray:
    """Filter [h, w, 3] uint8: the middle one of the sorted values around every pixel."""
    r = side // 2
    padded = np.pad(u8, ((r, r), (r, r), (0, 0)), 'edge')
    y = np.empty_like(u8)
    for i in range(len(u8)):
        rows = padded[i : i + side]
        windows = np.lib.stride_tricks.sliding_window_view(rows, side, 1)  # [side, w, 3, side]
        values = np.moveaxis(windows, 0, -1).reshape(*u8.shape[1:], -1)  # [w, 3, side * side]
        y[i] = np.sort(values, -1)[..., side * side // 2]
    return y


# ---- torch ----

STRIP = 16  # rows at a time: a window of 15 x 15 makes 225 values of each


def apply_torch(x: torch.Tensor, side: int) -> torch.Tensor:
    """Filter [B, 3, h, w] uint8."""
    r, h = side // 2, x.shape[2]
    # torch pads floats only in this mode.
    padded = F.pad(x.float(), (r, r, r, r), 'replicate').to(torch.uint8)
    strips = []
    for top in range(0, h, STRIP):
        rows = padded[:, :, top : min(top + STRIP, h) + 2 * r]
        windows = rows.unfold(2, side, 1).unfold(3, side, 1)  # [B, 3, rows, w, side, side]
        strips.append(windows.flatten(-2).median(-1).values)
    return torch.cat(strips, 2)


def run_torch(c: Canvas, p: Params, opencv: bool = False) -> Canvas:
    """Round a batch to 8 bits and filter it."""
    if (p.side == 1).all():
        return c
    if opencv and len(p.side) == 1:
        x = canvas.hwc(c.pix)
        levels = x if x.dtype == np.uint8 else levels_opencv(x)
        return canvas.of(canvas.nchw(cv2.medianBlur(levels, int(p.side[0]))))
    return canvas.each_size(c, p, _run)


def _run(x: torch.Tensor, p: Params) -> torch.Tensor:
    """Samples of one size: each side of window is one call."""
    y = x.clone()
    for side in set(p.side.tolist()) - {1}:
        i = np.flatnonzero(p.side == side)
        levels = (x[i] * 255).round().clamp(0, 255).to(torch.uint8)
        y[i] = canvas.unit(apply_torch(levels, side))
    return y


# ---- CUDA ----


def record(p: Params, size: np.ndarray) -> np.ndarray:
    """Structs for median.cu."""
    return cuda.record([('side', np.int32)], size, side=p.side)


def run_cuda(c: Canvas, p: Params, r: torch.Tensor) -> Canvas:
    """Filter a batch on the GPU. r: `record` of p and c.size, on the GPU.

    Where every sample is filtered the result is uint8.
    """
    if (p.side == 1).all():
        return c
    all_filtered = (p.side > 1).all()
    pix, is_bytes, *shape = cuda.canvas_of(c.pix)
    y = cuda.blank(pix, dtype=torch.uint8 if all_filtered else torch.float32)
    h, w = c.size.max(0)
    grid = (cuda.tiles(w, 32), cuda.tiles(h, 8), len(pix))
    to_bytes = np.bool_(all_filtered)
    cuda.launch('median.cu', 'median', grid, (32, 8), pix, is_bytes, y, to_bytes, *shape, r)
    return c._replace(pix=y)
