"""HiFaceGAN (Yang et al., ACM MM 2020): an encoder suppresses what the degradation added, a decoder replenishes what it took away; sizes stay.

The decoder starts from the picture at 1/32 and is modulated at six resolutions by what the encoder found there. Widths 64, 48, 32, 16 and 8 have
130,568,012, 79,873,084, 41,213,740, 14,294,876 and 5,274,868 parameters.
"""

import torch
import torch.nn.functional as F
from torch import nn

from .discriminators import SpectralConv2d, instance_norm

# ---- suppression ----


class LIP(nn.Module):
    """Pooling by 2 in which a pixel counts by its importance, exp(12 sigmoid(logit)) (Gao et al., ICCV 2019); starts as average pooling."""

    def __init__(self, channels):
        super().__init__()
        self.logit = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.scale = nn.Parameter(torch.ones(channels, 1, 1))
        self.shift = nn.Parameter(torch.zeros(channels, 1, 1))
        nn.init.zeros_(self.logit.weight)

    def forward(self, x):
        """x: [B, C, h, w] -> [B, C, ceil(h / 2), ceil(w / 2)], means over windows of 3 x 3, at the border over their part within the picture"""
        logit = instance_norm(self.logit(x).float()) * self.scale + self.shift
        weight = torch.exp(12 * torch.sigmoid(logit))  # up to 1.6e5: not for float16
        return (_window_mean(x.float() * weight) / _window_mean(weight)).to(x.dtype)


# D of the paper: what makes factors of the scores of nine taps, dimension 1.
ADAPT = {
    'softmax': lambda score: 9 * score.softmax(1),
    'sigmoid': torch.sigmoid,
    'relu': torch.relu,
}


class PAC(nn.Module):
    """3 x 3 convolution that every pixel adapts to what is around it (Yang et al., ACM MM 2020; Su et al., CVPR 2019).

        y_i = sum_j K_ij W_(j-i) x_j + bias,   K_ij = D(<q_i, q_j> / sqrt(d) + b_(j-i)),   q = G(x)

    K is one number per pixel and tap: it multiplies the unfolded picture, and W is that of a convolution. A kernel per pixel would be out_channels x channels
    times as large. Outside of the picture x and q are 0. Where K is 1 this is a convolution, and a fresh one is close to that.

    dim:   d, numbers by which pixels are compared
    adapt: D: 'softmax' (times 9), 'sigmoid' or 'relu'
    """

    def __init__(self, channels, out_channels, stride=1, adapt='softmax', dim=16):
        super().__init__()
        self.stride, self.adapt = stride, adapt
        self.conv = _conv(channels, out_channels)
        self.query = nn.Sequential(
            nn.Conv2d(channels, dim, 1), nn.ReLU(inplace=True), nn.Conv2d(dim, dim, 1)
        )
        self.tap = nn.Parameter(
            torch.ones(9, 1, 1)
        )  # 'relu' starts at 1, too, and 'softmax' does not see it
        self.register_buffer(
            'kind', torch.tensor(list(ADAPT).index(adapt))
        )  # so that weights tell what they are for

    def forward(self, x):
        """x: [B, C, h, w] -> [B, out_channels, ceil(h / stride), ceil(w / stride)]; takes memory for 9 C numbers per pixel that comes out"""
        factors = self.factors(x).to(x.dtype).split(1, 1)
        unfolded = torch.cat([x_j * k_j for x_j, k_j in zip(_taps(x, self.stride), factors)], 1)
        weight = (
            self.conv.weight.flatten(2).transpose(1, 2).flatten(1)[..., None, None]
        )  # [out, 9 C, 1, 1]
        return F.conv2d(unfolded, weight, self.conv.bias)

    def factors(self, x):
        """K: [B, C, h, w] -> [B, 9, ceil(h / stride), ceil(w / stride)] float32, taps row by row"""
        taps = _taps(self.query(x).float(), self.stride)
        score = torch.stack(
            [(taps[4] * q_j).sum(1) for q_j in taps], 1
        )  # the middle one is the pixel itself
        return ADAPT[self.adapt](score / taps[4].shape[1] ** 0.5 + self.tap)


