"""Face renovation: a discriminator that sees what was given, its features, two rates; and a small
run from training to report, resumed to the bit.
"""

import json
import os
import signal

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pypdf import PdfReader
from safetensors.torch import load_file
from test_gan import Recorder, step
from test_report import FONT
from test_train import SIZE, data, flags  # noqa: F401, the fixtures

import infer
import losses
import models
import tasks
import train
from config import presets, rules
from dali_pipes.batch import Batch
from errors import RunError
from losses import adversarial, features, pixel
from models.spectral import SpectralConv2d
from tasks import players as players_module
from tasks import restore
from tasks.restore import RestorationCriterion
from tools import export, report
from tools.submission import checks
from training import checkpoint

GAN = dict(
    preset='hifacegan_16',
    recipe='face_renovation',
    net='{"width": 2}',
    discriminator_net='{"width": 4}',
    pixel_weight=1.0,
)


def batch(n=2, scale=1):
    g = torch.Generator().manual_seed(0)
    lq, hq, plain = (torch.rand(n, 3, s, s, generator=g) for s in (64 // scale, 64, 64))
    return Batch(lq, hq, torch.arange(n), plain)


def chosen(**more):
    return presets.config('hifacegan_16', **dict(discriminator_net=dict(width=4)) | more)


@pytest.fixture
def players():
    torch.manual_seed(0)
    nets = {'net': models.HiFaceGAN(2), 'discriminator': models.MultiscalePatchGAN(6, 4)}
    for net in nets.values():
        net.eval()  # singular vectors stay what they are
    return {name: players_module.Player(net, net, Recorder()) for name, net in nets.items()}


def play(players, given, **more):
    for p in players.values():
        p.net.zero_grad()
    return players_module.backward(players, given, RestorationCriterion(chosen(**more)), step())


# ---- what is learned from ----


def test_losses_by_hand(players):
    """LSGAN and ten times the features' difference for one, LSGAN for the other, on pictures beside
    what was given; no pixel loss.
    """
    found, b = play(players, batch()), batch()
    net, d = (p.net for p in players.values())
    grads = [[p.grad.clone() for p in n.parameters() if p.requires_grad] for n in (net, d)]
    assert set(found) == {'loss', 'gan', 'matching', 'd', 'd_accuracy'} and found['matching'] > 0
    net.zero_grad(), d.zero_grad()
    y = net(b.input)
    real, fake = d(torch.cat([b.input, b.plain], 1)), d(torch.cat([b.input, y], 1))
    mine = torch.stack([F.mse_loss(f[-1], torch.ones_like(f[-1])) for f in fake]).mean()
    alike = (
        sum(
            F.l1_loss(f, r.detach())
            for fs, rs in zip(fake, real, strict=False)
            for f, r in zip(fs[:4], rs[:4], strict=False)
        )
        / 2
    )
    (mine + 10 * alike).backward()
    assert found['loss'].item() == pytest.approx((mine + 10 * alike).item(), rel=1e-5)
    for a, p in zip(grads[0], (p for p in net.parameters() if p.requires_grad), strict=True):
        assert torch.allclose(a, p.grad, rtol=1e-3, atol=1e-6)
    d.zero_grad()
    adversarial.d_loss(
        'lsgan', d(torch.cat([b.input, b.plain], 1)), d(torch.cat([b.input, y.detach()], 1))
    ).backward()
    assert all(
        torch.allclose(a, p.grad, rtol=1e-3, atol=1e-6)
        for a, p in zip(grads[1], d.parameters(), strict=True)
    )


@pytest.mark.parametrize('scale, channels', [(1, 6), (4, 6), (1, 3)])
def test_one_batch_of_real_and_fake(scale, channels, players):
    """For both players; a real picture first, each beside what was given, enlarged if it is
    smaller, or alone.
    """
    seen, b = [], batch(scale=scale)
    d = models.MultiscalePatchGAN(channels, 4)
    d.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach().clone()))
    net = players['net'].net if scale == 1 else models.RRDBNet(1, 8, 4)
    with torch.no_grad():
        y = net(b.input)
    play(
        {
            'net': players['net']._replace(net=net, forward=net),
            'discriminator': players['discriminator']._replace(net=d, forward=d),
        },
        b,
        discriminator_net=dict(width=4, channels=channels),
    )
    given = b.input if scale == 1 else F.interpolate(b.input, (64, 64), mode='bicubic').clamp(0, 1)
    images = torch.cat([b.plain, y])
    assert len(seen) == 2 and all(
        torch.allclose(
            x,
            torch.cat([given.repeat(2, 1, 1, 1), images], 1) if channels == 6 else images,
            atol=1e-5,
        )
        for x in seen
    )


