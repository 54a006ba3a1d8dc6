"""Convert annotations of CelebAMask-HQ to masks, or name masks with left and right swapped.

python -m faces.masks ANNOTATIONS OUT
python -m faces.masks --check MASKS
"""

import program

import argparse
import sys
from collections.abc import Sequence

from errors import BadFile
from sources.files import read_bytes
from sources.manifest import scan
from storage import check_apart, shown

from . import annotations, decode, sides


def check(folder: str) -> None:
    """Print each mask that is unusable or swapped, and the pairs that show it. Raises DataError."""
    masks = scan(folder, size=1).images
    swapped = 0
    for mask in masks:
        try:
            ids = decode(read_bytes(*mask.where))
        except (OSError, BadFile) as e:
            print(f'{shown(mask.path)}: {e}')
            continue
        # A pair that contradicts the majority is shown, but the mask is not counted.
        wrong = sides.contradicting(ids)
        swapped += sides.exchanged(ids)
        if wrong:
            outvoted = '' if sides.exchanged(ids) else ' (outvoted)'
            print(f'{shown(mask.path)}: {", ".join(wrong)}{outvoted}')
    print(f'{swapped:,} of {len(masks):,} masks have left and right swapped')


def _progress(done: int, total: int) -> None:
    """Show how many faces are done, in one line."""
    print(f'\r{done:,}/{total:,}', end='\n' if done == total else '', flush=True)


@program.entry
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; argv: arguments (default: those of this process)."""
    parser = argparse.ArgumentParser(
        prog='python -m faces.masks',
        description=__doc__,
        formatter_class=program.Formatter,
    )
    parser.add_argument('folder', help='annotations, or with --check masks')
    parser.add_argument('out', nargs='?', help='folder for the masks')
    parser.add_argument('--check', action='store_true')
    args = parser.parse_args(argv)
    if args.check == bool(args.out):
        parser.error('give either ANNOTATIONS OUT or --check MASKS')

    if args.check:
        check(args.folder)
    else:
        check_apart({'OUT': args.out}, {'ANNOTATIONS': args.folder})
        annotations.build(args.folder, args.out, progress=_progress)
    return 0


if __name__ == '__main__':
    sys.exit(main())
