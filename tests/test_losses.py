"""Pixel losses against closed forms and torch's own."""

import pytest
import torch
import torch.nn.functional as F

from losses.pixel import charbonnier, l1, mse, psnr
from metrics.psnr import psnr as scored


def pair(seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(2, 3, 17, 5, generator=g), torch.rand(2, 3, 17, 5, generator=g)


def test_l1_is_torch():
    a, b = pair()
    assert l1(a, b).item() == pytest.approx(F.l1_loss(a.double(), b.double()).item(), rel=1e-6)


@pytest.mark.parametrize('d', [0.0, 1e-3, 0.25])
def test_charbonnier_of_a_constant_difference(d):
    a, _ = pair()
    assert charbonnier(a.double() * 0 + d, a.double() * 0).item() == pytest.approx(
        (d * d + 1e-6) ** 0.5, rel=1e-6
    )
    assert charbonnier(a * 0 + d, a * 0, eps=0.1).item() == pytest.approx(
        (d * d + 0.01) ** 0.5, rel=1e-6
    )


def test_charbonnier_lies_between_l1_and_l1_plus_eps():
    a, b = pair()
    assert l1(a, b) < charbonnier(a, b) < l1(a, b) + 1e-3


@pytest.mark.parametrize('loss', [l1, charbonnier])
def test_gradients(loss):
    """The gradient of a far pixel is its sign over the count.

    That of equal pictures is zero, never NaN.
    """
    a = torch.full((1, 3, 4, 4), 0.9, requires_grad=True)
    loss(a, torch.full((1, 3, 4, 4), 0.1)).backward()
    assert torch.allclose(a.grad, torch.full_like(a, 1 / 48), rtol=1e-5)
    b = torch.full((1, 3, 4, 4), 0.5, requires_grad=True)
    loss(b, b.detach()).backward()
    assert torch.equal(b.grad, torch.zeros_like(b))


def test_mse_is_torch():
    a, b = pair()
    assert mse(a, b).item() == pytest.approx(F.mse_loss(a.double(), b.double()).item(), rel=1e-6)


def test_psnr_is_the_score():
    """On 8-bit pictures of unlike quality: -1/10 of the mean dB, not of the mean error's dB."""
    g = torch.Generator().manual_seed(0)
    target = torch.randint(0, 256, (3, 3, 17, 9), generator=g, dtype=torch.uint8)
    noise = torch.randint(-3, 4, target.shape, generator=g) * torch.tensor([1, 5, 20]).view(
        3, 1, 1, 1
    )
    output = (target.int() + noise).clamp(0, 255).to(torch.uint8)
    assert psnr(output / 255, target / 255).item() == pytest.approx(
        -scored(output, target).mean().item() / 10, abs=1e-4
    )
    assert psnr(target / 255, target / 255).item() == pytest.approx(-8, abs=1e-5)


@pytest.mark.parametrize('loss', [mse, psnr])
def test_no_gradient_of_a_perfect_picture(loss):
    a = torch.full((2, 3, 4, 4), 0.5, requires_grad=True)
    loss(a, a.detach()).backward()
    assert torch.equal(a.grad, torch.zeros_like(a))


@pytest.mark.parametrize('loss', [l1, charbonnier, mse, psnr])
def test_computed_in_float32(loss):
    a, b = pair()
    out = loss(a.bfloat16(), b)
    assert out.dtype == torch.float32 and out.shape == ()
    assert out.item() == pytest.approx(loss(a.bfloat16().float(), b).item(), rel=1e-6)


@pytest.mark.parametrize('loss', [l1, charbonnier, mse, psnr])
def test_refuses_to_broadcast(loss):
    with pytest.raises(ValueError, match='shapes must be equal'):
        loss(torch.zeros(2, 3, 8, 8), torch.zeros(1, 3, 8, 8))
