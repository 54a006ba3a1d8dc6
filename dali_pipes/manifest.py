"""Every image file of a data set, good or named as bad: PNG (W3C PNG, 3rd ed.) and JPEG (ITU-T T.81), judged before training.

`check` walks a file's structure (all CRCs of a PNG, all markers of a JPEG) at disk speed; `sound` also decodes it; `decode`
defines the pixels for every pipe. What `sound` accepts, DALI's CPU decoder and OpenCV decode to the same bytes.
"""
import glob
import hashlib
import json
import os
import re
import stat
import struct
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import cv2
import numpy as np

SUFFIXES = ('.png', '.jpg', '.jpeg')
LARGEST = 1 << 28                                # pixels; more is taken for a damaged header (OpenCV's limit is 2**30)


class DataError(Exception):
    """A message for the user: file or flag, value, remedy. Scripts print it and exit with 2."""


class BadFile(Exception):
    """Why one file cannot be used."""


class Image(NamedTuple):
    path:   str
    width:  int            # pixels as decoded, i.e. after the EXIF orientation
    height: int
    kind:   str            # 'png', 'jpeg': by content, whatever the file is called
    colour: str            # 'rgb', 'gray', 'palette', 'rgba', 'gray+alpha' as stored; decoded always to RGB
    sound:  bool = False   # its pixels were decoded by scan(verify=True)


class Bad(NamedTuple):
    path:   str
    reason: str


class Pair(NamedTuple):
    lq: Image
    gt: Image


# ---------------------------------------------------------------------------------------------------------------------
# One file: its structure.

_PNG, _JPEG = b'\x89PNG\r\n\x1a\n', b'\xff\xd8\xff'
_COLOURS = {0: ('gray', 1, (1, 2, 4, 8, 16)), 2: ('rgb', 3, (8, 16)), 3: ('palette', 1, (1, 2, 4, 8)),
            4: ('gray+alpha', 2, (8, 16)), 6: ('rgba', 4, (8, 16))}           # colour type -> name, samples per pixel, bit depths
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))   # x0, y0, dx, dy
_FRAMES = {0xC3: 'lossless', 0xC5: 'hierarchical', 0xC6: 'hierarchical', 0xC7: 'lossless',
           **dict.fromkeys((0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF), 'arithmetic coding')}
_AFTER_SCAN = re.compile(rb'\xff[^\x00\xff\xd0-\xd7]')          # a marker, not stuffing, filling or a restart
_OTHERS = ((b'GIF8', 'GIF'), (b'BM', 'BMP'), (b'II*\0', 'TIFF'), (b'MM\0*', 'TIFF'), (b'\0\0\0\x0cjP', 'JPEG 2000'),
           (b'\xff\x0a', 'JPEG XL'), (b'8BPS', 'Photoshop'), (b'%PDF', 'PDF'), (b'PK\3\4', 'ZIP'), (b'\x1f\x8b', 'gzip'),
           (b'version https://git-lfs', 'a Git LFS pointer'))


class _Header(NamedTuple):
    width: int             # as stored, before orientation
    height: int
    colour: str
    bits: int              # per pixel
    interlaced: bool
    orientation: int       # EXIF, 1..8
    idat: list             # (start, stop) of each piece of the zlib stream; empty for JPEG


def check(data):
    """Walk a file's structure without decoding it: bytes-like -> (kind, width, height, colour). Raises BadFile."""
    kind, header = _walk(memoryview(data).cast('B'))
    return kind, *_decoded_size(header), header.colour


def sound(data):
    """Raise BadFile unless every pixel of the file can be decoded: `check`, then, for PNG, the zlib stream's length, checksum and
    filter bytes against the header (libpng tolerates an over-long one), then the decoder itself. A JPEG's pixels have no
    checksum: damage there that keeps the markers decodes to something, the same in OpenCV and DALI, and is accepted."""
    data = memoryview(data).cast('B')
    kind, header = _walk(data)
    if kind == 'png':
        _inflate(data, header)
    found, size = decode(data).shape[1::-1], _decoded_size(header)
    if found != size:
        raise BadFile('decodes to {}x{}, but its header says {}x{}'.format(*found, *size))


