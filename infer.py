"""Restore faces in photographs with a trained network, or name their parts with a parser.

A photograph, or a folder of them: faces are found, restored by the weights that come along, and
put back:
    python infer.py photo.jpg
    python infer.py photos/ --output restored/ --scale 4
The faces alone:
    python infer.py photos/ --output faces/ --faces-only
By a run of yours:
    python infer.py photo.jpg --run runs/mine
The validation inputs of the newest run:
    python infer.py
Faces as the network was trained on; 8-bit RGB PNG of the same names come out:
    python infer.py LQ/ --run runs/mine --aligned --output restored/
Aligned faces of 512x512, as the usual test sets have them; as large ones come out:
    python infer.py lfw_cropped_faces/ --fit --output restored/
With PSNR and SSIM of the saved files:
    python infer.py --run runs/mine --input LQ/ --gt GT/
With weights from elsewhere, which tell the network by themselves:
    python infer.py face.png --weights MSRResNet.pth
With a parser: masks as palette PNG and, in masks-colour/, painted over the images:
    python infer.py faces/ --run runs/parser --output masks/
"""

import program

import argparse
import contextlib
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import torch
from rich.progress import track

from config.schema import Config
from errors import BadFile, RunError
from sources import film as film_file
from sources.files import MOST
from storage import some
from tasks import film_run, images, photo_flags, photo_run, shipped
from tasks.batches import ahead, grouped
from tasks.inputs import (
    LARGEST,
    Inputs,
    Listed,
    check_complete,
    fitted,
    listed,
    of_files,
    within,
)
from tasks.loading import Loaded, add_fidelity, load
from tasks.task import Applied, Group
from training import outputs

READ_BY = 4  # threads that read and decode


