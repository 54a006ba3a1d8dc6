"""Who imports whom, and what every degradation op offers: read from the source."""

import ast
from pathlib import Path

import pytest
from house import ORDER

ROOT = Path(__file__).resolve().parents[1]
GPU = {
    'degrade/kernels.py',
    'degrade/registers.py',
    'dali_pipes/cache.py',
    'dali_pipes/pipe_dali.py',
}
NO_OP = {
    '__init__',
    'canvas',
    'draw',
    'fourier',
    'kernels',
    'op',
    'pointwise',
    'ranges',
    'recipe_file',
    'recipe_text',
    'recipes',
    'registers',
    'sampling',
    'upload',
    'workers',
}  # modules of degrade that are none
SOURCES = [
    p
    for room in ORDER
    for p in (
        sorted((ROOT / room).rglob('*.py')) if (ROOT / room).is_dir() else [ROOT / f'{room}.py']
    )
]


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
    room = ORDER.index(name.with_suffix('').parts[0])
    for wanted in {n.split('.')[0] for n in imports(tree)} & {*ORDER}:
        assert ORDER.index(wanted) <= room, f'{name} may not import {wanted}, which lies above it'
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level < len(name.parts), f'{name}:{node.lineno} reaches out of its room'
    assert not gpu_only(on_loading(tree)), f'{name} imports GPU libraries when it is loaded'
    assert name.as_posix() in GPU or not gpu_only(imports(tree)), f'{name} may not import them'


OPS = [p for p in sorted((ROOT / 'degrade').glob('*.py')) if p.stem not in NO_OP]


@pytest.mark.parametrize('path', OPS, ids=lambda p: p.stem)
def test_every_op_has_its_names(path):
    names = {
        n.name
        for n in ast.parse(path.read_text()).body
        if isinstance(n, (ast.ClassDef, ast.FunctionDef))
    } | {n.target.id for n in ast.parse(path.read_text()).body if isinstance(n, ast.AnnAssign)}
    of_an_op = {'RANGES', 'Params', 'sample', 'told', 'run_ref', 'run_torch', 'run_cuda'}
    assert of_an_op <= names


def test_the_ops_are_found():
    assert {p.stem for p in OPS} >= {
        'blur',
        'resize',
        'noise',
        'jpeg',
        'diffjpeg',
        'usm',
        'quantize',
    } and len(SOURCES) > 20
