"""Gaussian, Laplace, signed and Poisson noise from addressed random bits, coloured or grey.

The kinds are those of Real-ESRGAN (sec. 3.1) and imgaug's additive noises; a field is the same on
every machine.

    Gaussian, Laplace, signed:  x + amount z, with z from a quantile table of 65,536 entries that 16
        random bits index. Signed is imgaug's AdditivePoissonNoise: Poisson counts of a fixed rate
        in grey levels, each with a sign of its own; its rates here are whole numbers.
    Poisson:  with x8 = round(255 x) and V = 2^ceil(log2(number of distinct 8-bit values)),
        x + scale (Poisson(x8/255 V) / V - x8/255), sampled by integer alias tables.
    Grey:  one plane for the three channels; Poisson then works on the luma (.2989, .587, .114).

All of them are clamped to [0, 1].

Bits: value i of a field (row-major over true height, width and channel; over height and width for
grey) takes the i-th 16 bits of plane 0 of `draw.bits16`, and for Poisson the i-th byte of plane 1.
"""

import itertools
import math
import statistics
from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

import cv2
import numpy as np
import torch

from . import canvas
from . import kernels as cuda
from .canvas import Canvas
from .draw import Draw, bits16
from .op import Sizes, number
from .quantize import NUDGE, levels_opencv
from .ranges import PROBABILITY, Interval, Values, Weights

KINDS = 'none', 'gaussian', 'poisson', 'laplace', 'signed'
NONE, GAUSSIAN, POISSON, LAPLACE, SIGNED = range(5)
MOST_RATE = 32  # of signed counts: each rate has a table
LUMA = 0.2989, 0.587, 0.114

Range = tuple[float, float]


# Of recipe files; see `sample`.
RANGES: Mapping[str, Values] = {
    'kinds': Weights(KINDS[1:]),
    'sigma': Interval(0, 255),
    'scale': Interval(0, 10),
    'laplace': Interval(0, 255),
    'rate': Interval(1, MOST_RATE, whole=True),
    'gray': PROBABILITY,
}


class Params(NamedTuple):
    """Kind and strength of each sample's noise, and the address of its field."""

    kind: np.ndarray  # [B] int64 index into KINDS
    gray: np.ndarray  # [B] bool
    # [B] float64 in image units, in which 1/255 is one grey level: Gaussian sigma, Laplace scale or
    # signed rate; of Poisson the scale of the noise.
    amount: np.ndarray
    seed: np.ndarray  # [B] uint64 key of the field
    stream: np.ndarray  # [B] uint64 key of the field
    number: np.ndarray  # [B] int64 sample number of the field


def sample(
    draw: Draw,
    on: np.ndarray,
    sizes: Sizes,
    *,
    kinds: tuple[float, ...] = (0.5, 0.5),
    sigma: Range = (1, 20),
    scale: Range = (0.05, 2.0),
    laplace: Range = (20, 40),
    rate: tuple[int, int] = (15, 30),
    gray: float = 0.4,
) -> Params:
    """Draw kinds and strengths.

    kinds:   weights of Gaussian, Poisson, Laplace and signed; a shorter list is fine
    sigma:   range of the Gaussian's standard deviation in grey levels
    scale:   range of Poisson's scale
    laplace: range of Laplace's scale in grey levels
    rate:    range of the signed counts' rate in grey levels, whole numbers up to 32
    gray:    probability of grey noise
    Raises ValueError for a rate above 32.
    """
    if rate[1] > MOST_RATE:
        raise ValueError(f'signed noise of rate {rate[1]}: there are tables for 1 to {MOST_RATE}')
    kind = 1 + draw.choice('kind', kinds)
    amounts = [
        draw.uniform('sigma', *sigma) / 255,
        draw.uniform('scale', *scale),
    ]
    if len(kinds) > 2:
        amounts += [draw.uniform('laplace', *laplace) / 255, draw.integers('rate', *rate) / 255]

    # Where a recipe ties 'plane', the grey samples of a batch share one.
    is_gray = draw.uniform('gray') < gray
    number = np.where(is_gray, draw.numbers('plane'), draw.samples)
    seed, stream = draw.stream('field')
    return Params(
        kind=np.where(on, kind, NONE),
        gray=is_gray,
        amount=np.choose(kind - 1, amounts),
        seed=np.full(len(kind), seed, np.uint64),
        stream=np.full(len(kind), stream, np.uint64),
        number=number,
    )


