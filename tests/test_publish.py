"""Weights as a file that says what it is: the network is the same, and nothing is given away."""

import json

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import infer
import synthetic
import tasks
import train
from config import stored
from errors import RunError
from faces.masks import png
from storage import tensors
from tasks import initial, loading, restore, shipped
from tasks.face_parser import FaceParser
from tools import publish

SIZE = 64
NET = '{"width": [8, 8], "blocks": [[1], 1, [1]]}'


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp('home')
    (home / 'faces').mkdir()
    for i in range(6):
        image = synthetic.face(i, SIZE).image[..., ::-1]
        cv2.imwrite(str(home / f'faces/{i}.png'), image)
    assert train.main(flags(home, home / 'run')) == 0
    return home


def flags(home, out, *more):
    argv = ['--data', home / 'faces', '--val', 2, '--size', SIZE, '--network', 'unet', '--net', NET]
    argv += ['--recipe', 'photos', '--nimg', 8, '--batch', 4, '--device', 'cpu', '--pipe', 'torch']
    return [str(a) for a in [*argv, '--threads', 1, '--ticks', 1, '--out', out, *more]]


def publishing(run, out, *more):
    return publish.main([str(run), '--out', str(out), '--licence', 'MIT', *more])


def test_it_says_what_it_is(home, tmp_path):
    assert publishing(home / 'run', tmp_path / 'mine.safetensors', '--data', 'drawn faces') == 0
    said = tensors.metadata(tmp_path / 'mine.safetensors')
    result = json.loads((home / 'run/result.json').read_text())
    assert said['figures'] == (
        f'{result["psnr"]:.2f} dB PSNR on its validation set, bicubic {result["bicubic"]:.2f} dB'
    )
    wanted = {
        'name': 'mine',
        'network': 'unet',
        'recipe': 'photos',
        'scale': '4',
        'size': str(SIZE),
        'images': '8',
        'data': 'drawn faces',
        'licence': 'MIT',
    }
    assert said.items() >= wanted.items()
    assert json.loads(said['net'])['width'] == [8, 8]
    # Whoever gets the file learns nothing about the machine.
    assert str(home) not in (tmp_path / 'mine.safetensors').read_bytes().decode('latin-1')


def test_the_weights_are_those_of_the_run_in_16_bits(home, tmp_path):
    assert publishing(home / 'run', tmp_path / 'mine.safetensors') == 0
    whole, half = (
        load_file(home / 'run/weights.safetensors'),
        load_file(tmp_path / 'mine.safetensors'),
    )
    assert whole.keys() == half.keys()
    for name, value in half.items():
        assert value.dtype == torch.float16
        torch.testing.assert_close(value.float(), whole[name], rtol=2**-11, atol=1e-7)


def test_it_is_taken_where_weights_are(home, tmp_path, monkeypatch):
    """Restored by it, and trained on: the images of both add up."""
    monkeypatch.chdir(tmp_path)
    assert publishing(home / 'run', 'mine.safetensors') == 0
    face = str(home / 'faces/0.png')
    argv = [face, '--weights', 'mine.safetensors', '--aligned', '--output', 'out.png']
    assert infer.main([*argv, '--device', 'cpu']) == 0
    assert cv2.imread('out.png').shape == (4 * SIZE, 4 * SIZE, 3)
    assert train.main(flags(home, 'later', '--start', 'mine.safetensors')) == 0
    assert publishing('later', 'later.safetensors') == 0
    assert tensors.metadata('later.safetensors')['images'] == '16'
    # And so for a run that starts from a run.
    assert train.main(flags(home, 'last', '--start', 'later')) == 0
    assert publishing('last', 'last.safetensors') == 0
    assert tensors.metadata('last.safetensors')['images'] == '24'


def test_what_cannot_be_published_is_refused(home, tmp_path, capsys):
    bad = {'weights': torch.full((3,), 1e6)}
    with pytest.raises(Exception, match='weights holds numbers that 16 bits cannot'):
        publish.halved(bad)
    (tmp_path / 'unfinished').mkdir()
    (tmp_path / 'file').write_text('')
    for run, out, said in (
        (home / 'run', tmp_path / 'mine.pth', 'ends in .safetensors'),
        (tmp_path / 'unfinished', tmp_path / 'a.safetensors', 'unfinished'),
        (home / 'run', tmp_path / 'file' / 'a.safetensors', 'file'),
    ):
        assert publishing(run, out) == 2
        assert said in capsys.readouterr().err
    with pytest.raises(SystemExit):
        publish.main([str(home / 'run'), '--out', 'a.safetensors'])
    assert '--licence' in capsys.readouterr().err


def test_a_start_that_does_not_count_counts_nothing(tmp_path, capsys):
    """Weights of others say nothing of images, or something else by that name."""
    save_file({'a': torch.zeros(1)}, tmp_path / 'plain.safetensors')
    save_file({'a': torch.zeros(1)}, tmp_path / 'odd.safetensors', {'images': 'many'})
    for start in 'plain.safetensors', 'odd.safetensors', 'missing.safetensors', 'run', None:
        assert publish.seen_before(start and str(tmp_path / start)) == 0
        # And it is told, unless there was no start.
        assert ('not counted' in capsys.readouterr().out) == (start is not None)


def test_faces_have_the_size_that_the_weights_were_trained_on(home, tmp_path):
    """The file says it: `--fit` brings faces to a quarter of it, as the run would."""
    assert publishing(home / 'run', tmp_path / 'mine.safetensors') == 0
    made = []
    for given in ['--run', home / 'run'], ['--weights', tmp_path / 'mine.safetensors']:
        argv = [home / 'faces/0.png', *given, '--fit', '--output', tmp_path / 'out.png']
        assert infer.main([str(a) for a in [*argv, '--device', 'cpu', '--precision', 'fp32']]) == 0
        made.append(cv2.imread(str(tmp_path / 'out.png')))
    assert made[0].shape == made[1].shape == (SIZE, SIZE, 3)


