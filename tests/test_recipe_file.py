"""Recipes as files: what is written is read, what is wrong has its line, a run keeps its own."""

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

import degrade
import synthetic
import train
from degrade import recipe_text, recipes
from degrade.draw import Draw
from errors import RecipeError
from tools import prepare

NET = '{"width": [8, 8, 8, 8], "blocks": [[1, 1, 1], 1, [1, 1, 1]], "position": 0}'


@pytest.fixture
def written(tmp_path):
    """written(text, name) -> path of a recipe file."""

    def write(text, name='mine.toml'):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def draws(recipe, count=500):
    draw = Draw(3, np.arange(count), tied=recipe.tied, batch=8)
    return degrade.sample(recipe, draw, (512, 512))


def assert_same_draws(a, b, **how):
    for ours, theirs in zip(draws(a, **how), draws(b, **how), strict=True):
        for x, y in zip(ours, theirs, strict=True):
            assert np.array_equal(x, y)


# ---- there and back ----


@pytest.mark.parametrize('name', degrade.RECIPES)
def test_every_recipe_survives(name, written):
    ours = degrade.recipe(name)
    read = degrade.recipe(written(recipe_text.text(ours), f'{name}.toml'))
    assert read == ours
    assert_same_draws(read, ours, count=10_000)
    assert recipe_text.text(read) == recipe_text.text(ours)


def test_prepare_writes_what_can_be_read(written, tmp_path, capsys):
    assert prepare.main(['recipe', 'face_renovation']) == 0
    text = capsys.readouterr().out
    assert degrade.recipe(written(text, 'face_renovation.toml')) == degrade.recipe(
        'face_renovation'
    )
    assert '# beta_gaussian = [0.5, 4.0]' in text  # what could be said besides
    out = str(tmp_path / 'new.toml')
    assert prepare.main(['recipe', 'gfpgan', '--out', out]) == 0
    assert degrade.recipe(out) == degrade.recipe('gfpgan')
    assert prepare.main(['recipe', 'mfps', '--out', out]) == 2
    assert 'is there already' in capsys.readouterr().err
    assert degrade.recipe(out) == degrade.recipe('gfpgan')


def test_every_key_of_every_operation_is_known():
    """What `sample` takes, recipe files may say, and nothing else."""
    import inspect

    for name, op in recipes.OPS.items():
        parameters = inspect.signature(op.sample).parameters.values()
        keys = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
        assert keys == set(op.RANGES), name
        for p in parameters:
            if p.name in keys and p.default is not None:
                assert op.RANGES[p.name].read(op.RANGES[p.name].write(p.default)) == p.default


# ---- what differs from another recipe ----


def test_a_file_says_what_differs(written):
    mine = degrade.recipe(
        written(
            """extends = "realesrgan"
            without = ["usm"]

            [stages.noise1]
            sigma = [2, 40]
            gray = 0

            [stages.blur2]
            on = 0.5
            """
        )
    )
    base = degrade.without_usm(degrade.recipe('realesrgan'))
    assert mine.name == 'mine' and mine.scale == 4
    for ours, theirs in zip(mine.stages, base.stages, strict=True):
        if ours.name == 'noise1':
            assert ours.ranges == {**theirs.ranges, 'sigma': (2, 40), 'gray': 0}
        elif ours.name == 'blur2':
            assert ours == theirs._replace(on=0.5)
        else:
            assert ours == theirs


def test_a_new_stage_has_a_place(written):
    stages = """[stages.smooth]
    op = "median"
    after = "noise1"
    side = 3

    [stages.first]
    op = "jpeg"
    before = "blur"
    on = 0.2
    """
    gfpgan = degrade.recipe(written(f'extends = "gfpgan"\n{stages}'.replace('noise1', 'noise')))
    names = [stage.name for stage in gfpgan.stages]
    assert names[:2] == ['first', 'blur'] and names[names.index('noise') + 1] == 'smooth'
    assert gfpgan.stages[names.index('smooth')].ranges == {'side': (3, 3)}


