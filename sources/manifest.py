"""Every image file of a data set, good or named as bad before training; what was found is kept for the next start.

A data set is a folder, a text list, a glob or brace pattern, tar shards, or a folder of pairs; `files` judges each file of it.
"""

import glob
import hashlib
import os
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from errors import BadFile, DataError

from . import jph, shards
from . import scan_cache as kept
from .files import JPEG, PNG, SUFFIXES, big_enough, check, read_bytes, shown, sound
from .scan_cache import cache_folder


class Image(NamedTuple):
    path: str  # of a shard's member: shard/member
    width: int  # pixels as decoded, i.e. after the EXIF orientation
    height: int
    kind: str  # 'png', 'jpeg', 'jph': by content, whatever the file is called
    colour: str  # 'rgb', 'gray', 'palette', 'rgba', 'gray+alpha' as stored; decoded always to RGB
    sound: bool = False  # its pixels were decoded by scan(verify=True)
    part: tuple = None  # (shard, offset, length) of a shard's member

    @property
    def where(self):
        """What `files.read_bytes` is to be given."""
        return self.part or (self.path,)


class Bad(NamedTuple):
    path: str
    reason: str


class Pair(NamedTuple):
    """A GT and its LQ; to whoever only reads the GT (Reader, Manifest) it is that Image."""

    lq: Image
    gt: Image

    path = property(lambda self: self.gt.path)
    where = property(lambda self: self.gt.where)
    width = property(lambda self: self.gt.width)
    height = property(lambda self: self.gt.height)
    kind = property(lambda self: self.gt.kind)
    sound = property(lambda self: self.gt.sound)


class Stacked(Image):
    """A pair of one size in one picture, the LQ above the GT: an Image twice as high as it is wide."""

    __slots__ = ()


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
            raise DataError(
                f'{val} of {len(self):,} images for validation: give 0 to {len(self) - 1:,}, or a share below 1'
            )
        names = [f'{seed}/'.encode() + os.fsencode(os.path.basename(p)) for p in self.paths]
        score = [hashlib.blake2b(name, digest_size=8).digest() for name in names]
        chosen = set(sorted(range(len(self)), key=lambda i: (score[i], i))[:count])
        return (
            Manifest([m for i, m in enumerate(self.images) if i not in chosen], self.bad),
            Manifest([m for i, m in enumerate(self.images) if i in chosen]),
        )


def scan(source, *, size=512, verify=False, strict=False, cache_dir=None, progress=None, say=print):
    """Read and check every file of a data set once -> Manifest.

    source:    folder (searched recursively for .png .jpg .jpeg .jph .tar; hidden files ignored), text list (one path per line, relative to
               the list's folder; # comments), glob pattern, brace pattern (faces-{000..012}.tar), or one file. A .tar stands for the
               images in it, as a folder would; a path may also lead into one: faces-000.tar/17.png
    size:      images with a shorter side are bad
    verify:    also decode every file (`sound`)
    strict:    raise DataError for any bad file, instead of a warning
    cache_dir: results kept by real path, length and mtime; default cache_folder()
    progress:  called as progress(done, total) over the files that must be read
    Raises DataError: nothing there, nothing usable, a broken tar, or strict.
    """
    source = os.fspath(source)
    store = _Store(source, cache_dir, say)
    images, bad, stats = [], [], {}
    for _, path, part in _opened(_files(source), cache_dir, say):
        real = os.path.realpath(path)
        if real not in stats:  # else a second name of the same file
            stats[real] = path, part, _stat(part[0] if part else real)
    todo = [
        real
        for real, (_, _, st) in stats.items()
        if isinstance(st, os.stat_result) and not store.knows(real, st, verify)
    ]
    fresh = _inspect_all(todo, stats, verify, progress)
    store.update(fresh, stats)
    for real, (path, part, st) in stats.items():
        entry = fresh.get(real) or store.entries.get(real) if isinstance(st, os.stat_result) else st
        try:
            images.append(_image(path, part, entry, size))
        except BadFile as e:
            bad.append(Bad(path, str(e)))
    report(source, images, bad, strict, say)
    return Manifest(images, bad)


SIDES = ('lq', 'lr'), ('gt', 'hr')


def pairs_in(found):
    """A folder or tar, above files of this Manifest, that holds an LQ and a GT folder (`scan_pairs`) of them; None where there is none."""
    above = {}
    for path in {os.path.dirname(file.path) for file in (*found.images, *found.bad)}:
        folder, name = os.path.split(path)
        above.setdefault(folder, set()).add(name.lower())
    return next(
        (
            folder
            for folder, names in sorted(above.items())
            if not any(names.isdisjoint(side) for side in SIDES)
        ),
        None,
    )


