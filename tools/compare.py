"""Runs of train.py side by side, for tables: the same command goes on where it was stopped, and differences come with how sure they are."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

import models
import tasks
from config import flags as train_flags
from errors import RunError
from models.__main__ import gmac
from tools import timing
from tools.finished_run import FinishedRun
from tools.finished_run import curves as curves_of
from training import run

# 97.5 % of Student's t for 1, 2, ... degrees of freedom; beyond the last it changes by less than 0.007 per degree.
T = (
    12.706,
    4.303,
    3.182,
    2.776,
    2.571,
    2.447,
    2.365,
    2.306,
    2.262,
    2.228,
    2.201,
    2.179,
    2.160,
    2.145,
    2.131,
    2.120,
    2.110,
    2.101,
    2.093,
    2.086,
)
SEEDS = 3  # of a claim, at least
MADE = {'net', 'arch'}  # options that a run keeps otherwise than it was given them


def flags(p, out, seeds='0', recipe=None):
    """Add what every comparison is told: data, length, seeds, where to write."""
    p.add_argument('--data', help='HQ faces, as of train.py')
    p.add_argument('--val', help='validation set, as of train.py')
    p.add_argument(
        '--recipe', default=recipe, help=f'default: {recipe or "the preset of the runs"}'
    )
    p.add_argument('--seeds', default=seeds, help='default: %(default)s')
    p.add_argument(
        '--minutes', type=float, help='of every run (default: 20, unless --nimg is given)'
    )
    p.add_argument('--nimg', type=int, help='images of every run instead')
    p.add_argument('--out', type=Path, default=Path(out), help='default: %(default)s')
    p.add_argument('more', nargs='*', help='further flags for train.py, after --')


def train(name, variant, seed, args):
    """Run or finish one of them in OUT/NAME-SEED -> that directory. variant: its flags for train.py"""
    out = args.out / f'{name}-{seed}'
    length = ['--nimg', str(args.nimg)] if args.nimg else ['--minutes', str(args.minutes or 20)]
    argv = [
        *variant,
        '--seed',
        str(seed),
        '--data',
        args.data,
        '--val',
        args.val,
        *(['--recipe', args.recipe] if args.recipe else []),
        *length,
        '--out',
        str(out),
        *args.more,
    ]
    if (out / 'result.json').exists():
        _check(out, argv)
        return out
    print(f'{name}, seed {seed}: {" ".join(argv)}', flush=True)
    code = call(argv)
    if (
        code or not (out / 'result.json').exists()
    ):  # stopped by a signal it exits with 0, unfinished
        raise RunError(
            f'{name}, seed {seed} did not finish (exit {code}): the same command goes on from here'
        )
    return out


def call(argv):
    """Run train.py with these flags -> exit status. A Ctrl-C reaches it, too, and it saves; that is waited for."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).resolve().parents[1] / 'train.py'), *argv]
    )
    while True:
        with contextlib.suppress(KeyboardInterrupt):
            return process.wait()


def _check(out, argv):
    """Raise RunError if the finished run in `out` was made with other flags: what stands in one table is to be comparable."""
    given, old = json.loads(json.dumps(train_flags.given(argv))), run.read_config(out)
    differs = [
        f'{k}: was {old[k]!r}, now {v!r}'
        for k, v in given.items()
        if v is not None and k in old.keys() - run.FREE - MADE and old[k] != v
    ]
    if differs:
        raise RunError(
            f'{out} was made with other options ({"; ".join(differs)}): give the same ones, or another --out'
        )


def all_of(variants, args, tell):
    """Run them for every seed, all of one seed first; after each run tell({name: {seed: directory}}) of those that are finished.

    variants: {name: flags}
    """
    if not (args.data and args.val):
        raise RunError('--data and --val are needed: all variants train and are judged on the same')
    for seed in args.seeds.split(','):
        for name, variant in variants.items():
            train(name, variant, seed, args)
            tell(finished(variants, args))


def finished(names, args):
    """{name: {seed: directory}} of the runs that have a result."""
    found = {
        name: {
            s: args.out / f'{name}-{s}'
            for s in args.seeds.split(',')
            if (args.out / f'{name}-{s}' / 'result.json').exists()
        }
        for name in names
    }
    return {name: runs for name, runs in found.items() if runs}


def result(folder):
    return json.loads((folder / 'result.json').read_text())


def row(runs):
    """One line of a table: means over the seeds. runs: {seed: directory}"""
    each, found = (
        [FinishedRun(out) for out in runs.values()],
        [result(out) for out in runs.values()],
    )
    if not all('odd_half' in f for f in found):
        raise RunError('--val of a single image has no even and odd half: give two or more')
    r, odd, images = (
        each[0],
        np.array([f['odd_half'] for f in found]),
        np.array([x.rows[-1]['nimg'] for x in each]),
    )
    line = dict(
        odd=float(odd.mean()),
        spread=float(np.ptp(odd) / 2),
        even=float(np.mean([f['even_half'] for f in found])),
        gain=float(np.mean([f['psnr'] - f[r.baseline] for f in found])),
        seeds=len(runs),
        parameters=models.count(r.net),
        gmac=gmac(lambda: tasks.network(r.config).eval()),
        images=float(images.mean()),
        rate=float(np.mean(images / [x.seconds for x in each])),
    )
    if 'pass0' in found[0]:
        line |= dict(
            pass0=float(np.mean([f['pass0'] for f in found])),
            pass1=float(np.mean([f['psnr'] for f in found])),
            second_gain=float(np.mean([f['gain'] for f in found])),
        )
    return line


def paired(one, other, key='odd_half'):
    """Difference of two variants, seed by seed, which both saw the same samples -> {'mean', 'half', 'n', 'differences'}; half: half of the 95 % interval of the mean
    (Student's t), None of a single seed. one, other: {seed: directory}, or {seed: [directories]} that are averaged first"""

    def value(runs):
        return np.mean([result(r)[key] for r in (runs if isinstance(runs, list) else [runs])])

    seeds = [s for s in one if s in other]
    d = np.array([value(one[s]) - value(other[s]) for s in seeds])
    half = T[min(len(d) - 2, len(T) - 1)] * d.std(ddof=1) / len(d) ** 0.5 if len(d) > 1 else None
    return dict(
        mean=float(d.mean()) if len(d) else None,
        half=None if half is None else float(half),
        n=len(d),
        differences=d.tolist(),
    )


def verdict(difference):
    """What a difference allows to be said; nothing where its interval holds 0."""
    if difference['n'] < SEEDS:
        return f'{difference["n"]} seeds are too few to say'
    if abs(difference['mean']) <= difference['half']:
        return 'no difference shown'
    return 'better' if difference['mean'] > 0 else 'worse'


def write(folder, name, rows, text):
    """table.md and table.json of a comparison, or files of another name."""
    run.write(folder / f'{name}.md', (timing.header() + '\n\n' + text).encode())
    run.write_json(folder / f'{name}.json', rows)


def curves(folder, runs):
    """curves.png of one run of each variant."""
    curves_of([FinishedRun(out) for out in runs]).save(folder / 'curves.png')
