"""Discriminators of ESRGAN (Wang et al., 2018), Real-ESRGAN (Wang et al., 2021) and pix2pixHD (Wang et al., 2018); BasicSR's names where it has them.

They give logits, float32 also under autocast: the loss decides what is to be made of them.
"""

import torch
import torch.nn.functional as F
from torch import nn


class ModifiedVGG(nn.Module):
    """One judgement of a whole picture (Simonyan and Zisserman, 2015; Wang et al., ESRGAN, 2018). 14,499,401 parameters at width 64, 1,061,417 at 16.

    In training a batch is normalised as a whole, so real and fake pictures are to be judged in batches of their own.
    """

    def __init__(self, width=64):
        super().__init__()
        channels = (3, width, 2 * width, 4 * width, 8 * width, 8 * width)
        for n, (a, b) in enumerate(zip(channels, channels[1:])):
            self.add_module(
                f'conv{n}_0', nn.Conv2d(a, b, 3, padding=1, bias=n == 0)
            )  # elsewhere the normalisation would remove a bias
            if n:
                self.add_module(f'bn{n}_0', nn.BatchNorm2d(b))
            self.add_module(f'conv{n}_1', nn.Conv2d(b, b, 4, stride=2, padding=1, bias=False))
            self.add_module(f'bn{n}_1', nn.BatchNorm2d(b))
        self.linear1 = nn.Linear(8 * width * 4 * 4, 100)
        self.linear2 = nn.Linear(100, 1)

    def forward(self, x):
        """x: [B, 3, 128, 128] in [0, 1] -> [B, 1] float32; ValueError for pictures of other sizes."""
        if x.shape[-2:] != (128, 128):
            raise ValueError(
                f'ModifiedVGG judges 128 x 128 pictures only, not {x.shape[-2]} x {x.shape[-1]}'
            )
        y = _leaky(self.conv0_0(x))
        y = _leaky(self.bn0_1(self.conv0_1(y)))
        for n in range(1, 5):
            for part in (f'{n}_0', f'{n}_1'):
                y = _leaky(self.get_submodule(f'bn{part}')(self.get_submodule(f'conv{part}')(y)))
        return self.linear2(_leaky(self.linear1(y.flatten(1)))).float()


class UNetDiscriminatorSN(nn.Module):
    """A judgement of every pixel (Wang et al., Real-ESRGAN, ICCV Workshops 2021). 4,376,897 parameters at width 64, 1,094,817 at 32, 616,057 at 24."""

    def __init__(self, width=64):
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

    def forward(self, x):
        """x: [B, 3, h, w] in [0, 1], any h, w -> [B, 1, h, w] float32"""
        h, w = x.shape[-2:]
        y0 = _leaky(self.conv0(F.pad(x, (0, -w % 8, 0, -h % 8), mode='replicate')))
        y1 = _leaky(self.conv1(y0))
        y2 = _leaky(self.conv2(y1))
        y = _leaky(self.conv3(y2))
        for conv, skip in ((self.conv4, y2), (self.conv5, y1), (self.conv6, y0)):
            y = _leaky(conv(F.interpolate(y, scale_factor=2, mode='bilinear'))) + skip
        y = _leaky(self.conv8(_leaky(self.conv7(y))))
        return self.conv9(y)[..., :h, :w].float()


class MultiscalePatchGAN(nn.Module):
    """Judgements of overlapping patches at full and half resolution (Wang et al., pix2pixHD, CVPR 2018). The defaults have 5,533,826 parameters.

    channels: 6: the degraded picture, enlarged, and the one to be judged; 3: that one alone. Inside, they are in [-1, 1]
    """

    def __init__(self, channels=6, width=64, scales=2):
        super().__init__()
        self.scales = nn.ModuleList(PatchGAN(channels, width) for _ in range(scales))

    def forward(self, x):
        """x: [B, channels, h, w] in [0, 1], both at least 3 x 3 -> per scale a list of five feature maps, the last [B, 1, h', w'] float32 logits"""
        x, found = 2 * x - 1, []
        for n, scale in enumerate(self.scales):
            if n:
                x = F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)
            found.append(scale(x))
        return found


class PatchGAN(nn.Module):
    """One scale (Isola et al., CVPR 2017), with spectral and instance normalisation."""

    def __init__(self, channels, width):
        super().__init__()
        self.conv0 = nn.Conv2d(channels, width, 4, stride=2, padding=2)
        self.conv1 = SpectralConv2d(width, 2 * width, 4, stride=2, padding=2)
        self.conv2 = SpectralConv2d(2 * width, 4 * width, 4, stride=2, padding=2)
        self.conv3 = SpectralConv2d(4 * width, 8 * width, 4, padding=2)
        self.conv4 = nn.Conv2d(8 * width, 1, 4, padding=2)

    def forward(self, x):
        maps = [_leaky(self.conv0(x))]
        for conv in (self.conv1, self.conv2, self.conv3):
            maps.append(_leaky(instance_norm(conv(maps[-1]))))
        return [*maps, self.conv4(maps[-1]).float()]


class SpectralConv2d(nn.Module):
    """Convolution, its weight divided by its largest singular value (Miyato et al., ICLR 2018).

    What torch.nn.utils.spectral_norm makes of a Conv2d, with the same names, but in float32 under autocast, and right before the first step.
    Every forward in training improves the estimate of the singular vectors by one power iteration.

    start: sets weight and bias in place; None: as torch does
    """

    def __init__(self, channels, out_channels, kernel, stride=1, padding=0, bias=False, start=None):
        super().__init__()
        conv = nn.Conv2d(channels, out_channels, kernel, bias=bias)
        if start:
            start(conv.weight, conv.bias)
        self.stride, self.padding, self.weight_orig, self.bias = (
            stride,
            padding,
            conv.weight,
            conv.bias,
        )
        matrix = conv.weight.detach().flatten(1)
        self.register_buffer('weight_u', F.normalize(torch.randn(matrix.shape[0]), dim=0))
        self.register_buffer('weight_v', torch.empty(matrix.shape[1]))
        self.refresh(15)

    def forward(self, x):
        return F.conv2d(x, self.weight(), self.bias, stride=self.stride, padding=self.padding)

    def weight(self):
        """-> [out, in, kernel, kernel] float32 with a largest singular value of 1"""
        with torch.autocast(self.weight_orig.device.type, enabled=False):
            matrix = self.weight_orig.flatten(1)
            if self.training:
                self.refresh()
            u, v = (
                self.weight_u.clone(),
                self.weight_v.clone(),
            )  # the next forward may come before this one's backward
            return self.weight_orig / torch.dot(u, matrix @ v)

    @torch.no_grad()
    def refresh(self, steps=1):
        """Improve the estimate of the singular vectors of the weights as they are now."""
        matrix = self.weight_orig.flatten(1)
        for _ in range(steps):
            self.weight_v.copy_(F.normalize(matrix.T @ self.weight_u, dim=0, eps=1e-12))
            self.weight_u.copy_(F.normalize(matrix @ self.weight_v, dim=0, eps=1e-12))


def instance_norm(x, eps=1e-5):
    """[B, C, h, w] -> the same, every channel of every picture with mean 0 and variance 1; statistics in float32. F.instance_norm would give up channels-last."""
    var, mean = torch.var_mean(x.float(), (2, 3), correction=0, keepdim=True)
    return ((x.float() - mean) * (var + eps).rsqrt()).to(x.dtype)


def _leaky(x):
    return F.leaky_relu(x, 0.2, inplace=True)
