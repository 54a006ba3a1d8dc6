"""pyiqa's measures, by a stand-in for the package: it is large, and fetches what it needs."""

import os
import socket
import sys
import types
import urllib.request

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from errors import MetricError
from metrics import pyiqa_metrics

NAMES = ['fid', 'musiq', 'musiq-ava', 'niqe', 'psnr', 'crops', 'broken', 'lacking', 'damaged']


class Made:
    """As pyiqa.create_metric makes them: 'FR' compares, 'NR' does not."""

    def __init__(self, mode, lower_better, call, net=None):
        self.metric_mode = mode
        self.lower_better = lower_better
        self.call = call
        self.net = net

    def __call__(self, target, ref=None):
        return self.call(target) if ref is None else self.call(target, ref)


class Pool(nn.Module):
    """In Inception's place: takes (pictures, resize, scale), returns a list of maps."""

    def forward(self, x, resize, scale):
        assert not resize and not scale and x.shape[2:] == (299, 299)
        self.seen = x
        return [x.mean((2, 3), keepdim=True)]


def create(name, device):
    """Some need no weights, some fetch them from an address that does not exist."""
    assert device == torch.device('cpu')
    if name == 'musiq':
        path = os.path.join(sys.modules['pyiqa.utils'].download_util.DEFAULT_CACHE_DIR, 'm.pth')
        if not os.path.exists(path):
            print(f'Downloading: "https://nowhere.invalid/m.pth" to {path}\n')
            urllib.request.urlopen('https://nowhere.invalid/m.pth')
        return Made('NR', False, lambda x: x.mean((1, 2, 3)))
    if name == 'lacking':
        raise ModuleNotFoundError("No module named 'transformers'")
    if name == 'damaged':
        raise RuntimeError('Error(s) in loading state_dict\nand more')
    if name == 'fid':
        return Made('NR', True, None, types.SimpleNamespace(model=Pool()))
    calls = {
        'niqe': Made('NR', True, lambda x: x.std().reshape(1, 1)),
        'psnr': Made('FR', False, lambda x, y: (x - y).square().mean()),
        'crops': Made('NR', False, lambda x: torch.rand(1) + np.random.rand() + x.mean()),
        'broken': Made('NR', False, lambda x: x[0]),
    }
    return calls[name]


@pytest.fixture(autouse=True)
def package(monkeypatch):
    """The stand-in; what the real one's import changes is undone."""
    monkeypatch.setattr(torch.hub, '_hub_dir', None)
    for name in ('HF_HOME', 'HF_HUB_OFFLINE'):
        monkeypatch.setenv(name, 'before')
    utils = types.ModuleType('pyiqa.utils')
    utils.download_util = types.SimpleNamespace(DEFAULT_CACHE_DIR='elsewhere')
    package = types.ModuleType('pyiqa')
    package.list_models = lambda: NAMES
    package.create_metric = create
    monkeypatch.setitem(sys.modules, 'pyiqa', package)
    monkeypatch.setitem(sys.modules, 'pyiqa.utils', utils)


def pictures(count=3, side=32):
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (count, 3, side, side), np.uint8))


def test_measures_by_name(tmp_path):
    made = pyiqa_metrics.named(['psnr', 'niqe'], tmp_path, 'cpu')
    assert list(made) == ['psnr', 'niqe']
    assert [(m.higher, m.needs_truth) for m in made.values()] == [(True, True), (False, False)]
    x, y = pictures(), pictures().flip(3)
    expected = [(a / 255 - b / 255).square().mean().item() for a, b in zip(x, y, strict=True)]
    compared = made['psnr'](x, y)
    assert compared.dtype == torch.float64 and compared.tolist() == pytest.approx(expected)
    alone = [(a / 255).std().item() for a in x]
    # A truth that is not asked for changes nothing.
    assert made['niqe'](x).tolist() == made['niqe'](x, y).tolist() == pytest.approx(alone)
    with pytest.raises(ValueError, match='psnr compares with a truth'):
        made['psnr'](x)


