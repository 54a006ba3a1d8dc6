"""What tasks run on: processes of this machine, or a cluster (ray_engine.py).

A task that is lost with its process is given out again, with a higher number of attempts. Every
worker has one task at a time, so that memory does not depend on how many there are.
"""

import contextlib
import functools
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple, Protocol

import cv2

from errors import FacesError, RunError
from storage import printable

from .destination import Unreachable
from .shard_task import ExhaustedError, Outcome, Work

# Attempts at a task: over several bad files a process may be lost again and again; what fails in
# another way has been tried several times before it is said to fail.
MOST_LOST, MOST_FAILED = 25, 3
PAUSE = 5.0  # seconds, and more from time to time, before a store is asked again


class Engine(Protocol):
    """Does tasks."""

    def run(self, works: Iterable[Work]) -> Iterator[Outcome]:
        """Do the tasks, in any order. Raises RunError where one cannot be done."""

    @property
    def width(self) -> int:
        """Tasks at a time."""

    def close(self) -> None:
        """Give back what it holds; nothing is run any more."""


class Task(NamedTuple):
    """Work that is given out, and how often it was before."""

    work: Work
    attempt: int = 0
    failures: int = 0  # of the attempts; the others were lost


class Failure(NamedTuple):
    """Why a task is to be done again."""

    reason: str
    exhausted: bool  # memory ran out, which counts as if the process had been lost


class Backlog:
    """Tasks that are yet to be given out."""

    def __init__(self, works: Iterable[Work]) -> None:
        """works: may be without end; one is taken when it is needed"""
        self._works = iter(works)
        self._again: deque[Task] = deque()

    def next(self) -> Task | None:
        """Take a task; None if there is none for now."""
        if self._again:
            return self._again.popleft()
        work = next(self._works, None)
        return None if work is None else Task(work)

    def failed(self, task: Task, reason: str) -> None:
        """Have a task done again that failed. Raises RunError where that was in vain too often."""
        again = task._replace(attempt=task.attempt + 1, failures=task.failures + 1)
        self._repeat(again, again.failures < MOST_FAILED, reason)

    def answered(self, task: Task, answer: 'Outcome | FacesError | Failure') -> Outcome | None:
        """What a task has done; None where it is to be done again. Raises FacesError."""
        if isinstance(answer, FacesError):
            raise answer
        if isinstance(answer, Outcome):
            return answer
        (self.lost if answer.exhausted else self.failed)(task, answer.reason)
        return None

    def lost(self, task: Task, reason: str) -> None:
        """The same for one whose process is gone."""
        again = task._replace(attempt=task.attempt + 1)
        self._repeat(again, again.attempt < MOST_LOST, reason)

    def _repeat(self, task: Task, hopeful: bool, reason: str) -> None:
        if not hopeful:
            raise RunError(
                f'{task.work.title} failed {task.attempt} times, the last time: '
                f'{printable(reason, 500)}. What is finished stays; the same command goes on with '
                'the rest'
            )
        self._again.append(task)


# ---- processes of this machine ----


