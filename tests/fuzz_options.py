"""Plausible command lines of train.py, drawn by a seed: each trains or is refused in one line.

    python tests/fuzz_options.py --count 300
    python tests/fuzz_options.py --only 17        one of them, with all that it prints

Each trains on four images or so, in a process of its own out of a few. A traceback, a second line
of complaint, an exit status other than 0 and 2, or ten minutes without an end are a failure. Exit
status: 0 if there was none.
"""

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
SIZE = 64
LIMIT = 600  # seconds; two cores take minutes for the largest networks

# Options of every run, and the values that make sense here; now and then one that does not.
CHOICES = {
    '--pipe': ('torch', 'dali', 'reference'),
    '--cache': ('auto', 'host', 'file', 'off', 'gpu'),
    '--decode': ('auto', 'cpu', 'gpu'),
    '--precision': ('fp32', 'bf16', 'fp16'),
    '--schedule': ('cosine', 'constant', 'multistep', 'linear', 'restarts'),
    '--optimizer': ('adamw', 'adam', 'sgd', 'muon'),
    '--batch': ('1', '2', '3'),
    '--accumulate': ('1', '2'),
    '--nimg': ('4', '6'),
    '--minutes': ('0.01',),
    '--ticks': ('1', '2'),
    '--keep': ('1', '3'),
    '--ema': ('1', '100'),
    '--clip': ('0.1', '1'),
    '--warmup': ('0', '0.5'),
    '--tail': ('0', '0.3'),
    '--milestones': ('0.5', '0.5,0.75'),
    '--periods': ('1', '1,2'),
    '--restart-weights': ('1', '1,0.5'),
    '--betas': ('0.9,0.99', '0,0.9'),
    '--weight-decay': ('0', '0.01'),
    '--lr': ('1e-4', '1e-2'),
    '--seed': ('0', '7'),
    '--save-minutes': ('0.001', '5'),
    '--net': ('{"blocks": 1}', '{"width": 8}', '{"steps": 1}', '{"nothing": 1}', '{}'),
}
OF_RESTORERS = {
    '--crop': ('16', '32', '48', '33'),
    '--loss': ('l1', 'charbonnier', 'mse', 'smooth_l1', 'psnr'),
    '--last-loss': ('mse', 'l1'),
    '--last-share': ('0.2', '0.5'),
    '--pair-pool': ('0', '8'),
    '--gan': ('lsgan', 'hinge', 'ragan', 'vanilla'),
    '--discriminator': ('patchgan', 'unet_sn', 'modified_vgg'),
    '--gan-level': ('0', '0.75'),
    '--gan-from': ('0', '2'),
    '--r1': ('0', '1'),
}
OF_GUIDED = {
    '--multi-prior-weight': ('0.1',),
    '--drop-priors': ('parse',),
    '--arch': ('paper',),
    '--search-from': ('0', '0.5'),
}
# Arguments that make the networks small.
LEVELS = {'width': [8, 12, 16], 'blocks': [[1, 1], 1, [1, 2]], 'position': 4}
SMALL = {
    'unet': LEVELS,
    'face_unaf': LEVELS,
    'srresnet': {'blocks': 1, 'width': 16},
    'rcan': {'groups': 1, 'blocks': 1, 'width': 16, 'reduction': 4},
    'swinir': {'width': 12, 'depths': [1], 'heads': 2, 'window': 4},
    'rrdbnet': {'blocks': 1, 'width': 16, 'growth': 7},
    'hifacegan': {'width': 8},
    'frsnet': {'width': 32, 'growth': 8},
    'search_sr': {'width': 16, 'growth': 8},
    'search_prior': {'width': 16, 'growth': 8},
    'search_fusion': {'width': 16, 'layers': 2},
}
SWITCHES = (
    '--target-usm',
    '--no-target-usm',
    '--no-lq-from-usm',
    '--deterministic',
    '--strict',
    '--verify',
)
# Data that suits a network that enlarges, one that keeps the size, and one that learns from masks.
ENLARGING = (None, 'drawn/images', 'list.txt', 'drawn/images/*.png', 'pairs')
SAME_SIZE = (None, 'drawn/images', 'stacked:stacked')
MASKED = (None, 'drawn')
VAL = {
    ENLARGING: (None, '2', '0.2', 'more/images', 'a=2', 'pairs'),
    SAME_SIZE: (None, '2', 'more/images', 'stacked:stacked'),
    MASKED: (None, '2', 'more'),
}


class Outcome(NamedTuple):
    """What became of a command line."""

    number: int
    words: list[str]
    result: str  # 'trained', 'refused', or what went wrong


def words(number: int, seed: int = 0) -> list[str]:
    """The command line of a number."""
    from config import presets

    rng = random.Random(f'{seed}/{number}')
    preset = rng.choice(presets.NAMES)
    config = presets.config(preset)
    kind = _kind(config) if rng.random() < 0.9 else rng.choice((ENLARGING, SAME_SIZE, MASKED))
    choices = _choices(config) if rng.random() < 0.9 else CHOICES | OF_RESTORERS | OF_GUIDED
    small = json.dumps(SMALL.get(config.network.network, {}))
    given = {'--nimg': '4', '--ticks': '1', '--net': small}
    if config.data.crop:
        given['--crop'] = '32'
    if preset in ('mfpsnet', 'search_fusion', 'search_parse'):
        given['--prior'] = 'parser'

    for flag, value in (('--data', rng.choice(kind)), ('--val', rng.choice(VAL[kind]))):
        if value:
            given[flag] = value
    if rng.random() < 0.3:
        given['--recipe'] = rng.choice(_recipes(kind))
    for flag in rng.sample(sorted(choices), rng.choice((0, 1, 2, 3, 5))):
        given[flag] = rng.choice(choices[flag])
    if '--minutes' in given:
        del given['--nimg']
    if '--gan' in given:
        given['--discriminator'] = rng.choice(choices['--discriminator'])
    options = [word for pair in given.items() for word in pair]
    return ['--preset', preset, *options, *rng.sample(SWITCHES, rng.choice((0, 0, 0, 1)))]


