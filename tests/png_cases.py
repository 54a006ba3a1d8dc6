"""PNG files with everything that a file may be made of, and files that were damaged on purpose.

    python tests/png_cases.py COUNT SEED [PROCESSES]

sends COUNT damaged files through the kernels, under AddressSanitizer and
UndefinedBehaviorSanitizer. Each has to be refused exactly where zlib refuses it, and to decode to
what the reference says otherwise. It wants the project installed, or on PYTHONPATH.
"""

import itertools
import os
import struct
import sys
import zlib
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch
from zoo import SIGNATURE, chunk, exif, picture

from dali_pipes import png
from errors import BadFile
from tools import cuda_shim

COLOURS = {'gray': 0, 'rgb': 2, 'palette': 3, 'gray+alpha': 4, 'rgba': 6}
STRATEGIES = dict(
    default=zlib.Z_DEFAULT_STRATEGY,
    filtered=zlib.Z_FILTERED,
    huffman=zlib.Z_HUFFMAN_ONLY,
    rle=zlib.Z_RLE,
    fixed=zlib.Z_FIXED,
)
PALETTE = np.random.default_rng(4).integers(0, 256, 768, np.uint8).tobytes()
# Further bits after the length symbols 257 to 285, and after the distance symbols 0 to 29.
EXTRAS = (0,) * 8 + tuple(i // 4 for i in range(4, 24)) + (0,)
FAR = (0, 0) + tuple(i // 2 for i in range(28))
# In which order the lengths of the code for lengths are sent (RFC 1951, 3.2.7).
ORDER = 16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15
BATCH = 64  # files at a time


def filtered(pixels, kinds):
    """[h, w, channels] uint8 -> the rows of a PNG, row i by filter kinds[i % len(kinds)]."""
    h, w, channels = pixels.shape
    rows, out = pixels.reshape(h, -1).astype(int), []
    before = np.zeros(channels, int)  # of the first pixel of a row
    for y, row in enumerate(rows):
        kind = kinds[y % len(kinds)]
        up = rows[y - 1] if y else np.zeros_like(row)
        left, corner = (np.concatenate([before, r[:-channels]]) for r in (row, up))
        paeth = 0
        if kind == 4:
            around = zip(left.tolist(), up.tolist(), corner.tolist(), strict=True)
            paeth = np.array([png._paeth(*neighbours) for neighbours in around])
        guess = (0, left, up, (left + up) // 2, paeth)[kind]
        out.append(bytes([kind]) + ((row - guess) & 255).astype(np.uint8).tobytes())
    return b''.join(out)


def file(h, w, colour, stream, cuts=(), before=b'', depth=8, interlaced=0, after=b''):
    """A PNG around a zlib stream, which is cut into IDAT chunks at these places."""
    edges = [0, *cuts, len(stream)]
    if colour == 3 and b'PLTE' not in before:
        before = chunk(b'PLTE', PALETTE) + before
    header = struct.pack('>IIBBBBB', w, h, depth, colour, 0, 0, interlaced)
    pieces = [chunk(b'IDAT', stream[a:b]) for a, b in itertools.pairwise(edges)]
    parts = [SIGNATURE, chunk(b'IHDR', header), before, *pieces, after, chunk(b'IEND')]
    return b''.join(parts)


def compressed(raw, level=6, strategy=zlib.Z_DEFAULT_STRATEGY, wbits=15, flush=None, part=500):
    """zlib's stream of the rows; with `flush` it is flushed so every `part` bytes."""
    z = zlib.compressobj(level, zlib.DEFLATED, wbits, 9, strategy)
    if flush is None:
        return z.compress(raw) + z.flush()
    pieces = [raw[i : i + part] for i in range(0, len(raw), part)]
    return b''.join(z.compress(piece) + z.flush(flush) for piece in pieces) + z.flush()


# ---- streams by hand ----


class Writer:
    """Bits of a deflate stream, least significant first; prefix codes the other way round."""

    def __init__(self):
        self.value = self.count = 0

    def bits(self, value, count):
        self.value |= value << self.count
        self.count += count

    def code(self, codes, symbol):
        value, count = codes[symbol]
        self.bits(int(f'{value:0{count}b}'[::-1], 2), count)

    def stored(self, data, last=0, inverse=None):
        self.bits(last, 3)
        self.count += -self.count % 8
        self.bits(len(data) | (0xFFFF - len(data) if inverse is None else inverse) << 16, 32)
        self.bits(int.from_bytes(data, 'little'), 8 * len(data))

    def coded(self, items, literals, distances, last=0, repeats=True, counts=None, fixed=False):
        """A block of items by codes of these lengths.

        An item is a literal, 256 for the end, or (length symbol, its bits, distance symbol, its
        bits). repeats: send runs of equal lengths as such
        """
        self.bits(last | (1 if fixed else 2) << 1, 3)
        if not fixed:
            self._lengths(literals, distances, repeats, counts)
        literal, distance = codes(literals), codes(distances)
        for item in items:
            if isinstance(item, tuple):
                symbol, more, far, further = item
                self.code(literal, symbol)
                self.bits(more, EXTRAS[symbol - 257])
                self.code(distance, far)
                self.bits(further, FAR[far])
            else:
                self.code(literal, item)

    def _lengths(self, literals, distances, repeats, counts):
        """The head of a dynamic block: numbers of codes, the code for lengths, the lengths."""
        n, d = counts or (len(literals) - 257, len(distances) - 1)
        self.bits(n | d << 5 | 15 << 10, 14)
        lengths = [5 if s > 12 or s in (0, 1, 2) else 4 for s in range(19)]
        if not repeats:
            lengths[16:] = [0, 0, 0]
        lengths = _complete(lengths)
        for s in ORDER:
            self.bits(lengths[s], 3)

        # Runs of zeros, runs of the length before, and single lengths.
        code, sent, i = codes(lengths), [*literals, *distances], 0
        while i < len(sent):
            run = next((j for j in range(i, len(sent)) if sent[j] != sent[i]), len(sent)) - i
            if repeats and sent[i] == 0 and run >= 3:
                run = min(run, 138)
                self.code(code, 18 if run > 10 else 17)
                self.bits(run - (11 if run > 10 else 3), 7 if run > 10 else 3)
            elif repeats and i and sent[i] == sent[i - 1] and run >= 3:
                run = min(run, 6)
                self.code(code, 16)
                self.bits(run - 3, 2)
            else:
                run = 1
                self.code(code, sent[i])
            i += run

    def stream(self, raw, header=b'\x78\x9c'):
        """A whole zlib stream: header, these bits, checksum of the bytes they decode to."""
        bits = self.value.to_bytes(-(-self.count // 8), 'little')
        return header + bits + struct.pack('>I', zlib.adler32(raw))


def codes(lengths):
    """{symbol: (code, bits)} of the canonical code with these lengths."""
    out, value = {}, 0
    for bits in range(1, 16):
        value <<= 1
        for symbol, n in enumerate(lengths):
            if n == bits:
                out[symbol] = value, bits
                value += 1
    return out


def _complete(lengths):
    """The same lengths with some made longer or shorter until the code is complete."""
    lengths = list(lengths)
    used = [i for i, n in enumerate(lengths) if n]
    most = 7
    while (room := sum(2 ** (most - lengths[i]) for i in used) - 2**most) != 0:
        grow = room > 0
        if grow:
            shorter = [i for i in used if lengths[i] < most]
            lengths[min(shorter, key=lambda i: lengths[i])] += 1
        else:
            fitting = [i for i in used if 2 ** (most - lengths[i]) <= -room]
            lengths[max(fitting, key=lambda i: lengths[i])] -= 1
    return lengths


def reach(item):
    """(length, distance) of (length symbol, its bits, distance symbol, its bits)."""
    symbol, more, d, further = item
    k = symbol - 257
    length = 3 + ((4 + (k & 3)) << EXTRAS[k]) + more
    if k < 8:
        length = 3 + k
    if k == 28:
        length = 258
    return length, 1 + d if d < 4 else 1 + ((2 + (d & 1)) << FAR[d]) + further


def repeat(made, item):
    """Append to the bytes `made` what an item repeats of them."""
    length, distance = reach(item)
    for _ in range(length):
        made.append(made[-distance] if distance <= len(made) else 0)


# Lengths of codes: up to 15 bits for literals 0 to 14 and the end, and those of a fixed block.
DEEP = [i + 1 for i in range(14)] + [15] + [0] * 241 + [15]
FIXED = [8] * 144 + [9] * 112 + [7] * 24 + [8] * 8
FIXED_DISTANCES = [5] * 30


def _by_hand():
    """{name: (h, w, stream)} of gray pictures: what zlib's encoder would not write."""
    rng = np.random.default_rng(6)
    rows = [bytes([0]) + row.tobytes() for row in rng.integers(0, 15, (12, 20), np.uint8)]
    return {
        'long codes': (12, 20, _long_codes(b''.join(rows), repeats=True)),
        'long codes, no repeats': (12, 20, _long_codes(b''.join(rows), repeats=False)),
        'one distance': (30, 40, _one_distance(bytes(1 + 40) * 30)),
        'every length and distance': _every_match(rng, side=299),
        'blocks of all kinds': (16, 3, _all_blocks(bytes(range(0, 4)) * 16)),
    }


def _long_codes(raw, repeats):
    w = Writer()
    w.coded([*raw, 256], DEEP, [0], last=1, repeats=repeats)
    return w.stream(raw)


def _one_distance(raw):
    """A distance code of one symbol, of one bit, which repeats the byte before."""
    lengths = [0] * 286
    for symbol in 0, 256, 285, 284:
        lengths[symbol] = 2
    w = Writer()
    rest = [0] * (len(raw) - 1 - 4 * 258)
    w.coded([0, *[(285, 0, 0, 0)] * 4, *rest, 256], lengths, [1], last=1)
    return w.stream(raw)


def _every_match(rng, side):
    """Every length, and distances from 1 to 32,768, in a fixed block: (h, w, stream).

    The bytes are few, so that whichever begins a row is a known filter.
    """
    made, items = bytearray([0, 3, 1, 2]), [0, 3, 1, 2]
    for k, d in itertools.product(range(257, 286), range(30)):
        more, further = rng.integers(0, 1 << EXTRAS[k - 257]), rng.integers(0, 1 << FAR[d])
        item = (k, int(more), d, int(further))
        if reach(item)[1] <= len(made) and (d > 26 or (k + d) % 3 == 0):
            items.append(item)
            repeat(made, item)
    fill = bytes(-len(made) % (1 + side))
    w = Writer()
    w.coded([*items, *fill, 256], FIXED, FIXED_DISTANCES, last=1, fixed=True)
    raw = bytes(made) + fill
    return len(raw) // (1 + side), side, w.stream(raw)


def _all_blocks(raw):
    """Blocks of all kinds, empty ones among them."""
    w = Writer()
    w.stored(b'')
    w.coded([*raw[:20], 256], FIXED, FIXED_DISTANCES, fixed=True)
    w.coded([256], FIXED, FIXED_DISTANCES, fixed=True)
    w.stored(raw[20:41])
    w.coded([*raw[41:], 256], DEEP, [0])
    w.stored(b'', last=1)
    return w.stream(raw)


FILTERS = {
    'none': [0],
    'sub': [1],
    'up': [2],
    'average': [3],
    'paeth': [4],
    'mixed': [4, 3, 2, 1, 0, 4, 4, 2, 3],
}
SIZES = [(1, 1), (1, 9), (9, 1), (31, 33), (33, 31), (32, 32), (66, 5), (3, 70)]
FLUSHES = dict(
    sync=zlib.Z_SYNC_FLUSH,
    full=zlib.Z_FULL_FLUSH,
    block=zlib.Z_BLOCK,
    partial=zlib.Z_PARTIAL_FLUSH,
)


def cases():
    """{name: bytes} of files that the device decodes; the same each time."""
    by_hand = {name: file(h, w, 0, stream) for name, (h, w, stream) in _by_hand().items()}
    return {**_filters(), **_streams(), **_chunks(), **by_hand}


def _filters():
    """Every colour type with every filter; the filters that look far, in many sizes."""
    out = {}
    for k, (colour, number) in enumerate(COLOURS.items()):
        channels = png.CHANNELS[number]
        for i, (name, kinds) in enumerate(FILTERS.items()):
            sizes = SIZES if name in ('mixed', 'paeth') else [SIZES[(i + k) % len(SIZES)]]
            for j, (h, w) in enumerate(sizes):
                if j % 2:
                    pixels = picture(72, channels, seed=i + j)[:h, :w]
                else:
                    rng = np.random.default_rng([i, j, k])
                    pixels = rng.integers(0, 256, (h, w, channels), np.uint8)
                stream = compressed(filtered(pixels, kinds))
                out[f'{colour} {name} {h}x{w}'] = file(h, w, number, stream)
    return out


def _streams():
    """Whatever zlib's encoder can be told to do."""
    out = {}
    raw = filtered(picture(48, 3, seed=9)[:40] // 8 * 8, FILTERS['mixed'])
    for level, (name, strategy) in itertools.product(range(10), STRATEGIES.items()):
        out[f'level {level} {name}'] = file(40, 48, 2, compressed(raw, level, strategy))
    for bits in range(9, 16):
        out[f'window of {bits} bits'] = file(40, 48, 2, compressed(raw, wbits=bits))
    for name, flush in FLUSHES.items():
        out[f'{name} flushes'] = file(40, 48, 2, compressed(raw, flush=flush))

    # 33 rows of 1,001 bytes back: 33,033 is too far for a match, 32 rows are not.
    far = np.random.default_rng(1).integers(0, 256, (36, 1000), np.uint8)
    far[33:] = far[0:3]
    far[32:34] = far[0:2]
    out['far matches'] = file(36, 1000, 0, compressed(filtered(far[..., None], [0])))
    return out


def _chunks():
    """Streams that are cut in many ways, and files with further chunks."""
    z = compressed(filtered(picture(48, 3, seed=9)[:40] // 8 * 8, FILTERS['mixed']))
    out = {
        'an IDAT a byte': file(40, 48, 2, z, cuts=range(1, len(z))),
        'empty IDATs': file(40, 48, 2, z, cuts=(0, 1, 1, 7, len(z), len(z))),
        'bytes after the stream': file(40, 48, 2, z + b'more'),
    }

    gamma = chunk(b'gAMA', struct.pack('>I', 30_000)) + chunk(b'sRGB', b'\0')
    gray = compressed(filtered(picture(20, 1), [4]))
    for name, colour, before in [
        ('tRNS gray', 0, chunk(b'tRNS', b'\0\x80')),
        ('tRNS palette', 3, chunk(b'PLTE', PALETTE) + chunk(b'tRNS', bytes(range(200)))),
        ('short palette', 3, chunk(b'PLTE', PALETTE[:90])),
        ('upright', 0, chunk(b'eXIf', exif(1))),
        ('more chunks', 0, gamma + chunk(b'tEXt', b'a\0b') + chunk(b'pHYs', bytes(9))),
    ]:
        out[name] = file(20, 20, colour, gray, before=before, after=chunk(b'tIME', bytes(7)))
    out['tRNS rgb'] = file(40, 48, 2, z, before=chunk(b'tRNS', bytes(6)))
    return out


def unfit():
    """{name: (bytes, part of the reason)}: files that the device leaves to the CPU."""
    gray = filtered(picture(16, 1), [1])
    z = zlib.compress(gray)
    good = file(16, 16, 0, z)
    palette_missing = chunk(b'IHDR', struct.pack('>IIBBBBB', 16, 16, 8, 3, 0, 0, 0))
    return {
        '16 bits': (file(16, 16, 0, zlib.compress(bytes(33 * 16)), depth=16), '16 bits'),
        '1 bit': (file(16, 16, 3, zlib.compress(bytes(3 * 16)), depth=1), '1 bits'),
        'interlaced': (file(16, 16, 0, z, interlaced=1), 'interlaced'),
        'turned': (file(16, 16, 0, z, before=chunk(b'eXIf', exif(6))), 'EXIF'),
        'film': (file(16, 16, 0, z, before=chunk(b'acTL', bytes(8))), 'animated'),
        'JPEG': (b'\xff\xd8\xff\xe0' + gray, 'not a PNG'),
        'cut': (good[:-20], 'damaged'),
        'no pixels': (file(0, 16, 0, z), 'pixels'),
        'huge': (file(1 << 14, 1 << 13, 0, z), 'pixels'),
        'short': (good[:20], 'damaged'),
        'no palette': (
            SIGNATURE + palette_missing + chunk(b'IDAT', z) + chunk(b'IEND'),
            'damaged',
        ),
    }


# ---- damage ----


def _random_stream(rng, size):
    """Blocks of random codes, mostly good ones, and random items.

    These reach what damage to a real stream seldom does.
    """
    w, made = Writer(), bytearray()
    for _ in range(rng.integers(1, 4)):
        if rng.integers(0, 8) == 0:
            data = rng.integers(0, 5, rng.integers(0, 30), np.uint8).tobytes()
            w.stored(data, 0, None if rng.random() < 0.8 else int(rng.integers(0, 1 << 16)))
            made += data
        elif not _random_block(rng, w, made, size):
            break

    # The last block: mostly what is missing, sometimes a byte too many.
    if len(made) < size or rng.random() < 0.1:
        rest = bytes(max(size - len(made), 0)) + bytes(int(rng.random() < 0.05))
        w.stored(rest, last=1)
        made += rest
    else:
        w.stored(b'', last=1)
    return w.stream(bytes(made))


def _random_block(rng, w, made, size):
    """Write a coded block, and append to `made` what it decodes to; whether it is complete."""
    used, literals = _random_literals(rng)
    near, distances = _random_distances(rng)
    items = []
    for _ in range(rng.integers(1, 60)):
        if len(made) >= size:
            break
        symbol = used[rng.integers(len(used))]
        d = int(near[rng.integers(len(near))])
        if symbol < 256:
            items.append(symbol)
            made.append(symbol)
        elif symbol > 256 and distances[d]:
            more, further = rng.integers(0, 1 << EXTRAS[symbol - 257]), rng.integers(0, 1 << FAR[d])
            item = (symbol, int(more), d, int(further))
            length, distance = reach(item)
            if (distance <= len(made) and len(made) + length <= size) or rng.random() < 0.01:
                items.append(item)
                repeat(made, item)
        elif rng.random() < 0.1:
            break
    try:
        w.coded([*items, 256], literals, distances, repeats=rng.random() < 0.5)
    except KeyError:  # an item whose symbol has no code: the block ends where it has come to
        return False
    return True


def _random_literals(rng):
    """(symbols that have a code, lengths of all codes): a few literals, the end, a few lengths."""
    few = rng.integers(0, 5, rng.integers(1, 8)).tolist()
    used = sorted({256, *few, *rng.integers(257, 286, rng.integers(1, 6)).tolist()})
    lengths = [0] * int(rng.integers(max(used) + 1, 287))
    for symbol, bits in zip(used, _random_lengths(rng, len(used)), strict=False):
        lengths[symbol] = bits
    return used, lengths


def _random_distances(rng):
    """(symbols that have a code, lengths of all codes); a single symbol may have no code, too."""
    lengths = [0] * int(rng.integers(1, 31))
    near = rng.choice(len(lengths), min(len(lengths), int(rng.integers(1, 6))), replace=False)
    drawn = _random_lengths(rng, len(near)) if len(near) > 1 else [int(rng.integers(0, 3))]
    for symbol, bits in zip(near, drawn, strict=False):
        lengths[symbol] = bits
    return near, lengths


def _random_lengths(rng, n, most=15):
    """Lengths of a complete code of n symbols; now and then of none."""
    lengths = [0]
    while len(lengths) < n:
        i = int(rng.integers(len(lengths)))
        if lengths[i] < most:
            lengths[i : i + 1] = [lengths[i] + 1] * 2
    lengths = lengths if n > 1 else [1]
    if rng.random() < 0.1:
        i = int(rng.integers(len(lengths)))
        lengths[i] = int(np.clip(lengths[i] + rng.integers(-2, 3), 1, most))
    return rng.permutation(lengths).tolist()


def _mend(z):
    """Put the checksum right, if the damage left something that can be inflated."""
    stream = zlib.decompressobj(-15)
    try:
        raw = stream.decompress(bytes(z[2:]), 1 << 16)
    except zlib.error:
        return
    if stream.eof:
        z[len(z) - len(stream.unused_data) :] = struct.pack('>I', zlib.adler32(raw))


def _bits(rng, z, at):
    for _ in range(rng.integers(1, 4)):
        z[int(rng.integers(0, len(z)))] ^= 1 << int(rng.integers(0, 8))


def _bytes(rng, z, at):
    z[at : at + 4] = rng.integers(0, 256, 4, np.uint8).tobytes()


def _cut(rng, z, at):
    del z[at:]


def _inserted(rng, z, at):
    z[at:at] = rng.integers(0, 256, rng.integers(1, 5), np.uint8).tobytes()


def _removed(rng, z, at):
    del z[at : at + int(rng.integers(1, 5))]


def _codes(rng, z, at):
    """The head of a dynamic block with a code for its lengths, then noise."""
    head, lengths = Writer(), [0] * 19
    symbols = rng.permutation(19)
    for s, bits in zip(
        symbols, _random_lengths(rng, int(rng.integers(2, 12)), most=7), strict=False
    ):
        lengths[s] = bits
    head.bits(5 | int(rng.integers(0, 30)) << 3 | int(rng.integers(0, 30)) << 8 | 15 << 13, 17)
    for s in ORDER:
        head.bits(lengths[s], 3)
    noise = rng.integers(0, 256, 90, np.uint8).tobytes()
    z[2:] = head.value.to_bytes(-(-head.count // 8), 'little') + noise


def _noise(rng, z, at):
    z[2:] = rng.integers(0, 256, 60, np.uint8).tobytes()


# What happens to a stream z at a place; None where more than that is changed.
DAMAGES = {
    'bits': _bits,
    'bytes': _bytes,
    'cut': _cut,
    'inserted': _inserted,
    'removed': _removed,
    'sizes': None,
    'codes': _codes,
    'random blocks': None,
    'noise': _noise,
}


def damaged(count, seed):
    """[(kind of damage, file)], small ones."""
    return [_damaged(np.random.default_rng([seed, i]), i) for i in range(count)]


def _damaged(rng, i):
    # A good file of random size, colour type, contrast, filters and compression.
    h, w = (int(n) for n in rng.integers(1, 20, 2))
    colour = int(rng.choice(list(COLOURS.values())))
    pixels = picture(24, png.CHANNELS[colour], seed=int(rng.integers(20)))[:h, :w]
    pixels = pixels // int(rng.choice([1, 16, 64]))
    raw = filtered(pixels, rng.integers(0, 5, 4).tolist())
    level, strategy = int(rng.integers(0, 10)), int(rng.choice(list(STRATEGIES.values())))
    z = bytearray(compressed(raw, level, strategy))

    # The damage; every second time the checksum is put right, so that what comes after it counts.
    kind = list(DAMAGES)[i % len(DAMAGES)]
    at = int(rng.integers(0, len(z)))
    if kind == 'sizes':
        h, w = (max(1, n + int(rng.integers(-3, 4))) for n in (h, w))
    elif kind == 'random blocks':
        z = bytearray(_random_stream(rng, h * (1 + w * png.CHANNELS[colour])))
        if rng.random() < 0.2:
            z[int(rng.integers(2, len(z)))] ^= 1 << int(rng.integers(0, 8))
    else:
        DAMAGES[kind](rng, z, at)
    if i % 2:
        _mend(z)
    return kind, file(h, w, colour, bytes(z))


CPU = torch.device('cpu')


def run(files, device=CPU):
    """[([h, w, 3] uint8 or None where refused, number of png.REFUSED)].

    The kernels are run by whatever `kernels.launch` is.
    """
    packed = png.pack(files, [png.head(f) for f in files])
    out, status = png.run_cuda(packed, device)
    pictures = png.pictures(out.cpu(), packed.record)
    return [(None if s else p.numpy(), s) for p, s in zip(pictures, status.tolist(), strict=True)]


def compare(files, device=CPU):
    """Counter of what came of [(kind, file)].

    Raises AssertionError where the device and zlib do not agree.
    """
    counts = Counter()
    decoded = run([f for _, f in files], device)
    for (kind, data), (pixels, status) in zip(files, decoded, strict=True):
        try:
            expected = png.run_ref(data)
        except BadFile:
            expected = None

        # zlib lets a distance beyond the stream's own window pass where that is smaller than its
        # own; libpng and the device do not.
        start = png.head(data).pieces[0][0]
        narrow = data[start] >> 4 < 7
        too_far = narrow and status == png.REFUSED.index('distance too far back')
        case = kind, png.REFUSED[status], data.hex()
        assert too_far or (pixels is None) == (expected is None), case
        assert pixels is None or (pixels == expected).all(), case
        counts['equal' if pixels is not None else png.REFUSED[status]] += 1
    return counts


def _share(count, seed):
    counts = Counter()
    for first in range(0, count, BATCH):
        with cuda_shim.Shim(order=first // BATCH % 3, sanitize=True):
            counts += compare(damaged(min(BATCH, count - first), seed * 1_000_003 + first))
    return counts


def main(argv):
    count, seed, processes = (*map(int, argv), 1)[:3]

    # The sanitizers have to be in the process from its start.
    if 'libasan' not in os.environ.get('LD_PRELOAD', ''):
        os.execve(sys.executable, [sys.executable, __file__, *argv], cuda_shim.sanitized())
    if processes > 1:
        shares = [count // processes + (i < count % processes) for i in range(processes)]
        seeds = [seed * processes + i for i in range(processes)]
        with ProcessPoolExecutor(processes) as pool:
            counts = sum(pool.map(_share, shares, seeds), Counter())
    else:
        counts = _share(count, seed)
    outcomes = ', '.join(f'{n} {what}' for what, n in counts.most_common())
    print(f'{sum(counts.values())} damaged files under the sanitizers: {outcomes}')


if __name__ == '__main__':
    main(sys.argv[1:])
