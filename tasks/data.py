"""What a run trains and validates on: the synthetic faces, or what --data and --val name."""

import functools
import hashlib
import os

import degrade
import synthetic
from dali_pipes import validation
from errors import DataError
from faces import landmarks
from faces.masks import pairs
from sources import manifest, stream
from sources.files import shown

STACKED = 'stacked:'  # before the path of pairs stored above each other
TRAIN_FACES, VAL_FACES, VAL_SEED = (
    112,
    12,
    1_000_000,
)  # synthetic faces to train and to validate on, drawn from different seeds


def load(c, say=print, bar=lambda title: None):
    """(images to train on, {name: validation set}) of a run's options; the images are a list of manifest.Image, of manifest.Pair where data is a folder of LQ and GT, of
    manifest.Stacked where it is `stacked:PATH`, or stream.Shards where it is an address.

    c:   dict with data, val, size, recipe, lq_from_usm, seed, strict, verify, as in config.json; val is a list of `path`, `name=path`, or a number or share to hold out; `stacked:` is before
         the path of pairs stored above each other. Of a recipe pairs only need the scale; they are validated on as they are.
    bar: function of a title -> progress callable (done, total) or None
    With tasks 'parse' and 'landmarks' the images are a list of masks.pairs.Pair, and so is what --val names; repair puts exchanged sides of those to train on right.
    With landmarks, a JSON file of 68 points, they are lists of manifest.Image again.
    Raises DataError for anything unusable.
    """
    if c.get('task') in ('parse', 'landmarks'):
        return _load_pairs(
            c, say, bar, landmarks.read(c['landmarks']) if c.get('landmarks') else None
        )
    scan = functools.partial(
        manifest.scan,
        size=c['size'],
        verify=bool(c.get('verify')),
        strict=bool(c.get('strict')),
        progress=bar('checking files'),
        say=say,
    )
    degraded = functools.partial(
        validation.Degraded,
        recipe=degrade.recipe(c['recipe']),
        size=c['size'],
        lq_from_usm=c['lq_from_usm'],
    )
    named = [_named(v) for v in ([c['val']] if isinstance(c['val'], str) else c['val'] or ())]
    if c['data'] is None:
        train, held = (
            scan(str(_draw(c['size'], *which, bar)))
            for which in (('train', TRAIN_FACES, 0), ('val', VAL_FACES, VAL_SEED))
        )
        named = named or [('val', None)]
    elif stream.is_url(c['data']) and not c['data'].startswith(STACKED):
        train = _stream(c, named, say)
    else:
        stored = c['data'].startswith(STACKED) or manifest.is_paired(c['data'], both=True)
        train, held = _stored(c, bar, say) if stored else _single(scan(c['data']), c['data']), None
        named = named or [('val', '0.01')]
    sets = {}
    for name, path in named:
        if name in sets:
            raise DataError(f'--val {name}: two validation sets of that name; give NAME=PATH')
        if path is None:
            sets[name] = degraded(held.images)
        elif _is_count(path):
            train, held = _held_out(train, path, c['seed'])
            sets[name] = {
                manifest.Pair: validation.Pairs,
                manifest.Stacked: validation.Stacked,
            }.get(type(held.images[0]), degraded)(held.images)
        elif path.startswith(STACKED):
            found = _stacked(c, '--val', path, say=say)
            sets[name] = validation.Stacked(found)
            train = _without(train, [i.path for i in found], c, path, say)
        elif manifest.is_paired(path):
            found = manifest.scan_pairs(path, degrade.recipe(c['recipe']).scale, say=say)
            sets[name] = validation.Pairs(found)
            train = _without(train, [p.gt.path for p in found], c, path, say)
        else:
            held = scan(path)
            sets[name] = degraded(held.images)
            train = _without(train, held.paths, c, path, say)
    return train if isinstance(train, stream.Shards) else train.images, sets


def _without(train, paths, c, val, say):
    """What there is to train on, less these files of a validation set."""
    if isinstance(train, stream.Shards):
        return train
    rest = train.without(paths)
    if len(rest) < len(train):
        say(f'{len(train) - len(rest):,} images of --val {val} are left out of training')
    if not len(rest):
        raise DataError(f'--data {c["data"]} holds nothing but the images of --val {val}')
    return rest


def _held_out(train, count, seed):
    """(rest, held) of a Manifest, for a number or share as --val has it."""
    if not float(count):
        raise DataError(
            f'--val {count} leaves nothing to validate on: give a number from 1, a share below 1, or a set'
        )
    return train.split(float(count) if '.' in count else int(count), seed)


def _single(found, data):
    """Manifest of faces, once it is clear that no LQ is among them."""
    folder = manifest.pairs_in(found)
    if folder:
        raise DataError(
            f'--data {data} holds pairs: '
            + (
                f'give --data {shown(folder)}, or the GT in it for its faces alone'
                if os.path.isdir(folder)
                else f'unpack {shown(folder)} and give the folder with LQ/ and GT/'
            )
        )
    return found


