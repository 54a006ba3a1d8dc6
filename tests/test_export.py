"""ONNX files of every network: the same pictures as torch's at sizes that were not exported, or a
refusal that says why.
"""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from test_guided import ONE, PARSER, TINY
from test_models import SMALL, make
from torch import nn

import infer
import models
from errors import RunError
from faces import components, dictionary
from metrics.psnr import to_uint8
from tasks.priors import DictPrior, ParsedHeatPrior
from tools import export

onnx, ort = pytest.importorskip('onnx'), pytest.importorskip('onnxruntime')


def restored(data, x):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return torch.from_numpy(
        ort.InferenceSession(data, options, providers=['CPUExecutionProvider']).run(
            None, {'input': x.numpy()}
        )[0]
    )


@pytest.mark.parametrize('half', [False, True], ids=['float32', 'half'])
@pytest.mark.parametrize('name', SMALL)
@torch.no_grad()
def test_every_network(name, half):
    """At sizes that none of them divides, at one pixel, and at that of the learned position
    embedding, where the network takes another way.
    """
    net = make(name).eval()
    data = export.convert(net, half=half)
    for shape in (2, 16, 16), (1, 37, 22), (3, 7, 5), (1, 1, 1), (1, 64, 40):
        x = torch.rand(shape[0], 3, *shape[1:])
        y = restored(data, x)
        assert y.shape == (shape[0], 3, 4 * shape[1], 4 * shape[2]) and y.dtype == torch.float32
        assert (y - net(x)).abs().max() <= export.LIMIT[half]


@pytest.mark.parametrize('name', ['unet', 'unet-3', 'face_unaf', 'swinir'])
@torch.no_grad()
def test_one_size(name):
    net = make(name).eval()
    data = export.convert(net, size=(22, 16))
    x = torch.rand(3, 3, 22, 16)
    assert (restored(data, x) - net(x)).abs().max() <= 1e-4
    assert [
        d.dim_value
        for d in onnx.load_model_from_string(data).graph.input[0].type.tensor_type.shape.dim
    ] == [0, 3, 22, 16]


@pytest.mark.parametrize('name', SMALL)
def test_half_is_half(name):
    """Nearly all that the file holds is float16; what is not was float32 on purpose, or is the
    network's geometry.
    """
    initial = onnx.load_model_from_string(
        export.convert(make(name).eval(), half=True)
    ).graph.initializer
    n = {
        kind: sum(int(np.prod(t.dims)) for t in initial if t.data_type == kind)
        for kind in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    }
    assert n[onnx.TensorProto.FLOAT16] > 30 * n[onnx.TensorProto.FLOAT]


@pytest.fixture
def home(tmp_path):
    """A finished run."""
    net = make('unet')
    arguments = SMALL['unet'].keywords
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run/config.json').write_text(
        json.dumps(dict(network='unet', net=arguments, precision='fp32'))
    )
    save_file(net.state_dict(), tmp_path / 'run/weights.safetensors')
    return tmp_path


def test_a_run(home, capsys):
    out = home / 'made/net.onnx'
    assert export.main(['--run', str(home / 'run'), '--out', str(out)]) == 0
    said = capsys.readouterr().out
    assert (
        '3 x 40x56: largest difference' in said
        and '1 x 37x61: ' in said
        and '1 x 128x128: ' in said
    )
    model = onnx.load(out)
    facts = {p.key: p.value for p in model.metadata_props}
    assert (
        facts['network'] == 'unet'
        and facts['scale'] == '4'
        and facts['parameters'] == str(models.count(make('unet')))
    )
    assert models.count(models.NETWORKS['unet'](**json.loads(facts['arguments']))) == int(
        facts['parameters']
    )
    assert '[B, 3, 4 h, 4 w] float32' in model.doc_string
    assert [
        d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim
    ] == ['batch', 3, 'height', 'width']


