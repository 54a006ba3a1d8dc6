"""HiFaceGAN: exact counts and shapes, pictures of any size, guided normalisation.

The kinds of suppression are compared with their definitions.
"""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses import FakeTensorMode

import models
from models.hifacegan import ADAPT, LIP, PAC, SPADE, SUPPRESSION, Block, HiFaceGAN
from models.spectral import SpectralConv2d, instance_norm

COUNTS = {64: 130_568_012, 48: 79_873_084, 32: 41_213_740, 16: 14_294_876, 8: 5_274_868}
SMALL = {name: partial(HiFaceGAN, 2, name) for name in SUPPRESSION}


def make(name='lip', seed=0, **more):
    """A small network as after some training: every weight matters."""
    torch.manual_seed(seed)
    net = SMALL[name](**more)
    with torch.no_grad():
        for name, p in net.named_parameters():
            if not name.endswith('weight_orig'):  # the scale of those is 1 whatever they are
                p.add_(torch.randn_like(p), alpha=0.05)
    return net


def picture(*size, n=1, seed=1):
    return torch.rand(n, 3, *size, generator=torch.Generator().manual_seed(seed))


# ---- sizes ----


@pytest.mark.parametrize('width, params', COUNTS.items())
def test_count(width, params):
    with torch.device('meta'):
        assert models.count(HiFaceGAN(width)) == params


def test_count_of_the_parts():
    with torch.device('meta'):
        net = HiFaceGAN()
    assert (
        models.count(net.encoder) == 28_283_328
        and models.count(net.bottom) == models.count(net.middle[1]) == 25_954_560
    )
    assert [models.count(block) for block in net.up] == [15_271_296, 5_735_296, 2_392_704, 967_104]


def test_count_of_pac():
    """That of the convolution, G with its two biases, and a number per tap."""
    assert models.count(PAC(24, 10)) == 9 * 24 * 10 + 10 + (24 * 16 + 16) + (16 * 16 + 16) + 9


