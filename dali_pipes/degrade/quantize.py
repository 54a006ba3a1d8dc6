"""Rounding to 8 bits, as when a picture is written to a file."""
from typing import NamedTuple

import cv2
import numpy as np
import torch

from . import canvas, kernels as cuda


class Params(NamedTuple):
    on: np.ndarray     # [B] bool


def sample(draw, on, sizes):
    return Params(on=on)


def run_ref(x, p):
    return np.clip(np.rint(x * 255), 0, 255) / 255 if p.on else x


def run_torch(c, p, opencv=False):
    if c.pix.dtype == torch.uint8 or not p.on.any():
        return c
    if opencv and len(p.on) == 1:
        return canvas.of(canvas.nchw(levels_opencv(canvas.hwc(c.pix))))
    on = torch.from_numpy(p.on).to(c.pix.device)[:, None, None, None]
    return c._replace(pix=to_8bit(c.pix) if p.on.all() else torch.where(on, to_8bit(c.pix), c.pix))


def record(p, size):
    return cuda.record([('on', np.int32)], size, on=p.on)


def run_cuda(c, p, r):
    """c: Canvas on the GPU; r: `record` of p and c.size on the GPU."""
    if c.pix.dtype == torch.uint8 or not p.on.any():
        return c
    pix, _, *shape = cuda.canvas_of(c.pix)
    h, w = c.size.max(0)
    y = cuda.blank(pix)
    cuda.launch('quantize.cu', 'quantize', (cuda.tiles(w, 32), cuda.tiles(h, 8), len(pix)), (32, 8), pix, y, *shape, r)
    return c._replace(pix=y)


def to_8bit(x):
    """float in [0, 1] -> clamp(round(255 x), 0, 255) / 255, half to even."""
    return (x * 255).round_().clamp_(0, 255).div_(255)


def levels_opencv(x, nudge=0.0):
    """[h, w, c] float32 -> 8-bit levels clamp(round(255 x + nudge), 0, 255) as uint8, in one pass (0 x is added because only sums of arrays saturate)."""
    return cv2.addWeighted(x, 255, x, 0, nudge, dtype=cv2.CV_8U).reshape(x.shape)
