"""Lossless HTJ2K (ISO/IEC 15444-15): decoded by DALI on a GPU, by OpenJPH on a CPU.

OpenJPH decodes such a file in less time than a PNG takes. But JPEG 2000 has no checksum, and its
decoders are not safe from damaged files: on flipped bits, OpenJPH returns wrong pixels silently or
ends the process. Hence only files that `encode` wrote are read. They are JPH files for any reader;
their third box holds the CRC-32 of everything after it. A checksum can be made to fit, so the
headers that the decoder believes have to be those of `encode`, byte for byte.
"""

import functools
import importlib.util
import struct
import zlib

import numpy as np

from errors import BadFile

from .aliases import Buffer


def _box(kind: bytes, body: bytes) -> bytes:
    """Box of a JPH file: length, type, contents (ISO/IEC 15444-1, annex I.4)."""
    return struct.pack('>I4s', 8 + len(body), kind) + body


SIGNATURE = _box(b'jP  ', b'\r\n\x87\n')
# Every file begins like this; the four bytes of the CRC follow.
_START = (
    SIGNATURE
    + _box(b'ftyp', b'jph \0\0\0\0jph ')
    + struct.pack('>I4s', 28, b'uuid')
    + bytes.fromhex('6a1f2ce39c0b4d5fa2d70e85c34491b7')
)
_COLOUR = _box(b'colr', struct.pack('>BBBI', 1, 0, 0, 16))  # sRGB: ISO/IEC 15444-1, table I.10
_HEADER = len(_START) + 4  # where the jp2h box begins
_STREAM = _HEADER + 8 + 22 + len(_COLOUR)  # where the jp2c box begins
_CODE = _STREAM + 8  # where the codestream begins

# Main header of a codestream (ISO/IEC 15444-1, annex A) as `encode` writes it: behind the size
# three components of eight bits; HTJ2K; five levels of the reversible 5/3 wavelet in blocks of
# 64x64, and its exponents. Then follow the encoder's name, and the only tile in its only part.
_COMPONENTS = bytes.fromhex('0003 070101 070101 070101')
_CAP = bytes.fromhex('ff50 0008 00020000 0003')
_COD = bytes.fromhex('ff52 000c 00 02 0001 01 05 04 04 40 01')
_QCD = bytes.fromhex('ff5c 0013 20 50 585858 585858 585858 585858 505050')
_COM = bytes.fromhex('ff64')
_LONGEST_NAME = 64


def check(data: Buffer) -> tuple[int, int]:
    """Verify the checksum of a file and return its (width, height). Raises BadFile."""
    if len(data) < _STREAM + 8 or bytes(data[: len(_START)]) != _START:
        raise BadFile(
            'JPEG 2000 without a checksum: only files written by python tools/prepare.py htj2k '
            'can be read'
        )

    # A short file is named as truncated, although its CRC is wrong as well.
    missing = _STREAM + int.from_bytes(data[_STREAM : _STREAM + 4], 'big') - len(data)
    if missing > 0:
        raise BadFile(f'truncated: {missing:,} bytes are missing')
    if zlib.crc32(data[_HEADER:]) != int.from_bytes(data[len(_START) : _HEADER], 'big'):
        raise BadFile('CRC of the codestream is wrong')

    # The image header box is the first inside jp2h: two headers of 8 bytes precede its fields.
    height, width = struct.unpack_from('>II', data, _HEADER + 16)
    if not _is_ours(bytes(data[_CODE : _CODE + 200]), len(data) - _CODE, width, height):
        raise BadFile(
            f'its codestream is not one of {width}x{height} pixels by python tools/prepare.py htj2k'
        )
    return width, height


def _is_ours(stream: bytes, length: int, width: int, height: int) -> bool:
    """Whether a codestream of this length begins as `encode` begins one for this size."""
    # The tile is as large as the image, and neither is moved.
    size = struct.pack('>HHHH8I', 0xFF4F, 0xFF51, 47, 0x4000, *(width, height, 0, 0) * 2)
    start = size + _COMPONENTS + _CAP + _COD + _QCD + _COM
    name = int.from_bytes(stream[len(start) : len(start) + 2], 'big')
    at = len(start) + name
    if not stream.startswith(start) or name > _LONGEST_NAME or at > length - 2:
        return False
    tile = struct.pack('>HHHIBBH', 0xFF90, 10, 0, length - at - 2, 0, 1, 0xFF93)
    return stream[at:].startswith(tile)


@functools.cache
def codec() -> bool:
    """Whether OpenJPH is installed (extra htj2k); OpenCV and DALI read without it, but slower."""
    return importlib.util.find_spec('imagecodecs') is not None


def decode(data: Buffer) -> np.ndarray:
    """Decode bytes that `check` accepts to [H, W, 3] uint8 RGB, by OpenJPH."""
    import imagecodecs

    return imagecodecs.htj2k_decode(bytes(data[_CODE:]))


def encode(rgb: np.ndarray) -> bytes:
    """Encode [H, W, 3] uint8 RGB losslessly as a JPH file.

    Raises ImportError where imagecodecs is not installed.
    """
    import imagecodecs

    height, width, _ = rgb.shape
    stream = imagecodecs.htj2k_encode(np.ascontiguousarray(rgb), rgb=True, reversible=True)

    # 3 components of 8 bits (7 stands for 8), compression type 7 (JPEG 2000).
    header = _box(b'ihdr', struct.pack('>IIHBBBB', height, width, 3, 7, 7, 0, 0))
    rest = _box(b'jp2h', header + _COLOUR) + _box(b'jp2c', bytes(stream))
    return _START + zlib.crc32(rest).to_bytes(4, 'big') + rest
