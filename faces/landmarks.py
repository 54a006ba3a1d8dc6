"""Landmarks of a face: 28 computed from its mask of class ids, or 68 in iBUG's order from a file.

Positions are (x, y) in pixels, with pixel centres at integers. Left and right ends of a part are
those in the picture; r_ and l_ are the person's own sides, as in the names of the classes.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple, TypedDict, TypeVar

import numpy as np
import torch
from msgspec import Meta
from torch import Tensor

import storage
from errors import BadFile, DataError
from sources.aliases import FilePath
from sources.manifest import Image
from storage import printable, records, shown, some

from .masks import CLASSES

Array = TypeVar('Array', np.ndarray, Tensor)

# ---- the points ----

# fmt: off
POINTS = (
    *(f'{side}_eye_{end}' for side in 'rl' for end in ('left', 'right', 'top', 'bottom')),
    *(f'{side}_brow_{end}' for side in 'rl' for end in ('left', 'right')),
    'nose_left', 'nose_right', 'nose_bottom', 'nose_centre',
    'mouth_left', 'mouth_right', 'lip_top', 'lip_bottom', 'mouth_centre',
    'chin',
    'oval_left_top', 'oval_right_top',
    'oval_left_middle', 'oval_right_middle',
    'oval_left_bottom', 'oval_right_bottom',
)

# The classes of each part. Glasses cover a face without ending it; the mouth begins and ends with
# the lips.
_PARTS = {
    'r_eye':  ['r_eye'],
    'l_eye':  ['l_eye'],
    'r_brow': ['r_brow'],
    'l_brow': ['l_brow'],
    'nose':   ['nose'],
    'mouth':  ['mouth', 'u_lip', 'l_lip'],
    'u_lip':  ['u_lip'],
    'l_lip':  ['l_lip'],
    'face':   ['skin', 'nose', 'eye_g', 'l_eye', 'r_eye', 'l_brow', 'r_brow',
               'mouth', 'u_lip', 'l_lip'],
}
# fmt: on
_NUMBERS = {part: i for i, part in enumerate(_PARTS)}
# [P, 19] bool: whether a class belongs to a part.
_MEMBERS = np.array([[name in classes for name in CLASSES] for classes in _PARTS.values()])


# Points whose names do not tell the part and the end.
_RENAMED = {
    'lip_top': ('u_lip', 'top'),
    'lip_bottom': ('l_lip', 'bottom'),
    'chin': ('face', 'bottom'),
}


def _part_and_end(point: str) -> tuple[str, str]:
    """('r_eye', 'left') of r_eye_left."""
    if point in _RENAMED:
        return _RENAMED[point]
    part, end = point.rsplit('_', 1)
    return part, end


# (part, end) of every point but those of the oval.
_ENDS = [_part_and_end(name) for name in POINTS if not name.startswith('oval')]

# ---- mirror images ----

_OPPOSITE = {'r': 'l', 'l': 'r', 'left': 'right', 'right': 'left'}


def _opposite(point: str) -> str:
    """Name in the mirror image: sides and ends change places."""
    return '_'.join(_OPPOSITE.get(word, word) for word in point.split('_'))


MIRROR = np.array([POINTS.index(_opposite(name)) for name in POINTS])  # [28], see `mirror`
IBUG = 68
# fmt: off
IBUG_MIRROR = np.array([
    *range(16, -1, -1),                                # jaw
    *range(26, 16, -1),                                # brows
    27, 28, 29, 30, 35, 34, 33, 32, 31,                # nose
    45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40,    # eyes
    54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55,    # outer lips
    64, 63, 62, 61, 60, 67, 66, 65,                    # inner lips
])
# fmt: on


def mirrored(points: Array, width: int) -> Array:
    """Points [..., K, 2] of the mirror image of a picture, each at its own place in the order.

    K is 28 or 68. Raises ValueError for any other.
    """
    swapped = points[..., mirror(points.shape[-2]), :]
    x, y = width - 1 - swapped[..., 0], swapped[..., 1]
    return torch.stack([x, y], -1) if isinstance(points, Tensor) else np.stack([x, y], -1)


def mirror(count: int) -> np.ndarray:
    """[count] int64: which point of a picture each point of its mirror image is.

    Raises ValueError unless count is 28 or 68.
    """
    if count not in (len(POINTS), IBUG):
        raise ValueError(
            f'{count} landmarks: {len(POINTS)} of a mask or {IBUG} of iBUG have a mirror image'
        )
    return MIRROR if count == len(POINTS) else IBUG_MIRROR


def moved(points: np.ndarray, matrix: np.ndarray, flip: np.ndarray, width: int) -> np.ndarray:
    """Points [B, K, 2] after their pictures were augmented.

    matrix, flip: of augment.Params, [B, 2, 3] from a pixel back to the source and [B] bool
    """
    # The matrix leads from the augmented picture to the source; points go the other way.
    offset = (points - matrix[:, None, :, 2])[..., None]
    out = np.linalg.solve(matrix[:, None, :, :2], offset)[..., 0]
    return np.where(flip[:, None, None], mirrored(out, width), out)


# ---- 28 points of a mask ----


def from_mask_ref(mask: np.ndarray, least: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Reference of `from_mask` for one mask [H, W]: [28, 2] float64 and [28] bool.

    An end of a part is the mean of its pixels in its first or last column or row, a centre the mean
    of all its pixels. The chin is the face's last row; the ends of the oval are the first and the
    last pixel of the face in three rows: the nose's first and last, and halfway from there to the
    chin.
    """
    ends: dict[tuple[str, str], np.ndarray | None] = {}
    for part, members in zip(_PARTS, _MEMBERS, strict=True):
        pixels = [(x, y) for y, row in enumerate(mask) for x, i in enumerate(row) if members[i]]
        for end, place in _ends_ref(pixels, least).items():
            ends[part, end] = place

    points = [ends[name] for name in _ENDS] + _oval_ref(
        mask, ends['nose', 'top'], ends['nose', 'bottom'], ends['face', 'bottom']
    )
    places = [(0, 0) if p is None else p for p in points]
    return np.array(places, np.float64), np.array([p is not None for p in points])


