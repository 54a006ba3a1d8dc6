"""Look at a data set, cut samples from it, degrade it for good, and see what a run saw.

python tools/prepare.py index DATA                                    every file checked; the bad ones with their reasons
python tools/prepare.py split DATA --train-size 4000 --val-size 400   train.txt and val.txt, drawn by a seed
python tools/prepare.py degrade DATA --recipe ai6126_2024 --out val/  val/LQ and val/GT, the same every time: a folder for --val, or for --data
python tools/prepare.py degrade DATA --recipe hifacegan --stacked     one picture a pair, LQ above GT, for --val or --data stacked:pairs
python tools/prepare.py htj2k DATA --out htj2k/                       lossless copies that a GPU decodes, and a CPU faster than PNG
python tools/prepare.py annotate DATA --out meta_info.txt             lines like 00000.png (512,512,3)
python tools/prepare.py preview DATA --recipe ai6126_2024             a sheet of degraded faces with the numbers drawn for each
python tools/prepare.py priors DATA --parser runs/parser              facial priors for mfpsnet: dictionaries of eyes, nose and mouth, and the networks beside them
python tools/prepare.py replay runs/mine 12345 12346                  what samples 12345 and 12346 of that run were
"""

import argparse
import os
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch
from rich.progress import track

import dali_pipes
import degrade
import tasks
from config.schema import from_flat
from dali_pipes import validation
from dali_pipes.plan import Plan
from degrade import blur, noise, resize
from errors import BadFile, CheckpointError, DataError, RunError
from faces import landmarks
from faces import prior_file as store
from faces.masks import pairs
from faces.masks.reader import MaskReader
from sources import files, jph, manifest, order, stream
from sources.manifest import BadImage
from sources.reader import Reader
from tasks import data as sources
from tasks import priors as making
from training import checkpoint, log, pictures, run

WORDS = {
    'blur': ('kind', blur.KINDS),
    'resize': ('mode', resize.MODES),
    'noise': ('kind', noise.KINDS),
}  # numbers that have names


def scan(args, **more):
    return manifest.scan(args.data, size=args.size, progress=log.bar('checking files'), **more)


def index(args):
    found = scan(args, verify=args.verify)
    kinds = [f'{i.kind} {i.colour} {i.width}x{i.height}' for i in found.images]
    for kind in sorted(set(kinds), key=kinds.count, reverse=True):
        print(f'{kinds.count(kind):8,} {kind}')
    for bad in found.bad:
        print(f'     bad {files.shown(bad.path)}: {bad.reason}')
    print(f'{len(found):,} images to train on at {args.size} px, {len(found.bad):,} bad')


def split(args):
    found = scan(args)
    if args.val_size + (args.train_size or 1) > len(found):
        raise DataError(
            f'{args.data} holds {len(found):,} images, fewer than --train-size and --val-size ask for'
        )
    train, val = found.split(args.val_size, args.seed)
    if args.train_size:
        train = (
            manifest.Manifest(train.split(args.train_size, args.seed)[1].images)
            if args.train_size < len(train)
            else train
        )
    for name, part in ('train.txt', train), ('val.txt', val):
        run.write(
            args.out / name,
            os.fsencode(''.join(os.path.abspath(i.path) + '\n' for i in part.images)),
        )
        print(f'{args.out / name}: {len(part):,} images')


