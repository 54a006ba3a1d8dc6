"""The bilateral filter against OpenCV's, and what it leaves alone."""

import cv2
import numpy as np
import pytest
import torch

from degrade import bilateral, canvas, unsharp, usm
from degrade.draw import Draw


@pytest.mark.parametrize('space, color', [(0.5, 10), (1.0, 50), (2.2, 25), (3.0, 100), (4.9, 300)])
def test_it_is_opencvs(space, color, photo):
    x = photo(60, 47) / 255
    p = bilateral.Params(np.float64(space), np.float64(color / 255))
    ref = bilateral.run_ref(x, p)
    side = 2 * int(bilateral.radius(p.space)) + 1
    expected = cv2.bilateralFilter(x.astype(np.float32), side, color / 255, space)
    assert np.abs(ref - expected).max() < 2e-5  # OpenCV interpolates a table of weights
    batched = bilateral.Params(*(np.array([f]) for f in p))
    c = canvas.of(canvas.nchw(x.astype(np.float32)))
    assert np.abs(canvas.hwc(bilateral.run_torch(c, batched).pix) - ref).max() < 2e-6
    assert np.abs(canvas.hwc(bilateral.run_torch(c, batched, True).pix) - ref).max() < 2e-5


def test_ragged_canvas_sample_by_sample(photo):
    sizes = [(31, 17), (16, 40), (31, 17), (20, 20)]
    p = bilateral.Params(np.array([0.5, 1.0, 2.0, 4.9]), np.array([0.1, 0.0, 0.4, 0.2]))
    pix = torch.full((4, 3, 40, 44), torch.nan)  # NaN wherever nothing may be read
    for i, (h, w) in enumerate(sizes):
        pix[i, :, :h, :w] = canvas.unit(canvas.nchw(photo(h, w, i)))[0]
    out = bilateral.run_torch(canvas.Canvas(pix, np.array(sizes)), p)
    for i, (h, w) in enumerate(sizes):
        x = pix[i, :, :h, :w].permute(1, 2, 0).double().numpy()
        expected = bilateral.run_ref(x, bilateral.Params(*(f[i] for f in p)))
        y = out.pix[i, :, :h, :w].permute(1, 2, 0).numpy()
        assert np.abs(y - expected).max() < 1e-5
        if not p.color[i]:
            assert (y == x).all()


def test_pictures_smaller_than_the_window():
    """Blurs of every kind mirror them as often as it takes, as the reference does."""
    rng = np.random.default_rng(3)
    for h, w in [(1, 1), (2, 5), (3, 9), (1, 12), (7, 4)]:
        x = rng.random((h, w, 3))
        c = canvas.of(canvas.nchw(x.astype(np.float32)))
        padded = canvas.hwc(canvas.reflected(c.pix, 9))
        assert (padded == np.pad(x.astype(np.float32), ((9, 9), (9, 9), (0, 0)), 'reflect')).all()
        cases = (
            (bilateral, bilateral.Params(np.array([4.0]), np.array([0.3]))),
            (unsharp, unsharp.Params(np.array([3.0]), np.array([0.7]))),
            (usm, usm.Params(np.array([True]))),
        )
        for op, p in cases:
            expected = op.run_ref(x, type(p)(*(f[0] for f in p)))
            y = canvas.hwc(op.run_torch(c, p).pix)
            assert np.abs(y - expected).max() < 1e-5


def test_edges_stay_where_noise_goes():
    rng = np.random.default_rng(1)
    edge = np.where(np.arange(60)[None, :, None] < 30, 0.2, 0.8) * np.ones((60, 60, 3))
    y = bilateral.run_ref(
        edge + rng.normal(0, 0.02, edge.shape), bilateral.Params(np.float64(3), np.float64(0.2))
    )
    assert y[:, :30].std() < 0.007 and y[:, 30:].std() < 0.007  # of 0.02
    assert abs(y[:, 29].mean() - 0.2) < 0.005 and abs(y[:, 30].mean() - 0.8) < 0.005


def test_draws():
    on = np.arange(20_000) % 4 > 0
    p = bilateral.sample(Draw(2, np.arange(20_000)).at('s'), on, None, space=(1, 3), color=(10, 50))
    assert (p.color[~on] == 0).all() and abs(255 * p.color[on].mean() - 30) < 0.3
    assert p.space.min() >= 1 and p.space.max() < 3
    off = bilateral.Params(np.array([1.0]), np.array([0.0]))
    c = canvas.of(torch.rand(1, 3, 9, 9))
    assert bilateral.run_torch(c, off) is c and bilateral.told(off, None) == []
