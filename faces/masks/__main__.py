"""Masks painted from the annotations of CelebAMask-HQ, or masks whose left and right are exchanged named.

python -m faces.masks ANNOTATIONS OUT
python -m faces.masks --check MASKS
"""

import argparse
import sys

from errors import BadFile, DataError
from sources.files import read_bytes, shown
from sources.manifest import scan

from . import annotations, decode, sides


def check(folder):
    """Print each mask that is unusable or turned, and which of its pairs say so."""
    masks, turned = scan(folder, size=1).images, 0
    for mask in masks:
        try:
            ids = decode(read_bytes(*mask.where))
        except (OSError, BadFile) as e:
            print(f'{shown(mask.path)}: {e}')
            continue
        wrong = sides.contradicting(ids)
        turned += sides.exchanged(ids)
        if wrong:
            print(
                f'{shown(mask.path)}: {", ".join(wrong)}'
                + ('' if sides.exchanged(ids) else ' (outvoted)')
            )
    print(f'{turned:,} of {len(masks):,} masks have left and right exchanged')


def main():
    parser = argparse.ArgumentParser(
        prog='python -m faces.masks',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('folder', help='annotations, or with --check masks')
    parser.add_argument('out', nargs='?', help='folder for the masks')
    parser.add_argument('--check', action='store_true')
    a = parser.parse_args()
    if a.check == bool(a.out):
        parser.error('give either ANNOTATIONS OUT or --check MASKS')
    try:
        if a.check:
            check(a.folder)
        else:
            annotations.build(
                a.folder,
                a.out,
                progress=lambda done, total: print(
                    f'\r{done:,}/{total:,}', end='\n' if done == total else '', flush=True
                ),
            )
    except DataError as e:
        sys.exit(f'{e}')


if __name__ == '__main__':
    main()