def decode(data):
    """PNG or JPEG bytes -> [H, W, 3] uint8 RGB, the definition for all pipes: EXIF orientation applied (in PNG too), gray and
    palette expanded, alpha dropped. Equal to nvidia.dali.fn.decoders.image(device='cpu') to the bit. Raises BadFile."""
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
    _big_enough(w, h, size)
    if min(h, w) > size:
        h, w = (max(size, round(side * size / min(h, w))) for side in (h, w))
        rgb = cv2.resize(rgb, (w, h), interpolation=cv2.INTER_AREA)
    top, left = (h - size) // 2, (w - size) // 2
    return np.ascontiguousarray(rgb[top:top + size, left:left + size])


def _decoded_size(header):
    """(width, height) after the EXIF orientation: 5..8 swap the sides."""
    return (header.height, header.width) if header.orientation >= 5 else (header.width, header.height)


def _big_enough(width, height, size):
    if min(width, height) < size:
        raise BadFile(f'{width}x{height}, smaller than the training size {size}')


def _walk(data):
    head = bytes(data[:64])
    if not head:
        raise BadFile('empty file (0 bytes)')
    if head.startswith(_PNG):
        return 'png', _walk_png(data)
    if head.startswith(_JPEG):
        return 'jpeg', _walk_jpeg(data)
    if _PNG.startswith(head) or _JPEG.startswith(head):
        raise BadFile(f'truncated: only {len(head)} bytes')
    raise BadFile(f'not a PNG or JPEG image: {_looks_like(head)}')


def _looks_like(head):
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
    header, palette, idat, names, orientations, at = None, False, [], [], set(), len(_PNG)
    while not names or names[-1] != b'IEND':
        if at + 12 > len(data):
            raise BadFile('truncated: it ends before the IEND chunk')
        length, name = struct.unpack_from('>I4s', data, at)
        known = name in (b'IHDR', b'PLTE', b'IDAT', b'IEND') or name[0] & 32                    # lower case: may be skipped
        if not known or not name.isalpha() or name[2] & 32 or length >= 1 << 31:
            raise BadFile(f'corrupt: no PNG chunk at byte {at:,}')
        end, text = at + 12 + length, name.decode()
        if end > len(data):
            raise BadFile(f'truncated: {end - len(data):,} bytes of its {text} chunk are missing')
        body = data[at + 8:end - 4]
        if zlib.crc32(data[at + 4:end - 4]) != int.from_bytes(data[end - 4:end], 'big'):
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
            orientations.add(_orientation(body))
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
    width, height, depth, colour, compression, filtering, interlace = struct.unpack('>IIBBBBB', body)
    name, samples, depths = _COLOURS.get(colour, ('', 0, ()))
    if depth not in depths or compression or filtering or interlace > 1:
        raise BadFile(f'corrupt header: bit depth {depth}, colour type {colour}, methods {compression} {filtering} {interlace}')
    _plausible(width, height)
    if depth == 16:
        raise BadFile('16-bit PNG: convert it to 8 bits per channel')
    return _Header(width, height, name, depth * samples, interlace == 1, 1, [])


def _plausible(width, height):
    if not 0 < width * height <= LARGEST:
        raise BadFile(f'corrupt header: {width}x{height} pixels')


