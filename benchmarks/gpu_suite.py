"""Everything there is to measure on a GPU, in one command: GPU tests, degradation, PNG decoding, pipes, training steps, a short training.

    python benchmarks/gpu_suite.py [--data FACES] [--minutes 9] [--only tests,degrade]

Each part leaves its figures in --work, and the same command again goes on with the parts that are missing, so it fits into short leases. The summary goes to
benchmarks/results/DEVICE.json. Exit code: 0 if every part passed, 1 if one failed, 3 without a GPU.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]

from tools import timing

# Targets of this project for one H200.
DEGRADE, AGAINST_TORCH, TRAIN, MEMORY_GB, DECODE = 20_000, 10, 600, 6, 10_000


def parts(args):
    """{name: command}; {json} stands for the file a part leaves."""
    data = ['--data', args.data] if args.data else []
    step = [sys.executable, 'benchmarks/train_step.py', *data, '--json', '{json}']
    return {
        'tests': [
            sys.executable,
            '-m',
            'pytest',
            'tests/test_gpu.py',
            'tests/test_golden.py',
            'tests/test_cuda.py',
            'tests/test_png.py',
            'tests/test_jph.py',
            '-k',
            'not mutants and not sanitizers',
        ],
        'degrade': [
            sys.executable,
            'benchmarks/degrade_throughput.py',
            *data,
            '--recipes',
            'ai6126_2024,ai6126_2022',
            '--rounds',
            '3',
            '--batches',
            '64',
            '--json',
            '{json}',
        ],
        'decode': [sys.executable, 'benchmarks/decode_throughput.py', *data, '--json', '{json}'],
        'pipes': [
            sys.executable,
            'benchmarks/pipe_throughput.py',
            *data,
            '--batch',
            '32',
            '--json',
            '{json}',
        ],
        'step': [*step, '--presets', 'srresnet16,unet', '--batch', '32'],
        'small': [*step, '--presets', 'srresnet20', '--batch', '8', '--memory', str(MEMORY_GB)],
        'train': [
            sys.executable,
            'train.py',
            *data,
            '--preset',
            'unet',
            '--batch',
            '16',
            '--minutes',
            '2',
            '--ticks',
            '4',
            '--out',
            str(args.work / 'run'),
        ],
    }


def run(name, command, work):
    """Run one part, its output shown and kept; {'seconds', 'code', 'figures', 'tail'} written as its result if it passed."""
    figures, log = work / f'{name}.figures.json', work / f'{name}.log'
    command = [str(figures) if c == '{json}' else c for c in command]
    print(f'\n==== {name}: {" ".join(command[1:])}', flush=True)
    start = time.monotonic()
    with open(log, 'w') as f:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for line in process.stdout:
            print(line, end='', flush=True)
            f.write(line)
    result = {
        'seconds': round(time.monotonic() - start, 1),
        'code': process.wait(),
        'tail': log.read_text().splitlines()[-3:],
        'figures': json.loads(figures.read_text()) if figures.exists() else None,
    }
    if result['code'] == 0:
        (work / f'{name}.json').write_text(json.dumps(result))
    return result


def verdicts(results):
    """[(what, measured, target, reached)] of the parts that are there."""
    found = []

    def judge(what, value, target, ok):
        found.append((what, value, target, bool(ok)))

    if 'degrade' in results:
        rate = results['degrade']['figures']['results']['ai6126_2024, GPU']['images_per_second']
        best = max(v for k, v in rate.items() if k.startswith('cuda'))
        ratio = best / rate['torch, batched parity recipe']
        judge('degradation, default recipe, img/s', round(best), f'>= {DEGRADE:,}', best >= DEGRADE)
        judge(
            '  against batched torch',
            round(ratio, 1),
            f'>= {AGAINST_TORCH}',
            ratio >= AGAINST_TORCH,
        )
    if 'decode' in results:
        fastest = max(
            v
            for k, v in results['decode']['figures']['images_per_second'].items()
            if k.startswith('GPU')
        )
        judge('PNG decoded on the GPU, img/s', round(fastest), f'>= {DECODE:,}', fastest >= DECODE)
    if 'step' in results:
        row = next(r for r in results['step']['figures']['rows'] if r['preset'] == 'srresnet16')
        judge(
            'SRResNet-16 training, resident batch, img/s',
            round(row['resident']),
            f'>= {TRAIN}',
            row['resident'] >= TRAIN,
        )
        if 'degrade' in results:
            allowed = 1.01 + row['resident'] / best
            judge(
                '  stall with the real pipe',
                round(row['stall'], 3),
                f'<= {allowed:.3f}',
                row['stall'] <= allowed,
            )
    if 'small' in results:
        row = results['small']['figures']['rows'][0]
        judge(
            'SRResNet-20, batch 8, GB of the card',
            round(row['card_gb'], 2),
            f'<= {MEMORY_GB}',
            row['card_gb'] <= MEMORY_GB,
        )
    return found


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--data', help='HQ faces (default: synthetic ones)')
    parser.add_argument(
        '--work',
        type=Path,
        default=ROOT / 'runs/gpu_suite',
        help='where the parts leave their results (default: %(default)s)',
    )
    parser.add_argument(
        '--only',
        type=lambda s: s.split(','),
        help='parts to run, comma-separated (default: all that are missing)',
    )
    parser.add_argument('--minutes', type=float, help='begin no part after so many')
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print(
            'gpu_suite.py: there is no CUDA GPU that torch can use; nothing was run',
            file=sys.stderr,
        )
        return 3
    args.work = args.work.resolve()  # the parts run in the project's folder
    args.work.mkdir(parents=True, exist_ok=True)
    print(timing.header())
    start, failed = time.monotonic(), []
    for name, command in parts(args).items():
        wanted = name in args.only if args.only else not (args.work / f'{name}.json').exists()
        if (
            wanted
            and not (args.minutes and time.monotonic() - start > 60 * args.minutes)
            and run(name, command, args.work)['code']
        ):
            failed.append(name)
    results = {
        name: json.loads(p.read_text())
        for name in parts(args)
        if (p := args.work / f'{name}.json').exists()
    }
    out = (
        ROOT
        / 'benchmarks/results'
        / (re.sub(r'\W+', '-', torch.cuda.get_device_name()).lower() + '.json')
    )
    timing.write(out, parts=results, verdicts=verdicts(results))
    print(
        '\n==== summary'
        + ''.join(
            f'\n{name:8} '
            + (
                'FAILED, see ' + str(args.work / f'{name}.log')
                if name in failed
                else f'{results[name]["seconds"]:.0f} s: {results[name]["tail"][-1]}'
                if name in results
                else 'missing: run the same command again'
            )
            for name in parts(args)
        )
    )
    for what, value, target, ok in verdicts(results):
        print(f'{what:46} {value:>10}  target {target:12} {"reached" if ok else "MISSED"}')
    print(f'written to {out}')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
