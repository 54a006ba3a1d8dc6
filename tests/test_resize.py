"""Resize: every mode against torch's and OpenCV's, the weights' properties, and the draws."""

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from degrade import Sizes, canvas, resize
from degrade.draw import Draw

SHAPES = [
    ((63, 17), (31, 40)),
    ((63, 17), (20, 5)),
    ((17, 31), (40, 63)),
    ((40, 40), (40, 40)),
    ((64, 48), (16, 12)),
    ((33, 50), (33, 20)),
    ((7, 90), (90, 7)),
    ((128, 128), (19, 19)),
]


def params(mode, size, step):
    return resize.Params(np.int64(mode), np.array(size), np.array(step, np.float64))


def batched(p):
    return resize.Params(*(np.array([f]) for f in p))


def outsiders(x, mode, size):
    """x [h, w, 3] float64 -> what the libraries make of it by size."""
    t = canvas.nchw(x)
    if mode == resize.LANCZOS:
        planes = [Image.fromarray(plane.astype(np.float32)) for plane in np.moveaxis(x, 2, 0)]
        by_pillow = [np.array(p.resize(size[::-1], Image.Resampling.LANCZOS)) for p in planes]
        yield np.stack(by_pillow, 2), 2e-6  # in float32
    elif mode != resize.AREA_CV:
        how = {
            resize.AREA: dict(mode='area'),
            resize.BILINEAR: dict(mode='bilinear'),
            resize.BICUBIC: dict(mode='bicubic'),
            resize.BICUBIC_AA: dict(mode='bicubic', antialias=True),
            resize.NEAREST: dict(mode='nearest'),
        }[mode]
        yield F.interpolate(t, size=size, **how)[0].permute(1, 2, 0).numpy(), 1e-12
    how = {
        resize.BILINEAR: cv2.INTER_LINEAR,
        resize.BICUBIC: cv2.INTER_CUBIC,
        resize.AREA_CV: cv2.INTER_AREA,
        resize.NEAREST: cv2.INTER_NEAREST,
    }.get(mode)
    if how is not None:
        yield cv2.resize(x, size[::-1], interpolation=how), 1e-5  # its weights are float32


@pytest.mark.parametrize('mode', range(7), ids=resize.MODES)
@pytest.mark.parametrize('before, after', SHAPES)
def test_by_size(mode, before, after, photo):
    x = photo(*before).astype(np.float32) / np.float32(255)
    p = params(mode, after, np.divide(before, after))
    expected = resize.run_ref(x.astype(np.float64), p)
    for other, allowed in outsiders(x.astype(np.float64), mode, after):
        assert np.abs(expected - other).max() < allowed
    for opencv, allowed in (False, 2e-6), (True, 1e-5):
        y = resize.run_torch(canvas.of(canvas.nchw(x)), batched(p), opencv)
        assert y.size.tolist() == [list(after)]
        assert np.abs(canvas.hwc(y.pix) - expected).max() < allowed


@pytest.mark.parametrize('mode', [resize.AREA, resize.BILINEAR, resize.BICUBIC])
@pytest.mark.parametrize('scale', [0.15, 0.3337, 0.7, 0.997, 1.0, 1.006, 1.013, 1.499])
@pytest.mark.parametrize('h, w', [(63, 17), (128, 128), (50, 97)])
def test_by_scale(mode, scale, h, w, photo):
    """What F.interpolate(scale_factor=) does: sizes are floored, steps stay 1 / scale."""
    x = photo(h, w).astype(np.float32) / np.float32(255)
    how = {resize.AREA: 'area', resize.BILINEAR: 'bilinear', resize.BICUBIC: 'bicubic'}[mode]
    other = (
        F.interpolate(canvas.nchw(x.astype(np.float64)), scale_factor=scale, mode=how)[0]
        .permute(1, 2, 0)
        .numpy()
    )
    size = other.shape[:2]
    # Along an axis that keeps its size torch's CPU copies, except for bicubic (its CUDA kernel
    # copies where both axes do).
    step = [
        1.0 if n == m and mode != resize.BICUBIC else 1 / scale
        for n, m in zip((h, w), size, strict=True)
    ]
    p = params(mode, size, step)
    expected = resize.run_ref(x.astype(np.float64), p)
    assert np.abs(expected - other).max() < 1e-12
    for opencv, allowed in (False, 2e-6), (True, 1e-5):
        assert (
            np.abs(
                canvas.hwc(resize.run_torch(canvas.of(canvas.nchw(x)), batched(p), opencv).pix)
                - expected
            ).max()
            < allowed
        )


@pytest.mark.parametrize('mode', range(7), ids=resize.MODES)
def test_weights(mode):
    for n, m in (63, 17), (17, 63), (40, 40), (7, 1), (1, 7), (64, 16), (31, 32):
        grows = mode == resize.AREA_CV and m > n
        for step in {n / m, n / m * 0.99} if mode in (resize.BILINEAR, resize.BICUBIC) else {n / m}:
            W = resize.weights_ref(mode, n, m, step, grows)
            assert W.shape == (m, n) and np.abs(W.sum(1) - 1).max() < 1e-12
            assert np.abs(resize.matrix(mode, n, m, step, grows) - W).max() < 1e-7
            if mode in (resize.AREA, resize.BILINEAR, resize.AREA_CV):
                assert W.min() >= 0
            if n == m and step == 1:
                assert np.abs(W - np.eye(n)).max() < 1e-12


