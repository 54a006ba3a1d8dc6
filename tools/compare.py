"""Runs of train.py compared in tables: a command that was stopped goes on, and differences come
with their certainty.
"""

import program

import argparse
import contextlib
import functools
import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import models
import storage
import tasks
from config import flags as train_flags
from config.schema import flatten
from config.stored import checked, from_flat
from errors import RunError
from metrics.comparison import interval
from models.__main__ import gmac
from tasks import shipped
from tools import timing
from tools.finished_run import FinishedRun, score
from tools.finished_run import curves as curves_of
from training import outputs, places, run

ROOT = Path(__file__).resolve().parents[1]
SEEDS = 3  # of a claim, at least
MADE = {'net', 'arch'}  # options that a run stores otherwise than it was given them

Runs = Mapping[str, Path]  # {seed: run directory}
Variants = Mapping[str, Sequence[str]]  # {name: flags of train.py}


# ------------------------------------------------------------------------------------------------
# Running train.py.


def add_flags(
    p: argparse.ArgumentParser, out: str, seeds: str = '0', recipe: str | None = None
) -> None:
    """Add what every comparison is given: data, length, seeds, where to write."""
    p.add_argument('--data', help='HQ faces, as of train.py')
    p.add_argument('--val', help='validation set, as of train.py')
    p.add_argument(
        '--recipe',
        default=recipe,
        help=f'degradation of the inputs (default: {recipe or "that of the preset"})',
    )
    p.add_argument(
        '--seeds',
        type=program.Several(program.ranges.SEED),
        default=[int(seed) for seed in seeds.split(',')],
        help=f'comma-separated (default: {seeds})',
    )
    p.add_argument(
        '--minutes',
        type=program.ranges.MINUTES,
        help='of every run (default: 20, unless --nimg is given)',
    )
    p.add_argument('--nimg', type=program.ranges.LENGTH, help='images of every run instead')
    p.add_argument(
        '--out', type=Path, default=Path(out), help='folder of the runs (default: %(default)s)'
    )
    p.add_argument('more', nargs='*', help='further flags for train.py, after --')


def check_output(args: argparse.Namespace) -> None:
    """Raise RunError if OUT would write over what is read."""
    data = {'--data': args.data, '--val': args.val}
    outputs.check({'--out': args.out}, data, {'--found': getattr(args, 'found', None)})


def all_of(
    variants: Variants,
    args: argparse.Namespace,
    report: Callable[[dict[str, dict[str, Path]]], None],
) -> None:
    """Run them for every seed, all of one seed first; report what is finished after each run."""
    if not (args.data and args.val):
        raise RunError('--data and --val are needed: all variants train and are judged on the same')
    for seed in map(str, args.seeds):
        for name, flags in variants.items():
            train(name, flags, seed, args)
            report(finished(variants, args))


def train(name: str, flags: Sequence[str], seed: str, args: argparse.Namespace) -> Path:
    """Run or finish one of them in OUT/NAME-SEED -> that directory. flags: of the variant"""
    out = args.out / f'{name}-{seed}'
    length = ['--nimg', str(args.nimg)] if args.nimg else ['--minutes', str(args.minutes or 20)]
    recipe = ['--recipe', args.recipe] if args.recipe else []
    data = ['--data', args.data, '--val', args.val]
    argv = [*flags, '--seed', seed, *data, *recipe, *length, '--out', str(out), *args.more]
    if (out / 'result.json').exists():
        check_same(out, argv)
        return out
    print(f'{name}, seed {seed}: {" ".join(argv)}', flush=True)
    code = call(argv)
    if code == program.STOPPED:
        raise KeyboardInterrupt
    if code:
        raise RunError(
            f'{name}, seed {seed} did not finish (exit {code}): the same command goes on from here'
        )
    return out


def call(argv: Sequence[str]) -> int:
    """Run train.py with these flags -> exit status."""
    process = subprocess.Popen([sys.executable, str(ROOT / 'train.py'), *argv])
    # A Ctrl-C reaches the run as well, and it saves; that is waited for.
    while True:
        with contextlib.suppress(KeyboardInterrupt):
            return process.wait()


def check_same(out: Path, argv: Sequence[str]) -> None:
    """Raise RunError if the finished run in `out` was made with other flags than these."""
    given = shipped.paths(json.loads(json.dumps(train_flags.given(argv))))
    given = places.absolute(given)
    config = checked(run.read_config(out), f'{out}/config.json')
    was = places.located(out, config)
    compared = was.keys() - run.FREE - MADE
    differs = [
        f'{k}: was {was[k]!r}, now {v!r}'
        for k, v in given.items()
        if v is not None and k in compared and was[k] != v
    ]
    if differs:
        raise RunError(
            f'{out} was made with other options ({"; ".join(differs)}): give the same ones, or '
            'another --out'
        )


