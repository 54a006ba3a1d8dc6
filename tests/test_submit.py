"""Submissions: a good one is made, and each way to spoil it is refused with its own reason."""

import json
import shlex
import zipfile

import cv2
import numpy as np
import pytest
from safetensors.torch import save_file

import models
import synthetic
import tasks
from config import schema
from losses import efficientnet
from metrics.psnr import psnr
from tools import submit
from tools.submission import hand_in, readme

SIZE, COUNT = 64, 5


def picture(i):
    return synthetic.face(i, SIZE).image[..., ::-1]


@pytest.fixture
def home(tmp_path):
    """A finished run with restored images, and the inputs beside it."""
    run = tmp_path / 'run'
    for folder in run / 'restored', tmp_path / 'LQ', tmp_path / 'GT':
        folder.mkdir(parents=True)
    for i in range(COUNT):
        cv2.imwrite(str(run / 'restored' / f'{i:05d}.png'), picture(i))
        cv2.imwrite(str(tmp_path / 'LQ' / f'{i:05d}.png'), picture(i)[::4, ::4])
        cv2.imwrite(
            str(tmp_path / 'GT' / f'{i:05d}.png'), np.clip(picture(i).astype(int) + 3, 0, 255)
        )
    (run / 'config.json').write_text(
        json.dumps(
            dict(
                network='srresnet',
                net=dict(blocks=2, width=8),
                preset='srresnet16',
                recipe='bicubic',
                nimg=99,
                batch=2,
                seed=0,
            )
        )
    )
    (run / 'log.jsonl').write_text('{"nimg": 99}\n')
    save_file(models.SRResNet(2, 8).state_dict(), run / 'weights.safetensors')
    return tmp_path


def run(home, *more, verb='challenge'):
    out = (
        ['--out', str(home / 'out' / 's.zip')]
        if verb == 'challenge'
        else ['--out', str(home / 'out')]
    )
    return submit.main(
        [
            verb,
            str(home / 'run/restored'),
            '--names',
            str(home / 'LQ'),
            '--size',
            str(SIZE),
            *out,
            *map(str, more),
        ]
    )


def test_a_good_submission(home, capsys):
    assert run(home, '--gt', home / 'GT') == 0
    said = capsys.readouterr().out
    a, b = (
        np.stack([cv2.imread(str(p)) for p in sorted((home / f).iterdir())])
        for f in ('run/restored', 'GT')
    )
    import torch

    expected = psnr(*(torch.from_numpy(x).permute(0, 3, 1, 2).contiguous() for x in (a, b))).mean()
    assert (
        f'5 images of 64x64, a network of {models.count(models.SRResNet(2, 8)):,} parameters'
        in said
        and f'PSNR {expected:.4f} dB' in said
    )
    with zipfile.ZipFile(home / 'out/s.zip') as z:
        assert (
            z.namelist() == [f'results/{i:05d}.png' for i in range(COUNT)] and z.testzip() is None
        )
        assert z.read('results/00003.png') == (home / 'run/restored/00003.png').read_bytes()
    first = (home / 'out/s.zip').read_bytes()
    assert run(home) == 0 and (home / 'out/s.zip').read_bytes() == first


def test_compression_keeps_the_pixels(home):
    assert run(home, '--compress') == 0
    with zipfile.ZipFile(home / 'out/s.zip') as z:
        for i in range(COUNT):
            data = np.frombuffer(z.read(f'results/{i:05d}.png'), np.uint8)
            assert (cv2.imdecode(data, cv2.IMREAD_UNCHANGED) == picture(i)).all() and len(data) <= (
                home / f'run/restored/{i:05d}.png'
            ).stat().st_size


def spoil(home, how):
    folder = home / 'run/restored'
    first = folder / '00000.png'
    if how in ('missing', 'wrong name'):
        first.unlink() if how == 'missing' else first.rename(folder / '0.png')
    elif how == 'extra':
        (folder / 'notes.txt').write_text('hello')
    elif how == 'nested':
        (folder / 'inner').mkdir()
    elif how == 'broken':
        first.write_bytes(first.read_bytes()[:-20])
    elif how in ('jpeg', 'webp', 'tiff', 'bmp'):
        first.write_bytes(cv2.imencode(f'.{how}', picture(0))[1])
    else:
        image = {
            'size': picture(0)[:-1],
            'gray': picture(0)[..., 0],
            '16 bit': picture(0).astype(np.uint16) * 257,
            'alpha': np.dstack([picture(0), picture(0)[..., :1]]),
        }[how]
        cv2.imwrite(str(first), image)


@pytest.mark.parametrize(
    'how, said',
    [
        ('missing', 'lacks 1 of 5 images, e.g. 00000.png'),
        ('extra', '1 files too many, e.g. notes.txt'),
        ('wrong name', '1 wrong names, e.g. 0.png where 00000.png is wanted'),
        ('size', '00000.png is 64x63, not 64x64'),
        ('16 bit', '00000.png: 16-bit PNG'),
        ('gray', '00000.png is a gray PNG'),
        ('alpha', '00000.png is a rgba PNG'),
        ('jpeg', '00000.png is a rgb JPEG'),
        ('webp', '00000.png is a rgb WEBP: an 8-bit RGB PNG is wanted'),
        ('tiff', '00000.png is a rgb TIFF'),
        ('bmp', '00000.png is a rgb BMP'),
        ('nested', 'holds the folder inner'),
        ('broken', '00000.png: truncated'),
    ],
)
def test_a_spoilt_submission_is_refused(how, said, home, capsys):
    spoil(home, how)
    assert run(home) == 2
    assert said in capsys.readouterr().err and not (home / 'out').exists()


