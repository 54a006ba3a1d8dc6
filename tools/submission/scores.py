"""PSNR and SSIM of restored files, mIoU and F1 of masks, against ground truth of the same names."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from errors import BadFile, RunError
from faces import masks
from metrics.miou import Confusion, SegmentationScores
from metrics.psnr import psnr
from metrics.ssim import ssim
from sources import files, layouts, listing


def score(paths: Sequence[Path], gt: Path, folder: Path) -> tuple[float, float]:
    """(mean PSNR, mean SSIM) of restored files in a folder against ground truth of their names."""
    rows = []
    for path, truth in _with_truth(paths, gt, folder):
        try:
            a, b = (_decoded(p) for p in (path, truth))
        except (OSError, BadFile) as error:
            raise RunError(f'{path} and its ground truth {truth}: {error}') from error
        if a.shape != b.shape:
            raise RunError(
                f'{path} is {a.shape[3]}x{a.shape[2]}, its ground truth {b.shape[3]}x{b.shape[2]}'
            )
        rows.append((float(psnr(a, b)[0]), float(ssim(a, b)[0])))
    mean_psnr, mean_ssim = np.mean(rows, 0)
    return mean_psnr, mean_ssim


def _decoded(path: Path) -> Tensor:
    """[1, 3, H, W] uint8"""
    data = files.read_bytes(path)
    files.check(data)
    return torch.from_numpy(files.decode(data)).permute(2, 0, 1)[None]


def score_masks(paths: Sequence[Path], gt: Path, folder: Path) -> SegmentationScores:
    """Scores of mask files in a folder against ground truth of the same names."""
    confusion = Confusion(len(masks.CLASSES))
    for path, truth in _with_truth(paths, gt, folder):
        try:
            ids, wanted = (
                torch.from_numpy(masks.decode(files.read_bytes(p))) for p in (path, truth)
            )
            confusion.update(ids, wanted)
        except (OSError, ValueError, BadFile) as error:
            raise RunError(f'{path} and its ground truth {truth}: {error}') from error
    return confusion.compute()


def _with_truth(paths: Sequence[Path], gt: Path, folder: Path) -> Iterator[tuple[Path, Path]]:
    known = [path for _, path in listing.pictures(gt)] if gt.is_dir() else []
    # Ground truth may be called as the sets of other projects have it.
    partner = layouts.partners(dict(zip(listing.names(gt, known), known, strict=True)))
    for path in paths:
        truth = partner(str(path.relative_to(folder).with_suffix('')))
        if truth is None:
            raise RunError(f'--gt {gt} has no picture named {path.stem}')
        yield path, Path(truth)
