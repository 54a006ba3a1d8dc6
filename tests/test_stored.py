"""Training on pairs that were degraded before.

Every pipe gives the files' own pixels, both mirrored and cut out alike.
"""

import itertools
import json
import shutil
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import dali_pipes
import synthetic
import train
from config import schema
from dali_pipes import paired, pipe_png
from dali_pipes.batch import Batch
from dali_pipes.loader import Options
from degrade import workers
from errors import DataError
from sources import addresses, lq_gt, manifest, order
from tasks import data as sources
from tools import cuda_shim, prepare
from training import checkpoint

SIZE = 48
RECIPES = {4: 'gfpgan', 1: 'face_renovation', 'stacked': 'face_renovation'}
KINDS = tuple(RECIPES)
TINY_NET = '{"width": [8, 8, 8, 8], "blocks": [[1, 1, 1], 1, [1, 1, 1]], "position": 0}'
HERE = f'--size {SIZE} --device cpu --threads 1 --pipe torch'
UNET = ['--preset', 'unet', '--net', TINY_NET]
TINY = f'--recipe gfpgan --batch 2 --ticks 1 {HERE}'.split()
RENOVATE = ['--preset', 'renovation_demo', '--net', '{"width": 1}', '--batch', '2', *HERE.split()]


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    """Pairs as prepare.py writes them: folders 4 and 1, of that scale, and stacked."""
    home = tmp_path_factory.mktemp('pairs')
    with pytest.MonkeyPatch.context() as mp:
        mp.setenv('FACES_CACHE', str(home / 'cache'))
        (home / 'hq').mkdir()
        for i in range(7):
            cv2.imwrite(str(home / f'hq/{i}.png'), synthetic.face(i, SIZE).image[..., ::-1])
        for scale, recipe in RECIPES.items():
            argv = ['degrade', f'{home}/hq', '--recipe', recipe, '--out', f'{home}/{scale}']
            argv += ['--size', str(SIZE), *['--stacked'] * (scale == 'stacked')]
            assert prepare.main(argv) == 0
    return home


@pytest.fixture(autouse=True)
def own_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv('FACES_CACHE', str(tmp_path / 'cache'))


def pairs(home, scale):
    if scale == 'stacked':
        return lq_gt.scan_stacked(home / scale, size=SIZE, say=lambda _: None)
    return lq_gt.scan_pairs(home / str(scale), scale, size=SIZE, say=lambda _: None)


def batches(name, pairs, scale, count=5, **options):
    options = dict(batch=3, seed=4, say=lambda _: None) | options
    with dali_pipes.make(name, pairs, RECIPES[scale], size=SIZE, threads=2, **options) as pipe:
        return [next(pipe) for _ in range(count)]


def assert_same(a, b):
    for ours, theirs in zip(a, b, strict=True):
        for field in 'input', 'target', 'sample':
            assert torch.equal(getattr(ours, field), getattr(theirs, field)), field


@pytest.mark.parametrize('scale', [1, 2, 3, 4, 8])
def test_an_lq_survives_its_packing_and_a_mirror(scale):
    lq = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    x = paired.packed(lq, scale)
    assert x.shape == (6 * scale, 5 * scale, paired.planes(scale))
    for image, expected in (x, lq), (x[:, ::-1].copy(), lq[:, ::-1]):
        batch = torch.from_numpy(image).permute(2, 0, 1)[None]
        assert np.array_equal(paired.unpacked(batch, scale)[0].permute(1, 2, 0), expected)


def pixels(pair):
    """(LQ, GT) of files, as OpenCV reads them, in [0, 1]."""

    def read(path):
        return cv2.imread(path)[..., ::-1].astype(np.float32) / 255

    if isinstance(pair, manifest.Stacked):
        return np.split(read(pair.path), 2)
    return read(pair.lq.path), read(pair.gt.path)


def square(image, y, x, side):
    return image[y : y + side, x : x + side]


def place(image, part, step):
    """(mirrored, top, left): the one place where a part [h, h, 3] of an image lies."""
    side = len(part)
    corners = range(0, len(image) - side + 1, step)
    (fit,) = [
        (flip, y, x)
        for flip in (False, True)
        for y in corners
        for x in corners
        if np.array_equal(square(image[:, ::-1] if flip else image, y, x, side), part)
    ]
    return fit


