"""Codecs of libraries: that they are called with what was drawn, and what is done around them."""

import io

import numpy as np
import pytest
import torch
from PIL import Image, features

import degrade
from degrade import canvas, codec
from degrade.codec import AVIF, H264, NONE, WEBP
from degrade.draw import Draw

KINDS = {
    'webp': pytest.param(WEBP, id='webp'),
    'avif': pytest.param(
        AVIF,
        id='avif',
        marks=pytest.mark.skipif(not features.check('avif'), reason='this Pillow has no AVIF'),
    ),
    'h264': pytest.param(H264, id='h264'),
}
EVERY = list(KINDS.values())
LIBRARY = list(KINDS.values())[:2]


def params(kind, quality, frames=1, move=(0.0, 0.0)):
    return codec.Params(
        np.int64(kind), np.int64(quality), np.int64(frames), np.array(move, np.float64)
    )


def batch(*samples):
    return codec.Params(*(np.stack(field) for field in zip(*samples, strict=True)))


def psnr(a, b):
    return 10 * np.log10(255**2 / ((a.astype(float) - b) ** 2).mean())


@pytest.mark.parametrize('kind', LIBRARY)
@pytest.mark.parametrize('quality', [10, 60, 95])
def test_they_are_pillows(kind, quality, photo):
    x = photo(50, 67)
    file = io.BytesIO()
    more = {'speed': codec.AVIF_SPEED} if kind == AVIF else {}
    Image.fromarray(x).save(file, ('WEBP', 'AVIF')[kind - 1], quality=quality, **more)
    expected = np.array(Image.open(file).convert('RGB'))
    assert (codec.coded(x, params(kind, quality)) == expected).all()


@pytest.mark.parametrize('kind', EVERY)
def test_strength_is_strength_and_bits_repeat(kind, photo):
    x = photo(96, 96)
    strengths = (18, 30, 42, 51) if kind == H264 else (90, 60, 30, 5)
    results = [codec.coded(x, params(kind, q, 3, (0.7, -1.3))) for q in strengths]
    quality = [psnr(y, x) for y in results]
    assert quality == sorted(quality, reverse=True) and quality[0] - quality[-1] > 4
    assert quality[0] > 28
    again = codec.coded(x, params(kind, strengths[1], 3, (0.7, -1.3)))
    assert (again == results[1]).all()


@pytest.mark.parametrize('kind', EVERY)
@pytest.mark.parametrize('shape', [(33, 47), (16, 17), (2, 2), (1, 5), (40, 9)])
def test_sizes_stay(kind, shape, photo):
    y = codec.coded(photo(*shape), params(kind, 30, 2, (1.0, 1.0)))
    assert y.shape == (*shape, 3) and y.dtype == np.uint8


def test_the_last_frame_is_where_the_picture_is(photo):
    """However it moved before."""
    x = photo(64, 64)
    still = codec.coded(x, params(H264, 20, 4))
    moving = codec.coded(x, params(H264, 20, 4, (2.0, -2.0)))
    assert psnr(still, x) > 30 and psnr(moving, x) > 30
    assert (still != moving).any()


@pytest.mark.parametrize('opencv', [False, True])
def test_a_batch_is_its_samples(opencv, photo):
    sizes = [(31, 17), (16, 40), (20, 20), (24, 24)]
    every = params(WEBP, 30), params(NONE, 50), params(H264, 35, 2, (1.0, 0.0)), params(WEBP, 80)
    pix = torch.full((4, 3, 40, 44), torch.nan)
    for i, (h, w) in enumerate(sizes):
        pix[i, :, :h, :w] = canvas.unit(canvas.nchw(photo(h, w, i)))[0]
    out = codec.run_torch(canvas.Canvas(pix, np.array(sizes)), batch(*every), opencv)
    for i, (h, w) in enumerate(sizes):
        x = pix[i, :, :h, :w].permute(1, 2, 0).double().numpy()
        y = out.pix[i, :, :h, :w].permute(1, 2, 0).numpy()
        assert (y == codec.run_ref(x, every[i]).astype(np.float32)).all()
        assert (y == x.astype(np.float32)).all() == (i == 1)


def test_draws():
    on = np.arange(20_000) % 4 > 0
    draw = Draw(2, np.arange(20_000)).at('c')
    p = codec.sample(draw, on, None, kinds=(2, 0, 1), quality=(30, 60), crf=(20, 40), frames=(1, 4))
    assert (p.kind[~on] == NONE).all() and set(p.kind[on]) == {WEBP, H264}
    assert abs((p.kind[on] == WEBP).mean() - 2 / 3) < 0.01
    of = {kind: p.quality[p.kind == kind] for kind in (WEBP, H264)}
    assert (of[WEBP].min(), of[WEBP].max()) == (30, 60)
    assert (of[H264].min(), of[H264].max()) == (20, 40)
    assert (p.frames.min(), p.frames.max()) == (1, 4) and np.abs(p.move).max() < codec.MOST_MOVE
    one = [codec.Params(*(f[i] for f in p)) for i in range(40)]
    assert all(bool(codec.told(q, None)) == (q.kind != NONE) for q in one)


def test_what_is_missing_is_named(monkeypatch):
    draw, on = Draw(1, np.arange(2)).at('c'), np.ones(2, bool)
    monkeypatch.setattr(codec.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(ValueError, match=r'h264 needs PyAV: pip install -e \.\[video\]'):
        codec.sample(draw, on, None)
    codec.sample(draw, on, None, kinds=(1,))  # which needs none
    monkeypatch.setattr(codec.features, 'check', lambda name: False)
    with pytest.raises(ValueError, match='this Pillow has no webp'):
        codec.sample(draw, on, None, kinds=(1,))


def test_versions_are_those_of_the_codecs_in_use():
    assert set(codec.versions((1, 1, 1))) == {'webp', 'avif', 'h264'}
    assert set(codec.versions((1,))) == {'webp'} and codec.versions((0, 0, 0)) == {}
    assert all(v[0].isdigit() for v in codec.versions((1, 1, 1)).values())


def test_the_rest_of_a_chain_goes_on(tmp_path, photo):
    path = tmp_path / 'mine.toml'
    path.write_text(
        'extends = "bicubic"\n[stages.messenger]\nop = "codec"\nafter = "final"\n'
        'kinds = { webp = 1, h264 = 1 }\non = 0.5\n'
    )
    recipe = degrade.recipe(str(path))
    params = degrade.sample(recipe, Draw(1, np.arange(6)), (128, 128))
    x = torch.stack([canvas.nchw(photo(128, 128, i))[0] for i in range(6)])
    y = degrade.degrade(x, recipe, params)
    ref = degrade.degrade(x, recipe, params, 'ref')
    assert y.shape == (6, 3, 32, 32)
    assert ((y - ref).abs() > 1e-6).float().mean() < 0.02  # where bicubic rounds the other way
