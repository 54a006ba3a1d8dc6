"""Look at a data set, cut samples from it, degrade it for good, and see what a run saw.

python tools/prepare.py index DATA                                    check every file
python tools/prepare.py split DATA --train-size 4000 --val-size 400   train.txt and val.txt
python tools/prepare.py degrade DATA --recipe ai6126_2024 --out val/  val/LQ and val/GT
python tools/prepare.py degrade DATA --recipe hifacegan --stacked     one picture a pair
python tools/prepare.py htj2k DATA --out htj2k/                       copies that decode fast
python tools/prepare.py annotate DATA --out meta_info.txt             names and sizes
python tools/prepare.py recipe realesrgan --out mine.toml             a recipe to change
python tools/prepare.py fit LQ --data DATA --out mine.toml            a recipe like your pictures
python tools/prepare.py preview DATA --recipe ai6126_2024             a sheet of degraded faces
python tools/prepare.py priors DATA --parser runs/parser              facial priors for mfpsnet
python tools/prepare.py replay runs/mine 12345 12346                  samples of a run

Every verb has a --help of its own.
"""

import program

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

import degrade
from errors import RunError
from tools.fitting.verb import fit
from tools.prepare_data import LISTS, annotate, degrade_all, index, split
from tools.prepare_htj2k import htj2k
from tools.prepare_priors import priors
from tools.prepare_samples import preview, recipe, replay
from training import outputs

Verb = Callable[[argparse.Namespace], None]
HQ = 'HQ faces: folder, list of files, glob, or .tar shards'


