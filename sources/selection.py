"""Which images of a data set are faces: no LQ of pairs, no masks.

What is known by its name is left out (masks) or refused with a remedy (pairs). Where names do not
tell, files of one name in two places that differ in kind or size are refused, not guessed at.
"""

import itertools
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from errors import DataError
from storage import shown, some

from . import layouts, manifest
from .aliases import FilePath, Say
from .layouts import GT, LQ, MASK, Role
from .manifest import BadImage, Image, Manifest

# Sub-folders that are compared with each other; more of them are people, scenes or parts.
MOST_SIDES = 8


class Branch(NamedTuple):
    """Images that lie together: in a sub-folder, or under one ending in the same folder."""

    above: str  # path of the folder
    title: str  # for messages: LQ/ or *.seg.png
    role: Role | None
    members: dict[str, Image | BadImage]  # by layouts.key


def scan(source: FilePath, *, restore: bool = False, say: Say = print, **how: Any) -> Manifest:
    """manifest.scan of faces.

    restore: they are to be restored: anything but pairs and masks is taken as it lies there
    Raises DataError, also where the data set holds pairs, or what may be pairs or masks.
    """
    found = manifest.scan(source, say=say, **how)
    return faces(found, source, restore, say)


def faces(
    found: Manifest[Image], source: FilePath, restore: bool = False, say: Say = print
) -> Manifest[Image]:
    """A manifest less its masks. Raises as `scan`."""
    # Of files in a list, each was chosen: there names count alone.
    guessed = not restore and not _is_list(source)
    masks: set[str] = set()
    for group in _branches([*found.images, *found.bad], os.fspath(source)):
        for a, b in itertools.combinations(group, 2):
            _refuse_pairs(a, b, source, restore)
            left_out = _masks(a, b)
            masks |= {image.path for image in left_out}
            if guessed and not left_out and _share(a, b):
                _refuse_doubtful(a, b, source)
    if not masks:
        return found

    # Masks are no bad images either.
    images = [image for image in found.images if image.path not in masks]
    names = some([shown(path) for path in sorted(masks)], 3)
    say(f'{len(masks):,} masks in {shown(source)} are left out: {names}')
    if not images:
        raise DataError(f'{shown(source)} holds nothing but masks: give the folder of the faces')
    return Manifest(images, [image for image in found.bad if image.path not in masks])


def _is_list(source: FilePath) -> bool:
    return os.path.isfile(source) and not os.fspath(source).lower().endswith('.tar')


# ---- two branches ----


def _share(a: Branch, b: Branch) -> bool:
    """Whether most names of one occur in the other."""
    return 2 * len(a.members.keys() & b.members.keys()) > min(len(a.members), len(b.members))


def _masks(a: Branch, b: Branch) -> Iterable[Image | BadImage]:
    """Members of the one that holds masks of the other; () if neither does."""
    for masks, pictures in ((a, b), (b, a)):
        if masks.role is not MASK or pictures.role is MASK:
            continue
        if layouts.is_annotations(masks.title) or _share(masks, pictures):
            return masks.members.values()
    return ()


def _refuse_pairs(a: Branch, b: Branch, source: FilePath, restore: bool) -> None:
    """Raise DataError if the two are LQ and GT."""
    lq, gt = (a, b) if a.role is LQ or b.role is GT else (b, a)
    roles = [branch.role for branch in (lq, gt)]
    if MASK in roles or roles[0] is roles[1]:
        return
    folders = lq.title.endswith('/')
    # Names of folders that are certain need no files of the same names.
    certain = folders and all(layouts.exact(branch.title[:-1]) for branch in (lq, gt))
    if not certain and not _share(lq, gt):
        return
    raise DataError(f'{shown(source)} holds pairs: {_remedy(lq, gt, folders, restore)}')


def _remedy(lq: Branch, gt: Branch, folders: bool, restore: bool) -> str:
    """What to do about pairs."""
    above = shown(lq.above)
    if not folders:
        what = f'{shown(lq.title)} and {shown(gt.title)} in {above}'
        return f'{what}; put them into two folders, LQ/ and GT/, and give the folder above both'
    if not os.path.isdir(lq.above):
        return f'unpack {above} and give the folder with {shown(lq.title)} and {shown(gt.title)}'
    sides = [shown(os.path.join(above, branch.title[:-1])) for branch in (lq, gt)]
    if restore:
        return f'give --input {sides[0]}, and --gt {sides[1]} to compare with'
    if layouts.pair(lq.above):
        return f'give --data {above} to train on them, or {sides[1]} for its faces alone'
    return f'give {sides[1]} for faces; for pairs, a folder with one LQ/ and one GT/'


