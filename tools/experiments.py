"""Experiments with FRSNet and MFPSNet, each over several seeds, with paired differences and how sure they are.

    python tools/experiments.py search --found runs/search_sr --data train.txt --val held.txt --minutes 10        a found architecture against random ones of equal cost
    python tools/experiments.py optimizers --data train.txt --val held.txt --minutes 20                           Adam against SGD and Muon
    python tools/experiments.py priors --prior runs/parser --data train.txt --val held.txt --minutes 30           every prior left out in turn

All runs of a seed see the same samples in the same order, for the same time or number of images. Flags after -- go to train.py (-- --size 128 --batch 4). The same
command again goes on where it was stopped; a finished run is not repeated. Writes table.md, table.json and curves.png in OUT; runs are judged on the odd half of the
validation images, whose even half chose their weights. Nothing is claimed of a difference whose 95 % interval (Student's t over the seeds) holds 0.

priors trains anew for every prior left out, its maps being zeros, so that all networks have the same size and begin with the same weights. Its first pass never sees a
prior: it has to be as good in every run, within 0.3 dB, or the run, not the prior, is what failed. The published ablation of MFPSNet is such a case: without heatmaps or
parsing maps its first pass falls from 23.2 to 14 dB, which no prior can have caused.
"""

import argparse
import functools
import json
import sys
from pathlib import Path

import numpy as np

import models
from errors import RunError
from models import decode
from models.__main__ import gmac
from models.searched import Searched
from tasks import guides
from tasks.options import architectures
from tools import compare
from training import run

PARITY = 0.3  # dB between the first passes of runs that differ in nothing but their priors
TOLERANCE = 0.05  # of the cost of random architectures
TRIES = 2_000  # draws for one of them
OPTIMIZERS = {
    'adam': ['--optimizer', 'adam', '--lr', '1e-3'],
    'sgd': ['--optimizer', 'sgd', '--lr', '0.1'],
    'sgd-rate-of-adam': ['--optimizer', 'sgd', '--lr', '1e-3'],  # as published
    'muon': ['--optimizer', 'muon', '--lr', '2e-3'],
}


