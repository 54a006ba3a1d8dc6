"""Flags of infer.py for whole photographs, and what they build."""

import program

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import torch

import models
from errors import RunError
from faces import detect

from . import backgrounds, restoration, shipped
from .face_parser import FaceParser
from .loading import Loaded, of_weights
from .photos import How, Network, squares

MOST = 1 << 27  # pixels of a photo, and of what becomes of it, unless more are allowed
# Kinds of files by the values of --format.
FORMATS = {'png': 'PNG', 'jpeg': 'JPEG', 'webp': 'WEBP', 'tiff': 'TIFF', 'avif': 'AVIF'}


def add(p: argparse.ArgumentParser) -> None:
    """Add the flags of photographs."""
    g = p.add_argument_group(
        'photographs and films',
        'faces are found, restored, and blended back; of aligned faces none of these count',
    )
    _add_what(g)
    _add_background(g)
    _add_found(g)


def defaults() -> dict[str, Any]:
    """Return the flags of photographs as they are if none is given, for programs without them."""
    p = argparse.ArgumentParser()
    add(p)
    return vars(p.parse_args([]))


def _add_what(g: Any) -> None:
    g.add_argument(
        '--aligned',
        action=argparse.BooleanOptionalAction,
        help='inputs are faces as the network was trained on, restored whole (default: where all '
        "are no larger than the network's inputs, or come with --gt or from a run)",
    )
    g.add_argument(
        '--scale',
        type=int,
        choices=(1, 2, 4),
        default=2,
        help='by which the photo is enlarged (default: %(default)s)',
    )
    g.add_argument(
        '--faces-only',
        action='store_true',
        help='write the restored faces, upright, as NAME-00.png and so on, instead of photos',
    )
    g.add_argument(
        '--keep',
        type=program.Or('auto', program.Number(0, 1)),
        metavar='auto|SHARE',
        help='how much of the photo stays in its faces: 0 none, 1 all; auto: the more, the sharper '
        'a face is than the network can make it (default: auto)',
    )
    g.add_argument(
        '--format',
        choices=('same', *FORMATS),
        default='same',
        help="kind of files that are written (default: the photo's own, or that of --output)",
    )
    g.add_argument(
        '--metadata',
        choices=('all', 'colour', 'none'),
        default='all',
        help='what of it is kept: colour profile and EXIF, which may tell place and time; the '
        'profile alone; nothing (default: %(default)s)',
    )


def _add_background(g: Any) -> None:
    g.add_argument(
        '--background',
        default='lanczos',
        metavar='lanczos|network|WEIGHTS',
        help='how what is no face is enlarged: by a filter, by the network itself, or by another '
        'one (default: %(default)s)',
    )
    g.add_argument(
        '--tile',
        type=program.Whole(32, 4096),
        default=backgrounds.TILE,
        help='pixels of the pieces that a background network is given (default: %(default)s)',
    )
    add_parser(g)


def add_parser(g: Any) -> None:
    """Add the flag of what outlines faces."""
    g.add_argument(
        '--parser',
        metavar='RUN',
        help='run or file of a parser: faces are blended by their own outlines (default: soft '
        'squares)',
    )


def _add_found(g: Any) -> None:
    g.add_argument(
        '--min-face',
        type=program.Whole(detect.CELL, 1 << 14),
        help=f'smallest face that is looked for, in pixels (default: {detect.MIN_FACE}, and 1 / '
        f'{detect.PART} of the longer side of a large photo)',
    )
    g.add_argument(
        '--require-face',
        action='store_true',
        help='exit with 2 where a photo has no face (without: it is enlarged all the same)',
    )
    add_detector(g)


def add_detector(g: Any) -> None:
    """Add the flag of what finds faces."""
    g.add_argument(
        '--detector', metavar='YUNET.onnx', help='another detector than MTCNN: a YuNet file'
    )


OF_PHOTOS = (
    *('scale', 'faces_only', 'keep', 'format', 'metadata', 'background', 'tile', 'parser'),
    *('min_face', 'require_face', 'detector'),
)


def refuse(args: argparse.Namespace, p: argparse.ArgumentParser, why: str) -> None:
    """Raise RunError where flags of photographs were given, and there are none."""
    # Silently without effect would be worse than refused.
    given = [name for name in OF_PHOTOS if getattr(args, name) != p.get_default(name)]
    if given:
        flag = f'--{given[0].replace("_", "-")}'
        # Where size alone decided, the user may decide otherwise.
        free = args.input and not (args.fit or args.gt or args.aligned)
        raise RunError(
            f'{flag} is for photographs, and these are restored as aligned faces ({why}): leave '
            f'{flag} out' + (', or give --no-aligned' if free else '')
        )


def check(args: argparse.Namespace) -> None:
    """Raise RunError for flags that have no effect beside others."""
    usual = defaults()
    # Faces are written as the network makes them.
    useless = ('keep', 'parser', 'background', 'scale') if args.faces_only else ()
    for name in useless:
        if getattr(args, name) != usual[name]:
            raise RunError(f'--{name} has no effect with --faces-only: leave one of them out')
    if args.tile != usual['tile'] and args.background == 'lanczos':
        raise RunError('--tile is of networks: give --background network, or weights')


class Tools(NamedTuple):
    """What photos are restored with."""

    detector: detect.Detector
    network: Network
    how: How


def side_of(loaded: Loaded) -> int:
    """Pixels of the faces that a network is given."""
    return max(round(loaded.size / models.scale(loaded.net)), 1)


def build(args: argparse.Namespace, loaded: Loaded) -> Tools:
    """Load all that the flags name. Raises RunError."""
    check(args)
    network = applied(loaded, args)
    mask = FaceParser(args.parser, args.device).masks if args.parser else squares
    how = How(
        side=side_of(loaded),
        scale=args.scale,
        # Faces alone are written as the network makes them.
        keep=0.0 if args.faces_only else args.keep,
        min_face=args.min_face,
        batch=args.batch,
        background=None if args.faces_only else _background(args, loaded, network),
        mask=mask,
    )
    return Tools(detect.make(args.detector), network, how)


def applied(loaded: Loaded, args: argparse.Namespace) -> Network:
    """Return a network as it is applied to uint8 on the CPU."""
    autocast = loaded.autocast(torch.device(args.device), args.precision)

    # What comes in is a batch of faces or a tile, never a whole photo.
    @torch.no_grad()
    def run(x: torch.Tensor) -> torch.Tensor:
        with autocast():
            return restoration.restore(loaded.net, x.to(args.device), args.tta).cpu()

    return run


def _background(
    args: argparse.Namespace, loaded: Loaded, network: Network
) -> backgrounds.Background:
    # A filter needs no network, and says nothing about faces.
    if args.background == 'lanczos':
        return backgrounds.lanczos
    name = f'--background {args.background}'
    if args.background != 'network':
        if not Path(shipped.resolved(args.background)).exists():
            raise RunError(f'{name}: give lanczos, network, or weights; no such file is there')
        loaded = of_weights(args.background, args.device, '--background')
        network = applied(loaded, args)
    reach = backgrounds.reach(loaded.net, name)
    return backgrounds.Tiled(network, round(models.scale(loaded.net)), reach, args.tile)
