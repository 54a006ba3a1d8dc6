"""Checkpoints that survive a kill at any moment, and weights from anywhere.

    run_dir/checkpoints/000123456/net.safetensors ema.safetensors      weights, after 123,456 images
                                  state.pt                             optimizers and counters
                                  checksums.json                       SHA-256 of the others

A checkpoint is written to a temporary folder, forced to disk and renamed: under its name it is whole or absent. The one writer
of a run directory clears leftovers; reading deletes nothing, so pictures can be restored from a run that is still going.
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
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from errors import CheckpointError

FINISHED = 'weights.safetensors'  # what a finished run leaves in its directory


def save(run_dir, nimg, tensors, state, keep=2):
    """Write a checkpoint -> Path of its folder; then delete the oldest beyond `keep`.

    nimg:    images seen; a checkpoint of the same number is replaced
    tensors: {'net': state_dict, 'ema': state_dict, ...}, one .safetensors file each
    state:   what torch.load reads back with weights_only: tensors, numbers, strings, lists, dicts
    Raises CheckpointError when the disk is full or read-only; earlier checkpoints stay as they are.
    """
    folder = Path(run_dir) / 'checkpoints'
    final, fresh, old = (
        folder / f'{nimg:09d}',
        folder / f'.new-{nimg:09d}',
        folder / f'{nimg:09d}.old',
    )
    files = {f'{name}.safetensors': _pack(weights) for name, weights in tensors.items()}
    files['state.pt'] = _pickle(state)
    files['checksums.json'] = json.dumps(
        {name: _sha256(data) for name, data in files.items()}, indent=1
    ).encode()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _clear(folder)
        if shutil.disk_usage(folder).free < sum(map(len, files.values())):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # before half of it is written
        fresh.mkdir()
        for name, data in files.items():
            with open(fresh / name, 'wb') as f:
                f.write(data)
                f.flush()
                os.fsync(f.fileno())
        _sync(fresh)
        if final.exists():
            os.rename(final, old)  # still found under this name, should the next line never run
        os.rename(fresh, final)
        _sync(folder)
    except OSError as error:
        shutil.rmtree(fresh, ignore_errors=True)
        free = shutil.disk_usage(
            next(p for p in (folder, *folder.absolute().parents) if p.exists())
        ).free
        raise CheckpointError(
            f'{folder}: cannot write checkpoint {nimg}: {error.strerror or error}; it needs '
            f'{sum(map(len, files.values())):,} bytes, {free:,} are free. Make room or make it writable '
            'and run the same command again; earlier checkpoints are intact'
        ) from error
    _discard(old)
    found = _list(folder)
    for path in found[
        found.index(final) + keep :
    ]:  # newer ones can only be damaged ones that the run went back from
        _discard(path)
    return final


def room(nets, keep, checkpoints=2):
    """Bytes that a run takes on its disk at most: checkpoints (weights and two moments of each network, the average of the first) and one being written, `keep`
    averages and one, the final weights, and a share for pictures and the log."""
    first, *others = (
        sum(v.numel() * v.element_size() for v in net.state_dict().values()) for net in nets
    )
    return (4 * first + 3 * sum(others)) * (checkpoints + 1) + first * (keep + 2) + (64 << 20)


def save_weights(path, weights):
    """Write a state_dict as .safetensors, whole or not at all."""
    fresh = Path(path).with_name(f'.new-{Path(path).name}')
    try:
        fresh.write_bytes(_pack(weights))
        os.replace(fresh, path)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise CheckpointError(f'{path} cannot be written: {error.strerror or error}') from error


def latest(run_dir):
    """-> Path of the newest whole checkpoint, None if there never was one; warns of damaged newer ones.

    Raises CheckpointError if all are damaged: starting from nothing must be the user's decision.
    """
    damage = []
    for path in _list(Path(run_dir) / 'checkpoints'):
        try:
            _read(path)
        except CheckpointError as error:
            damage.append(str(error))
            continue
        if damage:
            warnings.warn(f'{"; ".join(damage)}; going back to {path}')
        return path
    if damage:
        raise CheckpointError(
            f'{"; ".join(damage)}; no whole checkpoint is left: delete the folder to start anew'
        )
    return None


def load(path, map_location='cpu'):
    """Folder of one checkpoint -> ({name: state_dict}, state) as given to `save`; CheckpointError if a file of it is damaged."""
    path, files = Path(path), _read(path)
    try:
        state = torch.load(
            io.BytesIO(files.pop('state.pt')), map_location=map_location, weights_only=True
        )
        tensors = {Path(name).stem: safetensors.torch.load(data) for name, data in files.items()}
    except (KeyError, pickle.UnpicklingError, safetensors.SafetensorError) as error:
        raise CheckpointError(f'{path}: not a checkpoint of this version: {error}') from error
    return {
        name: {k: v.to(map_location) for k, v in weights.items()}
        for name, weights in tensors.items()
    }, state


def load_weights(net, path):
    """Fill `net` (the plain module) with the weights at `path`, all of them or none -> Path of what was read.

    path: a run directory (the weights of a finished run, else the newest checkpoint) or the folder of a checkpoint (its 'ema', else its 'net'), a .safetensors file,
          or a .pth file as of BasicSR: 'params_ema', 'params', or the weights themselves.
    Raises CheckpointError if there is nothing to read or if it belongs to another network.
    """
    path = Path(path)
    weights, path = read_weights(path)
    mine = net.state_dict()
    wrong = [name for name in mine if name in weights and weights[name].shape != mine[name].shape]
    if wrong or weights.keys() != mine.keys():
        raise CheckpointError(
            f'{path} does not fit {type(net).__name__}: {_difference(weights, mine, wrong)}'
        )
    net.load_state_dict(weights)
    return path


def read_weights(path):
    """-> (weights as {name: tensor}, Path they came from) of anything that `load_weights` takes."""
    weights, path = _find(Path(path))
    return {
        name.removeprefix('module.'): value for name, value in weights.items()
    }, path  # DistributedDataParallel's prefix


def _find(path):
    if not path.exists():
        raise CheckpointError(
            f'{path}: no such file or folder; '
            'give a run directory, a checkpoint folder, a .safetensors or a .pth file'
        )
    if path.is_dir():
        if (path / FINISHED).exists():
            return _find(path / FINISHED)
        if not (path / 'checksums.json').exists():
            run, path = path, latest(path)
            if path is None:
                raise CheckpointError(
                    f'{run}: neither a run directory with a checkpoint nor a checkpoint'
                )
        tensors, _ = load(path)
        name = 'ema' if 'ema' in tensors else 'net'
        if name not in tensors:
            raise CheckpointError(
                f"{path}: has neither 'ema' nor 'net' but {sorted(tensors)}; give one of its files"
            )
        return tensors[name], path / f'{name}.safetensors'
    try:
        if path.suffix == '.safetensors':
            return safetensors.torch.load_file(path), path
        weights = torch.load(path, map_location='cpu', weights_only=True)
    except (
        OSError,
        EOFError,
        RuntimeError,
        pickle.UnpicklingError,
        safetensors.SafetensorError,
    ) as error:
        raise CheckpointError(
            f'{path}: cannot be read as weights: {str(error).splitlines()[0]}'
        ) from error
    for key in ('params_ema', 'params'):
        if isinstance(weights, dict) and key in weights:
            weights = weights[key]
    if (
        not isinstance(weights, dict)
        or not weights
        or not all(isinstance(v, torch.Tensor) for v in weights.values())
    ):
        raise CheckpointError(
            f"{path}: holds no weights: a dict of tensors, or one under 'params_ema' or 'params', was expected"
        )
    return weights, path


# What tells one network from another by its parameters' names.
_MARKS = {
    'SRResNet': 'body.0.conv1.weight',
    'RRDBNet': 'body.0.rdb1.conv1.weight',
    'UNet': 'decoder.0.0.conv1.weight',
    'FaceUNAF': 'decoder.0.0.depthwise.weight',
    'SwinIR': 'groups.0.blocks.0.attention.table',
    'RCAN': 'conv_trunk.weight',
    'FRSNet': 'sr.path',
    'MFPSNet': 'base.sr.path',
    'ModifiedVGG': 'bn0_1.weight',
    'UNetDiscriminatorSN': 'conv1.weight_orig',
    'MultiscalePatchGAN': 'scales.0.conv1.weight_orig',
    'HiFaceGAN': 'bottom.norm1.gamma.weight',
}


def _difference(theirs, mine, wrong):
    """-> str: how the weights of the file differ from the network's, the telling difference first."""
    network = [name for name, mark in _MARKS.items() if mark in theirs and mark not in mine]
    if network:
        return f'the file looks like a {network[0]}'
    if not theirs.keys() & mine.keys():
        return (
            f'no parameter has a name in common; the file begins with {", ".join(list(theirs)[:3])}'
        )
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
        shapes.append(f'{len(extra)} unknown to the network: {", ".join(extra[:3])}')
    return '; '.join(counts + shapes[:3])


