"""A lock that keeps a second process out of a run directory."""

import fcntl
import os
from pathlib import Path

from errors import RunError


class Lock:
    """Lock on run_dir/.lock, held until close(); the system releases it when the process ends."""

    def __init__(self, run_dir: str | os.PathLike[str]) -> None:
        """Create the folder if need be and take the lock.

        Raises RunError if another process holds it, or if the folder cannot be written.
        """
        # Opened for appending: whoever comes second must not erase what the owner wrote.
        path = Path(run_dir) / '.lock'
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, 'a+')  # noqa: SIM115  # open as long as it is held
        except OSError as error:
            raise RunError(f'--out {run_dir} cannot be written: {error.strerror}') from error

        # The file holds the process id of the owner, for the message of the one that comes second.
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.seek(0)
            owner = self._file.read().strip()
            self._file.close()
            by_owner = f' by process {owner}' if owner else ''
            raise RunError(
                f'{run_dir} is in use{by_owner}: wait for it, stop it, or give another --out'
            ) from None
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()

    def close(self) -> None:
        """Release the lock."""
        self._file.close()

    def __enter__(self) -> 'Lock':
        """Return the lock, already held."""
        return self

    def __exit__(self, *_: object) -> None:
        """Release the lock."""
        self.close()