def degrade_all(args):
    recipe = degrade.recipe(args.recipe)
    if args.stacked and recipe.scale != 1:
        raise DataError(
            f'--stacked puts pictures of one size above each other, --recipe {args.recipe} makes them {recipe.scale} times smaller: '
            f'give one of {", ".join(degrade.SAME_SIZE)}, or leave --stacked out'
        )
    data = validation.Degraded(
        scan(args, verify=True).images, recipe, size=args.size, lq_from_usm=not args.plain
    )
    twice = next(
        (n for n, times in Counter(data.name(i) for i in range(len(data))).items() if times > 1),
        None,
    )
    if twice:
        raise DataError(
            f'{args.data} holds two images named {twice}: both would be written to {twice}.png'
        )

    def one(i):
        name, lq, gt = data[i]
        for side, image in (
            [('.', torch.cat([lq, gt], 1))] if args.stacked else [('LQ', lq), ('GT', gt)]
        ):
            run.write(
                args.out / side / f'{name}.png',
                cv2.imencode('.png', image.permute(1, 2, 0).numpy()[..., ::-1])[1].tobytes(),
            )

    with ThreadPoolExecutor() as pool:
        for _ in track(
            pool.map(one, range(len(data))),
            'degrading',
            total=len(data),
            disable=not sys.stderr.isatty(),
        ):
            pass
    where = f'{sources.STACKED if args.stacked else ""}{args.out}'
    print(
        f'{len(data):,} pairs in {args.out}: python train.py --recipe {args.recipe} --val {where}, or, to train on them, --data {where} --size {args.size}'
    )


