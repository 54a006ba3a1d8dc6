"""Measures of faces against closed forms, Pillow and heads that are turned by scipy."""

import io
import math
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

import synthetic
from degrade import jpeg
from faces import align, detect, masks, measures, quality

PHOTOS = Path(os.environ.get('FACES_DATA') or '/nowhere', 'png')
SIDE = 512


def texture(seed, side=SIDE):
    """A face of noise [side, side, 3] with the spectrum of faces, equal in all directions."""
    rng = np.random.default_rng(seed)
    y, x = np.meshgrid(*[np.fft.fftfreq(side, 1 / side)] * 2, indexing='ij')
    amplitude = np.hypot(x, y).clip(1) ** (-quality.FALL / 2)
    wave = np.fft.ifft2(np.fft.fft2(rng.normal(size=(side, side))) * amplitude).real
    gray = np.clip(128 + 40 * wave / wave.std(), 0, 255)
    return np.repeat(np.rint(gray)[..., None], 3, 2).astype(np.uint8)


def moving(face, length, degrees):
    """The face with a motion of so many pixels."""
    half, size = length / 2, 2 * length + 1
    kernel = np.zeros((size, size), np.float32)
    a = np.deg2rad(degrees)
    for t in np.linspace(-half, half, 8 * length):
        x, y = length + t * np.cos(a), length + t * np.sin(a)
        kernel[round(y), round(x)] += 1
    return cv2.filter2D(face, -1, kernel / kernel.sum())


def inner(side):
    """The oval as its equation says, at every pixel's centre."""
    y, x = (np.mgrid[:side, :side] + 0.5) / side
    (cx, cy), (a, b) = measures.CENTRE, measures.AXES
    return ((x - cx) / a) ** 2 + ((y - cy) / b) ** 2 < 1


def measured(face, **what):
    known = {
        'matrix': np.eye(2, 3),
        'box': np.array([100.0, 90, 400, 430]),
        'points': align.TEMPLATE,
        'score': 0.99,
        'photo': (SIDE, SIDE),
        'jpeg': 90.0,
    }
    return measures.measure(face, **{**known, **what})


# ---- angles ----


def seen(yaw, pitch, roll, distance=math.inf, noise=0.0, seed=0):
    """Five points of a head that is turned, by a camera so many eye distances away."""
    # Axes: x to the right, y down, z to the viewer, seen from whom all three turns are positive.
    turned = Rotation.from_euler('yxz', [yaw, pitch, roll], degrees=True)
    rng = np.random.default_rng(seed)
    head = turned.apply(measures.HEAD + rng.normal(0, noise, (5, 3)))
    depth = 1 if math.isinf(distance) else 1 - head[:, 2:] / distance
    return head[:, :2] / depth * 137 + (300, 200)


@pytest.mark.parametrize('pitch', [-40, -15, 0, 30])
@pytest.mark.parametrize('yaw', [-70, -45, -10, 0, 25, 60])
def test_angles_are_those_by_which_a_head_was_turned(yaw, pitch):
    for roll in (-170, -60, 0, 20, 100):
        assert measures.angles(seen(yaw, pitch, roll)) == pytest.approx(
            (yaw, pitch, roll), abs=1e-6
        )


def test_their_signs_are_as_they_are_told():
    frontal = seen(0, 0, 0)
    right, up = frontal.copy(), frontal.copy()
    right[2, 0] += 20
    up[2, 1] -= 20
    a = np.deg2rad(10)
    leaning = frontal @ np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]])
    assert measures.angles(right)[0] > 5 and measures.angles(up)[1] > 5
    # Clockwise, as y goes down: the right eye is the lower one.
    assert leaning[1, 1] > leaning[0, 1] and measures.angles(leaning)[2] == pytest.approx(10)


def test_a_mirrored_and_smaller_face_looks_the_other_way():
    points = seen(25, -10, 15, noise=0.03)
    # Its size and place change nothing.
    mirrored = (points * (-0.2, 0.2))[[1, 0, 2, 4, 3]] + (900, -70)
    yaw, pitch, roll = measures.angles(points)
    assert measures.angles(mirrored) == pytest.approx((-yaw, pitch, -roll))


