"""Plain residual U-Net (Ronneberger et al., 2015; blocks of EDSR, Lim et al., 2017), x4.

A learned position embedding tells the network where in the face a pixel lies.

Most of the 3x3 convolutions run at low resolution: a 128 x 128 picture takes 3.6 GMAC, against 41.6
for SRResNet. There is no normalisation. Attention in the bottleneck, where a face has 16 x 16
pixels, is cheap: each one costs 0.03 GMAC.
"""

import itertools
from collections.abc import Sequence
from typing import TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .entry import Entry, Weights, length
from .position import embedding

HEADS = 4  # of each attention
Blocks = tuple[Sequence[int], int, Sequence[int]]  # per encoder level, bottleneck, decoder level


# ---- its parts ----


class Block(nn.Module):
    """Residual block: x + conv(ReLU(conv(x)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        for conv in (self.conv1, self.conv2):
            nn.init.kaiming_normal_(conv.weight)
            # Without normalisation the residual branches must start small.
            conv.weight.data.mul_(0.5)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B, width, h, w] -> the same shape."""
        return x + self.conv2(F.relu(self.conv1(x), inplace=True))


class Attention(nn.Module):
    """Residual self-attention in which every pixel attends to all others (Vaswani et al., 2017).

    Computes x + projection(softmax(q k' / sqrt d) v) from the normalised x; starts as the identity.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        nn.init.zeros_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B, width, h, w] -> the same shape."""
        b, c, h, w = x.shape
        tokens = x.permute(0, 2, 3, 1).reshape(b, h * w, c)  # no copy where x is channels-last
        qkv = self.qkv(self.norm(tokens)).view(b, h * w, 3, HEADS, c // HEADS)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # [B, HEADS, h w, c / HEADS] each
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, h * w, c)
        return x + self.projection(y).view(b, h, w, c).permute(0, 3, 1, 2)


# ---- the network ----


