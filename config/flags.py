"""From the command line to the options of a run: defaults < preset < --config FILE < flags < what
the machine says.
"""

import argparse
import importlib.util
import json
import os
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import tyro

import storage
from dali_pipes import mixed
from errors import BadFile, RunError
from storage import records
from training import run

from . import documentation, presets, ranges, schema, stored
from .schema import Config

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# The flags most people use, in the order of the short help.
COMMON = (
    'data',
    'val',
    'size',
    'recipe',
    'out',
    'network',
    'net',
    'nimg',
    'minutes',
    'batch',
    'accumulate',
    'lr',
    'optimizer',
    'crop',
    'start',
    'gan',
    'precision',
    'device',
    'threads',
    'cache',
    'ticks',
)
# What a run's config.json holds beside its options, or says of its machine alone: not taken from
# --config.
NOT_TAKEN = {
    'format',
    'images',
    'images_per_step',
    'fingerprint',
    'codecs',
    'guides',
    'task',
    'out',
    'device',
    'threads',
    'pipe',
}
LENGTHS = {'nimg', 'minutes'}
LARGEST = 1 << 20  # bytes of a file of options


def configure(argv: Sequence[str] | None = None, description: str | None = None) -> Config:
    """The options that a command line defines, not yet checked.

    argv: arguments of train.py (default: those of this process); description: first lines of the
    help. Raises RunError for a preset or file that cannot be used; exits like argparse for --help
    and unknown flags.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    chosen, words = _control().parse_known_args(words)
    if chosen.help:
        print(short_help(description or ''))
        raise SystemExit(0)

    # A file of options is a command line that stands before the real one.
    given = _names(words)
    off: dict[str, None] = {}
    if chosen.config:
        options = _read(Path(chosen.config))
        stored_preset = options.pop('preset', None)
        chosen.preset = chosen.preset or stored_preset
        taken = {k: v for k, v in options.items() if k not in given}
        if given & LENGTHS:
            taken = {k: v for k, v in taken.items() if k not in LENGTHS}
        words = [*_words(taken), *words]
        given = _names(words)
        # No word turns off what the preset sets, and the run of a config.json did without.
        off = {k: None for k, v in taken.items() if v is None}

    # Flags override the preset.
    name = run.choose(
        chosen.preset or ('unet' if 'data' in given else 'demo'), presets.NAMES, 'preset'
    )
    row = presets.row(name, features=_has_features(words))
    if given & LENGTHS:
        row = {k: v for k, v in row.items() if k not in LENGTHS}
    if given >= LENGTHS:
        raise RunError('--nimg and --minutes are two lengths of one run: give one')
    default = schema.replace_options(Config(), preset=name, **row | off)
    config = _parsed(words, default, description, chosen.help_all)
    check_ranges(config)
    return _resolved(config, given)


def check_ranges(config: Config) -> None:
    """Raise RunError for the first number that is not in its range."""
    flat = schema.flatten(config)
    for option, stated in ranges.of_options().items():
        value = flat[option]
        numbers = value if isinstance(value, list) else [value]
        if not all(number is None or number in stated for number in numbers):
            shown = ','.join(f'{x:.15g}' if isinstance(x, float) else str(x) for x in numbers)
            raise RunError(f'{documentation.flag(option)} {shown[:40]}: {stated} is needed')


def given(argv: Sequence[str]) -> dict[str, Any]:
    """{option: value} of what a command line of train.py sets itself."""
    _, words = _control().parse_known_args(argv)
    flat = schema.flatten(configure(argv))
    return {name: flat[name] for name in flat.keys() & _names(words)}


def is_dry(argv: Sequence[str] | None = None) -> bool:
    """Whether the options are only to be printed."""
    return bool(_control().parse_known_args(sys.argv[1:] if argv is None else argv)[0].dry_run)


def _control() -> argparse.ArgumentParser:
    """The flags that are no options of a run."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument('--preset')
    parser.add_argument('--config')
    parser.add_argument('--dry-run', action='store_true')
    parser.add_argument('-h', '--help', action='store_true')
    parser.add_argument('--help-all', action='store_true')
    return parser


def _parsed(words: list[str], default: Config, description: str | None, everything: bool) -> Config:
    """What tyro makes of the words."""
    try:
        return tyro.cli(
            Config,
            prog='train.py',
            description=description,
            args=['--help'] if everything else words,
            default=default,
            config=(tyro.conf.OmitArgPrefixes,),
        )
    except SystemExit as stop:
        if everything:
            print(CONTROL_HELP)
        raise stop from None


CONTROL_HELP = textwrap.dedent(f"""\
    --preset NAME     starting point that the flags override: {', '.join(presets.NAMES)}
                      (default: demo; unet if --data is given)
    --config FILE     options from a TOML file or another run's config.json; flags override them
    --dry-run         print the options and exit
    --help            the flags most people use
    --help-all        all flags""")


def short_help(description: str) -> str:
    """The help with the flags of COMMON."""
    words = documentation.descriptions()
    lines = [description.rstrip(), '', 'the flags most people use:', CONTROL_HELP]
    for option in COMMON:
        wrapped = textwrap.wrap(words[option], 80)
        lines.append(f'{documentation.flag(option):<17} {wrapped[0]}')
        lines += [f'{"":18}{line}' for line in wrapped[1:]]
    return '\n'.join(lines)


