"""Resize by explicit parameters: a filter, an output size and a step between output pixels.

The step is in source pixels: pixel i of the output lies at (i + 0.5) * step - 0.5 in the source.
torch and OpenCV agree on bilinear and bicubic; their "area" are two different filters. All filters
are separable, so a resize is two small banded matrices.
"""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from . import canvas
from . import kernels as cuda
from .canvas import Canvas
from .draw import Draw
from .op import Sizes, number
from .ranges import Interval, Values, Weights, Word

# area:        torch's: plain mean over source pixels floor(i n/m) .. ceil((i+1) n/m) - 1, also when
#              it enlarges
# bilinear, bicubic (a = -0.75): without antialiasing, neighbours clamped to the edge
# area_cv:     OpenCV's INTER_AREA: exact coverage if neither axis grows; else linear with its own
#              coordinates
# bicubic_aa:  a = -0.5, the kernel widened by the step when shrinking: the classical benchmark's
#              (Pillow, torch antialias=True)
# nearest:     source pixel floor(i step), as in OpenCV and torch
# lanczos:     sinc(t) sinc(t / 3) for |t| < 3, widened like bicubic_aa: Pillow's LANCZOS
MODES = 'area', 'bilinear', 'bicubic', 'area_cv', 'bicubic_aa', 'nearest', 'lanczos'
AREA, BILINEAR, BICUBIC, AREA_CV, BICUBIC_AA, NEAREST, LANCZOS = range(7)

Range = tuple[float, float]

# Banded weights of one axis: index [m, T] int64 source pixels, clamped to the image, and weight
# [m, T] float64, whose rows sum to 1.
Band = tuple[np.ndarray, np.ndarray]


# Of recipe files; see `sample`.
RANGES: Mapping[str, Values] = {
    'to': Word(('now', 'gt', 'lq')),
    'factor': Interval(1 / 64, 4),
    'shrink': Interval(1 / 4, 64),
    'divide': Interval(1, 64, whole=True),
    'updown': Weights(('up', 'down', 'keep')),
    'modes': Weights(MODES),
    'by': Word(('size', 'scale')),
}


class Params(NamedTuple):
    """Filter and geometry of each sample."""

    mode: np.ndarray  # [B] int64 index into MODES
    size: np.ndarray  # [B, 2] int64 output height and width in pixels
    step: np.ndarray  # [B, 2] float64 source pixels per output pixel, down and across


def sample(
    draw: Draw,
    on: np.ndarray,
    sizes: Sizes,
    *,
    to: str = 'now',
    factor: Range | None = None,
    shrink: Range | None = None,
    divide: tuple[int, int] | None = None,
    updown: tuple[float, float, float] | None = None,
    modes: tuple[float, ...] = (1, 1, 1),
    by: str = 'size',
) -> Params:
    """Draw filters and sizes.

    to:     what the factor multiplies: 'now' (the present size), 'gt' or 'lq' (the final sizes)
    factor: range (low, high) of the scale; 1 if None
    shrink: range of 1 / scale instead
    divide: range of whole numbers by which the size is divided instead
    updown: weights of enlarging (scale in [1, high]), shrinking ([low, 1]) and keeping the size;
            None draws from the whole range
    modes:  weights of MODES in their order; a shorter list is fine
    by:     'size' maps coordinates by the ratio of sizes; 'scale' by the scale itself, as
            F.interpolate(scale_factor=) does, whose far edge drifts
    """
    base = getattr(sizes, to)
    if divide:
        whole = draw.integers('scale', *divide)
        scale = 1 / whole
        size = base // whole[:, None]
    else:
        scale = _draw_scale(draw, len(base), factor, shrink, updown)
        size = np.floor(base * scale[:, None]).astype(np.int64)
    size = np.where(on[:, None], np.maximum(size, 1), sizes.now)

    step = sizes.now / size
    if by == 'scale':
        # Of equal sizes torch makes a copy.
        inverse = np.repeat(1 / scale[:, None], 2, 1)
        step = np.where(size == sizes.now, 1.0, inverse)
    return Params(mode=draw.choice('mode', modes), size=size, step=step)


