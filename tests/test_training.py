"""Averages and schedules against closed forms; the log after kills and resumes; pictures pixel by pixel."""

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
    mine = net.weight.detach().double().clone()
    for n in range(60):
        with torch.no_grad():
            net.weight.copy_(torch.randn(2, 3, generator=torch.Generator().manual_seed(n)))
        ema.update(net, batch=8)
        d = min(math.exp(-8 / 40), (1 + n) / (10 + n))
        mine = d * mine + (1 - d) * net.weight.detach().double()
    assert math.exp(-8 / 40) < 60 / 69  # the ramp was left behind
    assert torch.allclose(ema.net.weight.double(), mine, atol=1e-6) and ema.n == 60


def test_ema_horizon_is_in_images():
    """Past the ramp, twice the batch forgets as fast as two updates."""
    a, b = (EMA(nn.Linear(1, 1), horizon=100) for _ in range(2))
    target = nn.Linear(1, 1)
    for ema in (a, b):
        ema.n = 10_000
        nn.init.ones_(ema.net.weight)
    nn.init.zeros_(target.weight)
    a.update(target, 16)
    b.update(target, 8)
    b.update(target, 8)
    assert (
        a.net.weight.item() == pytest.approx(math.exp(-0.16)) == pytest.approx(b.net.weight.item())
    )


def test_ema_net():
    """Averaged in float32 whatever the network is in, evaluation mode, same layout; running statistics are averaged, counters copied; no gradients."""
    net = (
        nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8))
        .to(memory_format=torch.channels_last)
        .bfloat16()
    )
    ema = EMA(net, horizon=100)
    net[1].running_mean.fill_(3)
    net[1].num_batches_tracked.fill_(7)
    ema.update(net, 4)
    assert ema.net[0].weight.dtype == torch.float32 and ema.net[0].weight.is_contiguous(
        memory_format=torch.channels_last
    )
    assert not ema.net.training and net.training
    assert not any(p.requires_grad for p in ema.net.parameters()) and all(
        p.requires_grad for p in net.parameters()
    )
    assert (
        torch.allclose(ema.net[1].running_mean, torch.tensor(0.9 * 3))
        and ema.net[1].num_batches_tracked == 7
    )


def test_ema_follows_spectral_norms():
    """Of the average's weights, not of the network's: its layers have a largest singular value of 1, though their vectors were never the network's."""
    torch.manual_seed(0)
    conv = models.discriminators.SpectralConv2d(6, 8, 3)
    net = nn.Sequential(conv, nn.BatchNorm2d(8))
    ema, other = EMA(net, horizon=8), copy.deepcopy(conv.weight_orig)
    nn.init.normal_(other)
    for n in range(200):  # back and forth: the average lies between
        with torch.no_grad():
            conv.weight_orig.copy_(other if n % 2 else -other + n / 100)
        conv.train()(torch.zeros(1, 6, 3, 3))
        net[1].running_mean.fill_(n)
        ema.update(net, 1)
    mine = ema.net[0]
    assert torch.linalg.matrix_norm(mine.weight().flatten(1), 2).item() == pytest.approx(
        1, abs=0.02
    )
    assert (
        torch.linalg.matrix_norm(
            (
                mine.weight_orig
                / torch.dot(conv.weight_u, mine.weight_orig.flatten(1) @ conv.weight_v)
            ).flatten(1),
            2,
        )
        > 1.1
    )
    assert ema.net[1].running_mean[0].item() == pytest.approx(
        191.4896, abs=1e-3
    )  # of 0 to 199 at that horizon


def test_ema_resumes():
    net = nn.Linear(4, 4)
    one, two = EMA(net, 50), EMA(nn.Linear(4, 4), 50)
    for n in range(5):
        nn.init.normal_(net.weight, generator=torch.Generator().manual_seed(n))
        if n == 3:
            two.load_state_dict(one.state_dict())
        for ema in (one, two)[: 1 if n < 3 else 2]:
            ema.update(net, 8)
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
    assert (
        at(0.8) == pytest.approx(0.02 * 1e-3)
        and at(0.9) == pytest.approx(0.01 * 1e-3)
        and at(1) == pytest.approx(0)
    )


