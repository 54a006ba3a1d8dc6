"""A film from a file, through tasks/films.py, into a file."""

import argparse
import hashlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.progress import track
from torch import nn

from errors import BadFile, RunError
from sources import files, film_pieces
from sources import film as film_file
from sources.film import Film
from sources.film_pieces import CONTAINERS
from storage import counted, shown

from . import films, photo_flags, photo_run
from .films import Work
from .loading import Loaded

FORMAT = 1  # of what lies in the folder of a film that is not finished


def is_file(path: Path) -> bool:
    """Whether --output names a film rather than a folder."""
    return not path.is_dir() and film_file.is_film(str(path))


def target(source: str, folder: Path) -> Path:
    """Where a film is written: beside others in a folder, under its own name. Raises RunError."""
    output = folder
    if not is_file(folder):
        # A kind that cannot hold H.264 beside any sound becomes one that can.
        name = Path(source)
        suffix = name.suffix if name.suffix.lower() in CONTAINERS else '.mkv'
        output = folder / f'{name.stem}{suffix}'
    elif folder.suffix.lower() not in CONTAINERS:
        raise RunError(
            f'--output {folder}: films are written as {", ".join(CONTAINERS)}: give '
            f'{folder.with_suffix(".mkv").name}'
        )
    if output.is_dir():
        raise RunError(f'--output {output} is a folder: give another name')
    return output


def run(args: argparse.Namespace, loaded: Loaded, output: Path) -> list[str]:
    """Restore a film -> lines for the user. Raises RunError."""
    film_file.check_installed()
    if args.faces_only or args.format != 'same':
        raise RunError('--faces-only and --format are for photographs, not for films')
    try:
        film = probed(args, output)
        return _restored(args, loaded, film, output)
    except BadFile as error:
        raise RunError(f'--input {error}') from error


def probed(args: argparse.Namespace, output: Path) -> Film:
    """What the film is. Raises BadFile and RunError where it could not be written in the end."""
    # Before anything is decoded or written.
    film = film_file.probe(args.input, files.MOST)
    try:
        photo_run.check_size(
            film.width, film.height, args.scale, args.max_pixels or photo_flags.MOST
        )
        _check_sides(film, args.scale)
    except BadFile as error:
        raise BadFile(f'{shown(args.input)}: {error}') from None
    film_pieces.check(film, output.suffix.lower())
    return film


def _check_sides(film: Film, scale: int) -> None:
    # Four pixels share a colour, two where there is more of it.
    odd = film.width * scale % 2 or film.height * scale % 2
    if odd and '444' not in film_pieces.pixel_format(film):
        raise BadFile(
            f'sides of {film.width}x{film.height} are odd, which H.264 cannot write: give --scale 2'
        )


def _restored(args: argparse.Namespace, loaded: Loaded, film: Film, output: Path) -> list[str]:
    tools = photo_flags.build(args, loaded)
    work = Work(film, output.with_name(f'{output.name}.parts'), tools.how, _bar)
    with films.claimed(work.folder):
        done = films.opened(work, plan(args, loaded.net))
        if done:
            print(f'going on after {done:,} frames')
        told = films.restored(work, tools.detector, tools.network)
        refused = films.join(work, output, metadata=args.metadata == 'all')
    said = [
        f'{counted(told.frames, "frame")} with {counted(told.faces, "restored face")}, each '
        f'followed while it is seen, written to {shown(output)}'
    ]
    if refused:
        said.append(f'{counted(refused, "damaged packet")} of sound left out')
    if not told.faces:
        if args.require_face:
            raise RunError(
                f'--require-face: no face found in {shown(args.input)}; the film is written all '
                'the same'
            )
        said.append('no face found')
    return said


def _bar(items: Iterable[Any], what: str, total: int) -> Iterable[Any]:
    # On a terminal, not in a log.
    return track(items, what, total=total, disable=not sys.stderr.isatty())


def plan(args: argparse.Namespace, net: nn.Module) -> dict[str, Any]:
    """What a film depends on: what was begun with anything else is not gone on with."""
    # By its weights: a run that is still training has others the next time.
    digest = hashlib.sha256()
    for value in net.state_dict().values():
        digest.update(value.detach().cpu().float().numpy().tobytes())
    stat = os.stat(args.input)
    flags = {name: getattr(args, name) for name in photo_flags.OF_PHOTOS}
    flags |= {'tta': args.tta, 'precision': args.precision, 'batch': args.batch}
    film = [os.path.realpath(args.input), stat.st_size, stat.st_mtime_ns]
    named = [args.parser, args.background, args.detector]
    files_named = [os.stat(p).st_mtime_ns for p in named if p and os.path.exists(p)]
    device = str(args.device)
    return dict(
        format=FORMAT,
        film=film,
        network=digest.hexdigest(),
        device=device,
        flags=flags,
        files=files_named,
    )
