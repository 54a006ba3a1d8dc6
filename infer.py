"""Restore images with a trained network, or name the parts of faces with a parser.

The validation inputs of the newest run:
    python infer.py
A folder, or a file: 8-bit RGB PNG of the same names come out:
    python infer.py --run runs/mine --input LQ/ --output restored/
With PSNR and SSIM of the saved files:
    python infer.py --run runs/mine --input LQ/ --gt GT/
With weights from elsewhere, which tell the network by themselves:
    python infer.py --weights MSRResNet.pth --input face.png
With a parser: masks as palette PNG and, in masks-colour/, painted over the images:
    python infer.py --run runs/parser --input faces/ --output masks/
"""

import program

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.progress import track
from torch import nn

import models
import tasks
from config.schema import Config
from errors import BadFile, RunError
from sources.files import MOST
from storage import shown, some
from tasks import images
from tasks.batches import ahead, grouped
from tasks.inputs import LARGEST, Inputs, check_complete, of_files
from tasks.players import autocast, channels_last
from tasks.task import Applied, Group, Task
from training import checkpoint, outputs, run

READ_BY = 4  # threads that read and decode


def parser() -> argparse.ArgumentParser:
    """Flags of infer.py."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=program.Formatter)
    p.add_argument(
        '--run',
        help='run directory: its final weights, or the newest average of one that is still going '
        '(default: the newest run under runs/)',
    )
    p.add_argument(
        '--weights', help='weights instead of a run: .safetensors, or .pth as BasicSR saves them'
    )
    p.add_argument(
        '--input',
        help='image, or folder, list, pattern or tar of images of any sizes; sub-folders are kept '
        "(default: the run's validation inputs)",
    )
    p.add_argument(
        '--max-pixels',
        type=program.Whole(1, MOST),
        default=LARGEST,
        help='largest image that is restored, width x height (default: %(default)s)',
    )
    p.add_argument(
        '--output',
        help='folder to write to, or a file name for a single image (default: RUN/restored)',
    )
    p.add_argument(
        '--gt',
        help='folder of ground truth with the same names, or one file: prints PSNR and SSIM of the '
        'saved 8-bit images',
    )
    p.add_argument(
        '--lpips',
        help="weights of torchvision's AlexNet or VGG16: with --gt, LPIPS too "
        '(pip install -e .[lpips])',
    )
    _add_how(p)
    return p


def _add_how(p: argparse.ArgumentParser) -> None:
    """Add how the network is applied."""
    p.add_argument(
        '--tta',
        action='store_true',
        help='average with the restoration of the mirror image: twice the time, a little more PSNR',
    )
    p.add_argument(
        '--batch',
        type=program.ranges.BATCH,
        default=8,
        help='images of one size restored together (default: %(default)s)',
    )
    p.add_argument(
        '--precision', choices=('bf16', 'fp16', 'fp32'), help='default: as the run was trained'
    )
    p.add_argument(
        '--device',
        default='cuda' if torch.cuda.is_available() else 'cpu',
        help='default: %(default)s',
    )


class Loaded(NamedTuple):
    """A network ready to be applied."""

    net: nn.Module  # on the device, in eval mode
    task: Task
    config: Config | None  # of its run
    folder: Path  # where its output goes if nothing else is said


def load(args: argparse.Namespace) -> Loaded:
    """The network that the flags name, with its weights. Raises RunError and CheckpointError."""
    if args.weights and args.run:
        raise RunError('--run and --weights both name a network: give one')
    check_device(args.device)

    # Weights alone tell which restorer they belong to; a run knows its task and its network.
    config: Config | None = None
    if args.weights:
        path, home = args.weights, Path('.')
        task = tasks.of(Config())
        try:
            net = models.like(checkpoint.read_weights(path)[0])
        except ValueError as error:
            raise RunError(f'--weights {shown(path)}: {error}') from error
        read = checkpoint.load_weights(net, path)
    else:
        path = home = Path(args.run or run.newest())
        if not (home / 'config.json').exists():
            raise RunError(f'--run {home} is no run directory: it has no config.json')
        config = tasks.of_run(str(home))
        task = tasks.of(config)
        net, read = checkpoint.network_with_weights(lambda: task.network(config), path)

    print(f'{read}: {models.count(net):,} parameters')
    net = channels_last(net, args.device).eval()
    return Loaded(net, task, config, home / 'restored')


def check_device(device: str) -> None:
    """Raise RunError for a device that torch cannot use."""
    try:
        torch.empty(0, device=device)
    except (
        RuntimeError,
        AssertionError,
    ) as error:  # no such device, no driver, or a torch without CUDA
        reason = str(error).splitlines()[0]
        raise RunError(
            f'--device {device} cannot be used ({reason}): give cuda if there is a GPU, else cpu'
        ) from error


# ------------------------------------------------------------------------------------------------
# What goes in.


def inputs(args: argparse.Namespace, loaded: Loaded) -> Inputs:
    """What --input names, or the validation inputs of the run."""
    if args.input is None:
        return validation_inputs(loaded)
    return of_files(args.input, args.gt, loaded.task.read_truth, args.max_pixels)


def validation_inputs(loaded: Loaded) -> Inputs:
    """The first validation set of a run."""
    if loaded.config is None:
        raise RunError('--input is needed with --weights')
    _, sets = loaded.task.load(loaded.config, lambda _: None, lambda _: None)
    data = next(iter(sets.values()))
    names = [data.name(i) for i in range(len(data))]
    # Faces of several folders may share a name.
    count = Counter(names)
    unique = [n if count[n] == 1 else f'{n}-{i}' for i, n in enumerate(names)]
    return Inputs(unique, lambda i: data[i][1:], [])


def in_groups(source: Inputs, batch: int) -> Iterator[Group]:
    """Groups of (name, picture, truth or None) of one size, read ahead, under a progress bar.

    What turns out bad is added to those left out. Raises RunError where nothing is left.
    """

    def get(i: int) -> tuple[Any, ...] | BadFile:
        try:
            return source.names[i], *source.get(i)
        except BadFile as error:
            return error

    # A bar belongs on a terminal, not in a log.
    quiet = not sys.stderr.isatty()
    total = len(source.names)
    with ThreadPoolExecutor(READ_BY) as pool:
        items = ahead(pool, get, total, 2 * batch)
        tracked = track(items, 'working', total=total, disable=quiet)
        yield from grouped(good_ones(tracked, source), batch)


def good_ones(
    items: Iterable[tuple[Any, ...] | BadFile], source: Inputs
) -> Iterator[tuple[Any, ...]]:
    """The items that could be read; the others are added to those left out. Raises RunError."""
    count = 0
    for item in items:
        if isinstance(item, BadFile):
            source.bad.append(str(item))
        else:
            count += 1
            yield item
    if not count:
        raise RunError(f'--input: nothing in it can be read: {some(source.bad, 3)}')


# ------------------------------------------------------------------------------------------------
# What comes out.


def check_output(
    args: argparse.Namespace, loaded: Loaded, folder: Path, names: Sequence[str]
) -> None:
    """Raise RunError if what is written would be, or lie in, anything that is read."""
    data = loaded.config.data if loaded.config else Config().data
    # Every file where there is one alone, and the folder beside it that a parser writes, too.
    written = [folder, folder.with_name(f'{folder.name}-colour')]
    if len(names) == 1 and not images.is_picture(folder):
        written.append(folder / f'{names[0]}.png')
    outputs.check(
        {'--output': written},
        {
            '--input': args.input,
            '--gt': args.gt,
            "the run's --data": data.data,
            "the run's --val": data.val,
        },
        {'--run': args.run, '--weights': args.weights, '--lpips': args.lpips},
    )


def output_folder(args: argparse.Namespace, loaded: Loaded, names: Sequence[str]) -> Path:
    """Folder, or file for a single picture, that is written to; made if need be."""
    folder = Path(args.output or loaded.folder)
    # Beside the folder `.` there is no place for another one that is named after it.
    folder = folder if folder.name not in ('', '..') else folder.resolve()
    if images.is_picture(folder) and len(names) > 1:
        raise RunError(f'--output {folder} is one file, --input holds {len(names)}')
    check_output(args, loaded, folder, names)
    try:
        made = folder.parent if images.is_picture(folder) else folder
        made.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f'--output {folder} cannot be made: {error.strerror}') from error
    return folder


@program.entry
def main(argv: Sequence[str] | None = None) -> int:
    """Apply a network as the command line says -> exit status."""
    args = parser().parse_args(argv)
    loaded = load(args)
    loaded.task.check_infer(args.lpips)
    if args.lpips and args.input and not args.gt:
        raise RunError(images.needs_truth(args.lpips))
    source = inputs(args, loaded)
    folder = output_folder(args, loaded, source.names)

    # As the run was trained: what it learnt in bf16 it restores in bf16.
    precision = args.precision or (loaded.config.run.precision if loaded.config else 'fp32')
    device = torch.device(args.device)
    how = Applied(device, autocast(precision, device), args.tta, args.lpips)
    for line in applied(args, loaded, in_groups(source, args.batch), folder, how):
        print(line)
    check_complete(source)
    return 0


def applied(
    args: argparse.Namespace, loaded: Loaded, groups: Iterator[Group], folder: Path, how: Applied
) -> list[str]:
    """What there is to say of what was written. Raises RunError where the memory does not do."""
    try:
        return loaded.task.infer(loaded.net, groups, folder, how)
    except (MemoryError, RuntimeError) as error:
        # The allocator of the CPU has no error of its own.
        text = str(error)
        if isinstance(error, RuntimeError) and 'memory' not in text:
            raise
        raise RunError(
            f'--batch {args.batch}: the memory of --device {args.device} does not do for pictures '
            'as large as these: give --batch 1, or smaller pictures'
        ) from error


if __name__ == '__main__':
    sys.exit(main())
