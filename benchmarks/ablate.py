"""Networks and ways to train them against each other, at equal time or at equal images.

    python benchmarks/ablate.py --data train.txt --val pairs/ --recipe ai6126_2022 --minutes 20 --variants srresnet16,unet,flagship --seeds 0,1 --out runs/ablate
    python benchmarks/ablate.py --list

Every variant and seed is a run of train.py in OUT/VARIANT-SEED; all see the same samples in the same order. The same command again goes on where it was stopped, and a finished run
is not repeated. The choice is made on the even images of the validation set, the report on the odd ones. Writes OUT/table.md, OUT/table.json and OUT/curves.png.
"""
import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import models
from benchmarks import timing
from models.__main__ import gmac
from tools import report
from training import run

SHORT = ['--batch', '4', '--ema', '800', '--ticks', '10']          # what suits runs of minutes rather than days, for all alike
UNET = ['--preset', 'unet', *SHORT]


def unet(*flags, **net):
    return [*UNET, *flags, *(['--net', json.dumps(net)] if net else [])]


ADAMW = '--optimizer', 'adamw', '--lr', '1e-3'
VARIANTS = {
    # networks
    'srresnet16':       ['--preset', 'srresnet16', *SHORT],
    'srresnet16-fast':  ['--preset', 'srresnet16', *SHORT, '--lr', '1e-3'],
    'srresnet16-muon':  ['--preset', 'srresnet16', *SHORT, '--lr', '2e-3', '--optimizer', 'muon'],
    'rcan':             ['--preset', 'rcan', *SHORT],
    'swinir78':         ['--preset', 'swinir78', *SHORT],
    'face_unaf':        ['--preset', 'face_unaf', *SHORT, '--last-share', '0'],
    'rrdb_small':       ['--preset', 'rrdb_small', *SHORT],
    'unet':             unet(*ADAMW),
    'unet-muon':        unet(),
    'flagship':         ['--preset', 'flagship', *SHORT],
    # shapes of the U-Net
    'unet-attention':   unet(*ADAMW, attention=2),
    'unet-two-steps':   unet(*ADAMW, steps=2),
    'unet-deep':        unet(*ADAMW, blocks=((1, 3, 2), 3, (2, 3, 1))),
    'unet-wide':        unet(*ADAMW, width=(48, 64, 96, 128), blocks=((1, 2, 2), 2, (2, 2, 1))),
    'unet-thin':        unet(*ADAMW, width=(24, 64, 96, 144), blocks=((1, 2, 2), 2, (2, 2, 1))),
    'unet-early':       unet(*ADAMW, blocks=((2, 4, 2), 2, (2, 3, 1))),
    'unet-late':        unet(*ADAMW, blocks=((1, 3, 2), 2, (2, 4, 2))),
    # where in the face
    'unet-no-position': unet(*ADAMW, position=0),
    'unet-symmetric':   unet(*ADAMW, symmetric=True),
    # ways to train
    'unet-muon-slow':   unet('--lr', '1e-3'),
    'unet-charbonnier': unet(*ADAMW, '--loss', 'charbonnier'),
    'unet-psnr-last':   unet(*ADAMW, '--loss', 'charbonnier', '--last-loss', 'psnr', '--last-share', '0.2'),
    'unet-usm-target':  unet(*ADAMW, '--target-usm'),
    'unet-tail':        unet(*ADAMW, '--tail', '0.1'),
    'unet-slow-ema':    unet(*ADAMW, '--ema', '4000'),
    'unet-step':        unet(*ADAMW, '--schedule', 'multistep'),
    'unet-restarts':    unet(*ADAMW, '--schedule', 'restarts'),
}


