"""What the data cost a training step: steps with a batch that is there already, and with the pipe.

python benchmarks/train_step.py --presets unet,srresnet16 --recipe ai6126_2022 --json step.json

stall = time of a step with the pipe / time of a step with a resident batch. Waiting is the share of
a step's time until the batch is there; on a GPU, where the degradation runs beside the training, it
is what the host waits. The pipe is real, its cache warm.
"""

import program

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch

import dali_pipes
import tasks
from benchmarks import pipe_throughput
from config import flags, presets
from dali_pipes.batch import Batch
from tasks.players import Step, autocast
from tasks.trial import Alone
from tools import arguments, timing
from training import outputs
from training.ema import EMA
from training.world import World, first_on_gpu

TrainStep = Callable[[Batch], None]


# ---- steps, and their time ----


def stepper(preset: str, device: torch.device, precision: str, **changed: Any) -> TrainStep:
    """step(batch): everything a step of train.py does to the networks of a preset.

    changed: options of the preset to replace
    """
    torch.manual_seed(0)
    config = presets.config(preset, precision=precision, **changed)
    task = tasks.of(config)
    players = task.build(config, device)
    ema = EMA(players.net, config.optimization.ema)

    # A step after the discriminator's start, where a GAN has both players at work.
    def step(batch: Batch) -> None:
        where = Step(
            nimg=config.gan.gan_from,
            progress=0.0,
            lr=config.optimization.lr,
            images=len(batch.input),
            accumulate=1,
            autocast=autocast(precision, device),
            world=cast(World, Alone()),
        )
        task.step(players, cast(Iterator[Any], iter([batch])), where)
        ema.update(players.net, len(batch.input))

    return step


class Seconds(NamedTuple):
    """Of some steps."""

    total: float
    waited: float  # for batches


def run(step: TrainStep, get: Callable[[], Batch], count: int, device: torch.device) -> Seconds:
    """`count` steps with the batches that get() returns."""
    # The wait is the host's; that of the GPU shows in the total.
    start, waited = time.perf_counter(), 0.0
    for _ in range(count):
        asked = time.perf_counter()
        batch = get()
        waited += time.perf_counter() - asked
        step(batch)
    if device.type == 'cuda':
        torch.cuda.synchronize()
    return Seconds(time.perf_counter() - start, waited)


