"""What the options mean, in words: read from the docstrings of `schema`, for the short help and the
docs.

python -m config.documentation docs/options.md      writes the table of all options into that page
"""

import program

import argparse
import ast
import functools
import inspect
import itertools
import json
import sys
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tyro.conf import Suppress

from . import kinds, ranges, schema

BEGIN, END = '<!-- options: begin -->', '<!-- options: end -->'


@functools.lru_cache(maxsize=1)
def descriptions() -> dict[str, str]:
    """{option: its help}, from the strings that follow the fields of the dataclasses."""
    found = {}
    for node in ast.parse(inspect.getsource(schema)).body:
        if not isinstance(node, ast.ClassDef):
            continue
        for statement, following in itertools.pairwise(node.body):
            if isinstance(statement, ast.AnnAssign) and isinstance(following, ast.Expr):
                assert isinstance(statement.target, ast.Name)
                option = statement.target.id
                found[option] = ' '.join(ast.literal_eval(following.value).split())
                if option in kinds.CHOICES:
                    found[option] += f': {", ".join(kinds.CHOICES[option])}'
    return found


def flag(option: str) -> str:
    """Name of an option on the command line."""
    return '--' + option.replace('_', '-')


def shown_default(value: Any) -> str:
    """A default as one would type it; empty where there is none."""
    if value is None or value == {}:
        return ''
    if isinstance(value, bool):
        return 'yes' if value else 'no'
    if isinstance(value, tuple):
        return ','.join(f'{x:g}' for x in value)
    return value if isinstance(value, str) else json.dumps(value)


def table() -> Iterator[str]:
    """Lines of Markdown: a section for each group, a row for each option."""
    config, numbers = schema.Config(), ranges.of_options()
    # What is derived from other options has no flag.
    derived = {o.name for _, o in schema.options() if Suppress in typing.get_args(o.type)}
    words = {name: text for name, text in descriptions().items() if name not in derived}
    for name, options in itertools.groupby(schema.options(), key=lambda pair: pair[0]):
        group = getattr(config, name)
        yield f'## {name.capitalize()}\n\n{type(group).__doc__}\n'
        yield '| flag | default | meaning |\n|---|---|---|'
        for _, option in options:
            if option.name in words:
                default = shown_default(getattr(group, option.name))
                meaning = words[option.name].replace('|', '\\|')
                if option.name in numbers:
                    meaning += f'; {numbers[option.name]}'
                yield f'| `{flag(option.name)}` | {default and f"`{default}`"} | {meaning} |'
        yield ''


def page(text: str) -> str:
    """A page with the table between its marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f'{before}{BEGIN}\n\n' + '\n'.join(table()) + f'\n{END}{after}'


@program.entry
def main(argv: Sequence[str] | None = None) -> int:
    """Write the table into a page."""
    parser = argparse.ArgumentParser(prog='python -m config.documentation', description=__doc__)
    parser.add_argument('page', type=Path, help='the page, which holds the table between its marks')
    path = parser.parse_args(argv).page
    path.write_text(page(path.read_text('utf-8')), 'utf-8')
    return 0


if __name__ == '__main__':
    sys.exit(main())
