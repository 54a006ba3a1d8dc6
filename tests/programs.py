"""All programs of the project, found by what a program has: a new one is among them."""

import importlib
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def _files():
    listed = subprocess.run(
        ['git', 'ls-files', '-co', '--exclude-standard', '*.py'],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    paths = [ROOT / line for line in listed.stdout.split('\n') if line]
    return [p for p in paths if p.exists() and p.parent.name != 'tests']


FILES = _files()
# Paths from the root, of what `python FILE` or `python -m MODULE` starts.
PROGRAMS = sorted(
    str(path.relative_to(ROOT))
    for path in FILES
    if "\nif __name__ == '__main__':" in path.read_text('utf-8')
)
# Started with -m, as parts of their package.
MODULES = {
    'config/documentation.py': 'config.documentation',
    'degrade/registers.py': 'degrade.registers',
    'faces/masks/__main__.py': 'faces.masks',
    'models/__main__.py': 'models',
    'synthetic/__main__.py': 'synthetic',
}


def words(path):
    """Arguments of Python that start a program."""
    return ['-m', MODULES[path]] if path in MODULES else [str(ROOT / path)]


def module(path):
    """The module of a program."""
    return importlib.import_module(path.removesuffix('.py').replace('/', '.'))


def parsers(path):
    """{words before the flags: parser} of a program; train.py has none of argparse."""
    made = getattr(module(path), 'parser', None)
    if made is None:
        return {}
    verbs = [a for a in made()._actions if hasattr(a, 'choices') and isinstance(a.choices, dict)]
    return {name: p for a in verbs for name, p in a.choices.items()} or {'': made()}
