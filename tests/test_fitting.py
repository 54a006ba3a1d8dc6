"""Recipes fitted to pictures: estimators against what is known, the search against brute force."""

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from scipy import stats

import degrade
import synthetic
from degrade.draw import Draw
from errors import RunError
from tools import prepare
from tools.fitting import estimators, knobs, page, search, summary

SIDE = 128


def named(rgb):
    return dict(zip(estimators.NAMES, estimators.measure(rgb), strict=True))


@pytest.fixture(scope='module')
def face():
    return cv2.resize(synthetic.face(3, 512).image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)


# ---- estimators ----


@pytest.mark.parametrize('quality', [12, 30, 50, 66, 75, 88, 93])
def test_jpeg_quality_is_found_to_the_number(quality, face):
    rng = np.random.default_rng(quality)
    noisy = np.clip(face + rng.normal(0, 4, face.shape), 0, 255).astype(np.uint8)
    for picture in face, noisy:
        _, data = cv2.imencode('.jpg', picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
        assert named(cv2.imdecode(data, cv2.IMREAD_COLOR))['quality'] == quality


def test_without_jpeg_there_is_no_quality(face):
    rng = np.random.default_rng(0)
    noisy = np.clip(face + rng.normal(0, 8, face.shape), 0, 255).astype(np.uint8)
    _, data = cv2.imencode('.jpg', face, [cv2.IMWRITE_JPEG_QUALITY, 40])
    moved = cv2.imdecode(data, cv2.IMREAD_COLOR)[3:, 5:]
    for picture in face, noisy, np.ascontiguousarray(moved):
        assert named(picture)['quality'] == estimators.NO_JPEG


@pytest.mark.parametrize('sigma', [2, 5, 12, 25])
def test_noise_of_a_flat_picture_is_its_sigma(sigma):
    rng = np.random.default_rng(sigma)
    gray = np.clip(128 + rng.normal(0, sigma, (SIDE, SIDE, 1)), 0, 255) * np.ones(3)
    found = named(np.rint(gray).astype(np.uint8))
    assert abs(found['noise'] / sigma - 1) < 0.08 and found['chroma_noise'] < 0.6
    coloured = np.clip(128 + rng.normal(0, sigma, (SIDE, SIDE, 3)), 0, 255)
    found = named(np.rint(coloured).astype(np.uint8))
    luma = np.linalg.norm((0.299, 0.587, 0.114))
    assert abs(found['noise'] / (luma * sigma) - 1) < 0.08
    assert found['chroma_noise'] > 0.4 * sigma


def test_noise_below_jpeg_is_found_again():
    """Its coefficients are rounded to steps of a known table."""
    rng = np.random.default_rng(5)
    gray = np.clip(128 + rng.normal(0, 8, (256, 256, 1)), 0, 255) * np.ones(3)
    for quality in 60, 80:
        _, data = cv2.imencode(
            '.jpg', np.rint(gray).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, quality]
        )
        assert abs(named(cv2.imdecode(data, cv2.IMREAD_COLOR))['noise'] / 8 - 1) < 0.1