def parser() -> argparse.ArgumentParser:
    """Flags of infer.py."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=program.Formatter)
    p.add_argument('source', nargs='?', metavar='INPUT', help='as --input')
    p.add_argument(
        '--run',
        help='run directory: its final weights, or the newest average of one that is still going '
        '(default: --weights; without an --input the newest run under runs/)',
    )
    p.add_argument(
        '--weights',
        help=f'weights instead of a run: {", ".join(shipped.names())}, which come along, or a '
        f'file, .safetensors, or .pth as BasicSR saves them (default: {shipped.USUAL})',
    )
    p.add_argument(
        '--input',
        help='photograph or film, or folder, list, pattern or tar of pictures of any sizes; '
        "sub-folders are kept (default: the run's validation inputs)",
    )
    p.add_argument(
        '--max-pixels',
        type=program.Whole(1, MOST),
        help='largest picture that is restored, width x height '
        f'(default: {photo_flags.MOST:,} for photographs, {LARGEST:,} for aligned faces)',
    )
    p.add_argument(
        '--output',
        help='folder to write to, or a file name for a single image (default: restored/, or '
        'RUN/restored)',
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
    photo_flags.add(p)
    return p


def _add_how(p: argparse.ArgumentParser) -> None:
    """Add how the network is applied."""
    p.add_argument(
        '--tta',
        action='store_true',
        help='average with the restoration of the mirror image: twice the time, a little more PSNR',
    )
    add_fidelity(p)
    p.add_argument(
        '--fit',
        action='store_true',
        help='inputs are aligned faces of any size, and are brought to what the network was '
        'trained on first: 128x128 for most, so that they come out as 512x512',
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


# ------------------------------------------------------------------------------------------------
# What goes in.


def why_aligned(args: argparse.Namespace, loaded: Loaded, found: Listed | None) -> str | None:
    """Why pictures are restored whole, as aligned faces; None of photographs.

    Raises RunError for --no-aligned where they can be nothing else.
    """
    if args.fit and args.aligned is False:
        raise RunError('--fit is of aligned faces, and --no-aligned says that there are none')
    if args.aligned or args.fit:
        return '--fit' if args.fit else '--aligned'
    why = None
    if loaded.task.name != 'restore':
        why = f'as the network of a {loaded.task.name} run wants them'
    elif found is None:
        why = "the run's own inputs"
    elif args.gt:
        why = 'to be compared with --gt'
    if args.aligned is False and why:
        raise RunError(f'--no-aligned: these are restored as aligned faces, {why}: leave it out')
    side = photo_flags.side_of(loaded)
    small = all(max(image.width, image.height) <= side for image in found.images) if found else True
    if args.aligned is None and small and not why:
        why = f'all are no larger than {side}x{side}, which the network is given'
    return why


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


def check_output(args: argparse.Namespace, loaded: Loaded, folder: Path) -> None:
    """Raise RunError if what is written would be, or lie in, anything that is read."""
    data = loaded.config.data if loaded.config else Config().data
    # The folder beside it that a parser writes, too.
    written = [folder, folder.with_name(f'{folder.name}-colour')]
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


def check_files(folder: Path, names: Sequence[str], found: Listed, is_file: bool) -> None:
    """Raise RunError if a picture that is written is read as well, as a list of files may have it.

    folder: or a file, as `is_file` says
    """
    # By real paths: links and relative names deceive nobody.
    read = {os.path.realpath(image.where[0]) for image in found.images}
    there = os.path.realpath(folder)
    written = [os.path.join(there, f'{n}{suffix}') for n in names for suffix in photo_run.KINDS]
    for target in [there] if is_file else written:
        if target in read:
            outputs.check_same({'--output': target}, {'--input': target})


def output_folder(
    args: argparse.Namespace,
    loaded: Loaded,
    names: Sequence[str],
    found: Listed | None,
    is_file: Callable[[Path], bool],
) -> Path:
    """Folder, or file for a single picture, that is written to; made if need be."""
    folder = Path(args.output or loaded.folder)
    # Beside the folder `.` there is no place for another one that is named after it.
    folder = folder if folder.name not in ('', '..') else folder.resolve()
    if is_file(folder) and len(names) > 1:
        raise RunError(f'--output {folder} is one file, --input holds {len(names)}')
    check_output(args, loaded, folder)
    if found:
        check_files(folder, names, found, is_file(folder))
    try:
        made = folder.parent if is_file(folder) else folder
        made.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f'--output {folder} cannot be made: {error.strerror}') from error
    return folder


@program.entry
def main(argv: Sequence[str] | None = None) -> int:
    """Apply a network as the command line says -> exit status."""
    flags = parser()
    args = flags.parse_args(argv)
    if args.source and args.input:
        raise RunError(f'{args.source} and --input {args.input} both name pictures: give one')
    args.input = args.input or args.source
    usual = bool(args.input)
    loaded = load(args.run, args.weights, args.device, usual=usual, fidelity=args.fidelity)
    loaded.task.check_infer(args.lpips)
    if args.lpips and args.input and not args.gt:
        raise RunError(images.needs_truth(args.lpips))

    with enough_memory(args):
        said, bad = restored(args, flags, loaded)
    for line in said:
        print(line)
    check_complete(bad)
    return 0


Said = tuple[list[str], list[str]]  # lines for the user, what was left out


def restored(args: argparse.Namespace, flags: argparse.ArgumentParser, loaded: Loaded) -> Said:
    """Restore what --input names: a film, photographs, or faces that were cut out."""
    # By its suffix; what is in it turns out when it is opened.
    if args.input and film_file.is_film(args.input) and os.path.exists(args.input):
        return of_film(args, loaded)
    found = listed(args.input) if args.input else None
    why = why_aligned(args, loaded, found)
    if found and why is None:
        return of_photos(args, loaded, found)
    photo_flags.refuse(args, flags, why or '')
    if args.aligned is None and loaded.task.name == 'restore':
        print(f'restored whole, as aligned faces: {why}')
    return of_faces(args, loaded, found)


def of_photos(args: argparse.Namespace, loaded: Loaded, found: Listed) -> Said:
    """Restore photographs."""
    # The folder of a run has no say in kinds of files.
    if args.output:
        photo_run.check_output(args, Path(args.output))
    folder = output_folder(args, loaded, found.names, found, photo_run.is_file)
    return photo_run.run(args, loaded, found, folder)


def of_film(args: argparse.Namespace, loaded: Loaded) -> Said:
    """Restore a film."""
    if args.aligned or args.gt or loaded.task.name != 'restore':
        raise RunError(f'--input {args.input} is a film: its faces are found, and restored')
    folder = output_folder(args, loaded, [''], None, film_run.is_file)
    output = film_run.target(args.input, folder)
    outputs.check_same({'--output': output}, {'--input': args.input})
    return film_run.run(args, loaded, output), []


def of_faces(args: argparse.Namespace, loaded: Loaded, found: Listed | None) -> Said:
    """Apply the network to whole pictures."""
    if args.fit and (found is None or loaded.task.name != 'restore'):
        raise RunError('--fit is of the faces of an --input, to be restored: leave it out')
    if found is None:
        source = validation_inputs(loaded)
    else:
        some_found = within(found, args.max_pixels or LARGEST)
        source = of_files(some_found, args.gt, loaded.task.read_truth)
        source = fitted(source, photo_flags.side_of(loaded)) if args.fit else source
    folder = output_folder(args, loaded, source.names, found, images.is_picture)
    device = torch.device(args.device)
    precision = loaded.autocast(device, args.precision)
    how = Applied(device, precision, args.tta, args.lpips, loaded.size)
    said = loaded.task.infer(loaded.net, in_groups(source, args.batch), folder, how)
    return said, source.bad


@contextlib.contextmanager
def enough_memory(args: argparse.Namespace) -> Iterator[None]:
    """Raise RunError where the memory does not do."""
    try:
        yield
    except (MemoryError, RuntimeError, cv2.error) as error:
        # The allocators of the CPU have no errors of their own.
        text = str(error).lower()
        if not isinstance(error, MemoryError) and 'memory' not in text:
            raise
        raise RunError(
            f'--batch {args.batch}: the memory of --device {args.device} does not do for pictures '
            'as large as these: give --batch 1, or smaller pictures'
        ) from error


if __name__ == '__main__':
    sys.exit(main())
