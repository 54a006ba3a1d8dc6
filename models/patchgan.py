"""Discriminator of pix2pixHD (Wang et al., CVPR 2018): patches at several resolutions."""

import torch.nn.functional as F
from torch import Tensor, nn

from .entry import Entry
from .spectral import SpectralConv2d, instance_norm


class MultiscalePatchGAN(nn.Module):
    """Logits of patches at full and half resolution (Wang et al., pix2pixHD, CVPR 2018).

    The patches overlap. The defaults have 5,533,826 parameters.

    channels: 6: the enlarged degraded picture and the one to be judged; 3: the latter alone. They
        come in [0, 1] and are mapped to [-1, 1]
    scales: number of resolutions
    """

    def __init__(self, channels: int = 6, width: int = 64, scales: int = 2) -> None:
        super().__init__()
        self.scales = nn.ModuleList(PatchGAN(channels, width) for _ in range(scales))

    def forward(self, x: Tensor) -> list[list[Tensor]]:
        """[B, channels, h, w] in [0, 1], h and w at least 3 -> five feature maps per scale.

        The last map of each scale is the logits, [B, 1, h', w'] float32.
        """
        x = 2 * x - 1
        maps = []
        for n, scale in enumerate(self.scales):
            if n:
                x = F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)
            maps.append(scale(x))
        return maps


class PatchGAN(nn.Module):
    """One scale (Isola et al., CVPR 2017), with spectral and instance normalisation."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(channels, width, 4, stride=2, padding=2)
        self.conv1 = SpectralConv2d(width, 2 * width, 4, stride=2, padding=2)
        self.conv2 = SpectralConv2d(2 * width, 4 * width, 4, stride=2, padding=2)
        self.conv3 = SpectralConv2d(4 * width, 8 * width, 4, padding=2)
        self.conv4 = nn.Conv2d(8 * width, 1, 4, padding=2)

    def forward(self, x: Tensor) -> list[Tensor]:
        """[B, channels, h, w] in [-1, 1] -> four feature maps and the float32 logits."""
        # As published, the first and the last convolution have no normalisation.
        maps = [_leaky(self.conv0(x))]
        for conv in (self.conv1, self.conv2, self.conv3):
            maps.append(_leaky(instance_norm(conv(maps[-1]))))
        return [*maps, self.conv4(maps[-1]).float()]


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2, inplace=True)


ENTRY = Entry(
    name='patchgan',
    network=MultiscalePatchGAN,
    kind='discriminator',
    mark='scales.0.conv1.weight_orig',
    variants=({},),
    channels=6,
)
