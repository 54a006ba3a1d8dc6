"""Gaussian, Laplace and Poisson noise, coloured or gray (Real-ESRGAN, sec. 3.1; imgaug's additive noises), from addressed random bits: the same field on every machine.

Gaussian, Laplace, signed: x + amount z, z from a quantile table of 65,536 entries indexed with 16 random bits. Signed is imgaug's AdditivePoissonNoise: Poisson counts
          of a fixed rate, each with a sign of its own, in gray levels; its rates here are whole numbers.
Poisson:  with x8 = round(255 x) and V = 2^ceil(log2(number of distinct 8-bit values)), x + scale (Poisson(x8/255 V) / V - x8/255), sampled by integer alias tables.
Gray:     one plane for the three channels; Poisson then works on the luma (.2989, .587, .114).   All: clamped to [0, 1].

Bits: value i of a field (row-major over true height, width and channel; over height and width for gray) takes the i-th 16 bits of plane 0 of `draw.bits16`, and
for Poisson the i-th byte of plane 1.
"""

import itertools
import math
import statistics
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
import torch

from . import canvas
from . import kernels as cuda
from .draw import bits16
from .quantize import NUDGE, levels_opencv

KINDS = 'none', 'gaussian', 'poisson', 'laplace', 'signed'
NONE, GAUSSIAN, POISSON, LAPLACE, SIGNED = range(5)
MOST_RATE = 32  # of signed counts: each rate has a table
LUMA = 0.2989, 0.587, 0.114


class Params(NamedTuple):
    kind: np.ndarray  # [B] int64 index into KINDS
    gray: np.ndarray  # [B] bool
    amount: np.ndarray  # [B] float64 Gaussian sigma, Laplace scale, signed rate in image units, 1/255 is one gray level; Poisson: scale of the noise
    seed: np.ndarray  # [B] uint64 key of the field
    stream: np.ndarray  # [B] uint64 key of the field
    number: np.ndarray  # [B] int64 sample number of the field


def sample(
    draw,
    on,
    sizes,
    *,
    kinds=(0.5, 0.5),
    sigma=(1, 20),
    scale=(0.05, 2.0),
    laplace=(20, 40),
    rate=(15, 30),
    gray=0.4,
):
    """kinds: weights of Gaussian, Poisson, Laplace, signed (a shorter list is fine); sigma, laplace, rate: ranges in gray levels of Gaussian sigma, Laplace scale and
    signed rate, the last whole numbers up to 32; scale: range of Poisson; gray: probability of gray noise."""
    if rate[1] > MOST_RATE:
        raise ValueError(f'signed noise of rate {rate[1]}: there are tables for 1 to {MOST_RATE}')
    kind = 1 + draw.choice('kind', kinds)
    gray = draw.uniform('gray') < gray
    amount = np.choose(
        kind - 1,
        [
            draw.uniform('sigma', *sigma) / 255,
            draw.uniform('scale', *scale),
            draw.uniform('laplace', *laplace) / 255,
            draw.integers('rate', *rate) / 255,
        ],
    )
    seed, stream = draw.stream('field')
    full = np.ones(len(kind), np.uint64)
    number = np.where(
        gray, draw.numbers('plane'), draw.samples
    )  # where a recipe ties 'plane', gray samples of a batch share one
    return Params(
        np.where(on, kind, NONE),
        gray,
        amount,
        full * np.uint64(seed),
        full * np.uint64(stream),
        number,
    )


# ---- random fields ----


@lru_cache(maxsize=None)
def quantiles(kind=GAUSSIAN, rate=0):
    """[65536] float32: quantiles at (i + 0.5) / 65536 of the standard normal (sigma 0.9997, |z| <= 4.33), the standard Laplace (|z| <= 11.1), or a signed Poisson count."""
    if kind == GAUSSIAN:
        half = [statistics.NormalDist().inv_cdf((i + 0.5) / 65536) for i in range(32768)]
    elif kind == LAPLACE:
        half = [math.log((2 * i + 1) / 65536) for i in range(32768)]
    else:
        masses = list(
            itertools.accumulate(range(1, 256), lambda p, k: p * rate / k, initial=math.exp(-rate))
        )
        half = [
            -float(k)
            for k in np.searchsorted(np.cumsum(masses), 1 - (np.arange(32768) + 0.5) / 32768)
        ]
    return np.array(half + [-z for z in reversed(half)], np.float32)


def rate(p):
    """[B] int64 of signed counts."""
    return np.rint(255 * p.amount).astype(np.int64)


