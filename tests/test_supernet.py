"""Architecture search: exact counts, and decoding against all there is to choose from.

A supernet with one way left is the decoded network.
"""

import itertools
import json
import math

import pytest
import torch

import models
from models import decode
from models.searched import PAPER, ConvNorm, Searched
from models.supernet import AutoPrior, AutoSR, Supernet

STARTS = [0, 3]
AHEAD = [
    [1, 1],
    [3, 2],
    [4, 0],
    [6, 3],
    [8, 1],
]  # a cell that has no use for what was two layers before
BOTH = [[0, 1], [1, 0], [2, 2], [4, 3], [5, 1], [7, 2]]


def make(start, layers=3, width=4, seed=0):
    """A supernet in which no weight and no statistic is what it starts as."""
    torch.manual_seed(seed)
    net = Supernet(width, start, layers).eval()
    scramble(net)
    return net


def scramble(net):
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for values, low in (
                (module.running_mean, -0.5),
                (module.bias, -0.5),
                (module.running_var, 0.5),
                (module.weight, 0.5),
            ):
                torch.nn.init.uniform_(values, low, low + 1)


def picture(start, width=4, size=(16, 24), n=2):
    return torch.randn(
        n,
        width << start,
        size[0] >> start,
        size[1] >> start,
        generator=torch.Generator().manual_seed(1),
    )


def paths(start, layers):
    """All there are: neighbouring levels, the first next to the start."""
    for path in itertools.product(range(4), repeat=layers):
        if all(abs(a - b) <= 1 for a, b in zip((start, *path), path, strict=False)):
            yield list(path)


def ways(path, start):
    """(layer, source, way) of every step of a path"""
    return [
        (layer, source, level - source + 1)
        for layer, (source, level) in enumerate(zip([start, *path], path, strict=False))
    ]


# ---- counts ----


def test_autoprior_count():
    net = AutoPrior(spare=True)
    assert models.count(net) == 15_013_644 and models.count(AutoPrior()) == 15_013_644 - 2 * 24
    assert (
        sum(len(layer) for layer in net.layers) == 21
        and net.alpha.shape == (9, 4)
        and net.beta.shape == (6, 4, 3)
    )


def test_autosr_count():
    """Published without three ways and three memories of cells at half the size, and edges."""
    net = AutoSR(spare=True)
    gaps = [net.layers[layer]['1'] for layer in (3, 4, 5)]
    missing = sum(
        models.count(part)
        for cell in gaps
        for part in (cell.enter['0'], cell.remember, *(cell.edges[e] for e in '025'))
    )
    assert (
        models.count(net) == 22_833_372
        and missing == 195_744
        and models.count(net) - missing == 22_637_628
    )
    assert models.count(AutoSR()) == 22_833_372 - 2 * 24
    assert [len(layer) for layer in net.layers] == [2, 3, 4, 4, 4, 4]


def test_fusion_of_eight_layers():
    net = AutoPrior(4, layers=8)
    assert [len(layer) for layer in net.layers] == [2, 3, 4, 4, 4, 4, 4, 4] and len(
        net.architecture()['path']
    ) == 8


@pytest.mark.parametrize('start', STARTS)
def test_who_hears_whom(start):
    net = make(start, layers=4, width=1)
    for layer, cells in enumerate(net.layers):
        for level, cell in ((int(name), cell) for name, cell in cells.items()):
            assert abs(level - start) <= layer + 1
            assert {int(name) for name in cell.enter} == {
                s for s in range(4) if abs(s - level) <= 1 and abs(s - start) <= layer
            }
            assert (cell.remember is not None) == (layer > 0 and abs(level - start) <= layer - 1)
            assert set(cell.edges) == set('012345678') - (set() if cell.remember else set('025'))


# ---- what it computes ----


def share(supernet, net, path, cell):
    """Give a decoded network the weights of its way through a supernet."""
    net.stem.load_state_dict(supernet.stem.state_dict())
    net.head.final.load_state_dict(supernet.head.final.state_dict())
    for decoded, mixed in zip(net.head.halve, supernet.head.halve, strict=False):
        decoded.load_state_dict(mixed.state_dict())
    for layer, (source, level) in enumerate(zip([net.start, *path], path, strict=False)):
        decoded, mixed = net.layers[layer], supernet.layers[layer][str(level)]
        decoded.enter.load_state_dict(mixed.enter[str(source)].state_dict())
        if mixed.remember and isinstance(decoded.remember, ConvNorm):
            decoded.remember.load_state_dict(mixed.remember.state_dict())
        for edge, operation in cell:
            if operation and str(edge) in mixed.edges:
                decoded.edges[str(edge)].load_state_dict(
                    mixed.edges[str(edge)][operation].state_dict()
                )


