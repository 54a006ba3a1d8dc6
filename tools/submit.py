"""Make what a challenge takes, and refuse what it would.

    python tools/submit.py challenge runs/mine/restored --names LQ/ [--gt GT/] --out submission.zip
    python tools/submit.py handin runs/mine/restored --names LQ/ --run runs/mine --matric U1234567A --codalab-user me [--report report.pdf] [--screenshot board.png]

`challenge`: a zip of one folder with the restored images, under the names of the inputs. `handin`: MATRIC.zip with report, results, code, logs, weights, Readme.txt and the
leaderboard's screenshot. Both check every file first: names, number, 8-bit RGB PNG, size, and the network's parameters. Exit code 2 with the reason if something is wrong.
With --masks the files are masks of a parser, PNGs of ids 0 to 18.
"""

import argparse
import importlib.metadata
import io
import json
import re
import shlex
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from pathlib import Path

import cv2
import numpy as np
import torch

from errors import BadFile, CheckpointError

ROOT = Path(__file__).resolve().parents[1]

import models
import tasks
from config import presets
from config.schema import flatten, from_flat
from errors import RunError
from faces import masks
from metrics.miou import Confusion
from metrics.psnr import psnr
from metrics.ssim import ssim
from sources import files
from training import checkpoint, run

PICTURES = '.png', '.jpg', '.jpeg'
WORDS, OFF = (
    ('arch', 'prior', 'drop_priors'),
    {'gan_level': 0},
)  # flags that take several words; what says of one that it is off
ENTRY = (1980, 1, 1, 0, 0, 0)  # the same files make the same zip


class Refused(Exception):
    """What is wrong with a submission, and what to do."""


def check(folder, names, size, count=None, of_masks=False):
    """Paths of the restored images, or masks, in the order of their names. Raises Refused.

    names: stems that are wanted; size: side in pixels of every image; count: how many there must be (default: as many as names)
    """
    if not folder.is_dir():
        raise Refused(f'{folder} is no folder of restored images: make it with infer.py')
    inside = sorted(folder.iterdir())
    nested = [p.name for p in inside if p.is_dir()]
    if nested:
        raise Refused(
            f'{folder} holds the folder {nested[0]}: the images must lie in {folder} itself'
        )
    if count is not None and len(names) != count:
        raise Refused(f'{len(names)} images are asked for by --names, the challenge wants {count}')
    wanted = {f'{n}.png' for n in names}
    missing, extra = (
        sorted(wanted - {p.name for p in inside}),
        [p.name for p in inside if p.name not in wanted],
    )
    if missing and extra and len(missing) == len(extra):
        raise Refused(
            f'{folder}: {len(extra)} wrong names, e.g. {extra[0]} where {missing[0]} is wanted'
        )
    if missing:
        raise Refused(
            f'{folder} lacks {len(missing)} of {len(wanted)} images, e.g. {missing[0]}: restore them, too'
        )
    if extra:
        raise Refused(f'{folder} holds {len(extra)} files too many, e.g. {extra[0]}: remove them')
    for path in inside:
        (_check_mask if of_masks else _check_image)(path, size)
    return inside


def _check_mask(path, size):
    try:
        height, width = masks.decode(path.read_bytes()).shape
    except (OSError, BadFile) as e:
        raise Refused(f'{path}: {e}') from e
    if (width, height) != (size, size):
        raise Refused(f'{path} is {width}x{height}, not {size}x{size}')


def _check_image(path, size):
    try:
        data = path.read_bytes()
        kind, width, height, colour = files.check(data)
        files.sound(data)
    except (OSError, BadFile) as e:
        raise Refused(f'{path}: {e}') from e
    if kind != 'png' or colour != 'rgb':
        raise Refused(f'{path} is a {colour} {kind.upper()}: an 8-bit RGB PNG is wanted')
    if (width, height) != (size, size):
        raise Refused(f'{path} is {width}x{height}, not {size}x{size}')