class UNet(nn.Module):
    """The defaults have 1,946,448 parameters, and 2,211,664 with four attentions.

    width: channels at full, half, quarter, ... resolution; the last is the bottleneck's
    blocks: number of blocks (per encoder level from full resolution down, in the bottleneck,
        per decoder level up to full resolution)
    position: side in pixels of the learned position embedding at the bottleneck, 0 for none. 16
        suits aligned 128 x 128 faces; for other inputs it is resized bilinearly, so that a pixel
        knows its place relative to the frame
    steps: 1: the tail enlarges by 4 at once; 2: by 2 and, after a LeakyReLU, by 2 again
    symmetric: make the embedding its own mirror image, so that only half of it is learned
    attention: number of self-attentions in the bottleneck, one before each of its blocks and the
        remaining ones after them; each has 66,304 parameters

    Raises ValueError for arguments that do not fit together.
    """

    takes_place = True  # forward() may be told which part of a picture it is given
    position: nn.Parameter | None

    def __init__(
        self,
        width: Sequence[int] = (32, 64, 96, 128),
        blocks: Blocks = ((1, 3, 2), 2, (2, 3, 1)),
        position: int = 16,
        steps: int = 1,
        symmetric: bool = False,
        attention: int = 0,
    ) -> None:
        super().__init__()
        _check(width, blocks, steps, attention)
        down, middle, up = blocks
        pairs = list(itertools.pairwise(width))  # channels of (a level, the level below)
        self.stem = nn.Conv2d(3, width[0], 3, padding=1)
        self.encoder = nn.ModuleList(_blocks(a, n) for (a, _), n in zip(pairs, down, strict=True))
        self.down = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairs)
        columns = position // 2 if symmetric else position
        start = torch.zeros(1, width[-1], position, columns)
        self.position = nn.Parameter(start) if position else None
        self.middle = _bottleneck(width[-1], middle, attention)

        # From the bottleneck up. 1x1 convolutions and a pixel shuffle enlarge between the levels.
        pairs.reverse()
        self.up = nn.ModuleList(nn.Conv2d(b, 4 * a, 1, bias=False) for a, b in pairs)
        self.decoder = nn.ModuleList(_blocks(a, n) for (a, _), n in zip(pairs, up, strict=True))
        if steps == 2:
            self.upconv = nn.Conv2d(width[0], 4 * width[0], 3, padding=1)
        self.steps = steps
        self.tail = nn.Conv2d(width[0], 48 if steps == 1 else 12, 3, padding=1)
        start_small(self.tail)

    def forward(self, x: Tensor, place: Tensor | None = None) -> Tensor:
        """[B, 3, h, w] in [0, 1], any h and w -> [B, 3, 4h, 4w] float32, not clamped.

        The output is float32 under autocast, too.

        place: of crops, [B, 4] left, top, width and height as shares of the whole picture
        """
        # Pad to whole pixels of the bottleneck; on the way down keep what the decoder adds again.
        h, w = x.shape[-2:]
        multiple = 2 ** len(self.down)
        y = self.stem(F.pad(x, (0, -w % multiple, 0, -h % multiple), mode='replicate'))
        skips = []
        for blocks, down in zip(self.encoder, self.down, strict=True):
            skips.append(blocks(y))
            y = down(skips[-1])

        # Without the cast a bfloat16 stream would become float32 here.
        if self.position is not None:
            whole = _whole_position(self.position)
            y = y + embedding(whole, y.shape[-2:], place).to(y.dtype)
        y = self.middle(y)

        # Up again. Skips are added, not concatenated: that takes no wider convolutions.
        for up, blocks in zip(self.up, self.decoder, strict=True):
            y = blocks(F.pixel_shuffle(up(y), 2) + skips.pop())
        if self.steps == 2:
            y = F.leaky_relu(F.pixel_shuffle(self.upconv(y), 2), 0.1, inplace=True)
        y = F.pixel_shuffle(self.tail(y), 4 // self.steps)[..., : 4 * h, : 4 * w]
        # The image itself stays float32.
        return y.float() + F.interpolate(x.float(), scale_factor=4, mode='bilinear')


# ---- what other restorers need, too ----


def start_small(tail: nn.Conv2d) -> None:
    """Initialise the last convolution of a restorer so that training starts near bilinear.

    With torch's own initialisation a run would start 3-4 dB below bilinear enlargement.
    """
    nn.init.normal_(tail.weight, std=0.01)
    if tail.bias is not None:
        nn.init.zeros_(tail.bias)


def check_levels(name: str, width: Sequence[int], blocks: Blocks) -> None:
    """Raise ValueError unless `blocks` has an encoder and a decoder entry for each level."""
    down, _, up = blocks
    if not len(down) == len(up) == len(width) - 1:
        raise ValueError(
            f'{name}: {len(width)} widths need {len(width) - 1} encoder and decoder levels; '
            f'blocks is {blocks}'
        )


def _check(width: Sequence[int], blocks: Blocks, steps: int, attention: int) -> None:
    check_levels('UNet', width, blocks)
    if steps not in (1, 2):
        raise ValueError(f'UNet: steps is {steps}, but must be 1 or 2')
    if attention and width[-1] % HEADS:
        raise ValueError(
            f'UNet: a bottleneck of {width[-1]} channels cannot be divided among {HEADS} heads of '
            'attention'
        )


def _whole_position(position: Tensor) -> Tensor:
    """Embedding of both halves."""
    symmetric = position.shape[3] < position.shape[2]
    return torch.cat([position, position.flip(3)], 3) if symmetric else position


def _bottleneck(width: int, blocks: int, attention: int) -> nn.Sequential:
    """Attentions and blocks in turn, then what is left of the longer list."""
    attentions = [Attention(width) for _ in range(attention)]
    pairs = itertools.zip_longest(attentions, _blocks(width, blocks))
    return nn.Sequential(*[layer for pair in pairs for layer in pair if layer is not None])


def _blocks(width: int, n: int) -> nn.Sequential:
    return nn.Sequential(*[Block(width) for _ in range(n)])


class Shape(TypedDict):
    """Arguments that a U-Net's weights determine."""

    width: tuple[int, ...]
    blocks: Blocks
    position: int


def is_unet(weights: Weights) -> bool:
    """Whether the weights belong to one of the U-Nets that restore."""
    return 'stem.weight' in weights and 'down.0.weight' in weights


def shape(weights: Weights, attention: int = 0) -> Shape:
    """Read the arguments back. attention: layers of the bottleneck that are not blocks"""
    levels = range(length(weights, 'down'))
    return Shape(
        width=(len(weights['stem.weight']), *(len(weights[f'down.{n}.weight']) for n in levels)),
        blocks=(
            [length(weights, f'encoder.{n}') for n in levels],
            length(weights, 'middle') - attention,
            [length(weights, f'decoder.{n}') for n in levels],
        ),
        position=weights['position'].shape[2] if 'position' in weights else 0,
    )


# ---- the catalogue, and weights of unknown origin ----


def _rebuild(weights: Weights) -> UNet | None:
    # The other U-Net, FaceUNAF, enlarges in two steps of other names.
    if not is_unet(weights) or 'upconv2.weight' in weights:
        return None
    # An embedding of half as many columns as rows is the symmetric one.
    attention = sum(k.startswith('middle.') and k.endswith('.qkv.weight') for k in weights)
    rows, columns = weights['position'].shape[2:] if 'position' in weights else (0, 0)
    return UNet(
        **shape(weights, attention),
        steps=2 if 'upconv.weight' in weights else 1,
        symmetric=columns < rows,
        attention=attention,
    )


ENTRY = Entry(
    name='unet',
    network=UNet,
    kind='restorer',
    mark='decoder.0.0.conv1.weight',
    rebuild=_rebuild,
    variants=({}, {'steps': 2}, {'attention': 4}),
)