def _inflate(data, header):
    """Decompress a PNG's pixels; BadFile unless they are as long as the header demands, with checksum and known row filters."""
    shapes = []                                  # of each pass: rows, bytes per row (1 for the filter)
    for x0, y0, dx, dy in _ADAM7 if header.interlaced else ((0, 0, 1, 1),):
        w, h = -((x0 - header.width) // dx), -((y0 - header.height) // dy)
        shapes += [(h, 1 + (w * header.bits + 7) // 8)] if w > 0 and h > 0 else []
    want, stream = sum(h * row for h, row in shapes), zlib.decompressobj()
    try:                                         # asks one byte more: shows an over-long stream, and lets zlib reach the checksum
        raw = stream.decompress(b''.join(data[a:b] for a, b in header.idat), want + 1)
    except zlib.error as e:
        raise BadFile(f'corrupt pixels: {e}') from None
    if len(raw) != want:
        raise BadFile(f'corrupt pixels: too {"few" if len(raw) < want else "many"} bytes in its zlib stream, {want:,} expected')
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
        if code == 0x01 or 0xD0 <= code <= 0xD7:                              # TEM, RSTn: no body
            at += 2
            continue
        length = int.from_bytes(data[at + 2:at + 4], 'big')
        body, end = data[at + 4:at + 2 + length], at + 2 + length
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
            orientations.add(_orientation(body[6:]))
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
    while at + 1 < len(data) and data[at + 1] == 0xFF:                        # filling
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


def _orientation(tiff):
    """EXIF orientation 1..8 of a TIFF block, 1 where there is none. BadFile if its table leaves the block: decoders differ."""
    order = {b'MM\0*': '>', b'II*\0': '<'}.get(bytes(tiff[:4]))
    if order is None or len(tiff) < 8:
        return 1
    try:
        ifd, = struct.unpack_from(order + 'I', tiff, 4)
        count, = struct.unpack_from(order + 'H', tiff, ifd)
        entries = [struct.unpack_from(order + 'HHIH', tiff, ifd + 2 + 12 * i) for i in range(count)]
    except struct.error:
        raise BadFile('corrupt EXIF block: strip it') from None
    return next((value for tag, kind, _, value in entries if (tag, kind) == (0x112, 3) and 1 <= value <= 8), 1)


def _only(orientations):
    """The orientation that all EXIF blocks agree on, 1 without one; of two, OpenCV and DALI choose differently."""
    if len(orientations) > 1:
        raise BadFile('two EXIF blocks with different orientations: strip them')
    return max(orientations, default=1)


# ---------------------------------------------------------------------------------------------------------------------
# A data set.

class Manifest:
    """images: list of Image in natural order of their names; bad: list of Bad."""

    def __init__(self, images, bad=()):
        self.images, self.bad = list(images), list(bad)

    def __len__(self):
        return len(self.images)

    @property
    def paths(self):
        return [i.path for i in self.images]

    def without(self, paths):
        """The manifest less these files, whatever links or relative names they go by."""
        drop = {os.path.realpath(p) for p in paths}
        return Manifest([i for i in self.images if os.path.realpath(i.path) not in drop], self.bad)

    def split(self, val, seed):
        """(train, val): `val` images (int), or that share of them (float in 0..1), chosen by hash of seed and file name: a file
        added or removed moves at most one other across. Raises DataError unless at least one image is left for training."""
        count = max(1, round(val * len(self))) if isinstance(val, float) else val
        if not 0 <= count < len(self):
            raise DataError(f'{val} of {len(self):,} images for validation: give 0 to {len(self) - 1:,}, or a share below 1')
        names = [f'{seed}/'.encode() + os.fsencode(os.path.basename(p)) for p in self.paths]
        score = [hashlib.blake2b(name, digest_size=8).digest() for name in names]
        chosen = set(sorted(range(len(self)), key=lambda i: (score[i], i))[:count])
        return (Manifest([m for i, m in enumerate(self.images) if i not in chosen], self.bad),
                Manifest([m for i, m in enumerate(self.images) if i in chosen]))


def scan(source, *, size=512, verify=False, strict=False, cache_dir=None, progress=None, say=print):
    """Read and check every file of a data set once -> Manifest.

    source:    folder (searched recursively for .png .jpg .jpeg; hidden files ignored), text list (one path per line, relative to
               the list's folder; # comments), glob pattern, or one image
    size:      images with a shorter side are bad
    verify:    also decode every file (`sound`)
    strict:    raise DataError for any bad file, instead of a warning
    cache_dir: results kept by real path, length and mtime; default $FACES_CACHE or ~/.cache/faces
    progress:  called as progress(done, total) over the files that must be read
    Raises DataError: nothing there, nothing usable, or strict.
    """
    source = os.fspath(source)
    store = _Store(source, cache_dir, say)
    images, bad, stats = [], [], {}
    for name, path in _files(source):
        real = os.path.realpath(path)
        if real not in stats:                    # else a second name of the same file
            stats[real] = path, _stat(real)
    todo = [real for real, (_, st) in stats.items() if isinstance(st, os.stat_result) and not store.knows(real, st, verify)]
    fresh = _inspect_all(todo, stats, verify, progress)
    store.update(fresh, stats)
    for real, (path, st) in stats.items():
        entry = fresh.get(real) or store.entries.get(real) if isinstance(st, os.stat_result) else st
        try:
            images.append(_image(path, entry, size))
        except BadFile as e:
            bad.append(Bad(path, str(e)))
    _report(source, images, bad, strict, say)
    return Manifest(images, bad)


def scan_pairs(folder, scale=4, *, verify=False, cache_dir=None, progress=None, say=print):
    """Folder with sub-folders LQ and GT (or LR and HR) -> list of Pair(lq, gt), matched by name without suffix, in natural order.
    Raises DataError for a bad file, a missing partner, or a GT that is not scale x its LQ."""
    folder, sides = os.fspath(folder), []
    for names in (('lq', 'lr'), ('gt', 'hr')):
        found = [e for e in (sorted(os.listdir(folder)) if os.path.isdir(folder) else ()) if e.lower() in names]
        if len(found) != 1:
            wanted, has = ' or '.join(n.upper() for n in names), ', '.join(found) or 'none'
            raise DataError(f'{_shown(folder)}: needs one sub-folder {wanted}, has {has}')
        root, side = os.path.join(folder, found[0]), {}
        for image in scan(root, size=1, verify=verify, strict=True, cache_dir=cache_dir, progress=progress, say=say).images:
            stem = os.path.splitext(os.path.relpath(image.path, root))[0]
            if stem in side:
                raise DataError(f'{_shown(side[stem].path)} and {_shown(image.path)}: two files for one pair; remove one')
            side[stem] = image
        sides.append(side)
    lq, gt = sides
    faults = [f'{len(a.keys() - b.keys())} without a {name} partner: ' + _some([_shown(a[s].path) for s in a if s not in b], 5)
              for a, b, name in ((lq, gt, 'GT'), (gt, lq, 'LQ')) if a.keys() - b.keys()]
    wrong = [f'{_shown(gt[s].path)} is {gt[s].width}x{gt[s].height}, its LQ {lq[s].width}x{lq[s].height}' for s in lq
             if s in gt and (gt[s].width, gt[s].height) != (scale * lq[s].width, scale * lq[s].height)]
    if faults or wrong:
        faults += [f'{len(wrong)} not {scale} times as large: ' + _some(wrong, 5)] if wrong else []
        raise DataError(f'{_shown(folder)}: ' + '; '.join(faults) + '. Add, remove or resize these files')
    return [Pair(lq[s], gt[s]) for s in lq]


def _image(path, entry, size):
    if isinstance(entry, str):
        raise BadFile(entry)
    if entry.reason:
        raise BadFile(entry.reason)
    _big_enough(entry.width, entry.height, size)
    return Image(path, entry.width, entry.height, entry.kind, entry.colour, entry.sound)


def _stat(path):
    """os.stat_result of a regular file, else the reason (str) why it cannot be read."""
    try:
        st = os.stat(path)
    except OSError as e:
        return f'cannot be read: {e.strerror}'
    return st if stat.S_ISREG(st.st_mode) else 'not a regular file'


def _files(source):
    """[(name, path)] of a source in natural order of the names, which do not depend on where the data set lies."""
    if os.path.isdir(source):
        found, remedy = _walk_folder(source), 'put .png or .jpg files there'
    elif os.path.exists(source):
        found, remedy = _read_list(source), 'write one image path per line'
    elif glob.has_magic(source):
        found = [(p, p) for p in glob.glob(source, recursive=True) if not os.path.isdir(p)]
        remedy = 'quote the pattern and check its folder'
    else:
        raise DataError(f'{_shown(source)}: no such file or folder; give a folder, a text list, a glob pattern or an image')
    if not found:
        raise DataError(f'{_shown(source)}: no image files found; {remedy}')
    return sorted(found, key=lambda f: (_natural(f[0]), f))


def _natural(name):
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r'(\d+)', name))]      # 2.png before 10.png