def check_network(path, limit):
    """What there is to say of a run's or a weight file's network. Raises Refused unless its parameters are fewer than limit; None: the challenge's, which is for
    networks that enlarge (parsers and those that keep the size have none)."""
    try:
        config = run.read_config(path) if Path(path).is_dir() else None
        net = (
            tasks.network(from_flat(config))
            if config
            else models.like(checkpoint.read_weights(path)[0])
        )
        limit = limit or (models.BUDGET if type(net) in models.NETWORKS.values() else None)
        return f'{models.enforce_param_budget(net, limit or 1 << 62):,} parameters' + (
            f' (fewer than {limit:,})' if limit else ''
        )
    except (ValueError, KeyError, RunError, CheckpointError) as e:
        raise Refused(f'{path}: {e}') from e


def score(paths, gt):
    """(mean PSNR, mean SSIM) of restored files against ground truth of the same names."""
    rows = []
    for path, truth in _with_truth(paths, gt):
        try:
            a, b = (
                torch.from_numpy(files.decode(p.read_bytes())).permute(2, 0, 1)[None]
                for p in (path, truth)
            )
        except (OSError, BadFile) as e:
            raise Refused(f'{path} and its ground truth {truth}: {e}') from e
        if a.shape != b.shape:
            raise Refused(
                f'{path} is {a.shape[3]}x{a.shape[2]}, its ground truth {b.shape[3]}x{b.shape[2]}'
            )
        rows.append((float(psnr(a, b)[0]), float(ssim(a, b)[0])))
    return np.mean(rows, 0)


def score_masks(paths, gt):
    """metrics.miou.Scores of mask files against ground truth of the same names."""
    confusion = Confusion(len(masks.CLASSES))
    for path, truth in _with_truth(paths, gt):
        try:
            confusion.update(
                *(torch.from_numpy(masks.decode(p.read_bytes())) for p in (path, truth))
            )
        except (OSError, ValueError, BadFile) as e:
            raise Refused(f'{path} and its ground truth {truth}: {e}') from e
    return confusion.compute()


def _with_truth(paths, gt):
    known = {p.stem: p for p in gt.iterdir() if p.suffix.lower() in PICTURES} if gt.is_dir() else {}
    for path in paths:
        if path.stem not in known:
            raise Refused(f'--gt {gt} has no picture named {path.stem}')
        yield path, known[path.stem]


def smaller(data, of_masks=False):
    """A PNG's pixels at the highest compression, if that is smaller."""
    if of_masks:
        best = masks.png(masks.decode(data))
        return best if len(best) < len(data) else data
    best = cv2.imencode(
        '.png',
        files.decode(data)[..., ::-1],
        [cv2.IMWRITE_PNG_COMPRESSION, 9, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_ALL_FILTERS],
    )[1].tobytes()
    return (
        best if len(best) < len(data) and (files.decode(best) == files.decode(data)).all() else data
    )


