"""Segmentation scores against pixels counted one by one, and closed forms."""

import math

import numpy as np
import pytest
import torch

from metrics.miou import Confusion

CLASSES = 19


def masks(seed=0, present=CLASSES, count=6):
    """Predicted and true ids: lists of [H, W] uint8 of different sizes, about half right."""
    g = np.random.default_rng(seed)
    truth = [g.integers(0, present, (13 + i, 17)).astype(np.uint8) for i in range(count)]
    guess = [
        np.where(g.random(t.shape) < 0.5, t, g.integers(0, present, t.shape)).astype(np.uint8)
        for t in truth
    ]
    return guess, truth


def brute(guess, truth):
    """The handout's way: per class, pixels of all pictures in both and in either.

    Returns (IoU, F1, accuracy), NaN where there are no pixels.
    """
    iou, f1 = [], []
    for c in range(CLASSES):
        both = sum(((p == c) & (t == c)).sum() for p, t in zip(guess, truth, strict=True))
        p, t = (sum((x == c).sum() for x in side) for side in (guess, truth))
        iou.append(both / (p + t - both) * 100 if p + t else math.nan)
        f1.append(200 * both / (p + t) if p + t else math.nan)
    right = sum((p == t).sum() for p, t in zip(guess, truth, strict=True)) / sum(
        t.size for t in truth
    )
    return iou, np.nanmean(f1), 100 * right


def scores(guess, truth):
    confusion = Confusion()
    for p, t in zip(guess, truth, strict=True):
        confusion.update(torch.from_numpy(p)[None], torch.from_numpy(t)[None].long())
    return confusion.compute()


@pytest.mark.parametrize('seed, present', [(0, CLASSES), (1, CLASSES), (2, 12)])
def test_scores_are_the_handouts(seed, present):
    guess, truth = masks(seed, present)
    out, (iou, f1, accuracy) = scores(guess, truth), brute(guess, truth)
    assert out.iou == pytest.approx(iou, rel=1e-12, nan_ok=True)
    assert (out.miou, out.f1, out.accuracy) == pytest.approx(
        (np.nanmean(iou), f1, accuracy), rel=1e-12
    )
    assert out.absent == list(range(present, CLASSES))


def test_closed_forms():
    truth = np.arange(CLASSES).repeat(4).reshape(4, CLASSES).astype(np.uint8)
    same = scores([truth], [truth])
    assert same[:3] == (100, 100, 100) and same.iou == [100] * CLASSES and not same.absent
    wrong = scores([(truth + 1) % CLASSES], [truth])
    assert wrong[:3] == (0, 0, 0)
    half = truth.copy().ravel()
    half[::2] = (
        half[::2] + 1
    ) % CLASSES  # of 4 pixels of each class 2 are right, and 2 of another are taken for it
    assert scores([half], [truth.ravel()])[:3] == pytest.approx((100 * 2 / 6, 50, 50))


def test_the_mean_is_over_the_data_set_not_over_pictures():
    """One small picture all wrong, one large one all right: 10 of 110 pixels."""
    truth = [np.zeros(10, np.uint8), np.zeros(100, np.uint8)]
    guess = [np.ones(10, np.uint8), np.zeros(100, np.uint8)]
    out = scores(guess, truth)
    assert (
        out.iou[:2] == pytest.approx([100 * 100 / 110, 0])
        and out.miou == pytest.approx(100 * 50 / 110)
        and out.absent == list(range(2, CLASSES))
    )


def test_background_counts():
    truth = np.array([0] * 6 + [1] * 2, np.uint8)
    guess = np.array([0] * 3 + [1] * 5, np.uint8)
    assert scores([guess], [truth]).miou == pytest.approx((100 * 3 / 6 + 100 * 2 / 5) / 2)


def test_counts_add_up():
    guess, truth = masks(3)
    parts = [Confusion(), Confusion()]
    for i, (p, t) in enumerate(zip(guess, truth, strict=True)):
        parts[i % 2].update(torch.from_numpy(p), torch.from_numpy(t))
    parts[0].counts += parts[1].counts
    assert parts[0].compute()[:4] == scores(guess, truth)[:4] and parts[0].counts.sum() == sum(
        t.size for t in truth
    )
    assert parts[0].counts[4, 7] == sum(
        ((t == 4) & (p == 7)).sum() for p, t in zip(guess, truth, strict=True)
    )  # [target, output]


@pytest.mark.parametrize(
    'output, target, message',
    [
        (torch.zeros(2, 3).long(), torch.zeros(3, 2).long(), 'one shape'),
        (torch.zeros(2, 3), torch.zeros(2, 3).long(), 'ids'),
        (torch.full((2,), 19), torch.zeros(2).long(), '19 in the output'),
        (torch.zeros(2).long(), torch.tensor([255, 3]), '3 to 255 in the target'),
        (torch.zeros(2).long(), torch.tensor([-1, 3]), '-1 to 3 in the target'),
    ],
)
def test_wrong_arguments(output, target, message):
    confusion = Confusion()
    with pytest.raises(ValueError, match=message):
        confusion.update(output, target)
    assert not confusion.counts.any()
    with pytest.raises(ValueError, match='no pixels'):
        confusion.compute()
