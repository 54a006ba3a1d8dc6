"""Blur: kernels against closed forms, every way to correlate, and the draws."""

import math

import cv2
import numpy as np
import pytest
import scipy.ndimage
import scipy.special
import torch

from degrade import Sizes, blur, canvas, fourier
from degrade.draw import Draw

KINDS = 0.45, 0.25, 0.12, 0.03, 0.12, 0.03


def params(kind, n, seed=0):
    """n random parameter sets of one kind, as arrays."""
    rng = np.random.default_rng([seed, kind])
    sx = rng.uniform(0.2, 3, n)
    iso = kind in (blur.ISO, blur.GEN_ISO, blur.PLATEAU_ISO)
    return blur.Params(
        np.full(n, kind),
        2 * rng.integers(3, 11, n) + 1,
        sx,
        sx if iso else rng.uniform(0.2, 3, n),
        np.zeros(n) if iso else rng.uniform(-math.pi, math.pi, n),
        rng.uniform(0.5, 4, n),
        rng.uniform(math.pi / 5, math.pi, n),
    )


def one(p, i):
    return blur.Params(*(f[i] for f in p))


def closed_form(p):
    """The formulas in matrices, J1 from scipy."""
    off = np.arange(p.taps) - p.taps // 2
    point = np.stack(np.meshgrid(off, off), -1).astype(float)  # (x, y)
    R = np.array([[math.cos(p.theta), -math.sin(p.theta)], [math.sin(p.theta), math.cos(p.theta)]])
    S = R @ np.diag([p.sigma_x**2, p.sigma_y**2]) @ R.T
    q = np.einsum('yxi,ij,yxj->yx', point, np.linalg.inv(S), point)
    r = np.hypot(*np.moveaxis(point, 2, 0))
    if p.kind == blur.SINC:
        with np.errstate(invalid='ignore'):
            k = np.where(
                r > 0,
                p.omega * scipy.special.j1(p.omega * r) / (2 * np.pi * r),
                p.omega**2 / (4 * np.pi),
            )
    else:
        k = {
            0: np.exp(-q / 2),
            1: np.exp(-(np.abs(q) ** p.beta) / 2),
            2: 1 / (1 + np.abs(q) ** p.beta),
        }[p.kind // 2]
    return k / k.sum()


@pytest.mark.parametrize('kind', range(7))
def test_kernels(kind):
    p = params(kind, 12)
    torch_kernels = blur.kernels(p)
    assert torch_kernels.dtype == torch.float32 and torch_kernels.shape[1:] == (p.taps.max(),) * 2
    for i in range(12):
        expected = closed_form(one(p, i))
        assert np.abs(blur.kernel_ref(one(p, i)) - expected).max() < 1e-12
        frame = (p.taps.max() - p.taps[i]) // 2
        assert np.abs(torch_kernels[i].numpy() - np.pad(expected, frame)).max() < 1e-7


def test_motion_is_a_line_turned_by_interpolation():
    """As imgaug makes it, without its rounding of the weights to 8 bits.

    A column of weights on a square, turned by bilinear interpolation with zeros around it.
    """
    rng = np.random.default_rng(0)
    for taps in 11, 13, 21:
        for theta, begin in [
            (0.0, 0.3),
            (math.pi / 2, 0.9),
            *rng.uniform((-math.pi, 0), (math.pi, 1), (6, 2)),
        ]:
            r = taps // 2
            line = np.zeros((taps, taps))
            line[r] = np.linspace(begin, 1 - begin, taps)
            c, s = math.cos(theta), math.sin(theta)
            back = np.array([[c, -s], [s, c]])  # (y, x) of the picture -> (y, x) of the line
            expected = scipy.ndimage.affine_transform(
                line, back, (r, r) - back @ (r, r), order=1, mode='grid-constant'
            )
            expected /= expected.sum()
            p = blur.Params(blur.MOTION, taps, float(r), 1.0, theta, begin, 1.0)
            assert np.abs(blur.kernel_ref(p) - expected).max() < 1e-12
            kernel = blur.kernels(blur.Params(*(np.array([f]) for f in p)))[0].numpy()
            assert np.abs(kernel - expected).max() < 1e-7
    level = blur.kernel_ref(blur.Params(blur.MOTION, 11, 5.0, 1.0, 0.0, 0.0, 1.0))
    assert np.abs(level[5] - np.arange(11) / 55).max() < 1e-15 and level.sum() == level[5].sum()


def test_motion_and_gaussian_draws():
    n = 8000
    p = blur.sample(
        Draw(1, np.arange(n)).at('b'),
        np.ones(n, bool),
        None,
        motion=0.5,
        length=(10, 20),
        sigma=(3, 8),
        taps=None,
    )
    moving = p.kind == blur.MOTION
    assert abs(moving.mean() - 0.5) < 0.02 and (p.kind[~moving] == blur.ISO).all()
    taps, counts = np.unique(p.taps[moving], return_counts=True)
    assert taps.tolist() == [11, 13, 15, 17, 19, 21]
    assert np.abs(counts / moving.sum() - np.array([2, 2, 2, 2, 2, 1]) / 11).max() < 0.025
    assert (p.sigma_x[moving] == p.taps[moving] // 2).all()
    assert 0 <= p.beta[moving].min() < 0.01
    assert 0.99 < p.beta[moving].max() < 1
    assert p.theta[moving].min() < -3.1 and p.theta[moving].max() > 3.1
    rest = p.sigma_x[~moving]
    assert 3 <= rest.min() < 3.01
    assert 7.99 < rest.max() < 8
    assert (p.taps[~moving] == blur.imgaug_taps(rest)).all()


def test_taps_of_imgaugs_gaussian():
    taps = blur.imgaug_taps(np.array([0.1, 1.6, 2.99, 3.0, 4.99, 5.0, 8.0]))
    assert taps.tolist() == [5, 5, 9, 9, 15, 13, 21]


def test_theta_turns_the_long_axis_clockwise_on_the_screen():
    k = blur.kernel_ref(blur.Params(blur.ANISO, 21, 3.0, 0.7, math.pi / 6, 1.0, 1.0))
    y, x = np.mgrid[-10:11, -10:11]
    # The axis of the second moments, y down.
    angle = 0.5 * math.atan2(2 * (k * x * y).sum(), (k * (x * x - y * y)).sum())
    assert angle == pytest.approx(math.pi / 6, abs=0.01)


def kernel(m, mirrored, seed=0):
    """Random [m, m] kernel of sum 1 with negative values too, so that nothing can be trimmed."""
    k = np.random.default_rng([seed, m]).uniform(-0.2, 1, (m, m))
    if mirrored:
        k = k + k[::-1, ::-1]
    return (k / k.sum()).astype(np.float32)


@pytest.mark.parametrize('h, w', [(63, 17), (17, 63), (11, 11), (64, 50)])
@pytest.mark.parametrize('taps', [1, 3, 7, 11, 13, 21])
@pytest.mark.parametrize('mirrored', [False, True])
def test_every_way_to_correlate(h, w, taps, mirrored, photo):
    u8, k = photo(h, w, taps), kernel(taps, mirrored)
    x = u8.astype(np.float32) / np.float32(255)
    expected = blur.apply_ref(x.astype(np.float64), k.astype(np.float64))
    other = cv2.filter2D(
        x.astype(np.float64), -1, k.astype(np.float64), borderType=cv2.BORDER_REFLECT_101
    )
    assert np.abs(other - expected).max() < 1e-12
    torch_y = (
        blur.apply_torch(canvas.nchw(x), torch.from_numpy(k)[None])[0].permute(1, 2, 0).numpy()
    )
    assert np.abs(torch_y - expected).max() < 2e-6
    assert np.abs(blur.apply_opencv(x, k) - expected).max() < 2e-6
    assert np.abs(blur.apply_opencv(u8, k) - expected).max() < 2e-6


def test_each_way_is_taken(monkeypatch, photo):
    """Nothing of the above is worth much if all kernels go the same way."""
    ways = []

    def recorded(function, name):
        def call(*args, **kwargs):
            ways.append(name)
            return function(*args, **kwargs)

        return call

    for owner, name in (blur, '_fourier'), (cv2, 'filter2D'), (cv2, 'sepFilter2D'):
        monkeypatch.setattr(owner, name, recorded(getattr(owner, name), name))
    x = photo(40, 40)
    for k, separable in (
        (kernel(13, False), False),
        (kernel(9, False), False),
        (kernel(7, True), True),
        (np.pad(kernel(1, False), 3), False),
    ):
        blur.apply_opencv(x, k, separable)
    assert ways == ['_fourier', 'filter2D', 'sepFilter2D']
    assert fourier.spectrum(kernel(13, True), (64, 64)).ndim == 3
    assert fourier.spectrum(kernel(13, False), (64, 64)).ndim == 2


@pytest.mark.parametrize('taps, sigma', [(7, 0.2), (7, 3.0), (15, 1.1), (21, 3.0), (41, 10.0)])
def test_separable_gaussian(taps, sigma, photo):
    u8 = photo(63, 47, taps)
    k = blur.kernel_ref(blur.Params(blur.ISO, taps, sigma, sigma, 0.0, 1.0, 1.0))
    x = u8.astype(np.float32) / np.float32(255)
    expected = blur.apply_ref(x.astype(np.float64), k)
    for image in u8, x:
        y = blur.apply_opencv(image, k.astype(np.float32), separable=True)
        assert y.dtype == np.float32 and np.abs(y - expected).max() < 2e-6


@pytest.mark.parametrize('kind', range(7))
def test_real_kernels_survive_trimming(kind, photo):
    """Dropping light rims must not be seen: 2.5e-7 of the mass on each of four sides."""
    x, p = photo(48, 45, kind), params(kind, 12, seed=1)
    for i in range(12):
        expected = blur.run_ref(x / 255.0, one(p, i))
        y = blur.run_torch(
            canvas.of(canvas.nchw(x)), blur.Params(*(f[i : i + 1] for f in p)), opencv=True
        )
        assert np.abs(canvas.hwc(y.pix) - expected).max() < 4e-6


def test_trimmed_kernels_stay_centred():
    k = np.zeros((9, 9), np.float32)
    k[3:6, 2:8] = 1 / 18
    assert (blur._trim(k) == k[3:6, 1:8]).all()
    assert blur._trim(np.pad(kernel(5, False), 8)).shape == (5, 5)


def ragged(photo, sizes):
    """A canvas with NaN wherever nothing may be read."""
    h, w = np.max(sizes, 0) + 3
    pix = torch.full((len(sizes), 3, h, w), torch.nan)
    for i, (y, x) in enumerate(sizes):
        pix[i, :, :y, :x] = canvas.unit(canvas.nchw(photo(y, x, i)))[0]
    return canvas.Canvas(pix, np.array(sizes))


def test_ragged_canvas_sample_by_sample(photo):
    sizes = [(63, 17), (20, 31), (63, 17), (40, 40), (20, 31)]
    c = ragged(photo, sizes)
    each = [params(kind, 1) for kind in (0, 3, 5, 6, blur.DELTA)]
    p = blur.Params(*map(np.concatenate, zip(*each, strict=True)))
    p.taps[4] = 1
    out = blur.run_torch(c, p)
    assert (out.size == c.size).all() and not out.pix.isnan().any()
    for i, (h, w) in enumerate(sizes):
        expected = blur.run_ref(c.pix[i, :, :h, :w].permute(1, 2, 0).double().numpy(), one(p, i))
        assert np.abs(out.pix[i, :, :h, :w].permute(1, 2, 0).numpy() - expected).max() < 2e-6
        assert (out.pix[i, :, h:] == 0).all() and (out.pix[i, :, :, w:] == 0).all()


@pytest.mark.parametrize('opencv', [False, True])
def test_skipped_blur_is_the_identity(opencv, photo):
    b = 1 if opencv else 2
    x = torch.cat([canvas.nchw(photo(20, 30, i)) for i in range(b)])
    p = blur.sample(Draw(1, np.arange(b)).at('b'), np.zeros(b, bool), None, kinds=KINDS)
    assert (p.taps == 1).all() and (blur.kernels(p) == 1).all()
    assert torch.equal(canvas.unit(blur.run_torch(canvas.of(x), p, opencv).pix), x.float() / 255)
    image = x[0].permute(1, 2, 0).double().numpy()
    assert (blur.run_ref(image, one(p, 0)) == image).all()


def test_draws():
    n = 8000
    on = np.arange(n) % 5 > 0
    p = blur.sample(
        Draw(1, np.arange(n)).at('b'),
        on,
        Sizes(None, None, None),
        kinds=KINDS,
        sinc=0.1,
        sigma=(0.2, 3.0),
    )
    assert (p.kind[~on] == blur.DELTA).all() and (p.taps[~on] == 1).all()
    p = blur.Params(*(f[on] for f in p))
    share = np.array([*(0.9 * np.array(KINDS)), 0.1, 0.0])
    drawn = np.bincount(p.kind, minlength=8) / len(p.kind)
    assert (np.abs(drawn - share) <= 4.5 * np.sqrt(share * (1 - share) / len(p.kind))).all()
    sizes, counts = np.unique(p.taps, return_counts=True)
    assert sizes.tolist() == list(range(7, 22, 2))
    assert (np.abs(counts / len(p.taps) - 1 / 8) < 0.02).all()
    for s in p.sigma_x, p.sigma_y:
        assert 0.2 <= s.min() < 0.22 and 2.98 < s.max() < 3
    iso = np.isin(p.kind, (blur.ISO, blur.GEN_ISO, blur.PLATEAU_ISO))
    assert (p.sigma_x[iso] == p.sigma_y[iso]).all()
    assert (p.theta[iso] == 0).all()
    assert (p.sigma_x[~iso] != p.sigma_y[~iso]).all()
    assert p.theta.min() < -3.1 and p.theta.max() > 3.1 and np.abs(p.theta).max() <= math.pi
    for kinds, lo, hi in (
        ((blur.GEN_ISO, blur.GEN_ANISO), 0.5, 4),
        ((blur.PLATEAU_ISO, blur.PLATEAU_ANISO), 1, 2),
    ):
        beta = p.beta[np.isin(p.kind, kinds)]
        assert lo <= beta.min() and hi - 0.1 < beta.max() < hi
        # A coin, not a uniform range.
        assert ((beta <= 1).mean() - 0.5) ** 2 < 0.25 / len(beta) * 20
    small = p.taps < 13
    assert math.pi / 3 <= p.omega[small].min() < 1.06
    assert math.pi / 5 <= p.omega[~small].min() < 0.64
    assert p.omega.max() < math.pi


def test_final_sinc_ignores_the_size_rule():
    n = 2000
    p = blur.sample(
        Draw(1, np.arange(n)).at('b'),
        np.ones(n, bool),
        None,
        sinc=1.0,
        omega=((math.pi / 3, math.pi),) * 2,
    )
    assert (p.kind == blur.SINC).all() and p.omega.min() >= math.pi / 3