def _walk_folder(root):
    found, visited, refused = [], set(), []
    for folder, folders, names in os.walk(root, followlinks=True, onerror=refused.append):
        real = os.path.realpath(folder)
        folders[:] = [] if real in visited else [f for f in folders if not f.startswith('.')]     # a link may lead back up
        names = [] if real in visited else names
        visited.add(real)
        paths = [os.path.join(folder, n) for n in names if not n.startswith('.') and n.lower().endswith(SUFFIXES)]
        found += [(os.path.relpath(p, root), p) for p in paths]
    if refused:
        raise DataError(f'{_shown(refused[0].filename)}: cannot be listed ({refused[0].strerror}); make it readable or move it')
    return found


def _read_list(path):
    try:
        with open(path, 'rb') as f:
            data = f.read(8)
            if data.startswith((_PNG, _JPEG)) or path.lower().endswith(SUFFIXES):
                return [(os.path.basename(path), path)]
            data += f.read()
    except OSError as e:
        raise DataError(f'{_shown(path)}: cannot be read ({e.strerror})') from None
    if b'\0' in data:
        raise DataError(f'{_shown(path)}: neither an image nor a text list; give a .png, a .jpg or a list of paths')
    lines = [os.fsdecode(line.strip()) for line in data.removeprefix(b'\xef\xbb\xbf').splitlines()]
    return [(line, os.path.join(os.path.dirname(path), line)) for line in lines if line and not line.startswith('#')]


