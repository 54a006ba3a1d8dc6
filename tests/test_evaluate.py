"""The table of tools/evaluate.py: every number is its metric's, names are matched or refused, and
landmarks move as far as masks do.
"""

import json
import re

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import models
import synthetic
from metrics.ms_ssim import ms_ssim
from metrics.psnr import psnr
from metrics.sharpness import sharpness
from metrics.ssim import ssim
from tools import evaluate

SIZE, COUNT = 176, 3


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    """GT/, a blurred and a copied version of it, small/ pictures, and the run of a parser whose
    weights are chance.
    """
    home = tmp_path_factory.mktemp('evaluate')
    for i in range(COUNT):
        image = synthetic.face(i, SIZE).image[..., ::-1]
        for folder, picture in (
            ('GT', image),
            ('same', image),
            ('blurred', cv2.GaussianBlur(image, (0, 0), 1.5)),
            ('small', image[:64, :64]),
            ('fewer', image),
        ):
            (home / folder).mkdir(exist_ok=True)
            if (folder, i) != ('fewer', 1):
                cv2.imwrite(str(home / folder / f'{i:03d}.png'), picture)
    torch.manual_seed(0)
    net = dict(width=[8, 16], blocks=[1, 1])
    (home / 'parser').mkdir()
    (home / 'parser/config.json').write_text(
        json.dumps(
            dict(task='parse', network='parse_unet', net=net, preset='parse_unet', precision='fp32')
        )
    )
    save_file(models.PARSERS['parse_unet'](**net).state_dict(), home / 'parser/weights.safetensors')
    return home


@pytest.fixture(autouse=True)
def cache(home, monkeypatch):
    monkeypatch.setenv('FACES_CACHE', str(home / 'cache'))


def run(home, *argv):
    return evaluate.main(
        ['--device', 'cpu', '--batch', '2', '--gt', str(home / 'GT'), *map(str, argv)]
    )


def test_the_table_holds_the_metrics(home, capsys):
    assert (
        run(
            home,
            f'blurred={home / "blurred"}',
            f'same={home / "same"}',
            '--parser',
            home / 'parser',
            '--out',
            home / 'out/table',
        )
        == 0
    )
    said, found = capsys.readouterr().out, json.loads((home / 'out/table.json').read_text())
    a, b = (
        torch.from_numpy(
            np.stack([cv2.imread(str(p))[..., ::-1] for p in sorted((home / f).iterdir())])
        ).permute(0, 3, 1, 2)
        for f in ('blurred', 'GT')
    )
    for name, metric in dict(psnr=psnr, ssim=ssim, ms_ssim=ms_ssim, sharpness=sharpness).items():
        assert found['each']['blurred'][name] == pytest.approx(metric(a, b).tolist()) and found[
            'mean'
        ]['blurred'][name] == pytest.approx(metric(a, b).mean().item())
    assert found['mean']['blurred']['sharpness'] < 0.9 and found['images'] == ['000', '001', '002']
    assert (
        found['mean']['same'] | {'landmarks': 0}
        == dict(psnr=None, ssim=1, ms_ssim=1, sharpness=1, miou=100, landmarks=0)
        and found['mean']['blurred']['miou'] < 100
    )
    rows = [
        [cell.strip() for cell in line.split('|')[1:-1]]
        for line in (home / 'out/table.md').read_text().splitlines()[:4]
    ]
    assert (
        rows[0][1:5] == ['PSNR, dB (higher)', 'SSIM (higher)', 'MS-SSIM (higher)', 'sharpness (1)']
        and rows[3][:3] == ['same', 'inf', '1.0000']
        and rows[3][5] == '100.00'
    )
    assert (
        rows[2][1] == f'{psnr(a, b).mean():.3f}'
        and (home / 'out/table.md').read_text().split('\n\n')[0] in said
    )


def test_small_images_have_no_ms_ssim(home, capsys):
    assert evaluate.main([str(home / 'small'), '--gt', str(home / 'small'), '--device', 'cpu']) == 0
    said = capsys.readouterr().out
    assert (
        'MS-SSIM is left out: its five scales need images of 176x176 or more' in said
        and '| MS-SSIM' not in said
    )


@pytest.mark.parametrize(
    'argv, message',
    [
        (['fewer'], 'fewer lacks 1 of 3 images .001.: restore these too'),
        (['small'], '000.png is 64x64, its ground truth 176x176'),
        (['same', 'same'], 'is named twice: give NAME=FOLDER'),
        (['nowhere'], 'nowhere: no such file or folder'),
        (['same', '--parser', 'GT'], 'GT is no run directory'),
    ],
)
def test_what_does_not_fit_is_refused(home, argv, message, capsys):
    assert run(home, *(a if a.startswith('--') else home / a for a in argv)) == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_truth_more_is_refused(home, capsys):
    assert evaluate.main([str(home / 'same'), '--gt', str(home / 'fewer'), '--device', 'cpu']) == 2
    assert 'fewer lacks 1 of 3 images (001): add their ground truth' in capsys.readouterr().err


def test_landmarks_are_as_far_apart_as_masks():
    ids = torch.from_numpy(np.stack([synthetic.face(i, 128).mask for i in range(2)]))
    moved = torch.stack([ids[0].roll((3, 4), (0, 1)), ids[1]])
    assert evaluate.distance(moved, ids).tolist() == pytest.approx([100 * 5 / 128, 0], abs=0.05)
    nothing = torch.zeros_like(ids[:1])
    assert evaluate.distance(nothing, ids[:1]).isnan().all()
