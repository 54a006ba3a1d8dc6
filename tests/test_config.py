"""Options: where they come from, which of two words counts, and what does not go together."""

import json
from pathlib import Path

import pytest

import tasks
from config import documentation, flags, presets, rules, schema, stored
from errors import RunError
from tasks import options

ROOT = Path(__file__).resolve().parents[1]
NOWHERE = ['--device', 'cpu', '--pipe', 'torch', '--threads', '1', '--out', 'nowhere']


def configured(*words):
    """The options of a command line, whose values are separated by spaces."""
    return tasks.configure(NOWHERE + [part for word in words for part in word.split()])


def without(config, *names):
    """Options as a dictionary, less some."""
    return {k: v for k, v in schema.flatten(config).items() if k not in names}


# ------------------------------------------------------------------------------------------------
# --config FILE.

FLAT = """
preset = "flagship"
batch = 3
lr = 5e-4
net = {attention = 2, position = 8}
milestones = [0.25, 0.5]
target-usm = true
repair = false
val = ["a=x", "3"]
"""
GROUPED = """
preset = "flagship"
[optimization]
batch = 3
lr = 5e-4
milestones = [0.25, 0.5]
[network]
net = {attention = 2, position = 8}
[degradation]
target_usm = true
[data]
repair = false
val = ["a=x", "3"]
"""
WORDS = [
    '--preset flagship --batch 3 --lr 5e-4 --milestones 0.25,0.5 --target-usm --no-repair',
    '--val a=x 3 --net {"attention":2,"position":8}',
]


@pytest.mark.parametrize('text', [FLAT, GROUPED], ids=['flat', 'grouped'])
def test_a_toml_file_is_a_command_line(text, tmp_path):
    (tmp_path / 'run.toml').write_text(text)
    assert configured(f'--config {tmp_path}/run.toml') == configured(*WORDS)


@pytest.mark.parametrize(
    'words',
    [
        ['--preset flagship --val 3 --betas 0.9,0.95 --net {"attention":2}'],
        ['--preset esrgan_small --gan-level 0 --data faces --val a=x b=y'],
        ['--preset parse_unet --no-repair --minutes 3'],
        ['--preset srresnet24 --strict --deterministic --schedule restarts --periods 1,2'],
    ],
)
def test_the_config_of_a_run_makes_its_options_again(words, tmp_path):
    made = configured(*words)
    stored = schema.flatten(made) | {'format': 3, 'images': '10 images, abc'}
    (tmp_path / 'config.json').write_text(json.dumps(stored))
    again = configured(f'--config {tmp_path}/config.json')
    assert again == made
    # The folder of the other run is not taken over.
    assert flags.configure(['--config', f'{tmp_path}/config.json']).run.out == f'runs/{made.preset}'


def test_a_config_of_an_earlier_version_is_read(tmp_path):
    stored = schema.flatten(configured('--preset unet --schedule restarts'))
    del stored['restart_weights']
    (tmp_path / 'config.json').write_text(json.dumps(stored | {'weights': [1, 0.5]}))
    config = configured(f'--config {tmp_path}/config.json')
    assert config.optimization.restart_weights == (1, 0.5)


def test_flags_override_the_file(tmp_path):
    (tmp_path / 'run.toml').write_text(FLAT + 'minutes = 3\n')
    words = '--batch 7 --no-target-usm --repair --preset unet --val 5 --nimg 100'
    config = configured(f'--config {tmp_path}/run.toml', words)
    assert config.preset == 'unet' and config.optimization.batch == 7
    assert not config.degradation.target_usm and config.data.repair
    assert config.data.val == ('5',) and config.optimization.lr == 5e-4
    # One of two lengths replaces the other.
    assert (config.optimization.nimg, config.optimization.minutes) == (100, None)


@pytest.mark.parametrize(
    'name, text, said',
    [
        ('a.toml', 'bach = 3', "did you mean 'batch'"),
        ('a.toml', '[optimization]\nminuts = 3', "did you mean 'minutes'"),
        ('a.toml', 'batch = ', 'is not valid TOML'),
        ('a.json', '{"batch": 3', 'is not valid JSON'),
        ('a.json', '[3]', 'a table of options'),
        ('a.toml', 'preset = "unett"', "did you mean 'unet'"),
        ('missing.toml', None, 'cannot be read'),
    ],
)
def test_a_bad_file_is_refused(name, text, said, tmp_path):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(RunError, match=said):
        configured(f'--config {tmp_path}/{name}')


# ------------------------------------------------------------------------------------------------
# Presets.


@pytest.mark.parametrize('alias', presets.ALIASES)
def test_an_alias_is_its_preset_with_an_argument(alias):
    preset, arguments = presets.ALIASES[alias]
    ((name, value),) = arguments.items()
    given = configured(f'--preset {preset} --{name} {value}')
    assert without(given, 'preset', 'out') == without(
        configured(f'--preset {alias}'), 'preset', 'out'
    )
    assert given.network.net[name] == value and getattr(given.network, name) is None


@pytest.mark.parametrize('preset', presets.NAMES)
def test_options_survive_a_file(preset):
    config = presets.config(preset)
    assert stored.from_flat(json.loads(json.dumps(schema.flatten(config)))) == config


