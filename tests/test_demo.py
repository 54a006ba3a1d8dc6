"""The page in the browser: uploads of every kind, damaged ones, limits, and what a visitor sees."""

import io
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path
from urllib.parse import urlparse

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from test_photo import exif, profile

import infer
import models
import synthetic
from sources import decoders
from sources import photo as photo_file
from sources.photo import SUFFIXES, Photo
from tasks import loading, photo_flags
from tasks.parse import Parse
from tools import demo, demo_photo
from training import checkpoint

ROOT = Path(__file__).resolve().parents[1]
KINDS = 'PNG', 'JPEG', 'WEBP', 'TIFF', 'BMP', 'AVIF'


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """A file of a network that restores nothing, quickly."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('weights') / 'tiny.safetensors'
    checkpoint.save_weights(path, models.SRResNet(2, 8).state_dict())
    return str(path)


@pytest.fixture(scope='module')
def restorer(weights):
    return demo.restorer_of(demo.parser().parse_args(['--weights', weights, '--device', 'cpu']))


def two_faces():
    """[180, 300, 3] uint8 with two faces beside each other."""
    pixels = np.full((180, 300, 3), 190, np.uint8)
    for i, seed in enumerate((3, 4)):
        pixels[20 + 20 * i : 148 + 20 * i, 10 + 150 * i : 138 + 150 * i] = face(seed)
    return pixels


def face(seed):
    return synthetic.face(seed, 128).image


def saved(path, photo):
    path.write_bytes(photo_file.encoded(photo))
    return path


def ask(restorer, folder, path, scale=1, keep=0.0, known=None, fidelity=None):
    """What the page is told, which is a result or a message in one line."""
    got = demo_photo.answer(restorer, str(folder), str(path), scale, keep, fidelity, known)
    assert got.said.startswith(path.name) and got.said.isprintable()
    assert (got.file is None) == (got.views is None) == (got.known is None)
    return got


# ------------------------------------------------------------------------------------------------
# The result.


def rich(kind):
    """A photo with all that its kind of file can hold."""
    pixels = two_faces()
    if kind in ('PNG', 'TIFF'):
        pixels = pixels.astype(np.uint16) * 257
    alpha = np.full(pixels.shape[:2], np.iinfo(pixels.dtype).max, pixels.dtype)
    alpha[:, 140:160] = 0
    clear = kind not in ('JPEG', 'BMP')
    return Photo(pixels, alpha if clear else None, kind=kind, icc=profile(), exif=exif())


@pytest.mark.parametrize('kind', KINDS)
def test_the_file_is_that_of_infer(kind, restorer, weights, tmp_path):
    path = saved(tmp_path / f'gr\u00f6\u00dfe{SUFFIXES[kind]}', rich(kind))
    got = ask(restorer, tmp_path, path, 2, 0.3)

    # A PNG holds whatever other kinds do.
    photo = photo_file.read(path.read_bytes())
    twin = saved(tmp_path / 'twin.png', photo._replace(kind='PNG'))
    argv = ['--weights', weights, '--device', 'cpu', '--keep', '0.3', '--no-aligned']
    argv += ['--output', str(tmp_path / 'out'), '--format', kind.lower().replace('bmp', 'png')]
    assert infer.main([str(twin), *argv]) == 0
    (theirs,) = (tmp_path / 'out').iterdir()
    own, theirs = Path(got.file).read_bytes(), theirs.read_bytes()
    if kind == 'BMP':
        own, theirs = (Image.open(io.BytesIO(data)).tobytes() for data in (own, theirs))
    assert own == theirs
    assert Path(got.file).name == f'gr\u00f6\u00dfe-restored{SUFFIXES[kind]}'
    assert got.said == f'{path.name}: 2 faces restored; 600x360 pixels'


def test_what_is_looked_at_is_the_photo_and_the_result(restorer, tmp_path):
    # A network whose faces nobody mistakes for those of the photo.
    tools = restorer._tools._replace(network=lambda x: 255 - x)
    path = saved(tmp_path / 'a.png', Photo(two_faces()))
    got = ask(demo_photo.Restorer(tools, 10**6, 10**6), tmp_path, path, 2)
    result = photo_file.read(Path(got.file).read_bytes()).pixels.astype(int)
    before, after = (np.array(Image.open(view), int) for view in got.views)
    plain = np.array(Image.fromarray(two_faces()).resize((600, 360), Image.Resampling.LANCZOS), int)
    assert np.abs(before - plain).mean() < 2 and np.abs(after - result).mean() < 2
    assert np.abs(plain - result).mean() > 4
    assert [caption for _, caption in got.faces] == ['before', 'after'] * 2

    # Each face is somewhere in its picture, at the size at which it is shown.
    for i, (file, _) in enumerate(got.faces):
        shown = np.array(Image.open(file).convert('L').resize((80, 80)), np.float32)
        whole = cv2.cvtColor((before, after)[i % 2].astype(np.uint8), cv2.COLOR_RGB2GRAY)
        found = [
            cv2.matchTemplate(cv2.resize(whole, None, fx=by, fy=by).astype(np.float32), shown, 5)
            for by in np.geomspace(0.25, 0.36, 120)
        ]
        assert max(match.max() for match in found) > 0.95


def test_the_network_is_asked_once_about_a_photo(restorer, tmp_path, monkeypatch):
    asked = []

    class Counting:
        def __init__(self, tools):
            self.tools = tools

        def detector(self, *args):
            asked.append('detector')
            return self.tools.detector(*args)

        def network(self, x):
            asked.append('network')
            return self.tools.network(x)

    tools = restorer._tools
    counted = Counting(tools)
    counting = demo_photo.Restorer(
        tools._replace(detector=counted.detector, network=counted.network), 10**6, 10**6
    )
    path = saved(tmp_path / 'a.png', Photo(two_faces()))
    known = ask(counting, tmp_path, path, 1, 0).known
    assert asked == ['detector', 'network']
    files = set()
    for scale, keep in (1, 0.0), (1, 0.5), (2, 0.5), (4, 1.0):
        again = ask(counting, tmp_path, path, scale, keep, known)
        fresh = ask(restorer, tmp_path, path, scale, keep)
        assert Path(again.file).read_bytes() == Path(fresh.file).read_bytes()
        files.add(Path(again.file).read_bytes())
    assert asked == ['detector', 'network'] and len(files) == 4

    # What was known of one photo is not taken for another one.
    other = saved(tmp_path / 'b.png', Photo(two_faces()[:, ::-1].copy()))
    assert ask(counting, tmp_path, other, 1, 0, known).known is not known
    assert len(asked) == 4


@pytest.mark.parametrize(
    ('scale', 'said'),
    [(1, 'the photo is unchanged'), (4, 'enlarged only, to 160x120 pixels')],
)
def test_a_photo_without_a_face_is_enlarged(scale, said, restorer, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    got = ask(restorer, tmp_path, saved(tmp_path / 'a.png', Photo(pixels)), scale)
    assert got.said == f'a.png: no face found: {said}' and got.faces is None
    found = photo_file.read(Path(got.file).read_bytes()).pixels
    assert found.shape == (30 * scale, 40 * scale, 3)
    assert scale > 1 or (found == pixels).all()


def test_what_is_shown_is_small(restorer, tmp_path):
    path = saved(tmp_path / 'a.png', Photo(np.zeros((3, 3000, 3), np.uint8)))
    views = [Image.open(view).size for view in ask(restorer, tmp_path, path, 4).views]
    assert views == [(demo_photo.LARGEST_VIEW, 2)] * 2


def test_a_bitmap_with_transparency_becomes_a_png(restorer, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 4), np.uint8)
    data = cv2.imencode('.bmp', cv2.cvtColor(pixels, cv2.COLOR_RGBA2BGRA))[1]
    (tmp_path / 'a.bmp').write_bytes(data)
    got = ask(restorer, tmp_path, tmp_path / 'a.bmp')
    assert (np.array(Image.open(got.file)) == pixels).all() and got.file.endswith('a-restored.png')


def test_what_is_too_long_for_its_kind_becomes_a_png(restorer, tmp_path):
    path = saved(tmp_path / 'a.webp', Photo(np.full((2, 9000, 3), 99, np.uint8), kind='WEBP'))
    assert ask(restorer, tmp_path, path, 1).file.endswith('a-restored.webp')
    got = ask(restorer, tmp_path, path, 2)
    assert got.file.endswith('a-restored.png') and Image.open(got.file).size == (18_000, 4)


# ------------------------------------------------------------------------------------------------
# What is no photo, or no longer.


def damaged(kind):
    """(name, bytes) of files that were cut off, changed, or tell lies about their size."""
    pixels = synthetic.face(5, 128).image[::2, ::2].copy()
    if kind == 'TIFF':
        pixels = pixels.astype(np.uint16) * 257
    whole = photo_file.encoded(Photo(pixels, kind=kind, exif=exif()))
    assert photo_file.read(whole).pixels.shape == (64, 64, 3)
    for i in range(12):
        yield f'cut-{i}', whole[: len(whole) * i // 12 + 7 * (i % 3)]
    rng = random.Random(kind)
    for i in range(24):
        changed = bytearray(whole)
        # Headers matter most, and are short.
        for _ in range(1 + i % 4):
            at = rng.randrange(min(len(whole), 256) if i % 2 else len(whole))
            changed[at] = rng.randrange(256)
        yield f'changed-{i}', bytes(changed)
    # 64 pixels, wherever that may be written, in both orders of bytes.
    for size in 0, 1, 65, 30_000, 2**16 - 1:
        for order in ('big', 'little'):
            old, new = (n.to_bytes(2, order) for n in (64, size))
            yield f'lie-{size}-{order}', whole.replace(old, new)
    yield 'tail', whole + b'more' * 100
    yield 'twice', whole + whole
    yield 'shifted', b'\0' + whole


def test_there_are_enough_damaged_uploads():
    assert sum(len(list(damaged(kind))) for kind in KINDS) > 200


@pytest.mark.parametrize('kind', KINDS)
def test_damaged_uploads_end_in_a_result_or_a_message(kind, restorer, tmp_path):
    results = 0
    limited = demo_photo.Restorer(restorer._tools, 100_000, 10**6)
    for name, data in damaged(kind):
        path = tmp_path / f'{name}{SUFFIXES[kind] if len(data) % 2 else ""}'
        path.write_bytes(data)
        got = ask(limited, tmp_path, path)
        if got.file:
            results += 1
            assert photo_file.read(Path(got.file).read_bytes()).pixels.size
        else:
            assert 'upload ' in got.said
    # Both happen, or the damage would be none, or all there is.
    assert 0 < results < len(list(damaged(kind)))


def archive():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as opened:
        opened.writestr('photo.jpg', b'\xff\xd8\xff')
    return buffer.getvalue()


def picture(kind, **options):
    buffer = io.BytesIO()
    Image.new('RGB', (8, 8)).save(buffer, kind, **options)
    return buffer.getvalue()


SVG = (
    b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><script>alert(1)</script></svg>'
)
OTHERS = {
    'empty.jpg': (b'', 'empty file'),
    'notes.txt': (b'not a photo\n', 'it looks like text'),
    'photo.jpg': (b'<!DOCTYPE html><html></html>', 'it looks like HTML'),
    'drawing.svg': (SVG, 'it looks like text'),
    'photos.zip': (archive(), 'not an image that can be read'),
    'clip.mp4': (b'\0\0\0\x20ftypisom' + bytes(64), 'a film'),
    'moving.gif': (picture('GIF'), 'not an image that can be read'),
    'icon.ico': (picture('ICO'), 'not an image that can be read'),
    'page.pdf': (picture('PDF'), 'not an image that can be read'),
    'script.eps': (picture('EPS'), 'not an image that can be read'),
    'zeros': (bytes(1000), 'not an image that can be read'),
    'noise': (random.Random(0).randbytes(5000), 'not an image that can be read'),
    '.png': (b'\x89PNG\r\n\x1a\n', 'upload'),
}


@pytest.mark.parametrize('name', OTHERS)
def test_what_is_no_photo_is_named(name, restorer, tmp_path):
    data, reason = OTHERS[name]
    (tmp_path / name).write_bytes(data)
    got = ask(restorer, tmp_path, tmp_path / name)
    assert reason in got.said and restorer.limits in got.said and got.file is None


def test_the_content_counts_and_not_the_suffix(restorer, tmp_path):
    for name in ('photo.txt', 'photo.png', 'photo', 'photo.svg.exe'):
        path = saved(tmp_path / name, Photo(two_faces(), kind='JPEG'))
        assert Path(ask(restorer, tmp_path, path).file).suffix == '.jpg'


def test_a_size_is_refused_before_anything_is_decoded(restorer, tmp_path, monkeypatch):
    """A file of some bytes may claim any size."""
    small = photo_file.encoded(Photo(np.zeros((64, 64, 3), np.uint8), kind='BMP'))
    claims = small[:18] + 2 * (9000).to_bytes(4, 'little') + small[26:]
    (tmp_path / 'large.bmp').write_bytes(claims)
    monkeypatch.setattr(decoders, 'stored', lambda *_: pytest.fail('decoded'))
    said = ask(restorer, tmp_path, tmp_path / 'large.bmp').said
    assert 'too large: 9,000x9,000 = 81 million pixels, at most 67.1 million are read' in said


def test_limits(restorer, tmp_path):
    path = saved(tmp_path / 'a.png', Photo(np.zeros((100, 200, 3), np.uint8)))
    limited = demo_photo.Restorer(restorer._tools, 100_000, path.stat().st_size)
    assert limited.limits.endswith('and 0.1 million pixels')
    assert ask(limited, tmp_path, path, 2).file
    said = ask(limited, tmp_path, path, 4).said
    assert said.endswith('4 times as large, are 0.3 million: choose a smaller scale')
    path.write_bytes(path.read_bytes() + b'\0')
    assert 'too large: 0.0 MB; upload a PNG' in ask(limited, tmp_path, path).said
    path.unlink()
    assert 'it was deleted from this machine: upload it again' in ask(limited, tmp_path, path).said
    assert demo_photo.answer(limited, '', None, 1, 0, None, None).said == 'choose a photo first'


@pytest.mark.parametrize('error', [MemoryError(), torch.OutOfMemoryError('CUDA out of memory')])
def test_too_little_memory_is_said(error, restorer, tmp_path):
    def network(x):
        raise error

    lacking = demo_photo.Restorer(restorer._tools._replace(network=network), 10**6, 10**6)
    said = ask(lacking, tmp_path, saved(tmp_path / 'a.png', Photo(two_faces()))).said
    assert 'this machine has too little memory for it: upload a smaller one' in said


# ------------------------------------------------------------------------------------------------
# The command.


@pytest.fixture
def fails(monkeypatch, capsys):
    """fails(*argv) -> what the program says when it does not start."""
    monkeypatch.setattr(signal, 'signal', lambda *_: None)
    for name in (*demo.SETTINGS, 'GRADIO_TEMP_DIR'):
        monkeypatch.setenv(name, '')

    def run(*argv):
        assert demo.main(list(argv)) == 2
        return capsys.readouterr().err

    return run


def test_a_port_that_is_taken_is_refused(fails):
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = taken.getsockname()[1]
        said = fails('--port', str(port))
    assert f'--port {port} is taken by another program' in said and '--port 0' in said


def test_a_host_that_is_not_here_is_refused(fails):
    assert '--host 192.0.2.1 --port 0 cannot be used' in fails('--host', '192.0.2.1', '--port', '0')


def test_without_gradio_the_remedy_is_said(fails, monkeypatch):
    monkeypatch.setitem(sys.modules, 'gradio', None)
    assert 'the package gradio is needed: pip install -e .[demo]' in fails('--port', '0')


def test_a_run_that_restores_nothing_is_refused(fails, monkeypatch):
    def load(*_, **__):
        return loading.Loaded(torch.nn.Identity(), Parse(), None, Path('runs/x/restored'))

    monkeypatch.setattr(loading, 'load', load)
    for flag in '--run', '--weights':
        said = fails('--port', '0', flag, 'runs/x')
        assert f'{flag} runs/x is of a parse run: give one that restores' in said


def test_flags_that_infer_has_as_well_have_its_defaults():
    """`build` reads them from both."""
    own, theirs = (vars(program.parser().parse_args([])) for program in (demo, infer))
    shared = own.keys() & theirs.keys()
    assert {*photo_flags.OF_PHOTOS, 'batch', 'tta', 'device', 'precision'} <= shared
    different = [name for name in shared if own[name] != theirs[name]]
    # The bound of infer.py depends on what it is given.
    assert different == ['max_pixels']


# ------------------------------------------------------------------------------------------------
# The server. It runs in a process of its own, which names every machine that it looks for.

START = """
import sys
def watch(event, args):
    if event == 'socket.getaddrinfo' or event == 'socket.connect':
        host = args[1][0] if event == 'socket.connect' else args[0]
        if str(host) not in ('127.0.0.1', 'localhost', 'None'):
            print('ASKED', event, host, flush=True)
