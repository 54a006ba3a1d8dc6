"""A trained network, of a run or of a file of weights, ready to be applied."""

import program

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

import models
import tasks
from config import stored
from config.schema import Config
from errors import BadFile, RunError
from faces import align
from storage import shown, tensors
from training import checkpoint, run, soup

from . import shipped
from .players import Autocast, autocast, channels_last
from .task import Task

MOST_SIDE = 1 << 14  # pixels of a face that any network was trained to make


class Loaded(NamedTuple):
    """A network ready to be applied."""

    net: nn.Module  # on the device, in eval mode
    task: Task
    config: Config | None  # of its run
    folder: Path  # where its output goes if nothing else is said
    size: int = align.SIDE  # pixels of the faces that it was trained to make

    def autocast(self, device: torch.device | str, precision: str | None = None) -> Autocast:
        """As the run was trained, unless told: what it learnt in bf16 it does in bf16."""
        own = self.config.run.precision if self.config else 'fp32'
        return autocast(precision or own, device)


def load(
    path: str | None,
    weights: str | None,
    device: str,
    *,
    usual: bool = False,
    fidelity: float | None = None,
) -> Loaded:
    """Load the network of a run, or of weights: of a file, or of those that come along, by name.

    usual: where neither is given, take weights that come along, rather than the newest run
    fidelity: where in between these, see `between`

    Raises RunError and CheckpointError.
    """
    check(path, weights, device, fidelity, usual=usual)
    if fidelity is not None:
        return between(fidelity, device)
    if usual and not (weights or path):
        weights = shipped.USUAL
    if weights:
        return of_weights(weights, device)
    return of_run(path or run.newest(), device)


def check(
    path: str | None,
    weights: str | None,
    device: str,
    fidelity: float | None,
    *,
    usual: bool = True,
) -> None:
    """Raise RunError for what `load` refuses before it reads anything."""
    if weights and path:
        raise RunError('--run and --weights both name a network: give one')
    check_device(device)
    if fidelity is not None and (weights or path or not usual):
        raise RunError(
            '--fidelity is between the weights that come along, for an --input: leave '
            f'{"--run" if path else "--weights" if weights else "it"} out'
        )


def of_weights(path: str, device: str, flag: str = '--weights') -> Loaded:
    """Load weights, of a file or by the name of those that come along; they tell by themselves of
    which restorer they are. A file of tools/publish.py may also hold another task's.
    """
    path = shipped.resolved(path)
    if not Path(path).exists():
        raise RunError(
            f'{flag} {shown(path)}: no such file; {", ".join(shipped.names())} come along, and a '
            'run is named with --run'
        )
    said = stored.of_file(path)
    if said and said.task != 'restore':
        return of_either(path, device, flag)._replace(config=None)
    # Their shapes tell the network and its arguments.
    try:
        net = models.like(checkpoint.read_weights(path)[0])
    except ValueError as error:
        raise RunError(f'{flag} {shown(path)}: {error}') from error
    read = checkpoint.load_weights(net, path)
    task, folder = tasks.of(Config()), Path('restored')
    return _ready(net, read, Loaded(net, task, None, folder, _size_in(read)), device)


def _size_in(weights: Path) -> int:
    """Pixels of the faces that weights were trained to make, where their file says it."""
    try:
        size = int(tensors.metadata(weights).get('size', ''))
    except (OSError, BadFile, ValueError):
        # Weights of others do not tell: most networks make faces of 512.
        return align.SIDE
    # A file may claim anything.
    return size if 0 < size <= MOST_SIDE else align.SIDE


def add_fidelity(p: argparse.ArgumentParser) -> None:
    """Add the flag of what is between the weights that come along."""
    p.add_argument(
        '--fidelity',
        type=program.Number(0, 1),
        help=f'between the weights that come along: at 1 {shipped.USUAL}, which is nearest to the '
        f'truth on average, at 0 {shipped.SHARP}, which is sharper and invents more (default: 1)',
    )


def between(fidelity: float, device: str) -> Loaded:
    """Load the network between the two that come along: the sharp one at 0, the faithful at 1."""
    loaded, dial = turnable(device)
    dial(fidelity)
    return loaded


def turnable(device: str) -> tuple[Loaded, Callable[[float], None]]:
    """Load a network, and what turns it in place to any fidelity, see `between`."""
    loaded = of_weights(shipped.USUAL, device)
    # A copy, since the network's own are what is turned.
    faithful = {name: value.clone() for name, value in loaded.net.state_dict().items()}
    sharp = of_weights(shipped.SHARP, device).net.state_dict()

    def dial(fidelity: float) -> None:
        loaded.net.load_state_dict(soup.between(sharp, faithful, fidelity))

    return loaded, dial


def of_run(path: str | Path, device: str, flag: str = '--run') -> Loaded:
    """Load the final weights of a run, or its newest average; it knows its task and network."""
    home = Path(path)
    if not (home / 'config.json').exists():
        raise RunError(f'{flag} {home} is no run directory: it has no config.json')
    return _built(tasks.of_run(str(home)), home, home / 'restored', device)


def of_either(path: str, device: str, flag: str) -> Loaded:
    """Load a run, or a file of tools/publish.py with a network that does not restore, also by the
    name of what comes along. Raises RunError and CheckpointError.
    """
    file = Path(shipped.resolved(path))
    if not file.is_file():
        return of_run(file, device, flag)
    try:
        config = tasks.of_published(str(file))
    except RunError as error:
        raise RunError(f'{flag} {error}') from error
    if config.task == 'restore':
        network = config.network.network
        raise RunError(f'{flag} {shown(path)} holds the weights of {network}, which restores')
    return _built(config, file, Path('restored'), device)


def _built(config: Config, weights: Path, folder: Path, device: str) -> Loaded:
    task = tasks.of(config)
    net, read = checkpoint.network_with_weights(lambda: task.network(config), weights)
    return _ready(net, read, Loaded(net, task, config, folder, config.data.size), device)


def _ready(net: nn.Module, read: Path, loaded: Loaded, device: str) -> Loaded:
    print(f'{read}: {models.count(net):,} parameters')
    return loaded._replace(net=channels_last(net, device).eval())


def check_device(device: str) -> None:
    """Raise RunError for a device that torch cannot use."""
    try:
        if torch.device(device).type not in ('cpu', 'cuda', 'mps'):
            raise RuntimeError('networks do not run there')
        torch.empty(0, device=device)
    # No such device, no driver, or a torch without CUDA.
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0][:200]
        raise RunError(
            f'--device {device} cannot be used ({reason}): give cuda if there is a GPU, else cpu'
        ) from error
