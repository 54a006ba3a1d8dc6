"""Whether a challenge would take the files: their names, number, kind and size, and the network's
parameters.
"""

from collections.abc import Sequence
from pathlib import Path

import models
import tasks
from errors import BadFile, FacesError, RunError
from faces import masks
from sources import files, listing
from training import checkpoint, run


def wanted(folder: Path) -> list[str]:
    """Paths of all inputs below their folder, without suffix. Raises RunError for none."""
    inputs = [path for _, path in listing.pictures(folder)] if folder.is_dir() else []
    if not inputs:
        raise RunError(
            f'--names {folder} is no folder with images: give the inputs that were restored'
        )
    return [Path(name).as_posix() for name in listing.names(folder, inputs)]


def check(
    folder: Path,
    names: Sequence[str],
    size: int,
    count: int | None = None,
    of_masks: bool = False,
) -> list[Path]:
    """Paths of the restored images, or masks, in the order of their names. Raises RunError.

    names: paths without suffix that are wanted; size: side in pixels of every image
    count: how many there must be (default: as many as names)
    """
    if not folder.is_dir():
        raise RunError(f'{folder} is no folder of restored images: make it with infer.py')
    # Only inputs in sub-folders have results there.
    nested = [name for name in listing.listed(folder) if (folder / name).is_dir()]
    if nested and not any('/' in name for name in names):
        raise RunError(
            f'{folder} holds the folder {nested[0]}: the images must lie in {folder} itself'
        )
    # Everything that lies there would go into the zip, so nothing else may.
    inside = sorted(Path(path) for path in listing.walk(folder))
    if count is not None and len(names) != count:
        raise RunError(f'{len(names)} images are asked for by --names, the challenge wants {count}')
    present = [p.relative_to(folder).as_posix() for p in inside]
    _check_names(folder, {f'{n}.png' for n in names}, present)
    for path in inside:
        (_check_mask if of_masks else _check_image)(path, size)
    return inside


def _check_names(folder: Path, wanted: set[str], present: list[str]) -> None:
    # As many of one as of the other: renamed files, and not that some were forgotten.
    missing = sorted(wanted - set(present))
    extra = [name for name in present if name not in wanted]
    if missing and len(missing) == len(extra):
        raise RunError(
            f'{folder}: {len(extra)} wrong names, e.g. {extra[0]} where {missing[0]} is wanted'
        )
    if missing:
        raise RunError(
            f'{folder} lacks {len(missing)} of {len(wanted)} images, e.g. {missing[0]}: restore '
            'them, too'
        )
    if extra:
        raise RunError(f'{folder} holds {len(extra)} files too many, e.g. {extra[0]}: remove them')


def _check_mask(path: Path, size: int) -> None:
    try:
        height, width = masks.decode(files.read_bytes(path)).shape
    except (OSError, BadFile) as error:
        raise RunError(f'{path}: {error}') from error
    _check_size(path, width, height, size)


def _check_image(path: Path, size: int) -> None:
    try:
        data = files.read_bytes(path)
        kind, width, height, colour = files.check(data)
        files.sound(data)
    except (OSError, BadFile) as error:
        raise RunError(f'{path}: {error}') from error
    if kind != 'png' or colour != 'rgb':
        raise RunError(f'{path} is a {colour} {kind.upper()}: an 8-bit RGB PNG is wanted')
    _check_size(path, width, height, size)


def _check_size(path: Path, width: int, height: int, size: int) -> None:
    if (width, height) != (size, size):
        raise RunError(f'{path} is {width}x{height}, not {size}x{size}')


def check_network(path: Path, limit: int | None) -> str:
    """What there is to say of a run's or a weight file's network.

    Raises RunError unless its parameters are fewer than limit; None: that of the challenge, which
    is for networks that enlarge (parsers and those that keep the size have none).
    """
    try:
        if path.is_dir() and run.read_config(path):
            # Without memory for the weights, which are not asked for.
            config = tasks.of_run(str(path))
            net = models.shapes(lambda: tasks.network(config))
        else:
            net = models.like(checkpoint.read_weights(path)[0])
        if limit is None and type(net) in models.NETWORKS.values():
            limit = models.BUDGET
        count = models.enforce_param_budget(net, limit or 1 << 62)
    except (ValueError, KeyError, FacesError) as error:
        raise RunError(f'{path}: {error}') from error
    return f'{count:,} parameters' + (f' (fewer than {limit:,})' if limit else '')
