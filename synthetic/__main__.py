"""Draw synthetic faces into a folder: FOLDER/images, FOLDER/masks, FOLDER/landmarks.json.

python -m synthetic FOLDER --count 72
"""

import argparse
import os
import sys
from pathlib import Path

import cv2

from . import _draw, write


def main():
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
        '--only', help='numbers to draw, comma-separated; what `write` gives to its processes'
    )
    a = parser.parse_args()
    cv2.setNumThreads(1)
    if a.only:
        state = dict(count=a.count, first_seed=a.first_seed, size=a.size)
        for number in _draw(Path(a.folder), state, map(int, a.only.split(','))):
            try:
                os.write(
                    sys.stdout.fileno(), b'%d\n' % number
                )  # one write: lines of several processes must not mix
            except BrokenPipeError:
                return  # nobody waits for the rest
    else:
        progress = lambda done, total: print(f'\r{done}/{total}', end='', flush=True)  # noqa: E731
        try:
            write(a.folder, a.count, a.first_seed, a.size, a.workers, progress)
        except (OSError, RuntimeError) as e:
            sys.exit(f'{e}')
        print()


if __name__ == '__main__':
    main()
