"""A run goes on with what it began with: the same data by whatever path, and as many images a step;
without a word about what it was, or after a command that was refused, nothing is replaced.
"""

import json
import os
import shutil

import numpy as np
import pytest

import infer
import tasks
import train
from sources import identity, lq_gt, manifest
from tasks import data
from training import checkpoint, places, run
from training.world import World

SIZE = 64
FLAGS = (
    '--preset unet --size 64 --batch 2 --nimg 4 --ticks 1 --keep 1 --threads 1 --pipe torch '
    '--cache off --device cpu --precision fp32 --recipe gfpgan'
)
NET = ['--net', '{"width": [8, 16], "blocks": [[1], 1, [1]], "position": 8}']


def picture(path, number, side=SIZE):
    import cv2

    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3), np.uint8)
    assert cv2.imwrite(str(path), pixels, [cv2.IMWRITE_PNG_COMPRESSION, 0])


@pytest.fixture(scope='module')
def began(tmp_path_factory):
    """A folder in which a run has been begun with relative paths: faces, pairs and the run."""
    home = tmp_path_factory.mktemp('began')
    for i in range(4):
        picture(home / 'faces' / f'{i}.png', i)
    for i in range(2):
        picture(home / 'pairs/GT' / f'{i}.png', 10 + i)
        picture(home / 'pairs/LQ' / f'{i}.png', 20 + i, SIZE // 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        assert train.main([*FLAGS.split(), *NET, *DATA, '--out', 'run']) == 0
    return home


DATA = ['--data', 'faces', '--val', 'pairs']


@pytest.fixture
def home(began, tmp_path, monkeypatch):
    """A copy of it, in which the process works."""
    shutil.copytree(began, tmp_path / 'home')
    # As if the run had begun here.
    config = json.loads((began / 'run/config.json').read_text())
    text = json.dumps(config).replace(str(began), str(tmp_path / 'home'))
    (tmp_path / 'home/run/config.json').write_text(text)
    monkeypatch.chdir(tmp_path / 'home')
    return tmp_path / 'home'


def again(*more, data=DATA, out='run'):
    return train.main([*FLAGS.split(), *NET, *data, '--out', str(out), *more])


def contents(folder):
    return {p: p.read_bytes() for p in folder.rglob('*') if p.is_file() and p.name != '.owner'}


# ------------------------------------------------------------------------------------------------
# Data.


def grown(path):
    path.write_bytes(path.read_bytes() + b'0')


def exchanged(path):
    """Another picture of the same size and time."""
    times = path.stat()
    picture(path, 99, SIZE if 'LQ' not in path.parts else SIZE // 4)
    assert path.stat().st_size == times.st_size
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize('change', [grown, exchanged])
@pytest.mark.parametrize(
    'name, flag',
    [('faces/2.png', '--data'), ('pairs/GT/1.png', '--val'), ('pairs/LQ/0.png', '--val')],
)
def test_another_picture_is_named(home, change, name, flag, capsys):
    change(home / name)
    before = contents(home / 'run')
    assert again() == 2 and contents(home / 'run') == before
    said = capsys.readouterr().err
    file = name.rpartition('/')[2]
    assert f'{flag}' in said and f'{file} changed' in said and 'put back what was there' in said


@pytest.mark.parametrize(
    'change, said',
    [
        (lambda home: (home / 'faces/3.png').unlink(), '3.png is missing'),
        (lambda home: picture(home / 'faces/4.png', 4), '4.png new'),
        (lambda home: (home / 'faces/1.png').rename(home / 'faces/7.png'), '1.png is missing'),
    ],
)
def test_a_picture_more_or_less_is_named(home, change, said, capsys):
    change(home)
    assert again() == 2 and said in capsys.readouterr().err


@pytest.mark.parametrize(
    'data',
    [
        ['--data', 'faces/', '--val', './pairs/'],
        ['--data', 'faces/../faces', '--val', 'pairs=pairs'],
        ['--data', 'faces/*.png', '--val', 'pairs'],
    ],
)
def test_data_by_another_name_is_the_same(home, data):
    assert again(data=data) == 0


def test_copies_of_what_is_validated_on_are_told(tmp_path):
    """By their contents, under other names; of the pictures of pairs, too."""
    for name, number in (('a', 0), ('b', 1), ('c', 2)):
        picture(tmp_path / f'train/{name}.png', number)
    for name, number in (('x', 1), ('y', 7)):
        picture(tmp_path / f'val/GT/{name}.png', number)
        picture(tmp_path / f'val/LQ/{name}.png', number + 10, SIZE // 4)
    train, held = (manifest.scan(str(tmp_path / f), size=SIZE).images for f in ('train', 'val/GT'))
    pairs = lq_gt.scan_pairs(str(tmp_path / 'val'), 4)
    told = [str(tmp_path / 'train/b.png')]
    assert identity.copies(train, held) == identity.copies(train, pairs) == told
    assert identity.copies(held, train) == [str(tmp_path / 'val/GT/x.png')]
    assert identity.copies(train, held[1:]) == []

    # And the command says so, and goes on.
    said = []
    words = ['--data', tmp_path / 'train', '--val', f'v={tmp_path / "val"}', '--size', SIZE]
    config = tasks.configure([*map(str, words), '--preset', 'unet', '--pipe', 'torch'])
    images, _ = data.load_faces(config, said.append)
    assert len(images) == 3 and any('copies of images of --val' in s and 'b.png' in s for s in said)


def test_data_may_move(home, tmp_path, monkeypatch, capsys):
    """The run then knows where it is; a link leads there, too."""
    for name in ('faces', 'pairs'):
        shutil.copytree(home / name, tmp_path / 'elsewhere' / name, copy_function=shutil.copyfile)
        shutil.rmtree(home / name)
    (home / 'link').symlink_to(tmp_path / 'elsewhere')
    assert again(data=['--data', 'link/faces', '--val', 'link/pairs']) == 0
    monkeypatch.chdir(tmp_path)
    assert infer.main(['--run', str(home / 'run'), '--device', 'cpu']) == 0
    assert 'PSNR' in capsys.readouterr().out


def test_a_large_set_is_known_by_names_and_sizes(home, monkeypatch, capsys):
    monkeypatch.setattr(identity, 'SMALL', 100)
    assert again(out='large') == 0
    exchanged(home / 'faces/2.png')
    assert again(out='large') == 0
    grown(home / 'faces/2.png')
    assert again(out='large') == 2 and '2.png changed' in capsys.readouterr().err


def test_without_its_list_of_files_a_run_still_knows_its_data(home, capsys):
    (home / 'run/data.json').unlink()
    assert again() == 0
    exchanged(home / 'faces/2.png')
    assert again() == 2 and 'was made with other data' in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------
# The validation set of a run, seen from anywhere.


@pytest.mark.parametrize('moved', [False, True])
def test_infer_finds_the_validation_set(home, moved, tmp_path, monkeypatch, capsys):
    if moved:  # all together, the run and its data
        home = home.rename(tmp_path / 'new')
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'faces').mkdir()  # of the same name, but nothing to do with it
    assert infer.main(['--run', str(home / 'run'), '--device', 'cpu']) == 0
    assert 'over 2 images' in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------
# Runs of earlier versions.


@pytest.fixture
def earlier(home):
    """A run with relative paths and without fingerprints, as they were written before."""
    path = home / 'run/config.json'
    config = json.loads(path.read_text())
    new = {'images_per_step', 'fingerprint', 'stream_timeout'}
    config = {k: v for k, v in config.items() if k not in new}
    path.write_text(json.dumps(config | {'data': 'faces', 'val': ['pairs'], 'out': 'run'}))
    (home / 'run/data.json').unlink()
    return home


def test_an_earlier_run_goes_on_and_is_known_from_then_on(earlier, capsys):
    assert again() == 0
    assert 'fingerprint' in json.loads((earlier / 'run/config.json').read_text())
    exchanged(earlier / 'faces/2.png')
    assert again() == 2 and '2.png changed' in capsys.readouterr().err


def test_an_earlier_run_with_other_files_is_refused(earlier, capsys):
    (earlier / 'faces/2.png').unlink()
    assert again() == 2 and 'was made with other data' in capsys.readouterr().err


def test_the_validation_set_of_an_earlier_run_is_found(earlier, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert infer.main(['--run', str(earlier / 'run'), '--device', 'cpu']) == 0
    assert 'over 2 images' in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------
# Images of a step.


@pytest.mark.parametrize(
    'more, processes, status',
    [
        (['--batch', '1', '--accumulate', '2'], 1, 0),
        (['--batch', '1'], 2, 0),
        (['--batch', '1', '--accumulate', '2'], 2, 2),
        (['--batch', '2'], 2, 2),
        (['--batch', '4'], 1, 2),
        (['--accumulate', '2'], 1, 2),
    ],
)
def test_the_images_of_a_step_count(home, more, processes, status, monkeypatch, capsys):
    class Several(World):
        """One process that believes to be one of several, up to where they begin to talk."""

        def __init__(self, *args):
            super().__init__(*args)
            self.size = processes

        def barrier(self, group=None):
            if processes > 1:
                raise train.RunError('they agree')

    monkeypatch.setattr(train, 'World', Several)
    found = again(*more)
    said = capsys.readouterr().err
    if processes > 1 and status == 0:
        assert 'they agree' in said and 'images of a step' not in said
    else:
        assert found == status, said
    if status:
        assert 'images of a step (--batch x --accumulate x processes): was 2' in said


# ------------------------------------------------------------------------------------------------
# Nothing is replaced, and nothing is left.


def test_a_run_without_its_options_is_left_alone(home, capsys):
    (home / 'run/config.json').unlink()
    before = contents(home / 'run')
    assert again() == 2 and contents(home / 'run') == before
    said = capsys.readouterr().err
    assert 'holds checkpoints' in said and 'no config.json' in said and 'another --out' in said


@pytest.mark.parametrize('left', ['checkpoints', 'best', 'weights.safetensors', 'log.jsonl'])
def test_any_part_of_a_run_is_left_alone(home, left):
    for path in (home / 'run').iterdir():
        if path.name != left:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    before = contents(home / 'run')
    assert again() == 2 and contents(home / 'run') == before


def test_a_run_whose_checkpoints_are_gone_is_left_alone(home, capsys):
    shutil.rmtree(home / 'run/checkpoints')
    before = contents(home / 'run')
    assert again() == 2 and contents(home / 'run') == before
    assert 'checkpoints are gone' in capsys.readouterr().err


WRONG = [
    ['--start', 'nothing.safetensors'],
    ['--start', 'faces/0.png'],
    ['--vgg', 'nothing.pth'],
    ['--vgg', 'faces/0.png'],
    ['--lpips', 'nothing.pth'],
    ['--lpips', 'faces/0.png'],
    ['--parser', 'nothing'],
    ['--parser', 'run'],
    ['--preset', 'mfpsnet', '--prior', 'run'],
    ['--preset', 'mfpsnet', '--prior', 'nothing'],
    ['--preset', 'bisenet', '--trunk', 'nothing'],
    ['--data', 'nothing'],
    ['--val', 'nothing'],
    ['--val', '400'],
    ['--batch', '0'],
    ['--net', '{"steps": "x"}'],
    ['--arch', 'nothing'],
    ['--gan', 'ragan', '--discriminator', 'modified_vgg'],
]


@pytest.mark.parametrize('words', WRONG, ids=' '.join)
def test_a_refused_start_leaves_nothing(home, words):
    assert again(*words, out='new') == 2
    assert not (home / 'new').exists()
    (home / 'there').mkdir()
    assert again(*words, out='there') == 2
    assert not [*(home / 'there').iterdir()]


def test_a_start_that_failed_later_can_be_corrected(home, monkeypatch):
    """Memory ends with the first step, when config.json is written: nothing is lost by beginning
    anew with other options.
    """
    with monkeypatch.context() as patch:

        def full(*_):
            raise KeyboardInterrupt

        patch.setattr(train, 'take_step', full)
        assert again('--batch', '4', out='new') == 130 and (home / 'new/config.json').exists()
    assert again('--batch', '2', out='new') == 0
    assert json.loads((home / 'new/config.json').read_text())['batch'] == 2
    assert run.has_checkpoint('new') and checkpoint.latest('new').name == '000000004'


# ------------------------------------------------------------------------------------------------
# Paths.


@pytest.mark.parametrize(
    'given, real',
    [
        ({'data': 'faces/'}, {'data': '{}/faces'}),
        ({'data': 'x/{000..003}.tar'}, {'data': '{}/x/{000..003}.tar'}),
        ({'data': 's3://bucket/x.tar'}, {'data': 's3://bucket/x.tar'}),
        ({'data': 'stacked:pairs'}, {'data': 'stacked:{}/pairs'}),
        ({'val': ['4']}, {'val': ['4']}),
        ({'val': ['0.25', 'a=b', 'c=stacked:d']}, {'val': ['0.25', 'a={}/b', 'c=stacked:{}/d']}),
        ({'prior': ['parse=runs/p', 'q']}, {'prior': ['parse={}/runs/p', '{}/q']}),
        ({'vgg': None, 'loss': 'l1'}, {'vgg': None, 'loss': 'l1'}),
    ],
)
def test_paths_are_stored_as_what_they_lead_to(given, real, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = json.dumps(real).replace('{}', str(tmp_path))
    assert places.absolute(given) == json.loads(text)
