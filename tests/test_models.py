"""Networks: exact parameter counts and names, any input size, and what they compute where that is known in closed form."""
import pytest
import torch
import torch.nn.functional as F

import models
from models.srresnet import SRResNet
from models.unet import UNet

SMALL = {'srresnet': dict(blocks=2, width=16), 'unet': dict(width=(8, 12, 16), blocks=((1, 1), 1, (1, 1)), position=4)}


def make(name, seed=0):
    """A small network whose tail is not zero, so that every weight matters."""
    torch.manual_seed(seed)
    net = models.NETWORKS[name](**SMALL[name])
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn_like(p), alpha=0.02)
    return net


def bilinear(x, scale=4):
    return F.interpolate(x, scale_factor=scale, mode='bilinear', align_corners=False)


@pytest.mark.parametrize('blocks, params', [(16, 1_517_571), (20, 1_812_995), (24, 2_108_419), (26, 2_256_131)])
def test_srresnet_count(blocks, params):
    assert models.count(SRResNet(blocks)) == params == 335_875 + 73_856 * blocks
    assert models.enforce_param_budget(SRResNet(blocks)) == params


def test_unet_count():
    assert models.count(UNet()) == 1_946_448


def test_budget_is_strict():
    net = torch.nn.Linear(9, 1)                    # 10 parameters
    assert models.enforce_param_budget(net, 11) == 10
    with pytest.raises(ValueError, match='10 parameters, 1 too many: fewer than 10'):
        models.enforce_param_budget(net, 10)
    with pytest.raises(ValueError, match='2,329,987'):
        models.enforce_param_budget(SRResNet(27))


def test_srresnet_has_basicsr_names():
    body = [f'body.{n}.conv{i}' for n in range(16) for i in (1, 2)]
    convs = ['conv_first', *body, 'upconv1', 'upconv2', 'conv_hr', 'conv_last']
    expected = [f'{conv}.{part}' for conv in convs for part in ('weight', 'bias')]
    weights = SRResNet().state_dict()
    assert list(weights) == expected
    assert weights['upconv1.weight'].shape == (256, 64, 3, 3) and weights['conv_last.weight'].shape == (3, 64, 3, 3)


@pytest.mark.parametrize('net, factor, names', [
    (SRResNet(4), 0.1, ['conv_first', 'body.3.conv1', 'body.3.conv2', 'upconv1', 'upconv2', 'conv_hr']),
    (UNet(), 0.5, ['encoder.1.2.conv1', 'encoder.1.2.conv2', 'middle.1.conv2', 'decoder.0.0.conv1'])])
def test_kaiming_init(net, factor, names):
    for name in names:
        conv = net.get_submodule(name)
        expected = factor * (2 / (9 * conv.in_channels)) ** 0.5
        assert conv.weight.std().item() == pytest.approx(expected, rel=0.05), name
        assert not conv.bias.any()


def test_unet_tail_and_position_init():
    torch.manual_seed(0)
    net = UNet()
    assert net.tail.weight.std().item() == pytest.approx(0.01, rel=0.05) and not net.tail.bias.any()
    assert net.position.shape == (1, 128, 16, 16) and not net.position.any()
    assert all(up.bias is None for up in net.up)
    x = torch.rand(1, 3, 64, 64)
    assert (net(x) - bilinear(x)).square().mean().sqrt() < 0.1           # a run starts near bilinear enlargement


@pytest.mark.parametrize('scale', [2, 3, 4])
def test_srresnet_closed_form(scale):
    """With identity kernels all the way the network is: nearest enlargement + bilinear enlargement."""
    net = SRResNet(2, 16, scale)
    with torch.no_grad():
        for conv in (m for m in net.modules() if isinstance(m, torch.nn.Conv2d)):
            conv.weight.zero_()
        for c in range(3):
            net.conv_first.weight[c, c, 1, 1] = net.conv_hr.weight[c, c, 1, 1] = net.conv_last.weight[c, c, 1, 1] = 1
            for conv in (net.upconv1, getattr(net, 'upconv2', None)):
                if conv is not None:
                    r2 = conv.out_channels // conv.in_channels
                    conv.weight[c * r2:(c + 1) * r2, c, 1, 1] = 1        # one value for all pixels that the shuffle makes of it
    x = torch.rand(1, 3, 9, 7)
    expected = F.interpolate(x, scale_factor=scale, mode='nearest') + bilinear(x, scale)
    assert torch.allclose(net(x), expected, atol=1e-6)


