"""The structure of one image file, walked without decoding it, at disk speed.

Of a PNG (W3C PNG, 3rd ed.) these are the chunks and their CRCs, of a JPEG (ITU-T T.81) the markers;
of other kinds, what their decoders say of the header.
"""

import itertools
import re
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from errors import BadFile

from . import decoders, jph
from .aliases import Buffer

# No encoder writes more scans, each of which costs a decoder as much as a picture, or more pieces.
MOST_SCANS, MOST_PIECES = 100, 1 << 17
PNG, JPEG = b'\x89PNG\r\n\x1a\n', b'\xff\xd8\xff'  # how such files begin

# fmt: off
# PNG colour type -> name, samples per pixel, bit depths
_COLOURS: dict[int, tuple[str, int, tuple[int, ...]]] = {
    0: ('gray',       1, (1, 2, 4, 8, 16)),
    2: ('rgb',        3, (8, 16)),
    3: ('palette',    1, (1, 2, 4, 8)),
    4: ('gray+alpha', 2, (8, 16)),
    6: ('rgba',       4, (8, 16)),
}
# Passes of an interlaced PNG: x0, y0, dx, dy
_ADAM7 = (
    (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4),
    (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2),
)
# fmt: on

# Codes of JPEG markers (T.81, table B.1); an end of image, a scan, an application segment.
_EOI, _SOS, _APP1 = 0xD9, 0xDA, 0xE1
_BASELINE_OR_PROGRESSIVE = 0xC0, 0xC1, 0xC2
_UNSUPPORTED_FRAMES = {
    0xC3: 'lossless',
    0xC5: 'hierarchical',
    0xC6: 'hierarchical',
    0xC7: 'lossless',
    **dict.fromkeys((0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF), 'arithmetic coding'),
}
# A marker that ends a scan: neither a stuffed byte, nor fill bytes, nor a restart.
_AFTER_SCAN = re.compile(rb'\xff[^\x00\xff\xd0-\xd7]')

# Beginnings of files that are often given by mistake.
_OTHER_FORMATS = (
    (b'GIF8', 'GIF'),
    (b'BM', 'BMP'),  # of an unknown version
    (b'\0\0\0\x0cjP', 'JPEG 2000'),
    (b'\xff\x4f\xff\x51', 'a bare JPEG 2000 codestream'),
    (b'\xff\x0a', 'JPEG XL'),
    (b'\0\0\0\x0cJXL ', 'JPEG XL'),
    (b'8BPS', 'Photoshop'),
    (b'%PDF', 'PDF'),
    (b'PK\3\4', 'ZIP'),
    (b'\x1f\x8b', 'gzip'),
    (b'version https://git-lfs', 'a Git LFS pointer'),
)
# Those of them that are pictures, as `looks_like` names them.
_PICTURES = 'GIF', 'BMP', 'JPEG 2000', 'JPEG XL', 'Photoshop'


class Header(NamedTuple):
    """What is known of an image before it is decoded."""

    width: int  # as stored, before orientation
    height: int
    colour: str  # kind of pixels, and what is done to them when they are decoded
    bits: int  # per pixel
    interlaced: bool
    orientation: int  # EXIF, 1..8
    idat: list[tuple[int, int]]  # start, stop of each piece of a PNG's zlib stream


# ---- kinds of files ----


def walk(data: memoryview, convert: bool = False) -> tuple[str, Header]:
    """Kind and header of a file. convert: as in `check`. Raises BadFile."""
    head = bytes(data[:64])
    if not head:
        raise BadFile('empty file (0 bytes)')
    kind = decoders.kind(head)
    if kind:
        return kind, _described(data, kind, convert)
    if head.startswith(PNG):
        return 'png', _walk_png(data, convert)
    if head.startswith(JPEG):
        return 'jpeg', _walk_jpeg(data, convert)
    if head.startswith(jph.SIGNATURE):
        width, height = jph.check(data)
        return 'jph', Header(width, height, 'rgb', 24, False, 1, [])

    # A file may end within its signature.
    if any(signature.startswith(head) for signature in (PNG, JPEG, jph.SIGNATURE)):
        raise BadFile(f'truncated: only {len(head)} bytes')
    seen = looks_like(head)
    remedy = '; convert it to PNG' if seen.endswith(_PICTURES) else ''
    raise BadFile(f'not an image that can be read: {seen}{remedy}')


