"""What must not cost a run anything: kill -9 at any moment, a disk that fills up, processes that die or never come."""

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest
import torch
from safetensors.torch import load_file

import synthetic
import tasks
import train
from config import schema
from errors import RunError
from tasks.trial import trial
from training import checkpoint, memory, run

ROOT = Path(__file__).resolve().parents[1]
SIZE = 64
PIPES = 'torch', 'dali'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('faults')
    (folder / 'hq').mkdir()
    for i in range(10):
        cv2.imwrite(str(folder / 'hq' / f'{i}.png'), synthetic.face(i, SIZE).image[..., ::-1])
    return folder


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 400 MB that this test can fill; None where mounting is not allowed."""
    folder = tmp_path / 'disk'
    folder.mkdir()
    if subprocess.run(
        ['mount', '-t', 'tmpfs', '-o', 'size=400m', 'tmpfs', folder], capture_output=True
    ).returncode:
        yield None
    else:
        yield folder
        subprocess.run(['umount', '-l', folder], check=True)


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
            nimg=240,
            ticks=12,
            threads=2,
            pipe='torch',
        )
        | more
    )
    return [x for k, v in options.items() for x in ('--' + k.replace('_', '-'), str(v))]


def spawn(argv):
    return subprocess.Popen(
        [sys.executable, str(ROOT / 'train.py'), *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def kill_when(argv, condition):
    """Start the command and SIGKILL it as soon as the condition holds; False if it ended before."""
    process = spawn(argv)
    while process.poll() is None:
        if condition():
            process.kill()
            process.communicate()
            return True
        time.sleep(0.002)
    assert process.returncode == 0, process.stdout.read()
    return False


def weights(out):
    return [load_file(checkpoint.latest(out) / f'{name}.safetensors') for name in ('net', 'ema')]


def same(a, b):
    return all(x.keys() == y.keys() and all((x[k] == y[k]).all() for k in x) for x, y in zip(a, b))


@pytest.fixture(scope='module')
def whole(data, tmp_path_factory):
    """(weights of the run that nothing happens to, seconds that it trains)."""
    out = tmp_path_factory.mktemp('runs') / 'whole'
    process, began = spawn(flags(data, out)), None
    while process.poll() is None:
        began = began or ((out / 'tensorboard').exists() and time.monotonic()) or None
        time.sleep(0.01)
    assert process.returncode == 0, process.stdout.read()
    return weights(out), time.monotonic() - began


@pytest.mark.parametrize('pipe', PIPES)
def test_kill_9_at_five_moments(pipe, whole, data, small_disk, tmp_path):
    """At three random moments, inside a checkpoint's write, and on a full disk; then it runs to its end and nothing is different."""
    if pipe == 'dali':
        pytest.importorskip('nvidia.dali')
    expected, seconds = whole
    out = (small_disk or tmp_path) / 'run'
    argv, folder, dice = flags(data, out, pipe=pipe), out / 'checkpoints', random.Random(pipe)

    def after(delay):
        began = []

        def over():
            if not began and (out / 'tensorboard').exists():
                began.append(time.monotonic())
            return began and time.monotonic() - began[0] > delay

        return over

    for moment in sorted(
        dice.uniform(0, 0.06 * seconds) for _ in range(3)
    ):  # what follows needs some of the run, which may be several times as fast by now
        shutil.rmtree(
            out / 'tensorboard', ignore_errors=True
        )  # its return tells that training goes on
        kill_when(argv, after(moment))
    assert kill_when(
        argv, lambda: folder.exists() and any(p.name.startswith('.new-') for p in folder.iterdir())
    )
    if small_disk:
        fill_and_kill(argv, small_disk, folder)
    assert train.main(argv) == 0
    assert same(weights(out), expected)
    assert [
        r['nimg']
        for r in map(json.loads, (out / 'log.jsonl').read_text().splitlines())
        if 'psnr' in r
    ] == list(range(20, 241, 20))
    if not small_disk:
        pytest.skip('all but the full disk: mounting a small file system is not allowed here')


def fill_and_kill(argv, disk, folder):
    """Fill the disk while the command runs: it ends with 2 and says why, its checkpoints stay whole; then the same with kill -9."""
    for killed in False, True:
        process, before = spawn(argv), checkpoint.latest(folder.parent)
        while process.poll() is None and checkpoint.latest(folder.parent) == before:
            time.sleep(0.01)
        with open(disk / 'filler', 'wb', buffering=0) as f:
            try:
                while True:
                    f.write(bytes(1 << 16))
            except OSError:
                pass
        if killed:
            time.sleep(0.3)
            process.kill()
        said = process.communicate(timeout=120)[0]
        assert (
            killed or process.returncode == 2 and re.search('cannot (be )?writ|No space left', said)
        ), said
        assert checkpoint.latest(folder.parent)
        os.remove(disk / 'filler')


