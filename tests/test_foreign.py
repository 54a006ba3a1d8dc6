"""Files that are not what they are taken for: each program that reads one refuses it in one line
that names it, and what is damaged but not needed stops nothing.
"""

import argparse
import io
import json
import os
import pickle
import shutil
import signal
import zipfile

import cv2
import fuzz_readers
import numpy as np
import pytest
import torch

import infer
import models
import storage
import train
from errors import BadFile
from storage import tensors
from tasks import loading
from tools import evaluate, experiments, export, interpolate, prepare, report, submit
from training import checkpoint, log

SIDE = fuzz_readers.SIDE


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """A finished run, weights, priors and pictures, which tests copy before they damage them."""
    folder = tmp_path_factory.mktemp('foreign')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('FACES_CACHE', str(folder / 'cache'))
        fuzz_readers.write_files(folder / 'home')
        (folder / 'home/results').mkdir()
        shutil.copy(folder / 'home/face.png', folder / 'home/results/face.png')
        yield folder / 'home'


@pytest.fixture
def home(made, tmp_path):
    """The same, moved, to damage."""
    return shutil.copytree(made, tmp_path / 'home')


@pytest.fixture(autouse=True)
def in_time():
    """A program that waits for a pipe fails instead."""

    def late(*_):
        raise TimeoutError('waited for too long')

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def flags(home, out, *more):
    """The run's command, in a folder of its own unless it is to be resumed."""
    argv = fuzz_readers.flags_of(home)
    argv[argv.index('--out') + 1] = str(out)
    return [*argv, *map(str, more)]


def refused(main, argv, capfd, name):
    """Exit status 2, and one line with the name and nothing of torch's advice."""
    assert main([str(word) for word in argv]) == 2
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 1, said
    assert name in said[0] and 'weights_only' not in said[0] and len(said[0]) < 1500
    return said[0]


# ------------------------------------------------------------------------------------------------
# Weights.


def ON_FACE(h):
    return ['--input', h / 'face.png', '--output', h / 'out', '--device', 'cpu']


def CHALLENGE(h):
    size = ['--size', SIDE, '--out', h / 's.zip']
    return ['challenge', h / 'results', '--names', h / 'results', *size]


def SAME(h):
    return [h / 'results', '--gt', h / 'results', '--device', 'cpu']


def POINTS(h, f):
    return ['--lmd-points', f'truth={f}', f'{h / "results"}={f}']


def GUIDED(h, f):
    argv = flags(h, h / 'new', '--prior', f)
    at = argv.index('--net')
    argv[at : at + 2] = []
    argv[argv.index('unet')] = 'mfpsnet'
    return argv


WITH_WEIGHTS = {
    'infer': (infer.main, lambda h, f: [*ON_FACE(h), '--weights', f]),
    'export': (export.main, lambda h, f: ['--weights', f, '--out', h / 'net.onnx']),
    'interpolate': (interpolate.main, lambda h, f: [h / 'run', f, '--out', h / 'between']),
    'submit': (submit.main, lambda h, f: [*CHALLENGE(h), '--run', f]),
    'evaluate --lpips': (evaluate.main, lambda h, f: [*SAME(h), '--lpips', f]),
    'evaluate --niqe': (evaluate.main, lambda h, f: [*SAME(h), '--niqe', f]),
    'evaluate --fid': (evaluate.main, lambda h, f: [*SAME(h), '--fid', f]),
    'evaluate --identity': (evaluate.main, lambda h, f: [*SAME(h), '--identity', f]),
    'evaluate --lmd-points': (evaluate.main, lambda h, f: [*SAME(h), *POINTS(h, f)]),
    'train --start': (train.main, lambda h, f: flags(h, h / 'new', '--start', f)),
    'train --vgg': (train.main, lambda h, f: flags(h, h / 'new', '--vgg', f)),
    'train --prior': (train.main, lambda h, f: GUIDED(h, f)),
}


