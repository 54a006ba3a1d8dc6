"""Data sets are scanned, bad files named, verdicts cached; Reader replaces what turns out bad."""

import json
import os
import pickle
import threading

import cv2
import numpy as np
import pytest
from zoo import picture, png, rows

from errors import DataError
from sources import lq_gt, manifest
from sources import reader as reading
from sources.lq_gt import scan_pairs
from sources.manifest import scan
from sources.reader import Reader


def write(folder, files):
    for name, data in files.items():
        path = os.path.join(folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, 'wb') as f:
            f.write(data)
    return str(folder)


def face(n=64, seed=0):
    return png(n, n, 2, rows(picture(n, seed=seed)))


def late(n=64):
    """A file that `check` passes and `sound` refuses."""
    return png(n, n, 2, rows(picture(n))[:-1])


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv('FACES_CACHE', str(tmp_path_factory.mktemp('cache')))


@pytest.fixture
def reads(monkeypatch):
    """Paths that a scan reads from now on."""
    paths, read = [], manifest.read_bytes

    def recorded(path, *part):
        paths.append(os.path.basename(path))
        return read(path, *part)

    monkeypatch.setattr(manifest, 'read_bytes', recorded)
    return paths


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(
        manifest.os,
        'listdir',
        lambda path: (_ for _ in ()).throw(PermissionError(13, 'Permission denied')),
    )
    for call in lq_gt.is_paired, lambda folder: scan_pairs(folder, 4):
        with pytest.raises(DataError, match=f'{tmp_path} cannot be listed: Permission denied'):
            call(str(tmp_path))


# A data set.


def test_folder(tmp_path):
    names = [
        '10.png',
        '2.png',
        'b/1.JPG',
        'a/x.png',
        '.hidden.png',
        '.git/x.png',
        'notes.txt',
        'UP.PNG',
    ]
    folder = write(tmp_path, {n: face() for n in names})
    os.symlink('2.png', tmp_path / 'again.png')
    os.symlink('.', tmp_path / 'loop')
    found = scan(folder, size=64)
    assert [os.path.relpath(p, folder) for p in found.paths] == [
        '2.png',
        '10.png',
        'UP.PNG',
        'a/x.png',
        'b/1.JPG',
    ]
    assert (
        not found.bad
        and len(found) == 5
        and found.images[0][1:] == (64, 64, 'png', 'rgb', False, None)
    )


def test_the_order_does_not_depend_on_the_place(tmp_path):
    files = {n: face() for n in ('9/a.png', '10/a.png', '10/b.png')}
    one, two = (write(tmp_path / place, files) for place in ('z', '5/a'))
    names = [[os.path.relpath(p, root) for p in scan(root, size=64).paths] for root in (one, two)]
    assert names[0] == names[1] == ['9/a.png', '10/a.png', '10/b.png']


def test_list_glob_and_single_file(tmp_path):
    folder = write(
        tmp_path,
        {
            'a/1.png': face(),
            'a/2.png': face(),
            'a/odd.dat': face(),
            'list.txt': b'\xef\xbb\xbf# faces\r\n\r\na/2.png\r\n  a/odd.dat  \n'
            b'a/missing.png\na/2.png\n',
        },
    )
    said = []
    listed = scan(os.path.join(folder, 'list.txt'), size=64, say=said.append)
    assert [os.path.basename(p) for p in listed.paths] == ['2.png', 'odd.dat']
    assert (
        len(said) == 1
        and '1 of 3 files skipped' in said[0]
        and 'missing.png (cannot be read: No such file' in said[0]
    )
    assert [
        os.path.basename(p) for p in scan(os.path.join(folder, '*', '?.png'), size=64).paths
    ] == ['1.png', '2.png']
    assert len(scan(os.path.join(folder, 'a', '1.png'), size=64)) == 1


def test_bad_files_are_counted_and_named(tmp_path):
    folder = write(
        tmp_path,
        {
            **{f'good{i}.png': face() for i in range(3)},
            'cut.png': face()[:100],
            'small.png': face(32),
            'empty.png': b'',
            'page.png': b'<html>',
            'late.png': late(),
        },
    )
    os.mkfifo(tmp_path / 'pipe.png')
    os.symlink('nowhere', tmp_path / 'gone.png')
    said, steps = [], []
    found = scan(folder, size=64, say=said.append, progress=lambda *step: steps.append(step))
    assert len(found) == 4 and len(found.bad) == 6
    assert (
        said[0].startswith('6 of 10 files skipped: ')
        and 'cut.png (truncated' in said[0]
        and 'and 3 more' in said[0]
    )
    assert (
        dict(found.bad)[os.path.join(folder, 'small.png')]
        == '32x32, smaller than the training size 64'
    )
    assert steps[-1] == (8, 8) and [a for a, _ in steps] == list(range(1, 9))
    with pytest.raises(DataError) as e:
        scan(folder, size=64, strict=True, verify=True)
    message = str(e.value)
    assert (
        '7 of 10' in message
        and all(os.path.basename(b.path) in message for b in found.bad)
        and 'too few' in message
    )


