"""Every command that README and docs show is one that its program takes."""

import ast
import contextlib
import importlib
import re
import shlex
from pathlib import Path

import pytest

from config import flags

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *sorted((ROOT / 'docs').glob('*.md'))]
SCRIPT = re.compile(
    r'^(?:\w+=\S+ )*(?:python|torchrun(?: --\S+(?: \d+)?)*) ((?:tools/|benchmarks/)?\w+\.py)(.*)$'
)


def commands(page):
    """[(script, words)] of the fenced lines of a page that run a script of ours."""
    found, fenced = [], False
    for line in page.read_text().replace('\\\n', ' ').splitlines():
        if line.lstrip().startswith('```'):
            fenced = not fenced
        elif fenced and (match := SCRIPT.match(line.strip().removeprefix('$ '))):
            found.append((match[1], shlex.split(match[2], comments=True)))
    return found


COMMANDS = [(page.name, *command) for page in PAGES for command in commands(page)]


@pytest.mark.parametrize(('page', 'script', 'words'), COMMANDS, ids=lambda value: str(value)[:60])
def test_a_command_of_the_docs_is_parsed(page, script, words, monkeypatch):
    assert (ROOT / script).is_file(), f'{page} runs {script}, which does not exist'
    if script == 'train.py':
        monkeypatch.setattr(flags, '_read', lambda path: {})  # files of options are the reader's
        asks = {'--help', '--help-all'} & {*words}
        with pytest.raises(SystemExit) if asks else contextlib.nullcontext():
            flags.configure([*words, '--device', 'cpu'])
        return
    parser = importlib.import_module(script.removesuffix('.py').replace('/', '.')).parser()
    # What follows -- is for train.py.
    mine = words[: words.index('--')] if '--' in words else words
    parser.parse_args(mine)


def test_commands_are_found():
    scripts = {script for _, script, _ in COMMANDS}
    assert {'train.py', 'infer.py', 'tools/prepare.py', 'benchmarks/gpu_suite.py'} <= scripts
    assert len(COMMANDS) > 80


def test_the_walk_of_an_image_exists():
    """docs/how-it-works names functions that are there, at most 15 of them in 10 files."""
    page = (ROOT / 'docs/how-it-works.md').read_text()
    walk = re.findall(r'^\| \d+ \| `([\w.]+)` \| `([\w/.]+)` \|', page, re.MULTILINE)
    assert 10 < len(walk) <= 15 and len({file for _, file in walk}) <= 10
    for name, file in walk:
        tree = ast.parse((ROOT / file).read_text())
        for part in name.split('.'):
            named = (n for n in ast.walk(tree) if getattr(n, 'name', None) == part)
            tree = next(named, None)
            assert tree is not None, f'{name} is not in {file}'
