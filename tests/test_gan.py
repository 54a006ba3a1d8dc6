"""Two players: who gets which gradients, when, and that a run of them resumes to the bit."""

import json
import math
import signal

import processes
import pytest
import torch
from safetensors.torch import load_file
from test_train import data, flags  # noqa: F401, the fixture

import models
import tasks
import train
from config import presets, schema
from dali_pipes.batch import Batch
from errors import RunError
from losses import adversarial, efficientnet, pixel
from tasks import players as players_module
from tasks.restore import RestorationCriterion
from tasks.trial import Alone
from training import checkpoint

GAN = dict(
    network='rrdbnet',
    net='{"blocks": 1, "width": 8, "growth": 4}',
    gan='ragan',
    discriminator='unet_sn',
    discriminator_net='{"width": 8}',
    crop=32,
    pixel_weight=0.01,
)

ON_CPU = '--device cpu --pipe torch --out nowhere'


def batch(n=2):
    g = torch.Generator().manual_seed(0)
    lq, hq, plain = (
        torch.rand(n, 3, 8, 8, generator=g),
        torch.rand(n, 3, 32, 32, generator=g),
        torch.rand(n, 3, 32, 32, generator=g),
    )
    return Batch(lq, hq, torch.arange(n), plain)


class Recorder:
    """A stepper that only lets losses go backward."""

    def backward(self, loss):
        loss.backward()


def step(nimg=0, progress=0.0, accumulate=1):
    """A step of float32 in one process."""
    autocast = players_module.autocast('fp32', 'cpu')
    return players_module.Step(nimg, progress, 0.0, 2, accumulate, autocast, Alone())


@pytest.fixture
def players():
    torch.manual_seed(0)
    nets = {'net': models.RRDBNet(1, 8, 4), 'discriminator': models.UNetDiscriminatorSN(8)}
    return {name: players_module.Player(net, net, Recorder()) for name, net in nets.items()}


def gradients(net):
    return [None if p.grad is None else p.grad.clone() for p in net.parameters()]


def play(players, nimg=0, progress=0.0, **more):
    config = schema.replace_options(schema.Config(), **dict(gan='ragan', gan_weight=0.1) | more)
    for p in players.values():
        p.net.zero_grad()
    criterion = RestorationCriterion(config)
    return players_module.backward(players, batch(), criterion, step(nimg, progress))


@pytest.mark.parametrize('kind', adversarial.KINDS)
def test_each_player_gets_its_own_gradients(kind, players):
    players['discriminator'].net.eval()  # its singular vectors stay what they are
    found = play(players, gan=kind)
    generator, discriminator = (gradients(p.net) for p in players.values())
    net, d, b = players['net'].net, players['discriminator'].net, batch()
    assert all(g is not None for g in generator + discriminator) and all(
        p.requires_grad for p in d.parameters()
    )
    assert set(found) == {'loss', 'pixel', 'gan', 'd', 'd_accuracy'} and not any(
        v.requires_grad for v in found.values()
    )
    assert found['loss'] == found['pixel'] + found['gan'] and 0 <= found['d_accuracy'] <= 1
    net.zero_grad()
    y = net(b.input)
    (pixel.l1(y, b.target) + 0.1 * adversarial.g_loss(kind, d(y), d(b.plain))).backward()
    error = sum(
        (p.grad - g).norm() for p, g in zip(net.parameters(), generator, strict=False)
    ) / sum(g.norm() for g in generator)
    assert error < 1e-6
    d.zero_grad()
    adversarial.d_loss(kind, d(b.plain), d(y.detach())).backward()
    error = sum(
        (p.grad - g).norm() for p, g in zip(d.parameters(), discriminator, strict=False)
    ) / sum(g.norm() for g in discriminator)
    assert error < 1e-6


def test_networks_that_take_a_place_are_told_it():
    """Where a crop lies reaches those that know where in a face a pixel lies, and no others."""
    b = batch()._replace(place=torch.tensor([[0, 0, 0.5, 0.5], [0.5, 0.25, 0.5, 0.5]]))
    nets = models.UNet((8, 8), ((1,), 1, (1,)), position=4), models.RRDBNet(1, 8, 4)
    torch.nn.init.normal_(nets[0].position)
    criterion = RestorationCriterion(schema.Config())
    for net in nets:
        told = net(b.input, b.place) if net is nets[0] else net(b.input)
        by_name = {'net': players_module.Player(net, net, Recorder())}
        found = players_module.backward(by_name, b, criterion, step())
        assert found['loss'] == pixel.l1(told, b.target)
    assert not torch.equal(nets[0](b.input, b.place), nets[0](b.input))


