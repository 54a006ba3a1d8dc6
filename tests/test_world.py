"""Several processes, started by torchrun: the same samples and gradients as one, one that dies, and going on afterwards."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest
import torch

import synthetic
import train
from errors import RunError
from tasks import restore
from training import soup, watch
from training.lock import Lock

ROOT = Path(__file__).resolve().parents[1]
SIZE = 64
GRADIENTS = """
import sys, torch
sys.path.insert(0, sys.argv[1])
import dali_pipes, models
from dali_pipes import manifest
from tasks import restore
from training.world import World
torch.manual_seed(0)
with World(torch.device('cpu')) as world:
    torch.set_num_threads(1)
    net = models.UNet()
    forward = world.wrap(net)
    images = manifest.scan(sys.argv[2], size=64, say=lambda _: None).images
    with dali_pipes.make('torch', images, 'gfpgan', batch=int(sys.argv[3]), size=64, start=12, rank=world.rank, world=world.size) as pipe:
        batch = next(pipe)
    restore.LOSSES['l1'](forward(batch.input), batch.target).backward()
    samples = sorted(world.gather(batch.sample.tolist()))
    assert world.mean(torch.tensor(0.5 + world.rank)) == world.size / 2
    if world.main:
        torch.save({'samples': samples, 'gradients': {k: p.grad for k, p in net.named_parameters()}}, sys.argv[4])
"""


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('world')
    (folder / 'hq').mkdir()
    for i in range(10):
        cv2.imwrite(str(folder / 'hq' / f'{i}.png'), synthetic.face(i, SIZE).image[..., ::-1])
    (folder / 'gradients.py').write_text(GRADIENTS)
    return folder


def torchrun(*command, processes=2, restarts=0):
    return [
        sys.executable,
        '-m',
        'torch.distributed.run',
        '--standalone',
        '--nproc-per-node',
        str(processes),
        '--max-restarts',
        str(restarts),
        *map(str, command),
    ]


def flags(data, out, **more):
    options = (
        dict(
            data=data / 'hq',
            val=3,
            out=out,
            preset='unet',
            recipe='gfpgan',
            size=SIZE,
            batch=2,
            nimg=48,
            ticks=3,
            threads=2,
            pipe='torch',
            precision='fp32',
        )
        | more
    )
    return [x for k, v in options.items() for x in ('--' + k.replace('_', '-'), str(v))]


def test_two_processes_have_the_gradients_of_one(data, tmp_path):
    for processes, batch in (1, 4), (2, 2):
        subprocess.run(
            torchrun(
                data / 'gradients.py',
                ROOT,
                data / 'hq',
                batch,
                tmp_path / f'{processes}.pt',
                processes=processes,
            ),
            check=True,
            capture_output=True,
        )
    one, two = (torch.load(tmp_path / f'{n}.pt') for n in (1, 2))
    assert one['samples'] == two['samples'] == [12, 13, 14, 15]
    for name, g in one['gradients'].items():
        assert (two['gradients'][name] - g).norm() <= 1e-5 * g.norm(), name


@pytest.fixture(scope='module')
def pair(data, tmp_path_factory):
    """A run of two processes, batch 2, and of one, batch 4."""
    folder = tmp_path_factory.mktemp('runs')
    done = subprocess.run(
        torchrun(ROOT / 'train.py', *flags(data, folder / 'two')), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert train.main(flags(data, folder / 'one', batch=4)) == 0
    return folder / 'one', folder / 'two', done.stdout


def scores(run):
    return [
        (r['nimg'], r['psnr'], r['ssim'])
        for r in map(json.loads, (run / 'log.jsonl').read_text().splitlines())
        if 'psnr' in r
    ]


def test_a_run_of_two_is_a_run_of_one(pair):
    """Validation is shared, the log written once; Adam blows float32's rounding up where gradients are near zero, so scores are compared, not bits."""
    one, two, said = pair
    assert [s[0] for s in scores(one)] == [s[0] for s in scores(two)] == [16, 32, 48]
    assert all(
        a == pytest.approx(b, abs=0.02)
        for x, y in zip(scores(one), scores(two))
        for a, b in zip(x[1:], y[1:])
    )
    assert said.count('PSNR') == 1 and 'fp32 on cpu x 2' in said


def test_accumulation_is_a_larger_batch(pair, data, tmp_path):
    assert train.main(flags(data, tmp_path / 'out', batch=2, accumulate=2)) == 0
    assert all(
        a == pytest.approx(b, abs=0.02)
        for x, y in zip(scores(pair[0]), scores(tmp_path / 'out'))
        for a, b in zip(x, y)
    )


