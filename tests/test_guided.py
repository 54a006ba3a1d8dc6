"""MFPSNet with the parser that makes its prior, which stays as it is.

Both passes, and runs that hold all they need.
"""

import json

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import infer
import models
import storage
import synthetic
import tasks
import train
from config import presets, stored
from dali_pipes.batch import Batch
from errors import CheckpointError, RunError
from models.guided import Guided, ParsePrior
from models.mfpsnet import MFPSNet
from tasks import restore, search
from tasks.initial import init_weights
from tasks.players import autocast
from tasks.restore import RestorationCriterion
from training import checkpoint

PARSER = dict(width=(4, 6, 8), blocks=(1, 1, 1), stride=2, aux=True, position=4)
# One layer each: all that MFPSNet is made of, small.
ONE = {'path': [0], 'cell': [[1, 1], [3, 1], [6, 0]]}
TINY = {'sr': dict(ONE, path=[3]), 'parse': ONE, 'fusion': ONE}
MAPS = {'parse': 19, 'heat': 5}


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    """Faces, the run of a parser, and architectures."""
    folder = tmp_path_factory.mktemp('guided')
    (folder / 'hq').mkdir()
    for i in range(8):
        cv2.imwrite(str(folder / 'hq' / f'{i}.png'), synthetic.face(i, 64).image[..., ::-1])
    torch.manual_seed(0)
    parser = models.ParseUNet(**PARSER)
    torch.nn.init.normal_(parser.position)
    storage.write_json(
        folder / 'parser/config.json',
        dict(task='parse', network='parse_unet', net=PARSER, size=128),
    )
    checkpoint.save_weights(folder / 'parser/weights.safetensors', parser.state_dict())
    storage.write_json(folder / 'arch.json', TINY)
    return folder


def flags(home, out, **more):
    settings = (
        dict(
            data=home / 'hq',
            val=3,
            out=out,
            preset='mfpsnet',
            prior=home / 'parser',
            arch=home / 'arch.json',
            size=64,
            batch=2,
            nimg=8,
            ticks=2,
            threads=1,
            pipe='torch',
            precision='fp32',
            device='cpu',
            lr=1e-3,
        )
        | more
    )
    return [x for k, v in settings.items() for x in ('--' + k.replace('_', '-'), str(v))]


def network(home, tmp_path, **more):
    c = tasks.configure(flags(home, tmp_path / 'none', **more))
    torch.manual_seed(0)
    net = tasks.network(c)
    init_weights(c, net, lambda _: None)
    return c, net


class Told(torch.nn.Module):
    """A guide that says what it is told, with statistics of its own."""

    def __init__(self, channels):
        super().__init__()
        self.conv, self.norm = torch.nn.Conv2d(3, channels, 1), torch.nn.BatchNorm2d(channels)

    def forward(self, x):
        return self.norm(self.conv(x))


def guided(dropped=(), priors=MAPS):
    torch.manual_seed(0)
    net = MFPSNet({**TINY, 'heat': ONE}, priors)
    torch.manual_seed(1)
    return Guided(net, {name: Told(channels) for name, channels in priors.items()}, dropped)


# ---- guides ----


def test_guides_stay_as_they_are():
    net, x = guided(), torch.rand(2, 3, 16, 16)
    before = {k: v.clone() for k, v in net.guides.state_dict().items()}
    for mode in True, False, True:
        net.train(mode)
        assert not any(m.training for m in net.guides.modules()) and net.net.training == mode
    # No gradient passes the bicubic enlargement, which has no deterministic one on a GPU.
    assert not any(m.requires_grad for m in net.maps(x.clone().requires_grad_()).values())
    sum(y.square().mean() for y in net(x)).backward()
    assert all(p.grad is None for p in net.guides.parameters()) and all(
        p.grad is not None for p in net.net.parameters()
    )
    assert all(torch.equal(v, before[k]) for k, v in net.guides.state_dict().items())