def _described(data: memoryview, kind: str, convert: bool) -> Header:
    """Header of one of decoders.NAMES, upright."""
    header, name = decoders.header(data, kind), decoders.NAMES[kind]
    _plausible(header.width, header.height)
    colour = header.colour + (', 16 bits' if header.bits > 8 else '')
    if header.bits > 8 and not convert:
        raise BadFile(f'16-bit {name}: convert it to 8 bits per channel')
    if header.colour == 'cmyk' and not convert:
        raise BadFile(f'CMYK {name}: convert it to RGB')
    return Header(header.width, header.height, colour, 0, False, 1, [])


def looks_like(head: bytes) -> str:
    """Describe for a message what a file with these first bytes seems to be."""
    for start, name in _OTHER_FORMATS:
        if head.startswith(start):
            return f'it looks like {name}'
    kind = decoders.kind(head)
    if kind:
        return f'it looks like {decoders.NAMES[kind]}'
    if head[4:8] == b'ftyp':
        return 'it looks like a film'

    # Web pages come with a byte order mark or blank lines before them.
    if head.lstrip(b'\xef\xbb\xbf \t\r\n').lower().startswith((b'<!doctype html', b'<html')):
        return 'it looks like HTML (an error page saved as an image?)'
    if all(32 <= c < 127 or c in b'\t\r\n' for c in head):
        return 'it looks like text'
    return f'it begins with {head[:8].hex(" ")}' if any(head) else 'all zero bytes'


def _plausible(width: int, height: int) -> None:
    if not width * height:
        raise BadFile(f'corrupt header: {width}x{height} pixels')


# ---- PNG ----


def _walk_png(data: memoryview, convert: bool) -> Header:
    """Header of a PNG, all chunks of which are intact and in order."""
    name, body, at = _png_chunk(data, len(PNG))
    if name != b'IHDR':
        raise BadFile(_IHDR_FIRST)
    header = _ihdr(body, convert)

    palette = False  # a valid one before the pixels
    idat: list[tuple[int, int]] = []
    orientations: set[int] = set()
    for name, body, end in _chunks(data, at):
        if name == b'PLTE':
            palette = 0 < len(body) <= 768 and len(body) % 3 == 0 and not idat
        elif name == b'IDAT':
            idat.append((end - 4 - len(body), end - 4))
        elif name == b'tRNS':
            header = header._replace(colour=f'{header.colour}+alpha')
        elif name == b'eXIf':
            orientations.add(exif_orientation(body))

    if not idat:
        raise BadFile('corrupt: no IDAT chunk, hence no pixels')
    if header.colour.startswith('palette') and not palette:
        raise BadFile('corrupt: a palette image without a valid PLTE chunk before its pixels')
    # Length, name and CRC of a chunk take 12 bytes between the pieces.
    if any(start != stop + 12 for (_, stop), (start, _) in itertools.pairwise(idat)):
        raise BadFile('corrupt: its IDAT chunks are not consecutive')
    return header._replace(idat=idat, orientation=_only(orientations))


_IHDR_FIRST = 'corrupt header: IHDR must come first, and once'


def _chunks(data: memoryview, at: int) -> Iterator[tuple[bytes, memoryview, int]]:
    """(name, contents, end) of each chunk from a byte up to the last one."""
    for _ in range(MOST_PIECES):
        name, body, at = _png_chunk(data, at)
        if name == b'IHDR':
            raise BadFile(_IHDR_FIRST)
        yield name, body, at
        if name == b'IEND':
            return
    raise BadFile(f'more than {MOST_PIECES:,} chunks: save it anew')


