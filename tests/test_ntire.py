"""NTIRE's total score, by hand."""

import pytest

from errors import MetricError
from metrics import ntire

FIGURES = {'clipiqa': 0.8, 'maniqa': 0.6, 'musiq': 75.0, 'niqe': 4.0, 'qalign': 4.5, 'fid': 40.0}


def test_by_hand():
    # 0.8 + 0.6 + 0.75 + 0.6 + 0.9 + 0.6
    assert ntire.total(FIGURES | {'psnr': 30.0}) == pytest.approx(4.25, abs=1e-12)
    worst = dict.fromkeys(FIGURES, 0.0) | {'niqe': 12.0, 'fid': 130.0}
    assert ntire.total(worst) == 0
    assert ntire.total(dict.fromkeys(FIGURES, 0.0)) == 2


@pytest.mark.parametrize('name', FIGURES)
def test_better_figures_are_more(name):
    better = FIGURES[name] - 1 if name in ('niqe', 'fid') else FIGURES[name] + 0.1
    assert ntire.total(FIGURES | {name: better}) > ntire.total(FIGURES)


def test_what_is_missing_is_named():
    with pytest.raises(MetricError, match='lacks musiq, fid: it is made of clipiqa, maniqa'):
        ntire.total({k: v for k, v in FIGURES.items() if k not in ('musiq', 'fid')})
    with pytest.raises(MetricError, match='niqe is not a number'):
        ntire.total(FIGURES | {'niqe': float('nan')})