def _ends_ref(pixels: list[tuple[int, int]], least: float) -> dict[str, np.ndarray | None]:
    """{end or 'centre': (x, y)} of a part; None where it has no pixels."""
    ends: dict[str, np.ndarray | None] = {
        'centre': np.mean(pixels, 0) if pixels else None,
    }
    for axis, first, last in (0, 'left', 'right'), (1, 'top', 'bottom'):
        places = [p[axis] for p in pixels]
        # Columns or rows that count have enough pixels compared with the fullest one.
        full = max((places.count(v) for v in places), default=0)
        good = [v for v in places if places.count(v) >= least * full]
        for end, at in (first, min(good, default=None)), (last, max(good, default=None)):
            ends[end] = np.mean([p for p in pixels if p[axis] == at], 0) if pixels else None
    return ends


def _oval_ref(
    mask: np.ndarray,
    nose_top: np.ndarray | None,
    nose_bottom: np.ndarray | None,
    chin: np.ndarray | None,
) -> list[np.ndarray | None]:
    """The six points of the oval."""
    if nose_top is None or nose_bottom is None or chin is None:
        return [None] * 6
    top, bottom = int(nose_top[1]), int(nose_bottom[1])
    points: list[np.ndarray | None] = []
    for y in top, bottom, (bottom + int(chin[1])) // 2:
        row = [x for x, i in enumerate(mask[y]) if _MEMBERS[_NUMBERS['face']][i]]
        points += [np.array((row[0], y)), np.array((row[-1], y))] if row else [None, None]
    return points


