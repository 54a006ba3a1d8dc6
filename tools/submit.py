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
import importlib.metadata
import io
import json
import re
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from configparser import ConfigParser
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

import models
import storage
import tasks
from config import presets
from config.documentation import flag
from config.schema import EXTRACTORS, flatten
from config.stored import checked as checked_options
from errors import BadFile, FacesError, RunError
from faces import masks
from metrics.miou import Confusion, SegmentationScores
from metrics.psnr import psnr
from metrics.ssim import ssim
from sources import files, layouts, listing
from tools import arguments
from training import checkpoint, outputs, places, run

ROOT = Path(__file__).resolve().parents[1]
ENTRY = (1980, 1, 1, 0, 0, 0)  # the same files make the same zip
STORED = ('.png', '.zip', '.pdf')  # compressed already

# Options that belong to the machine or the data, not to how a run is made again.
NOT_SHOWN = {
    'preset',
    'data',
    'val',
    'out',
    'task',
    'format',
    'images',
    'images_per_step',
    'fingerprint',
    'codecs',
    'guides',
    'threads',
    'device',
    'pipe',
    'cache',
    'save_minutes',
}
WORDS = ('arch', 'prior', 'drop_priors')  # options that take several words
OFF = {'gan_level': 0}  # what says of an option that it is off


# ------------------------------------------------------------------------------------------------
# Checks.


def check(
    folder: Path,
    names: Sequence[str],
    size: int,
    count: int | None = None,
    of_masks: bool = False,
) -> list[Path]:
    """Paths of the restored images, or masks, in the order of their names. Raises RunError.

    names: paths without suffix that are wanted; size: side in pixels of every image
    count: how many there must be (default: as many as names)
    """
    if not folder.is_dir():
        raise RunError(f'{folder} is no folder of restored images: make it with infer.py')
    # Only inputs in sub-folders have results there.
    nested = [name for name in listing.listed(folder) if (folder / name).is_dir()]
    if nested and not any('/' in name for name in names):
        raise RunError(
            f'{folder} holds the folder {nested[0]}: the images must lie in {folder} itself'
        )
    inside = sorted(Path(path) for path in listing.walk(folder))
    if count is not None and len(names) != count:
        raise RunError(f'{len(names)} images are asked for by --names, the challenge wants {count}')
    present = [p.relative_to(folder).as_posix() for p in inside]
    _check_names(folder, {f'{n}.png' for n in names}, present)
    for path in inside:
        (_check_mask if of_masks else _check_image)(path, size)
    return inside


def _check_names(folder: Path, wanted: set[str], present: list[str]) -> None:
    missing = sorted(wanted - set(present))
    extra = [name for name in present if name not in wanted]
    if missing and len(missing) == len(extra):
        raise RunError(
            f'{folder}: {len(extra)} wrong names, e.g. {extra[0]} where {missing[0]} is wanted'
        )
    if missing:
        raise RunError(
            f'{folder} lacks {len(missing)} of {len(wanted)} images, e.g. {missing[0]}: restore '
            'them, too'
        )
    if extra:
        raise RunError(f'{folder} holds {len(extra)} files too many, e.g. {extra[0]}: remove them')


def _check_mask(path: Path, size: int) -> None:
    try:
        height, width = masks.decode(files.read_bytes(path)).shape
    except (OSError, BadFile) as error:
        raise RunError(f'{path}: {error}') from error
    _check_size(path, width, height, size)


def _check_image(path: Path, size: int) -> None:
    try:
        data = files.read_bytes(path)
        kind, width, height, colour = files.check(data)
        files.sound(data)
    except (OSError, BadFile) as error:
        raise RunError(f'{path}: {error}') from error
    if kind != 'png' or colour != 'rgb':
        raise RunError(f'{path} is a {colour} {kind.upper()}: an 8-bit RGB PNG is wanted')
    _check_size(path, width, height, size)


def _check_size(path: Path, width: int, height: int, size: int) -> None:
    if (width, height) != (size, size):
        raise RunError(f'{path} is {width}x{height}, not {size}x{size}')


