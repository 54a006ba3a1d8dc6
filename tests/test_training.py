"""Averages and schedules against closed forms; the log after kills; pictures pixel by pixel."""

import copy
import functools
import io
import math
import os

import cv2
import numpy as np
import pytest
import torch
from torch import nn

import models
from training import pictures
from training.ema import EMA
from training.log import Log, Progress
from training.schedule import SCHEDULES, lr

# ---- EMA ----


def test_ema_closed_form():
    """Against the recursion in float64, across the ramp and beyond it."""
    net = nn.Linear(3, 2)
    ema = EMA(net, horizon=40)
    expected = net.weight.detach().double().clone()
    for n in range(60):
        with torch.no_grad():
            net.weight.copy_(torch.randn(2, 3, generator=torch.Generator().manual_seed(n)))
        ema.update(net, batch=8)
        decay = min(math.exp(-8 / 40), (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * net.weight.detach().double()
    assert math.exp(-8 / 40) < 60 / 69  # the ramp was left behind
    assert torch.allclose(ema.net.weight.double(), expected, atol=1e-6) and ema.n == 60


def test_ema_horizon_is_in_images():
    """Past the ramp, one update of twice the batch forgets as much as two updates."""
    whole, halves = (EMA(nn.Linear(1, 1), horizon=100) for _ in range(2))
    target = nn.Linear(1, 1)
    for ema in (whole, halves):
        ema.n = 10_000
        nn.init.ones_(ema.net.weight)
    nn.init.zeros_(target.weight)
    whole.update(target, 16)
    halves.update(target, 8)
    halves.update(target, 8)
    assert whole.net.weight.item() == pytest.approx(math.exp(-0.16))
    assert halves.net.weight.item() == pytest.approx(math.exp(-0.16))


def test_ema_net():
    """Float32 whatever the network is in, evaluation mode, same layout, no gradients.

    Running statistics are averaged, counters copied.
    """
    net = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8))
    net = net.to(memory_format=torch.channels_last).bfloat16()
    ema = EMA(net, horizon=100)
    net[1].running_mean.fill_(3)
    net[1].num_batches_tracked.fill_(7)
    ema.update(net, 4)
    conv, norm = ema.net
    assert conv.weight.dtype == torch.float32
    assert conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert not ema.net.training and net.training
    assert not any(p.requires_grad for p in ema.net.parameters())
    assert all(p.requires_grad for p in net.parameters())
    assert torch.allclose(norm.running_mean, torch.tensor(0.9 * 3))
    assert norm.num_batches_tracked == 7


def spectral_norm(matrix):
    return torch.linalg.matrix_norm(matrix.flatten(1), 2).item()


def test_ema_follows_spectral_norms():
    """Of the average's weights, not of the network's.

    Its layers have a largest singular value of 1, though their vectors were never the network's.
    """
    torch.manual_seed(0)
    conv = models.SpectralConv2d(6, 8, 3)
    net = nn.Sequential(conv, nn.BatchNorm2d(8))
    ema = EMA(net, horizon=8)
    other = copy.deepcopy(conv.weight_orig)
    nn.init.normal_(other)

    # Back and forth, so that the average lies between.
    for n in range(200):
        with torch.no_grad():
            conv.weight_orig.copy_(other if n % 2 else -other + n / 100)
        conv.train()(torch.zeros(1, 6, 3, 3))
        net[1].running_mean.fill_(n)
        ema.update(net, 1)
    averaged = ema.net[0]
    assert spectral_norm(averaged.weight()) == pytest.approx(1, abs=0.02)

    # The vectors of the network would not have done.
    weight = averaged.weight_orig.detach()
    sigma = torch.dot(conv.weight_u, weight.flatten(1) @ conv.weight_v)
    assert spectral_norm(weight / sigma) > 1.1
    # 0 to 199, averaged over that horizon.
    assert ema.net[1].running_mean[0].item() == pytest.approx(191.4896, abs=1e-3)


