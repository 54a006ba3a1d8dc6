"""The comparison with others: every row does the same work, or is not timed."""

import itertools
import json
import sys

import cv2
import numpy as np
import pytest
import torch

import degrade
import synthetic
from benchmarks import (
    chain_check,
    loaders,
    opencv_chain,
    peers,
    side_by_side,
    side_rows,
    torch_chain,
)
from degrade import blur, diffjpeg, noise, resize, usm
from errors import FacesError

SIZE = 64


@pytest.fixture(scope='module')
def faces(tmp_path_factory):
    folder = tmp_path_factory.mktemp('faces')
    synthetic.write(folder, 8, first_seed=0, size=SIZE)
    return folder / 'images'


@pytest.fixture(scope='module')
def tied():
    """Eight faces of 128 pixels in batches of two, and what the recipe of a batch does to them."""
    x = np.stack([synthetic.face(i, 128).image for i in range(8)])
    images = torch.from_numpy(x).permute(0, 3, 1, 2)
    return side_rows._planned(images, torch_chain.RECIPE, 2)


def check(tied, operations, name='torch'):
    args = side_by_side.parser().parse_args([])
    case = side_rows.Case(args, torch.device('cpu'), [], None)
    side_rows._check_torch(name, tied, operations, case)


# ---- chains ----


def test_a_batch_at_a_time_is_the_reference(tied):
    """Operation by operation; without noise also the whole chain, value by value."""
    check(tied, torch_chain.RUN)
    kinds = {int(p.kind[i]) for p in tied.params if hasattr(p, 'gray') for i in range(8)}
    assert kinds == {noise.GAUSSIAN, noise.POISSON}
    keep = [i for i, stage in enumerate(tied.recipe.stages) if stage.op is not noise]
    recipe = tied.recipe._replace(stages=tuple(tied.recipe.stages[i] for i in keep))
    for first in range(0, 8, 2):
        part = tied.some(slice(first, first + 2))
        params = tuple(part.params[i] for i in keep)
        found = torch_chain.degrade(part.x, recipe, params)
        near = (found - degrade.degrade(part.x, recipe, params, 'ref')).abs() <= 1.5 / 255
        assert near.float().mean() > 0.99


def leave_out(x, p):
    return x


def colourful(x, p):
    """Noise that knows no grey."""
    return torch_chain.run_noise(x, p._replace(gray=np.zeros_like(p.gray)))


def mirrored(x, p):
    return torch_chain.run_resize(x, p).flip(-1)


def faint(x, p):
    return torch_chain.run_noise(x, p._replace(amount=p.amount / 2))


@pytest.mark.parametrize(
    'op, wrong',
    [
        (blur, leave_out),
        (usm, leave_out),
        (diffjpeg, leave_out),
        (noise, leave_out),
        (noise, colourful),
        (noise, faint),
        (resize, mirrored),
    ],
)
def test_another_chain_is_not_timed(op, wrong, tied):
    with pytest.raises(FacesError, match='library: another degradation'):
        check(tied, torch_chain.RUN | {op: wrong}, 'library')


def test_the_megapixels_are_those_of_the_images(tied):
    """Of every operation's input, by what comes out of the one before."""
    total = 0
    for i in range(8):
        params = degrade.take(tied.params, i)
        x = tied.x[i].permute(1, 2, 0).numpy() / 255.0
        for stage, p in zip(tied.recipe.stages, params, strict=True):
            total += x.shape[0] * x.shape[1]
            x = stage.op.run_ref(x, p)
    found = chain_check.megapixels(tied.recipe, tied.params, (128, 128))
    assert found == pytest.approx(total / 8 / 1e6)


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
    tied = tied.some(slice(0, 2))
    torch.manual_seed(0)
    with_library = torch_chain.degrade(tied.x, tied.recipe, tied.params, chain)
    torch.manual_seed(0)
    assert torch.equal(with_library, torch_chain.degrade(tied.x, tied.recipe, tied.params))
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


def test_what_a_worker_degrades_is_what_opencv_makes_of_it(faces):
    """Of the same parameters; noise by the number of the image."""
    paths = sorted(map(str, faces.glob('*.png')))
    data = loaders.Degraded(paths, degrade.recipe(side_rows.RECIPE), SIZE)
    for i in range(len(data)):
        low, high = data[i]
        image = cv2.imread(paths[i])[..., ::-1].copy()
        rng = np.random.default_rng(i)
        expected = opencv_chain.degrade(image, data.recipe, degrade.take(data.params, i), rng)
        assert np.array_equal(low.permute(1, 2, 0).numpy(), expected)
        assert np.array_equal((high * 255).round().permute(1, 2, 0).numpy(), image)


def test_a_loader_of_other_images_is_not_timed(faces):
    paths = sorted(map(str, faces.glob('*.png')))
    whole = [torch.from_numpy(side_rows._pixels(p).copy()).permute(2, 0, 1) for p in paths]
    side_rows._check_loaded('mine', iter([torch.stack(whole)]), paths)
    side_rows._check_loaded('mine', iter([torch.stack(whole).flip(-1)]), paths)
    wrong = {
        'one again and again': [whole[0]] * len(whole),
        'BGR': [x.flip(0) for x in whole],
        'upside down': [x.flip(1) for x in whole],
        'one missing': whole[1:],
    }
    for images in wrong.values():
        with pytest.raises(FacesError, match='mine yields other images'):
            side_rows._check_loaded('mine', iter([torch.stack(images)]), paths)


def test_what_was_made_meanwhile_is_taken_before_the_clock_starts():
    taken = []

    def batches():
        for i in itertools.count():
            taken.append(i)
            yield i

    args = side_by_side.parser().parse_args(['--steps', '3'])
    case = side_rows.Case(args, torch.device('cpu'), [], None)
    assert side_rows._taken(batches(), 4, case) >= 0 and taken == [*range(7)]


def test_ratios_are_within_a_round():
    rows = {n: side_rows.Row(1, None) for n in ('ours', 'theirs')}
    found = side_by_side.figures({'ours': [1.0, 2.0, 4.0], 'theirs': [3.0, 6.0, 12.0]}, rows)
    assert found['theirs']['ratio'] == 3 and found['theirs']['ratio_spread'] == 0
    assert found['theirs']['images_per_second'] == pytest.approx(1 / 6)
    assert found['theirs']['spread'] == pytest.approx(75)


# ---- the command ----


def test_a_table_of_rows_that_are_checked(faces, tmp_path, capsys):
    out = tmp_path / 'side.json'
    argv = ['--data', faces, '--size', SIZE, '--plans', 8, '--steps', 1, '--batch', 2]
    argv += ['--rounds', 1, '--threads', 1, '--no-memory', '--json', out]
    assert side_by_side.main([str(word) for word in argv]) == 0
    sections = json.loads(out.read_text())['results']
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


@pytest.mark.parametrize(
    'more, said',
    [
        (['--sections', 'fly'], 'there are degrade, load, train'),
        (['--only', 'them', '--sections', 'train'], '--only them: no row of train'),
        (['--size', str(SIZE // 2)], 'not a PNG file of 32x32'),
        (['--batch', '9'], '8 images are fewer than --batch 9'),
    ],
)
def test_what_cannot_be_compared(more, said, faces, capsys):
    argv = ['--data', str(faces), '--size', str(SIZE), '--batch', '2', *more]
    assert side_by_side.main(argv) == 2 and said in capsys.readouterr().err


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
