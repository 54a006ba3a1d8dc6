"""A search of an architecture: who learns from what, what is found, exact resume; and what it takes
to train with what was found.
"""

import json
import math

import cv2
import pytest
import torch
from safetensors.torch import load_file

import models
import synthetic
import tasks
import train
from config import schema
from dali_pipes.batch import Batch
from errors import RunError
from models import decode
from tasks import lattice, search
from tasks.players import Step, autocast
from tasks.trial import Alone
from training import checkpoint

CPU = torch.device('cpu')
SEARCHED = 'alpha', 'beta', 'ends'
SMALL = '{"width": 16, "growth": 4, "layers": 2}'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('search')
    for i in range(9):
        cv2.imwrite(str(folder / f'{i}.png'), synthetic.face(i, 64).image[..., ::-1])
    return folder


def flags(data, out, **more):
    settings = (
        dict(
            data=data,
            val=3,
            out=out,
            preset='search_sr',
            net=SMALL,
            size=64,
            crop=32,
            nimg=12,
            ticks=2,
            threads=1,
            pipe='torch',
            precision='fp32',
            search_from=0.3,
            arch_temperature=0.5,
            device='cpu',
        )
        | more
    )
    return [x for k, v in settings.items() for x in ('--' + k.replace('_', '-'), str(v))]


@pytest.fixture(scope='module')
def found(data, tmp_path_factory):
    out = tmp_path_factory.mktemp('runs') / 'whole'
    assert train.main(flags(data, out)) == 0
    return out


# ---- who learns from what ----


@pytest.mark.parametrize('count', [2, 7, 100])
def test_halves_are_disjoint_and_cover(count):
    weights, architecture = search.halves(list(range(count)))
    assert (
        sorted(weights + architecture) == list(range(count))
        and abs(len(weights) - len(architecture)) <= 1
    )
    with pytest.raises(ValueError, match='at least two images'):
        search.halves([1])


def configured(tmp_path, **more):
    return tasks.configure(flags('nowhere', tmp_path / 'none', **more))


def batch(seed=0, n=2, side=16):
    draw = torch.Generator().manual_seed(seed)
    x, y = (torch.rand(n, 3, side, side, generator=draw) for _ in range(2))
    return Batch(x, y, torch.arange(n), y)


def test_weights_and_architecture_take_turns(tmp_path):
    """On one half the weights alone move, on the other, later, the architecture alone."""
    config = configured(tmp_path)
    players = tasks.of(config).build(config, CPU)
    net, asked, turns = players.net, [], []
    searched = [any(p is a for a in (net.sr.alpha, net.sr.beta)) for p in net.parameters()]

    class Watched:
        """A stepper that takes note of which parameters have gradients, and which ones it moves."""

        def __init__(self, stepper):
            self.stepper = stepper
            self.backward = stepper.backward

        def step(self, lr):
            learns = [p.grad is not None for p in net.parameters()]
            before = [p.detach().clone() for p in net.parameters()]
            skipped = self.stepper.step(1e-2)
            moved = [not torch.equal(p, b) for p, b in zip(net.parameters(), before, strict=True)]
            turns.append((learns, moved))
            return skipped

    class Pipe:
        search_from, coldest = config.search.search_from, 0.5

        def __next__(self):
            return batch(0)

        def other(self, nimg):
            asked.append(nimg)
            return batch(1)

    watched = {n: p._replace(stepper=Watched(p.stepper)) for n, p in players.by_name.items()}
    players = players._replace(by_name=watched)
    weights = [not a for a in searched]
    for progress in (0.29, 0.3):
        step = Step(8, progress, 1e-2, 2, 1, autocast('fp32', 'cpu'), Alone())
        found = tasks.of(config).step(players, Pipe(), step).losses
        assert ('architecture_loss' in found) == (progress == 0.3) and 'loss' in found
    assert turns == [(weights, weights), (weights, weights), (searched, searched)]
    assert asked == [8] and all(p.requires_grad for p in net.parameters())


