"""The three pipes yield the same batches."""

import functools
import json
import os
import pickle
import subprocess
import sys
import threading
import zlib

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from zoo import picture, png, rows

import dali_pipes
import degrade
import synthetic
from dali_pipes import pipe_torch, validation
from degrade import noise, resize, workers
from sources import manifest
from sources.reader import Reader

SIZE, BATCH, START, STEPS, SEED = 128, 5, 7, 10, 3
FAST = 'torch', 'dali'


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    """PNG and JPEG, RGB, gray, palette and RGBA, some larger than the training size."""
    folder = tmp_path_factory.mktemp('hq')
    for i in range(12):
        image = synthetic.face(500 + i, SIZE if i % 6 else SIZE + 32).image
        path = folder / f'{i:02d}.{"jpg" if i % 4 == 1 else "png"}'
        picture = Image.fromarray(image)
        if i % 4 == 2:
            picture = picture.convert('L' if i % 8 == 2 else 'P')
        if i % 4 == 3:
            picture = picture.convert('RGBA')
            picture.putalpha(Image.fromarray(image[..., 0]))
        picture.save(path)
    images = manifest.scan(str(folder), size=SIZE, cache_dir=folder, say=lambda _: None).images
    assert {i.colour for i in images} >= {'rgb', 'gray', 'palette', 'rgba'}
    assert {i.kind for i in images} == {'png', 'jpeg'}
    return images


def batches(name, images, recipe, steps=STEPS, **options):
    """The first batches of a pipe: by default those of the second of two processes."""
    shared = dict(batch=BATCH, size=SIZE, seed=SEED, start=START, rank=1, world=2)
    options = {**shared, 'say': lambda _: None, **options}
    if name == 'dali':
        pytest.importorskip('nvidia.dali')
    with dali_pipes.make(name, images, recipe, **options) as pipe:
        return [next(pipe) for _ in range(steps)]


def assert_same(a, b):
    for x, y in zip(a, b, strict=True):
        for one, other in zip(x, y, strict=True):
            assert one is other is None or torch.equal(one, other)


# The parts of hifacegan are tested as hifacegan.
WHOLE_RECIPES = [name for name in degrade.RECIPES if not name.startswith('hifacegan_')]


@pytest.mark.parametrize('recipe', WHOLE_RECIPES)
@pytest.mark.parametrize('name', FAST)
def test_pipe_is_the_reference(name, recipe, images, reference):
    expected = reference(recipe)
    ours = batches(name, images, recipe, len(expected))
    side = SIZE // degrade.recipe(recipe).scale
    for a, b in zip(ours, expected, strict=True):
        assert torch.equal(a.sample, b.sample)
        assert torch.equal(a.target, b.target)
        assert a.input.shape == (BATCH, 3, side, side)
        assert a.input.is_contiguous(memory_format=torch.channels_last)

    # In grey levels. The few images beyond one level have a JPEG block tipped by one rounding.
    errors = [(a.input - b.input).abs() for a, b in zip(ours, expected, strict=True)]
    off = torch.stack(errors) * 255
    assert (off < 1.01).float().mean() >= 0.99
    assert (off.amax((2, 3, 4)) < 1.01).float().mean() >= 0.9


@pytest.fixture(scope='module')
def reference(images):
    """recipe -> batches of the reference pipe, which is slow: each is made once."""

    @functools.cache
    def made(recipe):
        steps = STEPS if degrade.recipe(recipe).scale > 1 else 4
        return batches('reference', images, recipe, steps)

    return made


def test_samples_cover_the_recipe(images):
    """What the comparison above runs through: every kind of kernel, noise, filter and order."""
    plan = dali_pipes.Plan(
        len(images), degrade.recipe('ai6126_2024'), batch=BATCH, size=SIZE, seed=SEED
    )
    firsts = [START + BATCH + 2 * BATCH * i for i in range(STEPS)]  # of the second of two processes
    params = [plan(np.arange(first, first + BATCH)).params for first in firsts]
    stages = {s.name: j for j, s in enumerate(plan.recipe.stages)}

    def drawn(field, *names):
        values = [getattr(p[stages[n]], field) for p in params for n in names]
        return set(np.concatenate(values).tolist())

    modes = {resize.AREA, resize.BILINEAR, resize.BICUBIC}
    assert drawn('kind', 'blur1', 'blur2', 'sinc') == set(range(8))
    assert drawn('kind', 'noise1', 'noise2') == {noise.GAUSSIAN, noise.POISSON}
    assert drawn('gray', 'noise1', 'noise2') == {True, False}
    assert drawn('mode', 'resize1', 'resize2', 'resize3') == modes
    assert 0 in drawn('quality', 'jpeg2a') and max(drawn('quality', 'jpeg2a')) > 0


