"""How projects lay out pairs and masks beside each other, known by names of folders and files.

LQ and GT lie in two folders (BasicSR, DIV2K, CodeFormer, GFPGAN, Restormer), or side by side under
names that tell them apart (0001x4.png, 0001.lq.png). So do pictures and masks (CelebAMask-HQ,
samples of WebDataset shards).
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

from .aliases import FilePath
from .listing import listed, walk

T = TypeVar('T')


class Role(NamedTuple):
    """What a folder or a file is for."""

    name: str
    exact: frozenset[str]  # names of folders, in lower case, that leave no doubt
    words: frozenset[str]  # words in names of folders
    endings: frozenset[str]  # words at the end of names of files
    wanted: str  # names for messages


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


LQ = Role(
    'LQ',
    _words('lq lr'),
    _words('lq lr input inputs low lowres degraded blur blurry blurred noisy rainy hazy'),
    _words('lq lr'),
    'LQ or LR',
)
GT = Role(
    'GT',
    _words('gt hr'),
    _words('gt hr hq target targets truth groundtruth high highres sharp clean'),
    _words('gt hr hq'),
    'GT or HR',
)
# fmt: off
MASK = Role(
    'mask',
    frozenset(),
    _words('mask masks label labels seg segmentation parsing annotation annotations anno'),
    _words('mask masks label labels seg segm segmentation parsing anno annotation matte') | {
        # parts of CelebAMask-HQ as published
        'skin', 'nose', 'eye_g', 'l_eye', 'r_eye', 'l_brow', 'r_brow', 'l_ear', 'r_ear', 'mouth',
        'u_lip', 'l_lip', 'hair', 'hat', 'ear_r', 'neck_l', 'neck', 'cloth',
    },
    'masks',
)
# fmt: on
PAIRED = LQ, GT
_ENDINGS = {word: role for role in (*PAIRED, MASK) for word in role.endings}
# The longest ending first: neck_l before l.
_ENDING = re.compile(
    r'(?P<base>.+?)(?:[._-](?P<word>'
    + '|'.join(sorted(_ENDINGS, key=len, reverse=True))
    + r')|[._-]?(?P<factor>x[2348]))',
    re.IGNORECASE,
)
# Folders of masks that no file name connects with the pictures: CelebAMask-HQ-mask-anno.
_ANNOTATIONS = re.compile(r'mask.*anno', re.IGNORECASE)


# ---- names of folders ----


def words(name: str) -> frozenset[str]:
    """Words of a name, in lower case: of DIV2K_trainHR they are div, 2, k, train, hr."""
    return frozenset(w.lower() for w in re.findall(r'[A-Z]{2,}(?![a-z])|[A-Z]?[a-z]+|\d+', name))


def role_of_folder(name: str) -> Role | None:
    """What a folder of this name is for, as far as its name tells."""
    found = words(name) | {name.lower()}
    if found & MASK.words:
        return MASK
    named = [role for role in PAIRED if found & role.words]
    return named[0] if len(named) == 1 else None


def is_annotations(name: str) -> bool:
    """Whether a folder of this name holds masks of CelebAMask-HQ as they are published."""
    return bool(_ANNOTATIONS.search(name))


def exact(name: str) -> bool:
    """Whether a folder of this name is one side of pairs, without any doubt."""
    return any(name.lower() in role.exact for role in PAIRED)


def sides(folder: FilePath, role: Role) -> list[str]:
    """Names of the sub-folders that are for LQ, or for GT: those of exact names before others."""
    inside = [n for n in listed(folder) if os.path.isdir(os.path.join(folder, n))]
    certain = [n for n in inside if n.lower() in role.exact]
    return certain or [n for n in inside if role_of_folder(n) is role]


def pair(folder: FilePath) -> tuple[str, str] | None:
    """Names of the sub-folders for LQ and GT, or None.

    Where their names leave a doubt, the names of files in both must tell that they are pairs.
    """
    lq, gt = (sides(folder, role) for role in PAIRED)
    if not lq or not gt:
        return None
    certain = exact(lq[0]) and exact(gt[0])
    if certain or (len(lq) == len(gt) == 1 and _share(folder, lq[0], gt[0])):
        return lq[0], gt[0]
    return None


def _share(folder: FilePath, a: str, b: str) -> bool:
    """Whether two sub-folders hold files of the same names for the most part."""
    one, other = (
        {key(os.path.relpath(path, os.path.join(folder, name))) for path in walk(_in(folder, name))}
        for name in (a, b)
    )
    return 2 * len(one & other) > min(len(one), len(other))


def _in(folder: FilePath, name: str) -> str:
    return os.path.join(folder, name)


# ---- names of files ----


def role_of_file(stem: str) -> tuple[str, Role | None]:
    """(stem without its ending, what the ending says the file is for) of a name without suffix.

    Of a name that says nothing they are (stem, None).
    """
    match = _ENDING.fullmatch(stem)
    if not match:
        return stem, None
    return match['base'], LQ if match['factor'] else _ENDINGS[match['word'].lower()]


def role_of_member(name: str) -> Role | None:
    """What a member of a shard is for, by its folder and its name; whether others lie beside it is
    not known.
    """
    folder, file = os.path.split(name)
    if os.path.basename(folder).lower() in LQ.exact:
        return LQ
    stem = os.path.splitext(file)[0]
    # Only an ending behind a dot, as WebDataset has it, tells without the others.
    base, role = role_of_file(stem)
    return role if stem[len(base) :].startswith('.') else None


def unscaled(name: str, scale: int) -> str:
    """A path below a folder of LQ, without suffix, as its GT has it: X4/0001x4 is 0001."""
    folders, stem = os.path.split(name)
    kept = [part for part in folders.split(os.sep) if part.lower() != f'x{scale}']
    return os.path.join(*kept, re.sub(rf'[._-]?x{scale}$', '', stem, flags=re.IGNORECASE))


def partners(known: Mapping[str, T]) -> Callable[[str], T | None]:
    """Function of a name that finds what belongs to it; both are paths without suffix.

    Found are equal paths, else equal names where no other file has that name, also of an LQ whose
    name has a factor (0001x4) that its GT's lacks.
    """
    names = [os.path.basename(path) for path in known]
    unique = {name: known[path] for name, path in zip(names, known, strict=True)}
    for name, times in Counter(names).items():
        if times > 1:
            del unique[name]

    def find(path: str) -> T | None:
        name = os.path.basename(path)
        base, role = role_of_file(name)
        return known.get(path) or unique.get(name) or (unique.get(base) if role is LQ else None)

    return find


def key(name: str) -> str:
    """A path below a folder without what may differ between files of one sample.

    That is the suffix, a factor (x4), zeros before a number, and upper case.
    """
    *folders, file = os.path.splitext(name)[0].lower().split(os.sep)
    parts = [part for part in folders if not re.fullmatch(r'x[2348]', part)]
    parts.append(re.sub(r'[._-]?x[2348]$', '', file))
    return os.sep.join(re.sub(r'^0+(?=\d+$)', '', part) for part in parts)
