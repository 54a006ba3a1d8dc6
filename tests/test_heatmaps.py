"""Heatmaps: closed forms, a plain reference, points found again; the network that predicts them."""

import math

import pytest
import torch

import models
from faces import heatmaps
from models.heatmap_net import HeatmapNet


def some(*size, n=2, k=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    return 2 + torch.rand(n, k, 2, generator=g) * (torch.tensor(size[::-1]) - 5), torch.rand(
        n, k, generator=g
    ) > 0.3


def test_closed_forms():
    points = torch.tensor([[[30.0, 20.0], [31.5, 20.0]]])
    maps = heatmaps.gaussians(points, torch.ones(1, 2, dtype=torch.bool), (48, 64), 1.5)
    assert maps.shape == (1, 2, 48, 64) and maps[0, 0, 20, 30] == 1 and maps.amax() == 1
    assert maps[0, 0, 23, 34] == pytest.approx(math.exp(-(3**2 + 4**2) / (2 * 1.5**2)), rel=1e-5)
    assert (
        maps[0, 1, 20, 31] == maps[0, 1, 20, 32] == pytest.approx(math.exp(-0.25 / 4.5), rel=1e-6)
    )
    assert maps.sum((2, 3))[0].tolist() == pytest.approx([2 * math.pi * 1.5**2] * 2, rel=1e-5)
    assert maps.square().sum((2, 3))[0].tolist() == pytest.approx([math.pi * 1.5**2] * 2, rel=1e-5)


def test_width_is_in_proportion():
    there = torch.ones(1, 1, dtype=torch.bool)
    for side, sigma in (128, 1.5), (64, 0.75), (512, 6.0):
        maps = heatmaps.gaussians(torch.tensor([[[10.0, 10.0]]]), there, (side, side))
        assert maps[0, 0, 10, 12] == pytest.approx(math.exp(-2 / sigma**2), rel=1e-5)


@pytest.mark.parametrize('size', [(17, 5), (1, 9), (16, 16)])
def test_equals_the_plain_loops(size):
    points, visible = some(*size)
    points[0, 0] = torch.tensor([-3.0, 40.0])  # outside
    maps = heatmaps.gaussians(points, visible, size, 1.1)
    expected = torch.stack(
        [heatmaps.gaussians_ref(p, v, size, 1.1) for p, v in zip(points, visible, strict=True)]
    )
    assert (
        maps.dtype == torch.float32
        and (maps - expected).abs().max() < 1e-6
        and not maps[~visible].any()
    )


def test_points_are_found_again():
    points, _ = some(40, 56, k=30)
    maps = heatmaps.gaussians(points, torch.ones(2, 30, dtype=torch.bool), (40, 56), 1.5)
    found, height = heatmaps.peaks(maps)
    assert (found - points).abs().max() < 1e-3 and height.min() > math.exp(-0.5 / 4.5) - 1e-6
    corner = torch.zeros(1, 2, 3, 3)
    corner[0, 0, 0, 2] = corner[0, 1, 1, 1] = 1
    assert torch.allclose(heatmaps.peaks(corner)[0][0], torch.tensor([[2.0, 0.0], [1.0, 1.0]]))
    assert heatmaps.peaks(torch.rand(1, 1, 1, 7))[0].isfinite().all() and heatmaps.peaks(
        torch.zeros(1, 1, 4, 4)
    )[0].tolist() == [[[0, 0]]]


def test_a_smaller_picture_has_its_points():
    assert torch.equal(
        heatmaps.reduced(torch.tensor([[1.5, 511.0]]), 4), torch.tensor([[0.0, 127.375]])
    )


# ---- the network ----


@pytest.mark.parametrize('size', [(64, 64), (33, 50)])
def test_maps_of_a_quarter(size):
    net = HeatmapNet(points=3, width=(8, 12, 16)).eval()
    with torch.no_grad():
        assert net(torch.rand(1, 3, *size)).shape == (1, 3, -(-size[0] // 4), -(-size[1] // 4))
        with torch.autocast('cpu', torch.bfloat16):
            assert net(torch.rand(1, 3, *size)).dtype == torch.float32


def test_parameters():
    assert models.count(HeatmapNet()) == 556_668
    for wrong in dict(width=(8,)), dict(fold=0), dict(points=0):
        with pytest.raises(ValueError, match='HeatmapNet'):
            HeatmapNet(**wrong)


def test_it_learns_where_points_are():
    """A bright square on black: its centre is found to a pixel of the map."""
    torch.manual_seed(0)
    net = HeatmapNet(points=1, width=(8, 12), position=0)
    optimizer, g = torch.optim.Adam(net.parameters(), 1e-2), torch.Generator().manual_seed(1)

    def batch():
        corner = torch.randint(0, 12, (8, 2), generator=g)
        x = torch.zeros(8, 3, 64, 64)
        for one, (i, j) in zip(x, corner.tolist(), strict=True):
            one[:, 4 * i : 4 * i + 16, 4 * j : 4 * j + 16] = 1
        return x, (corner.flip(1) + 1.5)[:, None]

    for _ in range(60):
        x, points = batch()
        loss = (
            (net(x) - heatmaps.gaussians(points, torch.ones(8, 1, dtype=torch.bool), (16, 16), 1.5))
            .square()
            .mean()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x, points = batch()
    with torch.no_grad():
        assert (heatmaps.peaks(net.eval()(x))[0] - points).abs().max() < 1
