"""Layouts of other projects: pairs are used as pairs, masks left out, or the folder is refused.

Never is an LQ, or a mask, trained on as a face without a word.
"""

import cv2
import numpy as np
import pytest
from scanners import OF_FACES, PROGRAMS, SIZE, restored, trained
from test_manifest import face, write
from test_shards import pack
from zoo import chunk, picture, png, rows

import infer
import tasks
from errors import DataError
from faces.masks import pairs as parsing
from sources import layouts
from sources.lq_gt import is_paired, scan_pairs
from tasks import data as sources

LARGE = 2 * SIZE
MASK = png(
    SIZE,
    SIZE,
    3,
    rows(np.repeat(np.eye(SIZE, dtype=np.uint8), 1, 0)),
    before=chunk(b'PLTE', b'\1\2\3' * 19),
)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv('FACES_CACHE', str(tmp_path / 'cache'))
    write(tmp_path / 'val', {'v.png': face(SIZE, 99)})


def blurred(i):
    image = cv2.GaussianBlur(picture(SIZE, seed=i), (0, 0), 3)
    return cv2.imencode('.png', image)[1].tobytes()


# Pairs that are used as such: {name: (LQ, GT)}, names with {i} for the number.
USED = {
    'BasicSR': ('LQ/{i:04d}.png', 'GT/{i:04d}.png'),
    'DIV2K': ('LR/{i:04d}x4.png', 'HR/{i:04d}.png'),
    'DIV2K as published': (
        'DIV2K_train_LR_bicubic/X4/{i:04d}x4.png',
        'DIV2K_train_HR/{i:04d}.png',
    ),
    'CodeFormer': ('LQ/{i}.png', 'HQ/{i}.png'),
    'Restormer': ('input/{i}.png', 'target/{i}.png'),
    'letter case': ('lq/{i}.png', 'Gt/{i}.jpg'),
    'one word of several': ('ffhq_LQ/{i}.png', 'ffhq_HQ/{i}.png'),
    'deeper inside': ('LQ/a/{i}_X4.png', 'GT/a/{i}.png'),
}


def files_of(layout, lq, gt, count=4):
    return {
        name.format(i=i): make(i)
        for i in range(count)
        for name, make in zip(layout, (lq, gt), strict=True)
    }


