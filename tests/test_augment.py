"""Augmented faces and masks: the batch against the reference, that against other libraries.

Left and right stay apart whatever is drawn.
"""

import colorsys
import math

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

import synthetic
from degrade.draw import Draw
from faces import augment, masks
from faces.augment import Params, colour, matrix
from faces.masks import sides

UPRIGHT = np.array([[[1.0, 0, 0], [0, 1, 0]]])
PLAIN = np.eye(3, 4)[None]
STRONG = dict(
    rotate=0.9, angle=60, zoom=2, jitter=0.9, brightness=0.2, contrast=0.5, saturation=0.8, hue=90
)


@pytest.fixture(scope='module')
def drawn():
    return [synthetic.face(seed, 64) for seed in range(8)]


def random(h, w, batch=4, seed=0):
    g = np.random.default_rng(seed)
    return g.integers(0, 256, (batch, h, w, 3), np.uint8), g.integers(
        0, 19, (batch, h, w), np.uint8
    )


def torched(images, ids, p):
    image, mask = augment.run_torch(
        torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(ids), p
    )
    assert (
        image.dtype == torch.float32
        and mask.dtype == torch.uint8
        and image.is_contiguous(memory_format=torch.channels_last)
    )
    return image.permute(0, 2, 3, 1).numpy(), mask.numpy()


def geometry(matrix, flip=False):
    return Params(matrix, np.full(len(matrix), flip), PLAIN.repeat(len(matrix), 0))


# The draw.


def test_parameters_belong_to_the_sample():
    whole = augment.sample(Draw(5, np.arange(40)), (64, 48))
    part = augment.sample(Draw(5, np.array([7, 3])), (64, 48))
    for a, b in zip(whole, part, strict=True):
        assert (a[[7, 3]] == b).all()
    other = augment.sample(Draw(6, np.arange(40)), (64, 48))
    assert (whole.matrix != other.matrix).any((1, 2)).all()


def test_ranges():
    """Angles, zooms and colours are in their ranges, half are off, crops inside the picture."""
    p = augment.sample(Draw(0, np.arange(4000)), (64, 48))
    turned, grown = (
        np.degrees(np.arctan2(p.matrix[:, 1, 0], p.matrix[:, 0, 0])),
        1 / np.hypot(p.matrix[:, 0, 0], p.matrix[:, 1, 0]),
    )
    upright = p.matrix[:, 1, 0] == 0
    assert (
        24 < np.abs(turned).max() < 25.01
        and 0.46 < upright.mean() < 0.54
        and 0.46 < p.flip.mean() < 0.54
    )
    assert grown.min() > 0.999 and 1.24 < grown.max() < 1.2501
    for i, side in enumerate((48, 64)):  # upright: the outer edges of the first and the last pixel
        first = p.matrix[upright, i, 2] - 0.5 / grown[upright]
        last = p.matrix[upright, i, 2] + (side - 0.5) / grown[upright]
        assert (
            first.min() > -0.501
            and last.max() < side - 0.499
            and first.max() > 3
            and last.min() < side - 4
        )
    plain = (p.colour == PLAIN).all((1, 2))
    assert 0.46 < plain.mean() < 0.54
    greys = p.colour @ (0.5, 0.5, 0.5, 1)  # greys stay grey; mid-grey is only brightened
    assert np.ptp(greys, 1).max() < 1e-12 and 15 / 255 < np.abs(greys - 0.5).max() <= 16 / 255
    assert (
        augment.sample(
            Draw(0, np.arange(99)), (8, 8), flip=0, rotate=0, zoom=1, jitter=0
        ).matrix.tolist()
        == (UPRIGHT * np.ones((99, 1, 1))).tolist()
    )


# Batched against reference.


@pytest.mark.parametrize('size', [(32, 32), (63, 17), (17, 5), (1, 1)])
@pytest.mark.parametrize('options', [{}, STRONG], ids=['usual', 'strong'])
def test_torch_is_the_reference(size, options):
    """Masks are equal to the bit, pictures up to the float32 of the positions.

    The largest error over these sizes and ten seeds was 6.3e-6 (4e-5 at 512); twice is allowed.
    """
    for seed in range(3):
        images, ids = random(*size, batch=6, seed=seed)
        p = augment.sample(Draw(seed, np.arange(6)), size, **options)
        image, mask = torched(images, ids, p)
        for i in range(6):
            expected = augment.run_ref(images[i], ids[i], p, i)
            assert (mask[i] == expected[1]).all() and np.abs(image[i] - expected[0]).max() < 1.3e-5


def test_a_sample_does_not_see_its_batch():
    images, ids = random(40, 24)
    p = augment.sample(Draw(1, np.arange(4)), (40, 24))
    whole, one = (
        torched(images, ids, p),
        torched(images[2:3], ids[2:3], Params(*(x[2:3] for x in p))),
    )
    assert (whole[0][2] == one[0][0]).all() and (whole[1][2] == one[1][0]).all()


# The reference against outsiders.


