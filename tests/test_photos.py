"""Photographs through detector, network and blending, in batches across photos."""

import cv2
import numpy as np
import pytest
import torch

from faces import align, detect
from sources.photo import Photo
from tasks import backgrounds, photos

SIDE = 64


def points_of(x, y, size):
    return ((align.TEMPLATE + 0.5) / align.SIDE - 0.5) * size + (x, y)


def finder(places):
    """A detector that is told where the faces are, by the photo's first pixel."""

    def find(photo, min_face=detect.MIN_FACE):
        own = [place for place in places[int(photo[0, 0, 0])] if place[2] >= min_face]
        boxes = [(x - s / 2, y - s / 2, x + s / 2, y + s / 2) for x, y, s in own]
        points = np.array([points_of(*place) for place in own]).reshape(-1, 5, 2)
        return detect.Found(np.array(boxes).reshape(-1, 4), points, np.ones(len(own)))

    return find


def picture(number, dtype=np.uint8, h=150, w=190):
    rng = np.random.default_rng(number)
    x = cv2.GaussianBlur(rng.uniform(0, 1, (h, w, 3)), (0, 0), 5)
    levels = np.iinfo(dtype).max
    x = np.rint((x - x.min()) / np.ptp(x) * 0.8 * levels).astype(dtype)
    x[0, 0, 0] = number * (257 if dtype == np.uint16 else 1)
    return x


PLACES = [[(60.0, 70.0, 60.0)], [], [(50.0, 60.0, 50.0), (120.0, 90.0, 70.0)], [(90.0, 80.0, 80.0)]]


def through(network, how, kinds=(np.uint8,) * 4):
    given = [(f'{i}', Photo(picture(i, dtype))) for i, dtype in enumerate(kinds)]
    return list(photos.restored(given, finder(PLACES), network, how)), given


def count(done):
    return [len(d.found.boxes) for d in done]


@pytest.mark.parametrize('batch', [1, 3, 8])
def test_every_photo_comes_back_in_order_with_its_own_faces(batch):
    seen = []

    def network(faces):
        seen.append(len(faces))
        assert faces.shape[1:] == (3, SIDE, SIDE) and faces.dtype == torch.uint8
        return faces

    done, given = through(network, photos.How(SIDE, batch=batch))
    assert [d.name for d in done] == ['0', '1', '2', '3']
    assert count(done) == [1, 0, 2, 1]
    assert sum(seen) == 4 and max(seen) <= batch
    for d, (_, photo) in zip(done, given, strict=True):
        # A network that changes nothing changes nothing.
        error = np.abs(d.photo.pixels.astype(int) - photo.pixels)
        assert error.mean() < 0.6 and error.max() < 12
    assert (done[1].photo.pixels == given[1][1].pixels).all()


def test_batches_change_nothing():
    def network(faces):
        return 255 - faces

    one, _ = through(network, photos.How(SIDE, batch=1))
    many, _ = through(network, photos.How(SIDE, batch=5))
    for a, b in zip(one, many, strict=True):
        assert (a.photo.pixels == b.photo.pixels).all()


@pytest.mark.parametrize('scale', [1, 2, 4])
@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_photos_are_enlarged_with_all_they_have(scale, dtype):
    def network(faces):
        return torch.nn.functional.interpolate(faces.float(), scale_factor=4).round().byte()

    alpha = np.full((150, 190), np.iinfo(dtype).max, dtype)
    alpha[:, 100:] = 0
    photo = Photo(picture(2, dtype), alpha, kind='PNG', icc=b'profile', exif=b'exif')
    how = photos.How(SIDE, scale)
    faces = {}
    tell = lambda name, i, face: faces.update({(name, i): face})  # noqa: E731
    (done,) = photos.restored([('x', photo)], finder(PLACES), network, how, tell)
    own = done.photo
    assert own.pixels.shape == (150 * scale, 190 * scale, 3) and own.pixels.dtype == dtype
    assert own.alpha.shape == (150 * scale, 190 * scale) and own.alpha.dtype == dtype
    assert own.alpha[:, : 90 * scale].min() == np.iinfo(dtype).max and own.alpha[:, -50:].max() == 0
    assert (own.icc, own.exif) == (b'profile', b'exif')
    assert sorted(faces) == [('x', 0), ('x', 1)]
    assert {face.shape for face in faces.values()} == {(4 * SIDE, 4 * SIDE, 3)}
    plain = backgrounds.lanczos(photo.pixels, scale)
    error = np.abs(own.pixels.astype(float) - plain) / np.iinfo(dtype).max * 255
    assert error.mean() < 1


def test_small_faces_are_left_alone():
    done, given = through(lambda faces: 255 - faces, photos.How(SIDE, min_face=55))
    assert count(done) == [1, 0, 1, 1]
    # The one of 50 pixels keeps its pixels.
    assert (done[2].photo.pixels[50:70, 40:60] == given[2][1].pixels[50:70, 40:60]).all()


@pytest.mark.parametrize(('number', 'most'), [(0, 2), (1, 1)])
def test_few_photos_wait_at_once(number, most, monkeypatch):
    """Photos of single faces do not pile up until there are enough; one without leaves at once."""
    monkeypatch.setattr(photos, 'MOST_WAITING', 150 * 190 * 2)
    read = []

    def given():
        for _ in range(5):
            read.append(number)
            yield 'x', Photo(picture(number))

    it = photos.restored(given(), finder(PLACES), lambda faces: faces, photos.How(SIDE))
    next(it)
    assert len(read) == most
