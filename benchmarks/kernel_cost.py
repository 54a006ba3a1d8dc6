"""What the CUDA kernels cost, by their machine code; no GPU is needed.

    python benchmarks/kernel_cost.py [RECIPE ...]

prints for every stage and kernel of a recipe the warp instructions that an image takes, the memory
it moves, the sectors of 32 bytes that its loads and stores ask for, registers, occupancy, spills,
and the time below which an H200 and an RTX 3060 cannot come. A recipe's name may end in `-usm` for
the recipe without its sharpening. `--json FILE` writes the sums; the committed ones are in
benchmarks/results/kernel_cost.json, and a test fails where that of `ai6126_2024` rises.

A seeded batch of plans goes through the chain as in training. NVRTC compiles every kernel for sm_90
with CuPy's options, and a sample of the blocks of every launch executes that machine code on the
CPU (sass_machine.py): so loops, unrolling, branches and divergence are counted, not guessed. The
pixels are drawn; only the noise's tables and the rare slow paths of divisions depend on them.

The limits: latency, bank conflicts, cache misses and the launches themselves are not in the model.
The bounds assume an instruction per clock and scheduler, and that nothing is read twice by a block;
a GPU takes longer. What the model is for is to compare kernels, and to notice when one gets dearer.
"""

import program

import argparse
import sys
from collections import Counter as Counts
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

import degrade
from benchmarks.sass import kernels_of
from benchmarks.sass_machine import SECTOR, Machine, laid_out
from degrade import kernels, registers
from degrade.draw import Draw
from degrade.recipes import Recipe
from storage import files
from tools import arguments, cuda_shim
from training import outputs

RECIPES = 'ai6126_2024', 'ai6126_2024-usm', 'ai6126_2022'
BATCH = 16  # images of a training step
BATCHES = 4  # that the figures are means of
FIRST = 8  # images whose figures are told apart, to be found again in seconds
SIDE = 512  # of a face
WHOLE = 1 << 16  # threads up to which a whole launch is executed
THREADS = 1 << 13  # executed of a larger launch


class Gpu(NamedTuple):
    """What bounds a kernel on a GPU."""

    name: str
    schedulers: int  # of all multiprocessors; each issues an instruction per clock
    clock: float  # GHz, boosted
    bandwidth: float  # GB/s

    def microseconds(self, instructions: float, moved: float) -> float:
        """Bound of so many warp instructions and bytes."""
        issue = instructions / (self.schedulers * self.clock * 1e3)
        return max(issue, moved / (self.bandwidth * 1e3))


# NVIDIA's data sheets.
GPUS = Gpu('H200', 132 * 4, 1.98, 4800), Gpu('RTX 3060', 28 * 4, 1.78, 360)


class Cost(NamedTuple):
    """What one launch costs, per image."""

    stage: str
    file: str
    kernel: str
    threads: int  # of a block
    instructions: float  # of warps
    moved: float  # bytes between memory and multiprocessors: what is touched, but no tensor twice
    sectors: float  # of 32 bytes, that loads and stores ask for


# ---- counting ----


