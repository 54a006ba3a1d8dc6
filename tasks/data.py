"""What a run trains and validates on: the synthetic faces, or what --data and --val name."""

import functools
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dali_pipes
import degrade
import synthetic
from config.schema import Config, flatten
from dali_pipes import validation
from errors import DataError
from faces import landmarks
from faces.masks import pairs
from sources import addresses, identity, listing, lq_gt, manifest, selection, stream
from storage import some
from training import resume

STACKED = 'stacked:'  # before the path of pairs in one picture, the LQ above the GT
# Synthetic faces to train and to validate on are drawn from different seeds.
TRAIN_FACES = 112
VAL_FACES = 12
VAL_SEED = 1_000_000

Say = Callable[[str], None]
Bar = Callable[[str], Callable[[int, int], None] | None]
Sets = dict[str, Any]  # {name: validation set}
NO_BAR: Bar = lambda title: None  # noqa: E731  a callable of one line


# ------------------------------------------------------------------------------------------------
# Faces and pairs, for restorers.


def load_faces(config: Config, say: Say = print, bar: Bar = NO_BAR) -> tuple[Any, Sets]:
    """(images to train on, {name: validation set}) of a restorer.

    The images are a list of manifest.Image; of manifest.Pair where data is a folder of LQ and GT;
    of manifest.Stacked where it is `stacked:PATH`; or addresses.Shards where it is an address.

    bar: function of a title -> callback (done, total) or None
    Raises DataError for anything unusable.
    """
    scan = _scanner(config, say, bar)
    wanted = _wanted(config)
    source = config.data.data
    drawn = None
    # What is mixed in is found before anything is trained on.
    mixed_in(config, say)

    # What there is to train on. Without a word about validation, a share is held out.
    if source is None:
        train, drawn = _synthetic(config, scan, bar, masks=False)
        wanted = wanted or [('val', None)]
    elif urls := _addresses(source):
        train = _stream(config, urls, wanted, say)
    else:
        paired = source.startswith(STACKED) or lq_gt.is_paired(source, both=True)
        train = _paired(config, bar, say) if paired else scan(source)
        wanted = wanted or [('val', '0.01')]

    sets: Sets = {}
    for name, path in wanted:
        _check_new(name, sets)
        if path is None:
            assert drawn is not None
            sets[name] = _pairs_or_degraded(config, drawn.images)
        elif _is_count(path, say):
            train, held = _held_out(train, path, config.run.seed)
            sets[name] = _pairs_or_degraded(config, held.images)
        else:
            sets[name], used = _from_path(config, path, scan, say)
            train = _without(train, used, path, say)
            if not len(train):
                raise DataError(f'--data {source} holds nothing but the images of --val {path}')
    return train if isinstance(train, addresses.Shards) else train.images, sets


def _from_path(
    config: Config, path: str, scan: Callable[[str], Any], say: Say
) -> tuple[Any, list[Any]]:
    """(validation set, its images or pairs) of one --val."""
    if path.startswith(STACKED):
        stacked = _stacked(config, '--val', path, say=say)
        return validation.Stacked(stacked), stacked
    if lq_gt.is_paired(path):
        found = lq_gt.scan_pairs(path, config.scale, say=say)
        return validation.Pairs(found), found
    faces = scan(path)
    return _pairs_or_degraded(config, faces.images), faces.images


def _pairs_or_degraded(config: Config, images: list[Any]) -> Any:
    """Validation set of images by what they are: pairs as they lie there, faces degraded."""
    if isinstance(images[0], manifest.Pair):
        return validation.Pairs(images)
    if isinstance(images[0], manifest.Stacked):
        return validation.Stacked(images)
    assert config.degradation.recipe
    return validation.Degraded(
        images,
        degrade.recipe(config.degradation.recipe),
        size=config.data.size,
        lq_from_usm=config.degradation.lq_from_usm,
    )


def _scanner(config: Config, say: Say, bar: Bar) -> Callable[..., Any]:
    """selection.scan with the options of a run."""
    return functools.partial(
        selection.scan,
        size=config.data.size,
        verify=config.data.verify,
        strict=config.data.strict,
        progress=bar('checking files'),
        say=say,
    )


def _paired(config: Config, bar: Bar, say: Say) -> manifest.Manifest:
    """Manifest of LQ/GT pairs."""
    source = config.data.data
    assert source is not None
    refused = {
        '--target-usm': (config.degradation.target_usm, 'give --no-target-usm'),
        '--target-gray': (config.degradation.target_gray, 'give --no-target-gray'),
        '--mix': (config.degradation.mix, 'put all pairs into one folder'),
        '--pair-pool': (config.degradation.pair_pool, 'give --pair-pool 0'),
    }
    for flag, (value, remedy) in refused.items():
        if value:
            raise DataError(
                f'{flag} is for faces that are degraded while training; --data {source} holds '
                f'pairs: {remedy}'
            )
    how: dict[str, Any] = dict(
        size=config.data.size,
        strict=config.data.strict,
        verify=config.data.verify,
        progress=bar('checking files'),
        say=say,
    )
    if source.startswith(STACKED):
        return manifest.Manifest(_stacked(config, '--data', source, **how))
    return manifest.Manifest(lq_gt.scan_pairs(source, config.scale, **how))


