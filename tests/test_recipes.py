"""Recipes: implementations stage by stage and end to end, what a batch may not change, draws."""

import cv2
import numpy as np
import pytest
import torch

import degrade
from degrade import (
    blur,
    canvas,
    chroma_blur,
    color_jitter,
    color_shift,
    diffjpeg,
    grain,
    gray,
    jpeg,
    median,
    noise,
    quantize,
    resize,
    take,
    unsharp,
    usm,
    workers,
)
from degrade.draw import Draw
from degrade.recipes import RECIPES

SIZE, COUNT, BATCH = 128, 12, 4
# What hifacegan is made of.
TASKS = 'hifacegan_blur', 'hifacegan_noise', 'hifacegan_jpeg', 'hifacegan_down'
WHOLE = [name for name in RECIPES if name not in TASKS]


def drawn(name, samples, size=(SIZE, SIZE), batch=BATCH, seed=7):
    recipe = degrade.recipe(name)
    return recipe, degrade.sample(
        recipe, Draw(seed, samples, tied=recipe.tied, batch=batch, pool=recipe.pool), size
    )


def images(photo, n, h=SIZE, w=SIZE):
    return torch.cat([canvas.nchw(photo(h, w, i)) for i in range(n)])


@pytest.fixture(scope='module')
def reference(photo):
    """reference(name) -> (images [COUNT] uint8, recipe, params, records).

    The records are one list per sample of (stage, input, output). In float64, but float32 between
    stages, and 8-bit values before JPEG and median, whose answer to a rounding tie is another block
    or value.
    """
    chains = {}

    def chain(name):
        if name not in chains:
            x = images(photo, COUNT)
            recipe, params = drawn(name, np.arange(COUNT))
            records = []
            for i in range(COUNT):
                record, now = [], canvas.hwc(x[i : i + 1]) / np.float64(255)
                for stage, p in zip(recipe.stages, take(params, i), strict=True):
                    if stage.op in (jpeg, median):
                        now = quantize.run_ref(now, quantize.Params(True, False))
                    before = now.astype(np.float32)
                    now = stage.op.run_ref(before.astype(np.float64), p)
                    record.append((stage, before, now))
                records.append(record)
            chains[name] = x, recipe, params, records
        return chains[name]

    return chain


def near_tie(x):
    return np.abs(x * 255 - np.floor(x * 255) - 0.5) < 2e-4


def undecided(stage, p, before):
    """[h, w, 1 or 3] bool: where float32 may round a value to another 8-bit level than float64."""
    if stage.op is noise and p.kind == noise.POISSON:
        x = before.astype(np.float64)
        return near_tie(x @ np.array(noise.LUMA))[..., None] if p.gray else near_tie(x)
    if stage.op is quantize:
        return near_tie(before.astype(np.float64))
    return np.zeros((1, 1, 1), bool)


# Largest error measured over all recipes, about doubled.
ALLOWED = {
    blur: 4e-6,
    median: 1e-7,
    resize: 2e-6,
    noise: 2e-6,
    jpeg: 1e-7,
    usm: 1e-4,
    quantize: 1e-7,
    unsharp: 8e-7,
    color_shift: 6e-8,
    gray: 2e-7,
    color_jitter: 4e-7,
    grain: 1e-6,
    chroma_blur: 1e-6,
}


@pytest.mark.parametrize('opencv', [False, True])
@pytest.mark.parametrize('name', WHOLE)
def test_stage_by_stage(name, opencv, reference):
    _, recipe, params, records = reference(name)
    undecided_values = values = 0
    for i, record in enumerate(records):
        for s, (stage, before, expected) in enumerate(record):
            out = stage.op.run_torch(
                canvas.of(canvas.nchw(before)),
                type(params[s])(*(f[i : i + 1] for f in params[s])),
                opencv,
            )
            y = canvas.hwc(canvas.unit(out.pix))
            assert y.shape == expected.shape
            open_ = undecided(stage, take(params, i)[s], before)
            error = np.abs(y - expected)
            if stage.op is quantize:
                assert error.max() <= 1.001 / 255
            error = np.where(open_, 0, error)
            undecided_values += open_.sum()
            values += open_.size
            if stage.op is diffjpeg:
                # The blocks with a coefficient on a tie.
                assert (error > 1e-5).mean() < 0.1, (i, stage.name)
            else:
                assert error.max() <= ALLOWED[stage.op], (i, stage.name)
    assert undecided_values < 0.02 * values  # enlarging 8-bit values makes exact ties


