"""Checkpoints: bit for bit, whole after a kill at any moment, refused when damaged.

Then weights from anywhere, or the reason why not.
"""

import errno
import functools
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

import models
from errors import CheckpointError
from models.srresnet import SRResNet
from models.unet import UNet
from training import checkpoint

ROOT = Path(__file__).resolve().parents[1]


def trained(net):
    """A channels-last network and its optimizer after two steps, so that there are moments."""
    net = net.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3)
    for _ in range(2):
        net(torch.rand(1, 3, 8, 8)).square().mean().backward()
        optimizer.step()
    return net, optimizer


def trained_unet(seed=0):
    torch.manual_seed(seed)
    return trained(UNet(width=(8, 16), blocks=((1,), 1, (1,)), position=4))


@functools.cache
def contents(nimg, seed):
    """(tensors, state) of a small checkpoint; the same seed gives the same ones."""
    torch.manual_seed(seed)
    net, optimizer = trained(nn.Conv2d(3, 4, 3))
    tensors = {'net': dict(net.state_dict()), 'ema': dict(net.state_dict())}
    return tensors, {'optimizer': optimizer.state_dict(), 'nimg': nimg}


def put(folder, nimg, seed=None, **more):
    seed = nimg if seed is None else seed
    return checkpoint.save(folder, nimg, *contents(nimg, seed), **more)