def _draw_scale(
    draw: Draw,
    b: int,
    factor: Range | None,
    shrink: Range | None,
    updown: tuple[float, float, float] | None,
) -> np.ndarray:
    """[B] float64 scales."""
    if shrink:
        return 1 / draw.uniform('scale', *shrink)
    if not factor:
        return np.ones(b)
    if not updown:
        return draw.uniform('scale', *factor)
    low, high = factor
    u, kind = draw.uniform('scale'), draw.choice('updown', updown)
    return np.select([kind == 0, kind == 1], [1 + (high - 1) * u, low + (1 - low) * u], 1.0)


def keeps(p: Params, size: np.ndarray | tuple[int, int]) -> np.ndarray:
    """[B] bool: where nothing is done to images of these heights and widths [B, 2].

    Of one sample's parameters and size [2], a single bool.
    """
    return ((p.size == size) & (p.step == 1)).all(-1)


def _grows(size: Sequence[int], target: Sequence[int]) -> bool:
    """Whether either axis of an image is enlarged."""
    return any(after > before for before, after in zip(size, target, strict=True))


def told(p: Params, size: np.ndarray) -> list[str]:
    """Filter and geometry of one sample's resize in words, [] where the size stays."""
    if keeps(p, size):
        return []
    return [MODES[int(p.mode)], f'size {number(p.size)}', f'step {number(p.step)}']


# ---- reference: one image, float64 ----


def _cubic(t: float, a: float) -> float:
    """Keys' cubic convolution kernel."""
    t = abs(t)
    if t < 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0.0


def _lanczos(t: float) -> float:
    """Lanczos' kernel of three lobes."""
    return np.sinc(t) * np.sinc(t / 3) if abs(t) < 3 else 0.0


