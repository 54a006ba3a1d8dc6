"""Figures of every image of a folder, their means, and the comparison of two methods."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from metrics.comparison import interval, sign_test
from storage import shown

from . import folders
from .columns import Column, Judge
from .folders import Found, Images

Columns = Mapping[str, Column]


# ------------------------------------------------------------------------------------------------
# Figures of one method.


class Evaluation(NamedTuple):
    """Of one method."""

    each: dict[str, list[float]]  # {column: one number per image}; NaN where there is none
    means: dict[str, float]  # without images that have no such number
    # Halves of the 95 % intervals of those means that are of images; NaN for less than two.
    halves: dict[str, float]


def columns_of(judges: Sequence[Judge]) -> dict[str, Column]:
    """All that the judges can fill, in the order of the table."""
    return {key: column for judge in judges for key, column in judge.columns.items()}


def check_shapes(images: Images, judges: Sequence[Judge]) -> None:
    """Raise DataError for an image that is too small for one of the judges, or no square."""
    for judge in judges:
        title = ', '.join(column.title for column in judge.columns.values())
        folders.check_shapes(images, title, judge.least, judge.square)


@torch.no_grad()
def evaluate(
    method: str,
    found: Found,
    judges: Sequence[Judge],
    *,
    batch: int,
    device: str,
) -> Evaluation:
    """Score the images of a method. Raises DataError for a file that cannot be read."""
    # One dictionary for each image, in the order of the names.
    rows: list[dict[str, float]] = []
    parts = folders.batches(
        found.restored[method],
        found.truth,
        batch=batch,
        device=device,
        title=f'evaluating {shown(method)}',
        method=method,
    )
    for part in parts:
        # Numbers leave the device once for a batch and column.
        row: dict[str, list[float]] = {}
        for judge in judges:
            row |= {key: values.tolist() for key, values in judge.each(part).items()}
        rows += [{key: row[key][i] for key in row} for i in range(len(part.names))]

    # A column stands where every image has it.
    columns = columns_of(judges)
    each = {key: [row[key] for row in rows] for key in columns if all(key in row for row in rows)}
    summaries = {key: interval(present(values)) for key, values in each.items()}
    means = {key: mean for key, (mean, _) in summaries.items()}
    # Figures of the whole folder come last: some are made of these means.
    for judge in judges:
        means |= judge.whole(means)
    return Evaluation(each, means, {key: half for key, (_, half) in summaries.items()})


def present(values: Sequence[float]) -> list[float]:
    """Those that are numbers."""
    return [value for value in values if not math.isnan(value)]


# ------------------------------------------------------------------------------------------------
# Two methods.


class Difference(NamedTuple):
    """A method beside another one, in one column, over the images that have a number in both."""

    method: str
    column: str
    images: int
    mean: float  # of the differences: method - reference
    half: float  # of its 95 % interval
    wins: int  # images in which the method is better
    losses: int
    ties: int
    p: float  # of the two-sided sign test


def differences(
    done: Mapping[str, Evaluation], columns: Columns, reference: str
) -> list[Difference]:
    """Every method but the reference beside it, column by column."""
    theirs = done[reference].each
    return [
        _difference(method, key, column, evaluation.each[key], theirs[key])
        for method, evaluation in done.items()
        if method != reference
        for key, column in columns.items()
        if key in evaluation.each and key in theirs
    ]


def _difference(
    method: str, key: str, column: Column, ours: list[float], theirs: list[float]
) -> Difference:
    a, b = np.array(ours), np.array(theirs)
    # What one of the two has no number for says nothing about their difference.
    both = ~(np.isnan(a) | np.isnan(b))
    raw = apart(a[both], b[both])
    mean, half = interval(raw)
    # The mean keeps the column's own sign; wins are counted by what is better in it.
    signs = sign_test(apart(column.goodness(a[both]), column.goodness(b[both])))
    return Difference(method, key, int(both.sum()), mean, half, *signs)


def apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a - b, 0 where both are equal, be they infinite: the PSNR of two perfect copies."""
    with np.errstate(invalid='ignore'):
        return np.where(a == b, 0.0, a - b)
