"""PNG on the device.

Through the shim its kernels decode what OpenCV decodes and refuse what zlib refuses, and a pipe
that uses them yields what the others yield.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zlib
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import png_cases
import pytest
import torch
from PIL import Image

import dali_pipes
import degrade
import synthetic
import tasks
from dali_pipes import cache, pipe_png, png
from dali_pipes.loader import Options
from dali_pipes.parse_plan import ParsePlan
from dali_pipes.pipe_torch import TorchLoader
from dali_pipes.plan import Plan
from degrade import kernels, workers
from errors import DataError, RunError
from faces.masks import pairs
from faces.masks.reader import MaskReader
from sources import addresses, files, manifest, stream
from sources.reader import Reader
from tools import cuda_shim

needs_gxx = pytest.mark.skipif(
    not shutil.which('g++'), reason='g++ is not installed: it builds the kernels for the CPU'
)
CASES = png_cases.cases()
# Some of them, of every sort, for tests that would be slow with all.
SMALL_CASES = (
    r'(mixed|paeth) (31x33|9x1|66x5)|level (1|9) (default|fixed)|level 0 default|codes|'
    r'one distance|blocks|short palette|rgba|sync'
)
SMALL = [name for name in CASES if re.search(SMALL_CASES, name)]
SIZE, BATCH = 48, 3


def wrong(names):
    """Those of CASES that the kernels do not decode to OpenCV's pixels."""
    decoded = png_cases.run([CASES[n] for n in names])
    return [
        (n, png.REFUSED[status])
        for n, (pixels, status) in zip(names, decoded, strict=True)
        if pixels is None or not np.array_equal(pixels, files.decode(CASES[n]))
    ]


@needs_gxx
@pytest.mark.parametrize('order', range(4))
def test_the_kernels_decode_what_opencv_decodes(order):
    with cuda_shim.Shim(order):
        assert wrong(list(CASES)) == []


def test_the_reference_decodes_what_opencv_decodes():
    assert all(np.array_equal(png.run_ref(CASES[n]), files.decode(CASES[n])) for n in SMALL)


@needs_gxx
def test_real_encoders(tmp_path):
    """Drawn faces as OpenCV and Pillow write them, and one real one and parts of others, if any."""
    image = synthetic.face(5, 64).image
    data = [by_opencv(image[..., ::-1], level) for level in (0, 1, 6, 9)]
    for mode in 'RGB', 'L', 'P', 'RGBA', 'LA':
        Image.fromarray(image).convert(mode).save(tmp_path / 'face.png', optimize=mode != 'RGB')
        data.append((tmp_path / 'face.png').read_bytes())

    real = sorted(Path(os.environ.get('FACES_DATA', 'nowhere'), 'png').glob('*.png'))
    if real:
        data.append(real[7].read_bytes())
        data += [by_opencv(cv2.imread(str(path))[200:296, 200:296]) for path in real[::40]]

    with cuda_shim.Shim():
        decoded = png_cases.run(data)
    for file, (pixels, _) in zip(data, decoded, strict=True):
        assert pixels is not None
        assert np.array_equal(pixels, files.decode(file))


def by_opencv(bgr, level=None):
    """A PNG as OpenCV writes it."""
    options = [] if level is None else [cv2.IMWRITE_PNG_COMPRESSION, level]
    return cv2.imencode('.png', bgr, options)[1].tobytes()


@pytest.mark.parametrize('name', png_cases.unfit())
def test_what_is_left_to_the_cpu(name):
    data, reason = png_cases.unfit()[name]
    with pytest.raises(png.Unfit, match=reason):
        png.head(data)


@needs_gxx
def test_the_record_has_the_layout_of_the_struct():
    data = CASES['gray none 1x1']
    record = png.pack([data], [png.head(data)]).record
    fields = re.search(r'struct Png {([^}]*)}', kernels.source(png.KERNELS))[1]
    assert cuda_shim.Shim().sizeof(png.KERNELS, 'Png') == record.dtype.itemsize
    names = [name.split()[-1] for name in re.split('[;,]', fields) if name.strip()]
    assert names == list(record.dtype.names)


