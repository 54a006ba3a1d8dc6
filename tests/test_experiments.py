"""Comparisons of runs: random architectures of equal cost, paired differences, and tables from runs
that somebody else made.
"""

import itertools
import json

import cv2
import numpy as np
import pytest

import models
import storage
import synthetic
import train
from errors import RunError
from models import decode
from models.__main__ import gmac
from models.searched import Searched
from tasks import shipped
from tools import compare, experiments, finished_run

NET = dict(width=16, growth=4, scale=1)
ONE = {'path': [3, 2], 'cell': [[0, 1], [1, 1], [2, 1], [3, 0], [7, 2], [8, 1]]}


def result(psnr, pass0=None):
    found = dict(psnr=psnr, ssim=0.5, input=20.0, even_half=psnr + 0.1, odd_half=psnr)
    return found | ({} if pass0 is None else dict(pass0=pass0, gain=psnr - pass0))


def made(out, found, nimg=64, **config):
    """A finished run."""
    storage.write_json(
        out / 'config.json', dict(task='restore', network='frsnet', net=NET) | config
    )
    storage.write_json(out / 'result.json', found)
    rows = [dict(nimg=n, loss=1 / n, lr=1e-3) for n in (16, 32, nimg)] + [
        dict(nimg=nimg, psnr=found['psnr'], input=20.0, seconds=8.0)
    ]
    storage.write(out / 'log.jsonl', ''.join(json.dumps(r) + '\n' for r in rows).encode())
    return out


def argv(experiment, out, *more):
    return [experiment, '--data', 'faces', '--val', '4', '--out', str(out), *more]


def table(out):
    return json.loads((out / 'table.json').read_text()), (out / 'table.md').read_text()


# ---- random architectures ----


@pytest.mark.parametrize('name, start', [('sr', 3), ('parse', 0)])
def test_random_architectures_cost_the_same(name, start):
    wanted = models.PAPER[name]
    found = experiments.alike(wanted, start, 2)
    for one in found:
        decode.check(one, start)
        assert len(one['path']) == 6 and one != wanted
        assert [
            sum(decode.EDGES[edge][0] == node for edge, _ in one['cell']) for node in range(3)
        ] == [2, 2, 2]
        assert experiments.cost(one, start) == pytest.approx(
            experiments.cost(wanted, start), rel=0.05
        )
    assert found == experiments.alike(wanted, start, 2) and found[0] != found[1]


@pytest.mark.parametrize('name, start', [('sr', 3), ('parse', 0)])
def test_the_cost_is_what_is_computed(name, start):
    rng = np.random.default_rng(0)
    for architecture in models.PAPER[name], *(experiments.draw(rng, 6, start) for _ in range(2)):
        counted = gmac(
            lambda a=architecture: Searched(a, 8, start).eval(), 8 << start, 128 >> start
        )
        assert experiments.cost(architecture, start) == pytest.approx(counted, rel=1e-9)


@pytest.mark.parametrize('name, start', [('sr', 3), ('parse', 0)])
def test_neighbours_by_brute_force(name, start):
    """Of all paths, those that differ in one layer."""
    wanted = models.PAPER[name]
    expected = []
    for path in itertools.product(range(4), repeat=6):
        steps = np.abs(np.diff([start, *path]))
        if (steps <= 1).all() and sum(
            a != b for a, b in zip(path, wanted['path'], strict=True)
        ) == 1:
            expected.append(list(path))
    found = experiments.neighbours(wanted, start)
    assert sorted(one['path'] for one in found) == sorted(expected) and len(expected) > 3
    assert all(one['cell'] == wanted['cell'] for one in found)


def test_draws_are_even():
    """Of 600, every way and operation as often as it should, within four standard deviations."""
    rng = np.random.default_rng(1)
    drawn = [experiments.draw(rng, 2, 1) for _ in range(600)]
    counts = (
        [sum(one['path'][0] == level for one in drawn) for level in range(4)],
        [sum(kind == k for one in drawn for _, kind in one['cell']) for k in range(4)],
    )
    assert counts[0][3] == 0 and all(
        abs(n - 200) < 4 * (600 / 3 * 2 / 3) ** 0.5 for n in counts[0][:3]
    )
    assert all(abs(n - 900) < 4 * (3600 / 4 * 3 / 4) ** 0.5 for n in counts[1])


# ---- differences ----


def test_paired_difference_in_closed_form(tmp_path):
    one, two = (
        {s: made(tmp_path / f'{name}-{s}', result(v)) for s, v in zip('012', values, strict=False)}
        for name, values in (('a', (21.0, 22.0, 23.0)), ('b', (20.5, 21.4, 22.6)))
    )
    d = compare.paired(one, two)
    assert (
        d['mean'] == pytest.approx(0.5)
        and d['half'] == pytest.approx(4.302653 * 0.1 / 3**0.5)
        and d['n'] == 3
        and compare.verdict(d) == 'better'
    )
    assert compare.verdict(compare.paired(two, one)) == 'worse'
    assert compare.paired({'0': one['0']}, two) == dict(mean=0.5, half=None, n=1, differences=[0.5])


