"""U-Net of NAF blocks (Chen et al., Simple Baselines for Image Restoration, ECCV 2022) that knows where in the face it is; x4.

Fewer multiplications than a flat network of its size, but depthwise ones, which CPUs are slow at.
"""

import torch
import torch.nn.functional as F
from torch import nn


class LayerNorm2d(nn.LayerNorm):
    """Every pixel normalised over its channels; for channels-last pictures the permutations are free."""

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Block(nn.Module):
    """Two residual branches without activation functions: halves of the channels are multiplied instead; starts as the identity."""

    def __init__(self, width):
        super().__init__()
        self.norm1 = LayerNorm2d(width, eps=1e-6)
        self.widen1 = nn.Conv2d(width, 2 * width, 1)
        self.depthwise = nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2 * width)
        self.attention = nn.Conv2d(width, width, 1)
        self.narrow1 = nn.Conv2d(width, width, 1)
        self.beta = nn.Parameter(torch.zeros(width, 1, 1))
        self.norm2 = LayerNorm2d(width, eps=1e-6)
        self.widen2 = nn.Conv2d(width, 2 * width, 1)
        self.narrow2 = nn.Conv2d(width, width, 1)
        self.gamma = nn.Parameter(torch.zeros(width, 1, 1))

    def forward(self, x):
        y = _gate(self.depthwise(self.widen1(self.norm1(x))))
        y = self.narrow1(y * self.attention(y.mean((2, 3), keepdim=True)))
        x = x + y * self.beta.to(
            y.dtype
        )  # without the cast a bfloat16 stream would become float32 here
        y = self.narrow2(_gate(self.widen2(self.norm2(x))))
        return x + y * self.gamma.to(y.dtype)


class FaceUNAF(nn.Module):
    """The defaults have 2,224,787 parameters; (4, 5, 6) decoder blocks 2,272,227.

    width:    channels at full, half, quarter, ... resolution; the last is the bottleneck
    blocks:   (per encoder level from full resolution down, in the bottleneck, per decoder level up to full resolution)
    position: side in pixels of the learned position embedding at the bottleneck: 16 for aligned 128 x 128 faces; other inputs
              see it bilinearly resized, so that a pixel knows its place relative to the frame
    """

    def __init__(self, width=(48, 80, 112, 128), blocks=((4, 6, 4), 4, (4, 4, 6)), position=16):
        super().__init__()
        down, middle, up = blocks
        if not len(down) == len(up) == len(width) - 1:
            raise ValueError(
                f'FaceUNAF: {len(width)} widths need {len(width) - 1} encoder and decoder levels; blocks is {blocks}'
            )
        pairs = list(zip(width, width[1:]))  # channels of (a level, the level below)
        self.stem = nn.Conv2d(3, width[0], 3, padding=1)
        self.encoder = nn.ModuleList(_blocks(a, n) for (a, b), n in zip(pairs, down))
        self.down = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairs)
        self.position = nn.Parameter(torch.zeros(1, width[-1], position, position))
        self.middle = _blocks(width[-1], middle)
        self.up = nn.ModuleList(nn.Conv2d(b, 4 * a, 1, bias=False) for a, b in reversed(pairs))
        self.decoder = nn.ModuleList(_blocks(a, n) for (a, b), n in zip(reversed(pairs), up))
        self.body = nn.Conv2d(width[0], width[0], 3, padding=1)
        self.upconv1 = nn.Conv2d(width[0], 4 * 32, 3, padding=1)
        self.upconv2 = nn.Conv2d(32, 4 * 32, 3, padding=1)
        self.tail = nn.Conv2d(32, 3, 3, padding=1)
        nn.init.normal_(
            self.tail.weight, std=0.01
        )  # start at bilinear enlargement: a default tail starts 3-4 dB below
        nn.init.zeros_(self.tail.bias)

    def forward(self, x):
        """x: [B, 3, h, w] in [0, 1], any h, w -> [B, 3, 4h, 4w] float32, not clamped; also under autocast."""
        h, w = x.shape[-2:]
        multiple = 2 ** len(self.down)
        first = self.stem(F.pad(x, (0, -w % multiple, 0, -h % multiple), mode='replicate'))
        y, skips = first, []
        for blocks, down in zip(self.encoder, self.down):
            skips.append(blocks(y))
            y = down(skips[-1])

        position = self.position
        if y.shape[-2:] != position.shape[-2:]:
            position = F.interpolate(position, y.shape[-2:], mode='bilinear')
        y = self.middle(y + position.to(y.dtype))

        for up, blocks in zip(self.up, self.decoder):
            y = blocks(F.pixel_shuffle(up(y), 2) + skips.pop())
        y = _enlarge(self.upconv1, self.body(y) + first)
        y = self.tail(_enlarge(self.upconv2, y))[..., : 4 * h, : 4 * w]
        return y.float() + F.interpolate(
            x.float(), scale_factor=4, mode='bilinear'
        )  # the image itself stays float32


def _blocks(width, n):
    return nn.Sequential(*[Block(width) for _ in range(n)])


def _gate(x):
    a, b = x.chunk(2, 1)
    return a * b


def _enlarge(conv, x):
    return F.leaky_relu(F.pixel_shuffle(conv(x), 2), 0.1, inplace=True)
