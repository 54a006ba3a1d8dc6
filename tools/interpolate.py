"""Between two runs of one network: weights (1 - alpha) A + alpha B (ESRGAN, sec. 3.4).

python tools/interpolate.py runs/psnr runs/gan --out between/                 a table over alpha
python tools/interpolate.py runs/psnr runs/gan --out between/ --alpha 0.3     and its weights
python tools/interpolate.py runs/new runs/gan --from runs/psnr --alpha 1 --out start/

The first writes scores.csv, curve.png and strip.png over alpha 0, 0.25, 0.5, 0.75, 1; a single
alpha also leaves weights.safetensors for infer.py --weights. Scored on the first validation set of
A, or on --val. The weights between are of use where B was trained on from A: otherwise their units
do not correspond.

With --from, alpha counts what B learned since then: A + alpha (B - FROM), a task vector (Ilharco et
al., Editing models with task arithmetic, ICLR 2023). Where A was trained on from FROM, too, it then
has most of what B has, without B's training: a start for the next one.
"""

import program

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import models
import storage
from config.schema import Config, replace_options
from errors import RunError
from tasks import loading, restoration, shipped
from tasks.players import autocast
from tasks.restoration import RestoreScores
from tasks.task import Task
from tools import arguments
from training import checkpoint, outputs, pictures, soup

SHOWN = 4  # pictures in the strip
ALPHAS = (0, 0.25, 0.5, 0.75, 1)

Weights = Mapping[str, Tensor]
Row = tuple[float, float, float]  # alpha, mean PSNR, mean SSIM


class Ends(NamedTuple):
    """Two sets of weights of one network."""

    net: nn.Module
    a: Weights
    b: Weights
    task: Task
    config: Config  # of the run of A


def load(a: str, b: str, device: str, since: str | None = None) -> Ends:
    """Both ends.

    since: --from, where the end at 1 is to be A and what B learned since then

    Raises RunError where A is no run of a restorer, CheckpointError where others belong to another
    network.
    """
    loaded = loading.load(a, None, device)
    if loaded.config is None or loaded.task.name != 'restore':
        raise RunError(f'{a} is no run of a restorer, which is what PSNR and SSIM score')
    start = copied(loaded.net)
    end = of_same(loaded.net, b)
    # Weights of one origin move in directions that can be added, as long as neither went far.
    if since:
        before = of_same(loaded.net, since)
        end = {k: w + (end[k] - before[k]) for k, w in start.items()}
    return Ends(loaded.net, start, end, loaded.task, loaded.config)


def of_same(net: nn.Module, path: str) -> dict[str, Tensor]:
    """The weights of a run or of a file, which also go into the network. Raises CheckpointError."""
    checkpoint.load_weights(net, shipped.resolved(path))
    return copied(net)


def copied(net: nn.Module) -> dict[str, Tensor]:
    """The weights of a network, apart from it."""
    return {k: v.clone() for k, v in net.state_dict().items()}


def score(
    ends: Ends, alphas: Sequence[float], device: str, val: str | None = None
) -> dict[float, RestoreScores]:
    """{alpha: scores} on one validation set; the network keeps the weights of the last alpha."""
    config = replace_options(ends.config, val=(val,)) if val else ends.config
    _, sets = ends.task.load(config, lambda _: None, lambda _: None)
    data = next(iter(sets.values()))
    scores = {}
    for alpha in sorted(set(alphas)):
        ends.net.load_state_dict(soup.between(ends.a, ends.b, alpha))
        # Averaged weights have singular vectors of their own.
        models.refresh_spectral_norm(ends.net)
        scores[alpha] = restoration.validate(
            ends.net,
            data,
            device,
            autocast=autocast(config.run.precision, device),
            show=SHOWN,
            threads=os.cpu_count() or 1,
        )
    return scores


# ------------------------------------------------------------------------------------------------
# What is written.


def table(scores: Mapping[float, RestoreScores]) -> list[Row]:
    """A row for each alpha."""
    return [(alpha, float(s.psnr.mean()), float(s.ssim.mean())) for alpha, s in scores.items()]


