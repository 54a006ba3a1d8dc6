"""This trainer beside how others degrade, load and train, in one run on one machine.

python benchmarks/side_by_side.py --data faces/ --json side.json
python benchmarks/side_by_side.py --peers --data faces/ --json side.json

  degrade  whole chains on the same images: ours, ai6126_2024 with parameters of its own for every
           sample; the same by OpenCV, an image at a time in a process per core; the same ranges by
           torch a batch at a time, with kinds and sizes drawn once for the batch and DiffJPEG in
           place of libjpeg, as in Real-ESRGAN's training code
  load     PNG files to mirrored batches: our pipes, decoding every time and from the cache; Pillow
           in torch's DataLoader; WebDataset where it is installed
  train    steps of one network with one optimiser, fed by each side's own data: ours from the
           cache, the others decode and degrade in the workers of a DataLoader

Chains are compared with the reference operation by operation, loaders image by image, before they
are timed. --peers adds whole chains of BasicSR, kornia and Albumentations where they are
installed. Nothing is fetched. Memory is the most that a row's processes hold for themselves in a
run of its own.
"""

import program

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import cv2
import torch
from matplotlib.figure import Figure

from benchmarks import pipe_throughput, side_rows, soak_watch
from benchmarks.side_rows import Case, Row
from config import flags
from errors import FacesError
from tools import arguments, timing
from training import outputs

OURS = side_rows.OURS
EVERY = 0.1  # seconds between looks at the memory

Figures = dict[str, dict[str, float]]  # {row: what was measured}
ROWS: dict[str, Callable[[Case], dict[str, Row]]] = {
    'degrade': side_rows.degrading,
    'load': side_rows.loading,
    'train': side_rows.training,
}


def measure(section: str, case: Case) -> Figures:
    """Time the rows of a section in turn -> their figures; ratios are within a round."""
    rows = ROWS[section](case)
    if case.args.only:
        rows = {name: row for name, row in rows.items() if name == case.args.only}
        if not rows:
            raise FacesError(f'--only {case.args.only}: no row of {section}')
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    # Everybody's processes stand ready at once and take turns. What was made ahead meanwhile is
    # taken by each row before its clock starts.
    with ExitStack() as stack:
        running = {name: stack.enter_context(row.start()) for name, row in rows.items()}
        for _ in range(case.args.rounds + 1):
            for name, run in running.items():
                seconds[name].append(run() / rows[name].images)
    return figures({name: of[1:] for name, of in seconds.items()}, rows)


def figures(seconds: Mapping[str, list[float]], rows: Mapping[str, Row]) -> Figures:
    """Medians over the rounds. seconds: of an image, {row: of each round}; ours comes first"""
    first = next(iter(seconds.values()))
    found: Figures = {}
    for name, of_rounds in seconds.items():
        ratios = [it / ours for it, ours in zip(of_rounds, first, strict=True)]
        found[name] = {
            'images_per_second': 1 / timing.median(of_rounds),
            'spread': timing.spread(of_rounds),
            'ratio': timing.median(ratios),
            'ratio_spread': timing.spread(ratios),
        }
        if rows[name].megapixels:
            found[name]['megapixels'] = rows[name].megapixels
    return found


def add_memory(section: str, found: Figures, args: argparse.Namespace) -> None:
    """Run every row of a section alone and add the most memory its processes held, in MB."""
    for name, of_row in found.items():
        # The same work in a process that does nothing else.
        words = ['--sections', section, '--only', name, '--rounds', '1', '--no-memory']
        words += ['--device', args.device, '--batch', args.batch, '--size', args.size]
        words += ['--threads', args.threads, '--plans', args.plans, '--steps', args.steps]
        words += ['--precision', args.precision, *(['--peers'] if args.peers else [])]
        words += ['--data', args.data] if args.data else []
        process = subprocess.Popen(
            [sys.executable, __file__, *map(str, words)], stdout=subprocess.DEVNULL, text=True
        )
        samples = soak_watch.watch(process, EVERY)
        if process.returncode:
            raise FacesError(f'{section}, {name}: alone it ended with {process.returncode}')
        of_row['memory_mb'] = max(s.memory for s in samples)


# ---- what is printed and drawn ----


def print_table(section: str, found: Figures) -> None:
    """Print a section, ours first; ratios are to the first row."""
    print(f'\n{section:38} {"img/s":>9} {"spread":>7} {"ours / it":>18} {"memory":>9} {"MP":>6}')
    for name, row in found.items():
        ratio = f'{row["ratio"]:.2f}x +- {row["ratio_spread"]:.0f} %'
        memory = f'{row["memory_mb"]:6.0f} MB' if 'memory_mb' in row else ''
        pixels = f'{row["megapixels"]:6.2f}' if 'megapixels' in row else ''
        print(
            f'{name:38} {row["images_per_second"]:9.1f} {row["spread"]:6.1f}% {ratio:>18} '
            f'{memory:>9} {pixels:>6}'
        )
    if section == 'degrade':
        print('MP: megapixels that all operations together are given for an image')