def test_all_passes_while_training_and_the_last_one_after():
    net, x = guided(), torch.rand(1, 3, 16, 16)
    assert [y.shape for y in net(x)] == [x.shape] * 2
    with torch.no_grad():
        first, second = net.eval().passes(x)
        assert (
            torch.equal(net(x), second)
            and torch.equal(first, net.net.base(x))
            and not torch.equal(first, second)
        )


@pytest.mark.parametrize('dropped', [('heat',), ('parse',), ('parse', 'heat')])
def test_the_first_pass_is_the_same_whatever_is_dropped(dropped):
    """At the same seed and before training, dropping changes the maps only: they are zeros.

    The network has the same size and the same weights.
    """
    whole, less, x = guided().eval(), guided(dropped).eval(), torch.rand(2, 3, 16, 16)
    assert all(
        torch.equal(a, b) for a, b in zip(whole.parameters(), less.parameters(), strict=True)
    )
    with torch.no_grad():
        (first, second), (same, other) = whole.passes(x), less.passes(x)
        maps = less.maps(x)
    assert torch.equal(first, same) and not torch.equal(second, other)
    assert {name: bool(m.any()) for name, m in maps.items()} == {
        name: name not in dropped for name in MAPS
    } and {n: m.shape[1] for n, m in maps.items()} == MAPS


def test_guides_must_be_those_of_the_network():
    with pytest.raises(ValueError, match='made for the priors parse'):
        Guided(MFPSNet(TINY, {'parse': 19}), {'heat': Told(5)})
    with pytest.raises(ValueError, match='dropped heat'):
        guided(('heat',), {'parse': 19})


@pytest.mark.parametrize('factor', [1, 2, 1.5])
def test_parse_prior_written_out(factor):
    torch.manual_seed(0)
    parser = models.ParseUNet(**PARSER).eval()
    x = torch.rand(2, 3, 16, 24)
    with torch.no_grad():
        maps = ParsePrior(parser, factor).eval()(x)
        large = (
            x
            if factor == 1
            else F.interpolate(x, scale_factor=float(factor), mode='bicubic').clamp(0, 1)
        )
        p = parser(large).softmax(1)
        wanted = (
            p
            if factor == 1
            else F.avg_pool2d(p, 2)
            if factor == 2
            else F.adaptive_avg_pool2d(p, x.shape[2:])
        )
    assert (
        maps.shape == (2, 19, 16, 24)
        and torch.allclose(maps.sum(1), torch.ones(2, 16, 24))
        and torch.allclose(maps, wanted, atol=1e-6)
    )


# ---- losses and scores ----


def test_the_loss_is_that_of_both_passes():
    criterion = RestorationCriterion(presets.config('unet', pixel_weight=2.0))
    target, one, two = (torch.full((1, 3, 8, 8), v) for v in (0.0, 0.25, 0.5))
    losses = criterion.net([one, two], Batch(None, target, None, target), None, 0, 0.0)
    assert {k: v.item() for k, v in losses.items()} == {'pixel_pass0': 0.5, 'pixel_pass1': 1.0}
    assert criterion.net(two, Batch(None, target, None, target), None, 0, 0.0)['pixel'] == 1.0


def test_validation_tells_both_passes():
    net, pairs = (
        guided().eval(),
        [
            (str(i), *(synthetic.face(i, 64).image.transpose(2, 0, 1)[None].repeat(2, 0)))
            for i in range(3)
        ],
    )
    data = [
        (name, *(torch.from_numpy(np.ascontiguousarray(x)) for x in images))
        for name, *images in pairs
    ]
    scores = restore.validate(net, data, 'cpu', batch=2, autocast=autocast('fp32', 'cpu'))
    alone = restore.validate(net.net.base, data, 'cpu', batch=2, autocast=autocast('fp32', 'cpu'))
    row = scores.row()
    assert (
        row['pass0'] == alone.row()['psnr']
        and row['gain'] == pytest.approx(row['psnr'] - row['pass0'])
        and 'the second gains' in scores.sentence()
    )
    assert 'pass0' not in alone.row() and 'gains' not in alone.sentence()


# ---- runs ----


