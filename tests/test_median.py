"""Median of a window against OpenCV's, on ragged canvases, and the draws."""

import cv2
import numpy as np
import pytest
import torch

from degrade import canvas, median
from degrade.draw import Draw


@pytest.mark.parametrize('side', [3, 7, 9, 11, 13, 15])
@pytest.mark.parametrize('h, w', [(63, 17), (5, 30), (1, 1), (33, 40)])
def test_every_implementation_is_opencvs(h, w, side, photo):
    u8 = photo(h, w, side)
    expected = cv2.medianBlur(u8, side)
    assert (median.apply_ref(u8, side) == expected).all()
    assert (canvas.hwc(median.apply_torch(canvas.nchw(u8), side)) == expected).all()
    off = np.random.default_rng(0).uniform(-0.4, 0.4, u8.shape)  # of a level: rounded away first
    for x in u8, ((u8 + off) / 255).astype(np.float32):
        for opencv in False, True:
            y = canvas.unit(
                median.run_torch(
                    canvas.of(canvas.nchw(x)), median.Params(np.array([side])), opencv
                ).pix
            )
            assert np.abs(canvas.hwc(y) * 255 - expected).max() < 1e-4
    assert (
        np.abs(median.run_ref((u8 + off) / 255, median.Params(side)) * 255 - expected).max() < 1e-9
    )


def test_off_is_the_identity_and_a_ragged_canvas_is_sample_by_sample(photo):
    sizes, side = np.array([(30, 40), (21, 33), (30, 40), (30, 40)]), np.array([7, 15, 1, 11])
    pix = torch.full((4, 3, 60, 45), torch.nan)  # NaN wherever nothing may be read
    for i, (h, w) in enumerate(sizes):
        pix[i, :, :h, :w] = canvas.unit(canvas.nchw(photo(h, w, i)))[0] * 0.99
    out = median.run_torch(canvas.Canvas(pix, sizes), median.Params(side)).pix
    for i, (h, w) in enumerate(sizes):
        expected = median.run_ref(
            pix[i, :, :h, :w].permute(1, 2, 0).double().numpy(), median.Params(side[i])
        )
        assert np.abs(out[i, :, :h, :w].permute(1, 2, 0).numpy() - expected).max() < 1e-7
    assert torch.equal(out[2, :, :30, :40], pix[2, :, :30, :40])
    x = canvas.of(canvas.nchw(photo(9, 9)))
    for opencv in False, True:
        assert median.run_torch(x, median.Params(np.array([1])), opencv) is x


def test_draws():
    n = 4000
    on = np.arange(n) % 4 > 0
    side = median.sample(Draw(1, np.arange(n)).at('m'), on, None, side=(7, 15)).side
    assert (side[~on] == 1).all()
    sides, counts = np.unique(side[on], return_counts=True)
    assert sides.tolist() == [7, 9, 11, 13, 15] and np.abs(counts / on.sum() - 0.2).max() < 0.03
    with pytest.raises(ValueError, match='median of 17 x 17 pixels: up to 15 x 15'):
        median.sample(Draw(1, np.arange(n)), on, None, side=(7, 17))
