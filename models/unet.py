"""Plain residual U-Net (Ronneberger et al., 2015; blocks of EDSR, Lim et al., 2017) that knows where in the face it is; x4.

3x3 convolutions, most of them at low resolution: 3.6 GMAC for 128 x 128 against 41.6 of SRResNet, and no normalisation. Attention in the bottleneck, where a face has
16 x 16 pixels, is cheap: each costs 0.03 GMAC.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import nn

HEADS = 4  # of an attention


class Block(nn.Module):
    """x + conv(ReLU(conv(x)))"""

    def __init__(self, width):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        for conv in (self.conv1, self.conv2):
            nn.init.kaiming_normal_(conv.weight)
            conv.weight.data.mul_(0.5)
            nn.init.zeros_(conv.bias)

    def forward(self, x):
        return x + self.conv2(F.relu(self.conv1(x), inplace=True))


class Attention(nn.Module):
    """x + projection(softmax(q k' / sqrt d) v) of the normalised x, every pixel seeing every other (Vaswani et al., 2017); starts as x"""

    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        nn.init.zeros_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)

    def forward(self, x):
        b, c, h, w = x.shape
        tokens = x.permute(0, 2, 3, 1).reshape(b, h * w, c)  # no copy where x is channels-last
        q, k, v = (
            self.qkv(self.norm(tokens)).view(b, h * w, 3, HEADS, c // HEADS).permute(2, 0, 3, 1, 4)
        )
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, h * w, c)
        return x + self.projection(y).view(b, h, w, c).permute(0, 3, 1, 2)


class UNet(nn.Module):
    """The defaults have 1,946,448 parameters, with four attentions 2,211,664.

    width:    channels at full, half, quarter, ... resolution; the last is the bottleneck
    blocks:   (per encoder level from full resolution down, in the bottleneck, per decoder level up to full resolution)
    position: side in pixels of the learned position embedding at the bottleneck: 16 for aligned 128 x 128 faces; other inputs
              see it bilinearly resized, so that a pixel knows its place relative to the frame; 0: none
    symmetric: the embedding is its own mirror image, so that only half of it is learned
    attention: self-attentions in the bottleneck, one before each of its blocks, the rest behind them; one costs 66,304 parameters
    steps:    1: the tail enlarges by 4 at once; 2: by 2 and, after a LeakyReLU, by 2 again
    """

    def __init__(
        self,
        width=(32, 64, 96, 128),
        blocks=((1, 3, 2), 2, (2, 3, 1)),
        position=16,
        steps=1,
        symmetric=False,
        attention=0,
    ):
        super().__init__()
        down, middle, up = blocks
        if not len(down) == len(up) == len(width) - 1:
            raise ValueError(
                f'UNet: {len(width)} widths need {len(width) - 1} encoder and decoder levels; blocks is {blocks}'
            )
        if steps not in (1, 2):
            raise ValueError(f'UNet: steps is {steps}; 1 and 2 are possible')
        if attention and width[-1] % HEADS:
            raise ValueError(
                f'UNet: {HEADS} heads of attention do not divide a bottleneck of {width[-1]}'
            )
        pairs = list(zip(width, width[1:]))  # channels of (a level, the level below)
        self.stem = nn.Conv2d(3, width[0], 3, padding=1)
        self.encoder = nn.ModuleList(_blocks(a, n) for (a, b), n in zip(pairs, down))
        self.down = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairs)
        self.position = (
            nn.Parameter(
                torch.zeros(1, width[-1], position, position // 2 if symmetric else position)
            )
            if position
            else None
        )
        attend = [Attention(width[-1]) for _ in range(attention)]
        self.middle = nn.Sequential(
            *[
                layer
                for pair in itertools.zip_longest(attend, _blocks(width[-1], middle))
                for layer in pair
                if layer is not None
            ]
        )
        self.up = nn.ModuleList(nn.Conv2d(b, 4 * a, 1, bias=False) for a, b in reversed(pairs))
        self.decoder = nn.ModuleList(_blocks(a, n) for (a, b), n in zip(reversed(pairs), up))
        if steps == 2:
            self.upconv = nn.Conv2d(width[0], 4 * width[0], 3, padding=1)
        self.steps = steps
        self.tail = nn.Conv2d(width[0], 48 if steps == 1 else 12, 3, padding=1)
        nn.init.normal_(
            self.tail.weight, std=0.01
        )  # start at bilinear enlargement: a default tail starts 3-4 dB below
        nn.init.zeros_(self.tail.bias)

    def forward(self, x):
        """x: [B, 3, h, w] in [0, 1], any h, w -> [B, 3, 4h, 4w] float32, not clamped; also under autocast."""
        h, w = x.shape[-2:]
        multiple = 2 ** len(self.down)
        y, skips = self.stem(F.pad(x, (0, -w % multiple, 0, -h % multiple), mode='replicate')), []
        for blocks, down in zip(self.encoder, self.down):
            skips.append(blocks(y))
            y = down(skips[-1])

        if self.position is not None:
            y = y + self._position(y.shape[-2:]).to(
                y.dtype
            )  # without the cast a bfloat16 stream would become float32 here
        y = self.middle(y)

        for up, blocks in zip(self.up, self.decoder):
            y = blocks(F.pixel_shuffle(up(y), 2) + skips.pop())
        if self.steps == 2:
            y = F.leaky_relu(F.pixel_shuffle(self.upconv(y), 2), 0.1, inplace=True)
        y = F.pixel_shuffle(self.tail(y), 4 // self.steps)[..., : 4 * h, : 4 * w]
        return y.float() + F.interpolate(
            x.float(), scale_factor=4, mode='bilinear'
        )  # the image itself stays float32

    def _position(self, size):
        half = self.position.shape[3] < self.position.shape[2]
        whole = torch.cat([self.position, self.position.flip(3)], 3) if half else self.position
        return whole if whole.shape[-2:] == size else F.interpolate(whole, size, mode='bilinear')


def _blocks(width, n):
    return nn.Sequential(*[Block(width) for _ in range(n)])