def test_dali_is_torch_to_the_bit(images):
    assert_same(batches('dali', images, 'ai6126_2024'), batches('torch', images, 'ai6126_2024'))


@pytest.mark.parametrize('name', ['reference', *FAST])
def test_resume_is_start(name, images):
    """Batches from a later start on are the later batches; ranks share those of one process."""
    whole = batches(name, images, 'bicubic', 4, start=0, rank=0, world=1)
    assert_same(batches(name, images, 'bicubic', 2, start=2 * BATCH, rank=0, world=1), whole[2:])
    ranks = [batches(name, images, 'bicubic', 2, start=0, rank=r, world=2) for r in (0, 1)]
    assert_same([b for pair in zip(*ranks, strict=True) for b in pair], whole)


def square(image, y, x, side):
    return image[:, y : y + side, x : x + side]


def places(image, part):
    """Where in an image [3, H, W] a square part [3, h, h] of it lies."""
    side = part.shape[-1]
    corners = range(image.shape[-1] - side + 1)
    return [
        (y, x) for y in corners for x in corners if torch.equal(square(image, y, x, side), part)
    ]


@pytest.mark.parametrize('name', ['reference', *FAST])
def test_crops_are_cut_out_of_the_whole_pairs(name, images):
    """Anywhere in the image, but input and targets at one place: a function of the sample."""
    side, scale = SIZE // 4, 4
    whole = batches(name, images, 'bicubic', 4, target_usm=True)
    crops = batches(name, images, 'bicubic', 4, target_usm=True, crop=side)
    corners = []
    for a, b in zip(whole, crops, strict=True):
        assert b.target.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(a.sample, b.sample)
        for i in range(len(a.sample)):
            ((y, x),) = places(a.input[i], b.input[i])
            assert torch.equal(square(a.target[i], scale * y, scale * x, side), b.target[i])
            assert torch.equal(square(a.plain[i], scale * y, scale * x, side), b.plain[i])
            corners.append((y, x))
            # The network is told where.
            where = torch.tensor([x, y, side // scale, side // scale]) / (SIZE // scale)
            torch.testing.assert_close(b.place[i], where)
    assert len(set(corners)) > len(corners) // 2
    assert all(batch.place is None for batch in whole)
    assert not torch.equal(whole[0].target, whole[0].plain)
    with pytest.raises(ValueError, match='crop 30: needs a multiple of 4'):
        batches(name, images, 'bicubic', 1, crop=30)


@pytest.mark.parametrize('recipe', ['ai6126_2024', 'bicubic'])
def test_usm_switches(recipe, images):
    def one(**options):
        return batches('torch', images, recipe, 1, **options)[0]

    plain = one()
    both = one(target_usm=True)
    target = one(target_usm=True, lq_from_usm=False)
    neither = one(lq_from_usm=False)
    assert torch.equal(plain.target, neither.target)
    assert torch.equal(both.target, target.target)
    assert not torch.equal(both.target, plain.target)
    assert torch.equal(both.input, plain.input)
    assert torch.equal(target.input, neither.input)
    # The recipe decides whether there is a USM at all.
    assert torch.equal(plain.input, neither.input) == (recipe == 'bicubic')


def test_pair_pool_changes_ties_only(images):
    recipe = degrade.recipe('ai6126_2024_parity')
    a, b = (
        batches('torch', images, recipe._replace(pool=pool), 2, start=1000, rank=0, world=1)
        for pool in (0, 50)
    )
    assert torch.equal(a[1].target, b[1].target)
    assert not torch.equal(a[1].input, b[1].input)


@pytest.mark.parametrize('name', ['reference', *FAST])
def test_late_bad_file_is_replaced(name, tmp_path):
    """A zlib fault under valid CRCs, met only when decoding: the next good file replaces it."""
    stream = bytearray(zlib.compress(rows(picture(SIZE))))
    stream[-1] ^= 1
    for i in range(4):
        cv2.imwrite(str(tmp_path / f'{i}.png'), synthetic.face(i, SIZE).image)
    (tmp_path / '1.png').write_bytes(png(SIZE, SIZE, 2, b'', stream=bytes(stream)))
    images = manifest.scan(
        str(tmp_path), size=SIZE, cache_dir=tmp_path / 'cache', say=lambda _: None
    ).images
    assert len(images) == 4

    said = []
    first = dict(start=0, rank=0, world=1)
    out = batches(name, images, 'bicubic', 2, batch=4, flip=0, say=said.append, **first)
    assert len(said) == 1 and '1.png' in said[0] and '2.png' in said[0]
    targets = {tuple(t.flatten()[::997].tolist()) for b in out for t in b.target}
    assert len(targets) == 3  # four files, one of them twice


def test_what_worker_processes_are_sent(images):
    """A GPU's DataLoader pickles the reader, which then reads the same."""
    data = pipe_torch.Decoded(Reader(images, SIZE, lambda _: None))
    again = pickle.loads(pickle.dumps(data))
    ours, theirs = (d.__getitems__([7, 9]) for d in (data, again))
    assert all((x == y).all() for x, y in zip(ours, theirs, strict=True))
    assert ours[0].tolist() == [7, 9] and len(ours[1]) == 2
    assert [len(part) for part in again.__getitems__([])] == [0, 0]


def test_recipes_can_be_sent_to_processes():
    recipe = degrade.recipe('ai6126_2024')
    again = pickle.loads(pickle.dumps(recipe))
    assert again == recipe and again.stages[0].op is degrade.usm


def test_workers_fit_into_shared_memory(monkeypatch):
    def with_room(n):
        monkeypatch.setattr(
            pipe_torch.shutil, 'disk_usage', lambda _: type('Usage', (), {'free': 2 * n})
        )
        return pipe_torch._workers(8, 1000)

    rooms = {500: (1, 1), 3000: (3, 1), 8000: (8, 1), 17_000: (8, 2), 10**9: (8, 4)}
    assert {n: with_room(n) for n in rooms} == rooms


def test_close_leaves_nothing(images):
    for name in 'torch', 'reference':
        before = {t.ident for t in threading.enumerate()}
        batches(name, images, 'bicubic', 1)
        assert {t.ident for t in threading.enumerate()} <= before


def test_ctrl_c_ends_the_process(images, tmp_path):
    """A pipe left open at a KeyboardInterrupt keeps nobody waiting."""
    pytest.importorskip('nvidia.dali')
    code = (
        'import sys, json, dali_pipes; from sources.manifest import Image\n'
        'images = [Image(*i) for i in json.loads(sys.argv[1])]\n'
        'pipe = dali_pipes.make("dali", images, "bicubic", size=128, batch=2)\n'
        'next(pipe); raise KeyboardInterrupt'
    )
    done = subprocess.run(
        [sys.executable, '-c', code, json.dumps(images)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=os.path.dirname(os.path.dirname(__file__)),
    )
    assert 'KeyboardInterrupt' in done.stderr and done.returncode != 0


def test_names(images, monkeypatch):
    with pytest.raises(ValueError, match="did you mean 'torch'"):
        dali_pipes.make('toch', images, 'bicubic')
    with pytest.raises(ValueError, match="did you mean 'ai6126_2024'"):
        dali_pipes.make('torch', images, 'ai6126_204')
    monkeypatch.setitem(sys.modules, 'nvidia.dali', None)
    with pytest.raises(ImportError, match='pip install'):
        dali_pipes.make('dali', images, 'bicubic', size=SIZE)


def test_validation_never_changes(images):
    a, b = (validation.Degraded(images, degrade.recipe('ai6126_2024'), size=SIZE) for _ in range(2))
    for i in 3, 0, 3:
        assert all(torch.equal(x, y) for x, y in zip(a[i][1:], b[i][1:], strict=True))
    assert a[0][1].shape == (3, SIZE // 4, SIZE // 4) and a[0][1].dtype == torch.uint8
    assert not torch.equal(a[1][1], a[2][1])
    fewer = validation.Degraded(images[:2], degrade.recipe('ai6126_2024'), size=SIZE)
    assert torch.equal(fewer[1][1], a[1][1])


def test_all_threads_of_a_pool_are_started_before_it_is_given_away():
    """One that started later would leave its single torch thread to pools that start after it."""
    before = {t for t in threading.enumerate()}
    with workers.make(6):
        assert sum(t.name.startswith('degrade') for t in set(threading.enumerate()) - before) == 6
