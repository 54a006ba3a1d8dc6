"""Facial priors from end to end: landmarks are learned, a dictionary is built, and MFPSNet trains
with all three.
"""

import json

import numpy as np
import pytest
import torch

import infer
import losses
import models
import storage
import synthetic
import tasks
import train
from config import presets
from dali_pipes.batch import Batch
from errors import DataError
from faces import components, dictionary, heatmaps, landmarks
from faces import prior_file as store
from faces.masks import decode
from tasks import guides, priors
from tasks import landmarks as task
from tasks.trial import trial
from tools import prepare, report
from training import checkpoint

SIZE = 64
PARSER = dict(width=(4, 6, 8), blocks=(1, 1, 1), stride=2, aux=True, position=4)
ONE = {'path': [0], 'cell': [[1, 1], [3, 1], [6, 0]]}
FOLDED = '{"width": [6, 8], "position": 4}'


def flags(**more):
    return [
        x
        for k, v in more.items()
        for x in ('--' + k.replace('_', '-'), *(map(str, v) if isinstance(v, list) else [str(v)]))
    ]


def teach(home, out, **more):
    settings = dict(
        preset='landmarks',
        data=home / 'faces',
        val=2,
        out=out,
        net=FOLDED,
        recipe='gfpgan',
        size=SIZE,
        batch=2,
        nimg=8,
        ticks=1,
        threads=1,
        pipe='torch',
        precision='fp32',
        device='cpu',
    )
    return flags(**settings | more)


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    """Drawn faces with masks and points, the run of a parser, architectures."""
    folder = tmp_path_factory.mktemp('priors')
    synthetic.write(folder / 'faces', 5, first_seed=0, size=SIZE, workers=1)
    torch.manual_seed(0)
    storage.write_json(
        folder / 'parser/config.json',
        dict(task='parse', network='parse_unet', net=PARSER, size=SIZE),
    )
    checkpoint.save_weights(
        folder / 'parser/weights.safetensors', models.ParseUNet(**PARSER).state_dict()
    )
    storage.write_json(
        folder / 'arch.json',
        {'sr': dict(ONE, path=[3]), 'parse': ONE, 'heat': ONE, 'dict': ONE, 'fusion': ONE},
    )
    return folder


@pytest.fixture(scope='module')
def made(home):
    """A run of landmarks, and the file of priors that holds it."""
    assert train.main(teach(home, home / 'landmarks')) == 0
    assert (
        prepare.main(
            [
                'priors',
                str(home / 'faces'),
                *flags(
                    parser=home / 'parser',
                    heatmaps=home / 'landmarks',
                    entries=3,
                    out=home / 'p.safetensors',
                ),
            ]
        )
        == 0
    )
    return home / 'p.safetensors'


# ---- the task ----


def test_the_loss_is_in_units_of_the_maps():
    """1 of nothing, 0 of the true maps; points of masks and given ones are the same."""
    mask = torch.from_numpy(synthetic.face(1, SIZE).mask)[None]
    points, visible = landmarks.from_mask(mask)
    given = torch.cat([points, visible[..., None].float()], 2)
    goal, x = task.LandmarkCriterion('mse'), torch.zeros(1, 3, SIZE, SIZE)
    maps = heatmaps.gaussians(heatmaps.reduced(points, 4), visible, (16, 16))
    for target in mask, given:

        def loss(output, target=target):
            return goal.net(output, Batch(x, target, None, None), None, 0, 0.0)['mse'].item()

        assert (
            loss(torch.zeros(1, 28, 16, 16)) == pytest.approx(1)
            and loss(maps) == 0
            and loss(3 * maps) == pytest.approx(4)
        )
    with pytest.raises(ValueError, match='shapes must be equal'):
        losses.LANDMARKS['mse'](maps, maps[:, :5])


