"""PSNR, SSIM, MS-SSIM and sharpness against brute force in float64 NumPy and scipy.

Also their closed forms, and PSNR and SSIM against figures of scikit-image 0.26.0.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from scipy.signal import convolve2d

from metrics.ms_ssim import ms_ssim
from metrics.psnr import psnr, to_uint8
from metrics.sharpness import sharpness
from metrics.ssim import ssim


def pictures(kind, h, w, batch=2):
    """-> two [B, 3, h, w] uint8 tensors: a picture and a spoiled one."""
    g = np.random.default_rng(5)
    a = g.integers(0, 256, (batch, 3, h, w)).astype(float)
    if kind == 'smooth':
        a = gaussian_filter(a, (0, 0, 6, 6)) * 3 - 255
    if kind == 'flat':
        a[:] = 250
        a[..., w // 3 :] = 3
    b = a + g.normal(0, 3, a.shape)
    return tuple(torch.from_numpy(np.clip(np.round(x), 0, 255).astype(np.uint8)) for x in (a, b))


def ssim_brute(a, b):
    """Wang et al. as written: [3, h, w] arrays -> float."""
    return np.mean([(means * cs).mean() for means, cs in terms_brute(a, b)])


def terms_brute(a, b):
    """[(similarity of means, of contrasts and structures)] of the channels"""
    ax = np.arange(-5, 6)
    window = np.exp(-(ax[:, None] ** 2 + ax**2) / (2 * 1.5**2))
    window /= window.sum()
    c1, c2, scores = (0.01 * 255) ** 2, (0.03 * 255) ** 2, []
    for x, y in zip(a.astype(float), b.astype(float), strict=True):
        mx, my, xx, yy, xy = (
            convolve2d(z, window, mode='valid') for z in (x, y, x * x, y * y, x * y)
        )
        vx, vy, cov = xx - mx * mx, yy - my * my, xy - mx * my
        scores.append(
            ((2 * mx * my + c1) / (mx * mx + my * my + c1), (2 * cov + c2) / (vx + vy + c2))
        )
    return scores


def ms_ssim_brute(a, b):
    """Wang, Simoncelli and Bovik as written, five scales: [3, h, w] arrays -> float."""
    weights, scores = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333), np.ones(3)
    for level, weight in enumerate(weights):
        scores *= [
            (means * cs if level == 4 else cs).mean() ** weight for means, cs in terms_brute(a, b)
        ]
        h, w = (n // 2 * 2 for n in a.shape[1:])
        a, b = (x[:, :h, :w].reshape(3, h // 2, 2, w // 2, 2).mean((2, 4)) for x in (a, b))
    return scores.mean()


@pytest.mark.parametrize('size', [(63, 17), (128, 96)])
@pytest.mark.parametrize('kind', ['noise', 'smooth', 'flat'])
def test_psnr_is_the_challenges(kind, size):
    a, b = pictures(kind, *size)
    errors = [
        np.mean((x.astype(float) - y.astype(float)) ** 2)
        for x, y in zip(a.numpy(), b.numpy(), strict=True)
    ]
    expected = [20 * np.log10(255 / np.sqrt(mse)) for mse in errors]
    out = psnr(a, b)
    assert out.dtype == torch.float64 and out.shape == (2,)
    assert out.numpy() == pytest.approx(expected, abs=1e-10)


def test_psnr_closed_forms():
    a = torch.zeros(3, 3, 20, 30, dtype=torch.uint8)
    b = a.clone()
    b[1] = 255
    b[2] += 10
    assert psnr(a, b).tolist() == pytest.approx([float('inf'), 0.0, 20 * np.log10(25.5)])
    assert torch.equal(psnr(a, b), psnr(b, a))


def test_psnr_does_not_overflow():
    """512 x 512 pictures 255 apart: the sum of squares is beyond 2^31."""
    a = torch.zeros(1, 3, 512, 512, dtype=torch.uint8)
    assert psnr(a, a + 255).item() == 0.0


def test_to_uint8():
    x = torch.tensor([-0.3, 0.0, 0.4 / 255, 0.6 / 255, 100.4 / 255, 254.6 / 255, 1.0, 7.0])
    assert to_uint8(x).tolist() == [0, 0, 0, 1, 100, 255, 255, 255]
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(levels.float() / 255), levels)  # there and back


@pytest.mark.parametrize('size', [(11, 11), (63, 17), (128, 96)])
@pytest.mark.parametrize('kind', ['noise', 'smooth', 'flat'])
def test_ssim_is_brute_force(kind, size):
    """Largest error of float32 against float64 over these and 512 x 512: 1.2e-6 (flat).

    Twice that is allowed.
    """
    a, b = pictures(kind, *size)
    out = ssim(a, b)
    assert out.dtype == torch.float64 and out.shape == (2,)
    assert out.numpy() == pytest.approx(
        [ssim_brute(x, y) for x, y in zip(a.numpy(), b.numpy(), strict=True)], abs=2.5e-6
    )


def test_ssim_closed_forms():
    a, b = pictures('noise', 40, 40)
    assert ssim(a, a).tolist() == [1.0, 1.0]
    assert torch.equal(ssim(a, b), ssim(b, a))
    assert ssim(a, F.pad(a, (3, 0))[..., :-3]).max() < 0.1  # noise shifted is other noise
    c1, flat = (0.01 * 255) ** 2, torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    expected = (2 * 100 * 150 + c1) / (
        100**2 + 150**2 + c1
    )  # without variance only the means are left
    assert ssim(flat + 100, flat + 150).item() == pytest.approx(expected, abs=1e-6)


def textures(seed, h, w):
    """Two [1, 3, h, w] uint8 tensors, a texture and a spoiled one: the same everywhere."""
    raw = np.random.PCG64(seed).random_raw(3 * h * w).reshape(3, h, w)
    a = (raw >> 56).astype(int)
    a = (a + np.roll(a, 1, 1) + np.roll(a, 1, 2) + np.roll(a, (1, 1), (1, 2))) // 4
    b = np.clip(a + (raw >> 40 & 31).astype(int) - 15, 0, 255)
    return tuple(torch.from_numpy(x.astype(np.uint8))[None] for x in (a, b))


@pytest.mark.parametrize(
    ('seed', 'size', 'decibels', 'similarity'),
    [
        (1, (63, 17), 28.916294813754256, 0.9684411629770366),
        (2, (128, 96), 28.801817249809012, 0.9650336099356771),
    ],
)
def test_psnr_and_ssim_are_scikit_images(seed, size, decibels, similarity):
    """Its structural_similarity with gaussian_weights, sigma 1.5 and no sample covariance."""
    a, b = textures(seed, *size)
    assert psnr(b, a).item() == pytest.approx(decibels, abs=1e-12)
    # Measured: 9e-10.
    assert ssim(b, a).item() == pytest.approx(similarity, abs=1e-8)


@pytest.mark.parametrize('kind', ['noise', 'smooth', 'flat'])
def test_ms_ssim_is_brute_force(kind):
    """Largest error measured: see the tolerance of SSIM, whose float32 terms these are."""
    a, b = pictures(kind, 191, 176, batch=1)
    out = ms_ssim(a, b)
    assert out.dtype == torch.float64 and out.numpy() == pytest.approx(
        [ms_ssim_brute(a[0].numpy().astype(float), b[0].numpy().astype(float))], abs=2.5e-6
    )
    assert 0 < out.item() < 1 and ms_ssim(a, a).tolist() == [1.0]


def test_ms_ssim_closed_forms():
    c1, flat = (0.01 * 255) ** 2, torch.zeros(1, 3, 176, 180, dtype=torch.uint8)
    expected = (
        (2 * 100 * 150 + c1) / (100**2 + 150**2 + c1)
    ) ** 0.1333  # without variance only the means of the coarsest scale are left
    assert ms_ssim(flat + 100, flat + 150).item() == pytest.approx(expected, abs=1e-6)
    a, _ = pictures('noise', 176, 176, batch=1)
    assert ms_ssim(a, 255 - a).item() == 0  # contrasts are inverted: a negative similarity
    with pytest.raises(ValueError, match='175 x 200 are smaller than 176 x 176'):
        ms_ssim(*torch.zeros(2, 1, 3, 175, 200, dtype=torch.uint8))


def test_sharpness():
    a, _ = pictures('smooth', 40, 30)
    x = a.numpy().astype(float)
    assert sharpness(a, a).tolist() == [1.0, 1.0]
    half = (a // 4 * 2).to(torch.uint8)
    assert sharpness(half, (a // 4 * 4).to(torch.uint8)).tolist() == [
        0.25,
        0.25,
    ]  # half the contrast, a quarter of the energy
    blurred = gaussian_filter(x, (0, 0, 2, 2)).round()
    energy = [
        [sum((np.diff(p, axis=axis) ** 2).sum() for axis in (1, 2)) for p in y]
        for y in (blurred, x)
    ]
    assert sharpness(torch.from_numpy(blurred.astype(np.uint8)), a).tolist() == pytest.approx(
        np.divide(*energy).tolist(), abs=1e-12
    )
    big = torch.zeros(1, 3, 512, 512, dtype=torch.uint8)
    big[..., ::2] = 255  # beyond 2^31
    assert (
        sharpness(big, big).item() == 1 and torch.isnan(sharpness(big[..., :1], big[..., :1])).all()
    )


def test_wrong_arguments():
    a = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    for metric in (psnr, ssim, ms_ssim, sharpness):
        with pytest.raises(ValueError, match='uint8'):
            metric(a.float(), a)
        with pytest.raises(ValueError, match='one shape'):
            metric(a, a[..., :-1])
    with pytest.raises(ValueError, match='11 x 11'):
        ssim(a[..., :10], a[..., :10])
