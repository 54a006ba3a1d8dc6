"""Masks of CelebAMask-HQ (Lee et al., CVPR 2020): class ids, colours, left and right, files.

A mask is stored as a palette PNG of its ids.

python -m faces.masks ANNOTATIONS OUT      converts the per-part masks of the published data set
python -m faces.masks --check FOLDER       names the masks whose left and right are swapped
"""

import io
import zlib

import cv2
import numpy as np
from PIL import Image

from errors import BadFile
from sources.files import LARGEST, big_enough, check_area
from sources.structure import JPEG, PNG, looks_like

# ---- classes ----

# fmt: off
# id -> name, colour (R, G, B); left is the person's left.
_TABLE = (
    ('background', (  0,   0,   0)),
    ('skin',       (204,   0,   0)),
    ('nose',       ( 76, 153,   0)),
    ('eye_g',      (204, 204,   0)),  # glasses
    ('l_eye',      ( 51,  51, 255)),
    ('r_eye',      (204,   0, 204)),
    ('l_brow',     (  0, 255, 255)),
    ('r_brow',     (255, 204, 204)),
    ('l_ear',      (102,  51,   0)),
    ('r_ear',      (255,   0,   0)),
    ('mouth',      (102, 204,   0)),
    ('u_lip',      (255, 255,   0)),
    ('l_lip',      (  0,   0, 153)),
    ('hair',       (  0,   0, 204)),
    ('hat',        (255,  51, 153)),
    ('ear_r',      (  0, 204, 204)),  # earring
    ('neck_l',     (  0,  51,   0)),  # necklace
    ('neck',       (255, 153,  51)),
    ('cloth',      (  0, 204,   0)),
)
# fmt: on
CLASSES = tuple(name for name, _ in _TABLE)
COLOURS = np.array([colour for _, colour in _TABLE], np.uint8)
PAIRS = (4, 5), (6, 7), (8, 9)  # ids of the left and the right eye, brow, ear
NEEDED = 1, 2  # every face has skin and a nose, whatever else is missing or hidden
WORN = 3, 14, 15, 16  # what a face may be given: glasses, hat, earring, necklace

# ---- left and right ----

SWAP = np.arange(256, dtype=np.uint8)  # id -> id of the other side
for _left, _right in PAIRS:
    SWAP[[_left, _right]] = _right, _left


def mirrored(mask: np.ndarray) -> np.ndarray:
    """Mask [..., H, W] uint8 of the mirror image of a picture.

    Left and right change places, and so do their ids.
    """
    return SWAP[mask[..., ::-1]]


# ---- files ----


def decode(data: bytes) -> np.ndarray:
    """Decode a palette or gray PNG to [H, W] uint8 ids.

    Raises BadFile: another kind of file or picture, or an id above 18.
    """
    # The ids of a JPEG are not the ones that were written.
    if data.startswith(JPEG):
        raise BadFile('a JPEG mask: its compression has changed the ids; make it a PNG')
    if not data.startswith(PNG):
        raise BadFile(f'not a PNG mask: {looks_like(data[:64])}')

    # By Pillow, since OpenCV would expand the palette to colours.
    try:
        with Image.open(io.BytesIO(data)) as picture:
            # Before memory is taken for so many pixels.
            check_area(picture.width, picture.height, LARGEST)
            mode, ids = picture.mode, np.array(picture)
    except (OSError, SyntaxError, ValueError, zlib.error, Image.DecompressionBombError) as e:
        raise BadFile(f'decoder refuses it ({e})') from None
    if mode not in ('P', 'L'):
        raise BadFile(f'mode {mode}: a mask is an 8-bit PNG of ids, palette or gray')
    if ids.max() >= len(CLASSES):
        raise BadFile(f'id {ids.max()} in it, but there are only 0 to {len(CLASSES) - 1}')
    return ids


def png(mask: np.ndarray) -> bytes:
    """Encode [H, W] uint8 ids as a palette PNG in the standard colours.

    Raises ValueError for anything else.
    """
    if mask.dtype != np.uint8 or mask.ndim != 2 or mask.max() >= len(CLASSES):
        raise ValueError(
            f'mask {mask.shape} {mask.dtype}: needs [H, W] uint8 ids 0 to {len(CLASSES) - 1}'
        )
    picture, file = Image.fromarray(mask), io.BytesIO()
    picture.putpalette(COLOURS.tobytes())  # makes it a palette picture
    picture.save(file, 'PNG', optimize=True)
    return file.getvalue()


# ---- use ----


def fit(mask: np.ndarray, size: int) -> np.ndarray:
    """Resize and crop [H, W] ids to [size, size] as files.fit does with the picture; nearest.

    Raises BadFile if it is smaller.
    """
    h, w = mask.shape
    big_enough(w, h, size)
    if min(h, w) > size:
        h, w = (max(size, round(side * size / min(h, w))) for side in (h, w))
        mask = cv2.resize(mask, (w, h), interpolation=cv2.INTER_NEAREST_EXACT)
    top, left = (h - size) // 2, (w - size) // 2
    return np.ascontiguousarray(mask[top : top + size, left : left + size])


def lacks(mask: np.ndarray) -> list[str]:
    """Names of the parts that every face has and this mask lacks."""
    return [CLASSES[i] for i in NEEDED if not (mask == i).any()]