def listed(folder):
    """Sorted names in a folder, [] if it is none. Raises DataError where it may not be read."""
    try:
        return sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    except OSError as e:
        raise DataError(f'{shown(folder)} cannot be listed: {e.strerror}') from e


def is_paired(folder, both=False):
    """Whether a folder has one of the sub-folders that `scan_pairs` needs, or both."""
    found = {e.lower() for e in listed(folder)}
    return (
        (all if both else any)(not found.isdisjoint(names) for names in SIDES) if found else False
    )


def scan_pairs(
    folder, scale, *, size=None, strict=True, verify=False, cache_dir=None, progress=None, say=print
):
    """Folder with sub-folders LQ and GT (or LR and HR) -> list of Pair(lq, gt), matched by name without suffix, in natural order.

    A bad file, a missing partner, a GT that is not scale x its LQ or, where a size is given, not size x size, is a DataError; not `strict`, they are named and left out.
    """
    folder, sides = os.fspath(folder), []
    for names in SIDES:
        found = [e for e in listed(folder) if e.lower() in names]
        if len(found) != 1:
            wanted, has = ' or '.join(n.upper() for n in names), ', '.join(found) or 'none'
            raise DataError(f'{shown(folder)}: needs one sub-folder {wanted}, has {has}')
        root, side = os.path.join(folder, found[0]), {}
        for image in scan(
            root,
            size=1,
            verify=verify,
            strict=strict,
            cache_dir=cache_dir,
            progress=progress,
            say=say,
        ).images:
            stem = os.path.splitext(os.path.relpath(image.path, root))[0]
            if stem in side:
                raise DataError(
                    f'{shown(side[stem].path)} and {shown(image.path)}: two files for one pair; remove one'
                )
            side[stem] = image
        sides.append(side)
    lq, gt = sides
    faults = [
        f'{len(a.keys() - b.keys())} without a {name} partner: '
        + some([shown(a[s].path) for s in a if s not in b], 5)
        for a, b, name in ((lq, gt, 'GT'), (gt, lq, 'LQ'))
        if a.keys() - b.keys()
    ]
    pairs = [Pair(lq[s], gt[s]) for s in lq if s in gt]
    odd = {
        p for p in pairs if (p.gt.width, p.gt.height) != (scale * p.lq.width, scale * p.lq.height)
    }
    other = {p for p in pairs if size and (p.gt.width, p.gt.height) != (size, size)} - odd
    for wrong, what in (
        (odd, f'not {scale} times as large, the scale of --recipe'),
        (other, f'not of the training size {size}, --size'),
    ):
        if wrong:
            faults.append(
                f'{len(wrong)} {what}: '
                + some(
                    [
                        f'{shown(p.gt.path)} is {p.gt.width}x{p.gt.height}, its LQ {p.lq.width}x{p.lq.height}'
                        for p in pairs
                        if p in wrong
                    ],
                    5,
                )
            )
    pairs = [p for p in pairs if p not in odd | other]
    if faults and (strict or not pairs):
        raise DataError(
            f'{shown(folder)}: ' + '; '.join(faults) + '. Add, remove or resize these files'
        )
    if faults:
        say(f'{shown(folder)}: ' + '; '.join(faults) + ': left out')
    return pairs


def scan_stacked(
    source, *, size=None, strict=True, verify=False, cache_dir=None, progress=None, say=print
):
    """Data set of pairs of one size, each stored as one picture with the LQ above the GT (HiFaceGAN's files) -> list of Stacked in natural order.

    A bad file, one that is not twice as high as it is wide or, where a size is given, not as wide, is a DataError; not `strict`, they are named and left out.
    """
    found = scan(
        source,
        size=1,
        verify=verify,
        strict=strict,
        cache_dir=cache_dir,
        progress=progress,
        say=say,
    ).images
    odd = {i for i in found if i.height != 2 * i.width}
    other = {i for i in found if size and i.width != size} - odd
    faults = [
        f'{len(these)} of {len(found)} pictures are {what}: '
        + some([f'{shown(i.path)} is {i.width}x{i.height}' for i in found if i in these], 5)
        for these, what in (
            (odd, 'no square LQ above a square GT'),
            (other, f'not of the training size {size}, --size, and twice as high'),
        )
        if these
    ]
    wrong = odd | other
    left = [Stacked(*i) for i in found if i not in wrong]
    if faults and (strict or not left):
        raise DataError(
            f'{shown(source)}: {"; ".join(faults)}. Remove them; of pairs in two folders, LQ/ and GT/, give the folder above both'
        )
    if faults:
        say(f'{shown(source)}: {"; ".join(faults)}: left out')
    return left


