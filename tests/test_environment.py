"""Programs begin in whatever environment they are started in; how they end, their status says."""

from program import surroundings

import ast
import getpass
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from programs import PROGRAMS, ROOT

# ------------------------------------------------------------------------------------------------
# All programs go through the same frame.


@pytest.mark.parametrize('path', PROGRAMS)
def test_a_program_imports_the_frame_first_and_wraps_its_main(path):
    tree = ast.parse((ROOT / path).read_text())
    imports = [n for n in tree.body if isinstance(n, (ast.Import, ast.ImportFrom))]
    assert ast.unparse(imports[0]) == 'import program'
    main = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == 'main')
    assert [ast.unparse(d) for d in main.decorator_list] == ['program.entry']
    assert ast.unparse(tree.body[-1].body) == 'sys.exit(main())'


# ------------------------------------------------------------------------------------------------
# A bad day: everything at once.

# What another system lacks: modules, /proc, fork; and a user without a name.
LACKS = """
import builtins, io, os, sys
for name in 'fcntl', 'resource', 'pwd', 'grp', 'termios':
    sys.modules[name] = None
del os.fork, os.pwrite
def without_proc(function):
    def refuse(path, *args, **kwargs):
        if isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith('/proc'):
            raise FileNotFoundError(2, 'no such file', path)
        return function(path, *args, **kwargs)
    return refuse
io.open = builtins.open = without_proc(open)
os.stat = without_proc(os.stat)
"""
DAY = """
import sys
sys.path[:0] = {root!r}, {tests!r}
import train, infer
slow = 'matplotlib', 'tensorboard', 'cupy', 'nvidia.dali'
assert not set(slow) & set(sys.modules), 'a user waits for these before anything is drawn or run'
import programs
modules = [programs.module(path) for path in programs.PROGRAMS]
argv = sys.argv[1:]
assert train.main(argv) == 0
print(os.environ['MPLBACKEND'], 'gesichter \\u00e4\\u4e2d', flush=True)
assert infer.main(['--run', argv[-1], '--device', 'cpu']) == 0
"""
ENVIRONMENT = {
    'PATH': os.environ['PATH'],
    'MPLBACKEND': 'module://matplotlib_inline.backend_inline',
    'LC_ALL': 'C',
    'PYTHONIOENCODING': 'ascii',
    'PYTHONUTF8': '0',
    'PYTHONCOERCECLOCALE': '0',
    'OMP_NUM_THREADS': '1',
}


