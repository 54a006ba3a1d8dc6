"""Pairs among degraded faces, and targets that lose their colour with the input."""

import json
import shutil

import cv2
import numpy as np
import pytest
import torch

import dali_pipes
import degrade
import synthetic
import train
from dali_pipes import mixed
from dali_pipes.plan import Plan
from degrade.draw import Draw
from sources import lq_gt, manifest
from tools import prepare

SIZE = 64
GRAY = 'extends = "bicubic"\n[stages.gray]\nop = "gray"\nafter = "final"\non = 0.5\n'


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp('mixed')
    for i in range(12):
        face = synthetic.face(i, SIZE).image[..., ::-1]
        # The LQ of a pair is nothing that a recipe would make.
        written = {
            f'faces/{i}.png': face,
            f'pairs/GT/{i}.png': 255 - face,
            f'pairs/LQ/{i}.png': np.full((SIZE // 4, SIZE // 4, 3), 10 * i + 5, np.uint8),
        }
        for name, image in written.items():
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(home / name), image)
    return home


def made(home, share, name='torch', **options):
    faces = manifest.scan(str(home / 'faces'), size=SIZE, say=lambda _: None).images
    pairs = lq_gt.scan_pairs(home / 'pairs', 4, size=SIZE, say=lambda _: None)
    common = dict(batch=6, size=SIZE, say=lambda _: None) | options
    pipe = dali_pipes.make(name, faces, 'ai6126_2024', threads=1, **common)
    return (
        dali_pipes.MixedPipe(pipe, dali_pipes.Pairs(pairs, share), 4, **common) if share else pipe
    )


@pytest.mark.parametrize('options', [{}, {'crop': 32}, {'name': 'reference'}])
def test_each_sample_is_a_pair_or_a_face(home, options):
    with made(home, 0.6, **options) as mixture, made(home, 0, **options) as plain:
        pairs = dali_pipes.Pairs(lq_gt.scan_pairs(home / 'pairs', 4, size=SIZE), 0.6)
        assert iter(mixture) is mixture
        seen = 0
        for _ in range(6):
            batch, faces = next(mixture), next(plain)
            places, index = mixed.drawn(batch.sample.numpy(), pairs, seed=0)
            assert (batch.sample == faces.sample).all()
            rest = np.setdiff1d(np.arange(6), places)
            assert torch.equal(batch.input[rest], faces.input[rest])
            assert torch.equal(batch.target[rest], faces.target[rest])
            for place, i in zip(places, index, strict=True):
                lq = round(float(batch.input[place].mean()) * 255)
                assert batch.input[place].std() < 1e-6 and lq == 10 * i + 5
                gt = cv2.imread(str(home / f'pairs/GT/{i}.png'))[..., ::-1] / 255
                own = batch.target[place].permute(1, 2, 0).numpy()
                if 'crop' not in options:
                    assert min(np.abs(own - gt).max(), np.abs(own - gt[:, ::-1]).max()) < 1e-6
            assert batch.plain is batch.target
            seen += len(places)
        assert 9 < seen < 30


def test_mirroring_is_that_of_the_sample(home):
    with made(home, 0.999, flip=0.5) as mixture:
        mirrored = 0
        for _ in range(4):
            batch = next(mixture)
            flips = Draw(0, batch.sample.numpy()).uniform('flip') < 0.5
            pairs = dali_pipes.Pairs(lq_gt.scan_pairs(home / 'pairs', 4, size=SIZE), 0.999)
            places, index = mixed.drawn(batch.sample.numpy(), pairs, seed=0)
            for place, i in zip(places, index, strict=True):
                gt = cv2.imread(str(home / f'pairs/GT/{i}.png'))[..., ::-1] / 255
                gt = gt[:, ::-1] if flips[place] else gt
                own = batch.target[place].permute(1, 2, 0).numpy()
                assert np.abs(own - gt).max() < 1e-6
                mirrored += flips[place]
        assert mirrored


def test_ranks_and_resumes_see_the_same(home):
    with made(home, 0.4, batch=8) as one:
        whole = [next(one) for _ in range(3)]
    with made(home, 0.4, batch=4, rank=1, world=2, start=8) as other:
        part = [next(other) for _ in range(2)]
    for a, b in zip(whole[1:], part, strict=True):
        assert torch.equal(a.sample[4:], b.sample) and torch.equal(a.input[4:], b.input)


def test_shares_and_pairs_are_even():
    pairs = dali_pipes.Pairs([None] * 10, 0.1)
    places, index = mixed.drawn(np.arange(50_000), pairs, seed=3)
    assert abs(len(places) / 50_000 - 0.1) < 0.005
    assert np.bincount(index, minlength=10).min() > 400


@pytest.mark.parametrize(
    'word, parts',
    [
        ('pairs:0.1', ('pairs', 0.1)),
        ('a:b/pairs', ('a:b/pairs', None)),
        ('pairs', ('pairs', None)),
        ('C:/x:0.5', ('C:/x', 0.5)),
    ],
)
def test_the_share_stands_behind_the_path(word, parts):
    assert mixed.split(word) == parts


def test_grey_inputs_have_grey_targets(tmp_path):
    (tmp_path / 'g.toml').write_text(GRAY)
    recipe = degrade.recipe(str(tmp_path / 'g.toml'))
    plans = [
        Plan(9, recipe, batch=8, size=SIZE, target_gray=gray, target_usm=usm)
        for gray in (False, True)
        for usm in (False, True)
    ]
    x = torch.stack(
        [torch.from_numpy(synthetic.face(i, SIZE).image).permute(2, 0, 1) for i in range(8)]
    )
    step = plans[0](np.arange(8))
    on = dict(zip((s.name for s in recipe.stages), step.params, strict=True))['gray'].on
    assert on.any() and not on.all()
    for colour, grey in zip(plans[:2], plans[2:], strict=True):
        a, b = (plan.finish(x, plan(np.arange(8))) for plan in (colour, grey))
        assert torch.equal(a.input, b.input)
        for kept, changed in ((a.target, b.target), (a.plain, b.plain)):
            assert torch.equal(kept[~on], changed[~on])
            spread = changed.amax(1) - changed.amin(1)
            assert spread[on].max() < 1e-6 < spread[~on].max()
            expected = cv2.cvtColor(kept[on][0].permute(1, 2, 0).numpy(), cv2.COLOR_RGB2GRAY)
            assert np.abs(changed[on][0, 0].numpy() - expected).max() < 2e-6


def test_a_recipe_that_keeps_the_colour_is_named():
    with pytest.raises(ValueError, match='--target-gray: bicubic never takes the colour away'):
        Plan(9, degrade.recipe('bicubic'), batch=8, size=SIZE, target_gray=True)


NET = '{"width": [8, 8, 8, 8], "blocks": [[1, 1, 1], 1, [1, 1, 1]], "position": 0}'


@pytest.fixture
def command(home, tmp_path, monkeypatch):
    """command(*more) -> exit status of a small run."""
    monkeypatch.setenv('FACES_CACHE', str(tmp_path / 'cache'))
    fixed = f'--data {home}/faces --val 2 --preset unet --size 64 --batch 2 --ticks 1 --threads 1'
    fixed += f' --pipe torch --device cpu --precision fp32 --nimg 4 --out {tmp_path}/run'
    return lambda *more: train.main([*fixed.split(), '--net', NET, *more])


def test_a_run_knows_its_pairs(home, command, tmp_path, capsys):
    shutil.copytree(home / 'pairs', tmp_path / 'pairs')
    assert command('--mix', f'{tmp_path}/pairs:0.5') == 0
    stored = json.loads((tmp_path / 'run/config.json').read_text())
    assert stored['mix'] == f'{tmp_path}/pairs' and stored['mix_share'] == 0.5
    assert command('--mix', f'{tmp_path}/pairs:0.5') == 0

    # What a sample was is known, too.
    capsys.readouterr()
    numbers = [str(n) for n in range(8)]
    argv = ['replay', str(tmp_path / 'run'), *numbers, '--out', str(tmp_path / 'r.png')]
    assert prepare.main(argv) == 0
    said = capsys.readouterr().out
    places, _ = mixed.drawn(np.arange(8), dali_pipes.Pairs([None] * 12, 0.5), seed=0)
    assert len(places) and all(f'sample {n}: the pair {tmp_path}/pairs' in said for n in places)

    # Another share, and other pairs, are another run.
    assert command('--mix', f'{tmp_path}/pairs:0.4') == 2
    assert 'mix_share: was 0.5, now 0.4' in capsys.readouterr().err
    (tmp_path / 'pairs/LQ/3.png').unlink()
    (tmp_path / 'pairs/GT/3.png').unlink()
    assert command('--mix', f'{tmp_path}/pairs:0.5') == 2
    assert '--mix: ' in capsys.readouterr().err


@pytest.mark.parametrize(
    'more, what',
    [
        (['--mix', '{home}/pairs:1.5'], 'a share between 0 and 1 is needed'),
        (['--mix', '{home}/pairs:1'], 'a share between 0 and 1 is needed'),
        (['--mix', '{home}/faces:0.1'], 'LQ'),
        (['--mix', '{home}/pairs:0.1', '--target-usm'], 'give --no-target-usm'),
        (['--mix', '{home}/pairs:0.1', '--preset', 'parse_unet'], '--mix are for restorers'),
        (['--target-gray', '--recipe', 'bicubic'], 'bicubic never takes the colour away'),
    ],
)
def test_what_cannot_be_mixed(more, what, home, command, capsys):
    assert command(*(word.format(home=home) for word in more)) == 2
    assert what in capsys.readouterr().err