def same(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def names(folder):
    return sorted(p.name for p in (folder / 'checkpoints').iterdir())


# ---- a checkpoint ----


def test_round_trip_is_bit_identical(tmp_path):
    net, optimizer = trained_unet()
    state = {
        'optimizer': optimizer.state_dict(),
        'nimg': 800,
        'seconds': 1.25,
        'best': [1.5, None],
        'preset': 'unet',
    }
    path = checkpoint.save(tmp_path, 800, {'net': net.state_dict()}, state)
    assert path == checkpoint.latest(tmp_path) == tmp_path / 'checkpoints' / '000000800'
    tensors, loaded = checkpoint.load(path)
    assert same({'net': dict(net.state_dict())}, tensors) and same(state, loaded)


def test_a_resumed_step_is_the_same_step(tmp_path):
    net, optimizer = trained_unet()
    path = checkpoint.save(
        tmp_path, 8, {'net': net.state_dict()}, {'optimizer': optimizer.state_dict()}
    )
    other, other_optimizer = trained_unet(seed=9)
    tensors, state = checkpoint.load(path)
    other.load_state_dict(tensors['net'])
    other_optimizer.load_state_dict(state['optimizer'])
    assert other.stem.weight.is_contiguous(memory_format=torch.channels_last)
    for network, steps in ((net, optimizer), (other, other_optimizer)):
        steps.zero_grad()
        network(torch.full((1, 3, 8, 8), 0.3)).square().mean().backward()
        steps.step()
    assert same(dict(net.state_dict()), dict(other.state_dict()))


def test_keeps_the_newest(tmp_path):
    for nimg in (10, 20, 999_999_999, 1_000_000_000):
        put(tmp_path, nimg)
    assert names(tmp_path) == ['1000000000', '999999999']
    assert checkpoint.latest(tmp_path).name == '1000000000'  # by number, not by letter
    put(tmp_path, 1_000_000_001, keep=1)
    assert names(tmp_path) == ['1000000001']


def test_nothing_there(tmp_path):
    assert checkpoint.latest(tmp_path) is None and checkpoint.latest(tmp_path / 'none') is None


def test_replaces_the_same_number(tmp_path):
    put(tmp_path, 10)
    first = checkpoint.load(put(tmp_path, 20, seed=1))
    second = checkpoint.load(put(tmp_path, 20, seed=2))
    assert not same(first, second) and names(tmp_path) == ['000000010', '000000020']


# ---- killed ----

CALLS = ('mkdir', 'fsync', 'rename', 'unlink', 'rmdir')  # operations on the disk
MOMENTS = 18  # more than a save has of them


class Killed(BaseException):
    """Stands for the end of the process: nothing in the product catches it."""


class Disk:
    """Counts the operations on the disk, and ends the process before the one after `limit`."""

    def __init__(self, monkeypatch, limit=None):
        self.count = 0
        self.limit = limit
        self.killed = False
        for name in CALLS:
            monkeypatch.setattr(os, name, functools.partial(self.call, getattr(os, name)))

    def call(self, operation, *args, **more):
        if self.count == self.limit:
            self.killed = True
            raise Killed
        self.count += 1
        return operation(*args, **more)


@pytest.mark.parametrize('again', [False, True], ids=['new', 'same number'])
@pytest.mark.parametrize('moment', range(MOMENTS))
def test_killed_inside_save(tmp_path, monkeypatch, moment, again):
    """Before its n-th operation on the disk: a whole checkpoint is there, the old or the new."""
    old = checkpoint.load(put(tmp_path, 10, keep=1))
    nimg = 10 if again else 20
    new = contents(nimg, seed=5)
    disk = Disk(monkeypatch, moment)
    try:
        checkpoint.save(tmp_path, nimg, *new, keep=1)
        finished = True
    except Killed:
        finished = False
    monkeypatch.undo()
    assert finished != disk.killed

    # Nothing half written is noticed at all, nor is anything half deleted.
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        newest = checkpoint.load(checkpoint.latest(tmp_path))
    for path in (tmp_path / 'checkpoints').glob('0*'):
        checkpoint.load(path)
    assert same(newest, new) or (not finished and same(newest, old))

    # And the next save clears the leftovers.
    put(tmp_path, 30, keep=1)
    assert names(tmp_path) == ['000000030']


def test_the_moments_cover_a_save(tmp_path, monkeypatch):
    """The test above reaches past the last operation of a save."""
    put(tmp_path, 10)
    disk = Disk(monkeypatch)
    put(tmp_path, 10, keep=1)
    assert 12 < disk.count < MOMENTS


# Processes that do nothing but save are killed at random times, measured in saves.
KILLER = """
import os, random, signal, sys, time, warnings
import torch
from training import checkpoint

SIZE = 1000
torch.set_num_threads(1)
warnings.simplefilter('error')
folder, turns = sys.argv[1], int(sys.argv[2])
number = random.Random(3)

def save(nimg):
    values = torch.full((SIZE,), float(nimg))
    state = {'nimg': nimg, 'moments': values}
    checkpoint.save(folder, nimg, {'net': {'a': values}}, state, keep=1)

begin = time.monotonic()
for _ in range(4):
    save(1)
one = (time.monotonic() - begin) / 4

# On a busy machine few saves get far; then there are more turns.
found = cut = turn = 0
while turn < turns or found < 5 or cut < 3:
    turn += 1
    assert turn < 50 * turns, (found, cut)
    pid = os.fork()
    if not pid:
        # Each number twice, so that a checkpoint is also replaced; it never comes to an end.
        for nimg in range(found + 1, found + 1_000_000):
            save(nimg)
            save(nimg)
        os._exit(0)
    time.sleep(number.uniform(0.3, 4) * one)
    os.kill(pid, signal.SIGKILL)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL, 'the process had ended before'
    cut += any(not name.isdigit() for name in os.listdir(folder + '/checkpoints'))
    path = checkpoint.latest(folder)
    assert path, 'a checkpoint is lost'
    tensors, state = checkpoint.load(path)
    assert state['nimg'] >= max(found, 1), 'it went back'
    assert tensors['net']['a'].eq(state['nimg']).all() and len(tensors['net']['a']) == SIZE
    assert state['moments'].eq(state['nimg']).all() and len(state['moments']) == SIZE
    found = state['nimg']
print(found, cut)
"""
TURNS = 12


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')
def test_sigkill_at_random_times(tmp_path):
    """Processes that do nothing but save are killed by the system, many of them inside a save."""
    done = subprocess.run(
        [sys.executable, '-c', KILLER, str(tmp_path), str(TURNS)],
        env=os.environ | {'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found, cut = map(int, done.stdout.split())
    assert found >= 5 and cut >= 3  # saves were finished, and saves were cut


# ---- damaged, full, read-only ----


@pytest.mark.parametrize('damage', ['flip', 'truncate', 'delete', 'checksums'])
@pytest.mark.parametrize('file', ['net.safetensors', 'state.pt'])
def test_damaged_newest_falls_back(tmp_path, damage, file):
    put(tmp_path, 10)
    path = put(tmp_path, 20)
    victim = path / ('checksums.json' if damage == 'checksums' else file)
    data = bytearray(victim.read_bytes())
    if damage == 'flip':
        data[len(data) // 2] ^= 1
    victim.write_bytes(data[: len(data) // 2] if damage in ('truncate', 'checksums') else data)
    if damage == 'delete':
        victim.unlink()
    with pytest.warns(UserWarning, match='000000020.*damaged.*going back to .*000000010'):
        assert checkpoint.latest(tmp_path).name == '000000010'
    with pytest.raises(CheckpointError, match='damaged'):
        checkpoint.load(path)


def test_after_going_back_the_damaged_one_is_replaced(tmp_path):
    put(tmp_path, 10)
    (put(tmp_path, 30) / 'state.pt').write_bytes(b'')
    # The run went on from 10; the new one must not be the one that is deleted.
    put(tmp_path, 20, keep=1)
    with pytest.warns(UserWarning, match='going back'):
        assert checkpoint.latest(tmp_path).name == '000000020'
    put(tmp_path, 30, keep=1)
    assert names(tmp_path) == ['000000030']
    assert checkpoint.load(checkpoint.latest(tmp_path))[1]['nimg'] == 30


def test_all_damaged_is_an_error(tmp_path):
    (put(tmp_path, 10) / 'net.safetensors').write_bytes(b'')
    with pytest.raises(CheckpointError, match='no whole checkpoint is left'):
        checkpoint.latest(tmp_path)


def test_full_disk(tmp_path, monkeypatch):
    old = checkpoint.load(put(tmp_path, 10))

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, 'fsync', full)
    message = (
        'checkpoints: cannot write checkpoint 20: No space left .* '
        r'needs [\d,]+ bytes, [\d,]+ are free'
    )
    with pytest.raises(CheckpointError, match=message):
        put(tmp_path, 20)
    monkeypatch.undo()
    assert names(tmp_path) == ['000000010']
    assert same(checkpoint.load(checkpoint.latest(tmp_path)), old)


def test_folder_that_cannot_be_written(tmp_path):
    # A file in the way also stops root, whom permissions do not.
    (tmp_path / 'checkpoints').write_text('')
    with pytest.raises(CheckpointError, match='cannot write checkpoint 20'):
        put(tmp_path, 20)


def test_state_that_could_not_be_read_back_is_refused_at_once(tmp_path):
    with pytest.raises(TypeError, match='numbers, strings'):
        checkpoint.save(tmp_path, 10, {}, {'path': Path('somewhere')})
    assert checkpoint.latest(tmp_path) is None


# ---- weights from anywhere ----


def small(blocks=2, seed=0):
    torch.manual_seed(seed)
    return SRResNet(blocks, 8)


@pytest.mark.parametrize(
    'kind',
    [
        'run',
        'checkpoint',
        'without ema',
        'safetensors',
        'params_ema',
        'params',
        'plain',
        'parallel',
    ],
)
def test_load_weights(tmp_path, kind):
    """The average is preferred, wherever there is one; the network keeps its layout."""
    raw, ema = small(seed=1).state_dict(), small(seed=2).state_dict()
    path, expected = tmp_path / 'weights.pth', ema
    if kind in ('run', 'checkpoint', 'without ema', 'safetensors'):
        tensors = {'net': raw} if kind == 'without ema' else {'net': raw, 'ema': ema}
        folder = checkpoint.save(tmp_path, 10, tensors, {})
        path = {'run': tmp_path, 'safetensors': folder / 'net.safetensors'}.get(kind, folder)
        expected = raw if kind in ('without ema', 'safetensors') else ema
    elif kind == 'params_ema':
        torch.save({'params': raw, 'params_ema': ema}, path)
    elif kind == 'params':
        torch.save({'params': ema}, path)
    else:
        torch.save({f'module.{k}': v for k, v in ema.items()} if kind == 'parallel' else ema, path)
    net = small(seed=3).to(memory_format=torch.channels_last)
    assert checkpoint.load_weights(net, path).exists()
    assert same(dict(net.state_dict()), dict(expected))
    assert net.conv_hr.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    'weights, message',
    [
        (SRResNet(3, 8).state_dict(), 'the file has 3 body blocks, the network 2'),
        (
            SRResNet(2, 12).state_dict(),
            r'conv_first.weight is \[12, 3, 3, 3\] in the file, '
            r'\[8, 3, 3, 3\] in the network',
        ),
        (
            SRResNet(2, 8, scale=2).state_dict(),
            '2 missing in the file: upconv2.weight, upconv2.bias',
        ),
        (
            {**SRResNet(2, 8).state_dict(), 'extra': torch.zeros(1)},
            '1 unknown to the network: extra',
        ),
        (UNet((8, 16), ((1,), 1, (1,))).state_dict(), 'the file looks like a UNet'),
        ({'body.0.rdb1.conv1.weight': torch.zeros(1)}, 'the file looks like a RRDBNet'),
        (
            nn.Linear(2, 2).state_dict(),
            'no parameter has a name in common; the file begins with weight, bias',
        ),
    ],
)
def test_foreign_weights(tmp_path, weights, message):
    torch.save({'params': weights}, tmp_path / 'w.pth')
    net = small()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with pytest.raises(CheckpointError, match=f'w.pth does not fit SRResNet: .*{message}'):
        checkpoint.load_weights(net, tmp_path / 'w.pth')
    assert same(before, dict(net.state_dict()))  # all or nothing


def test_realesrgan_file(tmp_path):
    """A .pth as Real-ESRGAN publishes it tells its network and loads."""
    torch.manual_seed(0)
    weights = models.RRDBNet(2, 8, 4).state_dict()
    torch.save({'params_ema': weights}, tmp_path / 'x4plus.pth')
    net = models.like(checkpoint.read_weights(tmp_path / 'x4plus.pth')[0])
    checkpoint.load_weights(net, tmp_path / 'x4plus.pth')
    assert same(dict(net.state_dict()), dict(weights))


def test_unet_of_other_depth(tmp_path):
    safetensors.torch.save_file(
        UNet((8, 16), ((3,), 1, (2,))).state_dict(), tmp_path / 'w.safetensors'
    )
    with pytest.raises(
        CheckpointError, match='3 encoder.0 blocks, the network 1; the file has 2 decoder.0 blocks'
    ):
        checkpoint.load_weights(UNet((8, 16), ((1,), 1, (1,))), tmp_path / 'w.safetensors')


def test_unreadable_weights(tmp_path):
    net = small()
    for name in ('w.pth', 'w.safetensors'):
        (tmp_path / name).write_bytes(b'not weights')
        with pytest.raises(CheckpointError, match='cannot be read as weights'):
            checkpoint.load_weights(net, tmp_path / name)
    torch.save(net.state_dict(), tmp_path / 'cut.pth')
    os.truncate(tmp_path / 'cut.pth', 5000)
    with pytest.raises(CheckpointError, match='cannot be read as weights'):
        checkpoint.load_weights(net, tmp_path / 'cut.pth')
    with pytest.raises(CheckpointError, match='no such file'):
        checkpoint.load_weights(net, tmp_path / 'none')
    with pytest.raises(CheckpointError, match='neither a run directory'):
        checkpoint.load_weights(net, tmp_path)
    folder = checkpoint.save(tmp_path, 10, {'D': net.state_dict()}, {'nimg': 10})
    with pytest.raises(CheckpointError, match="neither 'ema' nor 'net'"):
        checkpoint.load_weights(net, folder)
    with pytest.raises(CheckpointError, match='holds no weights'):
        checkpoint.load_weights(net, folder / 'state.pt')


def test_checkpoint_folder_is_what_the_docstring_says(tmp_path):
    path = put(tmp_path, 123_456)
    assert sorted(os.listdir(path)) == [
        'checksums.json',
        'ema.safetensors',
        'net.safetensors',
        'state.pt',
    ]
    assert sorted(json.loads((path / 'checksums.json').read_text())) == [
        'ema.safetensors',
        'net.safetensors',
        'state.pt',
    ]
