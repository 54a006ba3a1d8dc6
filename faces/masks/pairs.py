"""Folders of pictures and masks -> pairs matched by name; what does not fit is named and left out, or refused."""

import hashlib
import os
import re
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from errors import BadFile, DataError
from sources import scan_cache as kept
from sources.files import read_bytes, shown
from sources.manifest import BadImage, Image, Manifest, cache_folder, listed, report, scan, some

from . import decode, lacks, sides

VERSION = 1  # of the rules in `_entry`: raise it when they change


class Pair(NamedTuple):
    """A picture and its mask; to whoever only reads the picture (Reader, Manifest) it is that picture's Image."""

    image: Image
    mask: Image
    swap: bool  # left and right of the mask are exchanged, and it is to be repaired when it is read

    path = property(lambda self: self.image.path)
    where = property(lambda self: self.image.where)
    width = property(lambda self: self.image.width)
    height = property(lambda self: self.image.height)
    kind = property(lambda self: self.image.kind)
    sound = property(lambda self: self.image.sound)


_SIDES = ('pictures', r'image|img'), ('masks', r'mask(?!.*anno)|label')


def is_parsing(folder):
    """Whether a folder has the two sub-folders that `scan_pairs` needs."""
    return all(len(_folders(folder, pattern)) == 1 for _, pattern in _SIDES)


def scan_pairs(
    folder,
    *,
    size=512,
    repair=False,
    verify=False,
    strict=False,
    cache_dir=None,
    progress=None,
    say=print,
):
    """A folder with one sub-folder of pictures (a name with image or img in it) and one of masks (mask or label) -> Manifest of Pair, in natural order.

    The two are matched by name without suffix. A pair is bad if one of the two is (manifest.scan, masks.decode) or is missing, if the picture is not as large as
    the mask or a whole multiple of it (CelebAMask-HQ has pictures of 1024 and masks of 512), or if the mask lacks skin or nose.
    size:   pairs with a shorter side are bad
    repair: masks with left and right exchanged (sides.exchanged) are put right when they are read; without it they are only named
    verify, strict, cache_dir, progress: as in manifest.scan
    Raises DataError: no such sub-folders, two files of one name, nothing usable, or strict.
    """
    folder = os.fspath(folder)
    (images, bad_images), (masks, bad_masks) = (
        _side(
            folder,
            *side,
            size=size,
            verify=verify,
            strict=strict,
            cache_dir=cache_dir,
            progress=progress,
            say=say,
        )
        for side in _SIDES
    )
    verdicts = _verdicts(folder, masks.values(), cache_dir, progress, say)
    pairs, bad, turned = [], [], []
    for stem in [*images, *(s for s in masks if s not in images)]:
        image, mask = images.get(stem), masks.get(stem)
        reason, exchanged = verdicts[mask.path] if mask else ('', False)
        reason = reason or _mismatch(image, mask)
        if stem in bad_images or stem in bad_masks:  # was named already
            continue
        if reason:
            bad.append(BadImage((mask or image).path, reason))
            continue
        turned += [shown(mask.path)] if exchanged else []
        pairs.append(Pair(image, mask, repair and exchanged))
    report(folder, pairs, bad, strict, say)
    if turned:
        say(
            f'{len(turned):,} of {len(pairs):,} masks have left and right exchanged ({some(turned, 3)}): '
            + ('put right' if repair else 'left as they are')
        )
    return Manifest(pairs, bad)


def _folders(folder, pattern):
    return [
        e
        for e in listed(folder)
        if re.search(pattern, e.lower()) and os.path.isdir(os.path.join(folder, e))
    ]


def _side(folder, title, pattern, **options):
    """({stem: Image}, {stems of bad files}) of one of the two sub-folders."""
    found = _folders(folder, pattern)
    if len(found) != 1:
        remedy = '; python -m faces.masks makes masks of annotations' if title == 'masks' else ''
        raise DataError(
            f'{shown(folder)}: needs one sub-folder of {title}, has {", ".join(found) or "none"}{remedy}'
        )
    root, stems = os.path.join(folder, found[0]), {}
    manifest = scan(root, **options)
    for image in manifest.images:
        stem = _stem(image.path, root)
        if stem in stems:
            raise DataError(
                f'{shown(stems[stem].path)} and {shown(image.path)}: two files for one pair; remove one'
            )
        stems[stem] = image
    return stems, {_stem(b.path, root) for b in manifest.bad}


def _stem(path, root):
    return os.path.splitext(os.path.relpath(path, root))[0]


def _mismatch(image, mask):
    """Why the two are no pair, or ''."""
    if not image or not mask:
        return 'no mask of that name' if image else 'no picture of that name'
    times = image.width // mask.width
    if not times or (image.width, image.height) != (times * mask.width, times * mask.height):
        return f'{mask.width}x{mask.height}, but its picture {image.width}x{image.height}'
    return ''


def _verdicts(folder, masks, cache_dir, progress, say):
    """{path: (why the mask cannot be used or '', whether left and right are exchanged)}, kept for the next start by real path, length and mtime."""
    key = hashlib.blake2b(os.fsencode(os.path.realpath(folder)), digest_size=8).hexdigest()
    store = os.path.join(os.path.expanduser(cache_dir or cache_folder()), f'masks-{key}.json')
    old, new, verdicts = kept.load(store, VERSION).get('masks'), {}, {}
    old = old if isinstance(old, dict) else {}
    with ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1))) as pool:
        for done, (mask, entry) in enumerate(
            zip(masks, pool.map(lambda mask: _entry(mask, old), masks)), 1
        ):
            *_, reason, exchanged = entry
            verdicts[mask.path] = reason, exchanged
            if not reason.startswith(_UNREAD):  # that may be better next time
                new[os.path.realpath(mask.path)] = entry
            if progress:
                progress(done, len(masks))
    if new != old:
        kept.save(store, VERSION, {'masks': new}, say)
    return verdicts


_UNREAD = 'cannot be read: '


def _entry(mask, old):
    """[length, mtime, reason, exchanged] of a mask, from the last time if it is the same file."""
    try:
        st = os.stat(mask.where[0])
        entry = old.get(os.path.realpath(mask.path))
        if (
            isinstance(entry, list)
            and list(map(type, entry)) == [int, int, str, bool]
            and entry[:2] == [st.st_size, st.st_mtime_ns]
        ):
            return entry
        ids = decode(read_bytes(*mask.where))
    except OSError as e:
        return [0, 0, f'{_UNREAD}{e.strerror}', False]
    except BadFile as e:
        return [st.st_size, st.st_mtime_ns, str(e), False]
    missing = lacks(ids)
    return [
        st.st_size,
        st.st_mtime_ns,
        f'no {" and no ".join(missing)} in it' if missing else '',
        sides.exchanged(ids),
    ]