def _stacked(config: Config, flag: str, path: str, **how: Any) -> list[manifest.Stacked]:
    """Pairs of `stacked:PATH`."""
    source = path.removeprefix(STACKED)
    if config.scale != 1:
        raise DataError(
            f'{flag} {path}: stacked pairs are of one size, but --recipe '
            f'{config.degradation.recipe} is for enlarging '
            f'{config.scale}x; recipes of one size: {", ".join(degrade.SAME_SIZE)}'
        )
    if addresses.is_url(source):
        raise DataError(f'{flag} {path}: pairs are read from a disk: copy them there')
    return lq_gt.scan_stacked(source, **how)


def _addresses(source: str) -> list[str]:
    """The addresses that --data is, or lists; none for what lies on a disk."""
    if source.startswith(STACKED):
        return []
    return [source] if addresses.is_url(source) else listing.addresses(source)


def _stream(
    config: Config, urls: list[str], wanted: list[tuple[str, str | None]], say: Say
) -> addresses.Shards:
    """Shards of addresses, once it is clear that nothing that needs all images is asked."""
    source = config.data.data
    assert source is not None
    if not wanted or any(path is None or _is_count(path) for _, path in wanted):
        raise DataError(
            f'--data {source} is a stream, of which no share can be held out: give --val a folder '
            'of pairs or of faces '
            'that are not in it'
        )
    if config.data.verify or config.data.strict:
        say('--verify and --strict do nothing for a stream: its images are judged as they pass')
    return addresses.find_all(urls, config.data.stream_timeout)


def prove(config: Config, images: Any, processes: int) -> None:
    """Raise DataError for a stream from which no image comes, or too few shards for all."""
    if isinstance(images, addresses.Shards):
        stream.Stream(images, config.data.size, world=processes).prove()


# ------------------------------------------------------------------------------------------------
# Pictures with masks or landmarks.


def load_masked(config: Config, say: Say = print, bar: Bar = NO_BAR) -> tuple[Any, Sets]:
    """(masks.pairs.Pair to train on, {name: validation set}) of a parser, or of landmarks that
    follow from masks.

    With --landmarks, a JSON file of 68 points, the images are manifest.Image. Raises DataError for
    anything unusable.
    """
    points = landmarks.read(config.data.landmarks) if config.data.landmarks else None
    scan = _masked_scanner(config, points is None, say, bar)
    source = config.data.data
    drawn = None
    if source is None:
        train, drawn = _synthetic(config, scan, bar, masks=True)
    else:
        train = scan(source)

    sets: Sets = {}
    for name, path in _wanted(config) or [('val', None if source is None else '0.1')]:
        _check_new(name, sets)
        if path is None:
            assert drawn is not None
            held = drawn
        elif _is_count(path, say):
            train, held = _held_out(train, path, config.run.seed)
        else:
            held = scan(path)
            train = _without(train, held.images, path, say)
            if not len(train):
                raise DataError(f'--data {source} holds nothing but the faces of --val {path}')
        sets[name] = _masked_set(config, held.images, points)
    return train.images, sets


def _masked_scanner(config: Config, masks: bool, say: Say, bar: Bar) -> Callable[..., Any]:
    """Scan of pictures with masks, or of pictures alone that landmarks belong to."""
    source = config.data.data
    if not masks and source is not None and pairs.is_parsing(source):
        raise DataError(
            f'--data {source} holds masks beside its pictures: with --landmarks give the folder of '
            'the pictures alone'
        )
    scan: Callable[..., Any] = selection.scan
    if masks:
        scan = functools.partial(pairs.scan_pairs, repair=config.data.repair)
    return functools.partial(
        scan,
        size=config.data.size,
        verify=config.data.verify,
        strict=config.data.strict,
        progress=bar('checking files'),
        say=say,
    )


def _masked_set(config: Config, images: list[Any], points: Any) -> Any:
    """Validation set of pictures with masks, or with points."""
    recipe = degrade.recipe(config.degradation.recipe) if config.degradation.recipe else None
    size = config.data.size
    if points is not None:
        located = landmarks.of(points, images, size)
        return validation.Pointed(images, located, recipe, size=size)
    # Only masks to train on are corrected: validation is on the data as it is.
    return validation.Parsed([pair._replace(swap=False) for pair in images], recipe, size=size)


# ------------------------------------------------------------------------------------------------
# What both need.


def _wanted(config: Config) -> list[tuple[str, str | None]]:
    """[(name, path, number or share)] of --val."""
    return [_named(value) for value in config.data.val or ()]


def _named(val: str) -> tuple[str, str]:
    """'name=path' or 'path' -> (name, path); by default a path is named after itself."""
    name, equals, path = val.partition('=')
    if equals and not os.path.exists(val):
        return name, path
    if _is_count(val):
        return 'val', val
    return os.path.basename(os.path.normpath(val.removeprefix(STACKED))), val


