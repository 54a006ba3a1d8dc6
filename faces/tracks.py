"""Faces of a film followed over its frames, and what jitters in them smoothed over time.

A face of a frame goes on in the next one where their boxes overlap. Smoothing is zero-phase: every
value is replaced by that of a parabola fitted to those around it with Gaussian weights (local
regression; Savitzky and Golay 1964 have equal ones), so that nothing lags behind a movement; never
across a cut.
"""

import functools
import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import cv2
import numpy as np

from .detect import Found

OVERLAP = 0.3  # of the union of two boxes that are one face
GAP = 8  # frames in which a face may not be found and be the same one
SHORTEST = 5  # frames of a face that is one; less is a flash of the detector
SIGMA = 3.0  # frames
DEGREE = 2
THUMB = 32, 18  # pixels of the pictures by which cuts are told
CUT = 20.0  # levels by which these differ, on average
STEADY = 2.0  # times as much as before: a fast pan is no cut


class Track(NamedTuple):
    """One face over consecutive frames."""

    start: int  # its first frame
    boxes: np.ndarray  # [n, 4] as detect.Found has them
    points: np.ndarray  # [n, 5, 2]
    score: np.ndarray  # [n]

    @property
    def stop(self) -> int:
        """The first frame without it."""
        return self.start + len(self.score)


def thumb(frame: np.ndarray) -> np.ndarray:
    """Return what is kept of a frame [h, w, 3] uint8 to tell cuts: [18, 32] uint8."""
    small = cv2.resize(frame, THUMB, interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)


def cuts(thumbs: np.ndarray) -> set[int]:
    """Return the numbers of frames that begin another scene, of thumbs [n, 18, 32] uint8."""
    steps = np.abs(np.diff(thumbs.astype(np.float64), axis=0)).mean((1, 2))
    # Compared with the larger of its neighbours: where all frames differ, none is a cut.
    padded = np.pad(steps, 1)
    around = np.maximum(padded[:-2], padded[2:])
    return set((np.flatnonzero((steps > CUT) & (steps > STEADY * around)) + 1).tolist())


def follow(found: Iterable[Found], cut: set[int]) -> list[Track]:
    """Return the faces of all frames as tracks, in the order in which they begin.

    cut: numbers of frames that begin another scene
    """
    open_tracks: list[list[tuple[int, Found]]] = []
    done: list[list[tuple[int, Found]]] = []
    number = -1
    for number, faces in enumerate(found):
        going_on: list[list[tuple[int, Found]]] = []
        for track in open_tracks:
            lost = number in cut or number - track[-1][0] > GAP + 1
            (done if lost else going_on).append(track)
        open_tracks = going_on
        for i, known in _matched(faces, open_tracks):
            one = Found(*(field[i : i + 1] for field in faces))
            if known is None:
                open_tracks.append([(number, one)])
            else:
                known.append((number, one))
    shortest = min(SHORTEST, number + 1)
    whole = [_whole(seen) for seen in done + open_tracks]
    return sorted((t for t in whole if len(t.score) >= shortest), key=lambda t: t.start)


def _matched(
    faces: Found, tracks: list[list[tuple[int, Found]]]
) -> Iterator[tuple[int, list[tuple[int, Found]] | None]]:
    """(number of a face, its track or None), those that overlap most first."""
    # Where each one was seen last, some frames ago if it was lost.
    last = np.array([track[-1][1].boxes[0] for track in tracks]).reshape(-1, 4)
    shares = overlap(faces.boxes, last)
    left = set(range(len(faces.boxes)))
    while shares.size and shares.max() >= OVERLAP:
        face, track = np.unravel_index(shares.argmax(), shares.shape)
        yield int(face), tracks[track]
        left.discard(int(face))
        shares[face], shares[:, track] = -1, -1
    for number in sorted(left):
        yield number, None


def overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes [n, 4] and [m, 4]: [n, m]."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    common = (high - low).clip(0).prod(2)
    areas = [(x[:, 2:] - x[:, :2]).prod(1) for x in (a, b)]
    return common / np.maximum(areas[0][:, None] + areas[1][None] - common, 1e-9)


def _whole(seen: list[tuple[int, Found]]) -> Track:
    """A track whose gaps are filled along straight lines."""
    at = np.array([number for number, _ in seen])
    every = np.arange(at[0], at[-1] + 1)
    columns = []
    for field in zip(*(one for _, one in seen), strict=True):
        known = np.concatenate(field).reshape(len(at), -1)
        filled = [np.interp(every, at, column) for column in known.T]
        columns.append(np.stack(filled, 1))
    boxes, points, score = columns
    return Track(int(at[0]), boxes, points.reshape(-1, 5, 2), score[:, 0])


def smoothed(track: Track) -> Track:
    """Return a track with points and boxes that do not jitter."""
    return track._replace(boxes=smooth(track.boxes), points=smooth(track.points))


def smooth(values: np.ndarray) -> np.ndarray:
    """Smooth [n, ...] over its first axis."""
    n, reach = len(values), math.ceil(3 * SIGMA)
    rows = []
    # Near the ends the parabola leans on one side alone.
    for i in range(n):
        low, high = max(i - reach, 0), min(i + reach + 1, n)
        rows.append(np.tensordot(_weights(low - i, high - i), values[low:high], 1))
    return np.array(rows).reshape(values.shape)


@functools.cache
def _weights(low: int, high: int) -> np.ndarray:
    """Weights of the values from low to high around 0: their parabola's value at 0."""
    t = np.arange(low, high)
    gauss = np.exp(-(t**2) / (4 * SIGMA**2))  # square roots of the weights
    powers = t[:, None] ** np.arange(DEGREE + 1) * gauss[:, None]
    return np.linalg.pinv(powers)[0] * gauss