def test_the_architecture_is_trained_as_published(tmp_path):
    def players(**changed):
        config = schema.replace_options(configured(tmp_path), **changed)
        return tasks.of(config).build(config, CPU).by_name

    built = players()
    adam, sgd = (built[name].stepper.optimizer for name in ('architecture', 'net'))
    (group,), (of_weights,) = adam.param_groups, sgd.param_groups
    assert type(adam) is torch.optim.Adam and type(sgd) is torch.optim.SGD
    assert (group['betas'], group['weight_decay'], group['lr']) == ((0.9, 0.999), 1e-3, 1e-3)
    keys = 'momentum', 'weight_decay', 'lr'
    assert tuple(of_weights[k] for k in keys) == (0.9, 3e-4, 0.025)
    adam = players(optimizer='adam', betas=[0.5, 0.9])['net'].stepper.optimizer
    assert adam.param_groups[0]['betas'] == (0.5, 0.9)
    count = len(list(built['net'].net.parameters()))
    assert len(group['params']) == 2 and len(of_weights['params']) + 2 == count


def test_halves_feed_whoever_asks():
    """The architecture's first batch is that of the images seen when it was asked for, whatever
    came before.
    """
    made = []

    class Fake:
        def __init__(self, images, recipe, start):
            made.append(self)
            self.images, self.start, self.closed = images, start, False

        def __next__(self):
            self.start += 2
            return self.start - 2

        def close(self):
            self.closed = True

    with search.Halves(Fake, list('abcdefg'), None, 4) as pipe:
        assert [next(pipe), next(pipe), pipe.other(6), next(pipe), pipe.other(8)] == [4, 6, 6, 8, 8]
    assert [f.images for f in made] == [list('aceg'), list('bdf')] and all(f.closed for f in made)


@pytest.mark.parametrize('scale', [1, 4])
def test_validation_is_on_squares_of_the_size_trained_on(scale):
    gt = torch.arange(3 * 40 * 64).reshape(3, 40, 64)

    class One(list):
        def name(self, i):
            return 'a'

    middle = search.CenterCrop(One([('a', gt[:, ::scale, ::scale], gt)]), 16, scale)
    name, lq, truth = middle[0]
    assert (
        len(middle) == 1
        and middle.name(0) == name == 'a'
        and torch.equal(truth, gt[:, 12:28, 24:40])
        and torch.equal(lq, truth[:, ::scale, ::scale])
    )


# ---- what is found ----


def test_a_run_is_decoded_from_its_weights(found):
    weights = load_file(found / 'weights.safetensors')
    arch = json.loads((found / 'arch.json').read_text())
    cold = weights['sr.temperature']
    assert 0.5 <= cold < 1
    found_by = decode.decode(weights['sr.alpha'] / cold, weights['sr.beta'] / cold, 3)
    assert arch == {'sr': found_by}
    assert models.FRSNet(arch['sr'], 16, 4) and cv2.imread(str(found / 'path.png')).std() > 10


def test_a_run_tells_of_its_entropy(found):
    rows = [json.loads(line) for line in (found / 'log.jsonl').read_text().splitlines()]
    told = [r for r in rows if 'psnr' in r]
    assert all(
        0.9 < r['alpha_entropy'] <= 1 and 0.9 < r['beta_entropy'] <= 1 and len(r['path']) == 2
        for r in told
    )
    losses = [r for r in rows if 'loss' in r]
    assert 'architecture_loss' not in losses[0] and 'architecture_loss' in losses[-1]


def test_entropies_in_closed_form():
    net = models.AutoSR(8, 2)
    with torch.no_grad():
        net.alpha.zero_()
        net.beta.zero_()
        assert search.entropies(net) == pytest.approx((1, 1))
        net.alpha[:, 1] = 99
        net.beta[..., 1] = 99
        assert search.entropies(net) == pytest.approx((0, 0), abs=1e-6)
        net.alpha.zero_()
        net.alpha[:, :2] = 99  # two of four: half of the entropy
        net.beta.zero_()
        net.beta[0, 3, 1] = math.log(3)  # 1/4 and 3/4, at one of the three levels that are reached
        quarter = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75)) / math.log(2)
        assert search.entropies(net) == pytest.approx((0.5, (quarter + 2) / 3))