def test_ema_resumes():
    net = nn.Linear(4, 4)
    one, two = EMA(net, 50), EMA(nn.Linear(4, 4), 50)
    for n in range(5):
        nn.init.normal_(net.weight, generator=torch.Generator().manual_seed(n))
        if n == 3:
            two.load_state_dict(one.state_dict())
        one.update(net, 8)
        if n >= 3:
            two.update(net, 8)
    assert torch.equal(one.net.weight, two.net.weight) and one.n == two.n == 5


# ---- schedule ----


def test_lr_closed_forms():
    base, warm, floor = 2e-4, 0.04, 1e-7
    at = functools.partial(lr, base=base, warmup=warm, floor=floor)
    assert at(0) == floor and at(1) == pytest.approx(floor)
    assert at(warm) == base
    assert at(warm / 4) == pytest.approx(floor + (base - floor) / 4)
    assert at((1 + warm) / 2) == pytest.approx((base + floor) / 2)
    assert at(1.01) == at(1)  # the last batch may overshoot
    assert lr(0, base, warmup=0) == base


@pytest.mark.parametrize('kind', SCHEDULES)
def test_every_schedule_warms_up_and_may_end_in_a_tail(kind):
    at = functools.partial(lr, base=1e-3, kind=kind, warmup=0.1, floor=0, tail=0.2)
    assert at(0) == 0 and at(0.05) == pytest.approx(5e-4) and at(0.1) == pytest.approx(1e-3)
    assert at(0.8) == pytest.approx(0.02 * 1e-3)
    assert at(0.9) == pytest.approx(0.01 * 1e-3)
    assert at(1) == pytest.approx(0)


def stepped(scheduler, optimizer, steps):
    """Learning rates of one of torch's schedulers, step by step."""
    for _ in range(steps):
        yield scheduler.get_last_lr()[0]
        optimizer.step()
        scheduler.step()


@pytest.fixture
def optimizer():
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1e-3)


def test_lr_is_torch_multistep(optimizer):
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [25, 40], gamma=0.5)
    for step, rate in enumerate(stepped(scheduler, optimizer, 50)):
        ours = lr(step / 50, 1e-3, 'multistep', warmup=0, milestones=(0.5, 0.8))
        assert ours == pytest.approx(rate, rel=1e-6)
    assert lr(0.7, 1e-3, 'constant', warmup=0) == 1e-3


def test_lr_is_torch_linear(optimizer):
    """Thirty epochs of one rate, then twenty down to 0, as HiFaceGAN was trained."""
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: 1 - max(0, n - 30) / 20)
    for epoch, rate in enumerate(stepped(scheduler, optimizer, 51)):
        ours = lr(epoch / 50, 1e-3, 'linear', warmup=0, floor=0, milestones=[0.6])
        assert ours == pytest.approx(rate, abs=1e-12)


def test_lr_is_torch_cosine(optimizer):
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50, eta_min=1e-7)
    for step, rate in enumerate(stepped(scheduler, optimizer, 51)):
        assert lr(step / 50, 1e-3, warmup=0) == pytest.approx(rate, rel=1e-6)