def stripes(sigma, amount=0.0):
    """Edges 32 pixels apart, blurred and sharpened."""
    x = np.where(np.arange(SIDE) // 32 % 2, 60.0, 190.0)[None, :, None] * np.ones((SIDE, SIDE, 3))
    x = cv2.GaussianBlur(x, (0, 0), sigma)
    x = x + amount * (x - cv2.GaussianBlur(x, (0, 0), 1.5))
    return np.clip(np.rint(x), 0, 255).astype(np.uint8)


@pytest.mark.parametrize('sigma', [1.0, 1.5, 2.0, 2.5])
def test_the_width_of_an_edge_is_its_sigma(sigma):
    found = named(stripes(sigma))
    assert abs(found['blur'] / sigma - 1) < 0.12 and abs(found['overshoot']) < 0.03


def test_halos_are_seen():
    found = [named(stripes(1.0, amount))['overshoot'] for amount in (0, 0.5, 1.0, 1.5)]
    assert found == sorted(found) and found[-1] > 0.15


def test_a_blur_of_one_direction_is_anisotropic():
    rng = np.random.default_rng(1)
    blocks = rng.integers(0, 2, (8, 8)).repeat(16, 0).repeat(16, 1)[..., None] * 120.0 + 60
    x = blocks * np.ones(3)
    both = np.rint(cv2.GaussianBlur(x, (0, 0), 1.5)).astype(np.uint8)
    one = np.rint(cv2.GaussianBlur(x, (0, 0), sigmaX=2.5, sigmaY=0.5)).astype(np.uint8)
    assert named(one)['anisotropy'] > named(both)['anisotropy'] + 0.4


def test_colours_are_their_formulas(face):
    found, x = named(face), face.astype(float)
    means = x.reshape(-1, 3).mean(0) + 1
    assert np.isclose(found['red'], np.log(means[0] / means[1]))
    assert np.isclose(found['blue'], np.log(means[2] / means[1]))
    assert np.isclose(found['saturation'], np.ptp(x, 2).mean())
    luma = x @ np.array([0.299, 0.587, 0.114])
    assert np.isclose(found['brightness'], luma.mean(), rtol=1e-5)
    assert np.isclose(found['contrast'], luma.std(), rtol=1e-5)


def test_subsampled_chroma_has_less_detail(face):
    rng = np.random.default_rng(4)
    noisy = np.clip(face + rng.normal(0, 12, face.shape), 0, 255).astype(np.uint8)
    found = {}
    for name, factor in zip(degrade.jpeg.SAMPLINGS, degrade.jpeg.OPENCV, strict=True):
        how = [cv2.IMWRITE_JPEG_QUALITY, 96, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor]
        _, data = cv2.imencode('.jpg', noisy, how)
        found[name] = named(cv2.imdecode(data, cv2.IMREAD_COLOR))
    assert found['420']['chroma_detail'] < found['422']['chroma_detail'] - 0.1
    assert found['422']['chroma_detail'] < found['444']['chroma_detail'] - 0.1
    assert found['422']['chroma_across'] < found['444']['chroma_across'] - 0.1


@pytest.mark.parametrize('value', [0, 128, 255])
def test_pictures_of_nothing_are_measured(value):
    assert np.isfinite(estimators.measure(np.full((40, 33, 3), value, np.uint8))).all()


# ---- knobs ----


@pytest.mark.parametrize('start', ['simple', 'realesrgan', 'gfpgan', 'ai6126_2022', 'codeformer'])
def test_what_is_set_is_what_is_drawn(start):
    """Draws of a range that was set lie in the part of the hull that it was set to."""
    recipe = degrade.recipe(start)
    assert len(knobs.of(recipe)) >= 3
    for knob in knobs.of(recipe):
        if isinstance(knob, knobs.Mixture):
            continue
        changed = knob.set(recipe, 0.3, 0.6, 0.7)
        params = degrade.sample(changed, Draw(1, np.arange(400)), (512, 512))
        own = knob.positions(changed, params)
        drawn = own[~np.isnan(own)]
        slack = 0.006 if knob.op is degrade.jpeg else 0.003  # of three digits, and whole numbers
        assert 0.3 - slack <= drawn.min() < 0.34 and 0.56 < drawn.max() <= 0.6 + slack
        if knob.shared(changed):
            assert abs((~np.isnan(own)).all(1).mean() - 0.7) < 0.08


def test_a_fitted_recipe_is_a_recipe_file(tmp_path):
    recipe = degrade.recipe('simple')
    for knob in knobs.of(recipe):
        if isinstance(knob, knobs.Mixture):
            recipe = knob.set(
                recipe, (0.5,) + (0.5 / (len(knob.names) - 1),) * (len(knob.names) - 1)
            )
        else:
            recipe = knob.set(recipe, 0.1, 0.9, 0.5)
    (tmp_path / 'own.toml').write_text(degrade.recipe_text.text(recipe))
    again = degrade.recipe(str(tmp_path / 'own.toml'))
    assert again.stages == recipe.stages


# ---- the search ----


def found_of(positions, values, real, first=None, window=(0.0, 1.0)):
    """The search for one range, of a number that is given."""
    return search._range(positions[:, None], first, values[:, None], real[:, None], window)


def test_a_range_is_found_through_a_noisy_estimator():
    rng = np.random.default_rng(1)
    positions = rng.random(1500)
    values = np.exp(positions) + rng.normal(0, 0.08, 1500)
    hidden = rng.uniform(0.3, 0.65, 600)
    found = found_of(positions, values, np.exp(hidden) + rng.normal(0, 0.08, 600))
    assert abs(found.low - 0.3) < 0.04 and abs(found.high - 0.65) < 0.04 and found.share == 1


def test_a_share_is_found_with_its_range():
    rng = np.random.default_rng(2)
    acts = rng.random(1500) < 0.75
    positions = np.where(acts, rng.random(1500), np.nan)
    values = np.where(acts, positions, 2.0) + rng.normal(0, 0.03, 1500)
    on = rng.random(600) < 0.4
    real = np.where(on, rng.uniform(0.2, 0.5, 600), 2.0) + rng.normal(0, 0.03, 600)
    found = found_of(positions, values, real, first=acts)
    assert abs(found.share - on.mean()) < 0.05
    assert abs(found.low - 0.2) < 0.05 and abs(found.high - 0.5) < 0.05


def test_two_kinds_are_told_apart():
    rng = np.random.default_rng(3)
    gray = rng.random(2000) < 0.5
    positions = rng.random(2000)
    values = np.where(gray, positions, positions / 3) + rng.normal(0, 0.01, 2000)
    mine, own = rng.random(600) < 0.7, rng.uniform(0.4, 0.8, 600)
    real = np.where(mine, own, own / 3) + rng.normal(0, 0.01, 600)
    found = found_of(positions, values, real, first=gray)
    assert abs(found.share - mine.mean()) < 0.05
    assert abs(found.low - 0.4) < 0.04 and abs(found.high - 0.8) < 0.04


def test_pictures_that_are_moved_are_those_that_would_be_made():
    """What a part of the window would measure, against measuring it."""
    rng = np.random.default_rng(4)

    def measured(positions):
        middle = positions.mean(1)
        noise = rng.normal(0, 0.05 + 0.1 * middle)
        return middle**2 + 0.5 * np.ptp(positions, 1) + noise

    wide = rng.uniform(0.2, 0.9, (4000, 2))
    edges, at = np.linspace(0.2, 0.9, 15), np.linspace(0, 1.2, 25)
    moved = search._moved(wide, measured(wide), edges, at)
    for k, (low, high) in enumerate(zip(*search._parts(edges), strict=True)):
        if k % 10 == 0:
            own = measured(rng.uniform(low, high, (20_000, 2)))
            # Numbers that vary less where they are smaller are known roughly only.
            assert np.abs(moved[k] - (own[:, None] < at).mean(0)).max() < 0.08


def test_what_is_expected_of_many_estimators():
    """Each is disturbed by what another one tells; what was not seen is judged as well."""
    rng = np.random.default_rng(5)
    draw, other = rng.random((2, 1200))
    clean = np.stack([draw + other, other**2 + rng.normal(0, 0.01, 1200), rng.random(1200)], 1)
    mine, real = summary.expected(draw[:800], np.ones(800, bool), clean[:800], clean[800:])
    for found, truth in (mine, draw[:800]), (real, draw[800:]):
        assert stats.spearmanr(found, truth).statistic > 0.98
    assert stats.spearmanr(clean[:, 0], draw).statistic < 0.75
    # Pictures like none of the synthetic ones stay among them.
    _, strange = summary.expected(draw, np.ones(1200, bool), clean, clean[:9] * 1000)
    assert (strange >= -0.3).all() and (strange <= 1.3).all()


def test_weights_of_kinds_are_found(monkeypatch):
    rng = np.random.default_rng(6)
    sampling = next(k for k in knobs.KNOBS if k.name == 'chroma of JPEG')

    def simulate(recipe, first, count):
        params = degrade.sample(recipe, Draw(1, np.arange(count)), (64, 64))
        chosen = sampling.chosen(recipe, params)
        return params, chosen[:, None] + rng.normal(0, 0.4, (count, 14)), []

    real = rng.choice(3, 500, p=(0.6, 0.1, 0.3))[:, None] + rng.normal(0, 0.4, (500, 14))
    recipe = degrade.recipe('realesrgan')
    found = search._mixture(sampling, recipe, real, simulate, 0, 900)
    weights = next(s for s in found.stages if s.op is degrade.jpeg).ranges['sampling']
    assert np.allclose(weights, (0.6, 0.1, 0.3), atol=0.06)


def test_too_few_pictures_that_show_a_stage(monkeypatch):
    recipe = knobs._changed(
        degrade.recipe('simple'), lambda s: s.name == 'blur', {'sinc': 0.95}, {}
    )
    faces = search.Faces([synthetic.face(0, 64).image], ThreadPoolExecutor(1), 0)
    with pytest.raises(RunError, match='blur: .* of 200 pictures show it, 24 are needed'):
        search.fitted(recipe, np.random.default_rng(0).random((30, 14)), faces, 200)


# ---- the page and the verb ----


def test_distances_are_kolmogorovs_and_smirnovs():
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(40, 3)), rng.integers(-1, 2, (70, 3)) * 0.7
    expected = [stats.ks_2samp(x, y).statistic for x, y in zip(a.T, b.T, strict=True)]
    assert np.allclose(page.distances(a, b), expected)


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    """LQ of strong noise and JPEG, and the faces."""
    home = tmp_path_factory.mktemp('fit')
    synthetic.write(home / 'hq', 6, first_seed=0, size=SIDE)
    (home / 'lq').mkdir()
    rng = np.random.default_rng(0)
    for i in range(24):
        face = synthetic.face(i % 6, SIDE).image
        small = cv2.resize(face, (32, 32), interpolation=cv2.INTER_AREA)
        noisy = np.clip(small + rng.normal(0, 20, small.shape), 0, 255).astype(np.uint8)
        cv2.imwrite(str(home / f'lq/{i}.png'), noisy[..., ::-1])
    return home


