"""The weights that come with the project are those of a network of ours, and say what they are."""

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors import safe_open

import infer
import models
import synthetic
from config.schema import Config, Network
from errors import CheckpointError, RunError
from faces import masks
from faces.masks import pairs
from metrics.miou import Confusion
from metrics.psnr import psnr
from metrics.sharpness import sharpness
from sources import files
from tasks import initial, loading, restoration, shipped
from tasks.face_parser import FaceParser
from tools import evaluate
from training import checkpoint

FILES = [shipped.FOLDER / f'{name}.safetensors' for name in (*shipped.names(), shipped.PARSER)]
FACES = Path(os.environ.get('FACES_DATA') or '/nowhere', 'parsing')


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_they_are_small_and_say_what_they_are(path):
    assert path.stat().st_size < 5_000_000
    with safe_open(path, 'pt') as file:
        told = file.metadata()
        values = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118 - no mapping
    assert {'name', 'network', 'data', 'images', 'figures', 'licence'} <= told.keys()
    assert 'recipe' in told or told['task'] == 'parse'  # which learnt from clean faces
    assert told['name'] == path.stem and 'NC' in told['licence']
    assert all(torch.isfinite(value).all() for value in values)
    assert path.name in (path.parent / 'README.md').read_text()


@torch.no_grad()
def test_they_restore_faces_that_they_never_saw():
    """Drawn faces, made small by averaging: the usual ones are better than bicubic, the sharp ones
    are sharper for less than a decibel."""
    rows = []
    for name in shipped.USUAL, shipped.SHARP:
        loaded = loading.of_weights(name, 'cpu')
        assert models.count(loaded.net) < 2_276_356
        for seed in range(4):
            truth = synthetic.face(seed, 512).image
            small = torch.from_numpy(files.fit(truth, 128)).permute(2, 0, 1)[None]
            wanted = torch.from_numpy(truth).permute(2, 0, 1)[None]
            ours = restoration.restore(loaded.net, small)
            cubic = restoration.bicubic(small, (512, 512))
            gain = psnr(ours, wanted) - psnr(cubic, wanted)
            rows.append((float(gain), float(sharpness(ours, wanted))))
    usual, sharp = np.array(rows).reshape(2, 4, 2).mean(1)
    assert usual[0] > 0.3 and sharp[0] > usual[0] - 1
    assert sharp[1] > 1.1 * usual[1]


@pytest.mark.skipif(not FACES.is_dir(), reason='FACES_DATA/parsing is not here')
def test_the_parser_names_the_parts_of_faces_that_it_never_saw():
    """As its card says, on a quarter of what was held out."""
    found = pairs.scan_pairs(FACES, say=lambda _: None)
    _, held = found.split(100, 0)
    parser, confusion = FaceParser(shipped.PARSER, 'cpu'), Confusion(19)
    for pair in held.images[::4]:
        image = torch.from_numpy(files.decode(files.read_bytes(pair.path))).permute(2, 0, 1)
        ids = parser(image[None])
        confusion.update(ids[0], torch.from_numpy(masks.decode(files.read_bytes(pair.mask.path))))
    score = confusion.compute()
    assert score.miou > 55 and score.accuracy > 88


def test_training_goes_on_from_them_by_their_name(capsys):
    net = loading.of_weights(shipped.SHARP, 'cpu').net
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    for start, good in (shipped.USUAL, True), ('faces-nobody', False):
        config = shipped.located(Config(network=Network(start=start)))
        if good:
            initial.init_weights(config, net, print)
        else:
            with pytest.raises(CheckpointError, match='--start faces-nobody'):
                initial.init_weights(config, net, print)
    assert 'weights/faces-psnr.safetensors' in capsys.readouterr().out
    usual = loading.of_weights(shipped.USUAL, 'cpu').net
    for a, b in zip(net.parameters(), usual.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_photo_is_restored_by_them_where_no_network_is_named(tmp_path, monkeypatch, capsys):
    """As by their name, and by the path of their file."""
    monkeypatch.chdir(tmp_path)
    cv2.imwrite('face.png', synthetic.face(0, 256).image[..., ::-1])
    usual = shipped.FOLDER / f'{shipped.USUAL}.safetensors'
    results = []
    for given in [], ['--weights', shipped.USUAL], ['--weights', str(usual)]:
        argv = ['face.png', '--output', 'out.png', '--aligned', '--device', 'cpu', *given]
        assert infer.main(argv) == 0
        assert str(usual) in capsys.readouterr().out
        results.append(Path('out.png').read_bytes())
    assert len(set(results)) == 1


def test_a_file_of_the_user_goes_before_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shipped.resolved(shipped.USUAL) != shipped.USUAL
    Path(shipped.USUAL).write_bytes(b'')
    assert shipped.resolved(shipped.USUAL) == shipped.USUAL


def test_an_unknown_name_is_told_of_those_that_there_are():
    with pytest.raises(RunError, match=f'faces-x: no such file; .*{shipped.USUAL}'):
        loading.load(None, 'faces-x', 'cpu')


def test_fidelity_is_between_two_sets_of_weights(tmp_path, monkeypatch):
    """The sharp ones at 0, the usual ones at 1, and their mean in the middle."""
    monkeypatch.setattr(shipped, 'FOLDER', tmp_path)
    torch.manual_seed(0)
    nets = {name: models.UNet((8, 8), ((1,), 1, (1,))) for name in (shipped.SHARP, shipped.USUAL)}
    for name, net in nets.items():
        checkpoint.save_weights(tmp_path / f'{name}.safetensors', net.state_dict())
    sharp, usual = (net.state_dict() for net in nets.values())
    for fidelity in 0, 0.5, 1:
        found = loading.load(None, None, 'cpu', usual=True, fidelity=fidelity).net.state_dict()
        for key, value in found.items():
            torch.testing.assert_close(value, sharp[key] + fidelity * (usual[key] - sharp[key]))


@pytest.mark.parametrize(
    'argv',
    [
        ['face.png', '--weights', 'faces-psnr', '--fidelity', '0.5'],
        ['face.png', '--run', 'runs/mine', '--fidelity', '0.5'],
        ['--fidelity', '0.5'],
        ['face.png', '--fidelity', '1.5'],
    ],
)
def test_fidelity_is_of_these_weights_alone(argv, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    try:
        assert infer.main(argv) == 2
    except SystemExit as error:
        assert error.code == 2
    assert '--fidelity' in capsys.readouterr().err


def test_the_model_of_niqe_tells_a_sharp_face_from_a_soft_one(tmp_path, monkeypatch, capsys):
    """By its name; what is sharp is nearer to the photographs that it was fitted to."""
    monkeypatch.chdir(tmp_path)
    sharp = synthetic.face(0, 512).image
    soft = cv2.GaussianBlur(sharp, (0, 0), 3)
    for name, image in ('sharp', sharp), ('soft', soft):
        Path(name).mkdir()
        cv2.imwrite(f'{name}/face.png', image[..., ::-1])
    argv = ['sharp', 'soft', '--niqe', shipped.NIQE, '--out', 'table', '--device', 'cpu']
    assert evaluate.main(argv) == 0
    mean = json.loads(Path('table.json').read_text())['mean']
    assert mean['sharp']['niqe'] < mean['soft']['niqe']
    assert 'not comparable with published figures' in capsys.readouterr().out
