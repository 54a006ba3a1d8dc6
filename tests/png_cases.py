"""PNG files with everything that a file may be made of, and files that were damaged on purpose.

python tests/png_cases.py COUNT SEED [PROCESSES]       COUNT damaged ones through kernels under AddressSanitizer and UndefinedBehaviorSanitizer: each must be
                                                       refused exactly where zlib refuses it, and else decode to what the reference says
"""

import os
import struct
import sys
import zlib
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).parent)]

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
EXTRAS = (
    (0,) * 8 + tuple(i // 4 for i in range(4, 24)) + (0,)
)  # bits after the length symbols 257..285
FAR = (0, 0) + tuple(i // 2 for i in range(28))  # and after the distances 0..29
ORDER = 16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15
BATCH = 64  # files at a time


def filtered(pixels, kinds):
    """[h, w, channels] uint8 -> the rows of a PNG, row i by filter kinds[i % len(kinds)]."""
    h, w, channels = pixels.shape
    rows, out = pixels.reshape(h, -1).astype(int), []
    for y, row in enumerate(rows):
        kind, up = kinds[y % len(kinds)], rows[y - 1] if y else np.zeros_like(row)
        left, corner = (np.concatenate([np.zeros(channels, int), r[:-channels]]) for r in (row, up))
        paeth = (
            np.array([png._paeth(*v) for v in zip(left.tolist(), up.tolist(), corner.tolist())])
            if kind == 4
            else 0
        )
        guess = (0, left, up, (left + up) // 2, paeth)[kind]
        out.append(bytes([kind]) + ((row - guess) & 255).astype(np.uint8).tobytes())
    return b''.join(out)


def file(h, w, colour, stream, cuts=(), before=b'', depth=8, interlaced=0, after=b''):
    """A PNG around a zlib stream, which is cut into IDAT chunks at these places."""
    edges = [0, *cuts, len(stream)]
    before = (chunk(b'PLTE', PALETTE) if colour == 3 and b'PLTE' not in before else b'') + before
    return (
        SIGNATURE
        + chunk(b'IHDR', struct.pack('>IIBBBBB', w, h, depth, colour, 0, 0, interlaced))
        + before
        + b''.join(chunk(b'IDAT', stream[a:b]) for a, b in zip(edges, edges[1:]))
        + after
        + chunk(b'IEND')
    )


def compressed(raw, level=6, strategy=zlib.Z_DEFAULT_STRATEGY, wbits=15, flush=None, part=500):
    z = zlib.compressobj(level, zlib.DEFLATED, wbits, 9, strategy)
    pieces = [raw] if flush is None else [raw[i : i + part] for i in range(0, len(raw), part)]
    return (
        b''.join(z.compress(p) + (z.flush(flush) if flush is not None else b'') for p in pieces)
        + z.flush()
    )


# ---- streams by hand ----


class Writer:
    """Bits of a deflate stream, least significant first; codes of prefix codes the other way round."""

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
        """A block of items: literal, or (length symbol, its bits, distance symbol, its bits), by codes of these lengths; the end is an item too."""
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
        n, d = counts or (len(literals) - 257, len(distances) - 1)
        self.bits(n | d << 5 | 15 << 10, 14)
        lengths = [
            0 if s in (16, 17, 18) and not repeats else 5 if s > 12 or s in (0, 1, 2) else 4
            for s in range(19)
        ]
        lengths = _complete(lengths)
        for s in ORDER:
            self.bits(lengths[s], 3)
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
        return (
            header
            + self.value.to_bytes(-(-self.count // 8), 'little')
            + struct.pack('>I', zlib.adler32(raw))
        )


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
        able = [
            i for i in used if (lengths[i] < most if grow else 2 ** (most - lengths[i]) <= -room)
        ]
        i = (min if grow else max)(able, key=lambda i: lengths[i])
        lengths[i] += 1 if grow else -1
    return lengths


def reach(item):
    """(length, distance) of (length symbol, its bits, distance symbol, its bits)."""
    symbol, more, d, further = item
    k = symbol - 257
    length = 3 + k if k < 8 else 258 if k == 28 else 3 + ((4 + (k & 3)) << EXTRAS[k]) + more
    return length, 1 + d if d < 4 else 1 + ((2 + (d & 1)) << FAR[d]) + further


def repeat(made, item):
    length, distance = reach(item)
    for _ in range(length):
        made.append(made[-distance] if distance <= len(made) else 0)


def _by_hand():
    """{name: (h, w, colour, stream)}: what zlib's encoder would not write."""
    out, rng = {}, np.random.default_rng(6)

    def gray(h, w, w0, raw, **more):
        return h, w, 0, w0.stream(raw, **more)

    # Codes of every length up to 15 bits: literals 0 to 14 and the end.
    deep = [i + 1 for i in range(14)] + [15] + [0] * 241 + [15]
    raw = b''.join(bytes([0]) + row.tobytes() for row in rng.integers(0, 15, (12, 20), np.uint8))
    for name, repeats in ('long codes', True), ('long codes, no repeats', False):
        w = Writer()
        w.coded([*raw, 256], deep, [0], last=1, repeats=repeats)
        out[name] = gray(12, 20, w, raw)
    # One distance, of one bit, which repeats the byte before.
    w, raw, some = Writer(), bytes(1 + 40) * 30, [0] * 286
    for symbol in 0, 256, 285, 284:
        some[symbol] = 2
    w.coded([0, *[(285, 0, 0, 0)] * 4, *[0] * (len(raw) - 1 - 4 * 258), 256], some, [1], last=1)
    out['one distance'] = gray(30, 40, w, raw)
    # Every length, and distances from 1 to 32,768, in a fixed block; the bytes are few, so that whichever begins a row is a known filter.
    fixed = [8] * 144 + [9] * 112 + [7] * 24 + [8] * 8
    made, items = bytearray([0, 3, 1, 2]), [0, 3, 1, 2]
    for k in range(257, 286):
        for d in range(30):
            item = (
                k,
                int(rng.integers(0, 1 << EXTRAS[k - 257])),
                d,
                int(rng.integers(0, 1 << FAR[d])),
            )
            if reach(item)[1] <= len(made) and (d > 26 or (k + d) % 3 == 0):
                items.append(item)
                repeat(made, item)
    side = 299
    fill = bytes(-len(made) % (1 + side))
    w = Writer()
    w.coded([*items, *fill, 256], fixed, [5] * 30, last=1, fixed=True)
    out['every length and distance'] = gray(
        (len(made) + len(fill)) // (1 + side), side, w, bytes(made) + fill
    )
    # Blocks of all kinds, empty ones among them.
    w, raw = Writer(), bytes(range(0, 4)) * 16
    w.stored(b'')
    w.coded([*raw[:20], 256], fixed, [5] * 30, fixed=True)
    w.coded([256], fixed, [5] * 30, fixed=True)
    w.stored(raw[20:41])
    w.coded([*raw[41:], 256], deep, [0])
    w.stored(b'', last=1)
    out['blocks of all kinds'] = gray(16, 3, w, raw)
    return out


def cases():
    """{name: bytes} of files that the device decodes; the same each time."""
    out, filters = (
        {},
        {
            'none': [0],
            'sub': [1],
            'up': [2],
            'average': [3],
            'paeth': [4],
            'mixed': [4, 3, 2, 1, 0, 4, 4, 2, 3],
        },
    )
    sizes = [(1, 1), (1, 9), (9, 1), (31, 33), (33, 31), (32, 32), (66, 5), (3, 70)]
    for k, (colour, number) in enumerate(COLOURS.items()):
        channels = png.CHANNELS[number]
        for i, (name, kinds) in enumerate(filters.items()):
            for j, (h, w) in enumerate(
                sizes if name in ('mixed', 'paeth') else [sizes[(i + k) % len(sizes)]]
            ):
                rng = np.random.default_rng([i, j, k])
                pixels = (
                    picture(72, channels, seed=i + j)[:h, :w]
                    if j % 2
                    else rng.integers(0, 256, (h, w, channels), np.uint8)
                )
                out[f'{colour} {name} {h}x{w}'] = file(
                    h, w, number, compressed(filtered(pixels, kinds))
                )
    raw = filtered(picture(48, 3, seed=9)[:40] // 8 * 8, filters['mixed'])
    for level in range(10):
        for name, strategy in STRATEGIES.items():
            out[f'level {level} {name}'] = file(40, 48, 2, compressed(raw, level, strategy))
    for bits in range(9, 16):
        out[f'window of {bits} bits'] = file(40, 48, 2, compressed(raw, wbits=bits))
    for name, flush in dict(
        sync=zlib.Z_SYNC_FLUSH,
        full=zlib.Z_FULL_FLUSH,
        block=zlib.Z_BLOCK,
        partial=zlib.Z_PARTIAL_FLUSH,
    ).items():
        out[f'{name} flushes'] = file(40, 48, 2, compressed(raw, flush=flush))
    far = np.random.default_rng(1).integers(0, 256, (36, 1000), np.uint8)
    far[33:] = far[0:3]  # 33 rows of 1,001 bytes back: 33,033 is too far, 32 rows are not
    far[32:34] = far[0:2]
    out['far matches'] = file(36, 1000, 0, compressed(filtered(far[..., None], [0])))
    z = compressed(raw)
    out['an IDAT a byte'] = file(40, 48, 2, z, cuts=range(1, len(z)))
    out['empty IDATs'] = file(40, 48, 2, z, cuts=(0, 1, 1, 7, len(z), len(z)))
    out['bytes after the stream'] = file(40, 48, 2, z + b'more')
    gray = filtered(picture(20, 1), [4])
    for name, colour, before in [
        ('tRNS gray', 0, chunk(b'tRNS', b'\0\x80')),
        ('tRNS palette', 3, chunk(b'PLTE', PALETTE) + chunk(b'tRNS', bytes(range(200)))),
        ('short palette', 3, chunk(b'PLTE', PALETTE[:90])),
        ('upright', 0, chunk(b'eXIf', exif(1))),
        (
            'more chunks',
            0,
            chunk(b'gAMA', struct.pack('>I', 30_000))
            + chunk(b'sRGB', b'\0')
            + chunk(b'tEXt', b'a\0b')
            + chunk(b'pHYs', bytes(9)),
        ),
    ]:
        out[name] = file(
            20, 20, colour, compressed(gray), before=before, after=chunk(b'tIME', bytes(7))
        )
    out['tRNS rgb'] = file(40, 48, 2, z, before=chunk(b'tRNS', bytes(6)))
    for name, (h, w, colour, stream) in _by_hand().items():
        out[name] = file(h, w, colour, stream)
    return out


def unfit():
    """{name: (bytes, part of the reason)}: files that the device leaves to the CPU."""
    gray, z = filtered(picture(16, 1), [1]), zlib.compress(filtered(picture(16, 1), [1]))
    good = file(16, 16, 0, z)
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
            SIGNATURE
            + chunk(b'IHDR', struct.pack('>IIBBBBB', 16, 16, 8, 3, 0, 0, 0))
            + chunk(b'IDAT', z)
            + chunk(b'IEND'),
            'damaged',
        ),
    }


# ---- damage ----


def _random_stream(rng, size):
    """Blocks of random codes, mostly good ones, and random items: what damage to a real stream seldom reaches."""
    w, made = Writer(), bytearray()
    for block in range(rng.integers(1, 4)):
        last, kind = 0, rng.integers(0, 8)
        if kind == 0:
            data = rng.integers(0, 5, rng.integers(0, 30), np.uint8).tobytes()
            w.stored(data, last, None if rng.random() < 0.8 else int(rng.integers(0, 1 << 16)))
            made += data
            continue
        used = sorted(
            {
                256,
                *rng.integers(0, 5, rng.integers(1, 8)).tolist(),
                *rng.integers(257, 286, rng.integers(1, 6)).tolist(),
            }
        )
        literals = [0] * int(rng.integers(max(used) + 1, 287))
        for symbol, bits in zip(used, _random_lengths(rng, len(used))):
            literals[symbol] = bits
        distances = [0] * int(rng.integers(1, 31))
        near = rng.choice(
            len(distances), min(len(distances), int(rng.integers(1, 6))), replace=False
        )
        for symbol, bits in zip(
            near, _random_lengths(rng, len(near)) if len(near) > 1 else [int(rng.integers(0, 3))]
        ):
            distances[symbol] = bits
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
                item = (
                    symbol,
                    int(rng.integers(0, 1 << EXTRAS[symbol - 257])),
                    d,
                    int(rng.integers(0, 1 << FAR[d])),
                )
                length, distance = reach(item)
                if (distance <= len(made) and len(made) + length <= size) or rng.random() < 0.01:
                    items.append(item)
                    repeat(made, item)
            elif rng.random() < 0.1:
                break
        try:
            w.coded([*items, 256], literals, distances, last, repeats=rng.random() < 0.5)
        except KeyError:  # an item whose symbol has no code: leave the block as far as it came
            break
    if len(made) < size or rng.random() < 0.1:
        rest = bytes(max(size - len(made), 0)) + bytes(int(rng.random() < 0.05))
        w.stored(rest, last=1)
        made += rest
    else:
        w.stored(b'', last=1)
    return w.stream(bytes(made))


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
    """Put the checksum right, if the damage left something that can be inflated: what comes after it then counts, too."""
    stream = zlib.decompressobj(-15)
    try:
        raw = stream.decompress(bytes(z[2:]), 1 << 16)
    except zlib.error:
        return
    if stream.eof:
        z[len(z) - len(stream.unused_data) :] = struct.pack('>I', zlib.adler32(raw))


def damaged(count, seed):
    """[(kind of damage, file)], small ones."""
    out = []
    for i in range(count):
        rng = np.random.default_rng([seed, i])
        h, w = (int(n) for n in rng.integers(1, 20, 2))
        colour = int(rng.choice(list(COLOURS.values())))
        pixels = picture(24, png.CHANNELS[colour], seed=int(rng.integers(20)))[:h, :w] // int(
            rng.choice([1, 16, 64])
        )
        raw = filtered(pixels, rng.integers(0, 5, 4).tolist())
        z = bytearray(
            compressed(raw, int(rng.integers(0, 10)), int(rng.choice(list(STRATEGIES.values()))))
        )
        kind = (
            'bits',
            'bytes',
            'cut',
            'inserted',
            'removed',
            'sizes',
            'codes',
            'random blocks',
            'noise',
        )[i % 9]
        at = int(rng.integers(0, len(z)))
        if kind == 'bits':
            for _ in range(rng.integers(1, 4)):
                z[int(rng.integers(0, len(z)))] ^= 1 << int(rng.integers(0, 8))
        elif kind == 'bytes':
            z[at : at + 4] = rng.integers(0, 256, 4, np.uint8).tobytes()
        elif kind == 'cut':
            del z[at:]
        elif kind == 'inserted':
            z[at:at] = rng.integers(0, 256, rng.integers(1, 5), np.uint8).tobytes()
        elif kind == 'removed':
            del z[at : at + int(rng.integers(1, 5))]
        elif kind == 'sizes':
            h, w = (max(1, n + int(rng.integers(-3, 4))) for n in (h, w))
        elif kind == 'codes':  # the head of a dynamic block with a code for its lengths, then noise
            head, lengths = Writer(), [0] * 19
            for s, bits in zip(
                rng.permutation(19), _random_lengths(rng, int(rng.integers(2, 12)), most=7)
            ):
                lengths[s] = bits
            head.bits(
                5 | int(rng.integers(0, 30)) << 3 | int(rng.integers(0, 30)) << 8 | 15 << 13, 17
            )
            for s in ORDER:
                head.bits(lengths[s], 3)
            z[2:] = (
                head.value.to_bytes(-(-head.count // 8), 'little')
                + rng.integers(0, 256, 90, np.uint8).tobytes()
            )
        elif kind == 'random blocks':
            z = bytearray(_random_stream(rng, h * (1 + w * png.CHANNELS[colour])))
            if rng.random() < 0.2:
                z[int(rng.integers(2, len(z)))] ^= 1 << int(rng.integers(0, 8))
        else:
            z[2:] = rng.integers(0, 256, 60, np.uint8).tobytes()
        if i % 2:
            _mend(z)
        out.append((kind, file(h, w, colour, bytes(z))))
    return out


def run(files, device=torch.device('cpu')):
    """[([h, w, 3] uint8 or None where refused, number of png.REFUSED)] by whatever `kernels.launch` is."""
    packed = png.pack(files, [png.head(f) for f in files])
    out, status = png.run_cuda(packed, device)
    return [
        (None if s else p.numpy(), s)
        for p, s in zip(png.pictures(out.cpu(), packed.record), status.tolist())
    ]


def compare(files, device=torch.device('cpu')):
    """Counter of what came of [(kind, file)]: AssertionError where the device and zlib do not agree."""
    counts = Counter()
    for (kind, data), (found, status) in zip(files, run([f for _, f in files], device)):
        try:
            expected = png.run_ref(data)
        except BadFile:
            expected = None
        start = png.head(data).pieces[0][0]
        narrow = (
            data[start] >> 4 < 7
        )  # zlib lets a distance beyond a smaller window than its own pass, libpng and the device do not
        assert (found is None) == (expected is None) or (
            narrow and status == png.REFUSED.index('distance too far back')
        ), (kind, png.REFUSED[status], data.hex())
        assert found is None or (found == expected).all(), (kind, data.hex())
        counts['equal' if found is not None else png.REFUSED[status]] += 1
    return counts


def _share(count, seed):
    counts = Counter()
    for first in range(0, count, BATCH):
        with cuda_shim.Shim(backwards=bool(first // BATCH % 2), sanitize=True):
            counts += compare(damaged(min(BATCH, count - first), seed * 1_000_003 + first))
    return counts


def main(argv):
    count, seed, processes = int(argv[0]), int(argv[1]), int(argv[2]) if len(argv) > 2 else 1
    if 'libasan' not in os.environ.get('LD_PRELOAD', ''):
        os.execve(sys.executable, [sys.executable, __file__, *argv], cuda_shim.sanitized())
    if processes > 1:
        shares = [count // processes + (i < count % processes) for i in range(processes)]
        with ProcessPoolExecutor(processes) as pool:
            counts = sum(
                pool.map(_share, shares, [seed * processes + i for i in range(processes)]),
                Counter(),
            )
    else:
        counts = _share(count, seed)
    print(
        f'{sum(counts.values())} damaged files under the sanitizers: '
        + ', '.join(f'{n} {what}' for what, n in counts.most_common())
    )


if __name__ == '__main__':
    main(sys.argv[1:])
