"""Landmarks of masks and files: against a plain search and drawn faces' points; mirrored."""

import json

import cv2
import numpy as np
import pytest
import torch

import synthetic
from degrade.draw import Draw
from errors import DataError
from faces import augment, landmarks, masks
from faces.landmarks import IBUG_MIRROR, MIRROR, POINTS
from sources import files
from sources.manifest import Image
from synthetic import shape

SIZE, CROWD = 96, range(4)


@pytest.fixture(scope='module')
def crowd():
    return [synthetic.face(seed, SIZE) for seed in CROWD]


def scattered(*shape, seed=0):
    """Masks of ids in blocks, some of them without some parts."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 19, (shape[0], -(-shape[1] // 3), -(-shape[2] // 3)), np.uint8)
    return coarse.repeat(3, 1).repeat(3, 2)[:, : shape[1], : shape[2]]


@pytest.mark.parametrize('least', [0.0, 0.3])
def test_the_fast_way_is_the_plain_one(crowd, least):
    for mask in (
        np.stack([f.mask[::2, ::2] for f in crowd[:5]]),
        scattered(9, 17, 5),
        scattered(3, 1, 63),
        np.full((1, 8, 8), 13, np.uint8),
    ):
        points, visible = landmarks.from_mask(torch.from_numpy(mask), least)
        assert (
            points.shape == (len(mask), 28, 2)
            and points.dtype == torch.float32
            and visible.shape == (len(mask), 28)
        )
        for one, p, v in zip(mask, points.numpy(), visible.numpy(), strict=True):
            expected, there = landmarks.from_mask_ref(one, least)
            assert (v == there).all() and np.abs(p - expected).max() < 1e-4 and not p[~v].any()
    assert not visible.any()  # in a mask of hair


def test_every_point_of_a_face_drawn_by_hand():
    mask = np.zeros((20, 20), np.uint8)
    for name, (top, bottom, left, right) in dict(
        skin=(2, 18, 4, 16),
        r_eye=(6, 8, 6, 8),
        l_eye=(6, 8, 12, 15),
        r_brow=(4, 5, 5, 9),
        l_brow=(4, 5, 11, 16),
        nose=(7, 12, 9, 12),
        u_lip=(14, 15, 8, 13),
        mouth=(15, 16, 8, 14),
        l_lip=(16, 17, 9, 13),
    ).items():
        mask[top:bottom, left:right] = masks.CLASSES.index(name)
    mask[17, 4:8] = 0  # the chin is narrower than the face
    (points,), (visible,) = landmarks.from_mask(torch.from_numpy(mask)[None])
    found = dict(zip(POINTS, points.tolist(), strict=True))
    assert visible.all() and list(found)[:4] == [
        'r_eye_left',
        'r_eye_right',
        'r_eye_top',
        'r_eye_bottom',
    ]
    expected = dict(
        r_eye_left=(6, 6.5),
        r_eye_right=(7, 6.5),
        r_eye_top=(6.5, 6),
        r_eye_bottom=(6.5, 7),
        l_eye_left=(12, 6.5),
        l_eye_right=(14, 6.5),
        l_eye_top=(13, 6),
        l_eye_bottom=(13, 7),
        r_brow_left=(5, 4),
        r_brow_right=(8, 4),
        l_brow_left=(11, 4),
        l_brow_right=(15, 4),
        nose_left=(9, 9),
        nose_right=(11, 9),
        nose_bottom=(10, 11),
        nose_centre=(10, 9),
        mouth_left=(8, 14.5),
        mouth_right=(13, 15),
        lip_top=(10, 14),
        lip_bottom=(10.5, 16),
        mouth_centre=(162 / 15.5, 0),
        chin=(11.5, 17),
        oval_left_top=(4, 7),
        oval_right_top=(15, 7),
        oval_left_middle=(4, 11),
        oval_right_middle=(15, 11),
        oval_left_bottom=(4, 14),
        oval_right_bottom=(15, 14),
    )
    lips = [
        (x, y) for y, (a, b) in {14: (8, 13), 15: (8, 14), 16: (9, 13)}.items() for x in range(a, b)
    ]
    expected['mouth_centre'] = tuple(np.mean(lips, 0))
    assert found.keys() == expected.keys() and all(
        np.allclose(found[name], expected[name], atol=1e-5) for name in found
    )


# Points of a mask that a drawn face also has among its 68. The outline of a mask may be hidden, so
# only parts that are complete are compared.
SAME = dict(
    r_eye_left=36,
    r_eye_right=39,
    l_eye_left=42,
    l_eye_right=45,
    nose_bottom=33,
    mouth_left=48,
    mouth_right=54,
    lip_bottom=57,
    chin=8,
)


def test_points_of_drawn_masks_are_the_drawn_points(crowd):
    """Median distance 0.3 to 1 px of 96; twice that is allowed."""
    points, visible = landmarks.from_mask(torch.from_numpy(np.stack([f.mask for f in crowd])))
    for name, i in SAME.items():
        k = POINTS.index(name)
        distance = [
            np.linalg.norm(p[k].numpy() - f.landmarks[i])
            for p, v, f in zip(points, visible, crowd, strict=True)
            if v[k]
        ]
        assert len(distance) > 1 and np.median(distance) < 2, name
    assert visible.float().mean() > 0.8


def test_specks_are_no_ends(crowd):
    mask = torch.from_numpy(crowd[1].mask.repeat(4, 0).repeat(4, 1))[None]
    clean, _ = landmarks.from_mask(mask, 0.1)
    mask[0, 2, [1, -2]] = torch.tensor(
        [5, 2], dtype=torch.uint8
    )  # an eye and a nose in two corners
    spoilt, _ = landmarks.from_mask(mask, 0.1)
    assert (spoilt - clean)[0, :16].abs().max() < 1 and (landmarks.from_mask(mask)[0] - clean)[
        0, :16
    ].abs().max() > 100


# ---- mirror ----


def test_the_mirror_image_has_the_mirrored_points(crowd):
    for mask in np.stack([f.mask for f in crowd]), scattered(9, 17, 5):
        points, visible = landmarks.from_mask(torch.from_numpy(mask))
        other, there = landmarks.from_mask(torch.from_numpy(masks.mirrored(mask).copy()))
        assert torch.equal(there, visible[:, MIRROR])
        expected = torch.where(there[..., None], landmarks.mirrored(points, mask.shape[2]), 0)
        assert torch.allclose(other, expected, atol=1e-4) and torch.equal(
            landmarks.mirrored(landmarks.mirrored(points, 9), 9), points
        )


def test_the_mirror_of_68_points():
    """Drawn people are symmetric before their pose."""
    for seed in range(4):
        p = shape.landmarks(shape.person(seed))
        assert np.abs(landmarks.mirrored(p, 1) - p).max() < 1e-6
    assert (
        sorted(IBUG_MIRROR) == list(range(68))
        and (IBUG_MIRROR[IBUG_MIRROR] == np.arange(68)).all()
        and (MIRROR[MIRROR] == np.arange(28)).all()
    )
    with pytest.raises(ValueError, match='5 landmarks'):
        landmarks.mirror(5)


def test_points_move_with_the_augmented_picture():
    """A bright spot at a point is where the point is, after any augmentation of both."""
    place = np.stack([np.linspace(30, 60, 68), np.linspace(55, 35, 68)], 1)
    for seed in range(6):
        p = augment.sample(Draw(seed, np.arange(1)), (SIZE, SIZE), jitter=0)
        y, x = np.mgrid[:SIZE, :SIZE]
        moved = landmarks.moved(place[None], p.matrix, p.flip, SIZE)[0]
        for k in 0, 40:
            k2 = landmarks.IBUG_MIRROR[k] if p.flip[0] else k
            blob = (
                (255 * np.exp(-((x - place[k2, 0]) ** 2 + (y - place[k2, 1]) ** 2) / 8))
                .round()
                .astype(np.uint8)
            )
            image, _ = augment.run_torch(
                torch.from_numpy(blob).expand(1, 3, -1, -1),
                torch.zeros(1, SIZE, SIZE, dtype=torch.uint8),
                p,
            )
            found = image[0, 0].numpy()
            centre = np.array([(found * x).sum(), (found * y).sum()]) / found.sum()
            assert np.abs(centre - moved[k]).max() < 0.2


# ---- files ----


def test_both_forms_of_files_are_read(tmp_path):
    points = synthetic.landmarks(3, 64)
    (tmp_path / 'plain.json').write_text(
        json.dumps({'00000.png': points.tolist(), 'b/c.jpg': (points + 1).tolist()})
    )
    found = landmarks.read(tmp_path / 'plain.json')
    assert (
        found.keys() == {'00000', 'c'}
        and (found['00000'].points == points).all()
        and found['c'].size is None
    )
    image = dict(
        file_path='images1024x1024/00000/00007.png',
        pixel_size=[1024, 1024],
        face_landmarks=points.tolist(),
    )
    (tmp_path / 'ffhq.json').write_text(json.dumps({'7': dict(category='training', image=image)}))
    found = landmarks.read(tmp_path / 'ffhq.json')
    assert found['00007'].size == (1024, 1024)
    table = landmarks.of(found, [Image('x/00007.png', 512, 512, 'png', 'rgb')], 128)
    assert table.shape == (1, 68, 2) and np.allclose(table[0], (points + 0.5) / 8 - 0.5, atol=1e-4)


@pytest.mark.parametrize(
    'content, said',
    [
        ('{', 'cannot be read as JSON'),
        ('[]', 'landmarks were expected'),
        ('{}', 'landmarks were expected'),
        ('{"a": [[1, 2]]}', 'a has not 68 pairs'),
        (json.dumps({'a': 68 * [[1, None]]}), 'a has not 68 pairs'),
        (json.dumps({'x/a.png': 68 * [[1, 2]], 'y/a.jpg': 68 * [[1, 2]]}), 'two entries'),
        (
            json.dumps({'0': {'image': {'pixel_size': [0, 4], 'face_landmarks': 68 * [[1, 2]]}}}),
            '0 has not 68 pairs',
        ),
        ('{"a": "b"}', 'a has not 68 pairs'),
    ],
)
def test_bad_files_are_named(content, said, tmp_path):
    (tmp_path / 'l.json').write_text(content)
    with pytest.raises(DataError, match=f'l.json.*{said}'):
        landmarks.read(tmp_path / 'l.json')


def test_pictures_without_points_are_named():
    found, image = (
        {'a': landmarks.Landmarks(np.ones((68, 2), np.float32), (8, 4))},
        Image('a.png', 8, 8, 'png', 'rgb'),
    )
    with pytest.raises(DataError, match='a.png is 8x8, its landmarks were found in 8x4'):
        landmarks.of(found, [image], 8)
    with pytest.raises(DataError, match='1 of 1 images have no landmarks: b.png'):
        landmarks.of(found, [image._replace(path='b.png')], 8)
    with pytest.raises(DataError, match='cannot be read'):
        landmarks.read('nowhere.json')


@pytest.mark.parametrize('width, height', [(150, 100), (64, 131), (50, 50), (50, 70)])
def test_points_move_as_their_picture_does(width, height):
    place, size = np.array([[0.55 * width, 0.48 * height]]), 50
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    blob = 255 * np.exp(-((x - place[0, 0]) ** 2 + (y - place[0, 1]) ** 2) / 18)
    small = files.fit(cv2.merge(3 * [blob.round().astype(np.uint8)]), size)[..., 0].astype(float)
    y, x = np.mgrid[:size, :size]
    centre = (small * x).sum() / small.sum(), (small * y).sum() / small.sum()
    assert np.abs(landmarks.fitted(place, width, height, size)[0] - centre).max() < 0.1
