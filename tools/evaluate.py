"""One table of everything that can be said about restored images: a folder of them, or several side by side, against the ground truth.

    python tools/evaluate.py restored/ --gt GT/                                    PSNR, SSIM, MS-SSIM, sharpness
    python tools/evaluate.py a/ ours=b/ input=LQ/ --gt GT/ --out results/table     several; results/table.md and results/table.json, the latter with every image
    python tools/evaluate.py restored/ --gt GT/ --parser runs/parser               also what a parser sees: mIoU and distance of landmarks to what it sees in the truth
    python tools/evaluate.py restored/ --gt GT/ --lpips alexnet.pth                also LPIPS (pip install -e .[lpips])

Images are matched by name without suffix; all folders must hold all of them. Sharpness is the gradient energy as a share of the truth's: 1 is right, blur has less.
"""

import argparse
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.progress import track

import infer
from errors import BadFile, CheckpointError, DataError, MetricError, RunError
from faces import landmarks, masks
from metrics import perceptual
from metrics.miou import Confusion
from metrics.ms_ssim import LEAST, ms_ssim
from metrics.psnr import psnr
from metrics.sharpness import sharpness
from metrics.ssim import ssim
from sources import manifest
from sources.files import decode, read_bytes
from sources.manifest import some
from tasks import parse as parsing
from tasks.batches import ahead, grouped
from tasks.players import autocast
from training import run

SPECKS = 0.05  # rows and columns of a part with less than this share of its fullest one are no ends of it: a predicted mask has specks


class Column(NamedTuple):
    title: str  # what it is, its unit, and which way is better
    digits: int


COLUMNS = {
    'psnr': Column('PSNR, dB (higher)', 3),
    'ssim': Column('SSIM (higher)', 4),
    'ms_ssim': Column('MS-SSIM (higher)', 4),
    'sharpness': Column('sharpness (1)', 3),
    'lpips': Column('LPIPS (lower)', 4),
    'miou': Column('parsing mIoU, % (higher)', 2),
    'landmarks': Column('landmarks, % of the width (lower)', 3),
}


def find(args):
    """{name of a folder: {stem: Image}}, the truth under None. Raises DataError where they do not hold the same names."""
    named = [
        (path, path) if os.path.exists(path) or '=' not in path else path.split('=', 1)
        for path in args.restored
    ]
    twice = next((name for name, _ in named if [n for n, _ in named].count(name) > 1), None)
    if twice:
        raise RunError(f'{twice} is named twice: give NAME=FOLDER')
    found = {name: _stems(path) for name, path in named} | {None: _stems(args.gt)}
    truth = found[None]
    for name, path in named:
        for stems, others, where, remedy in (
            (truth, found[name], path, f'restore these, too, or take them out of {args.gt}'),
            (found[name], truth, f'--gt {args.gt}', f'add their truth, or take them out of {path}'),
        ):
            missing = [stem for stem in stems if stem not in others]
            if missing:
                raise DataError(
                    f'{where} lacks {len(missing):,} of {len(stems):,} images ({some(missing, 3)}): {remedy}'
                )
    return found


def _stems(path):
    found = {}
    for image in manifest.scan(path, size=1, strict=True, say=lambda _: None).images:
        stem = Path(image.path).stem
        if stem in found:
            raise DataError(f'{found[stem].path} and {image.path} have one name: keep one of them')
        found[stem] = image
    return found


def read(image):
    """[3, H, W] uint8"""
    try:
        return torch.from_numpy(decode(read_bytes(*image.where))).permute(2, 0, 1)
    except (OSError, BadFile) as e:
        raise DataError(f'{image.path}: {e}') from e


class Parser:
    """What the parser of a run sees: callable (images [B, 3, H, W] uint8 on the device) -> ids [B, H, W] uint8"""

    def __init__(self, path, device):
        if not Path(path, 'config.json').is_file():
            raise RunError(f'--parser {path} is no run directory: it has no config.json')
        self.net, task, config, _ = infer.load(
            argparse.Namespace(run=path, weights=None, device=device)
        )
        if task.name != 'parse':
            raise RunError(
                f'--parser {path} is a run of {config.preset}, which restores: give one of a parser'
            )
        self.autocast = autocast(config.run.precision, device)

    def __call__(self, images):
        with self.autocast():
            return parsing.parse(self.net, images)


def distance(ours, truth):
    """ids [B, H, W] of two parsings -> [B] float64: mean distance of the landmarks that both have, in percent of the width; NaN without any."""
    (a, seen), (b, there) = (landmarks.from_mask(ids, SPECKS) for ids in (ours, truth))
    both = seen & there
    off = (
        (a - b)
        .double()
        .norm(dim=2)
        .where(both, torch.zeros((), dtype=torch.float64, device=ours.device))
    )
    return 100 / ours.shape[2] * off.sum(1) / both.sum(1)


