"""Median of a square window of 8-bit values, every channel for itself, the edge repeated: OpenCV's medianBlur. The picture is rounded to 8 bits first."""

from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from . import canvas
from . import kernels as cuda
from .quantize import levels_opencv

MOST = 15  # side of the largest window


class Params(NamedTuple):
    side: (
        np.ndarray
    )  # [B] int64 odd side of the window in pixels, 3 to 15; 1 where the step is skipped


def sample(draw, on, sizes, *, side=(7, 15)):
    """side: range of odd numbers, up to 15"""
    if side[1] > MOST:
        raise ValueError(
            f'median of {side[1]} x {side[1]} pixels: up to {MOST} x {MOST} are possible'
        )
    return Params(np.where(on, 2 * draw.integers('side', side[0] // 2, side[1] // 2) + 1, 1))


# ---- reference: one 8-bit image, row by row ----


def run_ref(x, p):
    """x [h, w, 3] float64 -> the same: rounded to 8 bits, the middle one of the sorted values around every pixel."""
    return (
        x
        if p.side == 1
        else apply_ref(np.clip(np.rint(x * 255), 0, 255).astype(np.uint8), int(p.side)) / 255.0
    )


def apply_ref(u8, side):
    """u8 [h, w, 3] uint8 -> the same."""
    r = side // 2
    padded, y = np.pad(u8, ((r, r), (r, r), (0, 0)), 'edge'), np.empty_like(u8)
    for i in range(len(u8)):
        windows = np.lib.stride_tricks.sliding_window_view(
            padded[i : i + side], side, 1
        )  # [side, w, 3, side]
        y[i] = np.sort(np.moveaxis(windows, 0, -1).reshape(*u8.shape[1:], -1), -1)[
            ..., side * side // 2
        ]
    return y


# ---- torch ----

STRIP = 16  # rows at a time: a window of 15 x 15 makes 225 values of each


def apply_torch(x, side):
    """x [B, 3, h, w] uint8 -> the same."""
    r, h = side // 2, x.shape[2]
    padded = F.pad(x.float(), (r, r, r, r), 'replicate').to(
        torch.uint8
    )  # bytes cannot be padded so
    strips = [
        padded[:, :, top : min(top + STRIP, h) + 2 * r]
        .unfold(2, side, 1)
        .unfold(3, side, 1)
        .flatten(-2)
        .median(-1)
        .values
        for top in range(0, h, STRIP)
    ]
    return torch.cat(strips, 2)


def run_torch(c, p, opencv=False):
    if (p.side == 1).all():
        return c
    if opencv and len(p.side) == 1:
        x = canvas.hwc(c.pix)
        return canvas.of(
            canvas.nchw(
                cv2.medianBlur(x if x.dtype == np.uint8 else levels_opencv(x), int(p.side[0]))
            )
        )

    def run(x, q):
        y = x.clone()
        for side in set(q.side.tolist()) - {1}:
            i = np.flatnonzero(q.side == side)
            y[i] = canvas.unit(
                apply_torch((x[i] * 255).round().clamp(0, 255).to(torch.uint8), side)
            )
        return y

    return canvas.each_size(c, p, run)


# ---- CUDA ----


def record(p, size):
    return cuda.record([('side', np.int32)], size, side=p.side)


def run_cuda(c, p, r):
    """c: Canvas on the GPU; r: `record` of p and c.size on the GPU. Bytes come out where every sample is filtered."""
    if (p.side == 1).all():
        return c
    every, (h, w) = (p.side > 1).all(), c.size.max(0)
    pix, is_bytes, *shape = cuda.canvas_of(c.pix)
    y = cuda.blank(pix, dtype=torch.uint8 if every else torch.float32)
    cuda.launch(
        'median.cu',
        'median',
        (cuda.tiles(w, 32), cuda.tiles(h, 8), len(pix)),
        (32, 8),
        pix,
        is_bytes,
        y,
        np.bool_(every),
        *shape,
        r,
    )
    return c._replace(pix=y)