def test_the_pixel_loss_is_a_weight(players):
    del players['discriminator']
    found, b = play(players, batch(), gan=None, matching_weight=None, pixel_weight=3.0), batch()
    assert found['loss'].item() == pytest.approx(
        3 * pixel.l1(players['net'].net(b.input), b.target).item()
    )


def test_perceptual_weights_are_pix2pixhds():
    """Of a file's VGG19 the published layers and weights; where there is none, of a parser all its
    levels alike; else there is no such loss.
    """
    assert (
        losses.FEATURES['pix2pixhd'] is features.PIX2PIXHD
        and chosen().loss.features == 'pix2pixhd'
        and chosen().loss.perceptual_weight == 10
    )
    assert restore.criterion(chosen(), torch.device('cpu')).extract is None


def test_two_rates_and_betas(monkeypatch):
    """TTUR: the discriminator learns four times as fast, of the run's rate at any time; both
    without the first average.
    """
    c = chosen(net=dict(width=2), precision='fp32')
    players = tasks.of(c).build(c, torch.device('cpu')).by_name
    assert (
        [p.rate for p in players.values()] == [1, 4]
        and rules.learning_rate(0.5, c) == 1e-4
        and rules.learning_rate(0.8, c) == pytest.approx(5e-5, rel=1e-2)
    )
    for p in players.values():
        (group,) = p.stepper.optimizer.param_groups
        assert (
            type(p.stepper.optimizer) is torch.optim.Adam
            and group['betas'] == (0.0, 0.9)
            and group['lr'] == p.rate * 1e-4
        )


@pytest.mark.parametrize(
    'more, said',
    [
        (dict(recipe='gfpgan'), 'give --recipe face_renovation'),
        (
            dict(
                network='unet',
                net='{}',
                preset='unet',
                recipe='face_renovation',
                discriminator_net='{}',
            ),
            'ai6126_2024, ',
        ),
        (dict(net='{"width": 2, "phase": 2}'), '0.5 times'),
        (dict(betas='0,1'), '--betas 0,1'),
        (dict(betas='0.9'), '--betas 0.9'),
        (dict(optimizer='sgd'), 'sgd none'),
        (dict(discriminator='unet_sn'), '--discriminator patchgan'),
        (dict(milestones='1'), '--milestones'),
        (dict(pixel_weight=-1), '--pixel-weight -1'),
        (dict(gan_from=10, pixel_weight=0), 'in the first 10 images'),
        (dict(last_loss='psnr', pixel_weight=0), '--last-loss psnr'),
        (
            dict(preset='renovation_demo', crop=SIZE, pixel_weight=0, discriminator_net='{}'),
            'or --gan',
        ),
        (dict(net='{"width": 2, "suppression": "gabor"}'), 'gabor'),
    ],
)
def test_bad_options(more, said, data, tmp_path, capsys):
    assert train.main(flags(data, tmp_path / 'out', **(GAN | more))) == 2
    assert said in capsys.readouterr().err and not (tmp_path / 'out').exists()


# ---- a run ----


@pytest.fixture(scope='module')
def pairs(data, tmp_path_factory):
    """Three faces, and the same with a blur."""
    folder = tmp_path_factory.mktemp('pairs')
    for side in 'GT', 'LQ':
        (folder / side).mkdir()
        for i in range(3):
            image = cv2.imread(str(data / 'pairs/GT' / f'{i}.png'))
            cv2.imwrite(
                str(folder / side / f'{i}.png'),
                image if side == 'GT' else cv2.GaussianBlur(image, (9, 9), 2),
            )
    return folder


@pytest.fixture(scope='module')
def home(data, pairs, tmp_path_factory):
    """A GAN as published but for its size, and a run of the demo's kind."""
    home = tmp_path_factory.mktemp('renovation')
    assert train.main(flags(data, home / 'gan', **GAN | dict(val=pairs, nimg=16, ticks=2))) == 0
    assert (
        train.main(
            flags(
                data,
                home / 'l1',
                preset='renovation_demo',
                recipe='face_renovation',
                net='{"width": 2}',
                crop=SIZE // 2,
                val=pairs,
                nimg=24,
                ticks=3,
            )
        )
        == 0
    )
    return home


