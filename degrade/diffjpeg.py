"""DiffJPEG as Real-ESRGAN's training code runs it (basicsr/utils/diffjpeg.py), for the parity recipe only.

Not libjpeg: black padding to multiples of 16, no rounding of planes, tables neither rounded nor clamped, the luma table transposed, 2x2 mean chroma,
nearest upsampling, one clamp at the end.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from . import canvas
from . import kernels as cuda
from .jpeg import CHROMA_TABLE, LUMA_TABLE

TABLES = LUMA_TABLE.T.astype(np.float64), CHROMA_TABLE.astype(np.float64)
TO_YCC = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
TO_RGB = np.array([[1, 0, 1.402], [1, -0.344136, -0.714136], [1, 1.772, 0]])
DCT = np.array(
    [
        [
            (math.sqrt(0.5) if u == 0 else 1) / 2 * math.cos((2 * x + 1) * u * math.pi / 16)
            for x in range(8)
        ]
        for u in range(8)
    ]
)


class Params(NamedTuple):
    quality: (
        np.ndarray
    )  # [B] float64 in [1, 100), whose tables shrink to nothing; 0 where the step is skipped


def sample(draw, on, sizes, *, quality=(50, 95)):
    return Params(np.where(on, draw.uniform('quality', *quality), 0.0))


def factor(quality):
    """What multiplies the standard tables at a quality."""
    return np.where(quality < 50, 50 / np.maximum(quality, 1e-9), 2 - quality / 50)


def run_ref(x, p):
    """x [h, w, 3] float64 -> the same, in [0, 1]."""
    return apply_ref(np.clip(x, 0, 1), p.quality) if p.quality else x


def apply_ref(x, quality):
    h, w, _ = x.shape
    padded = np.pad(x, ((0, -h % 16), (0, -w % 16), (0, 0))) * 255
    ycc = padded @ TO_YCC.T + [0, 128, 128]
    planes = []
    for c in range(3):
        P = ycc[..., c]
        if c:
            P = (P[0::2, 0::2] + P[0::2, 1::2] + P[1::2, 0::2] + P[1::2, 1::2]) / 4
        T = TABLES[c > 0] * factor(quality)
        out = np.empty_like(P)
        for i in range(0, P.shape[0], 8):
            for j in range(0, P.shape[1], 8):
                D = DCT @ (P[i : i + 8, j : j + 8] - 128) @ DCT.T
                out[i : i + 8, j : j + 8] = DCT.T @ (np.rint(D / T) * T) @ DCT + 128
        planes.append(out.repeat(2, 0).repeat(2, 1) if c else out)
    rgb = (np.stack(planes, 2) - [0, 128, 128]) @ TO_RGB.T
    return np.clip(rgb, 0, 255)[:h, :w] / 255


def apply_torch(x, quality):
    """x [B, 3, h, w] float32 in [0, 1], quality [B] float -> the same."""
    h, w = x.shape[-2:]
    padded = F.pad(x, (0, -w % 16, 0, -h % 16)) * 255
    shift = x.new_tensor([0, 128, 128])[:, None, None]
    ycc = torch.einsum('ij,bjhw->bihw', x.new_tensor(TO_YCC), padded) + shift
    f = torch.as_tensor(factor(quality), dtype=x.dtype, device=x.device).view(-1, 1, 1, 1, 1, 1)
    Y = _planes(ycc[:, :1], x.new_tensor(TABLES[0]) * f)
    C = _planes(F.avg_pool2d(ycc[:, 1:], 2), x.new_tensor(TABLES[1]) * f)
    ycc = torch.cat([Y, C.repeat_interleave(2, 2).repeat_interleave(2, 3)], 1) - shift
    rgb = torch.einsum('ij,bjhw->bihw', x.new_tensor(TO_RGB), ycc)
    return rgb.clamp_(0, 255)[..., :h, :w] / 255


def _planes(P, T):
    """P [B, C, 8m, 8n], T [B, 1, 1, 1, 8, 8] -> the same after DCT, rounding and inverse DCT."""
    b, c, h, w = P.shape
    M = P.new_tensor(DCT)
    X = P.reshape(b, c, h // 8, 8, w // 8, 8).transpose(3, 4) - 128
    D = M @ X @ M.T
    Y = M.T @ (torch.round(D / T) * T) @ M + 128
    return Y.transpose(3, 4).reshape(b, c, h, w)


def run_torch(c, p, opencv=False):
    if not p.quality.any():
        return c

    def run(x, q):
        on = torch.from_numpy(q.quality > 0)
        y = x.clone()
        y[on] = apply_torch(x[on].clamp(0, 1), q.quality[q.quality > 0])
        return y

    return canvas.each_size(c, p, run)


def record(p, size):
    return cuda.record([], size)


def run_cuda(c, p, r):
    """Batched torch on the GPU: only the comparison with the public code needs this op, which is how that code runs it."""
    return run_torch(c, p)
