"""The weights that come with the project are those of a network of ours, and say what they are."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors import safe_open

import infer
import models
import synthetic
from errors import RunError
from metrics.psnr import psnr
from sources import files
from tasks import loading, restoration, shipped

FILES = sorted((Path(__file__).resolve().parents[1] / 'weights').glob('*.safetensors'))


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_they_are_small_and_say_what_they_are(path):
    assert path.stat().st_size < 5_000_000
    with safe_open(path, 'pt') as file:
        told = file.metadata()
        values = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118 - no mapping
    assert {'name', 'network', 'recipe', 'data', 'images', 'figures', 'licence'} <= told.keys()
    assert told['name'] == path.stem and 'NC' in told['licence']
    assert all(torch.isfinite(value).all() for value in values)
    assert path.name in (path.parent / 'README.md').read_text()


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
@torch.no_grad()
def test_they_restore_faces_that_they_never_saw(path):
    """Drawn faces, made small by averaging: better than bicubic."""
    loaded = loading.of_weights(str(path), 'cpu')
    assert models.count(loaded.net) < 2_276_356
    gains = []
    for seed in range(4):
        truth = synthetic.face(seed, 512).image
        small = torch.from_numpy(files.fit(truth, 128)).permute(2, 0, 1)[None]
        wanted = torch.from_numpy(truth).permute(2, 0, 1)[None]
        ours = restoration.restore(loaded.net, small)
        cubic = restoration.bicubic(small, (512, 512))
        gains.append(float(psnr(ours, wanted) - psnr(cubic, wanted)))
    assert np.mean(gains) > 0.3


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
