"""Segmentation scores of a whole data set, as the CelebAMask-HQ challenge counts them (AI6126, project 1): one confusion matrix, background included."""

from typing import NamedTuple

import torch


class SegmentationScores(NamedTuple):
    miou: float  # percent, mean over the classes that are in any picture or any guess
    f1: float  # percent, the same mean of 2 I / (|p| + |g|)
    accuracy: float  # percent of all pixels
    iou: list  # [C] percent per class, NaN of a class that is nowhere
    absent: list  # ids of those; the handout's mean would be NaN, here they are left out of it


class Confusion:
    """Pixels by (true class, predicted class), counted on the device; `counts` of several processes add up.

    No class is ignored: the mean is over all of them, background too, and over the data set, not over pictures.
    """

    def __init__(self, classes=19, device='cpu'):
        self.classes = classes
        self.counts = torch.zeros(
            classes, classes, dtype=torch.int64, device=device
        )  # [target, output]

    def update(self, output, target):
        """Count a batch: predicted and true ids, two integer tensors of one shape. Raises ValueError for other shapes and for ids outside."""
        if output.shape != target.shape or output.is_floating_point() or target.is_floating_point():
            raise ValueError(
                f'confusion of {tuple(output.shape)} {output.dtype} and {tuple(target.shape)} {target.dtype}: two tensors of ids, of one shape, are needed'
            )
        output, target = (x.to(self.counts.device, torch.int64).flatten() for x in (output, target))
        for name, ids in (('output', output), ('target', target)):
            if len(ids) and not 0 <= ids.min() <= ids.max() < self.classes:
                raise ValueError(
                    f'confusion: ids {ids.min().item()} to {ids.max().item()} in the {name}, but there are only 0 to {self.classes - 1}'
                )
        self.counts += torch.bincount(
            target * self.classes + output, minlength=self.classes**2
        ).view_as(self.counts)

    def compute(self):
        """-> SegmentationScores of all that was counted. Raises ValueError if that is nothing."""
        if not self.counts.any():
            raise ValueError('confusion: no pixels were counted')
        counts = self.counts.cpu().double()
        both, sizes = counts.diag(), counts.sum(0) + counts.sum(1)
        iou, f1 = 100 * both / (sizes - both), 100 * 2 * both / sizes  # 0 / 0 is NaN
        return SegmentationScores(
            iou.nanmean().item(),
            f1.nanmean().item(),
            100 * (both.sum() / counts.sum()).item(),
            iou.tolist(),
            torch.where(sizes == 0)[0].tolist(),
        )
