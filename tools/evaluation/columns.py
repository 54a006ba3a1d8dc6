"""Columns of the table, and the judges that fill them."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from torch import Tensor

from .folders import Batch


class Column(NamedTuple):
    """One of the table."""

    title: str  # what it is, and its unit
    better: str  # 'higher', 'lower', or a number that is right
    digits: int

    @property
    def heading(self) -> str:
        """Title, and which way is better."""
        return f'{self.title} ({self.better})'

    def goodness(self, values: np.ndarray) -> np.ndarray:
        """Figures so turned that more is better."""
        if self.better in ('higher', 'lower'):
            return values if self.better == 'higher' else -values
        return -np.abs(values - float(self.better))


class Judge(NamedTuple):
    """Fills some columns."""

    columns: Mapping[str, Column]
    each: Callable[[Batch], dict[str, Tensor]]  # one number per image, [B] float64
    # Figures of all images since it was last asked, from the means of the judges before.
    whole: Callable[[Mapping[str, float]], dict[str, float]] = lambda means: {}
    note: str = ''  # for below the table
    least: int = 1  # pixels of a side
    square: bool = False  # other images have no figure
