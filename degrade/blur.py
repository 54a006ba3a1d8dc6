"""Blur by one kernel per sample.

There are six bivariate kinds and the circular sinc (Real-ESRGAN, Wang et al. 2021, sec. 3.1-3.2), a
motion (imgaug's MotionBlur), and none. With p = (x, y) an integer offset from the centre (x to the
right, y down), S = R(theta) diag(sigma_x^2, sigma_y^2) R(theta)^T and q = p^T S^-1 p:

    gaussian      exp(-q / 2)
    generalised   exp(-q^beta / 2)
    plateau       1 / (1 + q^beta)
    sinc          omega J1(omega |p|) / (2 pi |p|), omega^2 / (4 pi) in the centre
    motion        a line of length 2 sigma_x + 1 in the direction theta, with weights from beta at
                  its beginning to 1 - beta at its end, turned with bilinear interpolation: of
                  (u, v) = R(theta)^T p, with all three clips to [0, 1],
                  (beta + (1 - 2 beta) clip((u + sigma_x) / 2 sigma_x))
                  clip(sigma_x + 1 - |u|) clip(1 - |v|)

each divided by its sum. The image is correlated with it and reflected at the border, without
repeating the edge.
"""

import math
from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from errors import KernelError

from . import canvas, fourier
from . import kernels as cuda
from .canvas import Canvas
from .draw import Draw
from .op import Sizes, number
from .ranges import PROBABILITY, Interval, Intervals, Values, Weights

KINDS = (
    'iso',
    'aniso',
    'generalized_iso',
    'generalized_aniso',
    'plateau_iso',
    'plateau_aniso',
    'sinc',
    'delta',
    'motion',
)
ISO, ANISO, GEN_ISO, GEN_ANISO, PLATEAU_ISO, PLATEAU_ANISO, SINC, DELTA, MOTION = range(9)

Range = tuple[float, float]


# Of recipe files; see `sample`.
_SIGMAS = Interval(0.01, 50)
RANGES: Mapping[str, Values] = {
    'kinds': Weights(KINDS[:6]),
    'sinc': PROBABILITY,
    'taps': Interval(3, 41, whole=True, unless='from sigma'),
    'sigma': _SIGMAS,
    'beta_gaussian': Interval(0.1, 10),
    'beta_plateau': Interval(0.1, 10),
    'omega': Intervals(('small', 'large'), Interval(0.01, math.pi)),
    'motion': PROBABILITY,
    'length': Interval(3, 41, whole=True),
}


class Params(NamedTuple):
    """What each sample's kernel is made of."""

    kind: np.ndarray  # [B] int64 index into KINDS; DELTA where the blur is skipped
    taps: np.ndarray  # [B] int64 odd side of the kernel in pixels; 1 where the blur is skipped
    sigma_x: np.ndarray  # [B] float64 pixels; of a motion the distance from its middle to its ends
    sigma_y: np.ndarray  # [B] float64 pixels; = sigma_x for the isotropic kinds
    theta: np.ndarray  # [B] float64 radians; from x towards y, clockwise on the screen
    # [B] float64 exponent of the generalised and plateau kinds; of a motion the weight of its
    # beginning, 0 to 1.
    beta: np.ndarray
    omega: np.ndarray  # [B] float64 cutoff of the sinc, radians per pixel


