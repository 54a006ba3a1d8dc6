"""Everything there is to measure on a GPU, in one command.

python benchmarks/gpu_suite.py --data FACES --minutes 9
python benchmarks/gpu_suite.py --only tests,degrade --out /tmp/suite

Degradation, PNG decoding, pipes, training steps, a short training, GPU tests, in this order. Each
part leaves its result in --out the moment it ends, and the same command again goes on with the
parts that are missing, so that it fits into short leases: a part that failed is not repeated unless
--retry or --only asks for it, and one that was stopped for lack of time comes after the others.
DALI is measured where it is installed. The summary is summary.json; gpu_table.py makes the table in
docs/gpu.md of it. Exit code: 0 if no part failed, 1 if one did, 3 without a GPU.
"""

import program

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

import storage
from benchmarks.degrade_gpu import PARITY_NAME
from tools import arguments, timing

ROOT = Path(__file__).resolve().parents[1]
FIGURES = '{json}'  # in a command: the file that the part leaves its figures in
NO_GPU = 3  # exit status
GRACE = 10  # seconds that a stopped part has to end

# Targets of this project for one H200.
DEGRADE = {64: 20_000, 256: 40_000}  # img/s by batch
AGAINST_TORCH = 10  # times the images per second of batched torch
TRAIN = 800  # img/s
MEMORY_GB = 6  # of the smallest card
DECODE = 10_000  # img/s


# ---- the parts ----


def parts(data: str | None, out: Path) -> dict[str, list[str]]:
    """The command of each part, without the interpreter. data: HQ faces; out: for a training"""
    faces = ['--data', data] if data else []
    tests = [f'tests/test_{name}.py' for name in ('gpu', 'golden', 'cuda', 'png', 'jph')]
    degrade = ['--recipes', 'ai6126_2024,ai6126_2022', '--rounds', '3', '--batches', '64']
    train = ['--preset', 'unet', '--batch', '16', '--minutes', '2', '--ticks', '4']
    small = f'--presets srresnet20 --batch 8 --memory {MEMORY_GB}'.split()

    # Every benchmark takes the same two; the small card's step has a limit of its own.
    both = [*faces, '--json', FIGURES]
    step = ['benchmarks/train_step.py', *both]
    return {
        'degrade': ['benchmarks/degrade_throughput.py', *both, *degrade],
        'decode': ['benchmarks/decode_throughput.py', *both],
        'pipes': ['benchmarks/pipe_throughput.py', *both, '--batch', '32'],
        'step': [*step, '--presets', 'srresnet16,unet', '--batch', '32'],
        'small': [*step, *small],
        'train': ['train.py', *faces, *train, '--out', str(out / 'run')],
        'tests': ['-m', 'pytest', *tests, '-k', 'not mutants and not sanitizers'],
    }


def run(name: str, command: Sequence[str], out: Path, seconds: float | None) -> dict[str, Any]:
    """Run one part, its output shown and written to a log, and write its result at once.

    seconds: after which it is stopped
    Returns the result: {'seconds', 'code', 'stopped', 'tail', 'figures'}, the last if it passed.
    """
    # The log outlives the part: its last lines go into the summary, the rest explains a failure.
    figures, log = out / f'{name}.figures.json', out / f'{name}.log'
    figures.unlink(missing_ok=True)
    command = [str(figures) if word == FIGURES else word for word in command]
    print(f'\n==== {name}: {" ".join(command)}', flush=True)
    start = time.monotonic()
    code, stopped = _logged([sys.executable, *command], log, seconds)
    result = {
        'seconds': round(time.monotonic() - start, 1),
        'code': code,
        'stopped': stopped,
        'tail': log.read_text(errors='replace').splitlines()[-3:],
        'figures': json.loads(figures.read_text()) if code == 0 and figures.exists() else None,
    }
    storage.write_json(_result_file(out, name), result)
    return result


def _logged(command: Sequence[str], log: Path, seconds: float | None) -> tuple[int, bool]:
    """Run a command in the project's folder, its output shown and written to a file.

    seconds: after which it, and what it started, are stopped
    Returns (exit status, whether it was stopped).
    """
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors='replace',
        start_new_session=True,
    )
    late = threading.Event()

    def stop() -> None:
        late.set()
        _end(process)

    timer = threading.Timer(seconds, stop) if seconds is not None else None
    try:
        if timer:
            timer.start()
        # Line by line, since a part takes minutes.
        assert process.stdout is not None
        with open(log, 'w') as f:
            for line in process.stdout:
                print(line, end='', flush=True)
                f.write(line)
        return process.wait(), late.is_set()
    finally:
        if timer:
            timer.cancel()
        _end(process)


