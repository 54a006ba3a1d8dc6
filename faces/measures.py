"""How good a face in a photograph is, in numbers, and by which of them it is turned away.

Some are of its place in the photo, some of the aligned face, of which the inner part is looked at:
an oval from the brows to the mouth, in which 97 of 100 pixels were skin or features (median of 300
masks of CelebAMask-HQ; fringes are most of the rest).
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import cv2
import numpy as np

from sources.aliases import Buffer

from . import quality
from .masks import CLASSES

# An aligned face [s, s, 3] uint8 RGB -> ids [h, h] of masks.CLASSES, of any size.
Parser = Callable[[np.ndarray], np.ndarray]
Range = tuple[float, float]  # least, most

# The inner face: centre and half axes of the oval, (x, y) as parts of the side.
CENTRE, AXES = (0.5, 0.57), (0.24, 0.27)
# What hides a face where a parser sees it there; glasses and what is worn on ears do not.
HIDING = 'background', 'hair', 'hat', 'neck_l', 'neck', 'cloth'
# Five points of a mean head in distances of its eyes: x to the right of the picture, y down, z
# towards the viewer. Eyes and mouth lie in one plane: so 55 frontal faces had a pitch of -1 degree.
HEAD = np.array(
    [(-0.5, 0, 0), (0.5, 0, 0), (0, 0.61, 0.43), (-0.45, 1.04, 0), (0.45, 1.04, 0)], np.float64
)
# Cycles a face that blur is looked for in, and the sectors of half a turn that are compared.
BAND, SECTORS = (16.0, 48.0), 8


class Measures(NamedTuple):
    """What is known of a face, in the order in which `failed` looks at it."""

    side: float  # pixels of the longer side of its box in the photo
    score: float  # of the detector, 0 to 1
    inside: float  # share of the aligned square that lies inside the photo
    yaw: float  # degrees, positive where it looks to the right of the picture
    pitch: float  # degrees, positive where it looks up
    roll: float  # degrees, positive where it leans clockwise in the picture
    resolution: float  # pixels of side that the aligned face is worth; quality.effective_side
    blur: float  # dB; see `blur`
    jpeg: float  # quality of the photo's file, 1 to 100; see `jpeg_quality`
    exposure: float  # levels, mean luma of the inner face
    clipped: float  # share of the inner face's pixels whose luma is 0 or 255
    contrast: float  # levels, standard deviation of the inner face's luma
    colourfulness: float  # levels; see `colourfulness`
    occluded: float  # share of the inner face that is hidden; NaN without a parser


class Limits(NamedTuple):
    """The least and the most of each measure that is kept, both included.

    For training faces of 512 pixels: a square of 180 pixels in the photo at least (it is 1.4 boxes
    wide) and detail of 200. Of 224 sharp faces of CelebA-HQ and of a studio these drop four in 100,
    by score, resolution, blur and exposure, and more for `inside`, since these were cropped before;
    of 47 real faces of low quality all but one; of 38 faces of 16 photographs the 27 small ones and
    four. The others lie beyond what any of these had. Gray faces are kept, and so is what is
    unknown.
    """

    side: Range = (128, 100_000)
    score: Range = (0.95, 1)
    inside: Range = (0.9, 1)
    yaw: Range = (-60, 60)
    pitch: Range = (-45, 45)
    roll: Range = (-60, 60)
    resolution: Range = (200, 4096)
    blur: Range = (0, 12)
    jpeg: Range = (70, 100)
    exposure: Range = (40, 220)
    clipped: Range = (0, 0.05)
    contrast: Range = (12, 128)
    colourfulness: Range = (0, 1000)
    occluded: Range = (0, 0.35)


def measure(
    face: np.ndarray,
    *,
    matrix: np.ndarray,
    box: np.ndarray,
    points: np.ndarray,
    score: float,
    photo: tuple[int, int],
    jpeg: float,
    parser: Parser | None = None,
) -> Measures:
    """Measure one face of a photo.

    face:   [s, s, 3] uint8 RGB, aligned; Limits means s = 512, of which the sharpest are worth 374
    matrix: [2, 3] from pixel centres of the photo to those of the aligned face
    box:    [4] left, top, right, bottom in the photo
    points: [5, 2] in the photo, as detect.Found has them
    photo:  its height and width in pixels
    jpeg:   `jpeg_quality` of its file
    """
    light, colour = _inner(face)
    yaw, pitch, roll = angles(points)
    return Measures(
        side=float(max(box[2] - box[0], box[3] - box[1])),
        score=float(score),
        inside=inside(photo, matrix, len(face)),
        yaw=yaw,
        pitch=pitch,
        roll=roll,
        resolution=quality.effective_side(face),
        blur=blur(face),
        jpeg=float(jpeg),
        exposure=float(light.mean()),
        clipped=float(((light == 0) | (light == 255)).mean()),
        contrast=float(light.std()),
        colourfulness=colourfulness(colour),
        occluded=math.nan if parser is None else occluded(parser(face)),
    )


def failed(measures: Measures, limits: Limits) -> str:
    """Return the name of the first measure, in the order of `Measures`, outside of its limits.

    '' if there is none. What is not known (NaN) is kept.
    """
    for name, value, (least, most) in zip(Measures._fields, measures, limits, strict=True):
        if value < least or value > most:
            return name
    return ''


# ---- its place in the photo ----


def inside(photo: tuple[int, int], matrix: np.ndarray, side: int) -> float:
    """Return the share of an aligned square of `side` pixels that lies in a photo (height, width).

    matrix: [2, 3] from the photo to the square
    """
    height, width = photo
    corners = _corners(width, height) @ matrix[:, :2].T + matrix[:, 2]
    # In parts of the square: OpenCV cuts polygons in float32.
    parts = ((corners + 0.5) / side).astype(np.float32)
    unit = np.array([(0, 0), (1, 0), (1, 1), (0, 1)], np.float32)
    area, _ = cv2.intersectConvexConvex(parts, unit)
    return float(np.clip(area, 0, 1))


def _corners(width: int, height: int) -> np.ndarray:
    """[4, 2] corners of a picture in coordinates of pixel centres, one after the other."""
    right, bottom = width - 0.5, height - 0.5
    return np.array([(-0.5, -0.5), (right, -0.5), (right, bottom), (-0.5, bottom)])


def angles(points: np.ndarray) -> tuple[float, float, float]:
    """Return yaw, pitch and roll in degrees of a face with five points [5, 2].

    The rotation that is nearest to the affine map from a mean head to the points: POS of DeMenthon
    and Davis 1995 ("Model-based object pose in 25 lines of code", sec. 3), whose two rows are made
    orthonormal. The head turns by yaw about its own axis first, then by pitch, then by roll.

    With points that are wrong by 3 % of the eyes' distance in each of three directions, yaw and
    pitch are wrong by 5 degrees, roll by 2 (standard deviations, up to 60 degrees of yaw). A camera
    at ten times that distance adds 2 to the yaw and, to the pitch of a head that looks up or down
    by 30 degrees, 5. A broad smile lifts the corners of the mouth and reads as some ten degrees of
    looking down.
    """
    head, seen = HEAD - HEAD.mean(0), points - points.mean(0)
    u, _, v = np.linalg.svd(seen.T @ np.linalg.pinv(head).T, full_matrices=False)
    x, y = u @ v
    z = np.cross(x, y)
    turned = math.atan2(-z[0], z[2]), math.asin(np.clip(z[1], -1, 1)), math.atan2(-x[1], y[1])
    yaw, pitch, roll = (math.degrees(a) for a in turned)
    return yaw, pitch, roll


# ---- the aligned face ----


def blur(face: np.ndarray) -> float:
    """Return by how many dB the detail of an aligned face [s, s, 3] uint8 differs by direction.

    Motion takes it from one direction and leaves it in the other, so that `resolution`, a mean over
    all of them, hardly falls; what takes it from all of them, as defocus does, `resolution` sees.
    Detail is the power from 16 to 48 cycles a face, levelled as there and without its noise, in
    each of eight sectors of the spectrum: the most over the least. Directional detail tells motion
    from other blur in Liu, Li and Jia 2008 ("Image partial blur detection and classification").

    Of 713 sharp faces half have less than 6.2 dB, 98 of 100 less than 10.4, and four more than 12,
    one of these with motion. Motion of 16, 20, 24 and 32 pixels of 512 has more than 12 in 70, 77,
    97 and 100 of 100; of 8 in three. It says what `resolution` does not: of sharp faces and of 19
    kinds of worse ones the two have a rank correlation of -0.14; and of pairs of a face with motion
    of 16 or 24 pixels and one that was averaged down to 96 to 160 pixels or out of focus it is the
    larger for the former in 98 of 100, where `resolution` is the lower in 16. Noise of 16 levels
    and JPEG of quality 30 change its median by less than 0.1 dB.
    """
    power, cycles, direction = _spectrum(face)
    noise = np.median(power[cycles > 0.45 * len(face)])
    band = (cycles >= BAND[0]) & (cycles <= BAND[1])
    detail = (power[band] - noise).clip(0) * cycles[band] ** quality.FALL
    # The axes in the middle of theirs, or mirrored faces would differ.
    sectors = (direction[band] * SECTORS + 0.5).astype(int) % SECTORS
    total = np.bincount(sectors, detail, SECTORS) / np.bincount(sectors, minlength=SECTORS)
    # So little that only a face without any detail has less, which is equal in all directions.
    total += 1e-9
    return float(10 * np.log10(total.max() / total.min()))


def _spectrum(face: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Power, cycles a face, and direction in half turns 0 to 1, of the inner square [n, n]."""
    gray = cv2.cvtColor(face, cv2.COLOR_RGB2GRAY).astype(np.float64)
    top, left, n = (int(part * len(gray)) for part in (quality.TOP, quality.LEFT, quality.PART))
    square = gray[top : top + n, left : left + n]
    window = np.outer(np.hanning(n), np.hanning(n))
    mean = (square * window).sum() / window.sum()
    power = np.abs(np.fft.fft2((square - mean) * window)) ** 2
    y, x = np.meshgrid(*[np.fft.fftfreq(n, 1 / len(gray))] * 2, indexing='ij')
    return power, np.hypot(x, y), np.arctan2(y, x) / np.pi % 1


