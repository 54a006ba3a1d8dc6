"""FRSNet (Yu et al., TNNLS 2023): a restorer that works at an eighth of the size, but for an enlarging module found by architecture search.

The module's result is folded back to the small size ("redistilled"), so the wide convolutions stay cheap. No image is added at the end.
"""

import torch
import torch.nn.functional as F
from torch import nn

from .rrdbnet import RDB
from .searched import PAPER, Searched

FOLD = 8  # the trunk works at 1/8 of the size


class FRSNet(nn.Module):
    """The defaults have 2,937,155 parameters; the published network (scale=1, spare=True) 2,886,675, of which it uses 2,863,299.

    architecture: {'path': [levels], 'cell': [[edge, operation], ...]} of the enlarging module, see decode; it starts at level 3
    width:  channels of the trunk, a multiple of 8
    growth: channels that each convolution of a dense block adds
    scale:  1, 2 or 4
    spare:  also the weights that the published network has and never uses
    """

    def __init__(self, architecture=PAPER['sr'], width=64, growth=32, scale=4, spare=False):
        super().__init__()
        if scale not in (1, 2, 4) or width % FOLD:
            raise ValueError(
                f'FRSNet: scale is {scale} and width {width}; 1, 2 and 4, and multiples of {FOLD}, are possible'
            )
        self.conv_first = nn.Conv2d(3 * FOLD**2, width, 3, padding=1)
        self.rdb_first = nn.Sequential(*[RDB(width, growth) for _ in range(3)])
        self.sr = Searched(architecture, width // FOLD, start=3, spare=spare)
        self.redistill1 = nn.Conv2d(3 * width * FOLD, width * FOLD, 1)
        self.redistill2 = nn.Conv2d(width * FOLD, width, 1)
        self.rdb_last = nn.Sequential(*[RDB(width, growth) for _ in range(3)])
        self.conv_after = nn.Conv2d(width, width, 3, padding=1)
        self.up = nn.ModuleList(
            nn.Conv2d(width, width, 3, padding=1) for _ in range((FOLD * scale).bit_length() - 1)
        )
        self.conv_hr = nn.Conv2d(width, width, 3, padding=1)
        self.conv_last = nn.Conv2d(width, 3, 3, padding=1)
        self.scale = scale

    def forward(self, x):
        """x: [B, 3, h, w] in [0, 1], any h, w -> [B, 3, scale h, scale w] float32, not clamped; also under autocast."""
        h, w = x.shape[-2:]
        shallow, deep = self.read(pad(x))
        return self.write(self.sr(deep), shallow, deep)[..., : self.scale * h, : self.scale * w]

    def read(self, x):
        """x: [B, 3, 8h, 8w] -> two [B, width, h, w]: after the first convolution, and after the dense blocks"""
        shallow = self.conv_first(F.pixel_unshuffle(x, FOLD))
        return shallow, self.rdb_first(shallow)

    def write(self, y, shallow, deep):
        """y: [B, 3 width / 8, 8h, 8w] large features; shallow, deep: what `read` found -> [B, 3, 8 scale h, 8 scale w] float32"""
        y = deep + self.redistill2(_leaky(self.redistill1(F.pixel_unshuffle(y, FOLD))))
        y = shallow + self.conv_after(self.rdb_last(y))
        for conv in self.up:
            y = _leaky(conv(F.interpolate(y, scale_factor=2, mode='nearest')))
        y = _leaky(self.conv_hr(y))
        with torch.autocast(
            y.device.type, enabled=False
        ):  # no image is added: bfloat16 here would round the image itself
            return self.conv_last(y.float())


def pad(x):
    """[B, C, h, w] -> [B, C, H, W], the next multiples of 8; right and below the last column and row are repeated."""
    h, w = x.shape[-2:]
    return F.pad(x, (0, -w % FOLD, 0, -h % FOLD), mode='replicate')


def _leaky(x):
    return F.leaky_relu(x, 0.2, inplace=True)
