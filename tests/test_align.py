"""Faces out of a photo and back into it: where they land, what they weigh, and their colours."""

import cv2
import numpy as np
import pytest

from faces import align, paste

SIDE = 128


def chirp(h=300, w=360):
    """Waves of growing frequency in both directions, of three colours, down to 16 pixels."""
    y, x = np.mgrid[:h, :w].astype(float)
    waves = [
        np.sin(2 * np.pi * (x / 60 + (x / w) ** 2 * w / 44)),
        np.sin(2 * np.pi * (y / 60 + (y / h) ** 2 * h / 44)),
        np.sin(2 * np.pi * (x + y) / 30),
    ]
    return np.rint(np.stack(waves, 2) * 90 + 128).astype(np.uint8)


def points_at(x, y, size, degrees):
    """Five points of a face whose square of `size` pixels is centred at (x, y)."""
    a = np.deg2rad(degrees)
    turn = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    return ((align.TEMPLATE + 0.5) / align.SIDE - 0.5) * size @ turn.T + (x, y)


def back_again(photo, points, scale, **how):
    """The photo enlarged, with the face in it that was cut out of it and comes back as it is."""
    m = align.matrix(points, SIDE)
    face = align.warped(photo, m, (SIDE, SIDE)).astype(np.float32)
    size = photo.shape[1] * scale, photo.shape[0] * scale
    plain = cv2.resize(photo, size, interpolation=cv2.INTER_LANCZOS4)
    pasted = plain.copy()
    paste.paste(pasted, [paste.Face(face, paste.square(SIDE), m)], scale, **how)
    return plain, pasted


def shift(a, b):
    """(x, y) by which b lies beside a, least squares of the gradient."""
    a, b = (cv2.GaussianBlur(x.astype(np.float64), (0, 0), 1.0).mean(2) for x in (a, b))
    gy, gx = np.gradient(a)
    inside = np.s_[4:-4, 4:-4]
    columns = np.stack([-gx[inside].ravel(), -gy[inside].ravel()], 1)
    return np.linalg.lstsq(columns, (b - a)[inside].ravel(), rcond=None)[0]


@pytest.mark.parametrize('scale', [1, 2, 4])
@pytest.mark.parametrize('degrees', range(0, 360, 30))
def test_a_face_comes_back_to_where_it_was(degrees, scale):
    photo = chirp()
    plain, pasted = back_again(photo, points_at(171.3, 148.6, 131, degrees), scale)
    inside = np.s_[110 * scale : 185 * scale, 135 * scale : 210 * scale]
    assert np.abs(shift(plain[inside], pasted[inside])).max() < 0.02 * scale
    error = (plain[inside].astype(float) - pasted[inside]) ** 2
    assert 10 * np.log10(255**2 / error.mean()) > 50
    assert (plain != pasted).any()


@pytest.mark.parametrize('scale', [1, 2, 4])
def test_a_face_at_the_border_comes_back_too(scale):
    """Of what lay outside nothing is pasted, and what lay inside is where it was."""
    plain, pasted = back_again(chirp(), points_at(30.4, 40.2, 150, 20), scale)
    error = np.abs(plain.astype(int) - pasted)[: 60 * scale, : 60 * scale]
    assert np.sqrt((error**2).mean()) < 1.5 and error.max() < 16
    assert (plain[:, 150 * scale :] == pasted[:, 150 * scale :]).all()


@pytest.mark.parametrize('x', [-400, 900])
def test_a_face_outside_is_not_pasted(x):
    plain, pasted = back_again(chirp(), points_at(x, 100, 90, 0), 1)
    assert (plain == pasted).all()


def painted(levels, mask=None, photo=100, dtype=np.uint8, places=((100, 100),), size=90):
    """A photo of one grey with faces of one level each pasted into it."""
    picture = np.full((240, 260, 3), photo, dtype)
    faces = [
        paste.Face(
            np.broadcast_to(np.asarray(level, np.float32), (SIDE, SIDE, 3)).copy(),
            paste.square(SIDE) if mask is None else mask,
            align.matrix(points_at(*place, size, 0), SIDE),
        )
        for level, place in zip(levels, places, strict=True)
    ]
    paste.paste(picture, faces)
    return picture


@pytest.mark.parametrize('dtype, photo', [(np.uint8, 100), (np.uint16, 31_234)])
def test_weights_sum_to_one(dtype, photo):
    """Faces of the photo's own level, which overlap, change nothing to the bit."""
    places = (100, 100), (140, 110), (120, 140)
    assert (painted((photo,) * 3, photo=photo, dtype=dtype, places=places) == photo).all()


def test_a_mask_is_soft_and_ends_at_the_edge():
    mask = paste.square(512)
    assert (
        mask[256, 256] == 1 and mask[0].max() < 0.01 and np.abs(np.diff(mask, axis=0)).max() < 0.04
    )
    assert (mask == mask.T).all() and (mask == mask[::-1]).all()


