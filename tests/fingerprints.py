"""What a refactoring must not change: weights of short runs, options of every preset, all flags.

    python tests/fingerprints.py --faces DIR --out before.json              train, and record
    python tests/fingerprints.py --faces DIR --compare before.json          do it again, and compare
    python tests/fingerprints.py --faces DIR --tree ../old --out old.json   of another checkout

The faces are drawn into DIR. Hashes hold for one machine and one set of libraries: compare only
what was recorded on the same.
"""

import argparse
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
COMMON = [
    '--size',
    '128',
    '--nimg',
    '96',
    '--threads',
    '1',
    '--precision',
    'fp32',
    '--ticks',
    '2',
    '--cache',
    'host',
]
PARSED = '--data {faces} --val 4'
PLAIN = '--data {faces}/images --val 4'
# Later ones begin with what earlier ones left in the output folder.
RUNS = {
    'unet': f'--preset unet {PLAIN}',
    'accumulated': f'--preset unet {PLAIN} --accumulate 2 --ema 8',
    'flagship': f'--preset flagship {PLAIN}',
    'rrdb_small': f'--preset rrdb_small {PLAIN} --crop 64',
    'esrgan_small': f'--preset esrgan_small {PLAIN} --start {{runs}}/rrdb_small --batch 8',
    'renovation_demo': f'--preset renovation_demo {PLAIN} --crop 64',
    'parse_unet': f'--preset parse_unet {PARSED}',
    'landmarks': f'--preset landmarks {PARSED}',
    'parse_prior': f'--preset parse_prior {PARSED} --recipe mfps',
    'search_sr': f'--preset search_sr {PLAIN} --crop 64',
    'mfpsnet': f'--preset mfpsnet {PLAIN} --prior {{runs}}/parse_prior --crop 64',
}


def draw(faces: Path) -> None:
    """Twelve synthetic faces of 128 pixels with their masks."""
    if not faces.exists():
        sys.path.insert(0, str(HERE))
        import synthetic

        synthetic.write(faces, 12, first_seed=0, size=128)


def train(tree: Path, faces: Path, runs: Path, names: list[str]) -> dict[str, str]:
    """{name of a run: SHA-256 of its final weights}"""
    found = {}
    for name in names:
        flags = RUNS[name].format(faces=faces, runs=runs).split()
        out = runs / name
        if not (out / 'weights.safetensors').exists():
            command = [sys.executable, 'train.py', *flags, *COMMON, '--out', str(out)]
            subprocess.run(command, cwd=tree, check=True, stdout=subprocess.DEVNULL)
        found[name] = hashlib.sha256((out / 'weights.safetensors').read_bytes()).hexdigest()
        print(f'{name:16} {found[name][:16]}', flush=True)
    return found


def options(tree: Path, preset: str) -> dict[str, object]:
    """What a run of a preset would be made with."""
    command = [sys.executable, 'train.py', '--preset', preset, '--dry-run']
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True)
    if done.returncode:
        return {'refused': done.stderr.splitlines()[0]}
    return json.loads(done.stdout[done.stdout.index('{') :])


def presets(tree: Path) -> list[str]:
    """Names of all presets, as the refusal of a wrong one tells them."""
    command = [sys.executable, 'train.py', '--preset', '?', '--dry-run']
    said = subprocess.run(command, cwd=tree, capture_output=True, text=True).stderr
    return re.search(r'there are: (.*?)\)', said)[1].split(', ')


def flags(tree: Path) -> list[str]:
    """All flags of train.py."""
    for switch in ('--help-all', '--help'):
        done = subprocess.run(
            [sys.executable, 'train.py', switch], cwd=tree, capture_output=True, text=True
        )
        if not done.returncode:
            return sorted(set(re.findall(r'(?<![\w`])--[a-z][a-z0-9-]*', done.stdout)))
    raise RuntimeError(done.stderr)


# Renamed, or written out, since the first recording.
EXPECTED = {'format', 'weights', 'restart_weights', 'strict', 'verify'}


def differences(before: dict, after: dict, where: str = '') -> list[str]:
    """Lines that name what is not the same."""
    lines = []
    for key in sorted({*before, *after} - EXPECTED):
        old, new = before.get(key), after.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            lines += differences(old, new, f'{where}{key}/')
        elif old != new:
            lines.append(f'{where}{key}: was {old!r}, is {new!r}')
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--faces', type=Path, required=True, help='folder of the drawn faces')
    parser.add_argument(
        '--runs', type=Path, help='folder of the runs (default: FACES-runs, or FACES-compared)'
    )
    parser.add_argument('--tree', type=Path, default=HERE, help='checkout to record')
    parser.add_argument('--only', nargs='+', default=list(RUNS), help='runs to make')
    parser.add_argument('--out', type=Path, help='write what was found')
    parser.add_argument('--compare', type=Path, help='tell what differs from this')
    args = parser.parse_args()
    draw(args.faces)
    # Runs of the recording would be taken up where they ended, and equal themselves.
    suffix = '-compared' if args.compare else '-runs'
    runs = args.runs or args.faces.with_name(args.faces.name + suffix)
    found = {
        'flags': flags(args.tree),
        'options': {name: options(args.tree, name) for name in presets(args.tree)},
        'weights': train(args.tree, args.faces.resolve(), runs.resolve(), args.only),
    }
    if args.out:
        args.out.write_text(json.dumps(found, indent=1))
    if args.compare:
        lines = differences(json.loads(args.compare.read_text()), found)
        print('\n'.join(lines) or 'nothing differs')
        return bool(lines)
    return 0


if __name__ == '__main__':
    sys.exit(main())
