"""Whether a fit finds what is known: of estimators, and of recipes that it is not told.

python benchmarks/fit_recovery.py --hidden 3

First the rank correlation of every estimator with what was drawn, on faces of which blur, noise and
JPEG vary at once. Then recipes with ranges of their own are drawn, pictures made by them, and the
ranges fitted to these pictures: the table has, for each end of a range, how far the fit is off, as
a share of the range's width.
"""

import program

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import degrade
import synthetic
from degrade import Recipe, workers
from tools import arguments, timing
from tools.fitting import search
from tools.fitting.estimators import NAMES
from training import outputs

FACES, SIDE = 24, 512  # drawn faces
# What varies while the estimators are judged, and nothing else.
VARIED: dict[str, dict[str, Any]] = {
    'blur': {'sigma': (0.5, 10.0)},
    'noise': {'amount': (0.0, 15.0), 'size': (0.3, 0.3)},
    'jpeg': {'quality': (40, 95)},
}
JUDGED = {'blur': 'blur', 'noise': 'noise', 'jpeg': 'quality'}  # stage: estimator
ALLOWED = 0.15  # of a range's width


def with_ranges(recipe: Recipe, ranges: dict[str, dict[str, Any]]) -> Recipe:
    """Return a recipe with other ranges in some stages."""
    stages = tuple(s._replace(ranges=s.ranges | ranges.get(s.name, {})) for s in recipe.stages)
    return recipe._replace(stages=stages)


def hidden(seed: int) -> dict[str, dict[str, Any]]:
    """Ranges that a fit is not told, by stage."""
    rng = np.random.default_rng(seed)

    def pair(low: tuple[float, float], width: tuple[float, float]) -> tuple[float, float]:
        start = float(rng.uniform(*low))
        return round(start, 2), round(start + float(rng.uniform(*width)), 2)

    # Pixels of the HQ image, grey levels, and libjpeg's quality.
    blur, noise, quality = pair((0.5, 4), (2, 5)), pair((0, 12), (5, 18)), pair((30, 70), (10, 26))
    return {
        'blur': {'sigma': blur},
        'noise': {'amount': noise},
        'jpeg': {'quality': (round(quality[0]), round(quality[1]))},
    }


def correlations(faces: search.Faces, count: int) -> dict[str, float]:
    """Rank correlations of the estimators of JUDGED with what was drawn; printed, too."""
    recipe = degrade.recipe('simple')
    kept = tuple(
        s
        for s in recipe.stages
        if s.name not in ('speckle', 'chroma', 'sharpen', 'shift', 'jitter')
    )
    recipe = with_ranges(recipe._replace(stages=kept), VARIED)
    params, values, _ = search.simulated(recipe, faces, 0, count)
    of = dict(zip((stage.name for stage in recipe.stages), params, strict=True))
    quality = of['jpeg'].quality
    truth = {
        'blur': np.sqrt(of['blur'].sigma_x * of['blur'].sigma_y),
        'noise': of['noise'].amount,
        'jpeg': np.where(quality > 0, quality, 100),
    }
    found = {
        name: _rank_correlation(values[:, NAMES.index(estimator)], truth[name])
        for name, estimator in JUDGED.items()
    }
    print(
        f'rank correlation over {count} pictures: '
        + ', '.join(f'{name} {value:.3f}' for name, value in found.items())
    )
    return found


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's; equal values share their mean rank."""
    return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])


def _ranks(a: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(a, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[inverse]


def recovered(
    seed: int, faces: search.Faces, pictures: int, count: int
) -> Iterator[tuple[str, tuple[float, float], tuple[float, float], float]]:
    """Fit to pictures of hidden ranges: (stage and key, hidden, fitted, worst error)."""
    ranges = hidden(seed)
    start = degrade.recipe('simple')
    # Other draws than those that the search makes of the same faces.
    secret = faces._replace(seed=10_000 + seed)
    real = search.simulated(with_ranges(start, ranges), secret, 0, pictures)[1]
    found = {s.name: s for s in search.fitted(start, real, faces, count).stages}
    for name, own in ranges.items():
        for key, wanted in own.items():
            got = found[name].ranges[key]
            error = max(abs(g - w) for g, w in zip(got, wanted, strict=True))
            yield f'{name} {key}', wanted, got, error / (wanted[1] - wanted[0])


def parser() -> argparse.ArgumentParser:
    """Flags of fit_recovery.py."""
    p = arguments.described(__doc__)
    counts: dict[str, tuple[int, str]] = {
        '--hidden': (3, 'recipes to find'),
        '--pictures': (600, 'pictures that each of them is found by'),
        '--count': (3000, 'as of prepare.py fit'),
    }
    for flag, (default, what) in counts.items():
        p.add_argument(
            flag,
            type=program.ranges.COUNT,
            default=default,
            help=f'{what} (default: %(default)s)',
        )
    p.add_argument(
        '--seed', type=program.ranges.SEED, default=1, help='of the first recipe (default: 1)'
    )
    p.add_argument('--json', type=Path, help='also write the figures to this file')
    return p


@program.entry
def main(argv: Sequence[str] | None = None) -> int:
    """Print both tables -> exit status, 1 if a range is not found."""
    args = parser().parse_args(argv)
    outputs.check({'--json': args.json}, {})
    print(timing.header())
    images = [synthetic.face(seed, SIDE).image for seed in range(FACES)]
    worst, rows = 0.0, []
    with workers.make(os.cpu_count() or 1) as pool:
        faces = search.Faces(images, pool, 0)
        ranks = correlations(faces, args.pictures)
        for seed in range(args.seed, args.seed + args.hidden):
            for name, wanted, got, error in recovered(seed, faces, args.pictures, args.count):
                row = f'seed {seed}  {name:14} hidden {wanted}  fitted {got}  off {error:.2f}'
                print(row, flush=True)
                rows.append({'seed': seed, 'range': name, 'off': error})
                worst = max(worst, error)
    print(f'worst end of a range: {worst:.2f} of its width')
    if args.json:
        timing.write(args.json, correlations=ranks, ranges=rows)
    return int(worst > ALLOWED or min(ranks.values()) < 0.9)


if __name__ == '__main__':
    sys.exit(main())
