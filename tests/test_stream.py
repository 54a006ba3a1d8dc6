"""Shards at addresses: every image once per epoch, whatever the number of processes.

What is bad, broken or missing is reported and left out.
"""

import contextlib
import gzip
import http.server
import json
import os
import signal
import sys
import tarfile
import threading
import time
import urllib.request
from collections import Counter

import fsspec
import numpy as np
import pytest
import torch
from test_manifest import face, late, write
from test_shards import SIZE, batches, pack, same, smooth
from test_train import flags

import dali_pipes
import degrade
import train
from dali_pipes import pipe_torch, plan
from errors import DataError, Interrupted
from sources import addresses, identity, lq_gt, manifest, stream, waiting
from tasks import data as sources
from tools import prepare

COUNT = 12  # images in four shards


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv('FACES_CACHE', str(tmp_path_factory.mktemp('cache')))


def shard(tmp_path, files):
    with open(pack(tmp_path / 'shard.tar', files), 'rb') as f:
        return f.read()


@pytest.fixture
def parts(tmp_path):
    """{name: bytes} of four shards of three images."""
    return {
        f'{s}.tar': shard(tmp_path, {f'{s}{i}.png': smooth(3 * s + i) for i in range(3)})
        for s in range(4)
    }


@pytest.fixture
def put():
    """put({name: bytes}) writes files that memory://faces/ has until the test is over."""
    fs = fsspec.filesystem('memory')
    yield lambda files: [fs.pipe(f'/faces/{name}', content) for name, content in files.items()]
    fs.rm('/faces', recursive=True)


@pytest.fixture
def found(parts, put):
    put(parts)
    return addresses.find('memory://faces/{0..3}.tar')


