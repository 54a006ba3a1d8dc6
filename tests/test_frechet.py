"""Fréchet distances against closed forms and scipy; features of a network that the user names."""

import math
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from errors import MetricError
from metrics import frechet
from metrics.frechet import Moments


def moments(*batches):
    m = Moments()
    for batch in batches:
        m.update(torch.as_tensor(batch))
    return m


def exact(mean, covariance):
    """Moments that are given, not those of a sample: rows at +- sqrt(n - 1) F."""
    values, vectors = np.linalg.eigh(covariance)
    factor = vectors * np.sqrt(np.clip(values, 0, None))
    n = 2 * len(mean)
    rows = np.concatenate([factor.T, -factor.T]) * math.sqrt((n - 1) / 2)
    return moments(rows + mean)


def random_covariance(rng, d, rank=None):
    x = rng.normal(size=(d, rank or 2 * d))
    return x @ x.T / x.shape[1]


# ---- moments ----


def test_moments_are_numpys_however_they_are_cut():
    x = np.random.default_rng(0).normal(size=(97, 7)) @ np.diag(np.arange(1, 8.0)) + 50
    whole, pieces = moments(x), moments(x[:1], x[1:40], x[40:40], x[40:])
    merged = moments(x[:33])
    merged.merge(moments(x[33:]))
    merged.merge(Moments())
    empty = Moments()
    empty.merge(merged)
    for m in whole, pieces, merged, empty:
        assert m.count == 97
        assert np.allclose(m.mean, x.mean(0), rtol=1e-13)
        # Measured: 2e-14.
        assert np.allclose(m.covariance, np.cov(x, rowvar=False), rtol=0, atol=1e-12)


def test_a_large_mean_costs_no_digits():
    """A spread of 1 about 1e7: sums of squares would have lost it to 1e14 * 1e-16 = 0.01."""
    x = np.random.default_rng(0).normal(size=(1000, 3))
    far = moments(*np.split(x + 1e7, 10))
    # Measured: 8e-11; the numbers themselves are rounded to 2e-9.
    assert np.allclose(far.covariance, np.cov(x, rowvar=False), rtol=0, atol=2e-9)


def test_wrong_features():
    with pytest.raises(ValueError, match='vectors'):
        moments(np.zeros((2, 3, 4)))
    with pytest.raises(MetricError, match='not a finite number'):
        moments(np.array([[1.0, np.nan]]))
    with pytest.raises(ValueError, match='3 and of 2'):
        moments(np.zeros((2, 3)), np.zeros((2, 2)))
    with pytest.raises(ValueError, match='covariance of 1 vectors'):
        _ = moments(np.zeros((1, 3))).covariance


# ---- the distance ----


def test_of_one_dimension():
    """(difference of means)^2 + (difference of deviations)^2"""
    a, b = exact(np.array([3.0]), np.array([[4.0]])), exact(np.array([-1.0]), np.array([[0.25]]))
    assert frechet.distance(a, b) == pytest.approx(16 + 1.5**2, rel=1e-12)


def test_of_covariances_that_commute():
    """With common eigenvectors: the squared differences of the roots of the eigenvalues."""
    rng = np.random.default_rng(1)
    basis = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    x, y = rng.uniform(0, 3, (2, 6))
    means = rng.normal(size=(2, 6))
    a, b = (exact(m, basis @ np.diag(v) @ basis.T) for m, v in zip(means, (x, y), strict=True))
    expected = ((means[0] - means[1]) ** 2).sum() + ((np.sqrt(x) - np.sqrt(y)) ** 2).sum()
    assert frechet.distance(a, b) == pytest.approx(expected, rel=1e-12)


def test_of_one_covariance_only_the_means_are_left():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(500, 20))
    shift = rng.normal(size=20)
    a, b = moments(x), moments(x + shift)
    assert frechet.distance(a, b) == pytest.approx((shift**2).sum(), rel=1e-10)
    # Measured: 7e-15.
    assert 0 <= frechet.distance(a, a) < 1e-12


def test_is_scipys():
    linalg = pytest.importorskip('scipy.linalg')
    rng = np.random.default_rng(3)
    a, b = (moments(rng.normal(size=(200, 16)) @ rng.normal(size=(16, 16))) for _ in range(2))
    root = linalg.sqrtm(a.covariance.numpy() @ b.covariance.numpy()).real
    expected = (a.mean - b.mean).square().sum().item() + np.trace(
        a.covariance.numpy() + b.covariance.numpy() - 2 * root
    )
    assert frechet.distance(a, b) == pytest.approx(expected, rel=1e-10)
    assert frechet.distance(b, a) == pytest.approx(frechet.distance(a, b), rel=1e-12)


