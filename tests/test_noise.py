"""Noise: tables against the true distributions, fields by address, three implementations."""

import hashlib

import numpy as np
import pytest
import scipy.stats
import torch

from degrade import canvas, noise
from degrade.draw import Draw

POWERS = [1, 2, 4, 8, 16, 32, 64, 128, 256]


def params(kind, gray, amount, number=0, seed=5, stream=2**63 + 7):
    return noise.Params(
        np.int64(kind),
        np.bool_(gray),
        np.float64(amount),
        np.uint64(seed),
        np.uint64(stream),
        np.int64(number),
    )


def stack(*ps):
    return noise.Params(*(np.array(f) for f in zip(*ps, strict=True)))


# ---- tables ----


def test_quantiles():
    z = noise.quantiles()
    assert z.shape == (65536,) and z.dtype == np.float32
    assert (
        hashlib.sha256(z.tobytes()).hexdigest()
        == '1cfbba1e07e34386a57626f82aeb43e6ed54ba70a3ea6b7d964dc66a841074a8'
    )
    assert (z == -z[::-1]).all() and (np.diff(z) > 0).all()
    assert np.abs(z - scipy.stats.norm.ppf((np.arange(65536) + 0.5) / 65536)).max() < 1e-6
    d = z.astype(np.float64)
    assert d.mean() == 0
    assert abs(d.std() - 1) < 4e-4
    assert abs((d**4).mean() - 3) < 0.01
    assert d.max() < 4.34


def test_laplace_quantiles():
    z = noise.quantiles(noise.LAPLACE)
    assert z.shape == (65536,)
    assert z.dtype == np.float32
    assert (z == -z[::-1]).all()
    assert (np.diff(z) > 0).all()
    assert np.abs(z - scipy.stats.laplace.ppf((np.arange(65536) + 0.5) / 65536)).max() < 1e-6
    assert abs(z.astype(np.float64).var() - 2) < 2e-3


@pytest.mark.parametrize('rate', [1, 15, 22, 30, 32])
def test_signed_quantiles(rate):
    """Poisson counts with a sign: every count as often as it is, to half of a 32,768th."""
    z = noise.quantiles(noise.SIGNED, rate)
    assert z.shape == (65536,)
    assert z.dtype == np.float32
    assert (z == -z[::-1]).all()
    assert (np.diff(z) >= 0).all()
    assert (z == np.rint(z)).all()
    share = np.bincount(np.abs(z).astype(int), minlength=300) / 65536
    true = scipy.stats.poisson.pmf(np.arange(300), rate)
    assert np.abs(np.cumsum(share) - np.cumsum(true)).max() <= 0.5 / 32768 + 1e-12
    assert abs(z.astype(np.float64).var() / (rate + rate**2) - 1) < 1e-3


def implied(V):
    """[256, 600] int64 masses, out of 2^24, that the tables give to each count at each level."""
    threshold, own, other = (t.reshape(256, 256).astype(np.int64) for t in noise.alias(V))
    mass, level = np.zeros((256, 600), np.int64), np.arange(256)[:, None]
    np.add.at(mass, (level, own), threshold)
    np.add.at(mass, (level, other), (1 << 16) - threshold)
    return mass


@pytest.mark.parametrize('V', POWERS)
def test_alias_tables_are_poisson(V):
    mass = implied(V)
    assert (mass.sum(1) == 1 << 24).all()
    rate = np.arange(256)[:, None] * V / 255
    count = np.arange(600)
    true = scipy.stats.poisson.pmf(count, rate)
    assert (np.abs(mass / 2**24 - true).sum(1) / 2).max() <= 2e-6
    assert mass[0, 0] == 1 << 24  # black has no noise
    first = np.maximum(np.rint(rate) - 128, 0).astype(np.int64)
    # Nothing is lost on the way to the tables.
    assert (
        np.take_along_axis(mass, first + np.arange(256), 1) == noise._poisson_masses(rate, first)
    ).all()


@pytest.mark.parametrize('count', range(1, 257))
def test_levels(count):
    assert noise.levels(count) == 2 ** int(np.ceil(np.log2(count)))


# ---- fields ----


def test_normal_field():
    z = noise.field(params(noise.GAUSSIAN, False, 1), 300, 200).astype(np.float64)
    n = z.size
    assert z.shape == (300, 200, 3)
    assert abs(z.mean()) < 4.5 / np.sqrt(n)
    assert abs(z.std() - 1) < 4.5 / np.sqrt(2 * n)
    for a, b in (z[1:], z[:-1]), (z[:, 1:], z[:, :-1]), (z[..., 1:], z[..., :-1]):
        assert abs((a * b).mean()) < 4.5 / np.sqrt(a.size)


