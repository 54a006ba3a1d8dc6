"""Muon: momentum made orthogonal (Jordan et al., 2024), with steps of the size of Adam's (Liu et al., Muon is Scalable for LLM Training, 2025, section 2.2)."""

import torch
from torch import nn

COEFFICIENTS, STEPS = (3.4445, -4.7750, 2.0315), 5


class Muon(torch.optim.Optimizer):
    """Muon for the weights of convolutions and linear layers, each a matrix [outputs, inputs * taps]; AdamW for all other parameters, and for grouped convolutions,
    whose rows do not see the same inputs.

    lr, weight_decay: of both: the elements of a matrix move by about 0.2 lr in the root mean square, as Adam's do
    momentum: Nesterov's, of the matrices; betas: of AdamW
    torch.optim.Muon takes matrices alone and, under a GradScaler, makes the GPU wait to learn whether a step counts.
    """

    _step_supports_amp_scaling = True  # GradScaler leaves word in self.found_inf

    def __init__(self, net, lr, weight_decay=0.0, momentum=0.95, betas=(0.9, 0.99)):
        matrices = [
            m.weight
            for m in net.modules()
            if isinstance(m, nn.Linear) or isinstance(m, nn.Conv2d) and m.groups == 1
        ]
        matrices = list(
            {id(p): p for p in matrices if isinstance(p, nn.Parameter) and p.requires_grad}.values()
        )  # a weight in two places counts once; a computed one is no parameter
        known = {id(p) for p in matrices}
        rest = [p for p in net.parameters() if id(p) not in known]
        super().__init__(
            [dict(params=matrices)], dict(lr=lr, weight_decay=weight_decay, momentum=momentum)
        )
        self.rest = torch.optim.AdamW(
            [dict(params=rest)],
            lr=lr,
            weight_decay=weight_decay,
            betas=betas,
            fused=bool(rest) and rest[0].is_cuda,
        )
        self.param_groups += self.rest.param_groups  # whoever sets a rate there sets both
        self.alike = {}  # matrices of one shape are one batch
        for p in matrices:
            self.alike.setdefault(tuple(p.flatten(1).shape), []).append(p)
        self.momenta = {
            shape: torch.zeros(len(ps), *shape, device=ps[0].device)
            for shape, ps in self.alike.items()
        }

    @torch.no_grad()
    def step(self, closure=None):
        bad = getattr(self, 'found_inf', None)
        if bad is not None and bad.device.type == 'cpu':
            if bad:
                return
            bad = None
        self.rest.grad_scale, self.rest.found_inf = None, bad
        self.rest.step()
        self.move(bad)

    @torch.no_grad()
    def move(self, bad=None):
        """Move the matrices. bad: scalar tensor, above 0 where the step must change nothing; it is not read, which would make a GPU wait."""
        lr, decay, momentum = (self.param_groups[0][k] for k in ('lr', 'weight_decay', 'momentum'))
        for shape, parameters in self.alike.items():
            g = torch.stack(
                [(torch.zeros_like(p) if p.grad is None else p.grad).flatten(1) for p in parameters]
            ).float()
            m = self.momenta[shape]
            new = m.lerp(g, 1 - momentum)
            m.copy_(new if bad is None else torch.where(bad > 0, m, new))
            step = orthogonal(g.lerp(m, momentum)) * (0.2 * max(shape) ** 0.5)
            if decay:
                step += decay * torch.stack([p.flatten(1) for p in parameters])
            if bad is not None:
                step = torch.where(bad > 0, 0.0, step)
            for p, s in zip(parameters, step):
                p.sub_(s.view(p.shape), alpha=lr)

    def state_dict(self):
        return {'momenta': list(self.momenta.values()), 'rest': self.rest.state_dict()}

    def load_state_dict(self, state):
        for m, saved in zip(self.momenta.values(), state['momenta'], strict=True):
            m.copy_(saved)
        self.rest.load_state_dict(state['rest'])
        self.param_groups[1:] = self.rest.param_groups


def orthogonal(x):
    """Matrices [n, rows, columns] -> about U V' of their U S V': singular values between 0.7 and 1.2, but for those that were very small
    beside the others, of x's dtype. On a GPU in bfloat16, whose rounding the iteration forgives."""
    wide = x.shape[1] <= x.shape[2]
    y = (x if wide else x.transpose(1, 2)).to(torch.bfloat16 if x.is_cuda else x.dtype)
    y = y / y.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(STEPS):
        z = y @ y.transpose(1, 2)
        z = torch.baddbmm(z, z, z, beta=b, alpha=c)
        y = torch.baddbmm(y, z, y, beta=a)
    return (y if wide else y.transpose(1, 2)).to(x.dtype)
