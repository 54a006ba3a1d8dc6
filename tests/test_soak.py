"""The endurance benchmark sees what grows, what differs, and what is left behind."""

import contextlib
import json
import subprocess
import sys
import time

import psutil
import pytest

from benchmarks import soak, soak_run, soak_watch
from benchmarks.soak_run import Outcome
from benchmarks.soak_watch import Sample

# In place of train.py: eight steps of 0.05 s, a checkpoint after each. It goes on from the last
# of them. What it learns is in its weights; `{more}` is where a mistake is planted.
TRAIN = """
import hashlib, json, os, shutil, subprocess, sys, time
from pathlib import Path
out = Path(sys.argv[sys.argv.index('--out') + 1])
folder = out / 'checkpoints'
folder.mkdir(parents=True, exist_ok=True)
done = sorted(p for p in folder.iterdir() if not p.name.startswith('.'))
value = (done[-1] / 'net.safetensors').read_text() if done else ''
for step in range(len(value), 8):
    time.sleep(0.05)
    value += str(step)
    {more}
    new = folder / '.new-checkpoint'
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    files = dict.fromkeys(('net.safetensors', 'ema.safetensors', 'state.pt'), value)
    for name, text in files.items():
        (new / name).write_text(text)
    sums = dict.fromkeys(files, hashlib.sha256(value.encode()).hexdigest())
    (new / 'checksums.json').write_text(json.dumps(sums))
    new.rename(folder / f'{step + 1:09}')
"""
ORPHAN = """
    child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])
    (Path(sys.argv[0]).parent / f'{child.pid}.pid').touch()
"""


@pytest.fixture
def trainer(tmp_path, monkeypatch):
    """Puts a stand-in for train.py in its place: trainer(what is planted)."""

    def plant(more='pass'):
        (tmp_path / 'train.py').write_text(TRAIN.replace('{more}', more))

    monkeypatch.setattr(soak_run, 'ROOT', tmp_path)
    return plant


def kill(folder, count=6):
    return soak_run.killed(folder / 'data', folder, 'torch', 8, count, seed=0)


def test_killed_runs_that_go_on_rightly(trainer, tmp_path):
    trainer()
    outcome = kill(tmp_path)
    assert outcome.kills == 6 == sum(outcome.moments.values()) and outcome.runs >= 1
    assert (outcome.different, outcome.orphans) == (0, 0)
    assert outcome.moments['starting'] and outcome.moments['training']


def test_a_run_that_comes_out_otherwise_is_counted(trainer, tmp_path):
    """As one whose noise comes from the clock."""
    trainer('value = value[:-1] + chr(97 + time.time_ns() // 1000 % 26)')
    outcome = kill(tmp_path)
    assert outcome.different == outcome.runs >= 1


def test_processes_left_behind_are_counted(trainer, tmp_path, monkeypatch):
    monkeypatch.setattr(soak_run, 'ORPHANS', 0.2)
    trainer(ORPHAN)
    outcome = kill(tmp_path, count=2)
    for pid in tmp_path.glob('*.pid'):
        with contextlib.suppress(psutil.Error):
            psutil.Process(int(pid.stem)).kill()
    assert outcome.orphans


def test_a_run_that_fails_is_told_with_its_words(trainer, tmp_path):
    trainer("sys.exit('no such luck')")
    with pytest.raises(soak_run.FacesError, match=r'ended with 1(.|\n)*no such luck'):
        kill(tmp_path)


# ---- what grows ----


def samples(**of):
    """100 samples of a process that settles within the first ten; of: {quantity: f(i)}."""
    still = dict(
        memory=lambda i: 300 + 0.5 * (i % 3), threads=lambda i: 4, files=lambda i: 20 + i % 2
    )
    still |= dict(shared=lambda i: 0.0)
    rows = still | of
    settled = [max(i, 10) for i in range(100)]
    return [Sample(float(i), **{n: rows[n](i) for n in rows}) for i in settled]


