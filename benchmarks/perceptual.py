"""Perceptual losses as losses: one start, the same samples, and each judged by the others.

python benchmarks/perceptual.py --data train.txt --val pairs/ --start runs/psnr --minutes 30
python benchmarks/perceptual.py --data faces/ --val pairs/ --start runs/psnr --parser runs/parser
python benchmarks/perceptual.py --data faces/ --val pairs/ --start runs/psnr --vgg vgg19.pth

A preset is trained on from START without a perceptual loss, on EfficientNet-Lite0, and on the
features of --parser and --vgg where they are given. Each is a run of train.py in OUT/VARIANT-SEED
with the weights that the preset has for it. The same command again goes on where it was stopped.

Every variant is then measured on the whole first validation set: PSNR, sharpness, and its distance
from the truth in every kind of features, as the losses have it. Its own, in brackets, is what it
was made to make small; the others say whether more came of it. Writes OUT/table.md, OUT/table.json
and OUT/faces.png. Flags after -- go to train.py.
"""

import program

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from config import presets
from config.schema import EXTRACTORS, replace_options
from errors import RunError
from losses import efficientnet, features
from metrics.sharpness import sharpness
from tasks.players import channels_last
from tasks.restore import RestorationCriterion, criterion
from tools import arguments, compare
from tools.finished_run import FinishedRun
from training import checkpoint, outputs, pictures

# What suits runs of minutes rather than days, for all alike.
SHORT = ('--ema', '800', '--ticks', '1', '--keep', '1')
FACES = 4  # in the picture

Figures = dict[str, Any]  # psnr, sharpness, {features: distance}
Outputs = list[Tensor]  # [3, H, W] uint8
Judges = Mapping[str, RestorationCriterion]


def parser() -> argparse.ArgumentParser:
    """Flags of perceptual.py."""
    p = arguments.described(__doc__)
    compare.add_flags(p, 'runs/perceptual', recipe='ai6126_2022')
    p.add_argument('--start', required=True, help='run that every variant is trained on from')
    p.add_argument('--parser', help='run of parse_unet: its encoder as loss and as judge')
    p.add_argument('--vgg', help="weights of torchvision's VGG19: as loss and as judge")
    p.add_argument(
        '--preset',
        choices=[name for name in presets.NAMES if 'task' not in presets.row(name)],
        default='esrgan_small',
        metavar='NAME',
        help='of a restorer, for every variant (default: %(default)s)',
    )
    return p


def variants(args: argparse.Namespace) -> dict[str, list[str]]:
    """{name: flags of train.py}, 'none' first, then one for each kind of features."""
    common = ['--preset', args.preset, *SHORT, '--start', args.start]
    flags = {'none': common}
    for name, value in judging(args).items():
        flags[name] = [*common, f'--{name}', *([] if value is True else [value])]
    return flags


def judging(args: argparse.Namespace) -> dict[str, str | bool]:
    """{option: value} of the kinds of features that are compared."""
    given = {'vgg': args.vgg, 'parser': args.parser, 'efficientnet': True}
    return {name: given[name] for name in EXTRACTORS if given[name]}


def judges(run: FinishedRun, args: argparse.Namespace) -> Judges:
    """What measures distances, by the option that trains on them."""
    off: dict[str, Any] = {'vgg': None, 'parser': None, 'efficientnet': False}
    return {
        name: criterion(
            replace_options(run.config, **off | {name: value}),
            torch.device(str(run.config.run.device)),
        )
        for name, value in judging(args).items()
    }


# ------------------------------------------------------------------------------------------------
# Figures.


@torch.no_grad()
def judged(
    net: nn.Module, run: FinishedRun, data: Sequence[Any], by: Judges
) -> tuple[Figures, list[tuple[Tensor, ...]]]:
    """(figures of a network, what it makes of the first faces: input, bicubic, ours, truth)."""
    device = torch.device(str(run.config.run.device))
    net = channels_last(net, device).eval()
    scores = run.task.validate(net, data, run.config, device, show=len(data))
    rows: list[dict[str, float]] = []
    for *_, ours, truth in scores.pictures()[0]:
        a, b = (x[None].to(device) for x in (ours, truth))
        row = {'sharpness': float(sharpness(a, b)[0])}
        # What is seen is the picture in 8 bits, so that is what is compared.
        for name, judge in by.items():
            assert judge.extract is not None
            row[name] = float(features.perceptual(judge.extract, a / 255, b / 255, judge.weights))
        rows.append(row)
    mean = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    figures = {'psnr': scores.value(), 'sharpness': mean.pop('sharpness'), 'distance': mean}
    return figures, scores.pictures()[0][:FACES]