def test_what_a_file_has_too_much_is_ignored_and_what_it_lacks_has_its_default():
    assert stored.from_flat({'unknown': 1, 'batch': 9}) == schema.replace_options(
        schema.Config(), batch=9
    )
    with pytest.raises(TypeError, match='there is no option bach'):
        schema.replace_options(schema.Config(), bach=9)


def test_names_of_options_are_unique():
    names = [option.name for _, option in schema.options()]
    assert len(names) == len(set(names)) and not {'task', 'preset'} & set(names)


# ------------------------------------------------------------------------------------------------
# Their documentation.


def test_the_docs_show_the_options():
    text = (ROOT / 'docs/options.md').read_text()
    assert documentation.BEGIN in text and documentation.END in text
    assert text == documentation.page(text), 'python -m config.documentation docs/options.md'


def test_every_option_has_words():
    derived = {'guides'}  # of other options; documented for those who read config.json
    described = documentation.descriptions()
    for _, option in schema.options():
        assert described[option.name], option.name
    table = '\n'.join(documentation.table())
    for _, option in schema.options():
        row = f'| `{documentation.flag(option.name)}` |'
        assert row in table or option.name in derived, option.name


# ------------------------------------------------------------------------------------------------
# Rules: each is broken by a command line, and its message names the flag.

GAN = '--preset unet --gan vanilla --discriminator unet_sn'
BROKEN = {
    (rules, 'MACHINE'): [
        '--device gpu',
        '--pipe dali',
        '--decode gpu',
    ],
    (rules, 'DATA'): ['--size 62', '--crop 30', '--preset parse_unet --trunk x.pth'],
    (rules, 'OPTIMIZATION'): ['--betas 0.9'],
    (options, 'NO_LANDMARKS'): ['--landmarks x.json'],
    (options, 'LANDMARKS'): ['--preset landmarks --landmarks x.json'],
    (options, 'NO_RARE'): ['--preset landmarks --paste 0.5'],
    (options, 'PRIORS'): [
        '--preset unet --multi-prior-weight 0.1',
        '--preset mfpsnet --multi-prior-weight 0.1 --prior parse=x --drop-priors parse',
        '--preset unet --prior x',
        '--preset unet --arch paper',
    ],
    (options, 'LOSSES'): [
        '--preset unet --pixel-weight 0',
        f'{GAN} --pixel-weight 0 --last-loss psnr',
        '--preset unet --vgg x --efficientnet',
    ],
    (options, 'ADVERSARIAL'): [
        '--preset unet --matching-weight 1',
        '--preset unet --gan vanilla',
        f'{GAN} --gan-level 0.5',
        '--preset unet --gan vanilla --discriminator modified_vgg',
        '--preset unet --gan vanilla --discriminator modified_vgg --crop 128 --r1 1',
        '--preset unet --gan lsgan --discriminator patchgan --discriminator-net {"channels":4}',
    ],
    (options, 'SEARCHING'): [
        '--preset search_sr --gan vanilla',
        '--preset search_sr --search-from 1',
        '--preset search_sr --optimizer muon',
    ],
    (options, 'MASKED'): [
        '--preset parse_unet --crop 32',
        '--preset parse_unet --target-usm',
        '--preset parse_unet --paste 0.5 --batch 3',
        '--preset parse_unet --mix pairs:0.1',
    ],
    (options, 'MIXED'): [
        '--target-gray',
        '--mix pairs:1',
        '--mix pairs:0.1 --target-usm',
    ],
}
CASES = [
    pytest.param(place, table, number, words, id=f'{table}-{number}')
    for (place, table), commands in BROKEN.items()
    for number, words in enumerate(commands)
]


@pytest.mark.parametrize('place, table, number, words', CASES)
def test_every_rule_is_broken_by_a_command(place, table, number, words, monkeypatch):
    """By that rule: no earlier one is broken, and the command ends with its message."""
    monkeypatch.setattr(flags, 'has_dali', lambda: False)
    argv = [*NOWHERE, *words.split()]
    seen = []
    check = rules.check
    monkeypatch.setattr(rules, 'check', lambda c, table: (seen.append(c), check(c, table))[1])
    with pytest.raises(RunError) as refused:
        tasks.configure(argv)
    broken = [rule.broken(seen[-1]) for rule in getattr(place, table)]
    assert broken[number] and not any(broken[:number])
    message = getattr(place, table)[number].message(seen[-1])
    assert str(refused.value) == message
    # The flag that the command gave last names what is wrong.
    given = [word for word in words.split() if word.startswith('--') and word != '--preset']
    assert any(name in message for name in given)


def test_every_rule_has_such_a_command():
    tables = {
        (place, name): value
        for place in (rules, options)
        for name, value in vars(place).items()
        if isinstance(value, tuple) and value and isinstance(value[0], rules.Rule)
    }
    assert {key: len(table) for key, table in tables.items()} == {
        key: len(commands) for key, commands in BROKEN.items()
    }


def test_one_length_is_given():
    with pytest.raises(RunError, match='--nimg and --minutes are two lengths'):
        configured('--nimg 8 --minutes 1')
