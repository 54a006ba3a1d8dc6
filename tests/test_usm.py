"""USM sharpening against a dense evaluation of its formulas; rounding to 8 bits."""

import cv2
import numpy as np
import pytest
import torch

from degrade import canvas, quantize, sharpen, usm


def dense(x):
    """x [h, w, 3] float64: the formulas with one 51x51 filter of OpenCV's own Gaussian."""
    row = cv2.getGaussianKernel(51, 0, cv2.CV_64F)

    def blur(a):
        return cv2.filter2D(a, -1, row @ row.T, borderType=cv2.BORDER_REFLECT_101)

    residual = x - blur(x)
    soft = blur((np.abs(residual) * 255 > 10).astype(np.float64))
    return soft * np.clip(x + 0.5 * residual, 0, 1) + (1 - soft) * x


@pytest.mark.parametrize('h, w', [(63, 37), (26, 90), (128, 128)])
def test_every_implementation_is_the_formula(h, w, photo):
    u8 = photo(h, w, 2)
    u8[:, w // 2 : w // 2 + 3] = 255  # strong edges, so that the clip acts
    u8[h // 3 : h // 2] //= 4
    expected = dense(u8 / 255.0)
    assert np.abs(expected - u8 / 255.0).max() > 0.05
    assert np.abs(usm.run_ref(u8 / 255.0, usm.Params(True)) - expected).max() < 1e-12
    on = usm.Params(np.array([True]))
    for x in canvas.nchw(u8), canvas.nchw(u8).float() / 255:
        for opencv in False, True:
            y = canvas.hwc(usm.run_torch(canvas.of(x), on, opencv).pix)
            assert y.dtype == np.float32 and np.abs(y - expected).max() < 1e-4
    for impl in 'ref', 'torch':
        y = sharpen(canvas.nchw(u8), impl)
        assert y.shape == (1, 3, h, w)
        assert y.dtype == torch.float32
        assert np.abs(canvas.hwc(y) - expected).max() < 1e-4


@pytest.mark.parametrize('level', [0, 37, 255])
def test_a_flat_image_stays(level):
    x = torch.full((2, 3, 40, 30), level, dtype=torch.uint8)
    for impl in 'ref', 'torch':
        assert (sharpen(x, impl) * 255 - level).abs().max() < 1e-3


def test_weak_structure_stays(photo):
    """Nothing happens where no pixel differs from its surroundings by more than 10 levels."""
    u8 = (100 + np.random.default_rng(0).integers(0, 9, (60, 60, 3))).astype(np.uint8)
    assert np.abs(canvas.hwc(sharpen(canvas.nchw(u8))) - u8 / 255).max() < 1e-6


def test_off_is_the_identity_and_a_ragged_canvas_is_sample_by_sample(photo):
    sizes, on = np.array([(30, 40), (51, 33), (30, 40)]), np.array([True, True, False])
    pix = torch.full((3, 3, 60, 45), torch.nan)
    for i, (h, w) in enumerate(sizes):
        pix[i, :, :h, :w] = canvas.unit(canvas.nchw(photo(h, w, i)))[0]
    out = usm.run_torch(canvas.Canvas(pix, sizes), usm.Params(on)).pix
    for i, (h, w) in enumerate(sizes):
        x = pix[i, :, :h, :w].permute(1, 2, 0).double().numpy()
        assert (
            np.abs(out[i, :, :h, :w].permute(1, 2, 0).numpy() - (dense(x) if on[i] else x)).max()
            < 1e-4
        )
    assert torch.equal(out[2, :, :30, :40], pix[2, :, :30, :40])
    x = canvas.of(canvas.nchw(photo(9, 9)))
    assert usm.run_torch(x, usm.Params(np.array([False])), True) is x


# ---- quantize ----


@pytest.mark.parametrize('opencv', [False, True])
def test_quantize(opencv, photo):
    rng = np.random.default_rng(0)
    u8 = np.arange(256).repeat(3).reshape(16, 16, 3)
    x = (u8 / 255 + rng.uniform(-0.45, 0.45, u8.shape) / 255).astype(np.float32)
    on = quantize.Params(np.array([True]), np.array([False]))
    y = canvas.unit(quantize.run_torch(canvas.of(canvas.nchw(x)), on, opencv).pix)
    assert (np.rint(canvas.hwc(y) * 255) == u8).all()
    assert np.abs(canvas.hwc(y) - u8 / 255).max() < 1e-7
    assert (
        np.abs(
            quantize.run_ref(x.astype(np.float64), quantize.Params(True, False)) - u8 / 255
        ).max()
        == 0
    )
    outside = torch.tensor([-0.5, 1.7, 0.5]).view(1, 3, 1, 1)
    y = canvas.unit(quantize.run_torch(canvas.of(outside), on, opencv).pix)
    assert torch.allclose(y.flatten(), torch.tensor([0, 1, 128 / 255]))  # 127.5 to even
    assert (
        quantize.run_ref(outside.double().numpy(), quantize.Params(True, False)).ravel()
        == [0, 1, 128 / 255]
    ).all()


def test_quantize_only_where_on():
    x = torch.full((2, 3, 4, 4), 0.5)
    y = quantize.run_torch(
        canvas.of(x), quantize.Params(np.array([True, False]), np.array([False, False]))
    ).pix
    assert torch.allclose(y[0], torch.tensor(128 / 255)) and (y[1] == 0.5).all()
    assert (x == 0.5).all()  # the input is left alone
