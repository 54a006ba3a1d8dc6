"""Sound, odd and broken image files by name.

Each comes with what `files.sound` must report: a part of its reason, or None.
"""

import struct
import zlib

import cv2
import numpy as np

SIGNATURE = b'\x89PNG\r\n\x1a\n'
PASSES = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)  # Adam7


def picture(size, channels=3, seed=0):
    """[size, size, channels] uint8, smooth, the same in no two directions."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, channels), np.uint8)
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC).reshape(
        size, size, channels
    )


def chunk(name, body=b''):
    return struct.pack('>I', len(body)) + name + body + struct.pack('>I', zlib.crc32(name + body))


def rows(pixels, kind=0):
    """[h, ...] uint8 -> rows, as if filtered with `kind` (whatever picture that decodes to)."""
    return b''.join(bytes([kind]) + row.tobytes() for row in pixels)


def png(
    width, height, colour, raw, *, depth=8, interlace=0, before=b'', stream=None, methods=b'\0\0'
):
    header = struct.pack('>IIBB', width, height, depth, colour) + methods + bytes([interlace])
    return (
        SIGNATURE
        + chunk(b'IHDR', header)
        + before
        + chunk(b'IDAT', stream or zlib.compress(raw))
        + chunk(b'IEND')
    )


def exif(*orientations, count=None):
    """TIFF block whose table has one entry per orientation, and claims `count`."""
    entries = b''.join(struct.pack('>HHIHH', 0x112, 3, 1, o, 0) for o in orientations)
    return (
        b'MM\0*\0\0\0\x08'
        + struct.pack('>H', len(orientations) if count is None else count)
        + entries
        + b'\0\0\0\0'
    )


def app1(body):
    return b'\xff\xe1' + struct.pack('>H', len(body) + 2) + body


def tiff(
    pixels, *, order='<', orientation=1, photometric=None, sample=1, extra=2, planes=False, tile=0
):
    """An uncompressed TIFF with these tags (TIFF 6.0) of [h, w] or [h, w, 3 or 4] numbers."""
    h, w, n = (*pixels.shape, 1)[:3]
    if photometric is None:
        photometric = 1 if n == 1 else 2
    ordered = pixels.transpose(2, 0, 1) if planes else pixels
    raw = np.ascontiguousarray(ordered.astype(pixels.dtype.newbyteorder(order))).tobytes()
    parts = n if planes else 1
    size = len(raw) // parts
    tags = [
        *((256, [w]), (257, [h]), (258, [8 * pixels.itemsize] * n), (259, [1])),
        *((262, [photometric]), (273, [8 + i * size for i in range(parts)]), (274, [orientation])),
        *((277, [n]), (278, [h]), (279, [size] * parts), (284, [1 + planes])),
        *([(322, [tile]), (323, [tile])] if tile else []),
        *([(338, [extra])] if n == 4 else []),
        (339, [sample] * n),
    ]
    entries, beyond = b'', b''
    behind = 8 + len(raw) + 2 + 12 * len(tags) + 4
    for tag, values in tags:
        data = struct.pack(f'{order}{len(values)}I', *values)
        if len(data) > 4:
            data, beyond = struct.pack(f'{order}I', behind + len(beyond)), beyond + data
        entries += struct.pack(f'{order}HHI', tag, 4, len(values)) + data
    head = struct.pack(f'{order}2sHI', b'II' if order == '<' else b'MM', 42, 8 + len(raw))
    return head + raw + struct.pack(f'{order}H', len(tags)) + entries + bytes(4) + beyond


def zoo(size):
    """{name: (bytes, part of the reason or None)}; sound ones decode to size x size.

    size: at least 16, a multiple of 8
    """
    return {**_pngs(size), **_jpegs(size), **_strangers()}


def _pngs(n):
    rgb, alpha = picture(n), picture(n, 1, seed=1)
    raw, gray, noise = (
        rows(rgb),
        rows(rgb[:, :, 0]),
        np.random.default_rng(2).integers(0, 256, (n, n // 2), np.uint8),
    )
    colours = np.random.default_rng(3).integers(0, 256, 768, np.uint8).tobytes()
    good, z = png(n, n, 2, raw), zlib.compress(raw)
    head, tail, half = good[:33], good[-12:], len(z) // 2
    adam7 = b''.join(rows(rgb[y::dy, x::dx]) for x, y, dx, dy in PASSES)
    bent, flipped = bytearray(raw), bytearray(z)
    bent[(n // 2) * (1 + 3 * n)] = 7
    flipped[-1] ^= 1
    sound = {
        'rgb.png': good,
        'gray.png': png(n, n, 0, gray),
        'filters.png': png(n, n, 2, rows(rgb, 4)),
        'gray1.png': png(n, n, 0, rows(noise[:, : n // 8]), depth=1),
        'gray4.png': png(n, n, 0, rows(noise), depth=4),
        'palette.png': png(n, n, 3, gray, before=chunk(b'PLTE', colours)),
        'palette2.png': png(
            n, n, 3, rows(noise[:, : n // 4]), depth=2, before=chunk(b'PLTE', colours[:12])
        ),
        'palette_transparent.png': png(
            n, n, 3, gray, before=chunk(b'PLTE', colours) + chunk(b'tRNS', bytes(range(256)))
        ),
        'palette_too_small.png': png(n, n, 3, gray, before=chunk(b'PLTE', colours[:30])),
        'rgba.png': png(n, n, 6, rows(np.dstack([rgb, alpha]))),
        'gray_alpha.png': png(n, n, 4, rows(np.dstack([rgb[:, :, :1], alpha]))),
        'gamma.png': png(n, n, 2, raw, before=chunk(b'gAMA', struct.pack('>I', 100000))),
        'turned.png': png(n, n, 2, raw, before=chunk(b'eXIf', exif(6))),
        'interlaced.png': png(n, n, 2, adam7, interlace=1),
        'many_idat.png': head
        + b''.join(chunk(b'IDAT', z[i : i + 10]) for i in range(0, len(z), 10))
        + tail,
        'trailing.png': good + b'something else',
        'jpeg_inside.png': _jpeg(n),
    }
    broken = {
        'cut_header.png': (good[:20], 'truncated'),
        'cut_half.png': (good[: len(good) // 2], 'truncated'),
        'cut_last.png': (good[:-1], 'truncated'),
        'no_iend.png': (good[:-12], 'truncated'),
        'cut_signature.png': (good[:5], 'truncated'),
        'crc_idat.png': (good[:-13] + bytes([good[-13] ^ 1]) + tail, 'CRC of the IDAT'),
        'crc_header.png': (good[:32] + bytes([good[32] ^ 1]) + good[33:], 'CRC of the IHDR'),
        'crc_text.png': (head + chunk(b'tEXt', b'a\0b')[:-1] + b'?' + good[33:], 'CRC of the tEXt'),
        'zero_tail.png': (
            good[: len(good) // 2] + bytes(len(good) - len(good) // 2),
            'CRC of the IDAT',
        ),
        'rgb16.png': (png(n, n, 2, rows(np.repeat(rgb, 2, 2)), depth=16), '16-bit'),
        'gray16.png': (png(n, n, 0, rows(np.repeat(rgb[:, :, :1], 2, 2)), depth=16), '16-bit'),
        'no_pixels.png': (head + tail, 'no IDAT'),
        'no_palette.png': (png(n, n, 3, gray), 'PLTE'),
        'width_0.png': (png(0, n, 2, raw), 'corrupt header'),
        'depth_3.png': (png(n, n, 2, raw, depth=3), 'corrupt header'),
        'colour_5.png': (png(n, n, 5, raw), 'corrupt header'),
        'method_1.png': (png(n, n, 2, raw, methods=b'\1\0'), 'corrupt header'),
        'header_twice.png': (head + good[8:], 'corrupt header'),
        'critical.png': (head + chunk(b'ABCD') + good[33:], 'no PNG chunk'),
        'split.png': (
            head
            + chunk(b'IDAT', z[:half])
            + chunk(b'tEXt', b'a\0b')
            + chunk(b'IDAT', z[half:])
            + tail,
            'consecutive',
        ),
        'short_stream.png': (png(n, n, 2, raw[:-1]), 'too few'),
        'long_stream.png': (png(n, n, 2, raw + b'more'), 'too many'),
        'cut_stream.png': (png(n, n, 2, raw, stream=z[:half]), 'too few'),
        'no_checksum.png': (png(n, n, 2, raw, stream=z[:-4]), 'no end'),
        'wrong_checksum.png': (png(n, n, 2, raw, stream=bytes(flipped)), 'corrupt pixels'),
        'short_interlaced.png': (png(n, n, 2, adam7[:-9], interlace=1), 'too few'),
        'bad_filter.png': (png(n, n, 2, bytes(bent)), 'row filter'),
    }
    return {**{name: (data, None) for name, data in sound.items()}, **broken}


def _jpeg(n, *flags, gray=False):
    return cv2.imencode('.jpg', picture(n)[:, :, 0] if gray else picture(n), flags)[1].tobytes()


def _jpegs(n):
    good, progressive = _jpeg(n), _jpeg(n, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    frame, scan = good.index(b'\xff\xc0'), good.index(b'\xff\xda')
    tables = good.index(b'\xff\xdb')
    middle = (scan + len(good)) // 2
    damaged = bytearray(good)
    damaged[middle] ^= 0x15  # makes no marker

    def with_frame(code=0xC0, precision=8):
        return (
            good[: frame + 1]
            + bytes([code])
            + good[frame + 2 : frame + 4]
            + bytes([precision])
            + good[frame + 5 :]
        )

    def with_exif(*blocks):
        return good[:2] + b''.join(app1(b'Exif\0\0' + b) for b in blocks) + good[2:]

    cmyk = (
        bytearray(good[:frame])
        + b'\xff\xc0'
        + struct.pack('>HBHHB', 20, 8, n, n, 4)
        + bytes(range(12))
        + good[scan:]
    )
    sound = {
        'rgb.jpg': good,
        'gray.jpg': _jpeg(n, gray=True),
        'progressive.jpg': progressive,
        'png_inside.jpg': png(n, n, 2, rows(picture(n))),
        'restart.jpg': _jpeg(n, cv2.IMWRITE_JPEG_RST_INTERVAL, 1),
        'full_colour.jpg': _jpeg(n, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, 0x111111),
        'trailing.jpg': good + b'something else',
        'fill.jpg': good[:2] + b'\xff\xff' + good[2:],
        'damaged_pixels.jpg': bytes(damaged),
        'cut_but_ended.jpg': good[:middle] + b'\xff\xd9',
        'same_orientation_twice.jpg': with_exif(exif(6), exif(6)),
        **{f'turned{o}.jpg': with_exif(exif(o)) for o in range(0, 10)},
    }
    broken = {
        'cut_half.jpg': (good[:middle], 'truncated'),
        'cut_last.jpg': (good[:-1], 'truncated'),
        'cut_header.jpg': (good[:30], 'truncated'),
        'cut_progressive.jpg': (progressive[:-2], 'truncated'),
        'junk.jpg': (good[:tables] + b'junk' + good[tables:], 'no JPEG marker'),
        'no_picture.jpg': (good[:frame] + b'\xff\xd9', 'no pixels'),
        'no_frame.jpg': (good[:frame] + good[scan:], 'corrupt header'),
        'cmyk.jpg': (bytes(cmyk), 'CMYK'),
        '12bit.jpg': (with_frame(precision=12), '12-bit'),
        'lossless.jpg': (with_frame(0xC3), 'lossless'),
        'arithmetic.jpg': (with_frame(0xC9), 'arithmetic'),
        'no_tables.jpg': (good[:tables] + good[frame:], 'decoder refuses it'),
        'two_orientations.jpg': (with_exif(exif(1), exif(8)), 'orientations'),
        'exif_count.jpg': (with_exif(exif(6, count=65535)), 'corrupt EXIF'),
        'height_0.jpg': (good[: frame + 5] + b'\0\0' + good[frame + 7 :], 'corrupt header'),
    }
    return {**{name: (data, None) for name, data in sound.items()}, **broken}


def _strangers():
    return {
        'empty.png': (b'', 'empty'),
        'gif.png': (b'GIF89a' + bytes(50), 'GIF'),
        'webp.png': (b'RIFF\x10\0\0\0WEBPVP8 ', 'truncated: 8 bytes are missing'),
        'bmp.png': (b'BM' + bytes(50), 'BMP'),
        'tiff.png': (b'II*\0' + bytes(50), 'TIFF'),
        'page.png': (b'<!DOCTYPE html><html>', 'HTML'),
        'text.jpg': (b'404: not found\n', 'text'),
        'zeros.png': (bytes(100), 'all zero'),
        'noise.png': (bytes(range(128, 228)), '80 81 82'),
        'lfs.png': (b'version https://git-lfs.github.com/spec/v1\n', 'Git LFS'),
    }