def test_the_generator_listens_from_an_image_on(players):
    assert 'gan' not in play(players, nimg=99, gan_from=100) and 'gan' in play(
        players, nimg=100, gan_from=100
    )


def test_a_discriminator_alone_learns_at_its_full_rate():
    options = '--gan-from 100 --lr 1e-3 --discriminator-lr 2e-4'
    config = tasks.configure(f'--preset esrgan_small {ON_CPU} {options}'.split())
    players = tasks.of(config).build(config, torch.device('cpu'))
    net, discriminator = players.by_name.values()
    assert (net.lr(0.0, 0), net.lr(5e-4, 99), net.lr(5e-4, 100)) == (0.0, 5e-4, 5e-4)
    assert (discriminator.lr(0.0, 0), discriminator.lr(5e-4, 99), discriminator.lr(5e-4, 100)) == (
        2e-4,
        2e-4,
        pytest.approx(1e-4),
    )


def test_a_level_weighs_the_adversarial_loss_only(players):
    players['discriminator'].net.eval()
    plain, controller = play(players), players_module.DiscriminatorController(0.75, 'cpu')
    controlled = players['discriminator']._replace(controller=controller)
    held = players | {'discriminator': controlled}
    for accuracy, images, mean in (
        (0.75, 8, 0.75),
        (0.35, 32, 0.55),
        (1.0, 64, 1.0),
        (0.25, 256, 0.25),
    ):  # over 64 images; a larger step counts alone
        controller.update(torch.tensor(accuracy), images)
        assert controller.accuracy.item() == pytest.approx(mean, abs=1e-7)
        found = play(held)
        assert found['gan'] / plain['gan'] == pytest.approx(math.exp(3 * (mean - 0.75)), rel=1e-6)
        assert (
            all(found[k] == plain[k] for k in ('pixel', 'd', 'd_accuracy'))
            and found['loss'] == found['pixel'] + found['gan']
        )
    assert 'gan' not in play(held, nimg=0, gan_from=1)


def test_the_last_loss_takes_over(players):
    del players['discriminator']
    first, last = (
        play(players, progress=share, gan=None, last_loss='psnr', last_share=0.25)['loss']
        for share in (0.74, 0.75)
    )
    y, b = players['net'].net(batch().input), batch()
    assert first == pixel.l1(y, b.target) and last == pixel.psnr(y, b.target)


def test_r1_reaches_the_discriminator_only(players):
    found, grads = {}, {}
    for r1 in (0.0, 10.0):
        torch.manual_seed(0)  # spectral norms are estimated from random vectors
        players['discriminator'].net.load_state_dict(models.UNetDiscriminatorSN(8).state_dict())
        found[r1] = play(players, r1=r1)
        grads[r1] = {name: gradients(player.net) for name, player in players.items()}
    plain, penalised = found.values()
    assert penalised['r1'] > 0 and 'r1' not in plain
    assert all(plain[k] == penalised[k] for k in plain)
    same = {
        name: [torch.equal(a, b) for a, b in zip(grads[0.0][name], grads[10.0][name], strict=True)]
        for name in players
    }
    # The penalty of a gradient says nothing about the last bias, which is not in it.
    assert all(same['net']) and sum(same['discriminator']) < len(same['discriminator']) / 2


def test_parts_of_a_step_add_up(players):
    """Twice the same batch in halves is the batch, for both players."""
    criterion = RestorationCriterion(
        schema.replace_options(schema.Config(), gan='lsgan', gan_weight=0.1)
    )
    players['discriminator'].net.eval()  # its singular vectors stay what they are
    found = {}
    for parts in 1, 2:
        for p in players.values():
            p.net.zero_grad()
        for _ in range(parts):
            players_module.backward(players, batch(), criterion, step(accumulate=parts))
        found[parts] = [g for p in players.values() for g in gradients(p.net)]
    for a, b in zip(found[1], found[2], strict=True):
        assert (a - b).norm() <= 1e-5 * a.norm() + 1e-7