def test_the_verb_writes_a_recipe_and_a_page(pictures, tmp_path, capsys):
    out = tmp_path / 'mine.toml'
    start = tmp_path / 'start.toml'
    start.write_text(
        'extends = "simple"\nwithout = ["sharpen", "shift", "jitter", "speckle", "chroma"]\n'
    )
    command = (
        f'fit {pictures}/lq --data {pictures}/hq/images --from {start} --size 128 --count 200 '
        f'--out {out}'
    )
    assert prepare.main(command.split()) == 0
    said = capsys.readouterr().out
    assert '24 pictures are few' in said and 'mean  ' in said
    recipe = degrade.recipe(str(out))
    noise = next(stage for stage in recipe.stages if stage.name == 'noise')
    low, high = noise.ranges['amount']
    assert low > 1 and high > 9  # as in the pictures, of 20 grey levels
    text = out.with_suffix('.html').read_text()
    assert text.count('<img') == 4 and 'JPEG quality' in text and '[stages.noise]' in text
    assert cv2.imread(str(out.with_suffix('.png'))).shape[0] > 500
    # A recipe is the user's from now on.
    assert prepare.main(command.split()) == 2
    assert f'{out} is there already' in capsys.readouterr().err


@pytest.mark.parametrize(
    'more, what',
    [
        ('--from bicubic', 'bicubic has no stage whose ranges can be fitted'),
        ('--from simpel', "did you mean 'simple'"),
        ('--out {tmp_path}/x.txt', 'ends with .toml'),
        ('--size 130', 'multiple of 4'),
    ],
)
def test_what_cannot_be_fitted(more, what, pictures, tmp_path, capsys):
    command = f'fit {pictures}/lq --data {pictures}/hq/images --out {tmp_path}/x.toml '
    command += more.format(tmp_path=tmp_path)
    assert prepare.main(command.split()) == 2
    assert what in capsys.readouterr().err


def test_too_few_pictures(pictures, tmp_path, capsys):
    (tmp_path / 'few.txt').write_text('\n'.join(f'{pictures}/lq/{i}.png' for i in range(7)))
    command = f'fit {tmp_path}/few.txt --size 128 --out {tmp_path}/x.toml'
    assert prepare.main(command.split()) == 2
    assert 'a fit needs 20' in capsys.readouterr().err
