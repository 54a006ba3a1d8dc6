"""Recipes read from TOML files, with the line of what is wrong.

A file is a whole chain, or what differs from another recipe:

    extends = "realesrgan"            a recipe's name, or another file beside this one
    without = ["usm"]                 stages that are left out

    [stages.noise1]                   a stage of that recipe: only what differs
    sigma = [1, 50]

    [stages.grain]                    a new one needs its operation and its place
    op = "noise"
    after = "noise2"
    sigma = [1, 5]

Keys of every stage: `op`; `on`, a probability or { draw = NAME, from = 0.0, to = 0.5 }; the others
are what the operation's `sample` takes (its table RANGES).
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from errors import RecipeError
from storage import printable, shown

from . import jpeg, quantize, resize, usm
from .draw import Draw
from .ranges import PROBABILITY, Number, known
from .recipe_text import Data, data_of, value_text
from .recipes import OPS, RECIPES, Recipe, Stage, shuffled
from .sampling import sample, size_after

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

TOP = 'extends', 'name', 'scale', 'tied', 'pool', 'shuffle', 'without', 'stages'
OF_STAGE = 'op', 'on'
OF_NEW = 'before', 'after'
SCALES = 1, 2, 4, 8
LARGEST = 1 << 20  # bytes of a file
DEEPEST = 8  # files that extend each other
SIDE, TRIED = 512, 256  # of the pictures, and samples, that a chain is tried on
ORDER = 'order'  # the draw that a shuffled recipe's order comes from


class _Wrong(Exception):
    """What is wrong, and under which keys of the file."""

    def __init__(self, what: str, *keys: str) -> None:
        super().__init__(what)
        self.keys = keys


# ---- reading ----


def read(path: str | Path) -> Recipe:
    """Read a recipe. Raises RecipeError, which names file, line, stage, key and value."""
    path = Path(path)
    data = _loaded(path, ())
    text = _text_of(path)
    try:
        return _recipe(data)
    except _Wrong as e:
        raise RecipeError(_placed(path, text, e)) from None


def _loaded(path: Path, before: Sequence[Path]) -> Data:
    """The data of a whole chain: that of a file on top of what it extends."""
    if len(before) == DEEPEST:
        raise RecipeError(f'{shown(before[0])}: more than {DEEPEST} files extend each other')
    text = _text_of(path)
    try:
        own = tomllib.loads(text)
    except ValueError as e:  # of TOML, or of a number of thousands of digits
        raise RecipeError(f'{shown(path)} is no TOML: {printable(str(e), 200)}') from None
    except RecursionError:
        raise RecipeError(f'{shown(path)}: nested too deeply') from None
    try:
        for key in own:
            _checked(lambda key=key: known(key, TOP, 'key'), key)
        base = own.pop('extends', None)
        own.setdefault('name', path.stem)
        if base is None:
            return own
        return _extended(_base(base, path, before), own)
    except _Wrong as e:
        raise RecipeError(_placed(path, text, e)) from None


def _text_of(path: Path) -> str:
    try:
        with path.open('rb') as file:
            data = file.read(LARGEST + 1)
    except OSError as e:
        raise RecipeError(f'{shown(path)} cannot be read: {e.strerror}') from None
    if len(data) > LARGEST:
        raise RecipeError(f'{shown(path)} is larger than {LARGEST:,} bytes: it is no recipe')
    try:
        return data.decode()
    except UnicodeDecodeError as e:
        raise RecipeError(f'{shown(path)} is no UTF-8 text: {e.reason}') from None


def _base(base: Any, path: Path, before: Sequence[Path]) -> Data:
    if not isinstance(base, str):
        raise _Wrong('must be the name of a recipe, or of a .toml file', 'extends')
    if base.endswith('.toml'):
        return _loaded(path.parent / base, (*before, path))
    return data_of(RECIPES[_checked(lambda: known(base, tuple(RECIPES), 'recipe'), 'extends')])


def _extended(data: Data, own: Data) -> Data:
    """The data of a recipe with what a file says about it."""
    stages = dict(data['stages'])
    for name in _names(own.pop('without', []), 'without'):
        _checked(lambda name=name: known(name, tuple(stages), 'stage'), 'without')
        del stages[name]
    for name, change in _tables(own.pop('stages', {})).items():
        place = {key: change[key] for key in OF_NEW if key in change}
        change = {key: value for key, value in change.items() if key not in OF_NEW}
        if name in stages and place:
            raise _Wrong('stands where it is in the recipe', 'stages', name, next(iter(place)))
        if name in stages:
            # Of another operation nothing is left but the place.
            kept = (
                stages[name] if change.get('op', stages[name]['op']) == stages[name]['op'] else {}
            )
            stages[name] = {**kept, **change}
        else:
            stages = _inserted(stages, name, change, place)
    return {**data, **own, 'stages': stages}


def _inserted(stages: Data, name: str, stage: Data, place: Data) -> Data:
    """Stages with a new one."""
    where = 'stages', name
    if len(place) != 1:
        hint = ''
        near = _unknown(name, tuple(stages))
        if near:
            hint = f', or do you mean {near!r}?'
        raise _Wrong(
            f'is new: it needs either before or after, and the name of a stage{hint}', *where
        )
    ((side, neighbour),) = place.items()
    if not isinstance(neighbour, str):
        raise _Wrong('must be the name of a stage', *where, side)
    _checked(lambda: known(neighbour, tuple(stages), 'stage'), *where, side)
    made: Data = {}
    for other, content in stages.items():
        if other == neighbour and side == 'before':
            made[name] = stage
        made[other] = content
        if other == neighbour and side == 'after':
            made[name] = stage
    return made


def _unknown(name: str, names: Sequence[str]) -> str:
    """The nearest of some names, or nothing."""
    try:
        return known(name, names, '')
    except ValueError as e:
        found = re.search(r"did you mean '([^']*)'", str(e))
        return found[1] if found else ''


def _recipe(data: Data) -> Recipe:
    """The recipe of the data of a whole chain. Raises _Wrong."""
    name = data['name']
    if not isinstance(name, str) or not re.fullmatch(r'[\w.-]{1,60}', name):
        raise _Wrong('must be a word of letters, digits, _, - and .', 'name')
    scale = data.get('scale', 4)
    if scale not in SCALES or isinstance(scale, (bool, float)):
        raise _Wrong(f'must be one of {", ".join(map(str, SCALES))}', 'scale')
    stages = {k: _stage(k, table) for k, table in _tables(data.get('stages', {})).items()}
    if not stages:
        raise _Wrong('there is no stage: give extends = "NAME", or tables [stages.NAME]')
    chain = tuple(stages.values())
    if 'shuffle' in data:
        chain = shuffled(ORDER, *_parts(data['shuffle'], stages))
    pool = _checked(lambda: Number(0, 1 << 20, whole=True).read(data.get('pool', 0)), 'pool')
    tied = frozenset(_names(data.get('tied', []), 'tied'))
    recipe = Recipe(name, chain, tied, pool, scale)
    _try(recipe)
    return recipe


def _stage(name: str, table: Data) -> Stage:
    where = 'stages', name
    if 'op' not in table:
        raise _Wrong(f'needs op, one of {", ".join(OPS)}', *where)
    word = table['op']
    if not isinstance(word, str):
        raise _Wrong(f'must be one of {", ".join(OPS)}', *where, 'op')
    op: Any = OPS[_checked(lambda: known(word, tuple(OPS), 'operation'), *where, 'op')]
    ranges = {}
    for key, value in table.items():
        if key in OF_NEW:
            raise _Wrong('is for a recipe that extends another one', *where, key)
        if key in OF_STAGE:
            continue
        _checked(lambda key=key: known(key, (*OF_STAGE, *op.RANGES), f'key of {word}'), *where, key)
        ranges[key] = _checked(lambda key=key, value=value: op.RANGES[key].read(value), *where, key)
    return Stage(name, op, _on(table.get('on', 1), *where, 'on'), ranges)


def _on(value: Any, *where: str) -> float | tuple[str, float, float]:
    if not isinstance(value, dict):
        return _checked(lambda: PROBABILITY.read(value), *where)
    if set(value) != {'draw', 'from', 'to'} or not isinstance(value['draw'], str):
        raise _Wrong('must be a probability, or { draw = "NAME", from = 0.0, to = 0.5 }', *where)
    low, high = (_checked(lambda k=k: PROBABILITY.read(value[k]), *where) for k in ('from', 'to'))
    return value['draw'], low, high


def _parts(value: Any, stages: dict[str, Stage]) -> list[tuple[Stage, ...]]:
    """The parts of a recipe whose order is drawn."""
    if not isinstance(value, list) or not all(isinstance(part, list) for part in value):
        raise _Wrong('must be a list of parts, each a list of stages', 'shuffle')
    named = [name for part in value for name in _names(part, 'shuffle')]
    for name in named:
        _checked(lambda name=name: known(name, tuple(stages), 'stage'), 'shuffle')
    if sorted(named) != sorted(stages):
        left = ', '.join(sorted(set(stages) - set(named))) or 'one of them twice'
        raise _Wrong(f'must have every stage once: {left}', 'shuffle')
    return [tuple(stages[name] for name in part) for part in value]


# ---- small parts ----


def _checked(read: Any, *where: str) -> Any:
    """What a function returns; its ValueError is of these keys."""
    try:
        return read()
    except ValueError as e:
        raise _Wrong(str(e), *where) from None


def _names(value: Any, key: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise _Wrong('must be a list of names', key)
    return value


def _tables(value: Any) -> dict[str, Data]:
    if not isinstance(value, dict):
        raise _Wrong('must be tables [stages.NAME]', 'stages')
    for name, table in value.items():
        if not isinstance(table, dict):
            raise _Wrong('must be a table [stages.NAME]', 'stages', name)
        if not re.fullmatch(r'\w{1,40}', name):
            raise _Wrong('a stage is named by letters, digits and _', 'stages', name)
    return value


def _placed(path: Path, text: str, wrong: _Wrong) -> str:
    """A message with the place in the file."""
    keys = wrong.keys
    lines = _lines(text)
    line = next((lines[keys[:n]] for n in range(len(keys), 0, -1) if keys[:n] in lines), None)
    value: Any = None
    try:
        value = tomllib.loads(text)
        for key in keys:
            value = value[key]
    except (KeyError, TypeError):
        value = None
    said = printable(value_text(value), 60)
    words = [shown(path)]
    if line is not None:
        words.append(f'line {line}')
    if keys[:1] == ('stages',) and len(keys) > 1:
        words.append(f'stage {printable(keys[1], 40)}')
        keys = keys[2:]
    place = ', '.join(words)
    what = printable(str(wrong), 500)
    if not keys:
        return f'{place}: {what}'
    key = printable('.'.join(keys), 40)
    return f'{place}: {key}: {what}' if value is None else f'{place}: {key} = {said}: {what}'


def _lines(text: str) -> dict[tuple[str, ...], int]:
    """The line on which each table and key of a file begins."""
    table: tuple[str, ...] = ()
    lines: dict[tuple[str, ...], int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r'\s*\[([^\[\]]+)\]', line):
            table = _keys(header[1])
            lines.setdefault(table, number)
        elif key := re.match(r'\s*([\w."\'-]+)\s*=', line):
            lines.setdefault(table + _keys(key[1]), number)
    return lines


def _keys(text: str) -> tuple[str, ...]:
    return tuple(word.strip().strip('"\'') for word in text.split('.'))


# ---- the chain as a whole ----


def _try(recipe: Recipe) -> None:
    """Draw a recipe for some samples: it must end with pictures of the input's size, in 8 bits."""
    for place, stage in enumerate(recipe.stages):
        if stage.op is usm and (place or stage.place):
            raise _Wrong(
                'can only stand first: its picture may be the target', 'stages', stage.name
            )
    draw = Draw(0, np.arange(TRIED), tied=recipe.tied, batch=8)
    try:
        params = sample(recipe, draw, (SIDE, SIDE))
    except ValueError as e:
        raise _Wrong(str(e)) from None
    size = np.full((TRIED, 2), SIDE, np.int64)
    for p in params:
        size = size_after(p, size)
    wrong = np.flatnonzero((size != SIDE // recipe.scale).any(1))
    if len(wrong):
        h, w = size[wrong[0]]
        raise _Wrong(
            f'pictures of {SIDE}x{SIDE} pixels end with {w}x{h} instead of {SIDE // recipe.scale}x'
            f'{SIDE // recipe.scale}: end with [stages.NAME] op = "resize", to = "lq"'
        )
    # What moves 8-bit values only leaves them 8-bit.
    last = next((s for s in reversed(recipe.stages) if not _moves(s)), recipe.stages[-1])
    if last.op not in (quantize, jpeg) or last.on != 1:
        raise _Wrong('must be followed by a last stage with op = "quantize"', 'stages', last.name)


def _moves(stage: Stage) -> bool:
    """Whether a stage makes no new values."""
    modes = stage.ranges.get('modes', (1,))
    return stage.op is resize and not any(modes[: resize.NEAREST])
