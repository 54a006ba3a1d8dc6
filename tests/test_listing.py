"""One scanner for all programs: they take the same files and leave out the same, with a reason."""

import os
import struct
import time
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image
from scanners import PROGRAMS, SIZE, restored, trained
from test_manifest import face, write
from zoo import chunk, picture, zoo

import infer
from errors import BadFile, DataError
from sources import files, listing, scan_cache, structure
from sources.manifest import scan
from tools import prepare


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv('FACES_CACHE', str(tmp_path / 'cache'))
    write(tmp_path / 'val', {'v.png': face(SIZE, 99)})


def encoded(suffix, n=SIZE):
    return cv2.imencode(suffix, picture(n))[1].tobytes()


def huge(width, height):
    """A PNG whose header is whole, and says so much."""
    header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b'IDAT', zlib.compress(bytes(1000)))
    return structure.PNG + chunk(b'IHDR', header) + pixels + chunk(b'IEND')


JUNK = [
    *('._good.png', '.DS_Store', 'Thumbs.db', 'desktop.ini', '.hidden/x.png', 'sub/._face.png'),
    *('__MACOSX/._good.png', '__MACOSX/x.png', '@eaDir/x.png', '$RECYCLE.BIN/x.png'),
]


@pytest.mark.parametrize('program', PROGRAMS)
def test_what_systems_leave_behind_is_not_seen(program, tmp_path):
    good = {n: face(SIZE, i) for i, n in enumerate(('good.png', 'B.PNG', 'sub/face.png'))}
    folder = write(tmp_path / 'in', good | dict.fromkeys(JUNK, b'junk'))
    took = PROGRAMS[program](folder, tmp_path)
    assert took.status == 0, took.said
    assert took.names in (None, {'good', 'B', 'sub/face'})
    assert 'skipped' not in took.said and 'left out' not in took.said


BAD = {
    'b.webp': (lambda: encoded('.webp')[:-9], 'truncated: 9 bytes are missing'),
    'c.bmp': (lambda: encoded('.bmp')[:40], 'corrupt BMP'),
    'd.tiff': (lambda: encoded('.tiff')[:200], 'corrupt TIFF'),
    'e.gif': (lambda: b'GIF89a' + bytes(99), 'looks like GIF; convert it to PNG'),
    'f.heic': (lambda: b'\0\0\0\x18ftypheic' + bytes(99), 'HEIC'),
    'g.jxl': (lambda: b'\xff\x0a' + bytes(99), 'looks like JPEG XL; convert it to PNG'),
    'cut.png': (lambda: face(SIZE)[:200], 'truncated'),
    'cut.jpg': (lambda: encoded('.jpg')[:500], 'truncated: '),
    'zero.png': (lambda: b'', 'empty file (0 bytes)'),
    'page.png': (lambda: b'<!DOCTYPE html><p>quota', 'looks like HTML'),
    'huge.png': (lambda: huge(20_000, 20_000), 'too large: 20,000x20,000 = 400 million pixels'),
}


@pytest.mark.parametrize('name', BAD)
@pytest.mark.parametrize(
    'program', ['train', 'prepare index', 'prepare split', 'infer', 'evaluate']
)
def test_what_is_left_out_is_named_with_one_reason(program, name, tmp_path):
    make, reason = BAD[name]
    folder = write(tmp_path / 'in', {'good.png': face(SIZE), 'z.png': face(SIZE, 1), name: make()})
    took = PROGRAMS[program](folder, tmp_path)
    assert name in took.said and reason in took.said
    # A comparison without some of the pictures would mean something else.
    assert took.status == {'infer': 1, 'evaluate': 2}.get(program, 0)
    assert took.names in (None, set() if program == 'evaluate' else {'good', 'z'})


@pytest.mark.parametrize('name', ['no_tables.jpg', 'short_stream.png', 'bad_filter.png'])
def test_what_only_decoding_shows_has_the_reason_of_training(name, tmp_path):
    data, reason = zoo(SIZE)[name]
    folder = write(tmp_path / 'in', {'good.png': face(SIZE), 'z.png': face(SIZE, 1), name: data})
    took = restored(folder, tmp_path)
    assert took.status == 1 and took.names == {'good', 'z'}
    assert name in took.said and reason in took.said
    took = restored(write(tmp_path / 'alone', {name: data}), tmp_path / 'val')
    assert took.status == 2 and name in took.said and reason in took.said
    assert reason in trained(folder, tmp_path, '--verify').said


def test_a_picture_of_another_name_is_a_picture(tmp_path):
    """Contents decide, whatever files are called."""
    folder = write(tmp_path / 'in', {'a.webp': face(SIZE), 'b.jfif': encoded('.jpg')})
    assert trained(folder, tmp_path).names == restored(folder, tmp_path).names == {'a', 'b'}


