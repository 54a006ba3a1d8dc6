"""Lossless HTJ2K, the fast JPEG 2000 (ISO/IEC 15444-15): faces that a GPU decodes through DALI, and a CPU through OpenJPH in less time than a PNG.

JPEG 2000 has no checksum, and its decoders are not safe from damaged files: OpenJPH, fed with flipped bits, gives wrong pixels without a word, or ends the process. So only
files that `encode` wrote are read. They are JPH files for any reader; their third box holds the CRC-32 of all that follows it.
"""

import functools
import importlib.util
import struct
import zlib

import numpy as np

from errors import BadFile


def _box(kind, body):
    return struct.pack('>I4s', 8 + len(body), kind) + body


SIGNATURE = _box(b'jP  ', b'\r\n\x87\n')
_START = (
    SIGNATURE
    + _box(b'ftyp', b'jph \0\0\0\0jph ')
    + struct.pack('>I4s', 28, b'uuid')
    + bytes.fromhex('6a1f2ce39c0b4d5fa2d70e85c34491b7')
)  # then the CRC
_COLOUR = _box(b'colr', struct.pack('>BBBI', 1, 0, 0, 16))  # sRGB: ISO/IEC 15444-1, table I.10
_HEADER = len(_START) + 4  # where the jp2h box begins,
_STREAM = _HEADER + 8 + 22 + len(_COLOUR)  # and the jp2c box


def check(data):
    """(width, height) of a file, bytes-like, none of which is damaged. Raises BadFile."""
    if len(data) < _STREAM + 8 or bytes(data[: len(_START)]) != _START:
        raise BadFile(
            'JPEG 2000 without a checksum: only files that python tools/prepare.py htj2k wrote can be read'
        )
    missing = _STREAM + int.from_bytes(data[_STREAM : _STREAM + 4], 'big') - len(data)
    if missing > 0:
        raise BadFile(f'truncated: {missing:,} bytes are missing')
    if zlib.crc32(data[_HEADER:]) != int.from_bytes(data[len(_START) : _HEADER], 'big'):
        raise BadFile('CRC of the codestream is wrong')
    height, width = struct.unpack_from('>II', data, _HEADER + 16)
    return width, height


@functools.cache
def codec():
    """Whether OpenJPH is there (extra htj2k). OpenCV and DALI read such files without it, slower; only it writes them."""
    return importlib.util.find_spec('imagecodecs') is not None


def decode(data):
    """Bytes that `check` accepts -> [H, W, 3] uint8 RGB, by OpenJPH."""
    import imagecodecs

    return imagecodecs.htj2k_decode(bytes(data[_STREAM + 8 :]))


def encode(rgb):
    """[H, W, 3] uint8 RGB -> bytes of a JPH file. Raises ImportError where imagecodecs is missing."""
    import imagecodecs

    height, width, _ = rgb.shape
    stream = imagecodecs.htj2k_encode(np.ascontiguousarray(rgb), rgb=True, reversible=True)
    rest = _box(
        b'jp2h', _box(b'ihdr', struct.pack('>IIHBBBB', height, width, 3, 7, 7, 0, 0)) + _COLOUR
    ) + _box(b'jp2c', bytes(stream))
    return _START + zlib.crc32(rest).to_bytes(4, 'big') + rest
