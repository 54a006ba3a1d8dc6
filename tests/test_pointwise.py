"""Operations that look at no neighbours: closed forms, colorsys, OpenCV, and what they share."""

import colorsys
import math

import cv2
import numpy as np
import pytest
import torch

import degrade
from degrade import canvas, color_jitter, color_shift, fade, gray, halftone, scanlines
from degrade.draw import Draw
from degrade.op import Sizes

N = 4_000
OPS = color_shift, gray, color_jitter, fade, halftone, scanlines
NAMES = [op.__name__.rpartition('.')[2] for op in OPS]


def drawn(op, n=N, share=0.75, **ranges):
    draw = Draw(3, np.arange(n))
    on = draw.uniform('on') < share
    return on, op.sample(draw.at('s'), on, None, **ranges)


def one(p, i):
    return type(p)(*(field[i] for field in p))


# ---- what all of them share ----


@pytest.mark.parametrize('op', OPS, ids=NAMES)
def test_torch_is_the_reference_on_a_ragged_canvas(op, photo):
    sizes = np.array([(31, 17), (16, 40), (31, 17), (20, 20), (40, 44), (9, 9)])
    on, p = drawn(op, len(sizes))
    assert on.any() and not on.all()
    for as_bytes in False, True:
        fill = 255 if as_bytes else math.nan  # whatever nothing may be read from
        pix = torch.full((6, 3, 40, 44), fill, dtype=torch.uint8 if as_bytes else torch.float32)
        for i, (h, w) in enumerate(sizes):
            own = canvas.nchw(photo(h, w, i))
            pix[i, :, :h, :w] = own[0] if as_bytes else canvas.unit(own)[0]
        out = op.run_torch(canvas.Canvas(pix, sizes), p)
        assert out.pix.is_contiguous(memory_format=torch.channels_last)
        for i, (h, w) in enumerate(sizes):
            x = canvas.unit(pix[i, :, :h, :w]).permute(1, 2, 0).double().numpy()
            y = out.pix[i, :, :h, :w].permute(1, 2, 0).numpy()
            expected = op.run_ref(x, one(p, i))
            assert np.abs(y - expected).max() < 3e-6
            assert (np.abs(expected - x).max() > 1e-4) == on[i]
            if not on[i]:
                assert (y == x.astype(np.float32)).all()


@pytest.mark.parametrize('op', OPS, ids=NAMES)
def test_results_are_pictures(op):
    _, p = drawn(op, 50, 1.0)
    x = np.random.default_rng(1).random((50, 12, 13, 3))
    for i in range(50):
        y = op.run_ref(x[i], one(p, i))
        assert y.shape == x[i].shape and y.min() >= 0 and y.max() <= 1


@pytest.mark.parametrize('op', OPS, ids=NAMES)
def test_what_is_skipped_says_nothing_and_does_nothing(op):
    on, p = drawn(op, 40)
    for i in range(40):
        assert bool(op.told(one(p, i), None)) == on[i]
    off = type(p)(*(field[~on] for field in p))
    c = canvas.of(torch.rand(int((~on).sum()), 3, 8, 8))
    assert op.run_torch(c, off) is c


@pytest.mark.parametrize('op', OPS, ids=NAMES)
def test_a_cut_batch_is_the_same(op):
    """Draws and results of a sample do not depend on its neighbours."""
    on, p = drawn(op, 12)
    c = canvas.of(torch.rand(12, 3, 17, 15))
    whole = op.run_torch(c, p).pix
    parts = [
        op.run_torch(canvas.of(c.pix[i : i + 1]), type(p)(*(f[i : i + 1] for f in p))).pix
        for i in range(12)
    ]
    assert (canvas.unit(torch.cat(parts)) - whole).abs().max() < 2e-7


# ---- one by one ----


def test_shifts_are_uniform_and_apart():
    on, p = drawn(color_shift, 20_000, shift=(-20, 10))
    levels = 255 * p.shift[on]
    assert (p.shift[~on] == 0).all()
    assert (levels >= -20).all() and (levels < 10).all() and np.abs(levels.mean(0) + 5).max() < 0.3
    assert np.abs(np.corrcoef(levels.T) - np.eye(3)).max() < 0.03


def test_gray_is_opencvs(photo):
    x = (photo(40, 31) / 255).astype(np.float32)
    expected = cv2.cvtColor(x, cv2.COLOR_RGB2GRAY)[..., None]
    y = gray.run_ref(x.astype(np.float64), gray.Params(np.True_))
    assert np.abs(y - expected).max() < 1e-6


def jitter(x, order, **factors):
    neutral = dict(zip(color_jitter.PARTS, color_jitter.NEUTRAL, strict=True))
    factor = np.array(list((neutral | factors).values()))
    index = [color_jitter.PARTS.index(part) for part in order]
    return color_jitter.run_ref(x, color_jitter.Params(factor, np.array(index)))


def test_hue_is_colorsys():
    rng = np.random.default_rng(2)
    x = rng.integers(0, 8, (20, 20, 3)) / 7  # many equal channels
    for turn in (-0.5, -0.1, 0.07, 0.3):
        expected = np.empty_like(x)
        for at in np.ndindex(20, 20):
            h, s, v = colorsys.rgb_to_hsv(*x[at])
            expected[at] = colorsys.hsv_to_rgb((h + turn) % 1, s, v)
        assert np.abs(jitter(x, color_jitter.PARTS, hue=turn) - expected).max() < 1e-9


