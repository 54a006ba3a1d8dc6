"""Make a training set out of a heap of photographs, on one machine or on a cluster.

python tools/build.py faces photos/ --out faces/                      aligned faces, judged
python tools/build.py faces 's3://bucket/{000..999}.tar' --out s3://bucket/faces
python tools/build.py pairs faces/ --recipe photos --out pairs/       LQ and GT
python tools/build.py htj2k faces/ --out htj2k/                       copies that decode fast
python tools/build.py faces photos/ --out faces/ --ray auto           on a Ray cluster
python tools/build.py faces photos/ --out faces/ --shards 0:1000      a part of the work

SOURCE is a folder, a list of files, tars (those of img2dataset, too), or an address of these. The
same command goes on after anything: what is finished is left alone, and the bytes do not depend on
how many processes or machines there were. OUT/report.html shows which faces were dropped, and why.
Every verb has a --help of its own.
"""

import program

import argparse
import os
import signal
import sys
from collections.abc import Sequence

import torch

import degrade
from errors import RunError
from faces import duplicates
from sources import addresses, jph
from storage import check_apart, shown
from tools.building import destination, faces_page, fingerprint, sources, thresholds
from tools.building.engines import Engine, Processes
from tools.building.faces_job import Faces
from tools.building.htj2k_job import Htj2k
from tools.building.pairs_job import Pairs
from tools.building.ray_engine import Ray
from tools.building.run import Plan, build
from tools.building.shard_task import Job

PRICE = program.ranges.Number(0, 1_000_000)


def cores() -> int:
    """Return how many cores this process may use: a batch system may have given it a few."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def shards(text: str) -> tuple[int, int]:
    """Type of a flag: A:B, input shards from A up to, and without, B."""
    first, colon, end = text[:40].partition(':')
    if not (colon and first.isdecimal() and end.isdecimal() and int(first) < int(end)):
        raise argparse.ArgumentTypeError(f'{text[:40]} is not A:B with A below B, such as 0:1000')
    return int(first), int(end)


def parser() -> argparse.ArgumentParser:
    """Flags of build.py, verb by verb."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=program.Formatter)
    verbs = p.add_subparsers(dest='verb', required=True)
    for name, what, add in (
        ('faces', 'Find, align and judge the faces of photographs.', _add_faces),
        ('pairs', 'Degrade aligned faces for good.', _add_pairs),
        ('htj2k', 'Write lossless copies that decode fast.', lambda v: None),
    ):
        v = verbs.add_parser(name, help=what, description=what, formatter_class=program.Formatter)
        v.add_argument('source', help='folder, list of files, tars, or an address of these')
        v.add_argument('--out', required=True, help='folder or address to write to')
        add(v)
        _add_engine(v)
    return p


def _add_faces(v: argparse.ArgumentParser) -> None:
    v.add_argument(
        '--size',
        type=program.ranges.SIDE,
        default=512,
        help='side of the aligned faces in pixels (default: %(default)s)',
    )
    v.add_argument(
        '--format',
        choices=('png', 'jph'),
        default='png',
        help='jph: lossless HTJ2K, which decodes faster (default: %(default)s)',
    )
    v.add_argument('--detector', help='a YuNet file instead of MTCNN')
    v.add_argument(
        '--parser', help='run or file of a parser, which says how much of a face is covered'
    )
    v.add_argument(
        '--duplicate-bits',
        type=program.Whole(-1, 256),
        default=duplicates.MOST,
        help='bits, of 256, in which the hashes of near-duplicates differ, at most: give 31 to 40 '
        'for many millions of faces, and -1 to drop none (default: %(default)s)',
    )
    thresholds.add(v.add_argument_group('thresholds (look at report.html before you turn them)'))


def _add_pairs(v: argparse.ArgumentParser) -> None:
    names = ', '.join(degrade.RECIPES)
    v.add_argument(
        '--recipe', default='ai6126_2024', help=f'{names}, or FILE.toml (default: %(default)s)'
    )
    v.add_argument(
        '--size',
        type=program.ranges.SIDE,
        default=512,
        help='side of the GT in pixels (default: %(default)s)',
    )
    v.add_argument(
        '--seed',
        type=program.ranges.SEED,
        default=0,
        help='of the degradations (default: %(default)s)',
    )
    v.add_argument(
        '--plain',
        action='store_true',
        help='degrade the plain face where the recipe degrades the sharpened one',
    )
    v.add_argument(
        '--gpu',
        type=program.ranges.SHARE,
        default=0.0,
        metavar='SHARE',
        help='degrade on a GPU, of which a task takes this share: 0.25 lets four share one '
        '(default: on the CPU)',
    )


