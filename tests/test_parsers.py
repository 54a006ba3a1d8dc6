"""Parsers: exact parameter counts, any input size, heads for training, weights from elsewhere."""

import importlib.util
import os
import sys
import types
from functools import partial

import pytest
import torch
import torch.nn.functional as F

import models
from models.bisenet import BiSeNet
from models.parse_unet import ParseUNet

LEVELS = dict(width=(8, 12, 16), blocks=(1, 1, 2))
SMALL = {
    'parse_unet': partial(ParseUNet, **LEVELS),
    'parse_unet-2': partial(ParseUNet, **LEVELS, stride=2),
    'parse_unet-position': partial(ParseUNet, **LEVELS, position=4),
    'bisenet': partial(BiSeNet, 8),
}


def make(case, seed=0, **options):
    torch.manual_seed(seed)
    net = SMALL[case](**options)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn_like(p), alpha=0.02)
    return net


def test_every_parser_is_tested():
    assert {type(make(case)) for case in SMALL} == set(models.PARSERS.values())


@pytest.mark.parametrize(
    'net, params',
    [
        (partial(ParseUNet), 1_672_707),
        (partial(ParseUNet, width=(16, 32, 64, 96, 128)), 1_517_875),
        (partial(ParseUNet, stride=2), 1_672_707),
        (partial(ParseUNet, width=(32, 64, 128, 192, 256), blocks=(1, 2, 2, 2, 2)), 6_135_123),
        (partial(ParseUNet, aux=True), 1_672_707 + 19 * (128 + 1 + 96 + 1)),
        (partial(ParseUNet, position=32), 1_672_707 + 128 * 32**2),
        (partial(BiSeNet), 13_150_272),
        (partial(BiSeNet, aux=True), 13_300_416),
        (partial(BiSeNet, width=24, aux=True), 1_877_256),
        (partial(BiSeNet, width=20, aux=True), 1_305_180),
        (lambda: BiSeNet().trunk, 11_176_512),
    ],
)
def test_counts(net, params):
    assert models.count(net()) == params


@pytest.mark.parametrize('size', [(63, 17), (5, 40), (1, 1)])
@pytest.mark.parametrize('case', SMALL)
def test_shapes(case, size):
    check_shape(make(case, aux=True).eval(), size)


@pytest.mark.parametrize('net', models.PARSERS.values())
def test_shapes_at_full_size(net):
    check_shape(net().eval(), (512, 512))


def check_shape(net, size):
    with torch.no_grad():
        y = net(torch.rand(1, 3, *size))
    assert y.shape == (1, 19, *size) and y.dtype == torch.float32 and y.isfinite().all()


@pytest.mark.parametrize('case', SMALL)
def test_aux_heads_only_train(case):
    plain, aux, x = make(case), make(case, aux=True), torch.rand(2, 3, 33, 20)
    assert not plain.load_state_dict(aux.state_dict(), strict=False).missing_keys
    outputs = aux(x)
    assert (
        isinstance(outputs, tuple)
        and [y.shape[2:] for y in outputs] == [(33, 20), (9, 5), (9, 5)]
        and all(y.dtype == torch.float32 for y in outputs)
    )
    assert torch.equal(plain(x), outputs[0])
    assert torch.equal(plain.eval()(x), aux.eval()(x))


@pytest.mark.parametrize('case', SMALL)
def test_every_parameter_learns(case):
    net = make(case, aux=True)
    sum(y.square().mean() for y in net(torch.rand(2, 3, 32, 40))).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


@pytest.mark.parametrize('case', SMALL)
def test_channels_last_all_the_way(case):
    net, x, strides = make(case).eval(), torch.rand(2, 3, 64, 64), []
    with torch.no_grad():
        plain = net(x)
        net.to(memory_format=torch.channels_last)
        for module in net.modules():
            if isinstance(module, torch.nn.Conv2d) and module.in_channels > 3:
                module.register_forward_pre_hook(
                    lambda module, args: strides.append(
                        args[0].shape[-1] == 1
                        or args[0].is_contiguous(memory_format=torch.channels_last)
                    )
                )
        out = net(x.contiguous(memory_format=torch.channels_last))
    assert strides and all(strides) and out.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(out, plain, atol=1e-4)


