"""Synthetic faces: same seed, same bytes; masks and landmarks agree; writing resumes."""

import json
import os

import cv2
import numpy as np
import pytest

import synthetic
from faces.masks import CLASSES
from synthetic import shape

SMALL = 128


@pytest.fixture(scope='module')
def crowd():
    return [synthetic.face(seed, SMALL) for seed in range(40)]


def test_same_seed_same_bytes(crowd):
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1 if threads > 1 else 4)
    np.random.seed(7)  # the global generator must not matter
    again = synthetic.face(3, SMALL)
    cv2.setNumThreads(threads)
    for a, b in zip(crowd[3], again, strict=True):
        assert a.dtype == b.dtype and a.tobytes() == b.tobytes()


def test_different_seeds_are_different_people(crowd):
    for a, b in zip(crowd, crowd[1:], strict=False):
        assert np.abs(a.image.astype(int) - b.image).mean() > 8
        assert np.abs(a.landmarks - b.landmarks).max() > 0.5
    assert len({shape.person(seed)[3:] for seed in range(300)}) == 300


def test_shapes_and_ranges(crowd):
    for f in crowd:
        assert f.image.shape == (SMALL, SMALL, 3) and f.image.dtype == np.uint8
        assert f.mask.shape == (SMALL, SMALL) and f.mask.dtype == np.uint8 and f.mask.max() <= 18
        assert f.landmarks.shape == (68, 2) and f.landmarks.dtype == np.float32
        assert f.landmarks.min() > 0 and f.landmarks.max() < SMALL - 1
        assert f.image.std() > 20


def test_every_class_appears(crowd):
    share = np.mean([[np.any(f.mask == c) for c in range(19)] for f in crowd], axis=0)
    assert (share > 0).all(), dict(zip(CLASSES, share, strict=True))
    for name in ('background', 'skin', 'nose', 'u_lip', 'l_lip', 'neck', 'cloth', 'hair'):
        assert share[CLASSES.index(name)] > 0.7, name


def _classes_at(f, points):
    x, y = np.round(points).astype(int).T
    return f.mask[np.clip(y, 0, f.mask.shape[0] - 1), np.clip(x, 0, f.mask.shape[1] - 1)]


def test_landmarks_lie_in_their_parts(crowd):
    """Eyes, nose tip and lips lie in their classes unless hair, glasses or a hat hide them."""
    hidden = {3, 13, 14}
    for f in crowd:
        p = f.landmarks
        right, left = _classes_at(f, np.stack([p[36:42].mean(0), p[42:48].mean(0)]))
        assert right in hidden | {5} and left in hidden | {4}
        assert _classes_at(f, p[30:31])[0] in (2, 3)
        upper, lower = _classes_at(f, np.stack([(p[51] + p[62]) / 2, (p[57] + p[66]) / 2]))
        assert upper in (11, 12) and lower == 12  # the upper lip may be two pixels high here
        assert np.nonzero(f.mask == 11)[0].mean() < np.nonzero(f.mask == 12)[0].mean()
        brow = set(_classes_at(f, p[17:22]).tolist())
        assert 7 in brow or brow & hidden
    seen = [_classes_at(f, f.landmarks[36:48].reshape(2, 6, 2).mean(1)).tolist() for f in crowd]
    assert sum(pair == [5, 4] for pair in seen) > len(crowd) // 2


def test_left_is_the_persons_left(crowd):
    for left, right in ((4, 5), (6, 7), (8, 9)):
        both = [f for f in crowd if np.any(f.mask == left) and np.any(f.mask == right)]
        assert len(both) > 5
        for f in both:
            assert np.nonzero(f.mask == left)[1].mean() > np.nonzero(f.mask == right)[1].mean()


def test_landmarks_run_as_ibug_has_them():
    for seed in range(100):
        p = shape.landmarks(shape.person(seed))  # upright, before the pose
        assert (np.diff(p[2:15, 0]) > 0).all()
        assert p[0, 0] < p[4, 0]
        assert p[16, 0] > p[12, 0]
        assert p[8, 1] == p[:17, 1].max()
        assert (np.diff(p[17:27, 0]) > 0).all()
        assert (np.diff(p[27:31, 1]) > 0).all()
        assert (np.diff(p[31:36, 0]) > 0).all()
        for first in (36, 42):
            x, y = p[first : first + 6].T
            assert x[0] < x[1] < x[2] < x[3] > x[4] > x[5] > x[0] and y[1:3].max() < y[4:6].min()
        assert (np.diff(p[48:55, 0]) > 0).all() and (np.diff(p[54:60, 0]) < 0).all()
        assert p[51, 1] < p[62, 1] <= p[66, 1] < p[57, 1]


