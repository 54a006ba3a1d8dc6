"""FRSNet and MFPSNet: counts of every part of the published networks, and what parts compute."""

import pytest
import torch
import torch.nn.functional as F

import models
from models.frsnet import FRSNet
from models.mfpsnet import PRIORS, MFPSNet
from models.searched import PAPER, Cell, Searched, resize


def counts(net):
    return {name: models.count(part) for name, part in net.named_children()}


def test_published_frsnet():
    net = FRSNet(scale=1, spare=True)
    assert counts(net) == dict(
        conv_first=110_656,
        rdb_first=719_424,
        sr=331_024,
        redistill1=786_944,
        redistill2=32_832,
        rdb_last=719_424,
        conv_after=36_928,
        up=3 * 36_928,
        conv_hr=36_928,
        conv_last=1_731,
    )
    assert models.count(net) == 2_886_675


def test_enlarging_frsnet():
    assert models.count(FRSNet(scale=4, spare=True)) == 2_886_675 + 73_856
    assert models.count(FRSNet()) == 2_937_155 and models.count(FRSNet(scale=1)) == 2_863_299


def test_published_mfpsnet():
    net = MFPSNet(spare=True)
    parts = counts(net)
    assert models.count(net) == 18_356_043
    assert parts.pop('spare') == 28_850 + 17_138 + 8_232 and sum(parts.values()) == 18_301_823
    assert parts == dict(
        base=2_886_675,
        enter=1_592 + 5_336 + 401_070 + 141_030 + 6_488,
        features=276_272 + 140_528 + 150_752,
        narrow=1_736,
        fusion=14_217_696,
        fuse1=62_256,
        fuse2=10_392,
    )
    assert counts(net.features) == dict(parse=276_272, heat=140_528, dict=150_752)
    assert [models.count(part) for part in net.enter['dict'] if models.count(part)] == [
        401_070,
        141_030,
        6_488,
    ]
    assert models.count(MFPSNet()) == 17_538_367


def scrambled(net, seed=0):
    """In eval mode, every normalisation with weights and statistics of its own."""
    torch.manual_seed(seed)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for values, low, high in (
                (module.running_mean, -0.2, 0.2),
                (module.bias, -0.2, 0.2),
                (module.running_var, 1, 2),
                (module.weight, 0.8, 1.2),
            ):
                torch.nn.init.uniform_(values, low, high)
    return net.eval()


# ---- the decoded module ----


def test_published_cell_written_out():
    torch.manual_seed(0)
    cell = scrambled(Cell(PAPER['sr']['cell'], 6, 18, 36)).double()
    before, last = torch.randn(2, 18, 8, 12).double(), torch.randn(2, 36, 4, 6).double()
    e = cell.edges
    a = cell.remember(F.interpolate(before, (16, 24), mode='bilinear', align_corners=True))
    b = cell.enter(F.interpolate(last, (16, 24), mode='bilinear', align_corners=True))
    first, second = a + b, e['2'](a) + b
    third = e['7'](first) + e['8'](second)
    assert torch.allclose(cell(before, last, (16, 24)), torch.cat([first, second, third], 1))
    assert [e[n][0].kernel_size[0] for n in '278'] == [5, 3, 7]


def test_resize_keeps_corners():
    x = torch.rand(1, 2, 4, 6)
    y = resize(x, (8, 12))
    assert torch.allclose(y[..., ::7, ::11], x[..., ::3, ::5]) and resize(x, (4, 6)) is x


@pytest.mark.parametrize('name', PAPER)
def test_published_modules_keep_or_enlarge(name):
    start, width = (3, 1) if name == 'sr' else (0, 2)
    net = scrambled(Searched(PAPER[name], width, start))
    with torch.no_grad():
        assert net(torch.randn(1, width << start, 16 >> start, 24 >> start)).shape == (
            1,
            3 * width,
            16,
            24,
        )


