"""Processes of one run: they compute what one does, and go on after the death of one.

Then the parts of the training room that a run of any size relies on: lock, soup, losses, hints.
"""

import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import sys
from types import SimpleNamespace

import cv2
import processes
import pytest
import torch
from safetensors.torch import load_file

import dali_pipes
import models
import synthetic
import train
from errors import RunError
from sources import manifest
from training import checkpoint, soup, watch
from training.lock import Lock
from training.world import World, first_on_gpu

SIZE = 64
# The smallest network with everything that counts here: strides, skips and an embedding.
NET = '{"width": [8, 16], "blocks": [[1], 1, [1]]}'
PSNR = SimpleNamespace(key='psnr', name='PSNR', unit='dB', fall=0.2)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Ten faces of 64 x 64."""
    folder = tmp_path_factory.mktemp('world')
    for i in range(10):
        cv2.imwrite(str(folder / f'{i}.png'), synthetic.face(i, SIZE).image[..., ::-1])
    return folder


# ---- processes ----


def ranks(folder, size, target, *args):
    """Start the processes of a run as torchrun does, each with target(*args)."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    started = []
    for rank in range(size):
        place = {
            'RANK': rank,
            'LOCAL_RANK': rank,
            'WORLD_SIZE': size,
            'LOCAL_WORLD_SIZE': size,
            'MASTER_ADDR': '127.0.0.1',
            'MASTER_PORT': port,
        }
        place = {name: str(value) for name, value in place.items()}
        started.append(processes.Process(folder / str(rank), as_rank, place, target, args))
    return started


def as_rank(place, target, args):
    """In the new process."""
    os.environ.update(place)
    sys.exit(target(*args))


def flags(data, out, **more):
    """A small command, 48 images long, whose average has left its ramp by then."""
    options = {
        'data': data,
        'val': 3,
        'out': out,
        'preset': 'unet',
        'net': NET,
        'recipe': 'gfpgan',
        'size': SIZE,
        'batch': 2,
        'nimg': 48,
        'ema': 4,
        'ticks': 3,
        'threads': 2,
        'pipe': 'torch',
        'precision': 'fp32',
    }
    options |= more
    return [x for k, v in options.items() for x in ('--' + k.replace('_', '-'), str(v))]


# ---- two processes are one ----


