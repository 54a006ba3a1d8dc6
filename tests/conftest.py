"""Fixtures shared by the tests."""
import numpy as np
import pytest

from dali_pipes import faces

# ---- degradation: pictures ----


@pytest.fixture(scope='session')
def photo():
    """photo(h, w, number) -> [h, w, 3] uint8 RGB crop of a drawn face, up to 512 x 512; the number picks place and scale."""
    face = faces.face(3).image
    sheets = face, face[::2, ::2].copy(), face[::4, ::4].copy()

    def crop(h, w, number=0):
        rng = np.random.default_rng(number)
        fitting = [s for s in sheets[1:] if s.shape[0] >= 1.5 * h and s.shape[1] >= 1.5 * w]
        sheet = (face, *fitting)[rng.integers(len(fitting) + 1)]
        y, x = rng.integers(0, sheet.shape[0] - h + 1), rng.integers(0, sheet.shape[1] - w + 1)
        return np.ascontiguousarray(sheet[y:y + h, x:x + w])
    return crop


# ---- what a test has to say beside passing: record_property('summary', text) ----

def pytest_terminal_summary(terminalreporter):
    for report in terminalreporter.getreports('passed'):
        for name, text in report.user_properties:
            if name == 'summary':
                terminalreporter.write_line(text)
