"""SwinIR (Liang et al., ICCV Workshops 2021; windows of Swin, Liu et al., ICCV 2021), lightweight tail; here the bilinear enlargement is added, too.

Between the convolutions pictures are [B, h, w, C], which is what channels-last memory holds, so changing between the two is free.
"""

import torch
import torch.nn.functional as F
from torch import nn


class Attention(nn.Module):
    """Self-attention among the pixels of a window, with a learned bias for every offset between two of them."""

    def __init__(self, width, heads, window):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        self.register_buffer('offset', _offsets(window), persistent=False)
        nn.init.normal_(self.table, std=0.02)

    def forward(self, x, mask):
        """x: [B * masks, N, C] windows of N pixels, those of a picture in a row; mask: [masks, 1, N, N], -inf between pixels that may not meet -> as x"""
        groups, (_, pixels, width) = mask.shape[0], x.shape
        size = width // self.heads
        bias = self.table[self.offset].permute(2, 0, 1) + mask  # [masks, heads, N, N]
        qkv = (
            self.qkv(x)
            .view(-1, groups, pixels, 3, self.heads, size)
            .permute(3, 0, 1, 4, 2, 5)
            .flatten(2, 3)
        )
        q, k, v = F.pad(
            qkv, (0, -size % 8)
        )  # fused kernels want sizes in eights; zeros change nothing
        y = F.scaled_dot_product_attention(
            q, k, v, bias.flatten(0, 1).to(q.dtype), scale=size**-0.5
        )[..., :size]
        return self.project(y.unflatten(1, (groups, self.heads)).transpose(2, 3).reshape(x.shape))


class Block(nn.Module):
    """Window attention, then a perceptron per pixel, both residual; in every second block the windows lie half a window further."""

    def __init__(self, width, heads, window, ratio, shift):
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads, window)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, round(width * ratio))
        self.fc2 = nn.Linear(round(width * ratio), width)

    def forward(self, x, mask):
        """x: [B, h, w, C], multiples of the window; mask: [masks, 1, N, N] -> as x"""
        y = (
            torch.roll(self.norm1(x), (-self.shift, -self.shift), (1, 2))
            if self.shift
            else self.norm1(x)
        )
        y = _whole(self.attention(_windows(y, self.window), mask), x.shape, self.window)
        x = x + (torch.roll(y, (self.shift, self.shift), (1, 2)) if self.shift else y)
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Group(nn.Module):
    """x + conv(blocks(x))"""

    def __init__(self, depth, width, heads, window, ratio):
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(width, heads, window, ratio, shift=n % 2 * (window // 2)) for n in range(depth)
        )
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x, masks):
        y = x
        for block in self.blocks:
            y = block(y, masks[block.shift > 0])
        return x + self.conv(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class SwinIR(nn.Module):
    """The defaults have 2,251,758 parameters.

    depths: blocks of each group
    heads:  of the attention; they divide the width
    ratio:  hidden channels of the perceptrons to width
    """

    def __init__(self, width=78, depths=(6,) * 6, heads=6, window=8, ratio=2):
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
        nn.init.normal_(
            self.tail.weight, std=0.001
        )  # start at bilinear enlargement; what comes here is normalised, so larger than elsewhere
        nn.init.zeros_(self.tail.bias)

    def forward(self, x):
        """x: [B, 3, h, w] in [0, 1], any h, w -> [B, 3, 4h, 4w] float32, not clamped; also under autocast."""
        h, w = x.shape[-2:]
        first = self.conv_first(
            F.pad(x, (0, -w % self.window, 0, -h % self.window), mode='replicate')
        )
        masks = [
            _mask(*first.shape[2:], self.window, shift, x.device) for shift in (0, self.window // 2)
        ]
        y = self.norm_first(first.permute(0, 2, 3, 1))
        for group in self.groups:
            y = group(y, masks)
        y = first + self.conv_after_body(self.norm_last(y).permute(0, 3, 1, 2))
        y = F.pixel_shuffle(self.tail(y), 4)[..., : 4 * h, : 4 * w]
        return y.float() + F.interpolate(
            x.float(), scale_factor=4, mode='bilinear'
        )  # the image itself stays float32


def _offsets(window):
    """[N, N] int64: row of the table that belongs to the offset between two of the N pixels of a window"""
    side = torch.arange(window)
    place = torch.cartesian_prod(side, side)
    dy, dx = (place[:, None] - place + window - 1).unbind(-1)
    return dy * (2 * window - 1) + dx


def _mask(h, w, window, shift, device):
    """[masks, 1, N, N] float32: -inf between pixels that only the cyclic shift has brought together; one mask for all windows without a shift"""
    if not shift:
        return torch.zeros(1, 1, window**2, window**2, device=device)
    wrapped = 2 * (torch.arange(h, device=device) >= h - shift)[:, None] + (
        torch.arange(w, device=device) >= w - shift
    )
    side = _windows(wrapped[None, ..., None], window)[..., 0]
    return torch.where(side[:, None, :] == side[:, :, None], 0.0, float('-inf'))[:, None]


def _windows(x, window):
    """[B, h, w, C] -> [B * h/window * w/window, window * window, C]"""
    b, h, w, c = x.shape
    return (
        x.view(b, h // window, window, w // window, window, c)
        .transpose(2, 3)
        .reshape(-1, window * window, c)
    )


def _whole(windows, shape, window):
    """What `_windows` has cut -> [B, h, w, C]"""
    b, h, w, c = shape
    return (
        windows.view(b, h // window, w // window, window, window, c).transpose(2, 3).reshape(shape)
    )