def test_a_rank_that_dies_ends_the_run_and_the_command_resumes(pair, data, tmp_path):
    out = tmp_path / 'out'
    process = subprocess.Popen(
        torchrun(ROOT / 'train.py', *flags(data, out, nimg=4000, ticks=200)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not checkpoint_of(out):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    workers = subprocess.run(
        ['pgrep', '-P', str(process.pid)], capture_output=True, text=True
    ).stdout.split()
    victim = next(
        w for w in workers if b'RANK=1' in Path(f'/proc/{w}/environ').read_bytes().split(b'\0')
    )
    os.kill(int(victim), signal.SIGKILL)
    _, error = process.communicate(timeout=120)
    assert process.returncode != 0
    assert (
        'another process of this run has ended' in error
        or 'stopped by SIGTERM' in error
        or 'SIGKILL' in error
    )
    before = checkpoint_of(out)
    resumed = subprocess.Popen(
        torchrun(ROOT / 'train.py', *flags(data, out, nimg=4000, ticks=200)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines = []
    for line in resumed.stdout:
        lines.append(line)
        if 'resumed at' in line:
            break
    resumed.send_signal(signal.SIGTERM)
    resumed.communicate(timeout=120)
    assert before and any('resumed at' in line for line in lines), ''.join(lines)


def checkpoint_of(out):
    folder = out / 'checkpoints'
    return folder.exists() and [p for p in folder.iterdir() if p.name.isdigit()]


# ---- what a run of any size relies on ----


def test_lock(tmp_path):
    with Lock(tmp_path / 'run'):
        code = 'import sys; sys.path.insert(0, sys.argv[1]); from training.lock import Lock; Lock(sys.argv[2])'
        done = subprocess.run(
            [sys.executable, '-c', code, str(ROOT), str(tmp_path / 'run')],
            capture_output=True,
            text=True,
        )
        assert f'is in use by process {os.getpid()}' in done.stderr
    Lock(tmp_path / 'run').close()
    (tmp_path / 'file').write_text('')
    with pytest.raises(RunError, match='cannot be written'):
        Lock(tmp_path / 'file')


def test_soup_takes_what_helps(tmp_path):
    """Weights are numbers here and the score their distance to 3: 2.5 is best alone, with 4 it is 3.25, with 2.9 ... and 10 never helps."""
    score = lambda w: -abs(float(w['x']) - 3)
    for nimg, x in (10, 10.0), (20, 2.5), (30, 4.0), (40, 9.0):
        soup.save_candidate(tmp_path, nimg, {'x': torch.tensor([x])}, score({'x': x}), 3)
    assert sorted(n for _, n, _ in soup.candidates(tmp_path)) == [20, 30, 40]
    weights, parts, best = soup.greedy_soup(tmp_path, score)
    assert parts == [20, 30] and float(weights['x']) == 3.25 and best == -0.25
    soup.forget_after(tmp_path, 25)
    assert [n for _, n, _ in soup.candidates(tmp_path)] == [20]
    assert soup.greedy_soup(tmp_path / 'none', score) is None


def test_losses_are_smoothed_and_give_up():
    notes = []
    losses = watch.LossMeter(4, 3, notes.append)
    for i, (loss, bad) in enumerate([(1.0, 0), (3.0, 0), (float('nan'), 1)]):
        losses.add(
            4 * i + 4,
            {'loss': torch.tensor(loss), 'gan': torch.tensor(2 * loss)},
            torch.tensor(float(bad)),
        )
    assert losses.read() == {'loss': 2.0, 'gan': 4.0} and len(losses) == 0
    assert notes == [{'skipped': 'nan', 'nimg': 8, 'samples': [8, 11]}]
    losses.add(16, {'loss': torch.tensor(float('inf'))}, torch.tensor(1.0))
    losses.add(20, {'loss': torch.tensor(float('inf'))}, torch.tensor(1.0))
    with pytest.raises(
        RunError,
        match=r'3 steps in a row had no finite gradient; the last loss is inf at image 20 \(samples 16 to 19\)',
    ):
        losses.read()


def test_a_row_of_the_log_is_the_mean_of_its_steps():
    losses, every = watch.LossMeter(1, 3, lambda row: None), [5.0, 1.0, float('nan'), 2.0, 8.0, 4.0]
    for i, loss in enumerate(every):
        losses.add(
            i,
            {'loss': torch.tensor(loss)} | ({'gan': torch.tensor(loss)} if i > 2 else {}),
            torch.tensor(float(loss != loss)),
        )
        if i in (0, 3, 5):
            losses.read()
        if i == 3:
            assert losses.take_means() == {'loss': 8 / 3, 'gan': 2.0}
    assert losses.take_means() == {'loss': 6.0, 'gan': 6.0} and losses.take_means() == {}


def test_hints():
    rows = [{'psnr': p} for p in (26.0, 26.5, 26.4, 26.1)]
    assert watch.hints(rows[:3], 0.04, 0, restore.METRIC) == {}
    assert {k: h.split(':')[0] for k, h in watch.hints(rows, 0.2, 2, restore.METRIC).items()} == {
        'data': 'the network waits for data 20% of the time',
        'validation': 'validation fell from 26.50 to 26.10 dB',
        'skipped': '2 steps had no finite gradient and were left out',
    }
    for share, said in (
        (0.54, 'the discriminator is right on 54% of its pictures, the generator fools it'),
        (0.96, 'the discriminator is right on 96% of its pictures, the generator can learn little'),
    ):
        assert watch.hints([{'gan': 0.1, 'd_accuracy': share}] * 10, 0, 0, restore.METRIC)[
            'level'
        ].startswith(said)
    for few in (
        [{'gan': 0.1, 'd_accuracy': 0.6}] * 9 + [{'gan': 0.1, 'd_accuracy': 0.3}],
        [{'gan': 0.1, 'd_accuracy': 0.5}] * 9,
        [{'d_accuracy': 1.0}] * 20,
    ):
        assert 'level' not in watch.hints(
            few, 0, 0, restore.METRIC
        )  # one row out; too few; nobody listens to it yet
    rising = [
        {'loss': 0.1, 'psnr': 27.0 - i, 'd_accuracy': 0.7}
        | ({'loss': 0.2, 'gan': 0.1} if i > 14 else {})
        for i in range(30)
    ]
    assert watch.hints(rising, 0, 0, restore.METRIC) == {}  # the generator began to listen
    falling, rising = (
        [{'loss': x} for x in losses]
        for losses in ([0.1 - 0.001 * i for i in range(30)], [0.1] * 15 + [0.14] * 15)
    )
    assert watch.hints(falling, 0, 0, restore.METRIC) == {} and watch.hints(
        rising, 0, 0, restore.METRIC
    )['rate'].startswith('the loss rose from 0.1000 to 0.1400: the learning rate is too high')