@torch.no_grad()
def evaluate(ours, truths, args, parser, lpips, title):
    """{stem: Image} of a folder and of the truth -> ({column: [one number per image]}, {column: mean}); a mean leaves out images that have no such number (NaN)."""
    stems, rows, confusion = list(truths), [], Confusion(len(masks.CLASSES), args.device)

    def pair(i):
        a, b = read(ours[stems[i]]), read(truths[stems[i]])
        if a.shape != b.shape:
            raise DataError(
                f'{ours[stems[i]].path} is {a.shape[2]}x{a.shape[1]}, its truth {b.shape[2]}x{b.shape[1]}: images of one size can be compared'
            )
        return stems[i], a, b

    with ThreadPoolExecutor(4) as pool:
        items = ahead(pool, pair, len(stems), 2 * args.batch)
        for group in grouped(
            track(items, title, total=len(stems), disable=not sys.stderr.isatty()), args.batch
        ):
            a, b = (torch.stack(side).to(args.device) for side in list(zip(*group))[1:])
            row = {'psnr': psnr(a, b), 'ssim': ssim(a, b), 'sharpness': sharpness(a, b)}
            if min(a.shape[2:]) >= LEAST:
                row['ms_ssim'] = ms_ssim(a, b)
            if lpips:
                row['lpips'] = lpips(a, b)
            if parser:
                seen, there = parser(a), parser(b)
                confusion.update(seen, there)
                row['landmarks'] = distance(seen, there)
            rows += [{k: v[i].item() for k, v in row.items()} for i in range(len(a))]
    columns = [k for k in COLUMNS if all(k in row for row in rows)]
    each = {k: [row[k] for row in rows] for k in columns}
    means = {
        k: float('nan') if np.isnan(v).all() else float(np.nanmean(v)) for k, v in each.items()
    }
    return each, means | ({'miou': confusion.compute().miou} if parser else {})


def table(means):
    """{folder: {column: mean}} -> markdown"""
    columns = [k for k in COLUMNS if all(k in row for row in means.values())]
    cell = lambda v, digits: '-' if np.isnan(v) else f'{v:.{digits}f}'
    rows = [
        ['', *(COLUMNS[k].title for k in columns)],
        *(
            [name, *(cell(row[k], COLUMNS[k].digits) for k in columns)]
            for name, row in means.items()
        ),
    ]
    wide = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        '| '
        + ' | '.join(v.rjust(w) if i else v.ljust(w) for i, (v, w) in enumerate(zip(row, wide)))
        + ' |'
        for row in rows
    ]
    return '\n'.join(
        [
            lines[0],
            '|' + '|'.join('-' * (w + 1) + (':' if i else '-') for i, w in enumerate(wide)) + '|',
            *lines[1:],
        ]
    )


def main(argv=None):
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument(
        'restored', nargs='+', help='folders of restored images, each FOLDER or NAME=FOLDER'
    )
    p.add_argument('--gt', required=True, help='folder of the ground truth, with the same names')
    p.add_argument(
        '--lpips',
        help="weights of torchvision's AlexNet or VGG16, a file: LPIPS, too (pip install -e .[lpips])",
    )
    p.add_argument(
        '--parser',
        help='run of a parser: mIoU between its masks of the restored and of the true faces, and the distance of landmarks that follow from them',
    )
    p.add_argument(
        '--out',
        type=Path,
        help='writes OUT.md and OUT.json, the latter with every image (default: the table is printed only)',
    )
    p.add_argument(
        '--batch', type=int, default=8, help='images of one size at a time (default: %(default)s)'
    )
    p.add_argument(
        '--device',
        default='cuda' if torch.cuda.is_available() else 'cpu',
        help='default: %(default)s',
    )
    args = p.parse_args(argv)
    try:
        if args.device.startswith('cuda') and not torch.cuda.is_available():
            raise RunError(
                f'--device {args.device}: there is no CUDA GPU that torch can use; give --device cpu'
            )
        if args.batch < 1:
            raise RunError(f'--batch {args.batch}: must be positive')
        found = find(args)
        truths = found.pop(None)
        parser = Parser(args.parser, args.device) if args.parser else None
        lpips = perceptual.lpips(args.lpips, args.device) if args.lpips else None
        each, means = {}, {}
        for name, images in found.items():
            each[name], means[name] = evaluate(
                images, truths, args, parser, lpips, f'evaluating {name}'
            )
        text = table(means)
        if args.out:
            note = f'{len(truths):,} images; truth: {args.gt}' + (
                f'; parser: {args.parser}' if parser else ''
            )
            run.write(args.out.with_name(args.out.name + '.md'), f'{text}\n\n{note}\n'.encode())
            run.write_json(
                args.out.with_name(args.out.name + '.json'),
                {
                    'images': list(truths),
                    'gt': args.gt,
                    'parser': args.parser,
                    'mean': _plain(means),
                    'each': _plain(each),
                },
            )
    except (RunError, DataError, CheckpointError, MetricError) as e:
        print(f'evaluate.py: {e}', file=sys.stderr)
        return 2
    print(text)
    print(f'\nover {len(truths):,} images')
    if not all('ms_ssim' in row for row in means.values()):
        print(f'MS-SSIM is left out: its five scales need images of {LEAST}x{LEAST} or more')
    if args.out:
        print(f'{args.out}.md and {args.out}.json written')
    return 0


def _plain(values):
    """The same with None for what JSON has no number for: the PSNR of equal pictures, landmarks of no face."""
    if isinstance(values, dict):
        return {k: _plain(v) for k, v in values.items()}
    return (
        [_plain(v) for v in values]
        if isinstance(values, list)
        else values
        if np.isfinite(values)
        else None
    )


if __name__ == '__main__':
    sys.exit(main())
