"""The same bytes from one process, two, a cluster that loses a machine, and after a kill; on a disk
and in a store.
"""

import hashlib
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import psutil
import pytest
from test_build import contents, tar_of

import synthetic
from tools import build

ROOT = Path(__file__).resolve().parents[1]
SHARDS = 8
FLAGS = ['--recipe', 'simple', '--size', '64', '--photos-per-shard', '2']


@pytest.fixture(scope='module')
def faces(tmp_path_factory):
    """Pictures for seven input shards, and a tar."""
    root = tmp_path_factory.mktemp('faces')
    drawn = [
        cv2.imencode('.png', synthetic.face(i, 64).image[..., ::-1])[1].tobytes() for i in range(17)
    ]
    for i, data in enumerate(drawn[3:]):
        (root / f'{i}.png').write_bytes(data)
    (root / '5.png').write_text('no picture')
    tar_of(root / 'three.tar', {f'{i}.png': data for i, data in enumerate(drawn[:3])})
    return root


@pytest.fixture(scope='module')
def plain(faces, tmp_path_factory):
    """Files of the set that one process makes."""
    out = tmp_path_factory.mktemp('plain')
    assert made(faces, out, '--processes', 1) == 0
    return contents(out)


def made(source, out, *flags):
    return build.main(['pairs', str(source), '--out', str(out), *FLAGS, *map(str, flags)])


def accounts_in(out):
    return len(list(Path(out).glob('pairs-*.json')))


def wait_for(count, out, seconds=120):
    """Wait until so many shards are done."""
    end = time.monotonic() + seconds
    while accounts_in(out) < count:
        assert time.monotonic() < end, f'{accounts_in(out)} shards'
        time.sleep(0.02)


def test_whole(plain, tmp_path, faces):
    assert len([name for name in plain if name.endswith('.tar')]) == 2 * SHARDS
    index = hashlib.sha256(plain['index.json']).hexdigest()
    assert len(plain) == 3 * SHARDS + 2, index


def test_two_processes_and_parts(faces, plain, tmp_path, capsys):
    assert made(faces, tmp_path, '--processes', 2, '--shards', '2:5') == 0
    assert '5 shards of 8 to go' in capsys.readouterr().out
    assert accounts_in(tmp_path) == 3 and not (tmp_path / 'index.json').exists()
    assert made(faces, tmp_path, '--processes', 2) == 0
    said = capsys.readouterr().out
    assert '3 of 8 shards are there already' in said
    assert hashlib.sha256(plain['index.json']).hexdigest() in said
    assert contents(tmp_path) == plain


def test_killed(faces, plain, tmp_path):
    words = [sys.executable, 'tools/build.py', 'pairs', str(faces), '--out', str(tmp_path), *FLAGS]
    driver = subprocess.Popen([*words, '--processes', '1'], cwd=ROOT)
    wait_for(2, tmp_path)
    workers = psutil.Process(driver.pid).children(recursive=True)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    _, alive = psutil.wait_procs(workers, 20)
    assert workers and not alive
    assert accounts_in(tmp_path) < SHARDS
    assert made(faces, tmp_path, '--processes', 2) == 0
    assert contents(tmp_path) == plain


def test_others_are_refused(faces, plain, tmp_path, capsys):
    assert made(faces, tmp_path, '--shards', '0:1', '--processes', 1) == 0
    for flags, said in (
        (['--seed', '1'], 'begun with seed 0, not 1'),
        (['--photos-per-shard', '3'], 'begun from other pictures'),
    ):
        assert made(faces, tmp_path, *flags) == 2
        assert said in capsys.readouterr().err
    (tmp_path / 'other').mkdir()
    (tmp_path / 'other/notes.txt').touch()
    assert made(faces, tmp_path / 'other') == 2
    assert 'holds other files already (notes.txt)' in capsys.readouterr().err


def test_cluster_that_loses_a_machine(faces, plain, tmp_path):
    pytest.importorskip('ray', reason='ray is not installed')
    from ray.cluster_utils import Cluster

    machine = dict(num_cpus=1, object_store_memory=100_000_000, include_dashboard=False)
    cluster = Cluster(initialize_head=True, head_node_args=machine)
    try:
        second = cluster.add_node(num_cpus=1, object_store_memory=100_000_000)
        said = []

        def lose():
            wait_for(1, tmp_path)
            cluster.remove_node(second, allow_graceful=False)
            said.append(accounts_in(tmp_path))

        thread = threading.Thread(target=lose)
        thread.start()
        assert made(faces, tmp_path, '--ray', cluster.address) == 0
        thread.join()
    finally:
        cluster.shutdown()
    # It was lost while there was still something to do.
    assert said[0] < SHARDS
    assert contents(tmp_path) == plain


def test_no_cluster(faces, tmp_path, capsys):
    pytest.importorskip('ray', reason='ray is not installed')
    assert made(faces, tmp_path, '--ray', '127.0.0.1:1') == 2
    assert 'no cluster answers' in capsys.readouterr().err


# ---- a store ----


@pytest.fixture
def bucket(faces, monkeypatch):
    moto = pytest.importorskip('moto.server', reason='moto[server] is not installed')
    s3fs = pytest.importorskip('s3fs', reason='s3fs is not installed')
    server = moto.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    monkeypatch.setenv('AWS_ENDPOINT_URL', 'http://{}:{}'.format(*server.get_host_and_port()))
    monkeypatch.setenv('AWS_ACCESS_KEY_ID', 'test')
    monkeypatch.setenv('AWS_SECRET_ACCESS_KEY', 'test')
    monkeypatch.setenv('AWS_DEFAULT_REGION', 'us-east-1')
    s3fs.S3FileSystem.clear_instance_cache()
    fs = s3fs.S3FileSystem()
    fs.mkdir('heap')
    for path in faces.iterdir():
        fs.pipe_file(f'heap/raw/{path.name}', path.read_bytes())
    yield fs
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def stored(fs, folder):
    """{name: bytes} of all files below a folder of a store."""
    return {path.removeprefix(f'{folder}/'): fs.cat_file(path) for path in fs.find(folder)}


def test_store(bucket, plain, tmp_path, capsys):
    # From a store to a disk, and from a store to a store in two parts.
    assert made('s3://heap/raw', tmp_path, '--processes', 1) == 0
    assert contents(tmp_path) == plain
    assert made('s3://heap/raw/', 's3://heap/set/', '--processes', 2, '--shards', '0:3') == 0
    assert made('s3://heap/raw', 's3://heap/set', '--processes', 2) == 0
    bucket.invalidate_cache()
    assert stored(bucket, 'heap/set') == plain
    assert made('s3://heap/raw', 's3://nowhere/set', '--processes', 1) == 2
    assert 's3://nowhere/set' in capsys.readouterr().err
    assert made('s3://heap/nothing', tmp_path / 'other') == 2
