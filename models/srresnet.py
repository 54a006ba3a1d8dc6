"""SRResNet without normalisation (Ledig et al., CVPR 2017; Wang et al., ESRGAN, 2018).

This is BasicSR's MSRResNet, with the same parameter names.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from .entry import Alias, Entry, Weights, length, substituting

# ---- its parts ----


class Block(nn.Module):
    """Residual block: x + conv(ReLU(conv(x)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, width, h, w] -> the same shape."""
        return x + self.conv2(F.relu(self.conv1(x), inplace=True))


# ---- the network ----


class SRResNet(nn.Module):
    """A flat network: all blocks work at the input's size, and the tail enlarges.

    A bilinear enlargement of the input is added to the output.

    blocks, width: 16 x 64 is the baseline of the challenge (1,517,571 parameters) and 26 x 64 the
        largest network within its budget (2,256,131)
    scale: 2, 3 or 4; anything else raises ValueError
    """

    def __init__(self, blocks: int = 16, width: int = 64, scale: int = 4) -> None:
        super().__init__()
        if scale not in (2, 3, 4):
            raise ValueError(f'SRResNet: scale is {scale}, but must be 2, 3 or 4')
        self.scale = scale
        self.conv_first = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.Sequential(*[Block(width) for _ in range(blocks)])

        # Enlargement by 4 takes two steps of 2; by 2 or 3 it takes one.
        step = 2 if scale == 4 else scale
        self.upconv1 = nn.Conv2d(width, width * step**2, 3, padding=1)
        if scale == 4:
            self.upconv2 = nn.Conv2d(width, width * step**2, 3, padding=1)
        self.conv_hr = nn.Conv2d(width, width, 3, padding=1)
        self.conv_last = nn.Conv2d(width, 3, 3, padding=1)

        # Residual branches start small, so that depth does not blow up the signal (ESRGAN, 3.1).
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d):
                nn.init.kaiming_normal_(conv.weight)
                conv.weight.data.mul_(0.1)
                if conv.bias is not None:
                    nn.init.zeros_(conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, h, w] in [0, 1] -> [B, 3, scale h, scale w] float32, not clamped.

        The output is float32 under autocast, too.
        """
        # All blocks work at the size of the input; pixel shuffles enlarge.
        y = self.body(_leaky(self.conv_first(x)))
        if self.scale == 4:
            y = _leaky(F.pixel_shuffle(self.upconv1(y), 2))
            y = _leaky(F.pixel_shuffle(self.upconv2(y), 2))
        else:
            y = _leaky(F.pixel_shuffle(self.upconv1(y), self.scale))
        y = self.conv_last(_leaky(self.conv_hr(y)))
        # The image itself stays float32. bfloat16 keeps only 8 bits of it, and that rounding error
        # is as large as the errors by which networks are compared.
        return y.float() + F.interpolate(x.float(), scale_factor=self.scale, mode='bilinear')


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.1, inplace=True)


# ---- the catalogue, and weights of unknown origin ----


def _rebuild(weights: Weights) -> SRResNet | None:
    if not {'body.0.conv1.weight', 'conv_first.weight', 'upconv1.weight'} <= weights.keys():
        return None
    # The first enlarging convolution has width x step^2 channels; only x4 has a second one.
    width = len(weights['conv_first.weight'])
    scale = round((len(weights['upconv1.weight']) / width) ** 0.5)
    scale = 4 if 'upconv2.weight' in weights else scale
    return SRResNet(length(weights, 'body'), width, scale)


# Names of the first BasicSR, and of mmediting.
FIRST = ((r'recon_trunk\.', 'body.'), (r'HRconv\.', 'conv_hr.'))
OF_MMEDITING = (
    (r'trunk_net\.', 'body.'),
    (r'upsample(\d)\.upsample_conv\.', r'upconv\1.'),
)

ENTRY = Entry(
    name='srresnet',
    network=SRResNet,
    kind='restorer',
    mark='body.0.conv1.weight',
    rebuild=_rebuild,
    aliases=(
        Alias('recon_trunk.0.conv1.weight', substituting(FIRST)),
        Alias('trunk_net.0.conv1.weight', substituting(OF_MMEDITING)),
    ),
    variants=tuple({'blocks': blocks} for blocks in (16, 20, 24, 26)),
)