def measure(
    preset: str, images: Sequence[Any], args: argparse.Namespace, device: torch.device
) -> dict[str, Any]:
    """One row of the table."""
    # Peaks are those of this preset alone.
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats()
    batch = args.batch or presets.row(preset)['batch']
    step = stepper(preset, device, args.precision)
    resident_steps, pipe_steps = [], []
    with dali_pipes.make(
        args.pipe,
        images,
        args.recipe,
        batch=batch,
        size=args.size,
        device=device,
        threads=args.threads,
        cache='auto',
        say=lambda _: None,
    ) as pipe:
        # An epoch fills the cache; processes that read ahead have to be through with it, too.
        read_ahead = device.type == 'cuda' and args.pipe == 'torch'
        epoch = max(len(images) // batch, 1) + 1
        for _ in range(epoch + (pipe_throughput.IN_FLIGHT if read_ahead else 0)):
            resident = next(pipe)

        # Both in turn, so that a slow moment of the machine hits both.
        run(step, lambda: resident, 3, device)
        for _ in range(args.rounds):
            resident_steps.append(run(step, lambda: resident, args.steps, device))
            pipe_steps.append(run(step, lambda: next(pipe), args.steps, device))
    return figures(preset, batch, args.steps, resident_steps, pipe_steps) | card_memory(device)


# ---- figures ----


def figures(
    preset: str, batch: int, steps: int, resident: list[Seconds], pipe: list[Seconds]
) -> dict[str, Any]:
    """Medians over the rounds."""
    of_resident = timing.median(s.total for s in resident) / steps
    of_pipe = timing.median(s.total for s in pipe) / steps
    return {
        'preset': preset,
        'batch': batch,
        'resident': batch / of_resident,
        'pipe': batch / of_pipe,
        'stall': of_pipe / of_resident,
        'waiting': timing.median(s.waited / s.total for s in pipe),
    }


def card_memory(device: torch.device) -> dict[str, float]:
    """GB that torch took at most, and that the card has given away, with DALI, CuPy and the
    context; {} on a CPU.
    """
    if device.type != 'cuda':
        return {}
    free, total = torch.cuda.mem_get_info()
    return {
        'peak_gb': torch.cuda.max_memory_reserved() / 1e9,
        'card_gb': (total - free) / 1e9,
    }


def parser() -> argparse.ArgumentParser:
    """Flags of train_step.py."""
    p = arguments.described(__doc__)
    gpu = torch.cuda.is_available()
    p.add_argument(
        '--presets',
        default='unet,srresnet16,srresnet20' if gpu else 'unet',
        help='comma-separated (default: %(default)s)',
    )
    _add_data(p, gpu)
    _add_machine(p, gpu)
    p.add_argument(
        '--steps',
        type=program.ranges.COUNT,
        default=100 if gpu else 10,
        help='steps of a round (default: %(default)s)',
    )
    p.add_argument(
        '--rounds',
        type=program.ranges.ROUNDS,
        default=5,
        help='medians are reported (default: %(default)s)',
    )
    p.add_argument('--json', type=Path, help='also write the figures to this file')
    return p


def _add_data(p: argparse.ArgumentParser, gpu: bool) -> None:
    """Add what the pipe is made of."""
    p.add_argument(
        '--data', help=f'HQ faces (default: {pipe_throughput.FACES} synthetic ones, drawn once)'
    )
    p.add_argument(
        '--recipe',
        type=arguments.recipe,
        default='ai6126_2024' if gpu else 'ai6126_2022',
        help='degradation of the inputs (default: %(default)s)',
    )
    p.add_argument(
        '--pipe',
        default='dali' if timing.installed('nvidia.dali') else 'torch',
        help=f'{", ".join(dali_pipes.PIPES)} (default: %(default)s)',
    )
    p.add_argument(
        '--batch', type=program.ranges.BATCH, help="images of a step (default: the preset's)"
    )
    p.add_argument(
        '--size',
        type=program.ranges.SIDE,
        default=512,
        help='side of the HQ images, pixels (default: %(default)s)',
    )


def _add_machine(p: argparse.ArgumentParser, gpu: bool) -> None:
    """Add where and how a step runs."""
    p.add_argument(
        '--threads',
        type=program.ranges.THREADS,
        default=os.cpu_count(),
        help='CPU threads (default: all cores)',
    )
    p.add_argument(
        '--device', default='cuda' if gpu else 'cpu', help='what trains (default: %(default)s)'
    )
    p.add_argument(
        '--precision',
        choices=('bf16', 'fp16', 'fp32'),
        help='of the training (default: bf16 where the hardware computes it)',
    )
    p.add_argument(
        '--memory',
        type=program.ranges.MEMORY,
        help='GB of GPU memory to do with, to see whether a smaller card would',
    )


def title(args: argparse.Namespace, device: torch.device) -> str:
    """What is measured, and the head of the table."""
    memory = f', {args.memory:g} GB of memory' if args.memory else ''
    return (
        f'\n{args.recipe}, {args.pipe} pipe, warm cache, {args.precision} channels-last on '
        f'{device}, {args.threads} threads{memory}; images per second\n'
        f'{"preset":11} {"batch":>5} {"resident":>9} {"pipe":>9} {"stall":>6} {"waiting":>8}'
    )


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    text = (
        f'{row["preset"]:11} {row["batch"]:5} {row["resident"]:9.1f} {row["pipe"]:9.1f} '
        f'{row["stall"]:6.3f} {row["waiting"]:7.1%}'
    )
    if 'peak_gb' in row:
        text += f'   peak {row["peak_gb"]:.2f} GB, of the card {row["card_gb"]:.2f} GB'
    return text


@program.entry
def main(argv: Sequence[str] | None = None) -> int:
    """Measure every preset -> exit status."""
    args = parser().parse_args(argv)
    outputs.check({'--json': args.json}, {'--data': args.data})
    device = torch.device(args.device)
    if device.type == 'cuda':
        torch.cuda.set_device(device)
    torch.set_num_threads(args.threads)
    args.precision = args.precision or flags.default_precision(args.device)

    # Torch then fails where a smaller card would; DALI and CuPy take theirs in addition.
    if args.memory:
        share = args.memory * 1e9 / torch.cuda.mem_get_info()[1]
        torch.cuda.set_per_process_memory_fraction(share)
    print(timing.header())
    images = pipe_throughput.load(args.data, args.size)
    print(title(args, device))

    rows = []
    with first_on_gpu(device):  # as in train.py
        for preset in args.presets.split(','):
            rows.append(measure(preset, images, args, device))
            print(line(rows[-1]))
    if args.json:
        timing.write(
            args.json,
            recipe=args.recipe,
            pipe=args.pipe,
            precision=args.precision,
            threads=args.threads,
            memory_gb=args.memory,
            rows=rows,
        )
    return 0


if __name__ == '__main__':
    sys.exit(main())
