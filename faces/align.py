"""Faces brought upright and to a size, and the other way.

A matrix [2, 3] maps pixel centres of the photo to pixel centres of the aligned face. The template
is that of FFHQ's five points as facexlib has them.
"""

import math

import cv2
import numpy as np

SIDE = 512  # pixels, of the face that the template is of
# (x, y) of the eyes, the nose and the corners of the mouth, each from the left, in its pixels.
TEMPLATE = np.array(
    [
        (192.98138, 239.94708),
        (318.90277, 240.1936),
        (256.63416, 314.01935),
        (201.26117, 371.41043),
        (313.08905, 371.15118),
    ]
)
SLACK = 0.35  # of a factor that is not worth averaging over
MARGIN = 16  # pixels beyond what a target shows, for the filters
MOST_FINE = 4096  # pixels of a side that is averaged from


def matrix(points: np.ndarray, side: int) -> np.ndarray | None:
    """Return the similarity that brings five points [5, 2] of a photo to a face of `side` pixels.

    Least median of squares: a point that is wrong does not turn the face. None for points that lie
    on each other, and tell no direction.
    """
    there = scaled_points(TEMPLATE, side / SIDE)
    found, _ = cv2.estimateAffinePartial2D(points, there, method=cv2.LMEDS)
    if found is None or not np.isfinite(found).all() or scale_of(found) < 1e-6:
        return None
    return np.asarray(found)


def nearest_matrix(points: np.ndarray, side: int) -> np.ndarray:
    """Return the similarity that brings five points [5, 2] nearest to their places, on the whole.

    Least squares (Umeyama 1991, "Least-squares estimation of transformation parameters between two
    point patterns", eqs. 39-41, without reflections): what moves one point a little moves it a
    little, while that of `matrix` may jump. Raises ValueError for points that lie on each other.
    """
    there = scaled_points(TEMPLATE, side / SIDE)
    # As complex numbers a similarity is a factor and a shift.
    z, w = (p @ (1, 1j) for p in (points, there))
    spread = np.abs(z - z.mean()) ** 2
    if spread.sum() < 1e-9:
        raise ValueError('points that lie on each other tell no direction')
    factor = ((z - z.mean()).conj() * (w - w.mean())).sum() / spread.sum()
    shift = w.mean() - factor * z.mean()
    return np.array(
        [[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]]
    )


def scaled_points(points: np.ndarray, by: float) -> np.ndarray:
    """Coordinates of pixel centres in a picture that was enlarged by a factor."""
    return (points + 0.5) * by - 0.5


def scaled(m: np.ndarray, source: float = 1, target: float = 1) -> np.ndarray:
    """Return a matrix for a source and a target that are enlarged by these factors."""
    before = _enlargement(1 / source)
    return (_enlargement(target) @ _square(m) @ before)[:2]


def inverse(m: np.ndarray) -> np.ndarray:
    """Return the matrix of the way back."""
    return np.linalg.inv(_square(m))[:2]


def scale_of(m: np.ndarray) -> float:
    """Pixels of the target for each pixel of the source."""
    return math.sqrt(abs(np.linalg.det(m[:, :2])))


def _square(m: np.ndarray) -> np.ndarray:
    return np.concatenate([m, [[0, 0, 1]]])


def _enlargement(by: float) -> np.ndarray:
    # Of pixel centres: borders stay where they are.
    move = (by - 1) / 2
    return np.array([[by, 0, move], [0, by, move], [0, 0, 1.0]])


def warped(
    image: np.ndarray,
    m: np.ndarray,
    size: tuple[int, int],
    border: int = cv2.BORDER_REFLECT_101,
    how: int = cv2.INTER_LANCZOS4,
) -> np.ndarray:
    """Bring an image [h, w] or [h, w, c] by a matrix to (height, width), without aliases.

    Where it shrinks, every pixel is the mean of what lies under it.
    """
    image, m = _near(image, m, size)
    # Finer by a whole factor first, at which the source is looked at pixel by pixel. What shrinks
    # by less than a third keeps its detail: there is hardly anything that could alias.
    height, width = size
    shrinks = 1 / max(scale_of(m), 1e-6)
    finer = math.ceil(shrinks) if shrinks > 1 + SLACK else 1
    if finer > 1 and max(size) * finer > MOST_FINE:
        return _from_smaller(image, m, size, border, how)
    fine = cv2.warpAffine(
        image,
        scaled(m, target=finer),
        (width * finer, height * finer),
        flags=how,
        borderMode=border,
    )
    if finer == 1:
        return fine
    return cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA)


def _near(image: np.ndarray, m: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The part of an image that a target of (height, width) shows, and the matrix from there.

    OpenCV warps no image of more than 32,767 pixels a side; and less is faster.
    """
    height, width = size
    ends = np.array([(x, y, 1) for x in (-0.5, width - 0.5) for y in (-0.5, height - 0.5)])
    corners = ends @ inverse(m).T
    limits = np.array(image.shape[1::-1])
    # What lies outside is reflected from inside: as much of that is needed.
    outside = max(-corners.min(), (corners - limits).max(), 0) + MARGIN
    low = np.clip(np.floor(corners.min(0) - outside), 0, limits - 1).astype(int)
    high = np.clip(np.ceil(corners.max(0) + outside), low + 1, limits).astype(int)
    moved = m.copy()
    moved[:, 2] += m[:, :2] @ low
    return image[low[1] : high[1], low[0] : high[0]], moved


def _from_smaller(
    image: np.ndarray, m: np.ndarray, size: tuple[int, int], border: int, how: int
) -> np.ndarray:
    """The same from an image of half the size: enough of a very large one is left."""
    h, w = image.shape[:2]
    half = cv2.resize(image, (max(w // 2, 1), max(h // 2, 1)), interpolation=cv2.INTER_AREA)
    # Sides that are odd shrink by a little more than half.
    by = np.array([[half.shape[1] / w, 0, 0], [0, half.shape[0] / h, 0], [0, 0, 1]])
    by[:2, 2] = (by.diagonal()[:2] - 1) / 2
    return warped(half, (_square(m) @ np.linalg.inv(by))[:2], size, border, how)
