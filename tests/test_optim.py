"""Steps of an optimizer: torch's own, bit for bit, except where gradients are not finite."""

import copy

import pytest
import torch
from torch import nn

from training import muon, optim


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


@pytest.mark.parametrize('name', ['adamw', 'adam', 'sgd'])
def test_steps_are_torchs(name):
    net, batches = net_and_batches()
    plain = copy.deepcopy(net)
    ours = run(net, optim.Stepper(net, optim.make(name, net, 1e-2, 0.1), 'fp32', clip=0.5), batches)
    theirs = {
        'adamw': lambda p: torch.optim.AdamW(p, 1e-2, betas=(0.9, 0.99), weight_decay=0.1),
        'adam': lambda p: torch.optim.Adam(p, 1e-2, betas=(0.9, 0.99), weight_decay=0.1),
        'sgd': lambda p: torch.optim.SGD(p, 1e-2, momentum=0.9, weight_decay=0.1),
    }[name](plain.parameters())
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
    ours = run(
        net,
        optim.Stepper(net, optim.make(name, net, 1e-2, 0.1, [0.0, 0.9]), 'fp32', clip=1e3),
        batches,
    )
    theirs = optim.OPTIMIZERS[name](plain.parameters(), 1e-2, betas=(0.0, 0.9), weight_decay=0.1)
    for x in batches:
        theirs.zero_grad()
        plain(x).square().mean().backward()
        theirs.step()
    assert same(ours, plain.parameters())


@pytest.mark.parametrize('name', ['adamw', 'muon'])
@pytest.mark.parametrize('precision', ['fp32', 'fp16'])
@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_a_step_that_is_not_finite_changes_nothing(bad, precision, name):
    """Neither weights nor moments: the steps around it are those of a run without it."""
    net, batches = net_and_batches()
    other = copy.deepcopy(net)
    broken = [*batches[:3], torch.full((8, 5), bad), *batches[3:]]
    a, b = (optim.Stepper(n, optim.make(name, n, 1e-2), precision, clip=1.0) for n in (net, other))
    assert a.skipped() == 0
    with_it, without = run(net, a, broken), run(other, b, batches)
    assert a.skipped() == 1 and b.skipped() == 0
    if precision == 'fp32':
        assert same(with_it, without)
    else:  # the scale is halved after it, which float32 gradients do not notice beyond a rounding
        pairs = zip(with_it, without, strict=True)
        assert all(torch.allclose(x, y, rtol=1e-6) for x, y in pairs)


@pytest.mark.parametrize('name', ['adamw', 'muon'])
@pytest.mark.parametrize('precision', ['fp32', 'fp16'])
def test_resumes(precision, name):
    net, batches = net_and_batches(8)
    whole = run(
        net,
        optim.Stepper(net, optim.make(name, net, 1e-2), precision, 1.0),
        [batches[0], batches[1] * float('nan'), *batches[2:]],
    )
    net, _ = net_and_batches()
    first = optim.Stepper(net, optim.make(name, net, 1e-2), precision, 1.0)
    run(net, first, [batches[0], batches[1] * float('nan'), *batches[2:4]])
    again, _ = net_and_batches()
    again.load_state_dict(net.state_dict())
    second = optim.Stepper(again, optim.make(name, again, 1e-2), precision, 1.0)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert second.state_dict()['scaler'] == first.state_dict()['scaler']
    assert same(run(again, second, batches[4:]), whole) and second.skipped() == 1


def test_accumulated_gradients_are_those_of_the_whole():
    net, batches = net_and_batches(2)
    other = copy.deepcopy(net)
    whole = run(
        net, optim.Stepper(net, optim.make('sgd', net, 1e-2), 'fp32', 1e9), [torch.cat(batches)]
    )
    stepper = optim.Stepper(other, optim.make('sgd', other, 1e-2), 'fp32', 1e9)
    for x in batches:
        stepper.backward(other(x).square().mean() / 2)
    stepper.step(1e-2)
    pairs = zip(whole, other.parameters(), strict=True)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in pairs)


def layers():
    """A network with every kind of parameter.

    Plain matrices of two shapes, one of them in channels-last, a grouped convolution, vectors, a
    map.
    """
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3, padding=1, groups=6),
        nn.BatchNorm2d(6),
        nn.Conv2d(6, 4, 3, bias=False),
        nn.Flatten(),
        nn.Linear(64, 5),
    )
    net.register_parameter('map', nn.Parameter(torch.randn(1, 5)))
    return net.to(memory_format=torch.channels_last)


def loss(net, x):
    return (net(x) + net.map).square().mean()


MATRICES = (0, 4, 6)  # layers whose weights Muon takes


def set_gradients(net, seed):
    for p in net.parameters():
        layout = torch.channels_last if p.dim() == 4 else torch.contiguous_format
        gradient = torch.randn(p.shape, generator=torch.Generator().manual_seed(seed))
        p.grad = gradient.contiguous(memory_format=layout)


