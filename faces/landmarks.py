"""Landmarks of a face: 28 that follow from its mask of 19 ids, or 68 in iBUG's order from a JSON file.

Positions are (x, y) pixels, centres of pixels at integers. Left and right ends of a part are those of the picture; r_ and l_ are the person's own sides, as in the
names of the classes.
"""

import json
import os
from typing import NamedTuple

import numpy as np
import torch

from errors import DataError
from sources.files import read_bytes, shown
from sources.manifest import some

from .masks import CLASSES

POINTS = (
    *(f'{side}_eye_{end}' for side in 'rl' for end in ('left', 'right', 'top', 'bottom')),
    *(f'{side}_brow_{end}' for side in 'rl' for end in ('left', 'right')),
    'nose_left',
    'nose_right',
    'nose_bottom',
    'nose_centre',
    'mouth_left',
    'mouth_right',
    'lip_top',
    'lip_bottom',
    'mouth_centre',
    'chin',
    *(
        f'oval_{end}_{height}'
        for height in ('top', 'middle', 'bottom')
        for end in ('left', 'right')
    ),
)

# The classes that a part is made of. Glasses hide a face without ending it; the mouth begins and ends with the lips.
_PARTS = {
    'r_eye': ['r_eye'],
    'l_eye': ['l_eye'],
    'r_brow': ['r_brow'],
    'l_brow': ['l_brow'],
    'nose': ['nose'],
    'mouth': ['mouth', 'u_lip', 'l_lip'],
    'u_lip': ['u_lip'],
    'l_lip': ['l_lip'],
    'face': [
        'skin',
        'nose',
        'eye_g',
        'l_eye',
        'r_eye',
        'l_brow',
        'r_brow',
        'mouth',
        'u_lip',
        'l_lip',
    ],
}
_MEMBERS = np.array(
    [[name in classes for name in CLASSES] for classes in _PARTS.values()]
)  # [P, 19] bool

# (part, end) of every point but those of the oval.
_ENDS = {'lip_top': ('u_lip', 'top'), 'lip_bottom': ('l_lip', 'bottom'), 'chin': ('face', 'bottom')}
_ENDS = [
    _ENDS.get(name) or tuple(name.rsplit('_', 1)) for name in POINTS if not name.startswith('oval')
]

_OTHER = {'r': 'l', 'l': 'r', 'left': 'right', 'right': 'left'}
MIRROR = np.array(
    [POINTS.index('_'.join(_OTHER.get(word, word) for word in name.split('_'))) for name in POINTS]
)  # [28] see `mirrored`
IBUG = 68
IBUG_MIRROR = np.array(
    [
        *range(16, -1, -1),
        *range(26, 16, -1),
        27,
        28,
        29,
        30,
        35,
        34,
        33,
        32,
        31,
        45,
        44,
        43,
        42,
        47,
        46,
        39,
        38,
        37,
        36,
        41,
        40,
        54,
        53,
        52,
        51,
        50,
        49,
        48,
        59,
        58,
        57,
        56,
        55,
        64,
        63,
        62,
        61,
        60,
        67,
        66,
        65,
    ]
)


def mirrored(points, width):
    """[..., K, 2] of a picture -> those of its mirror image, each again at its place in the order; K is 28 or 68, an array or a tensor."""
    moved, stack = (
        points[..., mirror(points.shape[-2]), :],
        torch.stack if torch.is_tensor(points) else np.stack,
    )
    return stack([width - 1 - moved[..., 0], moved[..., 1]], -1)


def mirror(count):
    """-> [count] int64: which point of a picture each point of its mirror image is. ValueError unless count is 28 or 68."""
    if count not in (len(POINTS), IBUG):
        raise ValueError(
            f'{count} landmarks: {len(POINTS)} of a mask or {IBUG} of iBUG have a mirror image'
        )
    return MIRROR if count == len(POINTS) else IBUG_MIRROR


def moved(points, matrix, flip, width):
    """Points [B, K, 2] of pictures -> of the same pictures moved as augment.Params says: matrix [B, 2, 3] from a pixel back to the source, then mirrored where flip [B]."""
    out = np.linalg.solve(matrix[:, None, :, :2], (points - matrix[:, None, :, 2])[..., None])[
        ..., 0
    ]
    return np.where(flip[:, None, None], mirrored(out, width), out)


