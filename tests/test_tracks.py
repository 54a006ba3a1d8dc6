"""Faces over frames, and what is smoothed of them."""

import numpy as np
import pytest

from faces import tracks
from faces.detect import Found


def face(x, y, side=40.0):
    box = np.array([[x, y, x + side, y + side]])
    points = np.array([[(x + 10, y + 15), (x + 30, y + 15), (x + 20, y + 25), (x + 12, y + 32)]])
    points = np.concatenate([points, [[(x + 28, y + 32)]]], 1)
    return Found(box, points, np.ones(1))


def together(*faces):
    return Found(*(np.concatenate(field) for field in zip(*faces, strict=True)))


NONE = Found(np.zeros((0, 4)), np.zeros((0, 5, 2)), np.zeros(0))


def test_two_faces_that_pass_each_other_stay_apart():
    frames = [together(face(3.0 * i, 10), face(200 - 3.0 * i, 60)) for i in range(40)]
    # The detector's order says nothing.
    frames[1::2] = [Found(*(field[::-1] for field in f)) for f in frames[1::2]]
    one, other = tracks.follow(frames, set())
    for track, speed in (one, 3), (other, -3):
        assert (track.start, track.stop) == (0, 40)
        assert np.allclose(np.diff(track.boxes[:, 0]), speed)


def test_a_gap_is_filled_along_a_line():
    frames = [face(2.0 * i, 10) if not 5 <= i < 5 + tracks.GAP else NONE for i in range(30)]
    (track,) = tracks.follow(frames, set())
    assert np.allclose(track.boxes[:, 0], 2.0 * np.arange(30))
    assert np.allclose(track.points[:, 2, 0], 2.0 * np.arange(30) + 20)


def test_a_longer_gap_makes_two_faces():
    gap = tracks.GAP + 1
    frames = [face(10, 10) if not 6 <= i < 6 + gap else NONE for i in range(30)]
    first, second = tracks.follow(frames, set())
    assert (first.stop, second.start) == (6, 6 + gap)


def test_a_flash_is_no_face():
    frames = [face(10, 10) if 4 <= i < 4 + tracks.SHORTEST - 1 else NONE for i in range(30)]
    assert tracks.follow(frames, set()) == []
    # But a film of three frames has no more than those.
    assert len(tracks.follow([face(10, 10)] * 3, set())) == 1
    assert tracks.follow([], set()) == []


def test_a_cut_ends_a_face_that_stands_still():
    first, second = tracks.follow([face(10, 10)] * 20, {8})
    assert (first.start, first.stop, second.start, second.stop) == (0, 8, 8, 20)


def test_cuts_are_told_from_motion_and_flicker():
    rng = np.random.default_rng(0)
    scene, other = rng.integers(0, 256, (2, *tracks.THUMB[::-1]))
    still = [scene] * 10 + [other] * 10
    noisy = np.clip(np.stack(still) + rng.normal(0, 3, (20, *tracks.THUMB[::-1])), 0, 255)
    assert tracks.cuts(noisy.astype(np.uint8)) == {10}
    # Where every frame is another one, none begins a scene.
    assert tracks.cuts(rng.integers(0, 256, (20, *tracks.THUMB[::-1])).astype(np.uint8)) == set()
    assert tracks.cuts(np.stack([scene]).astype(np.uint8)) == set()


@pytest.mark.parametrize('n', [1, 2, 3, 7, 50])
def test_parabolas_are_left_alone(n):
    t = np.arange(n)[:, None, None]
    x = (
        np.array([[1.0, -2.0], [0.5, 3.0]]) * t**2 / 50
        + np.array([[4.0, 5.0], [6.0, -7.0]]) * t
        + 9
    )
    assert np.allclose(tracks.smooth(x), x, atol=1e-6)


def test_jitter_goes():
    x = np.random.default_rng(1).normal(0, 1, (2000, 3))
    left = tracks.smooth(x).var()
    # The weights' sum of squares is what is left of white noise.
    assert left == pytest.approx((tracks._weights(-9, 10) ** 2).sum(), rel=0.15) and left < 0.2


def test_overlap_is_that_of_pixels():
    rng = np.random.default_rng(2)
    low = rng.integers(0, 20, (12, 2))
    boxes = np.concatenate([low, low + rng.integers(1, 20, (12, 2))], 1)

    def pixels(box):
        mask = np.zeros((40, 40), bool)
        mask[box[1] : box[3], box[0] : box[2]] = True
        return mask

    for i, row in enumerate(tracks.overlap(boxes[:5], boxes[5:])):
        for j, share in enumerate(row):
            a, b = pixels(boxes[i]), pixels(boxes[5 + j])
            assert share == pytest.approx((a & b).sum() / (a | b).sum())
