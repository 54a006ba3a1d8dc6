"""The benchmarks run, and refuse to time what is wrong."""

import argparse
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from scipy import stats

import models
import storage
import synthetic
import tasks
from benchmarks import (
    ablate,
    decode_throughput,
    degrade_throughput,
    fit_recovery,
    gpu_suite,
    gpu_table,
    pipe_throughput,
    train_step,
)
from dali_pipes import pipe_torch
from degrade import noise, recipes
from errors import FacesError, RunError
from tools import compare, cuda_shim, timing
from tools.fitting import search


@pytest.fixture
def drawn(monkeypatch, tmp_path_factory):
    """Synthetic faces are drawn once for all tests of this file."""
    monkeypatch.setenv('FACES_CACHE', str(tmp_path_factory.getbasetemp() / 'bench'))


DEGRADE = ['--plans', '4', '--size', '64', '--rounds', '1', '--batches', '3']
PIPES = ['--size', '64', '--rounds', '1', '--recipe', 'bicubic']


def test_degrade_throughput_runs(drawn, capsys, monkeypatch, tmp_path):
    chosen = ('ai6126_2024', 'hifacegan', 'bicubic')
    cases = [case for case in degrade_throughput.CASES if case[1] in chosen]
    monkeypatch.setattr(degrade_throughput, 'CASES', cases)
    out = tmp_path / 'out.json'
    assert degrade_throughput.main([*DEGRADE, '--json', str(out)]) == 0

    results = json.loads(out.read_text())['results']
    results = {title: result for title, result in results.items() if title.endswith('CPU')}
    assert len(results) == len(cases)
    names = {'torch', 'torch, batch 3', 'tensor', 'ref', 'opencv chain'}
    for title, result in results.items():
        rates = result['images_per_second']
        alone = title.split(',')[0] in ('ai6126_2024_parity', 'bicubic')
        assert names - set(rates) <= ({'opencv chain'} if alone else set())
        assert all(rate > 0 for rate in rates.values())
    assert out.with_suffix('.png').stat().st_size > 5000
    assert 'ratio to the OpenCV chain' in capsys.readouterr().out


def test_wrong_output_is_not_timed(drawn, monkeypatch, capsys):
    monkeypatch.setattr(noise, 'apply_opencv', lambda x, p: x)
    assert degrade_throughput.main(DEGRADE) == 2
    assert 'not timed' in capsys.readouterr().err


def test_an_unknown_recipe_is_refused(capsys):
    with pytest.raises(SystemExit):
        pipe_throughput.main(['--recipe', 'bicubik'])
    assert "did you mean 'bicubic'" in capsys.readouterr().err


def test_rounds_take_turns():
    calls = []
    contenders = {name: lambda name=name: calls.append(name) for name in 'ab'}
    seconds = timing.rounds(contenders, 2, progress=lambda _: None)
    assert calls == list('ababab') and all(len(s) == 2 for s in seconds.values())
    assert timing.median([3, 1, 2]) == 2 and timing.spread([1, 2, 3]) == 50


def test_pipe_throughput_runs(drawn, tmp_path):
    out = tmp_path / 'pipes.json'
    more = ['--folder', str(tmp_path), '--json', str(out)]
    assert pipe_throughput.main([*PIPES, *more]) == 0
    rows = json.loads(out.read_text())['images_per_second']
    assert {row['cache'] for row in rows} >= {'off', 'host', 'file'}
    assert all(row['load warm'] > 0 and row['batch cold'] > 0 for row in rows)


def test_pipes_that_differ_are_not_timed(drawn, monkeypatch, capsys):
    pytest.importorskip('nvidia.dali')
    original = pipe_torch.completed

    def wrong(*arguments):
        step, x = original(*arguments)
        return step, x + 1

    monkeypatch.setattr(pipe_torch, 'completed', wrong)
    assert pipe_throughput.main(PIPES) == 2
    assert 'yield different batches: not timed' in capsys.readouterr().err