@pytest.mark.parametrize('degrees', [20.0, -75.0])
def test_geometry_is_opencvs(degrees):
    """A rotation by cv2's matrix about the centre, border included.

    OpenCV computes in float32, and chooses another nearest pixel where two are equally near.
    """
    images, ids = random(48, 40, 1)
    forward = cv2.getRotationMatrix2D((19.5, 23.5), degrees, 1)
    image, mask = augment.run_ref(
        images[0], ids[0], geometry(matrix((48, 40), [degrees], [1.0], ([0.5], [0.5]))), 0
    )
    assert (
        np.abs(
            255 * image
            - cv2.warpAffine(
                images[0].astype(np.float32), forward, (40, 48), flags=cv2.INTER_LINEAR
            )
        ).max()
        < 0.01
    )
    assert (
        mask == cv2.warpAffine(ids[0], forward, (40, 48), flags=cv2.INTER_NEAREST)
    ).mean() > 0.995


def test_enlarging_is_opencvs():
    """A zoom of 2 equals cv2.resize, whose weights are exact for it.

    The outermost pixels, where cv2 repeats the border, are left out.
    """
    image = random(32, 40, 1)[0][0]
    expected = cv2.resize(
        image.astype(np.float64), None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR
    )
    for place in ((0, 0), (1, 1), (0.5, 0.25)):
        out, _ = augment.run_ref(
            image,
            np.zeros((32, 40), np.uint8),
            geometry(matrix((32, 40), [0.0], [2.0], [[v] for v in place])),
            0,
        )
        x, y = int(place[0] * 40), int(place[1] * 32)
        assert np.abs(255 * out - expected[y : y + 32, x : x + 40])[1:-1, 1:-1].max() < 1e-9


def test_masks_are_nearest_and_empty_outside():
    ids = np.full((20, 20), 7, np.uint8)
    _, out = augment.run_ref(
        np.zeros((20, 20, 3), np.uint8),
        ids,
        geometry(matrix((20, 20), [45.0], [1.0], ([0], [0]))),
        0,
    )
    assert set(np.unique(out)) == {0, 7} and out[0, 0] == 0 and out[10, 10] == 7
    area = (out == 7).sum()  # an octagon: a square and the same square turned
    assert area == pytest.approx(400 * (2 * math.sqrt(2) - 2), rel=0.03)


def test_colours_are_pils_and_colorsys():
    x = np.random.default_rng(0).random((200, 3)) * 0.5 + 0.25
    one, zero = np.ones(1), np.zeros(1)

    def run(*tint):
        m = colour(*tint)[0]
        return x @ m[:, :3].T + m[:, 3]

    assert run(zero, one, one, zero) == pytest.approx(x)
    assert run(zero + 0.1, one, one, zero) == pytest.approx(x + 0.1)
    assert run(zero, 0.5 * one, one, zero) == pytest.approx((x - 0.5) / 2 + 0.5)
    picture = Image.fromarray((255 * x).round().astype(np.uint8)[None])
    for factor in (0, 0.6, 1.4):
        enhanced = np.array(ImageEnhance.Color(picture).enhance(factor))[0] / 255
        assert (
            np.abs(run(zero, one, factor * one, zero) - enhanced).max() < 2.5 / 255
        )  # PIL rounds three times
    assert run(zero, one, one, zero + 120) == pytest.approx(x[:, [2, 0, 1]])  # red becomes green
    shade = [colorsys.rgb_to_hsv(*c)[0] * 360 for c in (x[0], run(zero, one, one, zero + 10)[0])]
    assert (shade[1] - shade[0]) % 360 == pytest.approx(
        10, abs=3
    )  # an HSV hexagon's corner is not a circle's


# Left and right.


def test_double_flip_is_identity():
    for size in ((64, 64), (63, 17)):
        image, mask = (x[0] for x in random(*size, 1))
        p = geometry(UPRIGHT, flip=True)
        for run in (
            torched,
            lambda image, mask, p: tuple(x[None] for x in augment.run_ref(image[0], mask[0], p, 0)),
        ):
            once = run(image[None], mask[None], p)
            flipped = (255 * once[0][0]).round().astype(np.uint8)
            assert (flipped == image[:, ::-1]).all() and (once[1][0] == masks.mirrored(mask)).all()
            twice = run(flipped[None], once[1], p)
            assert ((255 * twice[0][0]).round() == image).all() and (twice[1][0] == mask).all()


def test_mirrored_is_the_mirror_image():
    """The flip comes last: it gives the mirror images of picture and mask, to the bit."""
    images, ids = random(48, 40)
    p = augment.sample(Draw(2, np.arange(4)), (48, 40), **STRONG)
    plain, mirror = (
        torched(images, ids, p._replace(flip=np.full(4, flip))) for flip in (False, True)
    )
    assert (mirror[0] == plain[0][:, :, ::-1]).all() and (
        mirror[1] == masks.mirrored(plain[1])
    ).all()


def test_the_swap_is_done_exactly_once(drawn, monkeypatch):
    """Left eyes, brows and ears stay on their side after any augmentation.

    If ids were not swapped, or swapped twice, every flipped mask would show it.
    """
    images, ids = np.stack([f.image for f in drawn]), np.stack([f.mask for f in drawn])
    p = augment.sample(Draw(4, np.arange(8)), (64, 64))
    assert 0 < p.flip.sum() < 8

    def wrong():
        return np.array([sides.exchanged(m) for m in torched(images, ids, p)[1]])

    assert not wrong().any() and not any(
        sides.exchanged(augment.run_ref(images[i], ids[i], p, i)[1]) for i in range(8)
    )
    monkeypatch.setattr(masks, 'SWAP', np.arange(256, dtype=np.uint8))
    assert (wrong() == p.flip).all()  # left out, or, which is the same, done twice
