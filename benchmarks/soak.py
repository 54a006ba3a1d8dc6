"""Endurance: 50,000 steps whose memory must not grow, and runs that are killed again and again.

python benchmarks/soak.py --json soak.json
python benchmarks/soak.py --steps 0 --kills 100 --lost-ranks 20 --json kills.json

The smallest network trains on drawn faces of 64 pixels, with validation and checkpoints:
  steps  through each pipe; memory, threads, open files and shared memory are sampled, and the last
         fifth of the run is compared with the second
  kills  kill -9 at random moments from the start on, and the same command again until it ends: its
         weights have to be those of a run that was left alone, to the bit
  ranks  the same under torchrun with two processes, one of which is killed

Exits with 1 if anything grew or differed. --json also draws a picture next to it.
"""

import program

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

import dali_pipes
from benchmarks import soak_run, soak_watch
from benchmarks.soak_run import Outcome
from benchmarks.soak_watch import Growth, Sample
from errors import FacesError
from tools import arguments, timing
from training import outputs

UNITS = {
    'memory': 'memory, MB',
    'threads': 'threads',
    'files': 'open files',
    'shared': '/dev/shm, MB',
}
TICKS = 50  # validations and checkpoints of a long run
KILLED_STEPS = 1500  # of a run that is killed


def long_run(data: Path, folder: Path, pipe: str, steps: int, every: float) -> list[Sample]:
    """Train through a pipe and look at it every so many seconds."""
    out = folder / f'long-{pipe}'
    command = soak_run.arguments(data, out, steps, pipe=pipe, ticks=TICKS, keep=1)
    terminal = out.with_suffix('.txt')
    with soak_run.started(command, terminal) as process:
        samples = soak_watch.watch(process, every)
        soak_run.succeeded(process, terminal)
    if len(samples) < soak_watch.FEWEST:
        raise FacesError(
            f'--steps {steps} were over after {len(samples)} samples, too few to tell anything: '
            'give more steps, or a smaller --every'
        )
    return samples


def print_growth(pipe: str, steps: int, samples: Sequence[Sample], found: list[Growth]) -> None:
    """Print what a long run held, early and late."""
    print(
        f'\n{pipe} pipe, {steps:,} steps, {len(samples)} samples\n'
        f'{"":14} {"second fifth":>12} {"last fifth":>11} {"most":>9}'
    )
    for g in found:
        verdict = '' if g.flat else '   grows'
        print(f'{UNITS[g.name]:14} {g.early:12.1f} {g.late:11.1f} {g.most:9.1f}{verdict}')


def print_outcome(title: str, outcome: Outcome) -> None:
    """Print what came of runs that were killed."""
    moments = ', '.join(f'{count} {moment}' for moment, count in sorted(outcome.moments.items()))
    print(
        f'\n{title}: {outcome.kills} kills ({moments}); {outcome.runs} runs came to their end, '
        f'{outcome.different} of them with other weights than the run that was left alone; '
        f'{outcome.orphans} processes left behind'
    )


def plot(path: Path, runs: Mapping[str, Sequence[Sample]]) -> None:
    """Draw every quantity over time, a line for each pipe."""
    figure = Figure(figsize=(10, 6), dpi=110, layout='constrained')
    for axes, name in zip(figure.subplots(2, 2).flat, UNITS, strict=True):
        for pipe, samples in runs.items():
            minutes = [s.seconds / 60 for s in samples]
            axes.plot(minutes, [getattr(s, name) for s in samples], label=pipe)
        axes.set_title(UNITS[name])
        axes.set_xlabel('minutes')
        axes.set_ylim(bottom=0)
    axes.legend(title='pipe')
    figure.savefig(path)


