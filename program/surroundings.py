"""What a process inherits, made fit: variables, folders and streams that may be missing or useless.

A notebook names a way of drawing that is not installed here, a container has users without a name
or a home, cron knows no terminal, and a pipe may lose its reader.
"""

import contextlib
import getpass
import io
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

# Where libraries keep what they make for themselves, and the places in the home that they take by
# default.
CACHES = {
    'FACES_CACHE': '.cache/faces',
    'MPLCONFIGDIR': '.config/matplotlib',
    'CUPY_CACHE_DIR': '.cupy',
    'CUDA_CACHE_PATH': '.nv',
    'TRITON_CACHE_DIR': '.triton',
}


def mend() -> None:
    """Set the variables that libraries depend on; what can be used stays as it is."""
    # Pictures go to files, whatever draws in the program that started this one.
    os.environ['MPLBACKEND'] = 'agg'
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):  # nobody has given this number a name
        os.environ['LOGNAME'] = f'user{_user()}'
    with contextlib.suppress(OSError):  # no folder can be written at all: whoever needs one says so
        _mend_folders()
    sys.excepthook = _excepthook


def refuse_mixture(script: str) -> None:
    """Exit where a program of one checkout would run the code of another, which is installed.

    script: that was started; Python looks for packages beside it, and then where they are installed
    """
    started = Path(script).resolve().parent.parent
    here = Path(__file__).resolve().parents[1]
    if started != here and (started / 'program' / Path(__file__).name).is_file():
        print(
            f'{script} would run the code of {here}, which is what is installed here: install its '
            f'own (pip install -e {started}), or set PYTHONPATH={started}',
            file=sys.stderr,
        )
        sys.exit(2)


def _mend_folders() -> None:
    """Give caches another place where the home is missing or cannot be written."""
    if os.environ.get('HOME') == '':  # which would be the root of the file system
        del os.environ['HOME']
    home = Path(os.path.expanduser('~'))
    if not (home.is_absolute() and home.is_dir()):
        home = _scratch()
        os.environ['HOME'] = str(home)
    for variable, place in CACHES.items():
        if not os.environ.get(variable) and not _writable(home / place):
            os.environ[variable] = str(_scratch() / place.lstrip('.'))


def _writable(folder: Path) -> bool:
    """Whether a folder can be written, or made."""
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


def _scratch() -> Path:
    """A folder of this user among the temporary ones, the same for the next program."""
    folder = Path(tempfile.gettempdir()) / f'faces-{_user()}'
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    # Everybody may write there, so what has the name need not be ours.
    mine = not hasattr(os, 'getuid') or found.st_uid == os.getuid()
    if folder.is_symlink() or not mine:
        return Path(tempfile.mkdtemp(prefix='faces-'))
    return folder


def _user() -> str:
    """Number of the user, where users have one."""
    return str(os.getuid()) if hasattr(os, 'getuid') else 'me'


def _excepthook(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Python's own, but silent about a Ctrl-C while libraries are still being imported."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)


# ------------------------------------------------------------------------------------------------
# Streams.


class _Pipe(io.FileIO):
    """A stream whose reader may go away: what is written from then on goes nowhere.

    The work of a program lies in its files. `head` has seen enough; that is no reason to lose it.
    """

    def write(self, data: Any) -> int:  # type: ignore[override]
        """Write bytes."""
        try:
            return super().write(data) or 0
        except BrokenPipeError:
            silence(self.fileno())
            return memoryview(data).nbytes


def silence(descriptor: int) -> None:
    """Let a descriptor lead nowhere."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def mend_streams() -> None:
    """Streams that are there, take every character, and do without a reader."""
    # In the order of their numbers: a closed one would be taken by the next file that is opened.
    if sys.stdin is None:
        sys.stdin = open(os.devnull)  # noqa: SIM115  as long as the process
    for name in ('stdout', 'stderr'):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, 'w'))  # noqa: SIM115
        # What a notebook or a test has put there is theirs.
        elif stream is getattr(sys, f'__{name}__') and isinstance(stream, io.TextIOWrapper):
            setattr(sys, name, _mended(stream))


def _mended(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    """The same stream, in which a character that it has no code for is written as an escape."""
    stream.flush()
    raw = _Pipe(stream.fileno(), 'wb', closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors='backslashreplace',
        # In a log, what is said first stands before the bar, which goes to the other stream.
        line_buffering=True,
    )
