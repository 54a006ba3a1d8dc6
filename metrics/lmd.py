"""LMD: how far the landmarks of a restored face are from those of the true one.

The mean distance in pixels of faces of 512 x 512, as in the tables of GFPGAN's heirs. Which points
these are makes the figure: the 68 of a detector in a file (`given`), or those of a landmark network
(tasks.face_landmarks). Figures of different points are not comparable.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from faces import landmarks
from sources.manifest import Image
from storage import FilePath

SIDE = 512  # pixels of the faces that distances refer to


def lmd(output: Tensor, target: Tensor, width: int) -> Tensor:
    """Points [B, K, 2] in pixels of pictures of `width` -> [B] float64 pixels of SIDE, 0 for equal.

    The mean over the points of each face. ValueError for other shapes, or no points.
    """
    shape = tuple(output.shape)
    if shape != tuple(target.shape) or output.ndim != 3 or shape[2] != 2 or not shape[1]:
        raise ValueError(
            f'lmd of {shape} and {tuple(target.shape)}: points [B, K, 2] of one shape are needed'
        )
    apart = (output.double() - target.double()).norm(dim=2)
    return apart.mean(1) * (SIDE / width)


def given(path: FilePath, images: Sequence[Image]) -> Tensor:
    """Points [N, 68, 2] float64 of pictures from a file, in pixels of SIDE: for a width of SIDE.

    path: a JSON file in the form of train.py --landmarks, {name: [[x, y], ... 68 of them]} in
        pixels of the picture of that name

    Raises DataError for another file, and for pictures without an entry.
    """
    return torch.from_numpy(landmarks.of(landmarks.read(path), images, SIDE)).double()