def test_another_operation_starts_from_nothing(written):
    mine = degrade.recipe(written('extends = "realesrgan"\n[stages.jpeg1]\nop = "median"\n'))
    (stage,) = [s for s in mine.stages if s.name == 'jpeg1']
    assert stage.op is recipes.median and stage.ranges == {}


def test_files_extend_files(written):
    written('extends = "gfpgan"\n[stages.noise]\nsigma = [0, 5]\n', 'base.toml')
    mine = degrade.recipe(written('extends = "base.toml"\n[stages.jpeg]\nquality = 90\n'))
    ranges = {stage.name: stage.ranges for stage in mine.stages}
    assert ranges['noise']['sigma'] == (0, 5) and ranges['jpeg']['quality'] == (90, 90)


def test_a_shuffled_recipe_is_changed_in_all_its_places(written):
    mine = degrade.recipe(written('extends = "hifacegan"\n[stages.jpeg]\nquality = [5, 6]\n'))
    changed = [s for s in mine.stages if s.name == 'jpeg']
    assert len(changed) == 4 and all(s.ranges['quality'] == (5, 6) for s in changed)
    fewer = 'extends = "hifacegan"\nwithout = ["noise", "noisy"]\n'
    order = 'shuffle = [["blur", "blurred"], ["jpeg"], ["shrink", "shrunk", "grow", "grown"]]\n'
    assert {s.place.parts for s in degrade.recipe(written(fewer + order)).stages} == {3}


def test_the_example_of_the_docs(written):
    docs = Path(__file__).resolve().parents[1] / 'docs/recipes.md'
    (example,) = re.findall(r'```toml\n(.*?)```', docs.read_text(), re.DOTALL)
    names = [stage.name for stage in degrade.recipe(written(example)).stages]
    assert names[names.index('noise2') + 1] == 'smooth' and 'usm' not in names


# ---- what is wrong ----

