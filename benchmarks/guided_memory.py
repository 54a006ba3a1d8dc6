"""Memory of a training step of MFPSNet with all three priors, and what each part of it takes.

python benchmarks/guided_memory.py --batch 1,2,8 --size 128 --device cuda --net '{"gate": true}'

kept: feature maps that the backward pass waits for, which grow with the batch; peak: all that the
step took at most, of a GPU as torch counts it, of a CPU as the process grew (its allocator rounds
up, and libraries keep buffers of their own).
"""

import program

import argparse
import functools
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import models
import tasks
from config import flags, presets
from errors import RunError
from faces import components
from tasks.players import Autocast, autocast, channels_last
from tools import arguments, timing
from training import memory

PARSER = presets.PRESETS['parse_prior']
FINDER = presets.PRESETS['landmarks']
PARSER_SIZE = 512  # side of the faces that the parser was trained on
ENTRIES = 128  # of the dictionary, for each component
LEVEL = 1  # of the parser's feature maps that the dictionary is made of


def described(size: int) -> dict[str, Any]:
    """What a file of tools/prepare.py priors says of its priors, for pictures of this size."""
    # Priors are computed on enlarged pictures, whatever the size of those that are restored.
    factor = PARSER_SIZE / size
    parser = {'network': PARSER['network'], 'net': PARSER['net'], 'factor': factor}
    finder = {'network': FINDER['network'], 'net': FINDER['net'], 'factor': factor}
    levels: Any = models.ParseUNet(**PARSER['net']).encoder
    channels = levels[LEVEL][0].conv1.out_channels
    sides = components.sides(PARSER_SIZE // 4).items()
    entries = {name: [ENTRIES, channels, side, side] for name, side in sides}
    return {
        'parse': parser | {'channels': 19},
        'heat': finder | {'channels': 28},
        'dict': parser | {'channels': channels, 'entries': entries, 'level': LEVEL},
    }


def network(size: int, net: dict[str, Any]) -> nn.Module:
    """models.Guided as train.py makes it, untrained: all that counts for memory."""
    guides = described(size)
    priors = {name: of['channels'] for name, of in guides.items()}
    config = presets.config(
        'mfpsnet', net=net | {'priors': priors}, guides=guides, multi_prior_weight=0.1
    )
    return tasks.network(config)


def step(net: nn.Module, batch: int, size: int, context: Autocast) -> int:
    """Bytes of the distinct feature maps that one step keeps for its backward pass."""
    weights = {p.untyped_storage().data_ptr() for p in net.parameters()}
    kept: dict[int, int] = {}  # {address: bytes}

    def note(tensor: Tensor) -> Tensor:
        # Views share their storage, and weights are there anyway.
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    x = torch.rand(batch, 3, size, size, device=next(net.parameters()).device)
    x = x.contiguous(memory_format=torch.channels_last)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), context():
        loss = sum(y.square().mean() for y in net(x).passes)
    # Counted before the backward pass gives them back.
    total = sum(kept.values())
    loss.backward()
    net.zero_grad(set_to_none=True)
    return total


def peak_of(work: Callable[[], object], device: torch.device, before: int) -> int:
    """Bytes that work() takes at most; before: of the process, where it is a CPU."""
    if device.type == 'cuda':
        return memory.peak(device, work)
    work()
    resource, _ = _process()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before


def _process() -> tuple[Any, Any]:
    """What measures a process: modules that Linux has. Raises RunError elsewhere."""
    try:
        import resource

        import psutil
    except ImportError as error:
        raise RunError(
            f'--device cpu: memory is measured on Linux only ({error}): give cuda'
        ) from None
    return resource, psutil


def gigabytes(tensors: Iterable[Tensor]) -> float:
    """Size of some tensors."""
    return sum(t.numel() * t.element_size() for t in tensors) / 1e9


def parser() -> argparse.ArgumentParser:
    """Flags of guided_memory.py."""
    p = arguments.described(__doc__)
    p.add_argument(
        '--batch',
        type=program.Several(program.ranges.BATCH),
        default=[1, 2],
        help='comma-separated, rising (default: 1,2)',
    )
    p.add_argument(
        '--size',
        type=program.ranges.BATCH,
        default=128,
        help='side of the pictures (default: %(default)s)',
    )
    p.add_argument('--net', type=json.loads, default={}, help='arguments of MFPSNet as JSON')
    p.add_argument(
        '--device',
        default='cuda' if torch.cuda.is_available() else 'cpu',
        help='where the step runs (default: %(default)s)',
    )
    p.add_argument(
        '--precision',
        choices=('bf16', 'fp16', 'fp32'),
        help='of the step (default: bf16 where the hardware computes it)',
    )
    return p


@program.entry
def main(argv: Sequence[str] | None = None) -> int:
    """Print the table -> exit status."""
    args = parser().parse_args(argv)
    device = torch.device(args.device)
    precision = args.precision or flags.default_precision(args.device)
    net: Any = channels_last(network(args.size, args.net), device)
    print(timing.header())

    # What is there before the first picture.
    trained = [p for p in net.parameters() if p.requires_grad]
    count, frozen = models.count(net.net), models.count(net) - models.count(net.net)
    print(
        f'\nMFPSNet with parse, heat, dict at {args.size} x {args.size}, {precision} on {device}: '
        f'{count:,} weights that are trained and {frozen:,} that are not '
        f'({gigabytes(net.parameters()):.2f} GB; gradients {gigabytes(trained):.2f} GB, '
        f'two moments of Adam {2 * gigabytes(trained):.2f} GB)\n'
        f'{"batch":>5} {"kept, GB":>9} {"peak, GB":>9}'
    )

    # Rising batches, since a process on a CPU never shrinks.
    before = 0
    if device.type == 'cpu':
        before = _process()[1].Process().memory_info().rss
    context = autocast(precision, device)
    for batch in args.batch:
        work = functools.partial(step, net, batch, args.size, context)
        peak, kept = peak_of(work, device, before), work()
        print(f'{batch:5} {kept / 1e9:9.2f} {peak / 1e9:9.2f}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