def test_of_fewer_images_than_dimensions():
    """Covariances of rank 4 in 300 dimensions are those of the 9 that both live in."""
    rng = np.random.default_rng(4)
    small = rng.normal(size=(2, 5, 9))
    small[1] += 2
    basis = np.linalg.qr(rng.normal(size=(300, 9)))[0]
    inside = frechet.distance(*(moments(x) for x in small))
    outside = frechet.distance(*(moments(x @ basis.T) for x in small))
    # Measured: 1e-16 apart; roots of eigenvalues of the product are 3e-6 apart.
    assert outside == pytest.approx(inside, rel=1e-12)
    # A set that lies in one point.
    point = moments(np.tile(basis[:, 0], (3, 1)))
    other = moments(small[0] @ basis.T)
    expected = (other.mean - point.mean).square().sum() + other.covariance.trace()
    assert frechet.distance(point, other) == pytest.approx(expected.item(), rel=1e-12)


def test_what_has_no_distance():
    one, two = moments(np.zeros((1, 3))), moments(np.zeros((2, 3)))
    with pytest.raises(MetricError, match='1 and 2 images'):
        frechet.distance(one, two)
    with pytest.raises(ValueError, match='3 and of 4 dimensions'):
        frechet.distance(two, moments(np.zeros((2, 4))))


def test_too_few_images_are_said():
    assert frechet.warning(moments(np.zeros((4, 3)))) is None
    assert '3 images in 3 dimensions is biased' in frechet.warning(moments(np.zeros((3, 3))))


def test_the_bias_is_upwards():
    """Two samples of one Gaussian in 8 dimensions: 0 in truth, more the fewer there are."""
    rng = np.random.default_rng(5)
    means = [
        np.mean([frechet.distance(*map(moments, rng.normal(size=(2, n, 8)))) for _ in range(20)])
        for n in (6, 20, 200)
    ]
    # Measured: 8.7, 2.6, 0.24.
    assert means[0] > 2 * means[1] > 8 * means[2] > 0


# ---- features ----


class Channels(nn.Module):
    """Means of the channels."""

    def forward(self, x: Tensor) -> Tensor:
        return x.float().mean((2, 3))


class Inception(nn.Module):
    """With the argument of the StyleGAN family's."""

    def forward(self, x: Tensor, return_features: bool = False) -> Tensor:
        x = x.float().mean((2, 3))
        return x[:, :, None, None] if return_features else x.sum(1, keepdim=True)


class NoVectors(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.float()


class Convolution(nn.Module):
    """Takes no uint8."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def scripted(net, path):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', DeprecationWarning)
        torch.jit.script(net).save(str(path))
    return path


def pictures():
    shape = 4, 3, 20, 17
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, np.uint8))


@pytest.mark.parametrize('net', [Channels(), Inception()], ids=['plain', 'return_features'])
def test_features_of_a_file(net, tmp_path):
    x = pictures()
    found = frechet.extractor(scripted(net, tmp_path / 'net.pt'), 'cpu')(x)
    assert found.dtype == torch.float64
    assert torch.equal(found, x.float().mean((2, 3)).double())


def test_networks_that_do_not_fit(tmp_path):
    for net, reason in (
        (NoVectors(), r'returns \[4, 3, 20, 17\]'),
        (Convolution(), 'fails on uint8 pictures'),
    ):
        features = frechet.extractor(scripted(net, tmp_path / 'net.pt'), 'cpu')
        with pytest.raises(MetricError, match=f'net.pt {reason}'):
            features(pictures())


def test_files_that_are_no_networks(tmp_path):
    torch.save({'weight': torch.zeros(3)}, tmp_path / 'weights.pt')
    (tmp_path / 'text.pt').write_text('hello')
    for name, reason in (
        ('weights.pt', 'no TorchScript file'),
        ('text.pt', 'no TorchScript file'),
        ('none.pt', 'cannot be read'),
        ('.', 'a folder'),
    ):
        with pytest.raises(MetricError, match=reason):
            frechet.extractor(tmp_path / name, 'cpu')
