"""The frame of a program's main: errors in one line, and an exit status that says what happened."""

import errno
import functools
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from errors import FacesError

from . import surroundings

PLAIN = warnings.formatwarning
ROOT = Path(__file__).resolve().parents[1]
OURS = {ROOT, *(file.parent for file in ROOT.glob('*/__init__.py'))}
STOPPED = 128 + signal.SIGINT  # as a shell has it for a Ctrl-C
# Of a disk or a right that is missing: nothing that a program could have known before.
REFUSALS = errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM


class Main(Protocol):
    """Entry point of a program: main(argv) -> exit status."""

    def __call__(self, argv: Sequence[str] | None = None) -> int:
        """argv: arguments (default: those of this process)"""
        ...


def entry(main: Callable[[Sequence[str] | None], int]) -> Main:
    """Decorator of main(argv) -> exit status: prints a FacesError to stderr under the program's
    name; a Ctrl-C ends with 130 and without a word.
    """

    @functools.wraps(main)
    def run(argv: Sequence[str] | None = None) -> int:
        surroundings.mend_streams()
        warnings.formatwarning = functools.partial(_formatted, main)
        try:
            status = main(argv)
            sys.stdout.flush()
            return status
        except KeyboardInterrupt:
            return STOPPED
        except FacesError as error:
            # Every process of a run meets the same mistake; one word about it is enough.
            if not (error.of_all and os.environ.get('RANK', '').strip('0')):
                _say(main, str(error))
            return error.exit_code
        except OSError as error:
            if error.errno not in REFUSALS:
                raise
            return _refused(main, error)

    return run


def _formatted(
    main: Callable[..., int],
    message: Warning | str,
    category: type[Warning],
    filename: str,
    *place: Any,
) -> str:
    """A warning of ours as one line for the user; one of a library with its place in the code."""
    if Path(filename).parent in OURS:
        return f'{name(main)}: {message}\n'
    return PLAIN(message, category, filename, *place)


def _say(main: Callable[..., int], text: str) -> None:
    print(f'{name(main)}: {text}', file=sys.stderr)


def _refused(main: Callable[..., int], error: OSError) -> int:
    if error.filename is None:
        # Python would try once more at the end, and fail aloud.
        surroundings.silence(1)
    _say(main, f'{error.filename or "the output"} cannot be used: {error.strerror}')
    return FacesError.exit_code


def name(main: Callable[..., int]) -> str:
    """Name of the program of a main, as one types it: 'infer.py', or 'python -m faces.masks'."""
    module = sys.modules[main.__module__]
    spec = getattr(module, '__spec__', None)
    # A script that was started has no specification; one that is imported has a file.
    if spec is None or (main.__module__ != '__main__' and not spec.name.endswith('.__main__')):
        return Path(module.__file__ or sys.argv[0]).name
    return f'python -m {spec.name.removesuffix(".__main__")}'
