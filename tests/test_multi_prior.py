"""The multi-prior loss in closed form, and the gate of MFPSNet that weighs the priors."""

import math

import pytest
import torch

import models
from config import presets
from dali_pipes.batch import Batch
from faces.masks import CLASSES
from losses import priors
from models.guided import FEATURES, Attended, Guided, HeatPrior, ParsePrior
from models.mfpsnet import MFPSNet
from tasks.restore import RestorationCriterion

ONE = {'path': [0], 'cell': [[1, 1], [3, 1], [6, 0]]}
TINY = {'sr': dict(ONE, path=[3]), 'parse': ONE, 'heat': ONE, 'dict': ONE, 'fusion': ONE}
SOME = {'parse': 19, 'heat': 5, 'dict': 7}


def halves():
    """An error of 0.5 on the left and 0.1 on the right; regions left, right, and everywhere."""
    output, target = torch.zeros(2, 3, 4, 8), torch.full((2, 3, 4, 8), 0.1)
    target[..., :4] = 0.5
    left, right = torch.zeros(2, 2, 1, 4, 8)
    left[..., :4], right[..., 4:] = 1, 0.5
    return output, target, {'parse': left, 'heat': right, 'dict': torch.ones(2, 1, 2, 4)}


def test_closed_form():
    output, target, regions = halves()
    assert priors.multi_prior(output, target, regions).item() == pytest.approx(
        (0.5 + 0.1 + 0.3) / 3
    )
    weights = torch.tensor([[1.0, 0, 0], [0.25, 0.25, 0.5]])
    assert priors.multi_prior(output, target, regions, weights).item() == pytest.approx(
        (0.5 + (0.25 * 0.5 + 0.25 * 0.1 + 0.5 * 0.3)) / 2
    )
    assert priors.multi_prior(output, target, {'parse': torch.zeros(2, 1, 4, 8)}).item() == 0
    for wrong in dict(output=output[:1]), dict(weights=weights[:, :2]):
        with pytest.raises(ValueError):
            priors.multi_prior(
                **dict(output=output, target=target, regions=regions, weights=weights) | wrong
            )


def test_entropy_in_closed_form():
    assert (
        priors.entropy(torch.full((4, 3), 1 / 3)).item() == pytest.approx(math.log(3))
        and priors.entropy(torch.eye(3)).item() == 0
    )
    weights = torch.eye(3, requires_grad=True)
    priors.entropy(weights).backward()
    assert weights.grad.isfinite().all()


def test_the_weights_go_where_errors_are_small():
    """Gradient steps on the gate's logits end at softmax(-error / bonus).

    There the sum of both is smallest.
    """
    output, target, regions = halves()
    logits, bonus = torch.zeros(2, 3, requires_grad=True), 0.5
    for _ in range(100):
        a = logits.softmax(1)
        (gradient,) = torch.autograd.grad(
            priors.multi_prior(output, target, regions, a) - bonus * priors.entropy(a), logits
        )
        logits = (logits - 2 * gradient).detach().requires_grad_()
    assert torch.allclose(
        logits.softmax(1)[0], (-torch.tensor([0.5, 0.1, 0.3]) / bonus).softmax(0), atol=1e-3
    )


# ---- gate ----


def maps(n=1, size=16):
    g = torch.Generator().manual_seed(2)
    return {name: torch.rand(n, c, size, size, generator=g) for name, c in SOME.items()}


def test_the_gate_weighs_the_features():
    torch.manual_seed(0)
    net, x = MFPSNet(TINY, SOME, gate=True).eval(), torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        passes, weights = net(x, maps(2), weights=True)
        assert (
            weights.shape == (2, 3)
            and torch.allclose(weights.sum(1), torch.ones(2))
            and not torch.allclose(weights[0], weights[1])
        )
        assert all(torch.equal(a, b) for a, b in zip(net(x, maps(2)), passes, strict=True))
        # A gate that is sure of one prior leaves no more of the others than zeros.
        torch.nn.init.zeros_(net.gate[2].weight)
        net.gate[2].bias.copy_(torch.tensor([200.0, 0, 0]))
        sure = net(x, maps(2))[1]
        other = maps(2) | {'heat': torch.zeros(2, 5, 16, 16), 'dict': torch.ones(2, 7, 16, 16)}
        assert torch.equal(net(x, other)[1], sure)


