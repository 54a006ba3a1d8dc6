"""Over-sharpening: OpenCV's unsharp mask, the identity where it is off, and the draws."""

import cv2
import numpy as np
import pytest
import torch

from degrade import canvas, chroma_blur, unsharp
from degrade.draw import Draw


def opencv(x, sigma, amount):
    """By GaussianBlur and addWeighted, the way it is written everywhere."""
    side = 2 * int(np.ceil(3 * sigma)) + 1
    soft = cv2.GaussianBlur(x, (side, side), sigma, borderType=cv2.BORDER_REFLECT_101)
    return np.clip(cv2.addWeighted(x, 1 + amount, soft, -amount, 0), 0, 1)


@pytest.mark.parametrize('sigma, amount', [(0.3, 1.5), (1.0, 0.5), (2.2, 2.0), (6.5, 1.0)])
def test_it_is_an_unsharp_mask(sigma, amount, photo):
    x = photo(60, 47) / 255
    p = unsharp.Params(np.float64(sigma), np.float64(amount))
    ref = unsharp.run_ref(x, p)
    assert np.abs(ref - opencv(x, sigma, amount)).max() < 1e-6
    batched = unsharp.Params(*(np.array([f]) for f in p))
    c = canvas.of(canvas.nchw(x.astype(np.float32)))
    for by_opencv in False, True:
        y = canvas.hwc(unsharp.run_torch(c, batched, by_opencv).pix)
        assert np.abs(y - ref).max() < 2e-6 and np.abs(ref - x).max() > 0.003


def test_ragged_canvas_sample_by_sample(photo):
    sizes = [(31, 17), (16, 40), (31, 17), (20, 20)]
    p = unsharp.Params(np.array([0.5, 1.0, 2.0, 1.2]), np.array([1.0, 0.0, 0.4, 2.0]))
    pix = torch.full((4, 3, 40, 44), torch.nan)  # NaN wherever nothing may be read
    for i, (h, w) in enumerate(sizes):
        pix[i, :, :h, :w] = canvas.unit(canvas.nchw(photo(h, w, i)))[0]
    out = unsharp.run_torch(canvas.Canvas(pix, np.array(sizes)), p)
    for i, (h, w) in enumerate(sizes):
        x = pix[i, :, :h, :w].permute(1, 2, 0).double().numpy()
        expected = unsharp.run_ref(x, unsharp.Params(*(f[i] for f in p)))
        y = out.pix[i, :, :h, :w].permute(1, 2, 0).numpy()
        assert np.abs(y - expected).max() < 1e-5
        if not p.amount[i]:
            assert (y == x).all()


def test_off_is_the_identity(photo):
    c = canvas.of(canvas.nchw(photo(20, 13)))
    off = unsharp.Params(np.array([1.0]), np.array([0.0]))
    assert unsharp.run_torch(c, off) is c and unsharp.told(off, None) == []


def test_a_flat_picture_stays_and_edges_overshoot():
    flat = np.full((30, 30, 3), 0.4)
    p = unsharp.Params(np.float64(2.0), np.float64(1.0))
    assert np.abs(unsharp.run_ref(flat, p) - flat).max() < 1e-12
    edge = np.where(np.arange(30)[None, :, None] < 15, 0.3, 0.6) * np.ones((30, 30, 3))
    y = unsharp.run_ref(edge, p)
    assert y.min() < 0.25 and y.max() > 0.65


def test_draws():
    on = np.arange(20_000) % 4 > 0
    draw = Draw(2, np.arange(20_000)).at('s')
    p = unsharp.sample(draw, on, None, sigma=(1, 3), amount=(0.5, 1.5))
    assert (p.amount[~on] == 0).all() and p.amount[on].min() >= 0.5 and p.amount.max() < 1.5
    assert abs(p.sigma.mean() - 2) < 0.02 and p.sigma.min() >= 1
    words = unsharp.told(unsharp.Params(*(f[1] for f in p)), None)
    assert [w.split()[0] for w in words] == ['sigma', 'amount']


def test_chroma_blur_keeps_the_luma_and_blurs_the_rest(photo):
    x = photo(60, 47) / 255 * 0.6 + 0.2
    luma = np.array(chroma_blur.LUMA)
    for sigma in 0.5, 1.5, 3.0:
        y = chroma_blur.run_ref(x, chroma_blur.Params(np.float64(sigma)))
        assert np.abs(y @ luma - x @ luma).max() < 1e-12
        side = 2 * int(np.ceil(3 * sigma)) + 1
        for c in 0, 2:
            difference = np.ascontiguousarray(x[..., c] - x @ luma)
            soft = cv2.GaussianBlur(
                difference, (side, side), sigma, borderType=cv2.BORDER_REFLECT_101
            )
            assert np.abs(y[..., c] - y @ luma - soft).max() < 1e-9


def test_chroma_blur_is_the_reference_sample_by_sample(photo):
    sizes = [(31, 17), (16, 40), (31, 17), (20, 20)]
    p = chroma_blur.Params(np.array([0.5, 0.0, 2.0, 1.2]))
    pix = torch.full((4, 3, 40, 44), torch.nan)
    for i, (h, w) in enumerate(sizes):
        pix[i, :, :h, :w] = canvas.unit(canvas.nchw(photo(h, w, i)))[0]
    out = chroma_blur.run_torch(canvas.Canvas(pix, np.array(sizes)), p)
    for i, (h, w) in enumerate(sizes):
        x = pix[i, :, :h, :w].permute(1, 2, 0).double().numpy()
        expected = chroma_blur.run_ref(x, chroma_blur.Params(p.sigma[i]))
        assert np.abs(out.pix[i, :, :h, :w].permute(1, 2, 0).numpy() - expected).max() < 1e-5
        assert bool(chroma_blur.told(chroma_blur.Params(p.sigma[i]), None)) == (i != 1)
    c = canvas.of(torch.rand(1, 3, 9, 9))
    assert chroma_blur.run_torch(c, chroma_blur.Params(np.zeros(1))) is c