def _image(path, part, entry, size):
    if isinstance(entry, str):
        raise BadFile(entry)
    if entry.reason:
        raise BadFile(entry.reason)
    big_enough(entry.width, entry.height, size)
    return Image(path, entry.width, entry.height, entry.kind, entry.colour, entry.sound, part)


def _stat(path):
    """os.stat_result of a regular file, else the reason (str) why it cannot be read."""
    try:
        st = os.stat(path)
    except OSError as e:
        return f'cannot be read: {e.strerror}'
    return st if stat.S_ISREG(st.st_mode) else 'not a regular file'


def _files(source):
    """[(name, path)] of a source; the names, which decide the order, do not depend on where the data set lies."""
    if os.path.isdir(source):
        found, remedy = _walk_folder(source), 'put .png, .jpg or plain .tar files there'
    elif os.path.exists(source):
        found, remedy = _read_list(source), 'write one image path per line'
    elif '://' in source:
        raise DataError(
            f'{shown(source)}: an address can only be streamed, as --data of train.py; copy its files to a disk for anything else'
        )
    elif glob.has_magic(source) or shards.braces(source) != [source]:
        found = [
            (p, p)
            for one in shards.braces(source)
            for p in (glob.glob(one, recursive=True) if glob.has_magic(one) else [one])
            if not os.path.isdir(p)
        ]
        remedy = 'quote the pattern and check its folder'
    elif shards.parted(source)[1]:
        found, remedy = [(os.path.basename(source), source)], ''
    else:
        raise DataError(
            f'{shown(source)}: no such file or folder; give a folder, a text list, a glob pattern, a tar or an image'
        )
    if not found:
        raise DataError(f'{shown(source)}: no image files found; {remedy}')
    return found


def _opened(found, cache_dir, say):
    """[(name, path)] -> [(name, path, part)] in natural order of the names, each shard replaced by the images in it."""
    opened, known = [], {}

    def inside(shard):
        try:
            if shard not in known:
                known[shard] = shards.index(shard, cache_dir, say)
            return known[shard]
        except OSError as e:
            raise DataError(f'{shown(shard)}: cannot be read ({e.strerror})') from None
        except BadFile as e:
            raise DataError(f'{shown(shard)}: {e}') from None

    for name, path in found:
        shard, member = shards.parted(path)
        if shard and not member:
            opened += [
                (f'{name}/{m}', f'{path}/{m}', (path, *at)) for m, at in inside(path).items()
            ]
        else:  # a member that is not there has no part, and cannot be read as a file
            opened.append(
                (
                    name,
                    path,
                    (shard, *inside(shard)[member]) if shard and member in inside(shard) else None,
                )
            )
    if not opened:
        raise DataError(f'{some([shown(path) for _, path in found], 3)}: no .png or .jpg in there')
    return sorted(opened, key=lambda f: (natural(f[0]), f[:2]))


def natural(name):
    """Key to sort names by, numbers in them by their value."""
    return [
        int(part) if i % 2 else part for i, part in enumerate(re.split(r'(\d+)', name))
    ]  # 2.png before 10.png


def _walk_folder(root):
    found, visited, refused = [], set(), []
    for folder, folders, names in os.walk(root, followlinks=True, onerror=refused.append):
        real = os.path.realpath(folder)
        folders[:] = (
            [] if real in visited else [f for f in folders if not f.startswith('.')]
        )  # a link may lead back up
        names = [] if real in visited else names
        visited.add(real)
        paths = [
            os.path.join(folder, n)
            for n in names
            if not n.startswith('.') and n.lower().endswith((*SUFFIXES, '.tar'))
        ]
        found += [(os.path.relpath(p, root), p) for p in paths]
    if refused:
        raise DataError(
            f'{shown(refused[0].filename)}: cannot be listed ({refused[0].strerror}); make it readable or move it'
        )
    return found