@pytest.mark.parametrize('V', [1, 16, 128, 256])
@pytest.mark.parametrize('level', [0, 1, 3, 100, 255])
def test_poisson_field(V, level):
    counts = noise.poisson(
        params(noise.POISSON, False, 1, level), np.full((200, 150, 3), level, np.uint8), V
    ).astype(np.float64)
    rate, n = level * V / 255, counts.size
    assert abs(counts.mean() - rate) <= 4.5 * np.sqrt(rate / n)
    # The tolerance follows from Poisson's fourth moment.
    assert abs(counts.var() - rate) <= 4.5 * np.sqrt((rate + 2 * rate**2) / n) + 1e-9


@pytest.mark.parametrize('kind', [noise.GAUSSIAN, noise.POISSON])
@pytest.mark.parametrize('gray', [False, True])
def test_fields_depend_on_their_address_alone(kind, gray, photo):
    """Not on the batch, the sample's place in it, or the canvas around it."""
    sizes = [(31, 17), (40, 25), (31, 17)]
    pix = torch.full((3, 3, 50, 33), torch.nan)
    ps = [
        params(kind, gray, 0.1 if kind == noise.GAUSSIAN else 1.0, number)
        for number in (4, 9, 2**40)
    ]
    alone = []
    for i, (h, w) in enumerate(sizes):
        x = canvas.unit(canvas.nchw(photo(h, w, 1)))
        pix[i, :, :h, :w] = x[0]
        alone.append(noise.run_torch(canvas.of(x), stack(ps[i])).pix[0])
    out = noise.run_torch(canvas.Canvas(pix, np.array(sizes)), stack(*ps)).pix
    for i, (h, w) in enumerate(sizes):
        assert torch.equal(out[i, :, :h, :w], alone[i])
    assert not torch.equal(alone[0], alone[2])  # another sample, another field


def test_address_words_all_count():
    base = dict(number=1, seed=2, stream=3)
    fields = [
        noise.field(params(noise.GAUSSIAN, False, 1, **{**base, **other}), 64, 64).ravel()
        for other in (
            {},
            dict(number=2),
            dict(seed=3),
            dict(stream=4),
            dict(stream=2**63),
            dict(stream=2**63 + 1),
        )
    ]
    assert np.abs(np.corrcoef(fields) - np.eye(len(fields))).max() < 0.05


@pytest.mark.parametrize('kind, amount', [(noise.GAUSSIAN, 0.02), (noise.POISSON, 0.5)])
def test_gray_noise_is_the_same_on_all_channels(kind, amount):
    x = np.random.default_rng(0).uniform(0.4, 0.6, (40, 30, 3))
    for gray in True, False:
        p = params(kind, gray, amount)
        c = canvas.of(canvas.nchw(x.astype(np.float32)))
        ys = (
            noise.run_ref(x, p),
            *(canvas.hwc(noise.run_torch(c, stack(p), opencv).pix) for opencv in (False, True)),
        )
        for y in ys:
            n = y - x
            assert np.abs(n).max() > 0.01
            assert (np.abs(n - n[..., :1]).max() < 1e-6) == gray


def near_ties(x, gray):
    """[h, w] bool: where rounding the level of x [h, w, 3] may go either way in float32."""
    v = (x @ noise.LUMA)[..., None] * 255 if gray else x * 255
    return (np.abs(v - np.floor(v) - 0.5) < 1e-4).any(2)


@pytest.mark.parametrize('gray', [False, True])
@pytest.mark.parametrize(
    'kind, amount',
    [
        (noise.GAUSSIAN, 20 / 255),
        (noise.GAUSSIAN, 0),
        (noise.POISSON, 2.0),
        (noise.POISSON, 0.05),
        (noise.LAPLACE, 40 / 255),
        (noise.SIGNED, 15 / 255),
        (noise.SIGNED, 32 / 255),
    ],
)
def test_implementations_agree(kind, amount, gray, photo):
    for number, (h, w) in enumerate([(63, 17), (1, 1), (5, 90), (120, 100)]):
        u8 = photo(h, w, number)
        if number == 3:
            u8 = u8 // 16 * 16  # few levels
        x, p = u8 / 255.0, params(kind, gray, amount, number)
        expected = noise.run_ref(x, p)
        safe = ~near_ties(x, gray)
        assert safe.mean() > 0.9 and expected.min() >= 0 and expected.max() <= 1
        for opencv in False, True:
            y = canvas.hwc(noise.run_torch(canvas.of(canvas.nchw(u8)), stack(p), opencv).pix)
            assert y.dtype == np.float32 and np.abs((y - expected)[safe]).max() < 1e-6


