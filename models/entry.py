"""The declaration that every network makes in its own file, and how weights are read back.

An `ENTRY` is the network's row of the catalogue and the signature by which its weights are
recognised. `models/__init__.py` imports the entries and builds its tables from them.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

Weights = Mapping[str, Tensor]  # a state_dict
Kind = Literal['restorer', 'guided', 'search', 'renovator', 'parser', 'landmarks', 'discriminator']


@dataclass(frozen=True)
class Alias:
    """Another implementation's names for the parameters of a network."""

    # A name that it has and no other network.
    mark: str
    # state_dict under its names -> under ours; names that are unknown stay as they are.
    rename: Callable[[Weights], Weights]


@dataclass(frozen=True)
class Entry:
    """One network of the catalogue."""

    # The name that presets and flags use.
    name: str
    # The class; its docstring, or its file's, cites the paper.
    network: type[nn.Module]
    # Which table the network belongs to.
    kind: Kind
    # A parameter or buffer that no other network has; None: the weights are not recognised.
    mark: str | None = None
    # state_dict -> the untrained network it belongs to, or None if it belongs to another one;
    # None instead of a function: the network cannot be rebuilt from its weights alone. ValueError
    # says what the weights are of, where that is known and of no use here.
    rebuild: Callable[[Weights], nn.Module | None] | None = None
    # Names of other implementations whose weights fit.
    aliases: tuple[Alias, ...] = ()
    # Keyword arguments, one dict for each row that `python -m models` prints.
    variants: tuple[dict[str, Any], ...] = ()
    # Channels of the picture that goes in.
    channels: int = 3


def length(names: Iterable[str], prefix: str) -> int:
    """Return how many modules the numbered list `prefix` has, e.g. 16 for 'body' in an SRResNet."""
    pattern = re.compile(re.escape(prefix) + r'\.(\d+)\.')
    return len({match[1] for name in names if (match := pattern.match(name))})


def substituting(patterns: Iterable[tuple[str, str]]) -> Callable[[Weights], Weights]:
    """Make an alias's `rename` of (pattern at the beginning of a name, what stands there here)."""
    compiled = [(re.compile(pattern), here) for pattern, here in patterns]

    def name(theirs: str) -> str:
        for pattern, here in compiled:
            if pattern.match(theirs):
                return pattern.sub(here, theirs, count=1)
        return theirs

    return lambda weights: {name(theirs): value for theirs, value in weights.items()}
