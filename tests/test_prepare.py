"""Data tools: what they write is what a run reads, and the same every time."""

import json
import os

import cv2
import numpy as np
import pytest
import torch
from zoo import picture, png, rows

import degrade
import synthetic
import train
from config import schema
from dali_pipes import validation
from degrade.draw import Draw
from errors import DataError
from sources import lq_gt, manifest
from tasks import data as sources
from tools import prepare, prepare_samples

SIZE = 64


@pytest.fixture(scope='module')
def drawn():
    return [synthetic.face(i, SIZE).image[..., ::-1] for i in range(8)]


@pytest.fixture
def hq(tmp_path, monkeypatch, drawn):
    monkeypatch.setenv('FACES_CACHE', str(tmp_path / 'cache'))
    (tmp_path / 'hq').mkdir()
    for i, image in enumerate(drawn):
        cv2.imwrite(str(tmp_path / 'hq' / f'{i:05d}.png'), image)
    return tmp_path / 'hq'


def run(*argv):
    return prepare.main([str(a) for a in argv])


def test_index_names_the_bad(hq, capsys):
    (hq / 'bad.png').write_text('no picture')
    assert run('index', hq, '--size', SIZE) == 0
    said = capsys.readouterr().out
    assert (
        '8 png rgb 64x64' in said
        and 'bad.png: not an image that can be read' in said
        and '8 images to train on at 64 px, 1 bad' in said
    )


def test_split(hq, tmp_path, capsys):
    for out in 'a', 'b':
        assert (
            run(
                'split',
                hq,
                '--size',
                SIZE,
                '--train-size',
                4,
                '--val-size',
                3,
                '--seed',
                5,
                '--out',
                tmp_path / out,
            )
            == 0
        )
    train_list, val_list = (
        (tmp_path / 'a' / n).read_text().splitlines() for n in ('train.txt', 'val.txt')
    )
    assert len(train_list) == 4 and len(val_list) == 3 and not set(train_list) & set(val_list)
    assert (tmp_path / 'a/train.txt').read_text() == (tmp_path / 'b/train.txt').read_text()
    assert len(manifest.scan(str(tmp_path / 'a/train.txt'), size=SIZE)) == 4
    assert (
        run('split', hq, '--size', SIZE, '--train-size', 6, '--val-size', 3) == 2
        and 'holds 8 images' in capsys.readouterr().err
    )


def test_degrade_writes_a_validation_set(hq, tmp_path):
    for out in 'a', 'b':
        assert (
            run('degrade', hq, '--size', SIZE, '--recipe', 'gfpgan', '--out', tmp_path / out) == 0
        )
    expected = validation.Degraded(
        manifest.scan(str(hq), size=SIZE).images, degrade.recipe('gfpgan'), size=SIZE
    )
    for i in range(len(expected)):
        name, lq, gt = expected[i]
        for side, image in ('LQ', lq), ('GT', gt):
            written = cv2.imread(str(tmp_path / 'a' / side / f'{name}.png'))[..., ::-1]
            assert (written == image.permute(1, 2, 0).numpy()).all()
            assert (tmp_path / 'a' / side / f'{name}.png').read_bytes() == (
                tmp_path / 'b' / side / f'{name}.png'
            ).read_bytes()
    assert len(lq_gt.scan_pairs(str(tmp_path / 'a'), 4)) == 8


def test_pairs_of_one_size_also_above_each_other(hq, tmp_path, capsys):
    for out, more in ('two', ()), ('one', ('--stacked',)):
        assert (
            run(
                'degrade',
                hq,
                '--size',
                SIZE,
                '--recipe',
                'face_renovation',
                '--out',
                tmp_path / out,
                *more,
            )
            == 0
        )
    val = [str(tmp_path / 'two'), f'stacked:{tmp_path / "one"}']
    known = dict(data=str(hq), val=val, size=SIZE, recipe='face_renovation')

    def load(**changed):
        config = schema.replace_options(schema.Config(), **known | changed)
        return sources.load_faces(config, say=lambda _: None)

    _, sets = load()
    expected = validation.Degraded(
        manifest.scan(str(hq), size=SIZE).images, degrade.recipe('face_renovation'), size=SIZE
    )
    assert list(sets) == ['two', 'one'] and len(expected) == 8
    for i in range(8):
        for data in sets.values():
            (name, lq, gt), (other, a, b) = data[i], expected[i]
            assert (
                name == other
                and lq.shape == gt.shape == (3, SIZE, SIZE)
                and torch.equal(lq, a)
                and torch.equal(gt, b)
            )
    assert cv2.imread(str(tmp_path / 'one/00000.png')).shape == (2 * SIZE, SIZE, 3)
    capsys.readouterr()
    assert (
        run('degrade', hq, '--size', SIZE, '--stacked', '--out', tmp_path / 'x') == 2
        and '4 times smaller: give one of face_renovation' in capsys.readouterr().err
    )
    with pytest.raises(
        DataError, match='8 of 8 pictures are no square LQ above a square GT: .*00000.png is 64x64'
    ):
        load(val=[f'stacked:{hq}'])
    with pytest.raises(DataError, match='--recipe bicubic is for enlarging 4x'):
        load(val=val[1:], recipe='bicubic')


def test_what_cannot_be_decoded_is_left_out_and_no_other_takes_its_name(hq, tmp_path, capsys):
    (hq / '00003.png').write_bytes(png(SIZE, SIZE, 2, rows(picture(SIZE))[:-1]))  # sound to look at
    assert run('degrade', hq, '--size', SIZE, '--recipe', 'gfpgan', '--out', tmp_path / 'out') == 0
    assert (
        '00003.png' in capsys.readouterr().out
        and len(list((tmp_path / 'out/GT').iterdir())) == 7
        and not (tmp_path / 'out/GT/00003.png').exists()
    )


