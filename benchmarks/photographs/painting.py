"""Photographs as their plans say, and where the faces in them are."""

from typing import NamedTuple

import cv2
import numpy as np

from faces import align
from sources import files

from . import aligned, encoding, flaws, scene
from .aligned import Faces
from .placing import Spot
from .plan import COPY, Deck, Plan, plan, stream
from .truth import Face, Photo

PAD = 3  # pixels around a face, for the filters


class Painted(NamedTuple):
    """A photo."""

    pixels: np.ndarray  # [h, w, 3] uint8 RGB, upright
    faces: list[Face]


def file(deck: Deck, faces: Faces, number: int) -> tuple[bytes, Photo, str]:
    """Make a photo of a heap: a file, what is true of it (its name apart), and its suffix.

    Raises BadFile for an aligned face that cannot be read.
    """
    wanted = plan(deck, number)
    done = painted(deck, faces, wanted)
    h, w, _ = done.pixels.shape
    photo = Photo('', w, h, wanted.kind, done.faces)
    return encoding.encoded(done.pixels, wanted.file), photo, wanted.file.suffix


def painted(deck: Deck, faces: Faces, wanted: Plan) -> Painted:
    """Paint a photo."""
    if wanted.kind == COPY:
        return _copied(deck, faces, wanted)
    rng = stream(deck.seed, wanted.number, 'pixels')
    x = scene.scene(rng, wanted.height, wanted.width)
    there = []
    for i, spot in enumerate(wanted.spots):
        place = faces.place(spot.number)
        # A face that cannot be seen at full size has no truth.
        if place is None:
            continue
        paint(x, faces.pixels(spot.number), spot)
        seen = aligned.seen(place, spot.matrix, spot.mirrored)
        there.append(_told(seen, spot, f'{wanted.number}-{i}'))
    x += rng.standard_normal(x.shape, np.float32) * np.float32(wanted.noise)
    return Painted(np.rint(np.clip(x, 0, 255)).astype(np.uint8), there)


def paint(x: np.ndarray, face: np.ndarray, spot: Spot) -> None:
    """Lay an aligned face [512, 512, 3] uint8 over a scene [h, w, 3] float32, in place."""
    h, w, _ = x.shape
    ends = np.array([(a, b) for a in (0, aligned.SIDE - 1) for b in (0, aligned.SIDE - 1)])
    corners = aligned.moved(ends, spot.matrix)
    # With what lies beyond the border: a blur must not see it.
    left, top = (int(v) for v in np.floor(corners.min(0)) - PAD)
    right, bottom = (int(v) for v in np.ceil(corners.max(0)) + PAD + 1)
    m = spot.matrix - [(0, 0, left), (0, 0, top)]
    size = bottom - top, right - left
    patch = align.warped(flaws.lit(face, spot.flaw), m, size, border=cv2.BORDER_REPLICATE)
    patch = flaws.softened(patch, spot.flaw, spot.square)
    cover = align.warped(aligned.mask(), m, size, border=cv2.BORDER_CONSTANT, how=cv2.INTER_LINEAR)
    inside = (
        slice(max(-top, 0), min(bottom, h) - top),
        slice(max(-left, 0), min(right, w) - left),
    )
    target = x[max(top, 0) : min(bottom, h), max(left, 0) : min(right, w)]
    target += cover[inside][..., None] * (patch[inside] - target)


def _told(place: aligned.Place, spot: Spot, group: str) -> Face:
    reasons = spot.flaw.reasons if spot.flaw else []
    return Face(_rounded(place.box), _rounded(place.points), spot.number, group, reasons)


def _rounded(x: np.ndarray) -> list:
    """Numbers as JSON holds them, to a thousandth of a pixel."""
    return x.round(3).tolist()


# ---- copies ----


def _copied(deck: Deck, faces: Faces, wanted: Plan) -> Painted:
    """Read the original's file and change it, as people pass photos on."""
    assert wanted.original is not None and wanted.change is not None
    of = plan(deck, wanted.original)
    original = painted(deck, faces, of)
    pixels = files.decode(encoding.encoded(original.pixels, of.file))
    h, w, _ = pixels.shape
    left, top, right, bottom = (
        round(part * side) for part, side in zip(wanted.change.crop, (w, h, w, h), strict=True)
    )
    pixels = pixels[top : h - bottom, left : w - right]
    by = np.array([wanted.width / pixels.shape[1], wanted.height / pixels.shape[0]])
    how = cv2.INTER_AREA if by.max() < 1 else cv2.INTER_CUBIC
    pixels = cv2.resize(pixels, (wanted.width, wanted.height), interpolation=how)
    pixels = cv2.convertScaleAbs(pixels, alpha=wanted.change.gain)
    return Painted(pixels, [_shifted(face, (left, top), by) for face in original.faces])


def _shifted(face: Face, corner: tuple[int, int], by: np.ndarray) -> Face:
    """A face of a photo of which a part, from a corner on, was enlarged."""
    points = np.array([*face.points, face.box[:2], face.box[2:]]) - corner
    # By its own factor along each side: both were rounded to whole pixels.
    points = (points + 0.5) * by - 0.5
    return Face(
        _rounded(points[5:].ravel()), _rounded(points[:5]), face.aligned, face.group, face.reasons
    )