def test_decode_throughput_runs(drawn, monkeypatch, capsys, tmp_path):
    out = tmp_path / 'decode.json'
    argv = ['--size', '64', '--rounds', '1', '--count', '8', '--threads', '1', '--json', str(out)]
    assert decode_throughput.main(argv) == 0
    rates = json.loads(out.read_text())['images_per_second']
    assert {'OpenCV', 'cache, host'} <= set(rates) and all(v > 0 for v in rates.values())

    def wrong(data, threads):
        return lambda: [decode_throughput.files.decode(d) ^ 1 for d in data]

    monkeypatch.setattr(decode_throughput.pipe_dali, 'decoder', wrong)
    if timing.installed('nvidia.dali'):
        assert decode_throughput.main(argv) == 2
        assert 'DALI decodes other pixels than OpenCV: not timed' in capsys.readouterr().err


@pytest.mark.skipif(
    not shutil.which('g++'), reason='g++ is not installed: it builds the kernels for the CPU'
)
def test_decode_throughput_of_the_kernels(drawn, capsys):
    """What a GPU would be asked, on a CPU."""
    images = pipe_throughput.load(None, 64)[:3]
    data, device = decode_throughput.read(images, 64), torch.device('cpu')
    pixels = [decode_throughput.files.decode(d) for d in data]
    with cuda_shim.Shim() as shim, ThreadPoolExecutor(1) as pool:
        pictures = decode_throughput.Pictures(data, pixels, device, 1, pool)
        figures = decode_throughput.measure(pictures, [2, 4], 1, 'unet', gpu=True)
        pixels[0] = pixels[0] ^ 1
        with pytest.raises(FacesError, match='the GPU decodes other pixels'):
            decode_throughput.on_gpu(pictures, [2])
    stages = {'packing', 'copy', 'inflate', 'unfilter', 'colour'}
    assert set(figures['stages_ms']) == stages and len(shim.launched) == 3
    assert {'GPU, 2 at once', 'GPU, 4 at once'} <= set(figures['images_per_second'])
    assert figures['beside'].keys() == {'alone', 'trained', 'decoded'}
    assert all(v > 0 for v in figures['beside'].values())
    assert 'nvCOMP' in capsys.readouterr().out


def test_train_step_runs(drawn, tmp_path):
    out = tmp_path / 'step.json'
    assert train_step.main([*PIPES, '--steps', '2', '--json', str(out)]) == 0
    (row,) = json.loads(out.read_text())['rows']
    assert row['preset'] == 'unet' and row['stall'] > 0 and 0 <= row['waiting'] < 1