def test_a_run_tells_what_it_is_compared_with(home, pairs):
    for name in 'gan', 'l1':
        result = json.loads((home / name / 'result.json').read_text())
        rows = [json.loads(line) for line in (home / name / 'log.jsonl').read_text().splitlines()]
        given = [
            cv2.PSNR(*(cv2.imread(str(pairs / side / f'{i}.png')) for side in ('LQ', 'GT')))
            for i in range(3)
        ]
        assert (
            result['input'] == pytest.approx(np.mean(given), abs=1e-3)
            and 'bicubic' not in result
            and rows[-1]['input'] == result['input']
        )
    assert any(
        {'pixel', 'gan', 'matching', 'd', 'd_accuracy'} <= r.keys()
        for r in [json.loads(line) for line in (home / 'gan/log.jsonl').read_text().splitlines()]
    )
    assert (
        cv2.imread(str(home / 'gan/samples/000000016.png')).shape[1] == 3 * SIZE + 2 * 4
    )  # input, ours, truth


def test_what_a_run_leaves_is_normalised(home):
    """Averages, and means of averages, know their own singular vectors: weights have a largest
    singular value of 1. Off by 0.002 at most over three seeds, without settling by 0.61.
    """
    for name in 'gan', 'l1':
        net = models.like(load_file(home / name / 'weights.safetensors')).eval()
        net.load_state_dict(load_file(home / name / 'weights.safetensors'))
        for m in net.modules():
            if isinstance(m, SpectralConv2d):
                assert torch.linalg.matrix_norm(
                    m.weight().detach().flatten(1), 2
                ).item() == pytest.approx(1, abs=0.08)


def test_a_stopped_run_resumes_to_the_bit(home, data, pairs, monkeypatch):
    argv = flags(data, home / 'stopped', **GAN | dict(val=pairs, nimg=16, ticks=2))
    steps, backward = [], players_module.backward

    def interrupted(*args):
        steps.append(0)
        if len(steps) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return backward(*args)

    monkeypatch.setattr(players_module, 'backward', interrupted)
    assert train.main(argv) == 143 and len(steps) == 3
    assert train.main(argv) == 0 and len(steps) == 8
    for name in 'net', 'ema', 'discriminator':
        a, b = (
            load_file(checkpoint.latest(home / run) / f'{name}.safetensors')
            for run in ('gan', 'stopped')
        )
        assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a), name


def test_infer_keeps_the_size(home, pairs, tmp_path, capsys):
    assert (
        infer.main(
            [
                '--run',
                str(home / 'l1'),
                '--input',
                str(pairs / 'LQ'),
                '--gt',
                str(pairs / 'GT'),
                '--output',
                str(tmp_path / 'out'),
            ]
        )
        == 0
    )
    psnr = float(capsys.readouterr().out.split('PSNR: ')[1].split()[0])
    assert psnr == pytest.approx(
        json.loads((home / 'l1/result.json').read_text())['psnr'], abs=0.01
    )
    cv2.imwrite(str(tmp_path / 'in.png'), np.full((37, 70, 3), 99, np.uint8))
    assert (
        infer.main(
            [
                '--weights',
                str(home / 'l1/weights.safetensors'),
                '--input',
                str(tmp_path / 'in.png'),
                '--output',
                str(tmp_path / 'out.png'),
                '--tta',
            ]
        )
        == 0
    )
    assert cv2.imread(str(tmp_path / 'out.png')).shape == (37, 70, 3)


def test_report_and_submission(home, tmp_path, capsys):
    assert (
        report.main([str(home / 'gan'), '--out', str(tmp_path / 'a.pdf'), '--font', str(FONT)]) == 0
    )
    text = ' '.join(p.extract_text() for p in PdfReader(tmp_path / 'a.pdf').pages).replace(
        '\n', ' '
    )
    assert (
        all(
            word in text
            for word in (
                'Face Renovation',
                'restores pictures at their size',
                'feature maps 10',
                'input',
            )
        )
        and 'bicubic' not in text
    )
    assert (
        report.main([str(home / 'gan'), str(home / 'l1'), '--out', str(tmp_path / 'all.html')]) == 0
        and '<th>input' in (tmp_path / 'all.html').read_text()
    )
    assert checks.check_network(home / 'l1', None).endswith(
        'parameters'
    )  # no budget, unless one is given
    with pytest.raises(RunError, match='fewer than 1,000 are allowed'):
        checks.check_network(home / 'l1', 1000)


def test_onnx(home, tmp_path):
    onnx = pytest.importorskip('onnx')
    pytest.importorskip('onnxruntime')
    assert export.main(['--run', str(home / 'l1'), '--out', str(tmp_path / 'net.onnx')]) == 0
    model = onnx.load(tmp_path / 'net.onnx')
    assert {p.key: p.value for p in model.metadata_props}[
        'scale'
    ] == '1' and 'output: [B, 3, h, w] float32' in model.doc_string
