"""Networks and ways to train them against each other, at equal time or at equal images.

python benchmarks/ablate.py --data train.txt --val pairs/ --minutes 20 --variants unet,flagship
python benchmarks/ablate.py --data train.txt --val pairs/ --nimg 20000 --seeds 0,1 --out runs/ablate
python benchmarks/ablate.py --list

Every variant and seed is a run of train.py in OUT/VARIANT-SEED; all of them see the same samples in
the same order. The same command again goes on where it was stopped, and a finished run is not
repeated. Weights are chosen on the even images of the validation set and reported on the odd ones.
Writes OUT/table.md, OUT/table.json and OUT/curves.png. Flags after -- go to train.py.
"""

import program

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tools import arguments, compare
from training import run

# What suits runs of minutes rather than days, for all alike.
SHORT = ('--batch', '4', '--ema', '800', '--ticks', '10')

ADAMW = ('--optimizer', 'adamw', '--lr', '1e-3')
MUON = (
    *('--optimizer', 'muon', '--lr', '2e-3', '--schedule', 'cosine'),
    *('--loss', 'l1', '--weight-decay', '0'),
)


def of(preset: str, *flags: str) -> list[str]:
    """Flags of a variant of a preset."""
    return ['--preset', preset, *SHORT, *flags]


def unet(*flags: str, **net: Any) -> list[str]:
    """Flags of a variant of the preset unet. net: arguments of the network"""
    return of('unet', *flags, *(['--net', json.dumps(net)] if net else []))


VARIANTS = {
    # Networks, as their presets have them.
    'srresnet16': of('srresnet16'),
    'srresnet16-fast': of('srresnet16', '--lr', '1e-3'),
    'rcan': of('rcan'),
    'swinir78': of('swinir78'),
    'face_unaf': of('face_unaf', '--last-share', '0'),
    'rrdb_small': of('rrdb_small'),
    # Trained as unet-muon is, which is fairer to them where time is short.
    'srresnet16-muon': of('srresnet16', *MUON),
    'rcan-muon': of('rcan', *MUON),
    'swinir78-muon': of('swinir78', *MUON),
    'face_unaf-muon': of('face_unaf', *MUON, '--last-share', '0'),
    'rrdb_small-muon': of('rrdb_small', *MUON),
    # Small networks.
    'unet': unet(*ADAMW),
    'unet-muon': unet(),
    'flagship': of('flagship'),
    # Ways to train the flagship, and shapes of it.
    'flagship-fast': of('flagship', '--lr', '4e-3'),
    'flagship-slow': of('flagship', '--lr', '1.2e-3'),
    'flagship-slower': of('flagship', '--lr', '7e-4'),
    'flagship-linear': of('flagship', '--schedule', 'linear', '--milestones', '0.03'),
    'flagship-psnr': of('flagship', '--loss', 'psnr'),
    'flagship-symmetric': of('flagship', '--net', '{"attention": 4, "symmetric": true}'),
    'flagship-low': of(
        'flagship', '--net', '{"attention": 4, "blocks": [[1, 2, 3], 2, [2, 2, 1]]}'
    ),
    # At equal images on crops, which makes deep networks affordable.
    'flagship-crops': of('flagship', '--crop', '128'),
    'srresnet16-crops': of('srresnet16', *MUON, '--crop', '128'),
    # Shapes of the U-Net.
    'unet-attention': unet(*ADAMW, attention=2),
    'unet-two-steps': unet(*ADAMW, steps=2),
    'unet-deep': unet(*ADAMW, blocks=((1, 3, 2), 3, (2, 3, 1))),
    'unet-wide': unet(*ADAMW, width=(48, 64, 96, 128), blocks=((1, 2, 2), 2, (2, 2, 1))),
    'unet-thin': unet(*ADAMW, width=(24, 64, 96, 144), blocks=((1, 2, 2), 2, (2, 2, 1))),
    'unet-early': unet(*ADAMW, blocks=((2, 4, 2), 2, (2, 3, 1))),
    'unet-late': unet(*ADAMW, blocks=((1, 3, 2), 2, (2, 4, 2))),
    # Where in the face.
    'unet-no-position': unet(*ADAMW, position=0),
    'unet-symmetric': unet(*ADAMW, symmetric=True),
    # Ways to train.
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


def parser() -> argparse.ArgumentParser:
    """Flags of ablate.py."""
    p = arguments.described(__doc__)
    compare.add_flags(p, 'runs/ablate', recipe='ai6126_2022')
    p.add_argument(
        '--variants',
        type=arguments.names,
        default='srresnet16,unet,flagship',
        help='names, or beginnings of names with a star (default: %(default)s)',
    )
    p.add_argument('--list', action='store_true', help='print the variants and exit')
    return p


def chosen(names: Sequence[str]) -> list[str]:
    """The variants that these names mean, in order. Raises RunError for one that means none."""
    variants = []
    for name in names:
        matching = [variant for variant in VARIANTS if _means(name, variant)]
        variants += matching or [run.choose(name, VARIANTS, 'variant')]
    return list(dict.fromkeys(variants))


def _means(name: str, variant: str) -> bool:
    """Whether a name, or the beginning of one with a star, is that of the variant."""
    return variant.startswith(name[:-1]) if name.endswith('*') else variant == name


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Lines of Markdown, the best on the even half first."""
    heads = (
        'variant',
        'PSNR, odd half',
        '+-',
        'even half',
        'over bicubic',
        'seeds',
        'parameters',
        'GMAC',
        'images',
        'images/s',
    )
    lines = ['| ' + ' | '.join(heads) + ' |', '|' + '---|' * len(heads)]
    for name, row in sorted(rows.items(), key=lambda item: -item[1]['even']):
        cells = (
            name,
            f'{row["odd"]:.3f}',
            f'{row["spread"]:.3f}',
            f'{row["even"]:.3f}',
            f'{row["gain"]:+.3f}',
            f'{row["seeds"]}',
            f'{row["parameters"]:,}',
            f'{row["gmac"]:.2f}',
            f'{row["images"]:,.0f}',
            f'{row["rate"]:.1f}',
        )
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines) + '\n'


@program.entry
def main(argv: Sequence[str] | None = None) -> int:
    """Train the variants, or what is left of them, and print their table -> exit status."""
    args = parser().parse_args(argv)
    if args.list:
        print('\n'.join(f'{name:18} {" ".join(flags)}' for name, flags in VARIANTS.items()))
        return 0
    compare.check_output(args)
    variants = {name: VARIANTS[name] for name in chosen(args.variants)}
    rows: dict[str, dict[str, Any]] = {}

    # A table after every run, so that a comparison of hours can be looked at in the meantime.
    def report(done: Mapping[str, Mapping[str, Path]]) -> None:
        rows.update((name, compare.row(runs)) for name, runs in done.items())
        compare.write(args.out, 'table', rows, table(rows))

    compare.all_of(variants, args, report)
    seed = str(args.seeds[0])
    compare.curves(args.out, [args.out / f'{name}-{seed}' for name in variants])
    print(table(rows))
    return 0


if __name__ == '__main__':
    sys.exit(main())
