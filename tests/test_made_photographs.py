"""Photographs of which everything is known: they are what their truth says."""

import collections
import io
import itertools
import json
import os
import tarfile

import cv2
import numpy as np
import pytest
from PIL import Image

import synthetic
from benchmarks import made_photographs
from benchmarks.photographs import (
    aligned,
    damaged,
    encoding,
    flaws,
    heap,
    painting,
    placing,
    plan,
    scene,
    score,
    truth,
)
from benchmarks.photographs.aligned import SIDE, Faces, Place
from benchmarks.photographs.flaws import Flaw
from benchmarks.photographs.plan import Deck, File
from errors import BadFile, DataError
from faces import align, detect, measures, quality
from sources import files, listing, manifest
from storage import printable
from tools.building.accounts import Face as Found


@pytest.fixture(scope='module')
def drawn(tmp_path_factory):
    """Drawn faces as files of 512 pixels; small ones enlarged are drawn faster."""
    folder = tmp_path_factory.mktemp('drawn')
    for i in range(6):
        face = synthetic.face(i % 3, 160).image
        large = cv2.resize(face, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f'{i}.png'), large[:, :: -1 if i < 3 else 1, ::-1])
    return folder


class Dots(Faces):
    """Faces that are five white dots on black, so that anybody sees where they are."""

    def pixels(self, number):
        x = np.full((SIDE, SIDE, 3), 20, np.uint8)
        for point in self.place(number).points:
            where = tuple(int(round(v * 16)) for v in point)
            cv2.circle(x, where, 9 * 16, (255, 255, 255), -1, cv2.LINE_AA, shift=4)
        return x

    def place(self, number):
        return Place(np.array([130.0, 100, 380, 450]), align.TEMPLATE + (number % 7, 0))


def centroid(photo, near):
    """Middle of what is white within some pixels."""
    x, y = np.rint(near).astype(int)
    reach = 9
    part = photo[y - reach : y + reach + 1, x - reach : x + reach + 1].min(2).astype(float)
    part = (part - 90).clip(0)
    gx, gy = np.meshgrid(np.arange(-reach, reach + 1), np.arange(-reach, reach + 1))
    return np.array([x + (part * gx).sum() / part.sum(), y + (part * gy).sum() / part.sum()])


# ---- which photos ----


def plans(count, faces=None, seed=0):
    deck = Deck(seed, count, faces)
    return deck, [plan.plan(deck, i) for i in range(count)]


def test_a_photo_is_a_function_of_seed_and_number():
    deck, few = plans(40, 60)
    _, many = plans(70, 60)
    assert repr(few) == repr(many[:40])
    _, others = plans(40, 60, seed=1)
    assert not any(repr(a) == repr(b) for a, b in zip(few, others, strict=True))
    small = min(few, key=lambda p: p.width * p.height + 1e9 * (not p.spots))
    x, y = (painting.painted(Deck(0, n, None), Dots(), small) for n in (40, 41))
    assert (x.pixels == y.pixels).all() and x.faces == y.faces


@pytest.mark.parametrize('faces', [None, 400])
def test_no_face_comes_twice_but_in_copies(faces):
    _, done = plans(450, faces)
    used = [(s.number, s.mirrored) for p in done if p.kind != plan.COPY for s in p.spots]
    assert len(set(used)) == len(used)
    if faces:
        # Nearly all are used both ways before there are too few.
        assert len({number for number, _ in used}) > 0.9 * faces
        with pytest.raises(DataError, match=r'give \d+ faces, or a smaller --count'):
            Deck(0, 700, faces)


def test_the_kinds_come_as_often_as_they_shall():
    _, done = plans(800)
    kinds = collections.Counter(p.kind for p in done)
    for kind, share in zip(plan.KINDS, plan.SHARES, strict=True):
        assert abs(kinds[kind] / 800 - share) < 0.04
    sides = [s.square * placing.FACE / SIDE for p in done if p.kind == plan.PLAIN for s in p.spots]
    assert min(sides) >= 40 and max(sides) <= 400 and 90 < np.median(sides) < 130
    spoilt = collections.Counter(s.flaw.name for p in done for s in p.spots if s.flaw)
    assert set(spoilt) == set(flaws.NAMES) and min(spoilt.values()) > 5
    assert {p.file.orientation for p in done} == set(range(1, 9))


