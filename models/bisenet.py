"""BiSeNet with a ResNet-18 as both of its paths (Yu et al., ECCV 2018; He et al., 2016).

It is the usual face parser; slim forms of it are offered, too.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from errors import BadFile
from storage import printable, shown, tensors

from .entry import Entry, Weights
from .names import best

# What ImageNet's weights were trained on: RGB in [0, 1].
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


# ---- its parts ----


class Residual(nn.Module):
    """ResNet's basic block, with torchvision's parameter names."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(width_in, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample: nn.Module | None = None
        if width_in != width or stride != 1:
            self.downsample = nn.Sequential(
                _conv(width_in, width, 1, stride), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        """[B, width_in, h, w] -> [B, width, ceil(h / stride), ceil(w / stride)]."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        skip = self.downsample(x) if self.downsample else x
        return F.relu(self.bn2(self.conv2(y)) + skip, inplace=True)


class ResNet18(nn.Module):
    """ResNet-18 without its classifier; 11,176,512 parameters at width 64."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.conv1 = _conv(3, width, 7, 2)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = nn.Sequential(Residual(width, width, 1), Residual(width, width, 1))
        self.layer2 = _stage(2 * width)
        self.layer3 = _stage(4 * width)
        self.layer4 = _stage(8 * width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, 3, H, W] -> maps at 1/8, 1/16 and 1/32 of the size.

        They have 2, 4 and 8 times `width` channels.
        """
        y = F.max_pool2d(F.relu(self.bn1(self.conv1(x)), inplace=True), 3, 2, 1)
        y8 = self.layer2(self.layer1(y))
        y16 = self.layer3(y8)
        return y8, y16, self.layer4(y16)


class Refinement(nn.Module):
    """Attention refinement: a convolution, its channels scaled by a function of their means."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.conv = ConvNorm(width_in, width)
        self.attention = _conv(width, width, 1)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, width_in, h, w] -> [B, width, h, w]."""
        y = self.conv(x)
        return y * torch.sigmoid(self.norm(self.attention(y.mean((2, 3), keepdim=True))))


class Fusion(nn.Module):
    """Feature fusion: f + f * attention(f), f computed from both paths' concatenated channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = ConvNorm(width, width, 1)
        self.squeeze = _conv(width, width // 4, 1)
        self.excite = _conv(width // 4, width, 1)

    def forward(self, spatial: Tensor, context: Tensor) -> Tensor:
        """Two [B, width / 2, h, w] -> [B, width, h, w]."""
        y = self.conv(torch.cat([spatial, context], 1))
        attention = self.excite(F.relu(self.squeeze(y.mean((2, 3), keepdim=True))))
        return y + y * torch.sigmoid(attention)


class ConvNorm(nn.Sequential):
    """Convolution, batch normalisation, ReLU; the size stays."""

    def __init__(self, width_in: int, width: int, side: int = 3) -> None:
        super().__init__(_conv(width_in, width, side), nn.BatchNorm2d(width), nn.ReLU(inplace=True))


# ---- the network ----


class BiSeNet(nn.Module):
    """13,150,272 parameters; 13,300,416 with the two auxiliary heads.

    Slim ones have 1,877,256 (width 24) and 1,305,180 (width 20) with these heads.

    width: channels of the trunk's first stage; all others are multiples of it
    aux: add two heads, on the context at 1/8 and at 1/16, for training only

    Training needs at least two pictures per batch, because `Refinement` normalises one number per
    picture and channel.
    """

    mean: Tensor
    std: Tensor
    aux: nn.ModuleList | None

    def __init__(self, width: int = 64, classes: int = 19, aux: bool = False) -> None:
        super().__init__()
        context = 2 * width
        self.trunk = ResNet18(width)
        self.refine32 = Refinement(8 * width, context)
        self.refine16 = Refinement(4 * width, context)
        self.whole = ConvNorm(8 * width, context, 1)
        self.smooth32 = ConvNorm(context, context)
        self.smooth16 = ConvNorm(context, context)
        self.fuse = Fusion(4 * width)
        self.head = _head(4 * width, 4 * width, classes)
        self.aux = nn.ModuleList(_head(context, width, classes) for _ in range(2)) if aux else None
        self.register_buffer('mean', torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(STD).view(3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """[B, 3, H, W] in [0, 1], RGB, any H and W -> [B, classes, H, W] float32 logits.

        They are float32 under autocast, too. While a network with `aux` trains, the result is a
        tuple of three: the logits, then those of the auxiliary heads, [B, classes, ceil(H / 4),
        ceil(W / 4)].
        """
        y8, y16, y32 = self.trunk((x - self.mean) / self.std)

        # Context path: the mean over the whole picture, refined on the way up.
        y = self.refine32(y32) + self.whole(y32.mean((2, 3), keepdim=True))
        context16 = self.smooth32(F.interpolate(y, y16.shape[-2:], mode='nearest'))
        y = self.refine16(y16) + context16
        context8 = self.smooth16(F.interpolate(y, y8.shape[-2:], mode='nearest'))

        # The auxiliary heads are compared at a quarter of the size.
        size = list(x.shape[-2:])
        logits = [_enlarged(self.head(self.fuse(y8, context8)), size)]
        if self.aux is not None and self.training:
            quarter = [-(-side // 4) for side in size]
            heads = zip(self.aux, (context8, context16), strict=True)
            logits += [_enlarged(head(context), quarter) for head, context in heads]
        return tuple(logits) if len(logits) > 1 else logits[0]

    def load_trunk(self, path: str | Path) -> None:
        """Load the trunk from an ImageNet ResNet-18 with torchvision's parameter names.

        path: a .pth or .safetensors file, whose classifier is left out

        Raises ValueError where the file is damaged or of another network, OSError where it cannot
        be read.
        """
        own = self.trunk.state_dict()
        try:
            weights = best(tensors.read(path), (), own)
        except BadFile as error:
            raise ValueError(f'{shown(path)}: {error}') from error
        weights = {name: value for name, value in weights.items() if not name.startswith('fc.')}
        wrong = _misfits(weights, own)
        if wrong:
            name = min(wrong)
            which = printable(name, 60)
            there, here = (
                tuple(side[name].shape) if name in side else 'nothing' for side in (weights, own)
            )
            raise ValueError(
                f'{shown(path)}: not the weights of a ResNet-18 of width {len(own["bn1.weight"])}; '
                f'{len(wrong)} tensors do not fit, as {which}: {there} there, {here} here'
            )
        self.trunk.load_state_dict({**own, **weights})


def _misfits(weights: Weights, own: Weights) -> set[str]:
    """Names that are missing in the weights, unknown to the network, or of another shape."""
    # Old files lack the counters of batch normalisation.
    needed = {name for name in own if not name.endswith('num_batches_tracked')}
    fitting = {k for k, value in weights.items() if k in own and value.shape == own[k].shape}
    return (needed | weights.keys()) - fitting


def _stage(width: int) -> nn.Sequential:
    return nn.Sequential(Residual(width // 2, width, 2), Residual(width, width, 1))


def _head(width_in: int, width: int, classes: int) -> nn.Sequential:
    return nn.Sequential(ConvNorm(width_in, width), _conv(width, classes, 1))


def _enlarged(logits: Tensor, size: list[int]) -> Tensor:
    return F.interpolate(logits.float(), size, mode='bilinear', align_corners=True)


def _conv(width_in: int, width: int, side: int, stride: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(width_in, width, side, stride, side // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, a=1)
    return conv


ENTRY = Entry(
    name='bisenet',
    network=BiSeNet,
    kind='parser',
    variants=({}, {'aux': True}, {'width': 24}, {'width': 20}),
)