def _end(process: 'subprocess.Popen[str]') -> None:
    """End a process and all that it started, which are a group of their own."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)


def _result_file(out: Path, name: str) -> Path:
    return out / f'{name}.json'


def _read(out: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Results of the parts that have one."""
    files = {name: _result_file(out, name) for name in names}
    return {name: json.loads(path.read_text()) for name, path in files.items() if path.exists()}


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
    if figures.get('degrade'):
        rates = figures['degrade']['results']['ai6126_2024, GPU']['images_per_second']
        degraded = max(rate for name, rate in rates.items() if name.startswith('cuda'))
        for batch, target in DEGRADE.items():
            what = f'degradation, default recipe, batch {batch}, img/s'
            judged.append(_at_least(what, rates[f'cuda, batch {batch}'], target))
        ratio = degraded / rates[PARITY_NAME]
        judged.append(_at_least('  against batched torch', ratio, AGAINST_TORCH, digits=1))
    if figures.get('decode'):
        rates = figures['decode']['images_per_second']
        fastest = max(rate for name, rate in rates.items() if name.startswith('GPU'))
        judged.append(_at_least('PNG decoded on the GPU, img/s', fastest, DECODE))
    if figures.get('step'):
        judged += _training(figures['step'], degraded)
    if figures.get('small'):
        used = figures['small']['rows'][0]['card_gb']
        judged.append(_at_most('SRResNet-20, batch 8, GB of the card', used, MEMORY_GB, digits=2))
    return judged


def _at_least(what: str, value: float, target: float, digits: int | None = None) -> Verdict:
    return Verdict(what, round(value, digits), f'>= {target:,}', value >= target)


def _at_most(what: str, value: float, target: float, digits: int) -> Verdict:
    shown = f'<= {target:.3f}' if isinstance(target, float) else f'<= {target}'
    return Verdict(what, round(value, digits), shown, value <= target)


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


def _outcome(name: str, out: Path, result: dict[str, Any] | None) -> str:
    """A line on one part."""
    if result is None:
        return 'missing: run the same command again'
    if result['stopped']:
        return f'stopped after {result["seconds"]:.0f} s: run the same command again'
    if result['code']:
        return f'FAILED, see {out / f"{name}.log"}; --retry runs it again'
    return f'{result["seconds"]:.0f} s: {"".join(result["tail"][-1:])}'


# ---- everything ----


def parser() -> argparse.ArgumentParser:
    """Flags of gpu_suite.py."""
    p = arguments.described(__doc__)
    p.add_argument('--data', help='HQ faces (default: synthetic ones)')
    p.add_argument(
        '--out',
        type=Path,
        default=Path(os.environ.get('OUT') or ROOT / 'runs/gpu_suite'),
        help='where the parts leave their results (default: $OUT where it is set; %(default)s)',
    )
    p.add_argument(
        '--only',
        type=arguments.names,
        help='parts to run, comma-separated, also if they have a result',
    )
    p.add_argument('--retry', action='store_true', help='run parts that failed again')
    p.add_argument(
        '--minutes',
        type=program.ranges.MINUTES,
        help='for all of it: the part that runs then is stopped',
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
    out = args.out.resolve()  # the parts run in the project's folder
    commands = parts(args.data, out)
    unknown = set(args.only or ()) - set(commands)
    if unknown:
        parser().error(f'--only {",".join(unknown)}: there are {", ".join(commands)}')
    out.mkdir(parents=True, exist_ok=True)
    print(timing.header())
    run_wanted(commands, args, out)
    results = _read(out, commands)
    print('\n==== summary')
    for name in commands:
        print(f'{name:8} {_outcome(name, out, results.get(name))}')
    for v in verdicts(results):
        mark = 'reached' if v.reached else 'MISSED'
        print(f'{v.what:46} {v.measured:>10}  target {v.target:12} {mark}')
    print(f'written to {_summary(out, results)}')
    return int(any(r['code'] and not r['stopped'] for r in results.values()))


def run_wanted(commands: dict[str, list[str]], args: argparse.Namespace, out: Path) -> None:
    """Run what was asked for, or what has no result, while there is time."""
    until = time.monotonic() + 60 * args.minutes if args.minutes else None
    for name in wanted(commands, args, out):
        left = until - time.monotonic() if until else None
        if left is not None and left <= 0:
            return
        run(name, commands[name], out, left)
        _summary(out, _read(out, commands))


def wanted(commands: Iterable[str], args: argparse.Namespace, out: Path) -> list[str]:
    """Names of the parts to run, in their order."""
    if args.only:
        return [name for name in commands if name in args.only]
    results = _read(out, commands)
    missing = [name for name in commands if name not in results]

    # What did not fit into the time before may not fit again, so everything else comes first.
    stopped = [name for name, r in results.items() if r['stopped']]
    failed = [name for name, r in results.items() if r['code'] and not r['stopped']]
    return missing + (failed if args.retry else []) + stopped


def _summary(out: Path, results: dict[str, Any]) -> Path:
    """Write the summary of what there is so far, and return its path."""
    path = out / 'summary.json'
    timing.write(path, parts=results, verdicts=[v._asdict() for v in verdicts(results)])
    return path


if __name__ == '__main__':
    sys.exit(main())
