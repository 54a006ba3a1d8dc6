"""Networks and ways to train them against each other, at equal time or at equal images.

    python benchmarks/ablate.py --data train.txt --val pairs/ --recipe ai6126_2022 --minutes 20 --variants srresnet16,unet,flagship --seeds 0,1 --out runs/ablate
    python benchmarks/ablate.py --list

Every variant and seed is a run of train.py in OUT/VARIANT-SEED; all see the same samples in the same order. The same command again goes on where it was stopped, and a finished run
is not repeated. The choice is made on the even images of the validation set, the report on the odd ones. Writes OUT/table.md, OUT/table.json and OUT/curves.png.
"""

import argparse
import json
import sys

from errors import RunError
from tools import compare
from training import run

SHORT = [
    '--batch',
    '4',
    '--ema',
    '800',
    '--ticks',
    '10',
]  # what suits runs of minutes rather than days, for all alike
UNET = ['--preset', 'unet', *SHORT]


def unet(*flags, **net):
    return [*UNET, *flags, *(['--net', json.dumps(net)] if net else [])]


ADAMW = '--optimizer', 'adamw', '--lr', '1e-3'
MUON = (
    '--optimizer',
    'muon',
    '--lr',
    '2e-3',
    '--schedule',
    'cosine',
    '--loss',
    'l1',
    '--weight-decay',
    '0',
)
VARIANTS = {
    # networks, as their presets have them
    'srresnet16': ['--preset', 'srresnet16', *SHORT],
    'srresnet16-fast': ['--preset', 'srresnet16', *SHORT, '--lr', '1e-3'],
    'rcan': ['--preset', 'rcan', *SHORT],
    'swinir78': ['--preset', 'swinir78', *SHORT],
    'face_unaf': ['--preset', 'face_unaf', *SHORT, '--last-share', '0'],
    'rrdb_small': ['--preset', 'rrdb_small', *SHORT],
    # trained as unet-muon is, which is fairer to them where time is short
    'srresnet16-muon': ['--preset', 'srresnet16', *SHORT, *MUON],
    'rcan-muon': ['--preset', 'rcan', *SHORT, *MUON],
    'swinir78-muon': ['--preset', 'swinir78', *SHORT, *MUON],
    'face_unaf-muon': ['--preset', 'face_unaf', *SHORT, *MUON, '--last-share', '0'],
    'rrdb_small-muon': ['--preset', 'rrdb_small', *SHORT, *MUON],
    # small networks of this kind
    'unet': unet(*ADAMW),
    'unet-muon': unet(),
    'flagship': ['--preset', 'flagship', *SHORT],
    # shapes of the U-Net
    'unet-attention': unet(*ADAMW, attention=2),
    'unet-two-steps': unet(*ADAMW, steps=2),
    'unet-deep': unet(*ADAMW, blocks=((1, 3, 2), 3, (2, 3, 1))),
    'unet-wide': unet(*ADAMW, width=(48, 64, 96, 128), blocks=((1, 2, 2), 2, (2, 2, 1))),
    'unet-thin': unet(*ADAMW, width=(24, 64, 96, 144), blocks=((1, 2, 2), 2, (2, 2, 1))),
    'unet-early': unet(*ADAMW, blocks=((2, 4, 2), 2, (2, 3, 1))),
    'unet-late': unet(*ADAMW, blocks=((1, 3, 2), 2, (2, 4, 2))),
    # where in the face
    'unet-no-position': unet(*ADAMW, position=0),
    'unet-symmetric': unet(*ADAMW, symmetric=True),
    # ways to train
    'unet-muon-slow': unet('--lr', '1e-3'),
    'unet-charbonnier': unet(*ADAMW, '--loss', 'charbonnier'),
    'unet-psnr-last': unet(
        *ADAMW, '--loss', 'charbonnier', '--last-loss', 'psnr', '--last-share', '0.2'
    ),
    'unet-usm-target': unet(*ADAMW, '--target-usm'),
    'unet-tail': unet(*ADAMW, '--tail', '0.1'),
    'unet-slow-ema': unet(*ADAMW, '--ema', '4000'),
    'unet-step': unet(*ADAMW, '--schedule', 'multistep'),
    'unet-restarts': unet(*ADAMW, '--schedule', 'restarts'),
}


def parse(argv=None):
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    compare.add_flags(p, 'runs/ablate', recipe='ai6126_2022')
    p.add_argument(
        '--variants',
        default='srresnet16,unet,flagship',
        help='names, or beginnings of names with a star (default: %(default)s)',
    )
    p.add_argument('--list', action='store_true', help='print the variants and exit')
    return p.parse_args(argv)


def chosen(names):
    """Variants that the names mean; RunError for one that means none."""
    found = []
    for name in names.split(','):
        hits = [v for v in VARIANTS if v == name or name.endswith('*') and v.startswith(name[:-1])]
        found += hits or [run.choose(name, VARIANTS, 'variant')]
    return list(dict.fromkeys(found))


def table(rows):
    """Markdown, best on the even half first."""
    lines = [
        '| variant | PSNR, odd half | +- | even half | over bicubic | seeds | parameters | GMAC | images | images/s |',
        '|---|---|---|---|---|---|---|---|---|---|',
    ]
    for name, x in sorted(rows.items(), key=lambda item: -item[1]['even']):
        lines.append(
            f'| {name} | {x["odd"]:.3f} | {x["spread"]:.3f} | {x["even"]:.3f} | {x["gain"]:+.3f} | {x["seeds"]} | {x["parameters"]:,} | {x["gmac"]:.2f} | {x["images"]:,.0f} | {x["rate"]:.1f} |'
        )
    return '\n'.join(lines) + '\n'


def main(argv=None):
    args = parse(argv)
    if args.list:
        print('\n'.join(f'{name:18} {" ".join(flags)}' for name, flags in VARIANTS.items()))
        return 0
    try:
        variants, rows = {name: VARIANTS[name] for name in chosen(args.variants)}, {}

        def tell(done):  # a table after every run
            rows.update((name, compare.row(runs)) for name, runs in done.items())
            compare.write(args.out, 'table', rows, table(rows))

        compare.all_of(variants, args, tell)
    except RunError as e:
        print(f'ablate.py: {e}', file=sys.stderr)
        return 2
    compare.curves(args.out, [args.out / f'{name}-{args.seeds.split(",")[0]}' for name in variants])
    print(table(rows))
    return 0


if __name__ == '__main__':
    sys.exit(main())