def test_a_run_holds_its_parser(home, tmp_path, capsys):
    out = tmp_path / 'run'
    argv = flags(home, out)
    assert train.main(argv) == 0
    result, config = (
        json.loads((out / name).read_text()) for name in ('result.json', 'config.json')
    )
    assert (
        result['gain'] == pytest.approx(result['psnr'] - result['pass0'])
        and config['guides']['parse']['factor'] == 2
        and config['net']['scale'] == 1
    )
    weights = checkpoint.read_weights(out)[0]
    given = checkpoint.read_weights(home / 'parser')[0]
    assert all(torch.equal(weights[f'guides.parse.parser.{k}'], v) for k, v in given.items())
    net = models.like(weights)
    checkpoint.load_weights(net, out)
    assert isinstance(net, Guided) and net.guides['parse'].parser.stride == 2 and net.net.scale == 1
    x, own = torch.rand(1, 3, 24, 16), tasks.network(stored.from_flat(config))
    checkpoint.load_weights(own, out)
    with torch.no_grad():
        assert torch.equal(net.eval()(x), own.eval()(x))
    capsys.readouterr()
    assert infer.main(['--run', str(out), '--device', 'cpu']) == 0
    assert f'PSNR: {result["psnr"]:.4f} dB' in capsys.readouterr().out


def test_the_first_pass_starts_from_an_frsnet(home, tmp_path):
    """With a closed second pass the whole begins where that one ended."""
    _, net = network(home, tmp_path, net='{"closed": true}')
    torch.manual_seed(3)
    base = models.FRSNet(TINY['sr'], scale=1)
    for parameter in base.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    checkpoint.save_weights(tmp_path / 'frsnet.safetensors', base.state_dict())
    options = dict(net='{"closed": true}', start=tmp_path / 'frsnet.safetensors')
    _, net = network(home, tmp_path, **options)
    x = torch.rand(1, 3, 16, 24)
    with torch.no_grad():
        assert torch.equal(net.eval()(x), base.eval()(x))
    # The whole is taken as before, and knows itself by its weights.
    checkpoint.save_weights(tmp_path / 'whole.safetensors', net.state_dict())
    again = models.like(net.state_dict())
    assert again.net.opening is not None
    _, again = network(home, tmp_path, **options | {'start': tmp_path / 'whole.safetensors'})
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))
    with pytest.raises(CheckpointError, match='--start .*does not fit'):
        checkpoint.save_weights(tmp_path / 'other.safetensors', {'a': torch.zeros(1)})
        network(home, tmp_path, **options | {'start': tmp_path / 'other.safetensors'})


def test_four_times_larger(home, tmp_path):
    c, net = network(home, tmp_path, recipe='gfpgan')
    assert c.network.guides['parse']['factor'] == 8
    with torch.no_grad():
        assert [y.shape for y in net.eval().passes(torch.rand(1, 3, 16, 16))] == [
            (1, 3, 64, 64)
        ] * 2


@pytest.mark.parametrize(
    'preset, part, arguments',
    [
        ('search_parse', 'parse', dict(layers=1, growth=4)),
        ('search_fusion', 'fusion', dict(layers=1, width=8)),
    ],
)
def test_searches_beside_a_parser(preset, part, arguments, home, tmp_path):
    """Every weight learns but the parser's, and the architecture of that part is told."""
    argv = flags(home, tmp_path / 'none', preset=preset, net=json.dumps(arguments))
    if part != 'fusion':  # has no other parts
        at = argv.index('--arch')
        del argv[at : at + 2]
    net = tasks.network(tasks.configure(argv))
    output = net(torch.rand(2, 3, 16, 16))
    sum(y.square().mean() for y in (output if isinstance(output, list) else [output])).backward()
    assert all((p.grad is not None) == p.requires_grad for p in net.parameters()) and not any(
        p.requires_grad for p in net.guides.parameters()
    )
    assert net.part == part and search.found(net)[part]['path'] in ([0], [1])


def test_dropping_what_there_is_not_is_refused(home, tmp_path):
    with pytest.raises(RunError, match='--drop-priors heat: --prior names parse only'):
        network(home, tmp_path, drop_priors='heat')
