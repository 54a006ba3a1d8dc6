"""Optimizers by name, and one step of one of them: gradients accumulated, clipped, and left out where they are not finite."""

import torch

from .muon import Muon

OPTIMIZERS = {
    'adamw': torch.optim.AdamW,
    'adam': torch.optim.Adam,
    'sgd': torch.optim.SGD,
    'muon': Muon,
}


def make(name, net, lr, weight_decay=0.0, betas=None):
    """Optimizer of a network's parameters: Adam and AdamW with betas (default: 0.9, 0.99), SGD with plain momentum 0.9, Muon with both for what each is for; fused on a GPU,
    which also lets it skip a step there without telling the CPU."""
    betas = tuple(betas or (0.9, 0.99))
    if name == 'muon':
        return Muon(net, lr, weight_decay, betas=betas)
    parameters = list(net.parameters())
    more = dict(momentum=0.9) if name == 'sgd' else dict(betas=betas)
    return OPTIMIZERS[name](
        parameters, lr=lr, weight_decay=weight_decay, fused=parameters[0].is_cuda, **more
    )


class Stepper:
    """step() of an optimizer after backward(): unscale, clip, update.

    precision: with 'fp16' losses are scaled so that small gradients do not vanish (Micikevicius et al., 2018)
    clip:      largest norm of the gradients
    A step whose gradients are not all finite changes nothing. On a GPU nobody waits to find out; `skipped()` tells afterwards.
    """

    def __init__(self, net, optimizer, precision, clip):
        self.optimizer, self.clip, self._parameters = optimizer, clip, list(net.parameters())
        device = self._parameters[0].device.type
        # The scaler brings the skipping. Without fp16 it scales by 1.
        half = precision == 'fp16'
        self._scaler = torch.amp.GradScaler(
            device, init_scale=2.0**16 if half else 1.0, growth_interval=2000 if half else 1 << 30
        )
        self._half, self._bad = half, torch.zeros((), device=self._parameters[0].device)

    def backward(self, loss):
        self._scaler.scale(loss).backward()

    def step(self, lr):
        """Update with learning rate `lr` and forget the gradients -> whether it was left out, a float on the device: 0 or 1."""
        for group in self.optimizer.param_groups:
            group['lr'] = lr
        self._scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self.clip)
        bad = (~torch.isfinite(norm)).float()
        self._bad += bad
        self._scaler.step(self.optimizer)
        if self._half:
            self._scaler.update()
        else:
            self._scaler.update(1.0)  # stays 1, whatever was skipped
        self.optimizer.zero_grad(set_to_none=True)
        return bad

    def skipped(self):
        """Steps left out so far; a GPU is waited for."""
        return int(self._bad)

    def state_dict(self):
        return {
            'optimizer': self.optimizer.state_dict(),
            'scaler': self._scaler.state_dict(),
            'bad': self._bad,
        }

    def load_state_dict(self, state):
        self.optimizer.load_state_dict(state['optimizer'])
        self._scaler.load_state_dict(state['scaler'])
        self._bad.fill_(float(state['bad']))
