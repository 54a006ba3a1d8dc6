"""train.py and infer.py: a run and its files, exact resume, and what bad input gets."""

import ast
import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path

import cv2
import numpy as np
import processes
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import infer
import models
import synthetic
import tasks
import train
from config import flags as command_line
from config import presets, schema
from config.documentation import flag
from tasks import restore
from training import checkpoint
from training.lock import Lock
from training.record import RunRecord
from training.run import FORMAT

ROOT = Path(__file__).resolve().parents[1]
SIZE = 64
# The smallest network that has everything: strides, skips and an embedding of the place.
NET = '{"width": [8, 16], "blocks": [[1], 1, [1]], "position": 8}'
SRRESNET = '{"blocks": 1, "width": 4}'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Ten faces of 64x64, and LQ/GT pairs of two others."""
    folder = tmp_path_factory.mktemp('data')
    for i in range(10):
        _png(folder / 'hq' / f'{i}.png', synthetic.face(i, SIZE).image)
    for i in range(3):
        gt = synthetic.face(100 + i, SIZE).image
        _png(folder / 'pairs' / 'GT' / f'{i}.png', gt)
        _png(
            folder / 'pairs' / 'LQ' / f'{i}.png',
            cv2.resize(gt, (16, 16), interpolation=cv2.INTER_AREA),
        )
    return folder


def _png(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image[..., ::-1])


def flags(folder, out, **more):
    """A small real command: 64-pixel faces, and the recipe whose kernels fit so small a picture."""
    options = (
        dict(
            data=folder / 'hq',
            val=folder / 'pairs',
            out=out,
            preset='unet',
            net=NET,
            recipe='gfpgan',
            size=SIZE,
            batch=2,
            nimg=48,
            ticks=3,
            threads=1,
            pipe='torch',
        )
        | more
    )
    return [x for k, v in options.items() for x in ('--' + k.replace('_', '-'), str(v))]


def weights(out):
    return load_file(checkpoint.latest(out) / 'net.safetensors'), load_file(
        checkpoint.latest(out) / 'ema.safetensors'
    )


def same(a, b):
    return all(
        x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)
        for x, y in zip(a, b, strict=False)
    )


@pytest.fixture(scope='module')
def run(data, true_curves, tmp_path_factory):
    out = tmp_path_factory.mktemp('runs') / 'whole'
    with true_curves():
        assert train.main(flags(data, out)) == 0
    return out


def test_run_directory(run, capsys):
    rows = [json.loads(line) for line in (run / 'log.jsonl').read_text().splitlines()]
    assert [r['nimg'] for r in rows if 'psnr' in r] == [16, 32, 48]
    assert all(np.isfinite(r['psnr']) and 0 <= r['wait'] <= 1 for r in rows if 'psnr' in r) and any(
        'loss' in r for r in rows
    )
    assert json.loads((run / 'config.json').read_text())['recipe'] == 'gfpgan'
    assert (
        cv2.imread(str(run / 'curves.png')) is not None
        and len(list((run / 'samples').glob('*.png'))) == 3
    )
    assert (
        len(list((run / 'checkpoints').iterdir())) == 2 and len(list((run / 'best').iterdir())) == 3
    )


def test_tensorboard_shows_the_log(run):
    rows, board = (
        [json.loads(line) for line in (run / 'log.jsonl').read_text().splitlines()],
        EventAccumulator(str(run / 'tensorboard')).Reload(),
    )
    for tag, key in (
        ('train/loss', 'loss'),
        ('train/lr', 'lr'),
        ('pairs/psnr', 'psnr'),
        ('pairs/ssim', 'ssim'),
        ('speed/rate', 'rate'),
    ):
        assert [(e.step, e.value) for e in board.Scalars(tag)] == [
            (r['nimg'], pytest.approx(r[key], rel=1e-6)) for r in rows if key in r
        ]
    shown = cv2.imdecode(
        np.frombuffer(board.Images('pairs')[-1].encoded_image_string, np.uint8), cv2.IMREAD_COLOR
    )
    assert np.array_equal(shown, cv2.imread(str(run / 'samples/000000048.png')))


def test_tensorboard_forgets_what_a_resumed_run_makes_again(tmp_path):
    for start, steps in (0, (10, 20, 30)), (20, (25, 35)):
        record = RunRecord(tmp_path, start, restore.Restore.metric, print)
        for nimg in (start, *steps):
            record.step(nimg, nimg / 100, lambda nimg=nimg: {'loss': nimg / 10}, 1e-3)
        record.close()
    expected = [10, 20, 25, 35]
    assert (
        [
            e.step
            for e in EventAccumulator(str(tmp_path / 'tensorboard')).Reload().Scalars('train/loss')
        ]
        == expected
        == [r['nimg'] for r in record.log.read()]
    )


def test_same_command_again_changes_nothing(run, data, capsys):
    before, log = weights(run), (run / 'log.jsonl').read_bytes()
    assert train.main(flags(data, run)) == 0 and (run / 'log.jsonl').read_bytes() == log
    assert 'resumed at 48 images' in capsys.readouterr().out and same(before, weights(run))


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_says_so_in_the_status(number, data, run, tmp_path):
    out = tmp_path / 'stopped'
    argv = flags(data, out)
    process = processes.train(tmp_path / 'terminal', argv, pause=0.02)
    processes.wait_for(process, (out / 'log.jsonl').exists)
    process.send_signal(number)
    assert process.wait() == 128 + number, process.said
    nimg = int(re.search(rf'stopped by {number.name} at (\d+) images and saved', process.out)[1])
    assert 0 < nimg < 48 and int(checkpoint.latest(out).name) == nimg
    assert train.main(argv) == 0 and same(weights(out), weights(run))


def test_minutes_ends_in_time(data, tmp_path, capsys):
    """By the run's own clock, validations included; a busy machine may make one step a slow one."""
    out, minutes = tmp_path / 'timed', 0.05
    argv = flags(data, out, minutes=minutes)
    at = argv.index('--nimg')
    assert train.main(argv[:at] + argv[at + 2 :]) == 0
    rows = [json.loads(line) for line in (out / 'log.jsonl').read_text().splitlines()]
    seconds = [row['seconds'] for row in rows if 'psnr' in row]
    assert 'psnr' in rows[-1] and len(seconds) >= 1 and seconds == sorted(seconds)
    assert 0.9 <= seconds[-1] <= 2 * 60 * minutes
    told = re.search(r'images in ([\d.]+) minutes', capsys.readouterr().out)[1]
    assert float(told) <= 2 * minutes + 0.05  # rounded to a tenth