@pytest.mark.parametrize('program', PROGRAMS)
def test_every_kind_of_picture_is_taken(program, tmp_path):
    suffixes = '.png', '.jpg', '.webp', '.bmp', '.tif', '.tiff', '.avif'
    folder = write(tmp_path / 'in', {f'{s[1:]}{s}': encoded(s) for s in suffixes})
    took = PROGRAMS[program](folder, tmp_path)
    if program == 'faces.masks':  # whose ids only a PNG holds
        assert 'not a PNG mask: it looks like WebP' in took.said
        return
    assert took.status == 0 and took.names in (None, {s[1:] for s in suffixes})
    assert 'skipped' not in took.said and 'left out' not in took.said


@pytest.mark.parametrize('program', [p for p in PROGRAMS if p not in ('faces.masks',)])
def test_a_pipe_is_not_waited_for(program, tmp_path):
    folder = write(tmp_path / 'in', {'good.png': face(SIZE), 'z.png': face(SIZE, 1)})
    os.mkfifo(tmp_path / 'in' / 'pipe.png')
    took = PROGRAMS[program](folder, tmp_path)
    assert program == 'submit' or 'pipe.png' in took.said and 'not a regular file' in took.said
    for alone in 'pipe.png', 'list.txt', 'x.tar':
        path = tmp_path / alone
        if not path.exists():
            os.mkfifo(path)
        assert PROGRAMS[program](path, tmp_path).status == 2


@pytest.mark.parametrize('program', ['infer', 'submit', 'evaluate'])
def test_equal_names_are_refused(program, tmp_path):
    folder = write(tmp_path / 'in', {'a.png': face(SIZE), 'a.jpg': encoded('.jpg')})
    took = PROGRAMS[program](folder, tmp_path)
    assert took.status == 2 and 'two images named a ' in took.said and 'a.jpg' in took.said


@pytest.mark.parametrize('program', ['train', 'infer', 'submit', 'evaluate'])
def test_equal_names_in_sub_folders_are_kept_apart(program, tmp_path):
    names = {'a/face.png', 'b/face.png', 'b/c/face.png'}
    folder = write(tmp_path / 'in', {n: face(SIZE, i) for i, n in enumerate(sorted(names))})
    assert PROGRAMS[program](folder, tmp_path).names == {n[:-4] for n in names}


def test_what_decoding_changes_is_said_once(tmp_path):
    alpha = np.dstack([picture(SIZE), picture(SIZE)[..., :1]])
    folder = write(
        tmp_path / 'in',
        {f'{i}.png': cv2.imencode('.png', alpha)[1].tobytes() for i in range(3)}
        | {'z.png': face(SIZE)},
    )
    for program in trained, restored:
        said = program(folder, tmp_path).said
        assert said.count('transparent, which is dropped') == 1 and '3 of 4 images' in said


@pytest.mark.parametrize('name', ['deep.png', 'deep.tif', 'cmyk.jpg', 'cmyk.tif'])
def test_infer_converts_what_nobody_trains_on(name, tmp_path):
    """16 bits and CMYK are refused as targets; restored, and said, where they are inputs."""
    path = tmp_path / 'in' / name
    path.parent.mkdir()
    if name.startswith('deep'):
        cv2.imwrite(str(path), picture(SIZE).astype(np.uint16) * 257)
    else:
        Image.fromarray(picture(SIZE)).convert('CMYK').save(path)
    took = restored(path.parent, tmp_path)
    said = 'reduced to 8' if name.startswith('deep') else 'converted to RGB'
    assert took.status == 0 and said in took.said
    refused = trained(path.parent, tmp_path)
    assert refused.status == 2 and 'convert it to' in refused.said


# Sizes.


def test_a_flag_raises_the_bound(tmp_path, capsys):
    folder = write(tmp_path / 'in', {'a.png': face(SIZE), 'b.png': face(32)})
    (tmp_path / 'out').mkdir()
    restored(folder, tmp_path)
    argv = [
        '--weights',
        str(tmp_path / 'weights.safetensors'),
        '--input',
        folder,
        '--device',
        'cpu',
    ]
    argv += ['--output', str(tmp_path / 'out')]
    assert infer.main([*argv, '--max-pixels', str(SIZE * SIZE - 1)]) == 1
    assert os.listdir(tmp_path / 'out') == ['b.png']
    assert 'are read without --max-pixels' in capsys.readouterr().err
    assert infer.main([*argv, '--max-pixels', str(SIZE * SIZE)]) == 0


def test_bytes_are_bounded_before_they_are_read(tmp_path, monkeypatch):
    path = tmp_path / 'sparse.png'
    with open(path, 'wb') as f:
        f.write(structure.PNG)
        f.truncate(60 << 30)
    with pytest.raises(BadFile, match='too large: 64,424,509,440 bytes'):
        files.read_bytes(path)


