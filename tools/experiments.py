"""Experiments with FRSNet and MFPSNet over several seeds, judged by paired differences.

python tools/experiments.py search --found runs/search_sr --data train.txt --val held.txt
python tools/experiments.py optimizers --data train.txt --val held.txt --minutes 20
python tools/experiments.py priors --prior runs/parser --data train.txt --val held.txt --minutes 30
python tools/experiments.py suppression --data train.txt --val held.txt --minutes 20

search compares a found architecture with random ones of equal cost, optimizers Adam with SGD and
Muon, priors every prior left out in turn, suppression what HiFaceGAN halves its pictures by. All
runs of a seed see the same samples in the same order, for the same time or number of images. Flags
after -- go to train.py (-- --size 128 --batch 4). The same command again goes on where it was
stopped; a finished run is not repeated. Writes table.md, table.json and curves.png in OUT; runs are
judged on the odd half of the validation images, whose even half chose their weights. Nothing is
claimed of a difference whose 95 % interval (Student's t over the seeds) holds 0.

priors trains anew for every prior left out, its maps being zeros, so that all networks have the
same size and begin with the same weights. Its first pass never sees a prior: it has to be as good
in every run, within 0.3 dB, or the run, not the prior, is what failed. The published ablation of
MFPSNet is such a case: without heatmaps or parsing maps its first pass falls from 23.2 to 14 dB,
which no prior can have caused.
"""

import program

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import nn

import models
import storage
from errors import RunError
from models import decode
from models.searched import Searched
from storage import records
from tasks import guides, options
from tasks.options import architectures
from tools import compare

PARITY = 0.3  # dB between the first passes of runs that differ in nothing but their priors
TOLERANCE = 0.05  # of the cost of random architectures
TRIES = 2_000  # draws for one of them
OPTIMIZERS = {
    'adam': ['--optimizer', 'adam', '--lr', '1e-3'],
    'sgd': ['--optimizer', 'sgd', '--lr', '0.1'],
    'sgd-rate-of-adam': ['--optimizer', 'sgd', '--lr', '1e-3'],  # as published
    'muon': ['--optimizer', 'muon', '--lr', '2e-3'],
}

SUPPRESSIONS = 'none', 'lip', 'pac'

Architecture = dict[str, Any]  # 'path' and 'cell'
Rows = dict[str, Any]  # {variant: line of the table}
Done = Mapping[str, dict[str, Path]]  # {variant: {seed: run directory}} of what is finished


class Told(NamedTuple):
    """What finished runs say."""

    rows: Rows
    text: str
    valid: bool = True  # False: the runs say nothing of what they were made for


class Experiment(NamedTuple):
    """Variants to train, and how to tell of them."""

    variants: dict[str, list[str]]  # {name: flags of train.py}
    tell: Callable[[Done], Told]