sys.addaudithook(watch)
from tools import demo
demo.KEPT, demo.EVERY = {kept}, {every}
sys.exit(demo.main({argv}))
"""


class Server:
    """demo.py, and its page."""

    def __init__(self, folder, weights, *argv, kept=600, every=60):
        self.temporary, self.log = folder / 'temporary', folder / 'log'
        self.temporary.mkdir()
        flags = ['--weights', weights, '--device', 'cpu', '--port', '0', *argv]
        environment = os.environ | {
            'PYTHONPATH': str(ROOT),
            'TMPDIR': str(self.temporary),
            'OMP_NUM_THREADS': '1',
            # No one is to be asked by way of a proxy either.
            'http_proxy': 'http://127.0.0.1:9',
            'https_proxy': 'http://127.0.0.1:9',
        }
        self.process = subprocess.Popen(
            [sys.executable, '-c', START.format(kept=kept, every=every, argv=flags)],
            cwd=folder,
            env=environment,
            stdout=self.log.open('w'),
            stderr=subprocess.STDOUT,
            # Shells start what runs in the background deaf to a Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        self.address = self._address()

    def _address(self):
        wait_for(lambda: 'Ctrl-C' in self.said or self.process.poll() is not None, 120)
        assert self.process.poll() is None, self.said
        return self.said.split('http://')[1].split()[0]

    @property
    def said(self):
        return self.log.read_text()

    def files(self):
        return [
            path for path in self.temporary.rglob('*') if path.is_file() and path.stat().st_size
        ]

    def get(self, path, data=None, **headers):
        """(status, body) of a request, which goes through no proxy."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        request = urllib.request.Request(f'http://{self.address}/{path}', data, headers)
        try:
            with opener.open(request, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def upload(self, name, data):
        """(status, path on the server, or why not)"""
        head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
        body = head.encode() + data + b'\r\n--x--\r\n'
        kind = {'Content-Type': 'multipart/form-data; boundary=x'}
        status, said = self.get('gradio_api/upload', body, **kind)
        return status, json.loads(said)[0] if status == 200 else said

    def restore(self, path, session='a', scale=2, place=0):
        """What a press of the button is answered. place: of the file in what is sent"""
        sent = [None, scale, False, 0, None, None]
        sent[place] = {'path': path, 'meta': {'_type': 'gradio.FileData'}}
        asked = {'data': sent, 'fn_index': 0, 'session_hash': session}
        kind = {'Content-Type': 'application/json'}
        status, said = self.get('gradio_api/queue/join', json.dumps(asked).encode(), **kind)
        if status != 200:
            return said
        _, events = self.get(f'gradio_api/queue/data?session_hash={session}')
        told = [json.loads(line[5:]) for line in events.splitlines() if line.startswith('data:')]
        return next(event for event in told if event['msg'] == 'process_completed')

    def end(self, number=signal.SIGINT):
        """Exit status."""
        self.process.send_signal(number)
        return self.process.wait(60)


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, 'waited for in vain'
        time.sleep(0.05)


@pytest.fixture
def serve(tmp_path, weights):
    """serve(*argv, **constants) -> Server"""
    pytest.importorskip('gradio')
    made = []

    def start(*argv, **constants):
        made.append(Server(tmp_path, weights, *argv, **constants))
        return made[-1]

    yield start
    for server in made:
        server.process.kill()
        server.process.wait()


def jpeg(pixels):
    return photo_file.encoded(Photo(pixels, kind='JPEG'))


def test_nothing_stays(serve):
    server = serve('--max-mb', '0.1', '--queue', '1', kept=6, every=1)
    status, path = server.upload('a.jpg', jpeg(two_faces()))
    assert status == 200 and Path(path).read_bytes() == jpeg(two_faces())
    told = server.restore(path)
    assert told['output']['data'][0] == 'a.jpg: 2 faces restored; 600x360 pixels'
    assert len(server.files()) == 1 + 2 + 4 + 1
    wait_for(lambda: not server.files())
    assert 'upload it again' in server.restore(path, 'b')['output']['data'][0]

    # A file that is too large, and too many visitors at once.
    assert server.upload('b.jpg', bytes(100_001))[0] == 413
    _, path = server.upload('a.jpg', jpeg(two_faces()))
    answers = []
    visitors = [
        threading.Thread(target=lambda i=i: answers.append(server.restore(path, f's{i}', 4)))
        for i in range(6)
    ]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join()
    full = [text for text in answers if isinstance(text, str)]
    assert 1 <= len(full) <= 4 and all('Queue is full' in text for text in full)

    assert server.end() == 130
    assert server.said.count('\n') == 2 and not [*server.temporary.iterdir()]


def test_a_server_that_is_terminated_leaves_nothing(serve):
    server = serve('--host', 'localhost')
    assert server.address.startswith('localhost') and 'everybody' not in server.said
    assert server.upload('a.jpg', jpeg(two_faces()))[0] == 200 and server.files()
    assert server.end(signal.SIGTERM) == 143
    assert server.said.count('\n') == 2 and not [*server.temporary.iterdir()]


def test_what_was_not_uploaded_is_not_read(serve):
    server = serve('--host', '0.0.0.0')
    wait_for(lambda: server.said.count('\n') == 3)
    assert '--host 0.0.0.0: everybody who reaches this machine can use it' in server.said
    outside = server.temporary.parent / 'mine.jpg'
    outside.write_bytes(jpeg(two_faces()))
    for other in str(outside), 'http://192.0.2.1/a.jpg', 'https://example.org/a.jpg':
        for place in range(5):
            server.restore(other, f'{place}-{len(other)}', place=place)
        assert not server.restore(other, f'o{len(other)}')['success']
    assert server.get(f'gradio_api/file={outside}')[0] == 403
    assert 'ASKED' not in server.said


# ------------------------------------------------------------------------------------------------
# Between the weights that come along.


def test_a_visitor_turns_the_fidelity(tmp_path):
    """Whatever was asked before, the file is that of infer.py with this --fidelity."""
    args = demo.parser().parse_args(['--device', 'cpu', '--fidelity', '1'])
    turned = demo.restorer_of(args)
    path = saved(tmp_path / 'a.png', Photo(two_faces()))
    known, files = None, set()
    for fidelity in 0.0, 1.0, 0.5:
        got = ask(turned, tmp_path, path, known=known, fidelity=fidelity)
        known = got.known
        argv = ['--fidelity', str(fidelity), '--device', 'cpu', '--no-aligned', '--scale', '1']
        assert infer.main([str(path), *argv, '--output', str(tmp_path / f'{fidelity}')]) == 0
        (theirs,) = (tmp_path / f'{fidelity}').iterdir()
        assert Path(got.file).read_bytes() == theirs.read_bytes()
        files.add(theirs.read_bytes())
    assert len(files) == 3


def test_one_network_has_no_fidelity(restorer, tmp_path):
    """It is not asked for, and does nothing where somebody sends it all the same."""
    path = saved(tmp_path / 'a.png', Photo(two_faces()))
    plain = ask(restorer, tmp_path, path)
    sent = ask(restorer, tmp_path, path, fidelity=0.2)
    assert Path(plain.file).read_bytes() == Path(sent.file).read_bytes()
    for fidelity in None, 0.5:
        blocks = demo.page(lambda *_: None, 'a photo', 1, fidelity)
        sliders = {b.label: b for b in blocks.blocks.values() if b.get_block_name() == 'slider'}
        slider = sliders['Fidelity']
        assert slider.visible == (fidelity is not None)
        asked = [slider.preprocess(value) for value in (None, -1, 0.25, 7)]
        assert asked == ([None] * 4 if fidelity is None else [0.5, 0, 0.25, 1])


# ------------------------------------------------------------------------------------------------
# What a visitor sees. FACES_SCREENSHOT=page.png keeps a picture of it.


@pytest.fixture
def browser(tmp_path):
    """Chromium without a window, which saves to tmp_path / 'saved'."""
    webdriver = pytest.importorskip('selenium.webdriver')
    chromium = shutil.which('chromium') or shutil.which('google-chrome')
    driver = shutil.which('chromedriver')
    if not (chromium and driver):
        pytest.skip('needs chromium and chromedriver: apt install chromium chromium-driver')
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    # In a container there is neither a sandbox nor much of /dev/shm.
    for flag in 'headless=new', 'no-sandbox', 'disable-dev-shm-usage', 'no-proxy-server':
        options.add_argument(f'--{flag}')
    options.add_argument('--window-size=1200,1150')
    options.add_experimental_option(
        'prefs', {'download.default_directory': str(tmp_path / 'saved')}
    )
    options.set_capability('goog:loggingPrefs', {'performance': 'ALL', 'browser': 'ALL'})
    service = webdriver.ChromeService(executable_path=driver)
    opened = webdriver.Chrome(options=options, service=service)
    yield opened
    opened.quit()


class Visit:
    """A visitor's hands and eyes."""

    def __init__(self, browser, address):
        self.browser = browser
        browser.get(f'http://{address}')
        wait_for(lambda: self.all('input[type=file]'))

    def all(self, css):
        return self.browser.find_elements('css selector', css)

    def button(self, text):
        return next(button for button in self.all('button') if button.text.startswith(text))

    def restore(self, path, said):
        """Upload a file, press the button, and wait for what is said."""
        for cleared in self.all('button[aria-label="Clear"]'):
            cleared.click()
        wait_for(lambda: self.all('input[type=file]'))
        self.all('input[type=file]')[0].send_keys(str(path))
        wait_for(lambda: any(path.stem in row.text for row in self.all('.file-preview')))
        self.button('Restore').click()
        self.sees(said)

    def sees(self, said):
        wait_for(lambda: said in self.all('textarea')[0].get_attribute('value'))

    def pictures(self):
        """Addresses of the pictures that are there, and loaded."""
        script = """return [...document.querySelectorAll('.block img')]
            .filter(image => image.complete && image.naturalWidth).map(image => image.src)"""
        return self.browser.execute_script(script)

    def requests(self):
        """Addresses that were asked for."""
        events = [
            json.loads(row['message'])['message'] for row in self.browser.get_log('performance')
        ]
        sent = [e['params'] for e in events if e['method'] == 'Network.requestWillBeSent']
        return [params['request']['url'] for params in sent]


def test_a_visit(serve, browser, weights, tmp_path):
    server = serve()
    visit = Visit(browser, server.address)
    path = tmp_path / 'two faces.jpg'
    path.write_bytes(jpeg(two_faces()))
    visit.restore(path, '2 faces restored; 600x360 pixels')
    wait_for(lambda: len(visit.pictures()) == 2 + 4)

    # Moved to the middle, and applied without another press of the button.
    actions = pytest.importorskip('selenium.webdriver').ActionChains(browser)
    before = visit.pictures()
    visit.all('input[type=checkbox]')[0].click()
    wait_for(lambda: visit.all('input[type=range]'))
    wait_for(lambda: len({*visit.pictures()} - {*before}) == 2 + 4)
    slider = visit.all('input[type=range]')[0]
    before = visit.pictures()
    actions.click_and_hold(slider).release().perform()
    keep = slider.get_attribute('value')
    assert 0.4 <= float(keep) <= 0.6
    wait_for(lambda: len({*visit.pictures()} - {*before}) == 2 + 4)
    if os.environ.get('FACES_SCREENSHOT'):
        browser.save_screenshot(os.environ['FACES_SCREENSHOT'])

    visit.button('Download two faces-restored.jpg').click()
    saved = tmp_path / 'saved/two faces-restored.jpg'
    wait_for(saved.exists)
    argv = ['--weights', weights, '--device', 'cpu', '--keep', keep, '--no-aligned']
    assert infer.main([str(path), '--output', str(tmp_path / 'out'), *argv]) == 0
    assert saved.read_bytes() == (tmp_path / 'out' / path.name).read_bytes()

    bad = tmp_path / 'notes.jpg'
    bad.write_text('no photo')
    visit.restore(bad, 'notes.jpg: not an image that can be read: it looks like text; upload a')
    assert not visit.pictures() and not visit.button('Download').is_enabled()

    asked = {urlparse(url) for url in visit.requests()}
    assert {url.netloc for url in asked if url.scheme not in ('data', 'blob')} == {server.address}
    assert not [row for row in browser.get_log('browser') if row['level'] == 'SEVERE']
    assert 'ASKED' not in server.said and server.said.count('\n') == 2
