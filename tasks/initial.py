"""What the networks of a new run start from."""

from collections.abc import Callable
from typing import Any

from torch import nn

import models
from config.schema import Config
from errors import CheckpointError, RunError
from training import checkpoint

from . import guides


def init_weights(config: Config, net: Any, say: Callable[[str], None]) -> None:
    """Fill a network with the weights that --prior, --start and --trunk name. Raises RunError and
    CheckpointError.
    """
    if config.priors.prior:
        guides.fill(net.guides, config.priors.prior)
    if config.network.start:
        path = config.network.start
        try:
            say(f'starts from {checkpoint.load_weights(_of(net, path), path)}')
        except CheckpointError as error:
            raise CheckpointError(f'--start {error}') from error
    if config.network.trunk:
        try:
            net.load_trunk(config.network.trunk)
        except (ValueError, OSError) as error:
            raise RunError(f'--trunk: {error}') from error


def _of(net: Any, path: str) -> nn.Module:
    """What the weights at a path are of: the network, or the first pass of a guided one."""
    if not isinstance(net, models.Guided) or not hasattr(net.net, 'base'):
        return net
    first: nn.Module = net.net.base
    weights, _ = checkpoint.read_weights(path)
    names = dict(models.renamed(weights, first.state_dict()))
    # Another one of the same kind is compared with the first pass, too: the difference is told.
    return first if 'sr.path' in names else net