NOISE = 'extends = "gfpgan"\n[stages.noise]\n'
CHAIN = '[stages.a]\nop = "resize"\nto = "lq"\n[stages.b]\nop = "quantize"\n'
BROKEN = [
    ('extends = "gfpgan', r'mine.toml is no TOML: '),
    ('', r'mine.toml: there is no stage: give extends = "NAME", or tables'),
    ('a = 1', r"line 1: a = 1: unknown key 'a' \(there are: extends, "),
    ('extnds = "gfpgan"', r"line 1: extnds = .*did you mean 'extends'\?"),
    ('extends = "gfpgn"', r"line 1: extends = \"gfpgn\": .*did you mean 'gfpgan'\?"),
    ('extends = 3', r'line 1: extends = 3: must be the name of a recipe, or of a .toml file'),
    ('extends = "other.toml"', r'other.toml cannot be read: No such file'),
    ('extends = "mine.toml"', r'more than 8 files extend each other'),
    ('extends = "gfpgan"\nscale = 3', r'line 2: scale = 3: must be one of 1, 2, 4, 8'),
    ('extends = "gfpgan"\nscale = true', r'line 2: scale = true: must be one of'),
    ('extends = "gfpgan"\nname = "a/b"', r'line 2: name = "a/b": must be a word'),
    ('extends = "gfpgan"\nwithout = ["usm"]', r"line 2: without = .*unknown stage 'usm'"),
    ('extends = "gfpgan"\nwithout = "usm"', r'line 2: without = "usm": must be a list of names'),
    ('extends = "gfpgan"\ntied = [1]', r'line 2: tied = \[1\]: must be a list of names'),
    ('extends = "gfpgan"\npool = -1', r'line 2: pool = -1: must be a whole number from 0'),
    ('extends = "gfpgan"\nstages = 3', r'line 2: stages = 3: must be tables'),
    ('extends = "gfpgan"\n[stages]\nnoise = 3', r'line 3, stage noise: must be a table'),
    (NOISE + 'sigma = [0, 400]', r'line 3, stage noise: sigma = \[0, 400\]: .*from 0 to 255'),
    (
        NOISE + 'gray = 0\nsigma = [9, 3]',
        r'line 4, stage noise: sigma = \[9, 3\]: .*smallest, larg',
    ),
    (NOISE + 'sigma = "much"', r'line 3, stage noise: sigma = "much": must be'),
    (NOISE + 'sigma = [1, 2, 3]', r'line 3, stage noise: sigma = .*must be'),
    (NOISE + 'sigma = [1, nan]', r'line 3, stage noise: sigma = .*must be'),
    (
        NOISE + 'sgma = [1, 2]',
        r"line 3, stage noise: sgma = .*key of noise.*did you mean 'sigma'\?",
    ),
    (NOISE + 'gray = 2', r'line 3, stage noise: gray = 2: must be a number from 0 to 1'),
    (NOISE + 'gray = true', r'line 3, stage noise: gray = true: must be a number'),
    (NOISE + 'rate = [1.5, 3]', r'line 3, stage noise: rate = .*two whole numbers from 1 to 32'),
    (NOISE + 'kinds = [1, 2]', r'line 3, stage noise: kinds = .*must be a table of weights'),
    (
        NOISE + 'kinds = { gausian = 1 }',
        r"line 3, stage noise: kinds = .*did you mean 'gaussian'\?",
    ),
    (NOISE + 'kinds = { gaussian = 0 }', r'line 3, stage noise: kinds = .*a weight above 0'),
    (NOISE + 'kinds = { gaussian = -1 }', r'line 3, stage noise: kinds = .*gaussian = -1: must be'),
    (NOISE + 'op = "nois"', r"line 3, stage noise: op = \"nois\": .*did you mean 'noise'\?"),
    (NOISE + 'on = 1.5', r'line 3, stage noise: on = 1.5: must be a number from 0 to 1'),
    (NOISE + 'on = { draw = "x" }', r'line 3, stage noise: on = .*a probability, or \{ draw'),
    (NOISE + 'after = "blur"', r'line 3, stage noise: after = "blur": stands where it is'),
    ('extends = "gfpgan"\n[stages.nois]\nop = "noise"', r"line 2, stage nois: is new: .*'noise'\?"),
    (
        'extends = "gfpgan"\n[stages.x]\nop = "noise"\nafter = "blr"',
        r"line 4, stage x: after = \"blr\": unknown stage 'blr', did you mean 'blur'",
    ),
    ('extends = "gfpgan"\n[stages.x]\nafter = "blur"', r'line 2, stage x: needs op, one of'),
    ('extends = "gfpgan"\n[stages."x y"]\nop = "noise"', r'stage x y: a stage is named by letters'),
    ('[stages.a]\nop = "quantize"\n', r'end with 512x512 instead of 128x128: end with'),
    (
        '[stages.a]\nop = "resize"\nto = "lq"\n',
        r'line 1, stage a: must be followed by a last stage',
    ),
    (CHAIN.replace('to = "lq"', 'to = "lq"\non = 0.5'), r'end with 512x512 instead of 128x128'),
    (CHAIN + '[stages.c]\nop = "usm"\n', r'line 6, stage c: can only stand first'),
    (
        CHAIN.replace('"lq"', '"lqq"'),
        r"line 3, stage a: to = \"lqq\": unknown word 'lqq', did you mean",
    ),
    (CHAIN + 'up = 1', r'line 6, stage b: up = 1: must be true or false'),
    (CHAIN + 'shuffle = [["a"]]', r'stage b: shuffle'),
    (
        'shuffle = [["a"]]\nscale = 1\n' + CHAIN,
        r'line 1: shuffle = .*must have every stage once: b',
    ),
    ('shuffle = "a"\n' + CHAIN, r'line 1: shuffle = "a": must be a list of parts'),
    (
        CHAIN.replace('op = "quantize"', 'op = "blur"\nomega = [1, 2]'),
        r'omega = .*the keys small, la',
    ),
    (
        CHAIN.replace('op = "quantize"', 'op = "blur"\nomega = { small = [1, 2], large = [1, 9] }'),
        r'line 6, stage b: omega = .*large = \[1, 9\]: must be',
    ),
]


@pytest.mark.parametrize('text, message', BROKEN, ids=[str(i) for i in range(len(BROKEN))])
def test_a_broken_file_is_refused_by_its_line(text, message, written):
    with pytest.raises(RecipeError) as caught:
        degrade.recipe(written(text))
    said = str(caught.value)
    assert re.search(message, said) and '\n' not in said and len(said) < 500, said


