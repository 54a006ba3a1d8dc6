"""Tasks on a Ray cluster: any number of machines that come and go."""

import importlib
import os
import socket
from collections.abc import Iterable, Iterator
from typing import Any

from errors import FacesError, RunError
from storage import printable

from .engines import Backlog, Failure, Task, attempted, one_thread
from .shard_task import Outcome

# Tasks in flight for each core: one that runs, and one that is there when it ends.
AHEAD = 2
PATIENCE = 10.0  # seconds for the head of a cluster to answer


class Ray:
    """The engine of a cluster. Raises RunError where there is none."""

    def __init__(self, address: str, gpus: float = 0) -> None:
        """Connect.

        address: of the cluster, or 'auto' for the one of this machine
        gpus: share of a GPU that a task takes
        """
        try:
            self._ray: Any = importlib.import_module('ray')
        except ImportError as error:
            raise RunError('--ray: Ray is not installed: pip install -e .[scale]') from error
        # Nothing about a cluster leaves it.
        os.environ.setdefault('RAY_USAGE_STATS_ENABLED', '0')
        try:
            _check_reachable(address)
            self._ray.init(address=address, log_to_driver=False, logging_level='ERROR')
        except Exception as error:
            raise RunError(
                f'--ray {address}: no cluster answers ({printable(str(error), 200)}): start one '
                'with ray start --head, and join others with ray start --address=HOST:6379'
            ) from error
        there = self._ray.cluster_resources().get('GPU', 0)
        if gpus and not there:
            self._ray.shutdown()
            raise RunError(f'--gpu {gpus:g}: no machine of the cluster has a GPU')
        # Retries are counted here, where the journal of a shard knows of them.
        self._do = self._ray.remote(max_retries=0, num_cpus=1, num_gpus=gpus)(_do)

    @property
    def width(self) -> int:
        """See Engine."""
        return max(int(self._ray.cluster_resources().get('CPU', 1)), 1)

    def run(self, works: Iterable[Any]) -> Iterator[Outcome]:
        """See Engine."""
        backlog, running = Backlog(works), dict[Any, Task]()
        try:
            while True:
                # The cluster may have grown, or shrunk.
                while len(running) < AHEAD * self.width and (task := backlog.next()):
                    running[self._do.remote(task)] = task
                if not running:
                    return
                done, _ = self._ray.wait(list(running), num_returns=1)
                for answer in done:
                    yield from self._finished(answer, running.pop(answer), backlog)
        finally:
            for answer in running:
                self._ray.cancel(answer, force=True)

    def close(self) -> None:
        """See Engine: leave the cluster, which stays."""
        self._ray.shutdown()

    def _finished(self, answer: Any, task: Task, backlog: Backlog) -> Iterator[Outcome]:
        # What a task raises comes as its answer; what Ray raises is about who did it.
        try:
            value = self._ray.get(answer)
        except self._ray.exceptions.RayTaskError as error:
            # It never began: a machine without this project, or with another version of it.
            reason = str(error).strip().splitlines()[-1]
            backlog.failed(task, f'a machine of the cluster cannot do it: {reason}')
            return
        except self._ray.exceptions.RayError as error:
            # The worker, or its machine, is gone.
            backlog.lost(task, str(error))
            return
        done = backlog.answered(task, value)
        if done:
            yield done


def _check_reachable(address: str) -> None:
    """Raise OSError where nobody listens: Ray itself would try for many minutes."""
    host, colon, port = address.rpartition(':')
    if colon and port.isdecimal() and '/' not in host:
        socket.create_connection((host.strip('[]'), int(port)), PATIENCE).close()


def _do(task: Task) -> Outcome | FacesError | Failure:
    one_thread()
    return attempted(task)