def test_without_a_gate_nothing_is_different():
    torch.manual_seed(0)
    plain = MFPSNet(TINY, SOME).eval()
    torch.manual_seed(0)
    gated = MFPSNet(TINY, SOME, gate=True).eval()
    more = {k for k in gated.state_dict()} - set(plain.state_dict())
    assert {k.split('.')[0] for k in more} == {'gate'} and models.count(gated) - models.count(
        plain
    ) == 48 * 16 + 16 + 16 * 3 + 3
    with torch.no_grad():
        assert plain(torch.rand(1, 3, 16, 16), maps(), weights=True)[1] is None
        assert torch.equal(
            plain(torch.ones(1, 3, 16, 16), maps())[0], gated(torch.ones(1, 3, 16, 16), maps())[0]
        )


# ---- in training ----


def guided(attend, dropped=(), gate=True):
    torch.manual_seed(0)
    guides = {
        'parse': ParsePrior(models.ParseUNet((4, 6, 8), (1, 1, 1)), 2),
        'heat': HeatPrior(models.HeatmapNet(5, (4, 6), position=0), 4),
    }
    return Guided(MFPSNet(TINY, {'parse': 19, 'heat': 5}, gate=gate), guides, dropped, attend)


def test_what_is_trained_on():
    net, x, target = guided(True), torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    attended = net(x)
    assert (
        isinstance(attended, Attended)
        and [r.shape for r in attended.regions.values()] == [(2, 1, 16, 16)] * 2
        and attended.weights.shape == (2, 2)
    )
    assert all(r.min() >= 0 and r.max() <= 1 for r in attended.regions.values())
    criterion = RestorationCriterion(presets.config('unet', multi_prior_weight=0.1))
    losses = criterion.net(attended, Batch(x, target, None, target), None, 0, 0.0)
    assert losses.keys() == {'pixel_pass0', 'pixel_pass1', 'multi_prior', 'entropy'}
    assert losses['multi_prior'].item() == pytest.approx(
        0.1
        * priors.multi_prior(attended.passes[1], target, attended.regions, attended.weights).item()
    )
    assert losses['entropy'].item() == pytest.approx(
        -1e-3 * priors.entropy(attended.weights).item()
    )
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in net.net.parameters()) and not any(
        p.requires_grad for p in net.guides.parameters()
    )
    assert isinstance(guided(False)(x), list) and torch.is_tensor(net.eval()(x))


def test_a_dropped_prior_looks_nowhere():
    """And what the gate gives to it is not counted: nothing would cost it."""
    net, x = guided(True, ('heat',)), torch.rand(2, 3, 16, 16)
    attended = net(x)
    assert (
        list(attended.regions) == ['parse']
        and torch.allclose(attended.weights, torch.ones(2, 1))
        and not net.maps(x)['heat'].any()
    )
    assert guided(True, ('heat',), gate=False)(x).weights is None
    plain, (same, _) = net.maps(x), net.maps_and_regions(x)
    assert all(torch.equal(plain[name], same[name]) for name in plain)


def test_the_region_of_parsing_maps():
    assert [CLASSES[i] for i in FEATURES] == [
        'nose',
        'l_eye',
        'r_eye',
        'l_brow',
        'r_brow',
        'mouth',
        'u_lip',
        'l_lip',
    ]

    class Spot(torch.nn.Module):
        def forward(self, x):
            y = torch.zeros(1, 19, 128, 128)
            y[:, 0], y[:, 2, 60, 70] = 9, 30
            y[:, 13, 10, 10] = 30  # hair is none
            return y

    _, region = ParsePrior(Spot()).map_and_region(torch.zeros(1, 3, 128, 128))
    assert region.sum() == 49 and region[0, 0, 57:64, 67:74].all()