def from_mask(mask: Tensor, least: float = 0.0) -> tuple[Tensor, Tensor]:
    """The points of POINTS in masks [B, H, W] of integer ids, as `from_mask_ref` defines them.

    least: columns and rows count that have at least this share of the pixels of the part's fullest
           one, so that specks of a predicted mask do not become ends
    Returns [B, 28, 2] float32 and [B, 28] bool, whether a point exists; absent ones are at (0, 0).
    """
    member = torch.from_numpy(_MEMBERS).to(mask.device)[:, mask.long()]  # [P, B, H, W] bool
    columns, rows = member.sum(2), member.sum(3)  # [P, B, W] and [P, B, H] pixels
    (left, right), (top, bottom) = ends(columns, least), ends(rows, least)  # [P, B]

    # x and y of every end of every part.
    at = {
        'left': (left, _mean(_column(member, left))),
        'right': (right, _mean(_column(member, right))),
        'top': (_mean(_row(member, top)), top),
        'bottom': (_mean(_row(member, bottom)), bottom),
        'centre': (_mean(columns), _mean(rows)),
    }
    points = [
        torch.stack([axis[_NUMBERS[part]].double() for axis in at[end]], 1) for part, end in _ENDS
    ]
    present = columns.any(2)  # [P, B]
    visible = [present[_NUMBERS[part]] for part, _ in _ENDS]

    # The oval: ends of the face in three rows.
    nose, face = _NUMBERS['nose'], _NUMBERS['face']
    for y in top[nose], bottom[nose], (bottom[nose] + bottom[face]) // 2:
        row = _row(member[face : face + 1], y[None])  # [1, B, W]
        points += [torch.stack([x[0], y], 1).double() for x in ends(row.long(), 0.0)]
        visible += 2 * [present[nose] & row[0].any(1)]

    exists = torch.stack(visible, 1)
    return torch.where(exists[..., None], torch.stack(points, 1), 0.0).float(), exists


def ends(counts: Tensor, least: float) -> tuple[Tensor, Tensor]:
    """First and last column or row that counts, [P, B] int64 each.

    counts: [P, B, n] pixels of every column or row; least: as in `from_mask`
    """
    good = (counts > 0) & (counts >= least * counts.amax(2, keepdim=True).double())
    return good.int().argmax(2), counts.shape[2] - 1 - good.flip(2).int().argmax(2)


def _column(member: Tensor, x: Tensor) -> Tensor:
    """Columns x [P, B] of [P, B, H, W] -> [P, B, H]."""
    return member.gather(3, x[:, :, None, None].expand(*member.shape[:3], 1))[..., 0]


def _row(member: Tensor, y: Tensor) -> Tensor:
    """Rows y [P, B] of [P, B, H, W] -> [P, B, W]."""
    shape = *member.shape[:2], 1, member.shape[3]
    return member.gather(2, y[:, :, None, None].expand(*shape))[:, :, 0]


def _mean(counts: Tensor) -> Tensor:
    """Mean position [P, B] float64 from how often each one occurs, [P, B, n]; 0 of none."""
    # Sums of 512 x 512 positions exceed the precision of float32.
    counts = counts.double()
    positions = torch.arange(counts.shape[2], device=counts.device)
    return (counts * positions).sum(2) / counts.sum(2).clamp_min(1)


# ---- 68 points from a file ----


LARGEST = 1 << 30  # bytes; FFHQ's file has 267 MB


class Landmarks(NamedTuple):
    """The landmarks of one picture."""

    points: np.ndarray  # [68, 2] float32 (x, y) pixels
    # (width, height) of the picture that they refer to; None: the picture that has their name.
    size: tuple[int, int] | None


def read(path: FilePath) -> dict[str, Landmarks]:
    """Read a JSON file: {name of a picture without folder and suffix: Landmarks}.

    It is FFHQ's ffhq-dataset-v2.json, or {name: [[x, y], ... 68 of them]}. Raises DataError that
    names the file and the entry: it is unreadable or has another form, an entry is not 68 finite
    pairs, or two entries have one name.
    """
    landmarks: dict[str, Landmarks] = {}
    for key, entry in _content(path).items():
        shown_key = printable(key, 60)
        try:
            name, points, size = _entry(key, entry)
        except BadFile as error:
            raise DataError(
                f'{shown(path)}: {shown_key} has not {IBUG} pairs of numbers [x, y] ({error})'
            ) from None
        stem = _stem(name)
        if stem in landmarks:
            raise DataError(f'{shown(path)}: two entries for pictures named {printable(stem, 60)}')
        landmarks[stem] = Landmarks(points, size)
    return landmarks