def test_infer_prints_the_validation_psnr(run, data, tmp_path, capsys):
    expected = json.loads((run / 'result.json').read_text())['psnr']
    argv = [
        '--run',
        str(run),
        '--input',
        str(data / 'pairs' / 'LQ'),
        '--gt',
        str(data / 'pairs' / 'GT'),
        '--output',
        str(tmp_path / 'out'),
    ]
    assert infer.main(argv) == 0
    printed = float(re.search(r'PSNR: ([\d.]+)', capsys.readouterr().out)[1])
    assert printed == pytest.approx(expected, abs=0.01)
    out = cv2.imread(str(tmp_path / 'out' / '0.png'), cv2.IMREAD_UNCHANGED)
    assert (
        sorted(p.name for p in (tmp_path / 'out').iterdir()) == ['0.png', '1.png', '2.png']
        and out.shape == (SIZE, SIZE, 3)
        and out.dtype == np.uint8
    )
    assert (
        infer.main(['--run', str(run), '--output', str(tmp_path / 'val')]) == 0
    )  # without --input: the run's validation set
    assert float(re.search(r'PSNR: ([\d.]+)', capsys.readouterr().out)[1]) == pytest.approx(
        printed, abs=1e-4
    )


@pytest.mark.parametrize('size', [(16, 16), (63, 17), (128, 128)])
def test_infer_takes_any_size_and_tta(size, run, tmp_path):
    _png(tmp_path / 'in.png', np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8))
    assert (
        infer.main(
            [
                '--run',
                str(run),
                '--input',
                str(tmp_path / 'in.png'),
                '--output',
                str(tmp_path / 'out.png'),
                '--tta',
                '--aligned',
            ]
        )
        == 0
    )
    assert cv2.imread(str(tmp_path / 'out.png')).shape == (4 * size[0], 4 * size[1], 3)