@pytest.mark.parametrize('scale', KINDS)
@pytest.mark.parametrize('name', dali_pipes.PIPES)
def test_batches_are_the_files(name, scale, home):
    if name == 'dali':
        pytest.importorskip('nvidia.dali')
    files = pairs(home, scale)
    times = 4 if scale == 4 else 1
    mirrored = 0
    for cache, crop in itertools.product(('off', 'host'), (None, 24)):
        for batch in batches(name, files, scale, cache=cache, crop=crop):
            assert torch.equal(batch.plain, batch.target)
            index = order.index(batch.sample.numpy(), len(files), 4)
            for i, lq, gt in zip(index, batch.input, batch.target, strict=True):
                lq, gt = (x.permute(1, 2, 0).numpy() for x in (lq, gt))
                whole_lq, whole_gt = pixels(files[i])
                flip, y, x = place(whole_gt, gt, times)
                if flip:
                    whole_lq = whole_lq[:, ::-1]
                assert np.array_equal(square(whole_lq, y // times, x // times, len(lq)), lq)
                mirrored += flip
    assert 10 < mirrored < 50  # of 60


@pytest.mark.parametrize('scale', KINDS)
def test_pipes_agree_and_resume(scale, home):
    pytest.importorskip('nvidia.dali')
    files = pairs(home, scale)
    expected = batches('reference', files, scale, crop=24)
    for name, cache in ('dali', 'off'), ('dali', 'host'), ('torch', 'file'), ('torch', 'host'):
        for start in 0, 2:
            later = dict(crop=24, start=3 * start, count=5 - start)
            assert_same(batches(name, files, scale, cache=cache, **later), expected[start:])

    # Two processes share the same samples.
    whole = batches('reference', files, scale, batch=4)
    for rank in 0, 1:
        part = batches('dali', files, scale, batch=2, rank=rank, world=2)
        ours = slice(2 * rank, 2 * rank + 2)
        wanted = [Batch(*(v if v is None else v[ours] for v in batch)) for batch in whole]
        assert_same(part, wanted)


@pytest.mark.skipif(
    not shutil.which('g++'), reason='g++ is not installed: it builds the kernels for the CPU'
)
def test_the_gpu_decoder_gives_the_same(home, monkeypatch):
    monkeypatch.setattr(
        pipe_png.PngLoader, '_replace', lambda *_: pytest.fail('the CPU was asked to decode')
    )
    monkeypatch.setattr(pipe_png, 'GROUP', 4)  # of 1,024, most would be decoded for nobody
    with cuda_shim.Shim():
        for scale, Loader in (4, pipe_png.PngPairs), ('stacked', pipe_png.PngLoader):
            files = pairs(home, scale)
            shared = dict(batch=3, size=SIZE, seed=4, say=lambda _: None)
            plan, reader = paired.planned(files, 4 if scale == 4 else 1, **shared)
            options = Options(reader, None, workers.make(2), 0, 0, 1, torch.device('cpu'), 2)
            loader = Loader(plan, options)
            for expected in batches('reference', files, scale):
                step, x = loader.load()
                assert_same([plan.finish(x, step)], [expected])
            loader.close()


def test_bad_pairs_are_named_and_left_out(home, tmp_path):
    folder = copied(home, tmp_path)
    (folder / 'LQ/0.png').write_bytes((folder / 'LQ/0.png').read_bytes()[:-20])
    (folder / 'GT/1.png').unlink()
    cv2.imwrite(str(folder / 'LQ/2.png'), np.zeros((5, 5, 3), np.uint8))
    for side, n in ('LQ', 8), ('GT', 32):
        cv2.imwrite(str(folder / f'{side}/3.png'), np.zeros((n, n, 3), np.uint8))

    said = []
    good = lq_gt.scan_pairs(folder, 4, size=SIZE, strict=False, say=said.append)
    assert [p.path for p in good] == [str(folder / f'GT/{i}.png') for i in (4, 5, 6)]
    said = ' '.join(said)
    for part in (
        'LQ/0.png (truncated',
        '1 without a GT partner',
        'LQ/1.png',
        '1 without a LQ partner',
        'GT/0.png',
        '1 pairs whose GT is not 4 times as large',
        '2.png is 48x48, its LQ 5x5',
        '1 pairs whose GT is not 48x48',
        '3.png is 32x32',
        'left out',
    ):
        assert part in said, part
    with pytest.raises(DataError, match='LQ/0.png'):
        lq_gt.scan_pairs(folder, 4, size=SIZE, say=lambda _: None)


def test_one_that_breaks_meanwhile_is_replaced(home, tmp_path):
    pytest.importorskip('nvidia.dali')
    folder, said = copied(home, tmp_path), []
    files = lq_gt.scan_pairs(folder, 4, size=SIZE, say=said.append)
    (folder / 'LQ/3.png').write_bytes(b'gone')
    for name in 'dali', 'torch', 'reference':
        made = batches(name, files, 4, say=said.append)
        assert torch.equal(made[0].input, batches('reference', files, 4)[0].input)
        assert f'{folder}/GT/3.png cannot be decoded (its LQ {folder}/LQ/3.png: ' in said[-1]
        assert said[-1].endswith(f'replaced by {folder}/GT/4.png')


def test_bad_stacked_pictures_are_named_left_out_and_replaced(home, tmp_path):
    pytest.importorskip('nvidia.dali')
    folder, said = copied(home, tmp_path, 'stacked'), []
    (folder / '0.png').write_bytes((folder / '0.png').read_bytes()[:-20])
    cv2.imwrite(str(folder / '1.png'), np.zeros((SIZE, SIZE, 3), np.uint8))
    cv2.imwrite(str(folder / '2.png'), np.zeros((64, 32, 3), np.uint8))

    files = lq_gt.scan_stacked(folder, size=SIZE, strict=False, say=said.append)
    assert [p.path for p in files] == [str(folder / f'{i}.png') for i in (3, 4, 5, 6)]
    said = ' '.join(said)
    for part in (
        '0.png (truncated',
        '1 of 6 pictures are no square LQ above a square GT',
        '1.png is 48x48',
        '1 of 6 pictures are not of the training size 48',
        '2.png is 32x64',
        'left out',
    ):
        assert part in said, part
    with pytest.raises(DataError, match='0.png'):
        lq_gt.scan_stacked(folder, size=SIZE, say=lambda _: None)

    # One that has become a picture of another size is replaced, the same in every pipe.
    cv2.imwrite(str(folder / '4.png'), np.zeros((2 * SIZE, 2 * SIZE, 3), np.uint8))
    for name in 'dali', 'torch', 'reference':
        said = []
        made = batches(name, files, 'stacked', say=said.append)
        assert_same(made, batches('reference', files, 'stacked'))
        assert said == [
            f'{folder}/4.png cannot be decoded (96x96, where 48x96 are wanted): '
            f'replaced by {folder}/5.png'
        ]


def copied(home, tmp_path, scale=4):
    return shutil.copytree(home / str(scale), tmp_path / 'pairs')


def load(home, data, **more):
    options = dict(data=str(data), val=['2'], size=SIZE, recipe='face_renovation') | more
    config = schema.replace_options(schema.Config(), **options)
    return sources.load_faces(config, say=lambda _: None)


def test_held_out_and_left_out(home, tmp_path):
    for scale in KINDS:
        data = f'stacked:{home / scale}' if scale == 'stacked' else str(home / str(scale))
        whole = {p.path for p in pairs(home, scale)}
        train, sets = load(home, data, recipe=RECIPES[scale])
        held = sets['val']
        assert len(train) == 5 and len(held) == 2
        assert not {held.name(i) for i in range(2)} & {Path(p.path).stem for p in train}

        name, *images = held[0]
        (pair,) = [p for p in pairs(home, scale) if p.path.endswith(f'{name}.png')]
        for image, expected in zip(images, pixels(pair), strict=True):
            assert np.array_equal(image.permute(1, 2, 0), np.round(expected * 255))

        # Some of them as a set of their own, by links.
        part = tmp_path / f'part{scale}'
        for side in [''] if scale == 'stacked' else ['LQ', 'GT']:
            (part / side).mkdir(parents=True)
            for i in 1, 4:
                (part / side / f'{i}.png').symlink_to(home / str(scale) / side / f'{i}.png')
        val = data.replace(str(home / str(scale)), str(part))
        train, _ = load(home, data, recipe=RECIPES[scale], val=[val])
        assert {p.path for p in train} == {p for p in whole if p[-5] not in '14'}
    with pytest.raises(DataError, match='--val 0 leaves nothing to validate on'):
        load(home, home / '1', val=['0'])


def test_no_lq_is_taken_for_a_face(home, tmp_path):
    shutil.copytree(home / '1', tmp_path / 'a/1')
    with pytest.raises(DataError, match=f'holds pairs: give --data {tmp_path}/a/1'):
        load(home, tmp_path / 'a')
    with tarfile.open(tmp_path / '0.tar', 'w') as tar:
        tar.add(home / '1/LQ', 'LQ')
        tar.add(home / '1/GT', 'GT')
    with pytest.raises(DataError, match='holds pairs: unpack .*0.tar'):
        load(home, tmp_path / '0.tar')
    with pytest.raises(DataError, match='LQ/.*png is an LQ'):
        batches('torch', addresses.find(f'file://{tmp_path}/0.tar'), 1)
    with pytest.raises(DataError, match='pairs are read from a disk'):
        load(home, 'stacked:s3://bucket/0.tar')
    with pytest.raises(DataError, match='stacked pairs are of one size'):
        load(home, f'stacked:{home}/stacked', recipe='gfpgan')
    assert len(load(home, home / '1/GT')[0]) == 5  # the faces alone


def test_a_run_resumed_is_the_run_uninterrupted(home, tmp_path, capsys):
    argv = [*RENOVATE, *f'--data stacked:{home}/stacked --val 2 --ticks 2 --crop 32'.split()]
    argv += ['--nimg', '8', '--out', str(tmp_path)]
    assert train.main(argv) == 0
    assert ', degraded before, 5 stored pairs, 2 validation pairs (val)' in capsys.readouterr().out
    whole = load_file(tmp_path / 'weights.safetensors')
    shutil.rmtree(checkpoint.latest(tmp_path))  # as if it had been killed
    (tmp_path / 'weights.safetensors').unlink()
    assert train.main(argv) == 0
    assert 'resumed at 4 images' in capsys.readouterr().out
    again = load_file(tmp_path / 'weights.safetensors')
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[k], again[k]) for k in whole)


