"""What a hand-in holds beside its results: the program, and the logs and weights of a run."""

import subprocess
from pathlib import Path

import tasks
from errors import RunError
from training import checkpoint, run

ROOT = Path(__file__).resolve().parents[2]


def of_run(top: str, home: Path) -> dict[str, bytes]:
    """Logs and weights."""
    entries = {}
    for name in ('config.json', 'log.jsonl', 'curves.png', 'result.json', run.RECIPE):
        if (home / name).is_file():
            entries[f'{top}/logs/{name}'] = (home / name).read_bytes()
    weights = home / checkpoint.FINISHED
    if not weights.is_file():
        raise RunError(f'{home} has no {checkpoint.FINISHED}: let the run end first')
    # Weights that nobody can use are no hand-in.
    config = tasks.of_run(str(home))
    checkpoint.network_with_weights(lambda: tasks.network(config), home)
    return entries | {f'{top}/checkpoint/{weights.name}': weights.read_bytes()}


def code() -> list[str]:
    """Files of the project under version control, or its sources where there is none; without the
    weights that come along, whose licence is another.
    """
    command = ['git', '-C', str(ROOT), 'ls-files', '-z']
    try:
        listed = subprocess.run(command, capture_output=True, text=True)
    except OSError:  # no git on this machine
        listed = None
    if listed and listed.returncode == 0 and listed.stdout:
        names = [n for n in listed.stdout.split('\0') if n and (ROOT / n).is_file()]
        return [n for n in names if not n.endswith('.safetensors')]
    kinds = {'.py', '.cu', '.cuh', '.h', '.cfg', '.toml', '.md'}
    found = []
    # A copy without version control may have runs and an environment in it.
    for path in sorted(ROOT.rglob('*')):
        name = path.relative_to(ROOT)
        private = any(part.startswith('.') or part == 'runs' for part in name.parts)
        if not private and (path.suffix in kinds or path.name == 'Makefile'):
            found.append(str(name))
    return found