@pytest.mark.parametrize(
    'make, message',
    [
        (lambda d: d / 'absent', 'no such file or folder; give'),
        (lambda d: d, 'no image files found; put'),
        (lambda d: d / '*.png', 'no image files found; quote'),
        (lambda d: d / 'list.txt', 'no image files found; write'),
        (lambda d: d / 'data.bin', 'neither an image nor'),
        (lambda d: d / 'small', r'none of 1 files is usable: .*32x32.*choose'),
        (lambda d: d / 'cut.png', 'none of 1 files is usable'),
    ],
)
def test_nothing_usable_is_an_error_with_a_remedy(tmp_path, make, message):
    source = make(tmp_path)
    if source != tmp_path and '*' not in str(source) and source.name != 'absent':
        write(
            tmp_path,
            {
                'list.txt': b'# nothing\n',
                'data.bin': b'\0\1',
                'small/a.png': face(32),
                'cut.png': face()[:50],
            },
        )
    with pytest.raises(DataError, match=message) as e:
        scan(source, size=64)
    assert str(source) in str(e.value)


def test_second_scan_reads_only_what_changed(tmp_path, reads):
    folder = write(tmp_path, {f'{i}.png': face(seed=i) for i in range(4)} | {'bad.png': b'junk'})
    first = scan(folder, size=64, say=str)
    reads.clear()
    again = scan(folder, size=64, say=str)
    assert (again.images, again.bad) == (first.images, first.bad) and not [
        r for r in reads if r.endswith('.png')
    ]
    write(tmp_path, {'2.png': face(72), 'new.png': face()})
    os.remove(tmp_path / '3.png')
    changed = scan(folder, size=64, say=str)
    assert sorted(r for r in reads if r.endswith('.png')) == ['2.png', 'new.png']
    assert [i.width for i in changed.images] == [64, 64, 72, 64] and len(changed.bad) == 1
    assert len(scan(folder, size=72, say=str)) == 1  # the size is not part of a verdict


def test_verified_files_stay_verified(tmp_path, reads):
    folder = write(tmp_path, {'a.png': face(), 'late.png': late()})
    assert [i.sound for i in scan(folder, size=64).images] == [False, False]
    found = scan(folder, size=64, verify=True, say=str)
    assert [i.sound for i in found.images] == [True] and 'too few' in found.bad[0].reason
    reads.clear()
    assert (
        scan(folder, size=64, say=str).images
        == scan(folder, size=64, verify=True, say=str).images
        == found.images
    )
    assert not [r for r in reads if r.endswith('.png')]


@pytest.mark.parametrize(
    'damage',
    [
        b'',
        b'{"version": 1, "files"',
        b'[]',
        b'\xff\xfe',
        b'{"version": 1, "files": {"x": [1, 2]}}',
        None,
    ],
)
def test_damaged_cache_is_rebuilt(tmp_path, tmp_path_factory, damage):
    folder, cache = write(tmp_path, {'a.png': face()}), tmp_path_factory.mktemp('own')
    first = scan(folder, size=64, cache_dir=cache)
    (file,) = cache.iterdir()  # one file, no temporary ones left
    good = json.loads(file.read_text())
    if damage is None:  # wrong types where numbers are due
        damage = json.dumps(
            {**good, 'files': {k: [str(v) for v in e] for k, e in good['files'].items()}}
        ).encode()
    file.write_bytes(damage)
    assert scan(folder, size=64, cache_dir=cache).images == first.images
    assert json.loads(file.read_text()) == good


def test_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    for value, place in (str(tmp_path / 'own'), 'own'), ('~/tilde', 'tilde'), ('', '.cache/faces'):
        expected = tmp_path / place
        monkeypatch.setenv('FACES_CACHE', value)
        assert manifest.cache_folder() == expected and not expected.exists()
        scan(write(tmp_path / 'data', {'a.png': face()}), size=64)
        assert [f.suffix for f in expected.iterdir()] == ['.json']  # what a scan uses by default


