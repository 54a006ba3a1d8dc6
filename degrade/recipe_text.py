"""Recipes as the text of a file; see recipe_file.py."""

import inspect
import json
from collections.abc import Iterator
from typing import Any

from .recipes import OPS, Recipe, Stage

Data = dict[str, Any]


def data_of(recipe: Recipe) -> Data:
    """Return the data of a recipe, as a file of the whole chain has it."""
    data: Data = {'name': recipe.name, 'scale': recipe.scale}
    if recipe.tied:
        data['tied'] = sorted(recipe.tied)
    if recipe.pool:
        data['pool'] = recipe.pool
    stages = [s for s in recipe.stages if s.place is None or s.place.position == 0]
    if stages and stages[0].place:
        parts: list[list[str]] = [[] for _ in range(stages[0].place.parts)]
        for stage in stages:
            assert stage.place
            parts[stage.place.part].append(stage.name)
        data['shuffle'] = parts
    data['stages'] = {stage.name: _table(stage) for stage in stages}
    return data


def _table(stage: Stage) -> Data:
    op: Any = stage.op
    table: Data = {'op': op.__name__.rpartition('.')[2]}
    if isinstance(stage.on, tuple):
        table['on'] = dict(zip(('draw', 'from', 'to'), stage.on, strict=True))
    elif stage.on != 1:
        table['on'] = stage.on
    return table | {key: op.RANGES[key].write(v) for key, v in stage.ranges.items()}


def text(recipe: Recipe) -> str:
    """Return a recipe as TOML. What an operation would take by default stands in comments."""
    data = data_of(recipe)
    stages = data.pop('stages')
    lines = [f'{key} = {value_text(value)}' for key, value in data.items()]
    for name, table in stages.items():
        lines += ['', f'[stages.{name}]', *_aligned(table, _defaults(table))]
    return '\n'.join(lines) + '\n'


def _defaults(table: Data) -> Data:
    """What a stage takes for the keys that it does not have."""
    op: Any = OPS[table['op']]
    found = {}
    for key, values in op.RANGES.items():
        default = inspect.signature(op.sample).parameters[key].default
        unset = default is None and getattr(values, 'unless', None) is None
        if key not in table and not unset:
            found[key] = values.write(default)
    return found


def _aligned(table: Data, defaults: Data) -> Iterator[str]:
    width = max(map(len, (*table, *(f'# {key}' for key in defaults))))
    for key, value in table.items():
        yield f'{key:{width}} = {value_text(value)}'
    for key, value in defaults.items():
        yield f'{"# " + key:{width}} = {value_text(value)}'


def value_text(value: Any) -> str:
    """Return a value as TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return '{ ' + ', '.join(f'{k} = {value_text(v)}' for k, v in value.items()) + ' }'
    if isinstance(value, (list, tuple)):
        return '[' + ', '.join(map(value_text, value)) + ']'
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
