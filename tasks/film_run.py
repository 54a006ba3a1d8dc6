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
from sources import film as film_file
from sources.film import KEPT, Film
from storage import counted, shown

from . import films, photo_flags, photo_run
from .films import Work
from .loading import Loaded

FORMAT = 1  # of what lies in the folder of a film that is not finished


def is_file(path: Path) -> bool:
    """Whether --output names a film rather than a folder."""
    return not path.is_dir() and film_file.is_film(str(path))


def target(source: str, folder: Path) -> Path:
    """Where a film is written: beside others in a folder, under its own name."""
    if is_file(folder):
        if folder.suffix.lower() not in KEPT:
            raise RunError(
                f'--output {folder}: films are written as {", ".join(KEPT)}: give '
                f'{folder.with_suffix(".mkv").name}'
            )
        return folder
    # A kind that cannot hold H.264 beside any sound becomes one that can.
    name = Path(source)
    suffix = name.suffix if name.suffix.lower() in KEPT else '.mkv'
    return folder / f'{name.stem}{suffix}'


def run(args: argparse.Namespace, loaded: Loaded, output: Path) -> list[str]:
    """Restore a film -> lines for the user. Raises RunError."""
    film_file.check_installed()
    if args.faces_only or args.skip_good is not None or args.format != 'same':
        raise RunError('--faces-only, --skip-good and --format are for photographs, not for films')
    try:
        film = probed(args)
        return _restored(args, loaded, film, output)
    except BadFile as error:
        raise RunError(f'--input {error}') from error


def probed(args: argparse.Namespace) -> Film:
    """What the film is. Raises BadFile, also for one whose frames cannot be written."""
    most = args.max_pixels or photo_flags.MOST
    # Before anything is decoded or written.
    film = film_file.probe(args.input, most)
    photo_run.check_size(film.width, film.height, args.scale, most)
    # Four pixels share a colour, two where there is more of it.
    odd = film.width * args.scale % 2 or film.height * args.scale % 2
    if odd and '444' not in film_file.pixel_format(film):
        raise BadFile(
            f'{shown(args.input)}: sides of {film.width}x{film.height} are odd, which H.264 cannot '
            'write: give --scale 2'
        )
    return film


def _restored(args: argparse.Namespace, loaded: Loaded, film: Film, output: Path) -> list[str]:
    tools = photo_flags.build(args, loaded)
    work = Work(film, output.with_name(f'{output.name}.parts'), tools.how, _bar)
    done = films.opened(work, plan(args, loaded.net))
    if done:
        print(f'going on after {done:,} frames')
    told = films.restored(work, tools.detector, tools.network)
    films.join(work, output, metadata=args.metadata == 'all')
    said = [
        f'{counted(told.frames, "frame")} with {counted(told.faces, "restored face")}, each '
        f'followed while it is seen, written to {shown(output)}'
    ]
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
    device = str(args.device)
    return dict(format=FORMAT, film=film, network=digest.hexdigest(), device=device, flags=flags)