@pytest.mark.parametrize('case', SMALL)
def test_bfloat16_is_close(case):
    """Largest error over largest logit: 0.008 .. 0.025 measured over five seeds of all.

    Twice that is allowed.
    """
    net, x, kinds = (
        make(case).eval(),
        torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)),
        set(),
    )
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda module, args, out: kinds.add(out.dtype))
    with torch.no_grad():
        full = net(x)
        kinds.clear()
        with torch.autocast('cpu', torch.bfloat16):
            half = net(x)
    error = (half - full).abs().max() / full.abs().max()
    assert kinds == {torch.bfloat16} and half.dtype == torch.float32 and 0 < error < 0.051, (
        error.item()
    )


def test_parse_unet_pads_by_replication():
    """What lies right of and below the picture is its last column and row, repeated."""
    net, x = make('parse_unet-2').eval(), torch.rand(1, 3, 14, 9)
    padded = F.pad(x, (0, 7, 0, 2), mode='replicate')
    assert torch.allclose(net(x), net(padded)[..., :14, :9], atol=1e-6)


def test_position_is_nothing_at_first_and_follows_the_frame():
    """Zero at first; then it breaks the mirror symmetry of a network without it.

    At its own size it is added as it is, elsewhere enlarged.
    """
    net, plain, x = (
        ParseUNet(**LEVELS, position=4).eval(),
        ParseUNet(**LEVELS).eval(),
        torch.rand(1, 3, 16, 16),
    )
    plain.load_state_dict(net.state_dict(), strict=False)
    assert torch.equal(net(x), plain(x))
    torch.nn.init.normal_(net.position)
    seen = {}
    for name, module in (('with', net), ('without', plain)):
        module.decoder[0].register_forward_pre_hook(
            lambda module, args, name=name: seen.update({name: args[0][:, :16]})
        )
    for side, position in (
        (16, net.position),
        (40, F.interpolate(net.position, (10, 10), mode='bilinear')),
    ):
        x = torch.rand(1, 3, side, side)
        assert not torch.allclose(net(x), plain(x), atol=1e-4)
        added = F.interpolate(position, (side // 2, side // 2), mode='bilinear')
        assert torch.allclose(seen['with'] - seen['without'], added, atol=1e-5)


@pytest.mark.parametrize(
    'make_net',
    [
        lambda: ParseUNet(blocks=(1, 1)),
        lambda: ParseUNet(width=(8,), blocks=(1,)),
        lambda: ParseUNet(stride=4),
    ],
)
def test_wrong_arguments(make_net):
    with pytest.raises(ValueError, match='ParseUNet'):
        make_net()


@pytest.fixture(scope='module')
def outsider():
    """torchvision's ResNet-18, untrained, read without the rest of the package.

    Its compiled half may not fit the torch at hand.
    """
    package = importlib.util.find_spec('torchvision') or pytest.skip('needs torchvision')
    for name in ('torchvision', 'torchvision.models'):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [
            os.path.join(package.submodule_search_locations[0], *name.split('.')[1:])
        ]
    torch.manual_seed(1)
    yield importlib.import_module('torchvision.models.resnet').resnet18(weights=None).eval()
    for name in [n for n in sys.modules if n.split('.')[0] == 'torchvision']:
        del sys.modules[name]


def features(resnet, x):
    y = resnet.layer1(resnet.maxpool(resnet.relu(resnet.bn1(resnet.conv1(x)))))
    y8 = resnet.layer2(y)
    y16 = resnet.layer3(y8)
    return y8, y16, resnet.layer4(y16)


@pytest.mark.parametrize('suffix', ['pth', 'safetensors'])
def test_trunk_is_torchvisions(outsider, suffix, tmp_path):
    path, weights = tmp_path / f'resnet18.{suffix}', outsider.state_dict()
    if suffix == 'pth':  # as old files are
        torch.save({k: v for k, v in weights.items() if 'num_batches' not in k}, path)
    else:
        from safetensors.torch import save_file

        save_file(weights, path)
    net, x = BiSeNet().eval(), torch.rand(1, 3, 65, 70)
    net.load_trunk(path)
    with torch.no_grad():
        for ours, theirs in zip(net.trunk(x), features(outsider, x), strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_trunk_of_another_network_is_refused(outsider, tmp_path):
    torch.save(outsider.state_dict(), tmp_path / 'r.pth')
    with pytest.raises(ValueError, match='r.pth: not the weights of a ResNet-18 of width 24'):
        BiSeNet(24).load_trunk(tmp_path / 'r.pth')
    torch.save({'conv1.weight': torch.zeros(64, 3, 7, 7)}, tmp_path / 'one.pth')
    with pytest.raises(ValueError, match='99 tensors do not fit, as .*nothing there'):
        BiSeNet().load_trunk(tmp_path / 'one.pth')
    with pytest.raises(OSError):
        BiSeNet().load_trunk(tmp_path / 'absent.pth')
