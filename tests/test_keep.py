"""How much of a face in a photo stays: what is sharper than the network can make it, without its
noise.
"""

import cv2
import numpy as np
import pytest
from test_face_measures import moving, texture

from faces import align, keep, quality

SIDE = 128  # that a network is given
LUMA = np.array([0.299, 0.587, 0.114])


def photo(side, seed=0):
    """A face of so many pixels, averaged from a sharp one."""
    return cv2.resize(texture(seed), (side, side), interpolation=cv2.INTER_AREA)


def noisy(face, sigma, seed=0):
    noise = np.random.default_rng(seed).normal(0, sigma, face.shape)
    return np.clip(np.rint(face + noise), 0, 255).astype(np.uint8)


def stays(face):
    """Share of a photo that is nothing but a face."""
    points = ((align.TEMPLATE + 0.5) / align.SIDE * len(face)) - 0.5
    return keep.share(face, align.matrix(points, SIDE), SIDE)


def test_the_larger_a_sharp_face_the_more_of_it_stays():
    shares = [stays(photo(side)) for side in (48, 96, 128, 192, 256, 384, 512)]
    assert shares == sorted(shares) and shares[:2] == [0, 0] and shares[-1] == 1
    assert 0.2 < shares[4] < 1


def test_enlarged_or_blurred_faces_are_not_taken_for_sharp_ones():
    small = cv2.resize(photo(96), (512, 512), interpolation=cv2.INTER_CUBIC)
    assert stays(small) < 0.15
    assert stays(cv2.GaussianBlur(photo(512), (0, 0), 4)) < 0.3 < stays(photo(512))


@pytest.mark.parametrize('degrees', [0, 35, 90])
def test_of_a_face_that_moved_nothing_stays(degrees):
    """Though across the motion it is as sharp as before."""
    face = photo(512)
    assert quality.measured(moving(face, 24, degrees)).side > 1.2 * SIDE
    assert stays(moving(face, 24, degrees)) == 0 and stays(face) == 1


@pytest.mark.parametrize('side', [256, 512])
@pytest.mark.parametrize('sigma', [6, 12, 24])
def test_noise_is_measured(side, sigma):
    """White noise of its own in every colour, as the light of all three sees it."""
    found = quality.measured(noisy(photo(side), sigma)).noise
    assert found == pytest.approx(sigma * np.sqrt((LUMA**2).sum()), rel=0.12)
    assert quality.measured(photo(side)).noise < 1.5


@pytest.mark.parametrize('side', [256, 384, 512])
def test_the_more_noise_the_less_of_a_face_stays(side):
    shares = [stays(noisy(photo(side), sigma)) for sigma in (0, 6, 12, 24)]
    assert shares == sorted(shares, reverse=True) and shares[-1] < 0.25


def test_a_turned_face_stays_as_much_as_an_upright_one():
    face = photo(300)
    turn = cv2.getRotationMatrix2D((299.5, 299.5), 20, 1)
    turned = cv2.warpAffine(
        cv2.copyMakeBorder(face, *[150] * 4, cv2.BORDER_REFLECT_101),
        turn,
        (600, 600),
        flags=cv2.INTER_LANCZOS4,
    )
    points = ((align.TEMPLATE + 0.5) / align.SIDE * 300) - 0.5 + 150
    moved = points @ turn[:, :2].T + turn[:, 2]
    there = keep.share(turned, align.matrix(moved, SIDE), SIDE)
    assert there == pytest.approx(stays(face), abs=0.15)
