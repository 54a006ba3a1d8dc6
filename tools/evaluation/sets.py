"""Test sets of the field, known by the folders that they are published as.

CelebA-Test, LFW-Test, CelebChild-Test and WebPhoto-Test are GFPGAN's (Wang et al., CVPR 2021),
WIDER-Test is CodeFormer's (Zhou et al., NeurIPS 2022), the harder inputs of CelebA-Test are DAEFR's
(Tsai et al., ICLR 2024), and the five parts of one folder those of the NTIRE challenge on
real-world face restoration (2025).
"""

import difflib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from errors import DataError, RunError
from sources.listing import listed, pictures
from storage import shown

DEEPEST = 3  # folders below the one that is given

# Columns of the field, and what asks for them here.
ASKED_BY = {
    'lpips': ('LPIPS', '--lpips'),
    'deg': ('Deg', '--identity'),
    'lmd': ('LMD', '--lmd'),
    'niqe': ('NIQE', '--niqe'),
    'fid': ('FID', '--fid'),
    'pyiqa_musiq': ('MUSIQ', '--pyiqa musiq'),
    'pyiqa_maniqa': ('MANIQA', '--pyiqa maniqa'),
    'pyiqa_clipiqa': ('CLIPIQA', '--pyiqa clipiqa'),
    'pyiqa_qalign': ('Q-Align', '--pyiqa qalign'),
}


class Known(NamedTuple):
    """A test set."""

    title: str
    images: int
    inputs: tuple[str, ...]  # names that its folder of inputs has, the most telling first
    truth: tuple[str, ...] = ()  # and that of its truth
    parts: tuple[str, ...] = ()  # folders that the inputs consist of
    usual: tuple[str, ...] = ()  # columns beside those that are always there
    # {folder: set} whose inputs are others of the same faces.
    others: tuple[tuple[str, str], ...] = ()


PAIRED = 'lpips', 'deg', 'lmd', 'niqe', 'fid'
WILD = 'niqe', 'fid', 'pyiqa_musiq'
CHALLENGE = 'niqe', 'fid', 'pyiqa_musiq', 'pyiqa_maniqa', 'pyiqa_clipiqa', 'pyiqa_qalign'
HQ = 'celeba_512_validation', 'CelebA-Test-HQ', 'HQ', 'GT'
GFPGAN_LQ, DAEFR_LQ = 'celeba_512_validation_lq', 'self_celeba_512_v2'

# fmt: off
SETS = {
    'celeba-test': Known(
        'CelebA-Test', 3000, (GFPGAN_LQ, 'CelebA-Test-LQ', 'LQ'), HQ, usual=PAIRED,
        others=((DAEFR_LQ, 'celeba-test-daefr'),)),
    'celeba-test-daefr': Known(
        'CelebA-Test of DAEFR', 3000, (DAEFR_LQ, 'LQ'), HQ, usual=PAIRED,
        others=((GFPGAN_LQ, 'celeba-test'),)),
    'lfw-test': Known(
        'LFW-Test', 1711, ('lfw_cropped_faces', 'LFW-Test', 'lfw'), usual=WILD),
    'webphoto-test': Known(
        'WebPhoto-Test', 407, ('WebPhoto-Test', 'WebPhoto', 'web'), usual=WILD),
    'wider-test': Known(
        'WIDER-Test', 970, ('Wider-Test', 'Wider'), usual=WILD),
    # Beside its children lie as many adults.
    'celebchild-test': Known(
        'CelebChild-Test', 180, ('Child', 'CelebChild-Test', 'CelebChild'), usual=WILD),
    'ntire': Known(
        'NTIRE, real-world face restoration', 450, (), usual=CHALLENGE,
        parts=('CelebA', 'CelebChild-Test', 'LFW-Test', 'WebPhoto-Test', 'Wider-Test')),
}
# fmt: on


# ------------------------------------------------------------------------------------------------
# Where they lie.


class Located(NamedTuple):
    """Where a set lies."""

    known: Known
    inputs: str | None  # folder; None if a set with truth lies there without them
    truth: str | None


