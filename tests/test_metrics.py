"""PSNR and SSIM against brute force in float64 NumPy and scipy, and their closed forms."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from scipy.signal import convolve2d

from metrics.psnr import psnr, to_uint8
from metrics.ssim import ssim


def pictures(kind, h, w, batch=2):
    """-> two [B, 3, h, w] uint8 tensors: a picture and a spoiled one."""
    g = np.random.default_rng(5)
    a = g.integers(0, 256, (batch, 3, h, w)).astype(float)
    if kind == 'smooth':
        a = gaussian_filter(a, (0, 0, 6, 6)) * 3 - 255
    if kind == 'flat':
        a[:] = 250
        a[..., w // 3:] = 3
    b = a + g.normal(0, 3, a.shape)
    return tuple(torch.from_numpy(np.clip(np.round(x), 0, 255).astype(np.uint8)) for x in (a, b))


def ssim_brute(a, b):
    """Wang et al. as written: [3, h, w] arrays -> float."""
    ax = np.arange(-5, 6)
    window = np.exp(-(ax[:, None] ** 2 + ax ** 2) / (2 * 1.5 ** 2))
    window /= window.sum()
    c1, c2, scores = (0.01 * 255) ** 2, (0.03 * 255) ** 2, []
    for x, y in zip(a.astype(float), b.astype(float)):
        mx, my, xx, yy, xy = (convolve2d(z, window, mode='valid') for z in (x, y, x * x, y * y, x * y))
        vx, vy, cov = xx - mx * mx, yy - my * my, xy - mx * my
        scores.append(((2 * mx * my + c1) * (2 * cov + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))).mean())
    return np.mean(scores)


@pytest.mark.parametrize('size', [(63, 17), (128, 96)])
@pytest.mark.parametrize('kind', ['noise', 'smooth', 'flat'])
def test_psnr_is_the_challenges(kind, size):
    a, b = pictures(kind, *size)
    errors = [np.mean((x.astype(float) - y.astype(float)) ** 2) for x, y in zip(a.numpy(), b.numpy())]
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
    assert torch.equal(to_uint8(levels.float() / 255), levels)           # there and back


@pytest.mark.parametrize('size', [(11, 11), (63, 17), (128, 96)])
@pytest.mark.parametrize('kind', ['noise', 'smooth', 'flat'])
def test_ssim_is_brute_force(kind, size):
    """Largest error measured over these and 512 x 512: 1.2e-6 (flat), in float32 against float64; twice that is allowed."""
    a, b = pictures(kind, *size)
    out = ssim(a, b)
    assert out.dtype == torch.float64 and out.shape == (2,)
    assert out.numpy() == pytest.approx([ssim_brute(x, y) for x, y in zip(a.numpy(), b.numpy())], abs=2.5e-6)


def test_ssim_closed_forms():
    a, b = pictures('noise', 40, 40)
    assert ssim(a, a).tolist() == [1.0, 1.0]
    assert torch.equal(ssim(a, b), ssim(b, a))
    assert ssim(a, F.pad(a, (3, 0))[..., :-3]).max() < 0.1               # noise shifted is other noise
    c1, flat = (0.01 * 255) ** 2, torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    expected = (2 * 100 * 150 + c1) / (100 ** 2 + 150 ** 2 + c1)         # without variance only the means are left
    assert ssim(flat + 100, flat + 150).item() == pytest.approx(expected, abs=1e-6)


def test_wrong_arguments():
    a = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    for metric in (psnr, ssim):
        with pytest.raises(ValueError, match='uint8'):
            metric(a.float(), a)
        with pytest.raises(ValueError, match='one shape'):
            metric(a, a[..., :-1])
    with pytest.raises(ValueError, match='11 x 11'):
        ssim(a[..., :10], a[..., :10])
