"""Draw synthetic faces into a folder: FOLDER/images, FOLDER/masks, FOLDER/landmarks.json.

python -m synthetic FOLDER --count 72
"""

import argparse
import os
import sys
from pathlib import Path

import cv2

from . import _draw, write


def main() -> None:
    """Draw what the command line asks for."""
    args = _parsed()
    cv2.setNumThreads(1)
    if args.only:
        _draw_some(args)
        return
    try:
        write(args.folder, args.count, args.first_seed, args.size, args.workers, _show)
    except (OSError, RuntimeError) as e:
        sys.exit(f'{e}')
    print()


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='python -m synthetic',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('folder')
    parser.add_argument('--count', type=int, default=72)
    parser.add_argument('--first-seed', type=int, default=0)
    parser.add_argument('--size', type=int, default=512)
    parser.add_argument('--workers', type=int)
    parser.add_argument(
        '--only', help='numbers to draw, comma-separated; for the processes that `write` starts'
    )
    return parser.parse_args()


def _draw_some(args: argparse.Namespace) -> None:
    """Draw the numbers of --only and report each on stdout, which is the pipe to `write`."""
    state = dict(count=args.count, first_seed=args.first_seed, size=args.size)
    for number in _draw(Path(args.folder), state, map(int, args.only.split(','))):
        try:
            # One write: lines of several processes must not mix.
            os.write(sys.stdout.fileno(), b'%d\n' % number)
        except BrokenPipeError:
            return  # nobody waits for the rest


def _show(done: int, total: int) -> None:
    print(f'\r{done}/{total}', end='', flush=True)


if __name__ == '__main__':
    main()
