"""Between two runs of one network: weights (1 - alpha) A + alpha B (network interpolation, ESRGAN, Wang et al., 2018, sec. 3.4).

    python tools/interpolate.py runs/psnr runs/gan --out between/                    scores.csv, curve.png and strip.png over alpha 0, 0.25, 0.5, 0.75, 1
    python tools/interpolate.py runs/psnr runs/gan --out between/ --alpha 0.3        also weights.safetensors: infer.py --weights between/weights.safetensors

Scored on the first validation set of A, or on --val. The weights between are of use where B was trained on from A: otherwise their units do not correspond.
"""

import argparse
import os
import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure

import infer
import models
import tasks
from config.flags import numbers
from config.schema import replace_options
from errors import CheckpointError, DataError, RunError
from tasks import restoration as restore
from tasks.players import autocast
from training import checkpoint, pictures, run

SHOWN = 4  # pictures in the strip


def between(a, b, alpha):
    """{name: tensor} of weights (1 - alpha) a + alpha b in float32; exactly a at 0 and b at 1."""
    return {k: torch.lerp(a[k].float(), b[k].float(), alpha) for k in a}


def load(args):
    """(network, weights of A, weights of B, options of A). Raises RunError where A is no run of a restorer, CheckpointError where B belongs to another network."""
    net, task, config, _ = infer.load(
        argparse.Namespace(run=args.a, weights=None, device=args.device)
    )
    if task.name != 'restore':
        raise RunError(f'{args.a} is no run of a restorer, which is what PSNR and SSIM score')
    a = {k: v.clone() for k, v in net.state_dict().items()}
    checkpoint.load_weights(net, args.b)
    return net, a, {k: v.clone() for k, v in net.state_dict().items()}, config


def score(net, a, b, config, args):
    """{alpha: restore.Scores} on one validation set; the network keeps the weights of the last."""
    if args.val:
        config = replace_options(config, val=(args.val,))
    _, sets = tasks.of(config).load(config, lambda _: None, lambda _: None)
    data = next(iter(sets.values()))
    found = {}
    for alpha in sorted(set(args.alpha)):
        net.load_state_dict(between(a, b, alpha))
        models.refresh_spectral_norm(net)
        found[alpha] = restore.validate(
            net,
            data,
            args.device,
            autocast=autocast(config.run.precision, args.device),
            show=SHOWN,
            threads=os.cpu_count(),
        )
    return found


def table(found):
    """[(alpha, mean PSNR, mean SSIM)]"""
    return [(alpha, float(s.psnr.mean()), float(s.ssim.mean())) for alpha, s in found.items()]


def curve(path, rows):
    """Write a PNG of PSNR and SSIM over alpha."""
    figure = Figure(figsize=(7, 5), dpi=110, layout='constrained')
    alphas, *values = zip(*rows)
    for axes, y, name in zip(figure.subplots(2, 1, sharex=True), values, ('PSNR, dB', 'SSIM')):
        axes.plot(alphas, y, marker='o', markersize=4)
        axes.set_ylabel(name)
        axes.grid(alpha=0.25)
        axes.spines[['top', 'right']].set_visible(False)
    axes.set_xlabel('alpha: share of B in the weights')
    pictures.save(path, figure)


def strip(path, found):
    """Write a PNG with a line per picture: input, one restoration per alpha, truth."""
    scores = list(found.values())
    rows = [
        (lq, *(s.shown[i][2] for s in scores), gt)
        for i, (lq, _, _, gt) in enumerate(scores[0].shown)
    ]
    dB = [(None, *(s.psnr[i] for s in scores), None) for i in range(len(rows))]
    pictures.strip(path, rows, dB, ('input', *(f'alpha {alpha:g}' for alpha in found), 'truth'))


def main(argv=None):
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument('a', metavar='RUN_A', help='run directory')
    p.add_argument('b', metavar='RUN_B', help='another one of the same network, or weights')
    p.add_argument(
        '--alpha',
        type=numbers,
        default=[0, 0.25, 0.5, 0.75, 1],
        help='shares of B, 0 to 1 (default: 0,0.25,0.5,0.75,1)',
    )
    p.add_argument('--out', type=Path, required=True, help='folder to write to')
    p.add_argument(
        '--val', help='validation set, as for train.py (default: the first one of RUN_A)'
    )
    p.add_argument(
        '--device',
        default='cuda' if torch.cuda.is_available() else 'cpu',
        help='default: %(default)s',
    )
    args = p.parse_args(argv)
    try:
        if not all(0 <= alpha <= 1 for alpha in args.alpha):
            raise RunError(
                f'--alpha {",".join(f"{alpha:g}" for alpha in args.alpha)}: shares of B from 0 to 1 are wanted'
            )
        if (args.out / 'config.json').exists():
            raise RunError(
                f'--out {args.out} is a run directory, whose own weights would be lost: name another folder'
            )
        net, a, b, config = load(args)
        found = score(net, a, b, config, args)
        rows = table(found)
        run.write(
            args.out / 'scores.csv',
            (
                'alpha,psnr,ssim\n'
                + ''.join(f'{alpha:g},{p:.4f},{s:.4f}\n' for alpha, p, s in rows)
            ).encode(),
        )
        curve(args.out / 'curve.png', rows)
        strip(args.out / 'strip.png', found)
        if len(rows) == 1:
            checkpoint.save_weights(args.out / checkpoint.FINISHED, net.state_dict())
    except (RunError, DataError, CheckpointError) as e:
        print(f'interpolate.py: {e}', file=sys.stderr)
        return 2
    first = next(iter(found.values()))
    print(
        f'alpha    PSNR, dB    SSIM      over {len(first.psnr)} pairs; {first.baseline_name} has {first.baseline.mean():.4f} dB'
    )
    print('\n'.join(f'{alpha:<5g}    {p:8.4f}    {s:.4f}' for alpha, p, s in rows))
    print(f'{args.out}: {", ".join(sorted(path.name for path in args.out.iterdir()))}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