def parse(argv=None):
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = p.add_subparsers(
        dest='experiment', required=True, metavar='search | optimizers | priors'
    )
    for name, run_it in EXPERIMENTS.items():
        k = kinds.add_parser(
            name, description=run_it.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        compare.flags(k, f'runs/{name}', seeds='0,1,2')
        k.add_argument(
            '--preset',
            help='what is trained (default: '
            + ('mfpsnet)' if name == 'priors' else 'frsnet; mfpsnet if --prior is given)'),
        )
        k.add_argument('--prior', nargs='+', help='what mfpsnet is guided by, as of train.py')
        if name == 'search':
            k.add_argument('--found', required=True, help='finished search, or its arch.json')
            k.add_argument(
                '--random',
                type=int,
                default=3,
                help='random architectures to compare with (default: %(default)s)',
            )
    return p.parse_args(argv)


def base(args):
    """Flags of train.py that all runs have."""
    preset = args.preset or ('mfpsnet' if args.prior or args.experiment == 'priors' else 'frsnet')
    return ['--preset', preset, *(['--prior', *args.prior] if args.prior else [])]


# ---- random architectures ----


def draw(rng, layers, start):
    """-> an architecture drawn evenly: every way to a neighbouring level alike, two edges for each node, any operation on each. rng: numpy Generator"""
    path = []
    for _ in range(layers):
        here = path[-1] if path else start
        path.append(
            int(
                rng.choice(
                    [level for level in (here - 1, here, here + 1) if 0 <= level < decode.LEVELS]
                )
            )
        )
    cell = []
    for node in range(decode.NODES):
        edges = [edge for edge, (end, _) in enumerate(decode.EDGES) if end == node]
        cell += [
            [int(edge), int(rng.integers(len(decode.OPERATIONS)))]
            for edge in sorted(rng.choice(edges, 2, replace=False))
        ]
    return {'path': path, 'cell': cell}


def cost(architecture, start):
    """-> GMAC of the module at 128 x 128 pixels, with 8 channels there"""
    return _cost(json.dumps(architecture), start)


@functools.cache
def _cost(architecture, start):
    return gmac(
        lambda: Searched(json.loads(architecture), 8, start).eval(), 8 << start, 128 >> start
    )


def alike(architecture, start, count, seed=0):
    """-> [`count` random architectures, all different, whose cost is that of the given one within TOLERANCE]. RunError where so few are found."""
    rng, goal, found = np.random.default_rng(seed), cost(architecture, start), []
    for _ in range(TRIES * count):
        if len(found) == count:
            break
        one = draw(rng, len(architecture['path']), start)
        if (
            one != architecture
            and one not in found
            and abs(cost(one, start) / goal - 1) <= TOLERANCE
        ):
            found.append(one)
    if len(found) < count:
        raise RunError(
            f'--random {count}: only {len(found)} other architectures were found that cost what the found one does, {goal:.2f} GMAC, within {TOLERANCE:.0%}'
        )
    return found


# ---- experiments: args -> ({name: flags}, function of the finished runs -> (rows, text, whether all is as it must be)) ----


def search(args):
    """A found architecture against random ones of equal cost: as many layers, GMAC within 5 %, all trained alike."""
    ((part, found),) = _only(args.found).items()
    if (part == 'sr') == bool(args.prior):
        raise RunError(
            f'--found {args.found} is for {part}: '
            + (
                'an FRSNet, which has no --prior'
                if part == 'sr'
                else 'an MFPSNet, which needs --prior'
            )
        )
    variants = {'found': found}
    for i, one in enumerate(
        _kept(args.out / 'random.json', lambda: alike(found, 3 if part == 'sr' else 0, args.random))
    ):
        variants[f'random-{i}'] = one
    flags = {}
    for name, one in variants.items():
        file = args.out / f'{name}.json'
        run.write_json(file, {part: one})
        flags[name] = [*base(args), '--arch', str(file)]

    def tell(done):
        rows, others = (
            _rows(done, 'found'),
            [runs for name, runs in done.items() if name != 'found'],
        )
        text = _table(rows, 'found')
        if others and 'found' in done:
            shared = {
                seed: [runs[seed] for runs in others if seed in runs] for seed in done['found']
            }
            difference = compare.paired(
                done['found'],
                {seed: runs for seed, runs in shared.items() if len(runs) == len(others)},
            )
            rows |= {'found against random': difference | dict(said=_said(rows, difference))}
            text += f'\nFound against the mean of the random ones, seed by seed: {_interval(difference)}: {rows["found against random"]["said"]}.\n'
        return rows, text, True

    return flags, tell


def _said(rows, difference):
    """What the search may be credited with: a difference that is sure, and larger than those between random architectures."""
    said, random = (
        compare.verdict(difference),
        [r['odd'] for name, r in rows.items() if name.startswith('random')],
    )
    spread = float(np.ptp(random) / 2)
    if said in ('better', 'worse') and abs(difference['mean']) <= spread:
        return f'no claim, since random architectures differ by +-{spread:.3f} among themselves'
    return (
        f'the search is {said} than chance (random architectures: +-{spread:.3f} among themselves)'
        if said in ('better', 'worse')
        else said
    )


def optimizers(args):
    """Adam against Muon and SGD with momentum, SGD at a rate of its own and, as published, at that of Adam."""
    flags = {name: [*base(args), *more] for name, more in OPTIMIZERS.items()}

    def tell(done):
        rows = _rows(done, 'adam')
        return rows, _table(rows, 'adam'), True

    return flags, tell


def priors(args):
    """Every prior left out in turn, against all of them."""
    if not args.prior:
        raise RunError('--prior is needed: the priors to leave out in turn')
    names = list(guides.named(args.prior))
    flags = {'all': base(args)} | {
        f'without-{name}': [*base(args), '--drop-priors', name] for name in names
    }
    if len(names) > 1:
        flags['none'] = [*base(args), '--drop-priors', *names]

    def tell(done):
        rows, good = _rows(done, 'all'), True
        lines = [
            '',
            '| variant | first pass | against all | second pass | second - first |',
            '|---|---|---|---|---|',
        ]
        for name, runs in done.items():
            r = rows[name]
            r['parity'] = compare.paired(runs, done['all'], 'pass0')
            r['parity_holds'] = abs(r['parity']['mean'] or 0) <= PARITY
            good &= r['parity_holds']
            lines.append(
                f'| {name} | {r["pass0"]:.3f} | {_interval(r["parity"])}{"" if r["parity_holds"] else ": FAILED"} | {r["pass1"]:.3f} | {r["second_gain"]:+.3f} |'
            )
        lines += [
            '',
            f'The first pass never sees a prior: a difference of more than {PARITY} dB there is a failure of training or wiring, not an effect of the prior. '
            'So is that of the published ablation (23.2 dB with all priors or without the dictionary, 14.0 and 14.7 without heatmaps and without parsing maps, already in the first pass).',
        ]
        return rows, _table(rows, 'all') + '\n'.join(lines) + '\n', good

    return flags, tell


EXPERIMENTS = {'search': search, 'optimizers': optimizers, 'priors': priors}


def _only(path):
    """{part: architecture} of one search."""
    known, published = architectures([path]), models.PAPER
    file = Path(path, 'arch.json') if Path(path).is_dir() else Path(path)
    names = json.loads(file.read_text()) if file.exists() else published
    if len(names) != 1:
        raise RunError(
            f'--found {path} holds {", ".join(names)}: the architecture of one part is wanted'
        )
    return {name: known[name] for name in names}


def _kept(file, make):
    """What `make` found the first time: a comparison that is taken up again compares the same."""
    if not file.exists():
        run.write_json(file, make())
    return json.loads(file.read_text())


# ---- tables ----


def _rows(done, reference):
    """{name: line} with 'difference' to the reference, where both have runs."""
    rows = {name: compare.row(runs) for name, runs in done.items()}
    for name, runs in done.items():
        if name != reference and reference in done:
            rows[name]['difference'] = compare.paired(runs, done[reference])
    return rows


def _interval(d):
    return (
        'not known yet'
        if d['mean'] is None
        else f'{d["mean"]:+.3f}'
        + ('' if d['half'] is None else f' +- {d["half"]:.3f}')
        + f' dB, n = {d["n"]}'
    )


def _table(rows, reference):
    lines = [
        f'| variant | PSNR, odd half | +- | against {reference}, 95 % interval | said | over input | parameters | GMAC | images | images/s |',
        '|---|---|---|---|---|---|---|---|---|---|',
    ]
    for name, x in rows.items():
        d = x.get('difference')
        lines.append(
            f'| {name} | {x["odd"]:.3f} | {x["spread"]:.3f} | {_interval(d) if d else ""} | {compare.verdict(d) if d else ""} | {x["gain"]:+.3f} | {x["parameters"]:,} '
            f'| {x["gmac"]:.2f} | {x["images"]:,.0f} | {x["rate"]:.1f} |'
        )
    return '\n'.join(lines) + '\n'


def main(argv=None):
    args = parse(argv)
    try:
        variants, tell = EXPERIMENTS[args.experiment](args)

        def write(done):  # a table after every run
            rows, text, _ = tell(done)
            compare.write(args.out, 'table', rows, text)

        compare.all_of(variants, args, write)
        _, text, good = tell(compare.finished(variants, args))
    except RunError as e:
        print(f'experiments.py: {e}', file=sys.stderr)
        return 2
    compare.curves(args.out, [args.out / f'{name}-{args.seeds.split(",")[0]}' for name in variants])
    print(text)
    if not good:
        print(
            f'experiments.py: the first passes differ by more than {PARITY} dB, see {args.out / "table.md"}: these runs say nothing of priors',
            file=sys.stderr,
        )
    return 0 if good else 1


if __name__ == '__main__':
    sys.exit(main())
