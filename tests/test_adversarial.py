"""Adversarial losses in closed form, at their optima, and where their gradients go.

R1 where the gradient is known.
"""

import math

import pytest
import torch
import torch.nn.functional as F

from losses.adversarial import KINDS, accuracy, d_loss, g_loss, r1
from models import ModifiedVGG, MultiscalePatchGAN, UNetDiscriminatorSN


def logits(seed=0, shape=(4, 1, 5, 3)):
    g = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(shape, generator=g), 2 * torch.randn(shape, generator=g) - 0.5


def bce(x, target):
    return F.binary_cross_entropy_with_logits(x, torch.full_like(x, target)).item()


def test_vanilla_is_cross_entropy():
    real, fake = logits()
    assert d_loss('vanilla', real, fake).item() == pytest.approx(
        bce(real, 1) + bce(fake, 0), rel=1e-5
    )
    assert g_loss('vanilla', fake).item() == pytest.approx(bce(fake, 1), rel=1e-5)


def test_lsgan_is_squared_error():
    real, fake = logits()
    to_one, to_zero = (
        F.mse_loss(x, torch.full_like(x, t)).item() for x, t in ((real, 1), (fake, 0))
    )
    assert d_loss('lsgan', real, fake).item() == pytest.approx(to_one + to_zero, rel=1e-5)
    assert g_loss('lsgan', fake).item() == pytest.approx(
        F.mse_loss(fake, torch.ones_like(fake)).item(), rel=1e-5
    )


def test_ragan_is_esrgans_formula():
    real, fake = logits()
    ours = (bce(real - fake.mean(), 1) + bce(fake - real.mean(), 0)) / 2
    mirrored = (bce(real - fake.mean(), 0) + bce(fake - real.mean(), 1)) / 2
    assert d_loss('ragan', real, fake).item() == pytest.approx(ours, rel=1e-5)
    assert g_loss('ragan', fake, real).item() == pytest.approx(mirrored, rel=1e-5)


@pytest.mark.parametrize(
    'kind, d, g',
    [
        ('vanilla', 2 * math.log(2), math.log(2)),
        ('lsgan', 1, 1),
        ('hinge', 2, 0),
        ('ragan', math.log(2), math.log(2)),
    ],
)
def test_logits_of_zero(kind, d, g):
    zero = torch.zeros(3, 1)
    assert d_loss(kind, zero, zero).item() == pytest.approx(d, rel=1e-6) and g_loss(
        kind, zero, zero
    ).item() == pytest.approx(g, rel=1e-6)


def test_ragan_is_symmetric():
    """Swapping the pictures swaps the discriminator's halves, which agree for opposite logits.

    The generator's loss is the swapped discriminator's.
    """
    real, fake = logits()
    assert d_loss('ragan', real, fake).item() == pytest.approx(
        d_loss('ragan', -fake, -real).item(), rel=1e-6
    )
    assert g_loss('ragan', fake, real).item() == pytest.approx(
        d_loss('ragan', fake, real).item(), rel=1e-6
    )
    assert d_loss('ragan', real, fake).item() == pytest.approx(
        d_loss('ragan', real + 7, fake + 7).item(), rel=1e-5
    )  # only differences count


@pytest.mark.parametrize(
    'kind, real, fake', [('lsgan', 1.0, 0.0), ('hinge', 1.0, -1.0), ('hinge', 5.0, -3.0)]
)
def test_the_discriminators_optimum(kind, real, fake):
    """Nothing is lost there, and nothing pulls: beyond the margin of the hinge, either."""
    real, fake = (torch.full((2, 1, 3, 3), v, requires_grad=True) for v in (real, fake))
    loss = d_loss(kind, real, fake)
    loss.backward()
    assert loss.item() == 0 and (real.grad == 0).all() and (fake.grad == 0).all()


def test_hinge_by_hand():
    real, fake = (
        torch.tensor([2.0, 0.5, -1.0], requires_grad=True),
        torch.tensor([-2.0, 0.25], requires_grad=True),
    )
    loss = d_loss('hinge', real, fake)
    loss.backward()
    assert loss.item() == pytest.approx((0 + 0.5 + 2) / 3 + (0 + 1.25) / 2)
    assert torch.allclose(real.grad, torch.tensor([0, -1 / 3, -1 / 3])) and torch.allclose(
        fake.grad, torch.tensor([0, 0.5])
    )
    assert g_loss('hinge', fake).item() == pytest.approx(1.75 / 2)