def difference(supernet, path, cell, silent=()):
    """Largest difference between a supernet with one way left and the decoded network.

    They have the same weights; it is relative to the largest value.
    """
    net = Searched({'path': path, 'cell': cell}, 4, supernet.start).eval()
    share(supernet, net, path, cell)
    for edge in silent:
        torch.nn.init.zeros_(net.layers[0].edges[str(edge)][1].weight)
    alpha, beta = torch.zeros(9, 4), torch.zeros(len(path), 4, 3)
    for edge, operation in cell:
        alpha[edge, operation] = 1
    for step in ways(path, supernet.start):
        beta[step] = 1
    x = picture(supernet.start)
    with torch.no_grad():
        mixed, wanted = supernet.mix(x, alpha, beta), net(x)
    assert wanted.std() > 0.01
    return ((mixed - wanted).abs().max() / wanted.abs().max()).item()


def quiet_head(supernet):
    """Nothing from the levels that the path does not end at: the head makes zeros of zeros."""
    for block in supernet.head.halve:
        torch.nn.init.zeros_(block[1].running_mean)
        torch.nn.init.zeros_(block[1].bias)


@pytest.mark.parametrize('start', STARTS)
def test_one_way_left_is_the_decoded_network(start):
    supernet = make(start)
    quiet_head(supernet)
    assert all(difference(supernet, path, AHEAD) < 1e-5 for path in paths(start, 3))


@pytest.mark.parametrize('path', [[3, 3, 3], [2, 3, 2, 3], [0, 0, 0, 0], [1, 0, 1, 0]])
def test_one_way_left_with_memory(path):
    """A supernet remembers its own level, a decoded network what was two layers before.

    That is the same on these paths, except in the first layer, which is silenced here.
    """
    supernet = make(0 if 0 in path else 3, len(path))
    quiet_head(supernet)
    assert difference(supernet, path, BOTH, silent=(0, 2, 5)) < 1e-5


@pytest.mark.parametrize('start', STARTS)
def test_ways_add_up(start):
    """Each way to the last layer does its part.

    The head is linear where one level alone comes in, so outputs of single ways add up.
    """
    net = make(start, layers=1)
    quiet_head(net)
    alpha, beta = decode.normalise(net.alpha, net.beta, start)
    x, parts = picture(start), 0
    with torch.no_grad():
        for way in beta.nonzero().tolist():
            only = torch.zeros_like(beta)
            only[tuple(way)] = beta[tuple(way)]
            parts = parts + net.mix(x, alpha, only)
        assert torch.allclose(parts, net(x), atol=1e-5)


@pytest.mark.parametrize(
    'net, x, shape',
    [
        (AutoSR(16, 2), (2, 16, 2, 3), (2, 6, 16, 24)),
        (AutoSR(8, 1), (1, 8, 1, 1), (1, 3, 8, 8)),
        (AutoSR(8, 4), (1, 8, 5, 3), (1, 3, 40, 24)),
        (AutoPrior(4, 4), (2, 4, 16, 24), (2, 12, 16, 24)),
        (AutoPrior(2, 1), (1, 2, 8, 40), (1, 6, 8, 40)),
    ],
)
def test_shapes(net, x, shape):
    with torch.no_grad():
        assert net.eval()(torch.randn(x)).shape == shape


def test_sizes_without_whole_levels_are_refused():
    with pytest.raises(ValueError, match='12x16: the sides must be multiples of 8'):
        AutoPrior(2, 1)(torch.rand(1, 2, 12, 16))


@pytest.mark.parametrize('start', STARTS)
def test_everything_learns(start):
    """Also every weight of a way that exists, and none of another."""
    torch.manual_seed(0)
    net = Supernet(4, start, layers=4)
    net(picture(start)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())
    assert net.alpha.grad.all()
    exists = torch.zeros(4, 4, 3, dtype=torch.bool)
    for path in paths(start, 4):
        for step in ways(path, start):
            exists[step] = True
    assert torch.equal(net.beta.grad != 0, exists)


@pytest.mark.parametrize('start', STARTS)
def test_channels_last_all_the_way(start):
    net, x, seen = make(start).to(memory_format=torch.channels_last), picture(start), []
    with torch.no_grad():
        plain = net(x)
        for module in net.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.register_forward_pre_hook(
                    lambda module, args: seen.append(
                        args[0].is_contiguous(memory_format=torch.channels_last)
                    )
                )
        out = net(x.contiguous(memory_format=torch.channels_last))
    assert seen and all(seen) and torch.allclose(out, plain, atol=1e-4 * plain.abs().max().item())


