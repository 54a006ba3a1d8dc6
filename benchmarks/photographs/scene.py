"""Scenes to put faces into: nothing in them is one.

A scene has colours that run into each other, clouds whose amplitude falls with the frequency as
that of photographs does (Field 1987), textures, and shapes with straight edges; round ones, of
which two look like eyes, are left out.
"""

from collections.abc import Callable

import cv2
import numpy as np

FALL = 0.5  # of the amplitude of clouds, from one octave to the next
Layer = Callable[[np.random.Generator, np.ndarray], np.ndarray]


def scene(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Draw a scene: [h, w, 3] float32, levels from 0 to 255."""
    x = _gradient(rng, height, width)
    x += _clouds(rng, height, width)[..., None] * rng.uniform(8, 40)
    for _ in range(rng.integers(0, 3)):
        x = _textured(rng, x)
    for _ in range(rng.integers(2, 12)):
        x = _with_shape(rng, x)
    if rng.random() < 0.7:
        x = cv2.GaussianBlur(x, (0, 0), 0.6 + rng.uniform(0, 0.008) * max(height, width))
    # Whatever lies in front of it is as fine as the camera allows.
    x += _clouds(rng, height, width)[..., None] * rng.uniform(2, 12)
    return np.clip(x, 0, 255, out=x)


def _gradient(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    corners = rng.uniform(50, 190) + rng.normal(0, 28, tuple(rng.integers(2, 5, 2)) + (3,))
    colours = np.clip(corners, 8, 245).astype(np.float32)
    return cv2.resize(colours, (width, height), interpolation=cv2.INTER_LINEAR)


def _clouds(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """[h, w] of about unit deviation."""
    total, amplitude, cells = np.zeros((height, width), np.float32), 1.0, 3
    while cells < max(height, width):
        shape = max(2, cells * height // max(height, width)), max(2, cells)
        grid = rng.standard_normal(shape, np.float32) * np.float32(amplitude)
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
        cells, amplitude = cells * 2, amplitude * FALL
    return total / max(float(total.std()), 1e-6)


def _textured(rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
    """Stripes or checks on a part of a scene."""
    h, w, _ = x.shape
    step, angle = rng.uniform(6, 60), rng.uniform(0, np.pi)
    gx, gy = np.meshgrid(np.arange(w, dtype=np.float32), np.arange(h, dtype=np.float32))
    u, v = gx * np.cos(angle) + gy * np.sin(angle), gy * np.cos(angle) - gx * np.sin(angle)
    wave = np.sin(u * np.float32(2 * np.pi / step))
    if rng.random() < 0.5:
        wave *= np.sin(v * np.float32(2 * np.pi / (step * rng.uniform(0.5, 2))))
    if rng.random() < 0.5:
        wave = np.tanh(4 * wave)
    cover = _polygon(rng, h, w, rng.uniform(0.3, 0.9))
    colour = rng.normal(0, 16, 3).astype(np.float32)
    return x + (cover * wave)[..., None] * colour


def _with_shape(rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
    h, w, _ = x.shape
    cover = _polygon(rng, h, w, rng.uniform(0.05, 0.5)) * np.float32(rng.uniform(0.5, 1))
    colour = np.clip(x.mean((0, 1)) + rng.normal(0, 45, 3), 5, 250).astype(np.float32)
    x += cover[..., None] * (colour - x)
    return x


def _polygon(rng: np.random.Generator, h: int, w: int, size: float) -> np.ndarray:
    """[h, w] float32, 1 inside of three to six corners. size: of the longer side"""
    corners, reach = rng.integers(3, 7), size * max(h, w) / 2
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
    radii = reach * rng.uniform(0.3, 1, corners)
    centre = rng.uniform(0, 1, 2) * (w, h)
    points = centre + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    cover = np.zeros((h, w), np.uint8)
    cv2.fillPoly(cover, [np.rint(points * 16).astype(np.int32)], 255, cv2.LINE_AA, shift=4)
    return cover.astype(np.float32) / 255