@pytest.mark.parametrize('half', [False, True], ids=['float32', 'half'])
@torch.no_grad()
def test_the_whole_step_of_a_face(half, home):
    """8-bit faces of any size in, 8-bit faces out, as PIL and the network would do it."""
    out = home / 'face.onnx'
    argv = ['--run', str(home / 'run'), '--out', str(out), '--faces', *['--half'] * half]
    assert export.main(argv) == 0
    facts = {p.key: p.value for p in onnx.load(out).metadata_props}
    assert facts['scale'] == '4' and facts['network'] == 'unet'
    net = models.like(load_file(home / 'run/weights.safetensors'))
    net.load_state_dict(load_file(home / 'run/weights.safetensors'))
    rng = np.random.default_rng(0)
    for size in ((128, 128), (64, 80), (300, 500)):
        faces = rng.integers(0, 256, (2, *size, 3), np.uint8)
        made = restored(out.read_bytes(), torch.from_numpy(faces))
        small = [Image.fromarray(f).resize((128, 128), Image.Resampling.BILINEAR) for f in faces]
        x = torch.from_numpy(np.stack([np.asarray(f) for f in small])).permute(0, 3, 1, 2) / 255
        wanted = to_uint8(net.eval()(x)).permute(0, 2, 3, 1)
        assert made.shape == (2, 512, 512, 3) and made.dtype == torch.uint8
        # PIL rounds in between.
        error = (made.int() - wanted.int()).abs()
        assert error.max() <= 3 and error.float().mean() < 0.5


def test_weights_alone(home, capsys):
    assert (
        export.main(
            [
                '--weights',
                str(home / 'run/weights.safetensors'),
                '--out',
                str(home / 'net.onnx'),
                '--size',
                '16x24',
                '--half',
            ]
        )
        == 0
    )
    assert '1 x 16x24: ' in capsys.readouterr().out
    assert {p.key: p.value for p in onnx.load(home / 'net.onnx').metadata_props}.keys() == {
        'network',
        'scale',
        'parameters',
    }


def test_another_scale(tmp_path):
    torch.manual_seed(0)
    save_file(models.SRResNet(1, 8, scale=2).state_dict(), tmp_path / 'w.safetensors')
    assert (
        export.main(
            ['--weights', str(tmp_path / 'w.safetensors'), '--out', str(tmp_path / 'net.onnx')]
        )
        == 0
    )
    assert {p.key: p.value for p in onnx.load(tmp_path / 'net.onnx').metadata_props}['scale'] == '2'


# ---- networks with facial priors ----


def parser():
    net = models.ParseUNet(**PARSER)
    nn.init.normal_(net.position)
    return net


def guided():
    torch.manual_seed(0)
    entries = dictionary.Dictionary(
        {name: torch.randn(3, 4, 4, 4) for name in components.COMPONENTS}
    )
    guides = {
        'parse': models.ParsePrior(parser(), 2),
        'heat': ParsedHeatPrior(parser(), 2),
        'dict': DictPrior(parser(), entries, 0, 2),
    }
    return models.Guided(
        models.MFPSNet({**TINY, 'heat': ONE, 'dict': ONE}, {'parse': 19, 'heat': 28, 'dict': 4}),
        guides,
    ).eval()


class Maps(nn.Module):
    """Only what makes the priors, whose mistakes would hardly show in the picture of an untrained
    network.
    """

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return torch.cat([*self.net.maps(x).values()], 1)


@torch.no_grad()
def test_priors_are_those_of_torch():
    net, x = guided(), torch.rand(3, 3, 24, 16)
    found, wanted = restored(export.convert(Maps(net), size=(24, 16)), x), net.maps(x)
    assert all(m.std() > 1e-3 for m in wanted.values())
    assert (found - torch.cat([*wanted.values()], 1)).abs().max() <= 1e-4


