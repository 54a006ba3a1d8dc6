"""The comparison with others: every row does the same work, or is not timed."""

import json
import sys

import cv2
import numpy as np
import pytest
import torch

import degrade
import synthetic
from benchmarks import loaders, peers, side_by_side, torch_chain
from degrade import blur, diffjpeg, noise, usm
from errors import FacesError

SIZE = 64


@pytest.fixture(scope='module')
def faces(tmp_path_factory):
    folder = tmp_path_factory.mktemp('faces')
    synthetic.write(folder, 8, first_seed=0, size=SIZE)
    return folder / 'images'


@pytest.fixture(scope='module')
def tied():
    """Four faces of 128 pixels, and what the recipe of a batch does to them."""
    x = np.stack([synthetic.face(i, 128).image for i in range(4)])
    return side_by_side._planned(torch.from_numpy(x).permute(0, 3, 1, 2), torch_chain.RECIPE)


# ---- chains ----


def test_a_batch_at_a_time_is_the_reference(tied):
    """As far as noises of their own allow; without noise, value by value."""
    side_by_side._check_chain('torch', tied, torch_chain.RUN)
    keep = [i for i, stage in enumerate(tied.recipe.stages) if stage.op is not noise]
    recipe = tied.recipe._replace(stages=tuple(tied.recipe.stages[i] for i in keep))
    params = tuple(tied.params[i] for i in keep)
    found = torch_chain.degrade(tied.x, recipe, params)
    near = (found - degrade.degrade(tied.x, recipe, params, 'ref')).abs() <= 1.5 / 255
    assert near.float().mean() > 0.99


@pytest.mark.parametrize(
    'op, wrong',
    [
        (blur, lambda x, p: x * 0.9),
        (noise, lambda x, p: (x + 0.1).clamp(0, 1)),
        (diffjpeg, lambda x, p: x.flip(-1)),
    ],
)
def test_another_chain_is_not_timed(op, wrong, tied):
    with pytest.raises(FacesError, match='library: another degradation'):
        side_by_side._check_chain('library', tied, torch_chain.RUN | {op: wrong})


def test_a_library_does_what_it_can_and_torch_the_rest(tied):
    """An operation that is off for the whole batch is not asked for."""
    asked = []

    def of(name, op):
        def run(x, p):
            asked.append(name)
            return torch_chain.RUN[op](x, p)

        return run

    own = {'blur': of('blur', blur), 'jpeg': of('jpeg', diffjpeg), 'usm': of('usm', usm)}
    chain = torch_chain.RUN | peers._chained(own)
    plain = torch_chain.degrade(tied.x, tied.recipe, tied.params)
    torch.manual_seed(0)
    with_library = torch_chain.degrade(tied.x, tied.recipe, tied.params, chain)
    torch.manual_seed(0)
    assert torch.equal(with_library, torch_chain.degrade(tied.x, tied.recipe, tied.params))
    assert plain.shape == with_library.shape
    on = [s.op for s, p in zip(tied.recipe.stages, tied.params, strict=True) if _acts(s.op, p)]
    assert asked == [{blur: 'blur', diffjpeg: 'jpeg', usm: 'usm'}[op] for op in on]


def _acts(op, p):
    if op is blur:
        return (p.kind != blur.DELTA).any()
    return {diffjpeg: lambda: p.quality.any(), usm: lambda: p.on.any()}.get(op, lambda: False)()


# ---- loaders ----


def test_others_load_the_same_images(faces, tmp_path):
    paths = sorted(map(str, faces.glob('*.png')))
    sums = sorted(int(cv2.imread(path).astype(int).sum()) for path in paths)
    with loaders.data_loader(loaders.Files(paths), 4, 1, pin=False) as epoch:
        for _ in range(2):
            batches = list(epoch())
            assert [b.shape for b in batches] == [(4, 3, SIZE, SIZE)] * 2
            assert sorted(int(x.long().sum()) for b in batches for x in b) == sums


def test_what_a_worker_degrades_is_what_the_recipe_says(faces):
    """Compared through smoothing with the reference of the same parameters."""
    paths = sorted(map(str, faces.glob('*.png')))
    data = loaders.Degraded(paths, degrade.recipe(side_by_side.RECIPE), SIZE)
    for i in range(len(data)):
        low, high = data[i]
        expected = degrade.degrade(
            (high[None] * 255).round().to(torch.uint8),
            data.recipe,
            degrade.take(data.params, slice(i, i + 1)),
            'ref',
        )
        difference = (low - expected[0]).permute(1, 2, 0).numpy()
        assert np.abs(cv2.blur(difference, (9, 9))).mean() < side_by_side.SMOOTHED


# ---- the command ----


def test_a_table_of_rows_that_are_checked(faces, tmp_path, capsys):
    out = tmp_path / 'side.json'
    argv = ['--data', faces, '--size', SIZE, '--plans', 8, '--steps', 1, '--batch', 2]
    argv += ['--rounds', 1, '--threads', 1, '--no-memory', '--json', out]
    assert side_by_side.main([str(word) for word in argv]) == 0
    sections = json.loads(out.read_text())['sections']
    assert [*sections] == ['degrade', 'load', 'train'] and out.with_suffix('.png').exists()
    said = capsys.readouterr().out
    for rows in sections.values():
        assert next(iter(rows)).startswith('ours') and len(rows) >= 2
        assert all(row in said and of['images_per_second'] > 0 for row, of in rows.items())


def test_a_row_alone_tells_its_memory(tmp_path, monkeypatch):
    """What it and its children hold; and that it cannot run is not kept silent."""
    script = tmp_path / 'row.py'
    script.write_text('import time; x = bytearray(b"x") * 40_000_000; time.sleep(0.5)')
    monkeypatch.setattr(side_by_side, '__file__', str(script))
    args = side_by_side.parser().parse_args(['--precision', 'fp32'])
    figures = {'a': {'images_per_second': 1.0}}
    side_by_side.add_memory('load', figures, args)
    assert 40 <= figures['a']['memory_mb'] < 80
    script.write_text('import sys; sys.exit(3)')
    with pytest.raises(FacesError, match='load, a: alone it ended with 3'):
        side_by_side.add_memory('load', figures, args)


def test_an_unknown_section_is_refused(capsys):
    assert side_by_side.main(['--sections', 'fly']) == 2
    assert 'there are degrade, load, train' in capsys.readouterr().err


def test_words_of_a_row_are_those_of_the_command(monkeypatch):
    """What a row alone is started with, the command takes."""
    started = []

    class Process:
        returncode, pid = 0, 0

        def __init__(self, words, **_):
            started.append(words)

    sample = side_by_side.soak_watch.Sample(0.0, 1.0, 1, 1, 0.0)
    monkeypatch.setattr(side_by_side.subprocess, 'Popen', Process)
    monkeypatch.setattr(side_by_side.soak_watch, 'watch', lambda process, every: [sample])
    args = side_by_side.parser().parse_args(['--data', 'faces', '--precision', 'fp32', '--peers'])
    side_by_side.add_memory('degrade', {'ours': {}}, args)
    assert started[0][0] == sys.executable
    again = side_by_side.parser().parse_args(started[0][2:])
    assert (again.only, again.sections, again.memory, again.rounds) == (
        'ours',
        ['degrade'],
        False,
        1,
    )
    same = 'data', 'batch', 'size', 'threads', 'plans', 'steps', 'device', 'precision', 'peers'
    assert all(getattr(again, name) == getattr(args, name) for name in same)
