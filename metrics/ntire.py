"""The total score of NTIRE's challenge on real-world face restoration (CVPR Workshops 2025).

Five measures that need no truth, and FID against FFHQ; of each set of the challenge by itself. The
challenge also asks that faces keep their identity, which the score does not show.
"""

from collections.abc import Callable, Mapping

from errors import MetricError

# What each figure of a set, a mean over its images, adds to the score; all but the first two are
# brought to 0 to 1 first, and what is worse than their scales allow counts as 0.
TERMS: dict[str, Callable[[float], float]] = {
    'clipiqa': lambda value: value,
    'maniqa': lambda value: value,
    'musiq': lambda value: value / 100,
    'niqe': lambda value: max(0.0, (10 - value) / 10),
    'qalign': lambda value: value / 5,
    'fid': lambda value: max(0.0, (100 - value) / 100),
}


def total(values: Mapping[str, float]) -> float:
    """Total score of a set, 0 to about 6, higher is better; other names than TERMS' are ignored.

    values: {name of TERMS: figure}, NIQE by the published model. Raises MetricError that names the
    figures that are missing, or no numbers.
    """
    missing = [name for name in TERMS if name not in values]
    if missing:
        raise MetricError(
            f'the NTIRE score lacks {", ".join(missing)}: it is made of {", ".join(TERMS)}'
        )
    terms = {name: term(values[name]) for name, term in TERMS.items()}
    # NaN: what was measured of no image.
    wrong = [name for name in terms if values[name] != values[name]]
    if wrong:
        raise MetricError(f'the NTIRE score: {", ".join(wrong)} is not a number in this set')
    return sum(terms.values())
