"""LPIPS with a backbone of random weights against the paper's formula written out."""

import sys
import types

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from errors import MetricError
from metrics import perceptual


def alexnet(pretrained=False, **_):
    """The convolutions of Krizhevsky's AlexNet (2014, one tower).

    They stand in where torchvision does not fit the torch at hand.
    """
    assert not pretrained, 'weights would be downloaded'
    conv = nn.Conv2d
    return types.SimpleNamespace(
        features=nn.Sequential(
            conv(3, 64, 11, 4, 2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            conv(64, 192, 5, 1, 2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            conv(192, 384, 3, 1, 1),
            nn.ReLU(),
            conv(384, 256, 3, 1, 1),
            nn.ReLU(),
            conv(256, 256, 3, 1, 1),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
        )
    )


@pytest.fixture
def package(monkeypatch):
    monkeypatch.setitem(
        sys.modules,
        'torchvision',
        types.SimpleNamespace(models=types.SimpleNamespace(alexnet=alexnet)),
    )
    yield pytest.importorskip('lpips')
    for name in [n for n in sys.modules if n.split('.')[0] == 'lpips']:
        del sys.modules[name]


def test_lpips_is_the_papers_formula(package, tmp_path):
    torch.manual_seed(0)
    net = alexnet().features
    torch.save(
        {f'features.{k}': v for k, v in net.state_dict().items()}
        | {'classifier.1.weight': torch.zeros(1)},
        tmp_path / 'alexnet.pth',
    )
    ours, truth = torch.randint(0, 256, (2, 2, 3, 96, 80), dtype=torch.uint8)
    measured = perceptual.lpips(tmp_path / 'alexnet.pth', torch.device('cpu'))(ours, truth)
    linear = list(package.LPIPS(net='alex', pnet_rand=True, verbose=False).lins)
    mean, std = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    x, y = (((t.float() / 127.5 - 1).permute(0, 2, 3, 1) - mean) / std for t in (ours, truth))
    x, y, expected = x.permute(0, 3, 1, 2), y.permute(0, 3, 1, 2), torch.zeros(2)
    with torch.no_grad():
        for i, layer in enumerate(net):
            x, y = layer(x), layer(y)
            if i in (1, 4, 7, 9, 11):  # after every ReLU
                weight = linear[(1, 4, 7, 9, 11).index(i)].model[-1].weight
                expected += (
                    (F.normalize(x, dim=1) - F.normalize(y, dim=1))
                    .square()
                    .mul(weight[0][None])
                    .sum(1)
                    .mean((1, 2))
                )
    assert (
        measured.dtype == torch.float64
        and torch.allclose(measured.float(), expected, rtol=1e-4)
        and (measured > 0).all()
    )
    assert (perceptual.lpips(tmp_path / 'alexnet.pth', torch.device('cpu'))(ours, ours) == 0).all()


def test_wrong_weights_and_a_missing_package(package, tmp_path, monkeypatch):
    torch.save({'features.3.weight': torch.zeros(1)}, tmp_path / 'net.pth')
    for name in 'net.pth', 'none.pth':
        with pytest.raises(MetricError, match=f'{name}: not the weights of'):
            perceptual.lpips(tmp_path / name, torch.device('cpu'))
    torch.save({'features.10.weight': torch.zeros(1)}, tmp_path / 'alex.pth')
    monkeypatch.setitem(sys.modules, 'lpips', None)
    with pytest.raises(MetricError, match=r'pip install -e .\[lpips\]'):
        perceptual.lpips(tmp_path / 'alex.pth', torch.device('cpu'))
