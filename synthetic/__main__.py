"""Draw synthetic faces into a folder: FOLDER/images, FOLDER/masks, FOLDER/landmarks.json.

python -m synthetic FOLDER --count 72
"""

import program

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2

from errors import DataError

from . import _draw, write


@program.entry
def main(argv: Sequence[str] | None = None) -> int:
    """Draw what the command line asks for -> exit status."""
    args = parser().parse_args(argv)
    cv2.setNumThreads(1)
    if args.only:
        _draw_some(args)
        return 0
    try:
        write(args.folder, args.count, args.first_seed, args.size, args.workers, _show)
    except (FileExistsError, RuntimeError) as e:
        raise DataError(str(e)) from e
    print()
    return 0


def parser() -> argparse.ArgumentParser:
    """Flags of the command."""
    p = argparse.ArgumentParser(
        prog='python -m synthetic',
        description=__doc__,
        formatter_class=program.Formatter,
    )
    p.add_argument('folder', help='what is drawn into')
    p.add_argument(
        '--count', type=program.ranges.COUNT, default=72, help='faces (default: %(default)s)'
    )
    p.add_argument(
        '--first-seed',
        type=program.ranges.SEED,
        default=0,
        help='seed of the first face; each next one is higher by 1 (default: %(default)s)',
    )
    p.add_argument(
        '--size',
        type=program.ranges.DRAWN_SIDE,
        default=512,
        help='side in pixels (default: %(default)s)',
    )
    p.add_argument(
        '--workers', type=program.ranges.THREADS, help='processes (default: one per core)'
    )
    p.add_argument(
        '--only',
        type=program.Several(program.ranges.NUMBER),
        help='numbers to draw, comma-separated; for the processes that `write` starts',
    )
    return p


def _draw_some(args: argparse.Namespace) -> None:
    """Draw the numbers of --only and report each on stdout, which is the pipe to `write`."""
    state = dict(count=args.count, first_seed=args.first_seed, size=args.size)
    for number in _draw(Path(args.folder), state, args.only):
        try:
            # One write: lines of several processes must not mix.
            os.write(sys.stdout.fileno(), b'%d\n' % number)
        except BrokenPipeError:
            return  # nobody waits for the rest


def _show(done: int, total: int) -> None:
    print(f'\r{done}/{total}', end='', flush=True)


if __name__ == '__main__':
    sys.exit(main())