@pytest.mark.parametrize(
    'd, said',
    [
        (dict(mean=1.0, half=0.1, n=2), '2 seeds are too few'),
        (dict(mean=0.1, half=0.1, n=3), 'no difference shown'),
        (dict(mean=None, half=None, n=0), '0 seeds'),
        (dict(mean=-0.2, half=0.1, n=3), 'worse'),
    ],
)
def test_nothing_is_claimed_inside_the_interval(d, said):
    assert compare.verdict(d).startswith(said)


# ---- experiments on runs that are there ----


def searched(tmp_path, found, random, *more, **others):
    storage.write_json(tmp_path / 'arch.json', {'sr': ONE})
    storage.write_json(tmp_path / 'out/random.json', [ONE, ONE])
    for name, values in {
        'found': found,
        'random-0': random,
        'random-1': [v - 0.2 for v in random],
        **others,
    }.items():
        for seed, v in enumerate(values):
            made(tmp_path / f'out/{name}-{seed}', result(v))
    given = argv('search', tmp_path / 'out', '--found', str(tmp_path / 'arch.json'), *more)
    assert experiments.main(given) == 0
    return table(tmp_path / 'out')


def test_a_search_against_chance(tmp_path, capsys):
    rows, text = searched(tmp_path, [22.0, 23.0, 24.0], [21.0, 22.05, 22.95])
    d = rows['found against random']
    assert (
        d['differences'] == pytest.approx([1.1, 1.05, 1.15])
        and 'the search is better than chance (random architectures: +-0.100' in d['said']
        and d['said'] in text
    )
    assert (tmp_path / 'out/curves.png').exists() and '| random-1 |' in capsys.readouterr().out
    assert json.loads((tmp_path / 'out/random-0.json').read_text()) == {'sr': ONE}


def test_a_search_within_the_spread_of_chance(tmp_path):
    rows, _ = searched(tmp_path, [21.0, 22.0, 23.0], [21.05, 22.04, 23.06])
    assert (
        rows['found against random']['mean'] == pytest.approx(0.05)
        and 'no claim' in rows['found against random']['said']
    )


def test_paths_that_differ_in_one_layer(tmp_path):
    """They say what they say of the found one, and are not among the random ones."""
    found = [21.0, 22.0, 23.0]
    near = {'path-22': [21.5, 22.4, 23.6], 'path-33': [20.0, 22.9, 22.0]}
    rows, text = searched(tmp_path, found, [20.0, 21.0, 22.1], '--neighbours', **near)
    assert 'Of 2 paths that differ in one layer 1 are better than the found one, 0 worse' in text
    assert rows['path-22']['difference']['mean'] == pytest.approx(0.5)
    alone, _ = searched(tmp_path / 'alone', found, [20.0, 21.0, 22.1])
    assert rows['found against random'] == alone['found against random']


def test_a_run_from_what_comes_along_is_the_same_run(tmp_path):
    """By its name, as the command gave it, and by its path, as the run keeps it."""
    start = str(shipped.FOLDER / 'faces-psnr.safetensors')
    out = made(tmp_path / 'a', result(22.0), start=start)
    for given in 'faces-psnr', start:
        compare.check_same(out, ['--network', 'frsnet', '--start', given])
    with pytest.raises(RunError, match='start: was'):
        compare.check_same(out, ['--network', 'frsnet', '--start', 'faces-sharp'])


def test_optimizers(tmp_path):
    for name, values in dict(
        zip(
            experiments.OPTIMIZERS,
            ([22.0, 22.5, 23.0], [21.0, 23.0, 22.4], [20.0, 20.6, 21.1], [23.0, 23.6, 23.9]),
            strict=False,
        )
    ).items():
        for seed, v in enumerate(values):
            made(tmp_path / f'{name}-{seed}', result(v))
    assert experiments.main(argv('optimizers', tmp_path)) == 0
    rows, text = table(tmp_path)
    assert 'difference' not in rows['adam'] and rows['sgd']['difference']['mean'] == pytest.approx(
        -1.1 / 3
    )
    assert [
        line.split('|')[5].strip() for line in text.splitlines() if line.startswith('| sgd')
    ] == ['no difference shown', 'worse']


def test_suppression(tmp_path):
    """Against plain convolutions; arguments of the network go to all three."""
    values = {'none': [24.0, 24.2, 24.1], 'lip': [24.5, 24.7, 24.6], 'pac': [24.1, 24.1, 24.2]}
    for name, of_seeds in values.items():
        for seed, v in enumerate(of_seeds):
            made(tmp_path / f'{name}-{seed}', result(v))
    command = argv('suppression', tmp_path, '--net', '{"width": 16}')
    assert experiments.main(command) == 0
    rows, _ = table(tmp_path)
    assert (
        rows['lip']['difference']['mean'] == pytest.approx(0.5) and 'difference' not in rows['none']
    )
    made_of = experiments.suppression(experiments.parser().parse_args(command)).variants
    nets = {name: json.loads(words[-1]) for name, words in made_of.items()}
    assert nets == {n: {'width': 16, 'suppression': n} for n in ('none', 'lip', 'pac')}


