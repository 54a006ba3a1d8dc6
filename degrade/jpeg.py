"""JPEG artefacts: the libjpeg round trip (4:2:0, integer DCT, triangle chroma upsampling) in integers, equal to cv2.imencode + cv2.imdecode to the bit.

Annex K tables scaled as libjpeg scales them (ITU-T T.81; jidctint.c's accuracy classes). One image:
    YCbCr by fixed point -> edges replicated to whole blocks -> chroma means of 2x2 -> 8x8 DCT -> quantise, dequantise -> inverse DCT -> chroma upsampled -> RGB.
"""

from typing import NamedTuple

import cv2
import numpy as np
import torch

from . import canvas
from . import kernels as cuda
from .quantize import levels_opencv, to_8bit

LUMA_TABLE = np.array(
    [
        16,
        11,
        10,
        16,
        24,
        40,
        51,
        61,
        12,
        12,
        14,
        19,
        26,
        58,
        60,
        55,
        14,
        13,
        16,
        24,
        40,
        57,
        69,
        56,
        14,
        17,
        22,
        29,
        51,
        87,
        80,
        62,
        18,
        22,
        37,
        56,
        68,
        109,
        103,
        77,
        24,
        35,
        55,
        64,
        81,
        104,
        113,
        92,
        49,
        64,
        78,
        87,
        103,
        121,
        120,
        101,
        72,
        92,
        95,
        98,
        112,
        100,
        103,
        99,
    ]
).reshape(8, 8)  # row = vertical frequency
CHROMA_TABLE = np.full((8, 8), 99)
CHROMA_TABLE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]

# The DCT as one integer matrix, 13 fractional bits: what libjpeg's factored "islow" transform computes, rounding constants included.
DCT = np.array(
    [
        [8192, 8192, 8192, 8192, 8192, 8192, 8192, 8192],
        [11363, 9633, 6437, 2260, -2260, -6437, -9633, -11363],
        [10703, 4433, -4433, -10703, -10703, -4433, 4433, 10703],
        [9633, -2259, -11362, -6436, 6436, 11362, 2259, -9633],
        [8192, -8192, -8192, 8192, 8192, -8192, -8192, 8192],
        [6437, -11362, 2261, 9633, -9633, -2261, 11362, -6437],
        [4433, -10704, 10704, -4433, -4433, 10704, -10704, 4433],
        [2260, -6436, 9633, -11363, 11363, -9633, 6436, -2260],
    ]
)


class Params(NamedTuple):
    quality: np.ndarray  # [B] int64 1..100; 0 where the step is skipped


def sample(draw, on, sizes, *, quality=(50, 95), compression=None):
    """quality: range of libjpeg's quality; compression: range of imgaug's instead, in [0, 100]"""
    found = (
        draw.integers('quality', *quality)
        if compression is None
        else quality_of(np.floor(draw.uniform('quality', *compression)))
    )
    return Params(np.where(on, found, 0))


def quality_of(compression):
    """[B] int64 quality 1..100 of imgaug's JpegCompression at a whole number 0..100 [B]."""
    return np.clip(np.rint(1 + 99 * (1 - compression / 101)), 1, 100).astype(np.int64)


