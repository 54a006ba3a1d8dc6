"""Every number of every program has a range, and what is outside is refused by flag, value, range.

Flags are taken from the parsers, so that a new one is tried, too.
"""

import program
from program import Number, Or, Several, Whole

import argparse
import ast
import math
from typing import get_args

import programs
import pytest
from programs import PROGRAMS, ROOT

import tasks
import train
from config import documentation, flags, ranges, schema
from errors import RunError

ARGPARSE = [path for path in PROGRAMS if path != 'train.py']
NUMBERS = [
    (path, verb, action)
    for path in ARGPARSE
    for verb, parser in programs.parsers(path).items()
    for action in parser._actions
    if isinstance(action.type, (Whole, Number, Or, Several))
]
NOWHERE = ['--device', 'cpu', '--pipe', 'torch', '--threads', '1', '--out', 'nowhere']


def outside(range_):
    """Texts of numbers that a range does not hold, or that are none."""
    if isinstance(range_, Several):
        return [f'{range_.each.low},{text}' for text in outside(range_.each)]
    if isinstance(range_, Or):
        return outside(range_.number)
    below = str(range_.low) if getattr(range_, 'above', False) else str(range_.low - 1)
    above = str(range_.high + 1) if isinstance(range_, Whole) else str(range_.high * 2)
    return [below, above, 'nan', 'inf', '-inf', '1' + 20 * '0', '9' * 5000, 'x', '', '1e400']


# ------------------------------------------------------------------------------------------------
# Programs with a parser of argparse.


def test_flags_are_found():
    assert len(NUMBERS) > 30 and {path for path, *_ in NUMBERS} > {
        'infer.py',
        'tools/prepare.py',
        'synthetic/__main__.py',
    }


@pytest.mark.parametrize(
    'path, verb, action', NUMBERS, ids=[f'{p} {v} {a.dest}' for p, v, a in NUMBERS]
)
def test_a_number_outside_its_range_is_refused(path, verb, action, capsys):
    flag = [action.option_strings[-1]] if action.option_strings else []
    parser = argparse.ArgumentParser(prog=path)
    parser._add_action(action)
    for text in outside(action.type):
        with pytest.raises(SystemExit) as stop:
            parser.parse_args([f'{flag[0]}={text}'] if flag else ['--', text])
        said = capsys.readouterr().err.splitlines()[-1]
        assert stop.value.code == 2 and str(getattr(action.type, 'each', action.type)) in said
        assert (flag or [action.dest])[0] in said and text.rpartition(',')[2][:40] in said


@pytest.mark.parametrize('path', sorted({path for path, *_ in NUMBERS}))
def test_the_help_states_the_ranges(path):
    for verb, parser in programs.parsers(path).items():
        said = ' '.join(parser.format_help().split())
        ranged = [str(a.type) for p, v, a in NUMBERS if (p, v) == (path, verb)]
        assert sorted({range_ for range_ in ranged if range_ not in said}) == []


@pytest.mark.parametrize('path', ARGPARSE)
def test_no_number_is_without_a_range(path):
    """Neither by its type nor by its default."""
    calls = [
        node
        for node in ast.walk(ast.parse((ROOT / path).read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, 'attr', '') == 'add_argument'
    ]
    for call in calls:
        given = {k.arg: k.value for k in call.keywords}
        kind = ast.unparse(given['type']) if 'type' in given else ''
        assert kind not in ('int', 'float'), ast.unparse(call)
    for parser in programs.parsers(path).values():
        for action in parser._actions:
            values = action.default if isinstance(action.default, list) else [action.default]
            numbers = [v for v in values if type(v) in (int, float)]
            ranged = action.choices or isinstance(action.type, (Whole, Number, Or, Several))
            assert not numbers or ranged, action
            range_ = action.choices or getattr(action.type, 'each', action.type)
            assert all(number in range_ for number in numbers)


# ------------------------------------------------------------------------------------------------
# Options of a run.


def numeric():
    """Options whose type says that they are numbers, or several."""
    for _, option in schema.options():
        if {int, float} & set(kinds(option.type)):
            yield option.name


def kinds(kind):
    """The types that a type of annotations is made of."""
    return [kind, *(inner for part in get_args(kind) for inner in kinds(part))]


def test_every_number_of_a_run_has_a_range_that_holds_its_default():
    known = ranges.of_options()
    assert set(numeric()) == set(known) and len(known) > 30
    for name, value in schema.flatten(schema.Config()).items():
        values = value if isinstance(value, list) else [value]
        assert all(
            number in known[name] for number in values if name in known and number is not None
        )


@pytest.mark.parametrize('option', ranges.of_options())
def test_a_number_of_a_run_outside_its_range_is_refused(option, capsys):
    flag, range_ = documentation.flag(option), ranges.of_options()[option]
    length = [] if option in ('nimg', 'minutes') else ['--nimg', '8']
    for text in outside(range_):
        if text in ('9' * 5000, 'x', '', '1e400'):
            continue  # tyro's own words
        number = int(text) if text.lstrip('-').isdigit() else float(text)
        value = schema.replace_options(
            schema.Config(), **{option: (number,) if option in SEVERAL else number}
        )
        with pytest.raises(RunError, match=f'^{flag} .*: .* is needed') as refused:
            flags.check_ranges(value)
        assert str(range_) in str(refused.value)
    # And from the command line, where the check stands before everything else.
    text = outside(range_)[1]
    assert train.main([*NOWHERE, *length, '--preset', 'unet', f'{flag}={text}']) == 2
    assert f'{flag} {text[:15]}' in capsys.readouterr().err.replace(',', '')


SEVERAL = {o.name for _, o in schema.options() if 'tuple[' in str(o.type) and 'Meta' in str(o.type)}


@pytest.mark.parametrize(
    'words',
    [
        '--seed 100000000000000000000',
        '--lr inf',
        '--lr nan',
        '--lr -1',
        '--minutes nan',
        '--threads 0',
        '--ticks 0',
        '--size 0',
        '--batch 0',
        '--betas 0.9,nan',
        '--warmup 2',
        '--ema inf',
    ],
)
def test_what_people_type(words, capsys):
    flag, value = words.split()
    assert train.main([*NOWHERE, '--preset', 'unet', flag, value]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f'train.py: {flag} {value}: a') and said.count('\n') == 1


def test_a_file_of_options_is_held_to_the_ranges(tmp_path, capsys):
    (tmp_path / 'a.toml').write_text('lr = inf\n')
    assert train.main([*NOWHERE, '--config', str(tmp_path / 'a.toml')]) == 2
    said = capsys.readouterr().err
    assert 'lr' in said and '1000' in said and said.count('\n') == 1


@pytest.mark.parametrize('range_', [Whole(1, 9), Number(0, 2, above=True), Number(0, 2)])
def test_a_range_holds_its_ends(range_):
    low = math.nextafter(0, 1) if getattr(range_, 'above', False) else range_.low
    assert range_(str(low)) == low and range_(str(range_.high)) == range_.high
    assert program.Several(range_)(f'{range_.high},{range_.high}') == 2 * [range_.high]


LARGE = (
    '--device cpu --pipe torch --threads 64 --preset unet --size 1024 --batch 512 --accumulate 8 '
    '--nimg 100000000 --lr 0.1 --seed 4611686018427387904 --ticks 1000 --out nowhere'
)


def test_ranges_do_not_stand_in_the_way():
    """Of the largest real runs."""
    tasks.configure(LARGE.split())
