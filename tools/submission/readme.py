"""Readme.txt of a hand-in: its files, the libraries, and the commands that make the run again."""

import argparse
import importlib.metadata
import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from configparser import ConfigParser
from typing import Any

from config import presets
from config.documentation import flag
from config.schema import EXTRACTORS, flatten
from training import checkpoint, places, run

from .hand_in import ROOT

# Options that belong to the machine or the data, not to how a run is made again.
NOT_SHOWN = {
    'preset',
    'data',
    'val',
    'out',
    'task',
    'format',
    'images',
    'images_per_step',
    'fingerprint',
    'codecs',
    'guides',
    'threads',
    'device',
    'pipe',
    'cache',
    'save_minutes',
}
WORDS = ('arch', 'prior', 'drop_priors')  # options that take several words
OFF = {'gan_level': 0}  # what says of an option that it is off

WHAT = {
    'results': 'restored images',
    'code': 'the program',
    'logs': 'options, losses and scores of the run',
    'checkpoint': 'weights of the network',
    'report.pdf': 'the report',
    'leaderboard.png': 'screenshot of the leaderboard',
}


def readme(
    args: argparse.Namespace, stored: Mapping[str, Any], names: Sequence[str], said: str
) -> str:
    """Text of Readme.txt. stored: config.json of the run; names: of the files in the zip"""
    if f'{args.matric}/logs/{run.RECIPE}' in names:
        stored = {**stored, 'recipe': f'../logs/{run.RECIPE}'}
    flags = ' '.join(options(places.relative(stored)))
    weights = f'../checkpoint/{checkpoint.FINISHED}'
    lines = [
        f'Matriculation number: {args.matric}',
        f'CodaLab user: {args.codalab_user}',
        '',
        said,
        '',
        'Files',
        *_listed(names),
        '',
        'Third-party libraries',
        *(f'  {name} {_version(name)}' for name in _libraries()),
        '',
        'How to run (in the folder code)',
        '  make train                   environment and demo',
        f'  python train.py {flags} --data FACES --val PAIRS --out RUN',
        '  python infer.py --run RUN --input LQ --output results',
        f'  python infer.py --weights {weights} --input LQ --output results',
        '',
    ]
    return '\n'.join(lines)


def _listed(names: Sequence[str]) -> Iterator[str]:
    """A line for each file or folder of the zip."""
    count: dict[str, int] = {}
    for name in names:
        part = name.split('/')[1]
        count[part] = count.get(part, 0) + 1
    for part, n in count.items():
        several = f' ({n} files)' if n > 1 else ''
        yield f'  {part}{several}: {WHAT.get(part, "to be added")}'


def _libraries() -> list[str]:
    """Names of the packages that setup.cfg asks for."""
    # Comments between the packages say why each is there.
    setup = ConfigParser()
    setup.read(ROOT / 'setup.cfg')
    lines = setup['options']['install_requires'].split('\n')
    names = [re.match(r'[\w.-]+', line) for line in lines if line and not line.startswith('#')]
    return [name[0] for name in names if name]


def options(stored: Mapping[str, Any]) -> Iterator[str]:
    """What to give train.py beside --data, --val and --out to make this run again."""
    # Only what differs from the preset is worth a flag.
    run.choose(stored.get('preset', ''), presets.NAMES, 'preset of the run')
    features = any(stored.get(name) for name in EXTRACTORS)
    row = presets.row(stored['preset'], features=features)
    default = json.loads(json.dumps(flatten(presets.config(stored['preset'], **row))))
    yield f'--preset {stored["preset"]}'
    for name, option in stored.items():
        if name in NOT_SHOWN or option == default.get(name):
            continue
        # Off is None once stored, but the preset may have it on.
        value = OFF.get(name) if option is None else option
        if isinstance(value, bool):
            yield flag(name if value else f'no_{name}')
        elif value is not None:
            yield f'{flag(name)} {shlex.join(_words(name, value))}'


def _words(name: str, value: Any) -> list[str]:
    """A value as it is written on the command line."""
    if isinstance(value, dict):
        return [json.dumps(value)]
    if name in WORDS:
        return list(value)
    if isinstance(value, list):
        return [','.join(map(str, value))]
    return [str(value)]


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return '(not installed)'