# What halves the picture in the encoder.
SUPPRESSION = {
    'lip': lambda a, b: nn.Sequential(LIP(a), _conv(a, b)),
    'pac': lambda a, b: PAC(a, b, stride=2),
    'pac-sigmoid': lambda a, b: PAC(a, b, stride=2, adapt='sigmoid'),
    'pac-relu': lambda a, b: PAC(a, b, stride=2, adapt='relu'),
}


class Encoder(nn.Module):
    """Five halvings, instance-normalised."""

    def __init__(self, width, suppression):
        super().__init__()
        channels = [width * n for n in (1, 2, 4, 8, 16, 16)]
        self.head = _conv(3, width, bias=False)
        self.stages = nn.ModuleList(
            SUPPRESSION[suppression](a, b) for a, b in zip(channels, channels[1:])
        )

    def forward(self, x):
        """x: [B, 3, h, w], multiples of 32 -> six feature maps, from [B, 16 width, h / 32, w / 32] to [B, width, h, w]"""
        *stages, last = self.stages
        found = [F.relu(instance_norm(self.head(x)), inplace=True)]
        for stage in stages:
            found.append(F.relu(instance_norm(stage(found[-1])), inplace=True))
        return [instance_norm(last(found[-1])), *reversed(found)]


# ---- replenishment ----


class SPADE(nn.Module):
    """Instance normalisation whose scale and shift are drawn from a guide, pixel by pixel (Park et al., CVPR 2019).

    The scale is 1 + gamma. HiFaceGAN's authors take gamma alone; it starts so close to 0 that a fresh network's pictures have a spread of 1e-6 and not of 1e-2.
    """

    def __init__(self, channels, guide_channels):
        super().__init__()
        hidden = min(128, channels)
        self.shared = _conv(guide_channels, hidden)
        self.gamma = _conv(hidden, channels, bias=False)
        self.beta = _conv(hidden, channels, bias=False)

    def forward(self, x, guide):
        """x: [B, channels, h, w], guide: [B, guide_channels, h, w] -> like x"""
        hidden = F.relu(self.shared(guide), inplace=True)
        return instance_norm(x) * (1 + self.gamma(hidden)) + self.beta(hidden)


class Block(nn.Module):
    """Two convolutions after guided normalisations, and a skip that has one of its own where channels change."""

    def __init__(self, channels, out_channels, guide_channels):
        super().__init__()
        middle = min(channels, out_channels)
        self.norm1, self.conv1 = SPADE(channels, guide_channels), _spectral(channels, middle, 3)
        self.norm2, self.conv2 = SPADE(middle, guide_channels), _spectral(middle, out_channels, 3)
        self.skip = channels != out_channels
        if self.skip:
            self.norm_skip, self.conv_skip = (
                SPADE(channels, guide_channels),
                _spectral(channels, out_channels, 1, bias=False),
            )

    def forward(self, x, guide):
        y = self.conv1(_leaky(self.norm1(x, guide)))
        y = self.conv2(_leaky(self.norm2(y, guide)))
        return y + (self.conv_skip(self.norm_skip(x, guide)) if self.skip else x)


