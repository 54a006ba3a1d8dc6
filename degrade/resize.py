"""Resize by explicit parameters: a filter, an output size and the step between output pixels in source pixels.

Pixel i of the output lies at (i + 0.5) * step - 0.5 in the source. torch and OpenCV agree on bilinear and bicubic; their "area" are two different filters.
All filters are separable, so a resize is two small banded matrices.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from . import canvas
from . import kernels as cuda

MODES = 'area', 'bilinear', 'bicubic', 'area_cv', 'bicubic_aa', 'nearest'
AREA, BILINEAR, BICUBIC, AREA_CV, BICUBIC_AA, NEAREST = range(6)
# area:        torch's: plain mean over source pixels floor(i n/m) .. ceil((i+1) n/m) - 1, also when it enlarges
# bilinear, bicubic (a = -0.75): without antialiasing, neighbours clamped to the edge
# area_cv:     OpenCV's INTER_AREA: exact coverage if neither axis grows; else linear with its own coordinates
# bicubic_aa:  a = -0.5, the kernel widened by the step when shrinking: the classical benchmark's (Pillow, torch antialias=True)
# nearest:     source pixel floor(i step), as OpenCV and torch have it


class Params(NamedTuple):
    mode: np.ndarray  # [B] int64 index into MODES
    size: np.ndarray  # [B, 2] int64 output height and width in pixels
    step: np.ndarray  # [B, 2] float64 source pixels per output pixel, down and across


def sample(
    draw,
    on,
    sizes,
    *,
    to='now',
    factor=None,
    shrink=None,
    divide=None,
    updown=None,
    modes=(1, 1, 1),
    by='size',
):
    """to:     what the factor multiplies: 'now' (size here), 'gt' or 'lq' (final sizes)
    factor: range (low, high) of the scale; 1 if None;   shrink: range of 1 / scale instead;   divide: range of whole numbers that the size is divided by instead
    updown: weights of enlarging (scale in [1, high]), shrinking ([low, 1]) and keeping; None draws from the whole range
    modes:  weights of MODES in their order (the shorter list is fine)
    by:     'size' maps coordinates by the ratio of sizes; 'scale' by the scale itself, as F.interpolate(scale_factor=) does, whose far edge drifts"""
    base = getattr(sizes, to)
    scale = np.ones(len(base))
    if shrink:
        scale = 1 / draw.uniform('scale', *shrink)
    elif factor and updown:
        u, kind = draw.uniform('scale'), draw.choice('updown', updown)
        scale = np.where(
            kind == 0,
            1 + (factor[1] - 1) * u,
            np.where(kind == 1, factor[0] + (1 - factor[0]) * u, 1.0),
        )
    elif factor:
        scale = draw.uniform('scale', *factor)
    size = np.floor(base * scale[:, None]).astype(np.int64)
    if divide:
        whole = draw.integers('scale', *divide)
        scale, size = 1 / whole, base // whole[:, None]
    size = np.maximum(size, 1)
    mode = draw.choice('mode', modes)
    size = np.where(on[:, None], size, sizes.now)
    step = sizes.now / size
    if by == 'scale':
        step = np.where(
            size == sizes.now, 1.0, np.repeat(1 / scale[:, None], 2, 1)
        )  # of equal sizes torch makes a copy
    return Params(mode=mode, size=size, step=step)


def keeps(p, size):
    """[B] bool, or one of one sample: where nothing is done to an image of this height and width [B, 2]."""
    return ((p.size == size) & (p.step == 1)).all(-1)


# ---- reference: one image, float64 ----


def _cubic(t, a):
    """Keys' cubic convolution kernel."""
    t = abs(t)
    if t < 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0.0


