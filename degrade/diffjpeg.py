"""DiffJPEG as Real-ESRGAN's training code runs it (basicsr/utils/diffjpeg.py), for parity only.

It is not libjpeg: black padding to multiples of 16, no rounding of planes, tables neither rounded
nor clamped, the luma table transposed, 2x2 mean chroma, nearest upsampling, one clamp at the end.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from . import canvas
from . import kernels as cuda
from .canvas import Canvas
from .draw import Draw
from .jpeg import CHROMA_TABLE, LUMA_TABLE
from .op import Sizes, number
from .ranges import Interval, Values

TABLES = LUMA_TABLE.T.astype(np.float64), CHROMA_TABLE.astype(np.float64)
TO_YCC = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
TO_RGB = np.array([[1, 0, 1.402], [1, -0.344136, -0.714136], [1, 1.772, 0]])


def _dct(u: int, x: int) -> float:
    """Value at x of the orthonormal 8-point DCT's u-th basis function."""
    norm = math.sqrt(0.5) if u == 0 else 1
    return norm / 2 * math.cos((2 * x + 1) * u * math.pi / 16)


DCT = np.array([[_dct(u, x) for x in range(8)] for u in range(8)])


# Of recipe files; see `sample`.
RANGES: Mapping[str, Values] = {'quality': Interval(1, 99.9)}


class Params(NamedTuple):
    """Qualities of the compression."""

    # [B] float64 in [1, 100), towards which the tables shrink to nothing; 0 where it is skipped.
    quality: np.ndarray


def sample(
    draw: Draw, on: np.ndarray, sizes: Sizes, *, quality: tuple[float, float] = (50, 95)
) -> Params:
    """Draw qualities from a range."""
    return Params(np.where(on, draw.uniform('quality', *quality), 0.0))


def factor(quality: np.ndarray) -> np.ndarray:
    """Factor of the standard tables at a quality."""
    return np.where(quality < 50, 50 / np.maximum(quality, 1e-9), 2 - quality / 50)


def told(p: Params, size: np.ndarray) -> list[str]:
    """Quality of one sample's compression in words, [] without any."""
    return [f'quality {number(p.quality)}'] if p.quality else []


# ---- reference: one image, float64, block by block ----


def run_ref(x: np.ndarray, p: Params) -> np.ndarray:
    """Compress an image [h, w, 3] float64; the result lies in [0, 1]."""
    return apply_ref(np.clip(x, 0, 1), p.quality) if p.quality else x


def apply_ref(x: np.ndarray, quality: np.ndarray) -> np.ndarray:
    """Compress [h, w, 3] float64 in [0, 1] at one quality."""
    # Black padding, full luma, chroma at half the size.
    h, w, _ = x.shape
    padded = np.pad(x, ((0, -h % 16), (0, -w % 16), (0, 0))) * 255
    Y, Cb, Cr = np.moveaxis(padded @ TO_YCC.T + [0, 128, 128], 2, 0)
    luma, chroma = (T * factor(quality) for T in TABLES)
    planes = [_plane_ref(Y, luma)]
    for C in (Cb, Cr):
        half = (C[0::2, 0::2] + C[0::2, 1::2] + C[1::2, 0::2] + C[1::2, 1::2]) / 4
        planes.append(_plane_ref(half, chroma).repeat(2, 0).repeat(2, 1))
    rgb = (np.stack(planes, 2) - [0, 128, 128]) @ TO_RGB.T
    return np.clip(rgb, 0, 255)[:h, :w] / 255


def _plane_ref(P: np.ndarray, T: np.ndarray) -> np.ndarray:
    """DCT, quantisation by table T and inverse DCT of every 8x8 block of a plane."""
    out = np.empty_like(P)
    for i in range(0, P.shape[0], 8):
        for j in range(0, P.shape[1], 8):
            D = DCT @ (P[i : i + 8, j : j + 8] - 128) @ DCT.T
            out[i : i + 8, j : j + 8] = DCT.T @ (np.rint(D / T) * T) @ DCT + 128
    return out


# ---- torch ----


def apply_torch(x: torch.Tensor, quality: np.ndarray) -> torch.Tensor:
    """Compress [B, 3, h, w] float32 in [0, 1] at [B] qualities."""
    h, w = x.shape[-2:]
    padded = F.pad(x, (0, -w % 16, 0, -h % 16)) * 255
    shift = x.new_tensor([0, 128, 128])[:, None, None]
    ycc = torch.einsum('ij,bjhw->bihw', x.new_tensor(TO_YCC), padded) + shift

    # Full luma, chroma at half the size.
    f = torch.as_tensor(factor(quality), dtype=x.dtype, device=x.device).view(-1, 1, 1, 1, 1, 1)
    Y = _planes(ycc[:, :1], x.new_tensor(TABLES[0]) * f)
    C = _planes(F.avg_pool2d(ycc[:, 1:], 2), x.new_tensor(TABLES[1]) * f)

    ycc = torch.cat([Y, C.repeat_interleave(2, 2).repeat_interleave(2, 3)], 1) - shift
    rgb = torch.einsum('ij,bjhw->bihw', x.new_tensor(TO_RGB), ycc)
    return rgb.clamp_(0, 255)[..., :h, :w] / 255


def _planes(P: torch.Tensor, T: torch.Tensor) -> torch.Tensor:
    """DCT, rounding by T [B, 1, 1, 1, 8, 8] and inverse DCT of planes [B, C, 8m, 8n]."""
    b, c, h, w = P.shape
    M = P.new_tensor(DCT)
    X = P.reshape(b, c, h // 8, 8, w // 8, 8).transpose(3, 4) - 128
    D = M @ X @ M.T
    Y = M.T @ (torch.round(D / T) * T) @ M + 128
    return Y.transpose(3, 4).reshape(b, c, h, w)


def run_torch(c: Canvas, p: Params, opencv: bool = False) -> Canvas:
    """Compress a batch; OpenCV has no DiffJPEG, so `opencv` changes nothing."""
    return canvas.each_size(c, p, _run) if p.quality.any() else c


def _run(x: torch.Tensor, p: Params) -> torch.Tensor:
    on = torch.from_numpy(p.quality > 0)
    y = x.clone()
    y[on] = apply_torch(x[on].clamp(0, 1), p.quality[p.quality > 0])
    return y


# ---- CUDA ----


def record(p: Params, size: np.ndarray) -> np.ndarray:
    """No kernel needs the parameters: structs of nothing but the size."""
    return cuda.record([], size)


def run_cuda(c: Canvas, p: Params, r: torch.Tensor) -> Canvas:
    """Compress a batch on the GPU by batched torch, without a kernel of its own.

    Only the comparison with the public code needs this operation, and that is how it runs there.
    """
    return run_torch(c, p)