def test_the_temperature_falls():
    """1 while the weights learn alone, then by equal ratios to its end."""
    assert [search.temperature(p, 0.2, 0.01) for p in (0, 0.2)] == [1, 1]
    assert [search.temperature(p, 0.2, 0.01) for p in (0.4, 0.6, 1, 1.1)] == pytest.approx(
        [10**-0.5, 0.1, 0.01, 0.01]
    )
    assert search.temperature(0.7, 0.2, 1) == 1


def test_the_temperature_divides():
    """What is colder is what larger parameters would be: output, entropy, architecture."""
    torch.manual_seed(0)
    net, cold = models.AutoSR(8, 2), models.AutoSR(8, 2)
    with torch.no_grad():
        for parameter in (net.alpha, net.beta):
            parameter.normal_()
        cold.load_state_dict(net.state_dict())
        cold.temperature.fill_(0.25)
        for parameter in (net.alpha, net.beta):
            parameter *= 4
        x = torch.rand(1, 8, 2, 2)
        assert torch.allclose(net.eval()(x), cold.eval()(x), atol=1e-6)
    assert search.entropies(net) == pytest.approx(search.entropies(cold))
    assert net.architecture() == cold.architecture()


@pytest.mark.parametrize('arriving', [False, True])
def test_a_decided_search_has_an_entropy_of_zero(arriving):
    """Also where all other weights have become 0."""
    net = models.AutoSR(8, 2, arriving=arriving)
    with torch.no_grad():
        net.alpha[:, 2] = net.beta[..., 1] = 30
        if arriving:
            net.ends[3] = 30
        net.temperature.fill_(0.01)
    assert search.entropies(net) == pytest.approx((0, 0), abs=1e-6)


def test_all_that_is_searched_is_trained_as_such():
    """And nothing else is: the ends, too, where they are compared."""
    net = models.SEARCHES['search_sr'](width=16, growth=4, layers=2, arriving=True)
    weights, architecture = search.parts(net)
    searched = {id(p) for p in architecture.parameters()}
    assert searched == {id(p) for p in (net.sr.alpha, net.sr.beta, net.sr.ends)}
    assert searched.isdisjoint({id(p) for p in weights.parameters()})
    with torch.no_grad():
        for p in architecture.parameters():
            p.zero_()
        assert search.entropies(net.sr) == pytest.approx((1, 1), abs=0.1)
        net.sr.ends[2] = net.sr.beta[1, 3, 0] = 99
        assert search.entropies(net.sr) == pytest.approx((1, 0), abs=1e-6)


def test_a_run_ends_cold(data, tmp_path):
    out = tmp_path / 'cold'
    net = '{"width": 16, "growth": 4, "layers": 2, "arriving": true}'
    more = dict(arch_temperature=0.05, arch_lr=0.03, net=net)
    assert train.main(flags(data, out, **more)) == 0
    # The network's own temperature; that of its average is a little behind.
    own = load_file(max(out.glob('checkpoints/*')) / 'net.safetensors')
    assert 0.05 <= own['sr.temperature'].item() < 0.2
    weights = load_file(out / 'weights.safetensors')
    alpha, beta, ends = (weights[f'sr.{n}'] / weights['sr.temperature'] for n in SEARCHED)
    arch = json.loads((out / 'arch.json').read_text())
    assert arch == {'sr': decode.decode(alpha, beta, 3, ends)}


