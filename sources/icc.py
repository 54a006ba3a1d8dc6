"""Colour profiles: pictures of phones and cameras are brought to sRGB when they are decoded.

A file without a profile, or with one that means sRGB, keeps its bits. A profile is judged by what
it does to colours, not by its name: there are dozens of sRGB profiles. Profiles that cannot be used
(damaged, or for another kind of picture) are left aside, as browsers do, and named.
"""

import functools
import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageCms

from . import decoders
from .aliases import Buffer

LARGEST = 8 << 20  # bytes of a profile; those of phones and cameras have up to a few thousand
# Levels by which a profile may change colours and still mean sRGB: its curve is written down as a
# formula, as a table or rounded.
TOLERANCE = 2
# Colours by which a profile is judged: a lattice, and all grays.
_LATTICE = np.stack(np.meshgrid(*[np.arange(0, 256, 17)] * 3), -1).reshape(1, -1, 3)
_PROBE = np.concatenate([_LATTICE, np.arange(256)[None, :, None].repeat(3, 2)], 1).astype(np.uint8)
_SOI, _PNG, _ICC = b'\xff\xd8', b'\x89PNG', b'ICC_PROFILE\0'
# H.273 numbers of a cICP chunk: primaries and transfer of sRGB's relatives, RGB of full range.
_DISPLAY_P3 = b'\x0c\x0d\x00\x01'
# XYZ of P3's primaries, adapted to D50, by the tags of a profile.
_P3 = {
    b'rXYZ': (0.51512, 0.24120, -0.00105),
    b'gXYZ': (0.29198, 0.69225, 0.04189),
    b'bXYZ': (0.15710, 0.06657, 0.78407),
}

# ---- what a file says ----


def name(data: Buffer) -> str:
    """'' of sRGB or without a profile, else what is said of the colours of a file."""
    found = profile(data)
    if not found or is_srgb(found):
        return ''
    return 'profile' if _transform(found) else 'unusable profile'


def to_srgb(data: Buffer, rgb: np.ndarray) -> np.ndarray:
    """[H, W, 3] uint8, as decoded from a file, in sRGB."""
    found = profile(data)
    transform = None if not found or is_srgb(found) else _transform(found)
    if transform is None:
        return rgb
    # A profile of grays is applied to one channel.
    mode, convert = transform
    if mode == 'L' and not (rgb[..., :1] == rgb).all():
        return rgb
    return _applied(convert, mode, rgb)


def profile(data: Buffer) -> bytes:
    """The ICC profile of a file; b'' without one.

    A PNG or JPEG may be damaged; raises BadFile for what else is.
    """
    head = bytes(data[:64])
    if head.startswith(_PNG):
        return _of_png(data)
    if head.startswith(_SOI):
        return _of_jpeg(data)
    kind = decoders.kind(head)
    return decoders.header(data, kind).icc if kind else b''


def _of_png(data: Buffer) -> bytes:
    """Profile before the pixels of a PNG; the chunk cICP overrides iCCP (W3C PNG, 3rd ed.)."""
    found, at = b'', 8
    while at + 8 <= len(data):
        length, kind = struct.unpack_from('>I4s', data, at)
        body = data[at + 8 : at + 8 + length]
        if kind == b'IDAT':
            break
        if kind == b'cICP':
            return display_p3() if bytes(body) == _DISPLAY_P3 else b''
        if kind == b'iCCP':
            found = _inflated(bytes(body).partition(b'\0')[2][1:])
        at += 12 + length
    return found


def _inflated(data: bytes) -> bytes:
    """Contents of a zlib stream, as far as they are intact and within bounds."""
    try:
        return zlib.decompressobj().decompress(data, LARGEST)
    except zlib.error:
        return b'?'


def _of_jpeg(data: Buffer) -> bytes:
    """Profile of a JPEG, in up to 255 segments that are numbered from 1 (ICC.1, annex B.4)."""
    parts = {body[12]: bytes(body[14:]) for body in _segments(data) if body[:12] == _ICC}
    if not parts:
        return b''
    complete = sorted(parts) == list(range(1, len(parts) + 1))
    return b''.join(parts[i] for i in sorted(parts)) if complete else b'?'


def _segments(data: Buffer) -> Iterator[Buffer]:
    """Contents of the segments APP2 before the pixels of a JPEG."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        code, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], 'big')
        if code == 0xFF:  # a fill byte
            at += 1
            continue
        if code == 0xDA or length < 2:  # the pixels, or damage
            return
        if code == 0xE2 and length > 16:
            yield data[at + 4 : at + 2 + length]
        at += 2 + length


# ---- what a profile does ----


@functools.lru_cache(maxsize=64)
def is_srgb(found: bytes) -> bool:
    """Whether a profile leaves colours, or grays, as sRGB has them."""
    transform = _transform(found)
    if transform is None:
        return False
    mode, convert = transform
    probe = _PROBE[:, -256:] if mode == 'L' else _PROBE
    return int(abs(_applied(convert, mode, probe).astype(int) - probe).max()) <= TOLERANCE


@functools.lru_cache(maxsize=64)
def _transform(found: bytes) -> 'tuple[str, ImageCms.ImageCmsTransform] | None':
    """(mode of the pictures it takes, transform to sRGB) of a profile; None if it is unusable."""
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(found))
        mode = {'RGB': 'RGB', 'GRAY': 'L'}[opened.profile.xcolor_space.strip()]
        # Colours that both spaces have stay what they are; a transform is shared by threads.
        return mode, ImageCms.buildTransform(
            opened,
            ImageCms.createProfile('sRGB'),
            mode,
            'RGB',
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.NOCACHE,
        )
    except (ImageCms.PyCMSError, OSError, KeyError, ValueError, TypeError):
        return None


def _applied(convert: ImageCms.ImageCmsTransform, mode: str, rgb: np.ndarray) -> np.ndarray:
    """[H, W, 3] uint8 after a transform."""
    picture = Image.fromarray(np.ascontiguousarray(rgb[..., 0] if mode == 'L' else rgb))
    converted = ImageCms.applyTransform(picture, convert)
    assert converted is not None  # it is not done in place
    return np.array(converted)


@functools.cache
def display_p3() -> bytes:
    """Profile of Display P3: sRGB's with other primaries."""
    made = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes())
    (count,) = struct.unpack_from('>I', made, 128)
    for i in range(count):
        tag, at, _ = struct.unpack_from('>4sII', made, 132 + 12 * i)
        if tag in _P3:
            struct.pack_into('>iii', made, at + 8, *(round(v * 65536) for v in _P3[tag]))
    return bytes(made)