def htj2k(args):
    """Every image of DATA as OUT/NAME.jph, NAME as in DATA, each read back by OpenCV and OpenJPH before it is written; those that are there, whole and not older than
    what they were made from are left alone."""
    if not jph.codec():
        raise DataError('HTJ2K is written by OpenJPH: pip install -e .[htj2k]')
    if Path(args.data).is_dir() and args.out.resolve().is_relative_to(Path(args.data).resolve()):
        raise DataError(
            f'--out {args.out} lies in {args.data}: the copies would be taken for faces of it; give a folder beside it'
        )
    found = manifest.scan(args.data, size=1, progress=log.bar('checking files'))
    root = (
        args.data
        if os.path.isdir(args.data)
        else os.path.commonpath([os.path.dirname(i.path) for i in found.images])
    )
    targets = [
        args.out / Path(os.path.relpath(i.path, root)).with_suffix('.jph') for i in found.images
    ]
    twice = next((t for t, times in Counter(targets).items() if times > 1), None)
    if twice:
        raise DataError(f'{args.data} holds two images that would be {twice}: rename one')

    def one(i):
        """What becomes of image i: (bytes before, bytes after), 0 of both where it was there, or BadImage."""
        image, target = found.images[i], targets[i]
        try:
            if _made(target, image):
                return 0, 0
            data = files.read_bytes(*image.where)
            pixels = files.decode(data)
        except BadFile as e:
            return BadImage(image.path, str(e))
        except OSError as e:
            return BadImage(image.path, f'cannot be read: {e.strerror}')
        written = jph.encode(pixels)
        for name, again in (
            ('OpenJPH', jph.decode(written)),
            ('OpenCV', cv2.imdecode(np.frombuffer(written, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]),
        ):
            if not np.array_equal(again, pixels):
                raise DataError(
                    f'{image.path}: {name} reads other pixels than were written; keep the file as it is, and please report it'
                )
        run.write(target, written)
        return len(data), len(written)

    with ThreadPoolExecutor() as pool:
        made = list(
            track(
                pool.map(one, range(len(found))),
                'rewriting',
                total=len(found),
                disable=not sys.stderr.isatty(),
            )
        )
    done = [m for m in made if not isinstance(m, BadImage)]
    manifest.report(args.data, done, [m for m in made if isinstance(m, BadImage)], False, print)
    new, (before, after) = sum(m != (0, 0) for m in done), map(sum, zip(*done))
    print(
        f'{args.out}: {new:,} images written, {len(done) - new:,} were there'
        + (f'; {after / 1e6:,.1f} MB, {after / before:.0%} of what they were' if new else '')
        + f'\nuse them with: python train.py --data {args.out}'
    )


def _made(path, image):
    """Whether the JPH file of an image is there, undamaged, and not older than the image. Raises OSError for an image that cannot be read."""
    of = os.stat(image.where[0]).st_mtime_ns
    try:
        return os.stat(path).st_mtime_ns >= of and bool(jph.check(files.read_bytes(path)))
    except (OSError, BadFile):
        return False


def annotate(args):
    found = scan(args)
    run.write(
        args.out,
        os.fsencode(
            ''.join(f'{os.path.basename(i.path)} ({i.height},{i.width},3)\n' for i in found.images)
        ),
    )
    print(f'{args.out}: {len(found):,} lines')


def preview(args):
    reader, recipe = Reader(scan(args).images, args.size), degrade.recipe(args.recipe)
    plan = Plan(len(reader), recipe, batch=1, size=args.size, seed=args.seed)
    show(plan, reader, range(args.count), args.out)


def replay(args):
    config = tasks.of_run(args.run)
    if config.task != 'restore':
        raise RunError(
            f'{args.run} is a run of --preset {config.preset}: samples are replayed of restorers only'
        )
    images, _ = sources.load_faces(config, say=lambda _: None)
    trained_on = run.read_config(args.run).get('images')
    if trained_on != sources.fingerprint(images):
        raise RunError(
            f'{args.run} was trained on {trained_on}; --data now holds {sources.fingerprint(images)}'
        )
    if isinstance(images, stream.Shards):
        raise RunError(
            f'{args.run} was trained on a stream: which image a sample was is not known any more'
        )
    if dali_pipes.is_paired(images):
        raise RunError(
            f'{args.run} was trained on the pairs of {config.data.data}: nothing was degraded'
        )
    recipe = degrade.recipe(config.degradation.recipe)
    plan = Plan(
        len(images),
        recipe._replace(pool=config.degradation.pair_pool),
        batch=config.optimization.batch,
        size=config.data.size,
        seed=config.run.seed,
        lq_from_usm=config.degradation.lq_from_usm,
        target_usm=config.degradation.target_usm,
    )
    show(plan, Reader(images, config.data.size), args.sample, args.out)


def priors(args):
    (parser, of), finder = (
        trained(args.parser, '--parser', 'parse_unet'),
        args.heatmaps and trained(args.heatmaps, '--heatmaps', 'heatmap_net'),
    )
    level = making.level(parser, of['size']) if args.level is None else args.level
    if not 0 <= level < len(parser.encoder):
        raise RunError(
            f'--level {level}: the parser has feature maps 0 to {len(parser.encoder) - 1}'
        )
    options_of_scan = dict(size=of['size'], progress=log.bar('checking files'))
    masked = pairs.is_parsing(args.data)
    images = (
        pairs.scan_pairs(args.data, repair=True, **options_of_scan)
        if masked
        else manifest.scan(args.data, **options_of_scan)
    ).images
    points = (
        landmarks.of(landmarks.read(args.landmarks), images, of['size']) if args.landmarks else None
    )
    reader, device = (
        (MaskReader if masked else Reader)(images, of['size']),
        torch.device(args.device),
    )
    numbers = sorted(order.permutation(0, len(images), args.seed)[: args.faces].tolist())
    with ThreadPoolExecutor() as pool:
        batches = making.batches(reader, numbers, points, args.batch, pool)
        seen = track(
            batches,
            'looking at faces',
            total=-(-len(numbers) // args.batch),
            disable=not sys.stderr.isatty(),
        )
        crops = making.collect(parser.to(device), level, seen, device)
    entries = making.build(crops, args.entries, args.seed, device)

    made_with = {
        'parser': {k: of[k] for k in ('network', 'net', 'size')},
        'dict': {name: list(e.shape) for name, e in entries.items()},
        'level': level,
        'faces': len(numbers),
    }
    tensors = {f'parser.{k}': v for k, v in parser.state_dict().items()} | {
        f'dict.entries.{name}': e for name, e in entries.items()
    }
    if finder:
        made_with['finder'] = {k: finder[1][k] for k in ('network', 'net', 'size')}
        tensors |= {f'finder.{k}': v for k, v in finder[0].state_dict().items()}
    data = store.pack(made_with, tensors)
    run.write(args.out, data)
    source = (
        f'points of {args.landmarks}'
        if args.landmarks
        else 'their masks'
        if masked
        else 'what the parser sees'
    )
    print(
        f'{args.out}: {len(data) / 1e6:.1f} MB; {", ".join(f"{name} {len(e)}" for name, e in entries.items())} entries of {next(iter(entries.values())).shape[1]} channels '
        f'from {len(numbers):,} faces, found by {source}; heatmaps by {args.heatmaps or "the predicted mask"}\nuse it with: python train.py --preset mfpsnet --prior {args.out}'
    )


def trained(path, flag, network):
    """(network of a run in eval mode with its weights, options of the run). Raises RunError where the run is of another one."""
    of = run.read_config(path) if Path(path).is_dir() else {}
    if of.get('network') != network:
        raise RunError(
            f'{flag} {path} is no run of {network}: '
            + (
                'python train.py --preset parse_prior makes one'
                if network == 'parse_unet'
                else 'python train.py --preset landmarks makes one'
            )
        )
    net = tasks.network(from_flat(of))
    checkpoint.load_weights(net, path)
    return net.eval().requires_grad_(False), of


def show(plan, reader, samples, path):
    """Print what each sample is, and write a sheet of them."""
    rows = []
    for n in samples:
        step = plan(np.array([n]))
        image, used = reader.image(int(step.index[0]))
        image = np.ascontiguousarray(image[:, ::-1]) if step.flip[0] else image
        batch = plan.finish(torch.from_numpy(image).permute(2, 0, 1)[None], step)
        lines = list(told(plan.recipe, degrade.take(step.params, 0), (plan.size, plan.size)))
        print(
            f'sample {n}: {files.shown(reader.images[used].path)}{", mirrored" if step.flip[0] else ""}\n    '
            + '\n    '.join(lines)
        )
        rows.append(
            (
                f'sample {n}',
                *((t[0] * 255).round().to(torch.uint8) for t in (batch.input, batch.target)),
                lines,
            )
        )
    pictures.sheet(path, rows)
    print(f'{path}: {len(rows)} samples')


def told(recipe, params, size):
    """One line for every stage that acts on a sample of this height and width: its name and numbers."""
    now = size
    for stage, p in zip(recipe.stages, params):
        values, before = p._asdict(), now
        now = values.get('size', now)
        if (
            not values.get('on', True)
            or values.get('quality', 1) == 0
            or values.get('side', 0) == 1
            or stage.op is blur
            and p.kind == blur.DELTA
            or stage.op is noise
            and p.kind == noise.NONE
            or stage.op is resize
            and resize.keeps(p, before)
        ):
            continue
        field, names = WORDS.get(stage.op.__name__.split('.')[-1], (None, ()))
        words = [
            names[int(v)] if k == field else f'{k} {_number(v)}'
            for k, v in values.items()
            if k not in ('on', 'up', 'seed', 'stream', 'number') and _matters(stage.op, p, k)
        ]
        yield f'{stage.name}: ' + ', '.join(words)


def _matters(op, p, field):
    """Whether a kind of blur uses a parameter at all."""
    if op is not blur:
        return True
    if p.kind == blur.MOTION:
        return field not in {'sigma_y', 'omega'}
    unused = {'omega'} if p.kind != blur.SINC else {'sigma_x', 'sigma_y', 'theta', 'beta'}
    unused |= (
        {'sigma_y', 'theta'} if p.kind in (blur.ISO, blur.GEN_ISO, blur.PLATEAU_ISO) else set()
    )
    return field not in unused | ({'beta'} if p.kind in (blur.ISO, blur.ANISO) else set())


def _number(v):
    return (
        'x'.join(_number(x) for x in v)
        if np.ndim(v)
        else f'{v:.3g}'
        if isinstance(v, (float, np.floating))
        else str(v)
    )


def parse(argv=None):
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = p.add_subparsers(dest='verb', required=True)

    def verb(name, function, out=None, data=True):
        v = verbs.add_parser(name, help=function.__name__.replace('_', ' '))
        v.set_defaults(function=function)
        if data:
            v.add_argument('data', help='HQ faces: folder, list of files, glob, or .tar shards')
            v.add_argument(
                '--size',
                type=int,
                default=512,
                help='training size in pixels (default: %(default)s)',
            )
        if out:
            v.add_argument('--out', type=Path, default=Path(out), help='default: %(default)s')
        return v

    verb('index', index).add_argument(
        '--verify', action='store_true', help='also decode every file'
    )
    v = verb('split', split, '.')
    v.add_argument('--train-size', type=int, help='images to train on (default: all the others)')
    v.add_argument('--val-size', type=int, required=True, help='images to validate on')
    v.add_argument('--seed', type=int, default=0, help='default: %(default)s')
    recipe = dict(
        default='ai6126_2024', help=f'{", ".join(degrade.RECIPES)} (default: %(default)s)'
    )
    v = verb('degrade', degrade_all, 'pairs')
    v.add_argument('--recipe', **recipe)
    v.add_argument(
        '--stacked',
        action='store_true',
        help='one picture a pair, the LQ above the GT, instead of two folders; of a recipe of one size',
    )
    v.add_argument(
        '--plain',
        action='store_true',
        help='degrade the plain face where the recipe has the sharpened one',
    )
    v = verb('htj2k', htj2k, 'htj2k', data=False)
    v.add_argument(
        'data', help='HQ faces: folder, list of files, glob, or .tar shards, of any size'
    )
    verb('annotate', annotate, 'meta_info.txt')
    v = verb('preview', preview, 'preview.png')
    v.add_argument('--recipe', **recipe)
    v.add_argument('--count', type=int, default=12, help='samples (default: %(default)s)')
    v.add_argument('--seed', type=int, default=0, help='default: %(default)s')
    v = verb('priors', priors, 'priors.safetensors', data=False)
    v.add_argument(
        'data',
        help='HQ training faces: folder, list of files, glob, or a folder of pictures and masks, which then tell where eyes, nose and mouth are',
    )
    v.add_argument(
        '--parser',
        required=True,
        help='run of parse_unet, trained on degraded faces (python train.py --preset parse_prior): its features are what the dictionaries are made of',
    )
    v.add_argument(
        '--heatmaps',
        help='run of --preset landmarks, whose heatmaps the file is to give (default: points of the mask that the parser sees)',
    )
    v.add_argument(
        '--landmarks',
        help='JSON file of 68 landmarks of every face, which then tell where eyes, nose and mouth are: {name: [[x, y], ...]} or ffhq-dataset-v2.json',
    )
    v.add_argument(
        '--entries', type=int, default=128, help='entries of each dictionary (default: %(default)s)'
    )
    v.add_argument(
        '--level',
        type=int,
        help='number of the feature map of the parser that they are of, 0 the finest (default: the one of at most 128 x 128 for a whole face)',
    )
    v.add_argument(
        '--faces',
        type=int,
        default=5000,
        help='faces to look at, drawn from all (default: %(default)s)',
    )
    v.add_argument('--batch', type=int, default=8, help='faces at a time (default: %(default)s)')
    v.add_argument(
        '--seed',
        type=int,
        default=0,
        help='of the choice of faces and the clusters (default: %(default)s)',
    )
    v.add_argument(
        '--device',
        default='cuda' if torch.cuda.is_available() else 'cpu',
        help='default: %(default)s',
    )
    v = verb('replay', replay, 'replay.png', data=False)
    v.add_argument('run', help='run directory')
    v.add_argument('sample', type=int, nargs='+', help='sample numbers, as in the log')
    return p.parse_args(argv)


def main(argv=None):
    args = parse(argv)
    try:
        args.function(args)
    except (DataError, RunError, CheckpointError, ValueError) as e:
        print(f'prepare.py: {e}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