def test_scores_of_a_network_that_knows():
    """One that answers with given maps: found to a pixel, but for the points that it is made to
    miss.
    """
    mask = torch.from_numpy(synthetic.face(1, 128).mask)
    points, visible = landmarks.from_mask(mask[None])
    maps = heatmaps.gaussians(heatmaps.reduced(points, 4), visible, (32, 32))

    class Knows(torch.nn.Module):
        def forward(self, x):
            return maps.expand(len(x), -1, -1, -1)

    data, autocast = (
        3 * [('a', torch.zeros(3, 128, 128, dtype=torch.uint8), mask)],
        lambda: torch.autocast('cpu', enabled=False),
    )
    scores = task.validate(Knows(), data, 'cpu', batch=2, autocast=autocast)
    assert (
        (scores.pck == 100).all()
        and scores.error.max() < 0.05
        and len(scores.shown) == 3
        and '100.00 %' in scores.sentence()
    )
    assert (scores.shown[0][1][1] == 255).sum() > 30 and not scores.shown[0][0].any()
    maps[:, visible[0].nonzero()[0]] = heatmaps.gaussians(
        torch.tensor([[[0.0, 0.0]]]), torch.ones(1, 1) > 0, (32, 32)
    )
    n = int(visible.sum())
    assert task.validate(Knows(), data, 'cpu', autocast=autocast).pck == pytest.approx(
        3 * [100 * (n - 1) / n]
    )


def test_a_run_of_landmarks(home, made, capsys):
    result = json.loads((home / 'landmarks/result.json').read_text())
    assert (
        0 <= result['pck'] <= 100
        and result['error'] > 0
        and (home / 'landmarks/samples/000000008.png').exists()
    )
    assert (
        infer.main(['--run', str(home / 'landmarks'), '--input', 'x']) == 2
        and 'finds landmarks' in capsys.readouterr().err
    )
    page = home / 'page.html'
    assert (
        report.main([str(home / 'landmarks'), '--out', str(page)]) == 0
        and 'error, px of 128' in page.read_text()
    )
    assert (
        report.main([str(home / 'landmarks'), '--out', str(home / 'x.pdf')]) == 2
        and 'a PDF is of' in capsys.readouterr().err
    )
    assert (
        train.main(teach(home, home / 'other', crop=32)) == 2
        and 'for restorers' in capsys.readouterr().err
    )


def test_68_given_points_are_learned(home, tmp_path, capsys):
    argv = teach(
        home, tmp_path / 'run', data=home / 'faces/images', landmarks=home / 'faces/landmarks.json'
    )
    assert (
        train.main(argv) == 0
        and guides.describe([str(tmp_path / 'run')], SIZE)['heat']['channels'] == 68
    )
    c = tasks.configure(argv)
    images, sets = tasks.of(c).load(c, lambda _: None, lambda _: None)
    name, image, target = sets['val'][0]
    i = int(name)
    assert (
        target.shape == (68, 3)
        and (target[:, :2] - torch.from_numpy(synthetic.landmarks(i, SIZE))).abs().max() < 1e-3
        and image.shape == (3, SIZE, SIZE)
    )
    with tasks.of(c).feed(
        c, images, start=0, threads=1, device=torch.device('cpu'), say=lambda _: None
    ) as pipe:
        batch = next(pipe)
    assert (
        batch.target.shape == (2, 68, 3)
        and batch.target.dtype == torch.float32
        and batch.target[..., 2].mean() > 0.8
    )
    trial(c, torch.device('cpu'), 2)
    (home / 'some.json').write_text(json.dumps({'00000': synthetic.landmarks(0, SIZE).tolist()}))
    assert (
        train.main(
            teach(home, tmp_path / 'no', data=home / 'faces/images', landmarks=home / 'some.json')
        )
        == 2
        and 'have no landmarks' in capsys.readouterr().err
    )
    assert (
        train.main(teach(home, tmp_path / 'no', landmarks=home / 'some.json')) == 2
        and 'holds masks beside' in capsys.readouterr().err
    )
    assert (
        train.main(
            teach(home, tmp_path / 'no', preset='unet', net='{}', landmarks=home / 'some.json')
        )
        == 2
        and 'is for --preset landmarks' in capsys.readouterr().err
    )


# ---- the file ----


def test_the_file_holds_what_it_was_made_of(home, made):
    meta = store.made_with(made)
    assert (
        meta['parser'] == dict(network='parse_unet', net=json.loads(json.dumps(PARSER)), size=SIZE)
        and meta['finder']['network'] == 'heatmap_net'
        and meta['faces'] == 5
    )
    weights = checkpoint.read_weights(home / 'parser')[0]
    assert all(torch.equal(store.part(made, 'parser')[k], v) for k, v in weights.items())
    entries = store.part(made, 'dict')
    assert {k: list(e.shape) for k, e in entries.items()} == {
        f'entries.{k}': v for k, v in meta['dict'].items()
    } and entries['entries.nose'].dtype == torch.float16
    assert (
        meta['dict']['mouth'][1:] == [4, 7, 7]
        and meta['dict']['nose'][0] == 3
        and meta['level'] == 0
    )


