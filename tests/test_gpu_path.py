"""Everything around the kernels, up to the driver's door: streams, events, pinned memory, caches.

The pipes run on a GPU that is a stand-in (gpu_stand_in.py), with CuPy and DALI in its place. They
yield what they yield on a CPU; no result depends on which stream is faster; the host waits for no
copy once the first batches are there; and each of these checks finds a fault that is planted.
"""

import contextlib
import inspect
import os
import re
import shutil
import signal
import sys
import textwrap

import cv2
import numpy as np
import pytest
import torch
from cupy_stand_in import Cupy, RawModule, spoil
from dali_stand_in import Dali
from gpu_stand_in import DEVICE, Gpu, RaceError

import dali_pipes
import degrade
import storage
import synthetic
import train
from benchmarks import degrade_gpu
from dali_pipes import cache, pipe, pipe_dali, pipe_png, pipe_torch, png
from degrade import kernels, noise
from degrade.draw import Draw
from errors import DataError, FacesError
from sources import files, jph, lq_gt, manifest
from sources.reader import PairedReader
from tasks import players

pytestmark = pytest.mark.skipif(
    not shutil.which('g++'), reason='g++ is not installed: it builds the kernels for the CPU'
)
SIZE, BATCH = 64, 5
SUFFIXES = 'png', 'jpg', 'png', 'webp', 'png', 'jpg', 'png', 'png'  # of files of many kinds
TINY = '{"width": [8, 8, 8, 8], "blocks": [[1, 1, 1], 1, [1, 1, 1]], "position": 0}'
CPU = '--device', 'cpu', '--precision', 'fp32'
STEPS = 8  # an epoch has two and a half
BEGUN = 3  # steps until all tables are on the GPU
# Ways from files to batches, by what they ask of the GPU.
WAYS = {
    'every kernel': dict(name='dali', decode='gpu', cache='off', recipe='ai6126_2024'),
    'torch': dict(name='torch', cache='off'),
    'torch, kept on the host': dict(name='torch', cache='host'),
    'torch, kept in a file': dict(name='torch', cache='file'),
    'dali': dict(name='dali', decode='cpu', cache='off'),
    'dali, kept on the GPU': dict(name='dali', decode='cpu', cache='gpu'),
    'dali, kept on the host': dict(name='dali', decode='cpu', cache='host'),
    'dali, kept in a file': dict(name='dali', decode='cpu', cache='file'),
    'png': dict(name='dali', decode='gpu', cache='off'),
    'png, kept on the GPU': dict(name='dali', decode='gpu', cache='gpu'),
    'png, kept on the host': dict(name='dali', decode='gpu', cache='host'),
}


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    """Faces; the same with files that are left to the CPU; larger ones; pairs; JPH."""
    home = tmp_path_factory.mktemp('data')
    for i in range(12):
        face = synthetic.face(i, SIZE).image[..., ::-1]
        small = cv2.resize(face, (SIZE // 4,) * 2, interpolation=cv2.INTER_AREA)
        written = {
            f'faces/{i}.png': face,
            f'odd/{i}.{SUFFIXES[i % 8]}': face,
            f'larger/{i}.png': cv2.resize(face, (SIZE + 8 * (i % 3),) * 2),
            f'pairs/GT/{i}.png': face,
            f'pairs/LQ/{i}.png': small,
        }
        for name, image in written.items():
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(home / name), image)
        if jph.codec():
            storage.write(home / f'jph/{i}.jph', jph.encode(np.ascontiguousarray(face[..., ::-1])))

    # Pixels that are damaged behind a header that is not.
    data = bytearray((home / 'odd/2.png').read_bytes())
    data[len(data) // 2] ^= 255
    (home / 'odd/2.png').write_bytes(data)
    return home


def scanned(home, kind):
    if kind == 'pairs':
        return lq_gt.scan_pairs(home / kind, 4, size=SIZE, say=lambda _: None)
    if kind == 'jph' and not jph.codec():
        pytest.skip('the extra htj2k is not installed')
    folder = str(home / kind)
    return manifest.scan(folder, size=SIZE, cache_dir=home, say=lambda _: None).images


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """Groups that end within an epoch, and a cache of the test's own."""
    monkeypatch.setattr(pipe_png, 'GROUP', 7)
    monkeypatch.setenv('FACES_CACHE', str(tmp_path))


def made(images, device, name, recipe='bicubic', **options):
    return dali_pipes.make(
        name,
        images,
        recipe,
        device=device,
        batch=BATCH,
        size=SIZE,
        threads=2,
        **dict(say=lambda _: None) | options,
    )


def alone(pipe, device):
    return pipe


def trained_on(images, way, mixed=alone, steps=STEPS):
    """([(input, target)] as they were when training used them, waits of the later steps)."""
    seen = []
    with Gpu() as gpu, Cupy(gpu), Dali(gpu), mixed(made(images, 'cuda', **way), 'cuda') as p:
        total = torch.zeros((), device='cuda')
        for step in range(steps):
            if step == BEGUN:
                gpu.waits.clear()
            batch = next(p)
            # Training, on the stream that is the current one. Nothing here waits for anything.
            total += batch.input.float().mean() + batch.target.float().mean()
            seen.append((batch.input.inner.clone(), batch.target.inner.clone()))
            del batch
        waits = list(gpu.waits)
    return seen, waits


@pytest.mark.parametrize('way', WAYS)
def test_batches_are_those_of_a_cpu(way, home):
    assert_same(scanned(home, 'faces'), WAYS[way])


OWN = """
extends = "bicubic"
[stages.shift]
op = "color_shift"
after = "final"
on = 0.5
[stages.jitter]
op = "color_jitter"
after = "shift"
on = 0.5
[stages.gray]
op = "gray"
after = "jitter"
on = 0.5
[stages.fade]
op = "fade"
after = "gray"
on = 0.5
[stages.smear]
op = "bilateral"
after = "fade"
on = 0.5
[stages.sharp]
op = "unsharp"
after = "smear"
on = 0.5
[stages.grain]
op = "grain"
after = "sharp"
on = 0.5
[stages.print]
op = "halftone"
after = "grain"
on = 0.5
[stages.lines]
op = "scanlines"
after = "print"
on = 0.5
[stages.messenger]
op = "codec"
after = "lines"
on = 0.5
kinds = { webp = 1 }
quality = 100
"""
# Recipes that have the operations that OWN has not.
TOGETHER = 'ai6126_2024', 'ai6126_2024_parity', 'simple', 'face_renovation'


def test_operations_of_recipe_files(home, tmp_path):
    (tmp_path / 'own.toml').write_text(OWN)
    way = dict(name='torch', cache='off', recipe=str(tmp_path / 'own.toml'))
    assert_same(scanned(home, 'faces'), way)


def test_every_operation_of_torch_runs_on_a_gpu(tmp_path):
    (tmp_path / 'own.toml').write_text(OWN)
    recipes = [degrade.recipe(name) for name in (str(tmp_path / 'own.toml'), *TOGETHER)]
    assert {s.op for r in recipes for s in r.stages} >= set(degrade.recipes.OPS.values())
    faces = np.stack([synthetic.face(i, SIZE).image for i in range(6)])
    x = torch.from_numpy(faces).permute(0, 3, 1, 2)
    for recipe in recipes:
        params = degrade.sample(recipe, Draw(1, np.arange(6)), (SIZE, SIZE))
        expected = degrade.degrade(x, recipe, params, opencv=False)
        with Gpu():
            there = x.to(DEVICE)
            y = degrade.degrade(there, recipe, params, 'torch').inner.clone()
        assert ((y - expected).abs() * 255 < 1.01).float().mean() >= 0.99


@pytest.mark.parametrize('kind', ['odd', 'larger', 'pairs', 'jph'])
@pytest.mark.parametrize('way', ['dali', 'dali, kept on the host', 'png, kept on the GPU'])
def test_files_of_every_kind(way, kind, home):
    """What is left to the CPU, fitted, replaced or paired comes to its place in the batch."""
    images = scanned(home, kind)
    if kind == 'jph' and way.startswith('png'):
        way = 'dali'
        assert_same(images, WAYS[way] | dict(decode='gpu'))
    assert_same(images, WAYS[way])


def test_pairs_are_mixed_in(home):
    pairs = dali_pipes.Pairs(scanned(home, 'pairs'), 0.5)

    def mixed(pipe, device):
        own = dict(batch=BATCH, size=SIZE, device=device, say=lambda _: None)
        return dali_pipes.MixedPipe(pipe, pairs, 4, **own)

    assert_same(scanned(home, 'faces'), WAYS['dali'], mixed)


def assert_same(images, way, mixed=alone):
    """The batches are those of a CPU, and once all tables are there no copy is waited for."""
    seen, waits = trained_on(images, way, mixed)
    with mixed(made(images, 'cpu', 'torch', way.get('recipe', 'bicubic')), 'cpu') as p:
        expected = [next(p) for _ in range(STEPS)]
    off = []
    for (x, y), batch in zip(seen, expected, strict=True):
        assert torch.equal(y, batch.target)
        off.append((x - batch.input).abs() * 255)
    # One rounding may tip a pixel before noise or JPEG, which spread it.
    assert (torch.stack(off) < 1.01).float().mean() >= 0.99
    assert waits == []


@pytest.mark.parametrize('kind', ['faces', 'odd', 'jph'])
def test_the_faster_decoder_is_told(kind, home, monkeypatch):
    """It is tried on files of the data set, and decodes them from then on."""
    images, rates = scanned(home, kind), iter([700.0, 300.0, 300.0, 700.0])
    monkeypatch.setattr(pipe_png, '_rate', lambda run, count: run() is None or next(rates))
    for faster in 'gpu', 'cpu':
        said = []
        with Gpu() as gpu, Cupy(gpu), Dali(gpu):
            way = dict(name='dali', decode='auto', recipe='bicubic', say=said.append)
            with made(images, 'cuda', **way) as p:
                next(p)
        assert sum(line.startswith(f'decode: {faster}; ') for line in said) == 1, said


def no_decoder(*_):
    raise RuntimeError('no nvJPEG2000')


def all_refused(*arguments, run=png.run_cuda):
    out, status = run(*arguments)
    return out, torch.ones_like(status)


@pytest.mark.parametrize(
    'kind, owner, name, wrong, fault',
    [
        (
            'faces',
            pipe_png,
            'decode',
            lambda f: files.decode(f) ^ 1,
            'the GPU decodes other pixels',
        ),
        ('faces', png, 'run_cuda', all_refused, 'the GPU refuses all files'),
        (
            'jph',
            pipe_dali,
            'pixels',
            lambda d: [image ^ 1 for image in d],
            'DALI decodes other pix',
        ),
        (
            'jph',
            pipe_dali,
            'decoder',
            no_decoder,
            r'DALI cannot decode JPH on this GPU \(no nvJPEG',
        ),
    ],
)
def test_a_decoder_that_is_wrong_is_not_taken(kind, owner, name, wrong, fault, home, monkeypatch):
    monkeypatch.setattr(owner, name, wrong)
    images, said = scanned(home, kind), []
    way = dict(name='dali', recipe='bicubic', say=said.append)
    with Gpu() as gpu, Cupy(gpu), Dali(gpu):
        with made(images, 'cuda', decode='auto', **way) as p:
            next(p)
        assert sum(bool(re.match(f'decode: cpu; {fault}', line)) for line in said) == 1, said
        if kind == 'jph':
            with pytest.raises(DataError, match=f'--decode gpu: {fault}.*; give cpu or auto'):
                made(images, 'cuda', decode='gpu', **way)


def test_what_ends_a_source_of_dali_is_said_as_it_is(home, monkeypatch):
    """And not in the words that DALI wraps it in."""
    images = scanned(home, 'pairs')

    def gone(*_):
        raise DataError('the disk is gone')

    with Gpu() as gpu, Cupy(gpu), Dali(gpu):
        for method in 'encoded', 'read_paired':
            monkeypatch.setattr(PairedReader, method, gone)
            p = made(images, 'cuda', **WAYS['dali'])
            with p, pytest.raises(DataError, match='^the disk is gone$'):
                next(p)
            monkeypatch.undo()


def test_decoded_images_alone(home):
    """What benchmarks time."""
    with Gpu() as gpu, Cupy(gpu), made(scanned(home, 'faces'), 'cuda', **WAYS['png']) as p:
        _, x = p.load()
        assert iter(p) is p and x.is_cuda and tuple(x.shape) == (BATCH, 3, SIZE, SIZE)


def test_host_memory_that_cannot_be_pinned(home, monkeypatch):
    monkeypatch.setattr(Gpu, '_register', lambda *_: 2)
    with (
        Gpu(),
        pytest.raises(DataError, match=r'CUDA cannot pin 0.0 GB of host memory \(error 2\)'),
    ):
        cache.make('host', scanned(home, 'faces'), SIZE, DEVICE, lambda _: None)


def test_without_dali_png_is_decoded_all_the_same(home, monkeypatch):
    monkeypatch.setitem(sys.modules, 'nvidia.dali', None)
    images = scanned(home, 'faces')
    with Gpu() as gpu, Cupy(gpu):
        with made(images, 'cuda', 'dali') as p:
            assert next(p).target.is_cuda
        with pytest.raises(ImportError, match=r'--pipe dali needs NVIDIA DALI .*--pipe torch does'):
            made(images, 'cuda', **WAYS['dali'])


@pytest.mark.parametrize(
    'what, message',
    [
        ('old card', 'Some Card has compute capability 7.0; the kernels need 7.5'),
        ('old driver', 'the driver is for CUDA 12.9, .* or update the driver'),
        ('other torch', 'torch is built for CUDA 12.8, CuPy for CUDA 13.0'),
        ('no compiler', 'does not find NVRTC, which compiles the kernels'),
        ('no CuPy', r'the GPU degradation needs CuPy .*: pip install -e .\[cuda13\]'),
        ('no place', 'CuPy cannot keep compiled kernels .*set CUPY_CACHE_DIR to a writable folder'),
        (
            'no headers',
            'cannot be compiled for this GPU .*Failed to find CUDA headers.*pip install',
        ),
        ('no DALI', '--pipe dali needs NVIDIA DALI: pip install .*; --pipe torch works without it'),
        ('full', r'the GPU ran out of memory degrading 2 images .* --batch of \d+ would fit'),
        (
            'small',
            '--cache gpu: 10 decoded images take .* only .* are free .* give auto, file or off',
        ),
    ],
)
def test_train_says_in_a_line_what_this_machine_lacks(
    what, message, home, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(players, 'channels_last', lambda net, device: net)  # it stays on the CPU
    argv = f'--preset unet --pipe dali --size {SIZE} --batch 2 --nimg 8 --val 2 --threads 1'.split()
    argv += ['--net', TINY, '--data', str(home / 'faces'), '--out', str(tmp_path / 'run')]
    argv += ['--decode', 'cpu' if what == 'no DALI' else 'gpu', '--cache', 'off']
    if what == 'small':
        argv[-1] = 'gpu'
    with contextlib.ExitStack() as stack:
        gpu = stack.enter_context(Gpu(memory=1000 if what == 'small' else 8 << 30))
        if what in ('no headers', 'no DALI', 'full', 'small'):
            stack.enter_context(Cupy(gpu))
        patch = stack.enter_context(pytest.MonkeyPatch.context())  # undone before the GPU goes
        if what == 'no headers':
            patch.setattr(RawModule, 'compile', without_headers)
        elif what == 'no DALI':
            patch.setitem(sys.modules, 'nvidia.dali', None)
        elif what == 'full':
            patch.setattr(kernels, 'blank', without_memory)
        elif what != 'small':
            spoil(what, patch)
        assert train.main(argv) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith('train.py: ')]
    assert len(lines) == 1 and re.search(message, lines[0]), lines

    # A command that needs nothing of the kind begins the run.
    assert train.main([*argv, '--pipe', 'torch', '--decode', 'auto', '--cache', 'off', *CPU]) == 0
    assert 'resumed' not in capsys.readouterr().out


def without_headers(_):
    raise RuntimeError('Failed to find CUDA headers.')


def without_memory(*_):
    raise torch.OutOfMemoryError('CUDA out of memory')


# (class, method, what to change, into what, a way on which it matters)
FAULTS = {
    'training does not wait for the batch': (
        pipe.Pipe, '__next__', 'here.wait_event(done)', 'pass', 'dali',
    ),
    'memory of a batch is given away': (
        pipe.Pipe, '__next__', 'tensor.record_stream(here)', 'pass', 'dali',
    ),
    'host memory is released while it is read': (
        pipe.Pipe, 'close', 'self._stream.synchronize()', 'pass', 'dali, kept on the host',
    ),
    'the buffer of DALI is not waited for': (
        pipe_dali.DaliLoader, '_decode', 'self._copied.synchronize()', 'pass', 'dali',
    ),
    'the buffer of DALI is not copied': (
        pipe_dali.DaliLoader, '_decode', 'x = x.clone()', 'pass', 'dali',
    ),
    'the copy of the buffer of DALI is not recorded': (
        pipe_dali.DaliLoader, '_decode', 'torch.cuda.current_stream().record_event()',
        'torch.cuda.Stream().record_event()', 'dali',
    ),
    'a verdict is read before it has come': (
        pipe_png.PngLoader, '_finish', 'ready.synchronize()', 'pass', 'png',
    ),
    'memory of a group is given away': (
        pipe_png.PngLoader, '_finish',
        'pixels.record_stream(torch.cuda.current_stream(pixels.device))', 'pass', 'png',
    ),
    'pixels are written to the file before they have come': (
        cache.Mapped, '_fill_after', 'done.synchronize()', 'pass', 'dali, kept in a file',
    ),
}  # fmt: skip


@pytest.mark.parametrize('fault', FAULTS)
def test_a_planted_fault_is_found(fault, home, monkeypatch):
    owner, method, old, new, way = FAULTS[fault]
    function = getattr(owner, method)
    source = inspect.getsource(function)
    assert source.count(old) == 1, 'the fault no longer fits the source'
    namespace = dict(function.__globals__)
    exec(textwrap.dedent(source.replace(old, new)), namespace)
    monkeypatch.setattr(owner, method, namespace[method])
    with pytest.raises(RaceError):
        trained_on(scanned(home, 'faces'), WAYS[way])


# ---- what measures a GPU ----


def test_the_benchmark_of_the_kernels(home, monkeypatch, capsys):
    """It checks, times and tells stages and memory; what is wrong is not timed."""
    monkeypatch.setattr(degrade_gpu, 'BATCHES', (1, 2))
    monkeypatch.setattr(degrade_gpu, 'COPIED', 1 << 10)
    faces = [files.decode((home / f'faces/{i}.png').read_bytes()) for i in range(2)]
    x = torch.from_numpy(np.stack(faces)).permute(0, 3, 1, 2)
    recipe = degrade.recipe('ai6126_2024')
    with Gpu() as gpu, Cupy(gpu):
        there = x.pin_memory().to(DEVICE)
        found = degrade_gpu.compare('of 2024', recipe, there, seed=1, rounds=1)
        monkeypatch.setattr(noise, 'run_cuda', lambda c, p, r: c)
        with pytest.raises(FacesError, match='cuda differs from the reference .*: not timed'):
            degrade_gpu.compare('of 2024', recipe, there, seed=1, rounds=1)
    contenders = {'cuda, batch 1', 'cuda, batch 2', degrade_gpu.PARITY_NAME}
    assert set(found['images_per_second']) == contenders
    assert [row['stage'] for row in found['stages']] == [stage.name for stage in recipe.stages]
    assert all(row['launches'] for row in found['stages'] if row['stage'] in ('usm', 'blur1'))
    assert 'the card copies' in capsys.readouterr().out


def test_workers_leave_signals_to_the_training():
    """They get those of their whole group; the training saves first, and then ends them."""
    numbers = signal.SIGTERM, signal.SIGINT
    before = [signal.getsignal(number) for number in numbers]
    try:
        pipe_torch._start_worker(0)
        for number in numbers:
            assert signal.getsignal(number) is signal.SIG_IGN
            os.kill(os.getpid(), number)
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
