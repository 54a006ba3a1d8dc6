"""On what the bytes of a set depend, beside its source: flags, files that they name, versions."""

import argparse
import hashlib
from importlib import metadata
from typing import Any

import degrade
import storage
from degrade import recipe_text
from errors import BadFile, RunError
from storage import shown
from tasks.face_parser import FaceParser

# Flags on which no byte depends.
APART = 'out', 'source', 'processes', 'ray', 'shards', 'price', 'photos_per_shard', 'gpu'
# Another version may round in another way, or encode with other bytes.
LIBRARIES = 'numpy', 'opencv-python-headless', 'torch'


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """Flags and versions; of files their contents, wherever they lie. Raises RunError."""
    said = {key: value for key, value in vars(args).items() if key not in APART}
    if said.get('detector'):
        said['detector'] = _of_file('--detector', said['detector'])
    if said.get('parser'):
        said['parser'] = _of_parser(said['parser'])
    if said.get('recipe') and said['recipe'] not in degrade.RECIPES:
        # With all that it extends.
        text = recipe_text.text(degrade.recipe(said['recipe']))
        said['recipe'] = hashlib.sha256(text.encode()).hexdigest()
    # The kernels and the CPU agree within a tolerance, not in every bit.
    if getattr(args, 'gpu', 0):
        said['device'] = 'cuda'
    said['versions'] = {name: metadata.version(name) for name in LIBRARIES}
    return said


def _of_file(flag: str, path: str) -> str:
    try:
        return hashlib.sha256(storage.read(path)).hexdigest()
    except (OSError, BadFile) as error:
        raise RunError(f'{flag} {shown(path)} cannot be read: {error}') from error


def _of_parser(run: str) -> str:
    """Hash of the weights of a parser's run."""
    found = hashlib.sha256()
    for name, value in FaceParser(run, 'cpu').net.state_dict().items():
        found.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()
