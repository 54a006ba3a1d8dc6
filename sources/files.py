"""One image file: its pixels, whether they are sound, and their size.

PNG, JPEG and JPH (lossless HTJ2K, jph.py) are read, and what is in decoders.NAMES: WebP, TIFF, BMP,
AVIF and HEIC. `check` walks a file's structure (structure.py) at disk speed; `sound` also decodes
it; `decode` defines the pixels for every pipe. Whatever `sound` accepts and is `for_any_decoder`,
DALI's CPU decoder and OpenCV decode to the same bytes; all else is left to `decode`.
"""

import os

import cv2
import numpy as np

from errors import BadFile
from storage import open_regular

from . import decoders, icc, jph, structure
from .aliases import Buffer, FilePath

SUFFIXES = (
    *('.png', '.jpg', '.jpeg', '.jph'),
    *('.webp', '.tif', '.tiff', '.bmp', '.avif', '.heic', '.heif'),
)
# Pixels of an image that is read unless more are asked for: 200 MB once decoded.
LARGEST = 1 << 26
MOST = 1 << 30  # pixels that OpenCV decodes
LARGEST_FILE = 1 << 29  # bytes of a file, or of a shard's member, that is read as an image
# What else the name of a picture may end in: files are told by their contents, and those that
# cannot be read are named.
OTHER_SUFFIXES = (
    *('.gif', '.jxl', '.jp2', '.j2k', '.jpe', '.jfif', '.ppm', '.pgm', '.psd', '.apng'),
)


# ---- bytes ----


def read_bytes(path: FilePath, offset: int = 0, length: int | None = None) -> bytes:
    """Read a file, or the part of it that a shard's member occupies.

    Raises OSError; BadFile for a pipe, for more than LARGEST_FILE, and where the file is shorter
    than offset + length.
    """
    with open_regular(path) as f:
        size = os.fstat(f.fileno()).st_size if length is None else length
        if size > LARGEST_FILE:
            raise BadFile(f'too large: {size:,} bytes, at most {LARGEST_FILE:,} are read')
        f.seek(offset)
        # A file may grow while it is read.
        data = f.read(size)
    if length is not None and len(data) < length:
        raise BadFile(f'truncated: its shard ends {length - len(data):,} bytes too early')
    return data


# ---- judging and decoding ----


def check(data: Buffer, most: int = LARGEST, convert: bool = False) -> tuple[str, int, int, str]:
    """Walk a file's structure without decoding it, and return (kind, width, height, colour).

    most:    pixels; a larger image is refused
    convert: accept what only OpenCV decodes, and not without a loss: CMYK and 16 bits per channel
    Width and height are those of the decoded image. The colour also tells what `decode` does to it:
    'rgb, profile' is brought to sRGB. Raises BadFile.
    """
    kind, header = structure.walk(memoryview(data).cast('B'), convert)
    check_area(header.width, header.height, most)
    own = '' if header.colour.startswith('cmyk') else icc.name(data)
    return kind, *_decoded_size(header), header.colour + (f', {own}' if own else '')


def sound(data: Buffer) -> None:
    """Raise BadFile unless every pixel of the file can be decoded.

    After `check`, a PNG's zlib stream is tested for its length, checksum and filter bytes (libpng
    tolerates one that is too long); then the decoder itself is run. A JPEG's pixels have no
    checksum: damage that leaves the markers intact is accepted, since OpenCV and DALI decode it
    alike. A JPH was decoded when it was written and needs no decoding. Of the kinds of
    decoders.NAMES the decoder's word is taken.
    """
    if check(data)[0] != 'jph':
        decode_sound(data)


def decode_sound(data: Buffer, most: int = LARGEST, convert: bool = False) -> np.ndarray:
    """As `decode`, but only of what `sound` accepts. most, convert: as in `check`."""
    kind, header = structure.walk(memoryview(data).cast('B'), convert)
    check_area(header.width, header.height, most)
    # The decoder alone would miss an over-long stream.
    if kind == 'png':
        structure.inflate(memoryview(data).cast('B'), header)

    # A decoder may read a damaged header differently from `check`.
    rgb = decode(data)
    height, width, _ = rgb.shape
    expected = _decoded_size(header)
    if (width, height) != expected:
        raise BadFile(
            f'decodes to {width}x{height}, but its header says {expected[0]}x{expected[1]}'
        )
    return rgb


