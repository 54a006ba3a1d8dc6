"""One image file, good or bad: PNG (W3C PNG, 3rd ed.), JPEG (ITU-T T.81) and JPH (lossless HTJ2K, jph.py), its structure, its pixels, their size.

`check` walks a file's structure (the CRCs of a PNG and a JPH, the markers of a JPEG) at disk speed; `sound` also decodes it; `decode`
defines the pixels for every pipe. What `sound` accepts, DALI's CPU decoder and OpenCV decode to the same bytes.
"""

import os
import re
import struct
import zlib
from typing import NamedTuple

import cv2
import numpy as np

from errors import BadFile

from . import jph

SUFFIXES = '.png', '.jpg', '.jpeg', '.jph'
LARGEST = 1 << 28  # pixels; more is taken for a damaged header (OpenCV's limit is 2**30)
PNG, JPEG = b'\x89PNG\r\n\x1a\n', b'\xff\xd8\xff'  # how such files begin
_COLOURS = {
    0: ('gray', 1, (1, 2, 4, 8, 16)),
    2: ('rgb', 3, (8, 16)),
    3: ('palette', 1, (1, 2, 4, 8)),
    4: ('gray+alpha', 2, (8, 16)),
    6: ('rgba', 4, (8, 16)),
}  # colour type -> name, samples per pixel, bit depths
_ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)  # x0, y0, dx, dy
_FRAMES = {
    0xC3: 'lossless',
    0xC5: 'hierarchical',
    0xC6: 'hierarchical',
    0xC7: 'lossless',
    **dict.fromkeys((0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF), 'arithmetic coding'),
}
_AFTER_SCAN = re.compile(
    rb'\xff[^\x00\xff\xd0-\xd7]'
)  # a marker, not stuffing, filling or a restart
_OTHERS = (
    (b'GIF8', 'GIF'),
    (b'BM', 'BMP'),
    (b'II*\0', 'TIFF'),
    (b'MM\0*', 'TIFF'),
    (b'\0\0\0\x0cjP', 'JPEG 2000'),
    (b'\xff\x4f\xff\x51', 'a bare JPEG 2000 codestream'),
    (b'\xff\x0a', 'JPEG XL'),
    (b'8BPS', 'Photoshop'),
    (b'%PDF', 'PDF'),
    (b'PK\3\4', 'ZIP'),
    (b'\x1f\x8b', 'gzip'),
    (b'version https://git-lfs', 'a Git LFS pointer'),
)


class _Header(NamedTuple):
    width: int  # as stored, before orientation
    height: int
    colour: str
    bits: int  # per pixel
    interlaced: bool
    orientation: int  # EXIF, 1..8
    idat: list  # (start, stop) of each piece of the zlib stream; empty for JPEG


def read_bytes(path, offset=0, length=None):
    """Bytes of a file, or of the part of it that a shard's member is. Raises OSError, BadFile where the file is too short for that."""
    with open(path, 'rb') as f:
        f.seek(offset)
        data = f.read(length)
    if length is not None and len(data) < length:
        raise BadFile(f'truncated: its shard ends {length - len(data):,} bytes too early')
    return data


def shown(path):
    """A path for a message: a file name need not be valid text, a message must be."""
    return os.fsencode(path).decode('utf-8', 'replace')


def check(data):
    """Walk a file's structure without decoding it: bytes-like -> (kind, width, height, colour). Raises BadFile."""
    kind, header = _walk(memoryview(data).cast('B'))
    return kind, *_decoded_size(header), header.colour


def sound(data):
    """Raise BadFile unless every pixel of the file can be decoded: `check`, then, for PNG, the zlib stream's length, checksum and
    filter bytes against the header (libpng tolerates an over-long one), then the decoder itself. A JPEG's pixels have no
    checksum: damage there that keeps the markers decodes to something, the same in OpenCV and DALI, and is accepted. A JPH,
    which was decoded when it was written, needs no decoding."""
    data = memoryview(data).cast('B')
    kind, header = _walk(data)
    if kind == 'png':
        _inflate(data, header)
    if kind == 'jph':
        return
    found, size = decode(data).shape[1::-1], _decoded_size(header)
    if found != size:
        raise BadFile('decodes to {}x{}, but its header says {}x{}'.format(*found, *size))


def decode(data):
    """Bytes of a file -> [H, W, 3] uint8 RGB, the definition for all pipes: EXIF orientation applied (in PNG too), gray and
    palette expanded, alpha dropped. Equal to nvidia.dali.fn.decoders.image(device='cpu') to the bit. Raises BadFile."""
    if bytes(data[:12]) == jph.SIGNATURE:
        jph.check(data)  # no decoder of it can be trusted with a damaged one
        if jph.codec():
            return jph.decode(data)
    try:
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as e:
        raise BadFile(f'decoder refuses it ({e.err})') from None
    if bgr is None:
        raise BadFile('decoder refuses it')
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB, dst=bgr)


