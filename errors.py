"""The one family of errors that a user is meant to read, and how a script reports it.

A message names the file or flag, the value that was found, and the remedy. Whatever is not a
FacesError is a fault of ours and ends in a traceback.
"""

import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol


class FacesError(Exception):
    """Something the user can put right. Scripts print the message and exit with `exit_code`."""

    exit_code = 2


class RunError(FacesError):
    """An option, or a run directory, that cannot be used."""


class DataError(FacesError):
    """Images, masks, landmarks or priors that cannot be used."""


class CheckpointError(FacesError):
    """A checkpoint or weights that cannot be written, read or used."""


class KernelError(FacesError):
    """CUDA kernels that cannot be compiled or run here."""


class MetricError(FacesError):
    """A metric that cannot be computed: its weights or its library are missing."""


class PeerMissing(RunError):
    """Another process of the run never came."""


class PeerLost(FacesError):
    """Another process of the run has ended."""

    exit_code = 1


class BadFile(Exception):
    """Why one file cannot be used; whoever reads many replaces or names it, so it never reaches the
    user bare.
    """


class Interrupted(Exception):
    """A wait for data that was given up because the process is to stop."""


class Main(Protocol):
    """Entry point of a script: main(argv) -> exit status."""

    def __call__(self, argv: Sequence[str] | None = None) -> int:
        """argv: arguments (default: those of this process)"""
        ...


def reported(main: Main) -> Main:
    """Decorator of a script's main(argv) -> exit status: prints a FacesError to stderr under the
    script's name.
    """

    @functools.wraps(main)
    def run(argv: Sequence[str] | None = None) -> int:
        try:
            return main(argv)
        except FacesError as error:
            print(f'{program()}: {error}', file=sys.stderr)
            return error.exit_code

    return run


def program() -> str:
    """Name of what runs, as the user typed it: 'infer.py', or 'python -m faces.masks'."""
    spec = getattr(sys.modules['__main__'], '__spec__', None)
    if spec is None:
        return Path(sys.argv[0]).name
    return f'python -m {spec.name.removesuffix(".__main__")}'