def test_a_search(home, tmp_path):
    argv = ['--preset', 'search_sr', '--net', '{"width": 16, "growth": 4, "layers": 2}']
    argv += f'--crop 32 --recipe gfpgan --nimg 4 --ticks 1 {HERE}'.split()
    argv += ['--data', f'{home}/4', '--val', '2', '--out', f'{tmp_path}/run']
    assert train.main(argv) == 0
    assert (tmp_path / 'run/arch.json').is_file()


def test_a_run(home, tmp_path, capsys):
    out = tmp_path / 'run'
    argv = [*UNET, *TINY, '--data', f'{home}/4', '--val', '2', '--nimg', '4', '--out', str(out)]
    assert train.main(argv) == 0
    assert '5 stored pairs, 2 validation pairs (val)' in capsys.readouterr().out
    assert json.loads((out / 'config.json').read_text())['images'].startswith('5 stored pairs, ')
    assert prepare.main(['replay', str(out), '0']) == 2
    assert 'was trained on the pairs of' in capsys.readouterr().err


RENOVATION = ['--preset', 'renovation_demo', '--net', '{"width": 1}', '--crop', '32']
GAN = ['--preset', 'realesrgan_gan', '--net', '{}', '--crop', '32']


@pytest.mark.parametrize(
    'flags, message',
    [
        ([*UNET, '--val', '{home}/4'], 'holds nothing but the images of --val'),
        ([*UNET, '--target-usm'], '--target-usm is for faces that are degraded while training'),
        ([*UNET, '--size', '64'], 'whose GT is not 64x64'),
        ([*RENOVATION, '--recipe', 'face_renovation'], 'whose GT is not 1 times as large'),
        (GAN, 'give --no-target-usm'),
    ],
)
def test_runs_that_are_refused(flags, message, home, tmp_path, capsys):
    argv = [*TINY, '--data', f'{home}/4', '--nimg', '4', '--out', f'{tmp_path}/no']
    argv += [flag.replace('{home}', str(home)) for flag in flags]
    if '--val' not in flags:
        argv += ['--val', '2']
    assert train.main(argv) == 2
    assert message in capsys.readouterr().err
