"""What must not cost a run anything: kill -9 at any moment, a disk that fills up, processes that
die or never come.
"""

import contextlib
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
import processes
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
# The smallest network that has everything: strides, skips and an embedding of the place.
NET = '{"width": [8, 16], "blocks": [[1], 1, [1]], "position": 8}'
# Seconds before each of the 24 steps of a run that is killed, and each file of its checkpoints.
PAUSE = 0.08
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
            net=NET,
            recipe='gfpgan',
            size=SIZE,
            batch=2,
            nimg=48,
            # So short that the average leaves its ramp within the run.
            ema=4,
            ticks=6,
            threads=1,
            pipe='torch',
        )
        | more
    )
    return [x for k, v in options.items() for x in ('--' + k.replace('_', '-'), str(v))]


def weights(out):
    return [load_file(checkpoint.latest(out) / f'{name}.safetensors') for name in ('net', 'ema')]


def same(a, b):
    return all(
        x.keys() == y.keys() and all((x[k] == y[k]).all() for k in x)
        for x, y in zip(a, b, strict=False)
    )


@pytest.fixture(scope='module')
def whole(data, tmp_path_factory):
    """Weights of the run that nothing happens to."""
    out = tmp_path_factory.mktemp('runs') / 'whole'
    assert train.main(flags(data, out)) == 0
    return weights(out)


def kill_when(terminal, argv, condition):
    """Start the command and SIGKILL it, still running, as soon as the condition holds."""
    process = processes.train(terminal, argv, pause=PAUSE)
    processes.wait_for(process, condition)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


@pytest.mark.parametrize('pipe', PIPES)
def test_kill_9_at_five_moments(pipe, whole, data, small_disk, tmp_path):
    """At three random moments, inside a checkpoint's write, and on a full disk; then it runs to its
    end and nothing is different.
    """
    if pipe == 'dali':
        pytest.importorskip('nvidia.dali')
    out, terminal = (small_disk or tmp_path) / 'run', tmp_path / 'terminal'
    argv, folder, dice = flags(data, out, pipe=pipe), out / 'checkpoints', random.Random(pipe)

    def after(delay):
        began = []

        def over():
            if not began and (out / 'tensorboard').exists():
                began.append(time.monotonic())
            return began and time.monotonic() - began[0] > delay

        return over

    # All three together are less than half of what the pauses take, so none comes too late.
    for moment in sorted(dice.uniform(0, 24 * PAUSE / 6) for _ in range(3)):
        # Its return tells that training goes on.
        shutil.rmtree(out / 'tensorboard', ignore_errors=True)
        kill_when(terminal, argv, after(moment))
    kill_when(
        terminal,
        argv,
        lambda: folder.exists() and any(p.name.startswith('.new-') for p in folder.iterdir()),
    )
    if small_disk:
        fill_and_kill(terminal, argv, small_disk, folder)
    assert train.main(argv) == 0
    assert same(weights(out), whole)
    rows = map(json.loads, (out / 'log.jsonl').read_text().splitlines())
    assert [row['nimg'] for row in rows if 'psnr' in row] == list(range(8, 49, 8))
    if not small_disk:
        pytest.skip('all but the full disk: mounting a small file system is not allowed here')


def fill_and_kill(terminal, argv, disk, folder):
    """Fill the disk while the command runs: it ends with 2 and says why, its checkpoints stay
    whole; then the same with kill -9.
    """
    for killed in False, True:
        before = checkpoint.latest(folder.parent)
        process = processes.train(terminal, argv, pause=PAUSE)
        processes.wait_for(process, lambda: checkpoint.latest(folder.parent) != before)  # noqa: B023  used within the turn
        fill(disk / 'filler')
        if killed:
            # A run that cannot write ends by itself, unless it is killed before its next write.
            process.send_signal(signal.SIGKILL)
        status = process.wait()
        assert status == (-signal.SIGKILL if killed else 2), process.said
        assert killed or re.search('cannot (be )?writ|No space left', process.said), process.said
        assert checkpoint.latest(folder.parent)
        os.remove(disk / 'filler')


def fill(path):
    """Take all space that there is."""
    with open(path, 'wb', buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 16))


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


SLOW_TRAIN = """
import sys
sys.path[:0] = sys.argv[1:3]
import processes
processes.train_slowly(sys.argv[4:], float(sys.argv[3]))
"""


def test_torchrun_restarts_a_run_whose_rank_was_killed(data, tmp_path):
    out, script = tmp_path / 'run', tmp_path / 'slow.py'
    script.write_text(SLOW_TRAIN)
    command = [
        '-m',
        'torch.distributed.run',
        '--standalone',
        '--nproc-per-node',
        '2',
        '--max-restarts',
        '2',
    ]
    argv = [str(ROOT), str(ROOT / 'tests'), '0.05', *flags(data, out, nimg=80, ticks=10)]
    process = subprocess.Popen(
        [sys.executable, *command, str(script), *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while not checkpoint.latest(out):
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.02)
    listed = ['pgrep', '-P', str(process.pid)]
    workers = subprocess.run(listed, capture_output=True, text=True).stdout.split()
    victim = next(
        w for w in workers if b'RANK=1' in Path(f'/proc/{w}/environ').read_bytes().split(b'\0')
    )
    os.kill(int(victim), signal.SIGKILL)
    assert not (out / 'weights.safetensors').exists()
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 0 and re.search(r'resumed at \d+ images', said), said[-3000:]
    assert (out / 'weights.safetensors').exists()


def test_a_rank_that_never_comes_is_named():
    code = (
        'import sys, torch; sys.path.insert(0, sys.argv[1]); from training.world import World; '
        'World(torch.device("cpu"), start=3)'
    )

    def start(rank):
        """One of three processes, which waits for two that never come."""
        with socket.socket() as s:
            s.bind(('127.0.0.1', 0))
            port = s.getsockname()[1]
        place = dict(RANK=rank, WORLD_SIZE='3', LOCAL_RANK='0', LOCAL_WORLD_SIZE='3')
        address = dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
        return subprocess.Popen(
            [sys.executable, '-c', code, str(ROOT)],
            env=os.environ | place | address,
            stderr=subprocess.PIPE,
            text=True,
        )

    first, other = (process.communicate(timeout=120)[1] for process in [start('0'), start('1')])
    assert 'PeerMissing: rank 1, 2 of 3 did not connect in time' in first
    expected = r'PeerMissing: rank 1 of 3: rank 0 at 127.0.0.1:\d+ did not answer within 3 s'
    assert re.search(expected, other)


# ---- memory ----


def test_largest_batch_that_fits():
    """400 for the network, 100 per image, of which nine tenths of the free memory may be taken."""

    def peak(batch):
        return 400 + 100 * batch

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
    assert said in memory.advice(batch, 2, None, lambda batch: 400 + 100 * batch)


def test_the_trial_is_a_step_of_the_run(data, tmp_path):
    """What the memory is measured on runs, for a plain and a sharpened target."""
    for more in {}, {'target_usm': True}:
        config = schema.replace_options(tasks.configure(flags(data, tmp_path)), **more)
        trial(config, torch.device('cpu'), 2)
