"""Photographs with all that comes with their pixels, and files of them.

Training reads upright 8-bit RGB (files.py). A photograph that is restored keeps what it has: 16
bits a channel, transparency, its colour profile, and what its camera wrote about it. Its
orientation is applied to the pixels once, and no longer told.
"""

import io
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image

from errors import BadFile

from . import decoders, files, icc
from .aliases import Buffer

# Kinds of files by Pillow's names, and the suffixes that they are written with.
SUFFIXES = {
    'PNG': '.png',
    'JPEG': '.jpg',
    'WEBP': '.webp',
    'TIFF': '.tif',
    'BMP': '.bmp',
    'AVIF': '.avif',
    'HEIF': '.heic',
}
# Tags of a TIFF that say how its pixels are stored (TIFF 6.0), and its profile: not what it shows.
STRUCTURE = (
    *(254, 255, 256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 317, 320, 322, 323),
    *(324, 325, 330, 338, 339, 347, 530, 531, 532, 34675),
)
QUALITY = 95  # of what is written with a loss
EXIF, ICC = cv2.IMAGE_METADATA_EXIF, cv2.IMAGE_METADATA_ICCP


class Photo(NamedTuple):
    """A photograph, upright."""

    pixels: np.ndarray  # [h, w, 3] uint8 or uint16 RGB, in the colours of its profile
    alpha: np.ndarray | None = None  # [h, w] of the same type
    gray: bool = False  # stored as one channel
    kind: str = 'PNG'  # of SUFFIXES
    icc: bytes | None = None  # colour profile
    exif: bytes | None = None  # without an orientation, and without the old preview


# ---- reading ----


def read(data: Buffer, most: int = files.LARGEST) -> Photo:
    """Decode a file of any kind of SUFFIXES.

    most: pixels; a larger one is refused before it is decoded
    Raises BadFile.
    """
    kind = files.check(data, most, convert=True)[0]
    if kind == 'jph':
        raise BadFile('JPH, which holds faces for training: convert it to PNG')
    header = decoders.header(data, kind)
    # A PNG may name its colours in other ways than by a profile, which is put in their place.
    found = icc.profile(data) if kind in ('png', 'jpeg') else header.icc
    return _photo(decoders.stored(data, kind, header), kind.upper(), found, header.exif)


def _photo(stored: np.ndarray, kind: str, found: bytes, exif: Image.Exif) -> Photo:
    """A photo of its channels and what comes with them."""
    stored = np.ascontiguousarray(stored)
    gray = stored.ndim == 2
    pixels = cv2.cvtColor(stored, cv2.COLOR_GRAY2RGB) if gray else stored[..., :3]
    alpha = stored[..., 3] if stored.ndim == 3 and stored.shape[2] == 4 else None
    return Photo(np.ascontiguousarray(pixels), alpha, gray, kind, found or None, _told(exif))


def _told(exif: Image.Exif) -> bytes | None:
    """EXIF without an orientation, and without what says how a file is stored."""
    exif[decoders.ORIENTATION] = 1
    for tag in STRUCTURE:
        exif.pop(tag, None)
    # Nothing but the orientation that was put in above.
    if len(exif) == 1:
        return None
    try:
        return exif.tobytes()
    except Exception:  # of many kinds: what a camera wrote may be damaged, and the picture good
        return None


# ---- writing ----


def check_kind(photo: Photo) -> None:
    """Raise BadFile for a photo that has what its kind of file cannot hold."""
    if photo.alpha is not None and photo.kind in ('JPEG', 'BMP'):
        raise BadFile(f'{photo.kind} has no transparency: give --format png')


def encoded(photo: Photo) -> bytes:
    """Return the photo as a file of its kind. Raises BadFile for what that kind cannot hold."""
    check_kind(photo)
    if photo.pixels.dtype == np.uint16 and photo.kind not in ('PNG', 'TIFF'):
        photo = to_8bit(photo)
    if photo.kind in ('HEIF', 'TIFF') and photo.pixels.dtype == np.uint8:
        return _with_pillow(photo)
    return _with_opencv(photo)


def to_8bit(photo: Photo) -> Photo:
    """Return the photo with 8 bits a channel."""
    alpha = None if photo.alpha is None else decoders.to_8bit(photo.alpha)
    return photo._replace(pixels=decoders.to_8bit(photo.pixels), alpha=alpha)


def _channels(photo: Photo) -> np.ndarray:
    """What is stored: [h, w] for greys, else [h, w, 3 or 4] RGB."""
    if photo.gray and photo.alpha is None:
        return np.ascontiguousarray(photo.pixels[..., 0])
    if photo.alpha is None:
        return photo.pixels
    return np.dstack([photo.pixels, photo.alpha])


def _profile(photo: Photo, stored: np.ndarray) -> bytes | None:
    """The colour profile, if it is one for what is stored."""
    # A photo of inks became one of light; one of greys may be stored as colours.
    gray = stored.ndim == 2 and photo.kind != 'WEBP'
    spaces = (b'RGB ', b'GRAY') if gray else (b'RGB ',)
    return photo.icc if photo.icc and photo.icc[16:20] in spaces else None


def _with_opencv(photo: Photo) -> bytes:
    stored = _channels(photo)
    if stored.ndim == 3:
        order = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}
        stored = cv2.cvtColor(stored, order[stored.shape[2]])
    how = {
        'JPEG': [cv2.IMWRITE_JPEG_QUALITY, QUALITY],
        'WEBP': [cv2.IMWRITE_WEBP_QUALITY, QUALITY],
        'AVIF': [cv2.IMWRITE_AVIF_QUALITY, QUALITY],
    }.get(photo.kind, [])
    suffix = SUFFIXES[photo.kind]
    profile = _profile(photo, stored)
    told = [(EXIF, photo.exif and photo.exif.removeprefix(b'Exif\0\0')), (ICC, profile)]
    types = [kind for kind, value in told if value]
    values = [np.frombuffer(value, np.uint8) for _, value in told if value]
    if photo.kind in ('BMP', 'TIFF'):
        done, data = cv2.imencode(suffix, stored, how)
    else:
        done, data = cv2.imencodeWithMetadata(suffix, stored, types, values, how)
    if not done:
        height, width = stored.shape[:2]
        raise BadFile(f'{photo.kind} does not hold {width:,}x{height:,} pixels: give --format png')
    return data.tobytes()


def _with_pillow(photo: Photo) -> bytes:
    buffer, stored = io.BytesIO(), _channels(photo)
    more: dict[str, Any] = {'icc_profile': _profile(photo, stored)}
    if photo.kind == 'TIFF':
        # libtiff, which compresses, refuses what cameras tell, or ends the process over it.
        more['compression'] = None if photo.exif else 'tiff_deflate'
    else:
        decoders.heif()
        more['quality'] = QUALITY
    if photo.exif:
        more['exif'] = photo.exif
    try:
        Image.fromarray(stored).save(buffer, photo.kind, **more)
    except (OSError, ValueError, RuntimeError) as error:
        raise BadFile(f'{photo.kind} cannot hold it ({error}): give --format png') from None
    return buffer.getvalue()