def weights_ref(mode, n, m, step, grows=False):
    """[m, n] float64: row i holds the weights of the n source pixels in output pixel i. grows: whether either axis of the image is enlarged (area_cv asks)."""
    W = np.zeros((m, n))
    for i in range(m):
        x = (i + 0.5) * step - 0.5
        if mode == AREA:
            W[i, i * n // m : -(-(i + 1) * n // m)] = 1
        elif mode == BILINEAR:
            x = max(x, 0.0)
            j = min(math.floor(x), n - 1)
            W[i, j] += 1 - (x - j)
            W[i, min(j + 1, n - 1)] += x - j
        elif mode == BICUBIC:
            for j in range(math.floor(x) - 1, math.floor(x) + 3):
                W[i, min(max(j, 0), n - 1)] += _cubic(x - j, -0.75)
        elif mode == AREA_CV and not grows:
            for j in range(n):
                W[i, j] = max(0.0, min(j + 1, (i + 1) * step) - max(j, i * step))
        elif mode == AREA_CV:
            j = math.floor(i * step)
            f = (i + 1) - (j + 1) / step
            f = 0.0 if f <= 0 else f - math.floor(f)
            W[i, min(j, n - 1)] += 1 - f
            W[i, min(j + 1, n - 1)] += f
        elif mode == NEAREST:
            W[i, min(math.floor(i * step), n - 1)] = 1
        else:
            s = max(step, 1.0)
            for j in range(n):
                W[i, j] = _cubic((x - j) / s, -0.5)
    return W / W.sum(1, keepdims=True)


def run_ref(x, p):
    """x [h, w, 3] float64 -> [H, W, 3]."""
    (h, w, _), (H, W) = x.shape, p.size
    if keeps(p, (h, w)):
        return x
    grows = H > h or W > w
    rows, cols = (
        weights_ref(p.mode, h, H, p.step[0], grows),
        weights_ref(p.mode, w, W, p.step[1], grows),
    )
    return np.einsum('ih,jw,hwc->ijc', rows, cols, x, optimize=True)


# ---- torch ----


def taps(mode, n, m, step, grows=False):
    """Banded weights of one axis: (index [m, T] int64 source pixels, clamped to the image; weight [m, T] float64, rows sum to 1)."""
    i = np.arange(m)
    x = (i + 0.5) * step - 0.5
    if mode == AREA:
        lo, hi = i * n // m, -(-(i + 1) * n // m)
        j = lo[:, None] + np.arange((hi - lo).max())
        w = (j < hi[:, None]).astype(np.float64)
    elif mode == BILINEAR:
        x = np.maximum(x, 0)
        j = np.floor(x).astype(np.int64)[:, None] + np.arange(2)
        w = np.stack([1 - (x - j[:, 0]), x - j[:, 0]], 1)
    elif mode == BICUBIC:
        j = np.floor(x).astype(np.int64)[:, None] + np.arange(-1, 3)
        w = _cubics(x[:, None] - j, -0.75)
    elif mode == AREA_CV and not grows:
        j = np.floor(i * step).astype(np.int64)[:, None] + np.arange(math.ceil(step) + 1)
        w = np.clip(
            np.minimum(j + 1, (i[:, None] + 1) * step) - np.maximum(j, i[:, None] * step), 0, None
        ) * (j < n)
    elif mode == AREA_CV:
        j = np.floor(i * step).astype(np.int64)
        f = (i + 1) - (j + 1) / step
        f = np.where(f <= 0, 0.0, f - np.floor(f))
        j, w = j[:, None] + np.arange(2), np.stack([1 - f, f], 1)
    elif mode == NEAREST:
        j, w = np.floor(i * step).astype(np.int64)[:, None], np.ones((m, 1))
    else:
        s = max(step, 1.0)
        j = np.floor(x - 2 * s).astype(np.int64)[:, None] + np.arange(math.ceil(4 * s) + 2)
        w = _cubics((x[:, None] - j) / s, -0.5) * ((j >= 0) & (j < n))
    return np.clip(j, 0, n - 1), w / w.sum(1, keepdims=True)


def _cubics(t, a):
    t = np.abs(t)
    return np.where(
        t < 1,
        (a + 2) * t**3 - (a + 3) * t**2 + 1,
        np.where(t < 2, a * (t**3 - 5 * t**2 + 8 * t - 4), 0.0),
    )


@lru_cache(maxsize=256)
def matrix(mode, n, m, step, grows=False):
    """[m, n] float32 matrix of one axis, from `taps`."""
    j, w = taps(mode, n, m, step, grows)
    M = np.zeros((m, n))
    np.add.at(M, (np.arange(m)[:, None], j), w)
    return M.astype(np.float32)


def apply_torch(x, rows, cols):
    """x [B, 3, h, w], rows [H, h], cols [W, w] -> [B, 3, H, W]; the axis that shrinks more goes first."""
    if rows.shape[0] * rows.shape[1] <= cols.shape[0] * cols.shape[1]:
        return (rows @ x) @ cols.T
    return rows @ (x @ cols.T)


def run_torch(c, p, opencv=False):
    if keeps(p, c.size).all():
        return c
    if opencv and len(p.mode) == 1:
        q = Params(*(f[0] for f in p))
        return canvas.of(
            canvas.nchw(
                apply_opencv(
                    canvas.unit_array(canvas.hwc(c.pix)),
                    int(q.mode),
                    tuple(q.size.tolist()),
                    tuple(q.step.tolist()),
                )
            )
        )

    def run(x, q):
        h, w = x.shape[-2:]
        H, W = (int(v) for v in q.size[0])
        if keeps(q, (h, w)).all():
            return x
        y = x.new_empty(len(x), 3, H, W)
        for key in set(zip(q.mode.tolist(), *q.step.T.tolist())):
            i = np.flatnonzero((q.mode == key[0]) & (q.step == key[1:]).all(1))
            grows = H > h or W > w
            rows, cols = (
                torch.from_numpy(matrix(key[0], n, m, s, grows)).to(x.device)
                for n, m, s in ((h, H, key[1]), (w, W, key[2]))
            )
            y[i] = apply_torch(x[i], rows, cols)
        return y

    return canvas.each_size(c, p, run, p.size)


# ---- CUDA ----


def record(p, size):
    fields = [(n, np.float64) for n in ('step_y', 'step_x')] + [
        (n, np.int32) for n in ('mode', 'taps_y', 'taps_x', 'H', 'W')
    ]
    (step_y, step_x), (taps_y, taps_x), (H, W) = p.step.T, _most_taps(p, size).T, p.size.T
    return cuda.record(
        fields,
        size,
        step_y=step_y,
        step_x=step_x,
        mode=p.mode,
        taps_y=taps_y,
        taps_x=taps_x,
        H=H,
        W=W,
    )


def _most_taps(p, size):
    """[B, 2] int64: at least as many taps as `taps` finds on each axis."""
    mode, ratio = p.mode[:, None], size / p.size
    grows = (p.size > size).any(1, keepdims=True)
    return np.select(
        [
            mode == AREA,
            mode == BILINEAR,
            mode == BICUBIC,
            (mode == AREA_CV) & grows,
            mode == AREA_CV,
            mode == NEAREST,
        ],
        [np.ceil(ratio) + 1, 2, 4, 2, np.ceil(p.step) + 1, 1],
        np.ceil(4 * np.maximum(p.step, 1)) + 2,
    ).astype(np.int64)


def run_cuda(c, p, r):
    """c: Canvas on the GPU; r: `record` of p and c.size on the GPU."""
    if keeps(p, c.size).all():
        return c
    b, (H, W) = len(p.mode), p.size.max(0)
    length, most = np.int32(max(H, W)), np.int32(_most_taps(p, c.size).max())
    first = c.pix.new_empty(b, 2, length, dtype=torch.int32)
    bands = c.pix.new_empty(b, 2, most, length, dtype=torch.float32)
    cuda.launch(
        'resize.cu',
        'weights',
        (cuda.tiles(length, 128), 2, b),
        (128,),
        r,
        first,
        bands,
        length,
        most,
    )
    y = cuda.blank(c.pix, (H, W))
    cuda.launch(
        'resize.cu',
        'resize',
        (cuda.tiles(W, 32), cuda.tiles(H, 8), b),
        (32, 8),
        *_in_out(c.pix, y),
        r,
        first,
        bands,
        length,
        most,
    )
    return canvas.Canvas(y, p.size)


def _in_out(x, y):
    pix, is_bytes, *shape = cuda.canvas_of(x)
    return pix, is_bytes, y, *shape, np.int32(y.shape[2]), np.int32(y.shape[3])


# ---- OpenCV: one image on the CPU ----


def apply_opencv(x, mode, size, step):
    """x [h, w, 3] float32, size (H, W), step (down, across) -> [H, W, 3] float32."""
    (h, w, _), (H, W) = x.shape, size
    if (H, W) == (h, w) and step == (1.0, 1.0) and mode != AREA_CV:
        return x
    if mode == AREA_CV:
        return cv2.resize(x, (W, H), interpolation=cv2.INTER_AREA)
    if mode == NEAREST:
        rows, cols = (taps(mode, n, m, s)[0][:, 0] for n, m, s in zip((h, w), size, step))
        return x[rows][:, cols]
    by_size = all(abs(s * m - n) < 1e-9 * n for s, m, n in zip(step, size, (h, w)))
    if mode in (BILINEAR, BICUBIC):
        how = cv2.INTER_LINEAR if mode == BILINEAR else cv2.INTER_CUBIC
        if by_size:
            return cv2.resize(x, (W, H), interpolation=how)
        y = cv2.resize(x, None, fx=1 / step[1], fy=1 / step[0], interpolation=how)
        # OpenCV rounds the size where torch floors it: the first pixels are the same. But of equal sizes it makes a copy, whatever the step.
        if y.shape[:2] != (h, w) and y.shape[0] >= H and y.shape[1] >= W:
            return np.ascontiguousarray(y[:H, :W])
    grows = H > h or W > w
    return _banded(x, taps(mode, h, H, step[0], grows), taps(mode, w, W, step[1], grows))


def _banded(x, rows, cols):
    """Both axes in turn as sparse matrix times dense rows, which is what embedding_bag computes, ten times faster than adaptive_avg_pool2d."""
    for index, weight in (rows, cols):
        n, m, T = x.shape[0], *index.shape
        bags = torch.arange(0, m * T, T)
        y = F.embedding_bag(
            torch.from_numpy(index.ravel()),
            torch.from_numpy(x.reshape(n, -1)),
            bags,
            mode='sum',
            per_sample_weights=torch.from_numpy(weight.ravel().astype(np.float32)),
        )
        x = cv2.transpose(y.numpy().reshape(m, -1, 3))
    return x