def test_poisson_is_what_the_formula_says(photo):
    """The mean of many fields is the image, their variance scale^2 rate / V^2."""
    u8, scale = np.clip(photo(12, 10), 60, 180), 0.5
    ys = np.stack(
        [noise.run_ref(u8 / 255.0, params(noise.POISSON, False, scale, n)) for n in range(1500)]
    )
    V = noise.levels(len(np.unique(u8)))
    sd = scale * np.sqrt(u8 / 255 / V)
    assert np.abs((ys.mean(0) - u8 / 255) / (sd / np.sqrt(1500))).max() < 5
    assert abs((ys.var(0) / sd**2).mean() - 1) < 0.02


@pytest.mark.parametrize('top', [1, 40, 129, 256])
def test_level_count_of_a_large_image(top):
    """OpenCV's looks at the first rows first; the rest must not be forgotten."""
    level = np.zeros((100, 64, 3), np.uint8)
    level[:10, :64, 0] = np.arange(640).reshape(10, 64) % top
    for image in level, level[::-1].copy():
        assert noise.levels(noise._distinct(image)) == noise.levels(len(np.unique(image)))
    level[60:64, :64, 1] = np.arange(256).reshape(4, 64)
    assert noise.levels(noise._distinct(level)) == 256


@pytest.mark.parametrize('opencv', [False, True])
def test_none_is_the_identity(opencv, photo):
    x, p = canvas.unit(canvas.nchw(photo(9, 8))), params(noise.NONE, False, 1)
    assert torch.equal(noise.run_torch(canvas.of(x), stack(p), opencv).pix, x)
    assert (noise.run_ref(x.numpy(), p) == x.numpy()).all()


def test_draws():
    n = 10000
    on = np.arange(n) % 4 > 0
    d = Draw(3, np.arange(n))
    p = noise.sample(
        d.at('s'), on, None, kinds=(0.6, 0.4), sigma=(1, 20), scale=(0.05, 2), gray=0.3
    )
    assert (p.kind[~on] == noise.NONE).all()
    assert abs((p.kind[on] == noise.GAUSSIAN).mean() - 0.6) < 0.03
    assert abs(p.gray.mean() - 0.3) < 0.03
    g, q = p.amount[p.kind == noise.GAUSSIAN], p.amount[p.kind == noise.POISSON]
    assert 1 / 255 <= g.min() < 1.1 / 255
    assert 19.9 / 255 < g.max() < 20 / 255
    assert 0.05 <= q.min() < 0.06
    assert 1.99 < q.max() < 2
    assert (p.seed == 3).all() and len(set(p.stream)) == 1 and (p.number == d.samples).all()
    other = noise.sample(d.at('t'), on, None)
    assert other.stream[0] != p.stream[0]


def test_draws_of_additive_noise():
    n = 10000
    p = noise.sample(
        Draw(3, np.arange(n)).at('s'),
        np.ones(n, bool),
        None,
        kinds=(1, 0, 1, 1),
        sigma=(20, 40),
        laplace=(5, 10),
        rate=(15, 30),
        gray=0.0,
    )
    assert np.abs(np.bincount(p.kind, minlength=5) / n - np.array([0, 1, 0, 1, 1]) / 3).max() < 0.02
    assert not p.gray.any()
    amount = {k: 255 * p.amount[p.kind == k] for k in (noise.GAUSSIAN, noise.LAPLACE, noise.SIGNED)}
    assert 20 <= amount[noise.GAUSSIAN].min() < 20.1
    assert 5 <= amount[noise.LAPLACE].min() < 5.1
    assert 9.9 < amount[noise.LAPLACE].max() < 10
    rates, counts = np.unique(noise.rate(p)[p.kind == noise.SIGNED], return_counts=True)
    assert rates.tolist() == list(range(15, 31)) and counts.min() > 150
    with pytest.raises(ValueError, match='rate 33: there are tables for 1 to 32'):
        noise.sample(Draw(3, np.arange(1)), np.ones(1, bool), None, rate=(15, 33))


def test_a_tied_plane_is_shared_by_the_gray_samples_of_a_batch():
    d = Draw(3, np.arange(64), tied={'s/plane'}, batch=8)
    p = noise.sample(d.at('s'), np.ones(64, bool), None, gray=0.5)
    assert p.gray.any() and not p.gray.all()
    assert (p.number == np.where(p.gray, np.arange(64) // 8 * 8, np.arange(64))).all()
