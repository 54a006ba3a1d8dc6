"""USM sharpening of the ground truth before it is degraded (Real-ESRGAN, sec. 3.4, USMSharp).

With G a Gaussian of 51 taps (sigma 8.0 by OpenCV's rule) and r = x - G*x: where |r| > 10/255,
softened by G, x gives way to clip(x + r/2, 0, 1).
"""

from collections.abc import Mapping
from functools import cache, lru_cache
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from . import canvas, fourier
from . import kernels as cuda
from .canvas import Canvas
from .draw import Draw
from .op import Sizes
from .ranges import Values

TAPS, WEIGHT, THRESHOLD = 51, 0.5, 10.0  # the threshold in grey levels
_SIGMA = 0.3 * ((TAPS - 1) * 0.5 - 1) + 0.8
_ROW = np.exp(-((np.arange(TAPS) - TAPS // 2) ** 2) / (2 * _SIGMA**2))
_ROW = _ROW / _ROW.sum()
_ROW32 = _ROW.astype(np.float32)


RANGES: Mapping[str, Values] = {}  # of recipe files; nothing is drawn


class Params(NamedTuple):
    """Where to sharpen."""

    on: np.ndarray  # [B] bool


def sample(draw: Draw, on: np.ndarray, sizes: Sizes) -> Params:
    """Parameters of B samples; nothing is random."""
    return Params(on=on)


def told(p: Params, size: np.ndarray) -> list[str]:
    """What is done to one sample in words, [] where nothing is."""
    return ['sharpened'] if p.on else []


# ---- reference: one image, float64 ----


def _gauss_ref(x: np.ndarray) -> np.ndarray:
    """Gaussian blur of [h, w, 3] float64: down, then across, as the kernel is an outer product."""
    h, w, _ = x.shape
    r = TAPS // 2
    xp = np.pad(x, ((r, r), (r, r), (0, 0)), 'reflect')
    rows = sum(_ROW[u] * xp[u : u + h] for u in range(TAPS))
    return sum(_ROW[v] * rows[:, v : v + w] for v in range(TAPS))


def run_ref(x: np.ndarray, p: Params) -> np.ndarray:
    """Sharpen an image [h, w, 3] float64 in [0, 1]."""
    if not p.on:
        return x
    residual = x - _gauss_ref(x)
    mask = (np.abs(residual) * 255 > THRESHOLD).astype(np.float64)
    soft = _gauss_ref(mask)
    sharp = np.clip(x + WEIGHT * residual, 0, 1)
    return soft * sharp + (1 - soft) * x


# ---- torch ----


def _gauss_torch(x: torch.Tensor) -> torch.Tensor:
    row = torch.from_numpy(_ROW32).to(x.device)
    r, c = TAPS // 2, x.shape[1]
    xp = canvas.reflected(x, r)
    rows = F.conv2d(xp, row.view(1, 1, TAPS, 1).expand(c, 1, TAPS, 1), groups=c)
    return F.conv2d(rows, row.view(1, 1, 1, TAPS).expand(c, 1, 1, TAPS), groups=c)


def apply_torch(x: torch.Tensor) -> torch.Tensor:
    """Sharpen [B, 3, h, w] float32 in [0, 1]."""
    residual = x - _gauss_torch(x)
    soft = _gauss_torch((residual.abs() * 255 > THRESHOLD).to(x.dtype))
    sharp = (x + WEIGHT * residual).clamp(0, 1)
    return x + soft * (sharp - x)


def run_torch(c: Canvas, p: Params, opencv: bool = False) -> Canvas:
    """Sharpen a batch."""
    if not p.on.any():
        return c
    if opencv and len(p.on) == 1:
        return canvas.of(canvas.nchw(apply_opencv(canvas.hwc(c.pix))))
    return canvas.each_size(c, p, _run)


def _run(x: torch.Tensor, p: Params) -> torch.Tensor:
    on = torch.from_numpy(p.on).to(x.device)[:, None, None, None]
    return torch.where(on, apply_torch(x), x)


# ---- OpenCV: one image on the CPU ----


def apply_opencv(x: np.ndarray) -> np.ndarray:
    """Sharpen [h, w, 3] uint8, or float32 in [0, 1]; returns float32.

    The Gaussian is applied by FFT, plane by plane: at 51 taps that beats the separable filter, and
    a plane stays in the CPU's cache.
    """
    gauss = _spectrum(*x.shape[:2])
    return cv2.merge([_sharpen_plane(canvas.unit_array(plane), gauss) for plane in cv2.split(x)])


def _sharpen_plane(x: np.ndarray, gauss: np.ndarray) -> np.ndarray:
    """Sharpen [h, w] float32; OpenCV writes into the arrays it is given last, to save memory."""
    residual = cv2.subtract(x, fourier.correlate(x, gauss, TAPS, TAPS))
    size = cv2.max(residual, -residual)
    mask = cv2.threshold(size, THRESHOLD / 255, 1, cv2.THRESH_BINARY)[1]

    # x + soft * (clip(x + residual / 2) - x), in place.
    change = cv2.scaleAdd(residual, WEIGHT, x, residual)
    np.clip(change, 0, 1, out=change)
    cv2.subtract(change, x, change)
    cv2.multiply(change, fourier.correlate(mask, gauss, TAPS, TAPS), change)
    return cv2.add(change, x, change)


@lru_cache(maxsize=8)
def _spectrum(h: int, w: int) -> np.ndarray:
    """The Gaussian as `fourier.correlate` takes it, for images [h, w]."""
    kernel = np.outer(_ROW, _ROW).astype(np.float32)
    return fourier.spectrum(kernel, fourier.fast_size(h, w, TAPS, TAPS))


# ---- CUDA ----


def record(p: Params, size: np.ndarray) -> np.ndarray:
    """Structs for usm.cu."""
    return cuda.record([('on', np.int32)], size, on=p.on)


def run_cuda(c: Canvas, p: Params, r: torch.Tensor) -> Canvas:
    """Sharpen a batch on the GPU. r: `record` of p and c.size, on the GPU."""
    if not p.on.any():
        return c
    h, w = c.size.max(0)
    pix, is_bytes, *shape = cuda.canvas_of(c.pix)
    y = cuda.blank(pix)

    # What lies between the passes: planes of whole tiles, the same for picture and mask.
    planes = len(pix), 3, 16 * cuda.tiles(h, 16), 128 * cuda.tiles(w, 128)
    rows, blurred = (torch.empty(planes, device=pix.device) for _ in range(2))
    mask = torch.empty(planes, dtype=torch.uint8, device=pix.device)
    common = (*shape, np.int32(planes[2]), np.int32(planes[3]), r, _row_on(pix.device))
    across = (cuda.tiles(w, 128), cuda.tiles(h, 16), 3 * len(pix)), (128,)
    down = (cuda.tiles(w, 64), cuda.tiles(h, 128), 3 * len(pix)), (64, 8)

    # The picture, blurred across and down, and the mask of its residuals.
    cuda.launch('usm.cu', 'across', *across, pix, is_bytes, None, rows, *common)
    cuda.launch('usm.cu', 'down', *down, rows, pix, is_bytes, blurred, mask, None, *common)

    # The mask, softened in the same way; the second pass also sharpens.
    cuda.launch('usm.cu', 'across', *across, pix, is_bytes, mask, rows, *common)
    cuda.launch('usm.cu', 'down', *down, rows, pix, is_bytes, blurred, mask, y, *common)
    return c._replace(pix=y)


@cache
def _row_on(device: torch.device) -> torch.Tensor:
    return torch.from_numpy(_ROW32).to(device)