def test_entries_are_those_of_the_faces(home, made):
    """The nose's, written out: features of every face, cut out of its mask's box, clustered."""
    parser = models.ParseUNet(**PARSER).eval()
    checkpoint.load_weights(parser, home / 'parser')
    crops = []
    for i in range(5):
        f, ids = (
            synthetic.face(i, SIZE),
            torch.from_numpy(decode((home / f'faces/masks/{i:05d}.png').read_bytes()).copy())[None],
        )
        with torch.no_grad():
            features = parser.encode(torch.from_numpy(f.image.copy()).permute(2, 0, 1)[None] / 255)[
                0
            ]
        box, _ = components.boxes_of_masks(ids, priors.LEAST)
        crops.append(components.roi_align(features, heatmaps.reduced(box[:, 2], 2), 4))
    expected = dictionary.build(torch.cat(crops), 3)
    assert (store.part(made, 'dict')['entries.nose'] - expected).abs().max() < 0.01


def test_the_level_of_the_features():
    """At most 128 x 128 for a whole face; the preset of a parser has 48 channels there."""
    parser = models.ParseUNet(**presets.row('parse_prior')['net'])
    assert [priors.level(parser, size) for size in (512, 256, 128, 64, 2048, 2**14)] == [
        1,
        0,
        0,
        0,
        3,
        4,
    ] and [priors.level(models.ParseUNet(), size) for size in (512, 128)] == [2, 0]


def test_built_with_landmarks_and_without_masks(home, tmp_path, capsys):
    argv = [
        'priors',
        str(home / 'faces/images'),
        *flags(
            parser=home / 'parser',
            landmarks=home / 'faces/landmarks.json',
            entries=2,
            faces=3,
            out=tmp_path / 'q.safetensors',
        ),
    ]
    assert prepare.main(argv) == 0
    assert (
        'r_eye 2, l_eye 2, nose 2, mouth 2 entries of 4 channels from 3 faces, found by points of'
        in capsys.readouterr().out
    )
    assert 'finder' not in store.made_with(tmp_path / 'q.safetensors')
    described = guides.describe([str(tmp_path / 'q.safetensors')], SIZE)
    assert {k: d['channels'] for k, d in described.items()} == dict(
        parse=19, heat=28, dict=4
    ) and described['heat']['network'] == 'parse_unet'


@pytest.mark.parametrize(
    'argv, said',
    [
        (['faces', '--parser', 'nowhere'], 'nowhere is no run of parse_unet'),
        (['faces', '--parser', 'parser', '--heatmaps', 'parser'], 'is no run of heatmap_net'),
        (['faces/images', '--parser', 'parser', '--landmarks', 'arch.json'], 'has not 68 pairs'),
        (['faces', '--parser', 'parser', '--level', '3'], 'feature maps 0 to 2'),
    ],
)
def test_bad_sources_are_named(argv, said, home, capsys, monkeypatch):
    monkeypatch.chdir(home)
    assert prepare.main(['priors', *argv]) == 2 and said in capsys.readouterr().err


# ---- training with it ----


def guided(home, made, tmp_path, **more):
    c = tasks.configure(mfps(home, tmp_path, prior=made, **more))
    net = tasks.network(c)
    guides.fill(net.guides, c.priors.prior)
    return net.eval()


def mfps(home, out, **more):
    return flags(
        **dict(
            preset='mfpsnet',
            data=home / 'faces/images',
            val=2,
            out=out,
            arch=home / 'arch.json',
            size=SIZE,
            batch=2,
            nimg=4,
            ticks=1,
            threads=1,
            pipe='torch',
            precision='fp32',
            device='cpu',
            lr=1e-3,
        )
        | more
    )


