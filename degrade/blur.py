"""Blur by one kernel per sample: six bivariate kinds, the circular sinc (Real-ESRGAN, Wang et al. 2021, sec. 3.1-3.2), a motion (imgaug's MotionBlur), or none.

With p = (x, y) an integer offset from the centre (x to the right, y down), S = R(theta) diag(sigma_x^2, sigma_y^2) R(theta)^T and q = p^T S^-1 p:
    gaussian      exp(-q / 2)                       generalised   exp(-q^beta / 2)                      plateau   1 / (1 + q^beta)
    sinc          omega J1(omega |p|) / (2 pi |p|), omega^2 / (4 pi) in the centre
    motion        a line of length 2 sigma_x + 1 in the direction theta, weights from beta at its beginning to 1 - beta at its end, turned with bilinear interpolation:
                  of (u, v) = R(theta)^T p, (beta + (1 - 2 beta) clip((u + sigma_x) / 2 sigma_x)) clip(sigma_x + 1 - |u|) clip(1 - |v|), all clipped to [0, 1]
each divided by its sum. The image is correlated with it, reflected at the border without repeating the edge.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from errors import KernelError

from . import canvas
from . import kernels as cuda

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


class Params(NamedTuple):
    kind: np.ndarray  # [B] int64 index into KINDS; DELTA where the blur is skipped
    taps: np.ndarray  # [B] int64 odd side of the kernel in pixels; 1 where the blur is skipped
    sigma_x: np.ndarray  # [B] float64 pixels; of a motion the distance from its middle to its ends
    sigma_y: np.ndarray  # [B] float64 pixels; = sigma_x for the isotropic kinds
    theta: np.ndarray  # [B] float64 radians; from x towards y, clockwise on the screen
    beta: np.ndarray  # [B] float64 exponent of the generalised and plateau kinds; of a motion the weight of its beginning, 0 to 1
    omega: np.ndarray  # [B] float64 cutoff of the sinc, radians per pixel


def sample(
    draw,
    on,
    sizes,
    *,
    kinds=(1,),
    sinc=0.0,
    taps=(7, 21),
    sigma=(0.2, 3.0),
    beta_gaussian=(0.5, 4.0),
    beta_plateau=(1.0, 2.0),
    omega=((math.pi / 3, math.pi), (math.pi / 5, math.pi)),
    motion=0.0,
    length=(10, 20),
):
    """kinds: weights of the six bivariate kinds; sinc: probability of a sinc instead; omega: its ranges below 13 taps and from 13 on
    motion: probability of a motion instead; length: its range in pixels, even ones grow by 1; taps: range, or None for imgaug's rule of an isotropic Gaussian"""
    kind = np.where(draw.uniform('sinc') < sinc, SINC, draw.choice('kind', kinds))
    kind = np.where(draw.uniform('motion') < motion, MOTION, kind)
    sx, sy = draw.uniform('sigma_x', *sigma), draw.uniform('sigma_y', *sigma)
    k = 2 * draw.integers('taps', taps[0] // 2, taps[1] // 2) + 1 if taps else imgaug_taps(sx)
    k = np.where(kind == MOTION, draw.integers('length', *length) // 2 * 2 + 1, k)
    sx = np.where(kind == MOTION, k // 2, sx)
    iso = np.isin(kind, (ISO, GEN_ISO, PLATEAU_ISO))
    lo, hi = np.where(
        np.isin(kind, (PLATEAU_ISO, PLATEAU_ANISO)),
        np.array([beta_plateau]).T,
        np.array([beta_gaussian]).T,
    )
    u = draw.uniform(
        'beta'
    )  # a fair coin between [lo, 1] and [1, hi]: small and large exponents equally often
    beta = np.where(draw.uniform('beta_side') < 0.5, lo + (1 - lo) * u, 1 + (hi - 1) * u)
    beta = np.where(kind == MOTION, u, beta)
    w = draw.uniform('omega')
    small, large = (a + (b - a) * w for a, b in omega)
    return Params(
        kind=np.where(on, kind, DELTA),
        taps=np.where(on, k, 1),
        sigma_x=sx,
        sigma_y=np.where(iso, sx, sy),
        theta=np.where(iso, 0.0, draw.uniform('theta', -math.pi, math.pi)),
        beta=beta,
        omega=np.where(k < 13, small, large),
    )


def imgaug_taps(sigma):
    """[B] odd taps that hold 95 to 99 % of a Gaussian of sigma [B] pixels, as imgaug's GaussianBlur chooses them."""
    wide = np.maximum(np.where(sigma < 3, 3.3, np.where(sigma < 5, 2.9, 2.6)) * sigma, 5).astype(
        np.int64
    )
    return wide // 2 * 2 + 1


# ---- reference: one image, float64 ----


def _j1(x):
    """Bessel function of the first kind, order 1: (1/pi) int_0^pi cos(t - x sin t) dt; the trapezoid rule converges exponentially (x < 100)."""
    t = (np.arange(400) + 0.5) * (np.pi / 400)
    return np.cos(t - x * np.sin(t)).mean()


def kernel_ref(p):
    """[taps, taps] float64 kernel of one sample's Params."""
    r = p.taps // 2
    k = np.zeros((p.taps, p.taps))
    for y in range(-r, r + 1):
        for x in range(-r, r + 1):
            # The offset in the frame of the axes: u along sigma_x, v along sigma_y.
            u, v = (
                x * math.cos(p.theta) + y * math.sin(p.theta),
                y * math.cos(p.theta) - x * math.sin(p.theta),
            )
            q = (u / p.sigma_x) ** 2 + (v / p.sigma_y) ** 2
            d = math.hypot(x, y)
            if p.kind in (ISO, ANISO):
                k[y + r, x + r] = math.exp(-q / 2)
            elif p.kind in (GEN_ISO, GEN_ANISO):
                k[y + r, x + r] = math.exp(-(q**p.beta) / 2)
            elif p.kind in (PLATEAU_ISO, PLATEAU_ANISO):
                k[y + r, x + r] = 1 / (1 + q**p.beta)
            elif p.kind == SINC:
                k[y + r, x + r] = (
                    p.omega * _j1(p.omega * d) / (2 * math.pi * d)
                    if d
                    else p.omega**2 / (4 * math.pi)
                )
            elif p.kind == MOTION:
                along = min(max((u + p.sigma_x) / (2 * p.sigma_x), 0), 1)
                k[y + r, x + r] = (
                    (p.beta + (1 - 2 * p.beta) * along)
                    * min(max(p.sigma_x + 1 - abs(u), 0), 1)
                    * max(1 - abs(v), 0)
                )
            else:
                k[y + r, x + r] = d == 0
    return k / k.sum()


def apply_ref(x, k):
    """x [h, w, 3] float64, k [n, n] -> [h, w, 3]: y[i, j] = sum_uv k[u, v] x[i + u - r, j + v - r], reflected at the border."""
    r, (h, w, _) = len(k) // 2, x.shape
    xp = np.pad(x, ((r, r), (r, r), (0, 0)), 'reflect')
    y = np.zeros_like(x)
    for u in range(len(k)):
        for v in range(len(k)):
            y += k[u, v] * xp[u : u + h, v : v + w]
    return y


def run_ref(x, p):
    return x if p.kind == DELTA else apply_ref(x, kernel_ref(p))


# ---- torch ----


def kernels(p, device='cpu'):
    """Params of B samples -> [B, K, K] float32, K the largest number of taps; smaller kernels are centred in zeros."""
    K = int(p.taps.max())
    k = np.empty((len(p.kind), K, K))
    for kind in set(p.kind.tolist()):
        i = np.flatnonzero(p.kind == kind)
        k[i] = _values(kind, K, *(f[i, None, None] for f in p[2:]))
    if (p.taps < K).any():
        far = np.maximum(*np.abs(_offsets(K)))
        k *= far <= (p.taps // 2)[:, None, None]
    k /= k.sum((1, 2), keepdims=True)
    return torch.from_numpy(k.astype(np.float32)).to(device)


def _values(kind, K, sx, sy, theta, beta, omega):
    """[b, K, K] float64 values of one kind, not normalised; parameters [b, 1, 1]. NumPy, not torch: for one small kernel its calls cost a quarter."""
    if kind == DELTA:
        return np.ones((len(theta), K, K))
    if kind == SINC:
        radius, where = _radii(K)
        # J1 by the reference's integral, at the few distinct radii; the halves of its range are each other's mirror image.
        sines = np.sin((np.arange(32) + 0.5) * (math.pi / 64))
        j1 = np.sin(omega * radius[:, None] * sines) @ sines / 32  # [b, radii]
        omega = omega[..., 0]
        return np.where(
            radius > 0, omega * j1 / (2 * math.pi * np.maximum(radius, 1)), omega**2 / (4 * math.pi)
        )[:, where]
    x, y = _offsets(K)
    if kind in (ISO, GEN_ISO, PLATEAU_ISO):
        q = (x * x + y * y) / sx**2
    else:
        c, s = np.cos(theta), np.sin(theta)
        u, v = x * c + y * s, y * c - x * s
        if kind == MOTION:
            along = np.clip((u + sx) / (2 * sx), 0, 1)
            return (
                (beta + (1 - 2 * beta) * along)
                * np.clip(sx + 1 - np.abs(u), 0, 1)
                * np.clip(1 - np.abs(v), 0, 1)
            )
        q = (u / sx) ** 2 + (v / sy) ** 2
    if kind in (ISO, ANISO):
        return np.exp(-q / 2)
    return np.exp(-(q**beta) / 2) if kind in (GEN_ISO, GEN_ANISO) else 1 / (1 + q**beta)


@lru_cache(maxsize=None)
def _offsets(K):
    """(x [K, K], y [K, K]) float64, from the centre."""
    off = np.arange(K, dtype=np.float64) - K // 2
    return np.broadcast_to(off, (K, K)), np.broadcast_to(off[:, None], (K, K))


@lru_cache(maxsize=None)
def _radii(K):
    """Distinct distances to the centre of a K x K grid, and the [K, K] index of each point's distance."""
    off = np.arange(K) - K // 2
    squared, where = np.unique(off[:, None] ** 2 + off**2, return_inverse=True)
    return np.sqrt(squared), where.reshape(K, K)


def apply_torch(x, k):
    """x [B, 3, h, w], k [B, K, K] (odd K) -> [B, 3, h, w]; one grouped convolution, no kernel shared between samples."""
    b, c, h, w = x.shape
    r = k.shape[-1] // 2
    xp = F.pad(x, (r, r, r, r), 'reflect').reshape(1, b * c, h + 2 * r, w + 2 * r)
    return F.conv2d(xp, k.repeat_interleave(c, 0)[:, None], groups=b * c).view(b, c, h, w)


def run_torch(c, p, opencv=False):
    if (p.kind == DELTA).all():
        return c
    if opencv and len(p.kind) == 1:
        return canvas.of(
            canvas.nchw(
                apply_opencv(canvas.hwc(c.pix), kernels(p)[0].numpy(), separable=p.kind[0] == ISO)
            )
        )
    return canvas.each_size(c, p, lambda x, q: apply_torch(x, kernels(q, x.device)))


# ---- CUDA ----

MOST_TAPS = 41  # what the shared memory of a block holds


def record(p, size):
    real, whole = (
        [(n, np.float64) for n in ('sigma_x', 'sigma_y', 'theta', 'beta', 'omega')],
        [(n, np.int32) for n in ('kind', 'taps')],
    )
    return cuda.record(real + whole, size, **p._asdict())


def run_cuda(c, p, r):
    """c: Canvas on the GPU; r: `record` of p and c.size on the GPU."""
    if (p.kind == DELTA).all():
        return c
    return apply_cuda(c, kernels_cuda(p, r), r)


def kernels_cuda(p, r):
    """[B, K * K] float32 as `apply_cuda` takes them, K the largest number of taps. Raises KernelError for more than 41."""
    most = int(p.taps.max())
    if most > MOST_TAPS:
        raise KernelError(
            f"a blur of {most} taps: impl='cuda' takes up to {MOST_TAPS}; choose fewer, or impl='torch'"
        )
    k = torch.empty(len(p.taps), most**2, device=r.device)
    cuda.launch('blur.cu', 'make', (len(k),), (256,), r, k, np.int32(most**2))
    return k


def apply_cuda(c, k, r):
    """k [B, K * K] float32, K <= 41: taps x taps values of every sample, row by row; `taps` values of the margin where r has it isotropic Gaussian."""
    name = 'blur21' if k.shape[1] <= 21**2 else 'blur41'
    h, w = c.size.max(0)
    y = cuda.blank(c.pix)
    pix, *shape = cuda.canvas_of(c.pix)
    cuda.launch(
        'blur.cu',
        name,
        (cuda.tiles(w, 32), cuda.tiles(h, 32), 3 * len(k)),
        (32, 4),
        pix,
        shape[0],
        y,
        *shape[1:],
        r,
        k,
        np.int32(k.shape[1]),
    )
    return c._replace(pix=y)


# ---- OpenCV: one image on the CPU ----

_DIRECT = 90  # kernels of up to so many taps are summed directly, larger ones go through an FFT; measured on one core with AVX-512


def apply_opencv(x, k, separable=False):
    """x [h, w, 3] uint8 or float32 in [0, 1], k [n, n] float32 -> [h, w, 3] float32, by whichever way is fastest for this kernel."""
    k = _trim(k)
    if separable:  # an isotropic Gaussian is the outer product of its margins
        scale = 255 if x.dtype == np.uint8 else 1
        row, column = (k.sum(axis, dtype=np.float64).astype(np.float32) for axis in (0, 1))
        return cv2.sepFilter2D(
            x, cv2.CV_32F, row / np.float32(scale), column, borderType=cv2.BORDER_REFLECT_101
        )
    if k.size == 1:
        return canvas.unit_array(x) * k[0, 0]
    if k.size <= _DIRECT:
        return cv2.filter2D(canvas.unit_array(x), -1, k, borderType=cv2.BORDER_REFLECT_101)
    return _fourier(
        x, k
    )  # filter2D has an FFT of its own from 130 taps on, which takes four times as long


def _trim(k, mass=2.5e-7):
    """Drop the outer rows and columns whose absolute values sum to less than `mass` on each side: they cannot move an 8-bit value, and many kernels
    are far smaller than their frame. Stays centred, odd and as wide or high as it must."""
    ry, rx = len(k) // 2, len(k) // 2
    a = np.abs(k)
    rows, columns = (np.cumsum(a.sum(axis, dtype=np.float64)) for axis in (1, 0))
    top = min(
        np.searchsorted(rows, mass),
        np.searchsorted(np.cumsum(a[::-1].sum(1, dtype=np.float64)), mass),
        ry,
    )
    left = min(
        np.searchsorted(columns, mass),
        np.searchsorted(np.cumsum(a[:, ::-1].sum(0, dtype=np.float64)), mass),
        rx,
    )
    return k[top : len(k) - top, left : len(k) - left]


@lru_cache(maxsize=None)
def _fast_length(n):
    """Smallest multiple of 16 from n on with no prime factor above 7: other lengths take cv2.dft two to five times as long."""
    m = -(-n // 16) * 16
    while _without_factors(m, (2, 3, 5, 7)) > 1:
        m += 16
    return m


def _without_factors(n, primes):
    for f in primes:
        while n % f == 0:
            n //= f
    return n


def _fourier(x, k):
    """The same correlation by FFT, plane by plane."""
    (m, n), (h, w, _) = k.shape, x.shape
    kernel = spectrum(k, fast_size(h, w, m, n))
    return cv2.merge([correlate(canvas.unit_array(p), kernel, m, n) for p in cv2.split(x)])


def fast_size(h, w, m, n):
    """Transform size for an image [h, w] and a kernel [m, n]."""
    return _fast_length(h + m - 1), _fast_length(w + n - 1)


def spectrum(k, size):
    """Transform of a kernel [m, n] around its centre, for `correlate`: OpenCV's packed form [H, W], or [H, W, 1] gains if the kernel is its own mirror image.

    All kinds of kernels here but a motion are: then the transform is real, and applying it is one product per value, a fifth of mulSpectrums' time.
    """
    m, n = k.shape
    around = np.zeros(size, np.float32)
    around[np.ix_(np.arange(m) - m // 2, np.arange(n) - n // 2)] = k / np.float32(
        size[0] * size[1]
    )  # the scale of the inverse transform
    packed = cv2.dft(around, around)
    if np.abs(k - k[::-1, ::-1]).max() > 1e-8:
        return packed
    # Packed pairs (re, im) lie along the rows, but down the first and, for an even width, the last column.
    packed[:, 2:-1:2] = packed[:, 1:-1:2]
    packed[2:-1:2, [0, -1]] = packed[1:-1:2, [0, -1]]
    return packed[..., None]


def correlate(plane, kernel, m, n):
    """plane [h, w] float32, `spectrum` of an m x n kernel (odd sides) -> [h, w], reflected at the border."""
    (h, w), (H, W) = plane.shape, kernel.shape[:2]
    top, left = m // 2, n // 2
    y = cv2.copyMakeBorder(plane, top, H - h - top, left, W - w - left, cv2.BORDER_REFLECT_101)
    cv2.dft(y, y)
    if kernel.ndim == 3:
        cv2.multiply(y, kernel[..., 0], y)
    else:
        cv2.mulSpectrums(y, kernel, 0, y, conjB=True)  # conjugate: correlation, not convolution
    cv2.idft(y, y, flags=cv2.DFT_REAL_OUTPUT)
    return y[top : top + h, left : left + w]