def _inspect_all(todo, stats, verify, progress):
    """{real path: _Entry, or str for a failing read}; CRC, inflate and decoding leave Python free, so threads serve."""
    fresh, pool = {}, ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1)))
    try:
        for real, entry in zip(todo, pool.map(lambda real: _inspect(real, stats[real][1], verify), todo)):
            fresh[real] = entry
            if progress:
                progress(len(fresh), len(todo))
    finally:
        pool.shutdown(cancel_futures=True)       # Ctrl-C does not wait for the rest
    return fresh


def _inspect(path, st, verify):
    try:
        data = _read(path)
        kind, width, height, colour = check(data)
        if verify:
            sound(data)
    except OSError as e:
        return f'cannot be read: {e.strerror}'
    except BadFile as e:
        return _Entry(st.st_size, st.st_mtime_ns, str(e), False, '', 0, 0, '')
    return _Entry(st.st_size, st.st_mtime_ns, '', verify, kind, width, height, colour)


def _read(path):
    with open(path, 'rb') as f:
        return f.read()


def _report(source, images, bad, strict, say):
    if not bad:
        return
    where, total, named = _shown(source), len(images) + len(bad), [f'{_shown(b.path)} ({b.reason})' for b in bad]
    if not images:
        raise DataError(f'{where}: none of {total:,} files is usable: {_some(named, 3)}. Replace them or choose another size')
    if strict:
        raise DataError(f'{where}: {len(bad):,} of {total:,} files are bad; repair or remove them:\n  '
                        + _some(named, 20, '\n  '))
    say(f'{len(bad):,} of {total:,} files skipped: {_some(named, 3)}' + ('; a strict scan lists them' if len(bad) > 3 else ''))


def _some(names, most, separator=', '):
    return separator.join(names[:most] + ([f'and {len(names) - most:,} more'] if len(names) > most else []))


def _shown(path):
    return os.fsencode(path).decode('utf-8', 'replace')      # a file name need not be valid text, a message must be


# ---------------------------------------------------------------------------------------------------------------------
# What was found, kept for the next start.

class _Entry(NamedTuple):
    length: int            # bytes
    mtime:  int            # ns
    reason: str            # '' for a good file
    sound:  bool
    kind:   str
    width:  int
    height: int
    colour: str


