"""Networks, nothing else: one file each, one paper each; this namespace is the catalogue."""
from .srresnet import SRResNet
from .unet import UNet

NETWORKS = {'srresnet': SRResNet, 'unet': UNet}      # the names presets and flags use

BUDGET = 2_276_356      # AI6126: strictly fewer parameters than this, 150 % of SRResNet's 1,517,571


def count(net):
    """-> int, number of parameters of a module, trained or not."""
    return sum(p.numel() for p in net.parameters())


def enforce_param_budget(net, limit=BUDGET):
    """-> int, number of parameters; ValueError with the figures unless it is strictly below `limit`."""
    n = count(net)
    if n >= limit:
        raise ValueError(f'{type(net).__name__} has {n:,} parameters, {n - limit + 1:,} too many: '
                         f'fewer than {limit:,} are allowed; take fewer blocks or a smaller width')
    return n


def like(weights):
    """-> the network of the catalogue, untrained, that a {name: tensor} of weights belongs to; ValueError if none is like it."""
    if 'conv_first.weight' in weights and 'body.0.conv1.weight' in weights:
        blocks = len({name.split('.')[1] for name in weights if name.startswith('body.')})
        return SRResNet(blocks, len(weights['conv_first.weight']), scale=4 if 'upconv2.weight' in weights else 2)
    if 'stem.weight' in weights and 'position' in weights:
        return UNet()
    raise ValueError(f'no network of ours has weights like these ({", ".join(list(weights)[:3])}, ...)')
