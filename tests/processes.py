"""Commands in processes of their own, forked from one that has already imported train.py.

Starting Python and importing torch takes seconds, which a test that starts many processes pays for
each. Here one server per test process pays once. What is killed is still a real process.
"""

import functools
import multiprocessing
import os
import runpy
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing import forkserver
from pathlib import Path

import cv2
import numpy as np
import pytest

from training.record import RunRecord

ROOT = Path(__file__).resolve().parents[1]
BLANK = cv2.imencode('.png', np.zeros((1, 1), np.uint8))[1].tobytes()


@functools.lru_cache(maxsize=1)
def _server():
    """The context whose processes are forked from a server that has imported train.py."""
    context = multiprocessing.get_context('forkserver')
    # torch imports its compiler with the first step of an optimizer, train.py what it draws with.
    context.set_forkserver_preload(
        ['train', 'torch._dynamo', 'torch.utils.tensorboard', 'matplotlib']
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('PYTHONPATH', str(ROOT))
        forkserver.ensure_running()
    return context


class Process:
    """A Python function in a process of its own, with what it writes to the terminal in files."""

    def __init__(self, folder: Path, target: Callable[..., None], *args: object) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        number = len(list(folder.glob('*.stdout')))
        self.files = [folder / f'{number}.{name}' for name in ('stdout', 'stderr')]
        for file in self.files:
            file.touch()
        self._process = _server().Process(target=_run, args=(self.files, target, args))
        self._process.start()
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Exit status, None while it runs; as of subprocess, -9 if it was killed by SIGKILL."""
        return self._process.exitcode

    def wait(self, timeout: float = 120) -> int:
        """Exit status, once there is one."""
        self._process.join(timeout)
        assert self.poll() is not None, f'still running after {timeout} s: {self.said}'
        return self.poll()

    def send_signal(self, number: int) -> None:
        """Fails if the process has ended before."""
        assert self.poll() is None, f'ended with {self.poll()} before the signal: {self.said}'
        os.kill(self.pid, number)

    @property
    def out(self) -> str:
        """What it has written to stdout."""
        return self.files[0].read_text()

    @property
    def err(self) -> str:
        """What it has written to stderr."""
        return self.files[1].read_text()

    @property
    def said(self) -> str:
        """Both, for messages."""
        return self.out + self.err


def train(folder: Path, argv: Sequence[str], pause: float = 0.0) -> Process:
    """train.py with these arguments. pause: seconds to wait before every step, so that there is
    time for a signal; folder: for what it writes to the terminal
    """
    return Process(folder, train_slowly, list(argv), pause)


def script(folder: Path, path: Path, *argv: str) -> Process:
    """Another script, as `python PATH ARGV` runs it."""
    return Process(folder, _script, path, argv)


def wait_for(process: Process, condition: Callable[[], object]) -> None:
    """Return once the condition holds; fails if the process ends before."""
    while not condition():
        assert process.poll() is None, f'ended with {process.poll()}: {process.said}'
        time.sleep(0.002)


def blank_curves(record: RunRecord) -> None:
    """An empty picture in place of the curves of a run, which take a second to draw."""
    (record.out / 'curves.png').write_bytes(BLANK)


# ------------------------------------------------------------------------------------------------
# In the new process.


def _run(files: list[Path], target: Callable[..., None], args: tuple[object, ...]) -> None:
    for number, file in enumerate(files, 1):
        descriptor = os.open(file, os.O_WRONLY | os.O_APPEND)
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdout, sys.stderr = (os.fdopen(n, 'w', buffering=1, closefd=False) for n in (1, 2))
    target(*args)


def train_slowly(argv: list[str], pause: float) -> None:
    """train.py with a pause before every step and file of a checkpoint, and blank curves."""
    import train

    next_step, fsync = train.next_step, os.fsync

    def slow_fsync(file):
        time.sleep(pause)
        fsync(file)

    os.fsync = slow_fsync

    def slow_step(training):
        time.sleep(pause)
        return next_step(training)

    train.next_step = slow_step
    RunRecord._draw_curves = blank_curves
    sys.exit(train.main(argv))


def _script(path: Path, argv: tuple[str, ...]) -> None:
    sys.argv = [str(path), *argv]
    sys.path.insert(0, str(path.parent))
    runpy.run_path(str(path), run_name='__main__')
