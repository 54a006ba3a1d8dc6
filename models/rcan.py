"""RCAN (Zhang et al., ECCV 2018): residual blocks with channel attention, in groups.

Here the bilinear enlargement is added, too.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .entry import Entry, Weights, length
from .unet import start_small

# ---- its parts ----


class Block(nn.Module):
    """Residual block with channel attention: x + y * attention, y = conv(ReLU(conv(x))).

    The attention of each channel depends on the means of all channels.
    """

    def __init__(self, width: int, reduction: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.squeeze = nn.Conv2d(width, width // reduction, 1)
        self.excite = nn.Conv2d(width // reduction, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, width, h, w] -> the same shape."""
        # Squeeze to one number per channel, then let the channels excite each other.
        y = self.conv2(F.relu(self.conv1(x), inplace=True))
        attention = self.excite(F.relu(self.squeeze(y.mean((2, 3), keepdim=True)), inplace=True))
        return x + y * torch.sigmoid(attention)


class Group(nn.Module):
    """Residual group: x + conv(blocks(x))."""

    def __init__(self, blocks: int, width: int, reduction: int) -> None:
        super().__init__()
        self.blocks = _blocks(blocks, width, reduction)
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, width, h, w] -> the same shape."""
        return x + self.conv(self.blocks(x))


# ---- the network ----


class RCAN(nn.Module):
    """4 groups of 6 blocks have 2,270,051 parameters; 20 blocks without groups 1,824,595.

    groups: 0: the blocks follow each other, and only the skip over all of them is left
    blocks: per group
    reduction: of channels in the attention; ValueError if it leaves none
    """

    def __init__(
        self, groups: int = 4, blocks: int = 6, width: int = 64, reduction: int = 16
    ) -> None:
        super().__init__()
        if not 0 < reduction <= width:
            raise ValueError(f'RCAN: a reduction by {reduction} leaves nothing of {width} channels')
        self.conv_first = nn.Conv2d(3, width, 3, padding=1)
        # A flat trunk has fewer convolutions between the blocks, for the same number of blocks.
        if groups:
            self.trunk = nn.Sequential(*[Group(blocks, width, reduction) for _ in range(groups)])
        else:
            self.trunk = _blocks(blocks, width, reduction)
        self.conv_trunk = nn.Conv2d(width, width, 3, padding=1)
        self.upconv1 = nn.Conv2d(width, 4 * width, 3, padding=1)
        self.upconv2 = nn.Conv2d(width, 4 * width, 3, padding=1)
        self.conv_last = nn.Conv2d(width, 3, 3, padding=1)
        start_small(self.conv_last)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, h, w] in [0, 1] -> [B, 3, 4h, 4w] float32, not clamped; also under autocast."""
        # All blocks work at the size of the input; two pixel shuffles enlarge by 2 each.
        y = self.conv_first(x)
        y = y + self.conv_trunk(self.trunk(y))
        y = F.pixel_shuffle(self.upconv1(y), 2)
        y = F.pixel_shuffle(self.upconv2(y), 2)
        # The image itself stays float32.
        enlarged = F.interpolate(x.float(), scale_factor=4, mode='bilinear')
        return self.conv_last(y).float() + enlarged


def _blocks(n: int, width: int, reduction: int) -> nn.Sequential:
    return nn.Sequential(*[Block(width, reduction) for _ in range(n)])


# ---- the catalogue, and weights of unknown origin ----


def _rebuild(weights: Weights) -> RCAN | None:
    if ENTRY.mark not in weights:
        return None
    # Without groups the trunk is a list of blocks, with them a list of lists.
    groups = length(weights, 'trunk') if 'trunk.0.conv.weight' in weights else 0
    blocks = 'trunk.0.blocks' if groups else 'trunk'
    width = len(weights['conv_trunk.weight'])
    squeezed = len(weights[f'{blocks}.0.squeeze.weight'])
    return RCAN(groups, length(weights, blocks), width, width // squeezed)


ENTRY = Entry(
    name='rcan',
    network=RCAN,
    kind='restorer',
    mark='conv_trunk.weight',
    rebuild=_rebuild,
    variants=({}, {'groups': 0, 'blocks': 20}),
)
