"""Restore images with a trained network, or name the parts of faces with a parser.

python infer.py                                                  the validation inputs of the newest run
python infer.py --run runs/mine --input LQ/ --output restored/   a folder (or a file), same names out, 8-bit RGB PNG
python infer.py --run runs/mine --input LQ/ --gt GT/             also prints PSNR and SSIM of the saved files
python infer.py --weights MSRResNet.pth --input face.png         a checkpoint from elsewhere; the network is told by its weights
python infer.py --run runs/parser --input faces/ --output masks/ masks as palette PNG, and in masks-colour/ over the pictures
"""

import argparse
import functools
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch
from rich.progress import track

import models
from config import options
from errors import BadFile, CheckpointError, DataError, MetricError, RunError
from faces import masks
from metrics import perceptual
from metrics.miou import Confusion
from metrics.psnr import psnr
from metrics.ssim import ssim
from sources import files
from tasks import data as sources
from tasks import parse as parsing
from tasks import restore
from tasks.players import ahead, grouped
from training import checkpoint, run


def parse(argv=None):
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument(
        '--run',
        help='run directory; its final weights are used, or the newest average of one that still runs (default: the newest under runs/)',
    )
    p.add_argument(
        '--weights', help='weights instead of a run: .safetensors, or .pth as BasicSR saves them'
    )
    p.add_argument(
        '--input', help="image or folder of any sizes (default: the run's validation inputs)"
    )
    p.add_argument(
        '--output',
        help='folder to write to, or a file name for a single image (default: RUN/restored)',
    )
    p.add_argument(
        '--gt',
        help='folder of ground truth with the same names, or one file: prints PSNR and SSIM of the saved 8-bit images',
    )
    p.add_argument(
        '--lpips',
        help="weights of torchvision's AlexNet or VGG16, a file: with --gt, LPIPS, too (pip install -e .[lpips])",
    )
    p.add_argument(
        '--tta',
        action='store_true',
        help='average with the restoration of the mirror image: twice the time, a little more PSNR',
    )
    p.add_argument(
        '--batch',
        type=int,
        default=8,
        help='images of one size restored together (default: %(default)s)',
    )
    p.add_argument(
        '--precision', choices=('bf16', 'fp16', 'fp32'), help='default: as the run was trained'
    )
    p.add_argument(
        '--device',
        default='cuda' if torch.cuda.is_available() else 'cpu',
        help='default: %(default)s',
    )
    return p.parse_args(argv)


def load(args):
    """(network on the device in eval mode, config of its run or None, default output folder)."""
    if args.weights and args.run:
        raise RunError('--run and --weights both name a network: give one')
    try:
        torch.empty(0, device=args.device)
    except (
        RuntimeError,
        AssertionError,
    ) as e:  # no such device, no driver, or a torch without CUDA
        raise RunError(
            f'--device {args.device} cannot be used ({str(e).splitlines()[0]}): give cuda if there is a GPU, else cpu'
        ) from e
    if args.weights:
        path, config, home = args.weights, None, Path('.')
        try:
            net = models.like(checkpoint.read_weights(path)[0])
        except ValueError as e:
            raise RunError(f'--weights {path}: {e}') from e
    else:
        path = home = Path(args.run or run.newest())
        if not (home / 'config.json').is_file():
            raise RunError(f'--run {home} is no run directory: it has no config.json')
        config = run.read_config(home)
        net = options.network(config)
    read = checkpoint.load_weights(net, path)
    print(f'{read}: {models.count(net):,} parameters')
    return net.to(args.device, memory_format=torch.channels_last).eval(), config, home / 'restored'


def inputs(args, config):
    """([name], function of a name's number -> [3, h, w] uint8, function -> ground truth or None)."""
    if args.input is None:
        if config is None:
            raise RunError('--input is needed with --weights')
        _, sets = sources.load(config, say=lambda _: None)
        val = next(iter(sets.values()))
        names = [val.name(i) for i in range(len(val))]
        known = Counter(names)  # faces of several folders may share a name
        return [
            name if known[name] == 1 else f'{name}-{i}' for i, name in enumerate(names)
        ], lambda i: val[i][1:]
    paths = _images(args.input, '--input')
    truths = _truths(args.gt, paths) if args.gt else [None] * len(paths)
    read_truth = _read_mask if _parses(config) else _read
    return [p.stem for p in paths], lambda i: (
        _read(paths[i]),
        read_truth(truths[i]) if truths[i] else None,
    )


def _images(source, flag):
    source = Path(source)
    if not source.exists():
        raise RunError(f'{flag} {source} does not exist')
    found = (
        sorted(p for p in source.iterdir() if p.suffix.lower() in files.SUFFIXES)
        if source.is_dir()
        else [source]
    )
    if not found:
        raise RunError(f'{flag} {source} holds no image ({", ".join(files.SUFFIXES)})')
    stems = [p.stem for p in found]
    twice = next((s for s in stems if stems.count(s) > 1), None)
    if twice:
        raise RunError(
            f'{flag} {source} holds two images named {twice}: both would be written to {twice}.png'
        )
    return found


def _truths(source, paths):
    if Path(source).is_file() and len(paths) == 1:
        return [Path(source)]
    known = {p.stem: p for p in _images(source, '--gt')}
    missing = [p.name for p in paths if p.stem not in known]
    if missing:
        raise RunError(
            f'--gt {source} lacks {len(missing)} of {len(paths)} images, e.g. {", ".join(missing[:3])}'
        )
    return [known[p.stem] for p in paths]


def _read(path):
    try:
        return torch.from_numpy(files.decode(path.read_bytes())).permute(2, 0, 1)
    except (OSError, BadFile) as e:
        raise RunError(f'{path}: {e}') from e