def test_the_host_knows_every_verdict():
    names = re.search(r'enum { (.*?) }', kernels.source(png.KERNELS))[1].split(', ')
    assert len(names) == len(png.REFUSED) == len(set(png.REFUSED)) and names[0] == 'GOOD'


@needs_gxx
def test_damaged_files(record_property):
    """Under two sanitizers, both ways; `python tests/png_cases.py` makes more of them."""
    done = subprocess.run(
        [sys.executable, png_cases.__file__, '384', '1'],
        env=cuda_shim.sanitized() | {'PYTHONPATH': str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert done.stdout.startswith('384 damaged files')
    assert all(word in done.stdout for word in ('equal', *png.REFUSED[1:]))
    record_property('summary', done.stdout.strip())


@needs_gxx
def test_a_distance_beyond_the_streams_own_window():
    """libpng lets a stream have what its header announces, and no more; zlib alone is laxer."""
    gray = np.random.default_rng(0).integers(0, 256, (3, 299), np.uint8)
    gray[2] = gray[0]
    good = png_cases.compressed(png_cases.filtered(gray[..., None], [0]))
    narrow = bytes([0x18, 0x19]) + good[2:]  # 512 bytes; the row repeats one 600 back
    assert zlib.decompress(narrow) == zlib.decompress(good)
    with cuda_shim.Shim():
        both = [png_cases.file(3, 299, 0, z) for z in (good, narrow)]
        (pixels, _), (none, status) = png_cases.run(both)
    assert (pixels[..., 0] == gray).all()
    assert none is None
    assert png.REFUSED[status] == 'distance too far back'


# What to change, into what: a barrier left out, a border off by one, a table read wrongly, a check
# forgotten.
MUTANTS = [
    ('inflate', '            __syncwarp();\n            out.settled', '            out.settled'),
    ('inflate', '    __syncwarp();\n    return t.lengths[256]', '    return t.lengths[256]'),
    ('inflate', 'k == 28 ? 258', 'k == 29 ? 258'),
    ('inflate', 'min(limit, LITERAL_BITS) - l1', 'LITERAL_BITS'),
    ('inflate', '    in.take(in.n & 7);\n', ''),
    ('inflate', '    __syncwarp();\n    u32 low', '    u32 low'),
    ('unfilter', 'to_b <= to_c ? b', 'to_b < to_c ? b'),
    ('unfilter', '(a ^ b) >> 1 & 0x7f7f7f7fu', '(a ^ b) >> 1'),
    ('unfilter', '            corner = up;\n', ''),
    ('unfilter', 'up = top ? load', 'up = top > 32 ? load'),
    ('colour', 'p.palette + 3 * in[0]', 'p.palette + in[0]'),
    ('colour', 'p.channels < 3 ? 0 : c', 'c'),
]


def test_every_kernel_has_mutants():
    assert {kernel for kernel, *_ in MUTANTS} == {
        name for name, _ in cuda_shim.KERNEL.findall(kernels.source(png.KERNELS))
    }


@needs_gxx
@pytest.mark.parametrize(
    'kernel, old, new', MUTANTS, ids=[f'{k}-{i}' for i, (k, *_) in enumerate(MUTANTS)]
)
def test_mutants_fail(kernel, old, new):
    assert kernels.source(png.KERNELS).count(old) == 1, 'the mutation no longer fits the source'
    for order in range(4):
        with cuda_shim.Shim(order, edit=lambda file, source: source.replace(old, new)):
            if wrong(SMALL):
                return
    pytest.fail('nobody noticed')


# ---- the pipe ----


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """PNG of all kinds and JPEG; 4 is larger than the training size, 6 has a wrong checksum."""
    folder = tmp_path_factory.mktemp('hq')
    for i in range(9):
        image = Image.fromarray(synthetic.face(70 + i, SIZE if i != 4 else SIZE + 16).image)
        image.convert({2: 'L', 3: 'P', 5: 'RGBA'}.get(i, 'RGB')).save(
            folder / f'{i}.{"jpg" if i == 1 else "png"}'
        )
    raw = png_cases.filtered(synthetic.face(80, SIZE).image, [1])
    (folder / '6.png').write_bytes(png_cases.file(SIZE, SIZE, 2, zlib.compress(raw)[:-1] + b'?'))
    return folder


def scanned(folder, cache_dir):
    return manifest.scan(str(folder), size=SIZE, cache_dir=cache_dir, say=lambda _: None).images


def options_of(reader, cached=None):
    return Options(reader, cached, workers.make(2), 0, 0, 1, torch.device('cpu'), 2)


def loaded(Loader, reader, plan, steps=8, cached=None):
    """[(image numbers, flips, pixels)] of a loader's first steps."""
    loader = Loader(plan, options_of(reader, cached))
    made = []
    try:
        for _ in range(steps):
            step, pixels = loader.load()
            made.append((step.index, step.flip, pixels.clone()))
        return made
    finally:
        loader.close()


def assert_same(a, b):
    for x, y in zip(a, b, strict=True):
        assert all(np.array_equal(i, j) for i, j in zip(x, y, strict=True))


@needs_gxx
@pytest.mark.parametrize('cached', [False, True])
def test_the_loader_yields_what_the_torch_pipe_yields(cached, folder, tmp_path, monkeypatch):
    """Bad files, too, are replaced and reported alike."""
    monkeypatch.setattr(pipe_png, 'GROUP', 4)
    images = scanned(folder, tmp_path)
    plan = Plan(len(images), degrade.recipe('bicubic'), batch=BATCH, size=SIZE)

    def run(Loader, said):
        own = cache.make('host', images, SIZE, torch.device('cpu')) if cached else None
        return loaded(Loader, Reader(images, SIZE, said.append), plan, cached=own)

    expected_notices, notices = [], []
    expected = run(TorchLoader, expected_notices)
    with cuda_shim.Shim() as shim:
        assert_same(run(pipe_png.PngLoader, notices), expected)
    assert notices == expected_notices
    assert sum('6.png cannot be decoded (corrupt pixels' in line for line in notices) == 1
    assert ('png.cu', 'inflate') in shim.launched


@needs_gxx
def test_a_file_is_walked_until_the_device_has_decoded_it(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(pipe_png, 'GROUP', 4)
    images = [i for i in scanned(folder, tmp_path) if i.path.endswith(('0.png', '8.png'))]
    reader = Reader(images, SIZE, say=lambda _: None)
    monkeypatch.setattr('sources.reader.sound', lambda data: pytest.fail('decoded on the CPU'))
    plan = Plan(2, degrade.recipe('bicubic'), batch=2, size=SIZE)
    with cuda_shim.Shim():
        loaded(pipe_png.PngLoader, reader, plan, steps=5)
    assert reader._good == {0, 1}


@needs_gxx
def test_pairs(tmp_path, monkeypatch):
    monkeypatch.setattr(pipe_png, 'GROUP', 4)
    synthetic.write(tmp_path, 5, first_seed=3, size=SIZE)
    images = pairs.scan_pairs(
        str(tmp_path), size=SIZE, cache_dir=tmp_path, say=lambda _: None
    ).images
    black = zlib.compress(bytes(SIZE * (3 * SIZE + 1)))
    bad = png_cases.file(SIZE, SIZE, 2, black[:-1] + b'?')
    Path(images[2].image.path).write_bytes(bad)

    def run(Loader):
        plan = ParsePlan(len(images), batch=BATCH, size=SIZE)
        return loaded(Loader, MaskReader(images, SIZE, say=lambda _: None), plan, steps=4)

    expected = run(TorchLoader)
    with cuda_shim.Shim():
        assert_same(run(pipe_png.PngPairs), expected)
    assert expected[0][2].shape[1] == 4


@needs_gxx
def test_a_stream(folder, tmp_path, monkeypatch):
    """Every image of an epoch is there, also after a trial, and the same again is the same.

    Bad ones are reported with their names.
    """
    monkeypatch.setattr(pipe_png, 'GROUP', 4)
    with tarfile.open(tmp_path / 'a.tar', 'w') as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, path.name)
    plan = Plan(None, degrade.recipe('bicubic'), batch=2, size=SIZE, flip=0)
    said = []

    def run():
        reader = stream.Stream(addresses.find(f'file://{tmp_path}/a.tar'), SIZE, say=said.append)
        assert len(reader.peek(5)) == len(reader.peek(5)) == 5
        return loaded(pipe_png.PngLoader, reader, plan, steps=12)

    with cuda_shim.Shim():
        first = run()
        assert_same(first, run())

    # 24 images are three epochs of 8.
    expected = {
        files.fit(files.decode(p.read_bytes()), SIZE).tobytes()
        for p in folder.iterdir()
        if p.name != '6.png'
    }
    counts = Counter(
        image.permute(1, 2, 0).numpy().tobytes() for _, _, pixels in first for image in pixels
    )
    assert counts.keys() == expected
    assert min(counts.values()) >= 2 and max(counts.values()) <= 4
    assert sum('a.tar/6.png skipped: corrupt pixels' in line for line in said) == 2


@needs_gxx
@pytest.mark.parametrize('rates, chosen', [((9, 5), 'gpu'), ((5, 9), 'cpu')])
def test_auto_takes_the_faster(rates, chosen, folder, tmp_path, monkeypatch):
    pytest.importorskip('nvidia.dali')
    monkeypatch.setattr(pipe_png, 'GROUP', 8)
    images = scanned(folder, tmp_path)
    options = options_of(Reader(images, SIZE, say=lambda _: None))
    plan = Plan(len(images), degrade.recipe('bicubic'), batch=2, size=SIZE)

    # Both are really run, and then said to be as fast as the test wants.
    given, real, said = list(rates), pipe_png._rate, []
    monkeypatch.setattr(pipe_png, '_rate', lambda run, count: real(run, count) and given.pop(0))
    with cuda_shim.Shim():
        assert pipe_png._png_is_faster(plan, options, said.append) == (chosen == 'gpu')
        assert said == [
            f'decode: {chosen}; {rates[0]} images per second on the GPU, '
            f'{rates[1]} by DALI on 2 threads'
        ]
        monkeypatch.setattr(pipe_png, 'decode', lambda data: files.decode(data) ^ 1)
        assert not pipe_png._png_is_faster(plan, options, said.append)
        assert 'the GPU decodes other pixels' in said[-1]

    other = Plan(9, degrade.recipe('bicubic'), batch=2, size=SIZE - 4)
    assert not pipe_png._png_is_faster(other, options, said.append)
    assert 'of 9 files tried 0 are 8-bit PNG of 44x44' in said[-1]


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_without_a_gpu(folder, tmp_path):
    pytest.importorskip('nvidia.dali')
    images = scanned(folder, tmp_path)[:6]
    said = []

    def run(decode):
        shared = dict(batch=2, size=SIZE, say=said.append)
        with dali_pipes.make('dali', images, 'bicubic', decode=decode, **shared) as pipe:
            return [next(pipe) for _ in range(3)]

    for a, b in zip(run('auto'), run('cpu'), strict=True):
        assert torch.equal(a.target, b.target)
        assert torch.equal(a.input, b.input)
    assert not any('decode' in line for line in said)
    with pytest.raises(DataError, match='there is no GPU to decode on; give cpu or auto'):
        run('gpu')


def test_names_are_checked(tmp_path):
    with pytest.raises(ValueError, match="unknown decoder 'gpuu'"):
        dali_pipes.make('torch', [], 'bicubic', decode='gpuu')
    with pytest.raises(DataError, match='only the dali pipe decodes on a GPU'):
        dali_pipes.make('torch', [], 'bicubic', decode='gpu')
    with pytest.raises(
        RunError, match='--decode gpu needs --pipe dali and a GPU, this is torch on cpu'
    ):
        tasks.configure(f'--decode gpu --pipe torch --device cpu --out {tmp_path / "run"}'.split())
