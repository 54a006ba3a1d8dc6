"""Tar archives of images (WebDataset shards): where each image lies, found from the headers and kept; or all of them from front to back.

A shard holds the images of its folder tree, whatever lies beside them (.json, .txt, .cls). Only plain tar: an image is then one read at its offset.
"""

import hashlib
import itertools
import os
import posixpath
import re
import tarfile

from errors import BadFile

from . import scan_cache as kept
from .files import SUFFIXES as IMAGES
from .files import looks_like, shown

SUFFIXES = (
    '.tar',
    '.tar.gz',
    '.tgz',
)  # the compressed ones are taken for shards so as to be refused by name
VERSION = 2  # of the kept index: raise it when `walk` changes
_PACKED = (b'\x1f\x8b', 'gzip'), (b'BZh', 'bzip2'), (b'\xfd7zXZ\0', 'xz'), (b'(\xb5/\xfd', 'zstd')


def index(path, folder=None, say=print):
    """{name: (offset, length)} in bytes of the images in a tar, in its order. Kept in `folder` (default kept.cache_folder()) by real path, size and mtime.
    Raises BadFile for a broken archive, or one with two images of a name: only one of them could be told by it; OSError."""
    real, st = os.path.realpath(path), os.stat(path)
    place = os.path.join(
        os.path.expanduser(folder or kept.cache_folder()),
        f'shard-{hashlib.blake2b(os.fsencode(real), digest_size=8).hexdigest()}.json',
    )
    found = kept.load(place, VERSION)
    if [found.get('size'), found.get('mtime')] == [st.st_size, st.st_mtime_ns] and _plausible(
        found.get('images'), st.st_size
    ):
        return {name: (offset, length) for name, offset, length in found['images']}
    with open(path, 'rb') as file:
        images = list(walk(file))
    places = {}
    for name, offset, length in images:
        if name in places:
            raise BadFile(
                f'two images named {shown(name)}, at bytes {places[name][0]:,} and {offset:,}: remove or rename one'
            )
        places[name] = offset, length
    kept.save(place, VERSION, dict(size=st.st_size, mtime=st.st_mtime_ns, images=images), say)
    return places


def _plausible(images, size):
    return isinstance(images, list) and all(
        isinstance(i, list)
        and list(map(type, i)) == [str, int, int]
        and 0 < i[1] <= i[1] + i[2] <= size
        for i in images
    )


def walk(file, sequential=False):
    """Iterator over the images of a tar, an open binary file: (name, offset, length), or (name, offset, bytes) if sequential, when nothing but read() is asked of
    the file. Links, folders, sparse and hidden members are passed over. Raises BadFile for a broken archive, saying how far it reads."""
    seen, tar, count, last = _Seen(file, sequential), None, 0, ''
    try:
        tar = tarfile.open(fileobj=seen, mode='r|' if sequential else 'r:')
        for member in tar:
            count, last = count + 1, member.name
            name = posixpath.normpath('/' + member.name.lstrip('/'))[1:]  # './a.png' is a.png
            hidden = any(part.startswith('.') for part in name.split('/'))
            if (
                member.isreg()
                and not member.issparse()
                and not hidden
                and name.lower().endswith(IMAGES)
            ):
                yield (
                    name,
                    member.offset_data,
                    tar.extractfile(member).read() if sequential else member.size,
                )
    except (tarfile.TarError, ValueError) as e:
        raise BadFile(_fault(seen, tar, count, last)) from e
    # tarfile takes a missing end, and a header that is none, for the end of the archive.
    if seen.block(tar.offset) != bytes(512):
        raise BadFile(_fault(seen, tar, count, last))
    if not sequential and seen.more(tar.offset):
        raise BadFile(
            f'{count:,} members up to byte {tar.offset:,}, where it ends, and then more bytes: archives glued together? Give each as a shard'
        )


def _fault(seen, tar, count, last):
    """What is wrong where reading stopped; tar.offset is where the next header was due."""
    if tar is None:
        packed = next((name for start, name in _PACKED if seen.head.startswith(start)), None)
        if packed:
            return f'{packed}-compressed: recompress it as a plain tar; the images are compressed already, and only a plain tar tells where each of them lies'
        if not seen.head:
            return 'empty file (0 bytes): write or copy it again'
        return f'not a tar archive: {"cut within its first header" if seen.end < 512 else looks_like(seen.head)}; make it with tar -cf, or remove it'
    read = f'{count:,} members read' + (f', the last is {shown(last)}' if last else '')
    if seen.end < tar.offset:
        return f'truncated at byte {seen.end:,} within {shown(last)}, its member {count:,}: copy or write it again'
    if len(seen.block(tar.offset)) < 512:
        return f'truncated at byte {seen.end:,}, before the zero block that ends an archive ({read}): copy or write it again'
    return (
        f'damaged at byte {tar.offset:,}, where no tar header is ({read}): copy or write it again'
    )


class _Seen:
    """A file as tarfile reads it, which remembers its beginning and the last two pieces read: a stream does not give them twice."""

    def __init__(self, file, sequential):
        self._file, self._at, self._pieces = file, 0, [(0, b'')] * 2
        self.head = b''  # first 64 bytes
        self.end = (
            0 if sequential else file.seek(0, 2)
        )  # length; of a stream, as far as it was read
        if not sequential:
            file.seek(0)

    def read(self, size):
        data = self._file.read(size)
        if self._at < 64:
            self.head = (self.head[: self._at] + data)[:64]
        if data:
            self._pieces = [self._pieces[1], (self._at, data)]
            self._at += len(data)
            self.end = max(self.end, self._at)
        return data

    def seek(self, offset):
        self._at = self._file.seek(offset)

    def tell(self):
        return self._at

    def block(self, offset):
        """The 512 bytes at the offset, or what of them was read last."""
        (a, old), (b, new) = self._pieces
        start, data = (a, old + new) if a + len(old) == b else (b, new)
        return data[offset - start : offset - start + 512] if start <= offset else b''

    def more(self, offset):
        """Whether anything but zeros follows there; a tar is filled up to some multiple of 10 kB, so a megabyte tells."""
        self._file.seek(offset)
        return any(self._file.read(1 << 20))


def parted(path):
    """(shard, member) of a path: (path, '') of an archive, ('x.tar', 'a/0.png') of an image in one, ('', '') of anything else."""
    if path.lower().endswith(SUFFIXES):
        return path, ''
    ends = [m.end() - 1 for m in re.finditer(r'\.tar/', path, re.IGNORECASE)]
    return next(
        ((path[:end], path[end + 1 :]) for end in ends if os.path.isfile(path[:end])), ('', '')
    )


def braces(pattern):
    """'a-{00..11}.tar' -> ['a-00.tar', ... 'a-11.tar'], 'a-{x,y}' -> ['a-x', 'a-y'], as shells have it; several braces give all combinations."""
    parts = re.split(r'\{(\d+\.\.\d+|[^{},]*(?:,[^{},]*)+)\}', pattern)
    return [
        ''.join(p)
        for p in itertools.product(
            *(_words(part) if i % 2 else [part] for i, part in enumerate(parts))
        )
    ]


def _words(inside):
    if '..' not in inside or ',' in inside:
        return inside.split(',')
    first, last = inside.split('..')
    width = (
        max(len(first), len(last)) if any(n[0] == '0' and len(n) > 1 for n in (first, last)) else 1
    )
    return [f'{n:0{width}}' for n in range(int(first), int(last) + 1)]