def test_a_network_that_turns_faces_red_does_not_in_the_photo():
    """Low frequencies are the photo's: the mean of each channel stays within a level."""
    rng = np.random.default_rng(0)
    photo = cv2.GaussianBlur(rng.integers(0, 256, (240, 260, 3), np.uint8), (0, 0), 9)
    photo = cv2.normalize(photo, None, 60, 200, cv2.NORM_MINMAX)
    m = align.matrix(points_at(120, 118, 140, 15), SIDE)
    face = align.warped(photo, m, (SIDE, SIDE)).astype(np.float32)
    detail = rng.normal(0, 6, (SIDE, SIDE, 1))
    red = face * (1.1, 0.95, 0.9) + (22, -8, -12) + detail
    pasted = photo.copy()
    paste.paste(pasted, [paste.Face(red.astype(np.float32), paste.square(SIDE), m)])
    inside = align.warped(
        paste.square(SIDE), align.inverse(m), photo.shape[:2], cv2.BORDER_CONSTANT
    )
    change = (pasted.astype(float) - photo)[inside > 0.5]
    assert np.abs(change.mean(0)).max() < 1
    # The detail has come all the same.
    assert change.std(0).min() > 3


def test_a_grey_photo_stays_grey():
    rng = np.random.default_rng(1)
    photo = np.repeat(rng.integers(60, 200, (240, 260, 1), np.uint8), 3, 2)
    m = align.matrix(points_at(120, 118, 100, 0), SIDE)
    face = rng.uniform(0, 255, (SIDE, SIDE, 3)).astype(np.float32)
    pasted = photo.copy()
    paste.paste(pasted, [paste.Face(face, paste.square(SIDE), m)])
    assert (pasted != photo).any() and (pasted == pasted[..., :1]).all()


def test_keep_keeps_the_photo():
    rng = np.random.default_rng(2)
    photo = rng.integers(0, 256, (240, 260, 3), np.uint8)
    m = align.matrix(points_at(120, 118, 100, 0), SIDE)
    face = paste.Face(
        rng.uniform(0, 255, (SIDE, SIDE, 3)).astype(np.float32), paste.square(SIDE), m
    )
    changes = []
    for keep in (0, 0.5, 1):
        pasted = photo.copy()
        paste.paste(pasted, [face], keep=keep)
        changes.append(np.abs(pasted.astype(int) - photo).sum())
    assert changes[0] > 0 and changes[2] == 0 and abs(changes[1] / changes[0] - 0.5) < 0.02


# ---- out of the photo ----


@pytest.mark.parametrize('side', [100, 128, 213, 533, 2000, 5000])
def test_a_large_face_is_averaged_and_does_not_alias(side):
    """Noise has no detail but what would alias: what is left of it is what its means leave."""
    rng = np.random.default_rng(side)
    photo = np.repeat(rng.integers(0, 256, (side, side, 1), np.uint8), 3, 2)
    middle = (side - 1) / 2
    face = align.warped(photo, align.matrix(points_at(middle, middle, side, 0), 64), (64, 64))
    expected = cv2.resize(photo, (64, 64), interpolation=cv2.INTER_AREA).astype(int)
    assert (face - expected).std() < 0.45 * expected.std() and face.std() < 1.25 * expected.std()


def test_points_land_on_the_template():
    for degrees, size in ((0, 90), (70, 300), (200, 41)):
        points = points_at(500, 400, size, degrees)
        m = align.matrix(points, 256)
        there = points @ m[:, :2].T + m[:, 2]
        assert np.abs(there - align.scaled_points(align.TEMPLATE, 0.5)).max() < 0.01
        assert np.allclose(align.inverse(align.inverse(m)), m)


def test_one_wrong_point_does_not_turn_a_face():
    points = points_at(200, 200, 150, 10)
    expected = align.matrix(points, 128)
    points[2] += (25, -18)
    assert np.abs(align.matrix(points, 128) - expected).max() < 0.02


def test_points_that_are_one_tell_nothing():
    assert align.matrix(np.full((5, 2), 7.0), 128) is None


@pytest.mark.parametrize('degrees', [0, 77, 180])
def test_nearest_matrix(degrees):
    points = points_at(40, 30, 90, degrees)
    assert np.allclose(align.nearest_matrix(points, SIDE), align.matrix(points, SIDE), atol=1e-3)

    # Of points that fit no similarity, no other one is nearer on the whole.
    points = points + np.random.default_rng(degrees).normal(0, 3, (5, 2))
    m = align.nearest_matrix(points, SIDE)
    there = align.scaled_points(align.TEMPLATE, SIDE / align.SIDE)
    x, y = points.T
    one, none = np.ones(5), np.zeros(5)
    system = np.concatenate([np.stack([x, -y, one, none], 1), np.stack([y, x, none, one], 1)])
    a, b, right, down = np.linalg.lstsq(system, there.T.ravel(), rcond=None)[0]
    assert np.allclose(m, [[a, -b, right], [b, a, down]])
    with pytest.raises(ValueError, match='no direction'):
        align.nearest_matrix(np.ones((5, 2)), SIDE)