class _Store:
    """Results of earlier scans of one source: a JSON file {real path: _Entry}. Without a usable file it starts empty. Failing
    reads and the training size are never kept."""
    version = 1                                  # of the rules in `check` and `sound`: raise it when they change

    def __init__(self, source, folder, say):
        folder = folder or os.environ.get('FACES_CACHE') or os.path.join('~', '.cache', 'faces')
        key = hashlib.blake2b(os.fsencode(os.path.realpath(source)), digest_size=8).hexdigest()
        self.path, self.say, self.entries = os.path.join(os.path.expanduser(folder), f'manifest-{key}.json'), say, {}
        try:
            content = json.loads(_read(self.path))
        except (OSError, ValueError):            # none yet, or damaged: everything is read again
            return
        if isinstance(content, dict) and content.get('version') == self.version and isinstance(content.get('files'), dict):
            types = [int, int, str, bool, str, int, int, str]
            valid = {p: e for p, e in content['files'].items() if isinstance(e, list) and list(map(type, e)) == types}
            self.entries = {p: _Entry(*e) for p, e in valid.items()}

    def knows(self, real, st, verify):
        """Whether this very file was judged before, as thoroughly as now asked."""
        e = self.entries.get(real)
        return e is not None and (e.length, e.mtime) == (st.st_size, st.st_mtime_ns) and (e.sound or bool(e.reason) or not verify)

    def update(self, fresh, present):
        """Take in new results, forget files that are gone, write if anything changed."""
        kept = {p: e for p, e in self.entries.items() if p in present and p not in fresh}
        entries = kept | {p: e for p, e in fresh.items() if isinstance(e, _Entry)}
        if entries == self.entries:
            return
        self.entries, temporary = entries, f'{self.path}.{os.getpid()}.tmp'
        try:
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
            with open(temporary, 'w') as f:
                json.dump({'version': self.version, 'files': entries}, f)
                f.flush()
                os.fsync(f.fileno())
            os.replace(temporary, self.path)
        except OSError as e:
            self.say(f'{_shown(self.path)}: cannot keep the scan ({e.strerror}); set FACES_CACHE to a writable folder')


# ---------------------------------------------------------------------------------------------------------------------
# Reading while training.

class Reader:
    """Files by number, a bad one replaced by the next good one in manifest order (the first after the last).

    images: list of Image; size: training size. A file is judged at first sight and never again; one that scan(verify=True)
    decoded is only walked. The replacement is a function of the files, not of the order of asking. Threads may share a Reader,
    processes get a copy that judges and reports for itself.
    """

    def __init__(self, images, size=512, say=print):
        self.images, self.size, self.say = list(images), size, say
        self._good, self._bad, self._said, self._lock = set(), {}, set(), threading.Lock()
        larger = sum((i.width, i.height) != (size, size) for i in self.images)
        if larger:
            say(f'{larger:,} of {len(self):,} images are larger than {size}x{size}: area-resized, then centre-cropped')

    def __len__(self):
        return len(self.images)

    def __getstate__(self):
        return {k: v for k, v in self.__dict__.items() if k != '_lock'}

    def __setstate__(self, state):
        self.__dict__.update(state, _lock=threading.Lock())

    def read(self, index):
        """(bytes of the file, index of the image they are); reports a replacement once. Raises DataError when no file is left."""
        for step in range(len(self)):
            used = (index + step) % len(self)
            data = self._judge(used)
            if data is not None:
                self._report([(index + s) % len(self) for s in range(step)], used)
                return data, used
        raise DataError(f'none of {len(self):,} files can be decoded any more: ' + _some([f'{_shown(self.images[i].path)} ({r})'
                        for i, r in sorted(self._bad.items())], 3) + '. Is the disk still there?')

    def image(self, index):
        """([size, size, 3] uint8 RGB, index used): read, decode, fit."""
        while True:
            data, used = self.read(index)
            try:
                return fit(decode(data), self.size), used
            except BadFile as e:                 # changed on disk since it was judged
                self._bad[used] = str(e)

    def _judge(self, index):
        """Bytes of a good file, None of a bad one."""
        if index in self._bad:
            return None
        image = self.images[index]
        try:
            data = _read(image.path)
            if index not in self._good:
                _big_enough(*check(data)[1:3], self.size)
                if not image.sound:
                    sound(data)
                self._good.add(index)
            return data
        except OSError as e:
            self._bad[index] = f'cannot be read: {e.strerror}'
        except BadFile as e:
            self._bad[index] = str(e)
        return None

    def _report(self, skipped, used):
        with self._lock:
            new = [i for i in skipped if i not in self._said]
            self._said.update(new)
        for i in new:
            bad, good = (_shown(self.images[j].path) for j in (i, used))
            self.say(f'{bad} cannot be decoded ({self._bad[i]}): replaced by {good}')
