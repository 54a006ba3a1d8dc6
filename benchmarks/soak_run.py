"""Small runs of train.py that are killed again and again, for soak.py."""

import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import synthetic
from benchmarks import soak_watch
from errors import FacesError
from training import checkpoint

ROOT = Path(__file__).resolve().parents[1]
# The smallest network that has everything: strides, skips and an embedding of the place.
NET = '{"width": [8, 16], "blocks": [[1], 1, [1]], "position": 8}'
SIZE = 64
FACES = 40
BATCH = 2
RANKS = 2
# Checkpoints every second: from the last of them on, everything is done again. On a CPU, whose bits
# repeat without being asked to.
SAVING: dict[str, Any] = dict(save_minutes=0.02, ticks=4, device='cpu')
ORPHANS = 20.0  # seconds within which the workers of a killed process have to be gone
PATIENCE = 600.0  # seconds after which a run that should end by itself is taken to hang


class Outcome(NamedTuple):
    """Of runs that were killed on their way."""

    kills: int
    moments: dict[str, int]  # what they were doing: {moment: kills}
    runs: int  # that came to their end
    different: int  # of them, in any bit of their weights, from the run that was left alone
    orphans: int  # processes that outlived the one that had started them


def faces(folder: Path) -> Path:
    """Draw the faces that are trained on -> their folder."""
    synthetic.write(folder, FACES, first_seed=70_000, size=SIZE)
    return folder / 'images'


def arguments(data: Path, out: Path, steps: int, **more: object) -> list[str]:
    """train.py with the arguments of a small run."""
    options: dict[str, object] = dict(
        data=data,
        val=4,
        out=out,
        preset='unet',
        net=NET,
        recipe='ai6126_2022',
        size=SIZE,
        batch=BATCH,
        nimg=steps * BATCH,
        threads=1,
        pipe='torch',
    )
    options |= more
    words = [w for k, v in options.items() for w in ('--' + k.replace('_', '-'), str(v))]
    return [str(ROOT / 'train.py'), *words]


@contextmanager
def started(command: Sequence[str], terminal: Path) -> Iterator[subprocess.Popen[str]]:
    """A Python command, which is killed if it is left running. terminal: file for what it says"""
    with terminal.open('w') as said:
        process = subprocess.Popen(
            [sys.executable, *command], stdout=said, stderr=subprocess.STDOUT, text=True
        )
        try:
            yield process
        finally:
            # What it has started may outlive a launcher, and would write into a folder that goes.
            for each in soak_watch.family(process.pid):
                each.kill()
            process.kill()
            process.wait()


