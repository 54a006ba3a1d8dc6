"""Rounding to 8 bits, as when a picture is written to a file."""

from typing import NamedTuple

import cv2
import numpy as np
import torch

from . import canvas
from . import kernels as cuda

NUDGE = 1e-4  # gray levels added before values are rounded that lie exactly half-way by the hundred, as averages of 8-bit values do: float32 and float64 would
# round them differently; the nudge is above float32's error and settles them upwards in every implementation


class Params(NamedTuple):
    on: np.ndarray  # [B] bool
    up: (
        np.ndarray
    )  # [B] bool: halves go up, as where OpenCV resizes 8-bit values; else to the even level


def sample(draw, on, sizes, *, up=False):
    return Params(on=on, up=np.full(len(on), up))


def run_ref(x, p):
    return np.clip(np.rint(x * 255 + NUDGE * p.up), 0, 255) / 255 if p.on else x


def run_torch(c, p, opencv=False):
    if c.pix.dtype == torch.uint8 or not p.on.any():
        return c
    if opencv and len(p.on) == 1:
        return canvas.of(canvas.nchw(levels_opencv(canvas.hwc(c.pix), NUDGE * bool(p.up[0]))))
    on, nudge = (
        torch.from_numpy(f).to(c.pix.device)[:, None, None, None]
        for f in (p.on, np.float32(NUDGE) * p.up)
    )
    rounded = to_8bit(c.pix, nudge)
    return c._replace(pix=rounded if p.on.all() else torch.where(on, rounded, c.pix))


def record(p, size):
    return cuda.record([('on', np.int32), ('up', np.int32)], size, **p._asdict())


def run_cuda(c, p, r):
    """c: Canvas on the GPU; r: `record` of p and c.size on the GPU."""
    if c.pix.dtype == torch.uint8 or not p.on.any():
        return c
    pix, _, *shape = cuda.canvas_of(c.pix)
    h, w = c.size.max(0)
    y = cuda.blank(pix)
    cuda.launch(
        'quantize.cu',
        'quantize',
        (cuda.tiles(w, 32), cuda.tiles(h, 8), len(pix)),
        (32, 8),
        pix,
        y,
        *shape,
        r,
        np.float32(NUDGE),
    )
    return c._replace(pix=y)


def to_8bit(x, nudge=0.0):
    """float in [0, 1] -> clamp(round(255 x + nudge), 0, 255) / 255, half to even."""
    return (x * 255).add_(nudge).round_().clamp_(0, 255).div_(255)


def levels_opencv(x, nudge=0.0):
    """[h, w, c] float32 -> 8-bit levels clamp(round(255 x + nudge), 0, 255) as uint8, in one pass (0 x is added because only sums of arrays saturate)."""
    return cv2.addWeighted(x, 255, x, 0, nudge, dtype=cv2.CV_8U).reshape(x.shape)
