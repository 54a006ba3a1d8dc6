"""SwinIR (Liang et al., ICCV Workshops 2021; windows of Swin, Liu et al., ICCV 2021).

It has the lightweight tail; here the bilinear enlargement is added, too. Between the convolutions
maps are [B, h, w, C]. That is how channels-last memory holds them, so changing between the two
layouts is free.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .entry import Entry, Weights, length

# ---- its parts ----


class Attention(nn.Module):
    """Self-attention within a window, with a learned bias for every offset between two pixels."""

    offset: Tensor

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        self.register_buffer('offset', _offsets(window), persistent=False)
        nn.init.normal_(self.table, std=0.02)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Attend within each window of N pixels.

        x: [B * masks, N, C] windows, those of one picture in a row; the output has this shape, too
        mask: [masks, 1, N, N], -inf between pixels that must not attend to each other
        """
        groups = mask.shape[0]
        _, pixels, width = x.shape
        size = width // self.heads
        bias = self.table[self.offset].permute(2, 0, 1) + mask  # [masks, heads, N, N]

        # [3, B, masks * heads, N, size]. Fused kernels want sizes that are multiples of 8; padding
        # q, k and v with zeros changes no product.
        qkv = self.qkv(x).view(-1, groups, pixels, 3, self.heads, size)
        qkv = qkv.permute(3, 0, 1, 4, 2, 5).flatten(2, 3)
        q, k, v = F.pad(qkv, (0, -size % 8))
        y = F.scaled_dot_product_attention(
            q, k, v, bias.flatten(0, 1).to(q.dtype), scale=size**-0.5
        )[..., :size]
        return self.project(y.unflatten(1, (groups, self.heads)).transpose(2, 3).reshape(x.shape))