@pytest.mark.parametrize(
    'more, said',
    [
        (['--max-mb', '0.001'], 'at the highest compression, more than --max-mb 0.001'),
        (['--limit', models.count(models.SRResNet(2, 8))], '1 too many: fewer than'),
        (['--count', '400'], 'the challenge wants 400'),
        (['--names', 'nowhere'], '--names nowhere is no folder'),
        (['--run', 'nowhere'], 'nowhere'),
    ],
)
def test_limits(more, said, home, capsys):
    assert run(home, *more) == 2
    assert said in capsys.readouterr().err and not (home / 'out').exists()


def test_exactly_at_the_limit_is_too_many(home):
    n = models.count(models.SRResNet(2, 8))
    assert run(home, '--limit', n + 1) == 0 and run(home, '--limit', n) == 2


def test_the_truth_is_the_picture_of_that_name_and_has_to_be_sound(home, capsys):
    (home / 'GT/00001.txt').write_text('a note beside it')
    assert run(home, '--gt', home / 'GT') == 0
    (home / 'GT/00002.png').write_bytes((home / 'GT/00002.png').read_bytes()[:-30])
    assert run(home, '--gt', home / 'GT') == 2 and 'GT/00002.png: ' in capsys.readouterr().err


@pytest.mark.parametrize(
    'argv',
    [
        [
            '--preset',
            'esrgan_small',
            '--start',
            'a run',
            '--gan-level',
            '0',
            '--pixel-weight',
            '0.01',
            '--gan-from',
            '0',
        ],
        ['--preset', 'esrgan_small', '--vgg', 'v.pth'],
        ['--preset', 'esrgan_small', '--efficientnet'],
        ['--preset', 'esrgan_small'],
        ['--preset', 'esrgan_small', '--gan-level', '0.7'],
        [
            '--preset',
            'unet',
            '--milestones',
            '0.5,0.8',
            '--net',
            '{"position": 0}',
            '--last-loss',
            'psnr',
        ],
        ['--preset', 'hifacegan_16', '--nimg', '8'],
    ],
)
def test_the_command_of_the_readme_makes_the_same_run(argv, tmp_path, monkeypatch):
    monkeypatch.setattr(efficientnet, 'weights_file', lambda: 'installed')
    made = tasks.configure([*argv, '--out', str(tmp_path)])
    words = ' '.join(readme.options(json.loads(json.dumps(schema.flatten(made)))))
    again = tasks.configure([*shlex.split(words), '--out', str(tmp_path)])
    assert again == made


def test_flags_of_several_words():
    said = ' '.join(
        readme.options(
            dict(
                preset='mfpsnet',
                prior=['a b', 'heatmaps=c'],
                drop_priors=['dictionary'],
                guides={'x': 1},
            )
        )
    )
    assert shlex.split(said) == [
        '--preset',
        'mfpsnet',
        '--prior',
        'a b',
        'heatmaps=c',
        '--drop-priors',
        'dictionary',
    ]


def test_the_code_without_git(monkeypatch):
    whole = hand_in.code()
    monkeypatch.setenv('PATH', '')
    assert {'train.py', 'Makefile', 'setup.cfg', 'degrade/blur.cu'} <= set(hand_in.code()) & set(
        whole
    )


def test_handin(home, capsys):
    (home / 'report.pdf').write_bytes(b'%PDF')
    more = ['--matric', 'U1234567A', '--codalab-user', 'me', '--report', home / 'report.pdf']
    assert run(home, *more, verb='handin') == 0
    assert 'still to add: leaderboard.png' in capsys.readouterr().out
    with zipfile.ZipFile(home / 'out/U1234567A.zip') as z:
        names = set(z.namelist())
        text = z.read('U1234567A/Readme.txt').decode()
    assert {
        f'U1234567A/{n}'
        for n in (
            'report.pdf',
            'leaderboard.png.missing.txt',
            'Readme.txt',
            'results/00004.png',
            'code/train.py',
            'code/degrade/blur.cu',
            'logs/log.jsonl',
            'checkpoint/weights.safetensors',
        )
    } <= names
    assert all(
        w in text
        for w in (
            'U1234567A',
            'CodaLab user: me',
            'torch 2',
            '--preset srresnet16',
            '--net \'{"blocks": 2, "width": 8}\'',
            '--recipe bicubic',
            '--nimg 99',
            '--batch 2',
            'results (5 files)',
        )
    )
    for wrong, said in (
        (['--matric', 'U1/2'], 'matriculation'),
        (['--report', 'none.pdf'], 'none.pdf does not exist'),
    ):
        assert run(home, *more, *wrong, verb='handin') == 2 and said in capsys.readouterr().err
