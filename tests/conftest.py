"""Fixtures shared by the tests."""

import numpy as np
import pytest
import torch

import synthetic

# ---- what processes that run tests side by side share, or a test leaves to the next ----

SLOW = (
    'test_world',
    'test_faults',
    'test_checkpoint',
    'test_cuda',
    'test_png',
    'test_train',
    'test_gan',
)  # they wait for processes that they start
THREADS = torch.get_num_threads()


def pytest_collection_modifyitems(items):
    """Long files first: begun last, one would keep a single core busy at the end."""
    items.sort(key=lambda item: SLOW.index(item.path.stem) if item.path.stem in SLOW else len(SLOW))


@pytest.fixture(scope='session', autouse=True)
def own_cache(tmp_path_factory):
    """What is known of data lies in a folder of this process, not in the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('FACES_CACHE', str(tmp_path_factory.getbasetemp() / 'cache'))
        yield


@pytest.fixture(autouse=True)
def own_threads():
    """A run sets torch's threads for good; the next test has those of this process again."""
    torch.set_num_threads(THREADS)


# ---- degradation: pictures ----


@pytest.fixture(scope='session')
def photo():
    """photo(h, w, number) -> [h, w, 3] uint8 RGB crop of a drawn face, up to 512 x 512; the number picks place and scale."""
    face = synthetic.face(3).image
    sheets = face, face[::2, ::2].copy(), face[::4, ::4].copy()

    def crop(h, w, number=0):
        rng = np.random.default_rng(number)
        fitting = [s for s in sheets[1:] if s.shape[0] >= 1.5 * h and s.shape[1] >= 1.5 * w]
        sheet = (face, *fitting)[rng.integers(len(fitting) + 1)]
        y, x = rng.integers(0, sheet.shape[0] - h + 1), rng.integers(0, sheet.shape[1] - w + 1)
        return np.ascontiguousarray(sheet[y : y + h, x : x + w])

    return crop


# ---- what a test has to say beside passing: record_property('summary', text) ----


def pytest_terminal_summary(terminalreporter):
    for report in terminalreporter.getreports('passed'):
        for name, text in report.user_properties:
            if name == 'summary':
                terminalreporter.write_line(text)
