"""How sharp a face in a photograph is: its effective resolution.

The power of sharp faces falls with the third power of the frequency (so it did, within a factor of
two, for 60 faces of 512 pixels); that of a blurred or enlarged one falls away from this line, and
where it does tells the side, in pixels, that the face is worth. Blocks of JPEG count as detail.
"""

from typing import NamedTuple

import cv2
import numpy as np

from . import align

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
# A face keeps nothing of its own up to WORSE times the pixels that the network is given, all from
# BETTER times on. Chosen, with ERROR, for little loss in PSNR over eleven kinds of photographs, of
# faces of 96 to 512 pixels.
WORSE, BETTER = 0.75, 1.75
ERROR = 6.0  # levels of noise that count as much as the error of a restored face
WHOLE = 0.9  # of a face that is kept: then it is left as it is


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


def own_share(photo: np.ndarray, matrix: np.ndarray, side: int) -> float:
    """Return how much of a face in a photo [h, w, 3] uint8 should stay: 0 none, 1 all of it.

    A network that is given `side` pixels restores what they hold, and nothing of what is finer: a
    face worth up to WORSE of them is its own, one worth BETTER of them needs no restoring. Noise
    counts against the photo as the error of a restored face does against the network, which makes
    this the share of least squares where they are independent.
    matrix: [2, 3] from the photo to an aligned face of `side` pixels
    """
    # At the photo's own size: enlarged, its noise would look like detail.
    own = min(round(side / align.scale_of(matrix)), align.SIDE)
    if own <= WORSE * side:
        return 0.0
    there = align.scaled(matrix, target=own / side)
    found = measured(align.warped(photo, there, (own, own)))
    ramp = np.clip((found.side / side - WORSE) / (BETTER - WORSE), 0, 1)
    share = float(ramp / (1 + (found.noise / ERROR) ** 2))
    return 1.0 if share >= WHOLE else share


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
