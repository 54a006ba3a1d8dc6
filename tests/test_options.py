"""Command lines drawn by a seed: each trains or is refused in one line (tests/fuzz_options.py)."""

import fuzz_options
import pytest

SAMPLE = 30
# Minutes on a core.
LARGE = ('search_fusion', 'search_parse', 'search_sr', 'mfpsnet')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """The data that the command lines name, as the working directory."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp('options')
        patch.chdir(home)
        patch.setenv('FACES_CACHE', str(home / 'cache'))
        fuzz_options.prepare(home)
        yield home


def sample():
    """Numbers of the first command lines that train a small network on data that is there."""
    numbers = (n for n in range(10 * SAMPLE) if quick(fuzz_options.words(n)))
    return [next(numbers) for _ in range(SAMPLE)]


def quick(words):
    """Whether nothing large is trained, and no faces are drawn, which takes a minute."""
    return words[1] not in LARGE and '--data' in words


@pytest.mark.parametrize('number', sample())
def test_every_command_line_trains_or_is_refused(folder, number):
    outcome = fuzz_options.attempt((number, 0, folder / 'runs'))
    assert outcome.result.startswith(('trained', 'refused: ')), outcome


def test_the_draws_reach_nearly_every_preset():
    """Else the fuzz would say little of most of them."""
    assert len({fuzz_options.words(n)[1] for n in range(300)}) > 20