def test_programs_begin_without_what_other_systems_lack(tmp_path):
    """No HOME, no name, no terminal, ASCII, a notebook's backend; no fcntl, /proc, fork."""
    faces = tmp_path / 'gesichter \u00e4'
    faces.mkdir()
    for i in range(4):
        pixels = np.random.default_rng(i).integers(0, 256, (64, 64, 3), np.uint8)
        (faces / f'{i}.png').write_bytes(cv2.imencode('.png', pixels)[1].tobytes())
    cwd, temporary = tmp_path / 'cwd', tmp_path / 'temporary'
    cwd.mkdir()
    temporary.mkdir()
    argv = [
        *('--data', str(faces), '--val', '2', '--preset', 'unet', '--size', '64', '--recipe'),
        *('gfpgan', '--net', '{"width": [8, 16], "blocks": [[1], 1, [1]], "position": 8}'),
        *('--nimg', '4', '--batch', '2', '--ticks', '1', '--threads', '1', '--pipe', 'torch'),
        *('--device', 'cpu', '--cache', 'file', '--out', str(tmp_path / 'run')),
    ]
    day = tmp_path / 'day.py'
    day.write_text(LACKS + DAY.format(root=str(ROOT), tests=str(ROOT / 'tests')))
    done = subprocess.run(
        [sys.executable, str(day), *argv],
        cwd=cwd,
        env=ENVIRONMENT | {'TMPDIR': str(temporary)},
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert b'agg gesichter \\xe4\\u4e2d' in done.stdout and b'over 2 images' in done.stdout
    assert not [*cwd.iterdir()] and (tmp_path / 'run/curves.png').exists()


# ------------------------------------------------------------------------------------------------
# Folders and names.


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """An environment without any of the variables, whose folders for temporary files are here."""
    for name in (*surroundings.CACHES, 'HOME', 'LOGNAME', 'USER', 'LNAME', 'USERNAME'):
        monkeypatch.setenv(name, '')
        monkeypatch.delenv(name)
    monkeypatch.setattr(surroundings.tempfile, 'gettempdir', lambda: str(tmp_path / 'temporary'))
    (tmp_path / 'temporary').mkdir()
    monkeypatch.setattr(sys, 'excepthook', sys.excepthook)
    return tmp_path


def nobody(*_):
    raise KeyError('uid not found')


@pytest.mark.parametrize('home', [None, '', '~', 'relative', '/nowhere/at/all'])
def test_without_a_home_there_is_one_among_temporary_files(home, bare, monkeypatch):
    monkeypatch.setattr('pwd.getpwuid', nobody)
    monkeypatch.chdir(bare)
    if home is not None:
        monkeypatch.setenv('HOME', home)
    surroundings.mend()
    assert Path.home() == bare / 'temporary' / f'faces-{os.getuid()}'
    assert Path.home().stat().st_mode & 0o77 == 0
    assert getpass.getuser() == f'user{os.getuid()}'


def test_a_home_that_cannot_be_written_is_read_but_not_written(bare, monkeypatch):
    (bare / 'home').mkdir()
    monkeypatch.setenv('HOME', str(bare / 'home'))
    access = os.access
    monkeypatch.setattr(
        os, 'access', lambda path, mode: bare / 'home' != Path(path) and access(path, mode)
    )
    monkeypatch.setenv('CUPY_CACHE_DIR', 'mine')
    surroundings.mend()
    assert os.environ['HOME'] == str(bare / 'home') and os.environ['CUPY_CACHE_DIR'] == 'mine'
    for name in surroundings.CACHES.keys() - {'CUPY_CACHE_DIR'}:
        assert Path(os.environ[name]).is_relative_to(bare / 'temporary')


def test_a_home_that_can_be_written_is_used(bare, monkeypatch):
    (bare / 'home').mkdir()
    monkeypatch.setenv('HOME', str(bare / 'home'))
    surroundings.mend()
    assert not surroundings.CACHES.keys() & os.environ.keys()
    assert not [*(bare / 'temporary').iterdir()] and not [*(bare / 'home').iterdir()]


def test_a_temporary_folder_of_somebody_else_is_not_taken(bare, monkeypatch):
    (bare / 'theirs').mkdir()
    (bare / 'temporary' / f'faces-{os.getuid()}').symlink_to(bare / 'theirs')
    monkeypatch.setattr('pwd.getpwuid', nobody)
    surroundings.mend()
    assert Path.home().resolve() != bare / 'theirs' and Path.home().is_dir()


def test_no_folder_can_be_written_at_all(bare, monkeypatch):
    def none():
        raise FileNotFoundError('no usable temporary directory')

    monkeypatch.setattr(surroundings.tempfile, 'gettempdir', none)
    monkeypatch.setattr('pwd.getpwuid', nobody)
    surroundings.mend()


# ------------------------------------------------------------------------------------------------
# Streams and exit statuses, of a program that has nothing but the frame.

SCRIPT = """
import program

import os
import shutil
import sys
import time

from errors import FacesError


@program.entry
def main(argv=None):
    what = sys.argv[1]
    if what == 'lines':
        for number in range(20000):
            print('line', number, 'caf\\u00e9 \\u4e2d', flush=number % 100 == 0)
        open('finished', 'w').close()
        return 0
    if what == 'wait':
        open('waiting', 'w').close()
        time.sleep(20)
    if what == 'exit':
        sys.exit(3)
    if what == 'denied':
        raise PermissionError(13, 'Permission denied', 'x.bin')
    raise FacesError('--flag 7: give 3')


if __name__ == '__main__':
    sys.exit(main())
"""


@pytest.fixture
def script(tmp_path, monkeypatch):
    (tmp_path / 'script.py').write_text(SCRIPT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('PYTHONPATH', str(ROOT))

    def run(words, **env):
        """(exit status, output, errors) of a line of a shell, in which PROGRAM is the script."""
        line = words.replace('PROGRAM', f'{sys.executable} script.py')
        done = subprocess.run(
            ['bash', '-o', 'pipefail', '-c', line],
            env=os.environ | env,
            capture_output=True,
            text=True,
            errors='replace',
            timeout=60,
        )
        return done.returncode, done.stdout, done.stderr

    return run


def test_a_reader_may_go_away(script):
    """The work is done to its end nevertheless."""
    assert script('PROGRAM lines | head -1') == (0, 'line 0 café 中\n', '')
    assert Path('finished').exists()


def test_both_streams_may_lose_their_reader(script):
    assert script('PROGRAM lines 2>&1 | head -1')[::2] == (0, '')


@pytest.mark.parametrize('closed', ['>&-', '2>&-', '<&-', '<&- >&- 2>&-'])
def test_streams_may_be_closed(closed, script):
    assert script(f'PROGRAM lines {closed}')[::2] == (0, '') and Path('finished').exists()
    assert script(f'PROGRAM error {closed}')[0] == 2


@pytest.mark.parametrize(
    'env',
    [
        {'PYTHONIOENCODING': 'ascii'},
        {'LC_ALL': 'C', 'PYTHONUTF8': '0', 'PYTHONCOERCECLOCALE': '0'},
        {'PYTHONIOENCODING': 'latin-1:strict'},
    ],
)
def test_a_terminal_without_the_characters_gets_escapes(env, script):
    status, said, errors = script('PROGRAM lines | tail -1', **env)
    assert status == 0 and '\\u4e2d' in said and not errors


def test_a_full_disk_behind_the_output_is_said(script):
    status, _, errors = script('PROGRAM lines > /dev/full')
    assert status == 2 and errors.count('\n') == 1
    assert errors.startswith('script.py: the output cannot be used: No space left')


@pytest.mark.parametrize(
    'what, status, said',
    [
        ('error', 2, 'script.py: --flag 7: give 3\n'),
        ('denied', 2, 'script.py: x.bin cannot be used: Permission denied\n'),
        ('exit', 3, ''),
    ],
)
def test_exit_statuses(what, status, said, script):
    assert script(f'PROGRAM {what}') == (status, '', said)


@pytest.mark.parametrize(
    'number, status', [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)]
)
def test_signals_end_a_program_without_a_word(number, status, script):
    process = subprocess.Popen(
        [sys.executable, 'script.py', 'wait'],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A shell's background job, as these tests may be, ignores Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not Path('waiting').exists():
        time.sleep(0.01)
    process.send_signal(number)
    assert process.communicate(timeout=20) == (b'', b'') and process.returncode == status


def test_a_ctrl_c_while_libraries_are_imported_is_silent(script):
    Path('script.py').write_text('import program\nraise KeyboardInterrupt\n')
    assert script('PROGRAM; exit $?') == (130, '', '')


def test_a_program_of_another_checkout_is_refused(tmp_path):
    """Code of two versions must not be mixed; its own, by PYTHONPATH, is run."""
    for name in ('program', 'tools'):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns('__pycache__'))
    script = tmp_path / 'tools/publish.py'
    installed = dict(os.environ, PYTHONPATH=str(ROOT))
    run = subprocess.run([sys.executable, script], env=installed, capture_output=True, text=True)
    assert run.returncode == 2 and f'would run the code of {ROOT}' in run.stderr
    own = dict(os.environ, PYTHONPATH=f'{tmp_path}{os.pathsep}{ROOT}')
    run = subprocess.run([sys.executable, script], env=own, capture_output=True, text=True)
    assert run.returncode == 2 and 'the following arguments are required' in run.stderr


def test_in_a_log_lines_of_both_streams_stand_in_their_order(tmp_path):
    """What a program says first is not held back while its bar goes on."""
    program = tmp_path / 'order.py'
    program.write_text(
        'import program, sys\n'
        '@program.entry\n'
        'def main(argv=None):\n'
        "    print('first')\n"
        "    print('second', file=sys.stderr)\n"
        "    print('third')\n"
        '    return 0\n'
        'main()\n'
    )
    with open(tmp_path / 'log', 'w') as log:
        environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
        subprocess.run(
            [sys.executable, program], env=environment, stdout=log, stderr=log, check=True
        )
    assert (tmp_path / 'log').read_text().split() == ['first', 'second', 'third']