@pytest.mark.parametrize('yaw', [0, 30, 60])
def test_the_error_is_the_one_that_is_told(yaw):
    found = [measures.angles(seen(yaw, 10, 0, noise=0.03, seed=s)) for s in range(300)]
    yaws, pitches, rolls = np.array(found).T
    assert yaws.std() < 5.5 and pitches.std() < 5.5 and rolls.std() < 2.5
    for pitch in (-30, 0, 10, 30):
        near = np.array(measures.angles(seen(yaw, pitch, 0, distance=10)))
        assert (np.abs(near - (yaw, pitch, 0)) < (2.5, 5, 1.5)).all()


def test_the_template_of_aligned_faces_looks_ahead():
    yaw, pitch, roll = measures.angles(align.TEMPLATE)
    assert abs(yaw) < 2 and abs(roll) < 1 and abs(pitch) < 10


# ---- the place in the photo ----


@pytest.mark.parametrize('seed', range(8))
def test_inside_is_the_share_of_its_pixels(seed):
    rng = np.random.default_rng(seed)
    a, scale = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 6)
    turn = scale * np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    matrix = np.concatenate([turn, rng.uniform(-100, 300, (2, 1))], 1)
    height, width = rng.integers(40, 400, 2)
    back = np.linalg.inv(np.concatenate([matrix, [[0, 0, 1]]]))
    grid = np.mgrid[-0.5:255.5:0.25, -0.5:255.5:0.25].reshape(2, -1)[::-1] + 0.125
    x, y = back[:2, :2] @ grid + back[:2, 2:]
    brute = ((x > -0.5) & (x < width - 0.5) & (y > -0.5) & (y < height - 0.5)).mean()
    assert measures.inside((height, width), matrix, 256) == pytest.approx(brute, abs=1e-3)


def test_all_inside_and_all_outside():
    small = np.array([[1, 0, -3000.0], [0, 1, -5000]])
    assert measures.inside((9000, 12_000), small, 512) == 1
    assert measures.inside((512, 512), np.eye(2, 3), 512) == 1
    assert measures.inside((512, 512), small, 512) == 0
    assert measures.inside((512, 256), np.eye(2, 3), 512) == 0.5


# ---- light and colour ----


def test_only_the_inner_face_counts_for_light():
    on = inner(SIDE)
    face = np.where(on[..., None], 100, np.array([255, 0, 0])).astype(np.uint8)
    face[on] += (np.arange(on.sum()) % 2 * 40).astype(np.uint8)[:, None]
    found = measured(face)
    assert found.exposure == pytest.approx(120, abs=0.01)
    assert found.contrast == pytest.approx(20, abs=0.01)
    assert found.clipped == found.colourfulness == 0


@pytest.mark.parametrize('level', [0, 255])
def test_clipped_is_the_share_at_the_ends_of_luma(level):
    on = np.flatnonzero(inner(SIDE))
    face = np.full((SIDE * SIDE, 3), 128, np.uint8)
    face[on[::4]] = level
    face[on[1::4]] = abs(level - 1)
    # One channel that is clipped makes no clipped luma.
    face[on[2::4], 0] = level
    found = measured(face.reshape(SIDE, SIDE, 3))
    assert found.clipped == pytest.approx(0.25, abs=1e-4)


def test_colourfulness_of_two_colours_and_of_gray():
    rng = np.random.default_rng(0)
    gray = np.repeat(rng.integers(0, 256, (1000, 1)), 3, 1).astype(np.uint8)
    assert measures.colourfulness(gray) == 0
    # Half red, half blue: rg is 200 or 0, yb is 100 or -200.
    two = np.array([(200, 0, 0), (0, 0, 200)] * 50, np.uint8)
    expected = math.hypot(100, 150) + 0.3 * math.hypot(100, -50)
    assert measures.colourfulness(two) == pytest.approx(expected)
    one = np.full((10, 3), (10, 60, 20), np.uint8)
    assert measures.colourfulness(one) == pytest.approx(0.3 * math.hypot(-50, 15))


# ---- blur ----


@pytest.mark.parametrize('seed', range(3))
def test_blur_is_told_from_what_is_equal_in_all_directions(seed):
    face = texture(seed)
    rng = np.random.default_rng(seed)
    plain = measures.blur(face)
    assert plain < 3
    for worse in (
        cv2.GaussianBlur(face, (0, 0), 4),
        np.clip(face + rng.normal(0, 12, face.shape), 0, 255).astype(np.uint8),
        cv2.resize(cv2.resize(face, (128, 128), interpolation=cv2.INTER_AREA), (512, 512)),
    ):
        assert abs(measures.blur(worse) - plain) < 3
    for degrees in (0, 25, 90, 140):
        assert measures.blur(moving(face, 20, degrees)) > plain + 8


