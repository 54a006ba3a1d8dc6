"""What a batch on a GPU costs the host: microseconds of one core for each image.

python benchmarks/host_cost.py
python benchmarks/host_cost.py --recipe ai6126_2022 --json host.json

The parts are those of a pipe: planning and the kernels' records, many batches in one pass; packing
what is sent; and the chain's own code. Launches are left out, and with them what CuPy and the
driver take; canvases have no memory. No GPU is needed, but a core that does nothing else.
"""

import program

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import degrade
from benchmarks import launches
from dali_pipes import ahead
from dali_pipes.batch import rows_of
from dali_pipes.plan import Plan, Step
from degrade import kernels
from errors import FacesError
from tools import arguments, timing
from training import outputs

BATCHES = 8, 16, 64, 256
IMAGES = 70_000  # in the imagined data set
SIDE = 512
GOALS = {16: 60, 64: 25, 256: 10}  # microseconds an image, with the default recipe
NOWHERE = torch.device('meta')  # tensors there have sizes and no memory
PARTS = 'plan', 'records', 'upload', 'chain'


# ---- the parts ----


class Case(NamedTuple):
    """A batch size, and what the parts work on."""

    plan: Plan
    batches: list[np.ndarray]  # sample numbers of a pass
    whole: Step  # the pass in one
    steps: list[Step]  # and cut into batches
    images: torch.Tensor  # [B, 3, SIDE, SIDE] uint8 without memory


def case_of(recipe: degrade.Recipe, batch: int) -> Case:
    """Plan a pass as a pipe does."""
    plan = Plan(IMAGES, recipe, batch=batch, size=SIDE)
    count = max(ahead.TOGETHER, ahead.SAMPLES // batch)
    batches = list(np.arange(count * batch).reshape(count, batch))
    images = torch.empty((batch, SIDE, SIDE, 3), dtype=torch.uint8, device=NOWHERE)
    whole = plan(np.concatenate(batches))
    steps = ahead.planned(plan, batches, records=True)
    return Case(plan, batches, whole, steps, images.permute(0, 3, 1, 2))


def parts_of(case: Case) -> dict[str, Callable[[], object]]:
    """Each part by name, as a function that does it for all batches of a pass."""
    there = [_nowhere(step) for step in case.steps]

    def plan() -> None:
        ahead.planned(case.plan, case.batches)

    def upload() -> None:
        for step in case.steps:
            _sent(step)

    def chain() -> None:
        for step, records in zip(case.steps, there, strict=True):
            _chain(case, step, records)

    return {
        'plan': plan,
        'records': lambda: case.plan.records(case.whole),
        'upload': upload,
        'chain': chain,
    }


def _sent(step: Step) -> list[torch.Tensor]:
    """Everything small about a batch whose images come from a cache, in one piece."""
    rows = rows_of(np.arange(0), len(step.index))
    return kernels.upload([step.flip, step.index, rows, *step.records], torch.device('cpu'))


def _nowhere(step: Step) -> list[torch.Tensor]:
    return [torch.empty(r.nbytes, dtype=torch.uint8, device=NOWHERE) for r in step.records]


def _chain(case: Case, step: Step, records: list[torch.Tensor]) -> torch.Tensor:
    return degrade.degrade(case.images, case.plan.recipe, step.params, 'cuda', there=records)


def check(case: Case, names: list[str]) -> None:
    """Refuse to time what is wrong. names: of launches, as they are left out. Raises FacesError."""
    for step, samples in list(zip(case.steps, case.batches, strict=True))[:: len(case.steps) - 1]:
        alone = case.plan(samples)
        records = case.plan.records(alone)
        sent = _sent(step)[-len(records) :]
        if any(a.numpy().tobytes() != b.tobytes() for a, b in zip(sent, records, strict=True)):
            raise FacesError('a batch planned with others is not as planned alone: not timed')

        # Every kernel of the chain is launched, and the result has the input's size.
        names.clear()
        side = SIDE // case.plan.scale
        out = _chain(case, step, _nowhere(step))
        if out.shape != (len(samples), 3, side, side) or not names:
            raise FacesError(f'the chain made {tuple(out.shape)} by {len(names)} launches')


# ---- time ----


def measure(case: Case, rounds: int) -> dict[str, list[float]]:
    """Microseconds an image of each part in each round, by the clock of this thread."""
    images = len(case.whole.sample)
    parts = parts_of(case)
    for run in parts.values():
        run()

    # In turn, so that a slow moment of the machine hits all of them.
    took: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(rounds):
        for name, run in parts.items():
            start = time.thread_time()
            run()
            took[name].append(1e6 * (time.thread_time() - start) / images)
    return took


def row_of(batch: int, took: dict[str, list[float]], launched: int) -> dict[str, Any]:
    """Medians of the parts and of their sum."""
    sums = [sum(values) for values in zip(*took.values(), strict=True)]
    medians = {name: timing.median(values) for name, values in took.items()}
    return {
        'batch': batch,
        **medians,
        'sum': timing.median(sums),
        'spread': timing.spread(sums),
        'launches': launched,
    }


# ---- the program ----


def parser() -> argparse.ArgumentParser:
    """Flags of host_cost.py."""
    p = arguments.described(__doc__)
    p.add_argument(
        '--recipe',
        type=arguments.recipe,
        default='ai6126_2024',
        help='degradation of the inputs (default: %(default)s)',
    )
    p.add_argument(
        '--rounds',
        type=program.ranges.ROUNDS,
        default=9,
        help='medians are reported (default: %(default)s)',
    )
    p.add_argument('--json', type=Path, help='also write the figures to this file')
    return p


def line(row: dict[str, Any], goal: int | None) -> str:
    """A row of the table."""
    parts = ' '.join(f'{row[name]:8.1f}' for name in PARTS)
    text = f'{row["batch"]:5} {parts} {row["sum"]:8.1f} {row["spread"]:6.1f}%'
    if goal:
        text += f'  goal {goal:3}, {"reached" if row["sum"] <= goal else "missed"}'
    return text


@program.entry
def main(argv: Sequence[str] | None = None) -> int:
    """Check and time every batch size -> exit status."""
    args = parser().parse_args(argv)
    outputs.check({'--json': args.json}, {})
    torch.set_num_threads(1)
    print(timing.header())
    recipe = degrade.recipe(args.recipe)
    print(
        f'\n{recipe.name}, {SIDE} px: microseconds of one core for an image, launches left out\n'
        f'{"batch":>5} {" ".join(f"{name:>8}" for name in PARTS)} {"sum":>8} {"spread":>7}'
    )

    rows = []
    for batch in BATCHES:
        case = case_of(recipe, batch)
        with launches.left_out() as names:
            check(case, names)
            launched = len(names)  # by one batch
            rows.append(row_of(batch, measure(case, args.rounds), launched))
        goal = GOALS.get(batch) if args.recipe == 'ai6126_2024' else None
        print(line(rows[-1], goal))
    if args.json:
        timing.write(args.json, recipe=args.recipe, rows=rows)
    return 0


if __name__ == '__main__':
    sys.exit(main())