def check_network(path: Path, limit: int | None) -> str:
    """What there is to say of a run's or a weight file's network.

    Raises RunError unless its parameters are fewer than limit; None: that of the challenge, which
    is for networks that enlarge (parsers and those that keep the size have none).
    """
    try:
        if path.is_dir() and run.read_config(path):
            config = tasks.of_run(str(path))
            net = models.shapes(lambda: tasks.network(config))
        else:
            net = models.like(checkpoint.read_weights(path)[0])
        if limit is None and type(net) in models.NETWORKS.values():
            limit = models.BUDGET
        count = models.enforce_param_budget(net, limit or 1 << 62)
    except (ValueError, KeyError, FacesError) as error:
        raise RunError(f'{path}: {error}') from error
    return f'{count:,} parameters' + (f' (fewer than {limit:,})' if limit else '')


# ------------------------------------------------------------------------------------------------
# Scores.


def score(paths: Sequence[Path], gt: Path, folder: Path) -> tuple[float, float]:
    """(mean PSNR, mean SSIM) of restored files in a folder against ground truth of their names."""
    rows = []
    for path, truth in _with_truth(paths, gt, folder):
        try:
            a, b = (_decoded(p) for p in (path, truth))
        except (OSError, BadFile) as error:
            raise RunError(f'{path} and its ground truth {truth}: {error}') from error
        if a.shape != b.shape:
            raise RunError(
                f'{path} is {a.shape[3]}x{a.shape[2]}, its ground truth {b.shape[3]}x{b.shape[2]}'
            )
        rows.append((float(psnr(a, b)[0]), float(ssim(a, b)[0])))
    mean_psnr, mean_ssim = np.mean(rows, 0)
    return mean_psnr, mean_ssim


def _decoded(path: Path) -> Tensor:
    """[1, 3, H, W] uint8"""
    data = files.read_bytes(path)
    files.check(data)
    return torch.from_numpy(files.decode(data)).permute(2, 0, 1)[None]


def score_masks(paths: Sequence[Path], gt: Path, folder: Path) -> SegmentationScores:
    """Scores of mask files in a folder against ground truth of the same names."""
    confusion = Confusion(len(masks.CLASSES))
    for path, truth in _with_truth(paths, gt, folder):
        try:
            ids, wanted = (
                torch.from_numpy(masks.decode(files.read_bytes(p))) for p in (path, truth)
            )
            confusion.update(ids, wanted)
        except (OSError, ValueError, BadFile) as error:
            raise RunError(f'{path} and its ground truth {truth}: {error}') from error
    return confusion.compute()


def _with_truth(paths: Sequence[Path], gt: Path, folder: Path) -> Iterator[tuple[Path, Path]]:
    known = [path for _, path in listing.pictures(gt)] if gt.is_dir() else []
    partner = layouts.partners(dict(zip(listing.names(gt, known), known, strict=True)))
    for path in paths:
        truth = partner(str(path.relative_to(folder).with_suffix('')))
        if truth is None:
            raise RunError(f'--gt {gt} has no picture named {path.stem}')
        yield path, Path(truth)


# ------------------------------------------------------------------------------------------------
# Zips.


def smaller(data: bytes, of_masks: bool = False) -> bytes:
    """A PNG's pixels at the highest compression, if that is smaller."""
    if of_masks:
        best = masks.png(masks.decode(data))
        return best if len(best) < len(data) else data
    pixels = files.decode(data)
    highest = [cv2.IMWRITE_PNG_COMPRESSION, 9, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_ALL_FILTERS]
    best = cv2.imencode('.png', pixels[..., ::-1], highest)[1].tobytes()
    same = (files.decode(best) == pixels).all()
    return best if same and len(best) < len(data) else data


