"""Weights between two runs: exactly the runs at the ends, linear between, scored as the runs are,
and restored with as any others.
"""

import csv
import json
import re

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from test_models import make

import infer
import models
import synthetic
import tasks
from config import stored
from tools import interpolate
from training import soup

SIZE, COUNT = 64, 5


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    """Runs a, b and e of one network, c of a longer and d of another one; validation pairs, and a
    smaller set.
    """
    home = tmp_path_factory.mktemp('interpolate')
    for folder, seeds in dict(hq=(0, 1), pairs=range(10, 10 + COUNT), few=(20, 21)).items():
        for seed in seeds:
            truth = synthetic.face(seed, SIZE).image[..., ::-1]
            small = cv2.resize(truth, (SIZE // 4, SIZE // 4), interpolation=cv2.INTER_AREA)
            for inner, image in (
                {'': truth}.items() if folder == 'hq' else {'GT': truth, 'LQ': small}.items()
            ):
                (home / folder / inner).mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(home / folder / inner / f'{seed}.png'), image)
    config = dict(
        precision='fp32',
        data=str(home / 'hq'),
        val=[str(home / 'pairs')],
        size=SIZE,
        recipe='bicubic',
        lq_from_usm=True,
        seed=0,
    )
    for name, seed, network, arguments in (
        ('a', 0, 'srresnet', dict(blocks=2, width=16)),
        ('b', 1, 'srresnet', dict(blocks=2, width=16)),
        ('e', 2, 'srresnet', dict(blocks=2, width=16)),
        ('c', 0, 'srresnet', dict(blocks=3, width=16)),
        ('d', 0, 'rrdbnet', dict(blocks=2, width=16, growth=7)),
    ):
        (home / name).mkdir()
        (home / name / 'config.json').write_text(
            json.dumps(config | dict(network=network, net=arguments))
        )
        net = make(network, seed) if name != 'c' else models.SRResNet(**arguments)
        save_file(net.state_dict(), home / name / 'weights.safetensors')
    return home


@pytest.fixture(autouse=True)
def cache(home, monkeypatch):
    monkeypatch.setenv('FACES_CACHE', str(home / 'cache'))


def run(home, out, *more, a='a', b='b'):
    return interpolate.main(
        [str(home / a), str(home / b), '--out', str(out), '--device', 'cpu', *map(str, more)]
    )


def scores(out):
    return {
        float(row['alpha']): (float(row['psnr']), float(row['ssim']))
        for row in csv.DictReader((out / 'scores.csv').open())
    }


def restored(home, weights, out, capsys):
    """PSNR that infer.py tells of weights on the validation pairs"""
    capsys.readouterr()
    assert (
        infer.main(
            [
                '--weights',
                str(weights),
                '--input',
                str(home / 'pairs/LQ'),
                '--gt',
                str(home / 'pairs/GT'),
                '--output',
                str(out),
                '--device',
                'cpu',
            ]
        )
        == 0
    )
    return float(re.search(r'PSNR: ([\d.]+) dB', capsys.readouterr().out)[1])


def test_between_is_linear_and_exact_at_the_ends():
    a, b = (make('srresnet', seed).state_dict() for seed in (0, 1))
    assert all(torch.equal(v, a[k]) for k, v in soup.between(a, b, 0.0).items()) and all(
        torch.equal(v, b[k]) for k, v in soup.between(a, b, 1.0).items()
    )
    assert all(
        torch.allclose(v, 0.7 * a[k] + 0.3 * b[k], atol=1e-6)
        for k, v in soup.between(a, b, 0.3).items()
    )


def test_a_linear_part_of_the_network_is_interpolated_in_its_output():
    """A network that differs in its last convolution only restores to the same share between the
    two outputs.
    """
    a, x = make('srresnet'), torch.rand(1, 3, 8, 8)
    b = make('srresnet')
    with torch.no_grad():
        b.conv_last.weight.add_(torch.randn_like(b.conv_last.weight))
        first, last = a(x), b(x)
        weights = soup.between(a.state_dict(), b.state_dict(), 0.25)
        a.load_state_dict(weights)
        assert torch.allclose(a(x), torch.lerp(first, last, 0.25), atol=1e-5)


def test_a_curve(home, tmp_path, capsys):
    assert run(home, tmp_path) == 0
    said = capsys.readouterr().out
    rows = scores(tmp_path)
    assert (
        list(rows) == [0, 0.25, 0.5, 0.75, 1]
        and f'over {COUNT} pairs' in said
        and f'{rows[0.25][0]:.4f}' in said
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ['curve.png', 'scores.csv', 'strip.png']
    with Image.open(tmp_path / 'strip.png') as image:
        assert image.width == 7 * SIZE + 6 * 4 and image.height == 4 * (SIZE + 26) + 3 * 4
    for alpha, name in (0, 'a'), (1, 'b'):
        assert rows[alpha][0] == pytest.approx(
            restored(home, home / name / 'weights.safetensors', tmp_path / name, capsys), abs=1e-4
        )


def test_the_strip_shows_what_it_says(home, tmp_path):
    assert run(home, tmp_path, '--alpha', '1,0') == 0  # sorted, whatever the order given
    image, net = np.asarray(Image.open(tmp_path / 'strip.png')), make('srresnet')
    name = sorted(p.name for p in (home / 'pairs/LQ').iterdir())[0]
    lq = torch.from_numpy(cv2.imread(str(home / 'pairs/LQ' / name))[..., ::-1].copy()).permute(
        2, 0, 1
    )[None]
    with torch.no_grad():
        ours = (net.eval()(lq / 255) * 255).round().clamp(0, 255)[0].permute(1, 2, 0).numpy()
    assert np.abs(image[26 : 26 + SIZE, SIZE + 4 : 2 * SIZE + 4].astype(int) - ours).max() <= 1


def test_one_alpha_leaves_weights(home, tmp_path, capsys):
    assert run(home, tmp_path, '--alpha', '0.3') == 0
    a, b = (load_file(home / name / 'weights.safetensors') for name in 'ab')
    assert all(
        torch.allclose(v, 0.7 * a[k] + 0.3 * b[k], atol=1e-6)
        for k, v in load_file(tmp_path / 'weights.safetensors').items()
    )
    assert scores(tmp_path)[0.3][0] == pytest.approx(
        restored(home, tmp_path / 'weights.safetensors', tmp_path / 'out', capsys), abs=1e-4
    )


@pytest.mark.parametrize('alpha', [1, 0.5])
def test_what_was_learned_since_is_added(home, tmp_path, alpha):
    """The weights are A + alpha (B - FROM); with A itself before, B is what comes out."""
    parts = {name: load_file(home / name / 'weights.safetensors') for name in 'abe'}
    assert run(home, tmp_path / 'e', '--from', home / 'e', '--alpha', alpha) == 0
    for k, v in load_file(tmp_path / 'e/weights.safetensors').items():
        wanted = parts['a'][k] + alpha * (parts['b'][k] - parts['e'][k])
        torch.testing.assert_close(v, wanted, rtol=1e-5, atol=1e-6)
    assert run(home, tmp_path / 'a', '--from', home / 'a', '--alpha', 1) == 0
    for k, v in load_file(tmp_path / 'a/weights.safetensors').items():
        torch.testing.assert_close(v, parts['b'][k], rtol=1e-5, atol=1e-6)


def test_weights_that_come_along_are_known_by_name(home, tmp_path, capsys):
    """They are found, and refused, since they are of another network than these runs."""
    for others in (['faces-sharp'], [str(home / 'b'), '--from', 'faces-psnr']):
        argv = [str(home / 'a'), *others, '--out', str(tmp_path / 'out'), '--device', 'cpu']
        assert interpolate.main(argv) == 2
        assert 'does not fit SRResNet' in capsys.readouterr().err


def test_another_validation_set_and_weights_alone(home, tmp_path, capsys):
    assert (
        run(home, tmp_path, '--alpha', '0,1', '--val', home / 'few', b='b/weights.safetensors') == 0
    )
    assert 'over 2 pairs' in capsys.readouterr().out


@pytest.mark.parametrize(
    'b, more, said',
    [
        ('c', [], 'does not fit SRResNet: the file has 3 body blocks, the network 2'),
        ('d', [], 'does not fit SRResNet: the file looks like a RRDBNet'),
        ('none', [], 'no such file or folder'),
        ('b', ['--device', 'gpu'], '--device gpu cannot be used'),
        ('b', ['--val', 'nowhere'], 'nowhere'),
    ],
)
def test_bad_input(home, tmp_path, capsys, b, more, said):
    assert run(home, tmp_path / 'out', *more, b=b) == 2
    assert said in capsys.readouterr().err and not (tmp_path / 'out').exists()


def test_a_parser_has_no_psnr(home, tmp_path, capsys):
    config = dict(
        json.loads((home / 'a/config.json').read_text()), task='parse', network='parse_unet', net={}
    )
    (home / 'p').mkdir()
    (home / 'p/config.json').write_text(json.dumps(config))
    save_file(tasks.network(stored.from_flat(config)).state_dict(), home / 'p/weights.safetensors')
    assert (
        run(home, tmp_path / 'out', a='p', b='p') == 2
        and 'no run of a restorer' in capsys.readouterr().err
    )


def test_a_run_is_not_written_over(home, capsys):
    before = (home / 'b/weights.safetensors').read_bytes()
    assert run(home, home / 'b', '--alpha', '0.5') == 2
    assert (
        'a place of its own' in capsys.readouterr().err
        and (home / 'b/weights.safetensors').read_bytes() == before
    )
    assert run(home, home / 'x', a='hq') == 2 and 'is no run directory' in capsys.readouterr().err
