"""Hashes of faces against scipy, clusters of them against all pairs, copies that are found."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.fft import dctn

import synthetic
from faces import duplicates

PHOTOS = Path(os.environ.get('FACES_DATA') or '/nowhere', 'png')


def distance(a, b):
    return (a ^ b).bit_count()


def saved(face, quality):
    _, data = cv2.imencode('.jpg', face, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return cv2.imdecode(data, cv2.IMREAD_COLOR)


def moved(face, x, y):
    matrix = np.array([[1, 0, x], [0, 1, y]], float)
    return cv2.warpAffine(face, matrix, (512, 512), borderMode=cv2.BORDER_REFLECT_101)


def half(face):
    return cv2.resize(face, (256, 256), interpolation=cv2.INTER_AREA)


def copies(face):
    """What copies go through, once each."""
    return [
        saved(face, 30),
        saved(face, 90),
        half(face),
        cv2.GaussianBlur(face, (0, 0), 2),
        np.clip(face * 1.2, 0, 255).astype(np.uint8),
        moved(face, 5, 2),
        moved(face, -3, -5),
        saved(half(moved(face, 4, 4)), 50),
    ]


# ---- hash ----


@pytest.mark.parametrize('seed', range(3))
def test_a_bit_is_a_frequency_above_the_median(seed):
    face = synthetic.face(seed, 192).image
    gray = cv2.cvtColor(face, cv2.COLOR_RGB2GRAY).astype(float)
    small = np.rint(gray.reshape(64, 3, 64, 3).mean((1, 3)))
    part = dctn(small, norm='ortho')[1:17, 1:17]
    margin = part - np.median(part)
    bits = np.array(list(f'{duplicates.phash(face):0256b}'), int).reshape(16, 16)
    # Sums of cosines are rounded either way.
    sure = np.abs(margin) > 1e-5
    assert sure.sum() >= 254 and (bits == (margin > 0))[sure].all()


def test_light_and_size_hardly_matter_and_another_face_does():
    faces = [synthetic.face(seed, 128).image for seed in range(4)]
    hashes = [duplicates.phash(face) for face in faces]
    for face, own in zip(faces, hashes, strict=True):
        darker = np.rint(face * 0.6 + 30).astype(np.uint8)
        assert distance(own, duplicates.phash(darker)) < 12
        smaller = cv2.resize(face, (64, 64), interpolation=cv2.INTER_AREA)
        assert distance(own, duplicates.phash(smaller)) < 8
    others = [distance(a, b) for i, a in enumerate(hashes) for b in hashes[:i]]
    assert min(others) > duplicates.MOST


def test_a_picture_of_nothing_has_the_hash_of_nothing():
    for level in (0, 90, 255):
        assert duplicates.phash(np.full((512, 512, 3), level, np.uint8)) == 0


@pytest.mark.skipif(not PHOTOS.is_dir(), reason='FACES_DATA/png is not here')
def test_copies_of_real_faces_are_found_and_single_ones_are_not():
    faces = [cv2.imread(str(path)) for path in sorted(PHOTOS.glob('*.png'))[::4]]
    hashes = [duplicates.phash(face) for face in faces]
    apart = [
        distance(own, duplicates.phash(copy))
        for face, own in zip(faces, hashes, strict=True)
        for copy in copies(face)
    ]
    assert (np.array(apart) <= duplicates.MOST).mean() >= 0.98
    labels = duplicates.clusters(duplicates.words(hashes), duplicates.MOST)
    assert (labels == np.arange(len(faces))).all()


def test_words_are_the_bits_in_their_order():
    rng = np.random.default_rng(0)
    expected = rng.integers(0, 2**64, (5, 4), np.uint64)
    hashes = [sum(int(word) << 64 * (3 - i) for i, word in enumerate(row)) for row in expected]
    assert (duplicates.words(hashes) == expected).all()
    assert duplicates.words([]).shape == (0, 4)


# ---- clusters ----


def by_all_pairs(hashes, most):
    """Labels by every pair's distance: the least number that a chain of near ones leads to."""
    rows = hashes.reshape(len(hashes), -1)
    near = np.bitwise_count(rows[:, None] ^ rows[None]).sum(2, dtype=int) <= most
    labels = np.arange(len(rows))
    while True:
        lower = np.array([labels[row].min() for row in near])
        if (lower == labels).all():
            return labels
        labels = lower


