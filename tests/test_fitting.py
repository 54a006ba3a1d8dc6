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
from tools.fitting import estimators, knobs, page, pool, search, summary

SIDE = 128


def named(rgb):
    return dict(
        zip(estimators.NAMES, estimators.measure(rgb)[: len(estimators.NAMES)], strict=True)
    )


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


def best_of(places, group, values, real, groups=1):
    """The best of one knob, by a number that is given."""
    pictures = pool.Pool([pool.Seen(places, group, groups)], np.zeros((1, 1)), real[:, None])
    even = pool.Found(weights=np.ones(groups) / groups)
    return pool.best(pictures, 0, [(values, real)], [even], even)


def test_a_range_is_found_through_a_noisy_number():
    rng = np.random.default_rng(1)
    places = rng.random((1500, 1))
    values = np.exp(places[:, 0]) + rng.normal(0, 0.08, 1500)
    hidden = rng.uniform(0.3, 0.65, 600)
    real = np.exp(hidden) + rng.normal(0, 0.08, 600)
    found = best_of(places, np.zeros(1500, int), values, real)
    assert abs(found.low - 0.3) < 0.04 and abs(found.high - 0.65) < 0.04


@pytest.mark.parametrize('share', [0.4, 0.95])
def test_a_share_is_found_with_its_range(share):
    rng = np.random.default_rng(2)
    acts = rng.random(1500) < 0.75
    places = np.where(acts, rng.random(1500), np.nan)[:, None]
    values = np.where(acts, places[:, 0], 2.0) + rng.normal(0, 0.03, 1500)
    on = rng.random(600) < share
    real = np.where(on, rng.uniform(0.2, 0.5, 600), 2.0) + rng.normal(0, 0.03, 600)
    found = best_of(places, np.where(acts, 0, 1), values, real, groups=2)
    assert abs(found.weights[0] - on.mean()) < 0.06
    assert abs(found.low - 0.2) < 0.05 and abs(found.high - 0.5) < 0.05


def test_two_kinds_are_told_apart_among_what_acts():
    rng = np.random.default_rng(3)
    gray, acts = rng.random((2, 3000)) < [[0.5], [0.8]]
    places = rng.random(3000)
    values = np.where(gray, places, places / 3) + rng.normal(0, 0.01, 3000)
    values = np.where(acts, values, -1.0)
    mine, own = rng.random(600) < 0.7, rng.uniform(0.4, 0.8, 600)
    real = np.where(mine, own, own / 3) + rng.normal(0, 0.01, 600)
    real = np.where(rng.random(600) < 0.8, real, -1.0)
    places = np.where(acts, places, np.nan)[:, None]
    group = np.where(acts, np.where(gray, 0, 1), -1)
    found = best_of(places, group, values, real, groups=2)
    assert abs(found.weights[0] - mine.mean()) < 0.05
    assert abs(found.low - 0.4) < 0.06 and abs(found.high - 0.8) < 0.06


def test_weights_of_kinds_are_found():
    rng = np.random.default_rng(6)
    group = rng.integers(-1, 3, 2000)
    values = group + rng.normal(0, 0.3, 2000)
    real = rng.choice(3, 500, p=(0.6, 0.1, 0.3)) + rng.normal(0, 0.3, 500)
    real = np.where(rng.random(500) < 0.75, real, -1.0)
    found = best_of(None, group, values, real, groups=3)
    assert np.allclose(found.weights, (0.6, 0.1, 0.3), atol=0.06)


def test_ranges_that_disturb_each_other_are_found_together():
    """Both numbers move with both draws, and the second range is half of what its window is."""
    rng = np.random.default_rng(7)

    def measured(a, b):
        noise = rng.normal(0, 0.03, (2, len(a)))
        return np.stack([a + 0.7 * b, b + 0.5 * a * a], 1) + noise.T

    draws = rng.random((2, 3000))
    real = measured(rng.uniform(0.2, 0.6, 800), rng.uniform(0.4, 0.9, 800))
    seen = [pool.Seen(d[:, None], np.zeros(3000, int), 1) for d in draws]
    pictures = pool.Pool(seen, measured(*draws), real)
    found = [pool.Found(), pool.Found()]
    for _ in range(4):
        for k in range(2):
            found[k] = pool.best(pictures, k, pictures.numbers(k), found, pool.Found())
    assert np.allclose(found[0][:2], (0.2, 0.6), atol=0.05)
    assert np.allclose(found[1][:2], (0.4, 0.9), atol=0.05)


def test_pictures_that_are_moved_are_those_that_would_be_made():
    """What a part of the window would measure, against measuring it; another knob moves, too."""
    rng = np.random.default_rng(4)

    def measured(places, other):
        middle = places.mean(1)
        noise = rng.normal(0, 0.05 + 0.1 * middle)
        return middle**2 + 0.5 * np.ptp(places, 1) + 0.3 * other + noise

    places, other = rng.random((4000, 2)), rng.random(4000)
    ends = np.array([0, 0.2, 0.5, 0.8]), np.array([1, 0.4, 1, 0.9])
    at, every = np.linspace(0, 1.5, 25), np.ones(4000, bool)
    own = pool.Seen(places, np.zeros(4000, int), 1)
    # The other one is brought to half of its window.
    before, after = other[:, None], 0.5 * other[:, None]
    below = pool._below_each(
        measured(places, other), own, every, before, after, np.ones(4000), ends, at
    )
    for row, low, high in zip(below, *ends, strict=True):
        made = measured(rng.uniform(low, high, (50_000, 2)), rng.uniform(0, 0.5, 50_000))
        assert np.abs(row - (made[:, None] < at).mean(0)).max() < 0.04


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


