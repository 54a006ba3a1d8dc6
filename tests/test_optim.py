"""Steps of an optimizer: torch's own, bit for bit, except where gradients are not finite."""
import copy

import pytest
import torch
from torch import nn

from training import optim


def net_and_batches(n=6):
    g = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1))
    for p in net.parameters():
        p.data = torch.randn(p.shape, generator=g)
    return net, [torch.randn(8, 5, generator=g) for _ in range(n)]


def run(net, stepper, batches, lr=1e-2):
    for x in batches:
        stepper.backward(net(x).square().mean())
        stepper.step(lr)
    return [p.detach().clone() for p in net.parameters()]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize('name', optim.OPTIMIZERS)
def test_steps_are_torchs(name):
    net, batches = net_and_batches()
    plain = copy.deepcopy(net)
    ours = run(net, optim.Stepper(net, optim.make(name, net, 1e-2, 0.1), 'fp32', clip=0.5), batches)
    theirs = {'adamw': lambda p: torch.optim.AdamW(p, 1e-2, betas=(0.9, 0.99), weight_decay=0.1), 'adam': lambda p: torch.optim.Adam(p, 1e-2, betas=(0.9, 0.99), weight_decay=0.1),
              'sgd': lambda p: torch.optim.SGD(p, 1e-2, momentum=0.9, nesterov=True, weight_decay=0.1)}[name](plain.parameters())
    for x in batches:
        theirs.zero_grad()
        plain(x).square().mean().backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        theirs.step()
    assert same(ours, plain.parameters())


@pytest.mark.parametrize('name', ['adam', 'adamw'])
def test_betas_are_torchs(name):
    net, batches = net_and_batches()
    plain = copy.deepcopy(net)
    ours = run(net, optim.Stepper(net, optim.make(name, net, 1e-2, 0.1, [0.0, 0.9]), 'fp32', clip=1e3), batches)
    theirs = optim.OPTIMIZERS[name](plain.parameters(), 1e-2, betas=(0.0, 0.9), weight_decay=0.1)
    for x in batches:
        theirs.zero_grad()
        plain(x).square().mean().backward()
        theirs.step()
    assert same(ours, plain.parameters())


@pytest.mark.parametrize('precision', ['fp32', 'fp16'])
@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_a_step_that_is_not_finite_changes_nothing(bad, precision):
    """Neither weights nor moments: the steps around it are those of a run without it."""
    net, batches = net_and_batches()
    other = copy.deepcopy(net)
    broken = [*batches[:3], torch.full((8, 5), bad), *batches[3:]]
    a, b = (optim.Stepper(n, optim.make('adamw', n, 1e-2), precision, clip=1.0) for n in (net, other))
    assert a.skipped() == 0
    with_it, without = run(net, a, broken), run(other, b, batches)
    assert a.skipped() == 1 and b.skipped() == 0
    if precision == 'fp32':
        assert same(with_it, without)
    else:                                        # the scale is halved after it, which float32 gradients do not notice beyond a rounding
        assert all(torch.allclose(x, y, rtol=1e-6) for x, y in zip(with_it, without))


@pytest.mark.parametrize('precision', ['fp32', 'fp16'])
def test_resumes(precision):
    net, batches = net_and_batches(8)
    whole = run(net, optim.Stepper(net, optim.make('adamw', net, 1e-2), precision, 1.0), [batches[0], batches[1] * float('nan'), *batches[2:]])
    net, _ = net_and_batches()
    first = optim.Stepper(net, optim.make('adamw', net, 1e-2), precision, 1.0)
    run(net, first, [batches[0], batches[1] * float('nan'), *batches[2:4]])
    again, _ = net_and_batches()
    again.load_state_dict(net.state_dict())
    second = optim.Stepper(again, optim.make('adamw', again, 1e-2), precision, 1.0)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert same(run(again, second, batches[4:]), whole) and second.skipped() == 1


def test_accumulated_gradients_are_those_of_the_whole():
    net, batches = net_and_batches(2)
    other = copy.deepcopy(net)
    whole = run(net, optim.Stepper(net, optim.make('sgd', net, 1e-2), 'fp32', 1e9), [torch.cat(batches)])
    stepper = optim.Stepper(other, optim.make('sgd', other, 1e-2), 'fp32', 1e9)
    for x in batches:
        stepper.backward(other(x).square().mean() / 2)
    stepper.step(1e-2)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(whole, other.parameters()))