def _kind(config: Any) -> tuple[str | None, ...]:
    """The data that suits a preset."""
    if config.task in ('parse', 'landmarks'):
        return MASKED
    return SAME_SIZE if config.scale == 1 else ENLARGING


def _choices(config: Any) -> dict[str, tuple[str, ...]]:
    """The options that suit a preset."""
    choices = dict(CHOICES)
    if _kind(config) != MASKED:
        choices |= OF_RESTORERS
    if config.network.network in ('mfpsnet', 'frsnet') or config.task == 'search':
        choices |= OF_GUIDED
    return choices


def _recipes(kind: tuple[str | None, ...]) -> list[str]:
    import degrade

    same = set(degrade.SAME_SIZE)
    everything = set(degrade.RECIPES)
    return sorted(same if kind == SAME_SIZE else everything - same)


def prepare(folder: Path) -> None:
    """The data that the command lines name, and the run of a parser."""
    import cv2

    import synthetic
    import train

    synthetic.write(folder / 'drawn', 5, first_seed=0, size=SIZE)
    synthetic.write(folder / 'more', 3, first_seed=100, size=SIZE)
    images = sorted((folder / 'drawn/images').glob('*.png'))
    for path in images:
        image = cv2.imread(str(path))
        small = cv2.resize(image, (SIZE // 4,) * 2, interpolation=cv2.INTER_AREA)
        for name, content in (
            (f'pairs/GT/{path.name}', image),
            (f'pairs/LQ/{path.name}', small),
            (f'stacked/{path.name}', np.concatenate([image, image])),
        ):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / name), content)
    (folder / 'list.txt').write_text(''.join(f'{path}\n' for path in images))
    parser = f'--preset parse_prior --data {folder}/drawn --val 2 --nimg 4 --ticks 1 --threads 1'
    size = ['--size', str(SIZE), '--device', 'cpu', '--out', str(folder / 'parser')]
    assert train.main([*parser.split(), *size]) == 0


def attempt(job: tuple[int, int, Path]) -> Outcome:
    """Run the command line of a (number, seed, folder of runs), and say what became of it."""
    import torch

    import train

    number, seed, out = job
    argv = [*words(number, seed), '--size', str(SIZE), '--device', 'cpu', '--threads', '1']
    said, complained = io.StringIO(), io.StringIO()
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(LIMIT)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(complained):
            status = train.main([*argv, '--out', str(out / str(number))])
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        return Outcome(number, argv, traceback.format_exc())
    finally:
        signal.alarm(0)
        torch.use_deterministic_algorithms(False)
    return Outcome(number, argv, _verdict(status, complained.getvalue()))


def _too_long(*_: object) -> None:
    raise TimeoutError(f'no end after {LIMIT} s')


def _verdict(status: int, complained: str) -> str:
    # The progress of a run goes to the same stream.
    lines = [line for line in complained.splitlines() if line.startswith('train.py: ')]
    if status == 0:
        return 'trained'
    if status == 2 and len(lines) == 1 and 'Traceback' not in complained:
        return f'refused: {lines[0].removeprefix("train.py: ")}'
    return f'exit {status}:\n{complained}'


def _begin(folder: Path) -> None:
    sys.path.insert(0, str(ROOT))
    os.environ['FACES_CACHE'] = str(folder / 'cache')
    os.chdir(folder)


def main() -> int:
    """Try as many as the command line asks for -> exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--count', type=int, default=300, help='default: %(default)s')
    parser.add_argument('--first', type=int, default=0, help='default: %(default)s')
    parser.add_argument('--only', type=int, help='number of one of them')
    parser.add_argument('--seed', type=int, default=0, help='default: %(default)s')
    parser.add_argument('--processes', type=int, default=2, help='default: %(default)s')
    args = parser.parse_args()
    numbers = range(args.first, args.first + args.count)
    if args.only is not None:
        numbers = range(args.only, args.only + 1)

    began, kinds = time.monotonic(), Counter[str]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _begin(folder)
        prepare(folder)
        context = multiprocessing.get_context('spawn')
        with context.Pool(args.processes, _begin, (folder,)) as pool:
            jobs = [(n, args.seed, folder / 'runs') for n in numbers]
            for outcome in pool.imap(attempt, jobs):
                kind = outcome.result.split(':')[0].split('\n')[0]
                kind = kind if kind in ('trained', 'refused') else 'failed'
                kinds[kind] += 1
                if kind == 'failed' or args.only is not None:
                    print(f'{outcome.number}: {" ".join(outcome.words)}\n{outcome.result}\n')
                elif kind == 'refused':
                    print(f'{outcome.number}: {outcome.result}', flush=True)
    print(f'{dict(kinds)} in {time.monotonic() - began:.0f} s')
    return 1 if kinds['failed'] else 0


if __name__ == '__main__':
    sys.exit(main())