def parse(argv=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', help='HQ faces, as of train.py')
    p.add_argument('--val', help='validation set, as of train.py')
    p.add_argument('--recipe', default='ai6126_2022')
    p.add_argument('--variants', default='srresnet16,unet,flagship', help='names, or beginnings of names with a star (default: %(default)s)')
    p.add_argument('--seeds', default='0', help='default: %(default)s')
    p.add_argument('--minutes', type=float, help='of every run (default: 20, unless --nimg is given)')
    p.add_argument('--nimg', type=int, help='images of every run instead')
    p.add_argument('--out', type=Path, default=Path('runs/ablate'), help='default: %(default)s')
    p.add_argument('--list', action='store_true', help='print the variants and exit')
    p.add_argument('more', nargs='*', help='further flags for train.py, after --')
    return p.parse_args(argv)


def chosen(names):
    """Variants that the names mean; RunError for one that means none."""
    found = []
    for name in names.split(','):
        hits = [v for v in VARIANTS if v == name or name.endswith('*') and v.startswith(name[:-1])]
        found += hits or [run.choose(name, VARIANTS, 'variant')]
    return list(dict.fromkeys(found))


def train(variant, seed, args):
    """Run or finish one of them -> its directory."""
    out = args.out / f'{variant}-{seed}'
    if not (out / 'result.json').exists():
        length = ['--nimg', str(args.nimg)] if args.nimg else ['--minutes', str(args.minutes or 20)]
        command = [sys.executable, str(Path(__file__).resolve().parents[1] / 'train.py'), *VARIANTS[variant], '--seed', str(seed), '--data', args.data, '--val', args.val,
                   '--recipe', args.recipe, *length, '--out', str(out), *args.more]
        print(f'{variant}, seed {seed}: {" ".join(command[2:])}', flush=True)
        done = subprocess.run(command)
        if done.returncode or not (out / 'result.json').exists():                # stopped by a signal it exits with 0, unfinished
            raise run.RunError(f'{variant}, seed {seed} did not finish (exit {done.returncode}): the same command goes on from here')
    return out


def row(runs):
    """One line of the table: means over the seeds."""
    r = report.Run(runs[0])
    found = [json.loads((out / 'result.json').read_text()) for out in runs]
    each = [report.Run(out) for out in runs]
    odd = np.array([f['odd_half'] for f in found])
    images = np.array([x.rows[-1]['nimg'] for x in each])
    return dict(odd=float(odd.mean()), spread=float(np.ptp(odd) / 2), even=float(np.mean([f['even_half'] for f in found])), gain=float(np.mean([f['psnr'] - f['bicubic'] for f in found])),
                seeds=len(runs), parameters=models.count(r.net), gmac=gmac(lambda: models.NETWORKS[r.config['network']](**r.config['net'])), images=float(images.mean()),
                rate=float(np.mean(images / [x.seconds for x in each])))


def table(rows):
    """Markdown, best on the even half first."""
    lines = ['| variant | PSNR, odd half | +- | even half | over bicubic | seeds | parameters | GMAC | images | images/s |', '|---|---|---|---|---|---|---|---|---|---|']
    for name, x in sorted(rows.items(), key=lambda item: -item[1]['even']):
        lines.append(f'| {name} | {x["odd"]:.3f} | {x["spread"]:.3f} | {x["even"]:.3f} | {x["gain"]:+.3f} | {x["seeds"]} | {x["parameters"]:,} | {x["gmac"]:.2f} | {x["images"]:,.0f} | {x["rate"]:.1f} |')
    return '\n'.join(lines) + '\n'


def main(argv=None):
    args = parse(argv)
    if args.list:
        print('\n'.join(f'{name:18} {" ".join(flags)}' for name, flags in VARIANTS.items()))
        return 0
    try:
        if not (args.data and args.val):
            raise run.RunError('--data and --val are needed: all variants train and are judged on the same')
        variants, rows = chosen(args.variants), {}
        for seed in args.seeds.split(','):                   # all variants of one seed first: a table after every one
            for variant in variants:
                train(variant, seed, args)
                rows = {v: row(runs) for v in variants if (runs := [args.out / f'{v}-{s}' for s in args.seeds.split(',') if (args.out / f'{v}-{s}' / 'result.json').exists()])}
                run.write(args.out / 'table.md', (timing.header() + '\n\n' + table(rows)).encode())
                run.write_json(args.out / 'table.json', rows)
    except run.RunError as e:
        print(f'ablate.py: {e}', file=sys.stderr)
        return 2
    report.curves([report.Run(args.out / f'{v}-{args.seeds.split(",")[0]}') for v in variants]).save(args.out / 'curves.png')
    print(table(rows))
    return 0


if __name__ == '__main__':
    sys.exit(main())
