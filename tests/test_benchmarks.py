"""The benchmarks run, and refuse to time what is wrong."""
import json
import sys

import pytest

from benchmarks import degrade_throughput, timing
from dali_pipes.degrade import noise


@pytest.fixture
def small(monkeypatch, tmp_path, tmp_path_factory):
    monkeypatch.setenv('FACES_CACHE', str(tmp_path_factory.getbasetemp() / 'bench'))
    monkeypatch.setattr(sys, 'argv', ['degrade_throughput.py', '--plans', '8', '--size', '128', '--rounds', '1', '--json', str(tmp_path / 'out.json')])
    return tmp_path / 'out.json'


def test_degrade_throughput_runs(small, capsys):
    degrade_throughput.main()
    rates = json.loads(small.read_text())['images_per_second']
    assert len(rates) == len(degrade_throughput.CASES) and all({'torch', 'tensor', 'ref', 'opencv chain'} == set(r) for r in rates.values())
    assert 'ratio to the OpenCV chain' in capsys.readouterr().out


def test_wrong_output_is_not_timed(small, monkeypatch):
    monkeypatch.setattr(noise, 'apply_opencv', lambda x, p: x)
    with pytest.raises(SystemExit, match='not timed'):
        degrade_throughput.main()


def test_rounds_take_turns():
    calls = []
    seconds = timing.rounds({'a': lambda: calls.append('a'), 'b': lambda: calls.append('b')}, 2, progress=lambda _: None)
    assert calls == list('ababab') and all(len(s) == 2 for s in seconds.values())
    assert timing.median([3, 1, 2]) == 2 and timing.spread([1, 2, 3]) == 50
