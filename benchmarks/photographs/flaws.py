"""What may be wrong with a face, and which measures may find it.

Amounts are far beyond the limits that measures.Limits has by default, so that a face that is not
dropped is a mistake; a detector shall see the face all the same.
"""

import functools
from typing import NamedTuple

import cv2
import numpy as np

from faces import measures

# Measures of faces/measures.py, any of which is right.
REASONS = {
    'small': ('side',),
    'dark': ('exposure',),
    'bright': ('exposure',),
    'blurred': ('resolution', 'blur'),
    'moved': ('resolution', 'blur'),
    'coarse': ('resolution', 'blur'),
    'cut': ('inside',),
    'jpeg': ('jpeg',),
}
NAMES = tuple(REASONS)
BLURRED = 0.010, 0.020  # sigma in parts of the aligned square
MOVED = 0.05, 0.08  # length in parts of it
COARSE = 28.0, 50.0  # pixels that the aligned square is worth
DARK = 22.0, 32.0  # levels, mean luma of the inner face
BRIGHT = 223.0, 227.0


class Flaw(NamedTuple):
    """What is wrong with a face."""

    name: str  # of NAMES
    amount: float  # from 0 to 1, within the range of its kind
    angle: float  # radians, of a movement

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> 'Flaw':
        """Draw one."""
        return cls(NAMES[rng.integers(len(NAMES))], rng.random(), rng.uniform(0, np.pi))

    @property
    def reasons(self) -> list[str]:
        """Measures that may find it."""
        return list(REASONS[self.name])

    def within(self, span: tuple[float, float]) -> float:
        """The amount as a number of a range."""
        return span[0] + (span[1] - span[0]) * self.amount


def lit(face: np.ndarray, flaw: Flaw | None) -> np.ndarray:
    """Make an aligned face [512, 512, 3] uint8 too dark or too bright."""
    if flaw is None or flaw.name not in ('dark', 'bright'):
        return face
    mean = cv2.cvtColor(face, cv2.COLOR_RGB2GRAY)[_inner(len(face))].mean()
    if flaw.name == 'dark':
        return np.rint(face * min(1, flaw.within(DARK) / mean)).astype(np.uint8)
    # A veil rather than a gain: where skin is white, nobody sees a face.
    veil = min(1, (255 - flaw.within(BRIGHT)) / max(255 - mean, 1))
    return np.rint(255 - (255.0 - face) * veil).astype(np.uint8)


@functools.cache
def _inner(side: int) -> np.ndarray:
    """[side, side] bool, the oval whose light is measured."""
    parts = (np.arange(side) + 0.5) / side
    x, y = ((parts - c) / a for c, a in zip(measures.CENTRE, measures.AXES, strict=True))
    return x[None] ** 2 + y[:, None] ** 2 < 1


def softened(x: np.ndarray, flaw: Flaw | None, square: float) -> np.ndarray:
    """Take detail from a face [h, w, 3] uint8 in a photo.

    square: pixels of the photo that the aligned square is wide
    """
    if flaw is None:
        return x
    if flaw.name == 'blurred':
        return cv2.GaussianBlur(x, (0, 0), flaw.within(BLURRED) * square)
    if flaw.name == 'moved':
        return _moved(x, flaw.within(MOVED) * square, flaw.angle)
    if flaw.name == 'coarse':
        return _coarse(x, flaw.within(COARSE) / square)
    return x


def _moved(x: np.ndarray, length: float, angle: float) -> np.ndarray:
    """Mean of a picture along a line of some pixels."""
    reach = int(np.ceil(length / 2)) + 1
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    # A few steps for each pixel, shared among the four around each.
    for t in np.linspace(-length / 2, length / 2, 4 * len(kernel)):
        px, py = reach + t * np.cos(angle), reach + t * np.sin(angle)
        left, top = int(px), int(py)
        fx, fy = px - left, py - top
        kernel[top : top + 2, left : left + 2] += np.outer((1 - fy, fy), (1 - fx, fx))
    return cv2.filter2D(x, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE)


def _coarse(x: np.ndarray, scale: float) -> np.ndarray:
    """A picture averaged down by a factor and enlarged again."""
    h, w, _ = x.shape
    small = max(1, round(w * scale)), max(1, round(h * scale))
    return cv2.resize(
        cv2.resize(x, small, interpolation=cv2.INTER_AREA), (w, h), interpolation=cv2.INTER_CUBIC
    )