def fit(rgb, size):
    """[H, W, 3] uint8 -> [size, size, 3]: unchanged if it has that size, else area-resized to a shorter side of `size` and
    centre-cropped. Raises BadFile if it is smaller."""
    h, w = rgb.shape[:2]
    big_enough(w, h, size)
    if min(h, w) > size:
        h, w = (max(size, round(side * size / min(h, w))) for side in (h, w))
        rgb = cv2.resize(rgb, (w, h), interpolation=cv2.INTER_AREA)
    top, left = (h - size) // 2, (w - size) // 2
    return np.ascontiguousarray(rgb[top : top + size, left : left + size])


def _decoded_size(header):
    """(width, height) after the EXIF orientation: 5..8 swap the sides."""
    return (
        (header.height, header.width) if header.orientation >= 5 else (header.width, header.height)
    )


def big_enough(width, height, size):
    """Raise BadFile if the shorter side (pixels) is below the training size."""
    if min(width, height) < size:
        raise BadFile(f'{width}x{height}, smaller than the training size {size}')


def _walk(data):
    head = bytes(data[:64])
    if not head:
        raise BadFile('empty file (0 bytes)')
    if head.startswith(PNG):
        return 'png', _walk_png(data)
    if head.startswith(JPEG):
        return 'jpeg', _walk_jpeg(data)
    if head.startswith(jph.SIGNATURE):
        width, height = jph.check(data)
        return 'jph', _Header(width, height, 'rgb', 24, False, 1, [])
    if PNG.startswith(head) or JPEG.startswith(head) or jph.SIGNATURE.startswith(head):
        raise BadFile(f'truncated: only {len(head)} bytes')
    raise BadFile(f'not a PNG, JPEG or JPH image: {looks_like(head)}')


def looks_like(head):
    """What a file that begins like this seems to be, for a message."""
    for start, name in _OTHERS:
        if head.startswith(start):
            return f'it looks like {name}'
    if head[:4] == b'RIFF' and head[8:12] == b'WEBP':
        return 'it looks like WebP'
    if head[4:8] == b'ftyp':
        return 'it looks like HEIC, AVIF or a film'
    if head.lstrip(b'\xef\xbb\xbf \t\r\n').lower().startswith((b'<!doctype html', b'<html')):
        return 'it looks like HTML (an error page saved as an image?)'
    if all(32 <= c < 127 or c in b'\t\r\n' for c in head):
        return 'it looks like text'
    return 'all zero bytes' if not any(head) else f'it begins with {head[:8].hex(" ")}'


def _walk_png(data):
    header, palette, idat, names, orientations, at = None, False, [], [], set(), len(PNG)
    while not names or names[-1] != b'IEND':
        if at + 12 > len(data):
            raise BadFile('truncated: it ends before the IEND chunk')
        length, name = struct.unpack_from('>I4s', data, at)
        known = (
            name in (b'IHDR', b'PLTE', b'IDAT', b'IEND') or name[0] & 32
        )  # lower case: may be skipped
        if not known or not name.isalpha() or name[2] & 32 or length >= 1 << 31:
            raise BadFile(f'corrupt: no PNG chunk at byte {at:,}')
        end, text = at + 12 + length, name.decode()
        if end > len(data):
            raise BadFile(f'truncated: {end - len(data):,} bytes of its {text} chunk are missing')
        body = data[at + 8 : end - 4]
        if zlib.crc32(data[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], 'big'):
            raise BadFile(f'CRC of the {text} chunk at byte {at:,} is wrong')
        if (name == b'IHDR') != (not names):
            raise BadFile('corrupt header: IHDR must come first, and once')
        if name == b'IHDR':
            header = _ihdr(body)
        elif name == b'PLTE':
            palette = 0 < length <= 768 and length % 3 == 0 and not idat
        elif name == b'IDAT':
            if idat and names[-1] != b'IDAT':
                raise BadFile('corrupt: its IDAT chunks are not consecutive')
            idat.append((at + 8, end - 4))
        elif name == b'eXIf':
            orientations.add(exif_orientation(body))
        names.append(name)
        at = end
    if not idat:
        raise BadFile('corrupt: no IDAT chunk, hence no pixels')
    if header.colour == 'palette' and not palette:
        raise BadFile('corrupt: a palette image without a valid PLTE chunk before its pixels')
    return header._replace(idat=idat, orientation=_only(orientations))


def _ihdr(body):
    if len(body) != 13:
        raise BadFile(f'corrupt header: IHDR has {len(body)} bytes, not 13')
    width, height, depth, colour, compression, filtering, interlace = struct.unpack(
        '>IIBBBBB', body
    )
    name, samples, depths = _COLOURS.get(colour, ('', 0, ()))
    if depth not in depths or compression or filtering or interlace > 1:
        raise BadFile(
            f'corrupt header: bit depth {depth}, colour type {colour}, methods {compression} {filtering} {interlace}'
        )
    _plausible(width, height)
    if depth == 16:
        raise BadFile('16-bit PNG: convert it to 8 bits per channel')
    return _Header(width, height, name, depth * samples, interlace == 1, 1, [])


def _plausible(width, height):
    if not 0 < width * height <= LARGEST:
        raise BadFile(f'corrupt header: {width}x{height} pixels')


