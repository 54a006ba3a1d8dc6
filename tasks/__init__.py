"""What is trained: restorers, parsers, landmarks and searches, each an implementation of
`task.Task`.
"""

import functools
import json
from collections.abc import Sequence

from torch import nn

import models
from config import flags, rules
from config.kinds import CHOICES
from config.schema import Config, flatten
from config.stored import from_flat, of_file
from config.stored import of_run as of_folder
from errors import FacesError, RunError
from storage import records, shown, tensors
from training import checkpoint, run

from . import shipped
from .landmarks import Landmarks
from .parse import Parse
from .restore import Restore
from .search import Search
from .task import Task

_ALL: tuple[Task, ...] = (Restore(), Parse(), Search(), Landmarks())
TASKS = {task.name: task for task in _ALL}
# Options that say what the network of a run is.
OF_NETWORK = ('task', 'network', 'net', 'guides', 'drop_priors', 'multi_prior_weight')


def of(config: Config) -> Task:
    """The task of a run."""
    return TASKS[config.task]


def configure(argv: Sequence[str] | None = None, description: str | None = None) -> Config:
    """The complete, checked options that a command line of train.py defines. Raises RunError for
    what cannot be run.
    """
    config = shipped.located(flags.configure(argv, description))
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
    return _possible(config, f'{shown(folder)}/config.json', run.RESTORE)


def of_published(path: str) -> Config:
    """What a file of tools/publish.py says of its network, see config.stored.of_file. Raises
    RunError if it says nothing, or what cannot be.
    """
    config = of_file(path)
    if config is None:
        raise RunError(f'{shown(path)} does not say what it holds, as tools/publish.py makes it')
    return _possible(config, shown(path), 'publish it again')


def _possible(config: Config, source: str, remedy: str) -> Config:
    """The same options. Raises RunError where no network can be built of them."""
    try:
        run.choose(config.task, TASKS, 'task')
        task = of(config)
        rules.check_names(config, networks=task.networks, losses=CHOICES['loss'])
        flat = flatten(config)
        _check_network(json.dumps({option: flat[option] for option in OF_NETWORK}))
    except checkpoint.MISFITS as error:
        name, net = config.network.network, records.excerpt(config.network.net, 80)
        raise RunError(
            f'{source}: {name} cannot be built with {net} ({tensors.first_line(error)}): {remedy}'
        ) from error
    except FacesError as error:
        raise RunError(f'{source}: {error}') from error
    return config


@functools.cache
def _check_network(options: str) -> None:
    """Build the shapes of a network; once, as several programs ask for the same run again."""
    models.shapes(lambda: network(from_flat(json.loads(options))))


def network(config: Config) -> nn.Module:
    """The untrained network of a run."""
    return of(config).network(config)
