"""Lossless HTJ2K files: every reader gets the encoded pixels, and none decodes a damaged file."""

import errno
import os
import re
import shutil
import zlib
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import torch

from errors import BadFile

pytest.importorskip('imagecodecs', reason='the extra htj2k is not installed')

import dali_pipes
import degrade
import synthetic
import train
from dali_pipes import pipe_dali, pipe_png
from dali_pipes.loader import Options
from dali_pipes.plan import Plan
from sources import files, jph, manifest
from sources.reader import Reader
from tools import prepare

SIZE = 48


@pytest.fixture(scope='module')
def face():
    return synthetic.face(3, 64).image


@pytest.fixture(scope='module')
def drawn(face):
    """Six that differ; drawing six faces would take most of the time."""
    return [np.rot90(face, i % 4)[i : i + SIZE, i : i + SIZE, ::-1] for i in range(6)]


@pytest.fixture
def folder(tmp_path, monkeypatch, drawn):
    """PNG in two folders, one JPEG, one file that is no picture, and their JPH copies."""
    monkeypatch.setenv('FACES_CACHE', str(tmp_path / 'cache'))
    for i in range(6):
        path = tmp_path / 'hq' / str(i % 2) / f'{i}.{"jpg" if i == 4 else "png"}'
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), drawn[i])
    (tmp_path / 'hq/bad.png').write_text('no picture')
    assert prepare.main(['htj2k', str(tmp_path / 'hq'), '--out', str(tmp_path / 'jph')]) == 0
    return tmp_path / 'jph'


def pictures(rng):
    for shape in (1, 1), (1, 7), (5, 1), (3, 2), (33, 65), (64, 64), (70, 31):
        yield rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    yield np.zeros((20, 30, 3), np.uint8)
    yield np.full((20, 30, 3), 255, np.uint8)


def test_every_decoder_gives_the_pixels(face, monkeypatch):
    for image in [*pictures(np.random.default_rng(0)), face]:
        data = jph.encode(image)
        assert files.check(data) == ('jph', image.shape[1], image.shape[0], 'rgb')
        assert np.array_equal(files.decode(data), image)
        monkeypatch.setattr(jph, 'codec', lambda: False)  # by OpenCV
        assert np.array_equal(files.decode(data), image)
        monkeypatch.undo()
        pytest.importorskip('nvidia.dali')
        assert np.array_equal(pipe_dali.pixels(pipe_dali.decoder([data], 1)())[0], image)


def test_nothing_is_made_of_a_damaged_file(face):
    data, rng = jph.encode(face), np.random.default_rng(0)
    files.sound(data)
    for n in range(1500):
        hurt = bytearray(data)
        if n % 3:
            for place, bit in zip(
                rng.integers(0, len(data), 1 + n % 4), rng.integers(0, 8, 4), strict=False
            ):
                hurt[place] ^= 1 << bit
        else:
            del hurt[rng.integers(len(data)) :]
        if hurt != data:
            for judge in files.check, files.sound, files.decode:
                with pytest.raises(BadFile):
                    judge(bytes(hurt))
    with pytest.raises(BadFile, match='CRC of the codestream is wrong'):
        files.sound(data + b'\0')
    with pytest.raises(BadFile, match='truncated: 7 bytes are missing'):
        files.check(data[:-7])


def test_a_fitting_checksum_does_not_make_a_header_ours(face):
    """OpenJPH believes lengths, levels and block sizes, and ends the process over wrong ones."""
    data = jph.encode(face)
    name = data.index(b'OpenJPH', jph._CODE)
    end = data.index(bytes.fromhex('ff93'), name) + 2
    for at in (*range(jph._CODE, name - 2), *range(data.index(b'\xff\x90', name), end)):
        hurt = bytearray(data)
        hurt[at] ^= 1 + at % 255
        hurt[jph._HEADER - 4 : jph._HEADER] = zlib.crc32(hurt[jph._HEADER :]).to_bytes(4, 'big')
        with pytest.raises(BadFile, match='is not one of 64x64 pixels'):
            files.check(bytes(hurt))


