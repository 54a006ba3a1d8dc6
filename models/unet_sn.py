"""Discriminator of Real-ESRGAN (Wang et al., ICCV Workshops 2021), with BasicSR's names."""

import torch.nn.functional as F
from torch import Tensor, nn

from .entry import Entry
from .spectral import SpectralConv2d


class UNetDiscriminatorSN(nn.Module):
    """One logit per pixel (Wang et al., Real-ESRGAN, ICCV Workshops 2021).

    4,376,897 parameters at width 64, 1,094,817 at 32, 616,057 at 24.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(3, width, 3, padding=1)
        self.conv1 = SpectralConv2d(width, 2 * width, 4, stride=2, padding=1)
        self.conv2 = SpectralConv2d(2 * width, 4 * width, 4, stride=2, padding=1)
        self.conv3 = SpectralConv2d(4 * width, 8 * width, 4, stride=2, padding=1)
        self.conv4 = SpectralConv2d(8 * width, 4 * width, 3, padding=1)
        self.conv5 = SpectralConv2d(4 * width, 2 * width, 3, padding=1)
        self.conv6 = SpectralConv2d(2 * width, width, 3, padding=1)
        self.conv7 = SpectralConv2d(width, width, 3, padding=1)
        self.conv8 = SpectralConv2d(width, width, 3, padding=1)
        self.conv9 = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, h, w] in [0, 1], any h and w -> [B, 1, h, w] float32 logits."""
        # Down: three halvings, so sides are padded to multiples of 8.
        h, w = x.shape[-2:]
        y0 = _leaky(self.conv0(F.pad(x, (0, -w % 8, 0, -h % 8), mode='replicate')))
        y1 = _leaky(self.conv1(y0))
        y2 = _leaky(self.conv2(y1))
        y = _leaky(self.conv3(y2))

        # Up again; skips are added after the activation, as published.
        for conv, skip in ((self.conv4, y2), (self.conv5, y1), (self.conv6, y0)):
            y = _leaky(conv(F.interpolate(y, scale_factor=2, mode='bilinear'))) + skip
        y = _leaky(self.conv8(_leaky(self.conv7(y))))
        return self.conv9(y)[..., :h, :w].float()


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2, inplace=True)


ENTRY = Entry(
    name='unet_sn',
    network=UNetDiscriminatorSN,
    kind='discriminator',
    mark='conv1.weight_orig',
    variants=({}, {'width': 32}, {'width': 24}),
)