@pytest.mark.parametrize('kind', KINDS)
def test_gradients_go_where_they_should(kind):
    real, fake = logits()
    real, fake = (
        real.requires_grad_(),
        (fake + 1).requires_grad_(),
    )  # both means lie between 0 and 1, what 'lsgan' wants
    for_d = torch.autograd.grad(d_loss(kind, real, fake), (real, fake))
    assert all(g.abs().sum() > 0 for g in for_d)
    assert for_d[0].sum() < 0 < for_d[1].sum()  # real logits are to rise, fake ones to sink
    for_g = torch.autograd.grad(g_loss(kind, fake, real), (real, fake), allow_unused=True)
    assert for_g[0] is None and for_g[1].sum() < 0


def test_ragan_learns_through_the_means():
    """The mean that logits are compared with has a gradient in a discriminator's step, too.

    All gradients sum to zero.
    """
    real, fake = (x.double().requires_grad_() for x in logits())
    a, b = torch.autograd.grad(d_loss('ragan', real, fake), (real, fake))
    assert (a.sum() + b.sum()).abs() < 1e-6


@pytest.mark.parametrize('kind', KINDS)
def test_scales_are_averaged(kind):
    """A scale is a tensor, or feature maps that end with the logits; other maps do not matter."""
    pairs = [logits(0), logits(1, (4, 1, 3, 2)), logits(2, (4, 1))]
    reals, fakes = zip(*pairs, strict=True)
    maps = (
        [[torch.full((9,), torch.nan), x] for x in reals],
        [[torch.full((9,), torch.nan), x] for x in fakes],
    )
    for r, f in ((reals, fakes), maps):
        assert d_loss(kind, r, f).item() == pytest.approx(
            sum(d_loss(kind, *p).item() for p in pairs) / 3, rel=1e-6
        )
        assert g_loss(kind, f, r).item() == pytest.approx(
            sum(g_loss(kind, b, a).item() for a, b in pairs) / 3, rel=1e-6
        )
        assert accuracy(r, f, kind).item() == pytest.approx(
            sum(accuracy(*p, kind).item() for p in pairs) / 3, rel=1e-6
        )
    with pytest.raises(ValueError):
        d_loss(kind, reals, fakes[:2])


@pytest.mark.parametrize(
    'net',
    [lambda: ModifiedVGG(4), lambda: UNetDiscriminatorSN(8), lambda: MultiscalePatchGAN(3, 8)],
    ids=['modified_vgg', 'unet_sn', 'patchgan'],
)
@pytest.mark.parametrize('kind', KINDS)
def test_of_every_discriminator(net, kind):
    """The discriminator's step leaves no gradient in the picture.

    The generator's leaves none in a frozen discriminator.
    """
    torch.manual_seed(0)
    net, truth, ours = (
        net(),
        torch.rand(2, 3, 128, 128),
        torch.rand(2, 3, 128, 128, requires_grad=True),
    )
    d_loss(kind, net(truth), net(ours.detach())).backward()
    assert ours.grad is None and all(p.grad.isfinite().all() for p in net.parameters())
    net.requires_grad_(False)
    g_loss(kind, net(ours), net(truth)).backward()
    assert ours.grad.abs().sum() > 0 and 0 <= accuracy(net(truth), net(ours), kind) <= 1


@pytest.mark.parametrize('kind', KINDS)
def test_computed_in_float32(kind):
    real, fake = logits()
    out = d_loss(kind, real.bfloat16(), fake.bfloat16())
    assert out.dtype == torch.float32 and out.shape == ()
    assert out.item() == pytest.approx(
        d_loss(kind, real.bfloat16().float(), fake.bfloat16().float()).item(), rel=1e-6
    )


@pytest.mark.parametrize('kind', KINDS)
def test_finite_for_large_logits(kind):
    for sign in (1, -1):
        real = torch.full((2, 1), sign * 1e4, requires_grad=True)
        loss = d_loss(kind, real, -real) + g_loss(kind, -real, real)
        loss.backward()
        assert loss.isfinite() and real.grad.isfinite().all()