def test_jpeg_2000_from_elsewhere_is_refused(face):
    """Its decoders cannot be trusted with files that nobody has checked."""
    plain = cv2.imencode('.jp2', face)[1].tobytes()
    with pytest.raises(
        BadFile,
        match='JPEG 2000 without a checksum: only files written by python tools/prepare.py htj2k',
    ):
        files.check(plain)
    bare = jph.encode(face)[jph._CODE :]
    with pytest.raises(BadFile, match='it looks like a bare JPEG 2000 codestream'):
        files.check(bare)


def test_prepare_rewrites_a_folder(folder, tmp_path, capsys):
    assert prepare.main(['htj2k', str(tmp_path / 'hq'), '--out', str(tmp_path / 'other')]) == 0
    said = capsys.readouterr().out
    assert (
        'bad.png (not an image that can be read: it looks like text)' in said
        and '6 images written, 0 were there' in said
    )
    for old in manifest.scan(str(tmp_path / 'hq'), size=SIZE, say=lambda _: None).images:
        new = (folder / old.path.removeprefix(f'{tmp_path}/hq/')).with_suffix('.jph')
        assert np.array_equal(
            files.decode(new.read_bytes()), files.decode(files.read_bytes(old.path))
        )
    # Once more: a damaged and a missing one are made again, the others stay.
    whole, times = (
        (folder / '0/0.jph').read_bytes(),
        {p: p.stat().st_mtime_ns for p in folder.rglob('*.jph')},
    )
    (folder / '0/0.jph').write_bytes(whole[:-1])
    (folder / '1/1.jph').unlink()
    assert (
        prepare.main(['htj2k', str(tmp_path / 'hq'), '--out', str(folder)]) == 0
        and '2 images written, 4 were there' in capsys.readouterr().out
    )
    assert (folder / '0/0.jph').read_bytes() == whole and len(list(folder.rglob('*'))) == 8
    assert all(
        (p.stat().st_mtime_ns == t) == (p.name not in ('0.jph', '1.jph')) for p, t in times.items()
    )
    assert (
        prepare.main(['htj2k', str(tmp_path / 'hq'), '--out', str(folder)]) == 0
        and '0 images written, 6 were there' in capsys.readouterr().out
    )


def test_prepare_makes_changed_ones_again(folder, tmp_path, capsys, drawn):
    (tmp_path / 'hq/bad.png').unlink()
    source, copy = tmp_path / 'hq/0/0.png', folder / '0/0.jph'
    cv2.imwrite(str(source), drawn[5])
    os.utime(source, ns=(copy.stat().st_mtime_ns + 1,) * 2)
    assert (
        prepare.main(['htj2k', str(tmp_path / 'hq'), '--out', str(folder)]) == 0
        and '1 images written, 5 were there' in capsys.readouterr().out
    )
    assert np.array_equal(files.decode(copy.read_bytes()), drawn[5][..., ::-1])


def test_prepare_does_not_write_into_what_it_reads(folder, tmp_path, capsys):
    for out in tmp_path / 'hq', tmp_path / 'hq/1/../htj2k':
        assert (
            prepare.main(['htj2k', str(tmp_path / 'hq'), '--out', str(out)]) == 2
            and 'a place of its own' in capsys.readouterr().err
        )
    assert not list((tmp_path / 'hq').rglob('*.jph'))


