"""LMD against a plain loop; points from a file, and from a landmark network."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

import models
import storage
from errors import DataError, MetricError, RunError
from metrics import lmd
from sources.manifest import Image
from tasks import face_landmarks, landmarks, loading
from training import checkpoint

NET = dict(width=(6, 8), position=4, points=5)
SIZE = 64


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    """Runs with random weights: one of landmarks, one of a restorer."""
    folder = tmp_path_factory.mktemp('lmd')
    torch.manual_seed(0)
    content = dict(task='landmarks', network='heatmap_net', net=NET, size=SIZE, precision='fp32')
    storage.write_json(folder / 'landmarks/config.json', content)
    net = models.HeatmapNet(**NET)
    checkpoint.save_weights(folder / 'landmarks/weights.safetensors', net.state_dict())
    net = models.SRResNet(width=8, blocks=1)
    content = dict(network='srresnet', net={'width': 8, 'blocks': 1})
    storage.write_json(folder / 'restorer/config.json', content)
    checkpoint.save_weights(folder / 'restorer/weights.safetensors', net.state_dict())
    return folder


# ---- the distance ----


@pytest.mark.parametrize('width', [512, 128, 63])
def test_is_a_plain_loop(width):
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0, width, (2, 3, 68, 2))
    expected = [
        sum(math.dist(p, q) for p, q in zip(x, y, strict=True)) / 68 * 512 / width
        for x, y in zip(a, b, strict=True)
    ]
    out = lmd.lmd(torch.from_numpy(a), torch.from_numpy(b), width)
    assert out.dtype == torch.float64 and out.tolist() == pytest.approx(expected, rel=1e-12)


def test_closed_forms():
    points = torch.rand(2, 5, 2)
    assert lmd.lmd(points, points, 256).tolist() == [0, 0]
    # 3 to the right and 4 down are 5 pixels; of half the size they are 10.
    moved = points.double() + torch.tensor([3.0, 4.0])
    assert lmd.lmd(moved, points, 256).tolist() == pytest.approx([10, 10])
    for wrong in points[:1], points[:, :4], points[..., :1], torch.zeros(2, 0, 2):
        with pytest.raises(ValueError, match=r'points \[B, K, 2\]'):
            lmd.lmd(wrong, points if len(wrong[0]) else wrong, 256)


# ---- points from a file ----


def test_points_of_a_file(tmp_path):
    points = np.random.default_rng(1).uniform(0, 128, (2, 68, 2))
    path = tmp_path / 'points.json'
    path.write_text(json.dumps(dict(zip(('a.png', 'b'), points.tolist(), strict=True))))
    images = [Image(f'faces/{name}.png', 128, 128, 'png', 'rgb') for name in 'ba']
    found = lmd.given(path, images)
    assert found.shape == (2, 68, 2) and found.dtype == torch.float64
    # Pixel centres: the corner of both pictures is at -0.5. The file is read as float32.
    assert np.allclose(found, (points[::-1] + 0.5) * 4 - 0.5, atol=1e-4)
    with pytest.raises(DataError, match='c.png'):
        lmd.given(path, [*images, Image('c.png', 128, 128, 'png', 'rgb')])


# ---- points of a network ----


class Brightest(nn.Module):
    """Its heatmaps are the picture itself, four times smaller."""

    def forward(self, x):
        return nn.functional.avg_pool2d(x, 4)


def blobs(side, points):
    """[1, 3, side, side] uint8, a Gaussian in each channel at (x, y)."""
    axis = np.arange(side)
    image = [
        np.exp(-((axis - x) ** 2 + (axis[:, None] - y) ** 2) / (2 * (side / 20) ** 2))
        for x, y in points
    ]
    return torch.from_numpy((255 * np.stack(image)).round().astype(np.uint8))[None]


@pytest.mark.parametrize('side', [SIZE, 3 * SIZE, 100])
def test_points_are_in_pixels_of_the_faces(side, home, monkeypatch):
    """Whatever size the network sees, and however much smaller its maps are."""
    real = loading.of_run

    def of_run(*args):
        return real(*args)._replace(net=Brightest())

    monkeypatch.setattr(loading, 'of_run', of_run)
    points = np.array([(0.3, 0.4), (0.62, 0.5), (0.5, 0.71)]) * side
    find = face_landmarks.landmark_network(str(home / 'landmarks'), 'cpu')
    found = find(blobs(side, points))
    assert found.shape == (1, 3, 2) and found.dtype == torch.float64
    # Measured: 8e-5 of the side. Half a pixel of the smallest is 8e-3.
    assert np.abs(found[0].numpy() - points).max() < 1e-3 * side


def test_the_network_is_the_runs(home):
    net = checkpoint.network_with_weights(lambda: models.HeatmapNet(**NET), home / 'landmarks')[
        0
    ].eval()
    faces = torch.randint(0, 256, (2, 3, SIZE, SIZE), dtype=torch.uint8)
    with torch.no_grad():
        expected = landmarks.find(net, faces)
    find = face_landmarks.landmark_network(str(home / 'landmarks'), 'cpu')
    assert torch.allclose(find(faces), expected.double(), atol=1e-4)
    with pytest.raises(MetricError, match='64x32: aligned faces are square'):
        find(faces[:, :, :32])


def test_other_runs_are_refused(home):
    with pytest.raises(RunError, match='--x .*restorer is a run of .* finds no landmarks'):
        face_landmarks.landmark_network(str(home / 'restorer'), 'cpu', '--x')
    with pytest.raises(RunError, match='no run directory'):
        face_landmarks.landmark_network(str(home / 'none'), 'cpu')
