"""Who imports whom, and what every degradation op offers: read from the source, without running it."""
import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Scripts, tools, benchmarks and tests may import everything.
MAY = dict(tasks={'tasks', 'models', 'losses', 'metrics', 'dali_pipes'}, losses={'losses', 'models'}, metrics={'metrics', 'models'},
           dali_pipes={'dali_pipes'}, models={'models'}, training={'training'})
OURS = {*MAY, 'tools', 'benchmarks', 'tests', *(p.stem for p in ROOT.glob('*.py'))}
GPU = {f'dali_pipes/{f}' for f in ('degrade/kernels.py', 'cache.py', 'pipe_dali.py')}
NO_OP = {'__init__', 'canvas', 'kernels', 'recipes', 'workers'}                      # modules of degrade that are none
SOURCES = [p for folder in MAY for p in sorted((ROOT / folder).rglob('*.py'))]


def imports(tree):
    """Absolute names that a piece of source imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from (f'{node.module}.{a.name}' for a in node.names)


def on_loading(tree):
    """Names imported when the file is: those outside its functions."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield from on_loading(node)
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from imports(node)


def gpu_only(names):
    return [n for n in names if n.split('.')[0] == 'cupy' or n.startswith('nvidia.dali')]


@pytest.mark.parametrize('path', SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports(path):
    tree, name = ast.parse(path.read_text()), path.relative_to(ROOT)
    ours = {n.split('.')[0] for n in imports(tree)} & OURS
    assert ours <= MAY[name.parts[0]], f'{name} may not import {ours - MAY[name.parts[0]]}'
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level < len(name.parts), f'{name}:{node.lineno} reaches out of its folder'
    assert not gpu_only(on_loading(tree)), f'{name} imports GPU libraries when it is loaded'
    assert name.as_posix() in GPU or not gpu_only(imports(tree)), f'{name} may not import GPU libraries'


OPS = [p for p in sorted((ROOT / 'dali_pipes/degrade').glob('*.py')) if p.stem not in NO_OP]


@pytest.mark.parametrize('path', OPS, ids=lambda p: p.stem)
def test_every_op_has_its_names(path):
    names = {n.name for n in ast.parse(path.read_text()).body if isinstance(n, (ast.ClassDef, ast.FunctionDef))}
    assert {'Params', 'sample', 'run_ref', 'run_torch'} <= names


def test_the_ops_are_found():
    assert {p.stem for p in OPS} >= {'blur', 'resize', 'noise', 'jpeg', 'diffjpeg', 'usm', 'quantize'} and len(SOURCES) > 20
