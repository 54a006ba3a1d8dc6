"""Rounding to 8 bits, as when a picture is written to a file."""
from typing import NamedTuple

import cv2
import numpy as np
import torch


class Params(NamedTuple):
    on: np.ndarray     # [B] bool


def sample(draw, on, sizes):
    return Params(on=on)


def run_ref(x, p):
    return np.clip(np.rint(x * 255), 0, 255) / 255 if p.on else x


def run_torch(c, p, opencv=False):
    if c.pix.dtype == torch.uint8 or not p.on.any():
        return c
    on = torch.from_numpy(p.on).to(c.pix.device)[:, None, None, None]
    return c._replace(pix=to_8bit(c.pix) if p.on.all() else torch.where(on, to_8bit(c.pix), c.pix))


def to_8bit(x):
    """float in [0, 1] -> clamp(round(255 x), 0, 255) / 255, half to even."""
    return (x * 255).round_().clamp_(0, 255).div_(255)


def levels_opencv(x):
    """[h, w, c] float32 -> 8-bit levels clamp(round(255 x), 0, 255) as uint8; the maximum is NumPy's because cv2.max takes a 1x1 image for a scalar."""
    return cv2.convertScaleAbs(np.maximum(x, np.float32(0)), alpha=255).reshape(x.shape)
