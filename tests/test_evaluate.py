"""The table of tools/evaluate.py: every figure is its metric's, names are matched or refused, and
what cannot be computed is said before anything is.
"""

import json
import re

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import models
import synthetic
from errors import RunError
from metrics import niqe
from metrics.comparison import interval, sign_test
from metrics.ms_ssim import ms_ssim
from metrics.psnr import psnr
from metrics.sharpness import sharpness
from metrics.ssim import ssim
from tools import evaluate
from tools.evaluation import folders, with_truth

SIZE, COUNT = 176, 3


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    """GT/, a blurred and a copied version of it, ended/ with other names, small/ pictures, HQ/ to
    fit NIQE to, and the run of a parser whose weights are chance.
    """
    home = tmp_path_factory.mktemp('evaluate')
    for i in range(COUNT):
        image = synthetic.face(i, SIZE).image[..., ::-1]
        for folder, picture in (
            ('GT', image),
            ('same', image),
            ('blurred', cv2.GaussianBlur(image, (0, 0), 1.5)),
            ('noisy', noisy(image, i)),
            ('small', image[:64, :64]),
            ('tiny', image[:8, :8]),
            ('fewer', image),
        ):
            (home / folder).mkdir(exist_ok=True)
            if (folder, i) != ('fewer', 1):
                cv2.imwrite(str(home / folder / f'{i:03d}.png'), picture)
        (home / 'ended').mkdir(exist_ok=True)
        cv2.imwrite(str(home / f'ended/{i:03d}_00.png'), image)
    (home / 'HQ').mkdir()
    for i in range(4):
        large = cv2.resize(cv2.imread(str(home / f'GT/{i % COUNT:03d}.png')), (480, 480))
        cv2.imwrite(str(home / f'HQ/{i}.png'), noisy(large, i))
    torch.manual_seed(0)
    net = dict(width=[8, 16], blocks=[1, 1])
    (home / 'parser').mkdir()
    (home / 'parser/config.json').write_text(
        json.dumps(
            dict(task='parse', network='parse_unet', net=net, preset='parse_unet', precision='fp32')
        )
    )
    save_file(models.PARSERS['parse_unet'](**net).state_dict(), home / 'parser/weights.safetensors')
    torch.jit.script(Means()).save(home / 'means.pt')
    return home


def noisy(image, seed):
    grain = np.random.default_rng(seed).normal(0, 6, image.shape)
    return np.clip(image + grain, 0, 255).astype(np.uint8)


