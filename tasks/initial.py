"""What the networks of a new run start from."""

from collections.abc import Callable
from typing import Any

from config.schema import Config
from errors import RunError
from training import checkpoint

from . import guides


def init_weights(config: Config, net: Any, say: Callable[[str], None]) -> None:
    """Fill a network with the weights that --prior, --start and --trunk name. Raises RunError and
    CheckpointError.
    """
    if config.priors.prior:
        guides.fill(net.guides, config.priors.prior)
    if config.network.start:
        say(f'starts from {checkpoint.load_weights(net, config.network.start)}')
    if config.network.trunk:
        try:
            net.load_trunk(config.network.trunk)
        except (ValueError, OSError) as error:
            raise RunError(f'--trunk: {error}') from error
