"""Drawing tools of the synthetic faces: named random streams, noise fields, smooth curves, covers, strands, light.

Colours are float32 RGB in linear light; `lin` converts from the 0..255 sRGB values a person would pick. Positions are in
face units: x is 0 on the midline of the face and grows to the right of the picture, y is 0 at its top and 1 at its bottom.
"""

import math
import zlib

import cv2
import numpy as np


def stream(seed, name):
    """-> numpy Generator of this seed and part; a new part leaves the draws of all others as they were."""
    return np.random.Generator(
        np.random.Philox(key=np.array([seed, zlib.crc32(name.encode())], dtype=np.uint64))
    )


def lin(*rgb):
    """sRGB 0..255 (three numbers or an array ending in 3) -> linear float32 0..1."""
    return (
        np.clip(np.asarray(rgb[0] if len(rgb) == 1 else rgb, dtype=np.float32), 0, 255) / 255
    ) ** np.float32(2.2)


def mix(a, b, t):
    return a + (b - a) * t


def step(x, a, b):
    """Smooth 0 -> 1 while x goes from a to b (either order)."""
    t = np.clip((x - a) / (b - a), 0, 1)
    return t * t * (3 - 2 * t)


def bell(x, centre, width):
    """1 at the centre, 1/e one width away."""
    return np.exp(-np.square((x - centre) / width))


def noise(rng, shape, cells):
    """Smooth noise, about unit deviation. shape (h, w) pixels; cells (along y, along x) or one number per picture side."""
    cy, cx = (cells, cells) if np.isscalar(cells) else cells
    grid = rng.standard_normal((max(2, int(cy)) + 1, max(2, int(cx)) + 1), dtype=np.float32)
    return cv2.resize(grid, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)


def cloud(rng, shape, cells, octaves=4, gain=0.55):
    """Sum of noise octaves, about unit deviation."""
    out, amp, total = 0, 1.0, 0.0
    for k in range(octaves):
        n = min(cells * 2**k, min(shape))
        out = out + amp * noise(rng, shape, n)
        total += amp * amp
        amp *= gain
    return out / np.float32(math.sqrt(total))


def curve(points, n=10, closed=False):
    """Catmull-Rom curve through [..., k, 2] points -> [..., m, 2]; batches of curves are evaluated together."""
    p = np.asarray(points, dtype=np.float32)
    if closed:
        p = np.concatenate([p[..., -1:, :], p, p[..., :2, :]], axis=-2)
    else:
        p = np.concatenate(
            [2 * p[..., :1, :] - p[..., 1:2, :], p, 2 * p[..., -1:, :] - p[..., -2:-1, :]], axis=-2
        )
    t = (np.arange(n, dtype=np.float32) / n)[:, None]
    a, b, c, d = (p[..., i : p.shape[-2] - 3 + i, None, :] for i in range(4))
    out = 0.5 * (
        2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3
    )
    out = out.reshape(*out.shape[:-3], -1, 2)
    return out if closed else np.concatenate([out, p[..., -2:-1, :]], axis=-2)


def blur(x, sigma):
    """Gaussian blur of a float32 field, sigma in pixels; nothing below a fifth of a pixel."""
    return (
        x
        if sigma < 0.2
        else cv2.GaussianBlur(x, (0, 0), float(sigma), borderType=cv2.BORDER_REPLICATE)
    )