def parser() -> argparse.ArgumentParser:
    """Flags of soak.py."""
    p = arguments.described(__doc__)
    pipes = [p for p in dali_pipes.PIPES if p == 'torch' or timing.installed('nvidia.dali')]
    p.add_argument(
        '--pipes',
        type=arguments.names,
        default=pipes,
        help=f'comma-separated (default: {",".join(pipes)})',
    )
    for flag, default, what in (
        ('--steps', 50_000, 'steps of the long run through each pipe'),
        ('--kills', 100, 'kills of one process, shared by the pipes'),
        ('--lost-ranks', 20, 'kills of one of two processes'),
    ):
        p.add_argument(
            flag,
            type=program.ranges.NUMBER,
            default=default,
            help=f'{what}, 0 for none (default: {default:,})',
        )
    p.add_argument(
        '--every',
        type=program.Number(0, 3600, above=True),
        default=2.0,
        help='seconds between samples (default: %(default)s)',
    )
    p.add_argument(
        '--seed',
        type=program.ranges.SEED,
        default=0,
        help='of the moments of the kills (default: %(default)s)',
    )
    p.add_argument('--json', type=Path, help='also write what was found to this file, and a plot')
    return p


@program.entry
def main(argv: Sequence[str] | None = None) -> int:
    """Run what is asked for -> exit status."""
    args = parser().parse_args(argv)
    outputs.check({'--json': args.json}, {})
    print(timing.header())
    runs: dict[str, list[Sample]] = {}
    grown: dict[str, list[Growth]] = {}
    outcomes: dict[str, Outcome] = {}
    # Everything is written where it can be thrown away, but for --json.
    with tempfile.TemporaryDirectory(prefix='soak-') as temporary:
        folder = Path(temporary)
        data = soak_run.faces(folder / 'faces')
        # What is found is told and written at once: all of it takes hours.
        for pipe in args.pipes if args.steps else ():
            runs[pipe] = long_run(data, folder, pipe, args.steps, args.every)
            grown[pipe] = soak_watch.growth(runs[pipe])
            print_growth(pipe, args.steps, runs[pipe], grown[pipe])
            _write(args, runs, grown, outcomes)
        for title, kill in _kills(data, folder, args):
            outcomes[title] = kill()
            print_outcome(title, outcomes[title])
            _write(args, runs, grown, outcomes)
    flat = all(g.flat for found in grown.values() for g in found)
    return 0 if flat and not any(o.different or o.orphans for o in outcomes.values()) else 1


def _kills(
    data: Path, folder: Path, args: argparse.Namespace
) -> Iterator[tuple[str, Callable[[], Outcome]]]:
    """Yield (title, what kills processes or ranks as often as is asked for)."""
    # Each pipe gets its share of the kills.
    for i, pipe in enumerate(args.pipes):
        count = (args.kills + i) // len(args.pipes)
        if count:
            where = _made(folder / f'kills-{pipe}')
            how = data, where, pipe, KILLED_STEPS, count, args.seed
            yield f'kill -9, {pipe} pipe', partial(soak_run.killed, *how)
    if args.lost_ranks:
        last = data, _made(folder / 'ranks'), KILLED_STEPS, args.lost_ranks, args.seed
        yield 'torchrun, a rank lost', partial(soak_run.lost_ranks, *last)


def _made(folder: Path) -> Path:
    """A new folder."""
    folder.mkdir()
    return folder


def _write(
    args: argparse.Namespace,
    runs: Mapping[str, Sequence[Sample]],
    grown: Mapping[str, list[Growth]],
    outcomes: Mapping[str, Outcome],
) -> None:
    """Write --json, if it is given, and the picture next to it."""
    if not args.json:
        return
    figures: dict[str, Any] = {
        'steps': args.steps,
        'growth': {pipe: [g._asdict() for g in found] for pipe, found in grown.items()},
        'kills': {title: outcome._asdict() for title, outcome in outcomes.items()},
    }
    timing.write(args.json, **figures)
    if runs:
        plot(args.json.with_suffix('.png'), runs)


if __name__ == '__main__':
    sys.exit(main())
