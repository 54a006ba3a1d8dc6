"""Component dictionaries: boxes, crops and pasting, k-means, transfer and matching.

Each is compared with a plain loop, a closed form or a brute-force search.
"""

import numpy as np
import pytest
import torch

import synthetic
from faces import components, dictionary
from faces.components import COMPONENTS
from faces.masks import CLASSES


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---- boxes ----


def test_boxes_of_points():
    """Indices of DFDNet; half a box is half of the larger extent, and at least 16 pixels of 512."""
    points = torch.zeros(1, 68, 2)
    points[0, 48:68] = torch.tensor([[300.0, 350.0], [200.0, 370.0]]).repeat(10, 1)
    points[0, 29:36] = torch.tensor([250.0, 280.0])
    boxes, there = components.boxes_of_points(points, 512)
    assert there.all() and list(COMPONENTS) == ['r_eye', 'l_eye', 'nose', 'mouth']
    assert boxes[0, 3].tolist() == [200, 310, 300, 410] and boxes[0, 2].tolist() == [
        234,
        264,
        266,
        296,
    ]
    assert (
        components.sides(128) == dict(r_eye=20, l_eye=20, nose=12, mouth=27)
        and components.sides(16)['nose'] == 4
    )


def test_boxes_of_masks():
    mask = np.zeros((2, 64, 64), np.uint8)
    for name, (top, bottom, left, right) in dict(
        r_eye=(20, 24, 10, 20),
        r_brow=(14, 17, 8, 22),
        nose=(30, 33, 30, 34),
        l_brow=(14, 17, 40, 50),
        u_lip=(45, 47, 20, 41),
    ).items():
        mask[0, top:bottom, left:right] = CLASSES.index(name)
    boxes, there = components.boxes_of_masks(torch.from_numpy(mask))
    assert there.tolist() == [
        [True, False, True, True],
        [False] * 4,
    ]  # a brow without its eye is no eye
    assert (
        boxes[0, 0].tolist() == [8, 12, 21, 25]
        and boxes[0, 2].tolist() == [29.5, 29, 33.5, 33]
        and COMPONENTS['nose'].side == 12
        and boxes[0, 3].tolist() == [20, 35.5, 40, 55.5]
    )


def test_both_kinds_of_boxes_agree_on_a_drawn_face():
    """Centres differ by 0.5 to 3 pixels of 128, sides by up to a seventh.

    The points of an eye are not exactly its outline.
    """
    f = synthetic.face(1, 128)
    (a, _), (b, there) = (
        components.boxes_of_points(torch.from_numpy(f.landmarks)[None], 128),
        components.boxes_of_masks(torch.from_numpy(f.mask)[None]),
    )
    centre, side = (
        ((x[0, :, 2:] + x[0, :, :2]) / 2 for x in (a, b)),
        ((x[0, :, 2] - x[0, :, 0]) for x in (a, b)),
    )
    (a, b), (one, other) = centre, side
    assert (
        there.all() and (a - b).norm(dim=1).max() < 5 and (one / other).sub(1).abs().max() < 0.3
    ), ((a - b).norm(dim=1), one / other)


# ---- crops ----


@pytest.mark.parametrize('samples', [1, 2])
def test_roi_align_is_the_plain_one(samples):
    features = noise(2, 3, 13, 17)
    boxes = torch.tensor([[2.3, 1.7, 9.9, 11.2], [-3.0, 4.0, 20.5, 27.5]])
    crops = components.roi_align(features, boxes, 5, samples)
    expected = torch.stack(
        [components.roi_align_ref(f, b, 5, samples) for f, b in zip(features, boxes, strict=True)]
    )
    assert crops.shape == (2, 3, 5, 5) and (crops - expected).abs().max() < 1e-4


def test_a_ramp_is_cut_out_and_put_back():
    """Bilinear sampling is exact of a plane; only the outer half cells of a crop go on level."""
    y, x = torch.meshgrid(torch.arange(24.0), torch.arange(32.0), indexing='ij')
    ramp = torch.stack([2 * x + 3 * y, x - y])[None]
    box = torch.tensor([[6.0, 5.0, 22.0, 21.0]])
    crop = components.roi_align(ramp, box, 8)
    assert torch.allclose(
        crop[0, 0],
        2 * (7 + 2 * torch.arange(8.0)) + 3 * (6 + 2 * torch.arange(8.0))[:, None],
        atol=1e-3,
    )
    back, inside = components.pasted(crop, box, (24, 32))
    assert (
        inside.sum() == 17 * 17
        and not back[:, :, ~inside[0, 0]].any()
        and inside[0, 0, 5, 6]
        and inside[0, 0, 21, 22]
    )
    assert torch.allclose(back[..., 6:21, 7:22], ramp[..., 6:21, 7:22], atol=1e-3)


# ---- k-means ----


def clustered(n, k, d, seed=0):
    return 4 * noise(k, d, seed=seed)[torch.arange(n) % k] + noise(n, d, seed=seed + 1)


