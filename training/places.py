"""Options that are paths: absolute in config.json, and found again where a run has moved."""

import functools
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

OPTIONS = (
    'data',
    'val',
    'landmarks',
    'recipe',
    'mix',
    'start',
    'trunk',
    'vgg',
    'parser',
    'lpips',
    'prior',
)

# What may stand before a path, and what is none: an address, a number or share of images.
_PREFIX = re.compile(r'(?:[\w.-]+=)?(?:stacked:)?')
_ADDRESS = re.compile(r'\w+://.*')
_COUNT = re.compile(r'\d+\.?\d*|\.\d+')

Move = Callable[[str], str]


def absolute(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with real paths, whatever folder they were typed in."""
    return _moved(options, os.path.realpath)


def located(run_dir: str | os.PathLike[str], stored: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a config.json with real paths, found from where its run lies now.

    A path is looked for where it was; then where it is seen from the run as it was when the run
    began. In runs of earlier versions paths are relative to the folder that they were started in.
    """
    now = os.path.realpath(run_dir)
    was = str(stored.get('out') or now)
    start = os.getcwd()
    if not os.path.isabs(was):
        was = os.path.normpath(was)
        start = now[: -len(was)] if now.endswith(os.sep + was) else start
        was = now

    def move(path: str) -> str:
        path = os.path.join(start, path)
        beside = os.path.join(now, os.path.relpath(path, was))
        return os.path.realpath(beside if not _exists(path) and _exists(beside) else path)

    return _moved(stored, move) | {'out': now}


def relative(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with paths as one would type them here: nobody's folders are given away."""
    here = os.getcwd() + os.sep
    return _moved(options, lambda path: path.removeprefix(here))


def alike(option: str, was: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether an option of two absolute configurations is the same seen from their runs."""
    if option not in OPTIONS:
        return False

    def seen(of: Mapping[str, Any]) -> Any:
        from_run = functools.partial(os.path.relpath, start=of['out'])
        return _moved({option: of.get(option)}, from_run)

    return bool(seen(was) == seen(now))


def _exists(path: str) -> bool:
    """Whether a path leads somewhere; of a pattern, whether its folder does."""
    return os.path.exists(re.split(r'[*?\[{]', path)[0] or path)


def _moved(options: Mapping[str, Any], move: Move) -> dict[str, Any]:
    """The options with each of their paths replaced."""

    def one(value: str, option: str) -> str:
        if option == 'recipe' and not value.endswith('.toml'):
            return value
        # What exists under the whole text is a path, whatever it begins with.
        named = None if Path(value).exists() else _PREFIX.match(value)
        prefix = named[0] if named else ''
        path = value.removeprefix(prefix)
        count = option == 'val' and _COUNT.fullmatch(path)
        return value if count or _ADDRESS.fullmatch(path) else prefix + move(path)

    moved = dict(options)
    for option in OPTIONS:
        value = options.get(option)
        if isinstance(value, str):
            moved[option] = one(value, option)
        elif isinstance(value, list):
            moved[option] = [one(entry, option) for entry in value]
    return moved
