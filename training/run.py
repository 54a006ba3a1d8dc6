"""A run directory: config.json holds the options of the run, and the same command resumes it."""

import difflib
import json
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import storage
from errors import RunError

# Of a run directory. 1 had one process, one optimizer and one validation set; 2 kept the counters
# of a checkpoint elsewhere.
FORMAT = 3

# Options that may differ on resume: they change no sample and no schedule.
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
}

# Options that earlier versions wrote under another name.
RENAMED = {'weights': 'restart_weights'}


# -------------------------------------------------------------------------------------------------
# config.json.


def prepare(run_dir: str | os.PathLike[str], config: Mapping[str, Any]) -> bool:
    """Create `run_dir` with config.json, or check that it was made with the same options.

    Returns True if it existed. Raises RunError, which names each option that differs, or if the
    folder cannot be written.
    """
    # As JSON has it: tuples have become lists, for instance.
    config = json.loads(json.dumps(config))
    stored = read_config(run_dir)
    if not stored:
        storage.write_json(Path(run_dir) / 'config.json', config)
        return False

    # The format comes first: options of another one differ in ways that would mislead.
    stored_format = stored.get('format', 1)
    if stored_format != config.get('format', 1):
        raise RunError(
            f'{run_dir} has format {stored_format} of run directories, '
            f'this version writes {config.get("format", 1)}: finish it with the version that made '
            'it, or give another --out (its weights can still be restored with: infer.py)'
        )
    differences = [
        f'{option}: was {stored.get(option)!r}, now {config.get(option)!r}'
        for option in sorted({*stored, *config} - FREE)
        if stored.get(option) != config.get(option)
    ]
    if differences:
        raise RunError(
            f'{run_dir} was made with other options ({"; ".join(differences)}): '
            'give the same ones to resume, or another --out'
        )
    return True


def read_config(run_dir: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the options that the run directory was made with, {} if there is none yet.

    Raises RunError if config.json is damaged.
    """
    path = Path(run_dir) / 'config.json'
    try:
        stored = json.loads(path.read_text()) if path.exists() else {}
    except ValueError as error:
        raise RunError(
            f'{path} is damaged ({error}): restore it, or start afresh with another --out'
        ) from error
    return {RENAMED.get(option, option): value for option, value in stored.items()}


def newest(folder: str | os.PathLike[str] = 'runs') -> Path:
    """Return the run directory under `folder` written last; raises RunError if there is none."""
    runs = [config.parent for config in Path(folder).glob('*/config.json')]
    if not runs:
        raise RunError(
            f'no run in {folder}/: train one first (python train.py), or name one with --run'
        )
    return max(runs, key=_written)


def _written(run_dir: Path) -> float:
    # A folder's own time changes only when an entry of it does, so checkpoints are asked too.
    paths = (run_dir, *run_dir.glob('checkpoints/*'), run_dir / 'config.json')
    return max(path.stat().st_mtime for path in paths)


# -------------------------------------------------------------------------------------------------
# Space.


def need_space(folder: str | os.PathLike[str], size: int) -> None:
    """Raise RunError unless `size` bytes are free on the disk of `folder`, which need not exist."""
    # The disk is that of the nearest folder above which exists.
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < size:
        raise RunError(
            f'{folder}: its checkpoints, weights and pictures will take about '
            f'{size / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free: make room, or give --out on '
            'another disk'
        )


# -------------------------------------------------------------------------------------------------
# Names.


def choose(name: str, names: Collection[str], what: str) -> str:
    """Return `name` if it is one of `names`; otherwise RunError suggests the nearest of them."""
    if name in names:
        return name
    near = difflib.get_close_matches(name, names, 1)
    suggestion = f', did you mean {near[0]!r}?' if near else ''
    raise RunError(f'unknown {what} {name!r}{suggestion} (there are: {", ".join(names)})')