@pytest.mark.parametrize('name', USED)
def test_pairs_are_used(name, tmp_path):
    gt = (
        (lambda i: cv2.imencode('.jpg', picture(LARGE, seed=i))[1].tobytes())
        if 'jpg' in str(USED[name])
        else lambda i: face(LARGE, i)
    )
    folder = write(tmp_path / 'in', files_of(USED[name], lambda i: face(LARGE // 4, i), gt))
    assert is_paired(folder, both=True)
    found = scan_pairs(folder, 4)
    stems = [[layouts.key(p.rpartition('/')[2]) for p in (lq.path, gt.path)] for lq, gt in found]
    assert len(found) == 4 and all(lq == gt for lq, gt in stems)


@pytest.mark.parametrize('name', USED)
@pytest.mark.parametrize('program', [*OF_FACES, 'infer'])
def test_pairs_one_level_deeper_are_refused(program, name, tmp_path):
    made = files_of(USED[name], blurred, lambda i: face(SIZE, i))
    folder = write(tmp_path / 'in', {f'data/train/{n}': data for n, data in made.items()})
    took = PROGRAMS[program](folder, tmp_path)
    assert took.status == 2 and 'holds pairs: ' in took.said and 'data/train' in took.said
    assert not took.names


@pytest.mark.parametrize('name', USED)
def test_prepare_index_says_that_they_are_pairs(name, tmp_path):
    made = files_of(USED[name], blurred, lambda i: face(SIZE, i))
    said = PROGRAMS['prepare index'](write(tmp_path / 'in', made), tmp_path).said
    assert '8 png rgb 64x64' in said and 'Not to train on as faces' in said and 'pairs' in said


# Pairs and unknown halves that are refused, with the sides of each.
REFUSED = {
    'suffixes in one folder': ('{i:04d}x4.png', '{i:04d}.png', 32, 'holds pairs'),
    'endings in one folder': ('{i}_lq.png', '{i}_gt.png', SIZE, 'holds pairs'),
    'an ending for one': ('{i}-LR.png', '{i}.png', SIZE, 'holds pairs'),
    'one known folder': ('faces_lq/{i}.png', 'faces/{i}.png', SIZE, 'holds pairs'),
    'other sizes': ('small/{i}.png', 'large/{i}.png', LARGE, 'LQ and GT?'),
    'sizes, deeper': ('a/thumbs/x/{i:03d}.png', 'a/images/x/{i}.png', LARGE, 'LQ and GT?'),
    'FFHQ': ('thumbnails128x128/{i}.png', 'images1024x1024/{i}.png', LARGE, 'LQ and GT?'),
}


@pytest.mark.parametrize('name', REFUSED)
@pytest.mark.parametrize('program', OF_FACES)
@pytest.mark.parametrize('in_shard', [False, True])
def test_what_may_be_pairs_is_refused(program, name, in_shard, tmp_path):
    *layout, size, reason = REFUSED[name]
    made = files_of(layout, lambda i: blurred(i), lambda i: face(max(size, SIZE), i))
    if in_shard:
        (tmp_path / 'in').mkdir()
        folder = str(tmp_path / 'in')
        pack(tmp_path / 'in' / 'x.tar', made)
    else:
        folder = write(tmp_path / 'in', made)
    took = PROGRAMS[program](folder, tmp_path)
    assert took.status == 2 and reason in took.said and not took.names


# Masks beside pictures.
MASKED = {
    'CelebAMask-HQ': ('CelebAMask-HQ-mask-anno/0/{i:05d}_skin.png', 'CelebA-HQ-img/{i}.jpg'),
    'CelebAMask-HQ, flat': ('{i:05d}_l_brow.png', '{i}.jpg'),
    'converted': ('masks/{i}.png', 'images/{i}.jpg'),
    'labels': ('train/Label/{i:05d}.png', 'train/img/{i}.jpg'),
    'WebDataset': ('{i:05d}.seg.png', '{i:05d}.jpg'),
    'an ending': ('a/{i}_mask.png', 'a/{i}.jpg'),
}


@pytest.mark.parametrize('name', MASKED)
@pytest.mark.parametrize('program', ['train', 'prepare split', 'infer'])
@pytest.mark.parametrize('in_shard', [False, True])
def test_masks_are_left_out(program, name, in_shard, tmp_path):
    made = files_of(MASKED[name], lambda i: MASK, lambda i: face(SIZE, i))
    folder = str(tmp_path / 'in')
    if in_shard:
        (tmp_path / 'in').mkdir()
        pack(tmp_path / 'in' / 'x.tar', made)
    else:
        write(tmp_path / 'in', made)
    took = PROGRAMS[program](folder, tmp_path)
    expected = {MASKED[name][1].format(i=i)[:-4] for i in range(4)}
    assert took.status == 0, took.said
    assert {n.removeprefix('x.tar/') for n in took.names} == expected
    assert '4 masks in ' in took.said and 'are left out' in took.said


@pytest.mark.parametrize('layout', [('ids/{i}.png', 'photos/{i}.jpg'), ('a{i}.png', 'a{i}.jpg')])
def test_gray_pictures_of_the_same_names_are_refused(layout, tmp_path):
    made = files_of(layout, lambda i: MASK, lambda i: face(SIZE, i))
    took = trained(write(tmp_path / 'in', made), tmp_path)
    assert took.status == 2 and 'masks?' in took.said and 'a list of files' in took.said


def test_a_list_is_the_way_out(tmp_path):
    """Every file of a list was chosen; only names that leave no doubt are refused."""
    made = files_of(('small/{i}.png', 'large/{i}.png'), blurred, lambda i: face(LARGE, i))
    folder = write(tmp_path / 'in', {**made, 'l.txt': '\n'.join(made).encode()})
    assert len(trained(f'{folder}/l.txt', tmp_path).names) == 8


# What must not be taken for pairs or masks.
FACES = {
    'people': {
        f'person{p}/{i}.png': face(SIZE + 8 * ((i * p) % 3), i) for p in range(4) for i in range(4)
    },
    'copies': {f'{d}/{i}.png': face(SIZE, i) for d in ('train', 'test') for i in range(3)},
    'views': {f'{i}.{d}.png': face(SIZE, i) for d in ('front', 'left') for i in range(3)},
    'numbers': {f'a.{i}.png': face(SIZE + 8 * i, i) for i in range(4)},
    'names': {
        f'Ann.{n}.png': face(SIZE + 8 * i, i) for i, n in enumerate(('Lee', 'Neumann', 'Wu'))
    },
    'two formats': {f'{i}.{s}': face(SIZE, i) for s in ('png', 'jpg') for i in range(2)},
    'one side': {f'input/{i}.png': face(SIZE, i) for i in range(3)},
    'high and low, other names': {
        f'{d}/{d}{i}.png': face(SIZE, i) for d in ('high', 'low') for i in range(3)
    },
    'gray among colour': {
        'a/0.png': MASK,
        'a/1.png': face(SIZE),
        'b/0.png': face(SIZE, 3),
        'b/1.png': MASK,
    },
}


@pytest.mark.parametrize('name', FACES)
def test_other_folders_are_faces(name, tmp_path):
    took = trained(write(tmp_path / 'in', FACES[name]), tmp_path)
    assert took.status == 0, took.said
    assert len(took.names) == len({n.rpartition('.')[0] for n in FACES[name]})


def test_masks_of_parts_are_to_be_converted(tmp_path):
    made = files_of(MASKED['CelebAMask-HQ'], lambda i: MASK, lambda i: face(SIZE, i))
    folder = write(tmp_path / 'in', made)
    with pytest.raises(DataError, match='python -m faces.masks .*mask-anno .*masks makes them'):
        parsing.scan_pairs(folder, size=SIZE)


def test_truth_of_div2k_belongs_to_its_input(tmp_path, capsys):
    folder = write(
        tmp_path / 'in', files_of(USED['DIV2K'], lambda i: face(16, i), lambda i: face(64, i))
    )
    restored(f'{folder}/LR', tmp_path)
    argv = ['--weights', tmp_path / 'weights.safetensors', '--input', f'{folder}/LR']
    argv += ['--gt', f'{folder}/HR', '--output', tmp_path / 'o', '--device', 'cpu']
    assert infer.main([str(a) for a in argv]) == 0
    assert 'over 4 images' in capsys.readouterr().out


# Numbers that are folders.


@pytest.mark.parametrize('name', ['2', '2023', '0.5'])
def test_a_folder_comes_before_a_number(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / 'hq', {f'{i}.png': face(SIZE, i) for i in range(4)})
    write(tmp_path / name, {'held.png': face(SIZE, 9)})
    said = []
    config = trained_config('hq', name)
    images, sets = sources.load_faces(config, said.append)
    assert len(images) == 4 and [s.name(0) for s in sets.values()] == ['held']
    assert any(f'--val {name}: the folder of that name here' in line for line in said)


def trained_config(data, val):
    argv = ['--preset', 'unet', '--data', data, '--val', val, '--size', str(SIZE)]
    return tasks.configure(argv)


# Streams.


@pytest.mark.parametrize(
    'name, role',
    [
        ('s3://a/LQ/0.png', layouts.LQ),
        ('s3://a/x.tar/0.lq.png', layouts.LQ),
        ('s3://a/x.tar/0.seg.png', layouts.MASK),
        ('s3://a/x.tar/0.gt.png', layouts.GT),
        ('s3://a/x.tar/face_x4.png', None),
        ('s3://a/x.tar/0.png', None),
    ],
)
def test_members_of_streams(name, role):
    assert layouts.role_of_member(name) is role