class Counter:
    """A stand-in for `kernels.launch` that executes a sample of the blocks."""

    def __init__(self, batch: int) -> None:
        """Nothing has been launched."""
        self.batch = batch
        self.launched: list[Cost] = []

    def launch(
        self,
        file: str | Path,
        name: str,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        *args: kernels.Argument,
    ) -> None:
        """Execute some blocks of a launch, or all where there are few, and count for all."""
        grid = tuple(int(n) for n in grid)
        total, threads = int(np.prod(grid)), int(np.prod(block))
        # Tables, which later launches need whole, are made by few threads.
        few = total * threads <= WHOLE
        most = max(THREADS // threads, 3 * self.batch)
        blocks = np.arange(total) if few else _chosen(total, most)
        packed, segments = laid_out(args)
        done = Machine(kernels_of(file)[name], grid, block, blocks, packed, segments).run()
        each = total / len(blocks) / self.batch
        whole = sum(len(segment.data) for segment in segments) / self.batch
        cost = Cost(
            stage='',
            file=Path(file).name,
            kernel=name,
            threads=threads,
            instructions=each * sum(done.instructions.values()),
            moved=min(each * SECTOR * done.distinct, whole),
            sectors=each * done.sectors,
        )
        self.launched.append(cost)


def _chosen(total: int, most: int) -> np.ndarray:
    """At most so many numbers of blocks, evenly spread over samples, rows and columns."""
    if total <= most:
        return np.arange(total)
    # One of every so many: at random, lest they hit a period of the grid.
    places = np.arange(most) + np.random.default_rng(0).random(most)
    return (places * total / most).astype(np.int64)


@contextmanager
def _counting(counter: Counter) -> Iterator[None]:
    """Put the counter in place of the GPU, and pictures where results would be."""
    original = kernels.blank

    def blank(pix: torch.Tensor, *args: object, **options: object) -> torch.Tensor:
        # Few of its pixels are computed; the next kernel is to find some everywhere.
        y = original(pix, *args, **options)  # type: ignore[arg-type]
        top = 256 if y.dtype == torch.uint8 else 1
        flat = y.as_strided((y.numel(),), (1,))
        flat.copy_(_PIXELS.repeat(-(-y.numel() // len(_PIXELS)))[: y.numel()] * top)
        return y

    kernels.blank = blank
    try:
        with cuda_shim.in_place(counter.launch):
            yield
    finally:
        kernels.blank = original


# Values in [0, 1), neighbours alike, and a little noise.
_RANDOM = np.random.default_rng(0)
_PIXELS = torch.from_numpy(
    np.sin(np.arange(65536) / 40) * 0.4 + 0.5 + _RANDOM.uniform(-0.05, 0.05, 65536)
).to(torch.float32)


def named(name: str) -> Recipe:
    """Recipe of a name that may end in -usm. Raises ValueError."""
    if name.endswith('-usm'):
        return degrade.without_usm(degrade.recipe(name.removesuffix('-usm')))
    return degrade.recipe(name)


def costs(recipe: Recipe, batch: int = BATCH, batches: int = BATCHES) -> list[Cost]:
    """Mean cost of every launch of a recipe, in order. Raises KernelError."""
    sums: dict[tuple[str, str, int], Cost] = {}
    for number in range(batches):
        seen: Counts[tuple[str, str]] = Counts()
        for cost in _costs_of(recipe, range(number * batch, (number + 1) * batch)):
            place = cost.stage, cost.kernel
            seen[place] += 1
            # A batch launches nothing for a stage that none of its images has.
            key = (*place, seen[place])
            sums[key] = _added(sums.get(key), cost, 1 / batches)
    order = [stage.name for stage in recipe.stages]
    return sorted(sums.values(), key=lambda cost: order.index(cost.stage))


def _added(before: Cost | None, cost: Cost, share: float) -> Cost:
    """Sum of a cost and a share of another."""
    measured = 'instructions', 'moved', 'sectors'
    scaled = {name: share * getattr(cost, name) for name in measured}
    if before:
        scaled = {name: value + getattr(before, name) for name, value in scaled.items()}
    return cost._replace(**scaled)


def _costs_of(recipe: Recipe, samples: range) -> list[Cost]:
    """Costs of the launches for one batch."""
    batch = len(samples)
    draw = Draw(0, np.array(samples), tied=recipe.tied, batch=batch)
    params = degrade.sample(recipe, draw, (SIDE, SIDE))
    pixels = _PIXELS.repeat(batch * 3 * SIDE * SIDE // len(_PIXELS)) * 256
    x = pixels.to(torch.uint8).view(batch, SIDE, SIDE, 3).permute(0, 3, 1, 2)
    counter = Counter(batch)
    found: list[Cost] = []
    with _counting(counter):
        for stage, _ in degrade.chain_cuda(x, recipe, params):
            new = counter.launched[len(found) :]
            found += [cost._replace(stage=stage.name) for cost in new]
    return found


# ---- the table ----


class Resources(NamedTuple):
    """What an architecture's multiprocessor has."""

    warps: int
    blocks: int
    shared: int  # bytes
    registers: int = 65536


RESOURCES = {'90': Resources(64, 32, 233472), '86': Resources(48, 16, 102400)}


def occupancy(usage: registers.Usage, threads: int) -> float:
    """Share of a multiprocessor's warps that a kernel's registers and shared memory let in."""
    has = RESOURCES[usage.architecture]
    warps = -(-threads // 32)
    # Registers are given out by 256 to a warp; a block's shared memory takes a kilobyte more.
    of_warp = -(-usage.registers * 32 // 256) * 256
    by_registers = has.registers // of_warp // warps
    by_shared = has.shared // (usage.shared + 1024)
    fitting = min(by_registers, by_shared, has.blocks, has.warps // warps)
    return fitting * warps / has.warps


def usages(files: Sequence[str | Path] = kernels.FILES) -> dict[tuple[str, str], registers.Usage]:
    """{(file, kernel): what it takes on sm_90}."""
    return {(row.file, row.kernel): row for row in registers.report(files, ('90',))}


def table(found: Sequence[Cost]) -> Iterator[str]:
    """Lines of the table of a recipe."""
    used = usages(sorted({cost.file for cost in found}))
    bounds = ''.join(f'{gpu.name:>10}' for gpu in GPUS)
    yield (
        f'{"stage":9}{"kernel":10}{"M instr.":>9}{"MB":>7}{"M sect.":>8}{"regs":>5}{"shared":>7}'
        f'{"occ. %":>7}{"spill":>6}{bounds}'
    )
    for cost in found:
        usage = used[cost.file, cost.kernel]
        yield (
            f'{cost.stage:9}{cost.kernel:10}{cost.instructions / 1e6:9.2f}{cost.moved / 1e6:7.1f}'
            f'{cost.sectors / 1e6:8.2f}{usage.registers:5}{usage.shared:7}'
            f'{100 * occupancy(usage, cost.threads):7.0f}{usage.spilled:6}{_bounds([cost])}'
        )
    total = millions(found)
    moved = sum(cost.moved for cost in found) / 1e6
    sectors = sum(cost.sectors for cost in found) / 1e6
    yield f'{"sum":19}{total:9.2f}{moved:7.1f}{sectors:8.2f}{"":25}{_bounds(found)}'


def millions(found: Sequence[Cost]) -> float:
    """Warp instructions of all launches, in millions per image."""
    return round(sum(cost.instructions for cost in found) / 1e6, 2)


def _bounds(found: Sequence[Cost]) -> str:
    sums = [sum(gpu.microseconds(c.instructions, c.moved) for c in found) for gpu in GPUS]
    return ''.join(f'{us:7.1f} us' for us in sums)


def parser() -> argparse.ArgumentParser:
    """Flags of kernel_cost.py."""
    p = arguments.described(__doc__)
    p.add_argument('recipes', nargs='*', help=f'recipes (default: {", ".join(RECIPES)})')
    p.add_argument(
        '--batch',
        type=program.ranges.BATCH,
        default=BATCH,
        help='images of a batch (default: %(default)s)',
    )
    p.add_argument('--json', type=Path, help='also write the sums to this file')
    return p


@program.entry
def main(argv: Sequence[str] | None = None) -> int:
    """Print the table of every recipe -> exit status."""
    args = parser().parse_args(argv)
    outputs.check({'--json': args.json}, {})
    sums, first = {}, {}
    for name in args.recipes or RECIPES:
        found = costs(named(name), args.batch)
        sums[name] = millions(found)
        first[name] = millions(costs(named(name), FIRST, 1))
        print(f'{name}: an image of {SIDE}x{SIDE} in batches of {args.batch}, sm_90')
        print('\n'.join(table(found)), flush=True)
    if args.json:
        known = {'batch': args.batch, 'millions': sums, f'of the first {FIRST} images': first}
        files.write_json(args.json, known)
    return 0


if __name__ == '__main__':
    sys.exit(main())
