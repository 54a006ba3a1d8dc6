"""Restored faces blended back into a photo.

Weights are those of painting one face over the other, the smaller ones first, since they are
farther away: at every pixel the photo and all faces sum to one. What of a face lies outside of the
photo is never painted, and its colours at low frequencies are the photo's own.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from . import align

BORDER = 1 / 20  # of a face's side: how soft the edge of a square is
LOW = 1 / 12  # of a face's side: sigma of what is colour and not detail
LUMA = 0.299, 0.587, 0.114


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
    fidelity: float = 0,
    gray: bool | None = None,
) -> None:
    """Blend faces into a photo that was enlarged by `scale`, in place, in `order`.

    photo:    [H, W, 3] uint8 or uint16
    fidelity: 0 to 1, how much of the photo stays in the faces
    gray:     whether the photo has no colours, and gets none; looked at if it is not said
    """
    gray = is_gray(photo) if gray is None else gray
    given = list(faces)
    for i in order([face.matrix for face in given]):
        _paint(photo, given[i], scale, fidelity, gray)


def is_gray(photo: np.ndarray) -> bool:
    """Tell whether all channels of [H, W, 3] are equal."""
    # Row by row: most photos show a colour at once, and none takes as much memory again.
    return all(bool((row[:, 1:] == row[:, :1]).all()) for row in photo)


def grayed(image: np.ndarray) -> np.ndarray:
    """Return the light of [h, w, 3] float32 in all channels."""
    return np.repeat((image @ np.array(LUMA, np.float32))[..., None], 3, 2)


def _paint(photo: np.ndarray, face: Face, scale: float, fidelity: float, gray: bool) -> None:
    placed = _placed(photo.shape[:2], face, scale)
    if placed is None:
        return
    (top, left), image, mask = placed
    if gray:
        image = grayed(image)
    window = photo[top : top + mask.shape[0], left : left + mask.shape[1]]
    own = window.astype(np.float32)
    side = len(face.image) / align.scale_of(face.matrix) * scale
    image = _coloured(image, own, mask, LOW * side) + face.lift
    weight = mask[..., None] * (1 - fidelity)
    mixed = own + weight * (image - own)
    top_level = np.iinfo(photo.dtype).max
    window[:] = np.clip(np.rint(mixed), 0, top_level).astype(photo.dtype)


def _placed(
    size: tuple[int, int], face: Face, scale: float
) -> tuple[tuple[int, int], np.ndarray, np.ndarray] | None:
    """((top, left), image, mask) of the part of the photo that a face covers; None of none."""
    side = len(face.image)
    back = align.inverse(align.scaled(face.matrix, source=scale))
    corners = np.array([(x, y, 1) for x in (-0.5, side - 0.5) for y in (-0.5, side - 0.5)]) @ back.T
    low = np.clip(np.floor(corners.min(0)).astype(int), 0, None)
    high = np.minimum(np.ceil(corners.max(0)).astype(int) + 1, size[::-1])
    if (high <= low).any():
        return None
    # Only the face's own window, never the whole photo.
    window = back.copy()
    window[:, 2] -= low
    width, height = high - low
    image = align.warped(face.image, window, (height, width))
    mask = align.warped(face.mask, window, (height, width), cv2.BORDER_CONSTANT, cv2.INTER_LINEAR)
    return (low[1], low[0]), image, np.clip(mask, 0, 1)


def _coloured(image: np.ndarray, own: np.ndarray, mask: np.ndarray, sigma: float) -> np.ndarray:
    """The image with the low frequencies of the photo, where the mask is."""
    # Means over the mask alone: what lies beside the face has other colours.
    weight = mask[..., None] + 1e-6
    low = cv2.GaussianBlur((own - image) * weight, (0, 0), sigma)
    blurred = low / cv2.GaussianBlur(weight[..., 0], (0, 0), sigma)[..., None]
    image = image + blurred
    rest = ((own - image) * weight).sum((0, 1)) / weight.sum()
    return image + rest.astype(np.float32)
