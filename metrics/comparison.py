"""How sure a mean is, and a difference: Student's t intervals and the sign test.

Student (W. S. Gosset), The Probable Error of a Mean, Biometrika 1908; Dixon and Mood, The
Statistical Sign Test, JASA 1946.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

LEVEL = 0.95  # of an interval


class Signs(NamedTuple):
    """How often one of two methods was ahead."""

    wins: int  # positive differences
    losses: int
    ties: int
    # Two-sided: how probable so unequal a split is, or a more unequal one, if either is as likely
    # to win. NaN without any image in which they differ.
    p: float


def interval(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """(mean, half of the 95 % interval of the mean by Student's t) of independent values.

    The half is NaN for less than two values, and where one of them is no finite number; the mean
    is NaN without any, and with one that is NaN.
    """
    given = np.asarray(values, np.float64)
    if not len(given):
        return math.nan, math.nan
    # Infinities of both signs have no mean.
    with np.errstate(invalid='ignore'):
        mean = float(given.mean())
    if len(given) < 2 or not math.isfinite(mean):
        return mean, math.nan
    half = quantile(len(given) - 1) * given.std(ddof=1) / math.sqrt(len(given))
    return mean, float(half)


def sign_test(differences: Sequence[float] | np.ndarray) -> Signs:
    """Count the signs of paired differences, and test whether both are as frequent.

    The p value is the exact binomial one; ties have no part in it, and what is NaN has none in
    anything.
    """
    given = np.asarray(differences, np.float64)
    wins, losses = int((given > 0).sum()), int((given < 0).sum())
    return Signs(wins, losses, int((given == 0).sum()), _two_sided(wins, losses))


def _two_sided(wins: int, losses: int) -> float:
    """Probability of a split as unequal as this one, from a fair coin."""
    count = wins + losses
    if not count:
        return math.nan
    # Whole numbers of any length: exact, also where floats would underflow on the way.
    ways = term = 1
    for i in range(min(wins, losses)):
        term = term * (count - i) // (i + 1)
        ways += term
    # Both tails; of an even split they overlap in the middle.
    return min(1.0, 2 * ways / 2**count)


@functools.cache
def quantile(degrees: int) -> float:
    """The t that a Student variable of so many degrees of freedom, 1 or more, exceeds in size with
    a probability of 5 %. Raises ValueError for fewer.
    """
    if degrees < 1:
        raise ValueError(f"Student's t of {degrees} degrees of freedom: 1 or more are needed")
    # Halving a bracket 60 times leaves the precision of a float.
    low, high = 0.0, 16.0  # it is 12.7 for one degree, and less for more
    for _ in range(60):
        middle = (low + high) / 2
        if _within(middle, degrees) < LEVEL:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _within(t: float, degrees: int) -> float:
    """P(|T| < t), by the finite sums of Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    angle = math.atan2(t, math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    # Odd degrees: 1 + 2/3 c^2 + 2 4/(3 5) c^4 ...; even ones: 1 + 1/2 c^2 + 1 3/(2 4) c^4 ...
    odd = degrees % 2
    steps = np.arange(1 + odd, degrees - 2, 2)
    terms = np.cumprod(cosine**2 * steps / (steps + 1))
    total = 1 + float(terms.sum())
    if not odd:
        return sine * total
    # One degree has the angle alone.
    rest = sine * cosine * total if degrees > 1 else 0.0
    return 2 / math.pi * (angle + rest)