def colourfulness(colour: np.ndarray) -> float:
    """Return the colourfulness of pixels [n, 3] uint8 RGB; 0 where all are gray.

    M of Hasler and Suesstrunk 2003 ("Measuring colourfulness in natural images", sec. 7), in levels
    """
    r, g, b = colour.astype(np.float64).T
    opposed = np.stack([r - g, (r + g) / 2 - b])
    spread, mean = (np.hypot(*part) for part in (opposed.std(1), opposed.mean(1)))
    return float(spread + 0.3 * mean)


def occluded(ids: np.ndarray) -> float:
    """Return the share of the inner face that is hidden, of ids [h, h] of an aligned face's parts.

    What CelebAMask-HQ calls skin is not told apart: a hand of that class hides nothing.
    """
    return float(_HIDES[ids[_oval(len(ids))]].mean())


_HIDES = np.array([name in HIDING for name in CLASSES])


def _inner(face: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Luma [n] and colours [n, 3] uint8 of the inner face."""
    on = _oval(len(face))
    return cv2.cvtColor(face, cv2.COLOR_RGB2GRAY)[on], face[on]


@functools.cache
def _oval(side: int) -> np.ndarray:
    """[side, side] bool, which pixels of an aligned face are the inner face."""
    at = (np.arange(side) + 0.5) / side
    x, y = ((at - centre) / axis for centre, axis in zip(CENTRE, AXES, strict=True))
    return x[None] ** 2 + y[:, None] ** 2 < 1


# ---- its file ----


def jpeg_quality(data: Buffer) -> float:
    """Return the quality that a JPEG was saved at, 1 to 100, as libjpeg counts it; 100 of others.

    The one whose table for luma (ITU-T T.81, annex K, scaled as libjpeg does) is nearest to the
    file's, by the mean ratio of their steps: the very one of files of libjpeg, and for those of
    cameras and programs with tables of their own one that takes as much. A file tells what was done
    last: of one that was saved at 30 and then at 90 it is 90.
    """
    steps = _luma_steps(data)
    if steps is None:
        return 100.0
    distance = np.abs(np.log(_scaled_steps()) - np.log(steps.clip(1))).mean(1)
    return float(distance.argmin() + 1)


@functools.cache
def _scaled_steps() -> np.ndarray:
    """[100, 64] steps of libjpeg for luma at qualities 1 to 100, in the order of files."""
    # OpenCV writes libjpeg's: those of quality 50 are the tables of annex K themselves.
    plain = np.zeros((8, 8), np.uint8)
    _, data = cv2.imencode('.jpg', plain, [cv2.IMWRITE_JPEG_QUALITY, 50])
    base = _luma_steps(data.tobytes())
    assert base is not None
    quality = np.arange(1, 101)[:, None]
    scale = np.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    return ((base * scale + 50) // 100).clip(1, 255)


def _luma_steps(data: Buffer) -> np.ndarray | None:
    """[64] steps of the first component of a JPEG; None of what is none, or has lost them."""
    tables: dict[int, np.ndarray] = {}
    chosen = -1
    for code, body in _segments(bytes(data)):
        if code == 0xDB:
            tables.update(_tables(body))
        # A frame, whatever its kind (T.81, table B.1): its first component names a table.
        elif 0xC0 <= code <= 0xCF and code not in (0xC4, 0xC8, 0xCC) and len(body) > 8:
            chosen = body[8]
    return tables.get(chosen)


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(code, contents) of the segments of a JPEG up to its first scan, or its damage."""
    at = 2 if data[:2] == b'\xff\xd8' else len(data)
    while at + 4 <= len(data) and data[at] == 0xFF:
        code, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], 'big')
        if code == 0xFF:  # a fill byte
            at += 1
            continue
        if code == 0xDA or length < 2:
            return
        yield code, data[at + 4 : at + 2 + length]
        at += 2 + length


def _tables(body: bytes) -> Iterator[tuple[int, np.ndarray]]:
    """(number, [64] steps) of the tables in a segment DQT (T.81, sec. B.2.4.1)."""
    while body:
        size = 2 if body[0] >> 4 else 1
        steps, body_after = body[1 : 1 + 64 * size], body[1 + 64 * size :]
        if len(steps) < 64 * size:
            return
        yield body[0] & 15, np.frombuffer(steps, f'>u{size}').astype(np.int64)
        body = body_after