def factor(p):
    """[B] float64: what a field's values are multiplied with."""
    return np.where(p.kind == SIGNED, 1 / 255, p.amount)


def _table(p):
    """Quantiles of one sample."""
    return quantiles(SIGNED, int(rate(p))) if p.kind == SIGNED else quantiles(int(p.kind))


@lru_cache(maxsize=None)
def alias(V):
    """Alias tables (Walker 1977) of Poisson(level V / 255) for level 0..255, in integers: V = 1, 2, ... 256.

    Each rate has 256 columns of mass 2^16 out of 2^24: column r8 gives `own` if r16 < threshold, else `other`. Returns uint16 [65536] threshold, own, other,
    indexed level * 256 + r8. The columns start at max(0, round(rate) - 128); total variation to the true distribution <= 1.6e-6.
    """
    rate = np.arange(256, dtype=np.float64)[:, None] * V / 255
    first = np.maximum(np.rint(rate) - 128, 0).astype(np.int64)
    mass = _pmf(rate, first)
    threshold, other = np.zeros((256, 256), np.int64), np.tile(np.arange(256), (256, 1))
    level, left = np.arange(256), mass.copy()
    done = np.zeros((256, 256), bool)
    # Robin Hood: the poorest open column is filled up to 2^16 by the richest, 255 times; all levels side by side.
    for _ in range(255):
        poor = np.where(done, 1 << 40, left).argmin(1)
        rich = np.where(done, -1, left).argmax(1)
        threshold[level, poor], other[level, poor] = left[level, poor], rich
        left[level, rich] -= (1 << 16) - left[level, poor]
        done[level, poor] = True
    # A full column has threshold 2^16, which 16 bits cannot hold: store 0 and let both outcomes be its own.
    full = ~done | (threshold == 1 << 16)
    threshold[full] = 0
    other[full] = np.tile(np.arange(256), (256, 1))[full]
    own = first + np.arange(256)
    return tuple(a.astype(np.uint16).ravel() for a in (threshold, own, first + other))


def _pmf(rate, first):
    """[256, 256] int64 Poisson masses of first .. first + 255, each row summing to 2^24. Only products, quotients and running sums: the same bits everywhere."""
    k = first + np.arange(256)
    mode = np.minimum(np.floor(rate).astype(np.int64) - first, 255)
    p = np.zeros((256, 256))
    level = np.arange(256)
    p[level, mode[:, 0]] = 1.0
    for c in range(1, 256):  # p(k) = p(k-1) rate / k, upwards from the mode
        up = c > mode[:, 0]
        p[up, c] = p[up, c - 1] * rate[up, 0] / k[up, c]
    for c in range(254, -1, -1):  # p(k) = p(k+1) (k+1) / rate, downwards
        down = (c < mode[:, 0]) & (rate[:, 0] > 0)
        p[down, c] = p[down, c + 1] * k[down, c + 1] / rate[down, 0]
    mass = np.rint(p / np.cumsum(p, 1)[:, -1:] * (1 << 24)).astype(np.int64)
    mass[level, mode[:, 0]] += (1 << 24) - mass.sum(
        1
    )  # the rounding's remainder goes where it matters least
    return mass


def field(p, h, w):
    """Standard normal or Laplace numbers or signed counts of one sample: [h, w, 3], or [h, w, 1] if gray; float32."""
    c = 1 if p.gray else 3
    return cv2.LUT(_field(p, h, w * c).reshape(h, w, c), _table(p)).reshape(h, w, c)


def poisson(p, level, V):
    """Poisson(level V / 255) of one sample: level [h, w, c] uint8 -> [h, w, c] uint16."""
    h, w, c = level.shape
    r16, r8 = _field(p, h, w * c).reshape(h, w, c), _field8(p, h, w * c).reshape(h, w, c)
    index = (
        cv2.merge([r8.reshape(h, -1), level.reshape(h, -1)]).view(np.uint16).reshape(h, w, c)
    )  # level * 256 + r8
    threshold, own, other = (cv2.LUT(index, t).reshape(h, w, c) for t in alias(V))
    return cv2.copyTo(own, (r16 < threshold).view(np.uint8), other).reshape(
        h, w, c
    )  # np.where takes forty times as long


def _field(p, h, w):
    return bits16(int(p.seed), int(p.stream), int(p.number), 0, h * w).reshape(h, w)