def colours(out):
    """What image each target is: smooth(i) has a blue of 20 i."""
    return [round(t[2, 0, 0].item() * 255) // 20 for b in out for t in b.target]


def epochs(numbers):
    """Numbers of all complete epochs of one process, as sets of how often each came."""
    return [Counter(numbers[i : i + COUNT]) for i in range(0, len(numbers) - COUNT + 1, COUNT)]


def streamed(name, found, steps=8, **options):
    return batches(name, found, steps, flip=0, **options)


# Order.


class Places:
    """Draws of a shuffle buffer, recorded."""

    def __init__(self):
        self.drawn, self._rng = [], np.random.default_rng(0)

    def __call__(self, count):
        self.drawn.append(count)
        return int(self._rng.integers(count))


@pytest.mark.parametrize('count, size', [(100, 10), (10, 100), (1, 1), (7, 7)])
def test_shuffled_epochs_are_complete(count, size):
    read = []

    def epoch(number):
        for i in range(count):
            read.append((number, i))
            yield number, i

    places = Places()
    items, out = stream.shuffled((epoch(e) for e in range(99)), size, places), []
    for _ in range(4 * count):
        out.append(next(items))
        # Items in memory: the buffer, and one that was read ahead.
        assert len(read) - len(out) <= max(size, count if size > count else 0) + 1
    for e in range(4):
        assert sorted(out[e * count : (e + 1) * count]) == [(e, i) for i in range(count)]
    assert max(places.drawn) == min(size, count)


def test_shuffled_items_are_mixed():
    """They move by about the size of the buffer."""
    items = stream.shuffled((iter(range(1000)) for _ in range(9)), 100, Places())
    out = [next(items) for _ in range(900)]
    assert np.corrcoef(out, range(900))[0, 1] < 1
    assert 50 < np.abs(np.array(out) - np.arange(900)).mean() < 200


def test_every_image_once_per_epoch_over_two_ranks(found):
    ranks = [streamed('torch', found, 18, rank=r, world=2, batch=1) for r in (0, 1)]
    assert all(b.sample.item() == 2 * i + r for r in (0, 1) for i, b in enumerate(ranks[r]))
    halves = [colours(out) for out in ranks]
    for e in range(3):
        assert sorted(halves[0][6 * e : 6 * e + 6] + halves[1][6 * e : 6 * e + 6]) == list(
            range(COUNT)
        )
    assert halves[0][:6] != halves[0][6:12] and set(halves[0][:6]) != set(range(6))


def test_a_run_can_be_repeated_and_all_pipes_agree(found):
    first = streamed('torch', found)
    numbers = colours(first)
    assert (
        epochs(numbers) == [Counter(range(COUNT))] * 2
        and numbers[:COUNT] != numbers[COUNT : 2 * COUNT]
    )
    for name in 'torch', 'dali':
        assert same(first, streamed(name, found, threads=1))
    reference = streamed('reference', found)
    assert (
        numbers == colours(reference)
        and same(reference, streamed('reference', found))
        and all(torch.equal(a.target, b.target) for a, b in zip(first, reference, strict=True))
    )
    assert colours(streamed('torch', found, seed=5)) != numbers


def test_resume_draws_the_order_anew_and_nothing_else(found):
    whole, rest = streamed('torch', found), streamed('torch', found, 4, start=12)
    assert [b.sample.tolist() for b in rest] == [b.sample.tolist() for b in whole[4:]]
    assert (
        epochs(colours(rest)) == [Counter(range(COUNT))]
        and colours(rest) != colours(whole[4:])
        and same(rest, streamed('torch', found, 4, start=12))
    )
    streaming = plan.Plan(None, degrade.recipe('ai6126_2024'), batch=3, size=SIZE)
    disk = plan.Plan(COUNT, degrade.recipe('ai6126_2024'), batch=3, size=SIZE)
    a, b = streaming(np.arange(12, 15)), disk(np.arange(12, 15))
    assert (
        (a.flip == b.flip).all()
        and all(
            (x == y).all()
            for p, q in zip(a.params, b.params, strict=True)
            for x, y in zip(p, q, strict=True)
        )
        and (a.index == -1).all()
    )


def test_worker_processes_deal_the_shards_out(parts, tmp_path):
    """As on a GPU: two spawned processes, each with shards of its own.

    They cannot see this process's memory, hence files.
    """
    for name, content in parts.items():
        (tmp_path / name).write_bytes(content)
    source = stream.Stream(addresses.find(f'file://{tmp_path}/{{0..3}}.tar'), SIZE, say=str)
    decoded = pipe_torch.Decoded(source)
    loader = torch.utils.data.DataLoader(
        decoded,
        batch_sampler=[[-1, -1, -1]] * 4,
        num_workers=2,
        collate_fn=pipe_torch._as_tensor,
        multiprocessing_context='spawn',
    )
    assert sorted(int(image[0, 0, 2]) // 20 for _, pix in loader for image in pix) == list(
        range(COUNT)
    )


# What is bad.


@pytest.mark.parametrize('name', ['torch', 'dali', 'reference'])
def test_bad_images_are_reported_once_and_skipped(name, parts, put, tmp_path):
    put(
        {
            **parts,
            '4.tar': shard(
                tmp_path, {'a.png': late(), 'b.png': face(32), 'c.jpg': b'<html>', 'd.txt': b'text'}
            ),
        }
    )
    said = []
    numbers = colours(
        streamed(name, addresses.find('memory://faces/{0..4}.tar'), 12, say=said.append)
    )
    assert epochs(numbers) == [Counter(range(COUNT))] * 3
    assert (
        len(said) == 3
        and sum('4.tar/a.png skipped: corrupt pixels' in s for s in said)
        == sum('4.tar/b.png skipped: 32x32, smaller' in s for s in said)
        == 1
    )


def test_broken_and_missing_shards_are_reported_and_the_rest_is_read(parts, put):
    put(
        {
            **parts,
            '4.tar': parts['0.tar'][: 512 * 4],
            '5.tar': gzip.compress(parts['0.tar']),
            '6.tar': b'<html>not found</html>' * 99,
        }
    )
    said = []
    numbers = colours(
        streamed('torch', addresses.find('memory://faces/{0..7}.tar'), 12, say=said.append)
    )
    assert set(range(COUNT)) == set(numbers) and len(said) == 4
    for name, reason in (
        ('4.tar', 'truncated at byte'),
        ('5.tar', 'gzip-compressed'),
        ('6.tar', 'it looks like HTML'),
        ('7.tar', '7.tar does not exist'),
    ):
        assert (
            sum(name in s and 'left out until the next epoch' in s and reason in s for s in said)
            == 1
        )


def test_a_shard_that_comes_back_is_read_again(parts, put, monkeypatch):
    monkeypatch.setattr(stream, 'SHUFFLE', 1)
    monkeypatch.setattr(waiting, 'AHEAD', 1)
    put({'0.tar': parts['0.tar']})
    with dali_pipes.make(
        'torch',
        addresses.find('memory://faces/{0..1}.tar'),
        'bicubic',
        batch=3,
        size=SIZE,
        flip=0,
        say=str,
        threads=1,
    ) as pipe:
        assert set(colours([next(pipe) for _ in range(3)])) == {0, 1, 2}
        put({'1.tar': parts['1.tar']})
        assert set(colours([next(pipe) for _ in range(8)])) == set(range(6))


def test_nothing_usable_is_an_error(put, tmp_path):
    with pytest.raises(
        DataError,
        match='no image in an epoch of 2 shards: .*0.tar left out .*0.tar does not exist.*Check',
    ):
        streamed('torch', addresses.find('memory://faces/{0..1}.tar'))
    put({'0.tar': shard(tmp_path, {f'{i}.png': face(32) for i in range(4)})})
    for name in 'torch', 'dali':
        with pytest.raises(
            DataError, match='no usable image in an epoch of 1 shard: .*0.tar/.*32x32, smaller'
        ):
            streamed(name, addresses.find('memory://faces/0.tar'), batch=9)


def test_what_a_stream_cannot_do(found, monkeypatch):
    with pytest.raises(DataError, match='4 shards for 5 processes'):
        streamed('torch', found, world=5)
    with pytest.raises(DataError, match='--cache host: a stream'):
        streamed('torch', found, cache='host')
    said = []
    streamed('torch', found, 1, cache='auto', say=said.append)
    assert said == ['cache: off; images of a stream are not cached']
    with pytest.raises(DataError, match='nosuch://x.tar: cannot be listed'):
        addresses.find('nosuch://x.tar')
    with pytest.raises(DataError, match='no shards found'):
        addresses.find('memory://faces/*.zip')
    monkeypatch.setitem(sys.modules, 's3fs', None)
    monkeypatch.delitem(sys.modules['fsspec.registry']._registry, 's3', raising=False)
    with pytest.raises(DataError, match=r'pip install s3fs .*\[remote\]'):
        addresses.find('s3://bucket/{0..3}.tar')


def test_stars_find_what_braces_name(found):
    starred = addresses.find('memory://faces/*.tar')
    assert [os.path.basename(u) for u in starred.urls] == [
        '0.tar',
        '1.tar',
        '2.tar',
        '3.tar',
    ] and len(starred) == 4
    assert sources.fingerprint(starred) == sources.fingerprint(found) and sources.fingerprint(
        found
    ).startswith('4 shards, ')
    assert same(streamed('torch', starred), streamed('torch', found))


def test_close_ends_the_reading(found):
    before = set(threading.enumerate())
    with dali_pipes.make('torch', found, 'bicubic', size=SIZE, threads=1, say=str) as pipe:
        next(pipe)
        assert {t.name for t in set(threading.enumerate()) - before} >= {'shards'}
    assert set(threading.enumerate()) <= before


# Training.


def test_training_on_a_stream(found, tmp_path, capsys):
    write(tmp_path / 'pairs', {'LQ/0.png': face(16), 'GT/0.png': face()})
    argv = flags(tmp_path, tmp_path / 'run', data='memory://faces/*.tar', nimg=8, ticks=1)
    assert train.main(argv) == 0
    said = capsys.readouterr().out
    assert '4 shards' in said and 'cache: off' in said
    assert np.isfinite(json.loads((tmp_path / 'run/result.json').read_text())['psnr'])
    assert train.main(argv) == 0 and 'resumed at 8 images' in capsys.readouterr().out
    assert (
        prepare.main(['replay', str(tmp_path / 'run'), '3']) == 2
        and 'was trained on a stream' in capsys.readouterr().err
    )
    for val in 2, 0.1:
        assert (
            train.main(flags(tmp_path, tmp_path / 'other', data='memory://faces/*.tar', val=val))
            == 2
        )
        assert 'is a stream, of which no share can be held out' in capsys.readouterr().err
    # A first start that is refused leaves nothing behind.
    assert train.main(flags(tmp_path, tmp_path / 'other', data='memory://faces/9.tar')) == 2
    assert 'no image in 1 shard of 1: memory://faces/9.tar' in capsys.readouterr().err
    assert not (tmp_path / 'other').exists()


def test_training_on_a_list_of_addresses(found, tmp_path, capsys):
    write(tmp_path / 'pairs', {'LQ/0.png': face(16), 'GT/0.png': face()})
    listed = tmp_path / 'shards.txt'
    listed.write_text('# two of four\nmemory://faces/{0..0}.tar\n\nmemory://faces/2.tar\n')
    argv = flags(tmp_path, tmp_path / 'run', data=listed, nimg=8, ticks=1)
    assert train.main(argv) == 0 and '2 shards' in capsys.readouterr().out
    listed.write_text('memory://faces/0.tar\nfaces/2.tar\n')
    assert train.main(flags(tmp_path, tmp_path / 'other', data=listed)) == 2
    assert 'lists addresses and paths (memory://faces/0.tar, faces/2.tar)' in (
        capsys.readouterr().err
    )


def test_copies_of_images_of_the_validation_are_told(found, tmp_path):
    """Once a process, and trained on, as those of a disk are."""
    write(tmp_path, {'mine.png': smooth(4), 'LQ/7.png': face(16), 'GT/7.png': smooth(7)})
    faces = manifest.scan(str(tmp_path / 'mine.png'), size=SIZE, say=str).images
    pairs = lq_gt.scan_pairs(str(tmp_path), 4, say=str)
    beside = found.beside(identity.by_size(faces)).beside(identity.by_size(pairs))
    said = []
    for rank in range(4):
        streamed('torch', beside, 6, rank=rank, world=4, batch=1, say=said.append)
    # Shards 1 and 2 have a copy each, and every rank tells of the first that it meets.
    assert 2 <= len(said) <= 4 and all(s.startswith('copies of images of --val') for s in said)
    assert 'mine.png' in ' '.join(said) and 'GT/7.png' in ' '.join(said)
    assert same(streamed('torch', beside, say=str), streamed('torch', found))


def test_a_run_begins_if_any_shard_has_an_image(parts, put, tmp_path):
    empty = shard(tmp_path, {'notes.txt': b'none'})
    put({f'{i:02}.tar': empty for i in range(8)} | {'19.tar': parts['3.tar']})
    stream.Stream(addresses.find('memory://faces/{00..19}.tar'), SIZE).prove()
    with pytest.raises(
        DataError, match='no image in 19 shards of 19: .*00.tar holds no image.*Check the address'
    ):
        stream.Stream(addresses.find('memory://faces/{00..18}.tar'), SIZE).prove()


def test_a_folder_of_a_store(found, put):
    for folder in 'memory://faces', 'memory://faces/':
        assert addresses.find(folder).urls == addresses.find('memory://faces/*.tar').urls
    put({'deeper/0.tar': b'', 'none/0.txt': b''})
    assert len(addresses.find('memory://faces/*/*.tar')) == 1
    with pytest.raises(DataError, match='none: cannot be listed .a folder without .tar files'):
        addresses.find('memory://faces/none')
    # A shard need not be called .tar.
    assert addresses.find('memory://faces/none/{0..1}.txt').urls == [
        'memory://faces/none/0.txt',
        'memory://faces/none/1.txt',
    ]
    with pytest.raises(DataError, match='no shards found; .*zz does not exist; check the address'):
        addresses.find('memory://faces/zz/*.tar')
    with pytest.raises(DataError, match='no shards found; check the pattern'):
        addresses.find('memory://faces/none/*.tar')


# Against a server that speaks S3.


@pytest.fixture(scope='module')
def server():
    """Address of a local S3 server."""
    moto = pytest.importorskip('moto.server', reason='moto[server] is not installed')
    pytest.importorskip('s3fs', reason='s3fs is not installed')
    running = moto.ThreadedMotoServer(port=0, verbose=False)
    running.start()
    yield 'http://{}:{}'.format(*running.get_host_and_port())
    running.stop()


@pytest.fixture
def bucket(server, parts, monkeypatch):
    import s3fs

    for name, value in dict(
        AWS_ENDPOINT_URL=server,
        AWS_ACCESS_KEY_ID='test',
        AWS_SECRET_ACCESS_KEY='test',
        AWS_DEFAULT_REGION='us-east-1',
    ).items():
        monkeypatch.setenv(name, value)
    urllib.request.urlopen(
        urllib.request.Request(f'{server}/moto-api/reset', method='POST')
    ).close()
    s3fs.S3FileSystem.clear_instance_cache()
    fs = s3fs.S3FileSystem()
    fs.mkdir('faces', acl='public-read')
    for name, content in parts.items():
        fs.pipe(f'faces/{name}', content, ACL='public-read')
    yield fs
    s3fs.S3FileSystem.clear_instance_cache()


def test_s3(bucket, tmp_path):
    bucket.pipe('faces/4.tar', shard(tmp_path, {'bad.png': face()[:80]}))
    for pattern in 's3://faces/{0..5}.tar', 's3://faces/*.tar':
        said, found = [], addresses.find(pattern)
        ranks = [
            streamed('torch', found, 15, rank=r, world=2, batch=1, say=said.append) for r in (0, 1)
        ]
        assert set(colours(ranks[0] + ranks[1])) == set(range(COUNT))
        whole = streamed('torch', found, say=said.append)
        assert epochs(colours(whole)) == [Counter(range(COUNT))] * 2 and same(
            whole, streamed('torch', found)
        )
        assert any('s3://faces/4.tar/bad.png skipped: truncated' in s for s in said)
        assert any('s3://faces/5.tar left out' in s and 'not exist' in s for s in said) == (
            '{' in pattern
        )
    with pytest.raises(DataError, match='no image in an epoch of 2 shards: s3://faces/8.tar'):
        streamed('torch', addresses.find('s3://faces/{8..9}.tar'))
    assert len(addresses.find('s3://faces')) == 5
    for address in 's3://nowhere/*.tar', 's3://nowhere':
        with pytest.raises(DataError, match='(found|listed).* not exist.*AWS_ENDPOINT_URL'):
            addresses.find(address)


def test_two_ranks_share_the_images_of_a_bucket(bucket):
    found = addresses.find('s3://faces/*.tar')
    halves = [colours(streamed('torch', found, 12, rank=r, world=2, batch=1)) for r in (0, 1)]
    for e in range(2):
        assert sorted(halves[0][6 * e : 6 * e + 6] + halves[1][6 * e : 6 * e + 6]) == list(
            range(COUNT)
        )


def test_web_addresses(bucket, server):
    said = []
    whole = streamed('torch', addresses.find(f'{server}/faces/{{0..4}}.tar'), say=said.append)
    assert epochs(colours(whole)) == [Counter(range(COUNT))] * 2
    assert len(said) == 1 and '/faces/4.tar left out until the next epoch: ' in said[0]
    assert said[0].endswith('/faces/4.tar does not exist')


# Against servers that misbehave.


class Misbehaving(http.server.BaseHTTPRequestHandler):
    """/good/N.tar is served; the other folders say what goes wrong."""

    shards: dict[str, bytes] = {}
    released = threading.Event()  # set when the test is over
    asked = threading.Event()  # set by the first request
    silent = threading.Event()  # from then on nothing of /later/ comes

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(b'')

    def do_GET(self):
        way, name = self.path.strip('/').split('/')
        data = self.shards.get(name, b'')
        with contextlib.suppress(OSError):
            if way == 'silent' or (way == 'later' and self.silent.is_set()):
                self.asked.set()
                self.released.wait(20)
            elif way == 'stalls':
                self.answer(data[:700], len(data))
                self.released.wait(20)
            elif way == 'drips':
                self.answer(b'', len(data))
                for byte in data:
                    self.wfile.write(bytes([byte]))
                    if self.released.wait(0.05):
                        return
            elif way == 'endless':
                self.answer(b'')
                while not self.released.wait(0.01):
                    self.wfile.write(shard_of_text)
            else:
                self.answer(data, len(data))

    def answer(self, data, length=None):
        self.send_response(200)
        if length is not None:
            self.send_header('Content-Length', str(length))
        self.end_headers()
        self.wfile.write(data)


shard_of_text = tarfile.TarInfo('a.txt').tobuf()  # a member of no bytes, as often as one likes


@pytest.fixture
def misbehaving(parts):
    """Address of a server whose shards come in the way that the folder's name says."""
    pytest.importorskip('aiohttp', reason='aiohttp is not installed')
    Misbehaving.shards = parts
    for name in 'released', 'asked', 'silent':
        setattr(Misbehaving, name, threading.Event())
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Misbehaving) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield 'http://{}:{}'.format(*server.server_address)
        Misbehaving.released.set()
        server.shutdown()