def test_a_disk_too_small_is_refused_before_training(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        shutil, 'disk_usage', lambda path: shutil._ntuple_diskusage(10**9, 10**9, 10**6)
    )
    assert train.main(flags(data, tmp_path / 'run')) == 2
    assert (
        'will take about' in (said := capsys.readouterr().err)
        and '1 MB are free: make room, or give --out on another disk' in said
    )
    with pytest.raises(RunError, match='another disk'):
        run.need_space(tmp_path / 'not' / 'there', 10**7)


# ---- several processes ----


def torchrun(*command, restarts):
    return [
        sys.executable,
        '-m',
        'torch.distributed.run',
        '--standalone',
        '--nproc-per-node',
        '2',
        '--max-restarts',
        str(restarts),
        *map(str, command),
    ]


def test_torchrun_restarts_a_run_whose_rank_was_killed(data, tmp_path):
    out = tmp_path / 'run'
    process = subprocess.Popen(
        torchrun(ROOT / 'train.py', *flags(data, out, nimg=400, ticks=20), restarts=2),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while not checkpoint.latest(out):
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.05)
    workers = subprocess.run(
        ['pgrep', '-P', str(process.pid)], capture_output=True, text=True
    ).stdout.split()
    victim = next(
        w for w in workers if b'RANK=1' in Path(f'/proc/{w}/environ').read_bytes().split(b'\0')
    )
    os.kill(int(victim), signal.SIGKILL)
    said = process.communicate(timeout=300)[0]
    assert (
        process.returncode == 0
        and re.search(r'resumed at \d+ images', said)
        and (out / 'weights.safetensors').exists()
    ), said[-3000:]


def test_a_rank_that_never_comes_is_named(tmp_path):
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    code = 'import sys, torch; sys.path.insert(0, sys.argv[1]); from training.world import World; World(torch.device("cpu"), start=3)'
    place = dict(
        os.environ,
        RANK='0',
        WORLD_SIZE='3',
        LOCAL_RANK='0',
        LOCAL_WORLD_SIZE='3',
        MASTER_ADDR='127.0.0.1',
        MASTER_PORT=str(port),
    )
    first = subprocess.run(
        [sys.executable, '-c', code, str(ROOT)], env=place, capture_output=True, text=True
    )
    assert 'PeerMissing: rank 1, 2 of 3 did not connect in time' in first.stderr
    other = subprocess.run(
        [sys.executable, '-c', code, str(ROOT)],
        env=place | {'RANK': '1'},
        capture_output=True,
        text=True,
    )
    assert re.search(
        r'PeerMissing: rank 1 of 3: rank 0 at 127.0.0.1:\d+ did not answer within 3 s', other.stderr
    )


# ---- memory ----


def test_largest_batch_that_fits():
    """400 for the network, 100 per image, of which nine tenths of the free memory may be taken."""
    peak = lambda batch: 400 + 100 * batch
    for free in (500, 555, 556, 1000, 2000, 12345):
        most = memory.fitting(peak, free)
        assert most == max(n for n in range(200) if n == 0 or peak(n) <= 0.9 * free), free


@pytest.mark.parametrize(
    'free, batch, said',
    [
        (
            1000,
            12,
            '--batch 4 --accumulate 6 fits and makes the same steps (5 is the most at a time)',
        ),
        (1000, 7, '--batch 1 --accumulate 14'),
        (500, 4, 'not even one image fits'),
        (10**6, 4, 'should fit'),
    ],
)
def test_out_of_memory_names_a_batch_that_fits(free, batch, said, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'mem_get_info', lambda device: (free, 2 * free))
    monkeypatch.setattr(torch.cuda, 'empty_cache', lambda: None)
    assert said in memory.advice(
        batch, 2, None, lambda batch: 400 + 100 * batch
    )


def test_the_trial_is_a_step_of_the_run(data, tmp_path):
    """What the memory is measured on runs, for a plain and a sharpened target."""
    for more in {}, {'target_usm': True}:
        config = schema.replace_options(tasks.configure(flags(data, tmp_path)), **more)
        trial(config, torch.device('cpu'), 2)
