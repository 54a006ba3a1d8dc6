"""Masks of CelebAMask-HQ (Lee et al., CVPR 2020): 19 class ids, their names and colours, left and right, and the palette PNG they are kept in.

python -m faces.masks ANNOTATIONS OUT          paints the per-part masks of the published data set into id masks
python -m faces.masks --check FOLDER           names the masks whose left and right are exchanged
"""

import io
import zlib

import cv2
import numpy as np
from PIL import Image

from errors import BadFile
from sources.files import JPEG, PNG, big_enough, looks_like

CLASSES = (
    'background',
    'skin',
    'nose',
    'eye_g',
    'l_eye',
    'r_eye',
    'l_brow',
    'r_brow',
    'l_ear',
    'r_ear',
    'mouth',
    'u_lip',
    'l_lip',
    'hair',
    'hat',
    'ear_r',
    'neck_l',
    'neck',
    'cloth',
)  # left is the person's left
COLOURS = np.array(
    [
        (0, 0, 0),
        (204, 0, 0),
        (76, 153, 0),
        (204, 204, 0),
        (51, 51, 255),
        (204, 0, 204),
        (0, 255, 255),
        (255, 204, 204),
        (102, 51, 0),
        (255, 0, 0),
        (102, 204, 0),
        (255, 255, 0),
        (0, 0, 153),
        (0, 0, 204),
        (255, 51, 153),
        (0, 204, 204),
        (0, 51, 0),
        (255, 153, 51),
        (0, 204, 0),
    ],
    np.uint8,
)
PAIRS = (4, 5), (6, 7), (8, 9)  # ids of the left and the right eye, brow, ear
NEEDED = 1, 2  # every face has skin and a nose, whatever it lacks or hides

SWAP = np.arange(256, dtype=np.uint8)  # id -> id of the other side
for _left, _right in PAIRS:
    SWAP[[_left, _right]] = _right, _left


def mirrored(mask):
    """[..., H, W] uint8 ids of a picture -> those of its mirror image: left and right change places, and so do their ids."""
    return SWAP[mask[..., ::-1]]


def decode(data):
    """Bytes of a palette or gray PNG -> [H, W] uint8 ids. Raises BadFile: another kind of file or picture, or an id above 18."""
    if not data.startswith(PNG):
        raise BadFile(
            'a JPEG mask: its ids are not what they were; make it a PNG'
            if data.startswith(JPEG)
            else f'not a PNG mask: {looks_like(data[:64])}'
        )
    try:
        with Image.open(io.BytesIO(data)) as picture:
            mode, ids = picture.mode, np.array(picture)
    except (OSError, SyntaxError, ValueError, zlib.error, Image.DecompressionBombError) as e:
        raise BadFile(f'decoder refuses it ({e})') from None
    if mode not in ('P', 'L'):
        raise BadFile(f'mode {mode}: a mask is an 8-bit PNG of ids, palette or gray')
    if ids.max() >= len(CLASSES):
        raise BadFile(f'id {ids.max()} in it, but there are only 0 to {len(CLASSES) - 1}')
    return ids


def png(mask):
    """[H, W] uint8 ids -> bytes of a palette PNG in the standard colours."""
    if mask.dtype != np.uint8 or mask.ndim != 2 or mask.max() >= len(CLASSES):
        raise ValueError(
            f'mask {mask.shape} {mask.dtype}: needs [H, W] uint8 ids 0 to {len(CLASSES) - 1}'
        )
    picture, file = Image.fromarray(mask), io.BytesIO()
    picture.putpalette(COLOURS.tobytes())  # makes it a palette picture
    picture.save(file, 'PNG', optimize=True)
    return file.getvalue()


def fit(mask, size):
    """[H, W] ids -> [size, size], cut out as files.fit cuts out the picture; nearest. Raises BadFile if it is smaller."""
    h, w = mask.shape
    big_enough(w, h, size)
    if min(h, w) > size:
        h, w = (max(size, round(side * size / min(h, w))) for side in (h, w))
        mask = cv2.resize(mask, (w, h), interpolation=cv2.INTER_NEAREST_EXACT)
    top, left = (h - size) // 2, (w - size) // 2
    return np.ascontiguousarray(mask[top : top + size, left : left + size])


def lacks(mask):
    """Names of what every face has and this mask has not."""
    return [CLASSES[i] for i in NEEDED if not (mask == i).any()]