def _add_engine(v: argparse.ArgumentParser) -> None:
    group = v.add_argument_group('who does it')
    group.add_argument(
        '--processes',
        type=program.ranges.Whole(1, 4096),
        default=cores(),
        help='of this machine (default: one for each core)',
    )
    group.add_argument(
        '--ray', metavar='ADDRESS', help='a Ray cluster instead; auto: the one of this machine'
    )
    group.add_argument(
        '--shards', type=shards, metavar='A:B', help='make these input shards only (default: all)'
    )
    group.add_argument(
        '--photos-per-shard',
        type=program.ranges.Whole(1, 100_000),
        default=250,
        help='pictures of an input shard, where SOURCE is no tar (default: %(default)s)',
    )
    group.add_argument(
        '--price', type=PRICE, help='of an hour of a core: what it has cost is shown, too'
    )


def job(args: argparse.Namespace) -> Job:
    """Return what is to be made. Raises RunError for flags that cannot be."""
    if args.verb == 'faces':
        if args.format == 'jph':
            _check_jph()
        limits = thresholds.limits(vars(args))
        return Faces(args.size, args.format, args.detector, args.parser, limits)
    if args.verb == 'htj2k':
        _check_jph()
        return Htj2k()
    # Pairs: their sides have to be whole pixels.
    recipe = degrade.recipe(args.recipe)
    if args.size % recipe.scale:
        raise RunError(f'--size {args.size}: {args.recipe} needs a multiple of {recipe.scale}')
    # With a cluster, the GPUs are those of its machines.
    if args.gpu and not args.ray and not torch.cuda.is_available():
        raise RunError(f'--gpu {args.gpu}: no CUDA GPU here; leave it out to degrade on the CPU')
    return Pairs(args.recipe, args.size, args.seed, args.plain, 'cuda' if args.gpu else 'cpu')


def _check_jph() -> None:
    if not jph.codec():
        raise RunError('HTJ2K is written by OpenJPH: pip install -e .[htj2k]')


def everywhere(args: argparse.Namespace) -> None:
    """Make paths absolute: workers may be at home elsewhere. Raises RunError for wrong ones."""
    for name in 'source', 'detector', 'parser', 'recipe':
        path = getattr(args, name, None)
        # Patterns are resolved where they are listed; what is not there is named as it was typed.
        if path and os.path.exists(path):
            setattr(args, name, os.path.abspath(path))
    sides = {'--out': args.out}, {'SOURCE': args.source}
    if not any(addresses.is_url(place) for place in (args.source, args.out)):
        # Neither may lie in the other: one would be listed, or cleaned, with the other.
        check_apart(*sides)
        check_apart(*reversed(sides))
    elif f'{args.out.rstrip("/")}/'.startswith(f'{args.source.rstrip("/")}/'):
        raise RunError(f'--out {shown(args.out)} lies in SOURCE: give it a place of its own')


def engine(args: argparse.Namespace) -> Engine:
    """Return who does it. Raises RunError."""
    share = getattr(args, 'gpu', 0.0)
    if args.ray:
        return Ray(args.ray, share)
    if not share:
        return Processes(args.processes)
    # Workers take turns on the GPUs, as many on each as its share allows.
    visible = os.environ.get('CUDA_VISIBLE_DEVICES')
    gpus = visible.split(',') if visible else [str(i) for i in range(torch.cuda.device_count())]
    return Processes(min(args.processes, max(int(len(gpus) / share), 1)), gpus)


def part(args: argparse.Namespace, count: int) -> tuple[int, int]:
    """Return the first input shard to be made and the one after the last, of so many.

    The last part of an array job may reach beyond them.
    """
    first, end = args.shards or (0, count)
    if end > count:
        print(f'--shards {first}:{end}: there are {count:,}')
    return min(first, count), min(end, count)


def told(args: argparse.Namespace) -> str:
    """Say how to train on a finished set."""
    more = f' --recipe {args.recipe}' if args.verb == 'pairs' else ''
    more += f' --size {args.size}' if getattr(args, 'size', 512) != 512 else ''
    if not addresses.is_url(args.out):
        return f'use it with: python train.py --data {shown(args.out)}{more}'
    if args.verb == 'pairs':
        return 'pairs are trained on from a disk: copy them there'
    return (
        'none of a stream can be held out, so give --val pairs or other faces; use it with: '
        f"python train.py --data '{args.out.rstrip('/')}/*.tar'{more} --val FOLDER"
    )


@program.entry
def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line asks for -> exit status."""
    args = parser().parse_args(argv)
    # Batch systems end a job by this, some time before they kill it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Flags that cannot be are refused before anything is listed: a store may take minutes.
    everywhere(args)
    made, settings = job(args), fingerprint.settings(args)
    found = sources.find(args.source, args.photos_per_shard)
    print(sources.described(found))
    place, (first, end) = destination.make(args.out), part(args, len(found))
    near = getattr(args, 'duplicate_bits', -1)
    plan = Plan(made, found, place, first, end, settings, args.price, near)
    workers = engine(args)
    try:
        finished = build(plan, workers, faces_page.page if args.verb == 'faces' else None)
    finally:
        workers.close()
    if finished:
        print(told(args))
    return 0


if __name__ == '__main__':
    sys.exit(main())