def table(quality, luma):
    """[8, 8] int64 quantisation table of libjpeg at an integer quality 1..100."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return np.clip(((LUMA_TABLE if luma else CHROMA_TABLE) * scale + 50) // 100, 1, 255)


def _descale(v, n):
    return (v + (1 << (n - 1))) >> n


# ---- reference: one 8-bit image, block by block ----


def run_ref(x, p):
    """x [h, w, 3] float64 -> the same: rounded to 8 bits, compressed, decompressed."""
    if not p.quality:
        return x
    return apply_ref(np.clip(np.rint(x * 255), 0, 255).astype(np.int64), int(p.quality)) / 255.0


def apply_ref(rgb, quality):
    """rgb [h, w, 3] int64 0..255 -> the same."""
    h, w, _ = rgb.shape
    r, g, b = np.moveaxis(rgb, 2, 0)
    Y = (19595 * r + 38470 * g + 7471 * b + 32768) >> 16
    Cb = (-11059 * r - 21709 * g + 32768 * b + (128 << 16) + 32767) >> 16
    Cr = (32768 * r - 27439 * g - 5329 * b + (128 << 16) + 32767) >> 16
    Y = _plane_ref(np.pad(Y, ((0, -h % 8), (0, -w % 8)), 'edge'), table(quality, True))[:h, :w]
    Cb, Cr = (
        _upsample_ref(_plane_ref(_downsample_ref(C), table(quality, False)), h, w) - 128
        for C in (Cb, Cr)
    )
    R = Y + ((91881 * Cr + 32768) >> 16)
    G = Y + ((-22554 * Cb - 46802 * Cr + 32768) >> 16)
    B = Y + ((116130 * Cb + 32768) >> 16)
    return np.clip(np.stack([R, G, B], 2), 0, 255)


def _downsample_ref(C):
    """Means of 2x2, rounded up and down alternately from column to column; first the edges grow, then the rows of the small plane."""
    h, w = C.shape
    C = np.pad(C, ((0, h % 2), (0, -w % 16)), 'edge')
    s = C[0::2, 0::2] + C[0::2, 1::2] + C[1::2, 0::2] + C[1::2, 1::2]
    small = (s + 1 + np.arange(s.shape[1]) % 2) >> 2
    return np.pad(small, ((0, -len(small) % 8), (0, 0)), 'edge')


def _plane_ref(P, T):
    """DCT, quantisation by table T and inverse DCT of every 8x8 block of a plane."""
    out = np.empty_like(P)
    for y in range(0, P.shape[0], 8):
        for x in range(0, P.shape[1], 8):
            A = _descale((P[y : y + 8, x : x + 8] - 128) @ DCT.T, 11)  # rows
            D = _descale(DCT @ A, 15)  # columns; 8 times the DCT
            k = np.sign(D) * ((np.abs(D) + 4 * T) // (8 * T))
            B = _descale(DCT.T @ (k * T), 11)  # back: columns first
            out[y : y + 8, x : x + 8] = np.clip(_descale(B @ DCT, 18) + 128, 0, 255)
    return out


def _upsample_ref(C, h, w):
    """Triangle filter 3:1 towards the nearer sample, first down, then across; plain copies for planes at most two samples wide."""
    C = C[: -(-h // 2), : -(-w // 2)]
    if C.shape[1] <= 2:
        return C.repeat(2, 0).repeat(2, 1)[:h, :w]
    out = np.empty((h, w), C.dtype)
    last_y, last_x = C.shape[0] - 1, C.shape[1] - 1
    for y in range(h):
        far = min(max(y // 2 + (1 if y % 2 else -1), 0), last_y)
        s = 3 * C[y // 2] + C[far]
        for x in range(w):
            other = s[min(max(x // 2 + (1 if x % 2 else -1), 0), last_x)]
            out[y, x] = (3 * s[x // 2] + other + (7 if x % 2 else 8)) >> 4
    return out


# ---- torch: the same integers for a batch of equal sizes ----


def apply_torch(x, quality):
    """x [B, 3, h, w] uint8, quality [B] integers 1..100 -> [B, 3, h, w] uint8."""
    h, w = x.shape[-2:]
    r, g, b = x.int().unbind(1)
    Y = (19595 * r + 38470 * g + 7471 * b + 32768) >> 16
    C = torch.stack(
        [
            (-11059 * r - 21709 * g + 32768 * b + (128 << 16) + 32767) >> 16,
            (32768 * r - 27439 * g - 5329 * b + (128 << 16) + 32767) >> 16,
        ],
        1,
    )  # [B, 2, h, w]
    luma, chroma = (
        torch.from_numpy(np.stack([table(int(q), l) for q in quality])).int().to(x.device)
        for l in (True, False)
    )
    Y = _planes(_edge(Y[:, None], -h % 8, -w % 8), luma)[:, 0, :h, :w]
    Cb, Cr = (_upsample(_planes(_downsample(C), chroma), h, w) - 128).unbind(1)
    R = Y + ((91881 * Cr + 32768) >> 16)
    G = Y + ((-22554 * Cb - 46802 * Cr + 32768) >> 16)
    B = Y + ((116130 * Cb + 32768) >> 16)
    return torch.stack([R, G, B], 1).clamp_(0, 255).to(torch.uint8)


def _edge(P, bottom, right):
    """Replicate the last row and column of int planes [B, C, h, w] (F.pad replicates floats only)."""
    P = torch.cat([P, P[..., -1:].expand(-1, -1, -1, right)], -1)
    return torch.cat([P, P[..., -1:, :].expand(-1, -1, bottom, -1)], -2)


def _downsample(C):
    h, w = C.shape[-2:]
    C = _edge(C, h % 2, -w % 16)
    s = C[..., 0::2, 0::2] + C[..., 0::2, 1::2] + C[..., 1::2, 0::2] + C[..., 1::2, 1::2]
    small = (s + 1 + torch.arange(s.shape[-1], device=C.device, dtype=torch.int32) % 2) >> 2
    return _edge(small, -small.shape[-2] % 8, 0)


def _planes(P, T):
    """P [B, C, 8m, 8n] int32, T [B, 8, 8] -> the same after DCT, quantisation and inverse DCT."""
    b, c, h, w = P.shape
    M = torch.from_numpy(DCT).to(P.device, torch.int32)
    X = P.view(b, c, h // 8, 8, w // 8, 8).transpose(3, 4) - 128  # [B, C, m, n, 8, 8]
    T = T.view(b, 1, 1, 1, 8, 8)
    D = _descale(_product(M, _descale(_product(X, M.T), 11)), 15)
    k = D.sign() * torch.div(D.abs() + 4 * T, 8 * T, rounding_mode='floor')
    Y = _descale(_product(_descale(_product(M.T, k * T), 11), M), 18)
    return (Y + 128).clamp_(0, 255).transpose(3, 4).reshape(b, c, h, w)


def _product(A, B):
    """8x8 integer matrix product as eight multiply-adds: there is no integer GEMM on a GPU."""
    return sum(A[..., :, i : i + 1] * B[..., i : i + 1, :] for i in range(8))


def _upsample(C, h, w):
    C = C[..., : -(-h // 2), : -(-w // 2)]
    if C.shape[-1] <= 2:
        return C.repeat_interleave(2, -2).repeat_interleave(2, -1)[..., :h, :w]
    s = _interleave(3 * C + _shift(C, -2, -1), 3 * C + _shift(C, -2, 1), -2)
    out = _interleave((3 * s + _shift(s, -1, -1) + 8) >> 4, (3 * s + _shift(s, -1, 1) + 7) >> 4, -1)
    return out[..., :h, :w]


def _shift(C, dim, by):
    """Neighbour of every sample along dim: the one before (by -1) or after (by 1), the sample itself at the edge."""
    n = C.shape[dim]
    return C.index_select(dim, (torch.arange(n, device=C.device) + by).clamp_(0, n - 1))


def _interleave(even, odd, dim):
    return (
        torch.stack([even, odd], dim).flatten(dim - 1, dim)
        if dim == -1
        else torch.stack([even, odd], -2).flatten(-3, -2)
    )


def run_torch(c, p, opencv=False):
    if not p.quality.any():
        return c
    if opencv and len(p.quality) == 1:
        return canvas.of(canvas.nchw(apply_opencv(canvas.hwc(c.pix), int(p.quality[0]))))

    def run(x, q):
        on = torch.from_numpy(q.quality > 0)
        if not on.any():
            return x
        y = x.clone()
        y[on] = (
            apply_torch(
                (to_8bit(x[on]) * 255).round().to(torch.uint8), q.quality[q.quality > 0]
            ).to(x.dtype)
            / 255
        )
        return y

    return canvas.each_size(c, p, run)


# ---- CUDA ----


def record(p, size):
    return cuda.record([('quality', np.int32)], size, quality=p.quality)


def run_cuda(c, p, r):
    """c: Canvas on the GPU; r: `record` of p and c.size on the GPU. Bytes come out where every sample is compressed."""
    if not p.quality.any():
        return c
    b, (h, w), (H, W) = len(p.quality), c.size.max(0), c.pix.shape[2:]
    mh, mw = cuda.tiles(H, 16), cuda.tiles(W, 16)
    luma, chroma = (
        c.pix.new_empty(b, planes, side * mh, side * mw, dtype=torch.uint8)
        for planes, side in ((1, 16), (2, 8))
    )
    pix, is_bytes, *shape = cuda.canvas_of(c.pix)
    shape += [np.int32(mh), np.int32(mw)]
    cuda.launch(
        'jpeg.cu',
        'planes',
        (cuda.tiles(w, 64), cuda.tiles(h, 16), b),
        (192,),
        pix,
        is_bytes,
        luma,
        chroma,
        *shape,
        r,
    )
    every = (p.quality > 0).all()
    y = cuda.blank(pix, dtype=torch.uint8 if every else torch.float32)
    cuda.launch(
        'jpeg.cu',
        'colour',
        (cuda.tiles(w, 32), cuda.tiles(h, 8), b),
        (32, 8),
        pix,
        is_bytes,
        luma,
        chroma,
        y,
        np.bool_(every),
        *shape,
        r,
    )
    return c._replace(pix=y)


# ---- OpenCV: one image on the CPU ----


def apply_opencv(x, quality):
    """x [h, w, 3] uint8, or float32 in [0, 1], RGB -> uint8, through the library's own encoder and decoder."""
    u8 = x if x.dtype == np.uint8 else levels_opencv(x)
    data = cv2.imencode(
        '.jpg', cv2.cvtColor(u8, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )[1]
    return cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)