def test_resume_is_exact(found, data, tmp_path, monkeypatch):
    """Killed after the architecture's search began, with a checkpoint of every step."""

    class Killed(Exception):
        pass

    count, go = [], search.Halves.other

    def other(self, nimg):
        count.append(nimg)
        if len(count) == 3:
            raise Killed
        return go(self, nimg)

    argv = flags(data, tmp_path / 'run', save_minutes=1e-9)
    with monkeypatch.context() as m, pytest.raises(Killed):
        m.setattr(search.Halves, 'other', other)
        train.main(argv)
    assert checkpoint.latest(tmp_path / 'run').name == '000000008' and count == [4, 6, 8]
    assert train.main(argv) == 0
    for name in 'net', 'ema', 'architecture':
        one, two = (
            load_file(checkpoint.latest(out) / f'{name}.safetensors')
            for out in (found, tmp_path / 'run')
        )
        assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
    assert json.loads((tmp_path / 'run/arch.json').read_text()) == json.loads(
        (found / 'arch.json').read_text()
    )


@pytest.mark.parametrize('name', models.PAPER)
def test_every_architecture_can_be_drawn(name):
    torch.manual_seed(0)
    start = 3 if name == 'sr' else 0
    weights = decode.normalise(torch.randn(9, 4), torch.randn(6, 4, 3), start)
    drawing = lattice.figure(models.PAPER[name], *weights, start)
    path, cell, bars = drawing.axes
    line = next(line for line in path.lines if line.get_marker() == 'o')
    assert (
        list(line.get_ydata()) == [start, *models.PAPER[name]['path']] and len(bars.patches) == 36
    )
    assert sum(t.get_text() in decode.OPERATIONS for t in cell.texts) == 6


# ---- what follows from other options ----


@pytest.mark.parametrize('recipe, scale', [('mfps', 1), ('gfpgan', 4)])
def test_networks_have_the_scale_of_the_recipe(recipe, scale, tmp_path):
    for preset in 'frsnet', 'search_sr':
        c = configured(
            tmp_path, preset=preset, recipe=recipe, net='{}' if preset == 'frsnet' else SMALL
        )
        assert tasks.network(c).scale == c.network.net['scale'] == scale


def test_a_found_architecture_is_trained(found, data, tmp_path):
    c = configured(tmp_path, preset='frsnet', arch=found, net='{"width": 16, "growth": 4}')
    arch = json.loads((found / 'arch.json').read_text())['sr']
    assert (
        c.network.net['architecture'] == arch
        and tasks.network(c).sr.path.tolist() == arch['path']
        and c.search.arch is None
    )
    assert (
        configured(tmp_path, preset='frsnet', arch='paper', net='{}').network.net['architecture']
        == models.PAPER['sr']
    )


@pytest.mark.parametrize(
    'text, said',
    [
        ('no JSON', 'is no architecture'),
        ('{"eyes": 1}', 'no part eyes'),
        ('{"sr": {"path": [0], "cell": [[0, 1]]}}', 'beginning at level 3'),
        ('[]', 'is no architecture'),
    ],
)
def test_what_is_no_architecture_is_refused(text, said, tmp_path):
    (tmp_path / 'arch.json').write_text(text)
    with pytest.raises(RunError, match=said):
        configured(tmp_path, preset='frsnet', arch=tmp_path / 'arch.json', net='{}')


@pytest.mark.parametrize(
    'more, said',
    [
        (dict(preset='unet', net='{}', arch='paper'), 'is for frsnet, mfpsnet and search_fusion'),
        (dict(arch='nowhere'), 'cannot be read'),
        (dict(search_from=1), '--search-from 1.0'),
        (dict(preset='unet', net='{}', prior='x'), '--prior is for mfpsnet'),
        (dict(preset='mfpsnet', net='{}'), 'needs facial priors'),
        (dict(preset='mfpsnet', net='{}', prior='x'), 'no run of a parser'),
        (dict(preset='mfpsnet', net='{}', prior='eyes=x'), "unknown prior 'eyes'"),
        (dict(gan='vanilla', discriminator='unet_sn'), 'not for a search'),
        (dict(optimizer='muon'), '--optimizer muon'),
    ],
)
def test_what_does_not_fit_is_refused(more, said, tmp_path):
    if more.get('arch') == 'nowhere':
        more = dict(preset='frsnet', net='{}', arch=tmp_path / 'nowhere')
    with pytest.raises(RunError, match=said):
        configured(tmp_path, **more)