def test_prepare_on_a_full_disk(folder, tmp_path, capsys, monkeypatch):
    """One line, no half file; what was written before stays and counts the next time."""

    def full(source, target):
        if str(target).endswith('3.jph'):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        rename(source, target)

    rename, new = os.replace, tmp_path / 'new'
    monkeypatch.setattr(os, 'replace', full)
    assert prepare.main(['htj2k', str(tmp_path / 'hq'), '--out', str(new)]) == 2
    assert re.fullmatch(
        r'.*: .*3.jph cannot be written: No space left on device\n', capsys.readouterr().err
    )
    left = [p for p in new.rglob('*') if p.is_file()]
    assert all(files.check(p.read_bytes())[0] == 'jph' and p.name != '3.jph' for p in left)
    monkeypatch.undo()
    assert (
        prepare.main(['htj2k', str(tmp_path / 'hq'), '--out', str(new)]) == 0
        and f'{6 - len(left)} images written, {len(left)} were there' in capsys.readouterr().out
    )


def test_prepare_names_what_it_cannot_read(folder, tmp_path, capsys, monkeypatch):
    """A file that is there for the check and gone, or damaged, when its turn comes."""
    scan = manifest.scan

    def then_lost(*args, **more):
        found = scan(*args, **more)
        (tmp_path / 'hq/0/2.png').unlink()
        (tmp_path / 'hq/1/1.png').write_bytes(b'')
        return found

    monkeypatch.setattr(manifest, 'scan', then_lost)
    assert prepare.main(['htj2k', str(tmp_path / 'hq'), '--out', str(tmp_path / 'new')]) == 0
    said = capsys.readouterr().out
    assert (
        '0/2.png (cannot be read: No such file or directory)' in said
        and '1/1.png (' in said
        and '4 images written' in said
    )


def test_two_of_a_name(folder, tmp_path, capsys, drawn):
    cv2.imwrite(str(tmp_path / 'hq/0/0.jpg'), drawn[1])
    assert prepare.main(['htj2k', str(tmp_path / 'hq'), '--out', str(tmp_path / 'new')]) == 2
    assert (
        'holds two images that would be' in capsys.readouterr().err
        and not (tmp_path / 'new').exists()
    )


@pytest.mark.parametrize('openjph', [True, False])
def test_pipes_read_them_as_the_png(openjph, folder, tmp_path, monkeypatch):
    """Beside PNG and alone, and a damaged one is replaced by its neighbour, by name."""
    pytest.importorskip('nvidia.dali')
    monkeypatch.setattr(jph, 'codec', lambda: openjph)
    images = {
        where: manifest.scan(str(tmp_path / where), size=SIZE, say=lambda _: None).images
        for where in ('hq', 'jph')
    }
    mixed = [
        b if i % 2 else a for i, (a, b) in enumerate(zip(images['hq'], images['jph'], strict=True))
    ]
    assert {i.kind for i in images['jph']} == {'jph'} and len({i.kind for i in mixed}) > 1

    def batches(name, which, said=None):
        with dali_pipes.make(
            name,
            which,
            'bicubic',
            batch=3,
            size=SIZE,
            threads=2,
            say=(said if said is not None else []).append,
        ) as pipe:
            return [next(pipe) for _ in range(4)]

    expected = batches('reference', images['hq'])
    for name in ('dali', 'torch') if openjph else ('dali',):
        for which in images['jph'], mixed:
            assert all(
                np.array_equal(a.target, b.target)
                for a, b in zip(expected, batches(name, which), strict=True)
            )
    hurt = bytearray((folder / '1/3.jph').read_bytes())
    hurt[-40] ^= 4
    (folder / '1/3.jph').write_bytes(hurt)
    said = []
    assert len(batches('dali', images['jph'], said)) == 4
    assert [line for line in said if 'replaced' in line] == [
        f'{folder}/1/3.jph cannot be decoded (CRC of the codestream is wrong): '
        f'replaced by {folder}/1/5.jph'
    ]


@pytest.fixture
def opencv_warns():
    logging = cv2.utils.logging
    before = logging.getLogLevel()
    logging.setLogLevel(logging.LOG_LEVEL_WARNING)
    yield
    logging.setLogLevel(before)


