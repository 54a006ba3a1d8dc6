"""What the data cost a training step: steps with a batch that is there already, and with the real pipe, cached and warm.

    python benchmarks/train_step.py [--presets unet,srresnet16] [--recipe ai6126_2022] [--json FILE]

stall = time of a step with the pipe / time of a step with a resident batch. Waiting is the share of a step's time until the batch is there; on a GPU, where the
degradation runs beside the training, it is what the host waits.
"""

import argparse
import os
import time
from pathlib import Path

import torch

import dali_pipes
from benchmarks import pipe_throughput, timing
from config import options
from tasks import restore, stage
from tasks.players import backward
from training.ema import EMA


def stepper(preset, device, precision):
    """step(batch): everything a step of train.py does to the network of a preset."""
    torch.manual_seed(0)
    c = options.DEFAULTS | options.PRESETS[preset] | dict(precision=precision)
    players, criterion = stage.cast(c, device), restore.Criterion(c)
    ema, autocast = EMA(players['net'].net, c['ema']), options.autocast(c, device)

    def step(batch):
        backward(players, batch, criterion, c['gan_from'], 0.0, autocast)
        for p in players.values():
            p.stepper.step(c['lr'])
        ema.update(players['net'].net, len(batch.input))

    return step


def run(step, get, count, device):
    """(seconds, seconds of them waiting in get()) of `count` steps."""
    start, waited = time.perf_counter(), 0.0
    for _ in range(count):
        asked = time.perf_counter()
        batch = get()
        waited += time.perf_counter() - asked
        step(batch)
    if device.type == 'cuda':
        torch.cuda.synchronize()
    return time.perf_counter() - start, waited


def measure(preset, images, args, device):
    """One row of the table."""
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats()
    batch = args.batch or options.PRESETS[preset]['batch']
    step, seconds, waits = stepper(preset, device, args.precision), {'resident': [], 'pipe': []}, []
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
        for _ in range(
            max(len(images) // batch, 1)
            + 1
            + (pipe_throughput.IN_FLIGHT if device.type == 'cuda' and args.pipe == 'torch' else 0)
        ):
            resident = next(pipe)  # an epoch fills the cache
        run(step, lambda: resident, 3, device)
        for _ in range(args.rounds):
            seconds['resident'].append(run(step, lambda: resident, args.steps, device)[0])
            s, w = run(step, lambda: next(pipe), args.steps, device)
            seconds['pipe'].append(s)
            waits.append(w / s)
    s = {k: timing.median(v) / args.steps for k, v in seconds.items()}
    row = {
        'preset': preset,
        'batch': batch,
        'resident': batch / s['resident'],
        'pipe': batch / s['pipe'],
        'stall': s['pipe'] / s['resident'],
        'waiting': timing.median(waits),
    }
    if device.type == 'cuda':
        row['peak_gb'] = (
            torch.cuda.max_memory_reserved() / 1e9
        )  # by torch; DALI, CuPy and the context come on top, in card_gb
        free, total = torch.cuda.mem_get_info()
        row['card_gb'] = (total - free) / 1e9
    return row


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    gpu = torch.cuda.is_available()
    parser.add_argument(
        '--presets',
        default='unet,srresnet16,srresnet20' if gpu else 'unet',
        help='comma-separated (default: %(default)s)',
    )
    parser.add_argument('--data', help='HQ faces (default: 64 synthetic ones, drawn once)')
    parser.add_argument(
        '--recipe', default='ai6126_2024' if gpu else 'ai6126_2022', help='default: %(default)s'
    )
    parser.add_argument(
        '--pipe',
        default='dali' if timing.installed('nvidia.dali') else 'torch',
        help='default: %(default)s',
    )
    parser.add_argument('--batch', type=int, help="default: the preset's")
    parser.add_argument(
        '--size',
        type=int,
        default=512,
        help='side of the HQ images in pixels (default: %(default)s)',
    )
    parser.add_argument(
        '--steps',
        type=int,
        default=100 if gpu else 10,
        help='steps of a round (default: %(default)s)',
    )
    parser.add_argument(
        '--rounds', type=int, default=5, help='medians are reported (default: %(default)s)'
    )
    parser.add_argument('--threads', type=int, default=os.cpu_count(), help='default: all cores')
    parser.add_argument('--device', default='cuda' if gpu else 'cpu', help='default: %(default)s')
    parser.add_argument(
        '--precision',
        choices=('bf16', 'fp16', 'fp32'),
        help='default: bf16 where the hardware computes it',
    )
    parser.add_argument(
        '--memory',
        type=float,
        help='GB of GPU memory to do with, to see whether a smaller card would',
    )
    parser.add_argument('--json', type=Path, help='also write the figures to this file')
    args = parser.parse_args()
    device = torch.device(args.device)
    if device.type == 'cuda':
        torch.cuda.set_device(device)
    torch.set_num_threads(args.threads)
    args.precision = args.precision or options.default_precision(vars(args))
    if args.memory:
        torch.cuda.set_per_process_memory_fraction(args.memory * 1e9 / torch.cuda.mem_get_info()[1])
    print(timing.header())
    images = pipe_throughput.load(args.data, args.size)
    print(
        f'\n{args.recipe}, {args.pipe} pipe, warm cache, {args.precision} channels-last on {device}, {args.threads} threads'
        + (f', {args.memory:g} GB of memory' if args.memory else '')
        + '; images per second\n'
        f'{"preset":11} {"batch":>5} {"resident":>9} {"pipe":>9} {"stall":>6} {"waiting":>8}'
    )
    rows = []
    for preset in args.presets.split(','):
        rows.append(measure(preset, images, args, device))
        r = rows[-1]
        print(
            f'{preset:11} {r["batch"]:5} {r["resident"]:9.1f} {r["pipe"]:9.1f} {r["stall"]:6.3f} {r["waiting"]:7.1%}'
            + (
                f'   peak {r["peak_gb"]:.2f} GB, of the card {r["card_gb"]:.2f} GB'
                if 'peak_gb' in r
                else ''
            )
        )
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


if __name__ == '__main__':
    main()