@pytest.mark.skipif(not hasattr(torch.optim, 'Muon'), reason='torch has it from 2.9 on')
@pytest.mark.parametrize('decay', [0.0, 0.1])
def test_muon_is_torchs(decay):
    """Steps agree to a few percent, what momentum holds to a rounding.

    torch's iterates in bfloat16, ours on a CPU in float32.
    """
    net = layers()
    flat = {i: nn.Parameter(net[i].weight.detach().flatten(1).clone()) for i in MATRICES}
    ours = optim.make('muon', net, 1e-2, decay)
    theirs = torch.optim.Muon(
        list(flat.values()), 1e-2, decay, 0.95, adjust_lr_fn='match_rms_adamw'
    )
    for n in range(4):
        set_gradients(net, seed=n)
        for i, matrix in flat.items():
            matrix.grad = net[i].weight.grad.flatten(1).clone()
        before = {i: net[i].weight.detach().flatten(1).clone() for i in MATRICES}
        before_theirs = {i: matrix.detach().clone() for i, matrix in flat.items()}
        ours.step()
        theirs.step()
        ours.zero_grad()
        for i, matrix in flat.items():
            kept = 1 - 1e-2 * decay
            step = net[i].weight.detach().flatten(1) - before[i] * kept
            expected = matrix.detach() - before_theirs[i] * kept
            assert (step - expected).norm() < 0.05 * expected.norm()  # measured: up to 0.032
            momentum = ours.momenta[tuple(matrix.shape)][0]
            expected = theirs.state[matrix]['momentum_buffer']
            assert torch.allclose(momentum, expected, rtol=1e-5, atol=1e-8)


def test_muon_gives_the_rest_to_adamw():
    net = layers()
    own = dict(net.named_parameters())
    plain = dict(copy.deepcopy(net).named_parameters())
    ours = optim.make('muon', net, 1e-2, 0.1)
    names = ['0.bias', '2.weight', '2.bias', '3.weight', '3.bias', '6.bias', 'map']
    theirs = torch.optim.AdamW([plain[n] for n in names], 1e-2, (0.9, 0.99), weight_decay=0.1)
    for n in range(3):
        x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(n))
        loss(net, x).backward()
        for name in names:
            plain[name].grad = own[name].grad.clone()
        ours.step()
        theirs.step()
        ours.zero_grad()
    assert all(torch.equal(own[name], plain[name]) for name in names)
    # Every parameter has an optimizer.
    grouped = {id(p) for group in ours.param_groups for p in group['params']}
    assert grouped == {id(p) for p in net.parameters()}


@pytest.mark.parametrize('shape', [(3, 5, 20), (2, 20, 5), (1, 8, 8), (1, 1, 9)])
def test_orthogonal(shape):
    """The singular vectors stay, the values come close to 1.

    Measured over the interval that the iteration is made for: 0.68 to 1.14.
    """
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = muon.orthogonal(x)
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    inner = u.transpose(1, 2) @ y @ v.transpose(1, 2)
    values = inner.diagonal(dim1=1, dim2=2)
    assert values.min() > 0.6 and values.max() < 1.25
    assert torch.allclose(inner, torch.diag_embed(values), atol=1e-9)
    assert torch.equal(muon.orthogonal(torch.zeros(shape)), torch.zeros(shape))


def test_muon_in_bfloat16():
    """Where the run computes in it: steps are off by the rounding of torch's own Muon."""
    steps = []
    for precision in 'fp32', 'bf16':
        net = nn.Linear(288, 32)
        nn.init.zeros_(net.weight)
        net.weight.grad = torch.randn(32, 288, generator=torch.Generator().manual_seed(1))
        optim.make('muon', net, 1e-2, precision=precision).step()
        steps.append(net.weight.detach())
    whole, rounded = steps
    assert 0 < (rounded - whole).norm() < 0.04 * whole.norm()  # measured: 0.021


def test_muon_leaves_what_has_no_gradient():
    net = nn.ModuleList([nn.Linear(4, 3), nn.Linear(4, 3)])  # of one shape, only the first used
    before = net[1].weight.detach().clone(), net[0].weight.detach().clone()
    stepper = optim.Stepper(net, optim.make('muon', net, 1e-2), 'fp32', 1.0)
    stepper.backward(net[0](torch.randn(8, 4)).square().mean())
    stepper.step(1e-2)
    assert torch.equal(net[1].weight, before[0]) and not torch.equal(net[0].weight, before[1])


def test_muon_of_a_network_without_matrices():
    net = nn.BatchNorm1d(4)
    stepper = optim.Stepper(net, optim.make('muon', net, 1e-2), 'fp32', 1.0)
    stepper.backward(net(torch.randn(8, 4)).pow(3).mean())
    before = net.weight.detach().clone()
    stepper.step(1e-2)
    assert not torch.equal(net.weight, before)


def test_muon_on_a_gpu_skips_without_reading():
    """What a GPU does, played on the CPU: found_inf stays a tensor that nobody reads."""
    net = layers()
    optimizer = optim.make('muon', net, 1e-2, 0.1)
    loss(net, torch.randn(2, 3, 6, 6)).backward()
    optimizer.step()
    weights = copy.deepcopy(list(net.parameters()))
    momenta = copy.deepcopy(optimizer.momenta)
    for p in net.parameters():
        p.grad.fill_(float('nan'))
    optimizer.move(torch.ones(()))
    assert same(weights, net.parameters())
    assert same(momenta.values(), optimizer.momenta.values())