def _field8(p, h, w):
    return (
        bits16(int(p.seed), int(p.stream), int(p.number), 1, -(-h * w // 2))
        .view(np.uint8)[: h * w]
        .reshape(h, w)
    )


def levels(count):
    """V of `count` distinct 8-bit values: the next power of two."""
    return 1 << (int(count) - 1).bit_length()


# ---- reference: one image, float64 ----


def run_ref(x, p):
    """x [h, w, 3] float64 -> the same, in [0, 1]."""
    if p.kind == NONE:
        return x
    h, w, _ = x.shape
    if p.kind != POISSON:
        return gaussian_ref(x, field(p, h, w).astype(np.float64), factor(p))
    level, V = level_ref(x, p.gray, NUDGE)
    return poisson_ref(x, poisson(p, level, V).astype(np.float64), level, V, p.amount)


def gaussian_ref(x, z, sigma):
    """x [h, w, 3], standard normal or other z [h, w, 3 or 1], sigma in image units."""
    return np.clip(x + z * sigma, 0, 1)


def level_ref(x, gray, nudge=0.0):
    """(8-bit level [h, w, 3 or 1] uint8, V) of x or of its luma."""
    if gray:
        x = (LUMA[0] * x[..., 0] + LUMA[1] * x[..., 1] + LUMA[2] * x[..., 2])[..., None]
    level = np.clip(np.rint(x * 255 + nudge), 0, 255).astype(np.uint8)
    return level, levels(len(np.unique(level)))


def poisson_ref(x, counts, level, V, scale):
    """counts ~ Poisson(level V / 255), same shape as level [h, w, 3 or 1]."""
    n = counts / V - level / 255.0
    return np.clip(x + scale * n, 0, 1)


# ---- torch ----


def gaussian_torch(x, z, sigma):
    """x [B, 3, h, w], z [B, 3 or 1, h, w], sigma [B] in image units."""
    return (x + z * sigma.view(-1, 1, 1, 1)).clamp(0, 1)


def level_torch(x, gray, nudge=0.0):
    """x [B, 3, h, w], gray [B] bool -> (8-bit levels [B, 3, h, w] uint8, the luma's on all three channels where gray; V [B] int64)."""
    luma = (LUMA[0] * x[:, 0] + LUMA[1] * x[:, 1] + LUMA[2] * x[:, 2])[:, None]
    level = (
        torch.where(gray.view(-1, 1, 1, 1), luma, x)
        .mul(255)
        .add_(nudge)
        .round_()
        .clamp_(0, 255)
        .to(torch.uint8)
    )
    counts = torch.stack(
        [torch.bincount(v.flatten(), minlength=256).ne(0).sum() for v in level.long()]
    )
    return level, torch.tensor([levels(c) for c in counts.tolist()])


def poisson_torch(x, counts, level, V, scale):
    """counts and level [B, 3 or 1, h, w], V and scale [B]."""
    n = counts / V.view(-1, 1, 1, 1) - level / 255.0
    return (x + scale.view(-1, 1, 1, 1) * n).clamp(0, 1)


def run_torch(c, p, opencv=False):
    if (p.kind == NONE).all():
        return c
    if opencv and len(p.kind) == 1:
        return canvas.of(
            canvas.nchw(
                apply_opencv(canvas.unit_array(canvas.hwc(c.pix)), Params(*(f[0] for f in p)))
            )
        )
    return canvas.each_size(c, p, _run)


def _run(x, p):
    b, _, h, w = x.shape
    one = [Params(*(f[i] for f in p)) for i in range(b)]
    amount = torch.from_numpy(factor(p)).float().to(x.device)
    y = x.clone()
    g, q = np.flatnonzero((p.kind != NONE) & (p.kind != POISSON)), np.flatnonzero(p.kind == POISSON)
    if len(g):
        z = torch.stack([_chw(field(one[i], h, w)) for i in g]).to(x.device)
        y[g] = gaussian_torch(x[g], z, amount[g])
    if len(q):
        level, V = level_torch(x[q], torch.from_numpy(p.gray[q]).to(x.device), NUDGE)
        host = level.permute(0, 2, 3, 1).cpu().numpy()
        counts = torch.stack(
            [
                _chw(poisson(one[i], host[j][..., : 1 if one[i].gray else 3], int(V[j])))
                for j, i in enumerate(q)
            ]
        ).to(x.device)
        y[q] = poisson_torch(x[q], counts.to(x.dtype), level, V.to(x.device, x.dtype), amount[q])
    return y


def _chw(a):
    """[h, w, 3 or 1] array -> [3, h, w] tensor."""
    return (
        torch.from_numpy(np.ascontiguousarray(a).astype(np.float32))
        .permute(2, 0, 1)
        .expand(3, -1, -1)
    )


# ---- CUDA ----


def record(p, size):
    fields = [
        ('amount', np.float64),
        *((n, np.uint64) for n in ('seed', 'stream', 'number')),
        *((n, np.int32) for n in ('kind', 'gray', 'table')),
    ]
    return cuda.record(
        fields,
        size,
        **p._asdict()
        | {
            'amount': factor(p),
            'table': np.select([p.kind == SIGNED, p.kind == LAPLACE], [1 + rate(p), 1], 0),
        },
    )


@lru_cache(maxsize=None)
def _tables(device):
    """(lower halves of the quantiles [34, 32768]: normal, Laplace, signed of rate 1, 2, ... 32; alias tables of V = 1, 2, ... 256 as [9, 65536, 4] 16-bit words: threshold,
    own, other, unused) on the device."""
    words = np.zeros((9, 65536, 4), np.uint16)
    for power in range(9):
        words[power, :, :3] = np.stack(alias(1 << power), 1)
    halves = np.stack(
        [
            t[:32768]
            for t in (
                quantiles(),
                quantiles(LAPLACE),
                *(quantiles(SIGNED, r) for r in range(1, MOST_RATE + 1)),
            )
        ]
    )
    return torch.from_numpy(halves).to(device), torch.from_numpy(words.view(np.int16)).to(device)


def run_cuda(c, p, r, field=None, nudge=NUDGE):
    """c: Canvas on the GPU; r: `record` of p and c.size on the GPU; field: numbers or counts to take instead of drawing, pixels like c's."""
    if (p.kind == NONE).all():
        return c
    pix, is_bytes, *shape = cuda.canvas_of(c.pix)
    seen = occupied_cuda(c, r, nudge) if (p.kind == POISSON).any() else None
    y, blocks = cuda.blank(pix), cuda.tiles(3 * c.size.prod(1).max(), 16 * 128)
    cuda.launch(
        'noise.cu',
        'add',
        (blocks, len(pix)),
        (128,),
        pix,
        is_bytes,
        y,
        *shape,
        r,
        seen,
        *_tables(pix.device),
        np.float32(nudge),
        field,
    )
    return c._replace(pix=y)


def occupied_cuda(c, r, nudge):
    """[B, 8] int32: 256 bits of each Poisson sample, one for each 8-bit level that occurs in it."""
    seen = torch.zeros(len(c.pix), 8, dtype=torch.int32, device=c.pix.device)
    pix, is_bytes, *shape = cuda.canvas_of(c.pix)
    blocks = min(cuda.tiles(3 * c.size.prod(1).max(), 16 * 256), 64)
    cuda.launch(
        'noise.cu',
        'occupied',
        (blocks, len(pix)),
        (256,),
        pix,
        is_bytes,
        *shape,
        r,
        seen,
        np.float32(nudge),
    )
    return seen


# ---- OpenCV: one image on the CPU ----


def apply_opencv(x, p):
    """x [h, w, 3] float32, Params of one sample -> [h, w, 3] float32."""
    h, w, _ = x.shape
    if p.kind != POISSON:
        c = 1 if p.gray else 3
        n = cv2.LUT(_field(p, h, w * c).reshape(h, w, c), _table(p) * np.float32(factor(p)))
    else:
        level = levels_opencv(
            cv2.transform(x, np.array([LUMA], np.float32)).reshape(h, w, 1) if p.gray else x, NUDGE
        )  # cvtColor's luma weights are others
        V = levels(_distinct(level))
        n = np.empty(level.shape, np.float32)
        np.multiply(poisson(p, level, V), np.float32(p.amount / V), out=n, casting='unsafe')
        n -= np.multiply(level, np.float32(p.amount / 255))
    n = n.reshape(h, w, -1)
    if n.shape[2] == 1:
        n = cv2.cvtColor(n, cv2.COLOR_GRAY2BGR)
    y = cv2.add(x, n, n)
    return np.clip(y, 0, 1, out=y)


def _distinct(level):
    """Number of distinct 8-bit values. More than 128 already mean V = 256, so the first rows often settle it."""
    for part in (level[:48], level):
        n = int((cv2.calcHist([part.reshape(-1, 1)], [0], None, [256], [0, 256]) > 0).sum())
        if n > 128:
            return n
    return n