@pytest.mark.parametrize('start', ['simple', 'realesrgan'])
def test_what_a_pool_has_drawn(start):
    """Places fill the window, groups have their shares, and what is spared has no place."""
    recipe = degrade.recipe(start)
    for knob in knobs.of(recipe):
        weights = (0.4, 0.3, 0.3) if isinstance(knob, knobs.Mixture) else (0.6, 0.4)
        state = search.State(0.2, 0.7, weights)
        wide = search._set(recipe, [knob], [state])
        params = degrade.sample(wide, Draw(1, np.arange(900)), (512, 512))
        seen = search._seen(knob, state, wide, params)
        shares = np.bincount(seen.group[seen.group >= 0], minlength=seen.groups) / 900
        if seen.places is not None:
            assert np.isfinite(seen.places[seen.group == 0]).any(1).all()
            assert np.isnan(seen.places[seen.group < 0]).all()
            assert -0.02 < np.nanmin(seen.places) < 0.1 and 0.9 < np.nanmax(seen.places) < 1.02
        if seen.groups == 2:
            assert abs(shares[0] / shares.sum() - 0.6) < 0.06
        # Weights bring the groups to what is found, and leave what is spared.
        found = pool.Found(weights=np.arange(1, seen.groups + 1) / sum(range(seen.groups + 1)))
        weights = seen.weights(found)
        sums = [weights[seen.group == g].sum() for g in range(seen.groups)]
        assert np.allclose(np.array(sums) / sum(sums), found.weights)
        assert (weights[seen.group < 0] == 1).all()


def test_what_says_nothing_leaves_a_range_where_it_stood():
    rng = np.random.default_rng(8)
    places, values, real = rng.random((500, 1)), rng.random(500), rng.random(400)
    pictures = pool.Pool([pool.Seen(places, np.zeros(500, int), 1)], values[:, None], real[:, None])
    for low, high in (0.2, 0.8), (0.5, 0.9):
        stood = pool.Found(low, high)
        found = pool.best(pictures, 0, [(values, real)], [stood], stood)
        assert abs(found.low - low) < 0.12 and abs(found.high - high) < 0.12


def test_what_is_never_chosen_has_no_part():
    below = pool._below(np.ones(3), np.zeros(3), np.array([0.0, 2.0]))
    assert (below == 0).all()


def test_windows_close_around_what_is_found():
    start = search.State(0.4, 0.6, (1.0, 0.0))
    window = start.wide(1.0, start)
    assert np.allclose(window[:2], (0.2, 0.8)) and window.weights == (0.75, 0.25)
    state = window.part(pool.Found(0.25, 0.75, np.array([0.913, 0.087])))
    assert np.allclose(state[:2], (0.35, 0.65)) and state.weights == (0.91, 0.09)
    assert np.allclose(state.wide(0.1, state)[:2], (0.32, 0.68))
    # Not below half of what the window was, and not beyond the hull.
    narrow = search.State(0.5, 0.52, (1.0,))
    assert np.allclose(narrow.wide(0.1, window)[:2], (0.36, 0.66))
    assert search.State(0.0, 1.0, (1.0,)).wide(1.0, start)[:2] == (0.0, 1.0)
    # Back to where it stands.
    again = window.part(search._inside(state, window))
    assert np.allclose(again[:2], state[:2]) and again.weights == state.weights


def test_too_few_pictures_that_show_a_stage():
    recipe = knobs._changed(
        degrade.recipe('simple'), lambda s: s.name == 'blur', {'sinc': 0.99}, {}
    )
    with ThreadPoolExecutor(1) as threads:
        faces = search.Faces([synthetic.face(0, 64).image], threads, 0)
        with pytest.raises(RunError, match='blur: .* of 1000 pictures show it, 20 are needed'):
            search.fitted(recipe, np.random.default_rng(0).random((30, 14)), faces, 1000)


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
        noisy = np.clip(small + rng.normal(0, 20, (32, 32, 1)), 0, 255).astype(np.uint8)
        cv2.imwrite(str(home / f'lq/{i}.png'), noisy[..., ::-1])
    return home


def test_the_verb_writes_a_recipe_and_a_page(pictures, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(search, 'MARGINS', (1.0, 0.5, 0.25))
    monkeypatch.setattr(search, 'SWEEPS', 2)
    out = tmp_path / 'mine.toml'
    start = tmp_path / 'start.toml'
    start.write_text(
        'extends = "simple"\n'
        'without = ["sharpen", "shift", "jitter", "speckle", "chroma", "jpeg"]\n'
    )
    command = (
        f'fit {pictures}/lq --data {pictures}/hq/images --from {start} --size 128 --count 1000 '
        f'--out {out}'
    )
    assert prepare.main(command.split()) == 0
    said = capsys.readouterr().out
    assert '24 pictures are few' in said and 'mean  ' in said
    recipe = degrade.recipe(str(out))
    noise = next(stage for stage in recipe.stages if stage.name == 'noise')
    low, high = noise.ranges['amount']
    # As in the pictures, of 20 grey levels; the recipe began with 0 to 10.
    assert low > 5 and 15 < high < 30
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
