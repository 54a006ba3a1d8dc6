"""Masks whose left and right ids are exchanged: about 1 in 15 of CelebAMask-HQ, always in eyes, brows and ears at once.

The person's left is on the right of the picture: the centroid of a left eye, brow or ear must lie right of that of its partner. One mask has up to three such
pairs, and they vote; a face of which no pair is visible is taken as it is.
"""

import numpy as np

from . import CLASSES, PAIRS, SWAP


def contradicting(mask):
    """[H, W] ids -> names of the pairs, both in the mask, that lie the wrong way round; of all of them: ['eye', 'brow', 'ear']."""
    return [
        CLASSES[left][2:]
        for left, right in _visible(mask)
        if _centre(mask, left) < _centre(mask, right)
    ]


def exchanged(mask):
    """Whether more pairs lie the wrong way round than the right way."""
    return 2 * len(contradicting(mask)) > len(_visible(mask))


def repaired(mask):
    """The mask with its left and right ids exchanged if they were `exchanged`; all of them: the sides of a single ear or brow are wrong too."""
    return SWAP[mask] if exchanged(mask) else mask


def _visible(mask):
    there = np.bincount(mask.ravel(), minlength=len(CLASSES)) > 0
    return [(left, right) for left, right in PAIRS if there[left] and there[right]]


def _centre(mask, i):
    """Mean x of an id, in pixels."""
    columns = (mask == i).sum(0)
    return (columns * np.arange(mask.shape[1])).sum() / columns.sum()
