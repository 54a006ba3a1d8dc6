"""The catalogue as a table: python -m models"""

import re
import sys

import torch
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table
from torch._subclasses import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from models import BUDGET, CATALOGUE, NETWORKS, count

SHOWN = [
    ('srresnet', dict(blocks=16)),
    ('srresnet', dict(blocks=20)),
    ('srresnet', dict(blocks=24)),
    ('srresnet', dict(blocks=26)),
    ('unet', {}),
    ('unet', dict(steps=2)),
    ('unet', dict(attention=4)),
    ('face_unaf', {}),
    ('face_unaf', dict(blocks=((4, 6, 4), 4, (4, 5, 6)))),
    ('swinir', {}),
    ('swinir', dict(width=90, depths=(6, 6, 6, 6))),
    ('rcan', {}),
    ('rcan', dict(groups=0, blocks=20)),
    ('rrdbnet', {}),
    ('rrdbnet', dict(blocks=16, width=16, growth=7)),
    ('frsnet', {}),
    ('frsnet', dict(scale=1, spare=True)),
    ('mfpsnet', {}),
    ('mfpsnet', dict(spare=True)),
    *(('hifacegan', dict(width=n)) for n in (64, 32, 16, 8)),
    ('hifacegan', dict(suppression='pac')),
    ('modified_vgg', {}),
    ('modified_vgg', dict(width=16)),
    ('unet_sn', {}),
    ('unet_sn', dict(width=32)),
    ('unet_sn', dict(width=24)),
    ('patchgan', {}),
    ('parse_unet', {}),
    ('parse_unet', dict(stride=2)),
    ('parse_unet', dict(aux=True, position=32)),
    ('bisenet', {}),
    ('bisenet', dict(aux=True)),
    ('bisenet', dict(width=24)),
    ('bisenet', dict(width=20)),
    ('heatmap_net', {}),
]


def gmac(make, channels=3, size=128):
    """-> 10^9 multiplications and additions of one forward pass over a picture of size x size; nothing is computed."""
    # Fused attention has no formula for its cost on every machine; the plain one is made of counted products.
    with (
        FakeTensorMode(),
        FlopCounterMode(display=False) as counter,
        sdpa_kernel(SDPBackend.MATH),
        torch.no_grad(),
    ):
        make()(torch.empty(1, channels, size, size))
    return counter.get_total_flops() / 2e9


def alone(net):
    """-> the network as a function of a picture alone; priors, if it wants some, have no content"""
    priors = getattr(net, 'priors', None)
    return (
        net
        if priors is None
        else lambda x: net(
            x,
            {
                name: x.new_empty(len(x), channels, *x.shape[2:])
                for name, channels in priors.items()
            },
        )
    )


def paper(network):
    """-> the first sources its docstring names, or its file's"""
    return re.search(
        r'\(([^()]* (?:et al\.|and )[^()]*)\)',
        (network.__doc__ or '') + sys.modules[network.__module__].__doc__,
    )[1]


def table():
    rows = Table('name', 'network', box=MARKDOWN)
    for title in ('parameters', 'budget', 'GMAC'):
        rows.add_column(title, justify='right')
    rows.add_column('paper')
    for name, arguments in SHOWN:
        network = CATALOGUE[name]
        with torch.device('meta'):  # shapes only
            n = count(network(**arguments))
        fits = '' if name not in NETWORKS else 'fits' if n < BUDGET else 'over'
        rows.add_row(
            name,
            f'{network.__name__}({", ".join(f"{k}={v}" for k, v in arguments.items())})',
            f'{n:,}',
            fits,
            f'{gmac(lambda: alone(network(**arguments).eval()), 6 if name == "patchgan" else 3):.2f}',
            paper(network),
        )
    return rows


if __name__ == '__main__':
    console = Console(
        width=None if sys.stdout.isatty() else 220
    )  # in a file no column is cut or wrapped
    console.print(table())
    console.print(
        f'budget: fewer than {BUDGET:,} parameters; GMAC: one 128 x 128 picture', highlight=False
    )
