"""Fixtures shared by the tests."""

import contextlib
import os
from pathlib import Path

import lines  # before what it counts
import numpy as np
import processes
import pytest
import torch

import synthetic
from training.record import RunRecord

# ------------------------------------------------------------------------------------------------
# What processes that run tests side by side share, or a test leaves to the next.

# These files take longest, or wait for processes that they start.
SLOW = (
    'test_train',
    'test_cuda',
    'test_world',
    'test_faults',
    'test_kernel_cost',
    'test_demo',
    'test_benchmarks',
    'test_stored',
    'test_options',
    'test_environment',
    'test_foreign',
    'test_checkpoint',
    'test_parse',
    'test_png',
    'test_gan',
)
THREADS = torch.get_num_threads()


def pytest_collection_modifyitems(items):
    """Long files first: begun last, one would keep a single core busy at the end."""
    items.sort(key=lambda item: SLOW.index(item.path.stem) if item.path.stem in SLOW else len(SLOW))


def pytest_sessionstart():
    lines.forget()


def pytest_collection_finish():
    """Every module is imported."""
    lines.stop()


def pytest_sessionfinish():
    lines.save()


@pytest.fixture(scope='module', autouse=True)
def counted_lines(request):
    """The lines of the GPU's path that a file of tests executes count, where they are wanted."""
    with lines.counted(request.path):
        yield


@pytest.fixture(scope='session', autouse=True)
def own_cache(tmp_path_factory):
    """What is known of data lies in a folder of this process, not in the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('FACES_CACHE', str(tmp_path_factory.getbasetemp() / 'cache'))
        yield


@pytest.fixture(autouse=True)
def own_torch():
    """A run sets torch's threads and algorithms for good; the next test has the usual ones."""
    torch.set_num_threads(THREADS)
    if torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(False)


# ------------------------------------------------------------------------------------------------
# What takes most of the time of small runs, and is the same every time.

DRAW_CURVES = RunRecord._draw_curves


@pytest.fixture(scope='session', autouse=True)
def quick_curves():
    """Runs leave an empty picture in place of their curves, which take a second to draw."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunRecord, '_draw_curves', processes.blank_curves)
        yield


@pytest.fixture(scope='session')
def true_curves(quick_curves):
    """Context in which runs draw their curves."""

    @contextlib.contextmanager
    def drawn():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(RunRecord, '_draw_curves', DRAW_CURVES)
            yield

    return drawn


@pytest.fixture(scope='module', autouse=True)
def drawn_once(request, tmp_path_factory):
    """Every face is drawn once for all tests and processes, but for the tests of the drawing."""
    if request.path.stem == 'test_faces':
        yield
        return
    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if 'PYTEST_XDIST_WORKER' in os.environ else folder) / 'drawn'
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, 'face', _cached(synthetic.face, folder))
        yield


def _cached(draw, folder: Path):
    """synthetic.face with a folder of what was drawn before."""

    def face(seed, size=512):
        path = folder / f'{seed}-{size}.npz'
        if not path.exists():
            mine = folder / f'.{seed}-{size}-{os.getpid()}.npz'
            np.savez(mine, *draw(seed, size))
            mine.replace(path)
        with np.load(path) as arrays:
            return synthetic.Face(*arrays.values())

    return face


# ------------------------------------------------------------------------------------------------
# Pictures to degrade.


@pytest.fixture(scope='session')
def photo():
    """photo(h, w, number) -> [h, w, 3] uint8 RGB crop of a drawn face, up to 512 x 512; the number
    picks place and scale.
    """
    face = synthetic.face(3).image
    sheets = face, face[::2, ::2].copy(), face[::4, ::4].copy()

    def crop(h, w, number=0):
        rng = np.random.default_rng(number)
        fitting = [s for s in sheets[1:] if s.shape[0] >= 1.5 * h and s.shape[1] >= 1.5 * w]
        sheet = (face, *fitting)[rng.integers(len(fitting) + 1)]
        y, x = rng.integers(0, sheet.shape[0] - h + 1), rng.integers(0, sheet.shape[1] - w + 1)
        return np.ascontiguousarray(sheet[y : y + h, x : x + w])

    return crop


# ------------------------------------------------------------------------------------------------
# What a test has to say beside passing: record_property('summary', text).


def pytest_terminal_summary(terminalreporter):
    for report in terminalreporter.getreports('passed'):
        for name, text in report.user_properties:
            if name == 'summary':
                terminalreporter.write_line(text)