@pytest.mark.parametrize('start', STARTS)
def test_bfloat16_is_close(start):
    """Largest error over largest value: 0.0074 .. 0.0165 measured over five seeds of both.

    Twice that is allowed.
    """
    net, x = make(start), picture(start)
    with torch.no_grad():
        full = net(x)
        with torch.autocast('cpu', torch.bfloat16):
            half = net(x)
    assert half.dtype == torch.bfloat16
    error = (half - full).abs().max() / full.abs().max()
    assert 0 < error < 0.033, error.item()


# ---- decoding ----


def test_edges():
    assert decode.EDGES == ((0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2), (2, 3))


@pytest.mark.parametrize('start', STARTS)
def test_weights_sum_to_one(start):
    torch.manual_seed(0)
    alpha, beta = decode.normalise(torch.randn(9, 4).double(), torch.randn(5, 4, 3).double(), start)
    assert torch.allclose(alpha.sum(1), torch.ones(9).double())
    assert beta[:, 0, 0].eq(0).all() and beta[:, 3, 2].eq(0).all()
    for layer in range(5):
        for source in range(4):
            total = 0 if abs(source - start) > layer else 2 / 3 if source in (0, 3) else 1
            assert beta[layer, source].sum().item() == pytest.approx(total)


def test_normalised_in_closed_form():
    beta = torch.tensor(
        [
            [[9.0, 0, math.log(3)], [0, 0, 0], [9, 9, 9], [9, 9, 9]],
            [[0, 0, 0], [0, math.log(2), 0], [9, 9, 9], [9, 9, 9]],
        ]
    )
    beta = decode.normalise(torch.zeros(9, 4), beta, 0)[1]
    expected = torch.tensor(
        [
            [[0, 1 / 6, 1 / 2], [0, 0, 0], [0, 0, 0], [0, 0, 0]],
            [[0, 1 / 3, 1 / 3], [1 / 4, 1 / 2, 1 / 4], [0, 0, 0], [0, 0, 0]],
        ]
    )
    assert torch.allclose(beta, expected)


@pytest.mark.parametrize('start', range(4))
@pytest.mark.parametrize('layers', [1, 2, 6])
def test_viterbi_by_brute_force(start, layers):
    for seed in range(5):
        beta = torch.randn(layers, 4, 3, generator=torch.Generator().manual_seed(seed)).double() * 2
        beta = decode.normalise(torch.zeros(9, 4), beta, start)[1]
        best = max(
            paths(start, layers),
            key=lambda path: math.prod(beta[step].item() for step in ways(path, start)),
        )
        assert decode.viterbi(beta, start) == best


def compared(start, layers, seed):
    """(raw, normalised) ways and ends that compare what arrives."""
    draw = torch.Generator().manual_seed(seed)
    beta = 2 * torch.randn(layers, 4, 3, generator=draw, dtype=torch.float64)
    ends = 2 * torch.randn(4, generator=draw, dtype=torch.float64)
    return (beta, ends), decode.arriving(beta, ends, start)


@pytest.mark.parametrize('start', range(4))
@pytest.mark.parametrize('layers', [1, 2, 5])
def test_weights_of_what_arrives_by_brute_force(start, layers):
    """Of every path there is a chance, and they sum to 1; the likeliest is taken."""
    for seed in range(3):
        (raw, raw_ends), (beta, ends) = compared(start, layers, seed)
        chances = {}
        for path in paths(start, layers):
            chance = ends[path[-1]].item()
            for layer, source, way in ways(path, start):
                level = source + way - 1
                # Against all other ways into that level.
                sources = [s for s in range(4) if abs(s - level) <= 1 and abs(s - start) <= layer]
                into = [math.exp(raw[layer, s, level - s + 1].item()) for s in sources]
                own = math.exp(raw[layer, source, way].item()) / sum(into)
                assert beta[layer, source, way].item() == pytest.approx(own)
                chance *= own
            chances[tuple(path)] = chance
        assert sum(chances.values()) == pytest.approx(1)
        best = max(chances, key=chances.__getitem__)
        assert decode.viterbi(beta, start, ends) == list(best)
        found = decode.decode(torch.zeros(9, 4), raw, start, raw_ends)
        assert found['path'] == list(best)
        entropy = -sum(c * math.log(c) for c in chances.values()) / math.log(len(chances))
        assert decode.entropy(beta, ends, start) == pytest.approx(entropy)


