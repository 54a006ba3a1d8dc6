"""A run directory: config.json says what ran, and the same command resumes it."""

import contextlib
import difflib
import json
import os
import shutil
from pathlib import Path

from errors import RunError

FORMAT = 3  # of a run directory; 1 had one process, one optimizer and one validation set, 2 kept the counters of a checkpoint elsewhere
FREE = {
    'out',
    'pipe',
    'cache',
    'decode',
    'device',
    'threads',
    'save_minutes',
    'strict',
    'verify',
}  # may differ on resume: they change no sample and no schedule


def prepare(run_dir, config):
    """Create `run_dir` with config.json, or check that the one there was made with the same options. Returns True if it existed.

    Raises RunError naming each option that differs, or if the folder cannot be written.
    """
    path = Path(run_dir) / 'config.json'
    config = json.loads(json.dumps(config))
    old = read_config(run_dir)
    if old:
        if old.get('format', 1) != config.get('format', 1):
            raise RunError(
                f'{run_dir} has format {old.get("format", 1)} of run directories, this version writes {config.get("format", 1)}: finish it with the version that '
                'made it, or give another --out (its weights can still be restored with: infer.py)'
            )
        differs = [
            f'{k}: was {old.get(k)!r}, now {config.get(k)!r}'
            for k in sorted({*old, *config} - FREE)
            if old.get(k) != config.get(k)
        ]
        if differs:
            raise RunError(
                f'{run_dir} was made with other options ({"; ".join(differs)}): give the same ones to resume, or another --out'
            )
        return True
    write_json(path, config)
    return False


def write(path, data, sync=False):
    """Write bytes to a file, whole or not at all, in a folder made if need be. Raises RunError if that fails. sync: also survive a loss of power"""
    path = Path(path)
    fresh = path.with_name(f'.new-{path.name}')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(fresh, 'wb') as f:
            f.write(data)
            if sync:
                f.flush()
                os.fsync(f.fileno())
        os.replace(fresh, path)
    except OSError as e:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise RunError(f'{path} cannot be written: {e.strerror}') from e


def write_json(path, content):
    write(path, (json.dumps(content, indent=2) + '\n').encode())


def need_space(folder, size):
    """Raise RunError unless the disk of `folder` (which may not exist yet) has `size` bytes to spare."""
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < size:
        raise RunError(
            f'{folder}: its checkpoints, weights and pictures will take about {size / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free: make room, or give --out on another disk'
        )


def read_config(run_dir):
    """Options that the run directory was made with; {} if there is none yet."""
    path = Path(run_dir) / 'config.json'
    try:
        return json.loads(path.read_text()) if path.exists() else {}
    except ValueError as e:
        raise RunError(
            f'{path} is damaged ({e}): restore it, or start afresh with another --out'
        ) from e


def choose(name, names, what):
    """`name` if it is one of `names`; RunError with the near miss otherwise."""
    if name not in names:
        near = difflib.get_close_matches(name, names, 1)
        raise RunError(
            f'unknown {what} {name!r}'
            + (f', did you mean {near[0]!r}?' if near else '')
            + f' (there are: {", ".join(names)})'
        )
    return name


def newest(folder='runs'):
    """Run directory under `folder` that was written last; RunError if there is none."""
    runs = [p.parent for p in Path(folder).glob('*/config.json')]
    if not runs:
        raise RunError(
            f'no run in {folder}/: train one first (python train.py), or name one with --run'
        )
    return max(
        runs,
        key=lambda r: max(
            p.stat().st_mtime for p in (r, *r.glob('checkpoints/*'), r / 'config.json')
        ),
    )
