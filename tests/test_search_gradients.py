"""Where a search has something to learn: the benchmark that tells it."""

import json

import cv2
import numpy as np
import pytest
import torch

import synthetic
from benchmarks import search_gradients


def test_signal_and_noise_of_known_ones():
    """A mean of 3 and 4 in a noise of 2 for each of 10,000 batches."""
    draw = torch.Generator().manual_seed(0)
    rows = torch.tensor([3.0, 4.0]) + 2 * torch.randn(10_000, 2, generator=draw)
    told = search_gradients.told(rows)
    assert told.gradient == pytest.approx(5, rel=0.01)
    assert told.over_noise == pytest.approx(5 / (2 * 2**0.5 / 100), rel=0.02)
    assert told.held == pytest.approx(told.gradient * 1000)
    # Noise alone is told as such.
    pure = search_gradients.told(torch.randn(10_000, 200, generator=draw))
    assert pure.over_noise == pytest.approx(1, abs=0.2)


def test_both_searches_are_told(tmp_path, monkeypatch, capsys):
    """The published one has next to no gradient in its first layer, the other one has no choice
    there."""
    monkeypatch.setenv('FACES_CACHE', str(tmp_path / 'cache'))
    (tmp_path / 'faces').mkdir()
    for i in range(8):
        face = synthetic.face(i, 128).image[..., ::-1]
        cv2.imwrite(str(tmp_path / f'faces/{i}.png'), face)
    out = tmp_path / 'told.json'
    argv = ['--data', tmp_path / 'faces', '--steps', 1, '--batches', 2, '--batch', 2, '--crop', 32]
    argv += ['--width', 8, '--json', out]
    assert search_gradients.main([str(word) for word in argv]) == 0
    said = capsys.readouterr().out
    rows = json.loads(out.read_text())['rows']
    assert said.count('| ways that arrive |') == len(rows['ways that arrive']) == 7
    leave = {name: row['gradient'] for name, row in rows['ways that leave'].items()}
    assert leave['ways, layer 1'] < 1e-2 * min(leave[f'ways, layer {n}'] for n in range(2, 7))
    arrive = rows['ways that arrive']
    assert 'ways, layer 1' not in arrive and arrive['ends']['gradient'] > 0
    assert np.isfinite([row['gradient'] for row in arrive.values()]).all()