def verdicts(rows):
    return {g.name: g.flat for g in soak_watch.growth(rows)}


def test_what_is_flat():
    assert verdicts(samples()) == dict.fromkeys(soak_watch.ALLOWED, True)
    assert verdicts(samples(memory=lambda i: 300 - i)) == dict.fromkeys(soak_watch.ALLOWED, True)


@pytest.mark.parametrize(
    'name, values',
    [
        ('memory', lambda i: 300 + 0.2 * i),
        ('threads', lambda i: 4 + i // 50),
        ('files', lambda i: 20 + i // 20),
        ('shared', lambda i: i / 20),
    ],
)
def test_what_grows(name, values):
    flat = verdicts(samples(**{name: values}))
    assert [n for n, is_flat in flat.items() if not is_flat] == [name]


def test_too_few_samples_say_nothing():
    with pytest.raises(ValueError, match='9 samples'):
        soak_watch.growth(samples()[:9])


# Holds nothing, and more once there is a file; then it waits for another one.
HOLDS = """
import sys, threading, time
from pathlib import Path
here = Path(sys.argv[0]).parent
def wait(name):
    while not (here / name).exists(): time.sleep(0.01)
(here / 'there').touch()
wait('take')
kept = bytearray(b'x') * 50_000_000
files = [open(sys.argv[0]) for _ in range(7)]
threads = [threading.Thread(target=wait, args=('go',)) for _ in range(3)]
for thread in threads: thread.start()
(here / 'taken').touch()
"""


def test_a_process_is_seen_with_all_that_it_holds(tmp_path):
    """Also through a parent that holds nothing itself."""
    script = tmp_path / 'holds.py'
    script.write_text(HOLDS)
    parent = f'import subprocess, sys; subprocess.run([sys.executable, {str(script)!r}])'
    process = subprocess.Popen([sys.executable, '-c', parent], text=True)

    def wait_for(name):
        while not (tmp_path / name).exists():
            assert process.poll() is None
            time.sleep(0.01)

    wait_for('there')
    before = soak_watch.sample(process.pid, 0.0)
    (tmp_path / 'take').touch()
    wait_for('taken')
    held = soak_watch.sample(process.pid, 1.0)
    (tmp_path / 'go').touch()
    rows = soak_watch.watch(process, 0.05)
    assert process.returncode == 0 and all(row.seconds >= 0.05 for row in rows)
    assert held.memory - before.memory == pytest.approx(50, abs=2)
    assert (held.threads - before.threads, held.files - before.files) == (3, 7)


# ---- what is said ----


def test_the_verdict_is_the_exit_status(tmp_path, monkeypatch, capsys):
    lost = Outcome(kills=2, moments={'rank 1': 2}, runs=1, different=0, orphans=0)
    monkeypatch.setattr(soak_run, 'faces', lambda folder: folder)
    monkeypatch.setattr(soak_run, 'lost_ranks', lambda *args: lost)
    monkeypatch.setattr(soak, 'long_run', lambda *args: samples())
    told = tmp_path / 'soak.json'
    argv = ['--pipes', 'torch', '--kills', '0', '--lost-ranks', '2', '--json', str(told)]
    assert soak.main(argv) == 0
    said = capsys.readouterr().out
    assert 'grows' not in said and '2 kills (2 rank 1); 1 runs came to their end, 0 of them' in said
    figures = json.loads(told.read_text())
    assert figures['growth']['torch'][0]['name'] == 'memory' and told.with_suffix('.png').exists()
    assert figures['kills']['torchrun, a rank lost'] == lost._asdict()

    lost = lost._replace(different=1)
    assert soak.main(argv) == 1
    lost = lost._replace(different=0)
    monkeypatch.setattr(soak, 'long_run', lambda *args: samples(memory=lambda i: 300 + i))
    assert soak.main(argv) == 1 and 'grows' in capsys.readouterr().out