def test_unwritable_cache_is_one_warning(tmp_path):
    folder, said = write(tmp_path, {'a.png': face(), 'b.png': face()}), []
    assert len(scan(folder, size=64, cache_dir=tmp_path / 'a.png' / 'cache', say=said.append)) == 2
    assert len(said) == 1 and 'FACES_CACHE' in said[0]


def test_failing_reads_are_bad_but_not_remembered(tmp_path, monkeypatch):
    folder, read = write(tmp_path, {'a.png': face(), 'b.png': face()}), manifest.read_bytes

    def refuse(path, *part):
        if path.endswith('b.png'):
            raise PermissionError(13, 'Permission denied')
        return read(path, *part)

    monkeypatch.setattr(manifest, 'read_bytes', refuse)
    assert [b.reason for b in scan(folder, size=64, say=str).bad] == [
        'cannot be read: Permission denied'
    ]
    monkeypatch.setattr(manifest, 'read_bytes', read)
    assert len(scan(folder, size=64)) == 2


def test_names_that_are_no_text(tmp_path):
    with open(os.path.join(os.fsencode(tmp_path), b'\xff.png'), 'wb') as f:
        f.write(face()[:90])
    write(tmp_path, {'a.png': face()})
    said = []
    assert (
        len(scan(str(tmp_path), size=64, say=said.append)) == 1
        and len(scan(str(tmp_path), size=64, say=said.append)) == 1
    )
    said[1].encode()


def test_without(tmp_path):
    folder = write(tmp_path, {f'{i}.png': face() for i in range(4)})
    os.symlink(os.path.join(folder, '2.png'), tmp_path / 'link')
    left = scan(folder, size=64).without(
        [os.path.join(folder, 'x', '..', '0.png'), str(tmp_path / 'link')]
    )
    assert [os.path.basename(p) for p in left.paths] == ['1.png', '3.png']


def test_split(tmp_path):
    images = [manifest.Image(f'/faces/{i:05}.png', 64, 64, 'png', 'rgb') for i in range(1000)]
    whole = manifest.Manifest(images)
    train, val = whole.split(100, seed=1)
    assert (
        len(val) == 100
        and sorted(train.images + val.images) == images
        and val.images == sorted(val.images)
    )
    assert whole.split(0.1, seed=1)[1].paths == val.paths != whole.split(100, seed=2)[1].paths
    assert (
        abs(np.mean([whole.paths.index(p) for p in val.paths]) - 500) < 100
    )  # from everywhere; 3.5 sigma
    fewer = manifest.Manifest(images[1:]).split(100, seed=1)[1]
    assert len(set(fewer.paths) - set(val.paths)) <= 1
    for count in (-1, 1000, 1.0):
        with pytest.raises(DataError, match='for validation'):
            whole.split(count, seed=0)


# Pairs.


def test_pairs(tmp_path):
    folder = write(
        tmp_path,
        {f'{side}/{i}.png': face(n) for side, n in (('lq', 16), ('GT', 64)) for i in (10, 9)},
    )
    pairs = scan_pairs(folder, 4)
    assert (
        [os.path.basename(p.lq.path) for p in pairs]
        == ['9.png', '10.png']
        == [os.path.basename(p.gt.path) for p in pairs]
    )
    assert all(lq.width == 16 and gt.width == 64 for lq, gt in pairs)


@pytest.mark.parametrize(
    'files, message',
    [
        (
            {'LQ/a.png': 16, 'GT/b.png': 64},
            r'1 without a GT partner: \S*a.png; 1 without a LQ partner: \S*b.png',
        ),
        ({'LQ/a.png': 16, 'GT/a.png': 72}, r'a.png is 72x72, its LQ 16x16'),
        ({'LQ/a.png': 16, 'LQ/a.jpg': 16, 'GT/a.png': 64}, 'two files for one pair'),
        ({'LQ/a.png': 16}, 'needs one sub-folder GT or HR, has none'),
        (
            {'LQ/a.png': 16, 'LR/a.png': 16, 'GT/a.png': 64},
            'needs one sub-folder LQ or LR, has LQ, LR',
        ),
        (
            {f'LQ/{i}.png': 16 for i in range(8)} | {'GT/0.png': 64},
            '7 without a GT partner.*5.png, and 2 more',
        ),
    ],
)
def test_pairs_that_do_not_match(tmp_path, files, message):
    with pytest.raises(DataError, match=message):
        scan_pairs(write(tmp_path, {name: face(n) for name, n in files.items()}), 4)


