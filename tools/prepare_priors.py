"""Facial priors for mfpsnet: dictionaries of eyes, nose and mouth, and their networks."""

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.progress import track
from torch import Tensor

import storage
import tasks
from config import stored
from errors import RunError
from faces import landmarks, prior_file
from faces.masks import pairs
from faces.masks.reader import MaskReader
from sources import order, selection
from sources.reader import Reader
from tasks import priors as making
from tasks import shipped
from training import checkpoint, log

MADE_BY = {'parse_unet': 'parse_prior', 'heatmap_net': 'landmarks'}  # network -> preset


class Trained(NamedTuple):
    """A finished run."""

    net: Any  # in eval mode, with its weights
    made_with: prior_file.Trained


class Faces(NamedTuple):
    """Pictures, and what says where their components are."""

    reader: Any
    points: Any  # [N, 68, 2], or None
    source: str  # in words
    numbers: list[int]  # of those that are looked at


def priors(args: argparse.Namespace) -> None:
    """Make the file of facial priors that mfpsnet is guided by."""
    parser = trained(args.parser, '--parser', 'parse_unet')
    finder = None
    if args.heatmaps:
        finder = trained(args.heatmaps, '--heatmaps', 'heatmap_net')
    size = parser.made_with['size']
    level = making.level(parser.net, size) if args.level is None else args.level
    if not 0 <= level < len(parser.net.encoder):
        last = len(parser.net.encoder) - 1
        raise RunError(f'--level {level}: the parser has feature maps 0 to {last}')

    faces = _faces(args, size)
    entries = _entries(args, parser.net, level, faces)
    made_with = {
        'parser': parser.made_with,
        'dict': {name: list(e.shape) for name, e in entries.items()},
        'level': level,
        'faces': len(faces.numbers),
    }
    tensors = {f'parser.{k}': v for k, v in parser.net.state_dict().items()}
    tensors |= {f'dict.entries.{name}': e for name, e in entries.items()}
    if finder:
        made_with['finder'] = finder.made_with
        tensors |= {f'finder.{k}': v for k, v in finder.net.state_dict().items()}
    data = prior_file.pack(made_with, tensors)
    storage.write(args.out, data)

    counts = ', '.join(f'{name} {len(e)}' for name, e in entries.items())
    channels = next(iter(entries.values())).shape[1]
    print(
        f'{args.out}: {len(data) / 1e6:.1f} MB; {counts} entries of {channels} channels from '
        f'{len(faces.numbers):,} faces, found by {faces.source}; heatmaps by '
        f'{args.heatmaps or "the predicted mask"}\n'
        f'use it with: python train.py --preset mfpsnet --prior {args.out}'
    )


def _faces(args: argparse.Namespace, size: int) -> Faces:
    """What is looked at, drawn from all faces, and what says where things are."""
    progress = log.bar('checking files')
    masked = pairs.is_parsing(args.data)
    reader: Any
    if masked:
        with_masks = pairs.scan_pairs(args.data, repair=True, size=size, progress=progress).images
        images: list[Any] = with_masks
        reader = MaskReader(with_masks, size)
    else:
        images = selection.scan(args.data, size=size, progress=progress).images
        reader = Reader(images, size)

    points, source = None, 'their masks' if masked else 'what the parser sees'
    if args.landmarks:
        points = landmarks.of(landmarks.read(args.landmarks), images, size)
        source = f'points of {args.landmarks}'
    drawn = order.permutation(0, len(images), args.seed)[: args.faces]
    return Faces(reader, points, source, sorted(drawn.tolist()))


def _entries(args: argparse.Namespace, parser: Any, level: int, faces: Faces) -> dict[str, Tensor]:
    """{component: entries of its dictionary}"""
    device = torch.device(args.device)
    quiet = not sys.stderr.isatty()
    total = -(-len(faces.numbers) // args.batch)
    with ThreadPoolExecutor() as pool:
        batches = making.batches(faces.reader, faces.numbers, faces.points, args.batch, pool)
        watched = track(batches, 'looking at faces', total=total, disable=quiet)
        crops = making.collect(parser.to(device), level, watched, device)
    return making.build(crops, args.entries, args.seed, device)


def trained(path: str, flag: str, network: str) -> Trained:
    """A run of this network. Raises RunError where the run is of another one."""
    path = shipped.resolved(path)
    config = stored.made_with(path) if Path(path).exists() else None
    if config is None or config.network.network != network:
        raise RunError(
            f'{flag} {path} is no run of {network}: python train.py --preset {MADE_BY[network]} '
            'makes one'
        )
    net, _ = checkpoint.network_with_weights(lambda: tasks.network(config), path)
    made_with = prior_file.Trained(network=network, net=config.network.net, size=config.data.size)
    return Trained(net.eval().requires_grad_(False), made_with)