class Processes:
    """The engine of one machine."""

    def __init__(self, count: int, gpus: Sequence[str] = ()) -> None:
        """count: processes; gpus: by which they take turns, as CUDA_VISIBLE_DEVICES has them"""
        self._count = count
        self._gpus = gpus
        self._started = 0

    @property
    def width(self) -> int:
        """See Engine."""
        return self._count

    def run(self, works: Iterable[Work]) -> Iterator[Outcome]:
        """See Engine."""
        backlog = Backlog(works)
        workers: list[_Worker] = []
        # What they write before it is put to a store goes with the folder, however they end.
        with tempfile.TemporaryDirectory(prefix='build-') as folder:
            try:
                yield from self._run(backlog, workers, folder)
            finally:
                # Nothing half written counts, so that they may be ended anywhere.
                for worker in workers:
                    worker.end()

    def close(self) -> None:
        """See Engine: processes end with their tasks."""

    def _worker(self, folder: str) -> '_Worker':
        more = {'TMPDIR': folder}
        if self._gpus:
            more['CUDA_VISIBLE_DEVICES'] = self._gpus[self._started % len(self._gpus)]
        self._started += 1
        return _Worker(os.environ | more)

    def _run(self, backlog: Backlog, workers: list['_Worker'], folder: str) -> Iterator[Outcome]:
        while True:
            # Processes are started as there is work for them.
            idle = [worker for worker in workers if not worker.task]
            while task := (len(workers) - len(idle) < self._count and backlog.next()) or None:
                worker = idle.pop() if idle else self._worker(folder)
                worker.begin(task)
                if worker not in workers:
                    workers.append(worker)
            busy = {worker.pipe: worker for worker in workers if worker.task}
            if not busy:
                return
            for pipe in wait(list(busy)):
                worker = busy[pipe]  # type: ignore[index]  # those are the pipes
                yield from self._finished(worker, backlog, workers)

    def _finished(
        self, worker: '_Worker', backlog: Backlog, workers: list['_Worker']
    ) -> Iterator[Outcome]:
        """What a worker answers; one that is gone is replaced when there is work."""
        task = worker.task
        assert task is not None
        try:
            answer = worker.answer()
        except EOFError:
            worker.end()
            workers.remove(worker)
            if not worker.started:
                raise RunError(
                    f'a process cannot be started: it ended with status {worker.status} at once'
                ) from None
            backlog.lost(task, f'its process ended with status {worker.status}')
            return
        done = answer and backlog.answered(task, answer)
        if done:
            yield done


@functools.cache
def _context() -> Any:
    """How processes are made: forked from one that has imported everything and does nothing."""
    # Not from this one: threads that hold a lock would be missing in there.
    if 'forkserver' not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context('spawn')
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['__main__', 'tools.building.shard_task'])
    return context


class _Worker:
    """A process, and what it is at."""

    def __init__(self, environment: dict[str, str]) -> None:
        context = _context()
        self.pipe, theirs = context.Pipe()
        self.task: Task | None = None
        self.started = False
        self._process = context.Process(target=_serve, args=(theirs, environment), daemon=True)
        self._process.start()
        # Now their end closes with them, which is how their end is noticed.
        theirs.close()

    def begin(self, task: Task) -> None:
        """Give it a task."""
        self.task = task
        with contextlib.suppress(BrokenPipeError):  # found out when the answer is due
            self.pipe.send(task)

    def answer(self) -> Outcome | FacesError | Failure | None:
        """What came of its task; None: it has begun. Raises EOFError where the process is gone."""
        try:
            answer: Outcome | FacesError | Failure | None = self.pipe.recv()
        except ConnectionResetError:
            raise EOFError from None
        self.started = True
        if answer is not None:
            self.task = None
        return answer

    @property
    def status(self) -> int | None:
        """Exit status; negative: the signal that ended it."""
        return self._process.exitcode

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()
        self.pipe.close()


def _serve(pipe: Connection, environment: dict[str, str]) -> None:
    """Do tasks until nobody gives any more."""
    # What this one was forked from may be older than its environment.
    os.environ.update(environment)
    tempfile.tempdir = None
    # A Ctrl-C is for the process that gave them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    one_thread()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    pipe.send(None)
    while True:
        try:
            task: Task = pipe.recv()
        except (EOFError, ConnectionResetError):
            return
        with contextlib.suppress(BrokenPipeError):
            pipe.send(attempted(task))


def _end_with_parent() -> None:
    """End this process with the one that started it, even if that one is killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def attempted(task: Task) -> Outcome | FacesError | Failure:
    """Do a task: what it has done, what stops the whole run, or why it is to be tried again."""
    try:
        return task.work(task.attempt)
    except FacesError as error:
        return error
    except ExhaustedError as error:
        return Failure(str(error), exhausted=True)
    except Exception as error:
        # A store that did not answer may do so a little later.
        if isinstance(error, (Unreachable, OSError)):
            time.sleep(PAUSE * (task.failures + 1))
        return Failure(f'{type(error).__name__}: {error}', exhausted=False)


def one_thread() -> None:
    """Let a process compute on one core: there is one process for each."""
    cv2.setNumThreads(1)
    os.environ['OMP_NUM_THREADS'] = '1'