def parser() -> argparse.ArgumentParser:
    """Flags of prepare.py, verb by verb."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=program.Formatter)
    verbs = p.add_subparsers(dest='verb', required=True)

    def verb(name: str, function: Verb, out: str | None = None) -> argparse.ArgumentParser:
        v = verbs.add_parser(
            name,
            help=function.__doc__,
            description=function.__doc__,
            formatter_class=program.Formatter,
        )
        v.set_defaults(function=function)
        if out:
            what = 'file or folder to write (default: %(default)s)'
            v.add_argument('--out', type=Path, default=Path(out), help=what)
        return v

    # Verbs of a data set come before those of networks and runs.
    _add_index(verb('index', index))
    _add_split(verb('split', split, '.'))
    _add_degrade(verb('degrade', degrade_all, 'pairs'))
    verb('htj2k', htj2k, 'htj2k').add_argument('data', help=f'{HQ}, of any size')
    _add_data(verb('annotate', annotate, 'meta_info.txt'))
    _add_own_recipe(verb('recipe', recipe))
    _add_fit(verb('fit', fit, 'fitted.toml'))
    _add_preview(verb('preview', preview, 'preview.png'))
    _add_priors(verb('priors', priors, 'priors.safetensors'))
    v = verb('replay', replay, 'replay.png')
    v.add_argument('run', help='run directory')
    v.add_argument(
        'sample', type=program.ranges.SAMPLE, nargs='+', help='sample numbers, as in the log'
    )
    return p


def _add_data(v: argparse.ArgumentParser) -> None:
    v.add_argument('data', help=HQ)
    v.add_argument(
        '--size',
        type=program.ranges.SIDE,
        default=512,
        help='training size in pixels (default: %(default)s)',
    )


def _add_recipe(v: argparse.ArgumentParser) -> None:
    names = ', '.join(degrade.RECIPES)
    v.add_argument(
        '--recipe', default='ai6126_2024', help=f'{names}, or FILE.toml (default: %(default)s)'
    )


def _add_own_recipe(v: argparse.ArgumentParser) -> None:
    names = ', '.join(degrade.RECIPES)
    v.add_argument('recipe', help=f'{names}, or FILE.toml, which is written with what it extends')
    v.add_argument(
        '--out', type=Path, help='file to write, which is not there yet (default: print)'
    )


def _add_index(v: argparse.ArgumentParser) -> None:
    _add_data(v)
    v.add_argument('--verify', action='store_true', help='also decode every file')


def _add_fit(v: argparse.ArgumentParser) -> None:
    v.add_argument('lq', help='low-quality faces as they are to be restored: folder, list or glob')
    v.add_argument('--data', help=f'{HQ}, of which pictures like them are made (default: drawn)')
    v.add_argument(
        '--from',
        dest='start',
        default='simple',
        help='recipe whose ranges are fitted: a name, or FILE.toml (default: %(default)s)',
    )
    v.add_argument(
        '--size',
        type=program.ranges.SIDE,
        default=512,
        help='training size in pixels; the low-quality faces are brought to what the recipe makes '
        'of it (default: %(default)s)',
    )
    v.add_argument(
        '--count',
        type=program.ranges.Whole(1000, 1_000_000),
        default=3000,
        help='pictures made for each of the five sweeps of the search (default: %(default)s)',
    )
    v.add_argument(
        '--seed',
        type=program.ranges.SEED,
        default=0,
        help='of these pictures (default: %(default)s)',
    )


def _add_split(v: argparse.ArgumentParser) -> None:
    _add_data(v)
    v.add_argument(
        '--train-size',
        type=program.ranges.COUNT,
        help='images to train on (default: all the others)',
    )
    v.add_argument(
        '--val-size', type=program.ranges.COUNT, required=True, help='images to validate on'
    )
    v.add_argument(
        '--seed', type=program.ranges.SEED, default=0, help='of the draw (default: %(default)s)'
    )


def _add_degrade(v: argparse.ArgumentParser) -> None:
    _add_data(v)
    _add_recipe(v)
    v.add_argument(
        '--stacked',
        action='store_true',
        help='one picture a pair, the LQ above the GT, instead of two folders; for recipes that '
        'keep the size',
    )
    v.add_argument(
        '--plain',
        action='store_true',
        help='degrade the plain face where the recipe degrades the sharpened one',
    )


def _add_preview(v: argparse.ArgumentParser) -> None:
    _add_data(v)
    _add_recipe(v)
    v.add_argument(
        '--count', type=program.ranges.COUNT, default=12, help='samples (default: %(default)s)'
    )
    v.add_argument(
        '--seed', type=program.ranges.SEED, default=0, help='of the samples (default: %(default)s)'
    )


def _add_priors(v: argparse.ArgumentParser) -> None:
    # Faces, and the networks that go into the file.
    v.add_argument(
        'data',
        help='HQ training faces: folder, list of files, glob, or a folder of pictures and masks, '
        'which then say where eyes, nose and mouth are',
    )
    v.add_argument(
        '--parser',
        required=True,
        help='run or file of parse_unet, trained on degraded faces (python train.py --preset '
        'parse_prior): the dictionaries are made of its features',
    )
    v.add_argument(
        '--heatmaps',
        help='run of --preset landmarks, whose heatmaps the file is to give (default: points of '
        'the mask that the parser sees)',
    )
    v.add_argument(
        '--landmarks',
        help='JSON file of 68 landmarks of every face, which then say where eyes, nose and mouth '
        'are: {name: [[x, y], ...]} or ffhq-dataset-v2.json',
    )

    _add_dictionaries(v)
    v.add_argument(
        '--device',
        default='cuda' if torch.cuda.is_available() else 'cpu',
        help='where the parser runs (default: %(default)s)',
    )


def _add_dictionaries(v: argparse.ArgumentParser) -> None:
    """Add how large the dictionaries are, and what they are made of."""
    v.add_argument(
        '--entries',
        type=program.ranges.COUNT,
        default=128,
        help='entries of each dictionary (default: %(default)s)',
    )
    v.add_argument(
        '--level',
        type=program.ranges.LEVEL,
        help='number of the feature map of the parser that they are of, 0 the finest (default: the '
        'one of at most 128 x 128 for a whole face)',
    )

    # Which faces are looked at, and where.
    v.add_argument(
        '--faces',
        type=program.ranges.COUNT,
        default=5000,
        help='faces to look at (default: %(default)s)',
    )
    v.add_argument(
        '--batch',
        type=program.ranges.BATCH,
        default=8,
        help='faces at a time (default: %(default)s)',
    )
    v.add_argument(
        '--seed',
        type=program.ranges.SEED,
        default=0,
        help='of the choice of faces and the clusters (default: %(default)s)',
    )


@program.entry
def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line asks for -> exit status."""
    args = parser().parse_args(argv)
    given = vars(args)
    lists = [args.out / name for name in LISTS] if args.verb == 'split' else None
    outputs.check(
        {'--out': lists or given.get('out')},
        {
            'DATA': given.get('data'),
            'LQ': given.get('lq'),
            '--landmarks': given.get('landmarks'),
        },
        {flag: given.get(flag[2:]) for flag in ('--parser', '--heatmaps')},
    )
    try:
        args.function(args)
    except ValueError as error:  # a recipe, size or number that cannot be, in words
        raise RunError(str(error)) from error
    return 0


if __name__ == '__main__':
    sys.exit(main())
