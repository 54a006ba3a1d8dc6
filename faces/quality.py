"""How sharp a face in a photograph is: its effective resolution.

The power of sharp faces falls with the third power of the frequency (so it did, within a factor of
two, for 60 faces of 512 pixels); that of a blurred or enlarged one falls away from this line, and
where it does tells the side, in pixels, that the face is worth. Blocks of JPEG count as detail.
"""

from typing import NamedTuple

import cv2
import numpy as np

FALL = 3.0  # exponent of the line
# Cycles a face where every face that is worth restoring still lies on the line.
FIRST, LAST = 5.0, 16.0
LOST = 1 / 16  # of the line's power: less is no longer detail
# Pixels for each cycle up to there: so faces that were averaged down to n pixels are worth n (256:
# 264, 128: 128, 64: 64, 32: 32), also with noise of 16 levels.
PIXELS = 1.6
# Square of the aligned face that is looked at, brows to chin without most of the hair: its corner
# and its side as parts of the whole.
TOP, LEFT, PART = 0.27, 0.2, 0.6


class Sharpness(NamedTuple):
    """What a face is worth, and what its detail is covered with."""

    side: float  # pixels
    noise: float  # levels of 255: standard deviation of what is no detail of a face


def measured(face: np.ndarray) -> Sharpness:
    """Measure an aligned face [s, s, 3] uint8. It is worth s pixels at most.

    Noise counts as no detail: the power of the highest frequencies is taken away from all. What of
    it lies above the line is told as noise; faces that were sharpened have some, too.
    """
    gray = cv2.cvtColor(face, cv2.COLOR_RGB2GRAY).astype(np.float64)
    s = len(gray)
    top, left, n = (int(part * s) for part in (TOP, LEFT, PART))
    inner = gray[top : top + n, left : left + n]
    power = _radial(inner)
    cycles = np.arange(len(power)) * s / len(inner)
    highest = slice(-len(power) // 8, None)

    # Smoothed over a tenth of an octave and more: single frequencies say nothing.
    floor = np.median(power[highest])
    power = np.maximum(power - floor, 1e-9)
    level = np.log(power) + FALL * np.log(np.maximum(cycles, 1))
    # The line is laid through the frequencies that every face has.
    band = (cycles >= FIRST) & (cycles <= LAST)
    line = np.median(level[band])
    smooth = cv2.blur(level[None], (7, 1), borderType=cv2.BORDER_REPLICATE)[0]
    below = (smooth < line + np.log(LOST)) & (cycles > LAST)
    side = min(PIXELS * cycles[below.argmax()], s) if below.any() else s

    # Noise is as strong at all frequencies: its power is the variance times the window's energy.
    detail = np.exp(line) * np.median(cycles[highest]) ** -FALL
    noise = max(floor - detail, 0) / (_window(n) ** 2).sum()
    return Sharpness(float(side), float(np.sqrt(noise)))


def effective_side(face: np.ndarray) -> float:
    """Return the side in pixels that an aligned face [s, s, 3] uint8 is worth, up to s."""
    return measured(face).side


def _radial(x: np.ndarray) -> np.ndarray:
    """Mean power [n / 2] at every distance from the origin of the spectrum of a square [n, n]."""
    # A window, or the edges of the square would look like detail.
    n = len(x)
    window = _window(n)
    mean = (x * window).sum() / window.sum()
    power = np.abs(np.fft.fftshift(np.fft.fft2((x - mean) * window))) ** 2
    y, at = np.indices(power.shape) - n // 2
    distance = np.hypot(y, at).astype(int).ravel()
    return (np.bincount(distance, power.ravel()) / np.bincount(distance))[: n // 2]


def _window(n: int) -> np.ndarray:
    return np.outer(np.hanning(n), np.hanning(n))
