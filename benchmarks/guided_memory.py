"""Memory of a training step of MFPSNet with all three priors, forward and backward, and what each part of it takes.

    python benchmarks/guided_memory.py [--batch 1,2,8] [--size 128] [--device cuda] [--net '{"gate": true}']

kept: feature maps that the backward pass waits for, which grow with the batch; peak: all that the step took at most, of a GPU as torch counts it, of a CPU as the process
grew (its allocator rounds up, and libraries keep buffers of their own).
"""

import argparse
import json
import resource
from pathlib import Path

import torch

import models
from benchmarks import timing
from config import options
from faces import components
from training import memory

PARSER, ENTRIES, LEVEL = dict(options.PRESETS['parse_prior'], size=512), 128, 1


def network(size, net):
    """models.Guided as train.py makes it of a file of tools/prepare.py priors, untrained; all that counts for memory."""
    parser, finder, channels = (
        PARSER['net'],
        options.PRESETS['landmarks'],
        models.ParseUNet(**PARSER['net']).encoder[LEVEL][0].conv1.out_channels,
    )
    seen = dict(network=PARSER['network'], net=parser, factor=PARSER['size'] / size)
    entries = {
        name: [ENTRIES, channels, side, side]
        for name, side in components.sides(PARSER['size'] // 4).items()
    }
    described = {
        'parse': dict(seen, channels=19),
        'heat': dict(
            network=finder['network'], net=finder['net'], factor=seen['factor'], channels=28
        ),
        'dict': dict(seen, channels=channels, entries=entries, level=LEVEL),
    }
    priors = {name: of['channels'] for name, of in described.items()}
    return options.network(
        dict(
            network='mfpsnet',
            net=dict(net, priors=priors),
            guides=described,
            drop_priors=None,
            multi_prior_weight=0.1,
        )
    )


def step(net, batch, size, autocast):
    """-> bytes of the distinct feature maps that were kept for the backward pass, of one step"""
    kept, own = {}, {p.untyped_storage().data_ptr() for p in net.parameters()}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    x = torch.rand(batch, 3, size, size, device=next(net.parameters()).device).contiguous(
        memory_format=torch.channels_last
    )
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), autocast():
        found = net(x)
        loss = sum(y.square().mean() for y in found.passes)
    total = sum(kept.values())
    loss.backward()
    net.zero_grad(set_to_none=True)
    return total


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument('--batch', default='1,2', help='comma-separated, rising (default: %(default)s)')
    p.add_argument(
        '--size',
        type=int,
        default=128,
        help='side of the pictures in pixels (default: %(default)s)',
    )
    p.add_argument('--net', type=json.loads, default={}, help='arguments of MFPSNet as JSON')
    p.add_argument(
        '--device',
        default='cuda' if torch.cuda.is_available() else 'cpu',
        help='default: %(default)s',
    )
    p.add_argument(
        '--precision',
        choices=('bf16', 'fp16', 'fp32'),
        help='default: bf16 where the hardware computes it',
    )
    args = p.parse_args()
    device = torch.device(args.device)
    args.precision = args.precision or options.default_precision(vars(args))
    autocast = options.autocast(vars(args), device)
    print(timing.header())
    net = network(args.size, args.net).to(device, memory_format=torch.channels_last)
    trained = [p for p in net.parameters() if p.requires_grad]
    size = lambda tensors: sum(t.numel() * t.element_size() for t in tensors) / 1e9
    print(
        f'\nMFPSNet with parse, heat, dict at {args.size} x {args.size}, {args.precision} on {device}: {models.count(net.net):,} weights that are trained and '
        f'{models.count(net) - models.count(net.net):,} that are not ({size(net.parameters()):.2f} GB; gradients {size(trained):.2f} GB, two moments of Adam {2 * size(trained):.2f} GB)\n'
        f'{"batch":>5} {"kept, GB":>9} {"peak, GB":>9}'
    )
    before = int(Path('/proc/self/statm').read_text().split()[1]) * resource.getpagesize()
    for batch in map(int, args.batch.split(',')):
        work, kept = (lambda: kept.append(step(net, batch, args.size, autocast))), []
        if device.type == 'cuda':
            peak = memory.peak(device, work)
        else:
            work()
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
        print(f'{batch:5} {kept[0] / 1e9:9.2f} {peak / 1e9:9.2f}')


if __name__ == '__main__':
    main()
