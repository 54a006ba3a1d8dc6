"""SRResNet without normalisation (Ledig et al., CVPR 2017; Wang et al., ESRGAN, 2018): BasicSR's MSRResNet, with its names."""

import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    """x + conv(ReLU(conv(x)))"""

    def __init__(self, width):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        return x + self.conv2(F.relu(self.conv1(x), inplace=True))


class SRResNet(nn.Module):
    """A flat network: all blocks work at the size of the input, the tail enlarges, a bilinear enlargement of the input is added.

    blocks, width: 16 x 64 is the baseline of the challenge (1,517,571 parameters), 26 x 64 the largest in its budget (2,256,131)
    scale: 2, 3 or 4
    """

    def __init__(self, blocks=16, width=64, scale=4):
        super().__init__()
        if scale not in (2, 3, 4):
            raise ValueError(f'SRResNet: scale is {scale}; 2, 3 and 4 are possible')
        self.scale = scale
        self.conv_first = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.Sequential(*[Block(width) for _ in range(blocks)])
        step = 2 if scale == 4 else scale
        self.upconv1 = nn.Conv2d(width, width * step**2, 3, padding=1)
        if scale == 4:
            self.upconv2 = nn.Conv2d(width, width * step**2, 3, padding=1)
        self.conv_hr = nn.Conv2d(width, width, 3, padding=1)
        self.conv_last = nn.Conv2d(width, 3, 3, padding=1)
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d):
                nn.init.kaiming_normal_(conv.weight)
                conv.weight.data.mul_(
                    0.1
                )  # residual branches start small, so depth does not blow up the signal
                nn.init.zeros_(conv.bias)

    def forward(self, x):
        """x: [B, 3, h, w] in [0, 1] -> [B, 3, scale h, scale w] float32, not clamped; also under autocast."""
        y = self.body(_leaky(self.conv_first(x)))
        if self.scale == 4:
            y = _leaky(F.pixel_shuffle(self.upconv1(y), 2))
            y = _leaky(F.pixel_shuffle(self.upconv2(y), 2))
        else:
            y = _leaky(F.pixel_shuffle(self.upconv1(y), self.scale))
        y = self.conv_last(_leaky(self.conv_hr(y)))
        # The image itself stays float32: bfloat16 has 8 bits of it, which is the error the network is to be measured by.
        return y.float() + F.interpolate(x.float(), scale_factor=self.scale, mode='bilinear')


def _leaky(x):
    return F.leaky_relu(x, 0.1, inplace=True)
