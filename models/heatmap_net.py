"""A small U-Net that finds landmarks: heatmaps of a face (Tompson et al., NeurIPS 2014; U-Net of Ronneberger et al., 2015; blocks of He et al., 2016)."""

import torch
import torch.nn.functional as F
from torch import nn

from .parse_unet import Block, resized


class HeatmapNet(nn.Module):
    """The defaults have 556,668 parameters.

    points:   maps to find
    width:    channels at 1/fold, half of that, ... of the picture; the last is the bottleneck
    fold:     the picture enters folded, fold x fold pixels as channels of one, and the maps are that much smaller
    position: side in pixels of a learned position embedding at the bottleneck, 0 for none: it tells the left eye from the right one of aligned faces
    """

    def __init__(self, points=28, width=(32, 48, 64, 96), fold=4, position=16):
        super().__init__()
        if len(width) < 2 or fold < 1 or points < 1:
            raise ValueError(
                f'HeatmapNet: {points} points, width {width}, fold {fold}: needs two widths or more, and positive numbers'
            )
        self.points, self.fold = points, fold
        self.enter = nn.Conv2d(3 * fold**2, width[0], 3, padding=1)
        self.encoder = nn.ModuleList(
            Block(before, w) for before, w in zip((width[0], *width), width)
        )
        self.decoder = nn.ModuleList(
            Block(below + w, w) for below, w in reversed(list(zip(width[1:], width)))
        )
        self.head = nn.Conv2d(width[0], points, 1)
        self.position = (
            nn.Parameter(torch.zeros(1, width[-1], position, position)) if position else None
        )

    def forward(self, x):
        """x: [B, 3, H, W] in [0, 1], RGB, any H, W -> [B, points, ceil(H / fold), ceil(W / fold)] float32, about 0 to 1, not clamped; also under autocast."""
        h, w = (-(-side // self.fold) for side in x.shape[2:])
        multiple = self.fold * 2 ** len(self.decoder)
        x = F.pad(x, (0, -x.shape[3] % multiple, 0, -x.shape[2] % multiple), mode='replicate')
        y, skips = self.enter(F.pixel_unshuffle(x - 0.5, self.fold)), []
        for level, block in enumerate(self.encoder):
            y = block(F.max_pool2d(y, 2) if level else y)
            skips.append(y)
        y = skips.pop()
        if self.position is not None:
            y = y + resized(self.position, y.shape[2:]).to(y.dtype)
        for block in self.decoder:
            y = block(
                torch.cat([F.interpolate(y, scale_factor=2, mode='bilinear'), skips.pop()], 1)
            )
        with torch.autocast(
            y.device.type, enabled=False
        ):  # a map of bfloat16 has steps of 1/256 where its peak is to be found
            return self.head(y.float())[..., :h, :w]