def _lengths(names):
    """{'body': 16} from 'body.0.conv1.weight' ... 'body.15.conv2.bias': length of every numbered list of modules."""
    found = {}
    for name in names:
        for m in re.finditer(r'\.(\d+)(?=\.)', name):
            found.setdefault(name[: m.start()], set()).add(m[1])
    return {prefix: len(numbers) for prefix, numbers in found.items()}


def _pack(weights):
    # The format knows no strides: channels-last weights are written plain and regain the layout of the network that loads them.
    return safetensors.torch.save({k: v.detach().cpu().contiguous() for k, v in weights.items()})


def _pickle(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    try:
        torch.load(io.BytesIO(buffer.getvalue()), map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:  # now, not when the run is to be resumed
        raise TypeError(
            f'checkpoint state may hold tensors, numbers, strings, lists and dicts only: {error}'
        ) from error
    return buffer.getvalue()


def _read(path):
    """-> {file name: bytes}, all as their checksums say"""
    files = {}
    try:
        for name, checksum in json.loads((path / 'checksums.json').read_bytes()).items():
            files[name] = (path / name).read_bytes()
            if _sha256(files[name]) != checksum:
                raise CheckpointError(f'{path / name}: damaged, its checksum is wrong')
    except (OSError, ValueError) as error:
        raise CheckpointError(f'{path}: damaged or not a checkpoint: {error}') from error
    return files


def _list(folder):
    """Checkpoints of a run -> [Path], newest first; of two with one number, the replacing one."""
    found = [
        (int(m[1]), not m[2], path)
        for path in (folder.iterdir() if folder.is_dir() else ())
        if (m := re.fullmatch(r'(\d{9,})(\.old)?', path.name))
    ]
    return [path for _, _, path in sorted(found, reverse=True)]


def _clear(folder):
    """What a killed `save` left: unfinished, half deleted, or replaced folders."""
    for path in list(folder.iterdir()):
        if path.name.startswith(('.new-', '.trash-')):
            shutil.rmtree(path)
        elif path.suffix == '.old' and path.with_suffix('').exists():
            _discard(path)


def _discard(path):
    """Delete a checkpoint; a kill in the middle leaves no half of it under a name that counts."""
    if path.exists():
        trash = path.with_name(f'.trash-{path.name}')
        os.rename(path, trash)
        shutil.rmtree(trash, ignore_errors=True)  # what stays is cleared by the next save


def _sync(folder):
    """Force a folder's entries to disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sha256(data):
    return hashlib.sha256(data).hexdigest()
