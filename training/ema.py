"""Exponential moving average of a network's weights, its horizon counted in images (as in EDM2's code, Karras et al., 2024).

Not torch.optim.swa_utils.AveragedModel: it reads its counter from the device at every update, which makes the GPU wait.
"""

import copy
import math

import torch


class EMA:
    """ema <- d ema + (1 - d) net with d = min(exp(-batch / horizon), (1 + n) / (10 + n)), n = updates before this one.

    net:     the plain module, before torch.compile or DistributedDataParallel wrap it
    horizon: images after which an old weight counts 1/e; the second term lets the average forget the start of a run faster
    .net:    the averaged module: float32, eval mode, same memory layout
    """

    def __init__(self, net, horizon):
        if not horizon > 0:
            raise ValueError(f'EMA: a horizon of {horizon} images; it must be positive')
        self.net = copy.deepcopy(net).float().eval().requires_grad_(False)
        self.horizon, self.n = horizon, 0
        # Estimates that belong to the weights, as of spectral normalisation, follow those of the average.
        self._following = [m for m in self.net.modules() if hasattr(m, 'refresh')]
        followed = {id(b) for m in self._following for b in m.buffers()}
        self._averaged = [id(b) not in followed for b in self.net.buffers()]

    @torch.no_grad()
    def update(self, net, batch):
        """net: after its step, wrapped or not; batch: images of that step over all GPUs."""
        decay = min(math.exp(-batch / self.horizon), (1 + self.n) / (10 + self.n))
        torch._foreach_lerp_(
            list(self.net.parameters()), [p.detach().float() for p in net.parameters()], 1 - decay
        )
        for mine, new, averaged in zip(self.net.buffers(), net.buffers(), self._averaged):
            if averaged and mine.is_floating_point():
                mine.lerp_(
                    new.float(), 1 - decay
                )  # running statistics: to first order in the weights, their average is that of the averaged network
            elif averaged:
                mine.copy_(new)
        for module in self._following:
            module.refresh()
        self.n += 1

    def state_dict(self):
        return {'n': self.n, 'net': self.net.state_dict()}

    def load_state_dict(self, state):
        self.net.load_state_dict(state['net'])
        self.n = state['n']
