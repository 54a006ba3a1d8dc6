"""Training on pairs that were degraded before: every pipe gives the files' own pixels, both mirrored and cut out alike."""
import json
import shutil

import cv2
import numpy as np
import pytest
import torch

import dali_pipes
import train
from dali_pipes import faces, files, manifest, order, pipe_png, stored
from dali_pipes.batch import Options
from dali_pipes.degrade import workers
from tools import cuda_shim, prepare

SIZE = 48
RECIPES = {4: 'gfpgan', 1: 'face_renovation'}
TINY = ['--preset', 'unet', '--net', '{"width": [8, 8, 8, 8], "blocks": [[1, 1, 1], 1, [1, 1, 1]], "position": 0}', '--size', str(SIZE), '--recipe', 'gfpgan', '--batch', '2', '--ticks', '1',
        '--device', 'cpu', '--threads', '1', '--pipe', 'torch']


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    """Folders 4 and 1 of pairs of that scale, as prepare.py writes them."""
    home = tmp_path_factory.mktemp('pairs')
    with pytest.MonkeyPatch.context() as mp:
        mp.setenv('FACES_CACHE', str(home / 'cache'))
        (home / 'hq').mkdir()
        for i in range(7):
            cv2.imwrite(str(home / f'hq/{i}.png'), faces.face(i, SIZE).image[..., ::-1])
        for scale, recipe in RECIPES.items():
            assert prepare.main(['degrade', str(home / 'hq'), '--size', str(SIZE), '--recipe', recipe, '--out', str(home / str(scale))]) == 0
    return home


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    monkeypatch.setenv('FACES_CACHE', str(tmp_path / 'cache'))


def pairs(home, scale):
    return manifest.scan_pairs(home / str(scale), scale, size=SIZE, say=lambda _: None)


def batches(name, found, scale, count=5, **more):
    with dali_pipes.make(name, found, RECIPES[scale], size=SIZE, threads=2, **dict(batch=3, seed=4, say=lambda _: None) | more) as pipe:
        return [next(pipe) for _ in range(count)]


@pytest.mark.parametrize('scale', [1, 2, 3, 4, 8])
def test_an_lq_survives_its_packing_and_a_mirror(scale):
    lq = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    x = stored.packed(lq, scale)
    assert x.shape == (6 * scale, 5 * scale, stored.planes(scale))
    for image, expected in (x, lq), (x[:, ::-1].copy(), lq[:, ::-1]):
        assert np.array_equal(stored.unpacked(torch.from_numpy(image).permute(2, 0, 1)[None], scale)[0].permute(1, 2, 0), expected)


@pytest.mark.parametrize('scale', [4, 1])
@pytest.mark.parametrize('name', dali_pipes.PIPES)
def test_batches_are_the_files(name, scale, home):
    if name == 'dali':
        pytest.importorskip('nvidia.dali')
    found, mirrored, side = pairs(home, scale), 0, 24
    for cache in 'off', 'host':
        for crop in None, side:
            for batch in batches(name, found, scale, cache=cache, crop=crop):
                index = order.index(batch.sample.numpy(), len(found), 4)
                for i, lq, gt, plain in zip(index, batch.input, batch.target, batch.plain):
                    want_lq, want_gt = (files.decode(files.read_bytes(*image.where)).astype(np.float32) / 255 for image in found[i])
                    lq, gt = (x.permute(1, 2, 0).numpy() for x in (lq, gt))
                    assert torch.equal(plain, torch.from_numpy(gt).permute(2, 0, 1))
                    # The one place and mirroring where both fit.
                    fits = [(flip, y, x) for flip in (False, True) for y in range(0, SIZE - len(gt) + 1, scale) for x in range(0, SIZE - len(gt) + 1, scale)
                            if np.array_equal((want_gt[:, ::-1] if flip else want_gt)[y:y + len(gt), x:x + len(gt)], gt)]
                    (flip, y, x), = fits
                    mirrored += flip
                    y, x = y // scale, x // scale
                    assert np.array_equal((want_lq[:, ::-1] if flip else want_lq)[y:y + len(lq), x:x + len(lq)], lq)
    assert 10 < mirrored < 50                    # of 60


@pytest.mark.parametrize('scale', [4, 1])
def test_pipes_agree_and_resume(scale, home):
    pytest.importorskip('nvidia.dali')
    found = pairs(home, scale)
    expected = batches('reference', found, scale, crop=24)
    for name, cache in ('dali', 'off'), ('dali', 'host'), ('torch', 'file'), ('torch', 'host'):
        for start in 0, 2:
            for a, b in zip(expected[start:], batches(name, found, scale, cache=cache, crop=24, start=3 * start)):
                assert torch.equal(a.input, b.input) and torch.equal(a.target, b.target) and torch.equal(a.sample, b.sample)
    for rank in 0, 1:                            # two processes share the same samples
        for a, b in zip(batches('reference', found, scale, batch=4), batches('dali', found, scale, batch=2, rank=rank, world=2)):
            assert torch.equal(a.input[2 * rank:2 * rank + 2], b.input) and torch.equal(a.target[2 * rank:2 * rank + 2], b.target)