def from_mask_ref(mask, least=0.0):
    """One mask [H, W] uint8 -> ([28, 2] float64, [28] bool): where the points of POINTS are, and whether they are there at all; absent ones are at (0, 0).

    An end of a part is the mean of its pixels in its first or last column or row, a centre the mean of all. The chin is the face's last row; the ends of the oval are
    the first and the last pixel of the face in three rows: the nose's first and last, and halfway from there to the chin.
    least: columns and rows count with this share of the pixels of the part's fullest one, so that specks of a predicted mask are no ends
    """
    found = {}
    for part, members in zip(_PARTS, _MEMBERS):
        pixels = [(x, y) for y, row in enumerate(mask) for x, i in enumerate(row) if members[i]]
        for axis, first, last in (0, 'left', 'right'), (1, 'top', 'bottom'):
            places = [p[axis] for p in pixels]
            full = max((places.count(v) for v in places), default=0)
            good = [v for v in places if places.count(v) >= least * full]
            for end, at in (first, min(good, default=None)), (last, max(good, default=None)):
                found[part, end] = (
                    np.mean([p for p in pixels if p[axis] == at], 0) if pixels else None
                )
        found[part, 'centre'] = np.mean(pixels, 0) if pixels else None
    points = [found[name] for name in _ENDS]
    top, bottom, chin = (
        None if found[name] is None else int(found[name][1])
        for name in (('nose', 'top'), ('nose', 'bottom'), ('face', 'bottom'))
    )
    for y in (None,) * 3 if top is None else (top, bottom, (bottom + chin) // 2):
        row = [] if y is None else [x for x, i in enumerate(mask[y]) if _MEMBERS[-1][i]]
        points += [(row[0], y), (row[-1], y)] if row else [None, None]
    return np.array([(0, 0) if p is None else p for p in points], np.float64), np.array(
        [p is not None for p in points]
    )


def from_mask(mask, least=0.0):
    """Masks [B, H, W] of integer ids -> ([B, 28, 2] float32, [B, 28] bool) on their device; as `from_mask_ref` has it."""
    member = torch.from_numpy(_MEMBERS).to(mask.device)[:, mask.long()]  # [P, B, H, W] bool
    h, w = mask.shape[1:]
    columns, rows = member.sum(2), member.sum(3)  # [P, B, W] and [P, B, H] pixels
    (left, right), (top, bottom) = ends(columns, least), ends(rows, least)  # [P, B]
    at = {
        'left': (left, _mean(_column(member, left))),
        'right': (right, _mean(_column(member, right))),
        'top': (_mean(_row(member, top)), top),
        'bottom': (_mean(_row(member, bottom)), bottom),
        'centre': (_mean(columns), _mean(rows)),
    }
    numbers = {part: i for i, part in enumerate(_PARTS)}
    points = [
        torch.stack([axis[numbers[part]].double() for axis in at[end]], 1) for part, end in _ENDS
    ]
    there = columns.any(2)  # [P, B]
    visible = [there[numbers[part]] for part, _ in _ENDS]

    nose, face = numbers['nose'], numbers['face']
    for y in top[nose], bottom[nose], (bottom[nose] + bottom[face]) // 2:
        row = _row(member[face : face + 1], y[None])  # [1, B, W]
        points += [torch.stack([x[0], y], 1).double() for x in ends(row.long(), 0.0)]
        visible += 2 * [there[nose] & row[0].any(1)]
    visible = torch.stack(visible, 1)
    return torch.where(visible[..., None], torch.stack(points, 1), 0.0).float(), visible


def ends(counts, least):
    """[P, B, n] pixels of columns or rows -> the first and the last that counts, [P, B] int64 each"""
    good = (counts > 0) & (counts >= least * counts.amax(2, keepdim=True).double())
    return good.int().argmax(2), counts.shape[2] - 1 - good.flip(2).int().argmax(2)


def _column(member, x):
    return member.gather(3, x[:, :, None, None].expand(*member.shape[:3], 1))[..., 0]


def _row(member, y):
    return member.gather(2, y[:, :, None, None].expand(*member.shape[:2], 1, member.shape[3]))[
        :, :, 0
    ]


def _mean(counts):
    """[P, B, n] how often each position is there -> [P, B] float64 mean position, 0 of none"""
    counts = counts.double()  # sums of 512 x 512 positions are beyond float32
    return (counts * torch.arange(counts.shape[2], device=counts.device)).sum(2) / counts.sum(
        2
    ).clamp_min(1)


# ---- 68 points from a file ----


class Landmarks(NamedTuple):
    points: np.ndarray  # [68, 2] float32 (x, y) pixels
    size: tuple  # (width, height) of the picture that they were found in; None: of the picture that has their name


def read(path):
    """JSON file -> {name of a picture without folder and suffix: Landmarks}: FFHQ's ffhq-dataset-v2.json, or {name: [[x, y], ... 68 of them]}.

    Raises DataError naming the file and the entry: unreadable, of another form, not 68 finite pairs, or two entries of one name.
    """
    try:
        content = json.loads(read_bytes(path))
    except (OSError, ValueError) as e:
        raise DataError(
            f'{shown(path)} cannot be read as JSON ({getattr(e, "strerror", None) or e})'
        ) from None
    if not isinstance(content, dict) or not content:
        raise DataError(
            f'{shown(path)}: landmarks were expected, {{name: [[x, y], ... {IBUG} of them]}} or ffhq-dataset-v2.json'
        )
    found = {}
    for key, entry in content.items():
        name, points, size = _entry(key, entry)
        stem = os.path.splitext(os.path.basename(name))[0]
        try:
            points = np.array(points, np.float32)
        except (TypeError, ValueError):
            points = np.empty(0)
        if points.shape != (IBUG, 2) or not np.isfinite(points).all():
            raise DataError(f'{shown(path)}: {key} has not {IBUG} pairs of numbers [x, y]')
        if stem in found:
            raise DataError(f'{shown(path)}: two entries for pictures named {stem}')
        found[stem] = Landmarks(points, size)
    return found


def _entry(key, entry):
    """(name of the picture, points, size) of an entry of FFHQ's file, or of a plain one."""
    image = entry.get('image') if isinstance(entry, dict) else None
    if not isinstance(image, dict):
        return key, entry, None
    size = image.get('pixel_size')
    good = (
        isinstance(size, list)
        and len(size) == 2
        and all(isinstance(v, int) and v > 0 for v in size)
    )
    return (
        str(image.get('file_path', key)),
        image.get('face_landmarks') if good else None,
        tuple(size) if good else None,
    )


def of(found, images, size):
    """What `read` found -> [N, 68, 2] float32 of the manifest.Image of a run, in pixels of the training size `size`.

    Raises DataError: pictures that have none, or of another shape than the one they were found in.
    """
    stems = [os.path.splitext(os.path.basename(image.path))[0] for image in images]
    missing = [shown(image.path) for image, stem in zip(images, stems) if stem not in found]
    if missing:
        raise DataError(
            f'{len(missing):,} of {len(images):,} images have no landmarks: {some(missing, 3)}; add them to the file, or leave the images out'
        )
    points = np.empty((len(images), IBUG, 2), np.float32)
    for i, (image, stem) in enumerate(zip(images, stems)):
        one = found[stem]
        width, height = one.size or (image.width, image.height)
        if width * image.height != height * image.width:
            raise DataError(
                f'{shown(image.path)} is {image.width}x{image.height}, its landmarks were found in {width}x{height}: another shape'
            )
        points[i] = fitted(one.points, width, height, size)
    return points


def fitted(points, width, height, size):
    """[..., 2] of a picture width x height -> of the square that files.fit makes of it."""
    now = np.array([width, height])
    short = now.min()
    large = np.maximum(size, np.round(now * size / short)).astype(int) if short != size else now
    corner = (large - size) // 2
    return ((points + 0.5) * (large / now) - 0.5 - corner).astype(np.float32)
