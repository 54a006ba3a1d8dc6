"""The one family of errors that a user is meant to read.

A message names the file or flag, the value that was found, and the remedy. Whatever is not a
FacesError is a fault of ours and ends in a traceback.
"""


class FacesError(Exception):
    """Something the user can put right. Programs print the message and exit with `exit_code`."""

    exit_code = 2
    of_all = True  # every process of a run meets the same


class RunError(FacesError):
    """An option, or a run directory, that cannot be used."""


class DataError(FacesError):
    """Images, masks, landmarks or priors that cannot be used."""


class RecipeError(FacesError):
    """A recipe file that is none."""


class CheckpointError(FacesError):
    """A checkpoint or weights that cannot be written, read or used."""


class KernelError(FacesError):
    """CUDA kernels that cannot be compiled or run here."""


class MetricError(FacesError):
    """A metric that cannot be computed: its weights or its library are missing."""


class ProcessError(RunError):
    """What a process of a run meets while the others may not."""

    of_all = False


class PeerMissing(ProcessError):
    """Another process of the run never came."""


class PeerLost(FacesError):
    """Another process of the run has ended."""

    exit_code = 1
    of_all = False


class BadFile(Exception):
    """Why one file cannot be used; whoever reads many replaces or names it, so it never reaches the
    user bare.
    """


class Interrupted(Exception):
    """A wait for data that was given up because the process is to stop."""