def test_lr_is_torch_multistep():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1e-3)
    steps = torch.optim.lr_scheduler.MultiStepLR(optimizer, [25, 40], gamma=0.5)
    for step in range(50):
        assert lr(step / 50, 1e-3, 'multistep', warmup=0, milestones=(0.5, 0.8)) == pytest.approx(
            steps.get_last_lr()[0], rel=1e-6
        )
        optimizer.step()
        steps.step()
    assert lr(0.7, 1e-3, 'constant', warmup=0) == 1e-3


def test_lr_is_torch_linear():
    """Thirty epochs of one rate, then twenty down to 0, as HiFaceGAN was trained."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1e-3)
    steps = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1 - max(0, epoch - 30) / 20)
    for epoch in range(51):
        assert lr(epoch / 50, 1e-3, 'linear', warmup=0, floor=0, milestones=[0.6]) == pytest.approx(
            steps.get_last_lr()[0], abs=1e-12
        )
        optimizer.step()
        steps.step()


def test_lr_restarts():
    """BasicSR's CosineAnnealingRestartLR, iteration by iteration: periods 30, 30, 40, weights 1, .5, .25."""
    periods, weights, low = (30, 30, 40), (1, 0.5, 0.25), 1e-7
    for i in range(100):
        k = 0 if i < 30 else 1 if i < 60 else 2
        expected = low + weights[k] * 0.5 * (2e-4 - low) * (
            1 + math.cos(math.pi * (i - sum(periods[:k])) / periods[k])
        )
        assert lr(
            i / 100, 2e-4, 'restarts', warmup=0, floor=low, periods=periods, weights=weights
        ) == pytest.approx(expected, rel=1e-6, abs=1e-12)
    assert lr(0.61, 1, 'restarts', warmup=0, periods=(1, 1), weights=(0.5,)) == pytest.approx(
        lr(0.11, 1, 'restarts', warmup=0, periods=(1, 1), weights=(0.5,))
    )


def test_lr_is_torch_cosine():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1e-3)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50, eta_min=1e-7)
    for step in range(51):
        assert lr(step / 50, 1e-3, warmup=0) == pytest.approx(cosine.get_last_lr()[0], rel=1e-6)
        optimizer.step()
        cosine.step()


def test_lr_refuses():
    for bad in (
        dict(progress=-0.1),
        dict(progress=0.5, warmup=1.0),
        dict(progress=0.5, warmup=0.5, tail=0.5),
        dict(progress=0.5, periods=(1, 0)),
        dict(progress=0.5, kind='exponential'),
        dict(progress=0.5, kind='linear', milestones=(0.9,), tail=0.2),
        dict(progress=0.5, kind='linear', milestones=(0.01,)),
        dict(progress=0.5, kind='linear', milestones=(1.0,)),
    ):
        with pytest.raises(ValueError):
            lr(base=1e-3, **bad)


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


def test_log_drops_a_torn_line_before_it_appends(tmp_path):
    for tail in ('{"nimg": 8}\n{"ni', '{"ni', ''):
        (tmp_path / 'log.jsonl').write_text(tail)
        log = Log(tmp_path)
        log.append({'nimg': 16})
        log.close()
        assert [row['nimg'] for row in log.read()] == [8, 16][tail.count('\n') ^ 1 :]


def test_log_names_a_bad_line(tmp_path):
    (tmp_path / 'log.jsonl').write_text('{"nimg": 8}\nrubbish\n{"nimg": 16}\n')
    with pytest.raises(ValueError, match='log.jsonl, line 2: not JSON'):
        Log(tmp_path).read()


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
    assert (
        lines[3]
        == '1,364 images  17.1 %  32.0 img/s  data 20.0 %  loss 0.1250  lr 1.0e-03  PSNR 28.50  left 0:03:27'
    )
    assert '\r' not in out.getvalue() and '\x1b' not in out.getvalue()


