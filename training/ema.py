"""Exponential moving average of a network's weights with a horizon in images (Karras et al., 2024).

Not torch.optim.swa_utils.AveragedModel: that reads its counter from the device at every update,
which makes the GPU wait.
"""

import copy
import math
from typing import Any

import torch
from torch import nn


class EMA:
    """ema <- d ema + (1 - d) net with d = min(exp(-batch / horizon), (1 + n) / (10 + n)).

    n is the number of updates before this one; the second term lets the average forget the start
    of a run faster. `net` is the averaged module: float32, in eval mode, with the memory layout of
    the original.
    """

    def __init__(self, net: nn.Module, horizon: float) -> None:
        """Start the average at the present weights.

        net: the plain module, before torch.compile or DistributedDataParallel wrap it
        horizon: number of images after which the influence of a weight has fallen to 1/e
        Raises ValueError for a horizon that is not positive.
        """
        if not horizon > 0:
            raise ValueError(f'EMA: a horizon of {horizon} images; it must be positive')
        self.net = copy.deepcopy(net).float().eval().requires_grad_(False)
        self.horizon = horizon
        self.n = 0

        # Buffers that a module derives from its weights (the singular vectors of spectral
        # normalisation) are recomputed from the averaged weights: the mean of vectors is not one.
        self._refreshed: list[Any] = [m for m in self.net.modules() if hasattr(m, 'refresh')]
        derived = {id(b) for m in self._refreshed for b in m.buffers()}
        self._averaged = [id(b) not in derived for b in self.net.buffers()]

    @torch.no_grad()
    def update(self, net: nn.Module, batch: int) -> None:
        """Move the average towards a network after its step.

        net: wrapped or not
        batch: images of that step, over all processes
        """
        # One call for all parameters: on a GPU a few launches instead of hundreds.
        decay = min(math.exp(-batch / self.horizon), (1 + self.n) / (10 + self.n))
        weights = [p.detach().float() for p in net.parameters()]
        torch._foreach_lerp_(list(self.net.parameters()), weights, 1 - decay)

        # Running statistics are averaged too: to first order in the weights, their mean is that of
        # the averaged network. Counters are copied.
        buffers = zip(self.net.buffers(), net.buffers(), self._averaged, strict=True)
        for mean, latest, averaged in buffers:
            if averaged and mean.is_floating_point():
                mean.lerp_(latest.float(), 1 - decay)
            elif averaged:
                mean.copy_(latest)
        for module in self._refreshed:
            module.refresh()
        self.n += 1

    def state_dict(self) -> dict[str, Any]:
        """Return {'n': number of updates, 'net': averaged weights} for a checkpoint."""
        return {'n': self.n, 'net': self.net.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.net.load_state_dict(state['net'])
        self.n = state['n']