def test_priors_need_a_size(tmp_path, capsys):
    """Also told apart: weights that are enough to rebuild the network, and weights that are not."""
    net = guided()
    save_file(net.state_dict(), tmp_path / 'all.safetensors')
    assert (
        export.main(
            ['--weights', str(tmp_path / 'all.safetensors'), '--out', str(tmp_path / 'net.onnx')]
        )
        == 2
    )
    assert 'all.safetensors: an MFPSNet with the priors dict, heat, parse: ' in (
        said := capsys.readouterr().err
    ) and said.endswith('give --run\n')
    assert infer.main(
        ['--weights', str(tmp_path / 'all.safetensors'), '--input', 'face.png', '--device', 'cpu']
    ) == 2 and capsys.readouterr().err.endswith('give --run\n')
    save_file(
        models.Guided(
            models.MFPSNet(TINY, {'parse': 19}), {'parse': models.ParsePrior(parser())}
        ).state_dict(),
        tmp_path / 'parse.safetensors',
    )
    argv = ['--weights', str(tmp_path / 'parse.safetensors'), '--out', str(tmp_path / 'net.onnx')]
    assert (
        export.main(argv) == 2
        and 'has facial priors (parse), ' in (said := capsys.readouterr().err)
        and 'give --size HxW' in said
    )
    assert export.main([*argv, '--size', '16x24']) == 0
    assert {p.key: p.value for p in onnx.load(tmp_path / 'net.onnx').metadata_props}[
        'network'
    ] == 'mfpsnet'


def test_what_restores_nothing(tmp_path, capsys):
    (tmp_path / 'config.json').write_text(
        json.dumps(dict(task='parse', network='parse_unet', net=PARSER))
    )
    save_file(parser().state_dict(), tmp_path / 'weights.safetensors')
    assert export.main(['--run', str(tmp_path), '--out', str(tmp_path / 'net.onnx')]) == 2
    assert (
        f'--run {tmp_path} holds a ParseUNet, which restores no pictures' in capsys.readouterr().err
    )


# ---- refusals ----


class Fixed(nn.Module):
    """Reads its size as a number: right at one size only."""

    def forward(self, x):
        return nn.functional.interpolate(x, scale_factor=4) + torch.zeros(
            int(4 * x.shape[2]), int(4 * x.shape[3])
        )


class Wrong(nn.Module):
    """Differs where it is not traced."""

    def forward(self, x):
        return x * (1.0 if torch.jit.is_tracing() else 1.01)


class Foreign(nn.Module):
    """Something that ONNX has no word for."""

    def forward(self, x):
        return torch.special.bessel_j0(x)


def test_refused():
    with pytest.raises(
        RunError,
        match='Fixed is not written: for 1 pictures of 37x61 onnxruntime fails.*give --size',
    ):
        export.check(Fixed(), export.convert(Fixed()))
    assert export.check(Fixed(), export.convert(Fixed(), size=(8, 8)), size=(8, 8))[1] == 4
    with pytest.raises(
        RunError,
        match=r'Wrong is not written: for 3 pictures of 40x56 the output differs from '
        r"torch's by 0.01, 0.0001 is allowed$",
    ):
        export.check(Wrong(), export.convert(Wrong()))
    with pytest.raises(RunError, match='Foreign cannot be exported: .*bessel'):
        export.convert(Foreign())


def test_bad_input(home, capsys, monkeypatch):
    for argv, said in (
        (['--run', 'nowhere'], 'nowhere is no run directory'),
        (['--weights', 'none.pth'], 'none.pth: no such file'),
    ):
        assert (
            export.main([*argv, '--out', str(home / 'net.onnx')]) == 2
            and said in capsys.readouterr().err
        )
    for wrong in '128', '0x8', '8x8x8':
        with pytest.raises(SystemExit):
            export.main(['--run', str(home / 'run'), '--out', 'net.onnx', '--size', wrong])
        assert 'HEIGHTxWIDTH' in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    assert export.main(['--run', str(home / 'run'), '--out', str(home / 'net.onnx')]) == 2
    assert (
        'the package onnxruntime is needed: pip install -e .[onnx]' in capsys.readouterr().err
        and not (home / 'net.onnx').exists()
    )
