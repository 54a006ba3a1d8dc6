"""Test sets in the layouts that they are published in: found, counted, and never taken for each
other.
"""

import json

import numpy as np
import pytest
from PIL import Image

from errors import DataError, RunError
from tools import evaluate
from tools.evaluation import sets


def put(*paths, size=32):
    for seed, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)
        Image.fromarray(pixels).save(path)


def folder(home, *names, images=2):
    for name in names:
        put(*(home / name / f'{i:08d}.png' for i in range(images)))
    return str(home)


LAYOUTS = [
    # set, folders that are there, its inputs, its truth
    (
        'celeba-test',
        ['celeba_512_validation', 'celeba_512_validation_lq'],
        'celeba_512_validation_lq',
        'celeba_512_validation',
    ),
    # Archives make a folder of their name around that of the images.
    (
        'celeba-test',
        ['a/CelebA_512_Validation', 'b/celeba_512_validation_lq'],
        'b/celeba_512_validation_lq',
        'a/CelebA_512_Validation',
    ),
    ('celeba-test', ['CelebA-Test/lq', 'CelebA-Test/hq'], 'CelebA-Test/lq', 'CelebA-Test/hq'),
    (
        'celeba-test',
        ['celeba_512_validation', 'celeba_512_validation_lq', 'self_celeba_512_v2'],
        'celeba_512_validation_lq',
        'celeba_512_validation',
    ),
    (
        'celeba-test-daefr',
        ['celeba_512_validation', 'celeba_512_validation_lq', 'self_celeba_512_v2'],
        'self_celeba_512_v2',
        'celeba_512_validation',
    ),
    ('celeba-test', ['celeba_512_validation'], None, 'celeba_512_validation'),
    ('lfw-test', ['lfw_cropped_faces/cropped_faces', 'lfw'], 'lfw_cropped_faces', None),
    ('webphoto-test', ['WebPhoto-Test/WebPhoto-Test'], 'WebPhoto-Test', None),
    ('wider-test', ['Wider-Test'], 'Wider-Test', None),
    ('celebchild-test', ['CelebChild-Test/Child', 'CelebChild-Test/Adult'], '*/Child', None),
    ('lfw-test', ['.'], '.', None),
]


@pytest.mark.parametrize('name, there, inputs, truth', LAYOUTS)
def test_published_layouts_are_found(tmp_path, name, there, inputs, truth):
    located = sets.locate(name, folder(tmp_path, *there))

    for found, wanted in ((located.inputs, inputs), (located.truth, truth)):
        if wanted is None:
            assert found is None
        else:
            (path,) = {tmp_path} if wanted == '.' else tmp_path.glob(wanted)
            assert path.samefile(found)


PARTS = 'CelebA', 'CelebChild-Test', 'LFW-Test', 'WebPhoto-Test', 'Wider-Test'


def test_the_parts_of_the_challenge_belong_together(tmp_path):
    folder(tmp_path, *(f'{half}/{part}' for half in ('test', 'val') for part in PARTS))
    assert sets.locate('ntire', str(tmp_path)).inputs == str(tmp_path / 'test')
    assert sets.locate('ntire', str(tmp_path / 'val')).inputs == str(tmp_path / 'val')
    (tmp_path / 'val/LFW-Test').rename(tmp_path / 'val/lfw')
    with pytest.raises(DataError, match='val lacks LFW-Test: .* consists of CelebA, CelebChild'):
        sets.locate('ntire', str(tmp_path / 'val'))


@pytest.mark.parametrize(
    'name, there, message',
    [
        (
            'celeba-tset',
            [],
            r'celeba-tset is not known \(did you mean celeba-test\?\): give one of',
        ),
        ('lfw-test', None, 'no such folder'),
        (
            'celeba-test',
            ['faces'],
            'the truth of CelebA-Test was not found, in a folder named cele',
        ),
        (
            'celeba-test',
            ['celeba_512_validation', 'self_celeba_512_v2'],
            'the inputs of CelebA-Test of DAEFR: .*--set celeba-test-daefr',
        ),
        (
            'celeba-test-daefr',
            ['celeba_512_validation', 'LQ', 'celeba_512_validation_lq'],
            'the inputs of CelebA-Test: .* must not be mixed; give --set celeba-test',
        ),
        ('wider-test', [], 'there are no images in it'),
    ],
)
def test_what_is_no_such_set_is_refused(tmp_path, name, there, message):
    place = tmp_path / 'nowhere' if there is None else tmp_path
    with pytest.raises((DataError, RunError), match=message):
        sets.locate(name, folder(tmp_path, *there) if there else str(place))


@pytest.mark.parametrize(
    'images, said',
    [
        (407, 'WebPhoto-Test, 407 images'),
        (40, 'PART of WebPhoto-Test: 40 of 407 images; not comparable'),
        (500, 'NOT WebPhoto-Test, which has 407 images: there are 500'),
    ],
)
def test_a_part_is_called_one(images, said):
    assert sets.counted(sets.SETS['webphoto-test'], images).startswith(said)


def test_a_paired_set_end_to_end(tmp_path, capsys, monkeypatch):
    """Names of GFPGAN's results, the truth of the set, and what the table lacks."""
    monkeypatch.setenv('FACES_CACHE', str(tmp_path / 'cache'))
    place = folder(tmp_path / 'set', 'celeba_512_validation', 'celeba_512_validation_lq')
    put(*(tmp_path / f'out/restored_faces/{i:08d}_00.png' for i in range(2)))
    argv = ['--set', 'celeba-test', place, str(tmp_path / 'out'), '--device', 'cpu']
    assert evaluate.main([*argv, '--out', str(tmp_path / 'table'), '--gallery']) == 0
    said, warned = capsys.readouterr()
    assert 'PART of CelebA-Test: 2 of 3,000 images' in said and '\n| 2 of 3,000 ' in said
    assert warned.startswith('--set: PART of CelebA-Test: 2 of 3,000 images')
    assert 'usual for CelebA-Test, too: LPIPS (--lpips), Deg (--identity), LMD (--lmd)' in said
    found = json.loads((tmp_path / 'table.json').read_text())
    assert found['heading'].startswith('PART of CelebA-Test')
    assert found['images'] == ['00000000', '00000001'] and found['gt'].endswith('validation')
    assert 'alt="input of 00000001"' in (tmp_path / 'table.html').read_text()


def test_a_set_without_truth_has_no_psnr(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv('FACES_CACHE', str(tmp_path / 'cache'))
    place = folder(tmp_path / 'set', 'lfw_cropped_faces')
    argv = ['--set', 'lfw-test', place, place, '--device', 'cpu']
    assert evaluate.main(argv) == 2
    assert 'nothing to compute: give --gt, or --niqe' in capsys.readouterr().err
    assert evaluate.main([*argv, '--gt', place]) == 2
    assert '--set says where truth and inputs are' in capsys.readouterr().err
