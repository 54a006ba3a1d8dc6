"""On a CUDA GPU.

The kernels are the reference and repeat, the pipes yield what they yield on a CPU, a run trains,
and its second half is its resumption.
"""

import json

import kernel_cases
import numpy as np
import png_cases
import pytest
import torch

import dali_pipes
import degrade
import synthetic
import train
from dali_pipes import pipe_png, png
from degrade import canvas, kernels
from degrade.draw import Draw
from sources import files, manifest

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA GPU here')
CASES = {case.name: case for case in kernel_cases.cases()}
SIZE, BATCH = 128, 5


def on_gpu(case):
    c = kernel_cases.on_canvas(case.images)
    c = c._replace(pix=c.pix.cuda())
    (r,) = kernels.upload([case.op.record(case.params, c.size)], c.pix.device)
    out = case.op.run_cuda(c, case.params, r)
    return [
        canvas.unit(out.pix[i, :, :h, :w]).permute(1, 2, 0).cpu().numpy()
        for i, (h, w) in enumerate(out.size)
    ]


@pytest.mark.parametrize('name', CASES)
def test_kernels_are_the_reference_and_repeat(name):
    images = on_gpu(CASES[name])
    assert all((a == b).all() for a, b in zip(images, on_gpu(CASES[name]), strict=True))
    error, allowed = kernel_cases.errors(CASES[name], images)
    assert error <= allowed


@pytest.fixture(scope='module')
def faces():
    """Four faces of 512 pixels, each of which takes a second to draw; [4, 3, 512, 512] uint8."""
    drawn = np.stack([synthetic.face(i).image for i in range(4)])
    return torch.from_numpy(drawn).permute(0, 3, 1, 2)


@pytest.mark.parametrize('recipe', degrade.RECIPES)
def test_recipes(recipe, faces):
    """24 samples of 512 pixels in one ragged batch, bit for bit the same again and alone."""
    recipe, n = degrade.recipe(recipe), 24
    x = faces[torch.arange(n) % 4]
    params = degrade.sample(recipe, Draw(3, np.arange(n), tied=recipe.tied, batch=n), (512, 512))
    y = degrade.degrade(x.cuda(), recipe, params, 'cuda')
    assert torch.equal(y, degrade.degrade(x.cuda(), recipe, params, 'cuda'))
    if not recipe.tied:
        own = degrade.take(params, slice(7, 8))
        assert torch.equal(y[7:8], degrade.degrade(x[7:8].cuda(), recipe, own, 'cuda'))
    off = (y.cpu() - degrade.degrade(x, recipe, params, 'torch')).abs() * 255
    assert (off < 1.01).float().mean() >= 0.99


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp('hq')
    synthetic.write(folder, 12, first_seed=500, size=SIZE)
    return manifest.scan(
        str(folder / 'images'), size=SIZE, cache_dir=folder, say=lambda _: None
    ).images


def batches(name, images, device, steps=8, **options):
    if name == 'dali' and options.get('decode') != 'gpu':
        pytest.importorskip('nvidia.dali')
    shared = dict(batch=BATCH, size=SIZE, threads=4, say=lambda _: None)
    with dali_pipes.make(name, images, 'ai6126_2024', device=device, **shared, **options) as pipe:
        return [next(pipe) for _ in range(steps)]


@pytest.mark.parametrize('cache', ['off', 'gpu', 'host', 'file'])
@pytest.mark.parametrize('name', ['torch', 'dali'])
def test_pipes(name, cache, images, tmp_path, monkeypatch):
    monkeypatch.setenv('FACES_CACHE', str(tmp_path))
    ours = batches(name, images, 'cuda', cache=cache)
    off = []
    for a, b in zip(ours, batches('torch', images, 'cpu'), strict=True):
        assert a.target.is_cuda
        assert torch.equal(a.sample, b.sample)
        assert torch.equal(a.target.cpu(), b.target)
        off.append((a.input.cpu() - b.input).abs() * 255)
    assert (torch.stack(off) < 1.01).float().mean() >= 0.99


def test_png():
    """Every kind of file, and damaged ones, as on a CPU."""
    cases = png_cases.cases()
    packed = png.pack(list(cases.values()), [png.head(f) for f in cases.values()], pinned=True)
    out, status = png.run_cuda(packed, torch.device('cuda', 0))
    assert not status.any()
    pictures = png.pictures(out.cpu(), packed.record)
    for picture, file in zip(pictures, cases.values(), strict=True):
        assert (picture.numpy() == files.decode(file)).all()
    assert png_cases.compare(png_cases.damaged(900, 3), torch.device('cuda', 0))['equal'] > 50


@pytest.mark.parametrize('cache', ['off', 'host'])
def test_png_pipe(cache, images, tmp_path, monkeypatch):
    """Decoded on the GPU, in groups that are smaller than an epoch."""
    monkeypatch.setattr(pipe_png, 'GROUP', 7)
    ours = batches('dali', images, 'cuda', cache=cache, decode='gpu', steps=20)
    for a, b in zip(ours, batches('torch', images, 'cpu', steps=20), strict=True):
        assert torch.equal(a.target.cpu(), b.target)


def test_the_faster_decoder_is_told(images):
    pytest.importorskip('nvidia.dali')
    said = []
    with dali_pipes.make(
        'dali', images, 'bicubic', batch=BATCH, size=SIZE, device='cuda', say=said.append
    ) as pipe:
        next(pipe)
    assert sum('images per second on the GPU' in line for line in said) == 1


def test_a_batch_in_use_is_not_overwritten(images):
    """The next batches are made on another stream while this one is still needed."""
    first = batches('torch', images, 'cuda', cache='gpu')
    again = batches('torch', images, 'cuda', cache='gpu')
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a.input, b.input)
        assert torch.equal(a.target, b.target)


def test_training_resumes(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('FACES_CACHE', str(tmp_path / 'cache'))
    synthetic.write(tmp_path / 'hq', 10, first_seed=0, size=SIZE)
    argv = f'--preset unet --size {SIZE} --batch 2 --nimg 200 --ticks 2'.split()
    argv += ['--data', str(tmp_path / 'hq/images'), '--out', str(tmp_path / 'run')]
    assert train.main(argv) == 0 and train.main(argv) == 0
    assert 'resumed at 200 images' in capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / 'run/log.jsonl').read_text().splitlines()]
    assert all(np.isfinite(r['psnr']) for r in rows if 'psnr' in r)
