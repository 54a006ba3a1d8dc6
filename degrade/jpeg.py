"""JPEG artefacts: the libjpeg round trip in integers, equal to cv2.imencode + imdecode to the bit.

4:2:0, 4:2:2 or 4:4:4 with integer DCT and triangle chroma upsampling; Annex K tables (ITU-T T.81),
scaled as libjpeg scales them; jidctint.c's accuracy classes. One image:

    YCbCr by fixed point -> edges replicated to whole blocks -> chroma means of 2x2 (4:2:0) or of 2
    side by side (4:2:2) -> 8x8 DCT -> quantise, dequantise -> inverse DCT -> chroma upsampled
    -> RGB
"""

from collections.abc import Mapping
from typing import NamedTuple, TypeVar

import cv2
import numpy as np
import torch

from . import canvas
from . import kernels as cuda
from .canvas import Canvas
from .draw import Draw
from .op import Sizes, number
from .quantize import levels_opencv, to_8bit
from .ranges import Interval, Values, Weights

Integers = TypeVar('Integers', np.ndarray, torch.Tensor)

# fmt: off
LUMA_TABLE = np.array([  # row = vertical frequency
    [16,  11,  10,  16,  24,  40,  51,  61],
    [12,  12,  14,  19,  26,  58,  60,  55],
    [14,  13,  16,  24,  40,  57,  69,  56],
    [14,  17,  22,  29,  51,  87,  80,  62],
    [18,  22,  37,  56,  68, 109, 103,  77],
    [24,  35,  55,  64,  81, 104, 113,  92],
    [49,  64,  78,  87, 103, 121, 120, 101],
    [72,  92,  95,  98, 112, 100, 103,  99],
])
CHROMA_TABLE = np.full((8, 8), 99)
CHROMA_TABLE[:4, :4] = [
    [17, 18, 24, 47],
    [18, 21, 26, 66],
    [24, 26, 56, 99],
    [47, 66, 99, 99],
]

# The DCT as one integer matrix with 13 fractional bits: what libjpeg's factored "islow" transform
# computes, rounding constants included.
DCT = np.array([
    [ 8192,   8192,   8192,   8192,   8192,   8192,   8192,   8192],
    [11363,   9633,   6437,   2260,  -2260,  -6437,  -9633, -11363],
    [10703,   4433,  -4433, -10703, -10703,  -4433,   4433,  10703],
    [ 9633,  -2259, -11362,  -6436,   6436,  11362,   2259,  -9633],
    [ 8192,  -8192,  -8192,   8192,   8192,  -8192,  -8192,   8192],
    [ 6437, -11362,   2261,   9633,  -9633,  -2261,  11362,  -6437],
    [ 4433, -10704,  10704,  -4433,  -4433,  10704, -10704,   4433],
    [ 2260,  -6436,   9633, -11363,  11363,  -9633,   6436,  -2260],
])
# fmt: on


# Chroma subsampling, and the pixels that a sample of chroma stands for, down and across.
SAMPLINGS = '420', '422', '444'
FACTORS = (2, 2), (1, 2), (1, 1)
OPENCV = (
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
)

# Of recipe files; see `sample`.
RANGES: Mapping[str, Values] = {
    'quality': Interval(1, 100, whole=True),
    'compression': Interval(0, 100),
    'sampling': Weights(SAMPLINGS),
}


class Params(NamedTuple):
    """Qualities of the compression, and what it leaves of the chroma."""

    quality: np.ndarray  # [B] int64 1..100; 0 where the step is skipped
    sampling: np.ndarray  # [B] int64 index into SAMPLINGS


def sample(
    draw: Draw,
    on: np.ndarray,
    sizes: Sizes,
    *,
    quality: tuple[int, int] = (50, 95),
    compression: tuple[float, float] | None = None,
    sampling: tuple[float, ...] = (1,),
) -> Params:
    """Draw qualities and subsamplings.

    quality:     range of libjpeg's quality
    compression: range of imgaug's compression in [0, 100], used instead of quality if given
    sampling:    weights of SAMPLINGS; a shorter list is fine
    """
    if compression is None:
        qualities = draw.integers('quality', *quality)
    else:
        qualities = quality_of(np.floor(draw.uniform('quality', *compression)))
    # Nothing is drawn where there is no choice.
    which = draw.choice('sampling', sampling) if len(sampling) > 1 else np.zeros(len(on), np.int64)
    return Params(np.where(on, qualities, 0), which)


def quality_of(compression: np.ndarray) -> np.ndarray:
    """[B] int64 quality 1..100 of imgaug's JpegCompression at whole numbers 0..100 [B]."""
    return np.clip(np.rint(1 + 99 * (1 - compression / 101)), 1, 100).astype(np.int64)