def plot(path: Path, results: Mapping[str, Figures]) -> None:
    """Draw images per second, a panel for each section."""
    heights = [len(rows) for rows in results.values()]
    figure = Figure(figsize=(9, 1 + 0.45 * sum(heights)), dpi=110, layout='constrained')
    panels = figure.subplots(len(results), 1, height_ratios=heights, squeeze=False)[:, 0]
    for axes, (section, rows) in zip(panels, results.items(), strict=True):
        names = list(rows)[::-1]
        rates = [rows[name]['images_per_second'] for name in names]
        errors = [rows[n]['spread'] * rate / 100 for n, rate in zip(names, rates, strict=True)]
        colours = ['#1f6fb4' if name.startswith(OURS) else '#8a8a8a' for name in names]
        axes.barh(names, rates, xerr=errors, color=colours)
        axes.set_title(f'{section}, images per second', loc='left', fontsize=10)
        axes.spines[['top', 'right']].set_visible(False)
    figure.savefig(path)


# ---- the command ----


def parser() -> argparse.ArgumentParser:
    """Flags of side_by_side.py."""
    p = arguments.described(__doc__)
    gpu = torch.cuda.is_available()
    p.add_argument(
        '--sections',
        type=arguments.names,
        default=list(ROWS),
        help=f'comma-separated (default: {",".join(ROWS)})',
    )
    p.add_argument('--only', help='a row to run alone, by its name in the table')
    p.add_argument('--peers', action='store_true', help='also whole chains of installed libraries')
    p.add_argument(
        '--no-memory', dest='memory', action='store_false', help='do not measure the memory'
    )
    p.add_argument(
        '--data', help='folder of HQ faces in PNG files of --size pixels (default: synthetic ones)'
    )
    p.add_argument(
        '--device', default='cuda' if gpu else 'cpu', help='where they run (default: %(default)s)'
    )
    p.add_argument(
        '--precision',
        choices=('bf16', 'fp32'),
        help='of the training (default: bf16 where the hardware computes it)',
    )
    p.add_argument('--json', type=Path, help='also write the figures to this file, and a picture')
    _add_sizes(p, gpu)
    return p


def _add_sizes(p: argparse.ArgumentParser, gpu: bool) -> None:
    """Add how much is done."""
    for flag, kind, default, what in (
        ('--plans', program.ranges.COUNT, 1024 if gpu else 64, 'images that are degraded'),
        ('--steps', program.ranges.COUNT, 100 if gpu else 8, 'training steps of a round'),
        ('--batch', program.ranges.BATCH, 16 if gpu else 4, 'images of a batch'),
        ('--size', program.ranges.SIDE, 512, 'side of the HQ images, pixels'),
        ('--rounds', program.ranges.ROUNDS, 5, 'medians are reported'),
        ('--threads', program.ranges.THREADS, os.cpu_count(), "threads of ours, others' processes"),
    ):
        p.add_argument(flag, type=kind, default=default, help=f'{what} (default: {default})')


def case_of(args: argparse.Namespace, folder: Path) -> Case:
    """What all rows work on. Raises FacesError for images that not everybody takes alike."""
    for section in args.sections:
        if section not in ROWS:
            raise FacesError(f'--sections {section}: there are {", ".join(ROWS)}')
    images = pipe_throughput.load(args.data, args.size)
    other = [i.path for i in images if (i.width, i.height, i.kind) != (args.size, args.size, 'png')]
    if other:
        raise FacesError(f'{other[0]}: not a PNG file of {args.size}x{args.size}: see --size')
    # Whole batches, so that every loader goes through the same images.
    whole = len(images) // args.batch * args.batch
    if not whole:
        raise FacesError(f'{len(images)} images are fewer than --batch {args.batch}')
    return Case(args, torch.device(args.device), images[:whole], folder)


@program.entry
def main(argv: Sequence[str] | None = None) -> int:
    """Measure every section -> exit status."""
    args = parser().parse_args(argv)
    outputs.check({'--json': args.json}, {'--data': args.data})
    args.precision = args.precision or flags.default_precision(args.device)
    cv2.setNumThreads(1)
    torch.set_num_threads(args.threads)
    if args.device.startswith('cuda'):
        torch.cuda.set_device(torch.device(args.device))
    print(timing.header())

    results: dict[str, Figures] = {}
    with tempfile.TemporaryDirectory(prefix='side-') as folder:
        case = case_of(args, Path(folder))
        for section in args.sections:
            results[section] = measure(section, case)
            if args.memory:
                add_memory(section, results[section], args)
            print_table(section, results[section])
            # What is done stays, whatever becomes of the next section.
            if args.json:
                told = {k: v for k, v in vars(args).items() if k not in ('json', 'data', 'only')}
                timing.write(args.json, **told, images=len(case.images), results=results)
                plot(args.json.with_suffix('.png'), results)
    return 0


if __name__ == '__main__':
    sys.exit(main())