def test_maps_written_out(home, made, tmp_path):
    net, x = guided(home, made, tmp_path), torch.rand(2, 3, SIZE, SIZE)
    maps, regions = net.maps_and_regions(x)
    assert {k: m.shape[1:] for k, m in maps.items()} == {
        'parse': (19, 64, 64),
        'heat': (28, 64, 64),
        'dict': (4, 64, 64),
    } and all(r.shape == (2, 1, 64, 64) for r in regions.values())
    finder = models.HeatmapNet(**json.loads(FOLDED)).eval()
    checkpoint.load_weights(finder, home / 'landmarks')
    parser = models.ParseUNet(**PARSER).eval()
    checkpoint.load_weights(parser, home / 'parser')
    with torch.no_grad():
        assert torch.equal(
            maps['heat'], torch.nn.functional.interpolate(finder(x), (64, 64), mode='bilinear')
        ) and torch.equal(maps['parse'], parser(x).softmax(1))
        features, ids = parser.encode(x)[0], parser(x).argmax(1)
        box, there = components.boxes_of_masks(ids, priors.LEAST)
        small, _ = dictionary.Dictionary(
            {
                k.split('.')[1]: e.float()
                for k, e in sorted(
                    store.part(made, 'dict').items(),
                    key=lambda e: list(components.COMPONENTS).index(e[0].split('.')[1]),
                )
            }
        )(features, heatmaps.reduced(box, 2), there)
        assert torch.allclose(
            maps['dict'],
            torch.nn.functional.interpolate(small, (64, 64), mode='bilinear'),
            atol=1e-6,
        )


def test_heatmaps_of_a_predicted_mask():
    """At another size than the parser's: points and gaussians are those of the picture."""
    ids = torch.from_numpy(synthetic.face(1, 128).mask)[None]

    class Sees(torch.nn.Module):
        def forward(self, x):
            assert x.shape == (1, 3, 128, 128)
            return torch.nn.functional.one_hot(ids.long(), 19).permute(0, 3, 1, 2).float()

    maps, region = priors.ParsedHeatPrior(Sees(), 4).map_and_region(torch.zeros(1, 3, 32, 32))
    points, visible = landmarks.from_mask(ids, priors.LEAST)
    assert torch.equal(
        maps, heatmaps.gaussians(heatmaps.reduced(points, 4), visible, (32, 32))
    ) and torch.equal(region[:, 0], maps.sum(1).clamp(0, 1))


@pytest.mark.parametrize(
    'more', [dict(drop_priors='heat'), dict(multi_prior_weight=0.1, net='{"gate": true}')]
)
def test_mfpsnet_trains_with_all_three(more, home, made, tmp_path):
    out = tmp_path / 'run'
    assert train.main(mfps(home, out, prior=made, **more)) == 0
    row = json.loads((out / 'log.jsonl').read_text().splitlines()[-1])
    config, result = (
        json.loads((out / name).read_text()) for name in ('config.json', 'result.json')
    )
    assert (
        config['net']['priors'] == dict(parse=19, heat=28, dict=4)
        and np.isfinite(result['gain'])
        and 'psnr' in row
    )
    rows = [json.loads(line) for line in (out / 'log.jsonl').read_text().splitlines()]
    assert any('multi_prior' in r for r in rows) == ('net' in more) and any(
        'entropy' in r for r in rows
    ) == ('net' in more)
    if 'net' in more:
        weights = checkpoint.read_weights(out)[0]
        assert torch.equal(
            weights['guides.dict.entries.entries.nose'],
            store.part(made, 'dict')['entries.nose'].float(),
        )
        assert infer.main(['--run', str(out), '--device', 'cpu']) == 0


@pytest.mark.parametrize(
    'more, said',
    [
        (dict(prior=['parse=p.safetensors', 'p.safetensors']), 'one for parse already'),
        (dict(prior='arch.json'), 'holds no facial priors'),
        (dict(prior='heat=faces'), 'neither a run of --preset landmarks'),
        (dict(prior='dict=parser'), 'no file with a dictionary'),
        (dict(prior='p.safetensors', multi_prior_weight=-1), '--multi-prior-weight -1'),
        (dict(preset='frsnet', multi_prior_weight=0.1), 'not for frsnet'),
        (
            dict(
                prior='p.safetensors', multi_prior_weight=0.1, drop_priors=['parse', 'heat', 'dict']
            ),
            'that --drop-priors leaves',
        ),
    ],
)
def test_bad_priors_are_named(more, said, home, made, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(home)
    assert train.main(mfps(home, tmp_path / 'run', **more)) == 2 and said in capsys.readouterr().err
    with pytest.raises(DataError, match='holds no none'):
        store.part(made, 'none')
