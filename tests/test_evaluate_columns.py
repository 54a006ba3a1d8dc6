"""Columns of tools/evaluate.py that need files of the user's: each is its metric's, image by image,
whatever the batch, and asked for only where it can be had.
"""

import json
from typing import NamedTuple

import cv2
import numpy as np
import pytest
import torch
from test_lmd import NET

import models
import storage
import synthetic
from metrics import lmd, ntire, pyiqa_metrics
from metrics.identity import degrees, identity
from tasks.face_landmarks import landmark_network
from tools import evaluate
from training import checkpoint

SIZE, COUNT = 64, 3


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    """GT/, two methods, of which b names its images otherwise, and the run of a landmark network
    with weights of chance.
    """
    home = tmp_path_factory.mktemp('columns')
    for i in range(COUNT):
        image = synthetic.face(i, SIZE).image
        shots = {
            f'GT/{i}.png': image,
            f'a/{i}.png': cv2.GaussianBlur(image, (0, 0), 1),
            f'b/{i}_00.png': cv2.GaussianBlur(image, (0, 0), 2),
        }
        for name, shot in shots.items():
            (home / name).parent.mkdir(exist_ok=True)
            cv2.imwrite(str(home / name), shot)
    torch.manual_seed(0)
    content = dict(task='landmarks', network='heatmap_net', net=NET, size=SIZE, precision='fp32')
    storage.write_json(home / 'landmarks/config.json', content)
    net = models.HeatmapNet(**NET)
    checkpoint.save_weights(home / 'landmarks/weights.safetensors', net.state_dict())
    return home


@pytest.fixture(autouse=True)
def cache(home, monkeypatch):
    monkeypatch.setenv('FACES_CACHE', str(home / 'cache'))


def run(home, *argv, gt=True):
    """What OUT.json says."""
    words = [f'a={home / "a"}', f'b={home / "b"}', '--device', 'cpu', '--batch', '2']
    words += ['--gt', home / 'GT'] if gt else []
    words += ['--out', home / 'out/table', *argv]
    assert evaluate.main([str(word) for word in words]) == 0
    return json.loads((home / 'out/table.json').read_text())


def refused(home, capsys, *argv):
    words = [f'a={home / "a"}', f'b={home / "b"}', '--gt', home / 'GT', '--device', 'cpu', *argv]
    assert evaluate.main([str(word) for word in words]) == 2
    return capsys.readouterr().err


def images(folder):
    """[N, 3, H, W] uint8"""
    read = [cv2.imread(str(p))[..., ::-1] for p in sorted(folder.iterdir())]
    return torch.from_numpy(np.stack(read)).permute(0, 3, 1, 2)


# ------------------------------------------------------------------------------------------------
# With the truth.


def test_identity_and_angle(home):
    pytest.importorskip('onnx')
    from test_identity_metric import network

    network(home / 'net.onnx', scales=True)
    found = run(home, '--identity', home / 'net.onnx')
    measure = identity(home / 'net.onnx')
    for name in 'a', 'b':
        cosine = measure(images(home / name), images(home / 'GT'))
        assert found['each'][name]['identity'] == pytest.approx(cosine.tolist())
        assert found['each'][name]['deg'] == pytest.approx(degrees(cosine).tolist())
    better = {d['column']: d['wins'] for d in found['differences']}
    # A smaller angle is a larger cosine: they agree on every image.
    assert better['identity'] == better['deg']
    assert any('net.onnx' in note for note in found['notes'])


def test_images_that_are_no_square_have_no_identity(home, tmp_path, capsys):
    pytest.importorskip('onnx')
    from test_identity_metric import network

    network(tmp_path / 'net.onnx', scales=True)
    (tmp_path / 'wide').mkdir()
    cv2.imwrite(str(tmp_path / 'wide/0.png'), np.zeros((32, 48, 3), np.uint8))
    wide = str(tmp_path / 'wide')
    assert evaluate.main([wide, '--gt', wide, '--identity', str(tmp_path / 'net.onnx')]) == 2
    assert '0.png is 48x32: identity, cosine, Deg' in capsys.readouterr().err


def test_landmarks_of_a_network(home):
    found = run(home, '--lmd', home / 'landmarks')
    find = landmark_network(str(home / 'landmarks'), 'cpu')
    for name in 'a', 'b':
        a, b = find(images(home / name)), find(images(home / 'GT'))
        expected = lmd.lmd(a, b, SIZE).tolist()
        # Measured: 3e-5 pixels, of batches of other sizes.
        assert found['each'][name]['lmd'] == pytest.approx(expected, abs=3e-4)


def points_of(home):
    """Files of landmarks: a is 3 to the right and 4 down, which at 512 are 8 times as far."""
    truth = np.random.default_rng(0).uniform(8, 48, (COUNT, 68, 2))
    files = {
        'truth': {f'{i}.png': p.tolist() for i, p in enumerate(truth)},
        'a': {f'{i}.png': (p + (3, 4)).tolist() for i, p in enumerate(truth)},
        'b': {f'{i}_00.png': p.tolist() for i, p in enumerate(truth)},
    }
    for name, content in files.items():
        (home / f'{name}.json').write_text(json.dumps(content))
    return [f'{name}={home / name}.json' for name in files]


