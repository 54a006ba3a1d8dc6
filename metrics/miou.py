"""Segmentation scores of a whole data set, from one confusion matrix that includes the background.

They are counted as by the CelebAMask-HQ challenge (AI6126, project 1).
"""

from typing import NamedTuple

import torch
from torch import Tensor


class SegmentationScores(NamedTuple):
    """Scores in percent. A class is present if it is in any target or any prediction."""

    miou: float  # mean over the classes present
    f1: float  # the same mean of 2 I / (|p| + |g|)
    accuracy: float  # share of all pixels
    iou: list[float]  # [C] per class, NaN of an absent one
    # Ids of the absent classes. The handout's mean would be NaN; here it leaves them out.
    absent: list[int]


class Confusion:
    """Pixels by (true class, predicted class), counted on the device.

    The `counts` of several processes add up. No class is ignored: the mean is over all of them,
    including the background, and over the data set, not over pictures.
    """

    def __init__(self, classes: int = 19, device: torch.device | str = 'cpu') -> None:
        self.classes = classes
        # [target, output]
        self.counts = torch.zeros(classes, classes, dtype=torch.int64, device=device)

    def update(self, output: Tensor, target: Tensor) -> None:
        """Count a batch: predicted and true ids, two integer tensors of one shape.

        Raises ValueError for other shapes or types, and for ids that are no class.
        """
        if output.shape != target.shape or output.is_floating_point() or target.is_floating_point():
            raise ValueError(
                f'confusion of {tuple(output.shape)} {output.dtype} and {tuple(target.shape)} '
                f'{target.dtype}: two tensors of ids, of one shape, are needed'
            )
        predicted = self._ids('output', output)
        true = self._ids('target', target)
        pairs = true * self.classes + predicted
        self.counts += torch.bincount(pairs, minlength=self.classes**2).view_as(self.counts)

    def _ids(self, name: str, ids: Tensor) -> Tensor:
        ids = ids.to(self.counts.device, torch.int64).flatten()
        if len(ids) and not 0 <= ids.min() <= ids.max() < self.classes:
            raise ValueError(
                f'confusion: ids {ids.min().item()} to {ids.max().item()} in the {name}, '
                f'but classes are 0 to {self.classes - 1}'
            )
        return ids

    def compute(self) -> SegmentationScores:
        """Return the scores of all that was counted; ValueError if nothing was."""
        if not self.counts.any():
            raise ValueError('confusion: no pixels were counted')
        counts = self.counts.cpu().double()
        both = counts.diag()
        sizes = counts.sum(0) + counts.sum(1)
        # 0 / 0 is NaN, which the means leave out.
        iou = 100 * both / (sizes - both)
        f1 = 100 * 2 * both / sizes
        return SegmentationScores(
            miou=iou.nanmean().item(),
            f1=f1.nanmean().item(),
            accuracy=100 * (both.sum() / counts.sum()).item(),
            iou=iou.tolist(),
            absent=torch.where(sizes == 0)[0].tolist(),
        )