class Block(nn.Module):
    """Window attention, then a perceptron per pixel, both residual.

    shift: how far the windows are moved down and to the right, in pixels: half a window in every
        second block
    """

    def __init__(self, width: int, heads: int, window: int, ratio: float, shift: int) -> None:
        super().__init__()
        self.window = window
        self.shift = shift
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads, window)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, round(width * ratio))
        self.fc2 = nn.Linear(round(width * ratio), width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x: [B, h, w, C], sides multiples of the window; mask: [masks, 1, N, N] -> as x."""
        # A cyclic shift of the picture moves the windows; the mask separates what it joins.
        y = self.norm1(x)
        if self.shift:
            y = torch.roll(y, (-self.shift, -self.shift), (1, 2))
        y = _merge(self.attention(_split(y, self.window), mask), x.shape, self.window)
        if self.shift:
            y = torch.roll(y, (self.shift, self.shift), (1, 2))
        x = x + y
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Group(nn.Module):
    """Residual group: x + conv(blocks(x))."""

    def __init__(self, depth: int, width: int, heads: int, window: int, ratio: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(width, heads, window, ratio, shift=n % 2 * (window // 2)) for n in range(depth)
        )
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor, masks: Sequence[Tensor]) -> Tensor:
        """x: [B, h, w, C]; masks: without and with a shift -> as x."""
        y = x
        for n, block in enumerate(self.blocks):
            y = block(y, masks[n % 2])
        return x + self.conv(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


# ---- the network ----


class SwinIR(nn.Module):
    """The defaults have 2,251,758 parameters.

    depths: blocks of each group
    heads: of the attention; ValueError unless they divide the width
    window: side of a window in pixels
    ratio: hidden channels of the perceptrons, relative to width
    """

    def __init__(
        self,
        width: int = 78,
        depths: Sequence[int] = (6,) * 6,
        heads: int = 6,
        window: int = 8,
        ratio: float = 2,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f'SwinIR: {heads} heads do not divide a width of {width}')
        self.window = window
        self.conv_first = nn.Conv2d(3, width, 3, padding=1)
        self.norm_first = nn.LayerNorm(width)
        self.groups = nn.ModuleList(Group(depth, width, heads, window, ratio) for depth in depths)
        self.norm_last = nn.LayerNorm(width)
        self.conv_after_body = nn.Conv2d(width, width, 3, padding=1)
        self.tail = nn.Conv2d(width, 48, 3, padding=1)
        for linear in self.modules():
            if isinstance(linear, nn.Linear):
                nn.init.normal_(linear.weight, std=0.02)
                nn.init.zeros_(linear.bias)

        # Start at bilinear enlargement. The tail's input is normalised and so larger than in the
        # other networks, hence the smaller deviation.
        nn.init.normal_(self.tail.weight, std=0.001)
        if self.tail.bias is not None:
            nn.init.zeros_(self.tail.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, h, w] in [0, 1], any h and w -> [B, 3, 4h, 4w] float32, not clamped.

        The output is float32 under autocast, too.
        """
        # Pad to whole windows. Shifted windows need a mask of their own.
        h, w = x.shape[-2:]
        padding = (0, -w % self.window, 0, -h % self.window)
        first = self.conv_first(F.pad(x, padding, mode='replicate'))
        shifts = (0, self.window // 2)
        rows, columns = first.shape[2:]
        masks = [_mask(rows, columns, self.window, shift, x.device) for shift in shifts]

        # Blocks work on [B, h, w, C]; two skips pass over all of them.
        y = self.norm_first(first.permute(0, 2, 3, 1))
        for group in self.groups:
            y = group(y, masks)
        y = first + self.conv_after_body(self.norm_last(y).permute(0, 3, 1, 2))
        y = F.pixel_shuffle(self.tail(y), 4)[..., : 4 * h, : 4 * w]
        # The image itself stays float32.
        return y.float() + F.interpolate(x.float(), scale_factor=4, mode='bilinear')


# ---- windows ----


def _offsets(window: int) -> Tensor:
    """[N, N] int64: row of the bias table for the offset between two of a window's N pixels."""
    side = torch.arange(window)
    place = torch.cartesian_prod(side, side)
    dy, dx = (place[:, None] - place + window - 1).unbind(-1)
    return dy * (2 * window - 1) + dx


def _mask(h: int, w: int, window: int, shift: int, device: torch.device | str) -> Tensor:
    """[masks, 1, N, N] float32: -inf between pixels that only the cyclic shift brought together.

    Without a shift all windows share one mask.
    """
    if not shift:
        return torch.zeros(1, 1, window**2, window**2, device=device)
    below = torch.arange(h, device=device) >= h - shift
    right = torch.arange(w, device=device) >= w - shift
    wrapped = 2 * below[:, None] + right  # which of four parts of the picture a pixel came from
    part = _split(wrapped[None, ..., None], window)[..., 0]
    return torch.where(part[:, None, :] == part[:, :, None], 0.0, float('-inf'))[:, None]


def _split(x: Tensor, window: int) -> Tensor:
    """[B, h, w, C] -> [B * h/window * w/window, window * window, C]."""
    b, h, w, c = x.shape
    tiles = x.view(b, h // window, window, w // window, window, c)
    return tiles.transpose(2, 3).reshape(-1, window * window, c)


def _merge(windows: Tensor, shape: torch.Size, window: int) -> Tensor:
    """Put the windows of `_split` together again -> [B, h, w, C] of the given shape."""
    b, h, w, c = shape
    tiles = windows.view(b, h // window, w // window, window, window, c)
    return tiles.transpose(2, 3).reshape(shape)


# ---- the catalogue, and weights of unknown origin ----


def _rebuild(weights: Weights) -> SwinIR | None:
    if ENTRY.mark not in weights:
        return None
    offsets, heads = weights['groups.0.blocks.0.attention.table'].shape
    hidden, width = weights['groups.0.blocks.0.fc1.weight'].shape
    groups = range(length(weights, 'groups'))
    return SwinIR(
        width,
        [length(weights, f'groups.{n}.blocks') for n in groups],
        heads,
        window=(round(offsets**0.5) + 1) // 2,  # a table has (2 window - 1)^2 rows
        ratio=hidden / width,
    )


ENTRY = Entry(
    name='swinir',
    network=SwinIR,
    kind='restorer',
    mark='groups.0.blocks.0.attention.table',
    rebuild=_rebuild,
    variants=({}, {'width': 90, 'depths': (6, 6, 6, 6)}),
)
