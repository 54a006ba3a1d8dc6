"""What a search of an architecture can learn from: the gradient of its choices, and its noise.

python benchmarks/search_gradients.py --data faces/
python benchmarks/search_gradients.py --data faces/ --steps 200 --batches 80 --json search.json

A supernet learns its weights for a while, as in train.py --preset search_sr. Then, these being
fixed, the gradient of its choices is taken for many batches of the other half of the images:

    gradient   norm of the mean over the batches
    over noise the same, divided by what a mean of so many batches has of noise; 1: nothing but that
    held at    parameter that weight decay (1e-3, as published) holds back as strongly as the
               gradient pushes it; a choice whose parameters stay far below 1 stays undecided

This is told twice: of the published search, which compares the ways that leave a level, and of the
one that compares those that arrive at one (models/decode.py).
"""

import program

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

import tasks
from config.schema import Config
from tasks.players import Players, Step, autocast
from tasks.trial import Alone
from tools import arguments, timing
from training import outputs
from training.world import World

DECAY = 1e-3  # of the architecture, as published
WARM = 10  # steps in which the rate rises
CPU = torch.device('cpu')


class Told(NamedTuple):
    """Of one group of choices."""

    gradient: float
    over_noise: float

    @property
    def held(self) -> float:
        """Where decay balances the gradient."""
        return self.gradient / DECAY


def parser() -> argparse.ArgumentParser:
    """Flags of search_gradients.py."""
    p = arguments.described(__doc__)
    p.add_argument('--data', help='HQ faces, as of train.py (default: synthetic faces)')
    for name, default, kind, said in (
        ('steps', 60, program.ranges.COUNT, 'in which the weights learn alone'),
        ('batches', 40, program.ranges.COUNT, 'whose gradients are compared'),
        ('batch', 8, program.ranges.COUNT, 'crops in each'),
        ('crop', 64, program.ranges.COUNT, 'their side in pixels'),
        ('lr', 0.1, program.Number(0, 10, above=True), 'learning rate of the weights'),
        ('width', 16, program.ranges.COUNT, 'channels of the trunk, a multiple of 8'),
        ('seed', 0, program.ranges.SEED, 'of weights and images'),
    ):
        said += ' (default: %(default)s)'
        p.add_argument(f'--{name}', type=kind, default=default, help=said)
    p.add_argument('--json', type=Path, help='also write the figures to this file')
    return p


def config_of(args: argparse.Namespace, arriving: bool) -> Config:
    """The options of a search."""
    net = f'{{"width": {args.width}, "growth": 8, "arriving": {str(arriving).lower()}}}'
    argv = ['--preset', 'search_sr', '--net', net, '--crop', args.crop, '--batch', args.batch]
    argv += ['--seed', args.seed, '--device', 'cpu', '--pipe', 'torch', '--precision', 'fp32']
    argv += ['--threads', 1, '--lr', args.lr, *(['--data', args.data] if args.data else [])]
    return tasks.configure([str(word) for word in argv])


def gradients(config: Config, args: argparse.Namespace) -> dict[str, Tensor]:
    """{parameter: [batches, ...] gradients} of the choices, after the weights have learnt."""
    torch.manual_seed(args.seed)
    task = tasks.of(config)
    images, _ = task.load(config, lambda _: None, lambda _: lambda *_: None)
    players = task.build(config, CPU)
    where = dict(rank=0, world=1, device=CPU, threads=1, say=lambda _: None)
    with task.feed(config, images, start=0, **where) as pipe:
        for i in range(args.steps):
            task.step(players, pipe, _step(i, args))
        start = args.steps * args.batch
        rows = [_gradient(players, pipe.other(start)) for _ in range(args.batches)]
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def _step(i: int, args: argparse.Namespace) -> Step:
    """Step number i, in which the weights learn alone."""
    return Step(
        nimg=i * args.batch,
        progress=0.0,
        lr=args.lr * min(1.0, (i + 1) / WARM),
        images=args.batch,
        accumulate=1,
        autocast=autocast('fp32', CPU),
        world=cast(World, Alone()),
    )


def _gradient(players: Players, batch: Any) -> dict[str, Tensor]:
    """{parameter: gradient} of one batch."""
    searched = players.by_name['architecture'].net
    output = players.net(batch.input)
    losses = players.criterion.net(output, batch, None, 0, 0.0)
    loss = torch.stack(list(losses.values())).sum()
    names, parameters = zip(*searched.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


def told(gradients: Tensor) -> Told:
    """Of [batches, ...] gradients of one group."""
    flat = gradients.flatten(1).double()
    mean = flat.mean(0).norm()
    # Each of the mean's parts has the variance of one batch's over their number.
    noise = (flat.var(0).sum() / len(flat)).sqrt()
    return Told(float(mean), float(mean / noise))


def groups(gradients: dict[str, Tensor]) -> dict[str, Told]:
    """{name of a group: what is told of it}: operations, ways of every layer, ends."""
    found = {'operations': told(gradients['alpha'])}
    for layer, of_layer in enumerate(gradients['beta'].unbind(1)):
        # Where a level has one source there is nothing to choose, and no gradient.
        if of_layer.any():
            found[f'ways, layer {layer + 1}'] = told(of_layer)
    if 'ends' in gradients:
        found['ends'] = told(gradients['ends'])
    return found


def table(found: dict[str, dict[str, Told]]) -> str:
    """Lines of Markdown."""
    lines = ['| search | choices | gradient | over noise | held at |', '|---|---|---|---|---|']
    for search, rows in found.items():
        lines += [
            f'| {search} | {name} | {x.gradient:.1e} | {x.over_noise:.1f} | {x.held:.1g} |'
            for name, x in rows.items()
        ]
    return '\n'.join(lines)


@program.entry
def main(argv: Sequence[str] | None = None) -> int:
    """Print the table -> exit status."""
    args = parser().parse_args(argv)
    outputs.check({'--json': args.json}, {'--data': args.data}, {})
    # Both begin with the same weights and see the same images.
    found = {}
    for name, arriving in ('ways that leave', False), ('ways that arrive', True):
        found[name] = groups(gradients(config_of(args, arriving), args))
    print(table(found))
    if args.json:
        rows = {search: {k: x._asdict() for k, x in of.items()} for search, of in found.items()}
        timing.write(args.json, steps=args.steps, batches=args.batches, batch=args.batch, rows=rows)
    return 0


if __name__ == '__main__':
    sys.exit(main())