def parser() -> argparse.ArgumentParser:
    """Flags of experiments.py."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=program.Formatter)
    kinds = p.add_subparsers(dest='experiment', required=True, metavar=' | '.join(EXPERIMENTS))
    for name, make in EXPERIMENTS.items():
        k = kinds.add_parser(name, description=make.__doc__, formatter_class=program.Formatter)
        compare.add_flags(k, f'runs/{name}', seeds='0,1,2')
        k.add_argument('--preset', help=f'what is trained (default: {_default(name)})')
        if name == 'suppression':
            k.add_argument('--net', type=json.loads, default={}, help='more arguments, as JSON')
            continue
        k.add_argument('--prior', nargs='+', help='what guides mfpsnet, as of train.py')
        if name == 'search':
            k.add_argument('--found', required=True, help='finished search, or its arch.json')
            k.add_argument(
                '--random',
                type=program.ranges.COUNT,
                default=3,
                help='random architectures to compare with (default: %(default)s)',
            )
            k.add_argument(
                '--neighbours',
                action='store_true',
                help='compare with every path that differs in one layer, too',
            )
    return p


def _default(experiment: str) -> str:
    """What is trained where --preset does not say it."""
    own = {'priors': 'mfpsnet', 'suppression': 'renovation_demo'}
    return own.get(experiment, 'frsnet; mfpsnet if --prior is given')


def base(args: argparse.Namespace) -> list[str]:
    """Flags of train.py that all runs have."""
    guided = args.prior or args.experiment == 'priors'
    preset = args.preset or ('mfpsnet' if guided else 'frsnet')
    return ['--preset', preset, *(['--prior', *args.prior] if args.prior else [])]


# ------------------------------------------------------------------------------------------------
# Random architectures.


def draw(rng: np.random.Generator, layers: int, start: int) -> Architecture:
    """An architecture drawn evenly: every way to a neighbouring level alike, two edges for each
    node, any operation on each."""
    path: list[int] = []
    for _ in range(layers):
        here = path[-1] if path else start
        levels = [level for level in (here - 1, here, here + 1) if 0 <= level < decode.LEVELS]
        path.append(int(rng.choice(levels)))
    cell: list[list[int]] = []
    for node in range(decode.NODES):
        edges = [edge for edge, (end, _) in enumerate(decode.EDGES) if end == node]
        for edge in sorted(rng.choice(edges, 2, replace=False)):
            cell.append([int(edge), int(rng.integers(len(decode.OPERATIONS)))])
    return {'path': path, 'cell': cell}


def cost(architecture: Architecture, start: int) -> float:
    """GMAC of the module at 128 x 128 pixels, with 8 channels there.

    As models.__main__.gmac counts it, but of shapes alone: hundreds of architectures are drawn.
    """
    net: Any = models.shapes(lambda: Searched(architecture, 8, start))

    # Every weight of a convolution is used once for each pixel of its level.
    parts = [(net.stem, start), *zip(net.layers, net.levels, strict=True)]
    parts += [(halve, level) for level, halve in enumerate(net.head.halve, 1)]
    parts += [(net.head.final, 0)]
    pixels = [(128 >> level) ** 2 for level in range(decode.LEVELS)]
    return sum(_weights(module) * pixels[level] for module, level in parts) / 1e9


def _weights(module: nn.Module) -> int:
    """Number of weights of the convolutions in a module."""
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Conv2d))


def alike(architecture: Architecture, start: int, count: int, seed: int = 0) -> list[Architecture]:
    """Random architectures, all different, whose cost is that of the given one within TOLERANCE.
    Raises RunError where fewer than `count` turn up."""
    rng, goal = np.random.default_rng(seed), cost(architecture, start)
    drawn: list[Architecture] = []
    for _ in range(TRIES * count):
        if len(drawn) == count:
            return drawn
        candidate = draw(rng, len(architecture['path']), start)
        new = candidate != architecture and candidate not in drawn
        if new and abs(cost(candidate, start) / goal - 1) <= TOLERANCE:
            drawn.append(candidate)
    if len(drawn) < count:
        raise RunError(
            f'--random {count}: only {len(drawn)} other architectures cost what the found one '
            'does, '
            f'{goal:.2f} GMAC, within {TOLERANCE:.0%}'
        )
    return drawn


def neighbours(architecture: Architecture, start: int) -> list[Architecture]:
    """The architectures with the same cell whose path differs in one layer: what a search that has
    decided well has no better one among."""
    path = architecture['path']
    found = []
    for layer in range(len(path)):
        for level in range(decode.LEVELS):
            other = {
                'path': [*path[:layer], level, *path[layer + 1 :]],
                'cell': architecture['cell'],
            }
            if level != path[layer] and _exists(other, start):
                found.append(other)
    return found


def _exists(architecture: Architecture, start: int) -> bool:
    try:
        decode.check(architecture, start)
    except ValueError:
        return False
    return True


# ------------------------------------------------------------------------------------------------
# The experiments.


def search(args: argparse.Namespace) -> Experiment:
    """A found architecture against random ones of equal cost: as many layers, GMAC within 5 %, all
    trained alike; with --neighbours also against every path that differs in one layer."""
    ((part, architecture),) = _only(args.found).items()
    if (part == 'sr') == bool(args.prior):
        network = (
            'an FRSNet, which has no --prior' if part == 'sr' else 'an MFPSNet, which needs --prior'
        )
        raise RunError(f'--found {args.found} is for {part}: {network}')

    # Each variant is a file of its own, as --arch takes it.
    start = 3 if part == 'sr' else 0
    random = _stored(args.out / 'random.json', lambda: alike(architecture, start, args.random))
    named = {'found': architecture} | {f'random-{i}': a for i, a in enumerate(random)}
    if args.neighbours:
        named |= {_path_name(a): a for a in neighbours(architecture, start)}
    variants = {}
    for name, this in named.items():
        file = args.out / f'{name}.json'
        storage.write_json(file, {part: this})
        variants[name] = [*base(args), '--arch', str(file)]
    return Experiment(variants, _tell_search)


def _tell_search(done: Done) -> Told:
    rows = _rows(done, 'found')
    text = _table(rows, 'found')
    others = [runs for name, runs in done.items() if name.startswith('random')]
    if not others or 'found' not in done:
        return Told(rows, text)
    text += _landscape(rows)

    # Against the mean of the random ones, over the seeds that all of them have.
    found = done['found']
    shared = {seed: [runs[seed] for runs in others if seed in runs] for seed in found}
    complete = {seed: runs for seed, runs in shared.items() if len(runs) == len(others)}
    difference = compare.paired(found, complete)
    said = _credit(rows, difference)
    rows['found against random'] = difference | {'said': said}
    text += (
        '\nFound against the mean of the random ones, seed by seed: '
        f'{_interval(difference)}: {said}.\n'
    )
    return Told(rows, text)


def _landscape(rows: Rows) -> str:
    """What the paths that differ in one layer say of the found one; '' where none was trained."""
    near = [x['difference'] for name, x in rows.items() if name.startswith('path-')]
    if not near:
        return ''
    said = [compare.verdict(d) for d in near]
    return (
        f'\nOf {len(near)} paths that differ in one layer {said.count("better")} are better than '
        f'the found one, {said.count("worse")} worse, and of the others nothing is shown. Of 40 '
        'that are no better, chance makes one look so.\n'
    )


def _path_name(architecture: Architecture) -> str:
    return 'path-' + ''.join(map(str, architecture['path']))


def _credit(rows: Rows, difference: dict[str, Any]) -> str:
    """What the search may be credited with: a difference that is sure, and larger than those
    between random architectures."""
    said = compare.verdict(difference)
    if said not in ('better', 'worse'):
        return said
    random = [x['odd'] for name, x in rows.items() if name.startswith('random')]
    spread = float(np.ptp(random) / 2)
    if abs(difference['mean']) <= spread:
        return f'no claim, since random architectures differ by +-{spread:.3f} among themselves'
    return (
        f'the search is {said} than chance (random architectures: +-{spread:.3f} among themselves)'
    )


def optimizers(args: argparse.Namespace) -> Experiment:
    """Adam against Muon and SGD with momentum, SGD at a rate of its own and, as published, at that
    of Adam."""

    def tell(done: Done) -> Told:
        rows = _rows(done, 'adam')
        return Told(rows, _table(rows, 'adam'))

    return Experiment({name: [*base(args), *more] for name, more in OPTIMIZERS.items()}, tell)


def priors(args: argparse.Namespace) -> Experiment:
    """Every prior left out in turn, against all of them."""
    if not args.prior:
        raise RunError('--prior is needed: the priors to leave out in turn')
    names = list(guides.named(args.prior))
    variants = {'all': base(args)}
    for name in names:
        variants[f'without-{name}'] = [*base(args), '--drop-priors', name]
    if len(names) > 1:
        variants['none'] = [*base(args), '--drop-priors', *names]
    return Experiment(variants, _tell_priors)


def _tell_priors(done: Done) -> Told:
    rows, valid = _rows(done, 'all'), True
    lines = [
        '',
        '| variant | first pass | against all | second pass | second - first |',
        '|---|---|---|---|---|',
    ]
    for name, runs in done.items():
        # What never saw a prior has to be equal, or the comparison says nothing.
        line = rows[name]
        line['parity'] = compare.paired(runs, done['all'], 'pass0')
        line['parity_holds'] = abs(line['parity']['mean'] or 0) <= PARITY
        valid &= line['parity_holds']
        failed = '' if line['parity_holds'] else ': FAILED'
        lines.append(
            f'| {name} | {line["pass0"]:.3f} | {_interval(line["parity"])}{failed} '
            f'| {line["pass1"]:.3f} | {line["second_gain"]:+.3f} |'
        )
    lines += [
        '',
        f'The first pass never sees a prior: a difference of more than {PARITY} dB there is a '
        'failure of training or wiring, not an effect of the prior. So is that of the published '
        'ablation (23.2 dB with all priors or without the dictionary, 14.0 and 14.7 without '
        'heatmaps and without parsing maps, already in the first pass).',
    ]
    return Told(rows, _table(rows, 'all') + '\n'.join(lines) + '\n', valid)


def suppression(args: argparse.Namespace) -> Experiment:
    """HiFaceGAN's local importance pooling, its pixel-adaptive convolutions as in the paper, and
    plain convolutions."""

    def tell(done: Done) -> Told:
        rows = _rows(done, 'none')
        return Told(rows, _table(rows, 'none'))

    preset = ['--preset', args.preset or _default('suppression')]
    return Experiment(
        {n: [*preset, '--net', json.dumps(args.net | {'suppression': n})] for n in SUPPRESSIONS},
        tell,
    )


EXPERIMENTS = {
    'search': search,
    'optimizers': optimizers,
    'priors': priors,
    'suppression': suppression,
}


def _only(path: str) -> dict[str, Architecture]:
    """{part: architecture} of one search."""
    known = architectures([path])
    # Parts that the file has not are the published ones, whatever is in them.
    names = [name for name, found in known.items() if found is not models.PAPER[name]]
    names = list(models.PAPER) if path == 'paper' else names
    if len(names) != 1:
        raise RunError(
            f'--found {path} holds {", ".join(names)}: the architecture of one part is needed'
        )
    return {name: known[name] for name in names}


def _stored(file: Path, make: Callable[[], list[Architecture]]) -> list[Architecture]:
    """What `make` made the first time: a comparison that is taken up again compares the same."""
    if not file.exists():
        storage.write_json(file, make())
    known = records.read(file, list[options.Architecture], 'remove it, and others are drawn')
    return [dict(architecture) for architecture in known]


# ------------------------------------------------------------------------------------------------
# Tables.


def _rows(done: Done, reference: str) -> Rows:
    """{name: line} with 'difference' to the reference, where both have runs."""
    rows = {name: compare.row(runs) for name, runs in done.items()}
    for name, runs in done.items():
        if name != reference and reference in done:
            rows[name]['difference'] = compare.paired(runs, done[reference])
    return rows


def _interval(difference: Mapping[str, Any]) -> str:
    """A mean, how sure it is, and over how many seeds."""
    if difference['mean'] is None:
        return 'not known yet'
    half = '' if difference['half'] is None else f' +- {difference["half"]:.3f}'
    return f'{difference["mean"]:+.3f}{half} dB, n = {difference["n"]}'


def _table(rows: Rows, reference: str) -> str:
    """Lines of Markdown."""
    heads = [
        'variant',
        'PSNR, odd half',
        '+-',
        f'against {reference}, 95 % interval',
        'said',
        'over input',
        'parameters',
        'GMAC',
        'images',
        'images/s',
    ]
    lines = ['| ' + ' | '.join(heads) + ' |', '|' + '---|' * len(heads)]
    for name, x in rows.items():
        d = x.get('difference')
        cells = [
            name,
            f'{x["odd"]:.3f}',
            f'{x["spread"]:.3f}',
            _interval(d) if d else '',
            compare.verdict(d) if d else '',
            f'{x["gain"]:+.3f}',
            f'{x["parameters"]:,}',
            f'{x["gmac"]:.2f}',
            f'{x["images"]:,.0f}',
            f'{x["rate"]:.1f}',
        ]
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines) + '\n'


@program.entry
def main(argv: Sequence[str] | None = None) -> int:
    """Run an experiment, or what is left of it -> exit status; 1 if its runs say nothing."""
    args = parser().parse_args(argv)
    compare.check_output(args)
    experiment = EXPERIMENTS[args.experiment](args)

    def write(done: Done) -> None:
        told = experiment.tell(done)
        compare.write(args.out, 'table', told.rows, told.text)

    # A table after every run, so that a day's experiment can be looked at in the meantime.
    compare.all_of(experiment.variants, args, write)
    told = experiment.tell(compare.finished(experiment.variants, args))
    seed = str(args.seeds[0])
    compare.curves(args.out, [args.out / f'{name}-{seed}' for name in experiment.variants])
    print(told.text)
    if not told.valid:
        print(
            f'experiments.py: the first passes differ by more than {PARITY} dB, see '
            f'{args.out / "table.md"}: these runs say nothing of priors',
            file=sys.stderr,
        )
    return 0 if told.valid else 1


if __name__ == '__main__':
    sys.exit(main())