def _refuse_doubtful(a: Branch, b: Branch, source: FilePath) -> None:
    """Raise DataError if the same names stand for pictures of two kinds or sizes."""
    names = a.members.keys() & b.members.keys()
    both = [(a.members[name], b.members[name]) for name in sorted(names)]
    images = [(x, y) for x, y in both if isinstance(x, Image) and isinstance(y, Image)]
    # One such name may be a coincidence, unless it is the whole of a folder.
    if len(images) < (1 if a.title.endswith('/') else 2):
        return
    kinds = [{_coloured(image) for image in side} for side in zip(*images, strict=True)]
    larger = {np.sign(x.width * x.height - y.width * y.height) for x, y in images}
    if kinds in ([{True}, {False}], [{False}, {True}]):
        what = 'in colour here and without there: masks?'
    elif larger in ({1}, {-1}):
        what = f'{images[0][0].width}x{images[0][0].height} here and '
        what += f'{images[0][1].width}x{images[0][1].height} there: LQ and GT?'
    else:
        return
    raise DataError(
        f'{shown(source)}: {shown(a.title)} and {shown(b.title)} in {shown(a.above)} hold files of '
        f'the same names, {what} Give the one that holds the faces, or a list of files'
    )


def _coloured(image: Image) -> bool:
    return image.colour.startswith('rgb')


# ---- branches of a data set ----


def _branches(images: Sequence[Image | BadImage], source: str) -> Iterator[list[Branch]]:
    """Branches that have to be compared with each other: of folders, then of files."""
    root = source
    if not os.path.isdir(source):
        root = os.path.commonpath([os.path.dirname(os.path.abspath(i.path)) for i in images])
    placed = [(image, os.path.relpath(image.path, root)) for image in images]
    yield from _of_folders(placed, root)
    yield from _of_files(placed, root)


Placed = Sequence[tuple[Image | BadImage, str]]  # and their paths below the root


def _of_folders(placed: Placed, root: str) -> Iterator[list[Branch]]:
    """Sub-folders of the same folder."""
    inside: dict[str, set[str]] = {}
    for place in {os.path.dirname(name) for _, name in placed}:
        for above, child, _ in _steps(os.path.join(place, '')):
            inside.setdefault(above, set()).add(child)
    sides = {above: _sides(children) for above, children in inside.items()}

    # Only of the folders in question the files are sorted.
    members: dict[str, dict[str, dict[str, Image | BadImage]]] = {}
    for image, name in placed:
        for above, child, rest in _steps(name):
            if child in sides[above]:
                branches = members.setdefault(above, {})
                branches.setdefault(child, {})[layouts.key(rest)] = image
    for above, found in sorted(members.items()):
        yield [
            Branch(
                os.path.normpath(os.path.join(root, above)),
                f'{child}/',
                layouts.role_of_folder(child),
                of,
            )
            for child, of in sorted(found.items())
        ]


def _steps(name: str) -> Iterator[tuple[str, str, str]]:
    """(folder, sub-folder, path below it) for every folder that a path leads through."""
    parts = name.split(os.sep)
    for i in range(len(parts) - 1):
        yield os.sep.join(parts[:i]), parts[i], os.sep.join(parts[i + 1 :])


def _sides(children: set[str]) -> set[str]:
    """Those of a folder's sub-folders that are compared; none if there is but one."""
    if len(children) > MOST_SIDES:
        children = {child for child in children if layouts.role_of_folder(child)}
    return children if len(children) > 1 else set()


def _of_files(placed: Placed, root: str) -> Iterator[list[Branch]]:
    """Files of one folder by the ends of their names."""
    folders: dict[str, dict[tuple[str, str], Branch]] = {}
    for image, name in placed:
        folder, file = os.path.split(name)
        base, ending, role = _ended(file)
        branches = folders.setdefault(folder, {})
        above = os.path.normpath(os.path.join(root, folder))
        branch = branches.setdefault(
            (ending, role.name if role else ''), Branch(above, f'*{ending}', role, {})
        )
        branch.members[layouts.key(base)] = image
    for branches in folders.values():
        # Endings of which there are many are parts of names.
        common = sorted(branches.values(), key=lambda branch: -len(branch.members))
        yield [b for i, b in enumerate(common) if i < MOST_SIDES or b.role]


def _ended(file: str) -> tuple[str, str, Role | None]:
    """(name of the sample, rest of the file's name, what the rest says) of a file."""
    stem, suffix = os.path.splitext(file)
    base, role = layouts.role_of_file(stem)
    if role is None and re.fullmatch(r'.+\.[A-Za-z_]+', stem):
        # The name of a sample ends at a dot where a WebDataset is unpacked.
        base = stem.rpartition('.')[0]
    return base, (stem[len(base) :] + suffix).lower(), role