def succeeded(process: subprocess.Popen[str], terminal: Path) -> None:
    """Wait for the end of a process. Raises FacesError if it fails or hangs."""
    try:
        status = process.wait(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        raise FacesError(f'it hangs: {terminal.read_text()[-2000:]}') from None
    if status:
        raise FacesError(f'it ended with {status}: {terminal.read_text()[-2000:]}')


def weights(out: Path) -> dict[str, str]:
    """Checksums of a run's last weights, and of their averages."""
    latest = checkpoint.latest(out)
    if latest is None:
        raise FacesError(f'{out}: it has left no checkpoint')
    sums = json.loads((latest / 'checksums.json').read_text())
    return {name: sums[f'{name}.safetensors'] for name in ('net', 'ema')}


class Whole(NamedTuple):
    """A run that nothing happened to."""

    weights: dict[str, str]
    start: float  # seconds until its first checkpoint


def undisturbed(command: Sequence[str], out: Path) -> Whole:
    """Let a run come to its end."""
    terminal, begun, start = out.with_suffix('.txt'), time.monotonic(), 0.0
    with started(command, terminal) as process:
        # When training has begun tells where the kills of the next runs should lie.
        while not start and process.poll() is None and time.monotonic() - begun < PATIENCE:
            time.sleep(0.02)
            if checkpoint.latest(out):
                start = time.monotonic() - begun
        succeeded(process, terminal)
    return Whole(weights(out), start)


# ---- kills ----


def killed(data: Path, folder: Path, pipe: str, steps: int, count: int, seed: int) -> Outcome:
    """Kill -9 runs at `count` random moments, begin them again until they end, and compare them.

    A run that ends before the last kill is followed by another.
    """
    how = dict(pipe=pipe, **SAVING)
    whole = undisturbed(arguments(data, folder / 'whole', steps, **how), folder / 'whole')

    # A run is killed and begun again until it comes to its end, then the next one follows.
    dice, moments, different, orphans, runs = random.Random(seed), Counter[str](), 0, 0, 0
    while moments.total() < count:
        out = folder / f'run-{runs}'
        command = arguments(data, out, steps, **how)
        while moments.total() < count:
            # As many kills before the first step as after it.
            moment = dice.uniform(0, 2 * whole.start)
            ended, left = _killed_after(moment, command, out)
            orphans += left
            # It has come to its end before its moment.
            if ended:
                break
            moments[_moment(out, moment < whole.start)] += 1
        # After the last kill it is left alone; a run that has ended says so and does nothing.
        with started(command, out.with_suffix('.txt')) as process:
            succeeded(process, out.with_suffix('.txt'))
        runs += 1
        different += weights(out) != whole.weights
        print(f'  {pipe}: {moments.total()} of {count} kills, {runs} runs, {different} different')
    return Outcome(moments.total(), dict(moments), runs, different, orphans)


def _killed_after(seconds: float, command: Sequence[str], out: Path) -> tuple[bool, int]:
    """Start a command and kill it -> (whether it ended before, processes that it left behind)."""
    terminal = out.with_suffix('.txt')
    with started(command, terminal) as process:
        try:
            status = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            # Its children are asked for while it can still tell them.
            children = soak_watch.family(process.pid)[1:]
            process.kill()
            process.wait()
            return False, _still_there(children)
    if status:
        raise FacesError(f'it ended with {status}: {terminal.read_text()[-2000:]}')
    return True, 0


def _still_there(children: Sequence[Any]) -> int:
    """How many processes do not end by themselves in time."""
    import psutil

    return len(psutil.wait_procs(children, timeout=ORPHANS)[1])


def _moment(out: Path, early: bool) -> str:
    """What a run that was killed had been doing."""
    # Checkpoints are written under another name, which a kill leaves behind.
    checkpoints = out / 'checkpoints'
    if checkpoints.is_dir() and any(p.name.startswith('.new-') for p in checkpoints.iterdir()):
        return 'writing a checkpoint'
    return 'starting' if early else 'training'


# ---- lost ranks ----


def lost_ranks(data: Path, folder: Path, steps: int, count: int, seed: int) -> Outcome:
    """Kill one of two processes under torchrun `count` times, and compare what they end with."""
    how = SAVING
    launcher = ['-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', str(RANKS)]
    launcher += ['--max-restarts', str(count + 1)]
    # Two processes sum their gradients in another order than one, hence a whole run of their own.
    alone = [*launcher, *arguments(data, folder / 'ranks', steps, **how)]
    whole = undisturbed(alone, folder / 'ranks')
    dice, moments, different, runs = random.Random(seed), Counter[str](), 0, 0
    seen: dict[int, Any] = {}
    while moments.total() < count:
        out = folder / f'ranks-{runs}'
        terminal = out.with_suffix('.txt')
        with started([*launcher, *arguments(data, out, steps, **how)], terminal) as process:
            while moments.total() < count and process.poll() is None:
                time.sleep(dice.uniform(0, 2 * whole.start))
                seen |= {each.pid: each for each in soak_watch.family(process.pid)[1:]}
                moments.update(_kill_a_rank(process, dice))
            succeeded(process, terminal)
        runs += 1
        different += weights(out) != whole.weights
        print(f'  {moments.total()} of {count} lost ranks, {runs} runs, {different} different')
    left = _still_there(list(seen.values()))
    return Outcome(moments.total(), dict(moments), runs, different, left)


def _kill_a_rank(launcher: subprocess.Popen[str], dice: random.Random) -> list[str]:
    """Kill one of a launcher's processes -> [which]; [] where it has none at the moment."""
    import psutil

    try:
        children = psutil.Process(launcher.pid).children()
        ranks = {p.environ().get('RANK'): p for p in children}
        # Between a loss and the new start there are others, or none.
        if set(ranks) != set(map(str, range(RANKS))):
            return []
        rank = dice.choice(sorted(ranks))
        ranks[rank].kill()
    except psutil.Error:  # it has just ended
        return []
    return [f'rank {rank}']