def write_zip(out: Path, entries: Mapping[str, bytes], max_mb: float | None = None) -> int:
    """Write {name in the zip: bytes}, whole or not at all -> bytes of the zip.

    Raises RunError for a zip beyond max_mb, or one that cannot be written.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w', zipfile.ZIP_DEFLATED) as z:
        for name, data in entries.items():
            method = zipfile.ZIP_STORED if name.endswith(STORED) else zipfile.ZIP_DEFLATED
            z.writestr(zipfile.ZipInfo(name, ENTRY), data, method)
    content = buffer.getvalue()
    if max_mb and len(content) > max_mb * 1e6:
        raise RunError(
            f'{out} would have {len(content) / 1e6:.1f} MB at the highest compression, more than '
            f'--max-mb {max_mb:g}: raise it if the challenge allows that, or submit fewer images'
        )
    storage.write(out, content)
    return len(content)


# ------------------------------------------------------------------------------------------------
# The two verbs.


class Checked(NamedTuple):
    """What passed every check that both verbs make."""

    paths: list[Path]
    said: str  # about them
    home: Path | None  # run, or weights, of the network


def wanted(folder: Path) -> list[str]:
    """Paths of all inputs below their folder, without suffix. Raises RunError for none."""
    inputs = [path for _, path in listing.pictures(folder)] if folder.is_dir() else []
    if not inputs:
        raise RunError(
            f'--names {folder} is no folder with images: give the inputs that were restored'
        )
    return [Path(name).as_posix() for name in listing.names(folder, inputs)]


def checked(args: argparse.Namespace) -> Checked:
    """Every check that both verbs make. Raises RunError."""
    names = wanted(args.names)
    paths = check(args.results, names, args.size, args.count, args.masks)
    said = f'{len(paths)} {"masks" if args.masks else "images"} of {args.size}x{args.size}'

    # infer.py writes into the run by default, which then is beside the results.
    home = args.run
    if home is None and (args.results.parent / 'config.json').is_file():
        home = args.results.parent
    if home:
        said += f', a network of {check_network(home, args.limit)}'
    else:
        print('the network was not checked: name its run or weights with --run')

    if args.gt and args.masks:
        scores = score_masks(paths, args.gt, args.results)
        said += f', mIoU {scores.miou:.4f} %, mean F1 {scores.f1:.4f} %'
    elif args.gt:
        mean_psnr, mean_ssim = score(paths, args.gt, args.results)
        said += f', PSNR {mean_psnr:.4f} dB, SSIM {mean_ssim:.4f}'
    return Checked(paths, said, home)


def challenge(args: argparse.Namespace) -> None:
    """The zip that a challenge takes."""
    paths, said, _ = checked(args)
    # Losslessly, by up to a third.
    too_large = sum(p.stat().st_size for p in paths) > 0.99 * args.max_mb * 1e6
    entries = {}
    for p in paths:
        data = files.read_bytes(p)
        if args.compress or too_large:
            data = smaller(data, args.masks)
        entries[f'{args.folder}/{p.relative_to(args.results).as_posix()}'] = data
    size = write_zip(args.out, entries, args.max_mb)
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
    entries |= _of_run(top, home)
    for path in _code():
        entries[f'{top}/code/{path}'] = (ROOT / path).read_bytes()
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
    size = write_zip(out, entries)
    print(f'{out}: {said}, {size / 1e6:.1f} MB, {len(entries)} files')
    for name in entries:
        if name.endswith('.missing.txt'):
            print(f'still to add: {name.split("/")[1].removesuffix(".missing.txt")}')


def _of_run(top: str, home: Path) -> dict[str, bytes]:
    """Logs and weights."""
    entries = {}
    for name in ('config.json', 'log.jsonl', 'curves.png', 'result.json', run.RECIPE):
        if (home / name).is_file():
            entries[f'{top}/logs/{name}'] = (home / name).read_bytes()
    weights = home / checkpoint.FINISHED
    if not weights.is_file():
        raise RunError(f'{home} has no {checkpoint.FINISHED}: let the run end first')
    # Weights that nobody can use are no hand-in.
    config = tasks.of_run(str(home))
    checkpoint.network_with_weights(lambda: tasks.network(config), home)
    return entries | {f'{top}/checkpoint/{weights.name}': weights.read_bytes()}


def _code() -> list[str]:
    """Files of the project under version control, or its sources where there is none; without the
    weights that come along, whose licence is another.
    """
    command = ['git', '-C', str(ROOT), 'ls-files', '-z']
    try:
        listed = subprocess.run(command, capture_output=True, text=True)
    except OSError:  # no git on this machine
        listed = None
    if listed and listed.returncode == 0 and listed.stdout:
        names = [n for n in listed.stdout.split('\0') if n and (ROOT / n).is_file()]
        return [n for n in names if not n.endswith('.safetensors')]
    kinds = {'.py', '.cu', '.cuh', '.h', '.cfg', '.toml', '.md'}
    found = []
    for path in sorted(ROOT.rglob('*')):
        name = path.relative_to(ROOT)
        private = any(part.startswith('.') or part == 'runs' for part in name.parts)
        if not private and (path.suffix in kinds or path.name == 'Makefile'):
            found.append(str(name))
    return found


# ------------------------------------------------------------------------------------------------
# Readme.txt.

WHAT = {
    'results': 'restored images',
    'code': 'the program',
    'logs': 'options, losses and scores of the run',
    'checkpoint': 'weights of the network',
    'report.pdf': 'the report',
    'leaderboard.png': 'screenshot of the leaderboard',
}


def readme(
    args: argparse.Namespace, stored: Mapping[str, Any], names: Sequence[str], said: str
) -> str:
    """Text of Readme.txt. stored: config.json of the run; names: of the files in the zip"""
    if f'{args.matric}/logs/{run.RECIPE}' in names:
        stored = {**stored, 'recipe': f'../logs/{run.RECIPE}'}
    flags = ' '.join(_flags(places.relative(stored)))
    weights = f'../checkpoint/{checkpoint.FINISHED}'
    lines = [
        f'Matriculation number: {args.matric}',
        f'CodaLab user: {args.codalab_user}',
        '',
        said,
        '',
        'Files',
        *_listed(names),
        '',
        'Third-party libraries',
        *(f'  {name} {_version(name)}' for name in _libraries()),
        '',
        'How to run (in the folder code)',
        '  make train                   environment and demo',
        f'  python train.py {flags} --data FACES --val PAIRS --out RUN',
        '  python infer.py --run RUN --input LQ --output results',
        f'  python infer.py --weights {weights} --input LQ --output results',
        '',
    ]
    return '\n'.join(lines)


def _listed(names: Sequence[str]) -> Iterator[str]:
    """A line for each file or folder of the zip."""
    count: dict[str, int] = {}
    for name in names:
        part = name.split('/')[1]
        count[part] = count.get(part, 0) + 1
    for part, n in count.items():
        several = f' ({n} files)' if n > 1 else ''
        yield f'  {part}{several}: {WHAT.get(part, "to be added")}'


def _libraries() -> list[str]:
    """Names of the packages that setup.cfg asks for."""
    setup = ConfigParser()
    setup.read(ROOT / 'setup.cfg')
    lines = setup['options']['install_requires'].split('\n')
    names = [re.match(r'[\w.-]+', line) for line in lines if line and not line.startswith('#')]
    return [name[0] for name in names if name]


def _flags(stored: Mapping[str, Any]) -> Iterator[str]:
    """What to give train.py beside --data, --val and --out to make this run again."""
    run.choose(stored.get('preset', ''), presets.NAMES, 'preset of the run')
    features = any(stored.get(name) for name in EXTRACTORS)
    row = presets.row(stored['preset'], features=features)
    default = json.loads(json.dumps(flatten(presets.config(stored['preset'], **row))))
    yield f'--preset {stored["preset"]}'
    for name, option in stored.items():
        if name in NOT_SHOWN or option == default.get(name):
            continue
        # Off is None once stored, but the preset may have it on.
        value = OFF.get(name) if option is None else option
        if isinstance(value, bool):
            yield flag(name if value else f'no_{name}')
        elif value is not None:
            yield f'{flag(name)} {shlex.join(_words(name, value))}'


def _words(name: str, value: Any) -> list[str]:
    """A value as it is written on the command line."""
    if isinstance(value, dict):
        return [json.dumps(value)]
    if name in WORDS:
        return list(value)
    if isinstance(value, list):
        return [','.join(map(str, value))]
    return [str(value)]


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return '(not installed)'


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
