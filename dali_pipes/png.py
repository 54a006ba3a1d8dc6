"""PNG decoded on the device (W3C PNG, 3rd ed.; RFC 1950, 1951).

It gives the pixels of `files.decode`, bit for bit, or says that a picture is refused. The host
finds the pieces of a file and sends them as they are. On the device one warp inflates each zlib
stream and checks it, one unfilters its rows, and gray, palette and alpha become RGB. A single
stream is slow, because its symbols can only be read one after the other: many have to be under way
at a time.
"""

import struct
import zlib
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from degrade import kernels as cuda
from errors import BadFile
from sources.files import own_colours
from sources.structure import PNG, exif_orientation

KERNELS = Path(__file__).with_name('png.cu')
# Pixels of a picture that the device takes: places in a picture are 32-bit integers there.
LARGEST = 1 << 26
# Channels by colour type: gray, RGB, palette, gray+alpha, RGBA.
PALETTE = 3
CHANNELS = {0: 1, 2: 3, PALETTE: 1, 4: 2, 6: 4}
PALETTE_BYTES = 3 * 256

# What the device says of a stream, by the number of png.cu's enum; 0 is good.
REFUSED = (
    '',
    'no zlib stream',
    'ends too early',
    'unknown block',
    'invalid code lengths',
    'invalid code',
    'distance too far back',
    'too many bytes',
    'too few bytes',
    'wrong checksum',
    'unknown row filter',
)


class Unfit(Exception):
    """Why the device leaves a file to the CPU's decoder; never reaches the user."""


# ---- the pieces of a file ----


class Head(NamedTuple):
    """What the device must know of a file."""

    height: int
    width: int
    channels: int  # as stored
    palette: bytes  # 256 RGB colours, black after the last; empty without one
    pieces: list[tuple[int, int]]  # (start, stop) of the zlib stream's parts in the file

    @property
    def raw(self) -> int:
        """Bytes of its rows, each with its filter before it."""
        return self.height * (1 + self.width * self.channels)


def head(data: bytes) -> Head:
    """Return the head of a file whose CRCs have been checked elsewhere.

    Raises Unfit for what is not an 8-bit PNG without interlacing, turned by EXIF, an animation, in
    other colours than sRGB, too large, or damaged.
    """
    try:
        height, width, colour = _header(data)
        palette, pieces = _chunks(data, colour)
    except (struct.error, BadFile):
        raise Unfit('damaged') from None
    if colour == PALETTE and not palette:
        raise Unfit('damaged')
    return Head(height, width, CHANNELS[colour], palette, pieces)


def _header(data: bytes) -> tuple[int, int, int]:
    """Read (height, width, colour type). Raises Unfit and struct.error."""
    if data[:8] != PNG:
        raise Unfit('not a PNG')
    width, height, depth, colour, *methods, interlaced = struct.unpack_from('>IIBBBBB', data, 16)
    if data[12:16] != b'IHDR' or colour not in CHANNELS or any(methods):
        raise Unfit('damaged')

    # Whole, but not for the device.
    if depth != 8:
        raise Unfit(f'{depth} bits')
    if interlaced:
        raise Unfit('interlaced')
    if not 0 < width * height <= LARGEST:
        raise Unfit(f'{width}x{height} pixels')
    return height, width, colour


def _chunks(data: bytes, colour: int) -> tuple[bytes, list[tuple[int, int]]]:
    """Walk the chunks: (palette, pieces) of Head. Raises Unfit, struct.error and BadFile."""
    # Every length is checked against the file's, because files are not to be trusted. A palette is
    # filled up with black, which is what OpenCV gives for an index beyond its end.
    palette = b''
    pieces = []
    name = b''
    at = 8
    while name != b'IEND':
        length, name = struct.unpack_from('>I4s', data, at)
        start = at + 8
        at += 12 + length
        if at > len(data):
            raise Unfit('damaged')
        if name == b'IDAT':
            pieces.append((start, start + length))
        elif name == b'PLTE' and colour == PALETTE:
            palette = data[start : start + length][:PALETTE_BYTES].ljust(PALETTE_BYTES, b'\0')
        elif name == b'eXIf' and exif_orientation(data[start : start + length]) != 1:
            raise Unfit('turned by EXIF')
        elif name == b'acTL':
            raise Unfit('animated')
        elif name in (b'iCCP', b'cICP') and own_colours(data):
            raise Unfit('in other colours than sRGB')
    return palette, pieces


# ---- reference: one file, row by row, byte by byte ----


def run_ref(data: bytes) -> np.ndarray:
    """Decode a PNG to [H, W, 3] uint8 RGB.

    Raises Unfit, and BadFile for a stream that `files.sound` refuses, too.
    """
    h = head(data)
    stride = 1 + h.width * h.channels
    raw = _inflated(data, h)
    if max(raw[::stride]) > 4:
        raise BadFile('corrupt pixels')

    # Above the first row all bytes count as zero.
    rows = []
    above = [0] * (stride - 1)
    for kind, *row in np.frombuffer(raw, np.uint8).reshape(h.height, stride).tolist():
        above = _unfiltered(kind, row, above, h.channels)
        rows.append(above)

    # RGB of whatever is stored; alpha is dropped.
    pixels = np.array(rows, np.uint8).reshape(h.height, h.width, h.channels)
    if h.palette:
        return np.frombuffer(h.palette, np.uint8).reshape(256, 3)[pixels[..., 0]]
    if h.channels > 2:
        return np.ascontiguousarray(pixels[..., :3])
    return pixels[..., :1].repeat(3, 2)