def weights_ref(mode: int, n: int, m: int, step: float, grows: bool = False) -> np.ndarray:
    """[m, n] float64: row i holds the weights of the n source pixels in output pixel i.

    grows: whether either axis of the image is enlarged, on which area_cv depends
    """
    W = np.zeros((m, n))
    for i in range(m):
        if mode in (BILINEAR, BICUBIC, BICUBIC_AA, LANCZOS):
            _interpolate_ref(W[i], mode, (i + 0.5) * step - 0.5, step)
        elif mode == AREA_CV:
            _area_cv_ref(W[i], i, step, grows)
        elif mode == AREA:
            W[i, i * n // m : -(-(i + 1) * n // m)] = 1
        else:
            W[i, min(math.floor(i * step), n - 1)] = 1
    return W / W.sum(1, keepdims=True)


def _interpolate_ref(row: np.ndarray, mode: int, x: float, step: float) -> None:
    """Fill in the weights of a pixel at x of the source: linear, cubic or Lanczos."""
    n = len(row)
    if mode == BILINEAR:
        x = max(x, 0.0)
        j = min(math.floor(x), n - 1)
        row[j] += 1 - (x - j)
        row[min(j + 1, n - 1)] += x - j
    elif mode == BICUBIC:
        for j in range(math.floor(x) - 1, math.floor(x) + 3):
            row[min(max(j, 0), n - 1)] += _cubic(x - j, -0.75)
    else:
        s = max(step, 1.0)
        for j in range(n):
            t = (x - j) / s
            row[j] = _cubic(t, -0.5) if mode == BICUBIC_AA else _lanczos(t)


def _area_cv_ref(row: np.ndarray, i: int, step: float, grows: bool) -> None:
    """Fill in the weights of pixel i as OpenCV's INTER_AREA."""
    n = len(row)
    if not grows:
        for j in range(n):
            row[j] = max(0.0, min(j + 1, (i + 1) * step) - max(j, i * step))
        return
    j = math.floor(i * step)
    f = (i + 1) - (j + 1) / step
    f = 0.0 if f <= 0 else f - math.floor(f)
    row[min(j, n - 1)] += 1 - f
    row[min(j + 1, n - 1)] += f


def run_ref(x: np.ndarray, p: Params) -> np.ndarray:
    """Resize an image [h, w, 3] float64 to [H, W, 3]."""
    (h, w, _), (H, W) = x.shape, p.size
    if keeps(p, (h, w)):
        return x
    grows = _grows((h, w), (H, W))
    rows = weights_ref(int(p.mode), h, H, p.step[0], grows)
    cols = weights_ref(int(p.mode), w, W, p.step[1], grows)
    return np.einsum('ih,jw,hwc->ijc', rows, cols, x, optimize=True)


# ---- torch ----


def taps(mode: int, n: int, m: int, step: float, grows: bool = False) -> Band:
    """Banded weights of one axis, from n source pixels to m output pixels."""
    if mode in (BILINEAR, BICUBIC, BICUBIC_AA, LANCZOS):
        j, w = _interpolating(mode, n, m, step)
    elif mode == AREA_CV:
        j, w = _area_cv(n, m, step, grows)
    elif mode == AREA:
        i = np.arange(m)
        low, high = i * n // m, -(-(i + 1) * n // m)
        j = low[:, None] + np.arange((high - low).max())
        w = (j < high[:, None]).astype(np.float64)
    else:
        j, w = np.floor(np.arange(m) * step).astype(np.int64)[:, None], np.ones((m, 1))
    return np.clip(j, 0, n - 1), w / w.sum(1, keepdims=True)


def _interpolating(mode: int, n: int, m: int, step: float) -> Band:
    """Linear, cubic and Lanczos weights, neither clamped nor normalised."""
    x = (np.arange(m) + 0.5) * step - 0.5
    if mode == BILINEAR:
        x = np.maximum(x, 0)
        j = np.floor(x).astype(np.int64)[:, None] + np.arange(2)
        return j, np.stack([1 - (x - j[:, 0]), x - j[:, 0]], 1)
    if mode == BICUBIC:
        j = np.floor(x).astype(np.int64)[:, None] + np.arange(-1, 3)
        return j, _cubics(x[:, None] - j, -0.75)

    # Antialiased: the support grows with the step, and what lies outside has no weight.
    s, reach = max(step, 1.0), 2 if mode == BICUBIC_AA else 3
    j = np.floor(x - reach * s).astype(np.int64)[:, None] + np.arange(math.ceil(2 * reach * s) + 2)
    t = (x[:, None] - j) / s
    w = _cubics(t, -0.5) if mode == BICUBIC_AA else np.sinc(t) * np.sinc(t / 3) * (np.abs(t) < 3)
    return j, w * ((j >= 0) & (j < n))


def _area_cv(n: int, m: int, step: float, grows: bool) -> Band:
    """Weights of OpenCV's INTER_AREA, neither clamped nor normalised."""
    i = np.arange(m)
    first = np.floor(i * step).astype(np.int64)
    if grows:
        f = (i + 1) - (first + 1) / step
        f = np.where(f <= 0, 0.0, f - np.floor(f))
        return first[:, None] + np.arange(2), np.stack([1 - f, f], 1)
    j = first[:, None] + np.arange(math.ceil(step) + 1)
    left, right = i[:, None] * step, (i[:, None] + 1) * step
    covered = np.clip(np.minimum(j + 1, right) - np.maximum(j, left), 0, None)
    return j, covered * (j < n)


def _cubics(t: np.ndarray, a: float) -> np.ndarray:
    """`_cubic` of an array."""
    t = np.abs(t)
    inner = (a + 2) * t**3 - (a + 3) * t**2 + 1
    outer = np.where(t < 2, a * (t**3 - 5 * t**2 + 8 * t - 4), 0.0)
    return np.where(t < 1, inner, outer)


@lru_cache(maxsize=256)
def matrix(mode: int, n: int, m: int, step: float, grows: bool = False) -> np.ndarray:
    """[m, n] float32 matrix of one axis, from `taps`."""
    j, w = taps(mode, n, m, step, grows)
    M = np.zeros((m, n))
    np.add.at(M, (np.arange(m)[:, None], j), w)
    return M.astype(np.float32)


def apply_torch(x: torch.Tensor, rows: torch.Tensor, cols: torch.Tensor) -> torch.Tensor:
    """Resize [B, 3, h, w] by rows [H, h] and cols [W, w]; the axis that shrinks more goes first."""
    if rows.shape[0] * rows.shape[1] <= cols.shape[0] * cols.shape[1]:
        return (rows @ x) @ cols.T
    return rows @ (x @ cols.T)


def run_torch(c: Canvas, p: Params, opencv: bool = False) -> Canvas:
    """Resize a batch."""
    if keeps(p, c.size).all():
        return c
    if opencv and len(p.mode) == 1:
        x = canvas.unit_array(canvas.hwc(c.pix))
        height, width = p.size[0].tolist()
        down, across = p.step[0].tolist()
        y = apply_opencv(x, int(p.mode[0]), (height, width), (down, across))
        return canvas.of(canvas.nchw(y))
    return canvas.each_size(c, p, _run, p.size)


def _run(x: torch.Tensor, p: Params) -> torch.Tensor:
    """Samples of one size, input and output: each mode and step is one pair of products."""
    h, w = x.shape[-2:]
    H, W = (int(v) for v in p.size[0])
    if keeps(p, (h, w)).all():
        return x
    grows = _grows((h, w), (H, W))
    y = x.new_empty(len(x), 3, H, W)
    for mode, down, across in set(zip(p.mode.tolist(), *p.step.T.tolist(), strict=True)):
        i = np.flatnonzero((p.mode == mode) & (p.step == (down, across)).all(1))
        rows = torch.from_numpy(matrix(mode, h, H, down, grows)).to(x.device)
        cols = torch.from_numpy(matrix(mode, w, W, across, grows)).to(x.device)
        y[i] = apply_torch(x[i], rows, cols)
    return y


# ---- CUDA ----


def record(p: Params, size: np.ndarray) -> np.ndarray:
    """Structs for resize.cu."""
    reals = [(name, np.float64) for name in ('step_y', 'step_x')]
    integers = [(name, np.int32) for name in ('mode', 'taps_y', 'taps_x', 'H', 'W')]
    most = _most_taps(p, size)
    values = {
        'step_y': p.step[:, 0],
        'step_x': p.step[:, 1],
        'mode': p.mode,
        'taps_y': most[:, 0],
        'taps_x': most[:, 1],
        'H': p.size[:, 0],
        'W': p.size[:, 1],
    }
    return cuda.record([*reals, *integers], size, **values)


def _most_taps(p: Params, size: np.ndarray) -> np.ndarray:
    """[B, 2] int64: at least as many taps as `taps` has on each axis."""
    grows = (p.size > size).any(1, keepdims=True)
    whole = np.ceil(p.step)
    of_mode: Any = (
        np.ceil(size / p.size) + 1,  # area
        2.0,  # bilinear
        4.0,  # bicubic
        np.where(grows, 2.0, whole + 1),  # area_cv
        np.ceil(4 * np.maximum(p.step, 1)) + 2,  # bicubic_aa
        1.0,  # nearest
        np.ceil(6 * np.maximum(p.step, 1)) + 2,  # lanczos
    )
    return np.choose(p.mode[:, None], of_mode).astype(np.int64)


def run_cuda(c: Canvas, p: Params, r: torch.Tensor) -> Canvas:
    """Resize a batch on the GPU. r: `record` of p and c.size, on the GPU."""
    if keeps(p, c.size).all():
        return c
    b, (H, W) = len(p.mode), p.size.max(0)

    # First, every output row and column's weights: the first source pixel and a band of weights.
    length, most = np.int32(max(H, W)), np.int32(_most_taps(p, c.size).max())
    first = c.pix.new_empty(b, 2, length, dtype=torch.int32)
    bands = c.pix.new_empty(b, 2, most, length, dtype=torch.float32)
    weights = (r, first, bands, length, most)
    cuda.launch('resize.cu', 'weights', (cuda.tiles(length, 128), 2, b), (128,), *weights)

    y = cuda.blank(c.pix, (H, W))
    pix, is_bytes, *shape = cuda.canvas_of(c.pix)
    arguments = (pix, is_bytes, y, *shape, *cuda.canvas_of(y)[2:], *weights)
    grid = (cuda.tiles(W, 32), cuda.tiles(H, 32), b)
    cuda.launch('resize.cu', 'resize', grid, (32, 8), *arguments)
    return Canvas(y, p.size)


# ---- OpenCV: one image on the CPU ----


def apply_opencv(
    x: np.ndarray, mode: int, size: tuple[int, int], step: tuple[float, float]
) -> np.ndarray:
    """Resize [h, w, 3] float32 to size (H, W) with step (down, across)."""
    (h, w, _), (H, W) = x.shape, size
    if mode == AREA_CV:
        return cv2.resize(x, (W, H), interpolation=cv2.INTER_AREA)
    if size == (h, w) and step == (1.0, 1.0):
        return x
    if mode == NEAREST:
        rows, cols = (taps(mode, h, H, step[0])[0][:, 0], taps(mode, w, W, step[1])[0][:, 0])
        return x[rows][:, cols]
    if mode in (BILINEAR, BICUBIC):
        y = _library_resize(x, mode, size, step)
        if y is not None:
            return y
    grows = _grows((h, w), size)
    return _banded(x, taps(mode, h, H, step[0], grows), taps(mode, w, W, step[1], grows))


def _library_resize(
    x: np.ndarray, mode: int, size: tuple[int, int], step: tuple[float, float]
) -> np.ndarray | None:
    """OpenCV's linear or cubic resize, or None where it cannot do this size and step."""
    # Where the step is the ratio of the sizes, both map coordinates alike.
    (h, w, _), (H, W) = x.shape, size
    how = cv2.INTER_LINEAR if mode == BILINEAR else cv2.INTER_CUBIC
    by_size = abs(step[0] * H - h) < 1e-9 * h and abs(step[1] * W - w) < 1e-9 * w
    if by_size:
        return cv2.resize(x, (W, H), interpolation=how)

    # OpenCV rounds the size where torch floors it: the first pixels are the same. But of equal
    # sizes it makes a copy, whatever the step.
    y = cv2.resize(x, None, fx=1 / step[1], fy=1 / step[0], interpolation=how)
    if y.shape[:2] == (h, w) or y.shape[0] < H or y.shape[1] < W:
        return None
    return np.ascontiguousarray(y[:H, :W])


def _banded(x: np.ndarray, rows: Band, cols: Band) -> np.ndarray:
    """Apply the weights of both axes in turn.

    Each is a sparse matrix times dense rows, which is what embedding_bag computes, ten times faster
    than adaptive_avg_pool2d.
    """
    for index, weight in (rows, cols):
        m, T = index.shape
        y = F.embedding_bag(
            torch.from_numpy(index.ravel()),
            torch.from_numpy(x.reshape(len(x), -1)),
            torch.arange(0, m * T, T),
            mode='sum',
            per_sample_weights=torch.from_numpy(weight.ravel().astype(np.float32)),
        )
        x = cv2.transpose(y.numpy().reshape(m, -1, 3))
    return x
