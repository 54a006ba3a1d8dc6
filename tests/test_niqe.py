"""NIQE against the figures of pyiqa 0.1.16, scipy and what the paper says of it.

The outsider was given the same pictures and, where a model is needed, the one of `plain`. Its table
of shapes is in float32: features differ by 7e-7 at most, scores by 6e-7 of 22.
"""

import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch
from scipy.ndimage import correlate, gaussian_filter
from scipy.special import gamma

import synthetic
from errors import MetricError
from metrics import niqe

# Means over the blocks of texture(seed).
# fmt: off
OUTSIDER = {
    1: (  # grey
        3.725249986, 1.28589647, 1.036583349, 0.027134625, 0.394463443, 0.422870451, 1.04233333,
        0.024297029, 0.399524254, 0.42514669, 1.017000005, -0.022956564, 0.413108961, 0.389560516,
        1.01516666, -0.026980629, 0.415178734, 0.387623223, 3.349166691, 1.2050342, 1.009750004,
        0.071127675, 0.317131864, 0.389352976, 0.992416655, 0.068352582, 0.313703646, 0.381381591,
        0.996916682, -0.019584728, 0.359409602, 0.340192902, 0.978750005, -0.027777334, 0.354308065,
        0.327336213,
    ),
    3: (  # coloured
        3.546916644, 1.248018787, 1.024666687, 0.018083921, 0.374680293, 0.39337507, 1.030583322,
        0.021596688, 0.375437854, 0.397926109, 0.996916657, -0.02612573, 0.385556509, 0.359460602,
        0.99908335, -0.026872445, 0.386479422, 0.359738122, 3.404666642, 1.173424607, 1.00516668,
        0.068021833, 0.299636692, 0.36835848, 1.014583334, 0.062858976, 0.304698163, 0.368741617,
        0.976250008, -0.021102807, 0.33173204, 0.311446209, 0.987083346, -0.022349718, 0.339456937,
        0.317424029,
    ),
}
SCORES = {1: 22.593336846558667, 3: 22.35078361336444}
# fmt: on


def texture(seed, h=300, w=390):
    """[3, h, w] uint8 noise of five octaves, the same everywhere; odd seeds above 1 are coloured"""
    n = 3 if seed > 1 else 1
    total = np.zeros((h, w, n))
    for octave in range(5):
        s = 2**octave
        rows, columns = h // s + 1, w // s + 1
        raw = np.random.PCG64(100 * seed + octave).random_raw(rows * columns * n)
        noise = (raw >> 56).astype(float).reshape(rows, columns, n)
        total += noise.repeat(s, 0).repeat(s, 1)[:h, :w]
    image = np.broadcast_to((total / 5).astype(np.uint8), (h, w, 3))
    return tensor(image)


def tensor(image):
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def plain():
    """A model that can be written down."""
    return niqe.Model(torch.arange(36).double() / 36, torch.eye(36).double() / 10, 'plain')


@pytest.fixture(scope='module')
def faces():
    return [synthetic.face(seed).image for seed in range(3)]


@pytest.fixture(scope='module')
def model(faces):
    # Of so few, all blocks are needed.
    return niqe.fit((tensor(face) for face in faces), sharp=0.0)


# ---- against outsiders ----


@pytest.mark.parametrize('seed', [1, 3])
def test_features_and_scores_are_the_outsiders(seed):
    image = texture(seed)
    found = niqe.features(image)
    assert found.shape == (12, 36) and found.dtype == torch.float64
    # Measured: 3.5e-7 at most in one block.
    assert found.mean(0).tolist() == pytest.approx(OUTSIDER[seed], abs=1e-6)
    assert niqe.score(image, plain()) == pytest.approx(SCORES[seed], abs=2e-6)


def test_a_block_is_the_papers_formulas():
    """Equations 1 to 8 written out with scipy, of the first scale of one block."""
    image = texture(1, 96, 96)
    luma = image[0].numpy().astype(float)
    window = np.exp(-(np.arange(-3, 4) ** 2) / (2 * (7 / 6) ** 2))
    window = np.outer(window, window) / window.sum() ** 2
    mean = correlate(luma, window, mode='nearest')
    deviation = np.sqrt(np.abs(correlate(luma**2, window, mode='nearest') - mean**2))
    x = (luma - mean) / (deviation + 1)

    def fitted(v):
        left, right = np.sqrt((v[v < 0] ** 2).mean()), np.sqrt((v[v > 0] ** 2).mean())
        g = left / right
        r = np.abs(v).mean() ** 2 / (v**2).mean() * (g**3 + 1) * (g + 1) / (g**2 + 1) ** 2
        shapes = np.arange(200, 10001) / 1000
        ratios = gamma(2 / shapes) ** 2 / gamma(1 / shapes) / gamma(3 / shapes)
        a = shapes[np.abs(ratios - r).argmin()]
        width = np.sqrt(gamma(1 / a) / gamma(3 / a))
        return a, left * width, right * width

    a, left, right = fitted(x)
    expected = [a, (left + right) / 2]
    for step in (0, 1), (1, 0), (1, 1), (1, -1):
        a, left, right = fitted(x * np.roll(x, step, (0, 1)))
        expected += [a, (right - left) * gamma(2 / a) / gamma(1 / a), left, right]
    # Measured: 6e-14.
    assert niqe.features(image)[0, :18].tolist() == pytest.approx(expected, abs=1e-11)