def table(quality: int, luma: bool) -> np.ndarray:
    """[8, 8] int64 quantisation table of libjpeg at an integer quality 1..100."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return np.clip(((LUMA_TABLE if luma else CHROMA_TABLE) * scale + 50) // 100, 1, 255)


# ---- fixed-point arithmetic, of arrays and tensors alike ----


def _descale(v: Integers, n: int) -> Integers:
    """Divide by 2^n and round halves up."""
    return (v + (1 << (n - 1))) >> n


def _to_ycc(r: Integers, g: Integers, b: Integers) -> tuple[Integers, Integers, Integers]:
    """Luma and chroma 0..255 of RGB, with 16 fractional bits as in jccolor.c."""
    Y = (19595 * r + 38470 * g + 7471 * b + 32768) >> 16
    Cb = (-11059 * r - 21709 * g + 32768 * b + (128 << 16) + 32767) >> 16
    Cr = (32768 * r - 27439 * g - 5329 * b + (128 << 16) + 32767) >> 16
    return Y, Cb, Cr


def _to_rgb(Y: Integers, Cb: Integers, Cr: Integers) -> tuple[Integers, Integers, Integers]:
    """RGB, not clipped, of luma 0..255 and chroma -128..127, as in jdcolor.c."""
    R = Y + ((91881 * Cr + 32768) >> 16)
    G = Y + ((-22554 * Cb - 46802 * Cr + 32768) >> 16)
    B = Y + ((116130 * Cb + 32768) >> 16)
    return R, G, B


def told(p: Params, size: np.ndarray) -> list[str]:
    """Quality and subsampling of one sample in words, [] without any compression."""
    if not p.quality:
        return []
    words = [f'quality {number(p.quality)}']
    return [*words, ':'.join(SAMPLINGS[int(p.sampling)])] if p.sampling else words


# ---- reference: one 8-bit image, block by block ----


def run_ref(x: np.ndarray, p: Params) -> np.ndarray:
    """Round an image [h, w, 3] float64 to 8 bits, compress and decompress it."""
    if not p.quality:
        return x
    levels = np.clip(np.rint(x * 255), 0, 255).astype(np.int64)
    return apply_ref(levels, int(p.quality), int(p.sampling)) / 255.0


def apply_ref(rgb: np.ndarray, quality: int, sampling: int = 0) -> np.ndarray:
    """Compress and decompress [h, w, 3] int64 in 0..255."""
    h, w, _ = rgb.shape
    Y, Cb, Cr = _to_ycc(*np.moveaxis(rgb, 2, 0))
    Y = np.pad(Y, ((0, -h % 8), (0, -w % 8)), 'edge')
    Y = _plane_ref(Y, table(quality, True))[:h, :w]
    down, across = FACTORS[sampling]
    coded = (_plane_ref(_downsample_ref(C, down, across), table(quality, False)) for C in (Cb, Cr))
    Cb, Cr = (_upsample_ref(C, h, w, down, across) - 128 for C in coded)
    return np.clip(np.stack(_to_rgb(Y, Cb, Cr), 2), 0, 255)


def _downsample_ref(C: np.ndarray, down: int, across: int) -> np.ndarray:
    """Means of down x across, rounded up and down alternately from column to column.

    The edges grow first, and then the rows of the small plane.
    """
    h, w = C.shape
    small = C = np.pad(C, ((0, -h % down), (0, -w % (8 * across))), 'edge')
    if across == 2:
        s = np.sum([C[y::down, x::2] for y in range(down) for x in range(2)], 0)
        small = (s + (down - 1) + np.arange(s.shape[1]) % 2) >> down
    return np.pad(small, ((0, -len(small) % 8), (0, 0)), 'edge')


def _plane_ref(P: np.ndarray, T: np.ndarray) -> np.ndarray:
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


def _upsample_ref(C: np.ndarray, h: int, w: int, down: int, across: int) -> np.ndarray:
    """Triangle filter 3:1 towards the nearer sample, first down, then across.

    Planes at most two samples wide are copied instead, as libjpeg does.
    """
    C = C[: -(-h // down), : -(-w // across)]
    if across == 1 or C.shape[1] <= 2:
        return C.repeat(down, 0).repeat(across, 1)[:h, :w]
    if down == 1:
        return np.stack([_widened_ref(row, w) for row in C])
    out = np.empty((h, w), C.dtype)
    last_y, last_x = C.shape[0] - 1, C.shape[1] - 1
    for y in range(h):
        far = min(max(y // 2 + (1 if y % 2 else -1), 0), last_y)
        s = 3 * C[y // 2] + C[far]
        for x in range(w):
            other = s[min(max(x // 2 + (1 if x % 2 else -1), 0), last_x)]
            out[y, x] = (3 * s[x // 2] + other + (7 if x % 2 else 8)) >> 4
    return out


def _widened_ref(row: np.ndarray, w: int) -> np.ndarray:
    """The triangle filter for a row alone, [w]."""
    out = np.empty(w, row.dtype)
    for x in range(w):
        other = row[min(max(x // 2 + (1 if x % 2 else -1), 0), len(row) - 1)]
        out[x] = (3 * row[x // 2] + other + (2 if x % 2 else 1)) >> 2
    return out


# ---- torch: the same integers for a batch of equal sizes ----


def apply_torch(x: torch.Tensor, quality: np.ndarray, sampling: int = 0) -> torch.Tensor:
    """Compress and decompress [B, 3, h, w] uint8 at [B] integer qualities 1..100."""
    h, w = x.shape[-2:]
    Y, Cb, Cr = _to_ycc(*x.int().unbind(1))
    luma, chroma = (_tables(quality, is_luma).to(x.device) for is_luma in (True, False))
    Y = _planes(_edge(Y[:, None], -h % 8, -w % 8), luma)[:, 0, :h, :w]
    down, across = FACTORS[sampling]
    C = _planes(_downsample(torch.stack([Cb, Cr], 1), down, across), chroma)
    Cb, Cr = (_upsample(C, h, w, down, across) - 128).unbind(1)
    return torch.stack(_to_rgb(Y, Cb, Cr), 1).clamp_(0, 255).to(torch.uint8)


def _tables(quality: np.ndarray, luma: bool) -> torch.Tensor:
    """[B, 8, 8] int32 quantisation tables."""
    return torch.from_numpy(np.stack([table(int(q), luma) for q in quality])).int()


def _edge(P: torch.Tensor, bottom: int, right: int) -> torch.Tensor:
    """Replicate the last row and column of int planes [B, C, h, w], as F.pad does for floats."""
    P = torch.cat([P, P[..., -1:].expand(-1, -1, -1, right)], -1)
    return torch.cat([P, P[..., -1:, :].expand(-1, -1, bottom, -1)], -2)


def _downsample(C: torch.Tensor, down: int, across: int) -> torch.Tensor:
    h, w = C.shape[-2:]
    small = C = _edge(C, -h % down, -w % (8 * across))
    if across == 2:
        parts = [C[..., y::down, x::2] for y in range(down) for x in range(2)]
        s = sum(parts[1:], parts[0])
        up = torch.arange(s.shape[-1], device=C.device, dtype=torch.int32) % 2
        small = (s + (down - 1) + up) >> down
    return _edge(small, -small.shape[-2] % 8, 0)


def _planes(P: torch.Tensor, T: torch.Tensor) -> torch.Tensor:
    """DCT, quantisation by T [B, 8, 8] and inverse DCT of planes [B, C, 8m, 8n] int32."""
    # The descaling shifts are those of jfdctint.c and jidctint.c: rows, then columns, and back.
    b, c, h, w = P.shape
    M = torch.from_numpy(DCT).to(P.device, torch.int32)
    X = P.view(b, c, h // 8, 8, w // 8, 8).transpose(3, 4) - 128  # [B, C, m, n, 8, 8]
    T = T.view(b, 1, 1, 1, 8, 8)
    D = _descale(_product(M, _descale(_product(X, M.T), 11)), 15)
    k = D.sign() * torch.div(D.abs() + 4 * T, 8 * T, rounding_mode='floor')
    Y = _descale(_product(_descale(_product(M.T, k * T), 11), M), 18)
    return (Y + 128).clamp_(0, 255).transpose(3, 4).reshape(b, c, h, w)


def _product(A: torch.Tensor, B: torch.Tensor) -> torch.Tensor:
    """8x8 integer matrix product as eight multiply-adds: there is no integer GEMM on a GPU."""
    terms = [A[..., :, i : i + 1] * B[..., i : i + 1, :] for i in range(8)]
    return sum(terms[1:], terms[0])


def _upsample(C: torch.Tensor, h: int, w: int, down: int, across: int) -> torch.Tensor:
    """Chroma of [h, w] pixels: `_upsample_ref` for all rows and columns at once."""
    C = C[..., : -(-h // down), : -(-w // across)]
    if across == 1:
        return C
    if C.shape[-1] <= 2:
        return C.repeat_interleave(down, -2).repeat_interleave(2, -1)[..., :h, :w]
    if down == 1:
        left, right = (3 * C + _shift(C, -1, -1) + 1) >> 2, (3 * C + _shift(C, -1, 1) + 2) >> 2
        return _interleave(left, right, -1)[..., :w]
    s = _interleave(3 * C + _shift(C, -2, -1), 3 * C + _shift(C, -2, 1), -2)
    left = (3 * s + _shift(s, -1, -1) + 8) >> 4
    right = (3 * s + _shift(s, -1, 1) + 7) >> 4
    return _interleave(left, right, -1)[..., :h, :w]


def _shift(C: torch.Tensor, dim: int, by: int) -> torch.Tensor:
    """Neighbour of every sample along dim: the one before (by -1) or after (by 1).

    At the edge it is the sample itself.
    """
    n = C.shape[dim]
    return C.index_select(dim, (torch.arange(n, device=C.device) + by).clamp_(0, n - 1))


def _interleave(even: torch.Tensor, odd: torch.Tensor, dim: int) -> torch.Tensor:
    """Samples of both in turn along dim, -1 or -2."""
    if dim == -1:
        return torch.stack([even, odd], -1).flatten(-2, -1)
    return torch.stack([even, odd], -2).flatten(-3, -2)


def run_torch(c: Canvas, p: Params, opencv: bool = False) -> Canvas:
    """Round a batch to 8 bits, compress and decompress it."""
    if not p.quality.any():
        return c
    if opencv and len(p.quality) == 1:
        x = canvas.hwc(c.pix)
        return canvas.of(canvas.nchw(apply_opencv(x, int(p.quality[0]), int(p.sampling[0]))))
    return canvas.each_size(c, p, _run)


def _run(x: torch.Tensor, p: Params) -> torch.Tensor:
    """Samples of one size, some of which may be skipped."""
    y = x
    for sampling in set(p.sampling[p.quality > 0].tolist()):
        alike = (p.quality > 0) & (p.sampling == sampling)
        on = torch.from_numpy(alike)
        levels = (to_8bit(x[on]) * 255).round().to(torch.uint8)
        y = x.clone() if y is x else y
        y[on] = apply_torch(levels, p.quality[alike], sampling).to(x.dtype) / 255
    return y


# ---- CUDA ----


def record(p: Params, size: np.ndarray) -> np.ndarray:
    """Structs for jpeg.cu."""
    fields = [('quality', np.int32), ('sampling', np.int32)]
    return cuda.record(fields, size, **p._asdict())


def run_cuda(c: Canvas, p: Params, r: torch.Tensor) -> Canvas:
    """Compress and decompress a batch on the GPU. r: `record` of p and c.size, on the GPU.

    Where every sample is compressed the result is uint8.
    """
    if not p.quality.any():
        return c
    b, (h, w), (H, W) = len(p.quality), c.size.max(0), c.pix.shape[2:]
    pix, is_bytes, *shape = cuda.canvas_of(c.pix)

    # Coded planes of whole MCUs of 16 x 16 pixels: Y in full, Cb and Cr as the finest needs them.
    most = p.sampling[p.quality > 0].max()
    mh, mw = cuda.tiles(H, 16), cuda.tiles(W, 16)
    down, across = FACTORS[most]
    luma = pix.new_empty(b, 1, 16 * mh, 16 * mw, dtype=torch.uint8)
    chroma = pix.new_empty(b, 2, 16 // down * mh, 16 // across * mw, dtype=torch.uint8)
    sides = np.int32(mw), np.int32(chroma.shape[2]), np.int32(chroma.shape[3])
    common = (*shape, np.int32(mh), *sides, r)
    grid = (cuda.tiles(w, 64), cuda.tiles(h, 16), b)
    cuda.launch('jpeg.cu', 'planes', grid, (192,), pix, is_bytes, luma, chroma, *common)
    if most:
        cuda.launch('jpeg.cu', 'finer', grid, (384,), pix, is_bytes, luma, chroma, *common)

    # Back to colour; samples that are skipped keep their floats.
    all_compressed = (p.quality > 0).all()
    y = cuda.blank(pix, dtype=torch.uint8 if all_compressed else torch.float32)
    grid = (cuda.tiles(w, 64), cuda.tiles(h, 8), b)
    arguments = (pix, is_bytes, luma, chroma, y, np.bool_(all_compressed), *common)
    cuda.launch('jpeg.cu', 'colour', grid, (32, 4), *arguments)
    return c._replace(pix=y)


# ---- OpenCV: one image on the CPU ----


def apply_opencv(x: np.ndarray, quality: int, sampling: int = 0) -> np.ndarray:
    """Pass [h, w, 3] RGB, uint8 or float32 in [0, 1], through the library's encoder and decoder.

    Returns uint8.
    """
    u8 = x if x.dtype == np.uint8 else levels_opencv(x)
    bgr = cv2.cvtColor(u8, cv2.COLOR_RGB2BGR)
    how = [cv2.IMWRITE_JPEG_QUALITY, quality]
    how += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, OPENCV[sampling]]
    data = cv2.imencode('.jpg', bgr, how)[1]
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR_RGB))
