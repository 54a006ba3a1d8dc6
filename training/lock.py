"""One process per run directory."""

import fcntl
import os
from pathlib import Path

from errors import RunError


class Lock:
    """Holds run_dir/.lock until close(); the system lets go of it when the process ends, however it ends. Raises RunError if another process holds it."""

    def __init__(self, run_dir):
        path = Path(run_dir) / '.lock'
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, 'a+')
        except OSError as e:
            raise RunError(f'--out {run_dir} cannot be written: {e.strerror}') from e
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.seek(0)
            who = self._file.read().strip()
            self._file.close()
            raise RunError(
                f'{run_dir} is in use'
                + (f' by process {who}' if who else '')
                + ': wait for it, stop it, or give another --out'
            ) from None
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()

    def close(self):
        self._file.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
