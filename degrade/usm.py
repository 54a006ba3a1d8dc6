"""USM sharpening of the ground truth before it is degraded (Real-ESRGAN, sec. 3.4 and its USMSharp).

With G a Gaussian of 51 taps (sigma 8.0 by OpenCV's rule) and r = x - G*x: where |r| > 10/255, softened by G, x gives way to clip(x + r/2, 0, 1).
"""

from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from . import blur, canvas
from . import kernels as cuda

TAPS, WEIGHT, THRESHOLD = 51, 0.5, 10.0
_SIGMA = 0.3 * ((TAPS - 1) * 0.5 - 1) + 0.8
_ROW = np.exp(-((np.arange(TAPS) - TAPS // 2) ** 2) / (2 * _SIGMA**2))
_ROW = _ROW / _ROW.sum()
_ROW32 = _ROW.astype(np.float32)


class Params(NamedTuple):
    on: np.ndarray  # [B] bool


def sample(draw, on, sizes):
    return Params(on=on)


def _gauss_ref(x):
    """x [h, w, 3] float64 -> its Gaussian blur: along columns, then along rows (the 51x51 kernel is their outer product)."""
    h, w, _ = x.shape
    r = TAPS // 2
    xp = np.pad(x, ((r, r), (r, r), (0, 0)), 'reflect')
    rows = sum(_ROW[u] * xp[u : u + h] for u in range(TAPS))
    return sum(_ROW[v] * rows[:, v : v + w] for v in range(TAPS))


def run_ref(x, p):
    if not p.on:
        return x
    residual = x - _gauss_ref(x)
    mask = (np.abs(residual) * 255 > THRESHOLD).astype(np.float64)
    soft = _gauss_ref(mask)
    sharp = np.clip(x + WEIGHT * residual, 0, 1)
    return soft * sharp + (1 - soft) * x


def _gauss_torch(x):
    row = torch.from_numpy(_ROW32).to(x.device)
    r, c = TAPS // 2, x.shape[1]
    xp = F.pad(x, (r, r, r, r), 'reflect')
    rows = F.conv2d(xp, row.view(1, 1, TAPS, 1).expand(c, 1, TAPS, 1), groups=c)
    return F.conv2d(rows, row.view(1, 1, 1, TAPS).expand(c, 1, 1, TAPS), groups=c)


def apply_torch(x):
    """x [B, 3, h, w] float32 in [0, 1] -> the same, sharpened."""
    residual = x - _gauss_torch(x)
    soft = _gauss_torch((residual.abs() * 255 > THRESHOLD).to(x.dtype))
    sharp = (x + WEIGHT * residual).clamp(0, 1)
    return x + soft * (sharp - x)


def apply_opencv(x):
    """x [h, w, 3] uint8, or float32 in [0, 1] -> float32, sharpened. By FFT: at 51 taps it beats the separable filter, and a plane stays in the cache."""
    gauss = _spectrum(*x.shape[:2])
    return cv2.merge([_sharpen_plane(canvas.unit_array(plane), gauss) for plane in cv2.split(x)])


def _sharpen_plane(x, gauss):
    residual = cv2.subtract(x, blur.correlate(x, gauss, TAPS, TAPS))
    mask = cv2.threshold(cv2.max(residual, -residual), THRESHOLD / 255, 1, cv2.THRESH_BINARY)[1]
    change = cv2.scaleAdd(residual, WEIGHT, x, residual)
    np.clip(change, 0, 1, out=change)
    cv2.subtract(change, x, change)
    cv2.multiply(change, blur.correlate(mask, gauss, TAPS, TAPS), change)
    return cv2.add(change, x, change)


@lru_cache(maxsize=8)
def _spectrum(h, w):
    return blur.spectrum(np.outer(_ROW, _ROW).astype(np.float32), blur.fast_size(h, w, TAPS, TAPS))


def run_torch(c, p, opencv=False):
    if not p.on.any():
        return c
    if opencv and len(p.on) == 1:
        return canvas.of(canvas.nchw(apply_opencv(canvas.hwc(c.pix))))

    def run(x, q):
        on = torch.from_numpy(q.on).to(x.device)[:, None, None, None]
        return torch.where(on, apply_torch(x), x)

    return canvas.each_size(c, p, run)


# ---- CUDA ----


def record(p, size):
    return cuda.record([('on', np.int32)], size, on=p.on)


def run_cuda(c, p, r):
    """c: Canvas on the GPU; r: `record` of p and c.size on the GPU."""
    if not p.on.any():
        return c
    h, w = c.size.max(0)
    pix, is_bytes, *shape = cuda.canvas_of(c.pix)
    row = _row_on(pix.device)
    across = (cuda.tiles(w, 64), cuda.tiles(h, 16), 3 * len(pix)), (128,)
    down = (cuda.tiles(w, 32), cuda.tiles(h, 64), 3 * len(pix)), (32, 8)
    rows, blurred, y = (cuda.blank(pix) for _ in range(3))
    cuda.launch('usm.cu', 'across', *across, pix, is_bytes, None, rows, *shape, r, row)
    cuda.launch('usm.cu', 'down', *down, rows, None, is_bytes, None, blurred, *shape, r, row)
    cuda.launch(
        'usm.cu', 'across', *across, pix, is_bytes, blurred, rows, *shape, r, row
    )  # of the mask
    cuda.launch('usm.cu', 'down', *down, rows, pix, is_bytes, blurred, y, *shape, r, row)
    return c._replace(pix=y)


@lru_cache(maxsize=None)
def _row_on(device):
    return torch.from_numpy(_ROW32).to(device)