def told(p: Params, size: np.ndarray) -> list[str]:
    """Kind and strength of one sample's noise in words, [] without any."""
    if p.kind == NONE:
        return []
    return [KINDS[int(p.kind)], f'gray {p.gray}', f'amount {number(p.amount)}']


# ---- tables ----


@cache
def quantiles(kind: int = GAUSSIAN, rate: int = 0) -> np.ndarray:
    """[65536] float32 quantiles at (i + 0.5) / 65536.

    They are those of the standard normal distribution (sigma 0.9997, |z| <= 4.33), of the standard
    Laplace distribution (|z| <= 11.1), or of a signed Poisson count.
    """
    half: list[float]
    if kind == GAUSSIAN:
        half = [statistics.NormalDist().inv_cdf((i + 0.5) / 65536) for i in range(32768)]
    elif kind == LAPLACE:
        half = [math.log((2 * i + 1) / 65536) for i in range(32768)]
    else:
        masses = list(
            itertools.accumulate(range(1, 256), lambda p, k: p * rate / k, initial=math.exp(-rate))
        )
        counts = np.searchsorted(np.cumsum(masses), 1 - (np.arange(32768) + 0.5) / 32768)
        half = [-float(k) for k in counts]
    return np.array(half + [-z for z in reversed(half)], np.float32)


def rate(p: Params) -> np.ndarray:
    """[B] int64 rates of signed counts."""
    return np.rint(255 * p.amount).astype(np.int64)


def factor(p: Params) -> np.ndarray:
    """[B] float64 factors of the fields' values."""
    return np.where(p.kind == SIGNED, 1 / 255, p.amount)


def _table(p: Params) -> np.ndarray:
    """Quantiles of one sample."""
    return quantiles(SIGNED, int(rate(p))) if p.kind == SIGNED else quantiles(int(p.kind))


@cache
def alias(V: int) -> tuple[np.ndarray, ...]:
    """Alias tables (Walker 1977) of Poisson(level V / 255) for level 0..255, V = 1, 2, ... 256.

    Each rate has 256 columns of mass 2^16 out of 2^24: column r8 gives `own` if r16 < threshold,
    else `other`. Returns uint16 [65536] threshold, own and other, indexed by level * 256 + r8. The
    columns start at max(0, round(rate) - 128); all is done in integers, and the total variation to
    the true distribution is at most 1.6e-6.
    """
    rate = np.arange(256, dtype=np.float64)[:, None] * V / 255
    first = np.maximum(np.rint(rate) - 128, 0).astype(np.int64)
    threshold, other = _fill_columns(_poisson_masses(rate, first))
    own = first + np.arange(256)
    return tuple(a.astype(np.uint16).ravel() for a in (threshold, own, first + other))