WAYS = 'silent', 'stalls', 'drips'


@pytest.mark.parametrize('way', WAYS)
def test_a_shard_that_stalls_is_left_out(misbehaving, way):
    found = addresses.Shards(
        [f'{misbehaving}/{way}/1.tar', f'{misbehaving}/good/0.tar'], timeout=0.5
    )
    said = []
    whole = streamed('torch', found, 6, say=said.append)
    assert len(set(colours(whole))) == 3
    assert f'{way}/1.tar left out until the next epoch: stalled' in said[0]
    assert '--stream-timeout' in said[0] and len(said) == 1


@pytest.mark.parametrize('way', WAYS)
def test_a_store_that_stalls_ends_the_run(misbehaving, way):
    found = addresses.Shards([f'{misbehaving}/{way}/{i % 4}.tar' for i in range(50)], timeout=0.2)
    began = time.monotonic()
    with pytest.raises(DataError, match='5 shards in a row stalled'):
        streamed('torch', found, 6)
    # Not a bound on speed: 50 time-outs would be 10 s, and the client's own are minutes.
    assert time.monotonic() - began < 8


def test_a_shard_without_end_is_left_out(misbehaving, monkeypatch):
    monkeypatch.setattr(stream, 'MOST', 20_000)
    found = addresses.Shards([f'{misbehaving}/endless/1.tar', f'{misbehaving}/good/0.tar'])
    said = []
    assert len(set(colours(streamed('torch', found, 6, say=said.append)))) == 3
    assert 'endless/1.tar left out until the next epoch: stalled: no image in' in said[0]