def test_copies_are_of_earlier_plain_photos_near_and_far():
    _, done = plans(600)
    near = collections.Counter()
    for p in done:
        if p.kind == plan.COPY:
            original = done[p.original]
            assert original.number < p.number and original.kind == plan.PLAIN
            near[original.number // plan.SHARD == p.number // plan.SHARD] += 1
            assert abs(p.width / original.width / p.change.scale - 0.96) < 0.06
    assert min(near.values()) > 10


def test_faces_lie_apart_and_within_the_photo_unless_they_are_cut():
    _, done = plans(300)
    for p in done:
        for spot in p.spots if p.kind != plan.COPY else ():
            inside = measures.inside((p.height, p.width), align.inverse(spot.matrix), SIDE)
            if spot.flaw and spot.flaw.name == 'cut':
                assert 0.6 < inside < 0.85
                points = aligned.moved(align.TEMPLATE, spot.matrix)
                assert ((points > 0) & (points < (p.width - 1, p.height - 1))).all()
            else:
                assert inside > 0.93
        for a, b in itertools.combinations(p.spots, 2):
            # What is cut out of an aligned face reaches half of its side at most.
            assert np.hypot(*np.subtract(a.centre, b.centre)) > 0.48 * (a.square + b.square)


# ---- what is painted ----


@pytest.mark.parametrize('kind', [plan.PLAIN, plan.COPY])
def test_points_are_where_they_are_said_to_be(kind):
    """Dots are found again in the decoded file, whatever turned, mirrored or enlarged it."""
    deck, done = plans(300, seed=4)
    large = 120 * np.ones(300) / [p.change.scale if p.change else 1 for p in done]
    done = [p for p in done if p.kind == kind and any(s.square > large[p.number] for s in p.spots)]
    done.sort(key=lambda p: p.width * p.height)
    small = [p for p in done if p.file.orientation > 1][:3] + done[:3]
    assert {s.mirrored for p in small for s in p.spots} == {False, True}
    compared = 0
    for p in small:
        data, photo, _ = painting.file(deck, Dots(), p.number)
        pixels = files.decode(data)
        assert pixels.shape[:2] == (photo.height, photo.width)
        for face in photo.faces:
            points = np.array(face.points)
            assert points[0, 0] < points[1, 0] and points[3, 0] < points[4, 0]
            if np.hypot(*(points[1] - points[0])) > 24:
                away = np.array([centroid(pixels, near) - near for near in points])
                # A tenth of a pixel: half of one would be an origin in the wrong place.
                assert np.hypot(*away.T).max() < 0.4 and np.abs(away.mean(0)).max() < 0.1
                compared += 1
    assert compared >= len(small)


def test_orientations_are_told_by_more_than_one_in_the_heap():
    """The tag says what was done to the pixels: all eight look alike once decoded."""
    pixels = scene.scene(np.random.default_rng(0), 64, 96).astype(np.uint8)
    for orientation in range(1, 9):
        data = encoding.encoded(pixels, File('.jpg', 95, orientation, False))
        assert Image.open(io.BytesIO(data)).getexif().get(0x112, 1) == orientation
        assert np.abs(files.decode(data).astype(int) - pixels).mean() < 3


@pytest.mark.parametrize('suffix', plan.FILES)
@pytest.mark.parametrize('gray', [False, True])
def test_files_are_of_the_kind_that_they_are_called(suffix, gray):
    pixels = scene.scene(np.random.default_rng(1), 40, 60).astype(np.uint8)
    data = encoding.encoded(pixels, File(suffix, 90, 1, gray))
    kind, width, height, colour = files.check(data)
    assert (kind, width, height) == ({'.jpg': 'jpeg'}.get(suffix, suffix[1:]), 60, 40)
    # WebP has no gray of its own.
    assert (colour == 'gray') == (gray and suffix != '.webp')
    rgb = files.decode(data).astype(int)
    assert np.ptp(rgb, axis=2).max() <= 2 if gray else np.ptp(rgb, axis=2).max() > 10


def test_what_is_cut_out_ends_before_the_square_does():
    mask = aligned.mask()
    assert max(mask[0].max(), mask[-1].max(), mask[:, 0].max(), mask[:, -1].max()) < 1e-3
    # All of a face is there: brows to chin, cheek to cheek.
    assert mask[130:430, 130:382].min() > 0.97 and mask.min() >= 0 and mask.max() <= 1
    steps = np.hypot(*np.gradient(mask))
    assert steps.max() < 0.06


def test_a_scene_has_no_face():
    find = detect.make()
    for seed in range(4):
        x = scene.scene(np.random.default_rng(seed), 300, 450)
        assert x.shape == (300, 450, 3) and x.min() >= 0 and x.max() <= 255 and x.std() > 8
        assert len(find(x.astype(np.uint8)).score) == 0


def test_the_place_of_a_mirrored_face_is_mirrored(drawn):
    face = Faces(manifest.scan(drawn, tell=False).images).pixels(0)
    a, b = aligned.place(face), aligned.place(face[:, ::-1].copy())
    points = b.points * (-1, 1) + (SIDE - 1, 0)
    assert np.abs(points[aligned.SWAPPED] - a.points).max() < 1
    # Eyes, nose and mouth are where the template has them, about.
    assert np.abs(a.points - align.TEMPLATE).max() < 30
    assert aligned.place(np.full((SIDE, SIDE, 3), 99, np.uint8)) is None


def test_drawn_faces_are_found_in_photos_where_they_are(drawn):
    faces = Faces(manifest.scan(drawn, tell=False).images)
    find, compared = detect.make(), 0
    deck = Deck(1102, 3, faces.count)
    for number in (0, 2):
        data, photo, _ = painting.file(deck, faces, number)
        found = find(files.decode(data), 40)
        some = [Found('', '', b.tolist(), p.tolist()) for b, p in zip(*found[:2], strict=True)]
        pairs, strangers = score.matched(photo, some)
        good = [p for p in score.large(pairs)]
        assert all(p.found for p in good) and not strangers
        compared += len(good)
        assert (score.errors(good) < 0.2).all()
    assert compared >= 3


# ---- flaws ----


@pytest.fixture(scope='module')
def textured():
    """A face with detail down to the pixel, which drawn ones have not."""
    rng = np.random.default_rng(0)
    face = cv2.resize(synthetic.face(1, 160).image, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    f = np.hypot(*np.meshgrid(np.fft.fftfreq(SIDE), np.fft.fftfreq(SIDE)))
    grain = np.fft.ifft2(np.fft.fft2(rng.normal(size=f.shape)) / np.maximum(f, 1 / SIDE) ** 1.5)
    grain = 18 * grain.real / grain.real.std()
    return np.clip(face + grain[..., None], 0, 255).astype(np.uint8)


def spoilt(face, name, amount=0.5):
    flaw = Flaw(name, amount, 0.3)
    return flaws.softened(flaws.lit(face, flaw), flaw, SIDE)


def fate(face):
    light = measures.measure(
        face,
        matrix=np.eye(2, 3),
        box=np.array([130, 100, 380, 450.0]),
        points=align.TEMPLATE,
        score=1.0,
        photo=(SIDE, SIDE),
        jpeg=100,
    )
    return measures.failed(light, measures.Limits())


@pytest.mark.parametrize('amount', [0.0, 1.0])
@pytest.mark.parametrize('name', ['dark', 'bright', 'blurred', 'moved', 'coarse'])
def test_a_measure_sees_what_is_wrong(name, amount, textured):
    assert fate(textured) == ''
    assert fate(spoilt(textured, name, amount)) in flaws.REASONS[name]


def test_reasons_are_measures():
    assert {r for names in flaws.REASONS.values() for r in names} <= set(measures.Measures._fields)


def test_light_is_what_it_shall_be(textured):
    inner = flaws._inner(SIDE)
    for name, span in (('dark', flaws.DARK), ('bright', flaws.BRIGHT)):
        for amount in (0.0, 1.0):
            gray = cv2.cvtColor(spoilt(textured, name, amount), cv2.COLOR_RGB2GRAY)
            assert abs(gray[inner].mean() - span[int(amount)]) < 1


def test_a_moved_dot_is_a_line():
    x = np.zeros((81, 81, 3), np.uint8)
    x[40, 40] = 255
    angle = 0.7
    moved = flaws.softened(x, Flaw('moved', 1.0, angle), 20 / flaws.MOVED[1])[..., 0].astype(float)
    y, at = np.nonzero(moved)
    along = (at - 40) * np.cos(angle) + (y - 40) * np.sin(angle)
    across = (y - 40) * np.cos(angle) - (at - 40) * np.sin(angle)
    assert np.ptp(along) == pytest.approx(20, abs=2.5) and np.abs(across).max() < 1.6
    assert abs((moved[y, at] * along).sum() / moved.sum()) < 0.2


def test_coarse_faces_are_worth_what_they_shall(textured):
    for amount in (0.0, 1.0):
        worth = flaws.COARSE[0] + amount * (flaws.COARSE[1] - flaws.COARSE[0])
        assert quality.effective_side(spoilt(textured, 'coarse', amount)) < 2 * worth


# ---- damaged files ----


@pytest.mark.parametrize('odd', damaged.KINDS, ids=lambda odd: odd.what)
def test_what_is_called_bad_cannot_be_read(odd):
    data = odd.made(np.random.default_rng(0))
    if odd.special:
        assert data == b''
    elif odd.bad:
        with pytest.raises(BadFile):
            files.decode_sound(data, convert=True)
    else:
        assert files.decode_sound(data, convert=True).shape == (damaged.SIDE, damaged.SIDE, 3)


@pytest.fixture(scope='module')
def both(drawn, tmp_path_factory):
    """One heap in folders and in tars, made by one process and by two."""
    images = manifest.scan(drawn, tell=False).images
    made = {}
    for tars in (False, True):
        root = tmp_path_factory.mktemp('heap')
        what = heap.Heap(2421, 3, Faces(images), len(damaged.KINDS) + 3, tars)
        made[tars] = root, heap.write(what, root, 1 + tars, lambda done, total: None)
    return made


def test_folders_and_tars_hold_the_same_files_however_many_made_them(both):
    (folder, told), (tars, same) = both[False], both[True]
    assert [p.faces for p in told.photos] == [p.faces for p in same.photos]
    with tarfile.open(tars / 'photos-000000.tar') as tar:
        for member in tar:
            path = folder / 'photos-000000' / member.name
            assert member.isfile() == (path.is_file() and not path.is_symlink())
            assert member.isdir() == path.is_dir() and member.isfifo() == path.is_fifo()
            if member.isfile():
                assert tar.extractfile(member).read() == path.read_bytes()
    assert len(os.listdir(folder / 'photos-000000')) == 3 + len(damaged.KINDS)


def test_the_truth_is_of_the_files_that_are_listed(both):
    for tars in (False, True):
        root, told = both[tars]
        assert truth.read(root / truth.NAME) == told
        names = {printable(file.name) for file in listing.files(str(root), None, print)}
        wanted = {photo.name for photo in told.photos}
        wanted |= {file.name for file in told.damaged if file.what != 'folder called JPEG'}
        special = {'link to itself', 'pipe'} if tars else set()
        assert names == wanted - {f.name for f in told.damaged if f.what in special}
        assert {f.what for f in told.damaged if f.what in special} == special
        assert not any(f.bad for f in told.damaged if f.what in special)


def test_odd_names_are_names_of_photos(both):
    root, told = both[False]
    odd = {file.name for file in told.damaged if file.what == 'odd name'}
    assert len(odd) == 3 and odd <= {photo.name for photo in told.photos}
    assert any('two\\nlines' in name for name in odd)


def test_the_program_says_what_it_made_and_refuses_to_write_over_it(drawn, tmp_path, capsys):
    out = tmp_path / 'heap'
    argv = [str(drawn), '--out', str(out), '--count', '1', '--seed', '2421', '--workers', '1']
    assert made_photographs.main(argv) == 0
    assert '1 photo with' in capsys.readouterr().out
    assert len(json.loads((out / 'truth.json').read_text())['photos']) == 1
    assert made_photographs.main(argv) == 2
    assert 'holds something already' in capsys.readouterr().err
    assert made_photographs.main([*argv[:1], '--out', str(tmp_path / 'x'), '--count', '90']) == 2
    assert '6 aligned faces are too few' in capsys.readouterr().err
