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