def mean_of(found: Sequence[Figures]) -> Figures:
    """Means over the seeds."""
    named = found[0]['distance']
    return {
        'psnr': float(np.mean([f['psnr'] for f in found])),
        'sharpness': float(np.mean([f['sharpness'] for f in found])),
        'distance': {k: float(np.mean([f['distance'][k] for f in found])) for k in named},
        'seeds': len(found),
        'images': float(np.mean([f['images'] for f in found])),
    }


class Comparison:
    """Rows of the table and faces of the picture, of the runs that are finished."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.figures: dict[Path, Figures] = {}
        self.faces: dict[str, list[tuple[Tensor, ...]]] = {}
        self.data: Sequence[Any] = ()
        self.by: Judges = {}

    def report(self, done: Mapping[str, Mapping[str, Path]]) -> None:
        """Measure what is new and write the files."""
        for name, runs in done.items():
            for folder in runs.values():
                if folder not in self.figures:
                    self._measure(name, folder)
        rows = {'start': self.figures[Path(self.args.start)]}
        rows |= {
            name: mean_of([self.figures[f] for f in runs.values()]) for name, runs in done.items()
        }
        compare.write(self.args.out, 'table', rows, table(rows))
        self._draw()

    def _measure(self, name: str, folder: Path) -> None:
        run = FinishedRun(folder)
        if not self.by:
            self._prepare(run)
        figures, faces = judged(run.trained(), run, self.data, self.by)
        self.figures[folder] = figures | {'images': run.images}
        self.faces.setdefault(name, faces)

    def _prepare(self, run: FinishedRun) -> None:
        """What all runs share: the validation set, the judges, and the start as they judge it."""
        _, sets = run.task.load(run.config, lambda _: None, lambda _: None)
        self.data = next(iter(sets.values()))
        self.by = judges(run, self.args)
        net = run.task.network(run.config)
        checkpoint.load_weights(net, self.args.start)
        figures, self.faces['start'] = judged(net, run, self.data, self.by)
        self.figures[Path(self.args.start)] = figures | {'seeds': 0, 'images': 0.0}

    def _draw(self) -> None:
        """faces.png: a line for each face, the truth last."""
        names = ('input', *self.faces, 'truth')
        rows = [
            (some[0][0], *(picture[-2] for picture in some), some[0][-1])
            for some in zip(*self.faces.values(), strict=True)
        ]
        pictures.strip(self.args.out / 'faces.png', rows, names=names)


def table(rows: Mapping[str, Figures]) -> str:
    """Lines of Markdown; a distance that a variant was trained on is in brackets."""
    kinds = list(next(iter(rows.values()))['distance'])
    heads = ['trained on', 'PSNR, dB', 'sharpness', *(f'{k} distance' for k in kinds)]
    heads += ['seeds', 'images']
    lines = ['| ' + ' | '.join(heads) + ' |', '|' + '---|' * len(heads)]
    for name, row in rows.items():
        of = row['distance']
        far = [f'({of[k]:.4f})' if k == name else f'{of[k]:.4f}' for k in kinds]
        cells = [name, f'{row["psnr"]:.3f}', f'{row["sharpness"]:.3f}', *far]
        cells += [f'{row["seeds"]}', f'{row["images"]:,.0f}']
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines) + '\n'


@program.entry
def main(argv: Sequence[str] | None = None) -> int:
    """Train the variants, or what is left of them, and print their table -> exit status."""
    args = parser().parse_args(argv)
    weights = {'--start': args.start, '--parser': args.parser, '--vgg': args.vgg}
    outputs.check({'--out': args.out}, {'--data': args.data, '--val': args.val}, weights)
    # Hours of other variants should not pass before a missing package is named.
    efficientnet.weights_file()
    for flag, path in weights.items():
        if path and not Path(path).exists():
            raise RunError(f'{flag} {path} does not exist')
    comparison = Comparison(args)
    compare.all_of(variants(args), args, comparison.report)
    print((args.out / 'table.md').read_text())
    return 0


if __name__ == '__main__':
    sys.exit(main())