def test_lr_restarts():
    """BasicSR's CosineAnnealingRestartLR, iteration by iteration."""
    periods, weights, low = (30, 30, 40), (1, 0.5, 0.25), 1e-7
    at = functools.partial(lr, base=2e-4, kind='restarts', warmup=0, floor=low)
    for i in range(100):
        k = min(i // 30, 2)
        share = (i - sum(periods[:k])) / periods[k]
        expected = low + weights[k] * 0.5 * (2e-4 - low) * (1 + math.cos(math.pi * share))
        ours = at(i / 100, periods=periods, weights=weights)
        assert ours == pytest.approx(expected, rel=1e-6, abs=1e-12)

    # The last weight counts for all periods that follow.
    halves = functools.partial(lr, base=1, kind='restarts', warmup=0, weights=(0.5,))
    assert halves(0.61, periods=(1, 1)) == pytest.approx(halves(0.11, periods=(1, 1)))


def test_lr_refuses():
    for bad in (
        {'progress': -0.1},
        {'warmup': 1.0},
        {'warmup': 0.5, 'tail': 0.5},
        {'periods': (1, 0)},
        {'kind': 'exponential'},
        {'kind': 'linear', 'milestones': (0.9,), 'tail': 0.2},
        {'kind': 'linear', 'milestones': (0.01,)},
        {'kind': 'linear', 'milestones': (1.0,)},
    ):
        with pytest.raises(ValueError, match='lr: '):
            lr(**{'progress': 0.5, 'base': 1e-3} | bad)


# ---- log ----


def test_log_survives_a_torn_line_and_rewinds(tmp_path):
    log = Log(tmp_path / 'run')
    assert log.read() == []
    rows = [{'nimg': n, 'loss': n / 7} for n in range(8, 80, 8)]
    for row in rows:
        log.append(row)
        assert log.read()[-1] == row  # on disk at once
    log.close()
    with open(log.path, 'a') as f:
        f.write('{"nimg": 80, "lo')  # killed here
    assert Log(tmp_path / 'run').read() == rows
    log = Log(tmp_path / 'run')
    log.rewind(40)
    assert log.read() == rows[:5]
    log.append({'nimg': 48, 'loss': 1.0})
    assert log.read() == rows[:5] + [{'nimg': 48, 'loss': 1.0}]
    log.rewind(16)  # with the file open
    log.append({'nimg': 24})
    assert [row['nimg'] for row in log.read()] == [8, 16, 24]


@pytest.mark.parametrize('content, kept', [('{"nimg": 8}\n{"ni', [8]), ('{"ni', []), ('', [])])
def test_log_drops_a_torn_line_before_it_appends(tmp_path, content, kept):
    (tmp_path / 'log.jsonl').write_text(content)
    log = Log(tmp_path)
    log.append({'nimg': 16})
    log.close()
    assert [row['nimg'] for row in log.read()] == [*kept, 16]


@pytest.mark.parametrize('line', ['rubbish', '{"nimg": "8"}', '[1]', '{"nimg": NaN}', '\xff'])
def test_log_leaves_out_and_names_a_bad_line(tmp_path, line):
    text = f'{{"nimg": 8}}\n{line}\n{{"nimg": 16}}\n'
    (tmp_path / 'log.jsonl').write_text(text, encoding='latin-1')
    with pytest.warns(UserWarning, match=r'log.jsonl: line 2 \(.*left out'):
        assert [row['nimg'] for row in Log(tmp_path).read()] == [8, 16]


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.mark.parametrize('force', [False, True])
def test_progress_in_a_file(monkeypatch, force):
    """4 images every 1/8 s, a fifth of it waiting: 32 img/s, 20 %, and a line every 10 s."""
    if force:
        monkeypatch.setenv('FORCE_COLOR', '1')  # as some build services set it
    clock, out = Clock(), io.StringIO()
    with Progress(total=8000, start=400, stream=out, clock=clock) as progress:
        for step in range(1, 502):
            clock.now += 0.125
            progress.update(400 + 4 * step, waited=0.025, loss=torch.tensor(0.125), lr=1e-3)
            if step == 200:
                progress.update(400 + 4 * step, psnr=28.5)
    lines = out.getvalue().splitlines()
    assert len(lines) == 8  # after steps 1, 81, 161, 241, ..., 481, and at the end
    assert lines[3] == (
        '1,364 images  17.1 %  32.0 img/s  data 20.0 %  '
        'loss 0.1250  lr 1.0e-03  PSNR 28.50  left 0:03:27'
    )
    assert '\r' not in out.getvalue() and '\x1b' not in out.getvalue()


def test_progress_by_time():
    """A run that ends by the clock: the share done says how long it lasts."""
    clock = Clock()
    progress = Progress(stream=io.StringIO(), clock=clock)
    for step in range(1, 101):
        clock.now += 0.5
        progress.update(8 * step, share=0.5 * step / 60)
    expected = {'rate': pytest.approx(16), 'wait': 0, 'left': pytest.approx(10)}
    assert progress.figures() == expected


def test_progress_on_a_terminal(monkeypatch):
    """One line, redrawn: the cursor goes back to its start, and no newline before the end."""
    monkeypatch.setenv('TERM', 'xterm')

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    clock, out = Clock(), Terminal()
    with Progress(total=100, stream=out, clock=clock) as progress:
        for step in range(1, 11):
            clock.now += 1
            progress.update(10 * step)
    written = out.getvalue()
    assert written.count(' images') >= 10
    assert written.count('\r') >= 9 and written.count('\n') <= 2


# ---- pictures ----


def test_strip(tmp_path):
    """Every picture stands where it should, the small one with its pixels repeated."""
    g = torch.Generator().manual_seed(0)
    rows = []
    for _ in range(2):
        shapes = [(3, side, side) for side in (16, 64, 64, 64)]
        rows.append([torch.randint(0, 256, s, dtype=torch.uint8, generator=g) for s in shapes])
    path = tmp_path / 'deep' / 'strip.png'
    pictures.strip(path, rows, psnr=[(None, 27.0, 28.5), (None, 26.0, 27.0)])
    sheet = cv2.imread(str(path))[..., ::-1]
    band, gap = 26, 4
    assert sheet.shape == (2 * (64 + band) + gap, 4 * 64 + 3 * gap, 3)
    for r, row in enumerate(rows):
        for c, pixels in enumerate(row):
            y, x = r * (64 + band + gap) + band, c * (64 + gap)
            times = 64 // pixels.shape[1]
            expected = pixels.permute(1, 2, 0).numpy().repeat(times, 0).repeat(times, 1)
            assert np.array_equal(sheet[y : y + 64, x : x + 64], expected)
            assert sheet[y - band : y, x : x + 64].min() < 128  # a label stands above it
    assert os.listdir(tmp_path / 'deep') == ['strip.png']


def test_strip_without_a_truth(tmp_path):
    """And with figures of more pictures than are shown."""
    row = [torch.zeros(3, 64, 64, dtype=torch.uint8)] * 3
    pictures.strip(tmp_path / 'strip.png', [row], psnr=[(None, 27.0, 28.5)] * 5)
    assert cv2.imread(str(tmp_path / 'strip.png')).shape == (64 + 26, 3 * 64 + 2 * 4, 3)


LOG_ROWS = [
    *({'nimg': 8 * n, 'loss': 1 / n, 'lr': 1e-3} for n in range(1, 50)),
    *({'nimg': 100 * n, 'psnr': 27 + n / 10, 'bicubic': 26.5} for n in range(4)),
    {'nimg': 400, 'psnr': float('inf'), 'loss': None},
]


def drawn(path, rows):
    pictures.curves(path, rows)
    return cv2.imread(str(path))


def test_curves(tmp_path):
    full = drawn(tmp_path / 'full.png', LOG_ROWS)
    empty = drawn(tmp_path / 'empty.png', [])
    drawn(tmp_path / 'one.png', LOG_ROWS[:1])
    assert full.shape == empty.shape and (full != empty).any()
    assert sorted(os.listdir(tmp_path)) == ['empty.png', 'full.png', 'one.png']


def judgements(share):
    return [{'nimg': 8 * n, 'd_accuracy': share} for n in range(1, 50)]


def test_curves_of_a_gan(tmp_path):
    """One panel more: a line at what the discriminator is right on, and nothing else differs."""
    low, high = (
        drawn(tmp_path / f'{share}.png', [*LOG_ROWS, *judgements(share)]) for share in (0.5, 0.9)
    )
    assert low.shape == high.shape
    assert low.shape[0] > drawn(tmp_path / 'plain.png', LOG_ROWS).shape[0]
    changed = np.flatnonzero((low != high).any((1, 2)))
    assert 0 < len(changed) < 20 and np.ptp(changed) > 50


def test_smoothing_of_a_constant_and_a_step():
    assert np.allclose(pictures.smooth(np.full(500, 0.3)), 0.3)
    step = pictures.smooth(np.repeat([1.0, 0.0], 500))
    assert step[499] == pytest.approx(1)
    assert step[519] == pytest.approx((1 - 1 / 20) ** 20, rel=1e-3)