def test_a_figure_does_not_depend_on_the_others(tmp_path):
    """Random crops are the same each time, and nobody else's numbers change."""
    measure = pyiqa_metrics.named(['crops'], tmp_path, 'cpu')['crops']
    torch.manual_seed(5)
    np.random.seed(5)
    expected = torch.rand(2)[1], np.random.rand(2)[1]
    torch.manual_seed(5)
    np.random.seed(5)
    torch.rand(1), np.random.rand()
    x = pictures()
    together = measure(x)
    assert (torch.rand(1), np.random.rand()) == expected
    assert together.tolist() == [measure(x[i : i + 1]).item() for i in range(3)]


def test_nothing_is_fetched_unless_told(tmp_path, monkeypatch):
    address = r'\(https://nowhere.invalid/m.pth, as .*/pyiqa/m.pth\)'
    remedy = f'musiq are not all in {tmp_path} {address}: put them there, or say --pyiqa-download'
    asked = []

    def unknown(host, *_, **__):
        asked.append(host)
        raise socket.gaierror('unknown host')

    monkeypatch.setattr(socket, 'getaddrinfo', unknown)
    with pytest.raises(MetricError, match=remedy):
        pyiqa_metrics.named(['musiq'], tmp_path, 'cpu')
    assert not asked and os.environ['HF_HUB_OFFLINE'] == '1'
    # Afterwards the network is as it was.
    assert socket.getaddrinfo is unknown
    with pytest.raises(MetricError, match='musiq cannot be made .*unknown host'):
        pyiqa_metrics.named(['musiq'], tmp_path, 'cpu', download=True)
    assert asked == ['nowhere.invalid'] and os.environ['HF_HUB_OFFLINE'] == '0'


def test_weights_lie_in_the_folder(tmp_path):
    (tmp_path / 'pyiqa').mkdir()
    (tmp_path / 'pyiqa/m.pth').touch()
    measure = pyiqa_metrics.named(['musiq'], tmp_path, 'cpu')['musiq']
    x = pictures()
    assert measure(x).tolist() == pytest.approx((x.double() / 255).mean((1, 2, 3)).tolist())
    assert torch.hub.get_dir() == str(tmp_path)
    assert os.environ['HF_HOME'] == str(tmp_path / 'huggingface')


@pytest.mark.parametrize(
    ('name', 'reason'),
    [
        ('musik', 'no measure musik: near it are musiq, musiq-ava'),
        ('@@', 'no measure @@: there are fid, musiq'),
        ('fid', 'fid has no figure of one picture'),
        ('lacking', r'transformers.*pip install -e .\[pyiqa\]'),
        ('damaged', 'cannot be made with the weights in .*loading state_dict'),
    ],
)
def test_what_cannot_be_made(name, reason, tmp_path):
    with pytest.raises(MetricError, match=reason):
        pyiqa_metrics.named(['psnr', name], tmp_path, 'cpu')


def test_what_fails_on_a_picture(tmp_path):
    measure = pyiqa_metrics.named(['broken'], tmp_path, 'cpu')['broken']
    with pytest.raises(MetricError, match='broken fails on a picture of 20x16'):
        measure(pictures()[..., :16, :20])


def test_the_package_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pyiqa', None)
    with pytest.raises(MetricError, match=r'pip install -e .\[pyiqa\]'):
        pyiqa_metrics.named(['psnr'], tmp_path, 'cpu')


def test_features_of_inception(tmp_path):
    """What the network sees is Pillow's bicubic picture in float, -1 to 1."""
    x = pictures(2, 400)
    net = Pool()
    features = pyiqa_metrics.inception(tmp_path, 'cpu')
    found = features(x)
    planes = [
        [np.array(Image.fromarray(p.numpy().astype(np.float32)).resize((299, 299), 3)) for p in y]
        for y in x
    ]
    wanted = (torch.from_numpy(np.array(planes)).clamp(0, 255) - 128) / 128
    assert found.shape == (2, 3) and found.dtype == torch.float64
    assert torch.allclose(found, net(wanted, False, False)[0].flatten(1).double(), atol=1e-6)