def test_landmarks_of_files(home):
    found = run(home, '--lmd-points', *points_of(home))
    assert found['each']['a']['lmd'] == pytest.approx([40] * COUNT, abs=1e-3)
    assert found['each']['b']['lmd'] == pytest.approx([0] * COUNT, abs=1e-6)


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda files: files[:2], 'give a=JSON b=JSON truth=JSON'),
        (lambda files: [*files, 'c=x.json'], 'give a=JSON b=JSON truth=JSON'),
        (lambda files: [files[0], files[1], files[1].replace('a=', 'b=')], 'have no landmarks'),
        (lambda files: [*files, '--lmd', 'run'], '--lmd and --lmd-points both give landmarks'),
    ],
)
def test_landmarks_of_every_method_are_needed(home, capsys, change, message):
    assert message in refused(home, capsys, '--lmd-points', *change(points_of(home)))


def test_a_run_of_another_kind_is_refused(home, capsys):
    net = dict(width=8, blocks=1)
    storage.write_json(home / 'restorer/config.json', dict(network='srresnet', net=net))
    weights = models.SRResNet(**net).state_dict()
    checkpoint.save_weights(home / 'restorer/weights.safetensors', weights)
    assert 'restorer is a run of' in refused(home, capsys, '--lmd', home / 'restorer')


# ------------------------------------------------------------------------------------------------
# Of pyiqa.


class Stand(NamedTuple):
    """In place of one of pyiqa's metrics: the mean of the picture, or its distance to the truth."""

    higher: bool
    needs_truth: bool
    scale: float

    def __call__(self, output, truth=None):
        assert (truth is not None) == self.needs_truth
        other = truth.double() if self.needs_truth else 0
        return (output.double() - other).abs().mean((1, 2, 3)) / self.scale


STANDS = {
    'musiq': Stand(True, False, 4),
    'clipiqa': Stand(True, False, 256),
    'maniqa': Stand(True, False, 300),
    'qalign': Stand(True, False, 50),
    'niqe': Stand(False, False, 40),
    'dists': Stand(False, True, 1),
}


@pytest.fixture
def pyiqa(monkeypatch, tmp_path):
    """What the package was asked for."""
    asked = []

    def named(names, folder, device, download=False):
        asked.append((tuple(names), folder, download))
        return {name: STANDS[name] for name in names}

    monkeypatch.setattr(pyiqa_metrics, 'named', named)
    means = lambda images: images.double().mean((2, 3))  # noqa: E731  as long as its name
    monkeypatch.setattr(pyiqa_metrics, 'inception', lambda *args: means)
    return asked


def test_metrics_of_pyiqa_have_columns(home, pyiqa, tmp_path):
    found = run(home, '--pyiqa', 'musiq,dists', '--pyiqa-weights', tmp_path)
    assert pyiqa == [(('musiq', 'dists'), tmp_path, False)]
    assert found['columns']['pyiqa_musiq'] == 'musiq (higher)'
    assert found['columns']['pyiqa_dists'] == 'dists (lower)'
    a, b = images(home / 'a').double(), images(home / 'GT').double()
    each = found['each']['a']
    assert each['pyiqa_musiq'] == pytest.approx((a.mean((1, 2, 3)) / 4).tolist())
    assert each['pyiqa_dists'] == pytest.approx((a - b).abs().mean((1, 2, 3)).tolist())
    run(home, '--pyiqa', 'musiq', '--pyiqa-weights', tmp_path, '--pyiqa-download', gt=False)
    assert pyiqa[1] == (('musiq',), tmp_path, True)


def test_what_pyiqa_compares_needs_a_truth(home, pyiqa, tmp_path, capsys):
    argv = ['--pyiqa', 'musiq,dists', '--pyiqa-weights', tmp_path, '--device', 'cpu']
    assert evaluate.main([str(word) for word in (home / 'a', *argv)]) == 2
    assert '--pyiqa dists compares with the truth: give --gt' in capsys.readouterr().err
    assert '--pyiqa needs --pyiqa-weights' in refused(home, capsys, '--pyiqa', 'musiq')
    assert '--fid pyiqa needs --pyiqa-weights' in refused(home, capsys, '--fid', 'pyiqa')


@pytest.mark.parametrize('without', [None, 'qalign'])
def test_the_total_of_the_challenge_needs_all_its_parts(home, pyiqa, tmp_path, without):
    names = [name for name in ntire.TERMS if name not in ('fid', without)]
    argv = ['--pyiqa', ','.join(names), '--pyiqa-weights', tmp_path]
    found = run(home, *argv, '--fid', 'pyiqa', '--fid-reference', home / 'GT', gt=False)
    for name in 'a', 'b':
        means = found['mean'][name]
        if without:
            assert 'ntire' not in means
            continue
        parts = {part: means[f'pyiqa_{part}'] for part in names} | {'fid': means['fid']}
        assert means['ntire'] == pytest.approx(ntire.total(parts))
        # As the formula stands: NIQE and FID from their upper ends, the others from 0.
        expected = parts['clipiqa'] + parts['maniqa'] + parts['musiq'] / 100 + parts['qalign'] / 5
        expected += (10 - parts['niqe']) / 10 + max(0, (100 - parts['fid']) / 100)
        assert means['ntire'] == pytest.approx(expected)
