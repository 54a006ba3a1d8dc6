"""One table of everything that can be said about restored images against the ground truth.

python tools/evaluate.py restored/ --gt GT/                                  PSNR, SSIM, MS-SSIM
python tools/evaluate.py a/ ours=b/ input=LQ/ --gt GT/ --out results/table   several side by side
python tools/evaluate.py restored/ --gt GT/ --parser runs/parser             and what a parser sees
python tools/evaluate.py restored/ --gt GT/ --lpips alexnet.pth              and LPIPS

--out writes results/table.md and results/table.json, the latter with every image. A parser adds the
mIoU between its masks of the restored and of the true faces, and the distance of landmarks that
follow from them. LPIPS needs pip install -e .[lpips]. Images are matched by name without suffix;
all folders must hold all of them. Sharpness is the gradient energy as a share of that of the
ground truth: 1 is right, blur has less.
"""

import program

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

import storage
from errors import BadFile, DataError, RunError
from faces import landmarks, masks
from metrics import perceptual
from metrics.miou import Confusion
from metrics.ms_ssim import LEAST, ms_ssim
from metrics.psnr import psnr
from metrics.sharpness import sharpness
from metrics.ssim import ssim
from sources import listing, manifest
from sources.files import decode, read_bytes
from sources.manifest import some
from tasks.batches import ahead, grouped
from tasks.face_parser import FaceParser
from tools import arguments
from training import outputs

# A predicted mask has specks: rows and columns of a part with less than this share of its fullest
# one are no ends of it.
SPECKS = 0.05
READ_BY = 4  # threads that read and decode

Images = dict[str, manifest.Image]  # {name without suffix: image}


class Column(NamedTuple):
    """One of the table."""

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


# ------------------------------------------------------------------------------------------------
# Folders of images.


def find(restored: Sequence[str], gt: str) -> tuple[dict[str, Images], Images]:
    """({name of a folder: its images}, ground truth). Raises DataError where their names differ,
    RunError where two folders share a name."""
    paths: dict[str, str] = {}
    for text in restored:
        # A path may hold an equals sign: what exists under the whole text is a path.
        is_path = os.path.exists(text) or '=' not in text
        name, path = (text, text) if is_path else text.split('=', 1)
        if name in paths:
            raise RunError(f'{name} is named twice: give NAME=FOLDER')
        paths[name] = path
    folders = {name: _images(path) for name, path in paths.items()}
    truths = _images(gt)
    for name, path in paths.items():
        _need_all(truths, folders[name], path, f'restore these too, or take them out of {gt}')
        remedy = f'add their ground truth, or take them out of {path}'
        _need_all(folders[name], truths, f'--gt {gt}', remedy)
    return folders, truths


def _need_all(wanted: Images, present: Images, where: str, remedy: str) -> None:
    missing = [name for name in wanted if name not in present]
    if missing:
        raise DataError(
            f'{where} lacks {len(missing):,} of {len(wanted):,} images ({some(missing, 3)}): '
            f'{remedy}'
        )


def _images(path: str) -> Images:
    images = manifest.scan(path, size=1, strict=True).images
    names = listing.names(path, [image.path for image in images])
    # Without their folders, unless only these tell them apart.
    short = [os.path.basename(name) for name in names]
    return dict(zip(short if len(set(short)) == len(short) else names, images, strict=True))


def read(image: manifest.Image) -> Tensor:
    """[3, H, W] uint8. Raises DataError."""
    try:
        return torch.from_numpy(decode(read_bytes(*image.where))).permute(2, 0, 1)
    except (OSError, BadFile) as error:
        raise DataError(f'{image.path}: {error}') from error


# ------------------------------------------------------------------------------------------------
# Scores.


class Judges(NamedTuple):
    """What scores beside the figures that are always there."""

    parser: FaceParser | None
    lpips: Callable[[Tensor, Tensor], Tensor] | None


class Evaluation(NamedTuple):
    """Of one folder."""

    each: dict[str, list[float]]  # {column: one number per image}
    means: dict[str, float]  # without images that have no such number (NaN)


def distance(ours: Tensor, truth: Tensor) -> Tensor:
    """ids [B, H, W] of two parsings -> [B] float64: mean distance of the landmarks that both have,
    in percent of the width; NaN without any."""
    a, visible = landmarks.from_mask(ours, SPECKS)
    b, wanted = landmarks.from_mask(truth, SPECKS)
    both = visible & wanted
    zero = torch.zeros((), dtype=torch.float64, device=ours.device)
    off = (a - b).double().norm(dim=2).where(both, zero)
    return 100 / ours.shape[2] * off.sum(1) / both.sum(1)


@torch.no_grad()
def evaluate(
    ours: Images, truths: Images, judges: Judges, *, batch: int, device: str, title: str
) -> Evaluation:
    """Score a folder. Raises DataError for images that differ in size."""
    confusion = Confusion(len(masks.CLASSES), device)
    rows: list[dict[str, float]] = []
    for a, b in _pairs(ours, truths, batch, title):
        a, b = a.to(device), b.to(device)
        row = {'psnr': psnr(a, b), 'ssim': ssim(a, b), 'sharpness': sharpness(a, b)}
        if min(a.shape[2:]) >= LEAST:
            row['ms_ssim'] = ms_ssim(a, b)
        if judges.lpips:
            row['lpips'] = judges.lpips(a, b)
        if judges.parser:
            predicted, wanted = judges.parser(a), judges.parser(b)
            confusion.update(predicted, wanted)
            row['landmarks'] = distance(predicted, wanted)
        rows += [{k: v[i].item() for k, v in row.items()} for i in range(len(a))]

    # A column stands where every image has it.
    columns = [k for k in COLUMNS if all(k in row for row in rows)]
    each = {k: [row[k] for row in rows] for k in columns}
    means = {k: _mean(v) for k, v in each.items()}
    if judges.parser:
        means['miou'] = confusion.compute().miou
    return Evaluation(each, means)