def test_more_motion_is_more_blur_though_the_resolution_stays():
    face = texture(5)
    found = [measures.blur(moving(face, length, 60)) for length in (4, 10, 16, 24)]
    assert found == sorted(found) and found[-1] > found[0] + 8
    assert quality.effective_side(moving(face, 16, 60)) > 128


def test_blur_is_the_same_for_a_mirrored_and_for_a_small_face():
    face = moving(texture(6), 16, 30)
    mirrored = np.ascontiguousarray(face[:, ::-1])
    assert measures.blur(mirrored) == pytest.approx(measures.blur(face), abs=0.5)
    small = cv2.resize(face, (256, 256), interpolation=cv2.INTER_AREA)
    assert measures.blur(small) == pytest.approx(measures.blur(face), abs=1)


def test_a_face_without_detail_has_no_blur():
    assert measures.blur(np.full((SIDE, SIDE, 3), 77, np.uint8)) == 0


# ---- what hides it ----


@pytest.mark.parametrize('side', [128, 512])
def test_occluded_is_the_share_of_what_is_no_face(side):
    on = inner(side)
    for name, id_ in zip(masks.CLASSES, range(19), strict=True):
        share = measures.occluded(np.full((side, side), id_, np.uint8))
        assert share == (name in measures.HIDING)
    ids = np.full((side, side), masks.CLASSES.index('hair'), np.uint8)
    ids[on] = masks.CLASSES.index('skin')
    assert measures.occluded(ids) == 0
    ids[: side // 2] = masks.CLASSES.index('hat')
    assert measures.occluded(ids) == pytest.approx(on[: side // 2].sum() / on.sum())


def test_a_parser_is_asked_for_the_face_and_its_ids_are_counted():
    face = texture(0)
    seen_by = []

    def parser(given):
        seen_by.append(given)
        return np.zeros((64, 64), np.uint8)

    assert measured(face, parser=parser).occluded == 1
    assert seen_by[0] is face
    assert math.isnan(measured(face).occluded)


def test_a_drawn_face_is_hardly_occluded():
    drawn = synthetic.face(0, 192)
    assert measures.occluded(drawn.mask) < 0.35
    half = drawn.mask.copy()
    half[:, :96] = masks.CLASSES.index('cloth')
    assert measures.occluded(half) > 0.5


# ---- JPEG ----


def encoded(saved, image=None, **how):
    image = np.zeros((8, 8, 3), np.uint8) if image is None else image
    buffer = io.BytesIO()
    how = how if saved is None else {**how, 'quality': saved}
    Image.fromarray(image).save(buffer, 'JPEG', **how)
    return buffer.getvalue()


@pytest.mark.parametrize('saved', range(1, 101))
def test_a_quality_of_libjpeg_is_found_again(saved):
    assert measures.jpeg_quality(encoded(saved)) == saved
    gray = np.zeros((8, 8), np.uint8)
    assert measures.jpeg_quality(encoded(saved, gray, progressive=True)) == saved


def test_its_tables_are_those_that_degradations_have():
    """In another order, that of files."""
    for i, steps in enumerate(measures._scaled_steps()):
        assert sorted(steps) == sorted(jpeg.table(i + 1, luma=True).ravel())


def test_tables_of_another_kind_have_a_quality_near_theirs():
    """All steps of quality 70 times 1.1, of 40 a little rougher here and there, and of 16 bits."""
    base = {q: np.array(Image.open(io.BytesIO(encoded(q))).quantization[0]) for q in (40, 70)}
    rougher = np.rint(base[70] * 1.1).astype(int).tolist()
    assert 65 <= measures.jpeg_quality(encoded(None, qtables=[rougher, rougher])) <= 69
    uneven = (base[40] + np.arange(64) % 3).tolist()
    assert 37 <= measures.jpeg_quality(encoded(None, qtables=[uneven, uneven])) <= 40
    flat = [[1] * 64] * 2
    assert measures.jpeg_quality(encoded(None, qtables=flat)) == 100


def test_the_table_of_luma_counts_whatever_its_number_and_its_bits():
    data = encoded(80)
    at = data.index(b'\xff\xdb')
    steps = data[at + 5 : at + 69]
    frame = data.index(b'\xff\xc0')
    body = bytearray(data[frame : frame + 19])
    body[12] = 3
    wide = b''.join(bytes([0, step]) for step in steps)
    rough = bytes([0]) + bytes([200] * 64)
    made = (
        b'\xff\xd8'
        + b'\xff\xff\xdb\x00\x43' + rough
        + b'\xff\xdb\x00\x83' + bytes([0x13]) + wide
        + bytes(body)
        + b'\xff\xda\x00\x02'
    )  # fmt: skip
    assert measures.jpeg_quality(made) == 80


def test_files_of_another_kind_and_damaged_ones_have_none():
    png = cv2.imencode('.png', np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    assert measures.jpeg_quality(png) == measures.jpeg_quality(b'') == 100
    data = encoded(30)
    frame = data.index(b'\xff\xc0')
    qualities = [measures.jpeg_quality(data[:end]) for end in range(len(data))]
    assert set(qualities) == {30.0, 100.0}
    assert qualities[frame] == 100 and qualities[-1] == 30
    assert measures.jpeg_quality(memoryview(data)) == 30


# ---- all of them, and their limits ----


def test_every_measure_is_the_one_of_its_name():
    face = synthetic.face(3, SIDE).image
    points = seen(20, 5, -8)
    found = measured(
        face,
        box=np.array([10.0, 20, 110, 150]),
        points=points,
        score=0.97,
        matrix=np.array([[1, 0, 0.0], [0, 1, 256]]),
        jpeg=83.0,
    )
    assert found.side == 130 and found.score == 0.97 and found.jpeg == 83
    assert found[3:6] == pytest.approx((20, 5, -8))
    assert found.inside == pytest.approx(0.5)
    assert found.resolution == quality.effective_side(face)
    assert found.blur == measures.blur(face)
    luma = (pixels := face[inner(SIDE)]) @ np.array([0.299, 0.587, 0.114])
    assert found.exposure == pytest.approx(luma.mean(), abs=0.1)
    assert found.contrast == pytest.approx(luma.std(), abs=0.1)
    assert found.colourfulness == measures.colourfulness(pixels)
    assert all(isinstance(value, float) for value in found)


GOOD = measures.Measures(
    side=300, score=0.99, inside=1, yaw=0, pitch=0, roll=0, resolution=300, blur=5, jpeg=90,
    exposure=130, clipped=0, contrast=40, colourfulness=0, occluded=math.nan,
)  # fmt: skip


def test_a_good_face_is_kept_and_so_is_a_gray_one_and_one_at_the_limits():
    limits = measures.Limits()
    assert measures.Limits._fields == measures.Measures._fields
    assert measures.failed(GOOD, limits) == ''
    for end in (0, 1):
        at_the_end = measures.Measures(*(limit[end] for limit in limits))
        assert measures.failed(at_the_end, limits) == ''


@pytest.mark.parametrize('name', measures.Measures._fields)
def test_each_limit_is_one_of_its_measure(name):
    least, most = getattr(measures.Limits(), name)
    for value in (np.nextafter(least, -np.inf), np.nextafter(most, np.inf)):
        assert measures.failed(GOOD._replace(**{name: value}), measures.Limits()) == name
    everything = measures.Limits()._replace(**{name: (-math.inf, math.inf)})
    assert measures.failed(GOOD._replace(**{name: -1e9}), everything) == ''


def test_the_first_one_that_fails_is_named():
    names = measures.Measures._fields
    for i, first in enumerate(names):
        worse = {name: -1e9 for name in names[i:]}
        assert measures.failed(GOOD._replace(**worse), measures.Limits()) == first


@pytest.mark.skipif(not PHOTOS.is_dir(), reason='FACES_DATA/png is not here')
def test_good_photographs_are_kept_but_for_what_is_cut_off():
    """Portraits that were cropped to a square of the face."""
    find, kept = detect.make(), []
    for path in sorted(PHOTOS.glob('*.png'))[::12]:
        photo = cv2.imread(str(path))[..., ::-1].copy()
        found = find(photo, 150)
        matrix = align.matrix(found.points[0], SIDE)
        face = align.warped(photo, matrix, (SIDE, SIDE))
        each = measured(
            face,
            matrix=matrix,
            box=found.boxes[0],
            points=found.points[0],
            score=found.score[0],
            photo=photo.shape[:2],
        )
        limits = measures.Limits(inside=(0.7, 1))
        kept.append(measures.failed(each, limits) == '')
        blurred = measures.blur(moving(face, 32, 15))
        assert blurred > each.blur + 3
    assert np.mean(kept) >= 0.9