@pytest.mark.parametrize('mode', range(7), ids=resize.MODES)
@pytest.mark.parametrize('opencv', [False, True])
def test_a_constant_stays_and_left_is_as_right(mode, opencv, photo):
    x, size = photo(30, 46).astype(np.float32) / 255, (41, 33)
    p = batched(params(mode, size, np.divide((30, 46), size)))
    flat = resize.run_torch(canvas.of(torch.full((1, 3, 30, 46), 0.3)), p, opencv).pix
    assert flat.shape == (1, 3, 41, 33) and (flat - 0.3).abs().max() < 1e-6
    y, z = (
        canvas.hwc(resize.run_torch(canvas.of(canvas.nchw(np.ascontiguousarray(a))), p, opencv).pix)
        for a in (x, x[::-1, ::-1])
    )
    # The coordinates of the others are lopsided, area_cv's when it enlarges.
    if mode not in (resize.AREA_CV, resize.NEAREST):
        assert np.abs(y - z[::-1, ::-1]).max() < 1e-5


def test_ragged_canvas_sample_by_sample(photo):
    before = np.array([(63, 17), (40, 40), (63, 17), (20, 31), (40, 40)])
    after = np.array([(31, 40), (50, 13), (20, 5), (20, 31), (50, 13)])
    pix = torch.full((5, 3, 70, 44), torch.nan)  # NaN wherever nothing may be read
    for i, (h, w) in enumerate(before):
        pix[i, :, :h, :w] = canvas.unit(canvas.nchw(photo(h, w, i)))[0]
    p = resize.Params(np.array([0, 1, 2, 2, 4]), after, before / after)
    out = resize.run_torch(canvas.Canvas(pix, before), p)
    assert (out.size == after).all() and not out.pix.isnan().any()
    for i, ((h, w), (H, W)) in enumerate(zip(before, after, strict=True)):
        expected = resize.run_ref(
            pix[i, :, :h, :w].permute(1, 2, 0).double().numpy(), resize.Params(*(f[i] for f in p))
        )
        assert np.abs(out.pix[i, :, :H, :W].permute(1, 2, 0).numpy() - expected).max() < 2e-6


def test_uint8_is_taken_as_it_is(photo):
    u8 = canvas.nchw(photo(30, 20))
    p = batched(params(resize.BICUBIC, (20, 30), (1.5, 20 / 30)))
    for opencv in False, True:
        a, b = (resize.run_torch(canvas.of(x), p, opencv).pix for x in (u8, u8.float() / 255))
        assert a.dtype == torch.float32 and (a - b).abs().max() < 1e-6


# ---- draws ----


def drawn(n, on=True, now=(101, 64), **ranges):
    tile = [np.tile(np.array(s), (n, 1)) for s in (now, (512, 512), (128, 128))]
    return resize.sample(Draw(1, np.arange(n)).at('r'), np.full(n, on), Sizes(*tile), **ranges)


def test_updown_follows_its_weights():
    n = 20000
    p = drawn(n, now=(512, 512), updown=(0.2, 0.7, 0.1), factor=(0.15, 1.5), modes=(1, 1, 2))
    height = p.size[:, 0]
    shares = np.array([(height > 512).mean(), (height < 512).mean(), (height == 512).mean()])
    assert np.abs(shares - (0.2, 0.7, 0.1)).max() < 0.015
    assert 0.15 * 512 - 1 < p.size.min() < 0.16 * 512 and 1.49 * 512 < p.size.max() <= 1.5 * 512
    assert np.abs(np.bincount(p.mode) / n - (0.25, 0.25, 0.5)).max() < 0.015


def test_sizes_are_floored_and_steps_follow():
    now = np.array((101, 64))
    p = drawn(4000, now=now, updown=(0.4, 0.4, 0.2), factor=(0.2, 1.5), by='scale')
    same = p.size == now
    assert same.any() and (p.step[same] == 1).all()
    scale = 1 / p.step[~same.all(1)]
    size = p.size[~same.all(1)]
    moved = size != now
    assert (size[moved] == np.floor(np.broadcast_to(now, size.shape) * scale + 1e-9)[moved]).all()
    assert (scale[moved.all(1), 0] == scale[moved.all(1), 1]).all()
    q = drawn(4000, now=now, updown=(0.4, 0.4, 0.2), factor=(0.2, 1.5))
    assert (q.size == p.size).all() and np.abs(q.step * q.size - now).max() < 1e-9


def test_bases_and_ranges():
    assert (drawn(5, to='lq').size == 128).all() and (drawn(5, to='gt').size == 512).all()
    assert (drawn(5, to='lq').step == np.array((101, 64)) / 128).all()
    p = drawn(4000, now=(512, 512), shrink=(0.8, 8.0))
    r = 512 / p.size[:, 0]
    assert 0.79 < r.min() < 0.82
    assert 7.9 < r.max() < 8.2
    assert abs(np.mean(r) - 4.4) < 0.15  # 1 / scale is what is uniform
    p = drawn(4000, now=(512, 512), factor=(1 / 16, 1.0))
    assert 32 <= p.size.min() < 36
    assert p.size.max() > 508
    assert abs(p.size.mean() - 512 * 17 / 32) < 10
    p = drawn(4000, now=(103, 64), to='gt', divide=(4, 8))
    shares = np.unique(p.size, axis=0, return_counts=True)
    assert shares[0].tolist() == [[512 // k] * 2 for k in (8, 7, 6, 5, 4)]
    assert np.abs(shares[1] / 4000 - 0.2).max() < 0.03
    p = drawn(5, on=False, factor=(0.2, 0.5))
    assert (p.size == (101, 64)).all() and (p.step == 1).all()
    assert (drawn(5, now=(2, 3), factor=(0.01, 0.02)).size == 1).all()
