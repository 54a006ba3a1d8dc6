"""PNG decoded on the device (W3C PNG, 3rd ed.; RFC 1950, 1951): the pixels of `files.decode`, bit for bit, or the word that a picture is refused.

The host finds the pieces of a file and sends them as they are; on the device one warp inflates each zlib stream and checks it, one unfilters its rows, and gray,
palette and alpha become RGB. One stream is slow (its symbols can only be read one after the other), so many must be under way at a time.
"""

import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from degrade import kernels as cuda
from errors import BadFile
from sources.files import PNG, exif_orientation

KERNELS = Path(__file__).with_name('png.cu')
LARGEST = 1 << 26  # pixels of a picture that the device takes
CHANNELS = {
    0: 1,
    2: 3,
    3: 1,
    4: 2,
    6: 4,
}  # of the colour types gray, RGB, palette, gray+alpha, RGBA
# What the device says of a stream; 0 is good.
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
    """Why the device leaves a file to the CPU's decoder."""


class Head(NamedTuple):
    height: int
    width: int
    channels: int  # as stored
    palette: bytes  # 256 RGB colours, black after the last; empty without one
    pieces: list  # [(start, stop)] of the zlib stream in the file

    @property
    def raw(self):
        """Bytes of its rows, each with its filter before it."""
        return self.height * (1 + self.width * self.channels)


def head(data):
    """What the device must know of a file, whose CRCs have been checked elsewhere. Raises Unfit: not an 8-bit PNG without interlacing, turned by EXIF, an animation,
    too large, damaged."""
    try:
        return _head(data)
    except (struct.error, BadFile):
        raise Unfit('damaged') from None


def _head(data):
    if data[:8] != PNG:
        raise Unfit('not a PNG')
    width, height, depth, colour, *methods, interlaced = struct.unpack_from('>IIBBBBB', data, 16)
    if data[12:16] != b'IHDR' or colour not in CHANNELS or any(methods):
        raise Unfit('damaged')
    if depth != 8:
        raise Unfit(f'{depth} bits')
    if interlaced:
        raise Unfit('interlaced')
    if not 0 < width * height <= LARGEST:
        raise Unfit(f'{width}x{height} pixels')
    palette, pieces, name, at = b'', [], None, 8
    while name != b'IEND':
        length, name = struct.unpack_from('>I4s', data, at)
        start, at = at + 8, at + 12 + length
        if at > len(data):
            raise Unfit('damaged')
        if name == b'IDAT':
            pieces.append((start, start + length))
        elif name == b'PLTE' and colour == 3:
            palette = data[start : start + length][:768].ljust(768, b'\0')
        elif name == b'eXIf' and exif_orientation(data[start : start + length]) != 1:
            raise Unfit('turned by EXIF')
        elif name == b'acTL':
            raise Unfit('animated')
    if colour == 3 and not palette:
        raise Unfit('damaged')
    return Head(height, width, CHANNELS[colour], palette, pieces)


# ---- reference: one file, row by row, byte by byte ----