def _read_mask(path):
    try:
        return torch.from_numpy(masks.decode(path.read_bytes()))
    except (OSError, BadFile) as e:
        raise RunError(f'{path}: {e}') from e


def _parses(config):
    return config is not None and config.get('task') == 'parse'


def _in_groups(names, get, batch, doing):
    """Groups of (name, image, truth or None) of one size, read ahead, under a progress bar."""
    with ThreadPoolExecutor(4) as pool:
        items = ahead(pool, lambda i: (names[i], *get(i)), len(names), 2 * batch)
        yield from grouped(
            track(items, doing, total=len(names), disable=not sys.stderr.isatty()), batch
        )


@torch.no_grad()
def parse_all(net, names, get, folder, args, autocast):
    """Write masks to `folder` and pictures under them to `folder`-colour -> metrics.miou.Scores, None without a ground truth."""
    confusion, colour = Confusion(len(masks.CLASSES)), folder.with_name(folder.name + '-colour')
    for group in _in_groups(names, get, args.batch, 'parsing'):
        with autocast():
            found = parsing.parse(
                net, torch.stack([image for _, image, _ in group]).to(args.device), args.tta
            ).cpu()
        for (name, image, truth), ids in zip(group, found):
            run.write(folder / f'{name}.png', masks.png(ids.numpy()))
            run.write(colour / f'{name}.png', _png(parsing.overlay(image, ids)))
            if truth is not None:
                if truth.shape != ids.shape:
                    raise RunError(
                        f'{name}: the mask is {tuple(ids.shape)}, the ground truth {tuple(truth.shape)} (height, width)'
                    )
                confusion.update(ids, truth)
    return confusion.compute() if confusion.counts.any() else None


def _is_picture(path):
    """Whether --output names a picture, not a folder, which may have a dot in its name, too; RunError for one that is no PNG."""
    if path.is_dir() or path.suffix.lower() not in files.SUFFIXES:
        return False
    if path.suffix.lower() != '.png':
        raise RunError(
            f'--output {path}: pictures are written as PNG; give {path.with_suffix(".png").name}, or a folder'
        )
    return True


def _png(image):
    return cv2.imencode('.png', image.permute(1, 2, 0).numpy()[..., ::-1])[1].tobytes()


@torch.no_grad()
def restore_all(net, names, get, folder, args, autocast):
    """Restore, save, and score the saved files -> [{metric: value}], empty without a ground truth."""
    scores, lpips = [], perceptual.lpips(args.lpips, args.device) if args.lpips else None
    for group in _in_groups(names, get, args.batch, 'restoring'):
        lq = torch.stack([lq for _, lq, _ in group]).to(args.device)
        with autocast():
            out = restore.restore(net, lq, args.tta).cpu()
        for (name, _, gt), image in zip(group, out):
            path = folder if _is_picture(folder) else folder / f'{name}.png'
            run.write(path, _png(image))
            if gt is not None:
                scores.append(_score(path, gt.to(args.device), name, lpips))
    return scores


def _score(path, gt, name, lpips):
    saved = _read(path).to(gt.device)
    if saved.shape != gt.shape:
        raise RunError(
            f'{name}: the restored image is {tuple(saved.shape[1:])}, the ground truth {tuple(gt.shape[1:])} (height, width)'
        )
    metrics = {'PSNR': psnr, 'SSIM': ssim} | ({'LPIPS': lpips} if lpips else {})
    return {k: float(metric(saved[None], gt[None])[0]) for k, metric in metrics.items()}


def main(argv=None):
    args = parse(argv)
    try:
        net, config, home = load(args)
        if config and config.get('task') == 'landmarks':
            raise RunError(
                f'--run {home.parent} finds landmarks, for a restorer: tools/prepare.py priors takes it; give the run of a restorer or of a parser'
            )
        if args.lpips and (_parses(config) or args.input and not args.gt):
            raise RunError(
                f'--lpips {args.lpips} compares restored images with their ground truth: give --gt'
            )
        names, get = inputs(args, config)
        folder = Path(args.output or home)
        folder = (
            folder if folder.name not in ('', '..') else folder.resolve()
        )  # beside . there is no .-colour
        if _is_picture(folder) and len(names) > 1:
            raise RunError(f'--output {folder} is one file, --input holds {len(names)}')
        try:
            (folder.parent if _is_picture(folder) else folder).mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise RunError(f'--output {folder} cannot be made: {e.strerror}') from e
        precision = args.precision or (config['precision'] if config else 'fp32')
        half = torch.float16 if precision == 'fp16' else torch.bfloat16
        autocast = functools.partial(
            torch.autocast, torch.device(args.device).type, half, enabled=precision != 'fp32'
        )
        if _parses(config):
            if _is_picture(folder):
                raise RunError(
                    f'--output {folder}: a folder is wanted, for masks, and {folder.stem}-colour beside it'
                )
            found = parse_all(net, names, get, folder, args, autocast)
            print(f'{len(names)} masks written to {folder}, pictures to {folder}-colour')
            if found:
                print(
                    f'mIoU: {found.miou:.4f} %, mean F1: {found.f1:.4f} %, pixel accuracy: {found.accuracy:.4f} %'
                )
            return 0
        scores = restore_all(net, names, get, folder, args, autocast)
    except (RunError, DataError, CheckpointError, MetricError) as e:
        print(f'infer.py: {e}', file=sys.stderr)
        return 2
    print(f'{len(names)} images restored to {folder}')
    if scores:
        mean = {k: np.mean([s[k] for s in scores]) for k in scores[0]}
        print(
            f'PSNR: {mean.pop("PSNR"):.4f} dB'
            + ''.join(f', {k}: {v:.4f}' for k, v in mean.items())
            + f', over {len(scores)} images'
        )
    return 0


if __name__ == '__main__':
    sys.exit(main())
