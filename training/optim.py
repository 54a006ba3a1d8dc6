"""Optimizers by name, and a step of one: accumulate, clip, and skip what is not finite."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import torch
from msgspec import Meta
from torch import Tensor, nn

from storage import records

from .muon import Muon

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    'adamw': torch.optim.AdamW,
    'adam': torch.optim.Adam,
    'sgd': torch.optim.SGD,
    'muon': Muon,
}


def make(
    name: str,
    net: nn.Module,
    lr: float,
    weight_decay: float = 0.0,
    betas: Sequence[float] | None = None,
    precision: str | None = None,
) -> torch.optim.Optimizer:
    """Make an optimizer of a network's parameters.

    name: one of OPTIMIZERS. Adam and AdamW have betas of 0.9 and 0.99 unless given, SGD has a
        plain momentum of 0.9, and Muon has AdamW's betas for the parameters that it leaves to it.
    precision: of the run; with 'bf16' Muon may use it, too
    On a GPU it is fused, which also lets it skip a step there without telling the CPU.
    """
    first, second = betas or (0.9, 0.99)
    if name == 'muon':
        return Muon(net, lr, weight_decay, betas=(first, second), half=precision == 'bf16')
    parameters = list(net.parameters())
    settings: dict[str, Any] = {'momentum': 0.9} if name == 'sgd' else {'betas': (first, second)}
    # A fused step reads found_inf on the GPU: skipping then needs no answer from there.
    fused = parameters[0].is_cuda
    return OPTIMIZERS[name](parameters, lr=lr, weight_decay=weight_decay, fused=fused, **settings)


class Stepper:
    """An optimizer's step after backward(): unscale, clip, update.

    A step whose gradients are not all finite changes nothing. On a GPU nothing waits to find out;
    `skipped()` reports the number afterwards.
    """

    def __init__(
        self, net: nn.Module, optimizer: torch.optim.Optimizer, precision: str | None, clip: float
    ) -> None:
        """Prepare the steps of an optimizer of `net`.

        precision: with 'fp16', losses are scaled up so that small gradients do not vanish
            (Micikevicius et al., 2018)
        clip: largest norm of all gradients together
        """
        self.optimizer = optimizer
        self.clip = clip
        self._parameters = list(net.parameters())
        device = self._parameters[0].device
        self._skipped = torch.zeros((), device=device)

        # The scaler is what skips steps on the device, so it is there in every precision; without
        # fp16 it scales by 1.
        self._half = precision == 'fp16'
        self._scaler = torch.amp.GradScaler(
            device.type,
            init_scale=2.0**16 if self._half else 1.0,
            growth_interval=2000 if self._half else 1 << 30,
        )

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a scalar loss to those of this step."""
        self._scaler.scale(loss).backward()

    def step(self, lr: float) -> Tensor:
        """Update with learning rate `lr` and clear the gradients.

        Returns a scalar on the device: 1.0 if the step was skipped, else 0.0.
        """
        for group in self.optimizer.param_groups:
            group['lr'] = lr

        # The norm is that of the true gradients, whatever the losses were scaled by.
        self._scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self.clip)
        # Counted on the device: to read it would make a GPU wait.
        skipped = (~torch.isfinite(norm)).float()
        self._skipped += skipped
        self._scaler.step(self.optimizer)
        # Without fp16 the scale is set again each time: a skipped step would have halved it.
        self._scaler.update(None if self._half else 1.0)
        self.optimizer.zero_grad(set_to_none=True)
        return skipped

    def skipped(self) -> int:
        """Return the number of steps skipped so far; waits for a GPU."""
        return int(self._skipped)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of optimizer, scaler and counter for a checkpoint."""
        return {
            'optimizer': self.optimizer.state_dict(),
            'scaler': self._scaler.state_dict(),
            'bad': self._skipped,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned. Raises ValueError and BadFile for anything else."""
        self.optimizer.load_state_dict(state['optimizer'])
        for p, values in self.optimizer.state.items():
            _check_moments(p, values)
        records.convert(state['scaler'], dict[str, Annotated[float, Meta(ge=0)]])
        self._scaler.load_state_dict(state['scaler'])
        self._skipped.fill_(float(state['bad']))


def _check_moments(p: Tensor, values: Mapping[str, Any]) -> None:
    """Raise ValueError for what an optimizer remembers of a parameter of another shape."""
    for name, value in values.items():
        if isinstance(value, Tensor):
            fits = value.shape in (p.shape, torch.Size())
        else:
            fits = value is None or isinstance(value, (int, float))
        if not fits:
            raise ValueError(f'{name} of an optimizer is not of the shape {list(p.shape)}')
