"""Data sets of LQ/GT pairs: two folders of files, or both pictures of a pair in one file."""

import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence

from errors import DataError
from storage import shown, some

from . import layouts
from .aliases import FilePath, Progress, Say
from .listing import listed
from .manifest import Image, Manifest, Pair, Stacked, scan


def is_paired(folder: FilePath, both: bool = False) -> bool:
    """Whether a folder has at least one of the sub-folders LQ and GT (LR and HR, HQ), or both.

    Both may also have the names that other projects give them (layouts.LQ, layouts.GT).
    """
    if both:
        return layouts.pair(folder) is not None
    return any(layouts.exact(name) for name in listed(folder))


def scan_pairs(
    folder: FilePath,
    scale: int,
    *,
    size: int | None = None,
    strict: bool = True,
    verify: bool = False,
    cache_dir: FilePath | None = None,
    progress: Progress | None = None,
    say: Say = print,
) -> list[Pair]:
    """Pairs from a folder with sub-folders LQ and GT, in natural order.

    The two may have other names (layouts.LQ, layouts.GT). They are matched by name without suffix,
    and without the factor that DIV2K has in names: 0001x4.png belongs to 0001.png. A bad file, a
    missing partner, a GT that is not `scale` times its LQ or, where a size is given, not size x
    size, raises DataError; unless `strict`, such files are named and left out. The rest is as in
    `scan`.
    """
    folder = os.fspath(folder)
    # The sides may have any size; they are compared with each other below.
    read = functools.partial(
        scan,
        size=1,
        verify=verify,
        strict=strict,
        cache_dir=cache_dir,
        progress=progress,
        say=say,
    )
    lq, gt = (_side(folder, role, scale, read) for role in (layouts.LQ, layouts.GT))

    # All faults are gathered first, so that one message names them together.
    faults = [*_without_partner(lq, gt, 'GT'), *_without_partner(gt, lq, 'LQ')]
    pairs: list[Pair] = []
    wrong: dict[str, list[str]] = {}
    for stem in lq:
        if stem not in gt:
            continue
        pair = Pair(lq[stem], gt[stem])
        fault = _pair_fault(pair, scale, size)
        if fault:
            wrong.setdefault(fault, []).append(_sizes(pair))
        else:
            pairs.append(pair)
    faults += [f'{len(names)} {fault}: {some(names, 5)}' for fault, names in wrong.items()]
    _report_faults(folder, faults, pairs, strict, 'Add, remove or resize these files', say)
    return pairs


def _side(
    folder: str, role: layouts.Role, scale: int, read: Callable[[str], Manifest[Image]]
) -> dict[str, Image]:
    """{path below the sub-folder, without suffix: image} of one of the two sub-folders."""
    folders = layouts.sides(folder, role)
    if len(folders) != 1:
        present = ', '.join(map(shown, folders)) or 'none'
        raise DataError(f'{shown(folder)}: needs one sub-folder {role.wanted}, has {present}')
    # Names are compared below the two sub-folders, so further sub-folders are part of them.
    root = os.path.join(folder, folders[0])
    stems = by_stem(read(root).images, root)
    if role is not layouts.LQ:
        return stems
    return by_name((layouts.unscaled(name, scale), image) for name, image in stems.items())


def by_stem(images: Iterable[Image], root: str) -> dict[str, Image]:
    """{path below the root, without suffix: image}. Raises DataError for two of one name."""
    return by_name((stem(image.path, root), image) for image in images)


def by_name(images: Iterable[tuple[str, Image]]) -> dict[str, Image]:
    """{name: image}. Raises DataError for two of one name."""
    stems: dict[str, Image] = {}
    for name, image in images:
        if name in stems:
            raise DataError(
                f'{shown(stems[name].path)} and {shown(image.path)}: two files for one pair; '
                'remove one'
            )
        stems[name] = image
    return stems


def stem(path: str, root: str) -> str:
    """Path below a root, without suffix, by which the files of a pair are matched."""
    return os.path.splitext(os.path.relpath(path, root))[0]


def _without_partner(
    side: Mapping[str, Image], other: Mapping[str, Image], missing: str
) -> list[str]:
    """[message] if images of one side have no partner in the other, else []."""
    alone = [shown(image.path) for name, image in side.items() if name not in other]
    return [f'{len(alone)} without a {missing} partner: {some(alone, 5)}'] if alone else []


def _pair_fault(pair: Pair, scale: int, size: int | None) -> str:
    """What is wrong with the sizes of a pair, or ''."""
    lq, gt = pair
    if (gt.width, gt.height) != (scale * lq.width, scale * lq.height):
        return f'pairs whose GT is not {scale} times as large, the scale of --recipe'
    if size and (gt.width, gt.height) != (size, size):
        return f'pairs whose GT is not {size}x{size}, --size'
    return ''


def _sizes(pair: Pair) -> str:
    lq, gt = pair
    return f'{shown(gt.path)} is {gt.width}x{gt.height}, its LQ {lq.width}x{lq.height}'


def _report_faults(
    source: str,
    faults: Sequence[str],
    usable: Sequence[object],
    strict: bool,
    remedy: str,
    say: Say,
) -> None:
    """Say which pairs are left out. Raises DataError if `strict`, or if none is usable."""
    if not faults:
        return
    message = f'{shown(source)}: {"; ".join(faults)}'
    if strict or not usable:
        raise DataError(f'{message}. {remedy}')
    say(f'{message}: left out')


def scan_stacked(
    source: FilePath,
    *,
    size: int | None = None,
    strict: bool = True,
    verify: bool = False,
    cache_dir: FilePath | None = None,
    progress: Progress | None = None,
    say: Say = print,
) -> list[Stacked]:
    """Pairs stacked in one picture each, the LQ above the GT (HiFaceGAN's files), in natural order.

    A bad file, one that is not twice as high as it is wide or, where a size is given, not as wide,
    raises DataError; unless `strict`, it is named and left out. The rest is as in `scan`.
    """
    source = os.fspath(source)
    images = scan(
        source,
        size=1,
        verify=verify,
        strict=strict,
        cache_dir=cache_dir,
        progress=progress,
        say=say,
    ).images

    # A picture with any other ratio of sides is not a pair, whatever is in it.
    pairs: list[Stacked] = []
    wrong: dict[str, list[str]] = {}
    for image in images:
        fault = _stacked_fault(image, size)
        if fault:
            names = wrong.setdefault(fault, [])
            names.append(f'{shown(image.path)} is {image.width}x{image.height}')
        else:
            pairs.append(Stacked(*image))
    faults = [
        f'{len(names)} of {len(images)} pictures are {fault}: {some(names, 5)}'
        for fault, names in wrong.items()
    ]
    remedy = 'Remove them; of pairs in two folders, LQ/ and GT/, give the folder above both'
    _report_faults(source, faults, pairs, strict, remedy, say)
    return pairs


def _stacked_fault(image: Image, size: int | None) -> str:
    """What is wrong with the size of a picture of a stacked pair, or ''."""
    if image.height != 2 * image.width:
        return 'no square LQ above a square GT'
    if size and image.width != size:
        return f'not of the training size {size}, --size, and twice as high'
    return ''
