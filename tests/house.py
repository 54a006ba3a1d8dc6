"""The house in figures: width of its lines, length of its functions, size of its rooms, its arrows.

python tests/house.py                     every room, and the whole beside its limits
python tests/house.py degrade --long 30   one room, with its functions over 30 lines
"""

import argparse
import ast
import re
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
# From the foundation to the roof: a room imports from those before it, never from those behind it.
ORDER = (
    'errors',
    'program',
    'storage',
    'degrade',
    'synthetic',
    'models',
    'losses',
    'sources',
    'faces',
    'metrics',
    'dali_pipes',
    'training',
    'config',
    'tasks',
    'train',
    'infer',
    'tools',
    'benchmarks',
)
LIMITS = {
    'width': 100,
    'median': 8,
    'p90': 25,
    'longest': 50,
    'comments': 5.0,
    'annotated': 95.0,
    'share': 30.0,
    'upward': 0,
    'reads': 0,
}
OPTION_NAMES = {'c', 'config', 'options'}  # dictionaries of options, by the names they had


class Figures(NamedTuple):
    """What is counted in some files."""

    lines: int  # of Python, CUDA and C++, without blank ones
    widths: list[int]  # of the Python lines among them
    comments: int  # Python lines that hold nothing but a comment
    functions: list[tuple[int, str]]  # lines from def to the last one, and where
    arguments: tuple[int, int]  # of public functions and methods: annotated, all
    reads: list[str]  # places that read an option out of a dictionary


def files(room: str, suffixes: tuple[str, ...] = ('.py',)) -> list[Path]:
    """Source files of a room."""
    if (ROOT / f'{room}.py').exists():
        return [ROOT / f'{room}.py']
    return sorted(p for p in (ROOT / room).rglob('*') if p.suffix in suffixes)


def imported(tree: ast.AST) -> Iterator[str]:
    """Absolute names that a piece of source imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from (f'{node.module}.{a.name}' for a in node.names)


def upward(room: str) -> list[str]:
    """Imports of rooms that lie above this one."""
    below = ORDER[: ORDER.index(room) + 1]
    found = []
    for path in files(room):
        for name in imported(ast.parse(path.read_text())):
            top = name.split('.')[0]
            if top in ORDER and top not in below:
                found.append(f'{path.relative_to(ROOT)} -> {name}')
    return found


def functions(tree: ast.AST, path: Path) -> Iterator[tuple[int, str]]:
    """(lines, place) of every function, nested ones too."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            yield length, f'{path.relative_to(ROOT)}:{node.lineno} {node.name}'


def public(tree: ast.Module) -> Iterator[tuple[ast.FunctionDef, bool]]:
    """(function, whether it is a method) of module level and public classes."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith('_'):
            yield node, False
        elif isinstance(node, ast.ClassDef) and not node.name.startswith('_'):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef) and not re.match('_[^_]', inner.name):
                    yield inner, True


def arguments(tree: ast.Module) -> tuple[int, int]:
    """(annotated, all) arguments of the public functions."""
    annotated = total = 0
    for node, method in public(tree):
        names = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        static = any(
            isinstance(d, ast.Name) and d.id == 'staticmethod' for d in node.decorator_list
        )
        names = names[1:] if method and not static else names
        names += [a for a in (node.args.vararg, node.args.kwarg) if a]
        annotated += sum(a.annotation is not None for a in names)
        total += len(names)
    return annotated, total


def option_reads(tree: ast.AST, path: Path) -> Iterator[str]:
    """Places like c['batch']."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Subscript)
            and isinstance(node.value, ast.Name)
            and node.value.id in OPTION_NAMES
            and isinstance(node.slice, ast.Constant)
            and isinstance(node.slice.value, str)
        ):
            yield f'{path.relative_to(ROOT)}:{node.lineno}'


def measure(rooms: tuple[str, ...]) -> Figures:
    """Figures of some rooms together."""
    lines, comments, annotated, total = 0, 0, 0, 0
    widths: list[int] = []
    found: list[tuple[int, str]] = []
    reads: list[str] = []
    for room in rooms:
        for path in files(room, ('.py', '.cu', '.cuh', '.h')):
            text = [line for line in path.read_text().splitlines() if line.strip()]
            lines += len(text)
            if path.suffix != '.py':
                continue
            tree = ast.parse(path.read_text())
            widths += map(len, text)
            comments += sum(line.lstrip().startswith('#') for line in text)
            found += functions(tree, path)
            reads += option_reads(tree, path)
            these = arguments(tree)
            annotated, total = annotated + these[0], total + these[1]
    return Figures(lines, widths, comments, found, (annotated, total), reads)


def quantile(values: list[int], share: float) -> int:
    """The value that this share of them does not exceed."""
    ranked = sorted(values)
    return ranked[min(int(share * len(ranked)), len(ranked) - 1)] if ranked else 0


def summary(rooms: tuple[str, ...]) -> dict[str, float]:
    """The figures that have limits, and `lines`."""
    found = measure(rooms)
    lengths = [n for n, _ in found.functions]
    return {
        'lines': found.lines,
        'width': quantile(found.widths, 0.9),
        'widest': max(found.widths, default=0),
        'median': statistics.median(lengths) if lengths else 0,
        'p90': quantile(lengths, 0.9),
        'longest': max(lengths, default=0),
        'comments': 100 * found.comments / max(len(found.widths), 1),
        'annotated': 100 * found.arguments[0] / max(found.arguments[1], 1),
        'upward': sum(len(upward(room)) for room in rooms),
        'reads': len(found.reads),
    }


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('rooms', nargs='*', help='rooms (default: all)')
    parser.add_argument('--long', type=int, help='name functions of more lines than this')
    parser.add_argument('--reads', action='store_true', help='name reads of options')
    args = parser.parse_args()
    rooms = tuple(args.rooms) or ORDER

    table = {room: summary((room,)) for room in rooms} | {'all': summary(rooms)}
    total = table['all']['lines']
    print(f'{"room":12}' + ''.join(f'{name:>10}' for name in [*table['all'], 'share']))
    for room, row in table.items():
        shown = [*row.values(), 100 * row['lines'] / total]
        print(f'{room:12}' + ''.join(f'{value:10.1f}' for value in shown))
    print(f'{"limit":12}' + ' '.join(f'{name} {limit}' for name, limit in LIMITS.items()))

    found = measure(rooms)
    if args.long:
        for length, place in sorted(found.functions, reverse=True):
            if length > args.long:
                print(f'{length:4} {place}')
    if args.reads:
        print('\n'.join(found.reads))
    for room in rooms:
        print(
            '\n'.join(f'upward: {arrow}' for arrow in upward(room)),
            end='\n' if upward(room) else '',
        )
    return 0


if __name__ == '__main__':
    sys.exit(main())
