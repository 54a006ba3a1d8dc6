"""The parsing task from end to end: its criterion and scores, a run that resumes, masks written by
infer.py.
"""

import json
import signal

import cv2
import numpy as np
import pypdf
import pytest
import torch
from PIL import Image
from test_report import FONT
from test_train import SIZE

import infer
import models
import synthetic
import tasks
import train
from config import presets
from dali_pipes.batch import Batch
from faces import masks
from losses import segmentation
from metrics.miou import Confusion
from tasks import parse, restore
from tasks.trial import trial
from tools import report, submit

NET = '{"width": [8, 12, 16], "blocks": [1, 1, 1], "stride": 2, "aux": true, "position": 8}'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('parse')
    synthetic.write(folder / 'train', 12, first_seed=0, size=SIZE, workers=1)
    synthetic.write(folder / 'val', 5, first_seed=100, size=SIZE, workers=1)
    return folder


def flags(folder, out, **more):
    chosen = (
        dict(
            data=folder / 'train',
            val=folder / 'val',
            out=out,
            preset='parse_unet',
            net=NET,
            size=SIZE,
            batch=2,
            nimg=48,
            ticks=3,
            threads=1,
            pipe='torch',
        )
        | more
    )
    return [x for k, v in chosen.items() for x in ('--' + k.replace('_', '-'), str(v))]


@pytest.fixture(scope='module')
def run(data, true_curves, tmp_path_factory):
    out = tmp_path_factory.mktemp('runs') / 'parser'
    with true_curves():
        assert train.main(flags(data, out)) == 0
    return out