def test_infer_fits_aligned_faces_to_the_network(run, tmp_path, capfd):
    """Of any size: as those that were averaged before; what is no square is left out."""
    small = np.random.default_rng(0).integers(0, 256, (SIZE // 4, SIZE // 4, 3), np.uint8)
    _png(tmp_path / 'in/large.png', small.repeat(4, 0).repeat(4, 1))
    _png(tmp_path / 'in/small.png', small)
    _png(tmp_path / 'in/wide.png', np.zeros((SIZE, 2 * SIZE, 3), np.uint8))
    argv = ['--run', str(run), '--input', str(tmp_path / 'in'), '--output', str(tmp_path / 'out')]
    assert infer.main([*argv, '--fit']) == 1
    assert f'wide: {2 * SIZE}x{SIZE} is not square' in capfd.readouterr().err
    large, own = (cv2.imread(str(tmp_path / f'out/{n}.png')) for n in ('large', 'small'))
    assert large.shape == own.shape == (SIZE, SIZE, 3)

    # The same pixels, averaged by a filter twice as wide as a pixel.
    averaged = F.interpolate(
        torch.from_numpy(small.repeat(4, 0).repeat(4, 1)).permute(2, 0, 1)[None].float(),
        small.shape[:2],
        mode='bilinear',
        antialias=True,
    )
    _png(tmp_path / 'averaged.png', averaged[0].permute(1, 2, 0).round().byte().numpy())
    given = ['--run', str(run), str(tmp_path / 'averaged.png'), '--aligned']
    assert infer.main([*given, '--output', str(tmp_path / 'same.png')]) == 0
    assert abs(cv2.imread(str(tmp_path / 'same.png')).astype(int) - large).max() <= 1

    for more, said in (['--no-aligned'], 'no-aligned says'), (['--input', ''], 'of an --input'):
        assert infer.main([*argv, '--fit', *more]) == 2
        assert said in capfd.readouterr().err


def test_infer_takes_a_folder_without_truth(run, tmp_path):
    """Of several sizes; each file gets what it gets alone."""
    rng = np.random.default_rng(1)
    for i, size in enumerate([(16, 16), (16, 16), (24, 16), (16, 16)]):
        _png(tmp_path / 'in' / f'{i}.png', rng.integers(0, 256, (*size, 3), np.uint8))

    def restored(source, output):
        argv = ['--run', run, '--input', source, '--output', output, '--aligned']
        assert infer.main([str(a) for a in argv]) == 0

    restored(tmp_path / 'in', tmp_path / 'out')
    for i in range(4):
        restored(tmp_path / f'in/{i}.png', tmp_path / 'alone.png')
        one, other = (
            cv2.imread(str(p)).astype(int)
            for p in (tmp_path / f'out/{i}.png', tmp_path / 'alone.png')
        )
        assert one.shape == other.shape and abs(one - other).max() <= 1, i


def test_infer_with_a_public_checkpoint(tmp_path):
    net = models.SRResNet(blocks=3, width=8)
    torch.save({'params_ema': net.state_dict()}, tmp_path / 'net.pth')
    _png(tmp_path / 'in.png', np.full((12, 10, 3), 99, np.uint8))
    assert (
        infer.main(
            [
                '--weights',
                str(tmp_path / 'net.pth'),
                '--input',
                str(tmp_path / 'in.png'),
                '--output',
                str(tmp_path / 'o'),
            ]
        )
        == 0
    )
    assert cv2.imread(str(tmp_path / 'o' / 'in.png')).shape == (48, 40, 3)


def test_infer_keeps_pictures_of_equal_names_apart(data, tmp_path):
    for i, folder in enumerate('abcd'):
        _png(tmp_path / 'hq' / folder / '0001.png', synthetic.face(i, SIZE).image)
    assert (
        train.main(flags(data, tmp_path / 'run', data=tmp_path / 'hq', val=2, nimg=2, ticks=1)) == 0
    )
    assert infer.main(['--run', str(tmp_path / 'run'), '--output', str(tmp_path / 'o')]) == 0
    assert sorted(p.name for p in (tmp_path / 'o').iterdir()) == ['0001-0.png', '0001-1.png']


@pytest.mark.parametrize(
    'output, before, count, found',
    [
        ('v1.0', False, 2, 'v1.0/0.png'),
        ('v1.0', False, 1, 'v1.0/0.png'),
        ('some.png', True, 1, 'some.png/0.png'),
        ('some.png', False, 1, 'some.png'),
        ('some.jpg', False, 1, None),
        ('some.tiff', False, 1, None),
        ('some.webp', False, 1, None),
        ('some.png', False, 2, None),
        ('.', True, 1, '0.png'),
    ],
)
def test_infer_output_is_a_folder_or_a_png(
    output, before, count, found, run, tmp_path, monkeypatch, capsys
):
    for i in range(count):
        _png(tmp_path / 'in' / f'{i}.png', np.full((16, 16, 3), 99, np.uint8))
    monkeypatch.chdir(tmp_path)
    if before:
        Path(output).mkdir(exist_ok=True)
    assert infer.main(
        ['--run', str(run), '--input', 'in', '--output', output, '--device', 'cpu']
    ) == (0 if found else 2)
    assert (
        Path(found).is_file()
        if found
        else re.search(
            'pictures are written as PNG; give some.png|is one file', capsys.readouterr().err
        )
    )


def _bad(tmp_path, name):
    (tmp_path / 'empty').mkdir(exist_ok=True)
    (tmp_path / 'text').mkdir(exist_ok=True)
    (tmp_path / 'text' / 'a.png').write_text('no picture')
    return str(tmp_path / name)


@pytest.mark.parametrize(
    'change, said',
    [
        (dict(data='missing'), 'missing'),
        (dict(data='empty'), 'empty'),
        (dict(data='text'), 'a.png'),
        (dict(size=128), 'smaller'),
        (dict(val='text'), 'a.png'),
        (dict(val='10'), '10'),
        (dict(preset='unett'), "did you mean 'unet'"),
        (dict(recipe='gfpgn'), "did you mean 'gfpgan'"),
        (dict(pipe='dalli'), "did you mean 'dali'"),
        (dict(loss='l2'), 'l1'),
        (dict(batch=0), '--batch 0'),
        (dict(size=62), '--size 62'),
        (dict(lr=-1), '--lr'),
        (dict(minutes=1), '--minutes'),
        (dict(device='cuda:99' if not torch.cuda.is_available() else 'tpu'), '--device'),
        (dict(device='gpu'), 'give cuda or cpu'),
    ],
)
def test_bad_input_is_refused(change, said, data, tmp_path, capsys):
    change = {
        k: _bad(tmp_path, v) if v in ('missing', 'empty', 'text') else v for k, v in change.items()
    }
    assert train.main(flags(data, tmp_path / 'out', **change)) == 2
    error = capsys.readouterr().err
    assert said in error and error.startswith('train.py: ') and not (tmp_path / 'out').exists()


def test_other_options_are_refused(run, data, capsys):
    assert train.main(flags(data, run, lr=5e-4)) == 2
    assert 'lr: was 0.002, now 0.0005' in capsys.readouterr().err
    assert train.main(flags(data, run, data=data / 'pairs' / 'GT', val=2)) == 2
    assert 'images: was' in capsys.readouterr().err


def test_nan_is_named_and_checkpoint_kept(data, tmp_path, capsys):
    out = tmp_path / 'nan'
    assert train.main(flags(data, out, lr=1000, precision='fp32')) == 2
    error = capsys.readouterr().err
    assert (
        re.search(
            r'10 steps in a row had no finite gradient; the last loss is (nan|inf) at image \d+',
            error,
        )
        and 'lower --lr' in error
    )
    rows = [json.loads(line) for line in (out / 'log.jsonl').read_text().splitlines()]
    assert [r['samples'][1] - r['samples'][0] for r in rows if 'skipped' in r] == [1] * 10


def test_pairs_must_match(data, tmp_path, capsys):
    for name in 'LQ', 'GT':
        _png(tmp_path / 'pairs' / name / '0.png', np.zeros((SIZE, SIZE, 3), np.uint8))
    assert train.main(flags(data, tmp_path / 'out', val=tmp_path / 'pairs')) == 2
    assert '0.png' in capsys.readouterr().err
    os.rename(tmp_path / 'pairs' / 'LQ' / '0.png', tmp_path / 'pairs' / 'LQ' / '1.png')
    assert train.main(flags(data, tmp_path / 'out', val=tmp_path / 'pairs')) == 2
    assert 'partner' in capsys.readouterr().err


def test_dali_missing(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'nvidia.dali', None)
    assert train.main(flags(data, tmp_path / 'out', pipe='dali')) == 2
    assert 'pip install' in capsys.readouterr().err


@pytest.mark.parametrize(
    'argv, said',
    [
        (['--run', 'nowhere'], 'config.json'),
        (['--weights', 'nothing.pth', '--input', '.'], 'nothing.pth'),
        (['--run', 'a', '--weights', 'b'], 'give one'),
        (['--run', 'a', '--device', 'gpu'], '--device gpu cannot be used'),
    ],
)
def test_infer_bad_input(argv, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert infer.main(argv) == 2
    assert said in capsys.readouterr().err


def test_infer_refuses_what_does_not_fit(run, data, tmp_path, capsys):
    (tmp_path / 'broken.png').write_bytes(b'')
    for more, said in (
        (['--input', tmp_path / 'broken.png'], 'broken.png'),
        (['--input', data / 'pairs' / 'LQ', '--lpips', 'x.pth'], 'give --gt'),
        (['--input', tmp_path / 'none'], 'does not exist'),
        (['--input', data / 'pairs' / 'LQ', '--gt', data / 'hq' / '0.png'], 'lacks'),
        (
            ['--input', data / 'pairs' / 'LQ' / '0.png', '--gt', data / 'pairs' / 'LQ' / '0.png'],
            'ground truth',
        ),
    ):
        assert (
            infer.main(['--run', str(run), '--output', str(tmp_path / 'o'), *map(str, more)]) == 2
        )
        assert said in capsys.readouterr().err


SCRIPTS = [
    'infer.py',
    'tools/check_golden.py',
    *(
        f'benchmarks/{p.name}'
        for p in sorted((ROOT / 'benchmarks').glob('*.py'))
        if "__name__ == '__main__'" in p.read_text()
    ),
]


def words(text):
    return ' '.join(text.split())


@pytest.mark.parametrize('script', SCRIPTS)
def test_help(script, tmp_path):
    """What the script is for, and its flags; nothing on stderr."""
    process = processes.script(tmp_path, ROOT / script, '--help')
    assert process.wait() == 0 and not process.err, process.said
    said, text = words(process.out), (ROOT / script).read_text()
    purpose = words(ast.get_docstring(ast.parse(text))).split('. ')[0].split(': ')[0]
    assert said.startswith(f'usage: {Path(script).name}') and purpose in said
    for name in re.findall(r"add_argument\(\s*'(--[\w-]+)'", text):
        assert name in said


def shown(said):
    """Flags of the short help, each at the beginning of a line."""
    return re.findall(r'^(--[a-z][\w-]*)', said[said.index('the flags most people use') :], re.M)


def test_the_short_help_shows_the_common_flags(capsys):
    with pytest.raises(SystemExit) as stop:
        train.main(['--help'])
    said = capsys.readouterr().out
    assert not stop.value.code and words(train.__doc__)[:60] in words(said)
    control = ['--preset', '--config', '--dry-run', '--help', '--help-all']
    assert shown(said) == [*control, *map(flag, command_line.COMMON)]
    assert all(name in said for name in presets.NAMES)


def test_the_long_help_shows_every_flag_and_preset(capsys):
    with pytest.raises(SystemExit) as stop:
        train.main(['--help-all'])
    said = capsys.readouterr().out
    derived = {'guides'}  # of other options
    options = {flag(option.name) for _, option in schema.options() if option.name not in derived}
    assert not stop.value.code and options <= set(re.findall(r'--[a-z][\w-]*', said))
    assert all(name in words(said) for name in presets.NAMES)


# ------------------------------------------------------------------------------------------------
# Switches.


def test_dry_run_prints_the_options_and_writes_nothing(data, tmp_path, capsys):
    argv = flags(data, tmp_path / 'run', betas='0.9,0.95', prior='x', device='cpu')[:-4]
    assert train.main([*argv, '--dry-run']) == 0
    said = capsys.readouterr().out
    assert json.loads(said[said.index('{') :]) == schema.flatten(tasks.configure(argv))
    assert not list(tmp_path.iterdir())


def test_deterministic_runs_have_the_same_bits(data, tmp_path, monkeypatch):
    """And cuBLAS is told, without which torch refuses to multiply on a GPU."""
    monkeypatch.setenv('CUBLAS_WORKSPACE_CONFIG', '')
    monkeypatch.delenv('CUBLAS_WORKSPACE_CONFIG')
    runs = [tmp_path / name for name in 'ab']
    for out in runs:
        torch.use_deterministic_algorithms(False)
        argv = flags(data, out, nimg=8, ticks=1)
        assert train.main([*argv, '--deterministic']) == 0
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ['CUBLAS_WORKSPACE_CONFIG'] == ':4096:8'
    assert same(*map(weights, runs))
    assert json.loads((runs[0] / 'config.json').read_text())['deterministic'] is True


@pytest.mark.skipif(not shutil.which(os.environ.get('CXX', 'g++')), reason='no C++ compiler')
def test_compiled_runs_score_alike(data, tmp_path):
    results = []
    for name, switch in ('plain', []), ('compiled', ['--compile']):
        argv = flags(data, tmp_path / name, nimg=8, ticks=1, network='srresnet', net=SRRESNET)
        assert train.main([*argv, '--precision', 'fp32', *switch]) == 0
        rows = map(json.loads, (tmp_path / name / 'log.jsonl').read_text().splitlines())
        assert all(np.isfinite(row['loss']) for row in rows if 'loss' in row)
        results.append(json.loads((tmp_path / name / 'result.json').read_text()))
    assert results[1]['psnr'] == pytest.approx(results[0]['psnr'], abs=0.05)
    assert results[1]['ssim'] == pytest.approx(results[0]['ssim'], abs=0.005)


# ------------------------------------------------------------------------------------------------
# Other runs.


def test_several_validation_sets(data, tmp_path):
    argv = flags(data, tmp_path / 'run')
    at = argv.index('--val')
    argv[at + 1 : at + 2] = [f'real={data / "pairs"}', '2', f'twice={data / "pairs"}']
    assert train.main(argv) == 0
    row = [json.loads(line) for line in (tmp_path / 'run/log.jsonl').read_text().splitlines()][-1]
    assert (
        row['twice/psnr'] == row['psnr']
        and row['val/psnr'] != row['psnr']
        and row['val/bicubic'] > 0
    )
    assert len(list((tmp_path / 'run/samples').glob('twice-*.png'))) == 3
    config = json.loads((tmp_path / 'run/config.json').read_text())
    assert config['images'].startswith('8 images') and config['format'] == FORMAT
    argv[at + 3] = f'real={data / "pairs"}'
    assert train.main([a.replace('run', 'other') for a in argv]) == 2


@pytest.mark.parametrize(
    'more',
    [
        dict(optimizer='sgd', schedule='multistep', lr=0.1),
        dict(optimizer='adam', schedule='restarts', tail=0.2, weight_decay=0.01),
        dict(schedule='constant', precision='bf16', accumulate=3),
    ],
)
def test_other_ways_to_train(more, data, tmp_path):
    """They run, and the best of a run is what infer.py finds in it."""
    assert train.main(flags(data, tmp_path / 'run', **more)) == 0
    result = json.loads((tmp_path / 'run/result.json').read_text())
    assert np.isfinite(result['psnr']) and (tmp_path / 'run/weights.safetensors').exists()


def test_final_weights_are_the_better_of_soup_and_average(run):
    result = json.loads((run / 'result.json').read_text())
    rows = [json.loads(line) for line in (run / 'log.jsonl').read_text().splitlines()]
    last = [r['psnr'] for r in rows if 'psnr' in r][-1]
    assert (
        result['psnr'] >= last - 0.05
        and {'odd_half', 'odd_half_last_average', 'bicubic'} <= result.keys()
    )


def test_an_older_run_directory_is_refused(run, data, tmp_path, capsys):
    (tmp_path / 'old').mkdir()
    config = json.loads((run / 'config.json').read_text())
    del config['format']
    (tmp_path / 'old/config.json').write_text(json.dumps(config))
    assert train.main(flags(data, tmp_path / 'old')) == 2
    assert (
        f'has format 1 of run directories, this version writes {FORMAT}' in capsys.readouterr().err
    )


def test_a_run_directory_in_use_is_refused(data, tmp_path, capsys):
    with Lock(tmp_path / 'run'):
        assert train.main(flags(data, tmp_path / 'run')) == 2
    assert f'is in use by process {os.getpid()}' in capsys.readouterr().err
