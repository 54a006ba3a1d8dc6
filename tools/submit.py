"""Make what a challenge takes, and refuse what it would.

python tools/submit.py challenge runs/mine/restored --names LQ/ --gt GT/ --out submission.zip
python tools/submit.py handin restored/ --names LQ/ --run runs/mine --matric U1234567A \\
    --codalab-user me --report report.pdf --screenshot board.png

`challenge`: a zip of one folder with the restored images, under the names of the inputs. `handin`:
MATRIC.zip with report, results, code, logs, weights, Readme.txt and the leaderboard's screenshot.
Both check every file first: names, number, 8-bit RGB PNG, size, and the network's parameters. Exit
code 2 with the reason if something is wrong. With --masks the files are masks of a parser, PNGs of
ids 0 to 18.
"""

import program

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import models
from config.stored import checked as checked_options
from errors import RunError
from sources import files
from tools import arguments
from tools.submission import checks, hand_in, scores, zips
from tools.submission.readme import readme
from training import outputs, run

# ------------------------------------------------------------------------------------------------
# What both verbs check.


class Checked(NamedTuple):
    """What passed every check that both verbs make."""

    paths: list[Path]
    said: str  # about them
    home: Path | None  # run, or weights, of the network


def checked(args: argparse.Namespace) -> Checked:
    """Every check that both verbs make. Raises RunError."""
    names = checks.wanted(args.names)
    paths = checks.check(args.results, names, args.size, args.count, args.masks)
    said = f'{len(paths)} {"masks" if args.masks else "images"} of {args.size}x{args.size}'

    # infer.py writes into the run by default, which then is beside the results.
    home = args.run
    if home is None and (args.results.parent / 'config.json').is_file():
        home = args.results.parent
    if home:
        said += f', a network of {checks.check_network(home, args.limit)}'
    else:
        print('the network was not checked: name its run or weights with --run')

    if args.gt and args.masks:
        figures = scores.score_masks(paths, args.gt, args.results)
        said += f', mIoU {figures.miou:.4f} %, mean F1 {figures.f1:.4f} %'
    elif args.gt:
        mean_psnr, mean_ssim = scores.score(paths, args.gt, args.results)
        said += f', PSNR {mean_psnr:.4f} dB, SSIM {mean_ssim:.4f}'
    return Checked(paths, said, home)


# ------------------------------------------------------------------------------------------------
# The two verbs.


def challenge(args: argparse.Namespace) -> None:
    """The zip that a challenge takes."""
    paths, said, _ = checked(args)
    # Losslessly, by up to a third.
    too_large = sum(p.stat().st_size for p in paths) > 0.99 * args.max_mb * 1e6
    entries = {}
    for p in paths:
        data = files.read_bytes(p)
        if args.compress or too_large:
            data = zips.smaller(data, args.masks)
        entries[f'{args.folder}/{p.relative_to(args.results).as_posix()}'] = data
    size = zips.write_zip(args.out, entries, args.max_mb)
    print(f'{args.out}: {said}, {size / 1e6:.1f} MB')


def handin(args: argparse.Namespace) -> None:
    """The zip that a course takes."""
    # Universities have numbers of many kinds; it only has to be the name of a file.
    if not re.fullmatch(r'\w[\w-]{0,39}', args.matric):
        raise RunError(
            f'--matric {args.matric} is no matriculation number: letters, digits, - and _'
        )
    paths, said, home = checked(args)
    if home is None or not (home / 'config.json').is_file():
        raise RunError(f'--run {home} is no run directory')

    top = args.matric
    entries = {
        f'{top}/results/{p.relative_to(args.results).as_posix()}': files.read_bytes(p)
        for p in paths
    }
    entries |= hand_in.of_run(top, home)
    for path in hand_in.code():
        entries[f'{top}/code/{path}'] = (hand_in.ROOT / path).read_bytes()
    for given, name, remedy in (
        (args.report, 'report.pdf', 'make it with tools/report.py'),
        (args.screenshot, 'leaderboard.png', 'take it from the leaderboard'),
    ):
        # What is not there yet leaves a note in its place.
        if given and not given.is_file():
            raise RunError(f'{given} does not exist: {remedy}')
        if given:
            entries[f'{top}/{name}'] = given.read_bytes()
        else:
            note = f'{name} belongs here: {remedy}\n'
            entries[f'{top}/{name}.missing.txt'] = note.encode()
    stored = checked_options(run.read_config(home), f'{home}/config.json')
    text = readme(args, stored, sorted(entries), said)
    entries[f'{top}/Readme.txt'] = text.encode()

    out = args.out / f'{args.matric}.zip'
    size = zips.write_zip(out, entries)
    print(f'{out}: {said}, {size / 1e6:.1f} MB, {len(entries)} files')
    for name in entries:
        if name.endswith('.missing.txt'):
            print(f'still to add: {name.split("/")[1].removesuffix(".missing.txt")}')


