"""Aligned faces that photographs are made of, and where their points and boxes are.

The template's points are only about a face's own. A detector finds these in several views of the
face at full size, turned, mirrored and not: what it is biased by or unsure of averages out.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

import synthetic
from faces import align, detect
from sources import files
from sources.manifest import Image

SIDE = align.SIDE
CENTRE = (SIDE - 1) / 2
# Degrees and whether it is mirrored.
VIEWS = tuple((angle, mirrored) for angle in (0.0, -8.0, 8.0) for mirrored in (False, True))
VIEW = 640  # pixels of a side of a view: what is turned does not leave it
LEAST = 200  # pixels of the faces that are looked for
SWAPPED = [1, 0, 2, 4, 3]  # the points of a mirrored face, from the left again
# Half of the width of head and shoulders at a height, in pixels of the aligned face.
OUTLINE = np.array(
    [(0, 6), (90, 22), (150, 75), (182, 170), (190, 270), (178, 370), (160, 440), (100, 495)]
)
SOFT = 11.0  # pixels: sigma of the outline's edge
FADE = 36  # pixels at the borders over which the rest fades


class Place(NamedTuple):
    """Where a face is in its aligned picture."""

    box: np.ndarray  # [4] left, top, right, bottom
    points: np.ndarray  # [5, 2]


class Faces:
    """Aligned faces by number; they can be passed to other processes."""

    def __init__(self, images: Sequence[Image] = ()) -> None:
        """images: files of at least 512 pixels; without any, faces are drawn"""
        self._images = images
        self._places: dict[int, Place | None] = {}

    @property
    def count(self) -> int | None:
        """How many there are; None for any number."""
        return len(self._images) or None

    def pixels(self, number: int) -> np.ndarray:
        """[512, 512, 3] uint8 RGB. Raises BadFile."""
        if not self._images:
            return synthetic.face(number, SIDE).image
        return files.fit(files.decode(files.read_bytes(*self._images[number].where)), SIDE)

    def place(self, number: int) -> Place | None:
        """Where the face is; None where the detector sees none in most views. Raises BadFile."""
        if number not in self._places:
            self._places[number] = place(self.pixels(number))
        return self._places[number]


def place(face: np.ndarray) -> Place | None:
    """Find an aligned face [512, 512, 3]; None where it is seen in less than half of the views."""
    seen = [found for view in VIEWS if (found := _found(face, *view))]
    if len(seen) < len(VIEWS) / 2:
        return None
    boxes, points = (np.median(np.stack(each), 0) for each in zip(*seen, strict=True))
    return Place(boxes, points)


def _found(face: np.ndarray, angle: float, mirrored: bool) -> Place | None:
    """The face as one view shows it, in pixels of the upright one."""
    m = turned(1.0, angle, mirrored, ((VIEW - 1) / 2, (VIEW - 1) / 2))
    view = cv2.warpAffine(face, m, (VIEW, VIEW), flags=cv2.INTER_LINEAR)
    found = _detector()(view, LEAST)
    if not len(found.score):
        return None
    largest = int((found.boxes[:, 2:] - found.boxes[:, :2]).max(1).argmax())
    box, points = found.boxes[largest], found.points[largest]
    # A box stays upright: its middle goes back, its sides are what they are.
    middle, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
    back = moved(np.vstack([points, middle]), align.inverse(m))
    points, middle = back[:5], back[5]
    return Place(
        np.concatenate([middle - half, middle + half]), points[SWAPPED] if mirrored else points
    )


@functools.cache
def _detector() -> detect.Detector:
    return detect.make()


# ---- geometry ----


def turned(scale: float, angle: float, mirrored: bool, centre: tuple[float, float]) -> np.ndarray:
    """Return the matrix [2, 3] from an aligned face to a picture in which its middle is `centre`.

    scale: pixels of the picture for each of the face; angle: degrees
    """
    c, s = scale * np.cos(np.radians(angle)), scale * np.sin(np.radians(angle))
    m = np.array([[-c if mirrored else c, -s], [-s if mirrored else s, c]])
    return np.column_stack([m, centre - m @ (CENTRE, CENTRE)])


def moved(points: np.ndarray, m: np.ndarray) -> np.ndarray:
    """Bring points [n, 2] to where a matrix [2, 3] takes them."""
    return points @ m[:, :2].T + m[:, 2]


def seen(place: Place, m: np.ndarray, mirrored: bool) -> Place:
    """Return where a face is in a picture to which a matrix takes it."""
    points = moved(place.points, m)
    middle = moved((place.box[:2] + place.box[2:])[None] / 2, m)[0]
    half = (place.box[2:] - place.box[:2]) / 2 * align.scale_of(m)
    box = np.concatenate([middle - half, middle + half])
    return Place(box, points[SWAPPED] if mirrored else points)


# ---- cutting out ----


@functools.cache
def mask() -> np.ndarray:
    """Return what is taken of an aligned face: [512, 512] float32, 0 at the borders, 1 inside."""
    right = OUTLINE + (CENTRE, 0)
    left = (OUTLINE * (-1, 1) + (CENTRE, 0))[::-1]
    inside = np.zeros((SIDE, SIDE), np.float32)
    cv2.fillPoly(inside, [np.rint(np.concatenate([right, left])).astype(np.int32)], 1.0)
    ramp = np.clip(np.minimum(np.arange(SIDE), np.arange(SIDE)[::-1]) / FADE, 0, 1)
    smooth = (ramp * ramp * (3 - 2 * ramp)).astype(np.float32)
    return cv2.GaussianBlur(inside, (0, 0), SOFT) * np.outer(smooth, smooth)