class Means(torch.nn.Module):
    """Features of a picture that can be computed by hand: the means of its channels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.float().mean((2, 3))


@pytest.fixture(autouse=True)
def cache(home, monkeypatch):
    monkeypatch.setenv('FACES_CACHE', str(home / 'cache'))


def run(home, *argv):
    return evaluate.main(
        ['--device', 'cpu', '--batch', '2', '--gt', str(home / 'GT'), *map(str, argv)]
    )


def alone(*argv):
    """Without a truth."""
    return evaluate.main(['--device', 'cpu', *map(str, argv)])


def images(folder):
    """[N, 3, H, W] uint8"""
    read = [cv2.imread(str(p))[..., ::-1] for p in sorted(folder.iterdir())]
    return torch.from_numpy(np.stack(read)).permute(0, 3, 1, 2)


def cells(markdown):
    """[[cell, ...], ...] of the first table of a text."""
    lines = [line for line in markdown.splitlines() if line.startswith('|')]
    return [[cell.strip() for cell in line.split('|')[1:-1]] for line in lines]


# ------------------------------------------------------------------------------------------------
# Figures.


def test_the_table_holds_the_metrics(home, capsys):
    out = home / 'out/table'
    methods = f'blurred={home / "blurred"}', f'same={home / "same"}'
    assert run(home, *methods, '--parser', home / 'parser', '--out', out) == 0
    said, found = capsys.readouterr().out, json.loads((home / 'out/table.json').read_text())
    a, b = images(home / 'blurred'), images(home / 'GT')
    for name, metric in dict(psnr=psnr, ssim=ssim, ms_ssim=ms_ssim, sharpness=sharpness).items():
        values = metric(a, b).tolist()
        assert found['each']['blurred'][name] == pytest.approx(values)
        mean, half = found['mean']['blurred'][name], found['half']['blurred'][name]
        assert (mean, half) == pytest.approx(interval(values))
    assert found['mean']['blurred']['sharpness'] < 0.9 and found['images'] == ['000', '001', '002']
    perfect = dict(psnr=None, ssim=1, ms_ssim=1, sharpness=1, miou=100, landmarks=0)
    assert found['mean']['same'] | {'landmarks': 0} == perfect
    assert found['mean']['blurred']['miou'] < 100

    rows = cells((home / 'out/table.md').read_text())
    heads = ['PSNR, dB (higher)', 'SSIM (higher)', 'MS-SSIM (higher)', 'sharpness (1)']
    assert rows[0][1:5] == heads
    assert rows[3][:3] == ['same', 'inf', '1.0000 ± 0.0000'] and rows[3][5] == '100.00'
    mean, half = interval(psnr(a, b).tolist())
    assert rows[2][1] == f'{mean:.3f} ± {half:.3f}'
    assert (home / 'out/table.md').read_text().strip() in said


def test_methods_are_compared_image_by_image(home):
    out = home / 'out/two'
    methods = f'blurred={home / "blurred"}', f'noisy={home / "noisy"}', f'same={home / "same"}'
    assert run(home, *methods, '--against', 'noisy', '--out', out) == 0
    found = json.loads((home / 'out/two.json').read_text())
    assert {d['method'] for d in found['differences']} == {'blurred', 'same'}
    truth, a, b = (images(home / name) for name in ('GT', 'blurred', 'noisy'))
    ours, theirs = psnr(a, truth).numpy(), psnr(b, truth).numpy()
    of = {(d['method'], d['column']): d for d in found['differences']}
    d = of['blurred', 'psnr']
    assert (d['mean'], d['half']) == pytest.approx(interval(ours - theirs))
    assert (d['wins'], d['losses'], d['ties'], d['p']) == sign_test(ours - theirs)
    # Blur has too few gradients and noise too many: nearer to 1 is better.
    off = [(sharpness(x, truth) - 1).abs().numpy() for x in (a, b)]
    d = of['blurred', 'sharpness']
    assert (d['wins'], d['losses']) == sign_test(off[1] - off[0])[:2]
    # An endless difference is a win, and has no mean.
    d = of['same', 'psnr']
    assert (d['wins'], d['losses'], d['mean']) == (COUNT, 0, None)


def test_equal_methods_tie_also_where_psnr_is_endless(home):
    out = home / 'out/equal'
    assert run(home, f'a={home / "same"}', f'b={home / "ended"}', '--out', out) == 0
    for d in json.loads((home / 'out/equal.json').read_text())['differences']:
        assert (d['ties'], d['wins'], d['losses'], d['mean'], d['p']) == (COUNT, 0, 0, 0, None)
    assert '+0.000 ± 0.000 |      0 |     0 |     3 | - |' in (home / 'out/equal.md').read_text()


def test_niqe_is_fitted_and_read_again(home, capsys):
    model = home / 'out/niqe.safetensors'
    assert alone('--fit-niqe', home / 'HQ', '--niqe', model) == 0
    assert 'NIQE fitted on 4 images' in capsys.readouterr().out
    assert alone(home / 'noisy', '--niqe', model, '--out', home / 'out/wild') == 0
    found = json.loads((home / 'out/wild.json').read_text())
    scores = [niqe.score(image, niqe.load(model)) for image in images(home / 'noisy')]
    (each,) = found['each'].values()
    assert each == {'niqe': pytest.approx(scores)} and found['gt'] is None
    assert 'not comparable with published figures' in (home / 'out/wild.md').read_text()
    assert alone(home / 'HQ', '--fit-niqe', home / 'HQ', '--niqe', model) == 2
    assert 'would write over' in capsys.readouterr().err


def test_a_model_for_niqe_lies_beside_the_table(home):
    assert alone(home / 'noisy', '--fit-niqe', home / 'HQ', '--out', home / 'out/fit') == 0
    assert niqe.load(home / 'out/fit.niqe.safetensors').note.startswith('fitted on 4 images')


@pytest.mark.parametrize('reference', ['GT', 'HQ'])
def test_the_frechet_distance_of_every_folder(home, reference):
    out = home / f'out/fid-{reference}'
    argv = [] if reference == 'GT' else ['--fid-reference', home / reference]
    methods = f'blurred={home / "blurred"}', f'noisy={home / "noisy"}'
    assert run(home, *methods, '--fid', home / 'means.pt', *argv, '--out', out) == 0
    found = json.loads(out.with_name(f'{out.name}.json').read_text())
    linalg = pytest.importorskip('scipy.linalg')
    b = images(home / reference).float().mean((2, 3)).double().numpy()
    for name in 'blurred', 'noisy':
        a = images(home / name).float().mean((2, 3)).double().numpy()
        covariances = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
        root = linalg.sqrtm(covariances[0] @ covariances[1]).real
        expected = ((a.mean(0) - b.mean(0)) ** 2).sum()
        expected += np.trace(covariances[0] + covariances[1] - 2 * root)
        # Measured: off by 2e-6 of the value, of the root of a singular product.
        assert found['mean'][name]['fid'] == pytest.approx(expected, rel=1e-4)
        assert 'fid' not in found['each'][name]


def test_small_images_have_no_ms_ssim(home, capsys):
    assert alone(home / 'small', '--gt', home / 'small') == 0
    said = capsys.readouterr().out
    assert (
        'MS-SSIM is left out: its five scales need images of 176x176 or more' in said
        and '| MS-SSIM' not in said
    )


def test_landmarks_are_as_far_apart_as_masks():
    ids = torch.from_numpy(np.stack([synthetic.face(i, 128).mask for i in range(2)]))
    moved = torch.stack([ids[0].roll((3, 4), (0, 1)), ids[1]])
    far = with_truth.distance(moved, ids).tolist()
    assert far == pytest.approx([100 * 5 / 128, 0], abs=0.05)
    nothing = torch.zeros_like(ids[:1])
    assert with_truth.distance(nothing, ids[:1]).isnan().all()


# ------------------------------------------------------------------------------------------------
# Names.


def test_an_ending_of_all_names_is_taken_off(home, capsys):
    assert run(home, home / 'ended', home / 'same') == 0
    said = capsys.readouterr().out
    assert 'names end with _00' in said and said.count('| inf |') == 0
    assert [row[1] for row in cells(said)[2:4]] == ['inf', 'inf']


@pytest.mark.parametrize(
    'names, wanted, ending',
    [
        (['a_00', 'b_00'], ['a', 'b'], '_00'),
        # Names that end so themselves, as those of LFW-Test.
        (['a_00_00', 'b_01_00'], ['a_00', 'b_01'], '_00'),
        (['1x', '11x'], ['1', '11'], 'x'),
        (['a_00', 'b'], ['a', 'b'], ''),
        (['a', 'b'], ['a', 'b'], ''),
        (['a_00', 'b_00', 'c_00'], ['a', 'b'], ''),
    ],
)
def test_endings(names, wanted, ending):
    assert folders.ending(names, wanted) == ending


@pytest.mark.parametrize(
    'argv, message',
    [
        (['fewer'], 'fewer lacks 1 of 3 images .001.: restore these too'),
        (['small'], '000.png is 64x64, its ground truth 176x176'),
        (['same', 'same'], 'is named twice: give NAME=FOLDER'),
        (['nowhere'], 'nowhere: no such file or folder'),
        (['same', '--parser', 'GT'], 'GT is no run directory'),
        (['same', '--niqe', 'GT/000.png'], '000.png: no model of NIQE'),
        (['same', '--fid', 'GT/000.png'], '000.png is no TorchScript'),
        (['same', '--fid-reference', 'GT'], '--fid-reference needs --fid: nothing else reads it'),
        (['same', '--gallery'], '--gallery needs --out'),
        (['same', '--against', 'other'], '--against .*other is none of .*same'),
        (['same', '--device', 'tpu'], '--device tpu cannot be used'),
        (['same', '--show', '0'], '0 is not an integer from 1'),
        (['same', '--fit-niqe', 'HQ'], '--fit-niqe needs --niqe MODEL or --out'),
        (['same', '--fit-niqe', 'small', '--niqe', 'm'], '64x64: NIQE needs images of 96x96'),
        (['same', '--out', 'means.pt/table'], 'means.pt/table.md cannot be written: .*exists'),
        (['same', '--out', 'parser/x', '--lpips', 'no.pth'], 'no.pth: not the weights'),
        (['same', '--show', '3'], '--show needs --gallery'),
        (['same', '--input', 'fewer'], 'fewer lacks 1 of 3 images .001.: add these, too'),
        (['same', '--out', 'parser'], 'parser is a folder: give the beginning of names in it'),
        ([], 'no folder of restored images is given'),
    ],
)
def test_what_does_not_fit_is_refused(home, argv, message, capsys, monkeypatch):
    monkeypatch.setattr('tools.evaluation.scores.evaluate', not_reached)
    words = [a if a.startswith('--') or a in WORDS else home / a for a in argv]
    try:
        assert run(home, *words) == 2
    except SystemExit as refused:  # by argparse
        assert refused.code == 2
    assert re.search(message, capsys.readouterr().err)


WORDS = 'tpu', '0', '3'


def not_reached(*args, **more):
    raise AssertionError('it was computed before it was refused')


@pytest.mark.parametrize(
    'argv, message',
    [
        ([], 'nothing to compute: give --gt, or --niqe, --fid or --pyiqa'),
        (['--parser', 'parser'], '--parser compares with the truth: give --gt'),
        (['--lpips', 'x', '--lmd', 'y'], '--lpips, --lmd compares with the truth'),
        (['--fid', 'means.pt'], '--fid without --gt needs --fid-reference'),
    ],
)
def test_what_needs_a_truth_is_refused_without(home, argv, message, capsys):
    assert alone(home / 'same', *(a if a.startswith('--') else home / a for a in argv)) == 2
    assert message in capsys.readouterr().err


def test_images_below_a_window_are_refused(home, capsys):
    assert alone(home / 'tiny', '--gt', home / 'tiny') == 2
    assert '000.png is 8x8: PSNR, dB, SSIM' in capsys.readouterr().err


def test_a_truth_more_is_refused(home, capsys):
    assert alone(home / 'same', '--gt', home / 'fewer') == 2
    assert 'fewer lacks 1 of 3 images (001): add these there' in capsys.readouterr().err


def test_a_file_that_is_exchanged_on_the_way_is_named(home, tmp_path, capsys, monkeypatch):
    for i in range(COUNT):
        cv2.imwrite(str(tmp_path / f'{i:03d}.png'), cv2.imread(str(home / f'GT/{i:03d}.png')))
    find = folders.find

    def then_damaged(*args):
        found = find(*args)
        (tmp_path / '001.png').write_bytes(b'\x89PNG\r\n\x1a\n')
        return found

    monkeypatch.setattr(folders, 'find', then_damaged)
    assert run(home, tmp_path) == 2
    assert '001.png' in capsys.readouterr().err


def test_a_stop_names_what_was_finished(home, capsys, monkeypatch):
    evaluated = evaluate.scores.evaluate

    def stopped(method, *args, **more):
        if method == 'b':
            raise KeyboardInterrupt
        return evaluated(method, *args, **more)

    monkeypatch.setattr(evaluate.scores, 'evaluate', stopped)
    assert run(home, f'a={home / "same"}', f'b={home / "same"}') == 130
    assert capsys.readouterr().err == 'stopped in b; finished: a\n'


def test_the_slash_of_a_shell_is_no_part_of_a_name(home):
    assert folders.named(['a/', 'x=b/', '/']) == {'a': 'a/', 'x': 'b/', '/': '/'}
    with pytest.raises(RunError, match='a is named twice'):
        folders.named(['a', 'a/'])


def test_a_mean_of_fewer_images_says_so(home, tmp_path, capsys):
    """A grey picture has no NIQE."""
    (tmp_path / 'some').mkdir()
    cv2.imwrite(str(tmp_path / 'some/face.png'), cv2.imread(str(home / 'GT/000.png')))
    cv2.imwrite(str(tmp_path / 'some/gray.png'), np.full((SIZE, SIZE, 3), 128, np.uint8))
    assert alone(tmp_path / 'some', '--niqe', 'niqe-faces') == 0
    said = capsys.readouterr().out
    assert re.search(r'NIQE, own model of .*some: 1 of 2 images have a number', said)
    assert 'NIQE: niqe-faces (' in said