@pytest.mark.parametrize('name', models.NETWORKS)
@pytest.mark.parametrize('size', [(8, 8), (63, 17), (5, 17), (16, 40), (1, 1)])
def test_shapes(name, size):
    x = torch.rand(1, 3, *size)
    with torch.no_grad():
        y = make(name)(x)
    assert y.shape == (1, 3, 4 * size[0], 4 * size[1]) and y.dtype == torch.float32 and y.isfinite().all()


@pytest.mark.parametrize('name, tail', [('srresnet', 'conv_last'), ('unet', 'tail')])
@pytest.mark.parametrize('size', [(16, 16), (63, 17)])
def test_zero_tail_is_bilinear(name, tail, size):
    net = make(name)
    torch.nn.init.zeros_(net.get_submodule(tail).weight)
    torch.nn.init.zeros_(net.get_submodule(tail).bias)
    x = torch.rand(2, 3, *size)
    assert torch.equal(net(x), bilinear(x))
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(net(x), bilinear(x))    # the image never passes through bfloat16


def test_unet_pads_by_replication():
    """What lies right of and below the picture is its last column and row, repeated."""
    net, x = make('unet'), torch.rand(1, 3, 14, 9)
    padded = torch.cat([x, x[..., -1:].expand(-1, -1, -1, 3)], 3)
    padded = torch.cat([padded, padded[:, :, -1:].expand(-1, -1, 2, -1)], 2)
    out = net(padded)[..., :56, :36]
    assert torch.allclose(net(x), out, atol=1e-6)


def test_position_matters_only_when_non_zero():
    net = make('unet')
    other = UNet(**{**SMALL['unet'], 'position': 7})
    other.load_state_dict({k: v for k, v in net.state_dict().items() if k != 'position'}, strict=False)
    x = torch.rand(1, 3, 16, 16)
    assert net.position.any() and not torch.allclose(net(x), other(x), atol=1e-4)
    torch.nn.init.zeros_(net.position)
    assert torch.equal(net(x), other(x))


def test_position_follows_the_frame():
    """At a size of its own the embedding is added as it is; elsewhere it is enlarged, so a constant one stays constant."""
    net, seen = make('unet'), {}
    net.middle.register_forward_pre_hook(lambda module, args: seen.update(y=args[0]))

    def added(x):
        net(x)
        with_position = seen['y']
        kept = net.position.data.clone()
        net.position.data.zero_()
        net(x)
        net.position.data.copy_(kept)
        return with_position - seen['y']

    x = torch.rand(1, 3, 16, 16)
    assert torch.allclose(added(x), net.position, atol=1e-6)
    x = torch.rand(1, 3, 32, 40)
    assert torch.allclose(added(x), F.interpolate(net.position, (8, 10), mode='bilinear', align_corners=False), atol=1e-6)


@pytest.mark.parametrize('name', models.NETWORKS)
def test_bfloat16_is_close(name):
    """Largest error over largest detail: 0.0041 .. 0.0072 measured over four seeds of both networks; twice that is allowed."""
    net, x = make(name), torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        full = net(x)
        with torch.autocast('cpu', torch.bfloat16):
            half = net(x)
    error = (half - full).abs().max() / (full - bilinear(x)).abs().max()
    assert half.dtype == torch.float32 and 0 < error < 0.0145, error.item()


@pytest.mark.parametrize('name', models.NETWORKS)
def test_channels_last_all_the_way(name):
    net = make(name).to(memory_format=torch.channels_last)
    x = torch.rand(2, 3, 16, 16)
    plain = net(x)
    strides = []

    def look(module, args):
        strides.append(args[0].is_contiguous(memory_format=torch.channels_last))
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d) and module.in_channels > 3:
            module.register_forward_pre_hook(look)
    out = net(x.contiguous(memory_format=torch.channels_last))
    assert strides and all(strides)
    assert torch.allclose(out, plain, atol=1e-5)


@pytest.mark.parametrize('name', models.NETWORKS)
def test_every_parameter_learns(name):
    net = make(name)
    net(torch.rand(2, 3, 16, 24)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


@pytest.mark.parametrize('make_net', [lambda: SRResNet(scale=5), lambda: UNet(width=(8, 16), blocks=((1, 1), 1, (1, 1)))])
def test_wrong_arguments(make_net):
    with pytest.raises(ValueError):
        make_net()