def test_scans_of_a_jpeg_are_bounded():
    """Each costs a decoder as much as a whole picture."""
    data = cv2.imencode('.jpg', picture(256), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    last = data.rindex(b'\xff\xda')
    files.check(data[:last] + data[last:-2] * 50 + b'\xff\xd9')
    with pytest.raises(BadFile, match='more than 100 scans'):
        files.check(data[:last] + data[last:-2] * 5000 + b'\xff\xd9')


@pytest.mark.parametrize(
    'data',
    [
        lambda: huge(9, 9)[:33] + chunk(b'tEXt', b'a\0') * 2_000_000 + huge(9, 9)[33:],
        lambda: encoded('.jpg')[:2] + b'\xff\xfe\0\2' * 2_000_000 + encoded('.jpg')[2:],
    ],
    ids=['chunks', 'segments'],
)
def test_pieces_of_a_file_are_bounded(data):
    data = data()
    start = time.process_time()
    with pytest.raises(BadFile, match='more than 131,072'):
        files.check(data)
    assert time.process_time() - start < 2


def test_brace_patterns_are_bounded():
    for pattern in 'a{0..99999999999}.tar', '{0..9999}{0..9999}.png', 'x{0..999999999999999999}':
        with pytest.raises(DataError, match='more than 1,000,000 names'):
            scan(pattern, size=SIZE)


# Lists and names.


@pytest.mark.parametrize(
    'text',
    [
        b'a/1.png (64,64,3)\nb.png (64, 64, 3)\n',
        b'a\\1.png\r\nb.png\r\n',
        b'"a/1.png"\n\'b.png\'\n',
        'a/1.png\nb.png\n'.encode('utf-16'),
        '\ufeffa\\1.png\r\nb.png'.encode('utf-16-be'),
        b'\xef\xbb\xbfa/1.png (64,64)\n# comment\n\nb.png',
    ],
)
def test_lists_of_other_programs(text, tmp_path):
    folder = write(tmp_path / 'in', {'a/1.png': face(SIZE), 'b.png': face(SIZE, 1), 'l.txt': text})
    found = scan(os.path.join(folder, 'l.txt'), size=SIZE)
    assert [os.path.relpath(p, folder) for p in found.paths] == ['a/1.png', 'b.png']
    assert not found.bad


def test_a_path_in_a_list_is_first_taken_as_it_stands(tmp_path):
    odd = ['a (1,2).png', '"q".png', 'x\\y.png', 'ümläut 顔.png']
    folder = write(tmp_path / 'in', {n: face(SIZE, i) for i, n in enumerate(odd)})
    paths = [os.path.join(folder, name) for name in odd]
    write(tmp_path, {'l.txt': listing.list_of(paths)})
    assert sorted(scan(tmp_path / 'l.txt', size=SIZE).paths) == sorted(paths)


@pytest.mark.parametrize('name', ['new\nline.png', 'car\rriage.png'])
@pytest.mark.parametrize('verb', ['split', 'annotate'])
def test_names_that_a_list_cannot_carry(verb, name, tmp_path, capsys):
    folder = write(tmp_path / 'in', {name: face(SIZE), 'a.png': face(SIZE, 1)})
    more = ['--val-size', '1'] if verb == 'split' else []
    argv = [verb, folder, '--size', str(SIZE), *more, '--out', str(tmp_path / 'out')]
    assert prepare.main(argv) == 2
    said = capsys.readouterr().err
    assert 'no list can carry this name' in said and 'rename' in said
    assert len(said.splitlines()) == 1 and not (tmp_path / 'out').exists()


@pytest.mark.parametrize('program', PROGRAMS)
def test_names_that_are_no_utf8(program, tmp_path):
    folder = tmp_path / os.fsdecode(b'caf\xe9')
    write(folder, {os.fsdecode(b'\xe9%d.png' % i): face(SIZE, i) for i in range(3)})
    took = PROGRAMS[program](folder, tmp_path)
    assert took.status == 0 and took.names in (None, {os.fsdecode(b'\xe9%d' % i) for i in range(3)})


def test_a_damaged_cache_is_no_matter(tmp_path):
    path = tmp_path / 'c.json'
    for damage in b'[' * 100_000, b'{"version": ' + b'9' * 5000 + b'}', b'\xff':
        path.write_bytes(damage)
        assert scan_cache.load(path, 1) == {}
    os.mkfifo(tmp_path / 'pipe')
    assert scan_cache.load(tmp_path / 'pipe', 1) == {}


def test_a_run_of_a_name_that_tensorboard_cannot_write(tmp_path):
    out = tmp_path / os.fsdecode(b'caf\xe9')
    took = trained(tmp_path / 'val', tmp_path, '--out', out)
    assert took.status == 2 and 'no UTF-8, which TensorBoard cannot write' in took.said