def test_halving_is_imresize():
    """Matlab's definition, a pixel at a time: cubic of twice the width, mirrored borders."""
    x = np.random.default_rng(0).uniform(0, 255, (12, 16))

    def cubic(t):
        t = abs(t)
        if t <= 1:
            return 1.5 * t**3 - 2.5 * t**2 + 1
        return -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2 if t <= 2 else 0.0

    def halved(row):
        out, n = [], len(row)
        for i in range(n // 2):
            centre = 2 * i + 0.5
            places = range(2 * i - 5, 2 * i + 7)
            weights = [cubic((p - centre) / 2) for p in places]
            values = [row[p if 0 <= p < n else -1 - p if p < 0 else 2 * n - 1 - p] for p in places]
            out.append(np.dot(weights, values) / sum(weights))
        return out

    expected = np.apply_along_axis(halved, 1, np.apply_along_axis(halved, 0, x))
    # Measured: 9e-14.
    assert np.allclose(niqe._halved(torch.from_numpy(x)), expected, atol=1e-11, rtol=0)


@pytest.mark.parametrize('shape', [0.7, 1.0, 2.0, 4.0])
def test_the_shape_of_a_known_distribution_is_found(shape):
    """Generalised Gaussians as powers of a gamma variable, of widths 2 and 3."""
    rng = np.random.default_rng(1)
    size = rng.gamma(1 / shape, 1, (4, 300, 300)) ** (1 / shape)
    # A side is met in proportion to its width.
    right = rng.random(size.shape) < 0.6
    x = torch.from_numpy(np.where(right, 3 * size, -2 * size))
    for got, wanted in zip(niqe._fitted(x), (shape, 2, 3), strict=True):
        # Measured: 2.5 % at most (a width, shape 0.7), of 90,000 values each.
        assert got.tolist() == pytest.approx(4 * [wanted], rel=0.04)


# ---- what the figure means ----


def test_worse_pictures_are_farther_away(model):
    """A face that the model has not seen, and the same spoiled: 3.6, 17.9 and 28.7."""
    face = synthetic.face(20).image
    own = niqe.score(tensor(face), model)
    noise = np.random.default_rng(0).normal(0, 20, face.shape)
    blurred = gaussian_filter(face, (3, 3, 0))
    noisy = np.clip(face + noise, 0, 255).astype(np.uint8)
    assert 0 < own < niqe.score(tensor(blurred), model) / 3
    assert own < niqe.score(tensor(noisy), model) / 3


def test_only_sharp_blocks_make_the_model():
    """The right half of each picture is a weaker texture: the model is that of the left halves."""
    left = [texture(seed)[:, :288, :192] for seed in range(1, 20)]
    both = [torch.cat([x, 96 + x // 4], 2) for x in left]
    alone, mixed = niqe.fit(left, sharp=0.5), niqe.fit(both, sharp=0.5)
    all_of_them = niqe.fit(both, sharp=0.0)
    # Blocks along the middle see over it: 0.004; with those of the right half 0.107.
    assert torch.allclose(alone.mean, mixed.mean, atol=0.01)
    assert not torch.allclose(alone.mean, all_of_them.mean, atol=0.05)
    assert alone.note == 'fitted on 114 blocks'


def test_the_model_is_mean_and_covariance():
    images = [texture(seed) for seed in range(1, 6)]
    model = niqe.fit(images, sharp=0.0, note='textures')
    rows = torch.cat([niqe.features(image) for image in images]).numpy()
    assert np.allclose(model.mean, rows.mean(0), rtol=1e-12)
    assert np.allclose(model.covariance, np.cov(rows, rowvar=False), atol=1e-14)
    assert model.note == 'textures'
    # The score of equation 10, written out.
    own = niqe.features(images[0]).numpy()
    apart = own.mean(0) - rows.mean(0)
    both = (np.cov(own, rowvar=False) + np.cov(rows, rowvar=False)) / 2
    expected = np.sqrt(apart @ np.linalg.pinv(both) @ apart)
    assert niqe.score(images[0], model) == pytest.approx(expected, rel=1e-9)


def test_flat_places():
    """A flat block has no statistics and is left out; a flat picture has no figure."""
    image = texture(1, 192, 192)
    # A margin, so that the windows of the first block see nothing else.
    image[:, :112, :112] = 255
    found = niqe.features(image)
    assert found.isnan().all(1).tolist() == [True, False, False, False]
    assert found.isnan().any(1).tolist() == [True, False, False, False]
    assert niqe.score(image, plain()) > 0
    flat = torch.full((3, 96, 200), 77, dtype=torch.uint8)
    assert niqe.features(flat).isnan().all() and niqe.features(flat).shape == (2, 36)
    assert np.isnan(niqe.score(flat, plain()))
    with pytest.raises(MetricError, match='0 sharp blocks'):
        niqe.fit([flat])


def test_what_is_left_over_is_left_out():
    image = texture(1, 200, 300)
    assert torch.equal(niqe.features(image), niqe.features(image[:, :192, :288]))
    with pytest.raises(ValueError, match='no block of 96 x 96'):
        niqe.features(image[:, :95])
    for wrong in image.float(), image[0], image[:2]:
        with pytest.raises(ValueError, match='uint8 is needed'):
            niqe.features(wrong)


def test_one_block_has_a_figure():
    assert 0 < niqe.score(texture(1, 96, 96), plain()) < 100


# ---- files ----


def test_a_model_comes_back_from_its_file(model, tmp_path):
    path = tmp_path / 'faces.safetensors'
    niqe.save(path, model._replace(note='3 drawn faces'))
    back = niqe.load(path)
    assert torch.equal(back.mean, model.mean) and torch.equal(back.covariance, model.covariance)
    assert back.note == '3 drawn faces' and path.stat().st_size <= 12 << 10


def test_the_published_models_form_is_read(model, tmp_path):
    path = tmp_path / 'published.npz'
    np.savez(
        path,
        mu_pris_param=model.mean[None].numpy(),
        cov_pris_param=model.covariance.numpy(),
        gaussian_window=np.zeros((7, 7)),
    )
    back = niqe.load(path)
    assert torch.equal(back.mean, model.mean) and torch.equal(back.covariance, model.covariance)
    assert back.note == niqe.PUBLISHED == 'published'


def wrong_files(folder):
    good = {'mean': torch.zeros(36).double(), 'covariance': torch.eye(36).double()}
    note = {'niqe': 'x'}
    save = safetensors.torch.save
    yield 'no-note', save(good), 'other weights'
    yield 'short', save(good | {'mean': torch.zeros(35)}, note), 'no 36 features'
    yield 'nan', save(good | {'mean': torch.full((36,), torch.nan)}, note), 'not finite'
    huge = {'covariance': 1e308 * good['covariance']}
    yield 'huge', save(good | huge, note), 'huge'
    yield 'negative', save(good | {'covariance': -good['covariance']}, note), 'no covariance'
    skewed = good['covariance'].clone()
    skewed[0, 1] = 0.5
    yield 'skewed', save(good | {'covariance': skewed}, note), 'no covariance'
    yield 'text', b'hello', 'damaged'
    yield 'empty', b'', '0 bytes'
    yield 'zip', b'PK\x03\x04 cut short', 'zip'
    np.savez(folder / 'names.npz', mean=np.zeros(36))
    yield 'names', (folder / 'names.npz').read_bytes(), 'mu_pris_param'
    objects = np.array([{}], dtype=object)
    np.savez(folder / 'pickle.npz', mu_pris_param=objects, cov_pris_param=objects)
    yield 'pickle', (folder / 'pickle.npz').read_bytes(), 'allow_pickle'
    with zipfile.ZipFile(folder / 'bomb.npz', 'w', zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr('mu_pris_param.npy', bytes(4 << 20))
    yield 'bomb', (folder / 'bomb.npz').read_bytes(), 'larger inside'


def test_damaged_files_are_named(model, tmp_path):
    """Whatever byte is wrong, or wherever it ends: a model, or an error that names it."""
    niqe.save(tmp_path / 'a', model)
    np.savez(tmp_path / 'b', mu_pris_param=model.mean, cov_pris_param=model.covariance)
    rng = np.random.default_rng(0)
    path = tmp_path / 'damaged'
    refused = 0
    for whole in (tmp_path / 'a').read_bytes(), (tmp_path / 'b.npz').read_bytes():
        for _ in range(100):
            data = bytearray(whole)
            # Of headers and directories more often than of the numbers.
            at = rng.choice([rng.integers(400), rng.integers(len(data)), -rng.integers(1, 400)])
            data[at] = rng.integers(256)
            path.write_bytes(data[: rng.choice([len(data), rng.integers(len(data))])])
            try:
                assert niqe.load(path).mean.shape == (36,)
            except MetricError as error:
                assert 'damaged: no model of NIQE' in str(error)
                refused += 1
    assert refused > 100


def test_wrong_files_are_named(tmp_path):
    for name, data, reason in wrong_files(tmp_path):
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(MetricError, match=f'{name}: no model of NIQE .*{reason}'):
            niqe.load(path)
    with pytest.raises(MetricError, match='none: no model of NIQE'):
        niqe.load(tmp_path / 'none')
