"""Rounding to 8 bits, as when a picture is written to a file."""

from collections.abc import Mapping
from typing import NamedTuple

import cv2
import numpy as np
import torch

from . import canvas
from . import kernels as cuda
from .canvas import Canvas
from .draw import Draw
from .op import Sizes
from .ranges import Flag, Values

# Grey levels added before rounding values of which many lie exactly half-way, as averages of 8-bit
# values do: float32 and float64 would round them differently. The nudge exceeds float32's error,
# so that every implementation rounds them up.
NUDGE = 1e-4


RANGES: Mapping[str, Values] = {'up': Flag()}  # of recipe files; see `sample`


class Params(NamedTuple):
    """Where to round, and how halves are rounded."""

    on: np.ndarray  # [B] bool
    up: np.ndarray  # [B] bool: halves up, as where OpenCV resizes 8-bit values; else to even


def sample(draw: Draw, on: np.ndarray, sizes: Sizes, *, up: bool = False) -> Params:
    """Parameters of B samples; nothing is random. `up` rounds halves up in all of them."""
    return Params(on=on, up=np.full(len(on), up))


def told(p: Params, size: np.ndarray) -> list[str]:
    """What is done to one sample in words, [] where nothing is."""
    return ['8 bits'] if p.on else []


def run_ref(x: np.ndarray, p: Params) -> np.ndarray:
    """Round an image [h, w, 3] float64 to multiples of 1/255 in [0, 1]."""
    return np.clip(np.rint(x * 255 + NUDGE * p.up), 0, 255) / 255 if p.on else x


def run_torch(c: Canvas, p: Params, opencv: bool = False) -> Canvas:
    """Round a batch; 8-bit pixels are returned as they are."""
    if c.pix.dtype == torch.uint8 or not p.on.any():
        return c
    if opencv and len(p.on) == 1:
        levels = levels_opencv(canvas.hwc(c.pix), NUDGE * bool(p.up[0]))
        return canvas.of(canvas.nchw(levels))
    nudge = _column(np.float32(NUDGE) * p.up, c.pix)
    rounded = to_8bit(c.pix, nudge)
    if not p.on.all():
        rounded = torch.where(_column(p.on, c.pix), rounded, c.pix)
    return c._replace(pix=rounded)


def _column(values: np.ndarray, pix: torch.Tensor) -> torch.Tensor:
    """One value per sample as a tensor [B, 1, 1, 1] where the pixels are."""
    return torch.from_numpy(values).to(pix.device)[:, None, None, None]


def record(p: Params, size: np.ndarray) -> np.ndarray:
    """Structs for quantize.cu."""
    return cuda.record([('on', np.int32), ('up', np.int32)], size, **p._asdict())


def run_cuda(c: Canvas, p: Params, r: torch.Tensor) -> Canvas:
    """Round a batch on the GPU. r: `record` of p and c.size, on the GPU."""
    if c.pix.dtype == torch.uint8 or not p.on.any():
        return c
    pix, _, *shape = cuda.canvas_of(c.pix)
    h, w = c.size.max(0)
    y = cuda.blank(pix)
    grid = (cuda.tiles(w, 32), cuda.tiles(h, 8), len(pix))
    cuda.launch('quantize.cu', 'quantize', grid, (32, 8), pix, y, *shape, r, np.float32(NUDGE))
    return c._replace(pix=y)


def to_8bit(x: torch.Tensor, nudge: torch.Tensor | float = 0.0) -> torch.Tensor:
    """Return clamp(round(255 x + nudge), 0, 255) / 255 of floats, halves to even."""
    return (x * 255).add_(nudge).round_().clamp_(0, 255).div_(255)


def levels_opencv(x: np.ndarray, nudge: float = 0.0) -> np.ndarray:
    """Return clamp(round(255 x + nudge), 0, 255) of [h, w, c] float32 as uint8, in one pass.

    0 x is added because only sums of arrays saturate in OpenCV.
    """
    return cv2.addWeighted(x, 255, x, 0, nudge, dtype=cv2.CV_8U).reshape(x.shape)