def decode(data: Buffer) -> np.ndarray:
    """Decode a file to [H, W, 3] uint8 RGB: the definition of its pixels for all pipes.

    EXIF orientation is applied (in PNG too), gray and palette are expanded, alpha is dropped, 16
    bits become 8, `own_colours` are brought to sRGB. The result of what is `for_any_decoder` equals
    that of nvidia.dali.fn.decoders.image(device='cpu') bit for bit. Raises BadFile.
    """
    kind = decoders.kind(bytes(data[:64]))
    if kind:
        return icc.to_srgb(data, _decode_other(data, kind))

    # JPH decoders must not be given damaged data; see jph.py.
    if bytes(data[:12]) == jph.SIGNATURE:
        jph.check(data)
        if jph.codec():
            return _decode_jph(data)

    # OpenCV applies the orientation, expands palettes and drops alpha by itself.
    wanted = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
    bgr = decoders.to_8bit(decoders.imdecode(data, wanted))
    return icc.to_srgb(data, cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB, dst=bgr))


def _decode_other(data: Buffer, kind: str) -> np.ndarray:
    """[H, W, 3] uint8 RGB of one of decoders.NAMES, in the colours of its profile."""
    header = decoders.header(data, kind)
    check_area(header.width, header.height, MOST)
    pixels = decoders.to_8bit(decoders.stored(data, kind, header))
    if pixels.ndim == 2:
        return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)
    return np.ascontiguousarray(pixels[..., :3])


def _decode_jph(data: Buffer) -> np.ndarray:
    """As `decode`. A checksum can be right, and the stream wrong all the same."""
    try:
        rgb = jph.decode(data)
    except (RuntimeError, ValueError) as e:  # the first is the decoder's own
        raise BadFile(f'decoder refuses it ({e})') from None
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise BadFile(f'{rgb.shape} {rgb.dtype}, where 8-bit RGB is wanted')
    return rgb


def own_colours(data: Buffer) -> bool:
    """Whether a file is in other colours than sRGB, which decoders but `decode` do not see."""
    return bool(icc.name(data))


def for_any_decoder(data: Buffer) -> bool:
    """Whether a sound file is one that decoders but `decode` give the same pixels of."""
    known = bytes(data[:12]).startswith((structure.PNG, structure.JPEG, jph.SIGNATURE))
    return known and not own_colours(data)


def fit(rgb: np.ndarray, size: int) -> np.ndarray:
    """Bring [H, W, 3] uint8 to [size, size, 3].

    An image of that size is unchanged; any other is area-resized to a shorter side of `size` and
    centre-cropped. Raises BadFile if it is smaller.
    """
    h, w = rgb.shape[:2]
    big_enough(w, h, size)
    # Rounding must not make the longer side shorter than the crop.
    if min(h, w) > size:
        h, w = (max(size, round(side * size / min(h, w))) for side in (h, w))
        rgb = cv2.resize(rgb, (w, h), interpolation=cv2.INTER_AREA)
    top, left = (h - size) // 2, (w - size) // 2
    return np.ascontiguousarray(rgb[top : top + size, left : left + size])


def check_area(width: int, height: int, most: int) -> None:
    """Raise BadFile for an image of more than `most` pixels."""
    if width * height > most:
        raise BadFile(
            f'too large: {width:,}x{height:,} = {width * height / 1e6:,.0f} million pixels, '
            f'at most {most / 1e6:,.1f} million are read'
        )


def big_enough(width: int, height: int, size: int) -> None:
    """Raise BadFile if the shorter side, in pixels, is below the training size."""
    if min(width, height) < size:
        raise BadFile(f'{width}x{height}, smaller than the training size {size}')


def _decoded_size(header: structure.Header) -> tuple[int, int]:
    """(width, height) after the EXIF orientation; 5 to 8 swap the sides."""
    if header.orientation >= 5:
        return header.height, header.width
    return header.width, header.height