def _png_chunk(data: memoryview, at: int) -> tuple[bytes, memoryview, int]:
    """(name, contents, end) of the chunk at a byte, its CRC verified."""
    if at + 12 > len(data):
        raise BadFile('truncated: it ends before the IEND chunk')
    length, name = struct.unpack_from('>I4s', data, at)

    # Bit 5 of the first letter, lower case: a reader may skip the chunk. Bit 5 of the third is 0.
    known = name in (b'IHDR', b'PLTE', b'IDAT', b'IEND') or name[0] & 32
    if not known or not name.isalpha() or name[2] & 32 or length >= 1 << 31:
        raise BadFile(f'corrupt: no PNG chunk at byte {at:,}')

    end = at + 12 + length
    if end > len(data):
        missing = end - len(data)
        raise BadFile(f'truncated: {missing:,} bytes of its {name.decode()} chunk are missing')
    if zlib.crc32(data[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], 'big'):
        raise BadFile(f'CRC of the {name.decode()} chunk at byte {at:,} is wrong')
    return name, data[at + 8 : end - 4], end


def _ihdr(body: memoryview, convert: bool) -> Header:
    if len(body) != 13:
        raise BadFile(f'corrupt header: IHDR has {len(body)} bytes, not 13')
    fields = struct.unpack('>IIBBBBB', body)
    width, height, depth, colour, compression, filtering, interlace = fields
    name, samples, depths = _COLOURS.get(colour, ('', 0, ()))
    if depth not in depths or compression or filtering or interlace > 1:
        raise BadFile(
            f'corrupt header: bit depth {depth}, colour type {colour}, '
            f'methods {compression} {filtering} {interlace}'
        )
    _plausible(width, height)
    if depth == 16 and not convert:
        raise BadFile('16-bit PNG: convert it to 8 bits per channel')
    name += ', 16 bits' if depth == 16 else ''
    return Header(width, height, name, depth * samples, interlace == 1, 1, [])


def inflate(data: memoryview, header: Header) -> None:
    """Raise BadFile unless a PNG's zlib stream is complete, intact and has known row filters."""
    shapes = _passes(header)
    expected = sum(rows * length for rows, length in shapes)

    # One byte more than needed reveals a stream that is too long, and lets zlib reach the checksum.
    stream = zlib.decompressobj()
    try:
        raw = stream.decompress(b''.join(data[a:b] for a, b in header.idat), expected + 1)
    except zlib.error as e:
        raise BadFile(f'corrupt pixels: {e}') from None
    if len(raw) != expected:
        amount = 'few' if len(raw) < expected else 'many'
        raise BadFile(
            f'corrupt pixels: too {amount} bytes in its zlib stream, {expected:,} expected'
        )
    if not stream.eof:
        raise BadFile('corrupt pixels: its zlib stream has no end')

    # Each row begins with its filter type, 0 to 4.
    at = 0
    for rows, length in shapes:
        if np.frombuffer(raw, np.uint8, rows * length, at)[::length].max() > 4:
            raise BadFile('corrupt pixels: unknown row filter')
        at += rows * length


