"""RRDBNet (Wang et al., ESRGAN, ECCV Workshops 2018): dense blocks within residual blocks.

It has no normalisation, and BasicSR's parameter names.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .entry import Alias, Entry, Weights, length, substituting

# ---- its parts ----


class RDB(nn.Module):
    """Residual dense block: every convolution takes the input and all maps computed before it."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, growth, 3, padding=1)
        self.conv2 = nn.Conv2d(width + growth, growth, 3, padding=1)
        self.conv3 = nn.Conv2d(width + 2 * growth, growth, 3, padding=1)
        self.conv4 = nn.Conv2d(width + 3 * growth, growth, 3, padding=1)
        self.conv5 = nn.Conv2d(width + 4 * growth, width, 3, padding=1)
        # Small residual branches keep a deep network without normalisation stable.
        for conv in self.children():
            assert isinstance(conv, nn.Conv2d) and conv.bias is not None
            nn.init.kaiming_normal_(conv.weight)
            conv.weight.data.mul_(0.1)
            nn.init.zeros_(conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B, width, h, w] -> the same shape."""
        features = x
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            features = torch.cat([features, _leaky(conv(features))], 1)
        return torch.add(x, self.conv5(features), alpha=0.2)


class RRDB(nn.Module):
    """Three dense blocks in a row, as a residual scaled by 0.2."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.rdb1 = RDB(width, growth)
        self.rdb2 = RDB(width, growth)
        self.rdb3 = RDB(width, growth)

    def forward(self, x: Tensor) -> Tensor:
        """[B, width, h, w] -> the same shape."""
        return torch.add(x, self.rdb3(self.rdb2(self.rdb1(x))), alpha=0.2)


# ---- the network ----


class RRDBNet(nn.Module):
    """The defaults are Real-ESRGAN's x4 network with 16,697,987 parameters.

    A small one with 16 blocks, width 16 and growth 7 has 636,947.

    growth: channels that each convolution of a dense block adds
    """

    def __init__(self, blocks: int = 23, width: int = 64, growth: int = 32) -> None:
        super().__init__()
        self.conv_first = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.Sequential(*[RRDB(width, growth) for _ in range(blocks)])
        self.conv_body = nn.Conv2d(width, width, 3, padding=1)
        self.conv_up1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv_up2 = nn.Conv2d(width, width, 3, padding=1)
        self.conv_hr = nn.Conv2d(width, width, 3, padding=1)
        self.conv_last = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, h, w] in [0, 1] -> [B, 3, 4h, 4w] float32, not clamped; also under autocast."""
        # All blocks work at the size of the input; each enlargement repeats pixels first, which
        # avoids the checkerboards of transposed convolutions.
        y = self.conv_first(x)
        y = y + self.conv_body(self.body(y))
        y = _leaky(self.conv_up1(F.interpolate(y, scale_factor=2, mode='nearest')))
        y = _leaky(self.conv_up2(F.interpolate(y, scale_factor=2, mode='nearest')))
        y = _leaky(self.conv_hr(y))
        # No image is added, so bfloat16 here would round the image itself.
        with torch.autocast(x.device.type, enabled=False):
            return self.conv_last(y.float())


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2, inplace=True)


# ---- the catalogue, and weights of unknown origin ----


def _rebuild(weights: Weights) -> RRDBNet | None:
    if ENTRY.mark not in weights:
        return None
    width, channels = weights['conv_first.weight'].shape[:2]
    if channels in FOLDED:
        raise ValueError(
            f'an RRDBNet of x{FOLDED[channels]}, such as RealESRGAN_x2plus: its first convolution '
            f'takes {channels} channels of a folded picture; this one is of x4 and takes 3'
        )
    growth = len(weights['body.0.rdb1.conv1.weight'])
    return RRDBNet(length(weights, 'body'), width, growth)


# Channels of a picture whose pixels are folded into channels -> scale of the network.
FOLDED = {12: 2, 48: 1}
# Names of the first ESRGAN and of most of its community's models; the last convolutions have other
# numbers where the scale is another.
FIRST = (
    (r'model\.0\.', 'conv_first.'),
    (r'model\.1\.sub\.(\d+)\.RDB(\d)\.conv(\d)\.0\.', r'body.\1.rdb\2.conv\3.'),
    (r'model\.1\.sub\.\d+\.', 'conv_body.'),
    (r'model\.3\.', 'conv_up1.'),
    (r'model\.6\.', 'conv_up2.'),
    (r'model\.8\.', 'conv_hr.'),
    (r'model\.10\.', 'conv_last.'),
)
# Names of RRDB_ESRGAN_x4.pth of 2018.
SECOND = (
    (r'RRDB_trunk\.(\d+)\.RDB(\d)\.', r'body.\1.rdb\2.'),
    (r'trunk_conv\.', 'conv_body.'),
    (r'upconv(\d)\.', r'conv_up\1.'),
    (r'HRconv\.', 'conv_hr.'),
)

ENTRY = Entry(
    name='rrdbnet',
    network=RRDBNet,
    kind='restorer',
    mark='body.0.rdb1.conv1.weight',
    rebuild=_rebuild,
    aliases=(
        Alias('model.1.sub.0.RDB1.conv1.0.weight', substituting(FIRST)),
        Alias('RRDB_trunk.0.RDB1.conv1.weight', substituting(SECOND)),
    ),
    variants=({}, {'blocks': 16, 'width': 16, 'growth': 7}),
)