def finished(names: Iterable[str], args: argparse.Namespace) -> dict[str, dict[str, Path]]:
    """{name: {seed: directory}} of the runs that have a result."""
    runs: dict[str, dict[str, Path]] = {}
    for name in names:
        for seed in map(str, args.seeds):
            out = args.out / f'{name}-{seed}'
            if (out / 'result.json').exists():
                runs.setdefault(name, {})[seed] = out
    return runs


# ------------------------------------------------------------------------------------------------
# Figures.


def row(runs: Runs) -> dict[str, Any]:
    """One line of a table: means over the seeds."""
    finished_runs = [FinishedRun(out) for out in runs.values()]
    if not all('odd_half' in r.result for r in finished_runs):
        raise RunError('--val of a single image has no even and odd half: give two or more')

    first = finished_runs[0]
    parameters, gmac_of_net = _cost(first)
    odd = np.array([r.score('odd_half') for r in finished_runs])
    images = np.array([r.images for r in finished_runs])
    seconds = np.array([r.seconds for r in finished_runs])
    line = {
        'odd': float(odd.mean()),
        'spread': float(np.ptp(odd) / 2),
        'even': _mean(finished_runs, 'even_half'),
        'gain': _mean(finished_runs, 'psnr') - _mean(finished_runs, first.baseline),
        'seeds': len(runs),
        'parameters': parameters,
        'gmac': gmac_of_net,
        'images': float(images.mean()),
        'rate': float(np.mean(images / seconds)),
    }
    if 'pass0' in first.result:
        line['pass0'] = _mean(finished_runs, 'pass0')
        line['pass1'] = _mean(finished_runs, 'psnr')
        line['second_gain'] = _mean(finished_runs, 'gain')
    return line


def _mean(runs: Iterable[FinishedRun], key: str) -> float:
    """Mean of a number in the results of some runs."""
    return float(np.mean([r.score(key) for r in runs]))


def _cost(finished_run: FinishedRun) -> tuple[int, float]:
    """Return parameters and GMAC of the network of a run."""
    flat = flatten(finished_run.config)
    return _cost_of(json.dumps({name: flat[name] for name in tasks.OF_NETWORK}))


@functools.cache
def _cost_of(options: str) -> tuple[int, float]:
    # All seeds share it, and a table is written after every run.
    config = from_flat(json.loads(options))
    net = tasks.network(config)
    return models.count(net), gmac(lambda: tasks.network(config).eval())


def paired(
    ours: Mapping[str, Path | list[Path]],
    reference: Mapping[str, Path | list[Path]],
    key: str = 'odd_half',
) -> dict[str, Any]:
    """Difference of two variants, seed by seed: both have seen the same samples.

    ours, reference: {seed: directory}, or {seed: [directories]} that are averaged first
    Returns 'mean', 'half' (half of the 95 % interval of the mean by Student's t, None of a single
    seed), 'n' and 'differences'.
    """

    def value(runs: Path | list[Path]) -> float:
        folders = runs if isinstance(runs, list) else [runs]
        return float(np.mean([score(folder, key) for folder in folders]))

    seeds = [seed for seed in ours if seed in reference]
    d = [value(ours[seed]) - value(reference[seed]) for seed in seeds]
    mean, half = interval(d)
    return {
        'mean': mean if d else None,
        'half': half if len(d) > 1 else None,
        'n': len(d),
        'differences': d,
    }


def verdict(difference: Mapping[str, Any]) -> str:
    """What a difference allows to be said; nothing where its interval holds 0."""
    if difference['n'] < SEEDS:
        return f'{difference["n"]} seeds are too few to say'
    if abs(difference['mean']) <= difference['half']:
        return 'no difference shown'
    return 'better' if difference['mean'] > 0 else 'worse'


# ------------------------------------------------------------------------------------------------
# Files.


def write(folder: Path, name: str, rows: Any, text: str) -> None:
    """NAME.md and NAME.json of a comparison."""
    storage.write(folder / f'{name}.md', (timing.header() + '\n\n' + text).encode())
    storage.write_json(folder / f'{name}.json', rows)


def curves(folder: Path, runs: Iterable[Path]) -> None:
    """curves.png of one run of each variant."""
    curves_of([FinishedRun(out) for out in runs]).save(folder / 'curves.png')
