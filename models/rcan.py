"""RCAN (Zhang et al., ECCV 2018): residual blocks with channel attention, in groups; here the bilinear enlargement is added, too."""

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    """x + y * attention, y = conv(ReLU(conv(x))); the attention of a channel depends on the means of all"""

    def __init__(self, width, reduction):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.squeeze = nn.Conv2d(width, width // reduction, 1)
        self.excite = nn.Conv2d(width // reduction, width, 1)

    def forward(self, x):
        y = self.conv2(F.relu(self.conv1(x), inplace=True))
        attention = self.excite(F.relu(self.squeeze(y.mean((2, 3), keepdim=True)), inplace=True))
        return x + y * torch.sigmoid(attention)


class Group(nn.Module):
    """x + conv(blocks(x))"""

    def __init__(self, blocks, width, reduction):
        super().__init__()
        self.blocks = _blocks(blocks, width, reduction)
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        return x + self.conv(self.blocks(x))


class RCAN(nn.Module):
    """4 groups of 6 blocks have 2,270,051 parameters; 20 blocks without groups 1,824,595.

    groups:    0: the blocks follow each other, and only the skip over all of them is left
    blocks:    per group
    reduction: of channels in the attention; ValueError if it leaves none
    """

    def __init__(self, groups=4, blocks=6, width=64, reduction=16):
        super().__init__()
        if not 0 < reduction <= width:
            raise ValueError(f'RCAN: a reduction by {reduction} leaves nothing of {width} channels')
        self.conv_first = nn.Conv2d(3, width, 3, padding=1)
        self.trunk = (
            nn.Sequential(*[Group(blocks, width, reduction) for _ in range(groups)])
            if groups
            else _blocks(blocks, width, reduction)
        )
        self.conv_trunk = nn.Conv2d(width, width, 3, padding=1)
        self.upconv1 = nn.Conv2d(width, 4 * width, 3, padding=1)
        self.upconv2 = nn.Conv2d(width, 4 * width, 3, padding=1)
        self.conv_last = nn.Conv2d(width, 3, 3, padding=1)
        nn.init.normal_(
            self.conv_last.weight, std=0.01
        )  # start at bilinear enlargement: a default tail starts 3-4 dB below
        nn.init.zeros_(self.conv_last.bias)

    def forward(self, x):
        """x: [B, 3, h, w] in [0, 1] -> [B, 3, 4h, 4w] float32, not clamped; also under autocast."""
        y = self.conv_first(x)
        y = y + self.conv_trunk(self.trunk(y))
        y = F.pixel_shuffle(self.upconv1(y), 2)
        y = F.pixel_shuffle(self.upconv2(y), 2)
        return self.conv_last(y).float() + F.interpolate(
            x.float(), scale_factor=4, mode='bilinear'
        )  # the image itself stays float32


def _blocks(n, width, reduction):
    return nn.Sequential(*[Block(width, reduction) for _ in range(n)])