@pytest.mark.parametrize('fall, code', [(0.29, 0), (9.2, 1)])
def test_priors_left_out(fall, code, tmp_path, capsys):
    """A first pass that falls with a prior it never sees is named a failure."""
    for name, first in dict(all=23.2, **{'without-parse': 23.2 - fall}).items():
        for seed in range(3):
            made(
                tmp_path / f'{name}-{seed}', result(first + 0.6 + 0.01 * seed, first + 0.01 * seed)
            )
    assert experiments.main(argv('priors', tmp_path, '--prior', 'runs/parser')) == code
    rows, text = table(tmp_path)
    assert (
        rows['all']['parity_holds']
        and rows['without-parse']['parity_holds'] == (code == 0)
        and rows['without-parse']['parity']['mean'] == pytest.approx(-fall)
    )
    assert ('FAILED' in text) == ('first passes differ' in capsys.readouterr().err) == bool(
        code
    ) and 'not an effect of the prior' in text


@pytest.mark.parametrize(
    'experiment, more, said',
    [
        ('priors', [], '--prior is needed'),
        ('search', ['--found', 'nowhere'], 'cannot be read'),
        ('search', ['--found', 'paper'], 'one part is needed'),
        ('optimizers', [], 'did not finish'),
    ],
)
def test_what_cannot_be_compared(experiment, more, said, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(compare, 'call', lambda argv: 2)
    assert (
        experiments.main(argv(experiment, tmp_path, *more)) == 2 and said in capsys.readouterr().err
    )


def test_what_is_trained(tmp_path, monkeypatch):
    """Every variant with the same seed, data, length and further flags."""
    commands = []

    def call(argv):
        commands.append(argv)
        made(type(tmp_path)(argv[argv.index('--out') + 1]), result(22.0, 21.9))
        return 0

    monkeypatch.setattr(compare, 'call', call)
    assert (
        experiments.main(
            argv(
                'priors',
                tmp_path,
                '--prior',
                'a',
                '--seeds',
                '0,1',
                '--nimg',
                '8',
                '--',
                '--size',
                '64',
            )
        )
        == 0
    )
    assert [c[c.index('--out') + 1].rsplit('/')[-1] for c in commands] == [
        'all-0',
        'without-parse-0',
        'all-1',
        'without-parse-1',
    ]
    assert all(
        c[:4] == ['--preset', 'mfpsnet', '--prior', 'a']
        and c[-2:] == ['--size', '64']
        and ('--drop-priors' in c) == ('without' in c[c.index('--out') + 1])
        for c in commands
    )
    before = len(commands)
    assert (
        experiments.main(
            argv(
                'priors',
                tmp_path,
                '--prior',
                'a',
                '--seeds',
                '0,1',
                '--nimg',
                '8',
                '--',
                '--size',
                '64',
            )
        )
        == 0
        and len(commands) == before
    )


def test_a_search_end_to_end(tmp_path, monkeypatch):
    """Real runs, in this process: the table holds what they found."""
    for i in range(6):
        storage.write(
            tmp_path / f'faces/{i}.png',
            cv2.imencode('.png', synthetic.face(i, 64).image[..., ::-1])[1].tobytes(),
        )
    storage.write_json(tmp_path / 'arch.json', {'sr': ONE})
    monkeypatch.setattr(compare, 'call', train.main)
    more = [
        '--size',
        '64',
        '--batch',
        '2',
        '--ticks',
        '1',
        '--threads',
        '1',
        '--pipe',
        'torch',
        '--precision',
        'fp32',
        '--device',
        'cpu',
        '--net',
        '{"width": 16, "growth": 4}',
    ]
    assert (
        experiments.main(
            [
                'search',
                '--data',
                str(tmp_path / 'faces'),
                '--val',
                '2',
                '--found',
                str(tmp_path / 'arch.json'),
                '--random',
                '1',
                '--seeds',
                '0',
                '--nimg',
                '2',
                '--out',
                str(tmp_path / 'out'),
                '--',
                *more,
            ]
        )
        == 0
    )
    rows, _ = table(tmp_path / 'out')
    for name in 'found', 'random-0':
        own = finished_run.result(tmp_path / f'out/{name}-0')
        assert (
            rows[name]['odd'] == own['odd_half']
            and rows[name]['gain'] == pytest.approx(own['psnr'] - own['input'])
            and rows[name]['images'] == 2
        )
    assert rows['found against random']['mean'] == pytest.approx(
        rows['found']['odd'] - rows['random-0']['odd']
    )


@pytest.mark.parametrize('experiment', [None, *experiments.EXPERIMENTS])
def test_help(experiment, capsys):
    with pytest.raises(SystemExit) as end:
        experiments.main([*([experiment] if experiment else []), '--help'])
    out = capsys.readouterr().out
    assert (
        end.value.code == 0 and len(out) > 400 and (experiment or 'no prior can have caused' in out)
    )