def _stored(c, bar, say):
    """Manifest of stored pairs."""
    for k, flag, remedy in (
        ('target_usm', '--target-usm', '--no-target-usm'),
        ('pair_pool', '--pair-pool', '--pair-pool 0'),
    ):
        if c.get(k):
            raise DataError(
                f'{flag} is for faces that are degraded while training; --data {c["data"]} holds pairs: give {remedy}'
            )
    how = dict(
        size=c['size'],
        strict=bool(c.get('strict')),
        verify=bool(c.get('verify')),
        progress=bar('checking files'),
        say=say,
    )
    stacked = c['data'].startswith(STACKED)
    return manifest.Manifest(
        _stacked(c, '--data', c['data'], **how)
        if stacked
        else manifest.scan_pairs(c['data'], degrade.recipe(c['recipe']).scale, **how)
    )


def _stacked(c, flag, path, **how):
    """List of manifest.Stacked of `stacked:PATH`."""
    source, scale = path.removeprefix(STACKED), degrade.recipe(c['recipe']).scale
    if scale != 1:
        raise DataError(
            f'{flag} {path}: pairs above each other are of one size, but --recipe {c["recipe"]} is for enlarging {scale}x; '
            f'recipes of one size: {", ".join(degrade.SAME_SIZE)}'
        )
    if stream.is_url(source):
        raise DataError(f'{flag} {path}: pairs are read from a disk: copy them there')
    return manifest.scan_stacked(source, **how)


def _load_pairs(c, say, bar, points=None):
    """points: what landmarks.read found, which takes the place of masks"""
    if points is not None and pairs.is_parsing(c['data']):
        raise DataError(
            f'--data {c["data"]} holds masks beside its pictures: with --landmarks give the folder of the pictures alone'
        )
    scan = (
        functools.partial(pairs.scan_pairs, repair=c['repair']) if points is None else manifest.scan
    )
    scan = functools.partial(
        scan,
        size=c['size'],
        verify=bool(c.get('verify')),
        strict=bool(c.get('strict')),
        progress=bar('checking files'),
        say=say,
    )
    named = [_named(v) for v in ([c['val']] if isinstance(c['val'], str) else c['val'] or ())] or [
        ('val', None if c['data'] is None else '0.1')
    ]
    if c['data'] is None:
        train, drawn = (
            scan(str(_draw(c['size'], *which, bar).parent))
            for which in (('train', TRAIN_FACES, 0), ('val', VAL_FACES, VAL_SEED))
        )
    else:
        train, drawn = scan(c['data']), None
    sets = {}
    for name, path in named:
        if name in sets:
            raise DataError(f'--val {name}: two validation sets of that name; give NAME=PATH')
        if path is None:
            held = drawn
        elif _is_count(path):
            train, held = _held_out(train, path, c['seed'])
        else:
            held = scan(path)
            train = train.without(held.paths)
            if not len(train):
                raise DataError(f'--data {c["data"]} holds nothing but the faces of --val {path}')
        if points is not None:
            sets[name] = validation.Pointed(
                held.images,
                landmarks.of(points, held.images, c['size']),
                c['recipe'] and degrade.recipe(c['recipe']),
                size=c['size'],
            )
            continue
        sets[name] = validation.Parsed(
            [pair._replace(swap=False) for pair in held.images],
            c['recipe'] and degrade.recipe(c['recipe']),
            size=c['size'],
        )
    return train.images, sets


def _stream(c, named, say):
    """Shards of an address, once it is clear that nothing is asked of them that needs all images."""
    if not named or any(_is_count(path) for _, path in named):
        raise DataError(
            f'--data {c["data"]} is a stream, of which no share can be held out: give --val a folder of pairs or of faces that are not in it'
        )
    if c.get('verify') or c.get('strict'):
        say('--verify and --strict do nothing for a stream: its images are judged as they pass')
    return stream.find(c['data'])


def _is_count(path):
    """Whether a --val is a number or a share."""
    return path.replace('.', '', 1).isdigit()


def _named(val):
    """'name=path' or 'path' -> (name, path); a path's own name is the name, unless it is a number."""
    name, equals, path = val.partition('=')
    if equals and not os.path.exists(val):
        return name, path
    return (
        'val' if _is_count(val) else os.path.basename(os.path.normpath(val.removeprefix(STACKED)))
    ), val


def _draw(size, name, count, seed, bar):
    folder = manifest.cache_folder() / f'faces-{size}-v{synthetic.VERSION}' / name
    try:
        synthetic.write(
            folder,
            count,
            first_seed=seed,
            size=size,
            progress=bar(f'drawing {count} synthetic faces ({name})'),
        )
    except (FileExistsError, RuntimeError) as e:
        raise DataError(f'synthetic faces: {e}') from e
    return folder / 'images'


def fingerprint(images):
    """Which files (of a stream: shards) are trained on, by name and order: a resumed run must see the same."""
    paths = images.urls if isinstance(images, stream.Shards) else [i.path for i in images]
    names = '\n'.join(map(os.path.basename, paths))
    return f'{len(images)} {kind(images)}, {hashlib.blake2b(names.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()}'


def kind(images):
    """What len(images) counts."""
    return (
        'shards'
        if isinstance(images, stream.Shards)
        else 'stored pairs'
        if isinstance(images[0], (manifest.Pair, manifest.Stacked))
        else 'images'
    )