def _inflated(data: bytes, h: Head) -> bytes:
    """Inflate the rows of a file, each with its filter before it. Raises BadFile."""
    stream = zlib.decompressobj()
    try:
        # One byte more than is wanted would show that there are too many.
        raw = stream.decompress(b''.join(data[a:b] for a, b in h.pieces), h.raw + 1)
    except zlib.error as e:
        raise BadFile(f'corrupt pixels: {e}') from None
    if len(raw) != h.raw or not stream.eof:
        raise BadFile('corrupt pixels')
    return raw


def _unfiltered(kind: int, row: list[int], above: list[int], channels: int) -> list[int]:
    """Undo a row's filter: none, sub, up, average or Paeth (W3C PNG, 9.2)."""
    row = list(row)
    for x in range(len(row)):
        left = row[x - channels] if x >= channels else 0
        corner = above[x - channels] if x >= channels else 0
        up = above[x]
        guess = (0, left, up, (left + up) // 2, _paeth(left, up, corner))[kind]
        row[x] = (row[x] + guess) & 255
    return row


def _paeth(left: int, above: int, corner: int) -> int:
    """Of the three the nearest to left + above - corner; the first where several are."""
    return min((left, above, corner), key=lambda v: abs(left + above - corner - v))


# ---- CUDA ----


class Packed(NamedTuple):
    """Files on their way to the device."""

    data: torch.Tensor  # uint8, zlib streams and palettes of all files; pinned on a GPU's host
    record: np.ndarray  # [B] of png.cu's struct Png
    raw: int  # bytes that the rows of all pictures take
    out: int  # bytes of their pixels, which lie behind each other without a gap


# png.cu's struct Png, which ends in the height and width.
RECORD = [
    ('data', np.uint64),
    ('raw', np.uint64),
    ('out', np.uint64),
    ('palette', np.uint64),
    ('length', np.int32),
    ('channels', np.int32),
]


def pack(
    files: Sequence[bytes],
    heads: Sequence[Head],
    pinned: bool = False,
    pool: Executor | None = None,
) -> Packed:
    """Gather the zlib streams and palettes of files.

    heads:  what `head` returned for each file
    pinned: take pinned memory
    pool:   threads that copy
    """
    lengths = [sum(stop - start for start, stop in h.pieces) for h in heads]
    sides = np.array([(h.height, h.width) for h in heads], np.int64).reshape(-1, 2)

    # A file's part of the data is its stream, padded to whole words, and its palette.
    parts = [_padded(n) + len(h.palette) for n, h in zip(lengths, heads, strict=True)]
    ends = np.cumsum(parts, dtype=np.int64)
    starts = ends - parts
    palettes = [end - PALETTE_BYTES if h.palette else 0 for end, h in zip(ends, heads, strict=True)]

    # Rows are padded like streams; the pixels of all pictures lie behind each other.
    raw = np.cumsum([0] + [_padded(h.raw) for h in heads], dtype=np.int64)
    out = np.cumsum([0, *3 * sides.prod(1)], dtype=np.int64)
    record = cuda.record(
        RECORD,
        sides,
        data=starts,
        raw=raw[:-1],
        out=out[:-1],
        palette=np.array(palettes),
        length=np.array(lengths),
        channels=np.array([h.channels for h in heads]),
    )

    # Copied by all threads straight into the memory that is sent.
    data = torch.empty(sum(parts), dtype=torch.uint8, pin_memory=pinned)
    view = data.numpy()

    def copy(file: bytes, h: Head, start: int, end: int) -> None:
        _copy(view[start:end], file, h)

    list((pool.map if pool else map)(copy, files, heads, starts.tolist(), ends.tolist()))
    return Packed(data, record, int(raw[-1]), int(out[-1]))


def _copy(part: np.ndarray, file: bytes, h: Head) -> None:
    """Write a file's stream, zeros up to whole words, and its palette."""
    at = 0
    for start, stop in h.pieces:
        part[at : at + stop - start] = np.frombuffer(file, np.uint8, stop - start, start)
        at += stop - start
    palette_at = len(part) - len(h.palette)
    part[at:palette_at] = 0
    part[palette_at:] = np.frombuffer(h.palette, np.uint8)


def _padded(n: int) -> int:
    """Bytes up to which a stream, or the rows of a picture, are padded: a multiple of 16."""
    return -(-n // 16) * 16


def run_cuda(packed: Packed, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Decode on the device, without waiting for it.

    Returns the uint8 pixels of all pictures in a row (see `pictures`) and [B] int32 numbers of
    REFUSED, both on the device. The pixels of a refused picture are undefined.
    """
    (record,) = cuda.upload([packed.record], device)
    data = packed.data.to(device, non_blocking=True)
    raw = torch.empty(packed.raw, dtype=torch.uint8, device=device)
    out = torch.empty(packed.out, dtype=torch.uint8, device=device)
    count = len(packed.record)
    status = torch.empty(count, dtype=torch.int32, device=device)

    # A warp inflates a stream and unfilters a picture; a block of the last kernel has 4,096 pixels.
    largest = int(packed.record['h'].max()) * int(packed.record['w'].max())
    blocks = (cuda.tiles(largest, 4096), count)
    cuda.launch(KERNELS, 'inflate', (count,), (32,), data, raw, record, status)
    cuda.launch(KERNELS, 'unfilter', (count,), (32,), raw, record, status)
    cuda.launch(KERNELS, 'colour', blocks, (256,), data, raw, out, record, status)
    return out, status


def pictures(out: torch.Tensor, record: np.ndarray) -> list[torch.Tensor]:
    """[H, W, 3] views of the pixels that `run_cuda` returned."""
    views = []
    for place, h, w in zip(record['out'], record['h'], record['w'], strict=True):
        start, height, width = int(place), int(h), int(w)
        views.append(out[start : start + 3 * height * width].view(height, width, 3))
    return views
