"""Files that are hostile, damaged or only odd, as heaps of photographs have them.

Each kind says whether it must be named as one that cannot be used.
"""

import io
import os
import struct
import zlib
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from . import scene

SIDE = 320  # pixels of the pictures in them
SIGNATURE = b'\x89PNG\r\n\x1a\n'
CLAIMED = 60_000  # pixels a side of a PNG that is far smaller
# What shells, lists, patterns and texts take for something else; the last is no UTF-8.
NAMES = (
    'ünï côdé 💡.jpg',
    'a quote\' and "two".jpg',
    'two\nlines.jpg',
    '-rf.jpg',
    '#100% {0..9} [a-z]*?.jpg',
    'back\\slash\tand tab.jpg',
    f'{"long " * 40}.jpg',
    os.fsdecode(b'no \xff\xfe text.jpg'),
)


class Odd(NamedTuple):
    """A kind of file."""

    what: str
    suffix: str
    bad: bool
    made: Callable[[np.random.Generator], bytes]  # contents
    special: str = ''  # FOLDER, LINK or PIPE, which have none


FOLDER, LINK, PIPE = 'folder', 'link', 'pipe'


def _picture(rng: np.random.Generator) -> Image.Image:
    return Image.fromarray(scene.scene(rng, SIDE, SIDE).astype(np.uint8))


def _file(rng: np.random.Generator, kind: str = 'JPEG', mode: str = 'RGB') -> bytes:
    data = io.BytesIO()
    _picture(rng).convert(mode).save(data, kind)
    return data.getvalue()


def _cut(rng: np.random.Generator, kind: str) -> bytes:
    data = _file(rng, kind)
    return data[: int(len(data) * rng.uniform(0.1, 0.9))]


def _flipped(rng: np.random.Generator) -> bytes:
    """A PNG in whose pixels a bit is another one."""
    data = bytearray(_file(rng, 'PNG'))
    data[len(data) // 2] ^= 1 << int(rng.integers(8))
    return bytes(data)


def _claiming(rng: np.random.Generator) -> bytes:
    """A PNG whose header claims far more than there is."""
    # Right in every sum: only whoever bounds the size before it takes memory refuses it in time.
    head = struct.pack('>IIBBBBB', CLAIMED, CLAIMED, 8, 2, 0, 0, 0)
    chunks = (b'IHDR' + head, b'IDAT' + zlib.compress(bytes(1 << 16)), b'IEND')
    framed = (struct.pack('>I', len(c) - 4) + c + struct.pack('>I', zlib.crc32(c)) for c in chunks)
    return SIGNATURE + b''.join(framed)


def _deep(rng: np.random.Generator) -> bytes:
    pixels = np.asarray(_picture(rng)).astype(np.uint16) * 257
    return cv2.imencode('.png', pixels)[1].tobytes()


def _animated(rng: np.random.Generator) -> bytes:
    data, more = io.BytesIO(), [_picture(rng)]
    _picture(rng).save(data, 'WEBP', save_all=True, append_images=more, duration=100)
    return data.getvalue()


def _nothing(rng: np.random.Generator) -> bytes:
    return b''


# Readers tell a file by its contents: another suffix is no fault, and what converts is read.
KINDS = (
    Odd('truncated JPEG', '.jpg', True, lambda rng: _cut(rng, 'JPEG')),
    Odd('truncated PNG', '.png', True, lambda rng: _cut(rng, 'PNG')),
    Odd('truncated WebP', '.webp', True, lambda rng: _cut(rng, 'WEBP')),
    Odd('random bytes', '.jpg', True, lambda rng: rng.bytes(5000)),
    Odd('random bytes in a PNG', '.png', True, lambda rng: SIGNATURE + rng.bytes(5000)),
    Odd('empty', '.jpg', True, _nothing),
    Odd('zero bytes', '.png', True, lambda rng: bytes(5000)),
    Odd('web page', '.jpg', True, lambda rng: b'<!DOCTYPE html><html>404: not found</html>'),
    Odd('PNG with a wrong bit', '.png', True, _flipped),
    Odd('PNG that claims 60,000x60,000', '.png', True, _claiming),
    Odd('PNG called JPEG', '.jpg', False, lambda rng: _file(rng, 'PNG')),
    Odd('WebP called PNG', '.png', False, lambda rng: _file(rng, 'WEBP')),
    Odd('CMYK JPEG', '.jpg', False, lambda rng: _file(rng, mode='CMYK')),
    Odd('16-bit PNG', '.png', False, _deep),
    Odd('animated WebP', '.webp', False, _animated),
    Odd('folder called JPEG', '.jpg', False, _nothing, FOLDER),
    Odd('link to itself', '.jpg', True, _nothing, LINK),
    Odd('pipe', '.jpg', True, _nothing, PIPE),
)


def kind(number: int) -> Odd | None:
    """Return the kind of a file: all in turn, and after them photos that are called oddly: None."""
    place = number % (len(KINDS) + len(NAMES))
    return KINDS[place] if place < len(KINDS) else None


def name(number: int, at: int) -> str:
    """Return what a file is called among photos, before the photo `at`."""
    again, place = divmod(number, len(KINDS) + len(NAMES))
    if place < len(KINDS):
        return f'{at:06}-{number}{KINDS[place].suffix}'
    odd = NAMES[place - len(KINDS)]
    return f'{again}/{odd}' if again else odd