class Sheet:
    """The picture being painted.

    rgb [s, s, 3] float32 linear; ids [s, s] uint8 classes; x, y [s, s] float32 face units of each pixel;
    occlusion [s, s] float32: how much of the light the things painted on top take from the skin.
    """

    def __init__(self, size, pose):
        self.size, self.pose = size, pose
        self.rgb = np.zeros((size, size, 3), np.float32)
        self.ids = np.zeros((size, size), np.uint8)
        axis = (np.arange(size, dtype=np.float32) + 0.5) / size
        self.x, self.y = pose.to_face(axis[None, :], axis[:, None])

    def pixels(self, points):
        """[..., 2] face units -> [..., 2] pixel coordinates, pixel centres at integers."""
        return self.pose.to_picture(np.asarray(points, dtype=np.float32)) * self.size - 0.5

    def cover(self, points, soft=0.0):
        """Anti-aliased inside of a closed polygon in face units -> [s, s] float32 0..1; soft: blur in 1/512 of the width."""
        big = np.zeros((2 * self.size, 2 * self.size), np.uint8)
        xy = np.round((self.pixels(points) * 2 + 0.5) * 16).astype(np.int32)
        cv2.fillPoly(big, [xy], 255, cv2.LINE_AA, 4)
        return blur(self._down(big), soft * self.size / 512)

    def stroke(self, points, width, soft=0.0, closed=False):
        """Cover of a line of the given width in face units."""
        big = np.zeros((2 * self.size, 2 * self.size), np.uint8)
        xy = np.round((self.pixels(points) * 2 + 0.5) * 16).astype(np.int32)
        cv2.polylines(big, [xy], closed, 255, max(1, round(width * 2 * self.size)), cv2.LINE_AA, 4)
        return blur(self._down(big), soft * self.size / 512)

    def _down(self, big):
        return (
            cv2.resize(big, (self.size, self.size), interpolation=cv2.INTER_AREA).astype(np.float32)
            / 255
        )

    def paint(self, cover, colour, ident=None):
        """Lay a colour (three numbers or [s, s, 3]) over the picture; ident claims the pixels that are mostly covered."""
        self.rgb += (colour - self.rgb) * cover[..., None]
        if ident is not None:
            self.ids[cover > 0.5] = ident

    def shade(self, factor):
        self.rgb *= factor if factor.ndim == 3 else factor[..., None]

    def window(self, x, y, rx, ry):
        """Slices (rows, columns) of the box around a point in face units, clipped to the picture."""
        cx, cy = self.pixels((x, y))
        rx, ry = rx * self.size, ry * self.size
        lo = lambda v: int(np.clip(v, 0, self.size - 2))
        hi = lambda v: int(np.clip(v, 2, self.size))
        return slice(lo(cy - ry), hi(cy + ry)), slice(lo(cx - rx), hi(cx + rx))

    def strands(self, points, colours, widths):
        """Draw hairs one over the other.

        points [n, m, 2] face units; colours [n, c, 3] sRGB 0..255, one per stretch of the hair; widths [n] in 1/1024 of the
        picture. -> rgb [s, s, 3] linear, alpha [s, s]; both at rest until `paint`ed.
        """
        big = np.zeros((2 * self.size, 2 * self.size, 4), np.uint8)
        xy = np.round((self.pixels(points) * 2 + 0.5) * 16).astype(np.int32)
        bright = np.minimum(
            1, 252 / np.maximum(colours.max(-1, keepdims=True), 1)
        )  # clipping turns blond into green
        shades = np.maximum(colours * bright, 1).astype(np.int32).tolist()
        thick = np.maximum(1, np.round(np.asarray(widths) * self.size / 512)).astype(int).tolist()
        n, m, c = len(xy), xy.shape[1], colours.shape[1]
        cuts = np.linspace(0, m - 1, c + 1).astype(int)
        for i in range(n):
            own = cuts.copy()
            if c > 1 and m > 3 * c:
                own[1:-1] += (
                    7 * i
                ) % 5 - 2  # else the shades of all hairs change along one visible line
            for k in range(c):
                r, g, b = shades[i][k]
                thin = 1 if c > 1 and k == c - 1 else thick[i]  # hairs end in a point
                cv2.polylines(
                    big,
                    [xy[i, own[k] : own[k + 1] + 1]],
                    False,
                    (r, g, b, 255),
                    thin,
                    cv2.LINE_AA,
                    4,
                )
        small = cv2.resize(big, (self.size, self.size), interpolation=cv2.INTER_AREA).astype(
            np.float32
        )
        alpha = small[..., 3] / 255
        return lin(small[..., :3] / np.maximum(alpha, 1 / 255)[..., None]), alpha

    def hairs(self, points, colours, widths, strength=1.0, ident=None):
        """`strands`, painted."""
        rgb, alpha = self.strands(points, colours, widths)
        self.paint(alpha * strength, rgb, ident)
        return alpha


def srgb8(rgb):
    """Linear float RGB -> uint8 sRGB with a soft shoulder, so that highlights do not clip flat."""
    x = np.maximum(rgb, 0)
    x = np.where(x > 0.7, 0.7 + 0.3 * np.tanh((x - 0.7) / 0.45), x)
    return np.clip(np.power(x, np.float32(1 / 2.2)) * 255 + 0.5, 0, 255).astype(np.uint8)
