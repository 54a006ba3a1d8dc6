"""Everything there is to measure on a GPU, in one command.

python benchmarks/gpu_suite.py --data FACES --minutes 9
python benchmarks/gpu_suite.py --only tests,degrade

GPU tests, degradation, PNG decoding, pipes, training steps, a short training. Each part leaves its
figures in --work, and the same command again goes on with the parts that are missing, so that it
fits into short leases. The summary goes to benchmarks/results/DEVICE.json. Exit code: 0 if every
part passed, 1 if one failed, 3 without a GPU.
"""

import program

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.degrade_gpu import PARITY_NAME
from tools import arguments, timing

ROOT = Path(__file__).resolve().parents[1]
FIGURES = '{json}'  # in a command: the file that the part leaves its figures in
NO_GPU = 3  # exit status

# Targets of this project for one H200.
DEGRADE = 20_000  # img/s
AGAINST_TORCH = 10  # times the images per second of batched torch
TRAIN = 600  # img/s
MEMORY_GB = 6  # of the smallest card
DECODE = 10_000  # img/s


# ---- the parts ----


def parts(data: str | None, work: Path) -> dict[str, list[str]]:
    """The command of each part, without the interpreter. data: HQ faces; work: for a training"""
    faces = ['--data', data] if data else []
    tests = [f'tests/test_{name}.py' for name in ('gpu', 'golden', 'cuda', 'png', 'jph')]
    degrade = ['--recipes', 'ai6126_2024,ai6126_2022', '--rounds', '3', '--batches', '64']
    train = ['--preset', 'unet', '--batch', '16', '--minutes', '2', '--ticks', '4']
    small = f'--presets srresnet20 --batch 8 --memory {MEMORY_GB}'.split()

    # Every benchmark takes the same two; the small card's step has a limit of its own.
    both = [*faces, '--json', FIGURES]
    step = ['benchmarks/train_step.py', *both]
    return {
        'tests': ['-m', 'pytest', *tests, '-k', 'not mutants and not sanitizers'],
        'degrade': ['benchmarks/degrade_throughput.py', *both, *degrade],
        'decode': ['benchmarks/decode_throughput.py', *both],
        'pipes': ['benchmarks/pipe_throughput.py', *both, '--batch', '32'],
        'step': [*step, '--presets', 'srresnet16,unet', '--batch', '32'],
        'small': [*step, *small],
        'train': ['train.py', *faces, *train, '--out', str(work / 'run')],
    }


def run(name: str, command: Sequence[str], work: Path) -> int:
    """Run one part, its output shown and written to a log -> exit status.

    If it passed, its result is written: {'seconds', 'code', 'tail', 'figures'}.
    """
    # The log outlives the part: its last lines go into the summary, the rest explains a failure.
    figures, log = work / f'{name}.figures.json', work / f'{name}.log'
    command = [str(figures) if word == FIGURES else word for word in command]
    print(f'\n==== {name}: {" ".join(command)}', flush=True)
    start = time.monotonic()
    code = _logged([sys.executable, *command], log)
    if code == 0:
        result = {
            'seconds': round(time.monotonic() - start, 1),
            'code': code,
            'tail': log.read_text().splitlines()[-3:],
            'figures': json.loads(figures.read_text()) if figures.exists() else None,
        }
        _result_file(work, name).write_text(json.dumps(result))
    return code


def _logged(command: Sequence[str], log: Path) -> int:
    """Run a command in the project's folder, its output shown and written to a file."""
    # Line by line, since a part takes minutes.
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    with open(log, 'w') as f:
        for line in process.stdout:
            print(line, end='', flush=True)
            f.write(line)
    return process.wait()


def _result_file(work: Path, name: str) -> Path:
    return work / f'{name}.json'


# ---- what was reached ----


class Verdict(NamedTuple):
    """A figure and its target."""

    what: str
    measured: float
    target: str
    reached: bool


def verdicts(results: dict[str, Any]) -> list[Verdict]:
    """Verdicts on the parts that have a result."""
    figures = {name: result.get('figures') for name, result in results.items()}
    judged: list[Verdict] = []
    degraded = None
    if 'degrade' in figures:
        degraded, ratio = _degradation(figures['degrade'])
        judged += [
            _at_least('degradation, default recipe, img/s', degraded, DEGRADE),
            _at_least('  against batched torch', ratio, AGAINST_TORCH, digits=1),
        ]
    if 'decode' in figures:
        rates = figures['decode']['images_per_second']
        fastest = max(rate for name, rate in rates.items() if name.startswith('GPU'))
        judged.append(_at_least('PNG decoded on the GPU, img/s', fastest, DECODE))
    if 'step' in figures:
        judged += _training(figures['step'], degraded)
    if 'small' in figures:
        used = figures['small']['rows'][0]['card_gb']
        judged.append(_at_most('SRResNet-20, batch 8, GB of the card', used, MEMORY_GB, digits=2))
    return judged


