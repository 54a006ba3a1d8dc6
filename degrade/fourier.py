"""Correlation by FFT with OpenCV, for kernels too large to be summed directly."""

from functools import cache

import cv2
import numpy as np


def fast_size(h: int, w: int, m: int, n: int) -> tuple[int, int]:
    """Transform size for an image [h, w] and a kernel [m, n]."""
    return _fast_length(h + m - 1), _fast_length(w + n - 1)


@cache
def _fast_length(n: int) -> int:
    """Smallest multiple of 16 from n on with no prime factor above 7.

    Other lengths take cv2.dft two to five times as long.
    """
    # Such lengths lie close together: from 256 on the next is at most a seventh away.
    m = -(-n // 16) * 16
    while _without_factors(m, (2, 3, 5, 7)) > 1:
        m += 16
    return m


def _without_factors(n: int, primes: tuple[int, ...]) -> int:
    for f in primes:
        while n % f == 0:
            n //= f
    return n


def spectrum(k: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Transform of a kernel [m, n] around its centre, for `correlate`.

    It has OpenCV's packed form [H, W]; if the kernel is its own mirror image, it is [H, W, 1] gains
    instead. All kinds of kernels here except a motion are: the transform is then real, and applying
    it is one product per value, a fifth of mulSpectrums' time.
    """
    # The values lie around the origin and carry the scale of the inverse transform.
    m, n = k.shape
    around = np.zeros(size, np.float32)
    rows, columns = np.arange(m) - m // 2, np.arange(n) - n // 2
    around[np.ix_(rows, columns)] = k / np.float32(size[0] * size[1])
    packed = cv2.dft(around, around)
    if np.abs(k - k[::-1, ::-1]).max() > 1e-8:
        return packed

    # Packed pairs (re, im) lie along the rows, but down the first and, for an even width, the last
    # column.
    packed[:, 2:-1:2] = packed[:, 1:-1:2]
    packed[2:-1:2, [0, -1]] = packed[1:-1:2, [0, -1]]
    return packed[..., None]


def correlate(plane: np.ndarray, kernel: np.ndarray, m: int, n: int) -> np.ndarray:
    """Correlate [h, w] float32 with the `spectrum` of an m x n kernel (odd sides).

    Reflected at the border. Returns [h, w].
    """
    (h, w), (H, W) = plane.shape, kernel.shape[:2]
    top, left = m // 2, n // 2
    y = cv2.copyMakeBorder(plane, top, H - h - top, left, W - w - left, cv2.BORDER_REFLECT_101)
    # Transform, multiply, transform back, in place; the kernel carries the scale.
    cv2.dft(y, y)
    if kernel.ndim == 3:
        cv2.multiply(y, kernel[..., 0], y)
    else:
        cv2.mulSpectrums(y, kernel, 0, y, conjB=True)  # conjugate: correlation, not convolution
    cv2.idft(y, y, flags=cv2.DFT_REAL_OUTPUT)
    return y[top : top + h, left : left + w]