def sample(
    draw: Draw,
    on: np.ndarray,
    sizes: Sizes,
    *,
    kinds: tuple[float, ...] = (1,),
    sinc: float = 0.0,
    taps: tuple[int, int] | None = (7, 21),
    sigma: Range = (0.2, 3.0),
    beta_gaussian: Range = (0.5, 4.0),
    beta_plateau: Range = (1.0, 2.0),
    omega: tuple[Range, Range] = ((math.pi / 3, math.pi), (math.pi / 5, math.pi)),
    motion: float = 0.0,
    length: tuple[int, int] = (10, 20),
) -> Params:
    """Draw kernels.

    kinds:  weights of the six bivariate kinds
    sinc:   probability of a sinc instead
    taps:   range of the kernel's side, or None for imgaug's rule of an isotropic Gaussian
    omega:  ranges of the sinc's cutoff below 13 taps and from 13 on
    motion: probability of a motion instead
    length: range of a motion's length in pixels; even lengths grow by 1
    """
    kind = np.where(draw.uniform('sinc') < sinc, SINC, draw.choice('kind', kinds))
    if motion:
        kind = np.where(draw.uniform('motion') < motion, MOTION, kind)

    # Extent: a motion is as long as its kernel is wide, and has no sigma of its own.
    sx, sy = draw.uniform('sigma_x', *sigma), draw.uniform('sigma_y', *sigma)
    side = 2 * draw.integers('taps', taps[0] // 2, taps[1] // 2) + 1 if taps else imgaug_taps(sx)
    if motion:
        moves = kind == MOTION
        side = np.where(moves, draw.integers('length', *length) // 2 * 2 + 1, side)
        sx = np.where(moves, side // 2, sx)
    iso = np.isin(kind, (ISO, GEN_ISO, PLATEAU_ISO))

    # Draws of what a sample's kind does not use are harmless: every draw has a name of its own.
    w = draw.uniform('omega')
    small, large = (low + (high - low) * w for low, high in omega)
    return Params(
        kind=np.where(on, kind, DELTA),
        taps=np.where(on, side, 1),
        sigma_x=sx,
        sigma_y=np.where(iso, sx, sy),
        theta=np.where(iso, 0.0, draw.uniform('theta', -math.pi, math.pi)),
        beta=_draw_beta(draw, kind, beta_gaussian, beta_plateau),
        omega=np.where(side < 13, small, large),
    )


def _draw_beta(draw: Draw, kind: np.ndarray, gaussian: Range, plateau: Range) -> np.ndarray:
    """[B] exponents, or weights of a motion's beginning.

    A fair coin chooses between [low, 1] and [1, high], so that small and large exponents are
    equally frequent.
    """
    is_plateau = np.isin(kind, (PLATEAU_ISO, PLATEAU_ANISO))
    low, high = np.where(is_plateau, np.array([plateau]).T, np.array([gaussian]).T)
    u = draw.uniform('beta')
    small = draw.uniform('beta_side') < 0.5
    beta = np.where(small, low + (1 - low) * u, 1 + (high - 1) * u)
    return np.where(kind == MOTION, u, beta)


def imgaug_taps(sigma: np.ndarray) -> np.ndarray:
    """[B] odd taps that hold 95 to 99 % of a Gaussian of sigma [B] pixels.

    The rule is that of imgaug's GaussianBlur.
    """
    reach = np.select([sigma < 3, sigma < 5], [3.3, 2.9], 2.6)  # in sigmas
    whole = np.maximum(reach * sigma, 5).astype(np.int64)
    return whole // 2 * 2 + 1


def gaussian(sigma: np.ndarray, on: np.ndarray) -> Params:
    """Isotropic Gaussians of 2 ceil(3 sigma) + 1 taps; none where not `on`. Both [B], or of one."""
    sigma = np.asarray(sigma)
    rest = np.zeros_like(sigma)
    return Params(
        kind=np.where(on, ISO, DELTA),
        taps=np.where(on, 2 * np.ceil(3 * sigma).astype(np.int64) + 1, 1),
        sigma_x=sigma,
        sigma_y=sigma,
        theta=rest,
        beta=rest,
        omega=rest,
    )


def told(p: Params, size: np.ndarray) -> list[str]:
    """Kind and shape of one sample's kernel in words, [] without one."""
    unused = {'kind', 'omega'}
    if p.kind == DELTA:
        return []
    if p.kind == SINC:
        unused = {'kind', 'sigma_x', 'sigma_y', 'theta', 'beta'}
    elif p.kind == MOTION:
        unused |= {'sigma_y'}
    elif p.kind in (ISO, GEN_ISO, PLATEAU_ISO):
        unused |= {'sigma_y', 'theta'}
    if p.kind in (ISO, ANISO):
        unused.add('beta')
    fields = p._asdict().items()
    return [KINDS[int(p.kind)], *(f'{k} {number(v)}' for k, v in fields if k not in unused)]


# ---- reference: one image, float64 ----


def _j1(x: float) -> float:
    """Bessel function of the first kind, order 1: (1/pi) int_0^pi cos(t - x sin t) dt.

    The trapezoid rule converges exponentially (x < 100).
    """
    t = (np.arange(400) + 0.5) * (np.pi / 400)
    return np.cos(t - x * np.sin(t)).mean()


def kernel_ref(p: Params) -> np.ndarray:
    """[taps, taps] float64 kernel of one sample's Params."""
    r = p.taps // 2
    k = np.zeros((p.taps, p.taps))
    for y in range(-r, r + 1):
        for x in range(-r, r + 1):
            k[y + r, x + r] = _value_ref(p, x, y)
    return k / k.sum()


def _value_ref(p: Params, x: int, y: int) -> float:
    """Value at an offset from the centre, not normalised."""
    if p.kind == SINC:
        return _sinc_ref(float(p.omega), math.hypot(x, y))
    if p.kind == DELTA:
        return float(x == 0 and y == 0)

    # The offset in the frame of the axes: u along sigma_x, v along sigma_y.
    u = x * math.cos(p.theta) + y * math.sin(p.theta)
    v = y * math.cos(p.theta) - x * math.sin(p.theta)
    if p.kind == MOTION:
        return _motion_ref(p, u, v)
    q = (u / p.sigma_x) ** 2 + (v / p.sigma_y) ** 2
    if p.kind in (ISO, ANISO):
        return math.exp(-q / 2)
    if p.kind in (GEN_ISO, GEN_ANISO):
        return math.exp(-(q**p.beta) / 2)
    return 1 / (1 + q**p.beta)


def _sinc_ref(omega: float, d: float) -> float:
    if d == 0:
        return omega**2 / (4 * math.pi)
    return omega * _j1(omega * d) / (2 * math.pi * d)


def _motion_ref(p: Params, u: float, v: float) -> float:
    along = min(max((u + p.sigma_x) / (2 * p.sigma_x), 0), 1)
    weight = p.beta + (1 - 2 * p.beta) * along
    return weight * min(max(p.sigma_x + 1 - abs(u), 0), 1) * max(1 - abs(v), 0)


def apply_ref(x: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Correlate [h, w, 3] float64 with a kernel [n, n], reflected at the border.

    y[i, j] = sum_uv k[u, v] x[i + u - r, j + v - r].
    """
    r, (h, w, _) = len(k) // 2, x.shape
    xp = np.pad(x, ((r, r), (r, r), (0, 0)), 'reflect')
    y = np.zeros_like(x)
    for u in range(len(k)):
        for v in range(len(k)):
            y += k[u, v] * xp[u : u + h, v : v + w]
    return y


def run_ref(x: np.ndarray, p: Params) -> np.ndarray:
    """Blur an image [h, w, 3] float64."""
    return x if p.kind == DELTA else apply_ref(x, kernel_ref(p))


# ---- torch ----


def kernels(p: Params, device: torch.device | str = 'cpu') -> torch.Tensor:
    """[B, K, K] float32 kernels, K the largest number of taps.

    Smaller kernels are centred in zeros.
    """
    # Values on a frame for the largest kernel, kind by kind; p[2:] are sigma_x to omega.
    K = int(p.taps.max())
    k = np.empty((len(p.kind), K, K))
    for kind in set(p.kind.tolist()):
        i = np.flatnonzero(p.kind == kind)
        k[i] = _values(kind, K, *(field[i, None, None] for field in p[2:]))
    if (p.taps < K).any():
        distance = np.maximum(*np.abs(_offsets(K)))
        k *= distance <= (p.taps // 2)[:, None, None]
    # Normalised after the cut: the rim outside a kernel's taps does not count.
    k /= k.sum((1, 2), keepdims=True)
    return torch.from_numpy(k.astype(np.float32)).to(device)


def _values(
    kind: int,
    K: int,
    sx: np.ndarray,
    sy: np.ndarray,
    theta: np.ndarray,
    beta: np.ndarray,
    omega: np.ndarray,
) -> np.ndarray:
    """[b, K, K] float64 values of one kind, not normalised; parameters [b, 1, 1].

    NumPy rather than torch: for one small kernel its calls take a quarter of the time.
    """
    if kind == DELTA:
        return np.ones((len(theta), K, K))  # K = 1, or cut down to the centre by the caller
    if kind == SINC:
        return _sinc(K, omega)
    x, y = _offsets(K)
    if kind in (ISO, GEN_ISO, PLATEAU_ISO):
        return _profile(kind, (x * x + y * y) / sx**2, beta)

    # The other kinds have a direction: u along sigma_x, v along sigma_y.
    c, s = np.cos(theta), np.sin(theta)
    u, v = x * c + y * s, y * c - x * s
    if kind == MOTION:
        along = np.clip((u + sx) / (2 * sx), 0, 1)
        weight = beta + (1 - 2 * beta) * along
        return weight * np.clip(sx + 1 - np.abs(u), 0, 1) * np.clip(1 - np.abs(v), 0, 1)
    return _profile(kind, (u / sx) ** 2 + (v / sy) ** 2, beta)


def _profile(kind: int, q: np.ndarray, beta: np.ndarray) -> np.ndarray:
    """Values of a bivariate kind at squared distances q, measured in sigmas."""
    if kind in (ISO, ANISO):
        return np.exp(-q / 2)
    if kind in (GEN_ISO, GEN_ANISO):
        return np.exp(-(q**beta) / 2)
    return 1 / (1 + q**beta)


def _sinc(K: int, omega: np.ndarray) -> np.ndarray:
    """[b, K, K] values of the sinc; omega [b, 1, 1]."""
    # J1 by the reference's integral, at the few distinct radii; the two halves of its range are
    # mirror images of each other.
    radius, where = _radii(K)
    sines = np.sin((np.arange(32) + 0.5) * (math.pi / 64))
    j1 = np.sin(omega * radius[:, None] * sines) @ sines / 32  # [b, radii]

    omega = omega[..., 0]
    outside = omega * j1 / (2 * math.pi * np.maximum(radius, 1))
    return np.where(radius > 0, outside, omega**2 / (4 * math.pi))[:, where]


@cache
def _offsets(K: int) -> tuple[np.ndarray, np.ndarray]:
    """(x [K, K], y [K, K]) float64, from the centre."""
    off = np.arange(K, dtype=np.float64) - K // 2
    return np.broadcast_to(off, (K, K)), np.broadcast_to(off[:, None], (K, K))


@cache
def _radii(K: int) -> tuple[np.ndarray, np.ndarray]:
    """Distinct distances to the centre of a K x K grid, and each point's index [K, K] into them."""
    # Integers, so that equal distances are equal to the bit.
    off = np.arange(K) - K // 2
    squared, where = np.unique(off[:, None] ** 2 + off**2, return_inverse=True)
    return np.sqrt(squared), where.reshape(K, K)


def apply_torch(x: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """Correlate [B, 3, h, w] with kernels [B, K, K], K odd.

    One grouped convolution in which no samples share a kernel.
    """
    b, c, h, w = x.shape
    r = k.shape[-1] // 2
    xp = canvas.reflected(x, r).reshape(1, b * c, h + 2 * r, w + 2 * r)
    return F.conv2d(xp, k.repeat_interleave(c, 0)[:, None], groups=b * c).view(b, c, h, w)


def run_torch(c: Canvas, p: Params, opencv: bool = False) -> Canvas:
    """Blur a batch."""
    if (p.kind == DELTA).all():
        return c
    if opencv and len(p.kind) == 1:
        kernel = kernels(p)[0].numpy()
        blurred = apply_opencv(canvas.hwc(c.pix), kernel, separable=p.kind[0] == ISO)
        return canvas.of(canvas.nchw(blurred))
    return canvas.each_size(c, p, lambda x, q: apply_torch(x, kernels(q, x.device)))


# ---- CUDA ----

MOST_TAPS = 41  # what the shared memory of a block holds


def record(p: Params, size: np.ndarray) -> np.ndarray:
    """Structs for blur.cu."""
    reals = [(name, np.float64) for name in ('sigma_x', 'sigma_y', 'theta', 'beta', 'omega')]
    integers = [(name, np.int32) for name in ('kind', 'taps')]
    return cuda.record([*reals, *integers], size, **p._asdict())


def run_cuda(c: Canvas, p: Params, r: torch.Tensor) -> Canvas:
    """Blur a batch on the GPU. r: `record` of p and c.size, on the GPU.

    Raises KernelError for more than 41 taps.
    """
    if (p.kind == DELTA).all():
        return c
    k, spans = _made(p, r)
    return apply_cuda(c, k, r, spans)


def kernels_cuda(p: Params, r: torch.Tensor) -> torch.Tensor:
    """[B, K * K] float32 as `apply_cuda` takes them, K the largest number of taps.

    Raises KernelError for more than 41.
    """
    return _made(p, r)[0]


def _made(p: Params, r: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Kernels, and spans of their taps that matter, as `apply_cuda` takes them."""
    most = int(p.taps.max())
    if most > MOST_TAPS:
        raise KernelError(
            f"a blur of {most} taps: impl='cuda' takes up to {MOST_TAPS}; "
            "choose fewer, or impl='torch'"
        )
    k = torch.empty(len(p.taps), most**2, device=r.device)
    spans = torch.empty(len(p.taps), MOST_TAPS + 1, 2, dtype=torch.int16, device=r.device)
    cuda.launch('blur.cu', 'make', (len(k),), (256,), r, k, np.int32(most**2), spans)
    return k, spans


def apply_cuda(
    c: Canvas, k: torch.Tensor, r: torch.Tensor, spans: torch.Tensor | None = None
) -> Canvas:
    """Correlate a batch with its kernels on the GPU.

    k:     [B, K * K] float32, K <= 41: taps x taps values of every sample, row by row; only the
           `taps` values of the margin where r says that it is an isotropic Gaussian
    spans: [B, 42, 2] int16: first and number of the taps that matter, of every column; the last
           holds their reach across and down. All taps matter if None.
    """
    name, rows = ('blur21', 64) if k.shape[1] <= 21**2 else ('blur41', 48)
    h, w = c.size.max(0)
    y = cuda.blank(c.pix)
    pix, is_bytes, *shape = cuda.canvas_of(c.pix)
    grid = (cuda.tiles(w, 64), cuda.tiles(h, rows), 3 * len(k))
    arguments = (pix, is_bytes, y, *shape, r, k, np.int32(k.shape[1]), spans)
    cuda.launch('blur.cu', name, grid, (64, rows // 16), *arguments)
    return c._replace(pix=y)


# ---- OpenCV: one image on the CPU ----

# Kernels of up to so many taps in all are summed directly, larger ones go through an FFT. Measured
# on one core with AVX-512.
_DIRECT = 90


def apply_opencv(x: np.ndarray, k: np.ndarray, separable: bool = False) -> np.ndarray:
    """Correlate [h, w, 3], uint8 or float32 in [0, 1], with a kernel [n, n] float32.

    Whichever way is fastest for this kernel is taken; `separable` says that it is the outer product
    of its margins, as an isotropic Gaussian is. Returns float32.
    """
    k = _trim(k)
    if separable:
        scale = 255 if x.dtype == np.uint8 else 1
        row, column = (k.sum(axis, dtype=np.float64).astype(np.float32) for axis in (0, 1))
        row = row / np.float32(scale)
        return cv2.sepFilter2D(x, cv2.CV_32F, row, column, borderType=cv2.BORDER_REFLECT_101)
    if k.size == 1:
        return canvas.unit_array(x) * k[0, 0]
    if k.size <= _DIRECT:
        return cv2.filter2D(canvas.unit_array(x), -1, k, borderType=cv2.BORDER_REFLECT_101)
    # filter2D has an FFT of its own from 130 taps on, which takes four times as long.
    return _fourier(x, k)


def _trim(k: np.ndarray, mass: float = 2.5e-7) -> np.ndarray:
    """Drop the outer rows and columns whose absolute values sum to less than `mass` on each side.

    They cannot move an 8-bit value, and many kernels are far smaller than their frame. The kernel
    stays centred, odd, and as wide or high as it must be.
    """
    a = np.abs(k)
    top = min(_below(a, mass), _below(a[::-1], mass), len(k) // 2)
    left = min(_below(a.T, mass), _below(a.T[::-1], mass), len(k) // 2)
    return k[top : len(k) - top, left : len(k) - left]


def _below(a: np.ndarray, mass: float) -> int:
    """Number of first rows that sum to less than `mass`."""
    return int(np.searchsorted(np.cumsum(a.sum(1, dtype=np.float64)), mass))


def _fourier(x: np.ndarray, k: np.ndarray) -> np.ndarray:
    """The same correlation by FFT, plane by plane."""
    (m, n), (h, w, _) = k.shape, x.shape
    kernel = fourier.spectrum(k, fourier.fast_size(h, w, m, n))
    return cv2.merge([fourier.correlate(canvas.unit_array(p), kernel, m, n) for p in cv2.split(x)])
