"""No program writes over what it reads, into a data set, or over what a run keeps of itself."""

import hashlib
import json

import pytest
from test_manifest import face as png
from test_train import data, flags  # noqa: F401, the fixture

import infer
import models
import train
from benchmarks import (
    ablate,
    decode_throughput,
    degrade_throughput,
    perceptual,
    pipe_throughput,
    search_gradients,
    train_step,
)
from errors import RunError
from faces.masks import __main__ as masks
from tools import (
    evaluate,
    experiments,
    export,
    interpolate,
    prepare,
    publish,
    report,
    submit,
)
from training import checkpoint, outputs

SIZE = 64
# What reads what, in a folder with faces/, LQ/, GT/, one.png, a list, weights and a run; each of
# these would write over some of it, or into a data set.
COMMANDS = [
    (infer, '--weights w.safetensors --input LQ --output LQ'),
    (infer, '--weights w.safetensors --input LQ --output GT --gt GT'),
    (infer, '--weights w.safetensors --input LQ --output ./GT/../LQ/'),
    (infer, '--weights w.safetensors --input LQ --output link'),
    (infer, '--weights w.safetensors --input LQ --output LQ/restored'),
    (infer, '--weights w.safetensors --input one.png --output one.png'),
    (infer, '--weights w.safetensors --input one.png --output .'),
    (infer, '--weights w.safetensors --input LQ/0.png --output GT/0.png --gt GT/0.png'),
    (infer, '--weights w.safetensors --input LQ --output run/best'),
    (prepare, 'degrade faces --size 64 --recipe hifacegan --out faces'),
    (prepare, 'degrade faces --size 64 --recipe hifacegan --out faces/pairs'),
    (prepare, 'degrade faces --size 64 --recipe hifacegan --out link-faces'),
    (prepare, 'degrade list.txt --size 64 --recipe hifacegan --out faces'),
    (prepare, 'degrade faces/*.png --size 64 --recipe hifacegan --out faces'),
    (prepare, 'degrade GT/list.txt --size 64 --recipe hifacegan --out .'),
    (prepare, 'split faces --size 64 --val-size 1 --out faces'),
    (prepare, 'split train.txt --size 64 --val-size 1 --out .'),
    (prepare, 'htj2k faces --out faces'),
    (prepare, 'htj2k list.txt --out faces'),
    (prepare, 'annotate list.txt --size 64 --out list.txt'),
    (prepare, 'preview faces --size 64 --out faces/0.png'),
    (prepare, 'preview faces --size 64 --out run/curves.png'),
    (prepare, 'priors faces --parser run --out faces/priors.safetensors'),
    (prepare, 'priors faces --parser run --out run/weights.safetensors'),
    (evaluate, 'LQ --gt GT --out GT/table'),
    (evaluate, 'ours=LQ --gt GT --out LQ/table'),
    (evaluate, 'LQ --input GT --out GT/table'),
    (evaluate, 'LQ --gt GT --fit-niqe faces --niqe faces/niqe.safetensors'),
    (evaluate, 'LQ --set lfw-test LQ --out LQ/table'),
    (submit, 'challenge LQ --names LQ --out LQ/submission.zip'),
    (submit, 'challenge LQ --names GT --run w.safetensors --out w.safetensors'),
    (submit, 'handin LQ --names GT --matric U1234567A --codalab-user me --out LQ'),
    (report, 'run --out run/curves.png'),
    (report, 'run --real one.png --out one.png'),
    (export, '--weights w.safetensors --out w.safetensors'),
    (export, '--run run --out run/weights.safetensors'),
    (interpolate, 'run run --out run'),
    (publish, 'run --licence x --out run/weights.safetensors'),
    (interpolate, 'run w.safetensors --out run/best'),
    (experiments, 'optimizers --data faces --val GT --out faces/runs'),
    (ablate, '--data faces --val GT --variants unet --out GT'),
    (perceptual, '--data faces --val GT --start run --out GT'),
    (perceptual, '--data faces --val GT --start run --out run/best'),
    (masks, 'faces faces/masks'),
    (train, '--data faces --out faces/run'),
    (train, '--data faces --out faces'),
    (train, '--data faces --val GT --out GT'),
    (train, '--data faces --preset renovation_demo --val stacked:LQ --out LQ/run'),
    (train, '--data faces/*.png --out faces'),
    (degrade_throughput, '--data faces --json faces/0.json'),
    (decode_throughput, '--data faces --json faces/0.json'),
    (search_gradients, '--data faces --json faces/0.json'),
    (pipe_throughput, '--data faces --json faces/0.json'),
    (train_step, '--data faces --json faces/0.json'),
]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Everything that a program could destroy."""
    home = tmp_path_factory.mktemp('home')
    for name in ('faces', 'LQ', 'GT', 'run/best'):
        (home / name).mkdir(parents=True)
    for name in ('faces/0.png', 'faces/1.png', 'LQ/0.png', 'GT/0.png', 'one.png'):
        (home / name).write_bytes(png(SIZE))
    for name in ('list.txt', 'train.txt'):
        (home / name).write_text('faces/0.png\nfaces/1.png\n')
    (home / 'GT/list.txt').write_text('0.png\n')
    (home / 'link').symlink_to('LQ')
    (home / 'link-faces').symlink_to('faces')

    checkpoint.save_weights(home / 'w.safetensors', models.SRResNet(blocks=1).state_dict())
    (home / 'run/config.json').write_text(json.dumps({}))
    (home / 'run/curves.png').write_bytes(png(8))
    (home / 'run/weights.safetensors').write_bytes((home / 'w.safetensors').read_bytes())
    return home


def contents(folder):
    """{path: hash} of everything below a folder."""
    return {
        path.relative_to(folder): path.is_file() and hashlib.sha256(path.read_bytes()).digest()
        for path in folder.rglob('*')
    }


@pytest.mark.parametrize('program, words', COMMANDS, ids=lambda v: getattr(v, '__name__', v))
def test_nothing_that_is_read_is_written_over(folder, monkeypatch, capsys, program, words):
    monkeypatch.chdir(folder)
    before = contents(folder)
    assert program.main(words.split()) == 2
    assert 'a place of its own' in capsys.readouterr().err
    assert contents(folder) == before


def test_neighbours_may_be_written(folder):
    sources = {'--data': folder / 'faces', '--val': ['0.1', '12', 's3://bucket/x.tar']}
    for name in ('faces-pairs', 'pairs', 'face', 'run/restored', 'run/report.pdf', 'GT/new'):
        outputs.check({'--out': folder / name}, sources, {'--run': folder / 'run'})


def test_a_second_name_of_a_file_is_that_file(tmp_path):
    (tmp_path / 'a.png').write_bytes(b'a')
    (tmp_path / 'b.png').hardlink_to(tmp_path / 'a.png')
    with pytest.raises(RunError, match='--out .*b.png is --input .*a.png'):
        outputs.check({'--out': tmp_path / 'b.png'}, {'--input': tmp_path / 'a.png'})


def test_a_run_may_be_resumed(tmp_path, data):
    """Its folder is its own, as long as it is beside the data."""
    argv = flags(data, tmp_path / 'run', nimg=4, ticks=1)
    assert train.main(argv) == 0 and train.main(argv) == 0
