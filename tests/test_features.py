"""Perceptual and feature matching losses: closed forms, and where the gradients go.

VGG19 is compared with a plain stack, layer by layer.
"""

import pytest
import torch
from torch import nn

import models
from losses.features import ESRGAN, PIX2PIXHD, REAL_ESRGAN, VGG19, matching, perceptual, vgg19

LAYERS = [f'conv{b}_{i}' for b, n in enumerate((2, 2, 4, 4, 4), 1) for i in range(1, n + 1)]


def stack():
    """VGG19's convolutions as one list, numbered as torchvision numbers them."""
    torch.manual_seed(0)
    parts, before = [], 3
    for widths in [64] * 2, [128] * 2, [256] * 4, [512] * 4, [512] * 4:
        for width in widths:
            parts += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
            nn.init.kaiming_normal_(
                parts[-2].weight
            )  # so that what reaches the last layer is no rounding error
            before = width
        parts.append(nn.MaxPool2d(2))
    return nn.Sequential(*parts)


@pytest.fixture(scope='module')
def plain():
    return stack()


@pytest.fixture(scope='module')
def path(plain, tmp_path_factory):
    """A file like torchvision's: the classifier is there, too."""
    path = tmp_path_factory.mktemp('vgg') / 'vgg19.pth'
    torch.save(
        {f'features.{k}': v for k, v in plain.state_dict().items()}
        | {'classifier.0.weight': torch.zeros(2, 2)},
        path,
    )
    return path


def pictures(seed=0, side=32):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(2, 3, side, side, generator=g), torch.rand(2, 3, side, side, generator=g)


def test_parameters():
    with torch.device('meta'):
        assert (
            models.count(VGG19(LAYERS))
            == 20_024_384
            == 51_221_772 - models.count(models.RRDBNet()) - models.count(models.ModifiedVGG())
        )
        assert models.count(VGG19(['conv1_2'])) == 38_720  # nothing is built beyond the last layer


@torch.no_grad()
def test_layer_by_layer(plain, path):
    x, _ = pictures()
    maps = vgg19(path, LAYERS)(x)
    y, convs = (
        (x - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1))
        / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1),
        0,
    )
    for part in plain:
        y = part(y)
        if isinstance(part, nn.Conv2d):
            assert torch.allclose(maps[convs], y, atol=1e-4) and (y < 0).any()
            convs += 1
    assert convs == len(maps) == 16


@pytest.mark.parametrize(
    'layers', [['conv3_4', 'conv1_2'], ESRGAN, REAL_ESRGAN], ids=['two', 'esrgan', 'real_esrgan']
)
@torch.no_grad()
def test_only_what_is_asked_for(path, layers):
    x, _ = pictures()
    net, every = vgg19(path, layers), dict(zip(LAYERS, vgg19(path, LAYERS)(x), strict=True))
    assert all(torch.equal(a, every[name]) for name, a in zip(layers, net(x), strict=True))
    last = max(LAYERS.index(name) for name in layers)
    assert len(net.features) == last + 1


@torch.no_grad()
def test_behind_the_relu(path):
    """pix2pixHD's layers: the first of each block behind its ReLU, whatever else is asked for."""
    x, _ = pictures()
    before, behind = (
        vgg19(path, [name.replace('relu', 'conv') for name in PIX2PIXHD])(x),
        vgg19(path, PIX2PIXHD)(x),
    )
    assert all(
        (a < 0).any() and torch.equal(a.clamp(min=0), b)
        for a, b in zip(before, behind, strict=True)
    )
    assert (
        list(PIX2PIXHD.values()) == [1 / 32, 1 / 16, 1 / 8, 1 / 4, 1]
        and len(VGG19(PIX2PIXHD).features) == LAYERS.index('conv5_1') + 1
    )


def test_frozen(path):
    net = vgg19(path, REAL_ESRGAN)
    assert not net.training and not any(p.requires_grad for p in net.parameters())


def test_perceptual_by_hand(path):
    ours, truth = pictures()
    net = vgg19(path, REAL_ESRGAN)
    with torch.no_grad():
        expected = sum(
            w * (a.double() - b.double()).abs().mean()
            for w, a, b in zip((0.1, 0.1, 1, 1, 1), net(ours), net(truth), strict=True)
        )
    loss = perceptual(net, ours, truth, REAL_ESRGAN.values())
    assert (
        loss.dtype == torch.float32
        and loss.shape == ()
        and loss.item() == pytest.approx(expected.item(), rel=1e-5)
    )


@pytest.mark.parametrize('preset', [ESRGAN, REAL_ESRGAN], ids=['esrgan', 'real_esrgan'])
def test_perceptual_of_equal_pictures(path, preset):
    ours = pictures()[0].requires_grad_()
    loss = perceptual(vgg19(path, preset), ours, ours.detach(), preset.values())
    loss.backward()
    assert loss.item() == 0 and (ours.grad == 0).all()


def test_gradient_goes_to_ours_alone(path):
    ours, truth = (x.requires_grad_() for x in pictures())
    perceptual(vgg19(path, ESRGAN), ours, truth, [1.0]).backward()
    assert ours.grad.abs().sum() > 0 and truth.grad is None


