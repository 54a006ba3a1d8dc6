"""A network as ONNX, for programs that have no PyTorch.

python tools/export.py --run runs/mine --out net.onnx                  pictures of any size
python tools/export.py --run runs/mine --out net.onnx --size 128x128   of one height and width
python tools/export.py --weights MSRResNet.pth --out net.onnx --half   computes in float16
python tools/export.py --run runs/mine --out face.onnx --faces         8-bit faces in and out

The file takes [B, 3, h, w] float32 RGB in [0, 1] and gives the restored pictures, float32 and not
clamped, also with --half. It is written only after onnxruntime has restored pictures of several
sizes with it as torch does. A network with facial priors goes into the file with what makes them,
and needs --size. With --faces the file is the whole step of an aligned face: it takes [B, h, w, 3]
uint8 RGB of any size, brings it to that of the network, and returns uint8. Its metadata: network,
arguments (of a run), scale, parameters. The packages: pip install -e .[onnx]
"""

import program

import argparse
import copy
import importlib
import io
import json
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import models
import storage
from errors import RunError
from tasks import loading, photo_flags
from tasks.restore import Restore
from tools import arguments
from tools.face_step import FaceStep, sample
from training import outputs, run

Size = tuple[int, int]  # height and width
Shape = tuple[int, int, int]  # pictures, height and width

# Not square: a learned position embedding, which is, must be resized to it, as to every other size.
EXAMPLE = (40, 56)
# That no network's window or number of levels divides; and that of a 512 face.
OTHERS = ((37, 61), (128, 128))
LARGE = 300, 260  # of a face that is brought down to the input of a network
LIMIT = {False: 1e-4, True: 1 / 255}  # largest difference from torch's float32, by --half
OPSET = 18


class Half(nn.Module):
    """A network under autocast to float16: what it keeps in float32 stays so."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = copy.deepcopy(net)
        # Autocast leaves these alone on CPUs, and ONNX wants input and weights of one type.
        for part in self.net.modules():
            if isinstance(part, nn.LayerNorm):
                part.half()

    def forward(self, x: Tensor) -> Tensor:
        """As the network."""
        # A cached cast would be missing in the next trace.
        with torch.autocast('cpu', torch.float16, cache_enabled=False):
            return self.net(x)


@torch.no_grad()
def convert(net: nn.Module, size: Size | None = None, half: bool = False) -> bytes:
    """ONNX file of a network in eval mode on the CPU. Raises RunError where it cannot be exported.

    size: (height, width), or None for any
    """
    # The exporter that traces, not the one of torch.export (dynamo=True), which gives the same
    # pictures: it takes a tenth of the time, folds the casts of --half into the weights and needs
    # no onnxscript. Its weakness, that a size read as a number stays that number, is what `check`
    # looks for; the other one has it, too.
    taken, given = {0: 'batch'}, {0: 'batch'}
    if isinstance(net, FaceStep):
        taken |= {1: 'height', 2: 'width'}
    elif size is None:
        taken |= {2: 'height', 3: 'width'}
        given |= {2: 'enlarged_height', 3: 'enlarged_width'}
    file = io.BytesIO()
    try:
        with warnings.catch_warnings():
            # Of every branch on a size, and that the other exporter is newer.
            warnings.simplefilter('ignore')
            torch.onnx.export(
                Half(net).eval() if half else net,
                (sample(net, (2, *(size or EXAMPLE))),),
                file,  # type: ignore[arg-type]  # a file, as documented for dynamo=False
                dynamo=False,
                opset_version=OPSET,
                input_names=['input'],
                output_names=['output'],
                dynamic_axes={'input': taken, 'output': given},
            )
    except Exception as error:  # of many kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RunError(f'{type(net).__name__} cannot be exported: {reason}') from error
    return file.getvalue()


def name_of(net: nn.Module) -> str | None:
    """Name in the catalogue of a restorer, also of one with guides; None of anything else."""
    kind = type(net.net if isinstance(net, models.Guided) else net)
    return next((name for name, network in Restore.networks.items() if kind is network), None)


def refuse(net: nn.Module, args: argparse.Namespace) -> None:
    """Raise RunError for what is no restorer, and for one that is right at one size only where
    none is given."""
    given = f'--weights {args.weights}' if args.weights else f'--run {args.run or run.newest()}'
    if name_of(net) is None:
        raise RunError(
            f'{given} holds a {type(net).__name__}, which restores no pictures: give '
            f'{", ".join(Restore.networks)}'
        )
    if isinstance(net, models.Guided) and not (args.size or args.faces):
        raise RunError(
            f'{given} has facial priors ({", ".join(net.guides)}), whose maps are resized to the '
            'size of the pictures: give --size HxW, e.g. --size 128x128'
        )


def described(
    data: bytes,
    net: nn.Module,
    scale: int,
    arguments: dict[str, Any] | None = None,
    faces: bool = False,
) -> bytes:
    """The file with its metadata and what it takes and gives.

    arguments: that the network was made with, None where only its weights are known
    """
    import onnx

    model = onnx.load_model_from_string(data)
    onnx.checker.check_model(model)
    facts = {
        'network': str(name_of(net)),
        'scale': str(scale),
        'parameters': str(models.count(net)),
    }
    if arguments is not None:
        facts['arguments'] = json.dumps(arguments)
    onnx.helper.set_model_props(model, facts)
    output = '[B, 3, h, w]' if scale == 1 else f'[B, 3, {scale} h, {scale} w]'
    model.doc_string = (
        'input: [B, h, w, 3] uint8 RGB, aligned faces; output: [B, S, S, 3] uint8, restored'
        if faces
        else f'input: [B, 3, h, w] float32 RGB in [0, 1]; output: {output} float32, not clamped'
    )
    return model.SerializeToString()


@torch.no_grad()
def check(
    net: nn.Module, data: bytes, size: Size | None = None, half: bool = False
) -> tuple[dict[Shape, float], int]:
    """({shape: largest difference between onnxruntime's and torch's output}, scale).

    Raises RunError beyond LIMIT[half], and where onnxruntime fails.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # failures are reported below
    shapes: list[Shape] = [(3, *EXAMPLE), *((1, *other) for other in OTHERS)]
    if isinstance(net, FaceStep):
        shapes.append((1, *LARGE))
    if size:
        shapes = [(3, *size), (1, *size)]

    # Rounded to 8 bits, numbers that are almost equal may be a level apart.
    limit = LIMIT[half] + (1 / 255 if isinstance(net, FaceStep) else 0)
    differences: dict[Shape, float] = {}
    session: Any = None
    for shape in shapes:
        x = sample(net, shape)
        wanted = net(x)
        try:
            if session is None:
                providers = ['CPUExecutionProvider']
                session = onnxruntime.InferenceSession(data, options, providers=providers)
            (y,) = session.run(None, {'input': x.numpy()})
        except Exception as error:  # onnxruntime's errors have no common name
            reason = f'onnxruntime fails: {str(error).splitlines()[0][:200]}'
            raise RunError(_refusal(net, shape, size, reason)) from error

        # Not a number is no agreement either.
        differences[shape] = float('inf')
        if y.shape == wanted.shape:
            differences[shape] = _difference(torch.from_numpy(y), wanted)
        if not differences[shape] <= limit:
            reason = (
                f"the output differs from torch's by {differences[shape]:.2g}, "
                f'{limit:.2g} is allowed'
            )
            raise RunError(_refusal(net, shape, size, reason))
    side = net.side if isinstance(net, FaceStep) else x.shape[2]
    return differences, wanted.shape[2] // side