def run_ref(data):
    """PNG bytes -> [H, W, 3] uint8 RGB. Raises Unfit, and BadFile for a stream that `files.sound` refuses, too."""
    h = head(data)
    stream = zlib.decompressobj()
    try:
        raw = stream.decompress(b''.join(data[a:b] for a, b in h.pieces), h.raw + 1)
    except zlib.error as e:
        raise BadFile(f'corrupt pixels: {e}') from None
    if len(raw) != h.raw or not stream.eof or max(raw[:: 1 + h.width * h.channels]) > 4:
        raise BadFile('corrupt pixels')
    rows = np.frombuffer(raw, np.uint8).reshape(h.height, 1 + h.width * h.channels)
    out, above = [], [0] * (h.width * h.channels)
    for kind, *row in rows.tolist():
        for x in range(len(row)):
            left, corner = (
                (row[x - h.channels], above[x - h.channels]) if x >= h.channels else (0, 0)
            )
            row[x] = (
                row[x]
                + (0, left, above[x], (left + above[x]) // 2, _paeth(left, above[x], corner))[kind]
                & 255
            )
        out.append(row)
        above = row
    pixels = np.array(out, np.uint8).reshape(h.height, h.width, h.channels)
    if h.palette:
        return np.frombuffer(h.palette, np.uint8).reshape(256, 3)[pixels[..., 0]]
    return np.ascontiguousarray(pixels[..., :3]) if h.channels > 2 else pixels[..., :1].repeat(3, 2)


def _paeth(left, above, corner):
    return min(
        (left, above, corner), key=lambda v: abs(left + above - corner - v)
    )  # the first of the nearest


# ---- CUDA ----


class Packed(NamedTuple):
    data: (
        torch.Tensor
    )  # uint8, the zlib streams and palettes of all files; on a GPU's host in pinned memory
    record: np.ndarray  # [B] of png.cu's struct Png
    raw: int  # bytes that the rows of all pictures take,
    out: int  # and their pixels, which lie behind each other without a gap


def pack(files, heads, pinned=False, pool=None):
    """files: [bytes]; heads: their `head` -> Packed; the threads of a pool copy."""
    lengths = [sum(stop - start for start, stop in h.pieces) for h in heads]
    sides = np.array([(h.height, h.width) for h in heads], np.int64).reshape(-1, 2)
    ends = np.cumsum([_whole(n) + len(h.palette) for n, h in zip(lengths, heads)], dtype=np.int64)
    starts = ends - [_whole(n) + len(h.palette) for n, h in zip(lengths, heads)]
    raw = np.cumsum([0] + [_whole(h.raw) for h in heads], dtype=np.int64)
    out = np.cumsum([0, *3 * sides.prod(1)], dtype=np.int64)
    record = cuda.record(
        [
            ('data', np.uint64),
            ('raw', np.uint64),
            ('out', np.uint64),
            ('palette', np.uint64),
            ('length', np.int32),
            ('channels', np.int32),
        ],
        sides,
        data=starts,
        raw=raw[:-1],
        out=out[:-1],
        palette=[end - 768 if h.palette else 0 for end, h in zip(ends, heads)],
        length=lengths,
        channels=[h.channels for h in heads],
    )
    data = torch.empty(int(ends[-1]) if len(heads) else 0, dtype=torch.uint8, pin_memory=pinned)
    view = data.numpy()

    def copy(file, h, start, end):
        at = start
        for a, b in h.pieces:
            view[at : at + b - a] = np.frombuffer(file, np.uint8, b - a, a)
            at += b - a
        view[at : end - len(h.palette)] = 0  # up to whole words
        view[end - len(h.palette) : end] = np.frombuffer(h.palette, np.uint8)

    list((pool.map if pool else map)(copy, files, heads, starts.tolist(), ends.tolist()))
    return Packed(data, record, int(raw[-1]), int(out[-1]))


def _whole(n):
    return -(-n // 16) * 16


def run_cuda(packed, device):
    """(pixels uint8 of all pictures in a row, [B] int32 numbers of REFUSED) on the device; those of a refused picture are undefined. Nobody waits for the GPU."""
    (record,) = cuda.upload([packed.record], device)
    data, raw, out = (
        packed.data.to(device, non_blocking=True),
        *(torch.empty(n, dtype=torch.uint8, device=device) for n in (packed.raw, packed.out)),
    )
    count, (h, w) = len(packed.record), (packed.record[side].max() for side in 'hw')
    status = torch.empty(count, dtype=torch.int32, device=device)
    cuda.launch(KERNELS, 'inflate', (count,), (32,), data, raw, record, status)
    cuda.launch(KERNELS, 'unfilter', (count,), (32,), raw, record, status)
    cuda.launch(
        KERNELS,
        'colour',
        (cuda.tiles(int(h) * int(w), 4096), count),
        (256,),
        data,
        raw,
        out,
        record,
        status,
    )
    return out, status


def pictures(out, record):
    """[H, W, 3] views of the pixels that `run_cuda` returns."""
    return [
        out[int(r['out']) : int(r['out']) + 3 * int(r['h']) * int(r['w'])].view(
            int(r['h']), int(r['w']), 3
        )
        for r in record
    ]
