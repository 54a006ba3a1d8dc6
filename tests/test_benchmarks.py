"""The benchmarks run, and refuse to time what is wrong."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest
import torch

import models
import synthetic
import tasks
from benchmarks import (
    ablate,
    decode_throughput,
    degrade_throughput,
    gpu_suite,
    pipe_throughput,
    timing,
    train_step,
)
from degrade import noise
from errors import RunError
from tools import compare, cuda_shim
from training import run


@pytest.fixture
def small(monkeypatch, tmp_path, tmp_path_factory):
    monkeypatch.setenv('FACES_CACHE', str(tmp_path_factory.getbasetemp() / 'bench'))
    monkeypatch.setattr(
        sys,
        'argv',
        [
            'degrade_throughput.py',
            '--plans',
            '8',
            '--size',
            '128',
            '--rounds',
            '1',
            '--batches',
            '3',
            '--json',
            str(tmp_path / 'out.json'),
        ],
    )
    return tmp_path / 'out.json'


def test_degrade_throughput_runs(small, capsys, monkeypatch):
    monkeypatch.setattr(
        degrade_throughput,
        'CASES',
        [c for c in degrade_throughput.CASES if c[1] in ('ai6126_2024', 'hifacegan', 'bicubic')],
    )
    degrade_throughput.main()
    results = {
        k: r for k, r in json.loads(small.read_text())['results'].items() if k.endswith('CPU')
    }
    assert len(results) == len(degrade_throughput.CASES)
    names = {'torch', 'torch, batch 3', 'tensor', 'ref', 'opencv chain'}
    assert all(
        names - set(r['images_per_second'])
        <= ({'opencv chain'} if title.split(',')[0] in degrade_throughput.NO_BASELINE else set())
        for title, r in results.items()
    )
    assert (
        all(v > 0 for r in results.values() for v in r['images_per_second'].values())
        and small.with_suffix('.png').stat().st_size > 5000
    )
    assert 'ratio to the OpenCV chain' in capsys.readouterr().out


def test_wrong_output_is_not_timed(small, monkeypatch):
    monkeypatch.setattr(noise, 'apply_opencv', lambda x, p: x)
    with pytest.raises(SystemExit, match='not timed'):
        degrade_throughput.main()


def test_rounds_take_turns():
    calls = []
    seconds = timing.rounds(
        {'a': lambda: calls.append('a'), 'b': lambda: calls.append('b')}, 2, progress=lambda _: None
    )
    assert calls == list('ababab') and all(len(s) == 2 for s in seconds.values())
    assert timing.median([3, 1, 2]) == 2 and timing.spread([1, 2, 3]) == 50


def test_pipe_throughput_runs(small, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(
        sys,
        'argv',
        [
            'pipe_throughput.py',
            '--size',
            '64',
            '--rounds',
            '1',
            '--recipe',
            'bicubic',
            '--folder',
            str(tmp_path),
            '--json',
            str(tmp_path / 'pipes.json'),
        ],
    )
    pipe_throughput.main()
    rows = json.loads((tmp_path / 'pipes.json').read_text())['images_per_second']
    assert {r['cache'] for r in rows} >= {'off', 'host', 'file'} and all(
        r['load warm'] > 0 and r['batch cold'] > 0 for r in rows
    )


def test_pipes_that_differ_are_not_timed(small, monkeypatch, tmp_path):
    pytest.importorskip('nvidia.dali')
    monkeypatch.setattr(
        sys, 'argv', ['pipe_throughput.py', '--size', '64', '--rounds', '1', '--recipe', 'bicubic']
    )
    monkeypatch.setattr('dali_pipes.pipe_torch.flipped', lambda x, flip: x + 1)
    with pytest.raises(SystemExit, match='yield different batches: not timed'):
        pipe_throughput.main()


def test_decode_throughput_runs(small, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(
        sys,
        'argv',
        [
            'decode_throughput.py',
            '--size',
            '64',
            '--rounds',
            '1',
            '--count',
            '8',
            '--threads',
            '1',
            '--json',
            str(tmp_path / 'decode.json'),
        ],
    )
    decode_throughput.main()
    rates = json.loads((tmp_path / 'decode.json').read_text())['images_per_second']
    assert {'OpenCV', 'cache, host'} <= set(rates) and all(v > 0 for v in rates.values())
    monkeypatch.setattr(
        decode_throughput.pipe_dali,
        'decoder',
        lambda data, threads: lambda: [decode_throughput.files.decode(d) ^ 1 for d in data],
    )
    if timing.installed('nvidia.dali'):
        with pytest.raises(SystemExit, match='DALI decodes other pixels than OpenCV: not timed'):
            decode_throughput.main()


@pytest.mark.skipif(
    not shutil.which('g++'), reason='g++ is not installed: it builds the kernels for the CPU'
)
def test_decode_throughput_of_the_kernels(small, monkeypatch, capsys, tmp_path):
    """What a GPU would be asked, on a CPU."""
    images = pipe_throughput.load(None, 64)[:3]
    args = type('Args', (), dict(size=64, streams=[2, 4], rounds=1, threads=1, preset='unet'))
    data, device = decode_throughput.read(images, 64), torch.device('cpu')
    expected = [decode_throughput.files.decode(d) for d in data]
    with cuda_shim.Shim() as shim, decode_throughput.ThreadPoolExecutor(1) as pool:
        figures = decode_throughput.measure(data, expected, device, args, pool, gpu=True)
        expected[0] = expected[0] ^ 1
        with pytest.raises(SystemExit, match='the GPU decodes other pixels'):
            decode_throughput.on_gpu(data, expected, device, [2], pool)
    assert (
        set(figures['stages_ms']) == {'packing', 'copy', 'inflate', 'unfilter', 'colour'}
        and len(shim.launched) == 3
    )
    assert {'GPU, 2 at once', 'GPU, 4 at once'} <= set(figures['images_per_second']) and all(
        v > 0 for v in figures['beside'].values()
    )
    assert 'nvCOMP' in capsys.readouterr().out


def test_train_step_runs(small, monkeypatch, tmp_path):
    monkeypatch.setattr(
        sys,
        'argv',
        [
            'train_step.py',
            '--size',
            '64',
            '--rounds',
            '1',
            '--steps',
            '2',
            '--recipe',
            'bicubic',
            '--json',
            str(tmp_path / 'step.json'),
        ],
    )
    train_step.main()
    (row,) = json.loads((tmp_path / 'step.json').read_text())['rows']
    assert row['preset'] == 'unet' and row['stall'] > 0.5 and 0 <= row['waiting'] < 1


def test_ablate_compares_and_goes_on(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv('FACES_CACHE', str(tmp_path / 'cache'))
    for i in range(8):
        (tmp_path / 'hq').mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / 'hq' / f'{i}.png'), synthetic.face(i, 64).image[..., ::-1])
    argv = [
        '--data',
        str(tmp_path / 'hq'),
        '--val',
        '4',
        '--recipe',
        'gfpgan',
        '--nimg',
        '16',
        '--out',
        str(tmp_path / 'out'),
        '--variants',
        'unet-symm*',
        '--seeds',
        '0,1',
        '--',
        '--size',
        '64',
        '--pipe',
        'torch',
        '--ticks',
        '2',
    ]
    assert ablate.main(argv) == 0
    rows = json.loads((tmp_path / 'out/table.json').read_text())
    assert rows.keys() == {'unet-symmetric'} and all(
        r['seeds'] == 2 and r['images'] == 16 for r in rows.values()
    )
    halves = [
        json.loads((tmp_path / f'out/unet-symmetric-{seed}/result.json').read_text())
        for seed in (0, 1)
    ]
    assert rows['unet-symmetric']['odd'] == pytest.approx(
        sum(h['odd_half'] for h in halves) / 2
    ) and rows['unet-symmetric']['spread'] == pytest.approx(
        abs(halves[0]['odd_half'] - halves[1]['odd_half']) / 2
    )
    before = (tmp_path / 'out/unet-symmetric-1/log.jsonl').stat().st_mtime_ns
    capsys.readouterr()
    assert ablate.main(argv) == 0 and '| unet-symmetric |' in capsys.readouterr().out
    assert (tmp_path / 'out/unet-symmetric-1/log.jsonl').stat().st_mtime_ns == before and (
        tmp_path / 'out/curves.png'
    ).exists()
    argv[argv.index('16')] = '24'  # of a finished run no row of another length is made
    assert (
        ablate.main(argv) == 2
        and 'unet-symmetric-0 was made with other options (nimg: was 16, now 24)'
        in capsys.readouterr().err
    )


def test_one_image_has_no_halves(tmp_path):
    run.write_json(tmp_path / 'config.json', dict(task='restore', network='unet', net={}))
    run.write(
        tmp_path / 'log.jsonl', b'{"nimg": 4, "psnr": 20.0, "bicubic": 19.0, "seconds": 1.0}\n'
    )
    run.write_json(tmp_path / 'result.json', dict(psnr=20.0, bicubic=19.0))
    with pytest.raises(RunError, match='two or more'):
        compare.row({'0': tmp_path})


def test_ctrl_c_waits_for_the_run_to_save(tmp_path, monkeypatch):
    """The whole group gets it, as from a terminal; the run takes a second to save."""
    (tmp_path / 'train.py').write_text(
        'import pathlib, signal, sys, time\n'
        'def saved(*_):\n'
        '    time.sleep(1)\n'
        '    pathlib.Path(sys.argv[1], "saved").touch()\n'
        '    sys.exit(0)\n'
        'signal.signal(signal.SIGINT, saved)\n'
        'pathlib.Path(sys.argv[1], "began").touch()\n'
        'time.sleep(60)\n'
    )
    code = f'from benchmarks import compare; compare.__file__ = {str(tmp_path / "benchmarks/compare.py")!r}; raise SystemExit(10 + compare.call([{str(tmp_path)!r}]))'
    process = subprocess.Popen(
        [sys.executable, '-c', code], cwd=gpu_suite.ROOT, start_new_session=True
    )
    while not (tmp_path / 'began').exists():
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 10 and (tmp_path / 'saved').exists()


def test_ablate_variants_fit_the_budget(capsys):
    for name, flags in ablate.VARIANTS.items():
        common = ['--pipe', 'torch', '--device', 'cpu', '--out', 'nowhere']
        models.enforce_param_budget(tasks.network(tasks.configure([*flags, *common])))
    assert (
        ablate.main(['--data', 'x', '--val', 'y', '--variants', 'unnet']) == 2
        and "did you mean 'unet'" in capsys.readouterr().err
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_gpu_suite_without_a_gpu():
    done = subprocess.run([sys.executable, gpu_suite.__file__], capture_output=True, text=True)
    assert done.returncode == 3 and 'there is no CUDA GPU' in done.stderr


def test_gpu_suite_judges():
    """The verdicts on made-up figures, just reached and just missed."""

    def results(best, resident, stall, peak, decoded):
        return {
            'decode': {
                'figures': {
                    'images_per_second': {
                        'OpenCV': 1e5,
                        'GPU, 64 at once': 1,
                        'GPU, 256 at once': decoded,
                    }
                }
            },
            'degrade': {
                'figures': {
                    'results': {
                        'ai6126_2024, GPU': {
                            'images_per_second': {
                                'cuda, batch 64': best,
                                'torch, batched parity recipe': 2000,
                            }
                        }
                    }
                }
            },
            'step': {
                'figures': {
                    'rows': [{'preset': 'srresnet16', 'resident': resident, 'stall': stall}]
                }
            },
            'small': {'figures': {'rows': [{'card_gb': peak}]}},
        }

    assert [v[-1] for v in gpu_suite.verdicts(results(20_000, 600, 1.04, 6, 10_000))] == [True] * 6
    assert [v[-1] for v in gpu_suite.verdicts(results(19_999, 599, 1.05, 6.1, 9_999))] == [
        False
    ] * 6
    assert gpu_suite.verdicts({}) == []


def test_gpu_suite_names_what_exists():
    commands = gpu_suite.parts(type('Args', (), {'data': None, 'work': Path('x')}))
    assert all(
        (gpu_suite.ROOT / word).exists()
        for c in commands.values()
        for word in c
        if word.endswith('.py')
    )
