"""What tools/build.py made of photographs of which everything is known, against its goals.

python benchmarks/made_photographs.py FACES --damaged 100 --out heap/
python tools/build.py faces heap/ --out built/ --least-side 40 --least-resolution 64 --least-jpeg 50
python benchmarks/build_accuracy.py heap/truth.json built/

A line for each goal: what was reached, of how many, and whether that is enough; then what else is
worth knowing. Points are compared with those that the detector finds in the aligned faces at full
size, in the middle of several views. Faces that a measure has dropped count neither as copies nor
as single ones; hence thresholds at which nearly all good faces of the heap pass. The exit status is
1 where a goal is missed.
"""

import program

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.photographs import score, truth
from benchmarks.photographs.score import Seen, Share
from benchmarks.photographs.truth import Truth
from errors import DataError, RunError
from storage import shown
from tools import arguments
from tools.building import accounts, destination
from tools.building.accounts import Account

KIND = 'faces'


class Goal(NamedTuple):
    """Something that is to be reached."""

    what: str
    value: float  # a share, NaN where there is nothing to count
    goal: float
    most: bool  # the goal is the most, not the least
    told: str  # of how many

    @property
    def reached(self) -> bool:
        """Whether it is; of nothing, everything is."""
        return not (self.value > self.goal if self.most else self.value < self.goal)


def goals(made: Truth, found: Seen) -> list[Goal]:
    """Compare what was found with all goals."""
    large = score.large(found.pairs)
    off = score.errors(large)
    return [
        _share(f'faces of {score.LARGE:.0f} pixels found', score.recall(large), 0.98),
        Goal(
            "error of points, in parts of the eyes' distance, median",
            float(np.median(off)) if len(off) else np.nan,
            score.NEAR,
            True,
            f'{len(off):,}',
        ),
        _share('copies dropped', score.copies(found.pairs), 0.95),
        _share('single faces dropped as copies', score.singles(found.pairs), 0.01, most=True),
        _share('bad faces dropped for the right reason', _right(found), 0.90),
        _share('damaged files named', score.named(made.damaged, found.bad), 1.0),
    ]


def _right(found: Seen) -> Share:
    return score.right(score.reasons(found.pairs))


def _share(what: str, share: Share, goal: float, most: bool = False) -> Goal:
    part, whole = share
    return Goal(what, part / whole if whole else np.nan, goal, most, f'{part:,} of {whole:,}')


def details(made: Truth, found: Seen) -> list[str]:
    """Say what else is worth knowing."""
    off = score.errors(score.large(found.pairs))
    lines = []
    # Of no faces there is no quantile.
    if len(off):
        lines.append(
            f"points: 95 % within {np.quantile(off, 0.95):.1%} of the eyes' distance, "
            f'{np.mean(off <= score.NEAR):.1%} within {score.NEAR:.0%}'
        )
    lines.append(f'{len(found.strangers):,} found where no face is')
    for reason, fates in sorted(score.reasons(found.pairs).items()):
        told = ', '.join(f'{fate} {n:,}' for fate, n in fates.most_common())
        lines.append(f'to be dropped by {reason}: {told}')
    dropped = score.good_dropped(found.pairs)
    told = ', '.join(f'{n:,} by {name}' for name, n in dropped.most_common())
    lines.append(f'good faces of {score.LARGE:.0f} pixels dropped: {told or "none"}')
    missing = [file for file in made.damaged if file.bad and file.name not in found.bad]
    slandered = score.slandered(made, found.bad)
    lines += [f'not named: {shown(file.name)} ({file.what})' for file in missing]
    lines += [f'named, but fine: {shown(name)} ({found.bad[name]})' for name in slandered]
    return lines


def table(rows: Sequence[Goal]) -> str:
    """A line for each goal."""
    width = max(len(row.what) for row in rows)
    return '\n'.join(
        f'{row.what:{width}}  {row.value:7.2%}  {row.told:>16}  '
        f'{"at most" if row.most else "at least"} {row.goal:4.0%}  '
        f'{"reached" if row.reached else "MISSED"}'
        for row in rows
    )


def read(dest: str) -> Iterator[Account]:
    """Read the accounts of all shards that are there. Raises RunError."""
    place = destination.make(dest)
    pattern = re.compile(rf'{KIND}-(\d+)\.json')
    numbers = [int(m[1]) for name in place.sizes() if (m := pattern.fullmatch(name))]
    if not numbers:
        raise RunError(f'{shown(dest)}: no account of a shard ({KIND}-000000.json) is there')
    # Some shards of a set may be missing: what is there is judged.
    for number in sorted(numbers):
        yield accounts.read(place, KIND, number)


def parser() -> argparse.ArgumentParser:
    """Flags."""
    p = arguments.described(__doc__)
    p.add_argument('truth', help='truth.json of made_photographs.py')
    p.add_argument('dest', metavar='DEST', help='what tools/build.py faces has written')
    return p


@program.entry
def main(argv: Sequence[str] | None = None) -> int:
    """Print the scores -> exit status: 1 where a goal is missed."""
    args = parser().parse_args(argv)
    try:
        made = truth.read(args.truth)
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f'{shown(args.truth)}: there is no such file; give truth.json') from None
    found = score.seen(made, read(args.dest))
    rows = goals(made, found)
    print(table(rows))
    print('\n'.join(details(made, found)))
    return 0 if all(row.reached for row in rows) else 1


if __name__ == '__main__':
    sys.exit(main())