@pytest.mark.parametrize('start', STARTS)
def test_no_way_that_arrives_is_without_a_gradient(start):
    """As published, the first layer's ways have none but rounding: each of its maps comes from one
    source, and is normalised. Compared as they arrive, every true choice learns."""
    rates = {}
    for arriving in False, True:
        torch.manual_seed(0)
        net = Supernet(4, start, layers=4, arriving=arriving)
        net(picture(start)).square().mean().backward()
        rates[arriving] = net.beta.grad.abs().amax((1, 2))
        if arriving:
            assert (net.ends.grad.abs() > 0).all()
            several = torch.zeros(4, 4, 3, dtype=torch.bool)
            for layer, source, way in itertools.product(range(4), range(4), range(3)):
                level = source + way - 1
                reached = abs(source - start) <= layer and 0 <= level < 4
                others = [s for s in range(4) if abs(s - level) <= 1 and abs(s - start) <= layer]
                several[layer, source, way] = reached and len(others) > 1
            assert torch.equal(net.beta.grad.abs() > 1e-9, several)
    assert rates[False][0] < 1e-2 * rates[False][1:].min()


def test_the_ends_weigh_the_result():
    net = make(0, layers=2)
    whole = Supernet(4, 0, 2, arriving=True).eval()
    whole.load_state_dict(net.state_dict() | {'ends': torch.zeros(4)})
    x = picture(0)
    with torch.no_grad():
        alpha, beta, ends = whole.weights()
        assert ends.tolist() == pytest.approx([1 / 3] * 3 + [0])
        parts = [whole.mix(x, alpha, beta, torch.eye(4)[level]) for level in range(3)]
        assert torch.allclose(whole(x), sum(parts) / 3, atol=1e-5)
        assert torch.allclose(whole.mix(x, alpha, beta), sum(parts), atol=1e-5)


def test_edges_by_brute_force():
    """Of all pairs of edges into a node, the one with the greatest sum of strengths."""
    for seed in range(20):
        raw = torch.randn(9, 4, generator=torch.Generator().manual_seed(seed))
        rows, alpha = decode.strongest_edges(raw), raw.softmax(1)
        for node, edges in enumerate(((0, 1), (2, 3, 4), (5, 6, 7, 8))):
            best = max(
                itertools.combinations(edges, 2),
                key=lambda pair: sum(alpha[edge, 1:].max().item() for edge in pair),
            )
            assert rows[2 * node : 2 * node + 2] == [
                [edge, int(alpha[edge].argmax())] for edge in best
            ]


def test_what_is_decided_is_decoded_as_well():
    """Where every weight rounds to 0 or 1, edges are kept in the order of their strengths."""
    gaps = [3.0, 1.0, 0.5, 2.5, 0.7, 0.9, 2.0, 1.5, 0.2]
    alpha = torch.zeros(9, 4, dtype=torch.float64)
    alpha[:, 1] = torch.tensor(gaps)
    kept = [[0, 1], [1, 1], [3, 1], [4, 1], [6, 1], [7, 1]]
    for temperature in 1, 0.1, 0.01:
        found = decode.decode(alpha / temperature, torch.zeros(2, 4, 3), 0)
        assert found['cell'] == kept


@pytest.mark.parametrize('name', PAPER)
def test_published_architectures_are_decoded(name):
    architecture, start = PAPER[name], 3 if name == 'sr' else 0
    alpha, beta = torch.zeros(9, 4), torch.zeros(6, 4, 3)
    for edge, operation in architecture['cell']:
        alpha[edge, 1] = 2.9  # strong enough to be kept also where it is to skip
        alpha[edge, operation] = 3
    for step in ways(architecture['path'], start):
        beta[step] = 3
    assert decode.decode(alpha, beta, start) == architecture


@pytest.mark.parametrize('start', STARTS)
def test_a_decoded_network_can_be_made(start):
    net = make(start, layers=5)
    torch.nn.init.normal_(net.alpha)
    torch.nn.init.normal_(net.beta)
    architecture = json.loads(json.dumps(net.architecture()))
    assert architecture == net.architecture() and len(architecture['cell']) == 6
    x = picture(start)
    with torch.no_grad():
        assert Searched(architecture, 4, start).eval()(x).shape == net(x).shape


@pytest.mark.parametrize(
    'path, cell, message',
    [
        ([], BOTH, 'at least one layer'),
        ([1], BOTH, 'at most one from'),
        ([3, 1], BOTH, 'at most one from'),
        ([3, 4], BOTH, 'within 0..3'),
        ([3], BOTH[1:] + [[1, 2]], 'at most once'),
        ([3], BOTH + [[8, 4]], 'operations 0..3'),
        ([3], BOTH + [[9, 0]], 'edges 0..8'),
        ([3], BOTH[:4], 'no edge leads to'),
    ],
)
def test_wrong_architectures(path, cell, message):
    with pytest.raises(ValueError, match=message):
        Searched({'path': path, 'cell': cell}, start=3)


def test_half_an_architecture_is_refused():
    with pytest.raises(ValueError, match='an architecture is {"path"'):
        Searched({'path': [3]}, start=3)
