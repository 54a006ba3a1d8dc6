"""A photo in two sizes: what is registered, what is scored, and what the picture shows."""

import cv2
import numpy as np
import pytest

import synthetic
from benchmarks import natural_truth
from tasks import shipped

SIDE, SCALE = 128, 4


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    """A face on grey of 180x160 pixels, and the same four times as large."""
    home = tmp_path_factory.mktemp('photos')
    large = np.full((160 * SCALE, 180 * SCALE, 3), 190, np.uint8)
    face = synthetic.face(3, SIDE * SCALE).image
    large[40 : 40 + SIDE * SCALE, 80 : 80 + SIDE * SCALE] = face
    small = cv2.resize(large, (180, 160), interpolation=cv2.INTER_AREA)
    for name, pixels in dict(small=small, large=large).items():
        cv2.imwrite(str(home / f'{name}.png'), pixels[..., ::-1])
    return home


def command(photos, *more):
    argv = [photos / 'small.png', photos / 'large.png', '--scale', SCALE, '--device', 'cpu', *more]
    return natural_truth.main([str(a) for a in argv])


def table(capsys):
    """The printed scores; before them it is told which weights are used."""
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    return [words for words in lines if 'dB' in words]


def test_both_that_come_along(photos, tmp_path, capsys):
    assert command(photos, '--out', tmp_path / 'out.png') == 0
    rows = table(capsys)
    assert [row[0] for row in rows] == [natural_truth.LANCZOS, shipped.USUAL, shipped.SHARP]
    for row in rows:
        assert float(row[6]) == pytest.approx(float(row[1]) - float(rows[0][1]), abs=0.011)

    # Four pictures of one face: Lanczos, which is no longer the truth, restored twice, the truth.
    panels = np.split(cv2.imread(str(tmp_path / 'out.png')).astype(int), 4, axis=1)
    for i, panel in enumerate(panels):
        for other in panels[:i]:
            assert 0 < np.abs(panel - other).mean() < 30


def test_one_that_is_named(photos, capsys):
    assert command(photos, '--weights', shipped.SHARP) == 0
    assert [row[0] for row in table(capsys)] == [natural_truth.LANCZOS, 'restored']


def test_scores_are_those_of_the_faces_alone():
    """PSNR of the squares as OpenCV has it; what lies beside them does not count."""
    rng = np.random.default_rng(0)
    truth, given = rng.integers(0, 256, (2, 60, 80, 3), np.uint8)
    squares = np.array([[3, 5, 33, 35], [40, 20, 70, 50]])
    found = natural_truth.Compared({natural_truth.LANCZOS: given}, truth, squares)
    wanted = [cv2.PSNR(truth[y:b, x:r], given[y:b, x:r]) for x, y, r, b in squares]
    (row,) = natural_truth.scores(found).values()
    assert row[0] == pytest.approx(np.mean(wanted), abs=1e-4)


def test_the_truth_is_brought_into_place():
    """Moved by a fraction of a pixel, it comes back."""
    truth = cv2.resize(synthetic.face(5, 256).image, (512, 512), interpolation=cv2.INTER_CUBIC)
    moved = cv2.warpAffine(truth, np.float32([[1, 0, 1.6], [0, 1, -2.3]]), (512, 512))
    back = natural_truth.registered(moved, truth)
    inside = slice(16, -16), slice(16, -16)
    before, after = (np.abs(x[inside].astype(int) - truth[inside]).mean() for x in (moved, back))
    assert after < 0.2 * before


def test_a_photo_without_a_face_is_refused(tmp_path, capsys):
    for name, side in dict(small=100, large=400).items():
        cv2.imwrite(str(tmp_path / f'{name}.png'), np.full((side, side, 3), 90, np.uint8))
    assert command(tmp_path, '--weights', shipped.USUAL) == 2
    assert 'small.png: no face found' in capsys.readouterr().err