def test_pairs_are_strict(tmp_path):
    folder = write(
        tmp_path,
        {
            'LR/a.png': face(16),
            'HR/a.png': face(64),
            'LR/b.png': face(16)[:60],
            'HR/b.png': face(64),
        },
    )
    with pytest.raises(DataError, match='b.png .truncated'):
        scan_pairs(folder, 4)


# Reader.


def _reader(tmp_path, bad=(1, 2, 5), n=6, say=print):
    folder = write(tmp_path, {f'{i}.png': late() if i in bad else face(seed=i) for i in range(n)})
    return Reader(scan(folder, size=64).images, 64, say)


def test_bad_files_are_replaced_by_the_next_good_one(tmp_path):
    said = []
    reader = _reader(tmp_path, say=said.append)
    assert [reader.read(i)[1] for i in range(6)] == [0, 3, 3, 3, 4, 0]
    assert [reader.read(i)[1] for i in range(6)] == [0, 3, 3, 3, 4, 0]
    assert (
        len(said) == 3
        and '1.png cannot be decoded (corrupt pixels' in said[0]
        and said[0].endswith('3.png')
    )
    rgb, used = reader.image(2)
    assert used == 3 and (rgb == picture(64, seed=3)).all()


def test_the_replacement_does_not_depend_on_the_order_of_asking(tmp_path):
    expected = [0, 3, 3, 3, 4, 0]
    reader = _reader(tmp_path, say=str)
    for order in (range(5, -1, -1), (2, 5, 1, 0, 4, 3)):
        fresh = pickle.loads(pickle.dumps(Reader(reader.images, 64, say=str)))
        assert [fresh.read(i)[1] for i in order] == [expected[i] for i in order]


def test_threads_agree_and_report_once(tmp_path):
    said, results = [], {}
    reader = _reader(tmp_path, say=said.append)
    threads = [
        threading.Thread(
            target=lambda t=t: results.update({t: [reader.read(i)[1] for i in range(6)]})
        )
        for t in range(8)
    ]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert list(results.values()) == [[0, 3, 3, 3, 4, 0]] * 8 and len(said) == 3


def test_a_file_is_judged_once(tmp_path, monkeypatch):
    reader, judged, sound = _reader(tmp_path, say=str), [], reading.sound
    monkeypatch.setattr(reading, 'sound', lambda data: (judged.append(1), sound(data)))
    for _ in range(3):
        [reader.read(i) for i in range(6)]
    assert len(judged) == 6
    verified = Reader(scan(str(tmp_path), size=64, verify=True, say=str).images, 64)
    judged.clear()
    [verified.read(i) for i in range(len(verified))]
    assert not judged


def test_files_that_vanish_or_shrink_are_replaced(tmp_path):
    said = []
    reader = _reader(tmp_path, bad=(), say=said.append)
    os.remove(tmp_path / '0.png')
    write(tmp_path, {'1.png': face(32)})
    assert reader.read(0)[1] == reader.read(1)[1] == 2
    assert 'No such file' in said[0] and '32x32, smaller' in said[1]


def test_a_file_that_breaks_after_it_was_judged_is_replaced(tmp_path):
    reader = _reader(tmp_path, bad=(), say=str)
    assert reader.image(0)[1] == 0
    write(tmp_path, {'0.png': late()[:200]})
    assert [reader.image(0)[1], reader.image(0)[1], reader.read(0)[1]] == [1, 1, 1]
    write(tmp_path, {'1.png': late()[:200]})  # DALI, which is given bytes, would end with it
    assert [used for _, used in reader.encoded([0, 1, 2])] == [2, 2, 2]


def test_no_file_left(tmp_path):
    with pytest.raises(
        DataError, match='none of 3 files can be decoded any more: .*0.png .corrupt'
    ):
        _reader(tmp_path, bad=range(3), n=3).read(1)


def test_larger_images_are_resized_with_one_notice(tmp_path):
    said = []
    folder = write(tmp_path, {'a.png': face(128), 'b.png': face(), 'c.png': face(72)})
    reader = Reader(scan(folder, size=64).images, 64, said.append)
    copies = [pickle.loads(pickle.dumps(Reader(reader.images, 64, str))) for _ in range(2)]
    assert {r.image(i)[0].shape for r in [reader, *copies] for i in range(3)} == {(64, 64, 3)}
    assert len(said) == 1 and said[0].startswith('2 of 3 images are larger than 64x64')
    assert (
        reader.image(0)[0] == cv2.resize(picture(128), (64, 64), interpolation=cv2.INTER_AREA)
    ).all()
