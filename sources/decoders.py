"""What Pillow and OpenCV read: WebP, TIFF, BMP, AVIF and HEIC, and all that is in a photograph.

PNG, JPEG and JPH are walked byte by byte in files.py before a decoder sees them. Of the other kinds
Pillow says what they hold, and refuses what is cut off. It decodes them, too, except for 16 bits of
several channels, of which it would drop half. Of an animation, or of many pages, the first picture
is taken.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    Image,
    ImageFile,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
    features,
)

from errors import BadFile

from .aliases import Buffer

# What kinds are called in messages; HEIC is read where its plugin is installed.
NAMES = {'webp': 'WebP', 'tiff': 'TIFF', 'bmp': 'BMP', 'avif': 'AVIF', 'heif': 'HEIC'}
# Not by Image.open, which tries one kind after the other and has bounds of its own.
_PLUGINS: dict[str, type[ImageFile.ImageFile]] = {
    'png': PngImagePlugin.PngImageFile,
    'jpeg': JpegImagePlugin.JpegImageFile,
    'webp': WebPImagePlugin.WebPImageFile,
    'tiff': TiffImagePlugin.TiffImageFile,
    'bmp': BmpImagePlugin.BmpImageFile,
    'avif': AvifImagePlugin.AvifImageFile,
}
# Pillow's modes, and what files.check calls them.
_COLOURS = {
    **dict.fromkeys(('1', 'L', 'I;16', 'I;16B'), 'gray'),
    **dict.fromkeys(('LA', 'La'), 'gray+alpha'),
    **dict.fromkeys(('RGB', 'RGBX', 'YCbCr'), 'rgb'),
    **dict.fromkeys(('RGBA', 'RGBa'), 'rgba'),
    **{'P': 'palette', 'PA': 'palette+alpha', 'CMYK': 'cmyk'},
}
_TIFF = b'II*\0', b'MM\0*', b'II+\0', b'MM\0+'  # the latter for more than 4 GB
_BMP_HEADERS = 12, 40, 52, 56, 64, 108, 124  # bytes, by which its versions differ
_AVIF_BRANDS = {b'avif', b'avis'}
_HEIF_BRANDS = {b'heic', b'heix', b'hevc', b'hevx', b'heim', b'heis', b'mif1', b'msf1'}

# Tags of a TIFF (TIFF 6.0)
_BITS, _PHOTOMETRIC, _PLANES, _TILE_WIDTH, _TILE_HEIGHT, _EXTRA = 258, 262, 284, 322, 323, 338
_LARGEST_TILE = 1 << 22  # pixels of a tile that may be more than there are in the picture

ORIENTATION = 0x0112  # tag of EXIF
# What brings a picture upright that a camera stored with this orientation (EXIF 2.32, sec. 4.6.4).
_UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x[::-1].swapaxes(0, 1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: x[:, ::-1].swapaxes(0, 1),
}

# What is wrong with a file becomes a BadFile, which is said once, and pixels are bounded by whoever
# asks for them.
warnings.filterwarnings('ignore', module='PIL.TiffImagePlugin')
logging.getLogger('PIL').setLevel(logging.CRITICAL)
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
Image.MAX_IMAGE_PIXELS = None


class Header(NamedTuple):
    """What a file says of its picture."""

    width: int  # pixels, upright
    height: int
    colour: str  # as files.check has it, without a depth
    bits: int  # per channel, as far as Pillow tells
    icc: bytes  # profile; b'' without one
    exif: Image.Exif
    orientation: int  # of EXIF, 1..8


# ---- kinds ----


def kind(head: bytes) -> str:
    """Tell one of NAMES by the first 64 bytes of a file; '' if it is none of them."""
    if head[:4] == b'RIFF' and head[8:12] == b'WEBP':
        return 'webp'
    if head.startswith(_TIFF):
        return 'tiff'
    # Texts may begin with BM as well.
    if head[:2] == b'BM' and int.from_bytes(head[14:18], 'little') in _BMP_HEADERS:
        return 'bmp'
    return _kind_by_brands(head) if head[4:8] == b'ftyp' else ''


def _kind_by_brands(head: bytes) -> str:
    """The same for a file of boxes (ISO/IEC 14496-12), films being neither."""
    end = min(int.from_bytes(head[:4], 'big'), len(head))
    brands = {head[at : at + 4] for at in (8, *range(16, end, 4))}
    if brands & _AVIF_BRANDS:
        return 'avif'
    return 'heif' if brands & _HEIF_BRANDS else ''


def available() -> list[str]:
    """Which of NAMES are read on this machine."""
    found = []
    for each in NAMES:
        with contextlib.suppress(BadFile):
            _plugin(each)
            found.append(each)
    return found


def _plugin(kind: str) -> type[ImageFile.ImageFile]:
    """Pillow's class of a kind. Raises BadFile where it is not installed."""
    if kind == 'heif':
        return heif().HeifImageFile
    if kind in ('webp', 'avif') and not features.check(kind):
        raise BadFile(
            f'this Pillow has no {NAMES[kind]}: pip install -U pillow, or convert it to PNG'
        )
    return _PLUGINS[kind]


def heif() -> Any:
    """Pillow's plugin for HEIC, ready to read and write. Raises BadFile where there is none."""
    try:
        import pillow_heif
    except ImportError:
        raise BadFile(
            'HEIC is read by a plugin: pip install pillow-heif, or convert it to PNG'
        ) from None
    pillow_heif.register_heif_opener()
    return pillow_heif