def _read_list(path):
    if shards.parted(path)[0]:
        return [(os.path.basename(path), path)]
    try:
        with open(path, 'rb') as f:
            data = f.read(8)
            if data.startswith((PNG, JPEG, jph.SIGNATURE[:8])) or path.lower().endswith(SUFFIXES):
                return [(os.path.basename(path), path)]
            data += f.read()
    except OSError as e:
        raise DataError(f'{shown(path)}: cannot be read ({e.strerror})') from None
    if b'\0' in data:
        raise DataError(
            f'{shown(path)}: neither an image nor a text list; give a .png, a .jpg, a .tar or a list of paths'
        )
    lines = [os.fsdecode(line.strip()) for line in data.removeprefix(b'\xef\xbb\xbf').splitlines()]
    return [
        (line, os.path.join(os.path.dirname(path), line))
        for line in lines
        if line and not line.startswith('#')
    ]


def _inspect_all(todo, stats, verify, progress):
    """{real path: _Entry, or str for a failing read}; CRC, inflate and decoding leave Python free, so threads serve."""
    fresh, pool = {}, ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1)))
    try:
        for real, entry in zip(
            todo, pool.map(lambda real: _inspect(real, *stats[real][1:], verify), todo)
        ):
            fresh[real] = entry
            if progress:
                progress(len(fresh), len(todo))
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for the rest
    return fresh


def _inspect(real, part, st, verify):
    try:
        data = read_bytes(*part or (real,))
        kind, width, height, colour = check(data)
        if verify:
            sound(data)
    except OSError as e:
        return f'cannot be read: {e.strerror}'
    except BadFile as e:
        return _Entry(st.st_size, st.st_mtime_ns, str(e), False, '', 0, 0, '')
    return _Entry(st.st_size, st.st_mtime_ns, '', verify, kind, width, height, colour)


def report(source, images, bad, strict, say):
    """Say how many files of a source are bad, and which; DataError if none is good or `strict`."""
    if not bad:
        return
    where, total, named = (
        shown(source),
        len(images) + len(bad),
        [f'{shown(b.path)} ({b.reason})' for b in bad],
    )
    if not images:
        raise DataError(
            f'{where}: none of {total:,} files is usable: {some(named, 3)}. Replace them or choose another size'
        )
    if strict:
        raise DataError(
            f'{where}: {len(bad):,} of {total:,} files are bad; repair or remove them:\n  '
            + some(named, 20, '\n  ')
        )
    say(
        f'{len(bad):,} of {total:,} files skipped: {some(named, 3)}'
        + ('; a strict scan lists them' if len(bad) > 3 else '')
    )


def some(names, most, separator=', '):
    """The first `most` names and how many more there are."""
    return separator.join(
        names[:most] + ([f'and {len(names) - most:,} more'] if len(names) > most else [])
    )


# ---------------------------------------------------------------------------------------------------------------------
# What was found, kept for the next start.


class _Entry(NamedTuple):
    length: int  # bytes; of the shard, where it lies in one
    mtime: int  # ns
    reason: str  # '' for a good file
    sound: bool
    kind: str
    width: int
    height: int
    colour: str


class _Store:
    """Results of earlier scans of one source: a JSON file {real path: _Entry}. Without a usable file it starts empty. Failing
    reads and the training size are never kept."""

    version = 2  # of the rules in `check` and `sound`: raise it when they change

    def __init__(self, source, folder, say):
        key = hashlib.blake2b(os.fsencode(os.path.realpath(source)), digest_size=8).hexdigest()
        folder = os.path.expanduser(folder or cache_folder())
        self.path, self.say, self.entries = os.path.join(folder, f'manifest-{key}.json'), say, {}
        found = kept.load(self.path, self.version).get('files')
        if isinstance(found, dict):
            types = [int, int, str, bool, str, int, int, str]
            self.entries = {
                p: _Entry(*e)
                for p, e in found.items()
                if isinstance(e, list) and list(map(type, e)) == types
            }

    def knows(self, real, st, verify):
        """Whether this very file was judged before, as thoroughly as now asked."""
        e = self.entries.get(real)
        return (
            e is not None
            and (e.length, e.mtime) == (st.st_size, st.st_mtime_ns)
            and (e.sound or bool(e.reason) or not verify)
        )

    def update(self, fresh, present):
        """Take in new results, forget files that are gone, write if anything changed."""
        old = {p: e for p, e in self.entries.items() if p in present and p not in fresh}
        entries = old | {p: e for p, e in fresh.items() if isinstance(e, _Entry)}
        if entries != self.entries:
            self.entries = entries
            kept.save(self.path, self.version, {'files': entries}, self.say)