def test_progress_by_time():
    """A run that ends by the clock: the share done says how long it lasts."""
    clock = Clock()
    progress = Progress(stream=io.StringIO(), clock=clock)
    for step in range(1, 101):
        clock.now += 0.5
        progress.update(8 * step, share=0.5 * step / 60)
    figures = progress.figures()
    assert (
        figures['rate'] == pytest.approx(16)
        and figures['wait'] == 0
        and figures['left'] == pytest.approx(10)
    )


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
    assert (
        out.getvalue().count(' images') >= 10
        and out.getvalue().count('\r') >= 9
        and out.getvalue().count('\n') <= 2
    )


# ---- pictures ----


def test_strip(tmp_path):
    """Every picture stands where it should, the small one with its pixels repeated."""
    g = torch.Generator().manual_seed(0)
    rows = [
        tuple(
            torch.randint(0, 256, (3, s, s), dtype=torch.uint8, generator=g)
            for s in (16, 64, 64, 64)
        )
        for _ in range(2)
    ]
    pictures.strip(
        tmp_path / 'deep' / 'strip.png', rows, psnr=[(None, 27.0, 28.5), (None, 26.0, 27.0)]
    )
    sheet = cv2.imread(str(tmp_path / 'deep' / 'strip.png'))[..., ::-1]
    band, gap = 26, 4
    assert sheet.shape == (2 * (64 + band) + gap, 4 * 64 + 3 * gap, 3)
    for r, row in enumerate(rows):
        for c, pix in enumerate(row):
            y, x = r * (64 + band + gap) + band, c * (64 + gap)
            expected = (
                pix.permute(1, 2, 0)
                .numpy()
                .repeat(64 // pix.shape[1], 0)
                .repeat(64 // pix.shape[1], 1)
            )
            assert np.array_equal(sheet[y : y + 64, x : x + 64], expected)
            assert sheet[y - band : y, x : x + 64].min() < 128  # a label stands above it
    assert os.listdir(tmp_path / 'deep') == ['strip.png']
    pictures.strip(tmp_path / 'real.png', [row[:3] for row in rows])  # no truth
    assert cv2.imread(str(tmp_path / 'real.png')).shape[1] == 3 * 64 + 2 * gap


def test_curves(tmp_path):
    rows = [{'nimg': 8 * n, 'loss': 1 / n, 'lr': 1e-3} for n in range(1, 50)]
    rows += [{'nimg': 100 * n, 'psnr': 27 + n / 10, 'bicubic': 26.5} for n in range(4)]
    rows += [{'nimg': 400, 'psnr': float('inf'), 'loss': None}]
    for name, some in (('full', rows), ('empty', []), ('one', rows[:1])):
        pictures.curves(tmp_path / f'{name}.png', some)
    full, empty = (cv2.imread(str(tmp_path / f'{name}.png')) for name in ('full', 'empty'))
    assert full.shape == empty.shape and (full != empty).any()
    assert sorted(os.listdir(tmp_path)) == ['empty.png', 'full.png', 'one.png']
    sheets = [tmp_path / f'{share}.png' for share in (0.5, 0.9)]
    for path, share in zip(
        sheets, (0.5, 0.9)
    ):  # two players: a panel more, with what the discriminator is right on
        pictures.curves(path, rows + [{'nimg': 8 * n, 'd_accuracy': share} for n in range(1, 50)])
    low, high = (cv2.imread(str(path)) for path in sheets)
    assert low.shape == high.shape and low.shape[0] > full.shape[0]
    changed = np.flatnonzero((low != high).any((1, 2)))
    assert (
        0 < len(changed) < 20 and np.ptp(changed) > 50
    )  # a line that lies elsewhere, and nothing else


def test_smoothing_of_a_constant_and_a_step():
    assert np.allclose(pictures.smooth(np.full(500, 0.3)), 0.3)
    step = pictures.smooth(np.repeat([1.0, 0.0], 500))
    assert step[499] == pytest.approx(1) and step[519] == pytest.approx(
        (1 - 1 / 20) ** 20, rel=1e-3
    )