class HiFaceGAN(nn.Module):
    """A generator that keeps the size: the degraded picture comes enlarged. The defaults have 130,568,012 parameters. Inside, pictures are in [-1, 1].

    suppression: 'lip'; or 'pac', 'pac-sigmoid', 'pac-relu': the encoder halves by pixel-adaptive convolutions
    phase:       0, 1, 2: only up to 1/8, 1/4, 1/2 of the size, to begin a training with; the weights are those of the whole, the ones without use frozen
    residual:    give the degraded picture and what it lacks, of which a fresh network knows nothing: short trainings get further. Not in the paper; not in an earlier phase
    """

    def __init__(self, width=64, suppression='lip', phase=3, residual=False):
        super().__init__()
        if suppression not in SUPPRESSION:
            raise ValueError(
                f'HiFaceGAN: suppression is {suppression!r}; there are: {", ".join(SUPPRESSION)}'
            )
        if phase not in range(4):
            raise ValueError(f'HiFaceGAN: phase is {phase}; 0, 1, 2 and 3 are possible')
        if residual and phase < 3:
            raise ValueError(
                f'HiFaceGAN: phase is {phase}; with residual only the whole network is possible, 3'
            )
        wide, channels, self.phase, self.scale = (
            16 * width,
            [width * n for n in (16, 8, 4, 2, 1)],
            phase,
            1 if phase == 3 else 2.0 ** (phase - 3),
        )
        self.encoder = Encoder(width, suppression)
        self.fc = _conv(3, wide)
        self.bottom = Block(wide, wide, wide)  # at 1/32
        self.middle = nn.ModuleList(Block(wide, wide, wide) for _ in range(2))  # at 1/16
        self.up = nn.ModuleList(Block(a, b, b) for a, b in zip(channels, channels[1:]))
        self.to_rgb = nn.ModuleList(_conv(b, 3) for b in channels[1:])
        self.residual = residual
        if residual:
            self.register_buffer('adds', torch.ones(()))  # so that weights tell
            nn.init.zeros_(self.to_rgb[-1].weight)
        for n, parts in enumerate(zip(self.up, self.to_rgb)):
            parts[0].requires_grad_(n <= phase)
            parts[1].requires_grad_(n == phase)

    def forward(self, x):
        """x: [B, 3, h, w] in [0, 1], any h, w -> [B, 3, h, w] float32 in [0, 1] (residual: not clamped), also under autocast; in an earlier phase
        [B, 3, ceil(h / 8), ceil(w / 8)] etc.

        Inside, sides are multiples of 32. Pictures of 32 x 32 and less are a single pixel at the bottom, which normalisation makes 0.
        """
        given, (h, w) = x, x.shape[-2:]
        x = F.pad(2 * x - 1, (0, -w % 32, 0, -h % 32), mode='replicate')
        lowest, low, *guides = self.encoder(x)
        y = self.fc(F.interpolate(x, (x.shape[2] // 32, x.shape[3] // 32), mode='nearest'))
        y = _double(self.bottom(y, lowest))
        for block in self.middle:
            y = block(y, low)
        for block, guide in zip(self.up[: self.phase + 1], guides):
            y = block(_double(y), guide)
        with torch.autocast(
            x.device.type, enabled=False
        ):  # bfloat16 here would round the image itself
            y = torch.tanh(self.to_rgb[self.phase](_leaky(y.float())))
        part = 2 ** (3 - self.phase)
        y = y[..., : -(-h // part), : -(-w // part)]
        return given.float() + y if self.residual else (1 + y) / 2


def _conv(channels, out_channels, bias=True):
    conv = nn.Conv2d(channels, out_channels, 3, padding=1, bias=bias)
    _start(conv.weight, conv.bias)
    return conv


def _spectral(channels, out_channels, kernel, bias=True):
    return SpectralConv2d(
        channels, out_channels, kernel, padding=kernel // 2, bias=bias, start=_start
    )


def _start(weight, bias):
    nn.init.xavier_normal_(weight, gain=0.02)
    if bias is not None:
        nn.init.zeros_(bias)


def _taps(x, stride):
    """[B, C, h, w] -> what the nine taps of a 3 x 3 convolution see, row by row: 9 x [B, C, ceil(h / stride), ceil(w / stride)], 0 outside of the picture"""
    h, w = x.shape[-2:]
    padded = F.pad(x, (1, 1, 1, 1))
    return [padded[..., v : v + h : stride, u : u + w : stride] for v in range(3) for u in range(3)]


def _window_mean(x):
    return F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)


def _double(x):
    return F.interpolate(x, scale_factor=2, mode='nearest')


def _leaky(x):
    return F.leaky_relu(x, 0.2, inplace=True)