def _passes(header: Header) -> list[tuple[int, int]]:
    """(rows, bytes per row with the filter type) of every pass that has pixels."""
    shapes = []
    for x0, y0, dx, dy in _ADAM7 if header.interlaced else ((0, 0, 1, 1),):
        # Rounded up.
        w, h = -((x0 - header.width) // dx), -((y0 - header.height) // dy)
        if w > 0 and h > 0:
            shapes.append((h, 1 + (w * header.bits + 7) // 8))
    return shapes


# ---- JPEG ----


def _walk_jpeg(data: memoryview, convert: bool) -> Header:
    """Header of a JPEG, all segments of which follow each other up to the end of the image."""
    frame: tuple[int, int, str] | None = None
    scans = 0
    orientations: set[int] = set()
    for code, body in _jpeg_segments(data):
        if code in _UNSUPPORTED_FRAMES:
            kind = _UNSUPPORTED_FRAMES[code]
            raise BadFile(f'{kind} JPEG: save it as a baseline or progressive one')
        if code in _BASELINE_OR_PROGRESSIVE:
            if frame:
                raise BadFile('corrupt header: two frames')
            frame = _sof(body, convert)
        elif code == _APP1 and body[:6] == b'Exif\0\0':
            orientations.add(exif_orientation(body[6:]))
        elif code == _SOS:
            scans += 1
            _check_scan(frame is not None, scans)

    if frame is None or not scans:
        raise BadFile('corrupt: no pixels before the end-of-image marker')
    return Header(*frame, 0, False, _only(orientations), [])


def _jpeg_segments(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """(code, contents) of each segment up to the end of the image."""
    at = 2
    for _ in range(MOST_PIECES):
        at = _marker(data, at)
        code = data[at + 1]
        if code == _EOI:
            return
        # TEM and the restarts RSTn stand alone, without a body.
        if code == 0x01 or 0xD0 <= code <= 0xD7:
            at += 2
            continue
        body, at = _segment(data, at)
        yield code, body
        if code == _SOS:
            at = _scan_end(data, at)
    raise BadFile(f'more than {MOST_PIECES:,} segments: save it anew')


def _check_scan(framed: bool, number: int) -> None:
    """Raise BadFile for a scan without a frame header before it, and for one too many."""
    if not framed:
        raise BadFile('corrupt header: no frame before the pixels')
    if number > MOST_SCANS:
        raise BadFile(f'more than {MOST_SCANS} scans: save it anew')


def _marker(data: memoryview, at: int) -> int:
    """Byte of the marker that is due here, after any fill bytes."""
    if at < len(data) and data[at] != 0xFF:
        raise BadFile(f'corrupt: no JPEG marker at byte {at:,}')
    while at + 1 < len(data) and data[at + 1] == 0xFF:
        at += 1
    if at + 2 > len(data):
        raise BadFile('truncated: no end-of-image marker')
    return at


def _segment(data: memoryview, at: int) -> tuple[memoryview, int]:
    """(contents, end) of the segment whose marker is at a byte."""
    length = int.from_bytes(data[at + 2 : at + 4], 'big')
    end = at + 2 + length
    if max(at + 4, end) > len(data):
        raise BadFile('truncated: it ends inside a segment')
    # 00 is a stuffed byte outside a scan, D8 a second start of image.
    if length < 2 or data[at + 1] in (0x00, 0xD8):
        raise BadFile(f'corrupt: no JPEG segment at byte {at:,}')
    return data[at + 4 : end], end


def _scan_end(data: memoryview, start: int) -> int:
    """Byte of the marker after a scan."""
    after = _AFTER_SCAN.search(data, start)
    if not after:
        raise BadFile('truncated: no end-of-image marker')
    return after.start()


def _sof(body: memoryview, convert: bool) -> tuple[int, int, str]:
    """(width, height, colour) of a frame header."""
    if len(body) < 6 or len(body) != 6 + 3 * body[5]:
        raise BadFile('corrupt header: frame segment of a wrong length')
    precision, height, width, components = struct.unpack_from('>BHHB', body)
    # What decoders disagree on or reject is named with a remedy.
    if precision != 8:
        raise BadFile(f'{precision}-bit JPEG: convert it to 8 bits per channel')
    if components == 4 and not convert:
        raise BadFile('CMYK JPEG: convert it to RGB')
    names = {1: 'gray', 3: 'rgb', 4: 'cmyk'}
    if components not in names:
        raise BadFile(f'corrupt header: {components} components')
    _plausible(width, height)
    return width, height, names[components]


# ---- EXIF ----


def exif_orientation(tiff: Buffer) -> int:
    """EXIF orientation 1..8 of a TIFF block, 1 where there is none (EXIF 2.32, tag 0x112).

    Raises BadFile if the table leaves the block: decoders treat that differently.
    """
    order = {b'MM\0*': '>', b'II*\0': '<'}.get(bytes(tiff[:4]))
    if order is None or len(tiff) < 8:
        return 1

    # A table of entries: tag, type (3: 16-bit integer), number of values, value.
    try:
        (ifd,) = struct.unpack_from(order + 'I', tiff, 4)
        (count,) = struct.unpack_from(order + 'H', tiff, ifd)
        entries = [struct.unpack_from(order + 'HHIH', tiff, ifd + 2 + 12 * i) for i in range(count)]
    except struct.error:
        raise BadFile('corrupt EXIF block: strip it') from None
    for tag, kind, _, value in entries:
        if (tag, kind) == (0x112, 3) and 1 <= value <= 8:
            return value
    return 1


def _only(orientations: set[int]) -> int:
    """The orientation on which all EXIF blocks agree, 1 without one.

    Of two different ones, OpenCV and DALI choose differently.
    """
    if len(orientations) > 1:
        raise BadFile('two EXIF blocks with different orientations: strip them')
    return max(orientations, default=1)
