"""Networks: exact parameter counts and names, any input size, and outputs known in closed form."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

import models
from models import face_unaf, rcan, rrdbnet, swinir
from models.face_unaf import FaceUNAF
from models.frsnet import FRSNet
from models.position import embedding
from models.rcan import RCAN
from models.rrdbnet import RRDBNet
from models.srresnet import SRResNet
from models.swinir import SwinIR
from models.unet import UNet

LEVELS = dict(width=(8, 12, 16), blocks=((1, 1), 1, (1, 2)), position=4)
SMALL = {
    'srresnet': partial(SRResNet, blocks=2, width=16),
    'unet': partial(UNet, **LEVELS),
    'unet-2': partial(UNet, **LEVELS, steps=2),
    'unet-3': partial(UNet, **LEVELS, attention=2),
    'face_unaf': partial(FaceUNAF, **LEVELS),
    'swinir': partial(SwinIR, width=12, depths=(2, 1), heads=2, window=4),
    'rcan': partial(RCAN, groups=2, blocks=2, width=16, reduction=4),
    'rcan-flat': partial(RCAN, groups=0, blocks=2, width=16, reduction=4),
    'rrdbnet': partial(RRDBNet, blocks=2, width=16, growth=7),
    'frsnet': partial(FRSNet, width=32, growth=8),
}
LAST = {
    'srresnet': 'conv_last',
    'unet': 'tail',
    'unet-2': 'tail',
    'unet-3': 'tail',
    'face_unaf': 'tail',
    'swinir': 'tail',
    'rcan': 'conv_last',
    'rcan-flat': 'conv_last',
}


def make(case, seed=0):
    """A small network in eval mode, where one pixel of one picture can be normalised, too.

    Its tail is not zero, so that every weight matters.
    """
    torch.manual_seed(seed)
    net = SMALL[case]()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn_like(p), alpha=0.02)
    return net.eval()


def test_every_network_is_tested():
    assert {type(make(case)) for case in SMALL} == set(models.NETWORKS.values())


def bilinear(x, scale=4):
    return F.interpolate(x, scale_factor=scale, mode='bilinear', align_corners=False)


@pytest.mark.parametrize(
    'blocks, params', [(16, 1_517_571), (20, 1_812_995), (24, 2_108_419), (26, 2_256_131)]
)
def test_srresnet_count(blocks, params):
    assert models.count(SRResNet(blocks)) == params == 335_875 + 73_856 * blocks
    assert models.enforce_param_budget(SRResNet(blocks)) == params


@pytest.mark.parametrize(
    'net, params',
    [
        (partial(UNet), 1_946_448),
        (partial(UNet, steps=2), 1_973_036),
        (partial(UNet, attention=4), 2_211_664),
        (partial(FaceUNAF), 2_224_787),
        (partial(FaceUNAF, blocks=((4, 6, 4), 4, (4, 5, 6))), 2_272_227),
        (partial(SwinIR), 2_251_758),
        (partial(SwinIR, width=90, depths=(6,) * 4), 2_018_118),
        (partial(RCAN), 2_270_051),
        (partial(RCAN, groups=0, blocks=20), 1_824_595),
    ],
)
def test_counts_within_the_budget(net, params):
    assert models.enforce_param_budget(net()) == params


@pytest.mark.parametrize(
    'net, params',
    [
        (partial(RRDBNet), 16_697_987),
        (partial(RRDBNet, 16, 16, 7), 636_947),
        (partial(SwinIR, width=96, depths=(6,) * 4), 2_287_008),
    ],
)
def test_other_counts(net, params):
    assert models.count(net()) == params


@pytest.mark.parametrize('width', [48, 80, 112, 128])
def test_naf_block_count(width):
    assert models.count(face_unaf.Block(width)) == 7 * width**2 + 33 * width


def test_budget_is_strict():
    net = torch.nn.Linear(9, 1)  # 10 parameters
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
    assert weights['upconv1.weight'].shape == (256, 64, 3, 3) and weights[
        'conv_last.weight'
    ].shape == (3, 64, 3, 3)


def test_rrdbnet_has_basicsr_names():
    body = [
        f'body.{n}.rdb{i}.conv{j}' for n in range(23) for i in (1, 2, 3) for j in (1, 2, 3, 4, 5)
    ]
    convs = ['conv_first', *body, 'conv_body', 'conv_up1', 'conv_up2', 'conv_hr', 'conv_last']
    weights = RRDBNet().state_dict()
    assert list(weights) == [f'{conv}.{part}' for conv in convs for part in ('weight', 'bias')]
    assert weights['body.22.rdb3.conv4.weight'].shape == (32, 160, 3, 3) and weights[
        'body.0.rdb1.conv5.weight'
    ].shape == (64, 192, 3, 3)


def test_unet_keeps_its_names():
    """Weights of earlier versions load into the default."""
    blocks = [f'encoder.{n}.{i}' for n, count in enumerate((1, 3, 2)) for i in range(count)]
    after = (
        ['middle.0', 'middle.1'],
        [f'decoder.{n}.{i}' for n, count in enumerate((2, 3, 1)) for i in range(count)],
    )
    convs = (
        [f'{block}.conv{i}' for block in blocks for i in (1, 2)],
        [f'{block}.conv{i}' for part in after for block in part for i in (1, 2)],
    )
    named = {
        f'{conv}.{part}'
        for conv in ('stem', *convs[0], *convs[1], 'down.0', 'down.1', 'down.2', 'tail')
        for part in ('weight', 'bias')
    }
    assert set(UNet().state_dict()) == named | {
        'position',
        'up.0.weight',
        'up.1.weight',
        'up.2.weight',
    }


@pytest.mark.parametrize(
    'net, factor, names',
    [
        (
            SRResNet(4),
            0.1,
            ['conv_first', 'body.3.conv1', 'body.3.conv2', 'upconv1', 'upconv2', 'conv_hr'],
        ),
        (RRDBNet(1), 0.1, [f'body.0.rdb2.conv{i}' for i in range(1, 6)]),
        (
            UNet(),
            0.5,
            ['encoder.1.2.conv1', 'encoder.1.2.conv2', 'middle.1.conv2', 'decoder.0.0.conv1'],
        ),
    ],
)
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


@pytest.mark.parametrize(
    'net',
    [
        UNet,
        partial(UNet, steps=2),
        partial(UNet, attention=4),
        FaceUNAF,
        partial(SwinIR, depths=(2, 2)),
        partial(RCAN, groups=0, blocks=4),
    ],
)
def test_a_run_starts_near_bilinear(net):
    torch.manual_seed(0)
    x = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert (net()(x) - bilinear(x)).square().mean().sqrt() < 0.1


@pytest.mark.parametrize('scale', [2, 3, 4])
def test_srresnet_closed_form(scale):
    """With identity kernels the network is nearest enlargement + bilinear enlargement."""
    net = SRResNet(2, 16, scale)
    with torch.no_grad():
        for conv in (m for m in net.modules() if isinstance(m, torch.nn.Conv2d)):
            conv.weight.zero_()
        for c in range(3):
            net.conv_first.weight[c, c, 1, 1] = net.conv_hr.weight[
                c, c, 1, 1
            ] = net.conv_last.weight[c, c, 1, 1] = 1
            for conv in (net.upconv1, getattr(net, 'upconv2', None)):
                if conv is not None:
                    r2 = conv.out_channels // conv.in_channels
                    conv.weight[c * r2 : (c + 1) * r2, c, 1, 1] = (
                        1  # one value for all pixels that the shuffle makes of it
                    )
    x = torch.rand(1, 3, 9, 7)
    expected = F.interpolate(x, scale_factor=scale, mode='nearest') + bilinear(x, scale)
    assert torch.allclose(net(x), expected, atol=1e-6)


def identity(conv):
    """Make a convolution pass its first input channels on."""
    torch.nn.init.zeros_(conv.bias)
    torch.nn.init.zeros_(conv.weight)
    middle = conv.kernel_size[0] // 2
    with torch.no_grad():
        for c in range(min(conv.weight.shape[:2])):
            conv.weight[c, c, middle, middle] = 1


def test_rrdbnet_closed_form():
    """With identity kernels a dense block is 1.2 x and a block of three x + 0.2 * 1.2^3 x.

    The tail is nearest enlargement.
    """
    net = RRDBNet(2, 8, 4)
    for conv in (m for m in net.modules() if isinstance(m, torch.nn.Conv2d)):
        identity(conv)
    x = torch.rand(1, 3, 5, 6)
    expected = F.interpolate((1 + (1 + 0.2 * 1.2**3) ** 2) * x, scale_factor=4, mode='nearest')
    assert torch.allclose(net(x), expected, atol=1e-5)


def test_dense_block_sees_all_before():
    """Against the sum over sources of separate convolutions, without any concatenation."""
    torch.manual_seed(0)
    block, x = rrdbnet.RDB(6, 4).double(), torch.randn(1, 6, 5, 7, dtype=torch.float64)
    maps = [x]
    for conv in (block.conv1, block.conv2, block.conv3, block.conv4, block.conv5):
        parts = conv.weight.split([y.shape[1] for y in maps], 1)
        y = sum(
            F.conv2d(y, part, padding=1) for y, part in zip(maps, parts, strict=True)
        ) + conv.bias.view(-1, 1, 1)
        maps.append(torch.where(y > 0, y, 0.2 * y))
    assert torch.allclose(block(x), x + 0.2 * y)


def test_naf_block_closed_form():
    """Constant channels: both halves 1, times an attention of 2; then both halves 3."""
    block = face_unaf.Block(6)
    for conv, value in ((block.widen1, 1), (block.attention, 2), (block.widen2, 3)):
        torch.nn.init.zeros_(conv.weight)
        torch.nn.init.constant_(conv.bias, value)
    for conv in (block.depthwise, block.narrow1, block.narrow2):
        identity(conv)
    torch.nn.init.constant_(block.depthwise.weight[:, :, 1, 1], 1)
    x = torch.randn(2, 6, 5, 4)
    assert torch.equal(block(x), x)  # beta and gamma start at zero
    torch.nn.init.normal_(block.beta)
    torch.nn.init.normal_(block.gamma)
    assert torch.allclose(block(x), x + 2 * block.beta + 9 * block.gamma, atol=1e-5)


@pytest.mark.parametrize('dtype, tolerance', [(torch.float32, 4e-6), (torch.bfloat16, 0.004)])
def test_layer_norm_over_channels(dtype, tolerance):
    """Statistics are float32 for bfloat16 pictures, too.

    The error is that of rounding the result, even far from zero.
    """
    torch.manual_seed(0)
    norm, x = face_unaf.LayerNorm2d(48, eps=1e-6), (torch.randn(2, 48, 5, 4) + 10).to(dtype)
    exact = x.double()
    exact = (exact - exact.mean(1, keepdim=True)) / (
        exact.var(1, correction=0, keepdim=True) + 1e-6
    ).sqrt()
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16, enabled=dtype == torch.bfloat16):
        assert ((norm(x).double() - exact).abs() <= tolerance * exact.abs().clamp(min=1)).all()


def test_channel_attention_closed_form():
    block = rcan.Block(8, 2)
    x = torch.rand(2, 8, 5, 4)
    for conv in (block.conv1, block.conv2):
        identity(conv)
    torch.nn.init.zeros_(block.excite.weight)
    torch.nn.init.constant_(block.excite.bias, -1)
    assert torch.allclose(block(x), x * (1 + torch.sigmoid(torch.tensor(-1.0))))
    identity(block.squeeze)
    identity(block.excite)
    means = x.mean((2, 3), keepdim=True) * (torch.arange(8) < 4).view(
        -1, 1, 1
    )  # half of the channels pass the squeeze
    assert torch.allclose(block(x), x * (1 + torch.sigmoid(means)))


@pytest.mark.parametrize('shift', [0, 2])
@pytest.mark.parametrize('size', [(4, 4), (8, 8), (12, 8)])
def test_window_attention_by_brute_force(size, shift):
    """Against attention among all pixels, masked by the window of the moved grid a pixel lies in.

    Nothing is rolled or cut here.
    """
    torch.manual_seed(0)
    (h, w), window, heads, width = size, 4, 2, 12
    block = swinir.Block(width, heads, window, 2, shift).double()
    torch.nn.init.normal_(block.attention.table)
    x = torch.randn(2, h, w, width, dtype=torch.float64)

    row, column = (
        place.flatten() for place in torch.meshgrid(torch.arange(h), torch.arange(w), indexing='ij')
    )
    home = (row - shift).div(window, rounding_mode='floor') * 100 + (column - shift).div(
        window, rounding_mode='floor'
    )
    dy, dx = row[:, None] - row, column[:, None] - column
    near = (home[:, None] == home) & (dy.abs() < window) & (dx.abs() < window)
    place = ((dy + window - 1) * (2 * window - 1) + dx + window - 1).where(near, 0)
    q, k, v = (
        block.attention.qkv(block.norm1(x))
        .view(2, h * w, 3, heads, width // heads)
        .permute(2, 0, 3, 1, 4)
    )
    score = (
        q @ k.mT / (width // heads) ** 0.5 + block.attention.table[place].permute(2, 0, 1)
    ).masked_fill(~near, float('-inf'))
    y = x + block.attention.project((score.softmax(-1) @ v).transpose(1, 2).reshape(2, h, w, width))
    y = y + block.fc2(F.gelu(block.fc1(block.norm2(y))))

    assert torch.allclose(block(x, swinir._mask(h, w, window, shift, 'cpu').double()), y)


def test_swinir_shifts_every_second_window():
    assert [[block.shift for block in group.blocks] for group in SwinIR(depths=(3, 2)).groups] == [
        [0, 4, 0],
        [0, 4],
    ]


def dead(*convs):
    for conv in convs:
        torch.nn.init.zeros_(conv.weight)
        if conv.bias is not None:
            torch.nn.init.zeros_(conv.bias)


@pytest.mark.parametrize('name', ['unet', 'face_unaf'])
def test_skips_carry_what_the_encoder_found(name):
    """Where nothing comes up from below, the encoder's level goes straight into the decoder's."""
    net, x = make(name), torch.rand(1, 3, 8, 12)
    dead(*net.up)
    first = net.stem(x)
    y = net.decoder[-1](net.encoder[0](first))
    if name == 'unet':
        y = F.pixel_shuffle(net.tail(y), 4)
    else:
        y = F.leaky_relu(F.pixel_shuffle(net.upconv1(net.body(y) + first), 2), 0.1)
        y = net.tail(F.leaky_relu(F.pixel_shuffle(net.upconv2(y), 2), 0.1))
    assert torch.allclose(net(x), y + bilinear(x), atol=1e-6)


def test_swinir_with_a_dead_body_is_its_tail():
    net, x = make('swinir'), torch.rand(1, 3, 8, 12)
    dead(net.conv_after_body)
    assert torch.allclose(
        net(x), F.pixel_shuffle(net.tail(net.conv_first(x)), 4) + bilinear(x), atol=1e-6
    )
    group, y = net.groups[0], torch.rand(1, 8, 12, 12)
    dead(group.conv)
    assert torch.equal(group(y, [swinir._mask(8, 12, 4, shift, 'cpu') for shift in (0, 2)]), y)


@pytest.mark.parametrize('name', ['rcan', 'rcan-flat'])
def test_rcan_with_a_dead_trunk_is_its_tail(name):
    net, x = make(name), torch.rand(1, 3, 8, 12)
    if name == 'rcan':
        dead(*(group.conv for group in net.trunk))
        assert torch.equal(net.trunk(net.conv_first(x)), net.conv_first(x))
    dead(net.conv_trunk)
    y = net.conv_last(
        F.pixel_shuffle(net.upconv2(F.pixel_shuffle(net.upconv1(net.conv_first(x)), 2)), 2)
    )
    assert torch.allclose(net(x), y + bilinear(x), atol=1e-6)


@pytest.mark.parametrize('name', [name for name in SMALL if name != 'swinir'])
def test_bfloat16_stays_bfloat16(name):
    """No float32 parameter turns the stream into float32, which would be slower from there on.

    SwinIR's stream has the type that its first normalisation returns.
    """
    net, kinds = make(name), set()
    modules = list(net.modules())
    streams = [m for m in modules if isinstance(m, torch.nn.Sequential)]
    for module in streams or [m for m in modules if isinstance(m, torch.nn.Conv2d)]:
        module.register_forward_hook(lambda module, args, out: kinds.add(out.dtype))
    with torch.autocast('cpu', torch.bfloat16):
        net(torch.rand(1, 3, 8, 8))
    assert kinds == {torch.bfloat16}


@pytest.mark.parametrize('name', SMALL)
@pytest.mark.parametrize('size', [(8, 8), (63, 17), (5, 17), (16, 40), (1, 1)])
def test_shapes(name, size):
    x = torch.rand(1, 3, *size)
    with torch.no_grad():
        y = make(name)(x)
    assert (
        y.shape == (1, 3, 4 * size[0], 4 * size[1])
        and y.dtype == torch.float32
        and y.isfinite().all()
    )


@pytest.mark.parametrize('name, tail', LAST.items())
@pytest.mark.parametrize('size', [(16, 16), (63, 17)])
def test_zero_tail_is_bilinear(name, tail, size):
    net = make(name)
    torch.nn.init.zeros_(net.get_submodule(tail).weight)
    torch.nn.init.zeros_(net.get_submodule(tail).bias)
    x = torch.rand(2, 3, *size)
    assert torch.equal(net(x), bilinear(x))
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(net(x), bilinear(x))  # the image never passes through bfloat16


@pytest.mark.parametrize('name', ['unet', 'unet-2', 'unet-3', 'face_unaf', 'swinir'])
def test_pads_by_replication(name):
    """What lies right of and below the picture is its last column and row, repeated."""
    net, x = make(name), torch.rand(1, 3, 14, 9)
    padded = torch.cat([x, x[..., -1:].expand(-1, -1, -1, 3)], 3)
    padded = torch.cat([padded, padded[:, :, -1:].expand(-1, -1, 2, -1)], 2)
    out = net(padded)[..., :56, :36]
    assert torch.allclose(net(x), out, atol=1e-6)


@pytest.mark.parametrize('name', ['unet', 'face_unaf'])
def test_position_matters_only_when_non_zero(name):
    net = make(name)
    other = type(net)(**{**LEVELS, 'position': 7})
    other.load_state_dict(
        {k: v for k, v in net.state_dict().items() if k != 'position'}, strict=False
    )
    x = torch.rand(1, 3, 16, 16)
    assert net.position.any() and not torch.allclose(net(x), other(x), atol=1e-4)
    torch.nn.init.zeros_(net.position)
    assert torch.equal(net(x), other(x))


@pytest.mark.parametrize('name', ['unet', 'face_unaf'])
def test_position_follows_the_frame(name):
    """At its own size the embedding is added as it is; elsewhere it is enlarged."""
    net, seen = make(name), {}
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
    assert torch.allclose(
        added(x),
        F.interpolate(net.position, (8, 10), mode='bilinear', align_corners=False),
        atol=1e-6,
    )


@pytest.mark.parametrize('name', ['unet', 'face_unaf'])
def test_a_crop_knows_its_place(name):
    """It is given the part of the embedding that the whole picture has there."""
    net, seen = make(name), []
    net.middle.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    x, kept = torch.rand(2, 3, 8, 8), net.position.data.clone()
    place = torch.tensor([[0.25, 0.5, 0.5, 0.5], [0, 0.25, 0.5, 0.5]])
    net(x, place)
    net.position.data.zero_()
    net(x, place)
    added = seen[0] - seen[1]
    assert torch.allclose(added[0], kept[0, :, 2:4, 1:3], atol=1e-6)
    assert torch.allclose(added[1], kept[0, :, 1:3, 0:2], atol=1e-6)


def test_a_place_is_interpolated_as_a_whole_embedding_is():
    """Any part, between pixels and up to the border, as cut out of the enlarged embedding."""
    whole = torch.rand(1, 5, 6, 6)
    large = F.interpolate(whole, (48, 48), mode='bilinear')
    for left, top, width, height in (0, 0, 48, 48), (3, 11, 16, 8), (40, 0, 8, 24):
        place = torch.tensor([[left, top, width, height]]) / 48
        part = embedding(whole, (height, width), place)
        assert torch.allclose(part, large[..., top : top + height, left : left + width], atol=1e-6)


def test_a_symmetric_position_is_its_mirror_image():
    """Half the numbers; a whole embedding of both halves makes the same network."""
    torch.manual_seed(0)
    half, whole, none = (
        UNet(**LEVELS | more) for more in (dict(symmetric=True), {}, dict(position=0))
    )
    torch.nn.init.normal_(half.position)
    weights = half.state_dict()
    whole.load_state_dict(
        weights | {'position': torch.cat([weights['position'], weights['position'].flip(3)], 3)}
    )
    none.load_state_dict({k: v for k, v in weights.items() if k != 'position'})
    x = torch.rand(1, 3, 16, 24)
    assert torch.equal(half(x), whole(x)) and not torch.allclose(half(x), none(x), atol=1e-4)
    counts = [sum(p.numel() for p in net.parameters()) for net in (none, half, whole)]
    assert counts[1] - counts[0] == counts[2] - counts[1] == 16 * 4 * 4 // 2


@pytest.mark.parametrize('name', SMALL)
def test_bfloat16_is_close(name):
    """Largest error over largest detail: 0.0033 .. 0.0081 measured over five seeds of all.

    FRSNet, whose rounding passes many layers that nothing normalises here, has 0.015 .. 0.033.
    Twice that is allowed. The image itself is not rounded.
    """
    net, x = make(name), torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        full = net(x)
        with torch.autocast('cpu', torch.bfloat16):
            half = net(x)
    error = (half - full).abs().max() / (full - (bilinear(x) if name in LAST else 0)).abs().max()
    assert half.dtype == torch.float32 and 0 < error < (0.066 if name == 'frsnet' else 0.0162), (
        error.item()
    )
    assert (half != half.bfloat16()).float().mean() > 0.9


@pytest.mark.parametrize('name', SMALL)
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
    assert strides and all(strides) and out.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(out, plain, atol=1e-5)


@pytest.mark.parametrize('name', SMALL)
def test_every_parameter_learns(name):
    net = make(name)
    net(torch.rand(2, 3, 16, 24)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


@pytest.mark.parametrize(
    'make_net',
    [
        lambda: SRResNet(scale=5),
        lambda: UNet(width=(8, 16), blocks=((1, 1), 1, (1, 1))),
        lambda: UNet(steps=3),
        lambda: FaceUNAF(width=(8, 16)),
        lambda: SwinIR(width=80),
        lambda: UNet(width=(8, 16, 32, 42), attention=1),
        lambda: RCAN(width=8),
        lambda: FRSNet(scale=3),
        lambda: FRSNet(width=60),
    ],
)
def test_wrong_arguments(make_net):
    with pytest.raises(ValueError):
        make_net()
