"""Restored faces blended back into a photo.

Weights are those of painting one face over the other, the smaller ones first, since they are
farther away: at every pixel the photo and all faces sum to one. What of a face lies outside of the
photo is never painted, and its colours at low frequencies are the photo's own.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

from . import align

BORDER = 1 / 20  # of a face's side: how soft the edge of a square is
LOW = 1 / 12  # of a face's side: sigma of what is colour and not detail
LUMA = 0.299, 0.587, 0.114
LOW_SIDE = 64  # pixels of the pictures of these
PIECE = 1024  # pixels of a side of what is painted at once


class Face(NamedTuple):
    """A restored face and its place."""

    image: np.ndarray  # [S, S, 3] float32 levels of the photo's own range
    mask: np.ndarray  # [S, S] float32, 0 to 1
    matrix: np.ndarray  # [2, 3] from pixel centres of the photo to those of this image
    lift: float = 0.0  # levels by which it is to be lighter than the photo


def square(side: int) -> np.ndarray:
    """Return a mask [side, side] float32 that is 1 inside and falls off softly to 0 at the edge."""
    # A cosine over two borders: without a visible rectangle, and nothing at the very edge.
    distance = np.minimum(np.arange(side), np.arange(side)[::-1]) + 0.5
    part = np.clip(distance / (2 * BORDER * side), 0, 1)
    ramp = (1 - np.cos(np.pi * part)) / 2
    return np.outer(ramp, ramp).astype(np.float32)


def order(matrices: Sequence[np.ndarray]) -> list[int]:
    """Return the numbers of faces in the order in which they are painted, smaller ones first."""
    return sorted(range(len(matrices)), key=lambda i: -align.scale_of(matrices[i]))


def paste(
    photo: np.ndarray,
    faces: Iterable[Face],
    scale: float = 1,
    keep: float = 0,
    gray: bool | None = None,
) -> None:
    """Blend faces into a photo that was enlarged by `scale`, in place, in `order`.

    photo:    [H, W, 3] uint8 or uint16
    keep: 0 to 1, how much of the photo stays in the faces
    gray:     whether the photo has no colours, and gets none; looked at if it is not said
    """
    gray = is_gray(photo) if gray is None else gray
    given = list(faces)
    for i in order([face.matrix for face in given]):
        _paint(photo, given[i], scale, keep, gray)


def is_gray(photo: np.ndarray) -> bool:
    """Tell whether all channels of [H, W, 3] are equal."""
    # Row by row: most photos show a colour at once, and none takes as much memory again.
    return all(bool((row[:, 1:] == row[:, :1]).all()) for row in photo)


def grayed(image: np.ndarray) -> np.ndarray:
    """Return the light of [h, w, 3] float32 in all channels."""
    return np.repeat((image @ np.array(LUMA, np.float32))[..., None], 3, 2)


def _paint(photo: np.ndarray, face: Face, scale: float, keep: float, gray: bool) -> None:
    m = align.scaled(face.matrix, source=scale)
    size = face.mask.shape[0], face.mask.shape[1]
    own = align.warped(photo, m, size).astype(np.float32)
    image = grayed(face.image) if gray else face.image
    inside = face.mask * _inside(photo.shape[:2], m, size)
    image = _coloured(image, own, inside) + face.lift

    # Only the face's own window, and of a large one some of it at a time, never the whole photo.
    back = align.inverse(m)
    (left, top), (right, bottom) = _window(photo.shape[:2], size, back)
    for y in range(top, bottom, PIECE):
        for x in range(left, right, PIECE):
            piece = photo[y : min(y + PIECE, bottom), x : min(x + PIECE, right)]
            _blend(piece, image, face.mask, _moved(back, x, y), 1 - keep)


def _blend(
    piece: np.ndarray, image: np.ndarray, mask: np.ndarray, back: np.ndarray, share: float
) -> None:
    """Mix an image into a part of the photo, in place. back: from the image to the part"""
    size = piece.shape[0], piece.shape[1]
    weight = align.warped(mask, back, size, cv2.BORDER_CONSTANT, cv2.INTER_LINEAR)
    weight = np.clip(weight, 0, 1)[..., None] * share
    own = piece.astype(np.float32)
    mixed = own + weight * (align.warped(image, back, size) - own)
    piece[:] = np.clip(np.rint(mixed), 0, np.iinfo(piece.dtype).max).astype(piece.dtype)


def _window(
    photo: tuple[int, ...], size: tuple[int, int], back: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Corners (x, y), (x, y) of the part of a photo [h, w] that an image [h, w] covers."""
    height, width = size
    ends = [(x, y, 1) for x in (-0.5, width - 0.5) for y in (-0.5, height - 0.5)]
    corners = np.array(ends) @ back.T
    limits = np.array(photo[::-1])
    low = np.clip(np.floor(corners.min(0)), 0, limits)
    high = np.clip(np.ceil(corners.max(0)) + 1, low, limits)
    return low.astype(int), high.astype(int)


def _moved(m: np.ndarray, left: int, top: int) -> np.ndarray:
    """A matrix to a part of its target that begins there."""
    moved = m.copy()
    moved[:, 2] -= left, top
    return moved


def _inside(photo: tuple[int, ...], m: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[h, w] bool, which pixels of a face lie in a photo [h, w]. m: from the photo to the face"""
    back = align.inverse(m)
    y, x = np.mgrid[: size[0], : size[1]]
    at_x, at_y = (back[i, 0] * x + back[i, 1] * y + back[i, 2] for i in (0, 1))
    height, width = photo
    return (at_x >= -0.5) & (at_x < width - 0.5) & (at_y >= -0.5) & (at_y < height - 0.5)


def _coloured(image: np.ndarray, own: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The image with the low frequencies of the photo, where the mask is."""
    # Means over the mask alone: what lies beside the face has other colours. So low are the
    # frequencies that a small picture holds them.
    side, sigma = len(image), LOW * LOW_SIDE
    weight = (mask[..., None] + 1e-6).astype(np.float32)
    top, bottom = (
        cv2.GaussianBlur(_small(x, min(LOW_SIDE, side)), (0, 0), sigma)
        for x in ((own - image) * weight, weight[..., 0])
    )
    low = np.asarray(top / bottom[..., None], np.float32)
    image = image + cv2.resize(low, (side, side), interpolation=cv2.INTER_LINEAR)
    rest = ((own - image) * weight).sum((0, 1)) / weight.sum()
    return image + rest.astype(np.float32)


def _small(x: Any, side: int) -> np.ndarray:
    return cv2.resize(x, (side, side), interpolation=cv2.INTER_AREA)