def _is_count(path: str, say: Say = lambda _: None) -> bool:
    """Whether a --val is a number or a share; a file or folder of such a name comes first."""
    number = path.replace('.', '', 1).isdecimal()
    if number and os.path.exists(path):
        say(
            f'--val {path}: the {"folder" if os.path.isdir(path) else "file"} of that name here, '
            'no number of images'
        )
    return number and not os.path.exists(path)


def _check_new(name: str, sets: Sets) -> None:
    if name in sets:
        raise DataError(f'--val {name}: two validation sets of that name; give NAME=PATH')


def _held_out(train: Any, count: str, seed: int) -> tuple[Any, Any]:
    """(rest, held) of a Manifest, for a number or share as --val has it."""
    if not float(count):
        raise DataError(
            f'--val {count} leaves nothing to validate on: give a number from 1, a share below 1, '
            'or a set'
        )
    return train.split(float(count) if '.' in count else int(count), seed)


def _without(train: Any, held: list[Any], val: str, say: Say) -> Any:
    """What there is to train on, less the files of a validation set; copies of them are told."""
    if isinstance(train, addresses.Shards):
        return train.beside(identity.by_size(held))
    rest = train.without([item.path for item in held])
    if len(rest) < len(train):
        say(f'{len(train) - len(rest):,} images of --val {val} are left out of training')
    # Told and kept, since who overfits on purpose does it with copies.
    if copies := identity.copies(rest.images, held):
        say(
            f'copies of images of --val {val} are trained on, and its scores flatter: '
            f'{some(copies, 3)}; leave them out of --data'
        )
    return rest


def _synthetic(
    config: Config, scan: Callable[[str], Any], bar: Bar, *, masks: bool
) -> tuple[Any, Any]:
    """Manifests of the synthetic faces to train and to validate on."""
    found = []
    for name, count, seed in (('train', TRAIN_FACES, 0), ('val', VAL_FACES, VAL_SEED)):
        folder = _draw(config.data.size, name, count, seed, bar)
        found.append(scan(str(folder if masks else folder / 'images')))
    train, drawn = found
    return train, drawn


def _draw(size: int, name: str, count: int, seed: int, bar: Bar) -> Path:
    """Folder of synthetic faces in the cache, drawn if need be."""
    folder = Path(f'{_drawn()}{size}-v{synthetic.VERSION}') / name
    progress = bar(f'drawing {count} synthetic faces ({name})')
    try:
        synthetic.write(folder, count, first_seed=seed, size=size, progress=progress)
    except (FileExistsError, RuntimeError) as error:
        raise DataError(f'synthetic faces: {error}') from error
    return folder


def _drawn() -> str:
    """What the folders of synthetic faces begin with."""
    return str(manifest.cache_folder() / 'faces-')


def known(config: Config, images: Any, sets: Sets) -> resume.Known:
    """What a run reads, by which it is known again."""
    files = resume.files_of(flatten(config))
    pairs = mixed_in(config, say=lambda _: None)
    if pairs:
        files['mix'] = _files(pairs.images)
    validation_sets = {name: _files(data.images) for name, data in sets.items()}
    return resume.Known(_files(images), validation_sets, files)


def mixed_in(config: Config, say: Say = print) -> dali_pipes.Pairs | None:
    """The pairs of --mix. Raises DataError."""
    degradation = config.degradation
    if not degradation.mix:
        return None
    # Their own scan: a pair is judged by its LQ, too. Verdicts are cached, so that it is cheap.
    size, strict, verify = config.data.size, config.data.strict, config.data.verify
    pairs = lq_gt.scan_pairs(
        degradation.mix, config.scale, size=size, strict=strict, verify=verify, say=say
    )
    return dali_pipes.Pairs(pairs, degradation.mix_share)


def _files(images: Any) -> list[identity.File]:
    """The files of a data set. Drawn faces are known by the version of their drawing: encoders of
    other versions write other files of the same pictures.
    """
    if not isinstance(images, addresses.Shards) and images[0].path.startswith(_drawn()):
        return [identity.File(os.path.basename(item.path), synthetic.VERSION) for item in images]
    return identity.of_images(images)


def fingerprint(images: Any) -> str:
    """Which files (of a stream: shards) are trained on, by name and order: a resumed run must see
    the same.
    """
    streamed = isinstance(images, addresses.Shards)
    paths = images.urls if streamed else [image.path for image in images]
    names = '\n'.join(map(os.path.basename, paths))
    digest = hashlib.blake2b(names.encode('utf-8', 'surrogateescape'), digest_size=8).hexdigest()
    return f'{len(images)} {kind(images)}s, {digest}'


def kind(images: Any) -> str:
    """What len(images) counts."""
    if isinstance(images, addresses.Shards):
        return 'shard'
    paired = isinstance(images[0], (manifest.Pair, manifest.Stacked))
    return 'stored pair' if paired else 'image'
