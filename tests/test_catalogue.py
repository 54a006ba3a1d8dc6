"""The catalogue of networks: known by their weights, counted, and printed as a table."""

import io
from functools import partial

import pytest
import torch
from rich.console import Console
from test_models import SMALL

import models
from models import __main__ as catalogue
from models import swinir
from models.entry import Entry
from models.face_unaf import FaceUNAF
from models.frsnet import FRSNet
from models.hifacegan import SUPPRESSION, HiFaceGAN
from models.rcan import RCAN
from models.rrdbnet import RRDBNet
from models.srresnet import SRResNet
from models.swinir import SwinIR
from models.unet import UNet

OTHER = {'path': [3, 2, 3], 'cell': [[1, 1], [2, 0], [3, 2], [8, 3]]}


@pytest.mark.parametrize(
    'net',
    [
        *SMALL.values(),
        SRResNet,
        UNet,
        FaceUNAF,
        SwinIR,
        RCAN,
        partial(RCAN, 0, 20),
        partial(RRDBNet, 16, 16, 7),
        partial(SRResNet, scale=2),
        partial(SRResNet, scale=3),
        partial(SwinIR, 12, (1, 2), 3, 5, 17 / 12),
        partial(RCAN, 0, 2, 20, 3),
        partial(UNet, position=0),
        partial(UNet, symmetric=True),
        FRSNet,
        partial(FRSNet, OTHER, 16, 4, 2, spare=True),
        *(partial(HiFaceGAN, 2, name) for name in SUPPRESSION),
        partial(HiFaceGAN, 3, residual=True),
    ],
)
def test_a_network_is_known_by_its_weights(net):
    torch.manual_seed(0)
    net = net()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn_like(p), alpha=0.02)
    other = models.like(net.state_dict())
    other.load_state_dict(net.state_dict())
    x = torch.rand(1, 3, 16, 16) if models.scale(net) > 1 else torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert type(other) is type(net) and torch.equal(other(x), net(x))


def test_every_entry_is_in_one_table():
    tables = (models.CATALOGUE, models.SEARCHES)
    named = {name: network for table in tables for name, network in table.items()}
    assert named == {entry.name: entry.network for entry in models.ENTRIES}
    assert len(models.ENTRIES) == sum(map(len, tables))


def test_every_network_has_a_mark_of_its_own():
    marked = models.NETWORKS | models.GUIDED | models.RENOVATORS | models.DISCRIMINATORS
    marks = {entry.network: entry.mark for entry in models.ENTRIES if entry.mark}
    assert marks.keys() == set(marked.values())
    for network in marks:
        with torch.device('meta'):
            names = network().state_dict().keys()
        assert [other for other, mark in marks.items() if mark in names] == [network]
        assert models.recognise(names) == network.__name__
    assert models.recognise(['weight', 'bias']) is None


def test_foreign_weights_are_refused():
    edsr = {
        f'{name}.weight': torch.zeros(8, 3 if name == 'conv_first' else 8, 3, 3)
        for name in (
            'conv_first',
            'body.0.conv1',
            'body.0.conv2',
            'conv_after_body',
            'upsample.0',
            'conv_last',
        )
    }
    for weights in (
        edsr,
        torch.nn.Linear(2, 2).state_dict(),
        models.UNetDiscriminatorSN(8).state_dict(),
        models.ModifiedVGG(2).state_dict(),
    ):
        with pytest.raises(ValueError, match='no network of ours'):
            models.like(weights)


@pytest.mark.parametrize(
    'net, expected',
    [
        (SRResNet, 41.55),
        (UNet, 3.63),
        (partial(UNet, steps=2), 4.23),
        (partial(UNet, attention=4), 3.76),
        (FaceUNAF, 8.91),
    ],
)
def test_gmac(net, expected):
    assert catalogue.gmac(net) == pytest.approx(expected, abs=0.005)


def test_gmac_of_attention():
    """Each pixel costs qkv, scores and sums over its window's 64 pixels, projection, perceptron.

    A head has 13 channels, padded to 16.
    """
    per_pixel = 3 * 78**2 + 2 * 64 * 6 * 16 + 78**2 + 4 * 78**2

    def forward(x):
        return swinir.Block(78, 6, 8, 2, shift=4)(
            x.permute(0, 2, 3, 1), swinir._mask(16, 16, 8, 4, 'cpu')
        )

    assert catalogue.gmac(lambda: forward, channels=78, size=16) == pytest.approx(
        256 * per_pixel / 1e9
    )


def test_the_catalogue_can_be_read_in_a_file():
    shown = (
        Entry('unet', UNet, 'restorer', variants=({},)),
        Entry(
            'rrdbnet',
            RRDBNet,
            'restorer',
            variants=(dict(blocks=16, width=16, growth=7), dict(blocks=23, width=8)),
        ),
        Entry('patchgan', models.MultiscalePatchGAN, 'discriminator', variants=({},), channels=6),
    )
    file = io.StringIO()
    Console(file=file, width=220).print(catalogue.table(shown))
    rows = [
        [cell.strip() for cell in line.split('|')[1:-1]]
        for line in file.getvalue().splitlines()
        if '|' in line
    ]
    assert (
        rows[0] == ['name', 'network', 'parameters', 'budget', 'GMAC', 'paper'] and len(rows) == 6
    )
    assert rows[2][1:5] == ['UNet()', '1,946,448', 'fits', '3.63'] and 'Ronneberger' in rows[2][5]
    assert (
        rows[3][1:4] == ['RRDBNet(blocks=16, width=16, growth=7)', '636,947', 'fits']
        and 'ESRGAN' in rows[3][5]
    )
    assert rows[5][1:4] == ['MultiscalePatchGAN()', '5,533,826', '']


def test_the_catalogue_shows_everything():
    assert {entry.name for entry in models.ENTRIES if entry.variants} == models.CATALOGUE.keys()
    assert all(catalogue.paper(network)[-4:].isdigit() for network in models.CATALOGUE.values())
