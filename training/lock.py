"""A lock that keeps a second process out of a run directory."""

import os
from pathlib import Path

from filelock import FileLock, Timeout

from errors import RunError


class Lock:
    """Lock on run_dir/.lock, held until close(); the system releases it when the process ends."""

    def __init__(self, run_dir: str | os.PathLike[str], flag: str = '--out') -> None:
        """Create the folder if need be and take the lock.

        Raises RunError if another process holds it, or if the folder cannot be written.
        """
        folder = Path(run_dir)
        # Beside the lock itself, which on some systems nobody else can read while it is held.
        owner = folder / '.owner'
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(folder / '.lock')
            self._lock.acquire(timeout=0)
            owner.write_text(str(os.getpid()))
        except Timeout:
            raise RunError(
                f'{run_dir} is in use{_by(owner)}: wait for it, stop it, or give another {flag}'
            ) from None
        except OSError as error:
            raise RunError(f'{flag} {run_dir} cannot be written: {error.strerror}') from error

    def close(self) -> None:
        """Release the lock."""
        self._lock.release()

    def __enter__(self) -> 'Lock':
        """Return the lock, already held."""
        return self

    def __exit__(self, *_: object) -> None:
        """Release the lock."""
        self.close()


def _by(owner: Path) -> str:
    try:
        return f' by process {int(owner.read_bytes()[:20])}'
    except (OSError, ValueError):
        return ''