def test_opencv_is_silent(face, opencv_warns, capfd):
    """It warns of files that name no colour space, once for each, unless that is turned off."""
    cv2.imdecode(np.frombuffer(jph.encode(face), np.uint8), cv2.IMREAD_COLOR)
    said = capfd.readouterr()
    assert not said.out and not said.err
    cv2.imdecode(np.frombuffer(jph.encode(face)[jph._CODE :], np.uint8), cv2.IMREAD_COLOR)
    assert 'color space' in capfd.readouterr().err


def test_train_on_them(folder, tmp_path, capsys):
    for copy in '0/2', '1/5':
        shutil.copy(tmp_path / f'hq/{copy}.png', folder / f'{copy}.png')
        (folder / f'{copy}.jph').unlink()
    assert (
        train.main(
            [
                '--data',
                str(folder),
                '--val',
                '2',
                '--preset',
                'unet',
                '--net',
                '{"width": [8, 8, 8, 8], "blocks": [[1, 1, 1], 1, [1, 1, 1]], "position": 0}',
                '--size',
                str(SIZE),
                '--batch',
                '2',
                '--nimg',
                '4',
                '--ticks',
                '1',
                '--device',
                'cpu',
                '--threads',
                '1',
                '--out',
                str(tmp_path / 'run'),
            ]
        )
        == 0
    )
    assert (tmp_path / 'run/weights.safetensors').exists()


def test_without_the_encoder(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(jph, 'codec', lambda: False)
    assert prepare.main(['htj2k', str(tmp_path / 'hq'), '--out', str(tmp_path / 'new')]) == 2
    assert 'HTJ2K is written by OpenJPH: pip install -e .[htj2k]' in capsys.readouterr().err


@pytest.mark.parametrize('rates, chosen', [((9, 5), 'mixed'), ((5, 9), 'cpu')])
def test_auto_takes_the_faster(rates, chosen, folder, monkeypatch):
    """Without a GPU: what DALI would decode there is decoded by its CPU operator."""
    pytest.importorskip('nvidia.dali')
    real, given, said = pipe_dali.decoder, list(rates), []
    monkeypatch.setattr(pipe_dali, 'decoder', lambda data, threads, gpu: real(data, threads))
    monkeypatch.setattr(pipe_png, '_rate', lambda run, count: given.pop(0))
    images = manifest.scan(str(folder), size=SIZE, say=lambda _: None).images

    def who(how, images):
        with ThreadPoolExecutor(1) as pool:
            return pipe_png.decoder(
                how,
                Plan(6, degrade.recipe('bicubic'), batch=2, size=SIZE),
                Options(Reader(images, SIZE), None, pool, 0, 0, 1, torch.device('cuda', 0), 2),
                said.append,
            )

    assert who('auto', images) == chosen and said == [
        f'decode: {"gpu" if chosen == "mixed" else "cpu"}; '
        f'{rates[0]} images per second on the GPU, {rates[1]} on 2 threads'
    ]
    assert (
        who('cpu', images) == 'cpu'
        and who('gpu', images) == 'mixed'
        and who('gpu', [images[0]._replace(kind='png'), *images[1:]]) == 'png'
    )
    monkeypatch.setattr(pipe_png, 'decode', lambda data: files.decode(data) ^ 1)
    assert who('auto', images) == 'cpu' and 'DALI decodes other pixels' in said[-1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason='there is no GPU')
def test_a_gpu_decodes_the_same(folder):
    pytest.importorskip('nvidia.dali')
    images, said = manifest.scan(str(folder), size=SIZE, say=lambda _: None).images, []
    found = []
    for decode in 'gpu', 'cpu', 'auto':
        with dali_pipes.make(
            'dali',
            images,
            'bicubic',
            batch=4,
            size=SIZE,
            device='cuda',
            decode=decode,
            say=said.append,
        ) as pipe:
            found.append([next(pipe).target.cpu() for _ in range(5)])
    assert (
        all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(*found, strict=True))
        and sum('decode:' in line for line in said) == 1
    )