@pytest.mark.skipif(not shutil.which('g++'), reason='g++ is not installed: it builds the kernels for the CPU')
def test_the_gpu_decoder_gives_the_same(home):
    found = pairs(home, 4)
    plan = stored.StoredPlan(len(found), 4, batch=3, size=SIZE, seed=4)
    reader = stored.PairReader(found, SIZE, say=lambda _: None)
    with cuda_shim.Shim():
        loader = pipe_png.PngPairs(plan, Options(reader, None, workers.make(2), 0, 0, 1, torch.device('cpu'), 2))
        for expected in batches('reference', found, 4):
            step, x = loader.load()
            batch = plan.finish(x, step)
            assert torch.equal(batch.input, expected.input) and torch.equal(batch.target, expected.target)
        loader.close()


def test_bad_pairs_are_named_and_left_out(home, tmp_path):
    folder = copied(home, tmp_path)
    (folder / 'LQ/0.png').write_bytes((folder / 'LQ/0.png').read_bytes()[:-20])
    (folder / 'GT/1.png').unlink()
    cv2.imwrite(str(folder / 'LQ/2.png'), np.zeros((5, 5, 3), np.uint8))
    for side, n in ('LQ', 8), ('GT', 32):
        cv2.imwrite(str(folder / f'{side}/3.png'), np.zeros((n, n, 3), np.uint8))
    said = []
    found = manifest.scan_pairs(folder, 4, size=SIZE, strict=False, say=said.append)
    assert [p.path for p in found] == [str(folder / f'GT/{i}.png') for i in (4, 5, 6)]
    said = ' '.join(said)
    for part in ('LQ/0.png (truncated', '1 without a GT partner', 'LQ/1.png', '1 without a LQ partner', 'GT/0.png', '1 not 4 times as large', '2.png is 48x48, its LQ 5x5',
                 '1 not of the training size 48', '3.png is 32x32', 'left out'):
        assert part in said, part
    with pytest.raises(manifest.DataError, match='LQ/0.png'):
        manifest.scan_pairs(folder, 4, size=SIZE, say=lambda _: None)


def test_one_that_breaks_meanwhile_is_replaced(home, tmp_path):
    pytest.importorskip('nvidia.dali')
    folder, said = copied(home, tmp_path), []
    found = manifest.scan_pairs(folder, 4, size=SIZE, say=said.append)
    (folder / 'LQ/3.png').write_bytes(b'gone')
    for name in 'dali', 'torch', 'reference':
        seen = batches(name, found, 4, say=said.append)
        assert torch.equal(seen[0].input, batches('reference', found, 4)[0].input)
        assert f'{folder}/GT/3.png cannot be decoded (its LQ {folder}/LQ/3.png: ' in said[-1] and said[-1].endswith(f'replaced by {folder}/GT/4.png')


def copied(home, tmp_path):
    return shutil.copytree(home / '4', tmp_path / 'pairs')


def test_a_run(home, tmp_path, capsys):
    out = tmp_path / 'run'
    assert train.main([*TINY, '--data', str(home / '4'), '--val', '2', '--nimg', '4', '--out', str(out)]) == 0
    said = capsys.readouterr().out
    assert '5 stored pairs, 2 validation pairs (val)' in said
    assert json.loads((out / 'config.json').read_text())['images'].startswith('5 stored pairs, ')
    assert prepare.main(['replay', str(out), '0']) == 2 and 'was trained on the stored pairs of' in capsys.readouterr().err
    # The validation set itself is no training set, and a part of it is left out of one.
    assert train.main([*TINY, '--data', str(home / '4'), '--val', str(home / '4'), '--nimg', '4', '--out', str(tmp_path / 'none')]) == 2
    assert 'holds nothing but the images of --val' in capsys.readouterr().err
    for more, message in (['--target-usm'], '--target-usm is for faces that are degraded while training'), (['--size', '64'], 'not of the training size 64'), \
            (['--recipe', 'face_renovation', '--preset', 'renovation_demo', '--net', '{"width": 1}', '--crop', '32'], 'not 1 times as large'):
        assert train.main([*TINY, *more, '--data', str(home / '4'), '--val', '2', '--nimg', '4', '--out', str(tmp_path / 'no')]) == 2
        assert message in capsys.readouterr().err
    assert train.main([*TINY, '--data', f'stacked:{home}', '--nimg', '4', '--out', str(tmp_path / 'no')]) == 2
    assert 'to train on pairs give a folder with LQ/ and GT/' in capsys.readouterr().err