def test_pose_is_inverted():
    for seed in range(20):
        pose = shape.person(seed).pose
        x, y = np.random.default_rng(seed).uniform(0, 1, (2, 200)).astype(np.float32)
        back = pose.to_picture(np.stack(pose.to_face(x, y), -1))
        assert np.abs(back - np.stack([x, y], -1)).max() < 1e-5


def test_landmarks_scale_with_the_size():
    small, large = synthetic.landmarks(5, 128), synthetic.landmarks(5, 512)
    assert np.allclose((small + 0.5) * 4, large + 0.5, atol=1e-3)


def _bytes(folder):
    return {
        str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob('*')) if f.is_file()
    }


def test_write_and_resume(tmp_path):
    calls = []
    paths = synthetic.write(
        tmp_path, 4, 10, 64, workers=1, progress=lambda done, total: calls.append((done, total))
    )
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [p.name for p in paths] == ['00000.png', '00001.png', '00002.png', '00003.png']
    points = json.loads((tmp_path / 'landmarks.json').read_text())
    for i, path in enumerate(paths):
        drawn = synthetic.face(10 + i, 64)
        image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        mask = cv2.imread(str(tmp_path / 'masks' / path.name), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(image[..., ::-1], drawn.image)
        assert np.array_equal(mask, drawn.mask)
        assert mask.shape == (64, 64)
        assert np.abs(np.array(points[path.name]) - drawn.landmarks).max() < 1e-3
    whole = _bytes(tmp_path)

    # Half a file of a process that was killed goes, that of one that still draws stays.
    ours, theirs = (tmp_path / f'images/00009.png.{pid}.part' for pid in (os.getpid(), 1 << 30))
    for part in ours, theirs:
        part.write_bytes(b'half')
    (tmp_path / 'landmarks.json').unlink()
    synthetic.write(tmp_path, 4, 10, 64, workers=1)
    assert ours.exists() and not theirs.exists() and _bytes(tmp_path).keys() > whole.keys()
    ours.unlink()
    calls.clear()

    # Killed half-way: not marked complete, one image and one mask missing. Only those are drawn
    # again.
    state = json.loads((tmp_path / 'done.json').read_text())
    (tmp_path / 'done.json').write_text(json.dumps({**state, 'complete': False}))
    paths[1].unlink()
    (tmp_path / 'masks' / '00003.png').unlink()
    old = os.stat(paths[0]).st_mtime_ns
    calls.clear()
    synthetic.write(tmp_path, 4, 10, 64, workers=1, progress=lambda *a: calls.append(a))
    assert calls == [(3, 4), (4, 4)]
    assert os.stat(paths[0]).st_mtime_ns == old
    assert _bytes(tmp_path) == whole

    # Complete: nothing is touched.
    calls.clear()
    synthetic.write(tmp_path, 4, 10, 64, workers=1, progress=lambda *a: calls.append(a))
    assert not calls and _bytes(tmp_path) == whole


def test_write_draws_again_what_another_version_drew(tmp_path):
    synthetic.write(tmp_path, 2, 0, 64, workers=1)
    whole = _bytes(tmp_path)
    state = json.loads((tmp_path / 'done.json').read_text())
    (tmp_path / 'done.json').write_text(json.dumps({**state, 'version': -1}))
    (tmp_path / 'images' / '00000.png').write_bytes(b'old drawing')
    synthetic.write(tmp_path, 2, 0, 64, workers=1)
    assert _bytes(tmp_path) == whole


def test_write_with_processes_equals_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the processes must find the package from anywhere
    synthetic.write(tmp_path / 'one', 3, 5, 64, workers=1)
    synthetic.write(tmp_path / 'two', 3, 5, 64, workers=2)
    assert _bytes(tmp_path / 'one') == _bytes(tmp_path / 'two')


def test_write_leaves_foreign_pictures_alone(tmp_path):
    (tmp_path / 'images').mkdir()
    (tmp_path / 'images' / 'holiday.png').write_bytes(b'mine')
    with pytest.raises(FileExistsError, match='choose another folder'):
        synthetic.write(tmp_path, 2, 0, 64, workers=1)
    assert (tmp_path / 'images' / 'holiday.png').read_bytes() == b'mine'