def test_a_run_starts_from_another_and_resumes_to_the_bit(data, tmp_path):
    """Killed with kill -9 after its first checkpoint, and then run to its end."""
    start = flags(data, tmp_path / 'psnr', nimg=4, ticks=1, network=GAN['network'], net=GAN['net'])
    assert train.main(start) == 0
    whole, killed = (
        flags(data, out, start=tmp_path / 'psnr', nimg=32, ticks=4, gan_level=0.8, **GAN)
        for out in (tmp_path / 'whole', tmp_path / 'killed')
    )
    assert train.main(whole) == 0
    rows = [json.loads(line) for line in (tmp_path / 'whole/log.jsonl').read_text().splitlines()]
    assert any({'loss', 'pixel', 'gan', 'd', 'd_accuracy'} <= r.keys() for r in rows)
    result = json.loads((tmp_path / 'whole/result.json').read_text())
    assert result['made_of'] == ['the last average']
    process = processes.train(tmp_path / 'terminal', killed, pause=0.05)
    processes.wait_for(process, lambda: checkpoint.latest(tmp_path / 'killed'))
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / 'killed/weights.safetensors').exists()
    assert train.main(killed) == 0
    for name in 'net', 'ema', 'discriminator':
        a, b = (
            load_file(checkpoint.latest(tmp_path / run) / f'{name}.safetensors')
            for run in ('whole', 'killed')
        )
        assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a), name


@pytest.mark.parametrize(
    'more, said',
    [
        (dict(discriminator='unet_ns'), "did you mean 'unet_sn'"),
        (dict(gan='wgan'), 'unknown gan'),
        (dict(gan_level=0.5), 'above 0.5, which is chance'),
        (dict(discriminator='modified_vgg'), '--crop 128'),
        (dict(discriminator_net='{"widht": 8}'), 'widht'),
        (dict(crop=30), '--crop 30'),
        (dict(net='{"blocks": []}', network='unet'), '--net'),
        (dict(start='nowhere'), 'nowhere'),
        (dict(vgg='none.pth'), 'none.pth'),
        (dict(discriminator='patchgan', discriminator_net='{"channels": 4}'), 'or alone (3)'),
        (dict(discriminator='modified_vgg', crop=128, size=128, r1=1.0), '--discriminator unet_sn'),
    ],
)
def test_bad_options(more, said, data, tmp_path, capsys):
    assert train.main(flags(data, tmp_path / 'out', **(GAN | more))) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize('preset', presets.NAMES)
def test_presets_can_be_built(preset):
    argv = f'--preset {preset} {ON_CPU}'.split()
    if preset in ('mfpsnet', 'search_parse', 'search_fusion'):
        with pytest.raises(RunError, match='--prior'):
            tasks.configure(argv)
        return
    config = tasks.configure(argv)
    # Shapes are enough: the largest network takes seconds to initialise.
    built = models.shapes(lambda: tasks.of(config).build(config, torch.device('meta')))
    players = built.by_name
    assert (
        ('discriminator' in players)
        == bool(config.gan.gan)
        == preset.startswith(('realesrgan', 'esrgan', 'hifacegan'))
    )
    if config.network.network in models.NETWORKS and preset != 'frsnet':
        models.enforce_param_budget(players['net'].net)


def test_without_a_perceptual_loss_other_weights_hold_the_picture(tmp_path, monkeypatch):
    monkeypatch.setattr(efficientnet, 'weights_file', lambda: 'installed')
    common = ['--preset', 'esrgan_small', '--device', 'cpu', '--out', str(tmp_path / 'run')]

    def weights(*argv):
        flat = schema.flatten(tasks.configure([*common, *argv]))
        names = 'pixel_weight', 'gan_weight', 'gan_from', 'gan_level', 'discriminator_lr'
        return tuple(flat[name] for name in names)

    assert [weights(), weights('--pixel-weight', '0.1', '--discriminator-lr', '1e-4')] == [
        (1.0, 1.25e-2, 1024, 0.75, 1e-5),
        (0.1, 1.25e-2, 1024, 0.75, 1e-4),
    ]
    assert (
        weights('--parser', 'runs/parser')
        == weights('--vgg', 'vgg19.pth')
        == (1e-2, 5e-3, 0, None, None)
    )  # of the paper
    assert weights('--efficientnet') == weights('--vgg', 'vgg19.pth')
    assert weights('--no-efficientnet') == weights()
    assert weights('--preset', 'hifacegan_16') == (0.0, 1.0, 0, None, 4e-4)