def locate(name: str, folder: str) -> Located:
    """Find the inputs and the truth of a set in a folder, by the names of folders in any case.

    Raises RunError for a set that is not known, and DataError where the folder does not hold it.
    """
    if name not in SETS:
        near = difflib.get_close_matches(name.lower(), SETS, 1)
        hint = f' (did you mean {near[0]}?)' if near else ''
        raise RunError(f'--set {shown(name)} is not known{hint}: give one of {", ".join(SETS)}')
    known = SETS[name]
    if not os.path.isdir(folder):
        raise DataError(f'--set {name} {shown(folder)}: no such folder')
    below = list(_folders(folder))
    if known.parts:
        return Located(known, _of_parts(name, known, below), None)

    inputs = _first(known.inputs, below)
    truth = _first(known.truth, below)
    _check_others(name, known, folder, below, inputs)
    if known.truth and not truth:
        raise DataError(
            f'--set {name} {shown(folder)}: the truth of {known.title} was not found, in a folder '
            f'named {" or ".join(known.truth)}'
        )
    # Faces without truth may lie in a folder of any name.
    if not known.truth and not inputs:
        inputs = folder
    if inputs and not pictures(inputs, ('.tar',)):
        raise DataError(f'--set {name} {shown(inputs)}: there are no images in it')
    return Located(known, inputs, truth)


def _folders(folder: str, depth: int = DEEPEST) -> Iterable[str]:
    """The folder, and those below it."""
    yield folder
    if depth:
        for name in listed(folder):
            path = os.path.join(folder, name)
            if os.path.isdir(path):
                yield from _folders(path, depth - 1)


def _first(names: Sequence[str], folders: Sequence[str]) -> str | None:
    """The first folder that has the first of the names that any has."""
    for name in names:
        for folder in folders:
            if _called(folder) == name.lower():
                return folder
    return None


def _called(folder: str) -> str:
    return Path(folder).resolve().name.lower()


def _check_others(
    name: str, known: Known, folder: str, below: Sequence[str], inputs: str | None
) -> None:
    """Raise DataError if the folder is told to be another set of the same faces."""
    # Both may lie beside each other, and then the published name decides.
    if inputs and _called(inputs) == known.inputs[0].lower():
        return
    for published, other in known.others:
        if _first((published,), below):
            raise DataError(
                f'--set {name} {shown(folder)} holds {published}, the inputs of '
                f'{SETS[other].title}: figures of the two must not be mixed; give --set {other}'
            )


def _of_parts(name: str, known: Known, below: Sequence[str]) -> str:
    """The folder that holds all parts of a set. Raises DataError that names those that it lacks."""
    # Results and inputs may both be below the folder: the first that is whole counts.
    lacking = {}
    for folder in below:
        held = {entry.lower() for entry in listed(folder)}
        missing = [part for part in known.parts if part.lower() not in held]
        if not missing:
            return folder
        lacking[folder] = missing
    best = min(lacking, key=lambda folder: len(lacking[folder]))
    raise DataError(
        f'--set {name} {shown(best)} lacks {", ".join(lacking[best])}: {known.title} consists of '
        f'{", ".join(known.parts)}'
    )


# ------------------------------------------------------------------------------------------------
# What is said of them.


def part(known: Known, images: int) -> str:
    """What a table says that is not of the whole set, also where it is copied without its heading;
    '' for the whole."""
    return '' if images == known.images else f'{images:,} of {known.images:,}'


def counted(known: Known, images: int) -> str:
    """What the heading of the table says of the set: its name, and whether it is the whole."""
    if images == known.images:
        return f'{known.title}, {images:,} images'
    if images < known.images:
        return (
            f'PART of {known.title}: {images:,} of {known.images:,} images; not comparable with '
            'figures of the whole set'
        )
    return (
        f'NOT {known.title}, which has {known.images:,} images: there are {images:,}; not '
        'comparable with its figures'
    )


def missing(known: Known, columns: Iterable[str]) -> str:
    """Say which usual columns the table lacks, and what asks for them; '' if none."""
    present = set(columns) | {'niqe' if 'pyiqa_niqe' in columns else ''}
    lacks = [ASKED_BY[key] for key in known.usual if key not in present]
    if not lacks:
        return ''
    return f'usual for {known.title}, too: ' + ', '.join(f'{what} ({flag})' for what, flag in lacks)