# A face may be cut, but no farther away than this, in pixels.
Coordinate = Annotated[float, Meta(ge=-1e6, le=1e6)]
Point = Annotated[list[Coordinate], Meta(min_length=2, max_length=2)]
Points = Annotated[list[Point], Meta(min_length=IBUG, max_length=IBUG)]
Length = Annotated[int, Meta(ge=1, le=1 << 20)]


class Named(TypedDict, total=False):
    """Where the picture of an entry of ffhq-dataset-v2.json lies."""

    file_path: str


class OfFfhq(Named):
    """What ffhq-dataset-v2.json says of the picture of an entry."""

    pixel_size: Annotated[list[Length], Meta(min_length=2, max_length=2)]
    face_landmarks: Points


def _content(path: FilePath) -> dict[str, Any]:
    """The object in a JSON file. Raises DataError."""
    try:
        content = records.loads(storage.read(path, LARGEST))
    except (OSError, BadFile) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f'{shown(path)} cannot be read as JSON ({reason})') from None
    # Whatever else the file may be: named here, not met as a TypeError later.
    if not isinstance(content, dict) or not content:
        raise DataError(
            f'{shown(path)}: landmarks were expected, '
            f'{{name: [[x, y], ... {IBUG} of them]}} or ffhq-dataset-v2.json'
        )
    return content


def _entry(key: str, entry: Any) -> tuple[str, np.ndarray, tuple[int, int] | None]:
    """(name of the picture, points, size) of an entry of FFHQ's file, or of a plain one.

    Raises BadFile for anything else.
    """
    image = entry.get('image') if isinstance(entry, dict) else None
    if image is None:
        points = records.convert(entry, Points)
        return key, np.array(points, np.float32), None
    # Points without a valid size could not be scaled to the training size.
    of: OfFfhq = records.convert(image, OfFfhq)
    width, height = of['pixel_size']
    return of.get('file_path', key), np.array(of['face_landmarks'], np.float32), (width, height)


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]


def of(landmarks: Mapping[str, Landmarks], images: Sequence[Image], size: int) -> np.ndarray:
    """[N, 68, 2] float32 of the images of a run, in pixels of the training size.

    landmarks: from `read`
    Raises DataError: images without landmarks, or of another shape than the one these refer to.
    """
    stems = [_stem(image.path) for image in images]
    missing = [
        shown(image.path)
        for image, stem in zip(images, stems, strict=True)
        if stem not in landmarks
    ]
    if missing:
        raise DataError(
            f'{len(missing):,} of {len(images):,} images have no landmarks: {some(missing, 3)}; '
            'add them to the file, or leave the images out'
        )

    # Points are scaled as their picture is, so both must have one ratio of sides.
    points = np.empty((len(images), IBUG, 2), np.float32)
    for i, (image, stem) in enumerate(zip(images, stems, strict=True)):
        own = landmarks[stem]
        width, height = own.size or (image.width, image.height)
        # Equal ratios of sides, compared without division.
        if width * image.height != height * image.width:
            raise DataError(
                f'{shown(image.path)} is {image.width}x{image.height}, its landmarks were found in '
                f'{width}x{height}: another shape'
            )
        points[i] = fitted(own.points, width, height, size)
    return points


def fitted(points: np.ndarray, width: int, height: int, size: int) -> np.ndarray:
    """Points [..., 2] of a picture width x height in the square that files.fit makes of it."""
    before = np.array([width, height])
    short = before.min()
    # As files.fit: nothing is resized if the shorter side already is the training size.
    if short == size:
        after = before
    else:
        after = np.maximum(size, np.round(before * size / short)).astype(int)
    corner = (after - size) // 2
    return ((points + 0.5) * (after / before) - 0.5 - corner).astype(np.float32)