def _at_least(what: str, value: float, target: float, digits: int | None = None) -> Verdict:
    return Verdict(what, round(value, digits), f'>= {target:,}', value >= target)


def _at_most(what: str, value: float, target: float, digits: int) -> Verdict:
    shown = f'<= {target:.3f}' if isinstance(target, float) else f'<= {target}'
    return Verdict(what, round(value, digits), shown, value <= target)


def _degradation(figures: dict[str, Any]) -> tuple[float, float]:
    """(images per second at the best batch size, how many times batched torch that is)."""
    rates = figures['results']['ai6126_2024, GPU']['images_per_second']
    best = max(rate for name, rate in rates.items() if name.startswith('cuda'))
    return best, best / rates[PARITY_NAME]


def _training(figures: dict[str, Any], degraded: float | None) -> list[Verdict]:
    """A network's own speed and, where it is known how fast images are degraded, its stall."""
    row = next(row for row in figures['rows'] if row['preset'] == 'srresnet16')
    rate = row['resident']
    judged = [_at_least('SRResNet-16 training, resident batch, img/s', rate, TRAIN)]
    if degraded:
        # Both share the card, so that a step may take longer by the degradation of its batch.
        allowed = 1.01 + rate / degraded
        judged.append(_at_most('  stall with the real pipe', row['stall'], allowed, digits=3))
    return judged


def _outcome(name: str, work: Path, result: dict[str, Any] | None, failed: bool) -> str:
    """A line on one part."""
    if failed:
        return f'FAILED, see {work / f"{name}.log"}'
    if result is None:
        return 'missing: run the same command again'
    return f'{result["seconds"]:.0f} s: {result["tail"][-1]}'


# ---- everything ----


def parser() -> argparse.ArgumentParser:
    """Flags of gpu_suite.py."""
    p = arguments.described(__doc__)
    p.add_argument('--data', help='HQ faces (default: synthetic ones)')
    p.add_argument(
        '--work',
        type=Path,
        default=ROOT / 'runs/gpu_suite',
        help='where the parts leave their results (default: %(default)s)',
    )
    p.add_argument(
        '--only',
        type=arguments.names,
        help='parts to run, comma-separated (default: all that are missing)',
    )
    p.add_argument(
        '--minutes', type=program.ranges.MINUTES, help='start no further part after so many minutes'
    )
    return p


@program.entry
def main(argv: Sequence[str] | None = None) -> int:
    """Run the parts that are missing and write the summary -> exit status."""
    args = parser().parse_args(argv)
    if not torch.cuda.is_available():
        print(
            'gpu_suite.py: there is no CUDA GPU that torch can use; nothing was run',
            file=sys.stderr,
        )
        return NO_GPU
    work = args.work.resolve()  # the parts run in the project's folder
    work.mkdir(parents=True, exist_ok=True)
    print(timing.header())

    commands = parts(args.data, work)
    failed = _run_missing(commands, args, work)
    files = {name: _result_file(work, name) for name in commands}
    results = {name: json.loads(p.read_text()) for name, p in files.items() if p.exists()}

    device = re.sub(r'\W+', '-', torch.cuda.get_device_name()).lower()
    out = ROOT / 'benchmarks/results' / f'{device}.json'
    judged = verdicts(results)
    timing.write(out, parts=results, verdicts=judged)
    print('\n==== summary')
    for name in commands:
        print(f'{name:8} {_outcome(name, work, results.get(name), name in failed)}')
    for v in judged:
        mark = 'reached' if v.reached else 'MISSED'
        print(f'{v.what:46} {v.measured:>10}  target {v.target:12} {mark}')
    print(f'written to {out}')
    return 1 if failed else 0


def _run_missing(commands: dict[str, list[str]], args: argparse.Namespace, work: Path) -> list[str]:
    """Run what was asked for, or what has no result, while there is time -> what failed."""
    start = time.monotonic()
    failed = []
    for name, command in commands.items():
        wanted = name in args.only if args.only else not _result_file(work, name).exists()
        late = args.minutes and time.monotonic() - start > 60 * args.minutes
        if wanted and not late and run(name, command, work):
            failed.append(name)
    return failed


if __name__ == '__main__':
    sys.exit(main())