def logits(*shape):
    return torch.randn(2, 19, *shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    'kind, weights', [('ce', (1, 0, 0)), ('lovasz', (1, 2, 0)), ('mixed', (0.5, 0.3, 1))]
)
def test_the_criterion_is_the_sum_it_says(kind, weights):
    y, target = (
        logits(16, 16),
        torch.randint(
            0, 19, (2, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(2)
        ),
    )
    batch, criterion = Batch(None, target, None, None), parse.ParseCriterion(kind)

    def expected(y, target, every):
        terms = (
            segmentation.cross_entropy(y, target, segmentation.MILD),
            segmentation.lovasz_softmax(y, target, every),
            segmentation.dice(y, target),
        )
        return float(sum(w * t for w, t in zip(weights, terms, strict=False)))

    assert sum(criterion.net(y, batch, None, 0, 0.0).values()) == pytest.approx(
        expected(y, target, parse.LOVASZ_EVERY), rel=1e-6
    )
    quarter = logits(4, 4)
    assert sum(criterion.net((y, quarter, quarter), batch, None, 0, 0.0).values()) == pytest.approx(
        expected(y, target, parse.LOVASZ_EVERY)
        + 2 * parse.AUX * expected(quarter, target[:, 2::4, 2::4], 1),
        rel=1e-6,
    )


def test_scores_are_those_of_the_whole_set():
    g = torch.Generator().manual_seed(0)
    ours, truth = (torch.randint(0, 19, (6, 8, 8), generator=g) for _ in range(2))
    counts, whole = [], Confusion(19)
    for a, b in zip(ours, truth, strict=False):
        one = Confusion(19)
        one.update(a, b)
        counts.append(one.counts.numpy())
        whole.update(a, b)
    scores, expected = parse.ParseScores(np.array(counts), []), whole.compute()
    assert (
        scores.value() == expected.miou
        and scores.row()['f1'] == expected.f1
        and f'mIoU {expected.miou:.2f} %' in scores.sentence()
    )
    half = Confusion(19)
    half.update(ours[::2], truth[::2])
    assert scores.value(slice(0, None, 2)) == half.compute().miou


def test_mirrored_passes_agree_on_a_symmetric_face():
    """A network that knows the side of a pixel only; the mirror pass must exchange it back, or left
    and right cancel out.
    """

    class Sides(torch.nn.Module):
        def forward(self, x):
            y = torch.zeros(len(x), 19, *x.shape[2:])
            half = x.shape[3] // 2
            y[:, masks.CLASSES.index('r_eye'), :, :half] = 5  # the person's right is on the left
            y[:, masks.CLASSES.index('l_eye'), :, half:] = 5
            return y

    image = torch.zeros(1, 3, 4, 8, dtype=torch.uint8)
    plain, averaged = (parse.parse(Sides(), image, tta) for tta in (False, True))
    assert torch.equal(plain, averaged) and plain[0, 0].tolist() == 4 * [5] + 4 * [4]


@pytest.mark.parametrize('sides', [(64, 64), (32, 32), (128, 192), (16, 16), (40, 70)])
def test_pictures_of_other_sizes_are_shown_as_large_as_it_knows(sides):
    """The dark part of a picture is found where it is, whatever its size."""
    asked = []

    class Dark(torch.nn.Module):
        def forward(self, x):
            asked.append(x.shape[2:])
            others = x.new_full((len(x), 17, *x.shape[2:]), -9)
            return torch.cat([torch.stack([x.mean(1), 1 - x.mean(1)], 1), others], 1)

    h, w = sides
    image = torch.full((2, 3, h, w), 250, dtype=torch.uint8)
    image[:, :, : h // 2, w // 4 :] = 5
    expected = (image[:, 0] < 128).to(torch.uint8)
    for tta in False, True:
        ids = parse.parse(Dark(), image, tta, 32)
        assert ids.shape == expected.shape
        # But for a pixel of what is seen on either side of an edge.
        off = (ids != expected).float().mean()
        assert off <= (0 if min(sides) == 32 else 2 * (1 / 32))
    assert {min(shape) for shape in asked} == {32}
    assert torch.equal(parse.parse(Dark(), image), expected) and asked[-1] == sides


def test_overlay_keeps_the_background():
    image, ids = torch.full((3, 2, 2), 101, dtype=torch.uint8), torch.tensor([[0, 1], [13, 0]])
    out = parse.overlay(image, ids)
    assert out[:, 0, 0].tolist() == [101] * 3 and out[:, 0, 1].tolist() == [
        (101 + int(v)) // 2 for v in masks.COLOURS[1]
    ]


def test_run_directory(run):
    rows = [json.loads(line) for line in (run / 'log.jsonl').read_text().splitlines()]
    scored = [r for r in rows if 'miou' in r]
    assert [r['nimg'] for r in scored] == [16, 32, 48] and all(
        0 <= r['miou'] <= 100 and 'iou/skin' in r for r in scored
    )
    assert any({'loss', 'ce', 'lovasz'} <= r.keys() for r in rows)
    result = json.loads((run / 'result.json').read_text())
    assert {'miou', 'f1', 'accuracy', 'odd_half', 'even_half'} <= result.keys()
    assert (
        cv2.imread(str(run / 'samples/000000048.png')).shape[1] == 3 * SIZE + 8
        and (run / 'curves.png').exists()
    )


def test_infer_writes_masks_and_prints_the_validation_score(run, data, tmp_path, capsys):
    expected = json.loads((run / 'result.json').read_text())['miou']
    argv = [
        '--run',
        str(run),
        '--input',
        str(data / 'val/images'),
        '--gt',
        str(data / 'val/masks'),
        '--output',
        str(tmp_path / 'out'),
    ]
    assert infer.main(argv) == 0
    assert float(capsys.readouterr().out.split('mIoU: ')[1].split()[0]) == pytest.approx(
        expected, abs=0.3
    )  # other batches, other roundings
    with Image.open(tmp_path / 'out/00000.png') as mask:
        assert mask.mode == 'P' and mask.size == (SIZE, SIZE) and np.array(mask).max() < 19
    assert len(list((tmp_path / 'out-colour').iterdir())) == 5
    assert (
        infer.main([*argv, '--tta']) == 0
        and infer.main(['--run', str(run), '--output', str(tmp_path / 'val')]) == 0
    )


def test_submission_of_masks(run, data, tmp_path, capsys):
    assert (
        infer.main(
            [
                '--run',
                str(run),
                '--input',
                str(data / 'val/images'),
                '--output',
                str(tmp_path / 'out'),
            ]
        )
        == 0
    )
    argv = [
        'challenge',
        str(tmp_path / 'out'),
        '--masks',
        '--names',
        str(data / 'val/images'),
        '--gt',
        str(data / 'val/masks'),
        '--run',
        str(run),
        '--size',
        str(SIZE),
        '--out',
        str(tmp_path / 'masks.zip'),
    ]
    assert submit.main(argv) == 0
    said = capsys.readouterr().out
    assert '5 masks of 64x64' in said and 'mIoU' in said and 'parameters' in said
    first = tmp_path / 'out/00000.png'
    for spoilt, reason in (
        (np.full((SIZE, SIZE), 19, np.uint8), 'id 19 in it'),
        (np.zeros((SIZE, SIZE, 3), np.uint8), 'mode RGB'),
        (np.zeros((SIZE, 8), np.uint8), '8x64'),
    ):
        cv2.imwrite(str(first), spoilt)
        assert submit.main(argv) == 2 and reason in capsys.readouterr().err


def test_report_and_page(run, tmp_path):
    assert (
        report.main([str(run), '--out', str(tmp_path / 'report.pdf'), '--font', str(FONT)]) == 0
        and report.main([str(run), '--out', str(tmp_path / 'page.html')]) == 0
    )
    text = '\n'.join(page.extract_text() for page in pypdf.PdfReader(tmp_path / 'report.pdf').pages)
    assert all(word in text for word in ('Face Parsing', 'mIoU', 'Lovász', 'l_eye'))
    assert all(
        word in (tmp_path / 'page.html').read_text()
        for word in ('mIoU, %', 'mean F1', 'data:image')
    )


@pytest.mark.parametrize(
    'more',
    [
        dict(recipe='gfpgan'),
        dict(loss='ohem', preset='bisenet', net='{"width": 16}', pipe='dali'),
        dict(loss='mixed', val='3'),
    ],
)
def test_other_ways_to_train_a_parser(more, data, tmp_path):
    if more.get('pipe') == 'dali':
        pytest.importorskip('nvidia.dali')
    assert train.main(flags(data, tmp_path / 'run', nimg=8, ticks=1, **more)) == 0


def test_a_stopped_run_goes_on_to_the_bit(run, data, tmp_path, monkeypatch):
    """Stopped in the middle by a signal's flag, then resumed."""
    from safetensors.torch import load_file

    from training import checkpoint, stop

    asked = iter([0] * 9)
    monkeypatch.setattr(
        stop.Stop,
        'requested',
        property(lambda self: next(asked, signal.SIGTERM), lambda self, value: None),
        raising=False,
    )
    assert (
        train.main(flags(data, tmp_path / 'run')) == 143
        and not (tmp_path / 'run/result.json').exists()
    )
    monkeypatch.undo()
    assert train.main(flags(data, tmp_path / 'run')) == 0
    for name in 'net', 'ema':
        a, b = (
            load_file(checkpoint.latest(out) / f'{name}.safetensors')
            for out in (run, tmp_path / 'run')
        )
        assert all(torch.equal(a[k], b[k]) for k in a), name


@pytest.mark.parametrize(
    'more, said',
    [
        (dict(gan='ragan'), 'trains on masks'),
        (dict(loss='l1'), 'unknown loss'),
        (dict(network='unet'), 'unknown network'),
        (dict(data='nowhere'), 'nowhere'),
        (dict(trunk='x.pth'), 'is for --preset bisenet'),
        (dict(preset='bisenet', net='{}', trunk='none.pth'), 'none.pth'),
    ],
)
def test_bad_options(more, said, data, tmp_path, capsys):
    assert train.main(flags(data, tmp_path / 'out', **more)) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    'more, said',
    [
        (['--target-usm'], 'are for restorers'),
        (['--no-lq-from-usm'], 'are for restorers'),
        (['--val', '0.2', '2'], 'two validation sets of that name'),
    ],
)
def test_bad_switches(more, said, data, tmp_path, capsys):
    assert train.main([*flags(data, tmp_path / 'out'), *more]) == 2
    assert said in capsys.readouterr().err


def test_a_restorer_trains_on_the_features_of_a_parser(run, data, tmp_path):
    argv = [
        a
        for k, v in dict(
            data=data / 'train/images',
            val=3,
            out=tmp_path / 'run',
            preset='unet',
            recipe='gfpgan',
            size=SIZE,
            batch=2,
            nimg=8,
            ticks=1,
            pipe='torch',
            parser=run,
            perceptual_weight=0.5,
        ).items()
        for a in ('--' + k.replace('_', '-'), str(v))
    ]
    assert train.main(argv) == 0
    c = tasks.configure(argv)
    goal, x = (
        restore.criterion(c, torch.device('cpu')),
        torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)),
    )
    parser = goal.extract.parser
    found = goal.net(x, Batch(None, x.flip(2), None, None), None, 0, 0.0)
    with torch.no_grad():
        expected = (
            0.5
            * sum(
                (a - b).abs().mean()
                for a, b in zip(parser.encode(x), parser.encode(x.flip(2)), strict=False)
            )
            / 3
        )
    assert float(found['perceptual']) == pytest.approx(float(expected), rel=1e-5) and not any(
        p.requires_grad for p in parser.parameters()
    )
    assert train.main([*argv, '--parser', str(data), '--out', str(tmp_path / 'other')]) == 2


def test_the_trial_is_a_step_of_the_run(data, tmp_path):
    trial(tasks.configure(flags(data, tmp_path)), torch.device('cpu'), 2)


def test_the_preset_has_the_parameters_it_says():
    net = tasks.network(presets.config('parse_unet'))
    assert models.count(net) == models.count(models.ParseUNet(stride=2, aux=True, position=16))
