"""Losses of parsers against their definitions, written out in float64 NumPy, and closed forms."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from losses.segmentation import IGNORE, MILD, cross_entropy, dice, lovasz_softmax, ohem

LOSSES = cross_entropy, dice, lovasz_softmax, ohem


def pair(classes=5, size=(7, 9), ignored=0.2, seed=0):
    """Logits and targets; class 3 is nowhere, some pixels are ignored."""
    g = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, classes, *size, generator=g)
    target = torch.randint(0, classes, (2, *size), generator=g)
    target[target == 3] = 1
    target[torch.rand(target.shape, generator=g) < ignored] = IGNORE
    return logits, target


def flat(logits, target):
    """-> softmax [P, C] float64 and targets [P] of the pixels that count."""
    p = logits.double().softmax(1).permute(0, 2, 3, 1).flatten(0, 2).numpy()
    return p[target.flatten() != IGNORE], target[target != IGNORE].numpy()


def jaccard_loss(wrong, g):
    """1 - IoU of the class g [P] bool when the pixels `wrong` [P] bool are predicted wrongly."""
    predicted = g ^ wrong
    return 1 - (predicted & g).sum() / max((predicted | g).sum(), 1)


def lovasz_brute(p, target):
    """The Lovász extension as an integral over thresholds t (Bach, 2013).

    The integrand is the loss of the pixels whose error is above t.
    """
    terms = []
    for c in np.unique(target):
        g = target == c
        error = np.abs(g - p[:, c])
        edges = np.unique([0.0, *error])
        terms.append(
            sum(
                (high - low) * jaccard_loss(error >= high, g)
                for low, high in zip(edges, edges[1:], strict=False)
            )
        )
    return np.mean(terms)


@pytest.mark.parametrize('ignored', [0, 0.2])
@pytest.mark.parametrize('size', [(1, 1), (7, 9), (12, 5)])
def test_lovasz_is_its_definition(size, ignored):
    for seed in range(4):
        logits, target = pair(size=size, ignored=ignored, seed=seed)
        if (target == IGNORE).all():
            continue
        assert lovasz_softmax(logits, target).item() == pytest.approx(
            lovasz_brute(*flat(logits, target)), abs=1e-6
        )


def test_lovasz_of_decided_pixels_is_one_minus_iou():
    """At the corners of the cube the extension is the loss that it extends."""
    _, target = pair(ignored=0)
    guess = torch.randint(0, 5, target.shape, generator=torch.Generator().manual_seed(1))
    logits = 60 * F.one_hot(guess, 5).permute(0, 3, 1, 2).float()
    iou = [
        ((guess == c) & (target == c)).sum() / ((guess == c) | (target == c)).sum()
        for c in target.unique()
    ]
    assert lovasz_softmax(logits, target).item() == pytest.approx(1 - np.mean(iou), abs=1e-6)


def test_lovasz_of_every_second_pixel():
    logits, target = pair()
    assert lovasz_softmax(logits, target, every=2).item() == pytest.approx(
        lovasz_softmax(logits[..., ::2, ::2], target[..., ::2, ::2]).item(), rel=1e-6
    )


def test_cross_entropy_is_torchs():
    logits, target = pair(19)
    assert cross_entropy(logits, target).item() == pytest.approx(
        F.cross_entropy(logits.double(), target, ignore_index=IGNORE).item(), rel=1e-6
    )
    expected = F.cross_entropy(
        logits.double(), target, torch.tensor(MILD, dtype=torch.float64), ignore_index=IGNORE
    )
    assert cross_entropy(logits, target, MILD).item() == pytest.approx(expected.item(), rel=1e-6)


def test_cross_entropy_closed_form():
    """A uniform guess costs log C, whatever the weights.

    The mean of two halves with weights 1 and 3, guessed at 1/2 and at 1/4, is weighted.
    """
    target = torch.tensor([[[0, 1]]])
    assert cross_entropy(torch.zeros(1, 8, 1, 2), target, range(1, 9)).item() == pytest.approx(
        np.log(8)
    )
    logits = torch.tensor([[1 / 2, 3 / 4], [1 / 2, 1 / 4]]).log().view(1, 2, 1, 2)
    assert cross_entropy(logits, target, (1, 3)).item() == pytest.approx(
        (np.log(2) + 3 * np.log(4)) / 4
    )


@pytest.mark.parametrize('ignored', [0, 0.2])
def test_dice_is_its_definition(ignored):
    logits, target = pair(ignored=ignored)
    p, t = flat(logits, target)
    scores = [
        (2 * p[t == c, c].sum() + 1) / (p[:, c].sum() + (t == c).sum() + 1) for c in np.unique(t)
    ]
    assert len(scores) == 4 and dice(logits, target).item() == pytest.approx(
        1 - np.mean(scores), abs=1e-6
    )


def ohem_brute(logits, target, threshold, least):
    p, t = flat(logits, target)
    loss = np.sort(-np.log(p[np.arange(len(t)), t]))[::-1]
    return loss[
        : max((loss > -np.log(threshold)).sum(), min(int(target.numel() * least), len(loss)))
    ].mean()


@pytest.mark.parametrize('ignored', [0, 0.2, 0.97])
@pytest.mark.parametrize(
    'threshold, least', [(0.7, 1 / 16), (0.7, 0.9), (1e-3, 1 / 16), (0.3, 0.5)]
)
def test_hard_pixels_are_the_first_of_the_sorted(threshold, least, ignored):
    logits, target = pair(ignored=ignored, seed=2)
    target[0, 0, 0] = 0
    assert ohem(logits, target, threshold, least).item() == pytest.approx(
        ohem_brute(logits, target, threshold, least), rel=1e-5
    )


def test_only_hard_pixels_learn():
    logits, target = pair(ignored=0)
    logits.requires_grad_()
    ohem(logits, target, 0.2, 1 / 16).backward()
    learns = logits.grad.abs().sum(1) > 0
    assert (
        torch.equal(learns, logits.softmax(1).gather(1, target[:, None])[:, 0] < 0.2)
        and 0 < learns.float().mean() < 1
    )


@pytest.mark.parametrize('loss', LOSSES)
def test_a_perfect_parser(loss):
    _, target = pair(ignored=0)
    logits = (60 * F.one_hot(target, 5).permute(0, 3, 1, 2).float()).requires_grad_()
    value = loss(logits, target)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-6) and logits.grad.isfinite().all()


@pytest.mark.parametrize('loss', LOSSES)
def test_ignored_pixels_do_not_count(loss):
    """Neither their logits nor their number matter; a batch of nothing else costs 0."""
    logits, target = pair()
    other = torch.where(
        (target == IGNORE)[:, None], torch.randn_like(logits), logits
    ).requires_grad_()
    assert loss(other, target).item() == pytest.approx(loss(logits, target).item(), rel=1e-6)
    loss(other, target).backward()
    assert not other.grad.permute(0, 2, 3, 1)[target == IGNORE].any() and other.grad.any()
    nothing = loss(other, torch.full_like(target, IGNORE))
    assert nothing.item() == 0


@pytest.mark.parametrize('loss', LOSSES)
def test_gradients_are_those_of_differences(loss):
    logits, target = pair(3, (3, 4))
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(logits, target), logits)
    step = torch.randn(logits.shape, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        slope = (loss(logits + 1e-2 * step, target) - loss(logits - 1e-2 * step, target)) / 2e-2
    assert (gradient * step).sum().item() == pytest.approx(slope.item(), rel=0.02, abs=1e-3)


@pytest.mark.parametrize('loss', LOSSES)
def test_in_float32_from_any_kind(loss):
    logits, target = pair()
    out = loss(logits.bfloat16(), target.to(torch.uint8))
    assert (
        out.dtype == torch.float32
        and out.shape == ()
        and out.item() == pytest.approx(loss(logits.bfloat16().float(), target).item(), rel=1e-6)
    )


@pytest.mark.parametrize('loss', LOSSES)
def test_refuses_what_does_not_fit(loss):
    logits, target = pair()
    for wrong in (target[:1], target[:, None], target.float()):
        with pytest.raises(ValueError, match='must be'):
            loss(logits, wrong)
