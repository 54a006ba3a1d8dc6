"""Residual U-Net for face parsing (Ronneberger et al., 2015; blocks of He et al., 2016): 19 classes, learned from scratch."""

import torch
import torch.nn.functional as F
from torch import nn

MEAN, STD = (
    (132.53, 106.68, 92.84),
    (77.06, 69.73, 68.29),
)  # RGB grey levels of CelebAMask-HQ's training faces


class Block(nn.Module):
    """ReLU(x + norm(conv(ReLU(norm(conv(x)))))); x by way of a 1x1 convolution where the widths differ."""

    def __init__(self, width_in, width):
        super().__init__()
        self.conv1, self.norm1 = _conv(width_in, width, 3), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = _conv(width, width, 3), nn.BatchNorm2d(width)
        self.project = (
            None
            if width_in == width
            else nn.Sequential(_conv(width_in, width, 1), nn.BatchNorm2d(width))
        )

    def forward(self, x):
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        y = self.norm2(self.conv2(y))
        return F.relu(y + (self.project(x) if self.project else x), inplace=True)


class ParseUNet(nn.Module):
    """The defaults have 1,672,707 parameters.

    width:    channels at full, half, ... resolution; the last is the bottleneck
    blocks:   residual blocks per level; on the way up there is one per level
    stride:   2: the stem halves the picture, and logits are enlarged by 2 at the end; a quarter of the work
    aux:      two more heads, at the bottleneck (1/16) and one level above, for training only
    position: side in pixels of a learned position embedding at the bottleneck, 0 for none: 32 for aligned 512 x 512 faces; other
              inputs see it bilinearly resized. It tells the left eye from the right one.
    """

    def __init__(
        self,
        width=(24, 48, 72, 96, 128),
        blocks=(1, 1, 2, 2, 2),
        classes=19,
        stride=1,
        aux=False,
        position=0,
    ):
        super().__init__()
        if len(width) != len(blocks) or len(width) < 2:
            raise ValueError(
                f'ParseUNet: width {width} and blocks {blocks} need one entry per level, of two levels or more'
            )
        if stride not in (1, 2):
            raise ValueError(f'ParseUNet: stride is {stride}; 1 and 2 are possible')
        self.stride = stride
        self.stem = nn.Sequential(
            _conv(3, width[0], 3, stride), nn.BatchNorm2d(width[0]), nn.ReLU(inplace=True)
        )
        levels = zip((width[0], *width), width, blocks)
        self.encoder = nn.ModuleList(
            nn.Sequential(*[Block(before if i == 0 else w, w) for i in range(n)])
            for before, w, n in levels
        )
        self.decoder = nn.ModuleList(
            Block(below + w, w) for below, w in reversed(list(zip(width[1:], width)))
        )
        self.head = nn.Conv2d(width[0], classes, 1)
        self.aux = nn.ModuleList(nn.Conv2d(w, classes, 1) for w in width[:-3:-1]) if aux else None
        self.position = (
            nn.Parameter(torch.zeros(1, width[-1], position, position)) if position else None
        )
        self.register_buffer('mean', torch.tensor(MEAN).view(3, 1, 1) / 255, persistent=False)
        self.register_buffer('std', torch.tensor(STD).view(3, 1, 1) / 255, persistent=False)

    def forward(self, x):
        """x: [B, 3, H, W] in [0, 1], RGB, any H, W -> [B, classes, H, W] float32 logits, also under autocast; while an `aux` network
        trains a tuple of three, the one that counts first, the others [B, classes, ceil(H / 4), ceil(W / 4)]."""
        return self.decode(self.encode(self.padded(x)), x.shape[-2:])

    def padded(self, x):
        """[B, 3, H, W] -> the same with sides that `encode` takes: right and below the last column and row are repeated"""
        multiple = max(self.stride * 2 ** len(self.decoder), 4)
        return F.pad(x, (0, -x.shape[3] % multiple, 0, -x.shape[2] % multiple), mode='replicate')

    def decode(self, maps, size):
        """What `encode` gave, size (H, W) of the picture before it was padded -> as `forward`"""
        skips = list(maps)
        y, whole = skips.pop(), [self.stride * side for side in maps[0].shape[-2:]]
        if self.position is not None:
            y = y + resized(self.position, y.shape[-2:]).to(
                y.dtype
            )  # without the cast a bfloat16 stream would become float32 here

        coarse = [y]
        for block in self.decoder:
            y = block(
                torch.cat([F.interpolate(y, scale_factor=2, mode='bilinear'), skips.pop()], 1)
            )
            coarse.append(y)
        logits = [self.head(y)]
        if self.aux and self.training:
            logits += [head(c) for head, c in zip(self.aux, coarse)]
        logits = tuple(
            resized(y.float(), [n // part for n in whole])[
                ..., : -(-size[0] // part), : -(-size[1] // part)
            ]
            for y, part in zip(logits, (1, 4, 4))
        )
        return logits if len(logits) > 1 else logits[0]

    def encode(self, x):
        """x: [B, 3, H, W] in [0, 1], sides multiples of stride 2^(levels - 1) -> [feature maps], one per level from the top down"""
        y, maps = self.stem((x - self.mean) / self.std), []
        for level, blocks in enumerate(self.encoder):
            y = blocks(F.max_pool2d(y, 2) if level else y)
            maps.append(y)
        return maps


def _conv(width_in, width, side, stride=1):
    conv = nn.Conv2d(width_in, width, side, stride, side // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, nonlinearity='relu')
    return conv


def resized(x, size):
    return x if list(x.shape[-2:]) == list(size) else F.interpolate(x, tuple(size), mode='bilinear')