@pytest.mark.parametrize('n, k, d', [(60, 5, 3), (40, 40, 2), (30, 1, 4), (80, 12, 6)])
def test_kmeans_is_plain_lloyd(n, k, d):
    x = clustered(n, 5, d)
    centres, labels = dictionary.kmeans(x, k, seed=3)
    expected, marks = dictionary.kmeans_ref(x, k, seed=3)
    assert (labels.numpy() == marks).all() and np.abs(centres.numpy() - expected).max() < 1e-4
    again, _ = dictionary.kmeans(x, k, seed=3)
    assert torch.equal(again, centres) and (
        k in (1, n) or not torch.equal(dictionary.kmeans(x, k, seed=4)[0], centres)
    )


def test_kmeans_ends_where_nothing_is_nearer():
    x = clustered(200, 6, 4)
    centres, labels = dictionary.kmeans(x, 6)
    assert torch.equal(torch.cdist(x, centres).argmin(1), labels)
    assert all(torch.allclose(x[labels == j].mean(0), centres[j], atol=1e-5) for j in range(6))


def test_too_few_different_points():
    with pytest.raises(
        ValueError, match='3 clusters are requested, but only 2 of the 8 points are different'
    ):
        dictionary.kmeans(torch.eye(2).repeat(4, 1), 3)


# ---- transfer and matching ----


def test_adain_in_closed_form():
    content, style = noise(2, 3, 5, 5), 2 + 3 * noise(2, 3, 7, 7, seed=1)
    moved = dictionary.adain(content, style)
    assert torch.allclose(moved.mean((2, 3)), style.mean((2, 3)), atol=1e-5)
    assert torch.allclose(
        moved.std((2, 3), correction=0), style.std((2, 3), correction=0), rtol=1e-4
    )
    two = torch.tensor([[[[1.0, 3.0]]]])
    assert torch.allclose(
        dictionary.adain(two, torch.tensor([[[[10.0, 20.0]]]])),
        torch.tensor([[[[10.0, 20.0]]]]),
        atol=1e-3,
    )  # -1, 1 times 5 about 15
    assert torch.allclose(
        dictionary.adain(torch.full((1, 1, 2, 2), 7.0), style[:1, :1]),
        style[:1, :1].mean().expand(1, 1, 2, 2),
    )  # of a constant the mean is left


@pytest.mark.parametrize('channels, side, count', [(4, 5, 16), (7, 3, 1), (2, 8, 40)])
def test_matching_is_the_brute_force_search(channels, side, count):
    entries = dictionary.standardised(noise(count, channels, side, side, seed=2))
    features = 5 + 3 * noise(6, channels, side, side, seed=5)
    best, found = dictionary.match(features, entries)
    for f, number, one in zip(features, best, found, strict=True):
        expected, moved = dictionary.match_ref(f, entries)
        assert number == expected and (one - moved).abs().max() < 1e-3
    if count > 1:
        assert len(set(best.tolist())) > 1
    again, _ = dictionary.match(entries * 2 + 1, entries)
    assert again.tolist() == list(range(count))  # every entry is most like itself


def test_the_map_is_features_plus_entries_in_the_boxes():
    shape, features = (20, 20), noise(2, 3, 20, 20)
    entries = {
        name: dictionary.standardised(noise(4, 3, side, side, seed=i))
        for i, (name, side) in enumerate(dict(r_eye=5, l_eye=5, nose=4, mouth=6).items())
    }
    net = dictionary.Dictionary(entries)
    boxes = torch.tensor([[1.0, 2, 6, 7], [12, 2, 17, 7], [8, 8, 12, 12], [6, 13, 13, 20]]).repeat(
        2, 1, 1
    )
    there = torch.tensor([[True, True, True, True], [True, False, False, True]])
    out, covered = net(features, boxes, there)
    for b in range(2):
        expected, where = features[b].clone(), torch.zeros(shape, dtype=torch.bool)
        for i, e in enumerate(entries.values()):
            if there[b, i]:
                _, found = dictionary.match_ref(
                    components.roi_align_ref(features[b], boxes[b, i], e.shape[-1]), e
                )
                pasted, inside = components.pasted(found[None].float(), boxes[b : b + 1, i], shape)
                expected += pasted[0]
                where |= inside[0, 0]
        assert (
            torch.equal(covered[b, 0], where)
            and torch.allclose(out[b], expected, atol=1e-4)
            and torch.equal(out[b, :, ~where], features[b, :, ~where])
        )
    assert net.channels == 3 and not any(p.requires_grad for p in net.parameters())
    with pytest.raises(ValueError, match='with one C'):
        dictionary.Dictionary({name: e for name, e in entries.items() if name != 'nose'})


def test_entries_are_centres_of_crops():
    crops = torch.cat(
        [noise(1, 3, 4, 4, seed=s) + 0.01 * noise(10, 3, 4, 4, seed=10 + s) + s for s in range(3)]
    )
    entries = dictionary.build(crops, 3)
    assert (
        entries.shape == (3, 3, 4, 4)
        and entries.mean((2, 3)).abs().max() < 1e-5
        and torch.allclose(entries.std((2, 3), correction=0), torch.ones(3, 3), atol=1e-3)
    )
    best, _ = dictionary.match(crops, entries)
    assert [len(set(best[10 * s : 10 * s + 10].tolist())) for s in range(3)] == [1, 1, 1] and len(
        set(best.tolist())
    ) == 3
    assert len(dictionary.build(crops, 99)) == 30
