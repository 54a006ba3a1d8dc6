"""Adversarial losses on logits, in one form for discriminator and generator, and the penalty R1.

    vanilla   log-likelihood, non-saturating (Goodfellow et al., NeurIPS 2014); a real picture
              should have a large logit
    lsgan     squared distance to 1 for real and 0 for fake (Mao et al., ICCV 2017); sums, which are
              twice the paper's
    hinge     distance to a margin of 1 and -1 (Lim and Ye, Geometric GAN, 2017)
    ragan     relativistic average (Jolicoeur-Martineau, ICLR 2019; ESRGAN, 2018); a real picture
              should look more real than fake ones do on average

Logits are a tensor of any shape, or a list with one entry per scale: a tensor, or a list of feature
maps that ends with the logits. Losses are float32, means over the logits of each scale, then over
the scales.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Logits = Tensor | Sequence[Tensor | Sequence[Tensor]]
Loss = Callable[[Tensor, Tensor], Tensor]  # (real, fake) of one scale -> scalar


def _ragan(real: Tensor, fake: Tensor) -> Tensor:
    return (F.softplus(fake.mean() - real).mean() + F.softplus(fake - real.mean()).mean()) / 2


# For the discriminator; softplus(-x) is the cross entropy of the logit x and the label 1.
_D: dict[str, Loss] = {
    'vanilla': lambda real, fake: F.softplus(-real).mean() + F.softplus(fake).mean(),
    'lsgan': lambda real, fake: (real - 1).square().mean() + fake.square().mean(),
    'hinge': lambda real, fake: F.relu(1 - real).mean() + F.relu(1 + fake).mean(),
    'ragan': _ragan,
}
# For the generator; with ragan it wants the opposite of the discriminator.
_G: dict[str, Loss] = {
    'vanilla': lambda real, fake: F.softplus(-fake).mean(),
    'lsgan': lambda real, fake: (fake - 1).square().mean(),
    'hinge': lambda real, fake: -fake.mean(),
    'ragan': lambda real, fake: _ragan(fake, real),
}
KINDS = tuple(_D)


# ---- losses ----


def d_loss(kind: str, real: Logits, fake: Logits) -> Tensor:
    """What the discriminator minimises -> scalar float32.

    Both logits carry gradients, also through the means of 'ragan'.

    fake: logits of pictures that were detached from the generator

    Raises ValueError for an unknown kind or different numbers of scales.
    """
    return _mean(_D[_known(kind)], scales(real), scales(fake))


def g_loss(kind: str, fake: Logits, real: Logits | None = None) -> Tensor:
    """What the generator minimises -> scalar float32.

    real: logits of the real pictures, which 'ragan' needs; they get no gradient

    Raises ValueError for an unknown kind, different numbers of scales, or 'ragan' without `real`.
    """
    if _known(kind) == 'ragan' and real is None:
        raise ValueError(
            "g_loss: 'ragan' compares with the real pictures: their logits are needed, too"
        )
    detached = [logits.detach() for logits in scales(fake if real is None else real)]
    return _mean(_G[kind], detached, scales(fake))


def r1(real_images: Tensor, logits: Logits) -> Tensor:
    """Half the squared norm of a discriminator's gradient at real pictures -> scalar float32.

    It is the mean over the pictures, and differentiable again (Mescheder et al., Which Training
    Methods for GANs do actually Converge?, ICML 2018, eq. 9 without its weight). Where a picture
    has several logits their mean counts, first over a scale, then over the scales, so that one
    weight suits maps of any size. The discriminator must judge every picture alone: no batch
    normalisation in training.

    real_images: [B, 3, H, W] that required gradients before the discriminator was applied to them;
        ValueError if not
    """
    if not real_images.requires_grad:
        raise ValueError('r1: call real_images.requires_grad_() before applying the discriminator')
    maps = scales(logits)
    sums = (m.reshape(len(m), -1).mean(1).sum() for m in maps)
    total = sum(sums, start=real_images.new_zeros(())) / len(maps)
    (gradient,) = torch.autograd.grad(total, real_images, create_graph=True)
    return gradient.float().square().flatten(1).sum(1).mean() / 2


# ---- how well the discriminator does ----


@torch.no_grad()
def accuracy(real: Logits, fake: Logits, kind: str) -> Tensor:
    """Share of the logits that are on the right side -> scalar float32 in [0, 1].

    Real and fake logits have equal weight; 0.5 means that the discriminator cannot tell them apart.
    The border is 0, for 'lsgan' 1/2, and for 'ragan' the mean of the other logits. A logit on the
    border counts as fake.
    """

    def right(real: Tensor, fake: Tensor) -> Tensor:
        above: float | Tensor = 0.5 if kind == 'lsgan' else 0.0
        below = above
        if kind == 'ragan':
            above = fake.mean()
            below = real.mean()
        return ((real > above).float().mean() + (fake <= below).float().mean()) / 2

    _known(kind)
    return _mean(right, scales(real), scales(fake))


def scales(logits: Logits) -> list[Tensor]:
    """Logits of any form -> one float32 tensor per scale."""
    if isinstance(logits, Tensor):
        return [logits.float()]
    return [(scale if isinstance(scale, Tensor) else scale[-1]).float() for scale in logits]


def _mean(loss: Loss, real: list[Tensor], fake: list[Tensor]) -> Tensor:
    """Mean of a loss over the scales."""
    return torch.stack([loss(r, f) for r, f in zip(real, fake, strict=True)]).mean()


def _known(kind: str) -> str:
    if kind not in KINDS:
        raise ValueError(f'adversarial loss {kind!r} is unknown; there are: {", ".join(KINDS)}')
    return kind