def csv(rows: Sequence[Row]) -> bytes:
    """The table as a file."""
    lines = [f'{alpha:g},{psnr:.4f},{ssim:.4f}\n' for alpha, psnr, ssim in rows]
    return ('alpha,psnr,ssim\n' + ''.join(lines)).encode()


def curve(path: Path, rows: Sequence[Row]) -> None:
    """Write a PNG of PSNR and SSIM over alpha."""
    figure = Figure(figsize=(7, 5), dpi=110, layout='constrained')
    upper, lower = figure.subplots(2, 1, sharex=True)
    alphas, psnr, ssim = zip(*rows, strict=True)
    for axes, values, name in ((upper, psnr, 'PSNR, dB'), (lower, ssim, 'SSIM')):
        axes.plot(alphas, values, marker='o', markersize=4)
        axes.set_ylabel(name)
        axes.grid(alpha=0.25)
        axes.spines[['top', 'right']].set_visible(False)
    lower.set_xlabel('alpha: share of B in the weights')
    pictures.save(path, figure)


def strip(path: Path, scores: Mapping[float, RestoreScores]) -> None:
    """Write a PNG with a line per picture: input, one restoration per alpha, truth."""
    columns = list(scores.values())
    rows: list[Any] = []
    figures: list[Any] = []
    for i, (lq, _, _, gt) in enumerate(columns[0].shown):
        rows.append((lq, *(s.shown[i][2] for s in columns), gt))
        figures.append((None, *(s.psnr[i] for s in columns), None))
    names = ('input', *(f'alpha {alpha:g}' for alpha in scores), 'truth')
    pictures.strip(path, rows, figures, names)


# ------------------------------------------------------------------------------------------------
# The command.


def parser() -> argparse.ArgumentParser:
    """Flags of interpolate.py."""
    p = arguments.described(__doc__)
    p.add_argument('a', metavar='RUN_A', help='run directory')
    p.add_argument('b', metavar='RUN_B', help='another one of the same network, or weights')
    p.add_argument(
        '--from',
        dest='since',
        metavar='RUN',
        help='what B was trained on from, a run or weights: add what it learned since to A',
    )
    p.add_argument(
        '--alpha',
        type=program.Several(program.ranges.SHARE),
        default=list(ALPHAS),
        help='shares of B, 0 to 1 (default: 0,0.25,0.5,0.75,1)',
    )
    p.add_argument('--out', type=Path, required=True, help='folder to write to')
    p.add_argument(
        '--val', help='validation set, as for train.py (default: the first one of RUN_A)'
    )
    p.add_argument(
        '--device',
        default='cuda' if torch.cuda.is_available() else 'cpu',
        help='where the networks run (default: %(default)s)',
    )
    return p


@program.entry
def main(argv: Sequence[str] | None = None) -> int:
    """Score and write what the command line asks for -> exit status."""
    args = parser().parse_args(argv)
    outputs.check(
        {'--out': [args.out, args.out / checkpoint.FINISHED]},
        {'--val': args.val},
        {'RUN_A': args.a, 'RUN_B': args.b, '--from': args.since},
    )
    ends = load(args.a, args.b, args.device, args.since)
    scores = score(ends, args.alpha, args.device, args.val)

    # Everything, and the weights where there is one alpha that they can be of.
    rows = table(scores)
    storage.write(args.out / 'scores.csv', csv(rows))
    curve(args.out / 'curve.png', rows)
    strip(args.out / 'strip.png', scores)
    if len(rows) == 1:
        checkpoint.save_weights(args.out / checkpoint.FINISHED, ends.net.state_dict())

    first = next(iter(scores.values()))
    print(
        f'alpha    PSNR, dB    SSIM      over {len(first.psnr)} pairs; '
        f'{first.baseline_name} has {first.baseline.mean():.4f} dB'
    )
    for alpha, psnr, ssim in rows:
        print(f'{alpha:<5g}    {psnr:8.4f}    {ssim:.4f}')
    print(f'{args.out}: {", ".join(sorted(path.name for path in args.out.iterdir()))}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
