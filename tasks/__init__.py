"""What is trained: restorers, parsers, landmarks and searches, each an implementation of
`task.Task`.
"""

from collections.abc import Sequence

from torch import nn

import models
from config import flags, rules
from config.schema import Config
from config.schema import of_run as of_folder
from errors import FacesError, RunError
from storage import records, shown, tensors
from training import checkpoint, run

from .landmarks import Landmarks
from .parse import Parse
from .restore import Restore
from .search import Search
from .task import Task

_ALL: tuple[Task, ...] = (Restore(), Parse(), Search(), Landmarks())
TASKS = {task.name: task for task in _ALL}


def of(config: Config) -> Task:
    """The task of a run."""
    return TASKS[config.task]


def configure(argv: Sequence[str] | None = None, description: str | None = None) -> Config:
    """The complete, checked options that a command line of train.py defines. Raises RunError for
    what cannot be run.
    """
    config = flags.configure(argv, description)
    task = of(config)
    rules.check_names(config, networks=task.networks, losses=task.losses)
    config = task.complete(config)
    rules.check(config, rules.MACHINE + rules.DATA)
    task.check(config)
    rules.check(config, rules.OPTIMIZATION)
    rules.check_schedule(config)
    rules.check_output(config)
    return config


def of_run(folder: str) -> Config:
    """The options that a run directory was made with. Raises RunError if it is none, or if they
    cannot be those of a run.
    """
    config = of_folder(folder)
    if config is None:
        raise RunError(f'{shown(folder)} is no run directory: it has no config.json')
    try:
        run.choose(config.task, TASKS, 'task')
        task = of(config)
        rules.check_names(config, networks=task.networks, losses=task.losses)
        models.shapes(lambda: task.network(config))
    except checkpoint.MISFITS as error:
        name, net = config.network.network, records.excerpt(config.network.net, 80)
        raise RunError(
            f'{shown(folder)}/config.json: {name} cannot be built with {net} '
            f'({tensors.first_line(error)}): {run.RESTORE}'
        ) from error
    except FacesError as error:
        raise RunError(f'{shown(folder)}/config.json: {error}') from error
    return config


def network(config: Config) -> nn.Module:
    """The untrained network of a run."""
    return of(config).network(config)
