"""Lines of the GPU's path that tests execute without a GPU; see coverage_of_gpu.py.

They are counted where FACES_LINES names a folder, while modules are imported, which executes the
lines that define, and during the files of tests below. Every process of pytest writes a file of
its own.
"""

import contextlib
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = os.environ.get('FACES_LINES')
FILES = (
    'degrade/kernels.py',
    'degrade/upload.py',
    'dali_pipes/ahead.py',
    'dali_pipes/batch.py',
    'dali_pipes/cache.py',
    'dali_pipes/loader.py',
    'dali_pipes/mixed.py',
    'dali_pipes/pipe.py',
    'dali_pipes/pipe_dali.py',
    'dali_pipes/pipe_png.py',
    'dali_pipes/pipe_torch.py',
    'dali_pipes/png.py',
)
TESTS = 'test_gpu_path', 'test_cuda', 'test_png', 'test_cache', 'test_mixed'


def counter(folder):
    """What counts lines into a folder, or knows those that are there."""
    import coverage

    return coverage.Coverage(
        data_file=str(Path(folder, 'lines')),
        data_suffix=True,
        include=[str(ROOT / file) for file in FILES],
    )


_COUNTER = counter(FOLDER) if FOLDER else None
if _COUNTER:
    _COUNTER.start()


def forget():
    """Drop what an earlier run has left: nothing may execute these lines any more."""
    if FOLDER and 'PYTEST_XDIST_WORKER' not in os.environ:
        for left in Path(FOLDER).glob('lines.*'):
            left.unlink()


def stop():
    """Whatever runs from now on is not counted."""
    if _COUNTER:
        _COUNTER.stop()


def save():
    """Write what was counted."""
    if _COUNTER:
        _COUNTER.stop()
        _COUNTER.save()


@contextlib.contextmanager
def counted(file):
    """Count lines while a file of tests runs, if it is one of those above."""
    if not _COUNTER or file.stem not in TESTS:
        yield
        return
    _COUNTER.start()
    yield
    _COUNTER.stop()
