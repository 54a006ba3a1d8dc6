"""A run directory: config.json holds the options of the run."""

import difflib
import os
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

from errors import RunError
from storage import printable, records

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
    'stream_timeout',
}

RECIPE = 'recipe.toml'  # in a run directory, where --recipe was a file

# What to do about a config.json that is no such file.
RESTORE = 'restore it, or start afresh with another --out'

# Options that earlier versions wrote under another name.
RENAMED = {'weights': 'restart_weights'}


# -------------------------------------------------------------------------------------------------
# config.json.


def has_checkpoint(run_dir: str | os.PathLike[str]) -> bool:
    """Whether there is a checkpoint, damaged or not."""
    return any(Path(run_dir, 'checkpoints').glob('[0-9]*'))


def read_config(run_dir: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the options that the run directory was made with, {} if there is none yet.

    Raises RunError if config.json is damaged.
    """
    path = Path(run_dir) / 'config.json'
    try:
        stored = records.read(path, dict[str, Any], RESTORE)
    except (FileNotFoundError, NotADirectoryError):
        stored = {}
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
    known = printable(name, 60)
    near = difflib.get_close_matches(known, names, 1)
    suggestion = f', did you mean {near[0]!r}?' if near else ''
    raise RunError(f'unknown {what} {known!r}{suggestion} (there are: {", ".join(names)})')
