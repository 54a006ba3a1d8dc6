"""U-Net of NAF blocks (Chen et al., Simple Baselines for Image Restoration, ECCV 2022), x4.

A learned position embedding tells the network where in the face a pixel lies. It takes fewer
multiplications than a flat network of its size, but depthwise ones, which are slow on CPUs.
"""

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .entry import Entry, Weights
from .position import embedding
from .unet import Blocks, check_levels, is_unet, shape, start_small

# ---- its parts ----


class LayerNorm2d(nn.LayerNorm):
    """Normalise every pixel over its channels. The permutations of channels-last maps are free."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> the same shape."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Block(nn.Module):
    """Two residual branches without activation functions.

    Where other networks have an activation, two halves of the channels are multiplied. Starts as
    the identity, because beta and gamma are 0.
    """

    def __init__(self, width: int) -> None:
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

    def forward(self, x: Tensor) -> Tensor:
        """[B, width, h, w] -> the same shape."""
        # Spatial branch. Without the cast a bfloat16 stream would become float32 here.
        y = _gate(self.depthwise(self.widen1(self.norm1(x))))
        y = self.narrow1(y * self.attention(y.mean((2, 3), keepdim=True)))
        x = x + y * self.beta.to(y.dtype)

        # Branch within each pixel.
        y = self.narrow2(_gate(self.widen2(self.norm2(x))))
        return x + y * self.gamma.to(y.dtype)


# ---- the network ----


class FaceUNAF(nn.Module):
    """The defaults have 2,224,787 parameters; with (4, 5, 6) decoder blocks it is 2,272,227.

    width: channels at full, half, quarter, ... resolution; the last is the bottleneck's
    blocks: number of blocks (per encoder level from full resolution down, in the bottleneck,
        per decoder level up to full resolution); ValueError where the levels do not match `width`
    position: side in pixels of the learned position embedding at the bottleneck. 16 suits aligned
        128 x 128 faces; for other inputs it is resized bilinearly, so that a pixel knows its place
        relative to the frame
    """

    takes_place = True  # forward() may be told which part of a picture it is given

    def __init__(
        self,
        width: Sequence[int] = (48, 80, 112, 128),
        blocks: Blocks = ((4, 6, 4), 4, (4, 4, 6)),
        position: int = 16,
    ) -> None:
        super().__init__()
        check_levels('FaceUNAF', width, blocks)
        down, middle, up = blocks
        pairs = list(itertools.pairwise(width))  # channels of (a level, the level below)
        self.stem = nn.Conv2d(3, width[0], 3, padding=1)
        self.encoder = nn.ModuleList(_blocks(a, n) for (a, _), n in zip(pairs, down, strict=True))
        self.down = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairs)
        self.position = nn.Parameter(torch.zeros(1, width[-1], position, position))
        self.middle = _blocks(width[-1], middle)

        # From the bottleneck up. 1x1 convolutions and a pixel shuffle enlarge between the levels.
        pairs.reverse()
        self.up = nn.ModuleList(nn.Conv2d(b, 4 * a, 1, bias=False) for a, b in pairs)
        self.decoder = nn.ModuleList(_blocks(a, n) for (a, _), n in zip(pairs, up, strict=True))
        self.body = nn.Conv2d(width[0], width[0], 3, padding=1)

        # Beyond the size of the input 32 channels suffice, whatever the width.
        self.upconv1 = nn.Conv2d(width[0], 4 * 32, 3, padding=1)
        self.upconv2 = nn.Conv2d(32, 4 * 32, 3, padding=1)
        self.tail = nn.Conv2d(32, 3, 3, padding=1)
        start_small(self.tail)

    def forward(self, x: Tensor, place: Tensor | None = None) -> Tensor:
        """[B, 3, h, w] in [0, 1], any h and w -> [B, 3, 4h, 4w] float32, not clamped.

        The output is float32 under autocast, too.

        place: of crops, [B, 4] left, top, width and height as shares of the whole picture
        """
        # Pad to whole pixels of the bottleneck; on the way down keep what the decoder adds again.
        h, w = x.shape[-2:]
        multiple = 2 ** len(self.down)
        first = self.stem(F.pad(x, (0, -w % multiple, 0, -h % multiple), mode='replicate'))
        y, skips = first, []
        for blocks, down in zip(self.encoder, self.down, strict=True):
            skips.append(blocks(y))
            y = down(skips[-1])

        y = self.middle(y + embedding(self.position, y.shape[-2:], place).to(y.dtype))

        # Up again, then beyond the input's size. The image itself stays float32.
        for up, blocks in zip(self.up, self.decoder, strict=True):
            y = blocks(F.pixel_shuffle(up(y), 2) + skips.pop())
        y = _enlarge(self.upconv1, self.body(y) + first)
        y = self.tail(_enlarge(self.upconv2, y))[..., : 4 * h, : 4 * w]
        return y.float() + F.interpolate(x.float(), scale_factor=4, mode='bilinear')


def _blocks(width: int, n: int) -> nn.Sequential:
    return nn.Sequential(*[Block(width) for _ in range(n)])


def _gate(x: Tensor) -> Tensor:
    a, b = x.chunk(2, 1)
    return a * b


def _enlarge(conv: nn.Module, x: Tensor) -> Tensor:
    return F.leaky_relu(F.pixel_shuffle(conv(x), 2), 0.1, inplace=True)


# ---- the catalogue, and weights of unknown origin ----


def _rebuild(weights: Weights) -> FaceUNAF | None:
    if not is_unet(weights) or 'upconv2.weight' not in weights:
        return None
    return FaceUNAF(**shape(weights))


ENTRY = Entry(
    name='face_unaf',
    network=FaceUNAF,
    kind='restorer',
    mark='decoder.0.0.depthwise.weight',
    rebuild=_rebuild,
    variants=({}, {'blocks': ((4, 6, 4), 4, (4, 5, 6))}),
)
