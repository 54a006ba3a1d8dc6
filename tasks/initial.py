"""What the networks of a new run start from."""

from collections.abc import Callable
from typing import Any

from config.schema import Config
from errors import CheckpointError, RunError
from training import checkpoint

from . import guides, shipped


def init_weights(config: Config, net: Any, say: Callable[[str], None]) -> None:
    """Fill a network with the weights that --prior, --start and --trunk name. Raises RunError and
    CheckpointError.
    """
    if config.priors.prior:
        guides.fill(net.guides, config.priors.prior)
    if config.network.start:
        # What comes along goes by its name, as for infer.py.
        path = shipped.resolved(config.network.start)
        try:
            say(f'starts from {checkpoint.load_weights(net, path)}')
        except CheckpointError as error:
            raise CheckpointError(f'--start {error}') from error
    if config.network.trunk:
        try:
            net.load_trunk(config.network.trunk)
        except (ValueError, OSError) as error:
            raise RunError(f'--trunk: {error}') from error