# ------------------------------------------------------------------------------------------------
# The command.


def parser() -> argparse.ArgumentParser:
    """Flags of submit.py."""
    p = arguments.described(__doc__)
    verbs = p.add_subparsers(dest='verb', required=True)
    functions: dict[str, Callable[[argparse.Namespace], None]] = {
        'challenge': challenge,
        'handin': handin,
    }
    for name, function in functions.items():
        v = verbs.add_parser(name, help=function.__doc__, formatter_class=program.Formatter)
        v.set_defaults(function=function)
        _add_common(v)
        (_add_challenge if name == 'challenge' else _add_handin)(v)
    return p


def _add_common(v: argparse.ArgumentParser) -> None:
    v.add_argument('results', type=Path, help='folder of restored images, as infer.py writes it')
    v.add_argument(
        '--names', type=Path, required=True, help='folder of the inputs, whose names are wanted'
    )
    v.add_argument(
        '--run',
        type=Path,
        help='run directory, or weights, of the network (default: the folder that RESULTS lies in)',
    )
    v.add_argument(
        '--gt', type=Path, help='folder of ground truth: prints PSNR and SSIM, of masks mIoU and F1'
    )
    v.add_argument(
        '--size',
        type=program.ranges.SIDE,
        default=512,
        help='side of the images in pixels (default: %(default)s)',
    )
    v.add_argument(
        '--count',
        type=program.ranges.COUNT,
        help='images the challenge wants (default: as many as --names holds)',
    )
    v.add_argument(
        '--limit',
        type=program.ranges.COUNT,
        help='parameters the network must stay below (default: '
        f'{models.BUDGET} of one that enlarges)',
    )
    v.add_argument('--masks', action='store_true', help='the files are masks of a parser')


def _add_challenge(v: argparse.ArgumentParser) -> None:
    v.add_argument(
        '--out',
        type=Path,
        default=Path('submission.zip'),
        help='zip to write (default: %(default)s)',
    )
    v.add_argument(
        '--folder', default='results', help='the one folder in the zip (default: %(default)s)'
    )
    v.add_argument(
        '--max-mb',
        type=program.ranges.MEGABYTES,
        default=30,
        help='largest zip in MB (default: %(default)s)',
    )
    v.add_argument(
        '--compress',
        action='store_true',
        help='rewrite the PNGs at the highest compression, same pixels (done anyway if they are '
        'too large)',
    )


def _add_handin(v: argparse.ArgumentParser) -> None:
    v.add_argument('--matric', required=True, help='matriculation number, the name of the zip')
    v.add_argument('--codalab-user', required=True, help='name on the leaderboard')
    v.add_argument('--report', type=Path, help='PDF, from tools/report.py')
    v.add_argument('--screenshot', type=Path, help='picture of the leaderboard')
    v.add_argument('--out', type=Path, default=Path('.'), help='folder of the zip (default: here)')


@program.entry
def main(argv: Sequence[str] | None = None) -> int:
    """Write the zip that the command line asks for -> exit status."""
    args = parser().parse_args(argv)
    given = vars(args)
    written = args.out / f'{args.matric}.zip' if args.verb == 'handin' else args.out
    outputs.check(
        {'--out': written},
        {'RESULTS': args.results, '--names': args.names, '--gt': args.gt},
        {flag: given.get(flag[2:]) for flag in ('--run', '--report', '--screenshot')},
    )
    args.function(args)
    return 0


if __name__ == '__main__':
    sys.exit(main())
