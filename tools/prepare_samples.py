"""Samples of a recipe, or of a run, with the numbers that were drawn for each."""

import argparse
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import dali_pipes
import degrade
import storage
import tasks
from config.schema import Config
from dali_pipes import mixed
from dali_pipes.plan import Plan
from degrade import recipe_text
from errors import RunError
from sources import addresses
from sources.reader import Reader
from tasks import data as sources
from training import pictures, run

from .prepare_data import scan


def preview(args: argparse.Namespace) -> None:
    """Write a sheet of degraded faces with the numbers drawn for each."""
    recipe = degrade.recipe(args.recipe)
    reader = Reader(scan(args).images, args.size)
    plan = Plan(len(reader), recipe, batch=1, size=args.size, seed=args.seed)
    show(plan, reader, range(args.count), args.out)


def recipe(args: argparse.Namespace) -> None:
    """Write a recipe as a file, to be changed and given to --recipe."""
    text = recipe_text.text(degrade.recipe(args.recipe))
    if args.out is None:
        print(text, end='')
        return
    if args.out.exists():
        raise RunError(f'--out {storage.shown(args.out)} is there already: give another name')
    storage.write(args.out, text.encode())
    print(f'{args.out}: change it, look with: prepare.py preview FACES --recipe {args.out}')


def replay(args: argparse.Namespace) -> None:
    """Show what samples of a run were."""
    config = tasks.of_run(args.run)
    if config.task != 'restore':
        raise RunError(
            f'{args.run} is a run of --preset {config.preset}: samples are replayed of restorers '
            'only'
        )
    images, _ = sources.load_faces(config, say=lambda _: None)
    trained_on, present = run.read_config(args.run).get('images'), sources.fingerprint(images)
    if trained_on != present:
        raise RunError(f'{args.run} was trained on {trained_on}; --data now holds {present}')
    if isinstance(images, addresses.Shards):
        raise RunError(
            f'{args.run} was trained on a stream: which image a sample was is not known any more'
        )
    if dali_pipes.is_paired(images):
        raise RunError(
            f'{args.run} was trained on the pairs of {config.data.data}: nothing was degraded'
        )

    # The plan of the run: what a sample was is a function of its number.
    assert config.degradation.recipe
    recipe = degrade.recipe(config.degradation.recipe)
    plan = Plan(
        len(images),
        recipe._replace(pool=config.degradation.pair_pool),
        batch=config.optimization.batch,
        size=config.data.size,
        seed=config.run.seed,
        lq_from_usm=config.degradation.lq_from_usm,
        target_usm=config.degradation.target_usm,
        target_gray=config.degradation.target_gray,
    )
    samples = _degraded(args.sample, config)
    show(plan, Reader(images, config.data.size), samples, args.out)


def _degraded(samples: Sequence[int], config: Config) -> list[int]:
    """Those that are not pairs of --mix, which are named. Raises RunError if none is left."""
    pairs = sources.mixed_in(config, say=lambda _: None)
    if pairs is None:
        return list(samples)
    places, index = mixed.drawn(np.array(samples), pairs, config.run.seed)
    for place, i in zip(places.tolist(), index.tolist(), strict=True):
        print(f'sample {samples[place]}: the pair {storage.shown(pairs.images[i].path)} of --mix')
    left = [n for place, n in enumerate(samples) if place not in places]
    if not left:
        raise RunError('all of these samples were pairs of --mix: nothing was degraded')
    return left


def show(plan: Plan, reader: Reader, samples: Iterable[int], path: Path) -> None:
    """Print what each sample is, and write a sheet of them."""
    rows = []
    for n in samples:
        step = plan(np.array([n]))
        image, used = reader.image(int(step.index[0]))
        if step.flip[0]:
            image = np.ascontiguousarray(image[:, ::-1])
        batch = plan.finish(torch.from_numpy(image).permute(2, 0, 1)[None], step)
        lines = list(told(plan.recipe, degrade.take(step.params, 0), (plan.size, plan.size)))

        mirrored = ', mirrored' if step.flip[0] else ''
        name = storage.shown(reader.images[used].path)
        print('\n    '.join([f'sample {n}: {name}{mirrored}', *lines]))
        lq, target = ((t[0] * 255).round().to(torch.uint8) for t in (batch.input, batch.target))
        rows.append((f'sample {n}', lq, target, lines))
    pictures.sheet(path, rows)
    print(f'{path}: {storage.counted(len(rows), "sample")}')


def told(recipe: degrade.Recipe, params: Any, size: Any) -> Iterator[str]:
    """One line for every stage that acts on a sample of this height and width: name and numbers."""
    for stage, p in zip(recipe.stages, params, strict=True):
        words = stage.op.told(p, np.array(size))
        if words:
            yield f'{stage.name}: ' + ', '.join(words)
        size = getattr(p, 'size', size)