def test_ablate_compares_and_goes_on(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv('FACES_CACHE', str(tmp_path / 'cache'))
    hq, out = tmp_path / 'hq', tmp_path / 'out'
    hq.mkdir()
    for i in range(8):
        cv2.imwrite(str(hq / f'{i}.png'), synthetic.face(i, 64).image[..., ::-1])
    data = ['--data', str(hq), '--val', '4', '--recipe', 'gfpgan']
    which = ['--out', str(out), '--variants', 'unet-symm*', '--seeds', '0,1']
    more = ['--', '--size', '64', '--pipe', 'torch', '--ticks', '2']

    assert ablate.main([*data, '--nimg', '16', *which, *more]) == 0
    rows = json.loads((out / 'table.json').read_text())
    assert rows.keys() == {'unet-symmetric'}
    row = rows['unet-symmetric']
    assert row['seeds'] == 2 and row['images'] == 16
    odd = [
        json.loads((out / f'unet-symmetric-{seed}/result.json').read_text())['odd_half']
        for seed in (0, 1)
    ]
    assert row['odd'] == pytest.approx(sum(odd) / 2)
    assert row['spread'] == pytest.approx(abs(odd[0] - odd[1]) / 2)

    # The same command again trains nothing.
    before = (out / 'unet-symmetric-1/log.jsonl').stat().st_mtime_ns
    capsys.readouterr()
    assert ablate.main([*data, '--nimg', '16', *which, *more]) == 0
    assert '| unet-symmetric |' in capsys.readouterr().out
    assert (out / 'unet-symmetric-1/log.jsonl').stat().st_mtime_ns == before
    assert (out / 'curves.png').exists()

    # A finished run is no row of a table of another length.
    assert ablate.main([*data, '--nimg', '24', *which, *more]) == 2
    said = 'unet-symmetric-0 was made with other options (nimg: was 16, now 24)'
    assert said in capsys.readouterr().err


def test_one_image_has_no_halves(tmp_path):
    storage.write_json(tmp_path / 'config.json', dict(task='restore', network='unet', net={}))
    storage.write(
        tmp_path / 'log.jsonl', b'{"nimg": 4, "psnr": 20.0, "bicubic": 19.0, "seconds": 1.0}\n'
    )
    storage.write_json(tmp_path / 'result.json', dict(psnr=20.0, bicubic=19.0))
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
    code = (
        'import pathlib; from tools import compare; '
        f'compare.ROOT = pathlib.Path({str(tmp_path)!r}); '
        f'raise SystemExit(10 + compare.call([{str(tmp_path)!r}]))'
    )
    process = subprocess.Popen(
        [sys.executable, '-c', code], cwd=gpu_suite.ROOT, start_new_session=True
    )
    while not (tmp_path / 'began').exists():
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 10 and (tmp_path / 'saved').exists()


def test_ablate_variants_fit_the_budget(capsys):
    for flags in ablate.VARIANTS.values():
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


def suite_results(degraded, trained, stall, used, decoded):
    """What the parts leave, as far as it is judged."""
    rates = {
        'cuda, batch 64': degraded / 2,
        'cuda, batch 256': degraded,
        'torch, batched parity recipe': 4000,
    }
    decoders = {'OpenCV': 1e5, 'GPU, 64 at once': 1, 'GPU, 256 at once': decoded}
    step = {'preset': 'srresnet16', 'resident': trained, 'stall': stall}
    figures = {
        'degrade': {'results': {'ai6126_2024, GPU': {'images_per_second': rates}}},
        'decode': {'images_per_second': decoders},
        'step': {'rows': [step]},
        'small': {'rows': [{'card_gb': used}]},
    }
    return {name: {'figures': these} for name, these in figures.items()}


def test_gpu_suite_judges():
    """The verdicts on made-up figures, just reached and just missed."""
    reached = gpu_suite.verdicts(suite_results(40_000, 800, 1.03, 6, 10_000))
    missed = gpu_suite.verdicts(suite_results(39_999, 799, 1.04, 6.1, 9_999))
    assert [v.reached for v in reached] == [True] * 7
    assert [v.reached for v in missed] == [False] * 7
    assert gpu_suite.verdicts({}) == [] and gpu_suite.verdicts({'tests': {'figures': None}}) == []


def test_gpu_suite_names_what_exists():
    commands = gpu_suite.parts(None, Path('x'))
    words = [word for command in commands.values() for word in command]
    scripts = [word for word in words if word.endswith('.py')]
    assert len(scripts) > 8 and all((gpu_suite.ROOT / script).exists() for script in scripts)


def test_gpu_suite_runs_what_the_scripts_take():
    parsers = {
        f'benchmarks/{module.__name__.split(".")[-1]}.py': module.parser
        for module in (degrade_throughput, decode_throughput, pipe_throughput, train_step)
    }
    commands = gpu_suite.parts('faces', Path('x'))
    taken = [parsers[c[0]]().parse_args(c[1:]) for c in commands.values() if c[0] in parsers]
    assert len(taken) == 5 and all(args.data == 'faces' and args.json for args in taken)


def test_gpu_suite_writes_the_result_of_every_part(tmp_path, capsys):
    code = 'import sys; open(sys.argv[1], "w").write("[1]"); print("said"); sys.exit(%d)'
    good = gpu_suite.run('good', ['-c', code % 0, gpu_suite.FIGURES], tmp_path, None)
    bad = gpu_suite.run('bad', ['-c', code % 1, gpu_suite.FIGURES], tmp_path, 60)
    assert json.loads((tmp_path / 'good.json').read_text()) == good
    assert json.loads((tmp_path / 'bad.json').read_text()) == bad
    assert good['tail'] == bad['tail'] == ['said'] and 'said' in capsys.readouterr().out
    assert (good['code'], good['figures'], good['stopped']) == (0, [1], False)
    assert (bad['code'], bad['figures'], bad['stopped']) == (1, None, False)


def test_gpu_suite_stops_a_part_and_all_it_started(tmp_path):
    child = f'import time, pathlib; time.sleep(4); pathlib.Path({str(tmp_path)!r}, "late").touch()'
    code = f'import subprocess, sys; subprocess.run([sys.executable, "-c", {child!r}])'
    result = gpu_suite.run('slow', ['-c', code], tmp_path, 1)
    assert result['stopped'] and result['code'] and result['seconds'] < 4
    time.sleep(4)
    assert not (tmp_path / 'late').exists()


def test_gpu_suite_goes_on_with_what_is_missing(tmp_path):
    """Passed ones are done, failed ones wait until asked for, stopped ones come last."""
    commands = dict.fromkeys(['stopped', 'bad', 'good', 'new'])
    for name, code, stopped in (('good', 0, False), ('bad', 1, False), ('stopped', -15, True)):
        (tmp_path / f'{name}.json').write_text(json.dumps({'code': code, 'stopped': stopped}))

    def wanted(*flags):
        return gpu_suite.wanted(commands, gpu_suite.parser().parse_args(flags), tmp_path)

    assert wanted() == ['new', 'stopped']
    assert wanted('--retry') == ['new', 'bad', 'stopped']
    assert wanted('--only', 'good,bad') == ['bad', 'good']


def test_gpu_suite_ends_with_its_minutes(tmp_path, monkeypatch):
    """And the summary is written after every part."""
    args = gpu_suite.parser().parse_args(['--minutes', '0.02'])
    commands = {'a': ['-c', 'import time; time.sleep(60)'], 'b': ['-c', '']}
    gpu_suite.run_wanted(commands, args, tmp_path)
    parts = json.loads((tmp_path / 'summary.json').read_text())['parts']
    assert list(parts) == ['a'] and parts['a']['stopped']


def test_gpu_table_fills_its_page(tmp_path):
    results = suite_results(40_000, 800, 1.5, 6, 10_000)
    row = {'pipe': 'torch', 'cache': 'gpu', 'batch warm': 1234.4}
    results['pipes'] = {'figures': {'images_per_second': [row]}}
    results['train'] = {'figures': None}
    results['step']['figures']['rows'][0].update(batch=32, pipe=500.0)
    summary = gpu_suite._summary(tmp_path, results)
    page = tmp_path / 'page.md'
    page.write_text(f'before\n{gpu_table.BEGIN}\nold\n{gpu_table.END}\nafter\n')
    for _ in range(2):
        assert gpu_table.main([str(summary), '--page', str(page)]) == 0
    text = page.read_text()
    assert text.startswith('before\n') and text.endswith('\nafter\n') and 'old' not in text
    assert '| torch pipe, cache gpu, warm, img/s | 1,234 | |' in text
    assert '| stall with the real pipe | 1.5 | <= 1.030, missed |' in text
    assert gpu_table.table({'verdicts': [], 'parts': {}}).startswith('No figure')
    page.write_text('no marks')
    with pytest.raises(FacesError, match='the page needs the lines'):
        gpu_table.filled(page.read_text(), '')


SCRIPTS = sorted(
    p for room in ('tools', 'benchmarks') for p in (gpu_suite.ROOT / room).glob('*.py')
)
SCRIPTS = [p for p in SCRIPTS if "if __name__ == '__main__'" in p.read_text()]


@pytest.mark.parametrize('path', SCRIPTS, ids=lambda p: p.stem)
def test_every_flag_has_a_help_text(path):
    """With neither a GPU nor DALI: --help is what tells of them."""
    module = importlib.import_module(f'{path.parent.name}.{path.stem}')
    parsers = [module.parser()]
    while parsers:
        p = parsers.pop()
        assert f'python {path.parent.name}/{path.name}' in module.__doc__
        for action in p._actions:
            if isinstance(action, argparse._SubParsersAction):
                parsers += action.choices.values()
            else:
                assert action.help, f'{path.name} does not explain {action.option_strings}'


def test_degrade_throughput_of_a_file(drawn, capsys, tmp_path):
    """With operations of recipe files alone, and with a filter that OpenCV lacks."""
    own = '[stages.sharp]\nop = "unsharp"\nafter = "noise"\n[stages.jpeg]\nsampling = { 444 = 1 }\n'
    lanczos = '[stages.final]\nmodes = { lanczos = 1 }\n'
    for text, baseline in (own, True), (own + lanczos, False):
        (tmp_path / 'mine.toml').write_text(f'extends = "codeformer"\n{text}')
        argv = [*DEGRADE, '--recipes', str(tmp_path / 'mine.toml')]
        assert degrade_throughput.main(argv) == 0
        said = capsys.readouterr().out
        assert 'mine.toml, CPU: 4 plans' in said or 'mine.toml: 4 plans' in said
        assert ('opencv chain' in said) == baseline


def test_every_operation_is_timed(drawn, capsys, tmp_path):
    out = tmp_path / 'ops.json'
    assert degrade_throughput.main([*DEGRADE, '--ops', '--json', str(out)]) == 0
    timed = json.loads(out.read_text())['operations']
    assert set(timed) >= {*recipes.OPS} - {'codec'} | {'codec webp', 'codec h264'}
    assert all(set(ms) == {'64', '16'} and min(ms.values()) > 0 for ms in timed.values())
    assert 'ms per image' in capsys.readouterr().out


@pytest.mark.parametrize('off, status', [(0.0, 0), (0.1, 0), (0.3, 1)])
def test_fit_recovery_judges(off, status, monkeypatch, capsys, tmp_path):
    """The search is another test's; how far its ranges are off decides about the exit status."""
    monkeypatch.setattr(fit_recovery, 'FACES', 2)
    monkeypatch.setattr(fit_recovery, 'SIDE', 128)
    monkeypatch.setattr(fit_recovery, 'correlations', lambda faces, count: {'blur': 0.95})
    wanted = fit_recovery.hidden(7)
    assert wanted == fit_recovery.hidden(7) != fit_recovery.hidden(8)

    def found(recipe, real, faces, count):
        assert len(real) == 20 and count == 200
        (low, high), width = wanted['blur']['sigma'], np.ptp(wanted['blur']['sigma'])
        moved = wanted | {'blur': {'sigma': (low, high + off * width)}}
        return fit_recovery.with_ranges(recipe, moved)

    monkeypatch.setattr(search, 'fitted', found)
    out = tmp_path / 'out.json'
    argv = ['--hidden', '1', '--seed', '7', '--pictures', '20', '--count', '200', '--json']
    assert fit_recovery.main([*argv, str(out)]) == status
    assert f'worst end of a range: {off:.2f}' in capsys.readouterr().out
    rows = json.loads(out.read_text())['ranges']
    assert [row['range'] for row in rows] == ['blur sigma', 'noise amount', 'jpeg quality']


def test_ranks_are_spearmans():
    a, b = np.random.default_rng(0).integers(0, 9, (2, 60)).astype(float)
    expected = stats.spearmanr(a, a + b).statistic
    assert np.isclose(fit_recovery._rank_correlation(a, a + b), expected)