def test_bfloat16_is_close(path):
    """Under autocast pictures are normalised, and maps compared, in float32.

    Relative error 0.0001 .. 0.0006 measured over five pairs.
    """
    ours, truth = pictures()
    net = vgg19(path, REAL_ESRGAN)
    full = perceptual(net, ours, truth, REAL_ESRGAN.values()).item()
    with torch.autocast('cpu', torch.bfloat16):
        half = perceptual(net, ours.requires_grad_(), truth, REAL_ESRGAN.values())
    half.backward()
    assert (
        half.dtype == torch.float32
        and half.item() == pytest.approx(full, rel=1.2e-3)
        and ours.grad.isfinite().all()
    )


def test_another_extractor():
    """Anything that gives a list of maps: here of means over squares of 2 and 4."""

    def extract(x):
        return [nn.functional.avg_pool2d(x, n) for n in (2, 4)]

    ours, truth = torch.full((1, 3, 8, 8), 0.75), torch.full((1, 3, 8, 8), 0.25)
    assert perceptual(extract, ours, truth, [1, 0.5]).item() == pytest.approx(0.75)
    with pytest.raises(ValueError, match='3 weights for 2 feature maps'):
        perceptual(extract, ours, truth, [1, 1, 1])


def spoil(weights, how):
    if (
        how == 'vgg16'
    ):  # its fourth convolution of the third block is missing, so later numbers differ
        return {k: v for k, v in weights.items() if not k.startswith('features.16.')}
    if how == 'vgg19_bn':
        return weights | {'features.1.running_mean': torch.zeros(64)}
    if how == 'narrow':
        return weights | {'features.5.weight': torch.zeros(64, 64, 3, 3)}
    return {'vgg': list(weights.values())} if how == 'list' else [weights]


@pytest.mark.parametrize(
    'how, said',
    [
        ('vgg16', 'features.16.weight is missing'),
        ('vgg19_bn', r'features.1.running_mean is \[64\], which VGG19 has not'),
        ('narrow', r'features.5.weight is \[64, 64, 3, 3\]'),
        ('list', 'vgg is a list'),
        ('no dict', 'cannot be read'),
    ],
)
def test_wrong_weights(path, tmp_path, how, said):
    torch.save(spoil({k: v for k, v in torch.load(path).items()}, how), tmp_path / 'wrong.pth')
    with pytest.raises(ValueError, match=f"wrong.pth.*{said}.*torchvision's vgg19 was expected"):
        vgg19(tmp_path / 'wrong.pth', ESRGAN)


def test_wrong_file(tmp_path):
    (tmp_path / 'page.pth').write_text('<html>404</html>')
    (tmp_path / 'empty.pth').write_bytes(b'')
    for name in 'page.pth', 'empty.pth', 'none.pth':
        with pytest.raises(
            ValueError, match=f"{name} cannot be read.*torchvision's vgg19 was expected"
        ):
            vgg19(tmp_path / name, ESRGAN)


@pytest.mark.parametrize(
    'layers, said',
    [
        (['conv3_5'], "no layer 'conv3_5'; there are: conv1_1, conv1_2"),
        ([], 'no layer is asked for'),
    ],
)
def test_wrong_layers(layers, said):
    with pytest.raises(ValueError, match=said):
        VGG19(layers)


# ---- feature matching ----


def maps(*values):
    """Two scales of two maps and logits each, of constants."""
    return [
        [
            torch.full(shape, v)
            for shape, v in zip(
                ((2, 4, 6, 6), (2, 8, 3, 3), (2, 1, 3, 3)), values[i : i + 3], strict=True
            )
        ]
        for i in (0, 3)
    ]


def test_matching_by_hand():
    """Mean over scales of the sum over their maps; the logits, here far apart, do not count."""
    assert matching(maps(0, 0, 0, 0, 0, 0), maps(1, 3, 99, -5, 7, 99)).item() == pytest.approx(
        ((1 + 3) + (5 + 7)) / 2
    )
    same = maps(1, 2, 3, 4, 5, 6)
    assert matching(same, same).item() == 0


def test_matching_of_a_discriminator():
    torch.manual_seed(0)
    net, truth, ours = (
        models.MultiscalePatchGAN(3, 8).eval(),
        torch.rand(2, 3, 24, 24, requires_grad=True),
        torch.rand(2, 3, 24, 24, requires_grad=True),
    )
    real, fake = net(truth), net(ours)
    loss = matching(real, fake)
    singles = [matching([r], [f]).item() for r, f in zip(real, fake, strict=True)]
    assert loss.item() == pytest.approx(sum(singles) / 2, rel=1e-6) and loss.dtype == torch.float32
    loss.backward()
    assert ours.grad.abs().sum() > 0 and truth.grad is None


def test_matching_refuses_unlike_maps():
    with pytest.raises(ValueError):
        matching(maps(0, 0, 0, 0, 0, 0), maps(0, 0, 0, 0, 0, 0)[:1])
    with pytest.raises(ValueError, match='shapes must be equal'):
        matching(
            [[torch.zeros(2, 4, 6, 6), torch.zeros(1)]], [[torch.zeros(1, 4, 6, 6), torch.zeros(1)]]
        )
