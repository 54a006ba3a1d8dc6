"""The verbs of prepare.py that look at a data set, or make another one of it."""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

import degrade
import storage
from dali_pipes import validation
from errors import DataError, RunError
from sources import listing, manifest, selection
from tasks import data as sources
from tasks import images
from training import log

LISTS = 'train.txt', 'val.txt'  # what `split` writes


def check_beside(out: Iterable[Path], images: Iterable[manifest.Image]) -> None:
    """Raise RunError for a folder of the images: what is written there would be one of them.

    A data set may be a list or a pattern, and lie in any number of folders.
    """
    sources = {os.path.realpath(os.path.dirname(image.where[0])) for image in images}
    for folder in out:
        if os.path.realpath(folder) in sources:
            raise RunError(
                f'--out {storage.shown(folder)} is a folder of DATA, which would be changed: give '
                '--out a place of its own'
            )


def scan(args: argparse.Namespace, **more: Any) -> manifest.Manifest:
    """Every usable face of --data, under a progress bar."""
    progress = log.bar('checking files')
    return selection.scan(args.data, size=args.size, progress=progress, **more)


def check_unique(source: str, names: Iterable[str], suffix: str) -> None:
    """Raise DataError where two images would be written to one file."""
    for name, times in Counter(names).items():
        if times > 1:
            raise DataError(
                f'{source} holds two images named {name}: both would be written to {name}{suffix}'
            )


def index(args: argparse.Namespace) -> None:
    """Check every file; name the bad ones with their reasons."""
    progress = log.bar('checking files')
    scanned = manifest.scan(args.data, size=args.size, progress=progress, verify=args.verify)
    kinds = Counter(f'{i.kind} {i.colour} {i.width}x{i.height}' for i in scanned.images)
    # Kinds first, since a bad mixture is seen there; then every bad file.
    for kind, count in kinds.most_common():
        print(f'{count:8,} {kind}')
    for bad in scanned.bad:
        print(f'     bad {storage.shown(bad.path)}: {bad.reason}')
    rest = f'{len(scanned.bad):,} bad'
    # Pairs and masks may be sound, and yet no faces.
    try:
        faces = selection.faces(scanned, args.data)
    except DataError as error:
        print(f'{len(scanned):,} images, {rest}. Not to train on as faces: {error}')
    else:
        print(f'{len(faces):,} images to train on at {args.size} px, {rest}')


def split(args: argparse.Namespace) -> None:
    """Write train.txt and val.txt, drawn by a seed."""
    scanned = scan(args)
    train_size = args.train_size or 1
    if args.val_size + train_size > len(scanned):
        raise DataError(
            f'{storage.shown(args.data)} holds {manifest.count_of(len(scanned))}, of which '
            f'--val-size {args.val_size:,} leaves less than {train_size:,} to train on: give '
            'smaller sizes, or more images'
        )

    # What is validated on depends on the seed, never on how many are trained on.
    train, val = scanned.split(args.val_size, args.seed)
    if args.train_size and args.train_size < len(train):
        _, drawn = train.split(args.train_size, args.seed)
        train = manifest.Manifest(drawn.images)
    parts = train, val
    lists = [listing.list_of(os.path.abspath(path) for path in part.paths) for part in parts]
    for name, part, text in zip(LISTS, parts, lists, strict=True):
        storage.write(args.out / name, text)
        print(f'{args.out / name}: {storage.counted(len(part), "image")}')


def annotate(args: argparse.Namespace) -> None:
    """Write a line for each image, like 00000.png (512,512,3)."""
    progress = log.bar('checking files')
    scanned = manifest.scan(args.data, size=args.size, progress=progress)
    # A name that a line cannot carry is refused before anything is written.
    names = [os.path.basename(image.path) for image in scanned.images]
    listing.list_of(names)
    lines = [
        f'{name} ({i.height},{i.width},3)\n' for name, i in zip(names, scanned.images, strict=True)
    ]
    storage.write(args.out, os.fsencode(''.join(lines)))
    print(f'{args.out}: {len(scanned):,} lines')


def degrade_all(args: argparse.Namespace) -> None:
    """Degrade every face, the same way every time: data for --val or --data."""
    recipe = degrade.recipe(args.recipe)
    if args.stacked and recipe.scale != 1:
        raise DataError(
            f'--stacked puts pictures of one size above each other, --recipe {args.recipe} makes '
            f'them {recipe.scale} times smaller: give one of {", ".join(degrade.SAME_SIZE)}, or '
            'leave --stacked out'
        )
    faces = scan(args, verify=True).images

    # Each face with the degradation that --val would give it, so that a set written once stays
    # comparable with one that is degraded on the fly.
    data = validation.Degraded(faces, recipe, size=args.size, lq_from_usm=not args.plain)
    check_beside((args.out, args.out / 'LQ', args.out / 'GT'), faces)
    check_unique(args.data, (data.name(i) for i in range(len(data))), '.png')

    def write(i: int) -> None:
        name, lq, gt = data[i]
        sides = {'LQ': lq, 'GT': gt}
        if args.stacked:
            sides = {'.': torch.cat([lq, gt], 1)}
        for side, image in sides.items():
            storage.write(Path(args.out, side, f'{name}.png'), images.png(image))

    quiet = not sys.stderr.isatty()
    with ThreadPoolExecutor() as pool:
        done = pool.map(write, range(len(data)))
        for _ in track(done, 'degrading', total=len(data), disable=quiet):
            pass
    where = f'{sources.STACKED if args.stacked else ""}{args.out}'
    print(
        f'{storage.counted(len(data), "pair")} in {args.out}: '
        f'python train.py --recipe {args.recipe} --val {where}, '
        f'or, to train on them, --data {where} --size {args.size}'
    )