def write_gradients(data, batch, out):
    """The gradients of samples 12 to 15, whichever processes share them."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with World(torch.device('cpu')) as world:
        net = models.UNet(**json.loads(NET))
        forward = world.wrap(net)
        images = manifest.scan(str(data), size=SIZE, say=lambda _: None).images
        place = {'start': 12, 'rank': world.rank, 'world': world.size}
        with dali_pipes.make('torch', images, 'gfpgan', batch=batch, size=SIZE, **place) as pipe:
            batch = next(pipe)
        torch.nn.functional.l1_loss(forward(batch.input), batch.target).backward()
        samples = sorted(world.gather(batch.sample.tolist()))
        assert world.mean(torch.tensor(0.5 + world.rank)) == world.size / 2
        if world.main:
            gradients = {name: p.grad for name, p in net.named_parameters()}
            torch.save({'samples': samples, 'gradients': gradients}, out)


def test_two_processes_have_the_gradients_of_one(data, tmp_path):
    for size, batch in (1, 4), (2, 2):
        out = tmp_path / f'{size}.pt'
        for process in ranks(tmp_path / str(size), size, write_gradients, data, batch, out):
            assert process.wait() == 0, process.said
    one, two = (torch.load(tmp_path / f'{size}.pt') for size in (1, 2))
    assert one['samples'] == two['samples'] == [12, 13, 14, 15]
    for name, gradient in one['gradients'].items():
        assert (two['gradients'][name] - gradient).norm() <= 1e-5 * gradient.norm(), name


@pytest.fixture(scope='module')
def pair(data, tmp_path_factory):
    """A run of one process with batch 4, one of two with batch 2, and what each rank printed."""
    folder = tmp_path_factory.mktemp('runs')
    two = ranks(folder, 2, train.main, flags(data, folder / 'two'))
    assert train.main(flags(data, folder / 'one', batch=4)) == 0
    assert [rank.wait() for rank in two] == [0, 0], two[0].said
    return folder / 'one', folder / 'two', [rank.out for rank in two]


def train_by_another_clock(argv):
    """train.py in which every look at the clock takes 0.05 s, and ten times as long on rank 1."""
    moments = itertools.count()
    pace = 0.05 * (1 + 9 * int(os.environ['RANK']))
    train.time = SimpleNamespace(monotonic=lambda: pace * next(moments))
    return train.main(argv)


def test_processes_end_together_whatever_their_clocks(data, tmp_path):
    """What the last validations will take is set aside from --minutes: one reserve for all."""
    argv = [*flags(data, tmp_path / 'out', ticks=5), '--minutes', '0.08']
    at = argv.index('--nimg')
    del argv[at : at + 2]
    for process in ranks(tmp_path, 2, train_by_another_clock, argv):
        assert process.wait() == 0, process.said
    assert len(scores(tmp_path / 'out')) == 5


def scores(run):
    """(images, PSNR, SSIM) of each validation of a run."""
    rows = map(json.loads, (run / 'log.jsonl').read_text().splitlines())
    return [(row['nimg'], row['psnr'], row['ssim']) for row in rows if 'psnr' in row]


def losses_of(run):
    """The losses that a run has logged."""
    rows = map(json.loads, (run / 'log.jsonl').read_text().splitlines())
    return [row['loss'] for row in rows if 'loss' in row]


def final(run, name):
    """All weights of the newest checkpoint in a row: 'net', or their average 'ema'."""
    stored = load_file(checkpoint.latest(run) / f'{name}.safetensors')
    return torch.cat([stored[key].flatten() for key in sorted(stored)])


def close(a, b):
    """Whether two runs have the same scores, the same weights and the same average of them.

    Adam magnifies float32's rounding where gradients are near zero, so bits are not compared. The
    scores of so short a run hardly move; its weights do. What they may differ by is a hundredth of
    the way from the average to the weights: rounding is a thousandth of it, an average with twice
    the horizon is twice the way off.
    """
    pairs = zip(scores(a), scores(b), strict=True)
    way = (final(a, 'net') - final(a, 'ema')).norm()
    apart = [(final(a, name) - final(b, name)).norm() for name in ('net', 'ema')]
    return all(x == pytest.approx(y, abs=0.02) for x, y in pairs) and max(apart) <= 0.01 * way


def test_a_run_of_two_is_a_run_of_one(pair):
    """Validation is shared, and the log written once."""
    one, two, (first, second) = pair
    assert [nimg for nimg, *_ in scores(one)] == [16, 32, 48]
    assert close(one, two)
    assert 'PSNR' in first and 'fp32 on cpu x 2' in first and not second


def test_accumulation_is_a_larger_batch(pair, data, tmp_path):
    assert train.main(flags(data, tmp_path / 'out', batch=2, accumulate=2)) == 0
    assert close(pair[0], tmp_path / 'out')
    assert losses_of(tmp_path / 'out') == pytest.approx(losses_of(pair[0]), rel=1e-3)


def test_two_that_accumulate_are_one(pair, data, tmp_path):
    command = flags(data, tmp_path / 'out', batch=1, accumulate=2)
    started = ranks(tmp_path, 2, train.main, command)
    assert [rank.wait() for rank in started] == [0, 0], started[0].said
    assert close(pair[0], tmp_path / 'out')


# ---- one of two dies ----


def checkpoints(out):
    """Images of the checkpoints of a run, oldest first."""
    return sorted(int(path.name) for path in out.glob('checkpoints/*') if path.name.isdigit())


def test_a_rank_that_dies_ends_the_run_and_the_command_resumes(data, tmp_path):
    out = tmp_path / 'out'
    command = flags(data, out, nimg=4000, ticks=200)

    # Killed after the first checkpoint of two hundred; the other process notices by itself.
    main, victim = ranks(tmp_path / 'first', 2, train.main, command)
    processes.wait_for(main, lambda: checkpoints(out))
    victim.send_signal(signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL
    assert main.wait() == 1 and 'another process of this run has ended' in main.err, main.said
    assert 'The same command goes on from the last checkpoint' in main.err
    assert not (out / 'weights.safetensors').exists()

    # The same command goes on from the last checkpoint, and stops when it is asked to.
    last = checkpoints(out)[-1]
    again = ranks(tmp_path / 'again', 2, train.main, command)
    processes.wait_for(again[0], lambda: 'resumed at' in again[0].out)
    again[1].send_signal(signal.SIGTERM)
    assert [process.wait() for process in again] == [143, 143]
    assert f'resumed at {last:,} images' in again[0].out
    assert 'stopped by another process' in again[0].out and checkpoints(out)[-1] >= last


# ---- what all must have alike, and who tells of what is wrong ----


def train_by_rank(commands):
    """train.py by the command of this rank."""
    return train.main(commands[int(os.environ['RANK'])])


def told(folder, *commands):
    """[(exit status, what it says on stderr)] of two processes that end by themselves."""
    started = ranks(folder, 2, train_by_rank, commands)
    return [(process.wait(), process.err) for process in started]


def test_processes_with_other_data_do_not_begin(data, tmp_path):
    shutil.copytree(data, tmp_path / 'less')
    (tmp_path / 'less/9.png').unlink()
    out = tmp_path / 'out'
    first, second = told(tmp_path, flags(data, out), flags(tmp_path / 'less', out))
    assert first[0] == second[0] == 2 and not (out / 'config.json').exists()
    assert 'train.py' not in second[1]
    assert 'rank 1 of 2 begins with something else than rank 0: the files of --data' in first[1]


def test_processes_on_disks_of_their_own_do_not_go_on(pair, data, tmp_path):
    """One finds a checkpoint, the other none."""
    shutil.copytree(pair[1], tmp_path / 'run')
    here, there = told(
        tmp_path, flags(data, tmp_path / 'run'), flags(data, tmp_path / 'another disk')
    )
    assert here[0] == there[0] == 2
    assert 'the checkpoint to go on from, of --out is none, of rank 0 000000048' in here[1]


def test_who_alone_meets_a_mistake_tells_of_it(data, tmp_path):
    command = flags(data, tmp_path / 'out')
    first, second = told(tmp_path, command, flags(tmp_path / 'nowhere', tmp_path / 'out'))
    assert second[0] == 2 and 'rank 1 of 2: ' in second[1] and 'nowhere' in second[1]
    assert first[0] == 1 and 'another process of this run has ended' in first[1]
    assert 'last checkpoint' not in first[1] and '.cc:' not in first[1]


def test_what_all_meet_is_told_once(data, tmp_path):
    command = flags(data, tmp_path / 'out', preset='search_sr', net='{"width": 8}')
    first, second = told(tmp_path, command, command)
    assert first[0] == second[0] == 2
    assert 'a search runs in one process' in first[1] and 'train.py' not in second[1]


def judge_statistics(out):
    """Statistics of batches that differ, before and after all are given those of rank 0."""
    with World(torch.device('cpu')) as world:
        net = torch.nn.BatchNorm2d(3)
        net.running_mean.fill_(world.rank)
        world.spread(net.buffers())
        means = world.gather(net.running_mean.tolist())
        if world.main:
            torch.save(means, out)


def test_one_network_is_judged(tmp_path):
    for process in ranks(tmp_path, 2, judge_statistics, tmp_path / 'means.pt'):
        assert process.wait() == 0, process.said
    assert torch.load(tmp_path / 'means.pt') == [0.0] * 6


def use_published_network():
    """Two steps of a network that has weights which it does not use."""
    with World(torch.device('cpu')) as world:
        net = models.FRSNet(scale=1, spare=True)
        forward = world.wrap(net)
        for _ in range(2):
            forward(torch.rand(1, 3, 16, 16)).mean().backward()


def test_weights_that_are_not_used_keep_nobody_waiting(tmp_path):
    for process in ranks(tmp_path, 2, use_published_network):
        assert process.wait() == 0, process.said


# ---- lock ----


class FakeStream:
    """Notes for whom it waits."""

    def __init__(self, device=None, priority=0):
        self.priority, self.waited = priority, []

    def wait_stream(self, other):
        self.waited.append(other)


def test_training_goes_before_other_streams(monkeypatch):
    """On a GPU; it begins after what was queued before, and what follows waits for it."""
    before, entered = FakeStream(), []

    @contextlib.contextmanager
    def stream(s):
        entered.append(s)
        yield

    monkeypatch.setattr(torch.cuda, 'current_stream', lambda device: before)
    monkeypatch.setattr(torch.cuda, 'Stream', FakeStream)
    monkeypatch.setattr(torch.cuda, 'stream', stream)
    with first_on_gpu(torch.device('cpu')):
        assert not entered
    with first_on_gpu(torch.device('cuda', 0)):
        (own,) = entered
        assert own.priority < before.priority and own.waited == [before] and not before.waited
    assert before.waited == [own]


def test_lock(tmp_path):
    """It keeps another process out, names the owner, and is free again afterwards."""
    with Lock(tmp_path / 'run'):
        process = processes.Process(tmp_path / 'other', Lock, tmp_path / 'run')
        assert process.wait() == 1
        assert f'is in use by process {os.getpid()}' in process.err
    Lock(tmp_path / 'run').close()
    (tmp_path / 'file').write_text('')
    with pytest.raises(RunError, match='cannot be written'):
        Lock(tmp_path / 'file')


# ---- soup ----

LIKE = {'x': torch.zeros(1)}


def test_soup_takes_what_helps(tmp_path):
    """Weights are numbers here, and the score is their distance to 3.

    2.5 is best alone, with 4 it becomes 3.25, and 9 does not help; 10 was never good enough.
    """

    def score(weights):
        return -abs(float(weights['x']) - 3)

    for nimg, x in (10, 10.0), (20, 2.5), (30, 4.0), (40, 9.0):
        soup.save_candidate(tmp_path, nimg, {'x': torch.tensor([x])}, score({'x': x}), 3)
    assert sorted(n for _, n, _ in soup.candidates(tmp_path)) == [20, 30, 40]
    weights, parts, best = soup.greedy_soup(tmp_path, LIKE, score)
    assert parts == [20, 30] and float(weights['x']) == 3.25 and best == -0.25
    soup.forget_after(tmp_path, 25)
    assert [n for _, n, _ in soup.candidates(tmp_path)] == [20]
    assert soup.greedy_soup(tmp_path / 'none', LIKE, score) is None


def test_the_choice_sees_even_images_only(tmp_path):
    """The odd ones judge what was chosen."""
    halves, net = [], torch.nn.Linear(1, 1)

    class Scored:
        def value(self, half=slice(None)):
            halves.append(half)
            return float(len(halves))

    for nimg in 8, 16:
        soup.save_candidate(tmp_path, nimg, net.state_dict(), nimg, 3)
    training = SimpleNamespace(
        config=None,
        out=tmp_path,
        first='x',
        sets={'x': range(4)},
        ema=SimpleNamespace(net=net),
        world=SimpleNamespace(device='cpu'),
        task=SimpleNamespace(averages=lambda _: True, validate=lambda *_: Scored()),
    )
    train.average_of_best(training, Scored())
    assert halves and all(half == train.EVEN for half in halves)


# ---- losses ----


def scalar(value):
    return torch.tensor(float(value))


def test_losses_are_smoothed_and_give_up():
    notes = []
    meter = watch.LossMeter(4, 3, notes.append)

    # The means of the two finite steps; the third is reported with its samples.
    for i, (loss, skipped) in enumerate([(1, 0), (3, 0), ('nan', 1)]):
        losses = {'loss': scalar(loss), 'gan': 2 * scalar(loss)}
        meter.add(4 * i + 4, losses, scalar(skipped))
    assert meter.read() == {'loss': 2.0, 'gan': 4.0} and len(meter) == 0
    assert notes == [{'skipped': 'nan', 'nimg': 8, 'samples': [8, 11]}]

    # Two more are three in a row.
    meter.add(16, {'loss': scalar('inf')}, scalar(1))
    meter.add(20, {'loss': scalar('inf')}, scalar(1))
    message = (
        '3 steps in a row had no finite gradient; '
        r'the last loss is inf at image 20 \(samples 16 to 19\)'
    )
    with pytest.raises(RunError, match=message):
        meter.read()


def test_a_row_of_the_log_is_the_mean_of_its_steps():
    """Of all its steps, however they were read; a term that came later has a mean of its own."""
    meter = watch.LossMeter(1, 3, lambda row: None)
    steps = [5.0, 1.0, float('nan'), 2.0, 8.0, 4.0]
    for i, loss in enumerate(steps):
        losses = {'loss': scalar(loss)}
        if i > 2:
            losses['gan'] = scalar(loss)
        meter.add(i, losses, scalar(loss != loss))
        if i in (0, 3, 5):
            meter.read()
        if i == 3:
            assert meter.take_means() == {'loss': 8 / 3, 'gan': 2.0}
    assert meter.take_means() == {'loss': 6.0, 'gan': 6.0}
    assert meter.take_means() == {}


# ---- hints ----


def hints(rows, wait=0.0, skipped=0):
    numbered = [{'nimg': i} | row for i, row in enumerate(rows)]
    return watch.hints(numbered, wait, skipped, PSNR)


def test_hints():
    rows = [{'psnr': p} for p in (26.0, 26.5, 26.4, 26.1)]
    assert hints(rows[:3], wait=0.04) == {}
    beginnings = {k: h.split(':')[0] for k, h in hints(rows, wait=0.2, skipped=2).items()}
    assert beginnings == {
        'data': 'the network waits for data 20% of the time',
        'validation': 'validation fell from 26.50 to 26.10 dB',
        'skipped': '2 steps had no finite gradient and were skipped',
    }


@pytest.mark.parametrize(
    'share, message',
    [
        (0.54, 'the discriminator is right on 54% of its pictures, the generator fools it'),
        (0.96, 'the discriminator is right on 96% of its pictures, the generator can learn little'),
    ],
)
def test_hint_on_a_discriminator_out_of_balance(share, message):
    rows = [{'gan': 0.1, 'd_accuracy': share}] * 10
    assert hints(rows)['level'].startswith(message)


def test_no_hint_on_a_discriminator_too_early():
    """A single row out of the band; too few rows; no generator that listens yet."""
    row = {'gan': 0.1, 'd_accuracy': 0.6}
    assert 'level' not in hints([row] * 9 + [row | {'d_accuracy': 0.3}])
    assert 'level' not in hints([row | {'d_accuracy': 0.5}] * 9)
    assert 'level' not in hints([{'d_accuracy': 1.0}] * 20)


def test_no_hint_on_a_loss_that_rises_because_the_generator_listens():
    row = {'loss': 0.1, 'd_accuracy': 0.7}
    rows = [row | {'psnr': 27.0 - i} for i in range(30)]
    for listening in rows[15:]:
        listening.update(loss=0.2, gan=0.1)
    assert hints(rows) == {}


def test_hint_on_a_rising_loss():
    assert hints([{'loss': 0.1 - 0.001 * i} for i in range(30)]) == {}
    rising = [{'loss': 0.1}] * 15 + [{'loss': 0.14}] * 15
    message = 'the loss rose from 0.1000 to 0.1400: the learning rate is too high'
    assert hints(rising)['rate'].startswith(message)
