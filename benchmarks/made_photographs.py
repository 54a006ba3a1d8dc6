"""Photographs made of aligned faces, of which it is known where each face is and what is wrong.

python benchmarks/made_photographs.py FACES --count 2000 --seed 0 --out heap/
python benchmarks/made_photographs.py FACES --count 2000 --damaged 100 --shards --out heap/
python benchmarks/made_photographs.py --count 4 --out heap/           faces that are drawn

FACES is a folder, a list or tars of aligned faces of 512 pixels, as train.py reads them. A photo is
a scene with up to four of them, turned by up to 35 degrees, mirrored or not. Among the photos are
copies (at another quality, cut, enlarged, brightened), faces that are to be dropped (too small,
blurred, dark, ...), gray ones and some without a face. OUT/truth.json tells all of it;
benchmarks/build_accuracy.py compares with it what tools/build.py has made of the photographs.
"""

import program
from program import ranges

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.photographs.aligned import SIDE, Faces
from benchmarks.photographs.heap import Heap, write
from benchmarks.photographs.truth import Truth
from errors import BadFile, DataError, RunError
from sources import manifest
from storage import check_apart, counted, shown
from tools import arguments
from training import log


def parser() -> argparse.ArgumentParser:
    """Flags."""
    p = arguments.described(__doc__)
    p.add_argument('faces', nargs='?', metavar='FACES', help='aligned faces (default: drawn ones)')
    p.add_argument('--out', required=True, help='folder that does not exist yet, or is empty')
    p.add_argument(
        '--count',
        type=ranges.Whole(1, 1_000_000),
        default=2000,
        help='photos (default: %(default)s)',
    )
    p.add_argument('--seed', type=ranges.SEED, default=0, help='default: %(default)s')
    p.add_argument(
        '--damaged',
        type=ranges.NUMBER,
        default=0,
        help='hostile, damaged and odd files among them (default: %(default)s)',
    )
    p.add_argument('--shards', action='store_true', help='write tars of 250 photos')
    p.add_argument(
        '--workers',
        type=ranges.THREADS,
        default=os.cpu_count(),
        help='processes (default: one for each core)',
    )
    return p


def told(heap: Truth) -> str:
    """Say what was made."""
    faces = [face for photo in heap.photos for face in photo.faces]
    groups = Counter(face.group for face in faces)
    kinds = Counter(photo.kind for photo in heap.photos)
    spoilt = Counter(reason for face in faces for reason in face.reasons[:1])
    lines = [
        f'{counted(len(heap.photos), "photo")} with {counted(len(faces), "face")} of '
        f'{counted(len(groups), "person")}; {kinds["copy"]:,} copies, {kinds["empty"]:,} without',
        f'to be dropped: {", ".join(f"{n:,} by {reason}" for reason, n in spoilt.most_common())}',
        f'{counted(len(heap.damaged), "file")} beside them, of which '
        f'{sum(file.bad for file in heap.damaged):,} cannot be used',
    ]
    return '\n'.join(lines)


@program.entry
def main(argv: Sequence[str] | None = None) -> int:
    """Make the photographs -> exit status."""
    args = parser().parse_args(argv)
    if args.faces:
        check_apart({'--out': args.out}, {'FACES': args.faces})
    if os.path.lexists(args.out) and (not os.path.isdir(args.out) or os.listdir(args.out)):
        raise RunError(f'--out {shown(args.out)} holds something already: give another folder')
    # Without any, faces are drawn.
    images = manifest.scan(args.faces, size=SIDE, tell=False).images if args.faces else []
    heap = Heap(args.seed, args.count, Faces(images), args.damaged, args.shards)
    try:
        made = write(heap, args.out, args.workers, log.bar('making photographs'))
    except BadFile as error:
        raise DataError(f'{shown(args.faces)}: a face cannot be read: {error}') from error
    print(f'{told(made)}\nin {shown(Path(args.out))}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
