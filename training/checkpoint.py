"""Checkpoints that survive a kill at any moment, and weights from anywhere.

    run_dir/checkpoints/000123456/          after 123,456 images
        net.safetensors ema.safetensors     weights
        state.pt                            optimizers and counters
        checksums.json                      SHA-256 of the others

A checkpoint is written to a temporary folder, forced to disk and renamed: under its name it is
whole or absent. Only the writer of a run directory clears leftovers; reading deletes nothing, so
pictures can be restored from a run that is still going.
"""

import errno
import hashlib
import io
import json
import os
import pickle
import re
import shutil
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch
from torch import Tensor, nn

import models
import storage
from errors import BadFile, CheckpointError
from storage import printable, records, shown
from storage import tensors as weight_files

FINISHED = 'weights.safetensors'  # what a finished run leaves in its directory

Weights = dict[str, Tensor]  # a state_dict
StrPath = str | os.PathLike[str]
T = TypeVar('T')

# What Python and torch raise where a value is not of the shape that is expected.
MISFITS = (
    ArithmeticError,
    AttributeError,
    BadFile,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


# -------------------------------------------------------------------------------------------------
# Checkpoints.


def save(
    run_dir: StrPath,
    nimg: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    keep: int = 2,
) -> Path:
    """Write a checkpoint and return its folder; then delete the oldest beyond `keep`.

    nimg: images seen; a checkpoint of the same number is replaced
    tensors: {'net': state_dict, 'ema': state_dict, ...}, one .safetensors file each
    state: what torch.load reads with weights_only: tensors, numbers, strings, lists, dicts
    Raises CheckpointError if the disk is full or read-only; earlier checkpoints stay as they are.
    """
    files = {f'{name}.safetensors': _pack(weights) for name, weights in tensors.items()}
    files['state.pt'] = _pickle(state)
    checksums = {name: _sha256(data) for name, data in files.items()}
    files['checksums.json'] = json.dumps(checksums, indent=1).encode()

    folder = Path(run_dir) / 'checkpoints'
    try:
        final = _write(folder, nimg, files)
    except OSError as error:
        raise _not_written(folder, nimg, files, error) from error
    _discard(final.with_name(f'{final.name}.old'))

    # Newer ones can only be damaged ones that the run went back from: they go too, by the age that
    # they pretend to have.
    checkpoints = _list(folder)
    for path in checkpoints[checkpoints.index(final) + keep :]:
        _discard(path)
    return final


def _write(folder: Path, nimg: int, files: Mapping[str, bytes]) -> Path:
    """Write the files of a checkpoint; raises OSError."""
    final = folder / f'{nimg:09d}'
    fresh = folder / f'.new-{nimg:09d}'
    replaced = folder / f'{nimg:09d}.old'
    folder.mkdir(parents=True, exist_ok=True)
    _clear(folder)
    # Before half of it is written.
    if shutil.disk_usage(folder).free < _size(files):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    # Contents first, then the entries of the folder, then the name that counts.
    fresh.mkdir()
    for name, data in files.items():
        with open(fresh / name, 'wb') as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
    _sync(fresh)
    # A kill between the two renamings leaves the replaced one, which is still found.
    if final.exists():
        os.rename(final, replaced)
    os.rename(fresh, final)
    _sync(folder)
    return final


def _not_written(
    folder: Path, nimg: int, files: Mapping[str, bytes], error: OSError
) -> CheckpointError:
    """Clean up after a failed `_write` and make the error that says what is missing."""
    shutil.rmtree(folder / f'.new-{nimg:09d}', ignore_errors=True)
    existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(existing).free
    return CheckpointError(
        f'{folder}: cannot write checkpoint {nimg}: {error.strerror or error}; it needs '
        f'{_size(files):,} bytes, {free:,} are free. Make room or make it writable '
        'and run the same command again; earlier checkpoints are intact'
    )


def room(nets: Iterable[nn.Module], keep: int, checkpoints: int = 2) -> int:
    """Return the most bytes that a run takes on its disk.

    nets: the network that the run is about, then others
    keep: averages kept in best/
    checkpoints: number of checkpoints kept
    """
    main, *others = (_bytes(net) for net in nets)
    # A checkpoint has the weights and two moments of each network, and the average of the first.
    checkpoint = 4 * main + 3 * sum(others)
    # One more of each is being written; weights.safetensors; pictures and the log.
    return checkpoint * (checkpoints + 1) + main * (keep + 2) + (64 << 20)


def latest(run_dir: StrPath) -> Path | None:
    """Return the newest whole checkpoint, None if there never was one; warn of damaged newer ones.

    Raises CheckpointError if all are damaged: to start anew must be the user's decision.
    """
    damage = []
    for path in _list(Path(run_dir) / 'checkpoints'):
        try:
            _read(path)
        except CheckpointError as error:
            damage.append(str(error))
            continue
        if damage:
            warnings.warn(f'{"; ".join(damage)}; going back to {path}', stacklevel=2)
        return path
    if damage:
        raise CheckpointError(
            f'{"; ".join(damage)}; no whole checkpoint is left: delete the folder to start anew'
        )
    return None


def load(
    path: StrPath, map_location: torch.device | str = 'cpu'
) -> tuple[dict[str, Weights], dict[str, Any]]:
    """Read the folder of a checkpoint: ({name: state_dict}, state) as given to `save`.

    Raises CheckpointError if a file of it is damaged.
    """
    # Parsed from the very bytes whose checksums were right, and without running any code in them.
    path = Path(path)
    files = _read(path)
    try:
        state = weight_files.unpickle(files.pop('state.pt'), map_location)
        state = records.convert(state, dict[str, Any])
        tensors = {Path(name).stem: weight_files.parse(data) for name, data in files.items()}
    except BadFile as error:
        raise CheckpointError(
            f'{shown(path)}: not a checkpoint of this version: {error}; delete this folder to go '
            'back to the checkpoint before it'
        ) from error
    moved = {
        name: {k: v.to(map_location) for k, v in weights.items()}
        for name, weights in tensors.items()
    }
    return moved, state


def taken_over(path: StrPath, take: Callable[[], T]) -> T:
    """What `take` returns, which hands the contents of a checkpoint to the parts of a run.

    Raises CheckpointError where they do not fit: names, types, shapes.
    """
    try:
        return take()
    except MISFITS as error:
        what = 'lacks ' if isinstance(error, KeyError) else ''
        raise CheckpointError(
            f'{shown(path)} does not fit this run ({what}{weight_files.first_line(error)}): delete '
            'this folder to go back to the checkpoint before it, or give another --out'
        ) from error


# -------------------------------------------------------------------------------------------------
# Weights.


def save_weights(path: StrPath, weights: Mapping[str, Tensor]) -> None:
    """Write a state_dict as .safetensors, whole or not at all; raises CheckpointError."""
    fresh = Path(path).with_name(f'.new-{Path(path).name}')
    try:
        fresh.write_bytes(_pack(weights))
        os.replace(fresh, path)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise CheckpointError(f'{path} cannot be written: {error.strerror or error}') from error


def load_weights(net: nn.Module, path: StrPath) -> Path:
    """Fill a network with the weights at `path`, all or none, and return the file they came from.

    net: the plain module
    path: a run directory (the weights of a finished run, else the newest checkpoint) or the folder
        of a checkpoint (its 'ema', else its 'net'), a .safetensors file, or one of torch.save, such
        as BasicSR's .pth; under the names of `models.names`
    Raises CheckpointError if there is nothing to read or if it belongs to another network.
    """
    weights, source = read_weights(path)
    net.load_state_dict(_fitting(weights, net, source))
    return source


def network_with_weights(make: Callable[[], nn.Module], path: StrPath) -> tuple[nn.Module, Path]:
    """Build a network and fill it with the weights at `path`: (network, file they came from).

    make: builds it; called for its shapes first, so that no memory is taken for a network that is
        not the one of the file
    Raises as `load_weights`.
    """
    weights, source = read_weights(path)
    try:
        fitting = _fitting(weights, models.shapes(make), source)
        net = make()
    except MISFITS as error:
        reason = weight_files.first_line(error)
        raise CheckpointError(
            f'{shown(path)}: its network cannot be built ({type(error).__name__}: {reason})'
        ) from error
    net.load_state_dict(fitting)
    return net, source


def _fitting(weights: Weights, net: nn.Module, source: Path) -> Weights:
    """The weights under the network's own names; CheckpointError if they are not of it."""
    # Everything is compared before anything is copied: all or none.
    own = net.state_dict()
    theirs = dict(models.renamed(weights, own))
    wrong = [name for name in own if name in theirs and theirs[name].shape != own[name].shape]
    if wrong or theirs.keys() != own.keys():
        raise CheckpointError(
            f'{shown(source)} does not fit {type(net).__name__}: '
            f'{_difference(net, theirs, own, wrong)}'
        )
    return theirs


def read_weights(path: StrPath) -> tuple[Weights, Path]:
    """Read the weights at any path that `load_weights` takes: ({name: tensor}, their file).

    Raises CheckpointError if there are none.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(
            f'{shown(path)}: no such file or folder; '
            'give a run directory, a checkpoint folder, a .safetensors or a .pth file'
        )
    if path.is_dir() and (path / FINISHED).exists():
        path = path / FINISHED
    return _weights_in(path) if path.is_dir() else (read_file(path), path)


def read_file(path: StrPath) -> Weights:
    """Read one file of weights; raises CheckpointError."""
    try:
        return weight_files.read(path)
    except OSError as error:
        raise CheckpointError(f'{shown(path)} cannot be read: {error.strerror}') from error
    except BadFile as error:
        raise CheckpointError(f'{shown(path)}: cannot be read as weights: {error}') from error


def _weights_in(folder: Path) -> tuple[Weights, Path]:
    """Read the average, else the network, of a checkpoint or of the newest one of a run."""
    if not (folder / 'checksums.json').exists():
        newest = latest(folder)
        if newest is None:
            raise CheckpointError(
                f'{shown(folder)}: neither a run directory with a checkpoint nor a checkpoint'
            )
        folder = newest
    tensors, _ = load(folder)
    name = 'ema' if 'ema' in tensors else 'net'
    if name not in tensors:
        raise CheckpointError(
            f"{shown(folder)}: has neither 'ema' nor 'net' but {sorted(tensors)}; give one of its "
            'files'
        )
    return tensors[name], folder / f'{name}.safetensors'


def _difference(network: nn.Module, theirs: Weights, mine: Weights, wrong: list[str]) -> str:
    """How the weights of the file differ from those of the network, the main difference first."""
    reason = models.refusal(network, theirs)
    if reason:
        return f'the file is {reason}'
    known = models.recognise(theirs.keys() - mine.keys())
    if known:
        return f'the file looks like a {known}'
    if not theirs.keys() & mine.keys():
        names = ', '.join(list(theirs)[:3])
        return f'no parameter has a name in common; the file begins with {printable(names, 200)}'
    there, here = _lengths(theirs), _lengths(mine)
    counts = [
        f'the file has {there[k]} {k} blocks, the network {here[k]}'
        for k in here
        if k in there and there[k] != here[k]
    ]
    shapes = [
        f'{k} is {list(theirs[k].shape)} in the file, {list(mine[k].shape)} in the network'
        for k in wrong
    ]
    missing, extra = [k for k in mine if k not in theirs], [k for k in theirs if k not in mine]
    if not counts and missing:
        shapes.append(f'{len(missing)} missing in the file: {", ".join(missing[:3])}')
    if not counts and extra:
        names = printable(', '.join(extra[:3]), 200)
        shapes.append(f'{len(extra)} unknown to the network: {names}')
    return '; '.join(counts + shapes[:3])


def _lengths(names: Iterable[str]) -> dict[str, int]:
    """Return the length of every numbered list of modules.

    {'body': 16} for 'body.0.conv1.weight' ... 'body.15.conv2.bias'.
    """
    numbers: dict[str, set[str]] = {}
    for name in names:
        for match in re.finditer(r'\.(\d+)(?=\.)', name):
            numbers.setdefault(name[: match.start()], set()).add(match[1])
    return {prefix: len(found) for prefix, found in numbers.items()}


# -------------------------------------------------------------------------------------------------
# Bytes.


def _pack(weights: Mapping[str, Tensor]) -> bytes:
    # The format knows no strides: channels-last weights are written plain, and take the layout of
    # the network that loads them.
    return safetensors.torch.save({k: v.detach().cpu().contiguous() for k, v in weights.items()})


def _pickle(state: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    # What could not be read back should fail now, not when the run is to be resumed.
    try:
        torch.load(io.BytesIO(buffer.getvalue()), map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        raise TypeError(
            f'checkpoint state may hold tensors, numbers, strings, lists and dicts only: {error}'
        ) from error
    return buffer.getvalue()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _size(files: Mapping[str, bytes]) -> int:
    return sum(map(len, files.values()))


def _bytes(net: nn.Module) -> int:
    return sum(v.numel() * v.element_size() for v in net.state_dict().values())


# -------------------------------------------------------------------------------------------------
# Folders.


def _read(path: Path) -> dict[str, bytes]:
    """Read the files of a checkpoint, {name: contents}; CheckpointError unless checksums agree."""
    files = {}
    try:
        checksums = records.parse(storage.read(path / 'checksums.json', 1 << 20), dict[str, str])
        _check_names(checksums)
        for name, checksum in checksums.items():
            files[name] = storage.read(path / name)
            if _sha256(files[name]) != checksum:
                raise BadFile(f'the checksum of {name} is wrong')
    except (OSError, BadFile) as error:
        raise CheckpointError(f'{shown(path)}: damaged or not a checkpoint: {error}') from error
    return files


def _check_names(names: Iterable[str]) -> None:
    """Raise BadFile for files that no checkpoint has, or that lie elsewhere."""
    wrong = [n for n in names if n != 'state.pt' and not re.fullmatch(r'\w+\.safetensors', n)]
    if wrong:
        raise BadFile(f'checksums.json names {printable(wrong[0], 60)}, no file of a checkpoint')
    if 'state.pt' not in names:
        raise BadFile('checksums.json lacks state.pt')


def _list(folder: Path) -> list[Path]:
    """List the checkpoints of a run, newest first; of two with one number, the replacing one."""
    if not folder.is_dir():
        return []
    ranked = []
    for path in folder.iterdir():
        match = re.fullmatch(r'(\d{9,})(\.old)?', path.name)
        if match:
            ranked.append((int(match[1]), not match[2], path))
    return [path for _, _, path in sorted(ranked, reverse=True)]


def _clear(folder: Path) -> None:
    """Delete what a killed `save` left: unfinished, half deleted, or replaced folders."""
    for path in list(folder.iterdir()):
        if path.name.startswith(('.new-', '.trash-')):
            shutil.rmtree(path)
        # Without its successor, a replaced one still counts.
        elif path.suffix == '.old' and path.with_suffix('').exists():
            _discard(path)


def _discard(path: Path) -> None:
    """Delete a checkpoint; a kill in the middle leaves no half of it under a name that counts."""
    if path.exists():
        trash = path.with_name(f'.trash-{path.name}')
        os.rename(path, trash)
        # What stays is cleared by the next save.
        shutil.rmtree(trash, ignore_errors=True)


def _sync(folder: Path) -> None:
    """Force a folder's entries to disk, where a folder can be opened."""
    if os.name == 'nt':
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