def write_zip(out, entries, max_mb=None):
    """entries: {name in the zip: bytes}. Whole or not at all; raises Refused for a zip beyond max_mb, RunError where it cannot be written."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, 'w', zipfile.ZIP_DEFLATED) as z:
        for name, data in entries.items():
            z.writestr(
                zipfile.ZipInfo(name, ENTRY),
                data,
                zipfile.ZIP_STORED
                if name.endswith(('.png', '.zip', '.pdf'))
                else zipfile.ZIP_DEFLATED,
            )
    data = held.getvalue()
    if max_mb and len(data) > max_mb * 1e6:
        raise Refused(
            f'{out} would have {len(data) / 1e6:.1f} MB at the highest compression, more than --max-mb {max_mb:g}: raise it if the challenge allows that, or submit fewer images'
        )
    run.write(out, data)
    return len(data)


def checked(args):
    """(paths, line about them) after every check that both verbs make."""
    names = (
        [p.stem for p in sorted(args.names.iterdir()) if p.suffix.lower() in PICTURES]
        if args.names.is_dir()
        else None
    )
    if not names:
        raise Refused(
            f'--names {args.names} is no folder with images: give the inputs that were restored'
        )
    paths = check(args.results, names, args.size, args.count, args.masks)
    said = f'{len(paths)} {"masks" if args.masks else "images"} of {args.size}x{args.size}'
    home = args.run or next(
        (p for p in (args.results.parent,) if (p / 'config.json').is_file()), None
    )
    if home:
        said += f', a network of {check_network(home, args.limit)}'
    else:
        print('the network was not checked: name its run or weights with --run')
    if args.gt and args.masks:
        found = score_masks(paths, args.gt)
        said += f', mIoU {found.miou:.4f} %, mean F1 {found.f1:.4f} %'
    elif args.gt:
        said += ', PSNR {:.4f} dB, SSIM {:.4f}'.format(*score(paths, args.gt))
    return paths, said, home


def challenge(args):
    paths, said, _ = checked(args)
    compress = (
        args.compress or sum(p.stat().st_size for p in paths) > 0.99 * args.max_mb * 1e6
    )  # losslessly, by up to a third
    entries = {
        f'{args.folder}/{p.name}': smaller(p.read_bytes(), args.masks)
        if compress
        else p.read_bytes()
        for p in paths
    }
    size = write_zip(args.out, entries, args.max_mb)
    print(f'{args.out}: {said}, {size / 1e6:.1f} MB')


def handin(args):
    if not re.fullmatch(r'[A-Za-z]\d{6,8}[A-Za-z]', args.matric):
        raise Refused(
            f'--matric {args.matric} does not look like a matriculation number, e.g. U1234567A'
        )
    paths, said, home = checked(args)
    if home is None or not (Path(home) / 'config.json').is_file():
        raise Refused(f'--run {home} is no run directory')
    top, home = args.matric, Path(home)
    entries = {f'{top}/results/{p.name}': p.read_bytes() for p in paths}
    for name in 'config.json', 'log.jsonl', 'curves.png', 'result.json':
        if (home / name).is_file():
            entries[f'{top}/logs/{name}'] = (home / name).read_bytes()
    weights = home / checkpoint.FINISHED
    if not weights.is_file():
        raise Refused(f'{home} has no {checkpoint.FINISHED}: let the run end first')
    entries[f'{top}/checkpoint/{weights.name}'] = weights.read_bytes()
    for path in _code():
        entries[f'{top}/code/{path}'] = (ROOT / path).read_bytes()
    for given, name, remedy in (
        (args.report, 'report.pdf', 'make it with tools/report.py'),
        (args.screenshot, 'leaderboard.png', 'take it from the leaderboard'),
    ):
        if given and not given.is_file():
            raise Refused(f'{given} does not exist: {remedy}')
        entries[f'{top}/{name if given else name + ".missing.txt"}'] = (
            given.read_bytes() if given else f'{name} belongs here: {remedy}\n'.encode()
        )
    entries[f'{top}/Readme.txt'] = readme(
        args, run.read_config(home), sorted(entries), said
    ).encode()
    size = write_zip(args.out / f'{args.matric}.zip', entries)
    print(
        f'{args.out / args.matric}.zip: {said}, {size / 1e6:.1f} MB, {len(entries)} files'
        + ''.join(
            f'\nstill to add: {n.split("/")[1][:-12]}'
            for n in entries
            if n.endswith('.missing.txt')
        )
    )


def _code():
    """Files of the project under version control, or its sources where there is none."""
    try:
        listed = subprocess.run(
            ['git', '-C', str(ROOT), 'ls-files', '-z'], capture_output=True, text=True
        )
        if listed.returncode == 0 and listed.stdout:
            return [n for n in listed.stdout.split('\0') if n and (ROOT / n).is_file()]
    except OSError:  # no git on this machine
        pass
    kinds = {'.py', '.cu', '.cuh', '.h', '.cfg', '.toml', '.md'}
    return [
        str(p.relative_to(ROOT))
        for p in sorted(ROOT.rglob('*'))
        if (p.suffix in kinds or p.name == 'Makefile')
        and not any(part.startswith('.') or part == 'runs' for part in p.relative_to(ROOT).parts)
    ]


def readme(args, config, names, said):
    """Text of Readme.txt."""
    setup = ConfigParser()
    setup.read(ROOT / 'setup.cfg')
    libraries = [
        re.match(r'[\w.-]+', line)[0]
        for line in setup['options']['install_requires'].split('\n')
        if line and not line.startswith('#')
    ]
    flags = ' '.join(_flags(config))
    folders = {}
    for name in names:
        part = name.split('/')[1]
        folders[part] = folders.get(part, 0) + 1
    what = {
        'results': 'restored images',
        'code': 'the program',
        'logs': 'options, losses and scores of the run',
        'checkpoint': 'weights of the network',
        'report.pdf': 'the report',
        'leaderboard.png': 'screenshot of the leaderboard',
    }
    return '\n'.join(
        [
            f'Matriculation number: {args.matric}',
            f'CodaLab user: {args.codalab_user}',
            '',
            said,
            '',
            'Files',
            *(
                f'  {part}{f" ({n} files)" if n > 1 else ""}: {what.get(part, "to be added")}'
                for part, n in folders.items()
            ),
            '',
            'Third-party libraries',
            *(f'  {name} {_version(name)}' for name in libraries),
            '',
            'How to run (in the folder code)',
            '  make train                   environment and demo',
            f'  python train.py {flags} --data FACES --val PAIRS --out RUN',
            '  python infer.py --run RUN --input LQ --output results',
            f'  python infer.py --weights ../checkpoint/{checkpoint.FINISHED} --input LQ --output results',
            '',
        ]
    )


def _flags(config):
    """What to give train.py beside --data, --val and --out to make this run again."""
    made = presets.config(
        config['preset'],
        **presets.row(config['preset'], features=bool(config['vgg'] or config['parser'])),
    )
    preset = json.loads(json.dumps(flatten(made)))
    yield f'--preset {config["preset"]}'
    for k, v in config.items():
        if k in (
            'preset',
            'data',
            'val',
            'out',
            'task',
            'format',
            'images',
            'guides',
            'threads',
            'device',
            'pipe',
            'cache',
            'save_minutes',
        ) or v == preset.get(k):
            continue
        v = OFF.get(k, v)
        if v is None:
            continue
        flag = k.replace('_', '-')
        if isinstance(v, bool):
            yield f'--{"" if v else "no-"}{flag}'
        else:
            words = (
                [json.dumps(v)]
                if isinstance(v, dict)
                else v
                if k in WORDS
                else [','.join(map(str, v)) if isinstance(v, list) else str(v)]
            )
            yield f'--{flag} {shlex.join(words)}'


def _version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return '(not installed)'


def parse(argv=None):
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = p.add_subparsers(dest='verb', required=True)
    for name, function in ('challenge', challenge), ('handin', handin):
        v = verbs.add_parser(name)
        v.set_defaults(function=function)
        v.add_argument(
            'results', type=Path, help='folder of restored images, as infer.py writes it'
        )
        v.add_argument(
            '--names', type=Path, required=True, help='folder of the inputs, whose names are wanted'
        )
        v.add_argument(
            '--run',
            type=Path,
            help='run directory, or weights, of the network (default: the folder that RESULTS lies in)',
        )
        v.add_argument(
            '--gt',
            type=Path,
            help='folder of ground truth: prints PSNR and SSIM, of masks mIoU and F1',
        )
        v.add_argument(
            '--size',
            type=int,
            default=512,
            help='side of the images in pixels (default: %(default)s)',
        )
        v.add_argument(
            '--count',
            type=int,
            help='images the challenge wants (default: as many as --names holds)',
        )
        v.add_argument(
            '--limit',
            type=int,
            help=f'parameters the network must stay below (default: {models.BUDGET} of one that enlarges)',
        )
        v.add_argument('--masks', action='store_true', help='the files are masks of a parser')
        if name == 'challenge':
            v.add_argument(
                '--out', type=Path, default=Path('submission.zip'), help='default: %(default)s'
            )
            v.add_argument(
                '--folder',
                default='results',
                help='the one folder in the zip (default: %(default)s)',
            )
            v.add_argument(
                '--max-mb', type=float, default=30, help='largest zip in MB (default: %(default)s)'
            )
            v.add_argument(
                '--compress',
                action='store_true',
                help='rewrite the PNGs at the highest compression, same pixels (done anyway if they are too large)',
            )
        else:
            v.add_argument(
                '--matric', required=True, help='matriculation number, the name of the zip'
            )
            v.add_argument('--codalab-user', required=True, help='name on the leaderboard')
            v.add_argument('--report', type=Path, help='PDF, from tools/report.py')
            v.add_argument('--screenshot', type=Path, help='picture of the leaderboard')
            v.add_argument(
                '--out', type=Path, default=Path('.'), help='folder of the zip (default: here)'
            )
    return p.parse_args(argv)


def main(argv=None):
    args = parse(argv)
    try:
        args.function(args)
    except (Refused, RunError) as e:
        print(f'submit.py: {e}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