def test_weights_of_another_architecture_are_refused():
    """Nothing but the edges that skip tells them apart."""
    cell = [[0, 1], [1, 0], [2, 1], [3, 0], [5, 1]]
    one, other = ({'path': [3, 2], 'cell': [*cell, [edge, 0]]} for edge in (6, 7))
    one, other = Searched(one, 2, 3), Searched(other, 2, 3)
    assert {k: v.shape for k, v in one.state_dict().items()} == {
        k: v.shape for k, v in other.state_dict().items()
    }
    one.load_state_dict(one.state_dict())
    with pytest.raises(ValueError, match='the weights belong to path'):
        other.load_state_dict(one.state_dict())


# ---- FRSNet ----


@pytest.mark.parametrize('scale', [1, 2, 4])
@pytest.mark.parametrize('size', [(16, 24), (17, 5), (1, 1)])
def test_shapes(scale, size):
    net = scrambled(FRSNet(width=16, growth=4, scale=scale))
    with torch.no_grad():
        y = net(torch.rand(1, 3, *size))
    assert (
        y.shape == (1, 3, scale * size[0], scale * size[1])
        and y.dtype == torch.float32
        and y.isfinite().all()
    )


def test_128_becomes_512():
    with torch.no_grad():
        assert FRSNet(width=16, growth=4).eval()(torch.rand(1, 3, 128, 128)).shape == (
            1,
            3,
            512,
            512,
        )


def test_without_its_module_the_trunk_is_left():
    net, x = scrambled(FRSNet(width=16, growth=4, scale=1)), torch.rand(2, 3, 16, 24)
    torch.nn.init.zeros_(net.redistill2.weight)
    torch.nn.init.zeros_(net.redistill2.bias)
    y = net.conv_first(F.pixel_unshuffle(x, 8))
    y = y + net.conv_after(net.rdb_last(net.rdb_first(y)))
    for conv in (*net.up, net.conv_hr):
        y = y if conv is net.conv_hr else y.repeat_interleave(2, 2).repeat_interleave(2, 3)
        y = conv(y)
        y = torch.where(y > 0, y, 0.2 * y)
    assert len(net.up) == 3 and torch.allclose(net(x), net.conv_last(y), atol=1e-5)


def test_the_module_of_a_search_fits_in():
    """FRSNet is searched with the supernet in the place of its enlarging module."""
    torch.manual_seed(0)
    net = FRSNet(width=16, growth=4, scale=1)
    net.sr = models.AutoSR(16, layers=2)
    net(torch.rand(2, 3, 16, 24)).square().mean().backward()
    assert net.sr.alpha.grad.all() and all(p.grad is not None for p in net.parameters())


