"""Flags of tools/evaluate.py, and which of them go together."""

import program

import argparse
from pathlib import Path

import torch

from errors import RunError
from storage import shown
from tasks import loading, shipped
from tools import arguments

from . import folders
from .with_truth import TRUTH
from .without_truth import OF_PYIQA

SHOWN = 6  # images of a section of the gallery
SUFFIXES = '.md', '.json', '.csv'


def parser(doc: str) -> argparse.ArgumentParser:
    """Flags of evaluate.py. doc: how its help begins"""
    p = arguments.described(doc)
    p.add_argument(
        'restored', nargs='*', help='folders of restored images, each FOLDER or NAME=FOLDER'
    )
    p.add_argument('--gt', help='folder of the ground truth, with the same names')
    p.add_argument('--input', help='folder of the inputs, to show them in the gallery')
    p.add_argument(
        '--set',
        nargs=2,
        metavar=('NAME', 'FOLDER'),
        help='a test set of the field instead of --gt and --input, in its published layout',
    )
    p.add_argument('--against', metavar='NAME', help='the method to compare with (default: first)')
    p.add_argument('--out', type=Path, help='write OUT.md, OUT.json and OUT.csv')
    p.add_argument('--gallery', action='store_true', help='write OUT.html, too: images to look at')
    p.add_argument(
        '--show',
        type=program.Whole(1, 1000),
        help=f'images of each section of the gallery (default: {SHOWN})',
    )
    p.add_argument(
        '--batch',
        type=program.ranges.BATCH,
        default=8,
        help='images of one size at a time (default: %(default)s)',
    )
    p.add_argument(
        '--device',
        default='cuda' if torch.cuda.is_available() else 'cpu',
        help='where the metrics are computed (default: %(default)s)',
    )
    _add_columns(p)
    return p


def _add_columns(p: argparse.ArgumentParser) -> None:
    # What compares an image with its own truth.
    with_gt = p.add_argument_group('further columns, with the truth')
    with_gt.add_argument(
        '--lpips',
        help="weights of torchvision's AlexNet or VGG16: LPIPS (pip install -e .[lpips])",
    )
    with_gt.add_argument(
        '--identity', metavar='ONNX', help='SFace or ArcFace: cosine and angle (Deg)'
    )
    with_gt.add_argument('--lmd', metavar='RUN', help='run or file of a landmark network: LMD')
    with_gt.add_argument(
        '--lmd-points',
        nargs='+',
        metavar='NAME=JSON',
        help='landmarks of another program instead: truth=JSON, and NAME=JSON of every method',
    )
    with_gt.add_argument(
        '--parser', help='run or file of a parser: mIoU and landmarks of its masks'
    )

    # What looks at an image alone, or at the whole folder.
    without = p.add_argument_group('further columns, with or without the truth')
    without.add_argument(
        '--niqe',
        metavar='MODEL',
        help=f'NIQE by a model: {shipped.NIQE}, which comes along, or a file',
    )
    without.add_argument(
        '--fit-niqe', metavar='FACES', help='fit it first, to a folder of pristine faces'
    )
    without.add_argument(
        '--fid', metavar='FILE', help=f'FID by a feature network in TorchScript, or {OF_PYIQA}'
    )
    without.add_argument(
        '--fid-reference',
        metavar='FOLDER',
        help='good images, to which the distance is (default: the truth)',
    )
    without.add_argument(
        '--pyiqa', type=arguments.names, metavar='NAME,...', help='metrics of the package pyiqa'
    )
    without.add_argument('--pyiqa-weights', metavar='DIR', help='where their weights are')
    without.add_argument(
        '--pyiqa-download', action='store_true', help='let pyiqa download those that are missing'
    )


# ------------------------------------------------------------------------------------------------
# What goes together.

# Flags that are of no use without a truth.
OF_TRUTH = 'lpips', 'identity', 'lmd', 'lmd_points', 'parser'
NEEDED = (
    # flag, what it needs, and why
    ('gallery', 'out', 'the page is written beside the table'),
    ('show', 'gallery', 'it is the page that shows images'),
    ('pyiqa', 'pyiqa_weights', 'weights are neither guessed nor downloaded elsewhere'),
    ('pyiqa_download', 'pyiqa_weights', 'a folder to download to'),
    ('fid_reference', 'fid', 'nothing else reads it'),
)


def check(args: argparse.Namespace) -> None:
    """Raise RunError for flags that do not go together."""
    loading.check_device(args.device)
    for flag, other, why in NEEDED:
        if getattr(args, flag) and not getattr(args, other):
            raise RunError(f'{spelt(flag)} needs {spelt(other)}: {why}')
    for wrong, what in (
        (
            args.fid == OF_PYIQA and not args.pyiqa_weights,
            f'--fid {OF_PYIQA} needs --pyiqa-weights: where its Inception is',
        ),
        (
            args.set and (args.gt or args.input),
            '--set says where truth and inputs are: leave out --gt and --input',
        ),
        (args.lmd and args.lmd_points, '--lmd and --lmd-points both give landmarks: give one'),
        (not args.restored and not args.fit_niqe, 'no folder of restored images is given'),
    ):
        if wrong:
            raise RunError(what)
    if args.out and args.out.is_dir():
        raise RunError(
            f'--out {shown(args.out)} is a folder: give the beginning of names in it, such as '
            f'{shown(args.out / "table")}'
        )
    if args.fit_niqe:
        _check_fit(niqe_path(args))
    names = folders.named(args.restored)
    if args.against and args.against not in names:
        raise RunError(f'--against {shown(args.against)} is none of {", ".join(map(shown, names))}')


def _check_fit(path: Path | None) -> None:
    """Raise RunError unless there is a place for a new model."""
    if path is None:
        raise RunError('--fit-niqe needs --niqe MODEL or --out: where the model is written')
    # A fit takes long, and what another table was made with must not change.
    if path.exists():
        raise RunError(f'--fit-niqe would write over {shown(path)}: give --niqe alone')


def spelt(name: str) -> str:
    """A flag as one types it."""
    return '--' + name.replace('_', '-')


# ------------------------------------------------------------------------------------------------
# Files.


def niqe_path(args: argparse.Namespace) -> Path | None:
    """File of NIQE's model, which --fit-niqe writes."""
    if args.niqe:
        return Path(args.niqe if args.fit_niqe else shipped.resolved(args.niqe))
    return args.out.with_name(f'{args.out.name}.niqe.safetensors') if args.out else None


def landmark_files(args: argparse.Namespace) -> dict[str, str]:
    """{'truth' or method: JSON}. Raises RunError unless each has one."""
    given = dict(entry.partition('=')[::2] for entry in args.lmd_points)
    methods = folders.named(args.restored)
    if TRUTH in methods:
        raise RunError(f'--lmd-points: a method named {TRUTH} cannot be told from the truth')
    # One file each, and none that nothing is compared with.
    wanted = {TRUTH, *methods}
    if set(given) != wanted or not all(given.values()):
        names = ' '.join(f'{shown(name)}=JSON' for name in sorted(wanted))
        raise RunError(f'--lmd-points {" ".join(map(shown, args.lmd_points))}: give {names}')
    return given


def written(args: argparse.Namespace) -> list[Path]:
    """The files that --out stands for."""
    if not args.out:
        return []
    suffixes = (*SUFFIXES, '.html') if args.gallery else SUFFIXES
    return [args.out.with_name(args.out.name + suffix) for suffix in suffixes]