@pytest.mark.parametrize('name', WHOLE)
def test_end_to_end(name, reference):
    x, recipe, params, _ = reference(name)
    expected = degrade.degrade(x, recipe, params, 'ref')
    # All samples on one ragged canvas, as on a GPU.
    *_, (_, batch) = degrade.chain_torch(x, recipe, params)
    for y in (
        degrade.degrade(x, recipe, params),
        degrade.degrade(x, recipe, params, opencv=False),
        batch.pix,
    ):
        assert y.shape == expected.shape == (COUNT, 3, SIZE // recipe.scale, SIZE // recipe.scale)
        assert y.dtype == torch.float32
        # One float rounding can tip a pixel before Poisson noise or JPEG, which spread it: of these
        # twelve small samples at most two, by a fifth of their values.
        share = ((y - expected).abs() <= 1.001 / 255).float().mean((1, 2, 3))
        assert (share >= 0.999).sum() >= COUNT - 2 and share.min() >= 0.75 and share.mean() >= 0.98
        assert (y - torch.round(y * 255) / 255).abs().max() < 1e-7
        assert y.min() >= 0 and y.max() <= 1 and y.std() > 0.02
    assert all(not torch.equal(expected[0], other) for other in expected[1:])


@pytest.mark.parametrize('impl, opencv', [('ref', None), ('torch', False), ('torch', True)])
@pytest.mark.parametrize('name', WHOLE)
def test_a_sample_is_the_same_in_every_batch(name, impl, opencv, photo):
    """To the bit: twice, in another order, alone, and with parameters drawn for itself."""
    n = 2 if impl == 'ref' else 6
    x = images(photo, n, 64, 64)
    recipe, params = drawn(name, np.arange(n), (64, 64))
    y = degrade.degrade(x, recipe, params, impl, opencv=opencv)
    assert torch.equal(degrade.degrade(x, recipe, params, impl, opencv=opencv), y)
    order = np.arange(n)[::-1].copy()
    assert torch.equal(
        degrade.degrade(x[order], recipe, take(params, order), impl, opencv=opencv), y[order]
    )
    alone = drawn(name, [n - 1], (64, 64))[1]
    assert torch.equal(degrade.degrade(x[-1:], recipe, alone, impl, opencv=opencv), y[-1:])


def test_sizes_that_are_not_square(photo):
    for name in RECIPES:
        recipe, params = drawn(name, np.arange(2), (96, 140))
        y = degrade.degrade(images(photo, 2, 96, 140), recipe, params)
        assert y.shape == (2, 3, 96 // recipe.scale, 140 // recipe.scale) and not y.isnan().any()


def test_the_input_is_left_alone(photo):
    x = images(photo, 2, 64, 64).contiguous(memory_format=torch.channels_last)
    for name in RECIPES:
        recipe, params = drawn(name, np.arange(2), (64, 64))
        for image in x, x.float() / 255:
            before = image.clone()
            a = degrade.degrade(image, recipe, params)
            assert torch.equal(image, before), name
        assert ((a - degrade.degrade(x, recipe, params)).abs() <= 1.001 / 255).float().mean() > 0.99


def test_a_pool_of_threads_changes_nothing(photo):
    x, threads = images(photo, 6), cv2.getNumThreads()
    try:
        with workers.make(2) as pool:
            for name in RECIPES:
                recipe, params = drawn(name, np.arange(6))
                assert torch.equal(
                    degrade.degrade(x, recipe, params, pool=pool),
                    degrade.degrade(x, recipe, params),
                )
            assert torch.equal(degrade.sharpen(x, pool=pool), degrade.sharpen(x))
    finally:
        cv2.setNumThreads(threads)


# ---- draws ----


@pytest.mark.parametrize('name', ['ai6126_2024', 'realesrgan', 'ai6126_2024_parity'])
def test_every_branch_occurs(name):
    n = 600
    recipe, params = drawn(name, np.arange(n), (512, 512), batch=1)
    p = {s.name: q for s, q in zip(recipe.stages, params, strict=True)}
    assert set(p['blur1'].kind) == set(range(7)) and set(p['blur2'].kind) == set(range(8))
    assert set(p['sinc'].kind) == {blur.SINC, blur.DELTA}
    for s in 'resize1', 'resize2', 'resize3':
        assert set(p[s].mode) == {resize.AREA, resize.BILINEAR, resize.BICUBIC}
    # The factor of resize2 counts from the final size.
    for s, before in ('resize1', 512), ('resize2', 128):
        assert set(np.sign(p[s].size[:, 0] - before)) == {-1, 0, 1}
    assert (p['resize3'].size == 128).all()
    for s in 'noise1', 'noise2':
        pairs = set(zip(p[s].kind.tolist(), p[s].gray.tolist(), strict=True))
        assert pairs == {(k, g) for k in (noise.GAUSSIAN, noise.POISSON) for g in (False, True)}
    a, b = p['jpeg2a'].quality > 0, p['jpeg2b'].quality > 0
    assert (a != b).all() and 0.4 < a.mean() < 0.6  # either before or after, a coin
    assert (p['jpeg1'].quality > 0).all() and p['usm'].on.all() and p['quantize'].on.all()
    for s in 'blur2', 'sinc':
        assert 0.75 < (p[s].taps > 1).mean() < 0.85


@pytest.mark.parametrize('name', WHOLE)
def test_sizes_follow_each_other(name):
    """What a stage takes is what the one before gave, and the last is the network's input."""
    recipe, params = drawn(name, np.arange(50), (512, 384))
    now = np.tile((512, 384), (50, 1))
    for stage, p in zip(recipe.stages, params, strict=True):
        if stage.op is resize:
            drift = np.abs(p.step * p.size - now)
            assert (drift <= (p.step if stage.ranges.get('by') == 'scale' else 1e-9)).all()
            now = p.size
    assert (now == (512 // recipe.scale, 384 // recipe.scale)).all()


# Where the parameters of an op let it act; a resize depends on the size before it.
ACTS = {
    blur: lambda p: p.taps > 1,
    median: lambda p: p.side > 1,
    noise: lambda p: p.kind != noise.NONE,
    jpeg: lambda p: p.quality > 0,
    quantize: lambda p: p.on,
}


@pytest.mark.parametrize('name', ['face_renovation', 'hifacegan'])
def test_every_stage_acts_where_its_part_stands(name):
    recipe, params = drawn(name, np.arange(500), (128, 128))
    order = Draw(7, np.arange(500)).order('order', 4)
    size, acted = np.full((500, 2), 128), {}
    for stage, p in zip(recipe.stages, params, strict=True):
        acts = ~resize.keeps(p, size) if stage.op is resize else ACTS[stage.op](p)
        size = getattr(p, 'size', size)
        assert not (acts & (order[:, stage.place.position] != stage.place.part)).any()
        acted[stage.name] = acted.get(stage.name, 0) + acts.astype(int)
    either = acted.pop('median', 0)
    assert (acted.pop('blur') + either == 1).all(), acted
    assert all((count == 1).all() for count in acted.values()), acted
    assert name == 'hifacegan' or 0.4 < either.mean() < 0.6


def test_an_order_is_its_parts_one_after_another(photo):
    """The single tasks have the draws of the whole."""
    n = 8
    x, order = images(photo, n, 48, 48), Draw(7, np.arange(n)).order('order', 4)
    assert len(np.unique(order, axis=0)) > 4
    for impl in 'ref', 'torch':
        whole = degrade.degrade(x, *drawn('hifacegan', np.arange(n), (48, 48)), impl)
        for i in range(n):
            y = x[i : i + 1]
            for part in order[i]:
                y = degrade.degrade(y, *drawn(TASKS[part], [i], (48, 48)), impl)
            off = (y - whole[i : i + 1]).abs() * 255
            assert (off < 1.01).float().mean() > 0.98 and (off < 0.01).float().mean() > 0.9


def test_mosaic_is_means_of_squares(photo):
    x = images(photo, 2, 96, 64)
    y = degrade.degrade(x, *drawn('hifacegan_mosaic', np.arange(2), (96, 64)))
    means = x.double().unfold(2, 16, 16).unfold(3, 16, 16).mean((-1, -2))
    expected = torch.floor(means + 0.5).repeat_interleave(16, 2).repeat_interleave(16, 3)
    assert (y * 255 - expected).abs().max() < 1e-4


def test_parity_ties_what_the_reference_draws_per_batch():
    recipe, params = drawn('ai6126_2024_parity', np.arange(64), (512, 512), batch=8)
    p = {s.name: q for s, q in zip(recipe.stages, params, strict=True)}

    def batches(a):
        return np.asarray(a).reshape(8, 8, -1)

    for tied in (
        p['resize1'].size,
        p['resize1'].mode,
        p['resize2'].size,
        p['resize2'].mode,
        p['resize3'].mode,
        p['noise1'].kind,
        p['noise2'].kind,
        p['blur2'].taps > 1,
        p['jpeg2a'].quality > 0,
    ):
        assert (batches(tied) == batches(tied)[:, :1]).all()
        assert len(np.unique(batches(tied)[:, 0], axis=0)) > 1
    for free in (
        p['blur1'].sigma_x,
        p['blur1'].kind,
        p['jpeg1'].quality,
        p['noise1'].gray,
        p['noise2'].amount,
        p['sinc'].omega,
    ):
        assert (batches(free) != batches(free)[:, :1]).any()
    for s in 'noise1', 'noise2':
        first = np.arange(64) // 8 * 8
        assert (p[s].number == np.where(p[s].gray, first, np.arange(64))).all()


def test_the_default_recipe_ties_nothing():
    recipe, params = drawn('ai6126_2024', np.arange(8), (512, 512), batch=8)
    p = {s.name: q for s, q in zip(recipe.stages, params, strict=True)}
    for a in p['resize1'].size[:, 0], p['resize1'].mode, p['noise1'].kind, p['jpeg2a'].quality > 0:
        assert len(set(a.tolist())) > 1
    again = drawn('ai6126_2024', np.arange(8), (512, 512), batch=3)[1]
    assert all(
        (f == g).all()
        for a, b in zip(params, again, strict=True)
        for f, g in zip(a, b, strict=True)
    )


def test_without_usm(photo):
    recipe, params = drawn('ai6126_2024', np.arange(3), (64, 64))
    plain = degrade.without_usm(recipe)
    assert [s.name for s in plain.stages] == [s.name for s in recipe.stages[1:]]
    assert recipe.stages[0].op is usm
    other = degrade.sample(plain, Draw(7, np.arange(3)), (64, 64))
    # No draw moved.
    assert all(
        (f == g).all()
        for a, b in zip(params[1:], other, strict=True)
        for f, g in zip(a, b, strict=True)
    )
    x = images(photo, 3, 64, 64)
    expected = degrade.degrade(degrade.sharpen(x), plain, other)
    assert ((degrade.degrade(x, recipe, params) - expected).abs() < 1e-6).float().mean() > 0.99


def test_take():
    _, params = drawn('gfpgan', np.arange(5))
    assert all(
        (f == g[3]).all()
        for a, b in zip(take(params, 3), params, strict=True)
        for f, g in zip(a, b, strict=True)
    )
    assert all(len(f) == 2 for p in take(params, slice(1, 3)) for f in p)


def test_bicubic_is_torchs(photo):
    x = images(photo, 2).double() / 255
    y = torch.nn.functional.interpolate(x, scale_factor=0.25, mode='bicubic', antialias=True).clamp(
        0, 1
    )
    recipe, params = drawn('bicubic', np.arange(2))
    assert (degrade.degrade(x.float(), recipe, params) - y).abs().max() <= 0.501 / 255


@pytest.mark.parametrize(
    'wrong, near',
    [('ai6126_2042', "'ai6126_2024'"), ('gfpgam', "'gfpgan'"), ('zzz', 'there are: ai6126_2024')],
)
def test_unknown_recipe(wrong, near):
    with pytest.raises(ValueError, match=f'{wrong}.*{near}'):
        degrade.recipe(wrong)


def test_unknown_impl(photo):
    recipe, params = drawn('bicubic', np.arange(1))
    with pytest.raises(ValueError, match="'tosch'.*there are: ref, torch"):
        degrade.degrade(images(photo, 1), recipe, params, 'tosch')