def test_brightness_contrast_and_saturation_are_their_formulas():
    x = np.random.default_rng(4).random((9, 8, 3)) * 0.4 + 0.3
    luma = x @ np.array([0.2989, 0.587, 0.114])
    order = color_jitter.PARTS
    assert np.allclose(jitter(x, order, brightness=1.4), 1.4 * x)
    assert np.allclose(jitter(x, order, contrast=0.5), 0.5 * x + 0.5 * luma.mean())
    assert np.allclose(jitter(x, order, saturation=0.3), 0.3 * x + 0.7 * luma[..., None])
    assert np.ptp(jitter(x, order, saturation=0.0), 2).max() < 1e-3  # the weights' sum is .9999


def test_the_order_matters():
    x = np.random.default_rng(5).random((9, 8, 3))
    change = dict(brightness=1.5, contrast=0.5)
    first = jitter(x, ('brightness', 'contrast', 'saturation', 'hue'), **change)
    last = jitter(x, ('contrast', 'brightness', 'saturation', 'hue'), **change)
    luma = x @ np.array([0.2989, 0.587, 0.114])
    assert np.allclose(last, np.clip(1.5 * (0.5 * x + 0.5 * luma.mean()), 0, 1))
    assert np.abs(first - last).max() > 0.05


def test_all_orders_are_drawn_equally_often():
    _, p = drawn(color_jitter, 24_000)
    codes = p.order @ np.array([64, 16, 4, 1])
    _, counts = np.unique(codes, return_counts=True)
    assert len(counts) == 24 and counts.min() > 850 and counts.max() < 1150


def test_fading_is_of_densities():
    """Halving a dye doubles nothing but the logarithm, and white becomes the paper."""
    p = fade.Params(np.array([0.5, 1.0, 0.8]), np.array([0.9, 1.0, 0.7]), np.float64(0.0))
    y = fade.run_ref(np.full((2, 2, 3), 0.25), p)
    assert np.allclose(y[0, 0], [0.9 * 0.5, 0.25, 0.7 * 0.25**0.8])
    assert np.allclose(fade.run_ref(np.ones((2, 2, 3)), p), p.paper)
    black = p._replace(black=np.float64(0.1))
    assert np.allclose(fade.run_ref(np.zeros((2, 2, 3)), black), 0.1)


def test_a_screen_repeats_and_keeps_the_tone():
    p = halftone.Params(np.float64(4.0), np.float64(0.0), np.float64(1.0))
    y = halftone.run_ref(np.full((64, 64, 3), 0.5), p)[..., 0]  # not turned: period 4 both ways
    assert np.allclose(y[:-4], y[4:]) and np.allclose(y[:, :-4], y[:, 4:])
    assert y.min() < 0.01 and y.max() > 0.99 and abs(y.mean() - 0.5) < 1e-9
    tones = [
        halftone.run_ref(np.full((64, 64, 3), v), p._replace(angle=np.float64(0.3))).mean()
        for v in (0.2, 0.4, 0.6, 0.8)
    ]
    assert tones == sorted(tones) and tones[0] < 0.25 and tones[-1] > 0.75


def test_screens_of_channels_are_turned():
    p = halftone.Params(np.float64(5.0), np.float64(0.0), np.float64(1.0))
    y = halftone.run_ref(np.full((60, 60, 3), 0.5), p)
    power = [np.abs(np.fft.fft2(y[..., c] - 0.5)) for c in range(3)]
    at = [np.unravel_index(P[:30].argmax(), (30, 60)) for P in power]
    angles = [math.degrees(math.atan2(v, u if u < 30 else u - 60)) % 90 for v, u in at]
    assert np.abs((np.array(angles) - [0, 30, 60] + 45) % 90 - 45).max() < 4


def test_scan_lines_are_where_they_are_said_to_be():
    p = scanlines.Params(np.float64(4.0), np.float64(1.0), np.float64(0.4))
    y = scanlines.run_ref(np.ones((12, 3, 3)), p)[:, 0, 0]
    assert np.allclose(y[[1, 5, 9]], 0.6) and np.allclose(y[[3, 7, 11]], 1)


def test_gfpgans_colours_come_as_often_as_its_code_has_them():
    recipe = degrade.recipe('gfpgan')
    params = degrade.sample(recipe, Draw(1, np.arange(20_000)), (512, 512))
    of = dict(zip([stage.name for stage in recipe.stages], params, strict=True))
    shares = (
        of['shift'].shift.any(1).mean(),
        of['gray'].on.mean(),
        (of['jitter'].factor != color_jitter.NEUTRAL).any(1).mean(),
    )
    assert np.abs(np.array(shares) - (0.3, 0.01, 0.3)).max() < 0.01
    names = [stage.name for stage in recipe.stages]
    assert names[-5:] == ['final', 'shift', 'gray', 'jitter', 'quantize']


def test_sizes_are_left_alone():
    """A stage is taken for a resize if its parameters have a `size`."""
    sizes = Sizes(*(np.full((4, 2), 64),) * 3)
    draw = Draw(1, np.arange(4))
    for op in degrade.recipes.OPS.values():
        if op.__name__ != 'degrade.resize':
            assert not hasattr(op.sample(draw.at('x'), np.ones(4, bool), sizes), 'size')
