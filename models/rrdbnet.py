"""RRDBNet (Wang et al., ESRGAN, ECCV Workshops 2018): dense blocks within residual blocks, no normalisation; BasicSR's names."""

import torch
import torch.nn.functional as F
from torch import nn


class RDB(nn.Module):
    """Residual dense block: every convolution sees the input and all that was found before it."""

    def __init__(self, width, growth):
        super().__init__()
        self.conv1 = nn.Conv2d(width, growth, 3, padding=1)
        self.conv2 = nn.Conv2d(width + growth, growth, 3, padding=1)
        self.conv3 = nn.Conv2d(width + 2 * growth, growth, 3, padding=1)
        self.conv4 = nn.Conv2d(width + 3 * growth, growth, 3, padding=1)
        self.conv5 = nn.Conv2d(width + 4 * growth, width, 3, padding=1)
        for conv in self.children():
            nn.init.kaiming_normal_(conv.weight)
            conv.weight.data.mul_(0.1)
            nn.init.zeros_(conv.bias)

    def forward(self, x):
        found = x
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            found = torch.cat([found, _leaky(conv(found))], 1)
        return torch.add(x, self.conv5(found), alpha=0.2)


class RRDB(nn.Module):
    """x + 0.2 of three dense blocks in a row"""

    def __init__(self, width, growth):
        super().__init__()
        self.rdb1 = RDB(width, growth)
        self.rdb2 = RDB(width, growth)
        self.rdb3 = RDB(width, growth)

    def forward(self, x):
        return torch.add(x, self.rdb3(self.rdb2(self.rdb1(x))), alpha=0.2)


class RRDBNet(nn.Module):
    """The defaults are Real-ESRGAN's x4 network (16,697,987 parameters); blocks, width, growth = 16, 16, 7 is a small one (636,947).

    growth: channels that each convolution of a dense block adds
    """

    def __init__(self, blocks=23, width=64, growth=32):
        super().__init__()
        self.conv_first = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.Sequential(*[RRDB(width, growth) for _ in range(blocks)])
        self.conv_body = nn.Conv2d(width, width, 3, padding=1)
        self.conv_up1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv_up2 = nn.Conv2d(width, width, 3, padding=1)
        self.conv_hr = nn.Conv2d(width, width, 3, padding=1)
        self.conv_last = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x):
        """x: [B, 3, h, w] in [0, 1] -> [B, 3, 4h, 4w] float32, not clamped; also under autocast."""
        y = self.conv_first(x)
        y = y + self.conv_body(self.body(y))
        y = _leaky(self.conv_up1(F.interpolate(y, scale_factor=2, mode='nearest')))
        y = _leaky(self.conv_up2(F.interpolate(y, scale_factor=2, mode='nearest')))
        y = _leaky(self.conv_hr(y))
        with torch.autocast(
            x.device.type, enabled=False
        ):  # no image is added: bfloat16 here would round the image itself
            return self.conv_last(y.float())


def _leaky(x):
    return F.leaky_relu(x, 0.2, inplace=True)
