"""Weights under the names that others give them: what wraps a network, and other implementations.

Each network's file knows how other implementations call its parameters: `Entry.aliases`.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from torch import Tensor

from .entry import Entry, Weights

# What torch.compile and DistributedDataParallel put into every name, in any order.
WRAPPERS = {'module', '_orig_mod'}


class _Place(NamedTuple):
    """Where a network may lie within the weights of a larger module, such as Lightning's."""

    prefix: str
    entry: Entry | None
    alias: int | None  # number of the entry's alias


def best(weights: Weights, entries: Iterable[Entry], own: Weights) -> Weights:
    """Return weights under the names of the network that is wanted, whoever saved them.

    own: state_dict of that network, or a part of it
    What fits no better under other names comes back as it is.
    """
    found = list(variants(weights, entries, own))
    fitting = (v for v in found if v.keys() == own.keys())
    return next(fitting, None) or max(found, key=lambda v: len(v.keys() & own.keys()))


def variants(
    weights: Weights, entries: Iterable[Entry], own: Iterable[str] = ()
) -> Iterator[Weights]:
    """Yield the weights as they are, then under every other name that they may stand for.

    entries: of the networks that may be in them
    own: names of the parameters of the network that is wanted, where it is known
    """
    yield weights
    plain: Weights = {_unwrapped(name): value for name, value in weights.items()}
    if plain.keys() != weights.keys():
        yield plain
    for prefix, entry, alias in _places(plain, entries, next(iter(own), None)):
        inner: Weights = _under(plain, prefix)
        if entry is not None and alias is not None:
            inner = entry.aliases[alias].rename(inner)
        yield inner


def _unwrapped(name: str) -> str:
    return '.'.join(part for part in name.split('.') if part not in WRAPPERS)


def _places(plain: Weights, entries: Iterable[Entry], own: str | None) -> Iterator[_Place]:
    """Places of a network that is wanted, or known by its mark, an average before the rest."""
    if own is not None:
        yield from (_Place(prefix, None, None) for prefix in _prefixes(plain, own) if prefix)
    for entry in entries:
        if entry.mark is not None:
            yield from (_Place(p, entry, None) for p in _prefixes(plain, entry.mark) if p)
        for number, alias in enumerate(entry.aliases):
            yield from (_Place(p, entry, number) for p in _prefixes(plain, alias.mark))


def _prefixes(names: Iterable[str], mark: str) -> list[str]:
    """What stands before the mark, wherever it ends a name."""
    found = [n.removesuffix(mark) for n in names if n == mark or n.endswith(f'.{mark}')]
    return sorted(found, key=lambda prefix: ('ema' not in prefix.lower(), len(prefix)))


def _under(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