class Code:
    def __reduce__(self):
        return os.system, ('touch EXECUTED',)


def saved(content, **how):
    buffer = io.BytesIO()
    torch.save(content, buffer, **how)
    return buffer.getvalue()


def compressed():
    """A file of torch.save, packed again by somebody who wanted it smaller."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(saved({'x': torch.zeros(1000)}))) as old,
        zipfile.ZipFile(buffer, 'w', zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return buffer.getvalue()


def npz():
    buffer = io.BytesIO()
    np.savez(buffer, x=np.zeros(3))
    return buffer.getvalue()


WRONG = {
    'empty': lambda: b'',
    'page': lambda: b'\n<!DOCTYPE html><title>Quota exceeded</title>',
    'pointer': lambda: b'version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n',
    'text': lambda: b'hello',
    'picture': lambda: cv2.imencode('.png', np.zeros((4, 4), np.uint8))[1].tobytes(),
    'list': lambda: saved([torch.zeros(1)]),
    'tensor': lambda: saved(torch.zeros(1)),
    'no names': lambda: saved({1: torch.zeros(1)}),
    'no tensors': lambda: saved({'x': 'y'}),
    'nothing': lambda: saved({}),
    'cut': lambda: saved({'x': torch.zeros(1000)})[:-900],
    'cut legacy': lambda: saved({'x': torch.zeros(99)}, _use_new_zipfile_serialization=False)[:-9],
    'code': lambda: saved({'x': Code()}),
    'plain pickle of code': lambda: pickle.dumps(Code()),
    'objects': lambda: saved({'state_dict': {}, 'args': argparse.Namespace(lr=1)}),
    'whole module': lambda: saved(torch.nn.Linear(2, 2)),
    'expanded': lambda: saved({'x': torch.zeros(1).expand(10**6, 10**6)}),
    'without numbers': lambda: saved({'x': torch.zeros(9, device='meta')}),
    'sparse': lambda: saved({'x': torch.eye(3).to_sparse()}),
    'compressed': compressed,
    'npz': npz,
    'header of 2^63': lambda: (2**63 - 1).to_bytes(8, 'little') + b'{}',
    'header that claims': lambda: safetensors_claiming(10**12),
    'pipe': None,
    'folder': None,
}


def safetensors_claiming(count):
    header = {'x': {'dtype': 'F32', 'shape': [count], 'data_offsets': [0, 4 * count]}}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, 'little') + text + bytes(8)


def put(path, kind):
    if kind == 'pipe':
        os.mkfifo(path)
    elif kind == 'folder':
        path.mkdir()
    else:
        path.write_bytes(WRONG[kind]())


@pytest.mark.parametrize('suffix', ['pth', 'safetensors'])
@pytest.mark.parametrize('kind', WRONG)
def test_weights_of_every_wrong_kind_are_refused(home, kind, suffix, capfd, monkeypatch):
    """By their contents, whatever they are called, and without running what is in them."""
    monkeypatch.chdir(home)
    put(home / f'wrong.{suffix}', kind)
    file = home / f'wrong.{suffix}'
    refused(infer.main, [*ON_FACE(home), '--weights', file], capfd, file.name)
    assert not (home / 'EXECUTED').exists()


@pytest.mark.parametrize('kind', ['page', 'code', 'list', 'no names', 'pipe'])
@pytest.mark.parametrize('program', WITH_WEIGHTS)
def test_every_program_refuses_them(home, program, kind, capfd, monkeypatch):
    monkeypatch.chdir(home)
    put(home / 'wrong.pth', kind)
    main, argv = WITH_WEIGHTS[program]
    refused(main, argv(home, home / 'wrong.pth'), capfd, 'wrong.pth')
    assert not (home / 'EXECUTED').exists() and not (home / 'new/config.json').exists()


@pytest.mark.parametrize(
    'kind, said',
    [
        ('page', 'a web page'),
        ('pointer', 'git lfs pull'),
        ('empty', '0 bytes'),
        ('objects', 'argparse.Namespace'),
        ('compressed', 'is compressed'),
        ('cut', 'cut short'),
        ('expanded', 'more than the file holds'),
        ('no tensors', 'x is a text'),
    ],
)
def test_what_is_wrong_is_said(tmp_path, kind, said):
    put(tmp_path / 'w.pth', kind)
    with pytest.raises(BadFile, match=said):
        tensors.read(tmp_path / 'w.pth')


# ---- names and wrappers that people have ----


def first_names(weights):
    """Of the first ESRGAN."""
    exchanged = {
        'conv_first': 'model.0',
        'conv_body': 'model.1.sub.2',
        'conv_up1': 'model.3',
        'conv_up2': 'model.6',
        'conv_hr': 'model.8',
        'conv_last': 'model.10',
    }
    renamed = {}
    for name, value in weights.items():
        first, _, rest = name.partition('.')
        if first == 'body':
            block, rdb, conv, what = rest.split('.')
            renamed[f'model.1.sub.{block}.{rdb.upper()}.{conv}.0.{what}'] = value
        else:
            renamed[f'{exchanged[first]}.{rest}'] = value
    return renamed


def second_names(weights):
    """Of RRDB_ESRGAN_x4.pth."""
    for ours, theirs in (
        ('conv_body', 'trunk_conv'),
        ('body.', 'RRDB_trunk.'),
        ('.rdb', '.RDB'),
        ('conv_up', 'upconv'),
        ('conv_hr', 'HRconv'),
    ):
        weights = {name.replace(ours, theirs): value for name, value in weights.items()}
    return weights


def under(prefix, weights):
    return {f'{prefix}{name}': value for name, value in weights.items()}


KNOWN = {
    'plain': lambda w: w,
    'params_ema': lambda w: {'params': under('x', w), 'params_ema': w},
    'parallel': lambda w: {'params': under('module.', w)},
    'compiled': lambda w: under('_orig_mod.', w),
    'parallel and compiled': lambda w: {'params_ema': under('module._orig_mod.', w)},
    'compiled and parallel': lambda w: under('_orig_mod.module.', w),
    'lightning': lambda w: {'epoch': 1, 'state_dict': under('net_g.', w)},
    'lightning, compiled': lambda w: {'state_dict': under('model.netG._orig_mod.', w)},
    'mmediting': lambda w: {
        'state_dict': under('generator.', w) | under('discriminator.', {'x': torch.zeros(1)}),
        'meta': {'epoch': 1},
    },
    'both averages': lambda w: {
        'state_dict': under('generator.', {k: v + 1 for k, v in w.items()})
        | under('generator_ema.', w)
    },
    'a name of its own': lambda w: {'my_net': w, 'optimizer': {'lr': 1e-3}, 'epoch': 3},
    'first ESRGAN': first_names,
    'first ESRGAN, parallel': lambda w: under('module.', first_names(w)),
    'ESRGAN of 2018': second_names,
    'ESRGAN of 2018, nested': lambda w: {'state_dict': under('net_g.', second_names(w))},
    'arrays': lambda w: {'params': {k: v.numpy() for k, v in w.items()}},
    'number of NumPy': lambda w: {'params_ema': w, 'best': np.float64(1.5)},
    'half': lambda w: {'params': {k: v.half() for k, v in w.items()}},
    'double': lambda w: {k: v.double() for k, v in w.items()},
    'parameters': lambda w: {k: torch.nn.Parameter(v) for k, v in w.items()},
}


@pytest.mark.parametrize('legacy', [False, True])
@pytest.mark.parametrize('kind', KNOWN)
def test_weights_as_people_have_them(tmp_path, kind, legacy, capfd):
    torch.manual_seed(0)
    net = models.RRDBNet(2, 4, 2)
    # Numbers that half precision holds exactly.
    weights = {name: value.half().float() for name, value in net.state_dict().items()}
    torch.save(KNOWN[kind](weights), tmp_path / 'w.pth', _use_new_zipfile_serialization=not legacy)
    found = loading.load(None, str(tmp_path / 'w.pth'), 'cpu')
    state = found.net.state_dict()
    assert all(torch.equal(state[name], value) for name, value in weights.items())
    # And where the network is known beforehand.
    assert checkpoint.load_weights(net, tmp_path / 'w.pth').exists()
    assert all(torch.equal(net.state_dict()[name], value) for name, value in weights.items())


@pytest.mark.parametrize('program', ['infer', 'train --start'])
def test_a_network_that_folds_its_input_is_named(home, program, capfd):
    net = models.RRDBNet(1, 8, 4)
    weights = net.state_dict() | {'conv_first.weight': torch.zeros(8, 12, 3, 3)}
    torch.save({'params_ema': weights}, home / 'x2plus.pth')
    main, argv = WITH_WEIGHTS[program]
    words = argv(home, home / 'x2plus.pth')
    if program == 'train --start':
        words = [*words, '--network', 'rrdbnet']
        words[words.index('--net') + 1] = '{"blocks": 1, "width": 8, "growth": 4}'
    assert '12 channels' in refused(main, words, capfd, 'x2plus.pth')


# ------------------------------------------------------------------------------------------------
# The files of a run.

WITH_RUN = {
    'infer': (infer.main, lambda h: [*ON_FACE(h), '--run', h / 'run']),
    'export': (export.main, lambda h: ['--run', h / 'run', '--out', h / 'net.onnx']),
    'interpolate': (interpolate.main, lambda h: [h / 'run', h / 'run', '--out', h / 'between']),
    'submit challenge': (submit.main, lambda h: [*CHALLENGE(h), '--run', h / 'run']),
    'submit handin': (submit.main, lambda h: HANDIN(h)),
    'report html': (report.main, lambda h: [h / 'run', '--out', h / 'page.html']),
    'report pdf': (report.main, lambda h: [h / 'run', '--out', h / 'page.pdf']),
    'replay': (prepare.main, lambda h: ['replay', h / 'run', 0, '--out', h / 'sheet.png']),
    'resume': (train.main, lambda h: flags(h, h / 'run')),
    'train --parser': (train.main, lambda h: flags(h, h / 'new', '--parser', h / 'run')),
    'train --prior': (train.main, lambda h: GUIDED(h, h / 'run')),
    'evaluate --parser': (evaluate.main, lambda h: [*SAME(h), '--parser', h / 'run']),
    'evaluate --lmd': (evaluate.main, lambda h: [*SAME(h), '--lmd', h / 'run']),
    'priors': (prepare.main, lambda h: ['priors', h / 'hq', '--parser', h / 'run']),
    'train --config': (train.main, lambda h: ['--config', h / 'run/config.json']),
}  # fmt: skip


def HANDIN(h):
    who = ['--matric', 'U1234567A', '--codalab-user', 'me', '--out', h]
    return ['handin', *CHALLENGE(h)[1:-2], '--run', h / 'run', *who]


CONFIG = {
    'no JSON': '{"task": ',
    'a list': '[1]',
    'deep': '{"net": ' + '[' * 5000 + ']' * 5000 + '}',
    'digits': '{"nimg": ' + '9' * 5000 + '}',
    'types': {'net': [], 'size': 'x', 'data': 3},
    'not a number': {'lr': float('nan')},
    'unknown network': {'network': 'nonet', 'net': {}},
    'endless network': {'network': 'srresnet', 'net': {'blocks': 10**9}},
    'no such argument': {'net': {'colour': 1}},
    'pipe': None,
}


@pytest.mark.parametrize('kind', CONFIG)
@pytest.mark.parametrize('program', WITH_RUN)
def test_a_config_that_is_none_is_refused(home, program, kind, capfd):
    path, content = home / 'run/config.json', CONFIG[kind]
    if content is None:
        path.unlink()
        os.mkfifo(path)
    elif isinstance(content, dict):
        storage.write_json(path, json.loads(path.read_text()) | content)
    else:
        path.write_text(content)
    main, argv = WITH_RUN[program]
    # A name in a file of options is checked as one of the command line.
    as_flag = program == 'train --config' and kind in ('unknown network', 'no such argument')
    refused(main, argv(home), capfd, 'net' if as_flag else f'{home.name}/run')


@pytest.mark.parametrize(
    'file, content, said',
    [
        ('result.json', '[]', 'result.json'),
        ('result.json', '{"psnr": {"a": 1}}', 'psnr'),
        ('machine.json', '{"device": []}', 'device'),
        ('log.jsonl', None, 'log.jsonl'),
    ],
)
def test_a_report_names_what_it_cannot_use(home, file, content, said, capfd):
    (home / 'run' / file).unlink()
    if content is None:
        os.mkfifo(home / 'run' / file)
    else:
        (home / 'run' / file).write_text(content)
    main, argv = WITH_RUN['report html']
    assert said in refused(main, argv(home), capfd, file)


@pytest.mark.parametrize('content', ['[]', '{"a": 1}', '{"../x": "00"}', '{}', '{"state.pt": 3}'])
def test_checksums_lead_nowhere_else(home, content, capfd):
    """Both checkpoints are damaged, so none is taken; nothing outside is read."""
    (home / 'run/weights.safetensors').unlink()
    for path in (home / 'run/checkpoints').glob('*/checksums.json'):
        path.write_text(content)
    for program in 'infer', 'resume':
        main, argv = WITH_RUN[program]
        assert 'no whole checkpoint' in refused(main, argv(home), capfd, '000000008')


STATES = {
    'a list': lambda s: [s],
    'no counters': lambda s: {k: v for k, v in s.items() if k != 'at'},
    'counter that is none': lambda s: s | {'at': s['at'] | {'nimg': float('nan')}},
    'negative': lambda s: s | {'at': s['at'] | {'nimg': -8}},
    'time that is none': lambda s: s | {'at': s['at'] | {'seconds': float('nan')}},
    'updates': lambda s: s | {'ema_n': 'x'},
    'optimizers': lambda s: s | {'steppers': []},
    'moments': lambda s: s | {'steppers': of_other_shapes(s['steppers'])},
}


def of_other_shapes(state):
    if isinstance(state, torch.Tensor):
        return torch.zeros(7) if state.ndim else state
    if isinstance(state, dict):
        return {name: of_other_shapes(value) for name, value in state.items()}
    return [of_other_shapes(value) for value in state] if isinstance(state, list) else state


@pytest.mark.parametrize('kind', STATES)
def test_a_state_that_is_none_is_refused(home, kind, capfd):
    """Though its checksum is right."""
    for path in (home / 'run/checkpoints').glob('*/state.pt'):
        torch.save(STATES[kind](torch.load(path)), path)
        fuzz_readers._fit_checksums(path)
    main, argv = WITH_RUN['resume']
    assert 'delete this folder' in refused(main, argv(home), capfd, '000000008')


# ---- what is damaged and not needed ----


def test_a_damaged_log_stops_nothing(home, capfd):
    path = home / 'run/log.jsonl'
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b''.join([lines[0], b'\xff' + lines[1][1:], b'[1]\n', *lines[2:]]))
    for program in 'report html', 'resume':
        main, argv = WITH_RUN[program]
        with pytest.warns(UserWarning, match=r'log.jsonl: line 2 .*left out'):
            assert main([str(word) for word in argv(home)]) == 0
    with pytest.warns(UserWarning, match='left out'):
        assert len(log.Log(home / 'run').read()) == len(lines) - 1


@pytest.mark.parametrize('kind', ['empty', 'page', 'list', 'pipe', 'folder'])
def test_a_damaged_average_stops_nothing(home, kind, capfd):
    victim = min((home / 'run/best').glob('*'))
    victim.unlink()
    put(victim, kind)
    main, argv = WITH_RUN['resume']
    if kind == 'folder':  # which is no average
        assert main(argv(home)) == 0
        return
    with pytest.warns(UserWarning, match='it is left out'):
        assert main(argv(home)) == 0


def bomb():
    """A PNG of 30,000 x 30,000 in a few bytes."""
    small = bytearray(cv2.imencode('.png', np.zeros((8, 8, 3), np.uint8))[1].tobytes())
    small[16:24] = (30_000).to_bytes(4, 'big') * 2
    small[29:33] = zipfile.crc32(bytes(small[12:29])).to_bytes(4, 'big')
    return bytes(small)


@pytest.mark.parametrize('content', [b'', b'<html>', bomb()])
def test_damaged_pictures_stop_no_report(home, content, capfd):
    newest = max((home / 'run/samples').glob('[0-9]*.png'))
    newest.write_bytes(content)
    main, argv = WITH_RUN['report html']
    assert main([str(word) for word in argv(home)]) == 0
    assert f'{newest.name} cannot be shown' in capfd.readouterr().err
    assert 'cannot be shown' in (home / 'page.html').read_text()


# ------------------------------------------------------------------------------------------------
# Options, architectures, landmarks.


@pytest.mark.parametrize(
    'name, text, said',
    [
        ('a.toml', 'batch = "x"', 'batch'),
        ('a.toml', 'batch = [1]', 'batch'),
        ('a.toml', 'net = 3', 'net'),
        ('a.toml', 'lr = nan', 'lr'),
        ('a.toml', 'batch = 1979-05-27', 'batch'),
        ('a.toml', f'seed = 0x{"f" * 6000}', 'seed'),
        ('a.toml', f'net = {"[" * 3000}', 'TOML'),
        ('a.toml', '\xff', 'TOML'),
        ('a.json', '{"batch": 2, "val": [1]}', 'val'),
        ('a.json', '{"batch": 1e400}', 'batch'),
        ('a.json', f'{{"batch": {"9" * 5000}}}', 'digits'),
    ],
)
def test_options_of_a_wrong_type_are_named(tmp_path, name, text, said, capfd):
    (tmp_path / name).write_text(text, encoding='latin-1')
    assert said in refused(train.main, ['--config', tmp_path / name], capfd, name)


@pytest.mark.parametrize(
    'text',
    [
        '{',
        '[]',
        'null',
        '{"sr": []}',
        '{"sr": {"path": [3]}}',
        '{"sr": {"path": ["x"], "cell": []}}',
        '{"sr": {"path": [3], "cell": [[1]]}}',
        '{"eyes": {}}',
    ],
)
@pytest.mark.parametrize('program', ['train', 'experiments'])
def test_an_architecture_that_is_none_is_named(home, program, text, capfd):
    (home / 'wrong.json').write_text(text)
    if program == 'train':
        argv = GUIDED(home, home / 'parser')
        argv[argv.index('mfpsnet')] = 'frsnet'
        at = argv.index('--prior')
        argv[at : at + 2] = ['--arch', home / 'wrong.json']
        refused(train.main, argv, capfd, 'wrong.json')
    else:
        argv = ['search', '--found', home / 'wrong.json', '--out', home / 'new']
        refused(experiments.main, argv, capfd, 'wrong.json')


# ------------------------------------------------------------------------------------------------
# And whatever else.


@pytest.mark.parametrize('kind', fuzz_readers.KINDS)
def test_a_sample_of_the_fuzz(home, kind, monkeypatch, tmp_path):
    """Of tests/fuzz_readers.py, which tries thousands."""
    if not list(home.glob(fuzz_readers.KINDS[kind].file)):
        pytest.skip('imagecodecs is not installed')
    outcomes = {n: fuzz_readers.attempt(home, kind, 0, n) for n in range(-1, 12)}
    assert outcomes.pop(fuzz_readers.UNCHANGED) == 'read'
    assert set(outcomes.values()) <= {'read', 'refused'}, outcomes
