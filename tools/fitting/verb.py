"""The verb `fit` of prepare.py: real pictures in, a recipe and a page about it out."""

import argparse
import os
from pathlib import Path

import numpy as np

import degrade
import storage
import synthetic
from degrade import recipe_text, workers
from errors import RunError
from sources import selection
from sources.reader import Reader
from training import log

from . import page, search
from .estimators import measure
from .knobs import of

FEWEST = 20  # pictures; fewer say nothing about a distribution
FEW = 60  # pictures; fewer leave the ends of ranges vague
PUBLISHED = 'realesrgan'  # what a fit is compared with
DRAWN = 24  # synthetic faces, where none are given
MOST_FACES = 200  # of --data


def fit(args: argparse.Namespace) -> None:
    """Fit a recipe to low-quality faces: measure them, and choose ranges that measure the same."""
    # What cannot be is said before anything is measured.
    start, published = degrade.recipe(args.start), degrade.recipe(PUBLISHED)
    if not of(start):
        raise RunError(f'--from {args.start} has no stage whose ranges can be fitted')
    if args.size % start.scale:
        raise RunError(f'--size {args.size}: {start.name} needs a multiple of {start.scale}')
    _check_out(args.out)
    lq = _read(args.lq, args.size // start.scale)
    if len(lq) < FEWEST:
        raise RunError(
            f'{args.lq} holds {storage.counted(len(lq), "picture")} that can be measured: a fit '
            f'needs {FEWEST}, and is vague below {FEW}'
        )
    if len(lq) < FEW:
        print(f'{len(lq)} pictures are few: the ends of the ranges will be vague (from {FEW} on)')
    # Real pictures are measured once, synthetic ones many times.
    pool = workers.make(os.cpu_count() or 1)
    faces = search.Faces(_faces(args), pool, args.seed)
    real = page.Measured('real', np.stack(list(pool.map(measure, lq))), lq)

    found = search.fitted(start, real.values, faces, args.count, log.bar('fitting'))
    found = found._replace(name=args.out.stem)

    # Pictures that the search has not seen.
    first = search.SWEEPS * args.count
    before, after = (
        page.Measured(name, *search.simulated(r, faces, first, args.count)[1:])
        for name, r in ((PUBLISHED, published), ('fitted', found))
    )
    pool.shutdown()
    _write(args, real, before, after, found)


def _check_out(out: Path) -> None:
    """Raise RunError where a file would be written over, or be no recipe to others."""
    if out.suffix != '.toml':
        raise RunError(f'--out {storage.shown(out)}: a recipe is a file that ends with .toml')
    for path in (out.with_suffix(suffix) for suffix in ('.toml', *page.SUFFIXES)):
        if path.exists():
            raise RunError(f'--out {storage.shown(path)} is there already: give another name')


def _read(source: str, side: int) -> list[np.ndarray]:
    """[side, side, 3] uint8 each: larger pictures are brought to that size."""
    # The same way as training data are brought to size: area-resized and centre-cropped.
    reader = Reader(selection.scan(source, size=side).images, side)
    return [reader.image(i)[0] for i in range(len(reader))]


def _faces(args: argparse.Namespace) -> list[np.ndarray]:
    """The good pictures that synthetic ones are made of."""
    if args.data is None:
        print('no --data: made of synthetic faces, whose colours and details are not real ones')
        return [synthetic.face(seed, args.size).image for seed in range(DRAWN)]
    reader = Reader(selection.scan(args.data, size=args.size).images[:MOST_FACES], args.size)
    return [reader.image(i)[0] for i in range(len(reader))]


def _write(
    args: argparse.Namespace,
    real: page.Measured,
    before: page.Measured,
    after: page.Measured,
    found: degrade.Recipe,
) -> None:
    """Write the recipe and the page, and print the table."""
    # The recipe first: it is what a page about it is for.
    rows = page.table(real, before, after)
    text = f'# Fitted to {len(real.values)} pictures.\n\n' + recipe_text.text(found)
    storage.write(args.out, text.encode())
    page.write(args.out, real, before, after, text)
    print(
        f'{"Kolmogorov-Smirnov distance from the real pictures":52} {PUBLISHED:>12} {"fitted":>8}'
    )
    for title, b, a in rows:
        print(f'{title:52} {b:12.3f} {a:8.3f}')
    names = ', '.join(str(args.out.with_suffix(s)) for s in ('.toml', *page.SUFFIXES))
    print(f'{names}: look at the pictures; then train with --recipe {args.out}')