@pytest.mark.parametrize(
    'size, suppression', [(512, 'lip'), (256, 'lip'), (256, 'pac'), (256, 'none')]
)
def test_shapes(size, suppression):
    shapes = {}
    with FakeTensorMode(), torch.no_grad():  # nothing is computed
        net = HiFaceGAN(suppression=suppression)
        net.encoder.register_forward_hook(
            lambda module, args, out: shapes.update(guides=[tuple(x.shape) for x in out])
        )
        y = net(torch.empty(2, 3, size, size))
    assert shapes['guides'] == [
        (2, c, size // n, size // n)
        for c, n in ((1024, 32), (1024, 16), (512, 8), (256, 4), (128, 2), (64, 1))
    ]
    assert y.shape == (2, 3, size, size) and y.dtype == torch.float32


@pytest.mark.parametrize('name', SMALL)
@pytest.mark.parametrize('size', [(64, 96), (63, 17), (33, 70), (1, 1)])
def test_any_size(name, size):
    with torch.no_grad():
        y = make(name)(picture(*size))
    assert y.shape == (1, 3, *size) and y.dtype == torch.float32 and y.min() >= 0 and y.max() <= 1


@pytest.mark.parametrize('phase', range(4))
def test_phases(phase):
    """An earlier phase is the beginning of the whole network, with the weights of the whole."""
    net, whole, inputs = make(phase=phase).eval(), make().eval(), {}
    net.load_state_dict(whole.state_dict())
    whole.up[phase].register_forward_hook(lambda module, args, out: inputs.update(y=out.clone()))
    x = picture(61, 35)
    y = net(x)
    whole(x)
    part = 2 ** (3 - phase)
    expected = (1 + torch.tanh(whole.to_rgb[phase](F.leaky_relu(inputs['y'], 0.2)))) / 2
    assert models.count(net) == models.count(whole) and y.shape[2:] == (
        -(-61 // part),
        -(-35 // part),
    )
    assert torch.allclose(y, expected[..., : y.shape[2], : y.shape[3]], atol=1e-6)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="'gabor'; choose one of: lip, pac, "):
        HiFaceGAN(2, 'gabor')
    with pytest.raises(ValueError, match='phase is 4'):
        HiFaceGAN(2, phase=4)
    with pytest.raises(ValueError, match='with residual it must be 3'):
        HiFaceGAN(2, phase=2, residual=True)


def test_pads_by_replication():
    """What lies right of and below the picture is its last column and row, repeated."""
    net, x = make().eval(), picture(62, 41)
    padded = torch.cat([x, x[..., -1:].expand(-1, -1, -1, 23)], 3)
    padded = torch.cat([padded, padded[:, :, -1:].expand(-1, -1, 2, -1)], 2)
    assert torch.allclose(net(x), net(padded)[..., :62, :41], atol=1e-5)


# ---- suppression ----


def test_without_suppression_the_stages_are_plain_convolutions():
    """Which see every second pixel and its eight neighbours."""
    net, x = make('none'), picture(64, 64)
    with torch.no_grad():
        *maps, head = net.encoder(x)
        stage = net.encoder.stages[0]
        y = F.conv2d(head, stage.weight, stage.bias, stride=2, padding=1)
        expected = F.relu(F.instance_norm(y))
    assert torch.allclose(maps[-1], expected, atol=1e-5)


@pytest.mark.parametrize('size', [(8, 8), (7, 5), (1, 2)])
def test_lip_of_equal_importance_is_average_pooling(size):
    """Means over the part of a window that lies within the picture.

    So it starts, and so it stays while all pixels have the same importance.
    """
    lip, x = LIP(4), picture(*size).repeat(2, 2, 1, 1)[:, :4]
    expected = F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)
    assert torch.allclose(lip(x), expected, atol=1e-6)
    torch.nn.init.normal_(lip.shift)
    assert torch.allclose(lip(x), expected, atol=1e-6)


def test_lip_by_brute_force():
    torch.manual_seed(0)
    lip, x = LIP(3), torch.randn(2, 3, 7, 6)
    for p in lip.parameters():
        torch.nn.init.normal_(p)
    logit = F.conv2d(x.double(), lip.logit.weight.double(), padding=1)
    logit = (logit - logit.mean((2, 3), keepdim=True)) / (
        logit.var((2, 3), correction=0, keepdim=True) + 1e-5
    ).sqrt()
    weight = (12 / (1 + (-logit * lip.scale - lip.shift).exp())).exp()
    expected = torch.empty(2, 3, 4, 3, dtype=torch.float64)
    for i in range(4):
        for j in range(3):
            window = (..., slice(max(2 * i - 1, 0), 2 * i + 2), slice(max(2 * j - 1, 0), 2 * j + 2))
            expected[:, :, i, j] = (x[window] * weight[window]).sum((2, 3)) / weight[window].sum(
                (2, 3)
            )
    assert torch.allclose(lip(x).double(), expected, atol=1e-5)


def test_lip_takes_the_important_pixel():
    """A pixel whose logit is far above the others' is all that is left of every window with it."""
    lip, x = LIP(1), torch.zeros(1, 1, 9, 9)
    x[0, 0, 4, 4] = 1
    torch.nn.init.constant_(lip.logit.weight[..., 1, 1], 1)
    torch.nn.init.constant_(lip.scale, 10)
    with torch.no_grad():
        y = lip(x)
    assert y[0, 0, 2, 2] > 0.99 and y.sum() == y[0, 0, 2, 2]


def test_lip_in_half_precision():
    """exp(12) is beyond float16."""
    lip, x = LIP(4), torch.rand(1, 4, 8, 8)
    torch.nn.init.constant_(lip.shift, 50)
    torch.nn.init.normal_(lip.logit.weight)
    exact = lip(x)
    with torch.autocast('cpu', torch.float16):
        half = lip(x.half())
    assert half.dtype == torch.float16 and torch.allclose(half.float(), exact, atol=2e-3)


def noisy(channels, out_channels, **more):
    pac = PAC(channels, out_channels, **more)
    for p in pac.parameters():
        torch.nn.init.normal_(p, std=0.5)
    return pac


@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('adapt, tap', [('softmax', 0.3), ('relu', 1), ('sigmoid', 50)])
def test_pac_with_factors_of_one_is_a_convolution(adapt, tap, stride):
    """At the border, too. Where nothing is compared, the taps' own terms are all there is."""
    torch.manual_seed(0)
    pac, x = noisy(3, 5, stride=stride, adapt=adapt), torch.randn(2, 3, 9, 6)
    torch.nn.init.zeros_(pac.query[2].weight)
    torch.nn.init.zeros_(pac.query[2].bias)
    torch.nn.init.constant_(pac.tap, tap)
    assert torch.allclose(pac.factors(x), torch.ones(()))
    assert torch.allclose(
        pac(x), F.conv2d(x, pac.conv.weight, pac.conv.bias, stride=stride, padding=1), atol=1e-5
    )


@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('adapt', ADAPT)
def test_pac_by_brute_force(adapt, stride):
    """Pixel by pixel, tap by tap, as the definition has it."""
    torch.manual_seed(0)
    pac, x = noisy(3, 4, stride=stride, adapt=adapt, dim=5), torch.randn(1, 3, 6, 5)
    q, (h, w), y = pac.query(x)[0], x.shape[2:], []
    for i in range(0, h, stride):
        for j in range(0, w, stride):
            scores, products = [], []
            for v in (-1, 0, 1):
                for u in (-1, 0, 1):
                    inside = 0 <= i + v < h and 0 <= j + u < w
                    b = pac.tap[len(scores), 0, 0]
                    scores.append(q[:, i, j] @ q[:, i + v, j + u] / 5**0.5 + b if inside else b)
                    products.append(
                        pac.conv.weight[:, :, v + 1, u + 1] @ x[0, :, i + v, j + u]
                        if inside
                        else torch.zeros(4)
                    )
            scores = torch.stack(scores)
            K = {
                'softmax': 9 * scores.exp() / scores.exp().sum(),
                'sigmoid': 1 / (1 + (-scores).exp()),
                'relu': scores.clamp(min=0),
            }[adapt]
            y.append(sum(k * p for k, p in zip(K, products, strict=True)) + pac.conv.bias)
    y = torch.stack(y, 1).view(1, 4, -(-h // stride), -(-w // stride))
    assert torch.allclose(pac(x), y, rtol=1e-4, atol=1e-4) and not torch.allclose(
        y, F.conv2d(x, pac.conv.weight, pac.conv.bias, stride=stride, padding=1), atol=0.1
    )


def test_fresh_pac_is_almost_a_convolution():
    torch.manual_seed(0)
    factors = PAC(32, 8).factors(torch.randn(1, 32, 12, 12))
    assert 0 < factors.std() < 0.25 and torch.allclose(factors.mean(1), torch.ones(()))


# ---- replenishment ----


def test_spade_without_guide_normalises():
    spade, x, guide = SPADE(6, 4), 3 * torch.randn(2, 6, 5, 7) + 1, torch.randn(2, 4, 5, 7)
    torch.nn.init.zeros_(spade.gamma.weight)
    torch.nn.init.zeros_(spade.beta.weight)
    assert torch.equal(spade(x, guide), instance_norm(x))
    assert torch.allclose(spade(x, guide), F.instance_norm(x), atol=1e-5)


def test_spade_closed_form():
    """A guide of ones that the kernels take from one pixel: gamma 2 and beta -5 everywhere."""
    spade, x = SPADE(6, 4), torch.randn(2, 6, 5, 7)
    for conv, value in ((spade.shared, 1 / 4), (spade.gamma, 2 / 6), (spade.beta, -5 / 6)):
        torch.nn.init.zeros_(conv.weight)
        torch.nn.init.constant_(conv.weight[:, :, 1, 1], value)
    assert torch.allclose(spade(x, torch.ones(2, 4, 5, 7)), 3 * instance_norm(x) - 5, atol=1e-5)
    assert torch.allclose(
        spade(x, -torch.ones(2, 4, 5, 7)), instance_norm(x), atol=1e-5
    )  # behind a ReLU


@pytest.mark.parametrize('channels, hidden', [(6, 6), (128, 128), (200, 128)])
def test_spade_has_at_most_128_hidden_channels(channels, hidden):
    assert SPADE(channels, 3).shared.out_channels == hidden


def test_block_skips():
    """With dead convolutions a block is its skip.

    That is the input, or where channels change, a guided convolution of it.
    """
    x, guide = torch.randn(1, 8, 6, 6), torch.randn(1, 3, 6, 6)
    for block in (Block(8, 8, 3), Block(8, 4, 3)):
        torch.nn.init.zeros_(block.norm2.beta.weight)
        block.eval().norm2.gamma.register_forward_hook(
            lambda module, args, out: torch.full_like(out, -1)
        )  # 1 + gamma = 0
        expected = block.conv_skip(block.norm_skip(x, guide)) if block.skip else x
        assert torch.equal(block(x, guide), expected)
    assert Block(4, 8, 3).conv1.weight_orig.shape[:2] == (4, 4)


def test_decoder_starts_from_every_32nd_pixel():
    net, seen, x = make(), {}, picture(64, 96)
    net.fc.register_forward_pre_hook(lambda module, args: seen.update(x=args[0]))
    net(x)
    assert torch.equal(seen['x'], 2 * x[..., ::32, ::32] - 1)


def test_every_guide_matters():
    """Another feature map of one resolution changes the picture."""
    net, x = make().eval(), picture(64, 64)
    with torch.no_grad():
        plain, guides = net(x), net.encoder(x)
        for n in range(6):
            changed = [g.flip(2) if i == n else g for i, g in enumerate(guides)]
            net.encoder.forward = lambda x, changed=changed: changed
            assert not torch.allclose(net(x), plain, atol=1e-5), n


# ---- the whole ----


def test_start():
    """Xavier's initialisation, small, without bias.

    Spectrally normalised weights have a largest singular value of 1 before any step.
    """
    torch.manual_seed(0)
    net = HiFaceGAN(8)
    for weight, fans in (
        (net.fc.weight, 9 * (3 + 128)),
        (net.bottom.conv1.weight_orig, 9 * (128 + 128)),
        (net.up[0].norm1.shared.weight, 9 * (64 + 128)),
    ):
        assert weight.std().item() == pytest.approx(0.02 * (2 / fans) ** 0.5, rel=0.05)
    assert not any(p.any() for name, p in net.named_parameters() if name.endswith('bias'))
    for block in (net.bottom, net.up[1]):
        assert torch.linalg.svdvals(block.eval().conv1.weight().flatten(1))[
            0
        ].item() == pytest.approx(1, rel=0.05)


def test_a_fresh_network_shows_something():
    """The signal does not vanish on its way (0.009 measured), and is not saturated."""
    torch.manual_seed(0)
    with torch.no_grad():
        y = HiFaceGAN(8)(picture(64, 64, n=2))
    assert (y[0] - y[1]).abs().mean() > 0.0025 and y.min() > 0.05 and y.max() < 0.95


@pytest.mark.parametrize('size', [(64, 64), (63, 17)])
def test_a_fresh_residual_network_gives_its_input(size):
    torch.manual_seed(0)
    net, x = HiFaceGAN(2, residual=True), picture(*size)
    assert torch.equal(net(x), x) and models.scale(net) == 1
    torch.nn.init.normal_(net.to_rgb[-1].weight, std=0.1)
    plain = HiFaceGAN(2)
    plain.load_state_dict({k: v for k, v in net.state_dict().items() if k != 'adds'})
    assert torch.allclose(net.eval()(x), x + 2 * plain.eval()(x) - 1, atol=1e-6)


@pytest.mark.parametrize('name, phase', [*((name, 3) for name in SMALL), ('lip', 0), ('lip', 2)])
def test_gradients_flow(name, phase):
    """Gradients go to all that a phase uses, and nothing else asks for one.

    Biases that a normalisation removes again get rounding errors only.
    """
    net, x = make(name, phase=phase), picture(64, 96, n=2).requires_grad_()
    net(x).square().mean().backward()
    for path, p in net.named_parameters():
        assert (p.grad is not None) == p.requires_grad, path
        assert p.grad is None or path.endswith('bias') or p.grad.abs().sum() > 0, path
    assert x.grad.abs().sum() > 0
    assert [all(p.requires_grad for p in part.parameters()) for part in (*net.up, *net.to_rgb)] == [
        n <= phase for n in range(4)
    ] + [n == phase for n in range(4)]


def test_learns():
    """Two noisy pictures: 0.7 of the first error is left after 20 steps."""
    torch.manual_seed(0)
    net, target = HiFaceGAN(4), F.interpolate(picture(4, 4, n=2), (64, 64), mode='bilinear')
    x = (target + 0.3 * (2 * picture(64, 64, n=2) - 1)).clamp(0, 1)
    optimizer, losses = torch.optim.Adam(net.parameters(), 1e-3, betas=(0.0, 0.9)), []
    for _ in range(20):
        loss = F.mse_loss(net(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize('name', SMALL)
def test_channels_last_all_the_way(name):
    net, x, strides = (
        make(name).to(memory_format=torch.channels_last).eval(),
        picture(64, 96, n=2),
        [],
    )
    plain = net(x)

    def look(module, args):
        strides.append(args[0].is_contiguous(memory_format=torch.channels_last))

    for module in net.modules():
        if isinstance(module, (torch.nn.Conv2d, SpectralConv2d, LIP, PAC, SPADE)):
            module.register_forward_pre_hook(look)
    out = net(x.contiguous(memory_format=torch.channels_last))
    assert strides and all(strides) and out.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(out, plain, atol=5e-4)


@pytest.mark.parametrize('name', SMALL)
def test_bfloat16_is_close(name):
    """Mean error over the spread of the picture: 0.019 .. 0.078 measured over five seeds of all.

    Twice that is allowed. Importance in LIP is an exponential.
    """
    net, x = make(name).eval(), picture(96, 96, n=2)
    with torch.no_grad():
        full = net(x)
        with torch.autocast('cpu', torch.bfloat16):
            half = net(x)
    error = (half - full).abs().mean() / full.std()
    assert half.dtype == torch.float32 and 0 < error < 0.156, error.item()
    assert (half != half.bfloat16()).float().mean() > 0.9


def test_bfloat16_stays_bfloat16():
    """No parameter added or multiplied in float32 makes everything after it slower."""
    for name in SMALL:
        net, kinds = make(name), set()
        for module in (*net.encoder.stages, *net.up):
            module.register_forward_hook(
                lambda module, args, out, kinds=kinds: kinds.add(out.dtype)
            )
        with torch.autocast('cpu', torch.bfloat16):
            net(picture(64, 64))
        assert kinds == {torch.bfloat16}


def test_every_picture_is_alone():
    """Up to rounding errors.

    They grow where a channel of the few pixels at the bottom is almost constant.
    """
    net, x = make().eval(), picture(96, 96, n=3)
    assert torch.allclose(net(x)[:1], net(x[:1]), atol=5e-4)
