"""FRSNet (Yu et al., TNNLS 2023): a restorer with a searched enlarging module.

It works at an eighth of the size, except for the enlarging module, whose architecture was found by
search. The module's output is folded back to the small size ("redistilled"), so that the wide
convolutions stay cheap. No image is added at the end.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .decode import Architecture
from .entry import Entry, Weights, length
from .rrdbnet import RDB
from .searched import PAPER, Searched, from_weights

FOLD = 8  # the trunk works at 1/8 of the size


class FRSNet(nn.Module):
    """The defaults have 2,937,155 parameters.

    The published network (scale=1, spare=True) has 2,886,675, of which it uses 2,863,299.

    architecture: {'path': [levels], 'cell': [[edge, operation], ...]} of the enlarging module, see
        decode; it starts at level 3
    width: channels of the trunk, a multiple of 8
    growth: channels that each convolution of a dense block adds
    scale: 1, 2 or 4
    spare: add the weights that the published network has and never uses

    Raises ValueError for other widths and scales.
    """

    sr: nn.Module

    def __init__(
        self,
        architecture: Architecture = PAPER['sr'],
        width: int = 64,
        growth: int = 32,
        scale: int = 4,
        spare: bool = False,
    ) -> None:
        super().__init__()
        if scale not in (1, 2, 4) or width % FOLD:
            raise ValueError(
                f'FRSNet: scale is {scale} and width {width}; the scale must be 1, 2 or 4, and the '
                f'width a multiple of {FOLD}'
            )
        # Small: FOLD x FOLD pixels are the channels of one.
        self.conv_first = nn.Conv2d(3 * FOLD**2, width, 3, padding=1)
        self.rdb_first = nn.Sequential(*[RDB(width, growth) for _ in range(3)])
        # Large, at the size of the input, and back to the small size.
        self.sr = Searched(architecture, width // FOLD, start=3, spare=spare)
        self.redistill1 = nn.Conv2d(3 * width * FOLD, width * FOLD, 1)
        self.redistill2 = nn.Conv2d(width * FOLD, width, 1)
        self.rdb_last = nn.Sequential(*[RDB(width, growth) for _ in range(3)])
        self.conv_after = nn.Conv2d(width, width, 3, padding=1)
        doublings = (FOLD * scale).bit_length() - 1
        self.up = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(doublings))
        self.conv_hr = nn.Conv2d(width, width, 3, padding=1)
        self.conv_last = nn.Conv2d(width, 3, 3, padding=1)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, h, w] in [0, 1], any h and w -> [B, 3, scale h, scale w] float32, not clamped.

        The output is float32 under autocast, too.
        """
        # MFPSNet calls these steps one by one, hence two methods.
        h, w = x.shape[-2:]
        shallow, deep = self.read(pad(x))
        return self.write(self.sr(deep), shallow, deep)[..., : self.scale * h, : self.scale * w]

    def read(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 3, 8h, 8w] -> shallow and deep features, [B, width, h, w] each."""
        shallow = self.conv_first(F.pixel_unshuffle(x, FOLD))
        return shallow, self.rdb_first(shallow)

    def write(self, y: Tensor, shallow: Tensor, deep: Tensor) -> Tensor:
        """Turn features into a picture -> [B, 3, 8 scale h, 8 scale w] float32.

        y: [B, 3 width / 8, 8h, 8w] large features; shallow, deep: what `read` returned
        """
        # Fold the large features back to the small size, and refine them there.
        y = deep + self.redistill2(_leaky(self.redistill1(F.pixel_unshuffle(y, FOLD))))
        y = shallow + self.conv_after(self.rdb_last(y))
        # Three doublings undo the fold, the others enlarge the picture.
        for conv in self.up:
            y = _leaky(conv(F.interpolate(y, scale_factor=2, mode='nearest')))
        y = _leaky(self.conv_hr(y))
        # No image is added, so bfloat16 here would round the image itself.
        with torch.autocast(y.device.type, enabled=False):
            return self.conv_last(y.float())


def pad(x: Tensor) -> Tensor:
    """Repeat the last column and row of [B, C, h, w] up to the next multiples of 8."""
    h, w = x.shape[-2:]
    return F.pad(x, (0, -w % FOLD, 0, -h % FOLD), mode='replicate')


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2, inplace=True)


# ---- the catalogue, and weights of unknown origin ----


def _rebuild(weights: Weights) -> FRSNet | None:
    if ENTRY.mark not in weights:
        return None
    return FRSNet(
        from_weights(weights, 'sr'),
        len(weights['conv_first.weight']),
        len(weights['rdb_first.0.conv1.weight']),
        scale=2 ** (length(weights, 'up') - 3),  # three doublings undo the fold
        spare=length(weights, 'sr.head.spare') > 0,
    )


ENTRY = Entry(
    name='frsnet',
    network=FRSNet,
    kind='restorer',
    mark='sr.path',
    rebuild=_rebuild,
    variants=({}, {'scale': 1, 'spare': True}),
)
