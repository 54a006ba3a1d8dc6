"""Film grain: its variance, its size, where it is strongest, and its three implementations."""

import cv2
import numpy as np
import pytest
import torch

from degrade import canvas, grain
from degrade.draw import Draw


def params(n, sigma=1.0, amount=10.0, gray=False):
    return grain.Params(
        np.full(n, sigma),
        np.full(n, amount / 255),
        np.ones(n),
        np.full(n, gray),
        np.full(n, 5, np.uint64),
        np.full(n, 2**63 + 9, np.uint64),
        np.arange(n),
    )


def one(p, i):
    return grain.Params(*(f[i] for f in p))


@pytest.mark.parametrize('sigma', [0.3, 0.7, 1.5, 3.0])
def test_variance_and_size_are_what_they_are_said_to_be(sigma):
    y = grain.run_ref(np.full((400, 400, 3), 0.5), one(params(1, sigma), 0))[20:-20, 20:-20] - 0.5
    assert abs(y.std() * 255 / 10 - 1) < 0.05
    # White noise through a Gaussian is correlated as a Gaussian of sqrt(2) times its sigma.
    white = np.random.default_rng(0).normal(size=(2000, 2000))
    blurred = cv2.GaussianBlur(white, (2 * int(np.ceil(3 * sigma)) + 1,) * 2, sigma)
    expected = (blurred[:, 1:] * blurred[:, :-1]).mean() / (blurred**2).mean()
    assert abs((y[:, 1:] * y[:, :-1]).mean() / (y**2).mean() - expected) < 0.02


def test_it_is_strongest_in_the_middle():
    p = one(params(1), 0)
    spread = [
        (grain.run_ref(np.full((100, 100, 3), v), p) - v).std() for v in (0, 0.1, 0.5, 0.9, 1)
    ]
    assert spread[0] == spread[4] == 0
    assert np.allclose([spread[1] / spread[2], spread[3] / spread[2]], 4 * 0.1 * 0.9, atol=0.01)


def test_without_midtones_it_is_as_strong_everywhere():
    p = one(params(1)._replace(midtones=np.zeros(1)), 0)
    spread = [(grain.run_ref(np.full((100, 100, 3), v), p) - v).std() for v in (0.2, 0.5, 0.8)]
    assert np.ptp(spread) < 1e-9


def test_gray_grain_is_one_plane():
    y = grain.run_ref(np.full((30, 30, 3), 0.5), one(params(1, gray=True), 0))
    assert np.ptp(y, 2).max() < 1e-12 < y.std()
    coloured = grain.run_ref(np.full((200, 200, 3), 0.5), one(params(1), 0)) - 0.5
    assert np.abs(np.corrcoef(coloured.reshape(-1, 3).T) - np.eye(3)).max() < 0.03


def test_torch_is_the_reference(photo):
    sizes = np.array([(31, 17), (16, 40), (31, 17), (20, 20)])
    p = params(4)._replace(
        sigma=np.array([0.5, 1.0, 2.0, 1.2]),
        amount=np.array([0.1, 0, 0.03, 0.2]),
        gray=np.array([True, False, False, True]),
        midtones=np.array([1.0, 1, 0, 0.5]),
    )
    pix = torch.full((4, 3, 40, 44), torch.nan)
    for i, (h, w) in enumerate(sizes):
        pix[i, :, :h, :w] = canvas.unit(canvas.nchw(photo(h, w, i)))[0]
    out = grain.run_torch(canvas.Canvas(pix, sizes), p)
    for i, (h, w) in enumerate(sizes):
        x = pix[i, :, :h, :w].permute(1, 2, 0).double().numpy()
        expected = grain.run_ref(x, one(p, i))
        y = out.pix[i, :, :h, :w].permute(1, 2, 0).numpy()
        assert np.abs(y - expected).max() < 5e-6
        single = grain.Params(*(f[i : i + 1] for f in p))
        own = canvas.of(pix[i : i + 1, :, :h, :w].contiguous())
        alone = canvas.hwc(grain.run_torch(own, single, True).pix)
        assert np.abs(alone - expected).max() < 5e-6
        assert (np.abs(expected - x).max() > 0.01) == (i != 1)


def test_draws():
    on = np.arange(20_000) % 4 > 0
    p = grain.sample(Draw(2, np.arange(20_000)).at('g'), on, None, size=(1, 2), amount=(5, 15))
    assert (p.amount[~on] == 0).all()
    assert abs(255 * p.amount[on].mean() - 10) < 0.1 and abs(p.sigma.mean() - 1.5) < 0.02
    assert abs(p.gray.mean() - 0.5) < 0.02
    assert grain.told(one(p, 0), None) == [] and len(grain.told(one(p, 1), None)) == 3
