"""A small U-Net that predicts heatmaps of facial landmarks.

(Tompson et al., NeurIPS 2014; U-Net of Ronneberger et al., 2015; blocks of He et al., 2016)
"""

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .entry import Entry
from .parse_unet import Block
from .position import resized


class HeatmapNet(nn.Module):
    """The defaults have 556,668 parameters.

    points: number of heatmaps
    width: channels at 1/fold, half of that, ... of the picture; the last is the bottleneck's
    fold: the picture enters folded, fold x fold pixels as the channels of one, and the maps are
        smaller by this factor
    position: side in pixels of a learned position embedding at the bottleneck, 0 for none. It tells
        the left eye of aligned faces from the right one

    Raises ValueError unless there are two widths or more, and positive numbers.
    """

    position: nn.Parameter | None

    def __init__(
        self,
        points: int = 28,
        width: Sequence[int] = (32, 48, 64, 96),
        fold: int = 4,
        position: int = 16,
    ) -> None:
        super().__init__()
        if len(width) < 2 or fold < 1 or points < 1:
            raise ValueError(
                f'HeatmapNet: {points} points, width {width}, fold {fold}: there must be two '
                'widths or more, and points and fold must be positive'
            )
        self.points = points
        self.fold = fold
        self.enter = nn.Conv2d(3 * fold**2, width[0], 3, padding=1)
        before = (width[0], *width[:-1])  # channels of the level above
        self.encoder = nn.ModuleList(
            Block(above, w) for above, w in zip(before, width, strict=True)
        )
        # A decoder block takes the enlarged level below and the encoder's map of its own level.
        pairs = reversed(list(itertools.pairwise(width)))
        self.decoder = nn.ModuleList(Block(below + w, w) for w, below in pairs)
        self.head = nn.Conv2d(width[0], points, 1)
        start = torch.zeros(1, width[-1], position, position)
        self.position = nn.Parameter(start) if position else None

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] in [0, 1], RGB -> [B, points, ceil(H / fold), ceil(W / fold)] float32.

        Any H and W will do. Values are about 0 to 1, not clamped, and float32 also under autocast.
        """
        # Down: fold the padded picture, keep the map of every level.
        h, w = (-(-side // self.fold) for side in x.shape[2:])
        multiple = self.fold * 2 ** len(self.decoder)
        x = F.pad(x, (0, -x.shape[3] % multiple, 0, -x.shape[2] % multiple), mode='replicate')
        y = self.enter(F.pixel_unshuffle(x - 0.5, self.fold))
        skips = []
        for level, block in enumerate(self.encoder):
            y = block(F.max_pool2d(y, 2) if level else y)
            skips.append(y)

        # Up again; the bottleneck itself is no skip.
        y = skips.pop()
        if self.position is not None:
            y = y + resized(self.position, y.shape[2:]).to(y.dtype)
        for block in self.decoder:
            enlarged = F.interpolate(y, scale_factor=2, mode='bilinear')
            y = block(torch.cat([enlarged, skips.pop()], 1))
        # A bfloat16 map has steps of 1/256 around its peak, too coarse to locate it.
        with torch.autocast(y.device.type, enabled=False):
            return self.head(y.float())[..., :h, :w]


ENTRY = Entry(name='heatmap_net', network=HeatmapNet, kind='landmarks', variants=({},))
