"""Every program that looks for pictures in a folder, as a function of the folder.

A new program is listed in PROGRAMS: the tests of lists and layouts then hold for it, too.
"""

import contextlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from safetensors.torch import save_file

import infer
import models
import tasks
from errors import FacesError
from faces.masks import __main__ as masks
from tasks import data as sources
from tools import prepare
from tools.evaluation import folders
from tools.submission import checks

SIZE = 64


class Took(NamedTuple):
    """What became of a folder."""

    names: set[str] | None  # paths below it, without suffix; None where the program does not tell
    said: str
    status: int


def _below(folder, paths):
    return {os.path.splitext(os.path.relpath(path, folder))[0] for path in paths}


def _run(main: Callable[[list[str]], int], *argv) -> tuple[str, int]:
    """(what a program printed, its status)."""
    held = io.StringIO()
    with contextlib.redirect_stdout(held), contextlib.redirect_stderr(held):
        status = main([str(a) for a in argv])
    return held.getvalue(), status


def trained(folder: Path, tmp: Path, *more: object) -> Took:
    """train.py, up to the moment when it knows its images."""
    said: list[str] = []
    argv = ['--preset', 'unet', '--data', folder, '--size', SIZE, '--val', tmp / 'val', *more]
    try:
        config = tasks.configure([str(a) for a in argv])
        images, _ = sources.load_faces(config, said.append)
    except FacesError as error:
        return Took(set(), f'{said} {error}', error.exit_code)
    return Took(_below(folder, (image.path for image in images)), '\n'.join(said), 0)


def split(folder: Path, tmp: Path) -> Took:
    """prepare.py split, with both of its lists."""
    out = tmp / 'split'
    said, status = _run(
        prepare.main, 'split', folder, '--size', SIZE, '--val-size', 1, '--out', out
    )
    lists = [os.fsdecode(path.read_bytes()) for path in out.glob('*.txt')]
    return Took(_below(folder, (p for text in lists for p in text.splitlines())), said, status)


def degraded(folder: Path, tmp: Path) -> Took:
    """prepare.py degrade."""
    out = tmp / 'degraded'
    argv = ['degrade', folder, '--size', SIZE, '--recipe', 'bicubic', '--out', out]
    said, status = _run(prepare.main, *argv)
    return Took(None if status == 0 else set(), said, status)


def indexed(folder: Path, tmp: Path) -> Took:
    """prepare.py index."""
    return Took(None, *_run(prepare.main, 'index', folder, '--size', SIZE))


def annotated(folder: Path, tmp: Path) -> Took:
    """prepare.py annotate."""
    argv = ['annotate', folder, '--size', SIZE, '--out', tmp / 'meta_info.txt']
    return Took(None, *_run(prepare.main, *argv))


def restored(folder: Path, tmp: Path) -> Took:
    """infer.py, with weights of chance."""
    weights, out = tmp / 'weights.safetensors', tmp / 'restored'
    if not weights.exists():
        save_file(models.SRResNet(2, 8).state_dict(), weights)
    argv = ['--weights', weights, '--input', folder, '--output', out, '--device', 'cpu']
    said, status = _run(infer.main, *argv)
    return Took(_below(out, out.rglob('*.png')), said, status)


def wanted(folder: Path, tmp: Path) -> Took:
    """submit.py: what its results must be called."""
    try:
        return Took(set(checks.wanted(Path(folder))), '', 0)
    except FacesError as error:
        return Took(set(), str(error), error.exit_code)


def compared(folder: Path, tmp: Path) -> Took:
    """evaluate.py, of the folder with itself."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            truths = folders.scan(str(folder))
    except FacesError as error:
        return Took(set(), str(error), error.exit_code)
    return Took(_below(folder, (i.path for i in truths.values())), said.getvalue(), 0)


def checked(folder: Path, tmp: Path) -> Took:
    """python -m faces.masks --check."""
    return Took(None, *_run(masks.main, '--check', folder))


PROGRAMS = {
    'train': trained,
    'prepare split': split,
    'prepare degrade': degraded,
    'prepare index': indexed,
    'prepare annotate': annotated,
    'infer': restored,
    'submit': wanted,
    'evaluate': compared,
    'faces.masks': checked,
}
# Those that take whatever is a face for one.
OF_FACES = ['train', 'prepare split', 'prepare degrade']
