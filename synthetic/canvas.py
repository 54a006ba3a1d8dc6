"""Drawing tools of the synthetic faces: random streams, noise, curves, covers, strands.

Colours are float32 RGB in linear light; `lin` converts from the sRGB values 0..255 that a person
would pick. Positions are in face units: x is 0 on the midline of the face and grows to the right of
the picture, y is 0 at its top and 1 at its bottom.
"""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:  # shape needs the curves of this module
    from .shape import Pose

Colour = tuple[float, float, float]  # sRGB 0..255


# ---- random numbers and noise ----


def stream(seed: int, name: str) -> np.random.Generator:
    """Random numbers of this seed and part; a new part leaves the draws of all others unchanged."""
    key = np.array([seed, zlib.crc32(name.encode())], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def noise(
    rng: np.random.Generator, shape: tuple[int, ...], cells: float | tuple[float, float]
) -> np.ndarray:
    """Smooth noise of about unit deviation.

    shape: (h, w) in pixels
    cells: number of cells (along y, along x), or one number for both sides of the picture
    """
    cy, cx = cells if isinstance(cells, tuple) else (cells, cells)
    grid = rng.standard_normal((max(2, int(cy)) + 1, max(2, int(cx)) + 1), dtype=np.float32)
    return cv2.resize(grid, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)


def cloud(
    rng: np.random.Generator,
    shape: tuple[int, int],
    cells: int,
    octaves: int = 4,
    gain: float = 0.55,
) -> np.ndarray:
    """Sum of octaves of noise, of about unit deviation; each has `gain` times the last one's."""
    out: np.ndarray = np.zeros(shape, np.float32)
    amplitude, total = 1.0, 0.0
    # Finer and weaker, up to one cell per pixel.
    for k in range(octaves):
        n = min(cells * 2**k, min(shape))
        out = out + amplitude * noise(rng, shape, n)
        total += amplitude * amplitude
        amplitude *= gain
    return out / np.float32(math.sqrt(total))


# ---- colours and profiles ----


def lin(*rgb: ArrayLike) -> np.ndarray:
    """Convert sRGB 0..255, three numbers or an array ending in 3, to linear float32 0..1."""
    values = np.asarray(rgb[0] if len(rgb) == 1 else rgb, dtype=np.float32)
    return (np.clip(values, 0, 255) / 255) ** np.float32(2.2)


def one_of(rng: np.random.Generator, colours: Sequence[Colour]) -> np.ndarray:
    """One of these sRGB colours in linear light [3]."""
    return lin(*colours[int(rng.integers(len(colours)))])


def srgb8(rgb: np.ndarray) -> np.ndarray:
    """Convert linear float RGB to uint8 sRGB, with a soft shoulder so that no highlight clips."""
    x = np.maximum(rgb, 0)
    x = np.where(x > 0.7, 0.7 + 0.3 * np.tanh((x - 0.7) / 0.45), x)
    return np.clip(np.power(x, np.float32(1 / 2.2)) * 255 + 0.5, 0, 255).astype(np.uint8)


def mix(a: ArrayLike, b: ArrayLike, t: ArrayLike) -> np.ndarray:
    """Interpolate from a (t = 0) to b (t = 1)."""
    return a + (b - a) * t  # type: ignore[operator,return-value]  # numbers and arrays alike


def step(x: ArrayLike, a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Rise smoothly from 0 to 1 while x goes from a to b, in either order."""
    t = np.clip((x - a) / (b - a), 0, 1)  # type: ignore[operator]  # numbers and arrays alike
    return t * t * (3 - 2 * t)


def bell(x: ArrayLike, centre: ArrayLike, width: ArrayLike) -> np.ndarray:
    """Gaussian bell: 1 at the centre, 1/e one width away."""
    return np.exp(-np.square((x - centre) / width))  # type: ignore[operator]


def blur(x: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of a float32 field; none below a fifth of a pixel. sigma in pixels."""
    if sigma < 0.2:
        return x
    return cv2.GaussianBlur(x, (0, 0), float(sigma), borderType=cv2.BORDER_REPLICATE)


# ---- curves ----


def curve(points: ArrayLike, n: int = 10, closed: bool = False) -> np.ndarray:
    """Catmull-Rom curve [..., m, 2] through points [..., k, 2], with n steps from one to the next.

    A batch of curves is evaluated together.
    """
    p = np.asarray(points, dtype=np.float32)
    if closed:
        p = np.concatenate([p[..., -1:, :], p, p[..., :2, :]], axis=-2)
    else:
        # Open ends get a point beyond them, the mirror image of the last but one.
        before = 2 * p[..., :1, :] - p[..., 1:2, :]
        after = 2 * p[..., -1:, :] - p[..., -2:-1, :]
        p = np.concatenate([before, p, after], axis=-2)

    # Each stretch from b to c is a cubic that also depends on the points before and after.
    t = (np.arange(n, dtype=np.float32) / n)[:, None]
    a, b, c, d = (p[..., i : p.shape[-2] - 3 + i, None, :] for i in range(4))
    linear, square, cube = c - a, 2 * a - 5 * b + 4 * c - d, 3 * b - a - 3 * c + d
    out = 0.5 * (2 * b + linear * t + square * t**2 + cube * t**3)
    out = out.reshape(*out.shape[:-3], -1, 2)
    return out if closed else np.concatenate([out, p[..., -2:-1, :]], axis=-2)


def mirrored(half: np.ndarray) -> np.ndarray:
    """Outline whose right half is [m, 2] and whose left half is its mirror image."""
    return np.concatenate([half, half[::-1] * (-1, 1)])


def circle(n: int, across: float = 1.0, down: float = 1.0) -> np.ndarray:
    """Points [n, 2] of an ellipse around the origin; the last repeats the first."""
    a = np.linspace(0, 2 * np.pi, n)
    return np.stack([across * np.cos(a), down * np.sin(a)], -1)


# ---- the picture ----


@dataclass
class Ground:
    """What light needs to know of the skin at each pixel, [s, s] float32 each."""

    albedo: np.ndarray  # [s, s, 3] linear RGB
    gx: np.ndarray  # slopes of the surface, across and down, pores included
    gy: np.ndarray
    shadow: np.ndarray  # share of the lamp's light that the face itself takes
    ao: np.ndarray  # ambient occlusion: the share of the sky's light that arrives
    fx: np.ndarray  # slopes of the pores alone
    fy: np.ndarray


class Sheet:
    """The picture being painted.

    rgb [s, s, 3] float32 linear; ids [s, s] uint8 classes; x, y [s, s] float32 face units of each
    pixel.
    """

    def __init__(self, size: int, pose: 'Pose') -> None:
        """Begin an empty sheet of size x size pixels for a face in this pose."""
        self.size = size
        self.pose = pose
        self.rgb = np.zeros((size, size, 3), np.float32)
        self.ids = np.zeros((size, size), np.uint8)
        axis = (np.arange(size, dtype=np.float32) + 0.5) / size
        self.x, self.y = pose.to_face(axis[None, :], axis[:, None])

    def pixels(self, points: ArrayLike) -> np.ndarray:
        """[..., 2] face units -> [..., 2] pixel coordinates, with pixel centres at integers."""
        return self.pose.to_picture(np.asarray(points, dtype=np.float32)) * self.size - 0.5

    def window(self, x: float, y: float, rx: float, ry: float) -> tuple[slice, slice]:
        """Slices (rows, columns) of the box around a point in face units, within the picture."""
        cx, cy = self.pixels((x, y))
        return self._extent(cy, ry), self._extent(cx, rx)

    def _extent(self, centre: float, radius: float) -> slice:
        """Pixels of one axis around a centre; never empty."""
        reach = radius * self.size
        first = int(np.clip(centre - reach, 0, self.size - 2))
        return slice(first, int(np.clip(centre + reach, 2, self.size)))

    # OpenCV draws on a sheet of twice the size, in sixteenths of its pixels.

    def cover(self, points: ArrayLike, soft: float = 0.0) -> np.ndarray:
        """Anti-aliased inside of a closed polygon in face units, [s, s] float32 0..1.

        soft: blur in 1/512 of the picture's width
        """
        big = np.zeros((2 * self.size, 2 * self.size), np.uint8)
        cv2.fillPoly(big, [self._sixteenths(points)], 255, cv2.LINE_AA, 4)
        return blur(self._down(big), soft * self.size / 512)

    def stroke(
        self, points: ArrayLike, width: float, soft: float = 0.0, closed: bool = False
    ) -> np.ndarray:
        """Cover of a line of the given width in face units."""
        big = np.zeros((2 * self.size, 2 * self.size), np.uint8)
        thick = max(1, round(width * 2 * self.size))
        cv2.polylines(big, [self._sixteenths(points)], closed, 255, thick, cv2.LINE_AA, 4)
        return blur(self._down(big), soft * self.size / 512)

    def _sixteenths(self, points: ArrayLike) -> np.ndarray:
        return np.round((self.pixels(points) * 2 + 0.5) * 16).astype(np.int32)

    def _down(self, big: np.ndarray) -> np.ndarray:
        """Sheet of twice the size -> [s, s] float32 0..1."""
        small = cv2.resize(big, (self.size, self.size), interpolation=cv2.INTER_AREA)
        return small.astype(np.float32) / 255

    def paint(self, cover: np.ndarray, colour: np.ndarray, ident: int | None = None) -> None:
        """Lay a colour, [3] or [s, s, 3], over the picture.

        ident: class that claims the pixels that are mostly covered
        """
        self.rgb += (colour - self.rgb) * cover[..., None]
        if ident is not None:
            self.ids[cover > 0.5] = ident

    def shade(self, factor: np.ndarray) -> None:
        """Multiply the picture by [s, s] or [s, s, 3]."""
        self.rgb *= factor if factor.ndim == 3 else factor[..., None]

    def strands(
        self, points: np.ndarray, colours: np.ndarray, widths: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw hairs one over the other, on a sheet of their own.

        points:  [n, m, 2] face units
        colours: [n, c, 3] sRGB 0..255, one per stretch of the hair
        widths:  [n] in 1/1024 of the picture
        Returns rgb [s, s, 3] linear and alpha [s, s], to be painted.
        """
        big = np.zeros((2 * self.size, 2 * self.size, 4), np.uint8)
        xy = self._sixteenths(points)
        thick = np.maximum(1, np.round(np.asarray(widths) * self.size / 512)).astype(int).tolist()

        # Clipping a single channel would turn blond into green.
        bright = np.minimum(1, 252 / np.maximum(colours.max(-1, keepdims=True), 1))
        shades = np.maximum(colours * bright, 1).astype(np.int32).tolist()
        for i in range(len(xy)):
            _hair(big, xy[i], shades[i], thick[i], i)

        small = cv2.resize(big, (self.size, self.size), interpolation=cv2.INTER_AREA)
        small = small.astype(np.float32)
        # Dividing by alpha takes the black ground out of the colours.
        alpha = small[..., 3] / 255
        return lin(small[..., :3] / np.maximum(alpha, 1 / 255)[..., None]), alpha

    def hairs(
        self,
        points: np.ndarray,
        colours: np.ndarray,
        widths: np.ndarray,
        strength: float = 1.0,
        ident: int | None = None,
    ) -> np.ndarray:
        """Draw hairs as `strands` does and paint them. Returns their alpha [s, s]."""
        rgb, alpha = self.strands(points, colours, widths)
        self.paint(alpha * strength, rgb, ident)
        return alpha


def _hair(big: np.ndarray, xy: np.ndarray, shades: list[Colour], thick: int, number: int) -> None:
    """Draw one hair [m, 2], in 1/16 pixel, in stretches of different shade; it ends in a point."""
    m, c = len(xy), len(shades)
    cuts = np.linspace(0, m - 1, c + 1).astype(int)
    if c > 1 and m > 3 * c:
        # Otherwise the shades of all hairs would change along one visible line.
        cuts[1:-1] += (7 * number) % 5 - 2
    for k, (r, g, b) in enumerate(shades):
        width = 1 if c > 1 and k == c - 1 else thick
        stretch = xy[cuts[k] : cuts[k + 1] + 1]
        cv2.polylines(big, [stretch], False, (r, g, b, 255), width, cv2.LINE_AA, 4)