def _fill_columns(mass: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Thresholds and other columns [256, 256] of masses [256, 256], all levels side by side."""
    level, column = np.arange(256), np.tile(np.arange(256), (256, 1))
    threshold, other = np.zeros((256, 256), np.int64), column.copy()
    left = mass.copy()
    done = np.zeros((256, 256), bool)

    # Robin Hood: the poorest open column is filled up to 2^16 by the richest, 255 times.
    for _ in range(255):
        poor = np.where(done, 1 << 40, left).argmin(1)
        rich = np.where(done, -1, left).argmax(1)
        threshold[level, poor] = left[level, poor]
        other[level, poor] = rich
        left[level, rich] -= (1 << 16) - left[level, poor]
        done[level, poor] = True

    # A full column has the threshold 2^16, which 16 bits cannot hold: store 0 and let both outcomes
    # be its own.
    full = ~done | (threshold == 1 << 16)
    threshold[full] = 0
    other[full] = column[full]
    return threshold, other


def _poisson_masses(rate: np.ndarray, first: np.ndarray) -> np.ndarray:
    """[256, 256] int64 Poisson masses of first .. first + 255, each row summing to 2^24.

    Only products, quotients and running sums are used, so that the bits are the same everywhere.
    """
    k = first + np.arange(256)
    mode = np.minimum(np.floor(rate).astype(np.int64) - first, 255)
    p = np.zeros((256, 256))
    # Relative to the mass at the mode, which avoids underflow at large rates.
    level = np.arange(256)
    p[level, mode[:, 0]] = 1.0

    # Upwards from the mode p(k) = p(k-1) rate / k, downwards p(k) = p(k+1) (k+1) / rate.
    for c in range(1, 256):
        up = c > mode[:, 0]
        p[up, c] = p[up, c - 1] * rate[up, 0] / k[up, c]
    for c in range(254, -1, -1):
        down = (c < mode[:, 0]) & (rate[:, 0] > 0)
        p[down, c] = p[down, c + 1] * k[down, c + 1] / rate[down, 0]

    # The rounding's remainder goes where it matters least.
    mass = np.rint(p / np.cumsum(p, 1)[:, -1:] * (1 << 24)).astype(np.int64)
    mass[level, mode[:, 0]] += (1 << 24) - mass.sum(1)
    return mass


# ---- random fields of one sample ----


def field(p: Params, h: int, w: int) -> np.ndarray:
    """[h, w, 3] float32 normal or Laplace numbers or signed counts; [h, w, 1] if grey."""
    c = 1 if p.gray else 3
    return cv2.LUT(_field(p, h, w * c).reshape(h, w, c), _table(p)).reshape(h, w, c)


def poisson(p: Params, level: np.ndarray, V: int) -> np.ndarray:
    """Draw Poisson(level V / 255): level [h, w, c] uint8 -> [h, w, c] uint16."""
    h, w, c = level.shape
    r16, r8 = _field(p, h, w * c).reshape(h, w, c), _field8(p, h, w * c).reshape(h, w, c)

    # Two bytes side by side are the 16-bit number level * 256 + r8.
    pairs = cv2.merge([r8.reshape(h, -1), level.reshape(h, -1)])
    index = pairs.view(np.uint16).reshape(h, w, c)
    threshold, own, other = (cv2.LUT(index, t).reshape(h, w, c) for t in alias(V))

    # np.where takes forty times as long.
    return cv2.copyTo(own, (r16 < threshold).view(np.uint8), other).reshape(h, w, c)


def _field(p: Params, h: int, w: int) -> np.ndarray:
    """[h, w] uint16 of plane 0."""
    return bits16(int(p.seed), int(p.stream), int(p.number), 0, h * w).reshape(h, w)


def _field8(p: Params, h: int, w: int) -> np.ndarray:
    """[h, w] uint8 of plane 1."""
    words = bits16(int(p.seed), int(p.stream), int(p.number), 1, -(-h * w // 2))
    return words.view(np.uint8)[: h * w].reshape(h, w)


def levels(count: int) -> int:
    """V of `count` distinct 8-bit values: the next power of two."""
    return 1 << (int(count) - 1).bit_length()


# ---- reference: one image, float64 ----


def run_ref(x: np.ndarray, p: Params) -> np.ndarray:
    """Add noise to an image [h, w, 3] float64; the result lies in [0, 1]."""
    if p.kind == NONE:
        return x
    h, w, _ = x.shape
    if p.kind != POISSON:
        return gaussian_ref(x, field(p, h, w).astype(np.float64), factor(p))
    level, V = level_ref(x, p.gray, NUDGE)
    return poisson_ref(x, poisson(p, level, V).astype(np.float64), level, V, p.amount)


def gaussian_ref(x: np.ndarray, z: np.ndarray, sigma: np.ndarray | float) -> np.ndarray:
    """Add sigma z to [h, w, 3], with z [h, w, 3 or 1] standard normal or other numbers."""
    return np.clip(x + z * sigma, 0, 1)


def level_ref(x: np.ndarray, gray: np.ndarray | bool, nudge: float = 0.0) -> tuple[np.ndarray, int]:
    """(8-bit level [h, w, 3 or 1] uint8, V) of x or of its luma."""
    if gray:
        x = (LUMA[0] * x[..., 0] + LUMA[1] * x[..., 1] + LUMA[2] * x[..., 2])[..., None]
    level = np.clip(np.rint(x * 255 + nudge), 0, 255).astype(np.uint8)
    return level, levels(len(np.unique(level)))


def poisson_ref(
    x: np.ndarray, counts: np.ndarray, level: np.ndarray, V: int, scale: np.ndarray | float
) -> np.ndarray:
    """Add Poisson noise: counts ~ Poisson(level V / 255), both [h, w, 3 or 1]."""
    n = counts / V - level / 255.0
    return np.clip(x + scale * n, 0, 1)


# ---- torch ----


def gaussian_torch(x: torch.Tensor, z: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Add sigma z to [B, 3, h, w], with z [B, 3 or 1, h, w] and sigma [B] in image units."""
    return (x + z * sigma.view(-1, 1, 1, 1)).clamp(0, 1)


def level_torch(
    x: torch.Tensor, gray: torch.Tensor, nudge: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """8-bit levels [B, 3, h, w] uint8 and V [B] int64 of x [B, 3, h, w].

    Where gray [B] bool the levels are the luma's on all three channels.
    """
    luma = (LUMA[0] * x[:, 0] + LUMA[1] * x[:, 1] + LUMA[2] * x[:, 2])[:, None]
    value = torch.where(gray.view(-1, 1, 1, 1), luma, x)
    level = value.mul(255).add_(nudge).round_().clamp_(0, 255).to(torch.uint8)
    histograms = [torch.bincount(v.flatten(), minlength=256) for v in level.long()]
    counts = torch.stack([h.ne(0).sum() for h in histograms])
    return level, torch.tensor([levels(c) for c in counts.tolist()])


def poisson_torch(
    x: torch.Tensor,
    counts: torch.Tensor,
    level: torch.Tensor,
    V: torch.Tensor,
    scale: torch.Tensor,
) -> torch.Tensor:
    """Add Poisson noise: counts and level [B, 3 or 1, h, w], V and scale [B]."""
    n = counts / V.view(-1, 1, 1, 1) - level / 255.0
    return (x + scale.view(-1, 1, 1, 1) * n).clamp(0, 1)


def run_torch(c: Canvas, p: Params, opencv: bool = False) -> Canvas:
    """Add noise to a batch."""
    if (p.kind == NONE).all():
        return c
    if opencv and len(p.kind) == 1:
        x = canvas.unit_array(canvas.hwc(c.pix))
        return canvas.of(canvas.nchw(apply_opencv(x, _sample_of(p, 0))))
    return canvas.each_size(c, p, _run)


def _sample_of(p: Params, i: int) -> Params:
    """Parameters of one sample."""
    return Params(*(values[i] for values in p))


def _run(x: torch.Tensor, p: Params) -> torch.Tensor:
    """Samples of one size: the additive kinds together, then Poisson's."""
    h, w = x.shape[-2:]
    amount = torch.from_numpy(factor(p)).float().to(x.device)
    y = x.clone()

    additive = np.flatnonzero((p.kind != NONE) & (p.kind != POISSON))
    if len(additive):
        fields = [_chw(field(_sample_of(p, i), h, w)) for i in additive.tolist()]
        z = torch.stack(fields).to(x.device)
        y[additive] = gaussian_torch(x[additive], z, amount[additive])

    # Poisson's counts are drawn on the CPU, from the levels of the picture.
    poissonian = np.flatnonzero(p.kind == POISSON)
    if len(poissonian):
        is_gray = torch.from_numpy(p.gray[poissonian]).to(x.device)
        level, V = level_torch(x[poissonian], is_gray, NUDGE)
        counts = _counts(level, V, [_sample_of(p, i) for i in poissonian.tolist()])
        counts = counts.to(x.device).to(x.dtype)
        V = V.to(x.device, x.dtype)
        y[poissonian] = poisson_torch(x[poissonian], counts, level, V, amount[poissonian])
    return y


def _counts(level: torch.Tensor, V: torch.Tensor, samples: list[Params]) -> torch.Tensor:
    """[b, 3, h, w] float32 Poisson counts on the CPU."""
    host = level.permute(0, 2, 3, 1).cpu().numpy()
    counts = []
    for own, v, p in zip(host, V, samples, strict=True):
        channels = 1 if p.gray else 3
        counts.append(_chw(poisson(p, own[..., :channels], int(v))))
    return torch.stack(counts)


def _chw(a: np.ndarray) -> torch.Tensor:
    """[h, w, 3 or 1] array -> [3, h, w] float32 tensor."""
    tensor = torch.from_numpy(np.ascontiguousarray(a).astype(np.float32))
    return tensor.permute(2, 0, 1).expand(3, -1, -1)


# ---- CUDA ----


def record(p: Params, size: np.ndarray) -> np.ndarray:
    """Structs for noise.cu."""
    fields = [
        ('amount', np.float64),
        *((name, np.uint64) for name in ('seed', 'stream', 'number')),
        *((name, np.int32) for name in ('kind', 'gray', 'table')),
    ]
    # Tables in the order of `_tables`: normal, Laplace, signed of rate 1, 2, ...
    tables = np.select([p.kind == SIGNED, p.kind == LAPLACE], [1 + rate(p), 1], 0)
    values = p._asdict() | {'amount': factor(p), 'table': tables}
    return cuda.record(fields, size, **values)


@cache
def _tables(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """All tables on the device.

    The lower halves of the quantiles [34, 32768] float32: normal, Laplace, signed of rate 1, 2, ...
    32. The alias tables of V = 1, 2, ... 256 as [9, 65536, 4] 16-bit words: threshold, own, other
    and one unused.
    """
    words = np.zeros((9, 65536, 4), np.uint16)
    for power in range(9):
        words[power, :, :3] = np.stack(alias(1 << power), 1)
    signed = [quantiles(SIGNED, rate) for rate in range(1, MOST_RATE + 1)]
    halves = np.stack([table[:32768] for table in (quantiles(), quantiles(LAPLACE), *signed)])
    return torch.from_numpy(halves).to(device), torch.from_numpy(words.view(np.int16)).to(device)


def run_cuda(
    c: Canvas,
    p: Params,
    r: torch.Tensor,
    field: torch.Tensor | None = None,
    nudge: float = NUDGE,
) -> Canvas:
    """Add noise to a batch on the GPU.

    r:     `record` of p and c.size, on the GPU
    field: numbers or counts to use instead of drawing them, pixels like c's
    """
    if (p.kind == NONE).all():
        return c
    pix, is_bytes, *shape = cuda.canvas_of(c.pix)
    occupied = occupied_cuda(c, r, nudge) if (p.kind == POISSON).any() else None
    y = cuda.blank(pix)
    grid = (cuda.tiles(3 * c.size.prod(1).max(), 4096), len(pix))
    tables = _tables(pix.device)
    arguments = (pix, is_bytes, y, *shape, r, occupied, *tables, np.float32(nudge), field)
    cuda.launch('noise.cu', 'add', grid, (128,), *arguments)
    return c._replace(pix=y)


def occupied_cuda(c: Canvas, r: torch.Tensor, nudge: float) -> torch.Tensor:
    """[B, 8] int32: 256 bits of each Poisson sample, one for each 8-bit level that occurs in it."""
    occupied = torch.zeros(len(c.pix), 8, dtype=torch.int32, device=c.pix.device)
    pix, is_bytes, *shape = cuda.canvas_of(c.pix)
    grid = (min(int(c.size[:, 0].max()), 64), len(pix))
    arguments = (pix, is_bytes, *shape, r, occupied, np.float32(nudge))
    cuda.launch('noise.cu', 'occupied', grid, (256,), *arguments)
    return occupied


# ---- OpenCV: one image on the CPU ----


def apply_opencv(x: np.ndarray, p: Params) -> np.ndarray:
    """Add noise to [h, w, 3] float32, with the parameters of one sample."""
    h, w, _ = x.shape
    n = _poisson_opencv(x, p) if p.kind == POISSON else _additive_opencv(h, w, p)
    n = n.reshape(h, w, -1)
    if n.shape[2] == 1:
        n = cv2.cvtColor(n, cv2.COLOR_GRAY2BGR)
    y = cv2.add(x, n, n)
    return np.clip(y, 0, 1, out=y)


def _additive_opencv(h: int, w: int, p: Params) -> np.ndarray:
    """Field times amount: the table is scaled instead of the picture."""
    c = 1 if p.gray else 3
    return cv2.LUT(_field(p, h, w * c).reshape(h, w, c), _table(p) * np.float32(factor(p)))


def _poisson_opencv(x: np.ndarray, p: Params) -> np.ndarray:
    """The noise that depends on the picture, [h, w, 3 or 1]."""
    # The luma by a matrix of its own: cvtColor's weights are others.
    h, w, _ = x.shape
    value = cv2.transform(x, np.array([LUMA], np.float32)).reshape(h, w, 1) if p.gray else x
    level = levels_opencv(value, NUDGE)
    V = levels(_distinct(level))
    n = np.empty(level.shape, np.float32)
    np.multiply(poisson(p, level, V), np.float32(p.amount / V), out=n, casting='unsafe')
    n -= np.multiply(level, np.float32(p.amount / 255))
    return n


def _distinct(level: np.ndarray) -> int:
    """Number of distinct 8-bit values.

    More than 128 already mean V = 256, so the first rows are often enough.
    """
    first_rows = _occupied(level[:48])
    return first_rows if first_rows > 128 else _occupied(level)


def _occupied(level: np.ndarray) -> int:
    # One column, as calcHist counts the first channel alone.
    histogram = cv2.calcHist([level.reshape(-1, 1)], [0], None, [256], [0, 256])
    return int((histogram > 0).sum())
