"""Adversarial losses on logits, one form for discriminator and generator, with the gradient penalty R1.

    vanilla   log-likelihood, non-saturating (Goodfellow et al., NeurIPS 2014); a real picture is to have a large logit
    lsgan     squared distance to 1 for real and 0 for fake (Mao et al., ICCV 2017); sums: twice that of the paper
    hinge     distance to a margin of 1 and -1 (Lim and Ye, Geometric GAN, 2017)
    ragan     relativistic average (Jolicoeur-Martineau, ICLR 2019; ESRGAN, 2018): a real picture is to look more real than fake ones do on average

Logits are a tensor of any shape, or a list with an entry per scale: a tensor, or a list of feature maps that ends with the logits. Losses are float32 means
over the logits of a scale, then over the scales.
"""

import torch
import torch.nn.functional as F

_D = {
    'vanilla': lambda real, fake: (
        F.softplus(-real).mean() + F.softplus(fake).mean()
    ),  # softplus(-x) is the cross entropy of x and 1
    'lsgan': lambda real, fake: (real - 1).square().mean() + fake.square().mean(),
    'hinge': lambda real, fake: F.relu(1 - real).mean() + F.relu(1 + fake).mean(),
    'ragan': lambda real, fake: (
        (F.softplus(fake.mean() - real).mean() + F.softplus(fake - real.mean()).mean()) / 2
    ),
}
_G = {
    'vanilla': lambda real, fake: F.softplus(-fake).mean(),
    'lsgan': lambda real, fake: (fake - 1).square().mean(),
    'hinge': lambda real, fake: -fake.mean(),
    'ragan': lambda real, fake: _D['ragan'](
        fake, real
    ),  # the generator wants what the discriminator does not
}
KINDS = tuple(_D)


def d_loss(kind, real, fake):
    """What the discriminator minimises -> scalar float32. ValueError for an unknown kind or another number of scales.

    fake: logits of pictures that were detached from the generator; both logits carry the gradient, also through the means of 'ragan'
    """
    return _mean(_D[_known(kind)], real, fake)


def g_loss(kind, fake, real=None):
    """What the generator minimises -> scalar float32. ValueError for an unknown kind, another number of scales, or 'ragan' without real ones.

    real: logits of the real pictures, for 'ragan'; no gradient goes there
    """
    if _known(kind) == 'ragan' and real is None:
        raise ValueError(
            "g_loss: 'ragan' compares with the real pictures: their logits are needed, too"
        )
    return _mean(_G[kind], fake if real is None else real, fake, still=True)


def r1(real_images, logits):
    """Half the squared norm of a discriminator's gradient at real pictures, mean over them -> scalar float32 that can be differentiated again.

    Mescheder et al., Which Training Methods for GANs do actually converge?, ICML 2018, eq. 9 without its weight. Of several logits for a picture the mean counts,
    first over a scale, then over scales, so that a weight suits maps of any size. The discriminator must judge every picture alone: no batch normalisation in training.

    real_images: [B, 3, H, W] that required a gradient when the discriminator saw them; ValueError if not
    """
    if not real_images.requires_grad:
        raise ValueError('r1: call real_images.requires_grad_() before the discriminator sees them')
    maps = scales(logits)
    total = sum(m.reshape(len(m), -1).mean(1).sum() for m in maps) / len(maps)
    (gradient,) = torch.autograd.grad(total, real_images, create_graph=True)
    return gradient.float().square().flatten(1).sum(1).mean() / 2


@torch.no_grad()
def accuracy(real, fake, kind):
    """Share of the logits that are on the right side, real and fake ones having equal weight -> scalar float32 in [0, 1]; 0.5 where nothing is told apart.

    The border is 0, for 'lsgan' 1/2; for 'ragan' it is the mean of the others. A logit on the border counts as fake.
    """

    def right(real, fake):
        above, below = {'lsgan': (0.5, 0.5), 'ragan': (fake.mean(), real.mean())}.get(
            kind, (0.0, 0.0)
        )
        return ((real > above).float().mean() + (fake <= below).float().mean()) / 2

    _known(kind)
    return _mean(right, real, fake)


def scales(logits):
    """Logits of any form -> [tensor], float32, one per scale"""
    if isinstance(logits, torch.Tensor):
        return [logits.float()]
    return [(scale if isinstance(scale, torch.Tensor) else scale[-1]).float() for scale in logits]


def _mean(loss, real, fake, still=False):
    """Mean of a loss over the scales. still: the real ones are only looked at"""
    pairs = zip(scales(real), scales(fake), strict=True)
    values = [loss(r.detach() if still else r, f) for r, f in pairs]
    return torch.stack(values).mean()


def _known(kind):
    if kind not in KINDS:
        raise ValueError(f'adversarial loss {kind!r} is unknown; there are: {", ".join(KINDS)}')
    return kind