def test_a_store_that_does_not_list(monkeypatch):
    released = threading.Event()
    monkeypatch.setattr(
        'fsspec.implementations.memory.MemoryFileSystem.glob', lambda *_: released.wait(20)
    )
    with pytest.raises(DataError, match='cannot be listed .no answer in 0.2 s'):
        addresses.find('memory://faces/*.tar', timeout=0.2)
    released.set()


def test_waiting_can_be_interrupted(misbehaving):
    found = addresses.Shards([f'{misbehaving}/silent/0.tar'], timeout=60)
    with dali_pipes.make('torch', found, 'bicubic', size=SIZE, threads=1, say=str) as pipe:
        threading.Timer(0.3, pipe.interrupt).start()
        with pytest.raises(Interrupted):
            next(pipe)


def test_a_signal_ends_a_run_that_waits(misbehaving, tmp_path, capsys, monkeypatch):
    write(tmp_path / 'pairs', {'LQ/0.png': face(16), 'GT/0.png': face()})
    data = f'{misbehaving}/later/{{0..3}}.tar'
    proved = stream.Stream.prove
    monkeypatch.setattr(stream.Stream, 'prove', lambda s: (proved(s), Misbehaving.silent.set()))
    argv = flags(tmp_path, tmp_path / 'run', data=data, nimg=8, ticks=1, stream_timeout=600)
    # As soon as a shard is asked for after the start.
    asked = threading.Thread(target=lambda: Misbehaving.asked.wait(60) and stop_here())
    asked.start()
    assert train.main(argv) == 128 + signal.SIGTERM
    assert 'stopped by SIGTERM at 0 images and saved' in capsys.readouterr().out
    assert (tmp_path / 'run/checkpoints/000000000').is_dir()


def stop_here():
    os.kill(os.getpid(), signal.SIGTERM)