def test_training_at_two_pictures():
    """Also in training mode every weight learns."""
    torch.manual_seed(0)
    net = FRSNet()
    net(torch.rand(2, 3, 32, 32)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


# ---- MFPSNet ----

SOME = {'heat': 5, 'dict': 7, 'parse': 3}


def priors(channels, size=(16, 16), n=1, seed=2):
    draw = torch.Generator().manual_seed(seed)
    return {name: torch.rand(n, c, *size, generator=draw) for name, c in channels.items()}


@pytest.mark.parametrize('scale, size', [(1, (16, 24)), (1, (9, 17)), (4, (16, 8))])
def test_both_passes(scale, size):
    net = scrambled(MFPSNet(scale=scale))
    with torch.no_grad():
        outputs = net(torch.rand(1, 3, *size), priors(PRIORS, size))
    assert [y.shape for y in outputs] == [(1, 3, scale * size[0], scale * size[1])] * 2
    assert all(
        y.dtype == torch.float32 and y.isfinite().all() for y in outputs
    ) and not torch.allclose(*outputs)


def test_the_first_pass_is_frsnet():
    net, x = scrambled(MFPSNet(priors=SOME)), torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        first, second = net(x, priors(SOME))
        assert torch.equal(first, net.base(x))
        again, other = net(x, priors(SOME, seed=3))
    assert torch.equal(again, first) and not torch.allclose(other, second, atol=1e-6)


@pytest.mark.parametrize('left', [('heat', 'dict'), ('parse',), ()])
def test_the_first_pass_is_the_same_whatever_priors_are_dropped(left):
    x, first = torch.rand(1, 3, 16, 16), []
    for names in (SOME, left):
        torch.manual_seed(0)
        net = MFPSNet(priors={name: SOME[name] for name in names})
        with torch.no_grad():
            first.append(net.eval()(x, priors({name: SOME[name] for name in names}))[0])
    assert torch.equal(*first) and models.count(net.fusion) < 14_217_696


def test_the_second_pass_written_out():
    """It takes the first one's result, alone and together with the maps.

    Every prior's features pass the same convolution.
    """
    net, x, maps = scrambled(MFPSNet(priors=SOME)), torch.rand(1, 3, 16, 16), priors(SOME)
    with torch.no_grad():
        first, second = net(x, maps)
        shallow = net.base.conv_first(F.pixel_unshuffle(first, 8))
        deep = net.base.rdb_first(shallow)
        features = [net.base.sr(deep)]
        for name in ('heat', 'dict', 'parse'):
            entered = net.enter[name](
                maps[name] if name == 'dict' else torch.cat([first, maps[name]], 1)
            )
            features.append(net.narrow(net.features[name](entered)))
        mixed = net.fuse2(net.fuse1(net.fusion(torch.cat(features, 1))))
        assert torch.allclose(second, net.base.write(mixed, shallow, deep), atol=1e-6)


def test_a_closed_second_pass_is_the_first():
    """Until it opens, and then it is what was fused, weighted, on top of the same features."""
    torch.manual_seed(0)
    net = MFPSNet(priors=SOME, closed=True)
    x, maps = torch.rand(2, 3, 16, 16), priors(SOME, n=2)
    first, second = net(x, maps)
    assert torch.equal(first, second)
    # Shut as it is, it learns to open.
    second.square().mean().backward()
    assert net.opening.grad.abs().sum() > 0 and not net.fuse2.weight.grad.abs().sum()

    scrambled(net)
    with torch.no_grad():
        net.opening.uniform_(1, 2)
        first, second = net(x, maps)
        shallow, deep = net.base.read(x)
        own = net.base.sr(deep)
        fused, _ = net._fuse(own, first, maps)
        opened = net.base.write(own + net.opening * fused, shallow, deep)
    assert torch.allclose(second, opened, atol=1e-6) and not torch.allclose(first, second)


def test_wrong_priors_are_refused():
    net = MFPSNet(priors=SOME)
    for wrong in ({'heat': 5, 'dict': 7}, {**SOME, 'parse': 4}):
        with pytest.raises(ValueError, match='made for the priors'):
            net(torch.rand(1, 3, 16, 16), priors(wrong))


def test_every_weight_of_mfpsnet_learns():
    torch.manual_seed(0)
    net = MFPSNet(priors=SOME)
    sum(
        y.square().mean() for y in net(torch.rand(2, 3, 32, 32), priors(SOME, (32, 32), 2))
    ).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_mfpsnet_in_bfloat16_and_channels_last():
    """Largest error over largest detail: 0.014 .. 0.020 over two seeds; twice that is allowed."""
    net, x, maps = scrambled(MFPSNet(priors=SOME)), torch.rand(1, 3, 16, 16), priors(SOME)
    with torch.no_grad():
        plain = net(x, maps)
        with torch.autocast('cpu', torch.bfloat16):
            half = net(x, maps)
        net, x, maps = (
            thing.to(memory_format=torch.channels_last) for thing in (net, x, maps['dict'])
        )
        last = net(x, {**priors(SOME), 'dict': maps})
    for a, b, c in zip(plain, half, last, strict=True):
        detail = (a - a.mean((2, 3), keepdim=True)).abs().max()
        assert (
            b.dtype == torch.float32
            and 0 < (a - b).abs().max() < 0.04 * detail
            and torch.allclose(a, c, atol=1e-4)
        )
