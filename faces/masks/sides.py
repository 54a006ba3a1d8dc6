"""Masks whose left and right ids are swapped.

About 1 in 15 masks of CelebAMask-HQ is affected, always in eyes, brows and ears at once. The
person's left is on the right of the picture, so the centroid of a left eye, brow or ear must lie to
the right of its counterpart's. A mask has up to three such pairs, and their majority decides; a
face of which no pair is visible is taken as it is.
"""

import numpy as np

from . import CLASSES, PAIRS, SWAP


def contradicting(mask: np.ndarray) -> list[str]:
    """Names of the pairs in a mask [H, W] of ids whose sides are swapped.

    Only pairs of which both ids occur count; all of them are ['eye', 'brow', 'ear'].
    """
    return [
        CLASSES[left][2:]
        for left, right in _visible(mask)
        if _centre(mask, left) < _centre(mask, right)
    ]


def exchanged(mask: np.ndarray) -> bool:
    """Whether more than half of the visible pairs are swapped."""
    return 2 * len(contradicting(mask)) > len(_visible(mask))


def repaired(mask: np.ndarray) -> np.ndarray:
    """The mask, with left and right ids swapped back if `exchanged`.

    All ids are swapped, since the side of a single ear or brow is then wrong too.
    """
    return SWAP[mask] if exchanged(mask) else mask


def _visible(mask: np.ndarray) -> list[tuple[int, int]]:
    """Pairs (left, right) of ids both of which occur."""
    present = np.bincount(mask.ravel(), minlength=len(CLASSES)) > 0
    return [(left, right) for left, right in PAIRS if present[left] and present[right]]


def _centre(mask: np.ndarray, i: int) -> float:
    """Mean x of an id, in pixels."""
    columns = (mask == i).sum(0)
    return (columns * np.arange(mask.shape[1])).sum() / columns.sum()