def _difference(a: Tensor, b: Tensor) -> float:
    """The largest one; of 8 bits as a share of white."""
    white = 255 if a.dtype == torch.uint8 else 1
    return float((a.float() - b.float()).abs().max()) / white


def _refusal(net: nn.Module, shape: Shape, size: Size | None, why: str) -> str:
    batch, h, w = shape
    hopeless = size or shape[1:] == EXAMPLE
    remedy = '' if hopeless else '; give --size HxW: with one size it may be right'
    return f'{type(net).__name__} is not written: for {batch} pictures of {h}x{w} {why}{remedy}'


# ------------------------------------------------------------------------------------------------
# The command.


def size(text: str) -> Size:
    """'128x96' -> (128, 96), height and width"""
    if not re.fullmatch(r'[1-9]\d*x[1-9]\d*', text):
        raise argparse.ArgumentTypeError(
            f'{text!r}: HEIGHTxWIDTH in pixels is needed, e.g. 128x128'
        )
    height, width = (program.ranges.SIDE(side) for side in text.split('x'))
    return height, width


def need_packages() -> None:
    """Raise RunError with the remedy unless what reads ONNX is installed."""
    for package in ('onnx', 'onnxruntime'):
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise RunError(f'the package {error.name} is needed: pip install -e .[onnx]') from error


def parser() -> argparse.ArgumentParser:
    """Flags of export.py."""
    p = arguments.described(__doc__)
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
    p.add_argument(
        '--faces',
        action='store_true',
        help='the whole step of an aligned face: resized, restored, rounded to 8 bits',
    )
    p.set_defaults(device='cpu')
    return p


@program.entry
def main(argv: Sequence[str] | None = None) -> int:
    """Write the file that the command line asks for -> exit status."""
    args = parser().parse_args(argv)
    outputs.check({'--out': args.out}, {}, {'--run': args.run, '--weights': args.weights})
    need_packages()
    loaded = loading.load(args.run, args.weights, args.device)
    refuse(loaded.net, args)
    net = loaded.net.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    step = FaceStep(net, photo_flags.side_of(loaded)) if args.faces else net
    data = convert(step, args.size, args.half)
    differences, scale = check(step, data, args.size, args.half)
    arguments = loaded.config.network.net if loaded.config else None
    data = described(data, net, scale, arguments, args.faces)
    storage.write(args.out, data)
    for (batch, h, w), difference in differences.items():
        print(f'{batch} x {h}x{w}: largest difference from torch {difference:.2e}')
    print(f'{args.out}: {len(data):,} bytes')
    return 0


if __name__ == '__main__':
    sys.exit(main())