def flipped(rows, bits, rng):
    """The hashes with so many of their bits changed, others in each."""
    rows = rows.copy()
    for row in rows:
        for bit in rng.choice(64 * len(row), bits, replace=False):
            row[bit // 64] ^= np.uint64(1) << np.uint64(bit % 64)
    return rows


@pytest.mark.parametrize('most', [0, 1, 2, 3, 5, 8, 13, 24, 48])
@pytest.mark.parametrize('number_of_words', [1, 2, 4])
def test_clusters_are_those_of_all_pairs(most, number_of_words):
    rng = np.random.default_rng(most + 100 * number_of_words)
    for n in (1, 2, 7, 150, 400):
        rows = rng.integers(0, 2**64, (n, number_of_words), np.uint64)
        # Some around others, at distances on both sides of the limit, and chains of them.
        for at in range(n // 4 + 1, n):
            bits = int(rng.integers(max(most - 2, 0), most + 3))
            rows[at] = flipped(rows[None, rng.integers(at)], bits, rng)[0]
        labels = duplicates.clusters(rows, most)
        assert (labels == by_all_pairs(rows, most)).all()
        if number_of_words == 1:
            assert (duplicates.clusters(rows[:, 0], most) == labels).all()


def test_a_long_comparison_says_how_far_it_is():
    draw = np.random.default_rng(0)
    rows, told = draw.integers(0, 2**64, (50, 4), np.uint64), []
    labels = duplicates.clusters(rows, 31, lambda done, total: told.append((done, total)))
    assert (labels == duplicates.clusters(rows, 31)).all()
    total = told[0][1]
    assert total > 1 and told == [(done, total) for done in range(total + 1)]


@pytest.mark.parametrize('most', [3, 17, 31, 48])
def test_the_limit_belongs_to_it_among_thousands(most):
    """Pairs at exactly the limit are found, however their bits fall into bands; none beyond it."""
    rng = np.random.default_rng(most)
    rows = rng.integers(0, 2**64, (1500, 4), np.uint64)
    near, far = flipped(rows, most, rng), flipped(rows, most + 1, rng)
    expected = np.arange(len(rows))
    labels = duplicates.clusters(np.concatenate([rows, near]), most)
    assert (labels == np.tile(expected, 2)).all()
    labels = duplicates.clusters(np.concatenate([rows, far]), most)
    assert (labels == np.arange(2 * len(rows))).all()


def test_a_long_chain_is_one_cluster_whatever_its_order():
    """Each differs from the next in one bit, from the first in up to 256."""
    chain = duplicates.words([(1 << i) - 1 for i in range(257)])
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(chain))
        assert (duplicates.clusters(chain[order], 1) == 0).all()
    # A missing link parts it.
    labels = duplicates.clusters(np.delete(chain, 100, 0), 1)
    assert (labels == [0] * 100 + [100] * 156).all()


def test_equal_ones_are_not_compared_pair_by_pair():
    """All pairs of these would be twenty thousand million."""
    hashes = np.full(200_000, 12345, np.uint64)
    hashes[::1000] = np.arange(200, dtype=np.uint64) << np.uint64(40)
    labels = duplicates.clusters(hashes, 0)
    assert (labels[::1000] == np.arange(0, 200_000, 1000)).all()
    assert (np.delete(labels, np.s_[::1000]) == 1).all()


def test_within_all_bits_everything_is_one_cluster():
    hashes = np.array([0, 2**64 - 1, 7], np.uint64)
    assert duplicates.clusters(hashes, 64).tolist() == [0, 0, 0]
    assert duplicates.clusters(hashes, 63).tolist() == [0, 0, 0]  # by way of the third
    assert duplicates.clusters(hashes, 60).tolist() == [0, 1, 0]


def test_nothing_has_no_clusters_and_less_than_no_bits_are_refused():
    assert duplicates.clusters(np.zeros((0, 4), np.uint64), 5).shape == (0,)
    with pytest.raises(ValueError, match='-1 bits'):
        duplicates.clusters(np.zeros(3, np.uint64), -1)


# ---- the best ----


def test_the_best_of_each_cluster_is_kept():
    labels = np.array([0, 1, 0, 3, 1, 0])
    rank = np.array([1.0, 5, 3, 0, 5, 2])
    # Of equal ones the first.
    assert duplicates.best(labels, rank).tolist() == [False, True, True, True, False, False]
    rank[2] = np.nan
    assert duplicates.best(labels, rank).tolist() == [False, True, False, True, False, True]
    assert duplicates.best(np.zeros(0, int), np.zeros(0)).shape == (0,)


def test_every_cluster_keeps_one_that_no_other_beats():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 40, 500)
    rank = rng.integers(0, 9, 500)
    keep = duplicates.best(labels, rank)
    for label in np.unique(labels):
        there = np.flatnonzero(labels == label)
        assert np.flatnonzero(keep & (labels == label)).tolist() == [there[np.argmax(rank[there])]]