def _names(words: Sequence[str]) -> set[str]:
    """Options that a command line sets."""
    # tyro takes no abbreviations, so what is given can be read off the words.
    names = {w[2:].split('=')[0].replace('-', '_') for w in words if w.startswith('--')}
    switched_off = {n.removeprefix('no_') for n in names}
    return (names | switched_off) - {n for n in names if n.startswith('no_')}


def _has_features(words: Sequence[str]) -> bool:
    """Whether a command line asks for a perceptual loss."""
    on = {w[2:].split('=')[0] for w in words if w.startswith('--')}
    return bool(on & {*schema.EXTRACTORS})


# ------------------------------------------------------------------------------------------------
# Files of options.


def _read(path: Path) -> dict[str, Any]:
    """{option: value} of a TOML file, whose tables may be the groups of the schema, or of a
    config.json.
    """
    said = f'--config {storage.shown(path)}'
    content = _content(path, said)
    options: dict[str, Any] = {}
    for key, value in content.items():
        options |= value if isinstance(value, dict) and key in schema.GROUPS else {key: value}
    if path.suffix == '.json':
        options = {run.RENAMED.get(k, k): v for k, v in options.items() if k not in NOT_TAKEN}
    options = {name.replace('-', '_'): value for name, value in options.items()}
    known = ['preset', *(option.name for _, option in schema.options())]
    for name in options:
        run.choose(storage.printable(name, 40), known, f'option in {said}:')
    stored.checked({name: stored.meant(name, value) for name, value in options.items()}, said)
    return options


def _content(path: Path, said: str) -> dict[str, Any]:
    """The table in a file. said: how a message names it"""
    kind = path.suffix[1:].upper() or 'TOML'
    try:
        data = storage.read(path, LARGEST)
        content = records.loads(data) if kind == 'JSON' else tomllib.loads(data.decode())
        return records.convert(content, dict[str, Any])
    except OSError as error:
        raise RunError(f'{said} cannot be read: {error.strerror}') from error
    except (ValueError, RecursionError, BadFile) as error:
        reason = storage.printable(str(error), 160)
        raise RunError(f'{said} is not valid {kind}, a table of options: {reason}') from error


def _words(options: dict[str, Any]) -> Iterator[str]:
    """The command line that sets these options."""
    for name, value in options.items():
        flag = documentation.flag(name)
        if value is None:
            continue
        if isinstance(value, bool):
            yield flag if value else documentation.flag(f'no_{name}')
        elif isinstance(value, dict):
            yield from (flag, json.dumps(value))
        elif isinstance(value, list) and all(isinstance(x, (int, float)) for x in value):
            yield from (flag, ','.join(map(str, value)))
        elif isinstance(value, list):
            yield from (flag, *map(str, value))
        else:
            yield from (flag, str(value))


# ------------------------------------------------------------------------------------------------
# What the machine says.


def _resolved(config: Config, given: set[str]) -> Config:
    """The options with everything chosen that was left open."""
    # Short forms of entries of --net.
    short = {k: getattr(config.network, k) for k in ('blocks', 'width')}
    net = config.network.net | {k: v for k, v in short.items() if v is not None}
    out = config.run.out or f'runs/{config.preset}'
    config = schema.replace_options(config, net=net, blocks=None, width=None, out=out)
    config = schema.replace_options(config, gan_level=config.gan.gan_level or None)

    # One word for two options, so that a path may be compared as one.
    if config.degradation.mix:
        path, share = mixed.split(config.degradation.mix)
        share = config.degradation.mix_share if share is None else share
        config = schema.replace_options(config, mix=path, mix_share=share)

    # The bits of a run depend on threads and precision, so a run that resumes has those it began
    # with.
    begun = stored.checked(run.read_config(out), f'{out}/config.json')
    kept = {k: begun[k] for k in ('threads', 'precision') if k in begun and k not in given}
    config = schema.replace_options(config, **kept)

    device = config.run.device or ('cuda' if torch.cuda.is_available() else 'cpu')
    return schema.replace_options(
        config,
        device=device,
        threads=config.run.threads if config.run.threads is not None else os.cpu_count(),
        precision=config.run.precision or default_precision(device),
        pipe=config.data.pipe or _default_pipe(config.data.decode),
    )


def default_precision(device: str) -> str:
    """bf16 where the device computes it in hardware, else fp32."""
    if device.startswith('cuda'):
        return 'bf16' if torch.cuda.is_bf16_supported(including_emulation=False) else 'fp32'
    # Without hardware for it bf16 on a CPU is slower than float32.
    info = Path('/proc/cpuinfo')
    flags = info.read_text() if info.exists() else ''
    return 'bf16' if 'avx512_bf16' in flags or 'amx_bf16' in flags else 'fp32'


def _default_pipe(decode: str) -> str:
    # Our kernels decode PNG in the dali pipe, and need no DALI for it.
    if has_dali() or decode == 'gpu':
        return 'dali'
    print('DALI is not installed: --pipe torch (pip install -e .[cuda13] installs it)')
    return 'torch'


def has_dali() -> bool:
    """Whether NVIDIA DALI is installed."""
    try:
        return importlib.util.find_spec('nvidia.dali') is not None
    except (ModuleNotFoundError, ValueError):  # no package nvidia at all
        return False
