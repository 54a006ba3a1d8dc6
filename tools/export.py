"""A network as ONNX, for programs that have no PyTorch.

    python tools/export.py --run runs/mine --out net.onnx                       any number and size of pictures
    python tools/export.py --run runs/mine --out net.onnx --size 128x128        pictures of one height and width only
    python tools/export.py --weights MSRResNet.pth --out net.onnx --half        weights and convolutions in float16

The file takes [B, 3, h, w] float32 RGB in [0, 1] and gives the restored pictures, float32 and not clamped, also with --half. It is written only after onnxruntime
has restored pictures of several sizes with it as torch does. A network with facial priors goes into the file with what makes them, and needs --size. Its metadata: network, arguments (of a run), scale, parameters. The packages: pip install -e .[onnx]
"""

import argparse
import copy
import io
import json
import re
import sys
import warnings
from pathlib import Path

import torch
from torch import nn

import infer
import models
from errors import CheckpointError, RunError
from tasks.restore import Restore
from training import run

EXAMPLE = (
    40,
    56,
)  # not square: a learned position embedding, which is, must be resized to it, as to every other size
OTHERS = (
    (37, 61),
    (128, 128),
)  # that no network's window or number of levels divides; and that of a 512 face
LIMIT = {False: 1e-4, True: 1 / 255}  # largest difference from torch's float32, by --half
OPSET = 18


class Half(nn.Module):
    """A network under autocast to float16: pictures and sums stay float32 where the network has them so."""

    def __init__(self, net):
        super().__init__()
        self.net = copy.deepcopy(net)
        for part in self.net.modules():
            if isinstance(part, nn.LayerNorm):
                part.half()  # autocast leaves it alone on CPUs, and ONNX wants its input and weights of one type

    def forward(self, x):
        with torch.autocast(
            'cpu', torch.float16, cache_enabled=False
        ):  # a cached cast would be missing in the next trace
            return self.net(x)


@torch.no_grad()
def convert(net, size=None, half=False):
    """Network in eval mode on the CPU -> ONNX file as bytes. size: (height, width), or None for any. RunError where the network cannot be exported."""
    # The exporter that traces, not the one of torch.export (dynamo=True), which gives the same pictures: it takes a tenth of the time, folds the casts of --half
    # into the weights and needs no onnxscript. Its weakness, that a size read as a number stays that number, is what `check` looks for; the other one has it, too.
    named = {0: 'batch'} | ({} if size else {2: 'height', 3: 'width'})
    out, file = (
        {0: 'batch'} | ({} if size else {2: 'enlarged_height', 3: 'enlarged_width'}),
        io.BytesIO(),
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                'ignore'
            )  # of every branch on a size, and that the other exporter is newer
            torch.onnx.export(
                Half(net).eval() if half else net,
                (torch.rand(2, 3, *(size or EXAMPLE)),),
                file,
                dynamo=False,
                opset_version=OPSET,
                input_names=['input'],
                output_names=['output'],
                dynamic_axes={'input': named, 'output': out},
            )
    except Exception as e:  # of many kinds
        raise RunError(
            f'{type(net).__name__} cannot be exported: {str(e).splitlines()[0] if str(e) else type(e).__name__}'
        ) from e
    return file.getvalue()


def name_of(net):
    """-> name in the catalogue of a restorer, also of one with guides, or None"""
    kind = type(net.net if isinstance(net, models.Guided) else net)
    return next((name for name, network in Restore.networks.items() if kind is network), None)


def refuse(net, args):
    """RunError for what is no restorer, and for one that can be right at one size only without it."""
    given = f'--weights {args.weights}' if args.weights else f'--run {args.run or run.newest()}'
    if name_of(net) is None:
        raise RunError(
            f'{given} holds a {type(net).__name__}, which restores no pictures: give {", ".join(Restore.networks)}'
        )
    if isinstance(net, models.Guided) and not args.size:
        raise RunError(
            f'{given} has facial priors ({", ".join(net.guides)}), whose maps are resized to the size of the pictures: give --size HxW, e.g. --size 128x128'
        )


