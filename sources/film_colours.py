"""Colours of films: RGB, and what is stored instead (H.273).

FFmpeg's own conversions are a little off: to full range they take half a level from the colours,
and from more than 8 bits they make a white that is less than white. Matrices are numbered as
libswscale does it.
"""

from typing import NamedTuple

import cv2
import numpy as np

BT709, BT601 = 1, 5
UNSPECIFIED = 2  # of H.273: a matrix without a name
LIMITED, FULL = 1, 2  # ranges of levels: that of studios, and all
# Shares of red and blue in the light, by matrix.
WEIGHTS = {
    1: (0.2126, 0.0722),
    4: (0.3, 0.11),
    5: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
}


class Colours(NamedTuple):
    """How a film stores its colours."""

    matrix: int
    tags: tuple[int, int, int, int]  # range, matrix, primaries, transfer: H.273's numbers

    @property
    def range(self) -> int:
        """LIMITED or FULL."""
        return self.tags[0] or LIMITED


def _to_yuv(colours: Colours, depth: int) -> np.ndarray:
    """[3, 4] by which RGB from 0 to 1 becomes Y, Cb and Cr in levels (H.273, sec. 8.3)."""
    red, blue = WEIGHTS.get(colours.matrix, WEIGHTS[BT709])
    luma = np.array([red, 1 - red - blue, blue])
    r, _, b = np.eye(3)
    rows = np.array([luma, (b - luma) / (2 * (1 - blue)), (r - luma) / (2 * (1 - red))])
    # Black, no colour, and the distance to white and to the strongest colour.
    unit = 1 << (depth - 8)
    if colours.range == FULL:
        black, spans = 0, [256 * unit - 1] * 3
    else:
        black, spans = 16 * unit, [219 * unit, 224 * unit, 224 * unit]
    return np.column_stack([rows * np.array(spans)[:, None], [black, 128 * unit, 128 * unit]])


def yuv(pixels: np.ndarray, colours: Colours, depth: int) -> np.ndarray:
    """Return RGB [h, w, 3] uint8 or uint16 as Y, Cb and Cr of a film, rounded to `depth` bits."""
    # In float32: a level of 16 bits is far above its precision.
    unit = pixels.astype(np.float32) / np.iinfo(pixels.dtype).max
    levels = cv2.transform(unit, _to_yuv(colours, depth).astype(np.float32))
    kind = np.uint8 if depth == 8 else np.uint16
    return np.clip(np.rint(levels), 0, (1 << depth) - 1).astype(kind)


def rgb48(levels: np.ndarray, colours: Colours, depth: int) -> np.ndarray:
    """Return Y, Cb and Cr [h, w, 3] of `depth` bits as RGB uint16."""
    # The inverse of what was done to the RGB.
    there = np.vstack([_to_yuv(colours, depth), [0, 0, 0, 1]])
    back = np.linalg.inv(there)[:3] * 65535
    rgb = cv2.transform(levels.astype(np.float32), back.astype(np.float32))
    return np.clip(np.rint(rgb), 0, 65535).astype(np.uint16)