def _inflate(data, header):
    """Decompress a PNG's pixels; BadFile unless they are as long as the header demands, with checksum and known row filters."""
    shapes = []  # of each pass: rows, bytes per row (1 for the filter)
    for x0, y0, dx, dy in _ADAM7 if header.interlaced else ((0, 0, 1, 1),):
        w, h = -((x0 - header.width) // dx), -((y0 - header.height) // dy)
        shapes += [(h, 1 + (w * header.bits + 7) // 8)] if w > 0 and h > 0 else []
    want, stream = sum(h * row for h, row in shapes), zlib.decompressobj()
    try:  # asks one byte more: shows an over-long stream, and lets zlib reach the checksum
        raw = stream.decompress(b''.join(data[a:b] for a, b in header.idat), want + 1)
    except zlib.error as e:
        raise BadFile(f'corrupt pixels: {e}') from None
    if len(raw) != want:
        raise BadFile(
            f'corrupt pixels: too {"few" if len(raw) < want else "many"} bytes in its zlib stream, {want:,} expected'
        )
    if not stream.eof:
        raise BadFile('corrupt pixels: its zlib stream has no end')
    at = 0
    for h, row in shapes:
        if np.frombuffer(raw, np.uint8, h * row, at)[::row].max() > 4:
            raise BadFile('corrupt pixels: unknown row filter')
        at += h * row


def _walk_jpeg(data):
    size, colour, scans, orientations, at = None, None, 0, set(), 2
    while True:
        at = _marker(data, at)
        code = data[at + 1]
        if code == 0xD9:
            break
        if code == 0x01 or 0xD0 <= code <= 0xD7:  # TEM, RSTn: no body
            at += 2
            continue
        length = int.from_bytes(data[at + 2 : at + 4], 'big')
        body, end = data[at + 4 : at + 2 + length], at + 2 + length
        if max(at + 4, end) > len(data):
            raise BadFile('truncated: it ends inside a segment')
        if length < 2 or code in (0x00, 0xD8):
            raise BadFile(f'corrupt: no JPEG segment at byte {at:,}')
        if code in _FRAMES:
            raise BadFile(f'{_FRAMES[code]} JPEG: save it as a baseline or progressive one')
        if code in (0xC0, 0xC1, 0xC2):
            if size:
                raise BadFile('corrupt header: two frames')
            size, colour = _sof(body)
        elif code == 0xE1 and body[:6] == b'Exif\0\0':
            orientations.add(exif_orientation(body[6:]))
        elif code == 0xDA:
            if not size:
                raise BadFile('corrupt header: no frame before the pixels')
            found = _AFTER_SCAN.search(data, end)
            if not found:
                raise BadFile('truncated: no end-of-image marker')
            scans, end = scans + 1, found.start()
        at = end
    if not scans:
        raise BadFile('corrupt: no pixels before the end-of-image marker')
    return _Header(*size, colour, 0, False, _only(orientations), [])


def _marker(data, at):
    if at < len(data) and data[at] != 0xFF:
        raise BadFile(f'corrupt: no JPEG marker at byte {at:,}')
    while at + 1 < len(data) and data[at + 1] == 0xFF:  # filling
        at += 1
    if at + 2 > len(data):
        raise BadFile('truncated: no end-of-image marker')
    return at


def _sof(body):
    if len(body) < 6 or len(body) != 6 + 3 * body[5]:
        raise BadFile('corrupt header: frame segment of a wrong length')
    precision, height, width, components = struct.unpack_from('>BHHB', body)
    if precision != 8:
        raise BadFile(f'{precision}-bit JPEG: convert it to 8 bits per channel')
    if components == 4:
        raise BadFile('CMYK JPEG: convert it to RGB')
    if components not in (1, 3):
        raise BadFile(f'corrupt header: {components} components')
    _plausible(width, height)
    return (width, height), 'gray' if components == 1 else 'rgb'


def exif_orientation(tiff):
    """EXIF orientation 1..8 of a TIFF block, 1 where there is none. BadFile if its table leaves the block: decoders differ."""
    order = {b'MM\0*': '>', b'II*\0': '<'}.get(bytes(tiff[:4]))
    if order is None or len(tiff) < 8:
        return 1
    try:
        (ifd,) = struct.unpack_from(order + 'I', tiff, 4)
        (count,) = struct.unpack_from(order + 'H', tiff, ifd)
        entries = [struct.unpack_from(order + 'HHIH', tiff, ifd + 2 + 12 * i) for i in range(count)]
    except struct.error:
        raise BadFile('corrupt EXIF block: strip it') from None
    return next(
        (value for tag, kind, _, value in entries if (tag, kind) == (0x112, 3) and 1 <= value <= 8),
        1,
    )


def _only(orientations):
    """The orientation that all EXIF blocks agree on, 1 without one; of two, OpenCV and DALI choose differently."""
    if len(orientations) > 1:
        raise BadFile('two EXIF blocks with different orientations: strip them')
    return max(orientations, default=1)