@pytest.mark.parametrize('content', [b'\xff\xfe', b'x' * (2 << 20), b'[' * 5000])
def test_what_is_no_text_of_a_recipe(content, tmp_path):
    (tmp_path / 'mine.toml').write_bytes(content)
    with pytest.raises(RecipeError, match='mine.toml'):
        degrade.recipe(str(tmp_path / 'mine.toml'))


def test_programs_say_it_in_a_line(written, tmp_path, capsys):
    path = written(NOISE + 'sigma = [0, 400]')
    argv = ['--recipe', path, '--out', str(tmp_path / 'run'), '--nimg', '4']
    assert train.main(argv) == 2
    assert 'line 3, stage noise: sigma' in capsys.readouterr().err
    assert not (tmp_path / 'run').exists()
    assert prepare.main(['preview', str(tmp_path), '--recipe', path]) == 2
    assert 'line 3, stage noise: sigma' in capsys.readouterr().err


# ---- a run keeps its recipe ----


@pytest.fixture
def command(tmp_path, monkeypatch):
    """command(*more) -> exit status of a small run with mine.toml."""
    monkeypatch.setenv('FACES_CACHE', str(tmp_path / 'cache'))
    (tmp_path / 'hq').mkdir()
    for i in range(4):
        cv2.imwrite(str(tmp_path / f'hq/{i}.png'), synthetic.face(i, 64).image[..., ::-1])
    fixed = f'--data {tmp_path}/hq --val 1 --preset unet --size 64 --batch 2 --ticks 1 --threads 1'
    fixed += f' --pipe torch --device cpu --precision fp32 --out {tmp_path}/run'
    return lambda *more: train.main([*fixed.split(), '--net', NET, *more])


def test_a_run_keeps_its_recipe(command, written, tmp_path, capsys):
    written('extends = "gfpgan"\n[stages.blur]\nsigma = [0.1, 2]\n', 'base.toml')
    path = written('extends = "base.toml"\n[stages.noise]\nsigma = [0, 7]\n')
    assert command('--recipe', path, '--nimg', '4') == 0
    kept = degrade.recipe(str(tmp_path / 'run/recipe.toml'))
    assert kept == degrade.recipe(path) and kept.name == 'mine'
    assert json.loads((tmp_path / 'run/config.json').read_text())['recipe'] == path

    # The same under another path, or in other words, is the same.
    moved = written(recipe_text.text(kept), 'moved.toml')
    assert command('--recipe', moved, '--nimg', '4') == 0
    capsys.readouterr()

    # A file that it extends is a part of it.
    written('extends = "gfpgan"\n', 'base.toml')
    assert command('--recipe', path, '--nimg', '4') == 2
    assert '--recipe: changed' in capsys.readouterr().err

    # What only reads the run does without the file.
    for name in 'mine.toml', 'base.toml', 'moved.toml':
        (tmp_path / name).unlink()
    argv = ['replay', str(tmp_path / 'run'), '1', '--out', str(tmp_path / 'replay.png')]
    assert prepare.main(argv) == 0
    assert 'noise: gaussian' in capsys.readouterr().out


@pytest.mark.parametrize('deterministic', [True, False])
def test_a_deterministic_run_ends_with_its_codecs(
    deterministic, command, written, tmp_path, monkeypatch, capsys
):
    text = 'extends = "bicubic"\n[stages.web]\nop = "codec"\nafter = "final"\n'
    path = written(text + 'kinds = { webp = 1 }\n')
    more = '--recipe', path, '--nimg', '4', *(['--deterministic'] if deterministic else [])
    assert command(*more) == 0
    stored = json.loads((tmp_path / 'run/config.json').read_text())
    assert ('codecs' in stored) == deterministic
    monkeypatch.setattr(degrade.codec, 'versions', lambda kinds: {'webp': '9.9'})
    assert command(*more) == (2 if deterministic else 0)
    if deterministic:
        assert "codecs: was {'webp': " in capsys.readouterr().err.replace('"', "'")