def test_names_that_are_no_text(hq, tmp_path):
    strange = os.fsencode(hq) + b'/\xff.png'
    os.rename(hq / '00000.png', strange)
    assert run('split', hq, '--size', SIZE, '--val-size', 2, '--out', tmp_path) == 0
    assert (
        run('annotate', hq, '--size', SIZE, '--out', tmp_path / 'info.txt') == 0
        and b'\xff.png (64,64,3)\n' in (tmp_path / 'info.txt').read_bytes()
    )
    assert (
        strange + b'\n'
        in (tmp_path / 'train.txt').read_bytes() + (tmp_path / 'val.txt').read_bytes()
    )
    assert (
        run(
            'preview',
            hq,
            '--size',
            SIZE,
            '--count',
            8,
            '--recipe',
            'gfpgan',
            '--out',
            tmp_path / 'p.png',
        )
        == 0
    )


def test_places_that_cannot_be_written(hq, tmp_path, capsys):
    (tmp_path / 'file').write_text('in the way')
    assert (
        run(
            'preview',
            hq,
            '--size',
            SIZE,
            '--count',
            1,
            '--recipe',
            'gfpgan',
            '--out',
            tmp_path / 'file/p.png',
        )
        == 2
    )
    assert 'file/p.png cannot be written' in capsys.readouterr().err


def test_annotate(hq, tmp_path):
    assert run('annotate', hq, '--size', SIZE, '--out', tmp_path / 'meta.txt') == 0
    assert (tmp_path / 'meta.txt').read_text().splitlines()[:2] == [
        '00000.png (64,64,3)',
        '00001.png (64,64,3)',
    ]


def test_preview_tells_what_was_drawn(hq, tmp_path, capsys):
    assert (
        run(
            'preview',
            hq,
            '--size',
            SIZE,
            '--recipe',
            'gfpgan',
            '--count',
            5,
            '--out',
            tmp_path / 'sheet.png',
        )
        == 0
    )
    said = capsys.readouterr().out
    assert (
        said.count('sample ') == 5
        and 'jpeg: quality' in said
        and 'blur: ' in said
        and 'sigma_x' in said
    )
    sheet = cv2.imread(str(tmp_path / 'sheet.png'))
    assert sheet.shape[1] > 4 * 512 and sheet.std() > 20


def test_replay_is_what_the_run_saw(hq, tmp_path, capsys):
    argv = [
        '--data',
        hq,
        '--val',
        '2',
        '--size',
        SIZE,
        '--preset',
        'unet',
        '--recipe',
        'gfpgan',
        '--nimg',
        '4',
        '--ticks',
        '1',
        '--pipe',
        'torch',
        '--out',
        tmp_path / 'run',
    ]
    assert train.main([str(a) for a in argv]) == 0
    capsys.readouterr()
    assert run('replay', tmp_path / 'run', 3, 0, '--out', tmp_path / 'replay.png') == 0
    said = capsys.readouterr().out
    assert said.index('sample 3') < said.index('sample 0') and (tmp_path / 'replay.png').exists()
    (hq / '00003.png').unlink()
    (hq / '00004.png').unlink()
    assert (
        run('replay', tmp_path / 'run', 3) == 2
        and 'was trained on 6 images' in capsys.readouterr().err
    )


def test_samples_of_other_tasks_are_not_replayed(tmp_path, capsys):
    options = dict(task='parse', preset='parse_unet', network='parse_unet', loss='ce')
    (tmp_path / 'config.json').write_text(json.dumps(options))
    assert run('replay', tmp_path, 3) == 2 and 'of restorers only' in capsys.readouterr().err


def test_told_is_in_the_order_of_the_sample():
    recipe = degrade.recipe('hifacegan')
    draws, order = (
        degrade.sample(recipe, Draw(0, np.arange(30)), (128, 128)),
        Draw(0, np.arange(30)).order('order', 4),
    )
    for i in range(30):
        names = [
            line.split(':')[0]
            for line in prepare_samples.told(recipe, degrade.take(draws, i), (128, 128))
        ]
        parts = [
            ['blur', 'blurred'],
            ['noise', 'noisy'],
            ['jpeg'],
            ['shrink', 'shrunk', 'grow', 'grown'],
        ]
        assert names == sum((parts[k] for k in order[i]), [])


def test_told_leaves_out_what_is_skipped_and_unused():
    recipe = degrade.recipe('ai6126_2024')
    draws = degrade.sample(recipe, Draw(0, np.arange(40)), (128, 128))
    for i in range(40):
        p = degrade.take(draws, i)
        lines = dict(line.split(': ', 1) for line in prepare_samples.told(recipe, p, (128, 128)))
        assert ('jpeg2a' in lines) != ('jpeg2b' in lines)
        assert ('blur2' in lines) == (p[5].taps > 1)
        assert ('theta' in lines['blur1']) == (p[1].kind in (1, 3, 5)) and (
            'omega' in lines['blur1']
        ) == (p[1].kind == 6)


@pytest.mark.parametrize(
    'argv, said',
    [
        (['index', 'nowhere'], 'nowhere'),
        (['preview', 'nowhere', '--recipe', 'gfpgan'], 'nowhere'),
        (['replay', 'nowhere', '1'], 'no run directory'),
    ],
)
def test_bad_input(argv, said, capsys):
    assert prepare.main(argv) == 2 and said in capsys.readouterr().err