def test_nothing_is_written_over_and_a_licence_is_needed(home, tmp_path, capsys):
    out = tmp_path / 'mine.safetensors'
    assert publish.main([str(home / 'run'), '--out', str(out), '--licence', ' ']) == 2
    assert '--licence is empty' in capsys.readouterr().err and not out.exists()
    out.write_bytes(b'of somebody')
    assert publishing(home / 'run', out) == 2
    assert 'is there already' in capsys.readouterr().err and out.read_bytes() == b'of somebody'


# ---- a parser ----


@pytest.fixture(scope='module')
def parser(home):
    """(run, file) of a parser that has seen eight faces."""
    folder = home / 'celeba'
    for name in ('images', 'masks'):
        (folder / name).mkdir(parents=True)
    for i in range(6):
        face = synthetic.face(i, SIZE)
        cv2.imwrite(str(folder / f'images/{i}.png'), face.image[..., ::-1])
        (folder / f'masks/{i}.png').write_bytes(png(face.mask))
    argv = ['--preset', 'parse_unet', '--data', folder, '--val', 2, '--size', SIZE, '--nimg', 8]
    argv += ['--net', '{"width": [4, 6, 8], "blocks": [1, 1, 1], "stride": 2}', '--batch', 4]
    argv += ['--device', 'cpu', '--pipe', 'torch', '--threads', 1, '--ticks', 1]
    assert train.main([str(a) for a in [*argv, '--out', home / 'parser']]) == 0
    assert publishing(home / 'parser', home / 'parser.safetensors') == 0
    return home / 'parser', home / 'parser.safetensors'


def test_a_parser_says_what_it_is(parser):
    run, file = parser
    result = json.loads((run / 'result.json').read_text())
    said = tensors.metadata(file)
    assert said['figures'] == f'{result["miou"]:.2f} % mIoU on its validation set'
    assert said['task'] == 'parse' and 'scale' not in said and 'recipe' not in said
    # What it knows of its run is enough to be one.
    of_file, of_run = stored.of_file(file), stored.of_run(run)
    for group in 'network', 'task':
        assert getattr(of_file, group) == getattr(of_run, group)
    assert of_file.data.size == SIZE


def test_a_parser_is_taken_where_its_run_is(home, parser, tmp_path):
    """It sees what its run sees, but for the rounding of its weights; so does who is guided."""
    run, file = parser
    faces = torch.from_numpy(np.stack([synthetic.face(i, SIZE).image for i in range(4)]))
    faces = faces.permute(0, 3, 1, 2)
    ours, theirs = (FaceParser(str(path), 'cpu') for path in (file, run))
    assert ours.size == SIZE
    assert (ours(faces) == theirs(faces)).float().mean() > 0.99
    x = faces.float() / 255
    for flags in ['--preset', 'mfpsnet', '--recipe', 'mfps', '--prior'], ['--parser']:
        maps = []
        for path in file, run:
            config = tasks.configure(
                [*flags, str(path), '--size', str(SIZE), '--device', 'cpu', '--pipe', 'torch']
            )
            if config.priors.prior:
                net = tasks.network(config)
                initial.init_weights(config, net, str)
                maps.append(net.guides['parse'](x))
            else:
                maps += restore.criterion(config, torch.device('cpu')).extract(x)[-1:]
        torch.testing.assert_close(*maps, atol=2e-2, rtol=2e-2)


def test_masks_are_made_with_its_file(home, parser, tmp_path):
    out = tmp_path / 'masks'
    argv = ['--weights', parser[1], '--input', home / 'celeba/images', '--output', out]
    assert infer.main([str(a) for a in [*argv, '--device', 'cpu']]) == 0
    assert len(list(out.glob('*.png'))) == 6


def test_other_files_are_no_parser(home, parser, tmp_path):
    assert publishing(home / 'run', tmp_path / 'restorer.safetensors') == 0
    save_file({'a': torch.zeros(1)}, tmp_path / 'plain.safetensors')
    for name, message in ('restorer', 'which restores'), ('plain', 'does not say what it holds'):
        path = str(tmp_path / f'{name}.safetensors')
        with pytest.raises(RunError, match=message):
            FaceParser(path, 'cpu')
        # A run has data and a recipe, which a file has not.
        with pytest.raises(RunError, match='no run directory'):
            loading.of_run(path, 'cpu')


def test_it_computes_as_its_weights_are(parser):
    """Not in the 16 bits of those that train by default."""
    loaded = loading.of_either(str(parser[1]), 'cpu', '--parser')
    x = torch.rand(1, 3, SIZE, SIZE)
    with torch.no_grad():
        plain = loaded.net(x)
        with loaded.autocast('cpu')():
            assert torch.equal(loaded.net(x), plain)


def test_a_name_is_stored_as_its_path(monkeypatch, tmp_path, parser):
    """So that the run can be resumed from anywhere."""
    monkeypatch.setattr(shipped, 'FOLDER', parser[1].parent)
    monkeypatch.chdir(tmp_path)
    plain = ['--device', 'cpu', '--pipe', 'torch']
    config = tasks.configure(['--preset', 'unet', '--parser', 'parser', *plain])
    assert config.loss.parser == str(parser[1])
    config = tasks.configure(['--preset', 'mfpsnet', '--prior', 'parse=parser', *plain])
    assert config.priors.prior == (f'parse={parser[1]}',)
    # What is no name is left as it is, whatever it looks like.
    for other in 'x' * 300, 'runs/parser', 'parser.safetensors':
        assert shipped.resolved(other) == other