def _pairs(ours: Images, truths: Images, batch: int, title: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of restored images and their ground truth, of one size each."""
    names = list(truths)

    def pair(i: int) -> tuple[str, Tensor, Tensor]:
        a, b = read(ours[names[i]]), read(truths[names[i]])
        if a.shape != b.shape:
            raise DataError(
                f'{ours[names[i]].path} is {a.shape[2]}x{a.shape[1]}, its ground truth '
                f'{b.shape[2]}x{b.shape[1]}: only images of one size can be compared'
            )
        return names[i], a, b

    quiet = not sys.stderr.isatty()
    with ThreadPoolExecutor(READ_BY) as pool:
        items = ahead(pool, pair, len(names), 2 * batch)
        for group in grouped(track(items, title, total=len(names), disable=quiet), batch):
            _, a, b = zip(*group, strict=True)
            yield torch.stack(a), torch.stack(b)


def _mean(values: list[float]) -> float:
    return float('nan') if np.isnan(values).all() else float(np.nanmean(values))


# ------------------------------------------------------------------------------------------------
# The table.


def table(means: Mapping[str, Mapping[str, float]]) -> str:
    """{folder: {column: mean}} -> Markdown"""
    columns = [k for k in COLUMNS if all(k in row for row in means.values())]
    rows = [['', *(COLUMNS[k].title for k in columns)]]
    for name, row in means.items():
        rows.append([name, *(_cell(row[k], COLUMNS[k].digits) for k in columns)])

    # Names to the left, numbers to the right, also for those who read it as text.
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for line in rows:
        cells = [line[0].ljust(widths[0])]
        cells += [v.rjust(w) for v, w in zip(line[1:], widths[1:], strict=True)]
        lines.append('| ' + ' | '.join(cells) + ' |')
    rules = ['-' * (w + 1) + (':' if i else '-') for i, w in enumerate(widths)]
    return '\n'.join([lines[0], '|' + '|'.join(rules) + '|', *lines[1:]])


def _cell(value: float, digits: int) -> str:
    return '-' if np.isnan(value) else f'{value:.{digits}f}'


def write(
    args: argparse.Namespace, names: list[str], text: str, done: Mapping[str, Evaluation]
) -> None:
    """OUT.md and OUT.json."""
    note = f'{len(names):,} images; truth: {args.gt}'
    if args.parser:
        note += f'; parser: {args.parser}'
    markdown, numbers = written(args.out)
    storage.write(markdown, f'{text}\n\n{note}\n'.encode())
    content = {
        'images': names,
        'gt': args.gt,
        'parser': args.parser,
        'mean': {name: plain(e.means) for name, e in done.items()},
        'each': {name: plain(e.each) for name, e in done.items()},
    }
    storage.write_json(numbers, content)


def written(out: Path) -> tuple[Path, Path]:
    """The files that --out stands for."""
    return out.with_name(f'{out.name}.md'), out.with_name(f'{out.name}.json')


def plain(values: Any) -> Any:
    """The same with None for what JSON has no number for: the PSNR of equal pictures, landmarks of
    no face."""
    if isinstance(values, dict):
        return {k: plain(v) for k, v in values.items()}
    if isinstance(values, list):
        return [plain(v) for v in values]
    return values if np.isfinite(values) else None


# ------------------------------------------------------------------------------------------------
# The command.


def parser() -> argparse.ArgumentParser:
    """Flags of evaluate.py."""
    p = arguments.described(__doc__)
    p.add_argument(
        'restored', nargs='+', help='folders of restored images, each FOLDER or NAME=FOLDER'
    )
    p.add_argument('--gt', required=True, help='folder of the ground truth, with the same names')
    p.add_argument(
        '--lpips',
        help="weights of torchvision's AlexNet or VGG16: LPIPS too (pip install -e .[lpips])",
    )
    p.add_argument('--parser', help='run of a parser: also mIoU and landmarks of its masks')
    p.add_argument(
        '--out', type=Path, help='write OUT.md and OUT.json (default: only print the table)'
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
    return p


@program.entry
def main(argv: Sequence[str] | None = None) -> int:
    """Print the table -> exit status."""
    args = parser().parse_args(argv)
    if args.device.startswith('cuda') and not torch.cuda.is_available():
        raise RunError(
            f'--device {args.device}: there is no CUDA GPU that torch can use; give --device cpu'
        )

    if args.out:
        outputs.check(
            {'--out': written(args.out)},
            {'RESTORED': args.restored, '--gt': args.gt},
            {'--parser': args.parser, '--lpips': args.lpips},
        )
    folders, truths = find(args.restored, args.gt)
    judges = Judges(
        FaceParser(args.parser, args.device) if args.parser else None,
        perceptual.lpips(args.lpips, args.device) if args.lpips else None,
    )
    done = {}
    for name, images in folders.items():
        title = f'evaluating {name}'
        done[name] = evaluate(
            images, truths, judges, batch=args.batch, device=args.device, title=title
        )
    means = {name: e.means for name, e in done.items()}
    text = table(means)
    if args.out:
        write(args, list(truths), text, done)

    print(text)
    print(f'\nover {storage.counted(len(truths), "image")}')
    if not all('ms_ssim' in row for row in means.values()):
        print(f'MS-SSIM is left out: its five scales need images of {LEAST}x{LEAST} or more')
    if args.out:
        print(f'{args.out}.md and {args.out}.json written')
    return 0


if __name__ == '__main__':
    sys.exit(main())
