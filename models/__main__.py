"""The catalogue as a table: python -m models."""

import program

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from models import BUDGET, ENTRIES, count
from models.entry import Entry

Forward = Callable[[Tensor], Any]


def gmac(make: Callable[[], Forward], channels: int = 3, size: int = 128) -> float:
    """Return 10^9 multiply-accumulates of one forward pass over a picture of size x size.

    Nothing is computed: tensors have shapes only.
    """
    # Fused attention has no formula for its cost on some machines; plain attention is made of
    # matrix products, which are always counted.
    with (
        FakeTensorMode(),
        FlopCounterMode(display=False) as counter,
        sdpa_kernel(SDPBackend.MATH),
        torch.no_grad(),
    ):
        make()(torch.empty(1, channels, size, size))
    return counter.get_total_flops() / 2e9


def without_priors(net: nn.Module) -> Forward:
    """Return the network as a function of a picture alone; priors, if it takes any, are empty."""
    priors = getattr(net, 'priors', None)
    if priors is None:
        return net

    def forward(x: Tensor) -> Any:
        empty = {name: x.new_empty(len(x), c, *x.shape[2:]) for name, c in priors.items()}
        return net(x, empty)

    return forward


def paper(network: type[nn.Module]) -> str:
    """Return the first source that a network's docstring cites, or its file's docstring."""
    text = (network.__doc__ or '') + (sys.modules[network.__module__].__doc__ or '')
    match = re.search(r'\(([^()]* (?:et al\.|and )[^()]*)\)', text)
    if match is None:
        raise ValueError(f'{network.__name__}: neither it nor its file cites a paper')
    return match[1]


def _row(entry: Entry, arguments: dict[str, Any]) -> list[str]:
    with torch.device('meta'):  # shapes only
        n = count(entry.network(**arguments))
    fits = 'fits' if n < BUDGET else 'over'
    cost = gmac(lambda: without_priors(entry.network(**arguments).eval()), entry.channels)
    return [
        entry.name,
        f'{entry.network.__name__}({", ".join(f"{k}={v}" for k, v in arguments.items())})',
        f'{n:,}',
        fits if entry.kind == 'restorer' else '',  # only restorers have a budget
        f'{cost:.2f}',
        paper(entry.network),
    ]


def table(entries: tuple[Entry, ...] = ENTRIES) -> Table:
    """Return a row for each variant that the entries show."""
    rows = Table('name', 'network', box=MARKDOWN)
    for title in ('parameters', 'budget', 'GMAC'):
        rows.add_column(title, justify='right')
    rows.add_column('paper')
    for entry in entries:
        for arguments in entry.variants:
            rows.add_row(*_row(entry, arguments))
    return rows


@program.entry
def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, at a width that cuts no column where the output is a file -> exit status."""
    argparse.ArgumentParser(prog='python -m models', description=__doc__).parse_args(argv)
    console = Console(width=None if sys.stdout.isatty() else 220)
    console.print(table())
    console.print(
        f'budget: fewer than {BUDGET:,} parameters; GMAC: one 128 x 128 picture', highlight=False
    )
    return 0


if __name__ == '__main__':
    sys.exit(main())