def test_refused():
    with pytest.raises(
        ValueError, match="'wgan' is unknown; there are: vanilla, lsgan, hinge, ragan"
    ):
        d_loss('wgan', *logits())
    for call in (lambda: g_loss('wgan', logits()[0]), lambda: accuracy(*logits(), 'wgan')):
        with pytest.raises(ValueError, match='is unknown'):
            call()
    with pytest.raises(ValueError, match="'ragan' compares with the real pictures"):
        g_loss('ragan', logits()[0])
    with pytest.raises(ValueError, match='requires_grad_'):
        r1(torch.zeros(1, 3, 4, 4), torch.zeros(1, 1))


# ---- accuracy ----


@pytest.mark.parametrize(
    'kind, real, fake, share',
    [
        ('vanilla', [1, 2, -1, 3], [-1, -2, -3, 1], 0.75),
        ('hinge', [0.5, -0.5], [-0.5, -0.1], 0.75),
        ('lsgan', [0.6, 0.4], [0.4, 0.1, 0.7, 0.2], 0.625),
        ('ragan', [5, 6, 7], [3, 4, 5], 1.0),
        ('ragan', [3, 4, 5], [5, 6, 7], 0.0),
        ('ragan', [1, 3], [0, 2.5], 0.5),
        ('vanilla', [0, 0], [0, 0], 0.5),
        ('ragan', [2, 2], [2, 2], 0.5),
        ('lsgan', [0.5], [0.5], 0.5),
    ],
)
def test_accuracy(kind, real, fake, share):
    real, fake = (
        torch.tensor(x, dtype=torch.float32).view(-1, 1).requires_grad_() for x in (real, fake)
    )
    share_right = accuracy(real, fake, kind)
    assert (
        share_right.item() == pytest.approx(share)
        and not share_right.requires_grad
        and share_right.dtype == torch.float32
    )


# ---- R1 ----


def test_r1_of_a_linear_discriminator():
    """D(x) = <w, x>: the gradient is w everywhere."""
    w, x = torch.randn(3, 5, 4, requires_grad=True), torch.randn(6, 3, 5, 4, requires_grad=True)
    penalty = r1(x, (x * w).flatten(1).sum(1, keepdim=True))
    assert penalty.item() == pytest.approx(w.square().sum().item() / 2, rel=1e-5)
    penalty.backward()
    assert torch.allclose(w.grad, w.detach(), rtol=1e-5)


def test_r1_of_a_quadratic_discriminator():
    """D(x) = a |x|^2 / 2 has the gradient a x, hence R1 = a^2 / 2 mean |x|^2.

    Its derivative with respect to a is a mean |x|^2.
    """
    a, x = torch.tensor(1.5, requires_grad=True), torch.randn(6, 3, 5, 4, requires_grad=True)
    mean = x.detach().square().flatten(1).sum(1).mean()
    penalty = r1(x, a * x.square().flatten(1).sum(1) / 2)
    penalty.backward()
    assert penalty.item() == pytest.approx(
        1.5**2 / 2 * mean.item(), rel=1e-5
    ) and a.grad.item() == pytest.approx(1.5 * mean.item(), rel=1e-5)


def test_r1_of_maps_and_scales():
    """Of a map the mean counts, so its size does not matter; so it is with scales."""
    w, x = torch.randn(3, 5, 4), torch.randn(2, 3, 5, 4, requires_grad=True)
    one = (x * w).flatten(1).sum(1).view(2, 1, 1, 1)
    expected = pytest.approx(w.square().sum().item() / 2, rel=1e-5)
    assert r1(x, one.expand(2, 1, 7, 9)).item() == expected
    assert r1(x, [[one * 100, one], one.expand(2, 1, 7, 9)]).item() == expected
    assert r1(x, [one, torch.zeros(2, 1)]).item() == pytest.approx(
        w.square().sum().item() / 8, rel=1e-5
    )  # the gradient is halved


@pytest.mark.parametrize(
    'net',
    [lambda: UNetDiscriminatorSN(8), lambda: MultiscalePatchGAN(3, 8)],
    ids=['unet_sn', 'patchgan'],
)
def test_r1_trains_a_discriminator(net):
    torch.manual_seed(0)
    net, x = net(), torch.rand(2, 3, 24, 24, requires_grad=True)
    penalty = r1(x, net(x))
    penalty.backward()
    assert (
        penalty > 0
        and sum(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters()) >= 5
    )