def described(data, net, scale, arguments=None):
    """ONNX bytes with their metadata and what they take and give. arguments: that the network was made with, None where only its weights are known"""
    import onnx

    model = onnx.load_model_from_string(data)
    onnx.checker.check_model(model)
    facts = {'network': name_of(net), 'scale': str(scale), 'parameters': str(models.count(net))} | (
        {} if arguments is None else {'arguments': json.dumps(arguments)}
    )
    onnx.helper.set_model_props(model, facts)
    output = '[B, 3, h, w]' if scale == 1 else f'[B, 3, {scale} h, {scale} w]'
    model.doc_string = (
        f'input: [B, 3, h, w] float32 RGB in [0, 1]; output: {output} float32, not clamped'
    )
    return model.SerializeToString()


@torch.no_grad()
def check(net, data, size=None, half=False):
    """{(batch, height, width): largest difference between onnxruntime's and torch's output}, and the scale -> (dict, int). RunError beyond LIMIT[half]."""
    import onnxruntime

    options, found, session = onnxruntime.SessionOptions(), {}, None
    options.log_severity_level = 4  # what fails is told below
    for shape in (
        ((3, *size), (1, *size)) if size else ((3, *EXAMPLE), *((1, *other) for other in OTHERS))
    ):
        x = torch.rand(shape[0], 3, *shape[1:], generator=torch.Generator().manual_seed(0))
        wanted = net(x)
        try:
            session = (
                onnxruntime.InferenceSession(data, options, providers=['CPUExecutionProvider'])
                if not found
                else session
            )
            (y,) = session.run(None, {'input': x.numpy()})
            found[shape] = (
                float((torch.from_numpy(y) - wanted).abs().max())
                if y.shape == wanted.shape
                else float('inf')
            )
        except Exception as e:  # onnxruntime's errors have no common name
            raise RunError(
                _refusal(net, shape, size, f'onnxruntime fails: {str(e).splitlines()[0][:200]}')
            ) from e
        if not found[shape] <= LIMIT[half]:
            raise RunError(
                _refusal(
                    net,
                    shape,
                    size,
                    f"the output differs from torch's by {found[shape]:.2g}, {LIMIT[half]:.2g} is allowed",
                )
            )
    return found, wanted.shape[-1] // x.shape[-1]


def _refusal(net, shape, size, why):
    batch, h, w = shape
    remedy = (
        '' if size or shape[1:] == EXAMPLE else '; give --size HxW: with one size it may be right'
    )
    return f'{type(net).__name__} is not written: for {batch} pictures of {h}x{w} {why}{remedy}'


def size(text):
    """'128x96' -> (128, 96), height and width"""
    if not re.fullmatch(r'[1-9]\d*x[1-9]\d*', text):
        raise argparse.ArgumentTypeError(
            f'{text!r}: HEIGHTxWIDTH in pixels is wanted, e.g. 128x128'
        )
    return tuple(map(int, text.split('x')))


def need_packages():
    """Raise RunError with the remedy unless what reads ONNX is installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime
    except ImportError as e:
        raise RunError(f'the package {e.name} is needed: pip install -e .[onnx]') from e


def main(argv=None):
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument('--run', help='run directory (default: the newest under runs/)')
    p.add_argument(
        '--weights', help='weights instead of a run: .safetensors, or .pth as BasicSR saves them'
    )
    p.add_argument('--out', type=Path, required=True, help='file to write, .onnx')
    p.add_argument('--half', action='store_true', help='compute in float16; half the size')
    p.add_argument(
        '--size',
        type=size,
        help='HEIGHTxWIDTH of the inputs, which are then all of that size (default: any)',
    )
    p.set_defaults(device='cpu')
    args = p.parse_args(argv)
    try:
        need_packages()
        net, _, config, _ = infer.load(args)
        refuse(net, args)
        net = net.to(memory_format=torch.contiguous_format)
        data = convert(net, args.size, args.half)
        found, scale = check(net, data, args.size, args.half)
        data = described(data, net, scale, config.network.net if config else None)
        run.write(args.out, data)
    except (RunError, CheckpointError) as e:
        print(f'export.py: {e}', file=sys.stderr)
        return 2
    print(
        '\n'.join(
            f'{b} x {h}x{w}: largest difference from torch {d:.2e}'
            for (b, h, w), d in found.items()
        )
    )
    print(f'{args.out}: {len(data):,} bytes')
    return 0


if __name__ == '__main__':
    sys.exit(main())
