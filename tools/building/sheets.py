"""Small copies of the faces by which thresholds are judged: for every measure those at its ends and
those nearest to its thresholds.
"""

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from .accounts import DUPLICATE, Face, Sheet

MOST = 4  # faces of a strip
SIDE = 96  # pixels of a copy
QUALITY = 85  # of its JPEG: some 3 KB
ANGLES = 'yaw', 'pitch', 'roll'  # their thresholds are of the absolute value

Limits = Mapping[str, float | None]  # least_side: 48.0, most_yaw: None (no threshold), ...


class Strip(NamedTuple):
    """Which faces of a measure are shown beside each other."""

    part: str  # of the axis: 'below' or 'above' are dropped by the measure, 'kept' passed them all
    highest: bool  # of that part; else the lowest


# Along the axis: what lies next to a threshold is the inner end of the dropped, and an end of the
# kept.
STRIPS = tuple(Strip(part, end) for part in ('below', 'kept', 'above') for end in (False, True))


def bounds(limits: Limits, measure: str) -> tuple[float, float]:
    """The least and the greatest value of a measure that is kept; infinite without a threshold."""
    least, most = limits.get(f'least_{measure}'), limits.get(f'most_{measure}')
    high = math.inf if most is None else most
    if least is None:
        return (-high if measure in ANGLES else -math.inf), high
    return least, high


def chosen(
    faces: Sequence[Face], limits: Limits
) -> dict[tuple[str, Strip], list[tuple[float, Face]]]:
    """Up to MOST values and faces for every measure and strip.

    The outermost comes first, of equal ones the smaller key; a strip without faces is left out.

    Duplicates count as kept: they are found after the copies have been made. Values that are no
    finite number are passed over.
    """
    faces = sorted(faces, key=lambda face: face.key)
    dropped = np.array([face.dropped for face in faces], object)
    passed = (dropped == '') | (dropped == DUPLICATE)
    found = {}
    for measure in dict.fromkeys(name for face in faces for name in face.measures):
        values = values_of(faces, measure)
        low, high = bounds(limits, measure)
        # Values may be rounded: the nearer threshold is the one that a face has failed.
        below = values < _between(low, high)
        by_it = dropped == measure
        parts = {'below': by_it & below, 'kept': passed, 'above': by_it & ~below}
        for highest, ranks in (False, values), (True, -values):
            order = np.argsort(ranks, kind='stable')
            order = order[np.isfinite(values[order])]
            for part, members in parts.items():
                if len(first := order[members[order]][:MOST]):
                    found[measure, Strip(part, highest)] = [
                        (float(values[i]), faces[i]) for i in first
                    ]
    return found


def values_of(faces: Sequence[Face], measure: str) -> np.ndarray:
    """Values [n] float64 of a measure; NaN where a face has none."""
    # None becomes NaN.
    return np.array([face.measures.get(measure) for face in faces], np.float64)


def _between(low: float, high: float) -> float:
    """What divides the values that fail the least from those that fail the greatest."""
    if math.isinf(low) or math.isinf(high):
        return math.inf if math.isinf(high) else -math.inf
    return (low + high) / 2


def ends(faces: Sequence[Face], limits: Limits, copy: Callable[[str], np.ndarray]) -> Sheet:
    """Copies of the chosen faces of a shard, sorted by key.

    copy: the aligned face of a key, as `small` takes it
    """
    # A face may lie at the ends of several measures: one copy serves them all.
    keys = {face.key for strip in chosen(faces, limits).values() for _, face in strip}
    return Sheet({key: _encoded(small(copy(key))) for key in sorted(keys)})


def small(face: np.ndarray) -> np.ndarray:
    """A copy [SIDE, SIDE, 3] of a face [s, s, 3] uint8; the copy of a copy is the same."""
    return cv2.resize(face, (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def _encoded(face: np.ndarray) -> str:
    """RGB pixels as base64 of a JPEG."""
    flags = [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
    _, data = cv2.imencode('.jpg', cv2.cvtColor(face, cv2.COLOR_RGB2BGR), flags)
    return base64.b64encode(data.tobytes()).decode()