# ---- headers ----


@contextlib.contextmanager
def _opened(data: Buffer, kind: str) -> Iterator[ImageFile.ImageFile]:
    """A file as Pillow opens it: not decoded yet. Raises BadFile, also for what is done with it."""
    missing = int.from_bytes(data[4:8], 'little') + 8 - len(data)
    if kind == 'webp' and missing > 0:
        raise BadFile(f'truncated: {missing:,} bytes are missing')
    plugin = _plugin(kind)
    try:
        with plugin(io.BytesIO(data)) as image:
            yield image
    except BadFile:
        raise
    except Exception as e:  # damage leads plugins to errors of any kind
        reason = (str(e).splitlines() or [''])[0] or type(e).__name__
        raise BadFile(f'corrupt {NAMES.get(kind, kind.upper())} ({reason[:200]})') from None


def header(data: Buffer, kind: str) -> Header:
    """Describe a file of NAMES, a PNG or a JPEG, without decoding it (a PNG's EXIF may lie behind
    its pixels).

    Raises BadFile.
    """
    with _opened(data, kind) as image:
        size, mode, exif = image.size, image.mode, image.getexif()
        if mode not in _COLOURS:
            raise BadFile(f'pixels of mode {mode}: convert it to PNG')
        bits = 8
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            size, bits = _of_tiff(image.tag_v2)
        colour = _COLOURS[mode] + '+alpha' * ('transparency' in image.info)
        icc = image.info.get('icc_profile') or b''
    # Cameras write anything: what is no orientation means none.
    orientation = exif.get(ORIENTATION, 1)
    orientation = orientation if orientation in _UPRIGHT else 1
    width, height = size if orientation < 5 else size[::-1]
    return Header(width, height, colour, bits, bytes(icc), exif, orientation)


def _of_tiff(tags: Any) -> tuple[tuple[int, int], int]:
    """((width, height) as stored, bits per channel). Raises BadFile."""
    size = tags[256], tags[257]
    bits = max(tags.get(_BITS, (1,)))
    if bits > 8 and bits != 16:
        raise BadFile(f'{bits}-bit TIFF: convert it to 8 bits per channel')
    # Of these OpenCV would return other colours than there are.
    odd = tags.get(_PLANES, 1) != 1 or tags.get(_PHOTOMETRIC) == 0 or 1 in tags.get(_EXTRA, ())
    if bits == 16 and odd:
        raise BadFile(
            '16-bit TIFF of separate planes, inverted grays or premultiplied colours: convert it '
            'to PNG'
        )
    # A tile is decoded as a whole, however little of it is in the picture.
    tile = tags.get(_TILE_WIDTH, 0) * tags.get(_TILE_HEIGHT, 0)
    if tile > max(size[0] * size[1], _LARGEST_TILE):
        raise BadFile(f'corrupt TIFF ({size[0]}x{size[1]} pixels in tiles of {tile:,})')
    return size, bits


# ---- pixels ----


def stored(data: Buffer, kind: str, known: Header) -> np.ndarray:
    """Decode a file to the channels that it has, upright.

    known: its header
    [h, w] of grays, else [h, w, 3 or 4] RGB; uint8 or uint16. Raises BadFile.
    """
    if kind in ('png', 'jpeg'):
        return _UPRIGHT[known.orientation](_by_opencv(data))
    if known.bits <= 8:
        return _by_pillow(data, kind)
    # OpenCV has turned it already. Without a name, a fourth channel means nothing.
    pixels = _by_opencv(data)
    return pixels[..., :3] if known.colour == 'rgb' else pixels


def _by_opencv(data: Buffer) -> np.ndarray:
    bgr = imdecode(data, cv2.IMREAD_UNCHANGED)
    if bgr.dtype not in (np.uint8, np.uint16):
        raise BadFile(f'holds numbers of type {bgr.dtype}, where 8 or 16 bits are read')
    if bgr.ndim == 2:
        return bgr
    order = {3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGBA}[bgr.shape[2]]
    return cv2.cvtColor(bgr, order, dst=bgr)


def _by_pillow(data: Buffer, kind: str) -> np.ndarray:
    with _opened(data, kind) as image:
        ImageOps.exif_transpose(image, in_place=True)
        # Premultiplied colours become plain ones on the way.
        if image.mode == 'La':
            return np.array(image.convert('LA').convert('RGBA'))
        if image.mode in ('1', 'L'):
            return np.array(image.convert('L'))
        clear = 'a' in image.mode.lower() or 'transparency' in image.info
        return np.array(image.convert('RGBA' if clear else 'RGB'))


def imdecode(data: Buffer, flags: int) -> np.ndarray:
    """Decode by OpenCV to channels in its order. flags: cv2.IMREAD_*. Raises BadFile."""
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as e:
        raise BadFile(f'decoder refuses it ({e.err})') from None
    if pixels is None:
        raise BadFile('decoder refuses it')
    return pixels


def to_8bit(pixels: np.ndarray) -> np.ndarray:
    """Bring uint16 of any shape to the nearest of 256 levels; uint8 stays as it is."""
    # Without arrays of larger numbers in between.
    return cv2.convertScaleAbs(pixels, alpha=1 / 257) if pixels.dtype == np.uint16 else pixels
