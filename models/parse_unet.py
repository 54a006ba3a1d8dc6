"""Residual U-Net for face parsing (Ronneberger et al., 2015; blocks of He et al., 2016).

It predicts 19 classes and is trained from scratch.
"""

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .entry import Entry, Weights, length
from .position import resized

# RGB grey levels of CelebAMask-HQ's training faces.
MEAN = (132.53, 106.68, 92.84)
STD = (77.06, 69.73, 68.29)


# ---- its parts ----


class Block(nn.Module):
    """Residual block: ReLU(x + norm(conv(ReLU(norm(conv(x)))))).

    Where the widths differ, the skip is a 1x1 convolution.
    """

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.conv1 = _conv(width_in, width, 3)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, 3)
        self.norm2 = nn.BatchNorm2d(width)
        self.project: nn.Module | None = None
        if width_in != width:
            self.project = nn.Sequential(_conv(width_in, width, 1), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """[B, width_in, h, w] -> [B, width, h, w]."""
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        y = self.norm2(self.conv2(y))
        return F.relu(y + (self.project(x) if self.project else x), inplace=True)


# ---- the network ----


class ParseUNet(nn.Module):
    """The defaults have 1,672,707 parameters.

    width: channels at full, half, ... resolution; the last is the bottleneck's
    blocks: residual blocks per level; on the way up there is one per level
    stride: 2: the stem halves the picture, and logits are enlarged by 2 at the end, which takes a
        quarter of the work
    aux: add two heads, at the bottleneck (1/16) and one level above, for training only
    position: side in pixels of a learned position embedding at the bottleneck, 0 for none. 32 suits
        aligned 512 x 512 faces; for other inputs it is resized bilinearly. It tells the left eye
        from the right one

    Raises ValueError for arguments that do not fit together.
    """

    mean: Tensor
    std: Tensor
    position: nn.Parameter | None
    aux: nn.ModuleList | None

    def __init__(
        self,
        width: Sequence[int] = (24, 48, 72, 96, 128),
        blocks: Sequence[int] = (1, 1, 2, 2, 2),
        classes: int = 19,
        stride: int = 1,
        aux: bool = False,
        position: int = 0,
    ) -> None:
        super().__init__()
        _check(width, blocks, stride)
        self.stride = stride
        self.stem = nn.Sequential(
            _conv(3, width[0], 3, stride), nn.BatchNorm2d(width[0]), nn.ReLU(inplace=True)
        )
        before = (width[0], *width[:-1])  # channels of the level above
        self.encoder = nn.ModuleList(
            _blocks(above, w, n) for above, w, n in zip(before, width, blocks, strict=True)
        )
        # A decoder block takes the enlarged level below and the encoder's map of its own level.
        pairs = reversed(list(itertools.pairwise(width)))
        self.decoder = nn.ModuleList(Block(below + w, w) for w, below in pairs)
        # Auxiliary heads at the last two widths, the bottleneck's first.
        self.head = nn.Conv2d(width[0], classes, 1)
        self.aux = nn.ModuleList(nn.Conv2d(w, classes, 1) for w in width[:-3:-1]) if aux else None
        start = torch.zeros(1, width[-1], position, position)
        self.position = nn.Parameter(start) if position else None
        self.register_buffer('mean', torch.tensor(MEAN).view(3, 1, 1) / 255, persistent=False)
        self.register_buffer('std', torch.tensor(STD).view(3, 1, 1) / 255, persistent=False)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """[B, 3, H, W] in [0, 1], RGB, any H and W -> [B, classes, H, W] float32 logits.

        They are float32 under autocast, too. While a network with `aux` trains, the result is a
        tuple of three: the logits, then those of the auxiliary heads, [B, classes, ceil(H / 4),
        ceil(W / 4)].
        """
        return self.decode(self.encode(self.padded(x)), x.shape[-2:])

    def padded(self, x: Tensor) -> Tensor:
        """Repeat the last column and row of [B, 3, H, W] until `encode` takes the sides."""
        multiple = max(self.stride * 2 ** len(self.decoder), 4)
        return F.pad(x, (0, -x.shape[3] % multiple, 0, -x.shape[2] % multiple), mode='replicate')

    def encode(self, x: Tensor) -> list[Tensor]:
        """Compute one feature map per level, from the top down.

        x: [B, 3, H, W] in [0, 1], sides multiples of stride 2^(levels - 1)
        """
        y = self.stem((x - self.mean) / self.std)
        maps = []
        for level, blocks in enumerate(self.encoder):
            y = blocks(F.max_pool2d(y, 2) if level else y)
            maps.append(y)
        return maps

    def decode(self, maps: Sequence[Tensor], size: Sequence[int]) -> Tensor | tuple[Tensor, ...]:
        """Compute the logits as of `forward`.

        maps: what `encode` returned; size: (H, W) of the picture before it was padded
        """
        *skips, y = maps
        whole = [self.stride * side for side in maps[0].shape[-2:]]
        # Without the cast a bfloat16 stream would become float32 here.
        if self.position is not None:
            y = y + resized(self.position, y.shape[-2:]).to(y.dtype)

        # Up again; the auxiliary heads take the two coarsest maps.
        coarse = [y]
        for block in self.decoder:
            enlarged = F.interpolate(y, scale_factor=2, mode='bilinear')
            y = block(torch.cat([enlarged, skips.pop()], 1))
            coarse.append(y)

        logits = [_sized(self.head(y), whole, size)]
        if self.aux is not None and self.training:
            # The auxiliary heads are compared at a quarter of the size.
            quarter = [side // 4 for side in whole]
            cropped = [-(-side // 4) for side in size]
            heads = zip(self.aux, coarse, strict=False)
            logits += [_sized(head(y), quarter, cropped) for head, y in heads]
        return tuple(logits) if len(logits) > 1 else logits[0]


# ---- what other networks need, too ----


def from_weights(weights: Weights, prefix: str, stride: int) -> ParseUNet:
    """The untrained network that the weights under `prefix` belong to.

    stride: it leaves no trace in the shapes, so the caller must know it
    """
    levels = range(length(weights, f'{prefix}encoder'))
    position = weights.get(f'{prefix}position')
    return ParseUNet(
        [len(weights[f'{prefix}encoder.{n}.0.conv1.weight']) for n in levels],
        [length(weights, f'{prefix}encoder.{n}') for n in levels],
        len(weights[f'{prefix}head.weight']),
        stride,
        f'{prefix}aux.0.weight' in weights,
        0 if position is None else position.shape[2],
    )


def _check(width: Sequence[int], blocks: Sequence[int], stride: int) -> None:
    if len(width) != len(blocks) or len(width) < 2:
        raise ValueError(
            f'ParseUNet: width {width} and blocks {blocks} must have one entry per level, '
            'for two levels or more'
        )
    if stride not in (1, 2):
        raise ValueError(f'ParseUNet: stride is {stride}, but must be 1 or 2')


def _blocks(width_in: int, width: int, n: int) -> nn.Sequential:
    return nn.Sequential(*[Block(width_in if i == 0 else width, width) for i in range(n)])


def _sized(logits: Tensor, whole: Sequence[int], size: Sequence[int]) -> Tensor:
    """Enlarge logits to the padded picture's size `whole`, in float32, and crop them to `size`."""
    return resized(logits.float(), whole)[..., : size[0], : size[1]]


def _conv(width_in: int, width: int, side: int, stride: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(width_in, width, side, stride, side // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, nonlinearity='relu')
    return conv


ENTRY = Entry(
    name='parse_unet',
    network=ParseUNet,
    kind='parser',
    variants=({}, {'stride': 2}, {'aux': True, 'position': 32}),
)
