"""train.py and infer.py on real processes: a run, its files, exact resume after kill -9, and what bad input gets."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import infer
import models
import synthetic
import train
from tasks import restore
from training import checkpoint
from training.lock import Lock
from training.record import RunRecord
from training.run import FORMAT

ROOT = Path(__file__).resolve().parents[1]
SIZE = 64


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
    """A small real command: 64-pixel faces, the first-order recipe (its kernels fit so small a picture)."""
    options = (
        dict(
            data=folder / 'hq',
            val=folder / 'pairs',
            out=out,
            preset='unet',
            recipe='gfpgan',
            size=SIZE,
            batch=2,
            nimg=48,
            ticks=3,
            threads=2,
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
        x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x) for x, y in zip(a, b)
    )


@pytest.fixture(scope='module')
def run(data, tmp_path_factory):
    out = tmp_path_factory.mktemp('runs') / 'whole'
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
            record.step(nimg, nimg / 100, lambda: {'loss': nimg / 10}, 1e-3)
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


def _spawn(argv):
    return subprocess.Popen(
        [sys.executable, str(ROOT / 'train.py'), *argv],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_sigterm_saves(data, run, tmp_path):
    out = tmp_path / 'stopped'
    argv = flags(data, out)
    process = _spawn(argv)
    while not (out / 'log.jsonl').exists() and process.poll() is None:
        time.sleep(0.01)
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 0 and checkpoint.latest(out)
    assert train.main(argv) == 0 and same(weights(out), weights(run))


def test_minutes_ends_in_time(data, tmp_path, capsys):
    assert (
        train.main(
            [a for a in flags(data, tmp_path / 'timed', minutes=0.05) if a not in ('--nimg', '48')]
        )
        == 0
    )
    rows = [
        json.loads(line) for line in (tmp_path / 'timed' / 'log.jsonl').read_text().splitlines()
    ]
    assert 'psnr' in rows[-1]


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
            ]
        )
        == 0
    )
    assert cv2.imread(str(tmp_path / 'out.png')).shape == (4 * size[0], 4 * size[1], 3)


def test_infer_takes_a_folder_without_truth(run, tmp_path):
    """Of several sizes; each file gets what it gets alone."""
    rng = np.random.default_rng(1)
    for i, size in enumerate([(16, 16), (16, 16), (24, 16), (16, 16)]):
        _png(tmp_path / 'in' / f'{i}.png', rng.integers(0, 256, (*size, 3), np.uint8))
    assert (
        infer.main(
            ['--run', str(run), '--input', str(tmp_path / 'in'), '--output', str(tmp_path / 'out')]
        )
        == 0
    )
    for i in range(4):
        assert (
            infer.main(
                [
                    '--run',
                    str(run),
                    '--input',
                    str(tmp_path / f'in/{i}.png'),
                    '--output',
                    str(tmp_path / 'alone.png'),
                ]
            )
            == 0
        )
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
    assert train.main(flags(data, out, lr=1e30, precision='fp32')) == 2
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


@pytest.mark.parametrize(
    'script',
    [
        'train.py',
        'infer.py',
        'tools/check_golden.py',
        *(
            f'benchmarks/{p.name}'
            for p in sorted((ROOT / 'benchmarks').glob('*.py'))
            if "__name__ == '__main__'" in p.read_text()
        ),
    ],
)
def test_help(script):
    done = subprocess.run(
        [sys.executable, str(ROOT / script), '--help'], capture_output=True, text=True
    )
    assert done.returncode == 0 and len(done.stdout) > 400 and not done.stderr


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
