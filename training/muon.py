"""Muon: orthogonalised momentum (Jordan et al., 2024), with steps of the size of Adam's.

That size follows "Muon is Scalable for LLM Training" (Liu et al., 2025), section 2.2.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

# Of the Newton-Schulz iteration in `orthogonal`: a quintic polynomial and how often it is applied.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5


class Muon(torch.optim.Optimizer):
    """Muon for convolutions and linear layers, AdamW for all other parameters.

    A weight is a matrix [outputs, inputs * taps]. Grouped convolutions are left to AdamW, since
    their rows do not see the same inputs.

    torch.optim.Muon takes matrices alone and, under a GradScaler, makes the GPU wait to learn
    whether a step counts.
    """

    # GradScaler then leaves its verdict in self.found_inf instead of reading it.
    _step_supports_amp_scaling = True

    def __init__(
        self,
        net: nn.Module,
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
        half: bool = False,
    ) -> None:
        """Sort a network's parameters into matrices and the rest.

        lr, weight_decay: of both; the elements of a matrix move by about 0.2 lr in the root mean
            square, as Adam's do
        momentum: Nesterov's, of the matrices
        betas: of AdamW
        half: iterate in bfloat16 on a CPU as well, one whose hardware computes it
        """
        self._half = half
        matrices = _matrices(net)
        known = {id(p) for p in matrices}
        rest = [p for p in net.parameters() if id(p) not in known]
        defaults = {'lr': lr, 'weight_decay': weight_decay, 'momentum': momentum}
        super().__init__([{'params': matrices}], defaults)
        self.rest = torch.optim.AdamW(
            [{'params': rest}],
            lr=lr,
            weight_decay=weight_decay,
            betas=betas,
            fused=bool(rest) and rest[0].is_cuda,
        )
        # The groups are shared: a learning rate set here is set there.
        self.param_groups += self.rest.param_groups

        # Matrices of one shape are orthogonalised as one batch.
        self._by_shape: dict[tuple[int, ...], list[nn.Parameter]] = {}
        for p in matrices:
            self._by_shape.setdefault(tuple(p.flatten(1).shape), []).append(p)
        self.momenta = {
            shape: torch.zeros(len(ps), *shape, device=ps[0].device)
            for shape, ps in self._by_shape.items()
        }

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update all parameters; `closure` is there for the interface only."""
        skip = getattr(self, 'found_inf', None)
        # On a CPU nothing waits, so the verdict can simply be read.
        if skip is not None and skip.device.type == 'cpu':
            if skip:
                return
            skip = None
        # AdamW looks for the verdict where a GradScaler would have left it.
        vars(self.rest).update(grad_scale=None, found_inf=skip)
        self.rest.step()
        self.move(skip)

    @torch.no_grad()
    def move(self, skip: Tensor | None = None) -> None:
        """Move the matrices.

        skip: scalar tensor, above 0 where the step must change nothing; it is not read, which
            would make a GPU wait
        """
        group = self.param_groups[0]
        momentum = group['momentum']
        for shape, parameters in self._by_shape.items():
            gradient = _gradients(parameters)
            mean = self.momenta[shape]
            updated = mean.lerp(gradient, 1 - momentum)
            mean.copy_(updated if skip is None else torch.where(skip > 0, mean, updated))

            # Nesterov: the gradient once more; then Adam's size, and decay.
            direction = orthogonal(gradient.lerp(mean, momentum), self._half)
            step = direction * (0.2 * max(shape) ** 0.5)
            if group['weight_decay']:
                step += group['weight_decay'] * torch.stack([p.flatten(1) for p in parameters])
            if skip is not None:
                step = torch.where(skip > 0, 0.0, step)
            for p, s in zip(parameters, step, strict=True):
                p.sub_(s.view(p.shape), alpha=group['lr'])

    def state_dict(self) -> dict[str, Any]:
        """Return the momenta and the state of AdamW."""
        return {'momenta': list(self.momenta.values()), 'rest': self.rest.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for momentum, saved in zip(self.momenta.values(), state['momenta'], strict=True):
            if saved.shape != momentum.shape:  # copying would stretch it
                raise ValueError(f'a momentum is {list(saved.shape)}, not {list(momentum.shape)}')
            momentum.copy_(saved)
        self.rest.load_state_dict(state['rest'])
        self.param_groups[1:] = self.rest.param_groups


def _matrices(net: nn.Module) -> list[nn.Parameter]:
    """List the weights that are matrices, each once even if two modules share it."""
    weights = []
    for module in net.modules():
        dense = isinstance(module, nn.Conv2d) and module.groups == 1
        if dense or isinstance(module, nn.Linear):
            weights.append(module.weight)
    # A weight that is computed from others is no parameter.
    learned = (w for w in weights if isinstance(w, nn.Parameter) and w.requires_grad)
    return list({id(w): w for w in learned}.values())


def _gradients(parameters: list[nn.Parameter]) -> Tensor:
    """Stack gradients as matrices, in float32 [n, rows, columns]; what has none counts as 0."""
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    return torch.stack([g.flatten(1) for g in gradients]).float()


def orthogonal(x: Tensor, half: bool = False) -> Tensor:
    """Return about U V' for matrices U S V', [n, rows, columns], in x's dtype.

    Singular values end between 0.7 and 1.2, except for those that were very small compared with
    the others.

    half: compute in bfloat16, as is always done on a GPU; the iteration forgives its rounding
    """
    wide = x.shape[1] <= x.shape[2]
    y = (x if wide else x.transpose(1, 2)).to(torch.bfloat16 if half or x.is_cuda else x.dtype)
    y = y / y.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(STEPS):
        # y <- a y + b (y y') y + c (y y')^2 y
        z = y @ y.transpose(1, 2)
        z = torch.baddbmm(z, z, z, beta=b, alpha=c)
        y = torch.baddbmm(y, z, y, beta=a)
    return (y if wide else y.transpose(1, 2)).to(x.dtype)
