"""Photographs with all that comes with their pixels, and files of them.

Training reads upright 8-bit RGB (files.py). A photograph that is restored keeps what it has: 16
bits a channel, transparency, its colour profile, and what its camera wrote about it. Its
orientation is applied to the pixels once, and no longer told.
"""

import importlib.util
import io
from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from errors import BadFile

from . import files
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
ORIENTATION = 0x0112  # tag of EXIF
# Tags of a TIFF that say how its pixels are stored (TIFF 6.0), and its profile: not what it shows.
STRUCTURE = (
    *(254, 255, 256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 317, 320, 322, 323),
    *(324, 325, 330, 338, 339, 347, 530, 531, 532, 34675),
)
QUALITY = 95  # of what is written with a loss
EXIF, ICC = cv2.IMAGE_METADATA_EXIF, cv2.IMAGE_METADATA_ICCP

# What brings a picture upright that a camera stored with this orientation (EXIF 2.32, sec. 4.6.4).
UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x[::-1].swapaxes(0, 1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: x[:, ::-1].swapaxes(0, 1),
}


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
    data = bytes(data)
    kind, size, info, exif = _header(data)
    files.check_area(*size, most)
    # PNG and JPEG are walked as training does it: decoders accept what is cut off.
    if kind in ('PNG', 'JPEG'):
        files.check(data, most, convert=True)
    # OpenCV keeps 16 bits of colours, Pillow colours of pixels that are clear.
    wide = kind == 'TIFF' and info['bits'] > 8
    if kind in ('HEIF', 'TIFF') and not wide:
        upright = _by_pillow(data)
    else:
        upright = UPRIGHT[_orientation(exif)](_by_opencv(data))
    return _photo(upright, kind, info.get('icc_profile'), exif)


def _header(data: bytes) -> tuple[str, tuple[int, int], dict[str, Any], Image.Exif]:
    """(kind, (width, height) as stored, what Pillow knows, EXIF) without decoding."""
    _register_heif()
    try:
        with Image.open(io.BytesIO(data)) as image:
            kind = 'JPEG' if image.format == 'MPO' else image.format or ''
            if kind in SUFFIXES:
                # Tag 258 of a TIFF: bits of each channel.
                bits = getattr(image, 'tag_v2', {}).get(258, (8,))
                return kind, image.size, image.info | {'bits': max(bits)}, image.getexif()
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise BadFile(_refused(data, str(error))) from None
    except Image.DecompressionBombError as error:
        raise BadFile(f'too large: {error}') from None
    raise BadFile(_refused(data, f'{kind} is not read'))


def _refused(data: bytes, reason: str) -> str:
    if not data:
        return 'empty file (0 bytes)'
    seen = files.looks_like(data[:64])
    heif = '; for HEIC: pip install pillow-heif' if 'HEIC' in seen else ''
    return f'not a photograph that can be read: {seen if "begins" not in seen else reason}{heif}'


def _register_heif() -> None:
    # A plugin, for those who have photographs of telephones.
    if importlib.util.find_spec('pillow_heif'):
        import pillow_heif

        pillow_heif.register_heif_opener()


def _by_opencv(data: bytes) -> np.ndarray:
    """[h, w] or [h, w, 3 or 4] RGB as it is stored: OpenCV keeps 16 bits of three channels."""
    try:
        stored = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise BadFile(f'decoder refuses it ({error.err})') from None
    if stored is None:
        raise BadFile('decoder refuses it')
    if stored.ndim == 2:
        return stored
    to_rgb = {3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGBA}
    return cv2.cvtColor(stored, to_rgb[stored.shape[2]])


def _by_pillow(data: bytes) -> np.ndarray:
    """The same, upright: Pillow turns these kinds when it decodes them."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            gray = image.mode in ('1', 'L')
            mode = 'L' if gray else 'RGBA' if 'A' in image.getbands() else 'RGB'
            return np.array(image.convert(mode))
    except (OSError, ValueError) as error:
        raise BadFile(f'decoder refuses it ({error})') from None


def _photo(stored: np.ndarray, kind: str, icc: bytes | None, exif: Image.Exif) -> Photo:
    """A photo of its channels and what comes with them."""
    if stored.dtype not in (np.uint8, np.uint16):
        raise BadFile(f'holds numbers of type {stored.dtype}, where 8 or 16 bits are read')
    stored = np.ascontiguousarray(stored)
    exif[ORIENTATION] = 1
    for tag in STRUCTURE:
        exif.pop(tag, None)
    told = exif.tobytes() if len(exif) > 1 else None
    gray = stored.ndim == 2
    pixels = cv2.cvtColor(stored, cv2.COLOR_GRAY2RGB) if gray else stored[..., :3]
    alpha = stored[..., 3] if stored.ndim == 3 and stored.shape[2] == 4 else None
    return Photo(np.ascontiguousarray(pixels), alpha, gray, kind, icc or None, told)


def _orientation(exif: Image.Exif) -> int:
    # Cameras write anything: what is no orientation means none.
    value = exif.get(ORIENTATION, 1)
    return value if value in UPRIGHT else 1


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


def rounded(x: np.ndarray) -> np.ndarray:
    """Return levels of 16 bits as those of 8."""
    return np.rint(x / 257).astype(np.uint8) if x.dtype == np.uint16 else x


def to_8bit(photo: Photo) -> Photo:
    """Return the photo with 8 bits a channel."""
    alpha = None if photo.alpha is None else rounded(photo.alpha)
    return photo._replace(pixels=rounded(photo.pixels), alpha=alpha)


def _channels(photo: Photo) -> np.ndarray:
    """What is stored: [h, w] for greys, else [h, w, 3 or 4] RGB."""
    if photo.gray and photo.alpha is None:
        return np.ascontiguousarray(photo.pixels[..., 0])
    if photo.alpha is None:
        return photo.pixels
    return np.dstack([photo.pixels, photo.alpha])


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
    if photo.kind in ('BMP', 'TIFF'):
        return cv2.imencode(suffix, stored, how)[1].tobytes()
    told = [(EXIF, photo.exif and photo.exif.removeprefix(b'Exif\0\0')), (ICC, photo.icc)]
    types = [kind for kind, value in told if value]
    values = [np.frombuffer(value, np.uint8) for _, value in told if value]
    return cv2.imencodeWithMetadata(suffix, stored, types, values, how)[1].tobytes()


def _with_pillow(photo: Photo) -> bytes:
    buffer = io.BytesIO()
    more: dict[str, Any] = {}
    if photo.kind == 'TIFF':
        more['compression'] = 'tiff_deflate'
    else:
        more['quality'] = QUALITY
    if photo.icc:
        more['icc_profile'] = photo.icc
    if photo.exif:
        more['exif'] = photo.exif
    Image.fromarray(_channels(photo)).save(buffer, photo.kind, **more)
    return buffer.getvalue()
