"""HiFaceGAN (Yang et al., ACM MM 2020): suppresses degradations, then replenishes details.

The encoder suppresses what the degradation added and the decoder replenishes what it took away; the
size of the picture stays. The decoder starts from the picture at 1/32 of its size and is modulated
at six resolutions by the encoder's feature maps. Widths 64, 48, 32, 16 and 8 have 130,568,012,
79,873,084, 41,213,740, 14,294,876 and 5,274,868 parameters.
"""

import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .entry import Entry, Weights
from .spectral import SpectralConv2d, instance_norm

# ---- suppression ----


class LIP(nn.Module):
    """Local importance pooling by 2 (Gao et al., ICCV 2019); starts as average pooling.

    Each pixel is weighted by its importance, exp(12 sigmoid(logit)).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.logit = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.scale = nn.Parameter(torch.ones(channels, 1, 1))
        self.shift = nn.Parameter(torch.zeros(channels, 1, 1))
        nn.init.zeros_(self.logit.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, C, ceil(h / 2), ceil(w / 2)].

        The means are over windows of 3 x 3, at the border over the part within the picture.
        """
        logit = instance_norm(self.logit(x).float()) * self.scale + self.shift
        weight = torch.exp(12 * torch.sigmoid(logit))  # up to 1.6e5, too large for float16
        return (_window_mean(x.float() * weight) / _window_mean(weight)).to(x.dtype)


# D in the paper: maps the scores of nine taps, dimension 1, to factors.
ADAPT: dict[str, Callable[[Tensor], Tensor]] = {
    'softmax': lambda score: 9 * score.softmax(1),
    'sigmoid': torch.sigmoid,
    'relu': torch.relu,
}


class PAC(nn.Module):
    """3 x 3 convolution that every pixel adapts to its surroundings.

    Yang et al., ACM MM 2020; pixel-adaptive convolution of Su et al., CVPR 2019:

        y_i = sum_j K_ij W_(j-i) x_j + bias,   K_ij = D(<q_i, q_j> / sqrt(d) + b_(j-i)),   q = G(x)

    K is one number per pixel and tap. It multiplies the unfolded picture, to which an ordinary
    convolution's W is then applied; a kernel per pixel would be out_channels x channels times as
    large. Outside the picture x and q are 0. Where K is 1 this is a plain convolution, and at
    initialisation it is close to that.

    dim: d, the number of features by which pixels are compared
    adapt: D: 'softmax' (times 9), 'sigmoid' or 'relu'
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        stride: int = 1,
        adapt: str = 'softmax',
        dim: int = 16,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.adapt = adapt
        self.conv = _conv(channels, out_channels)
        self.query = nn.Sequential(
            nn.Conv2d(channels, dim, 1), nn.ReLU(inplace=True), nn.Conv2d(dim, dim, 1)
        )
        # With ones 'relu' starts at 1, too; 'softmax' does not depend on a common offset.
        self.tap = nn.Parameter(torch.ones(9, 1, 1))
        # A buffer, so that the weights alone determine D.
        self.register_buffer('kind', torch.tensor(list(ADAPT).index(adapt)))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, out_channels, ceil(h / stride), ceil(w / stride)].

        It needs memory for 9 C numbers per output pixel.
        """
        factors = self.factors(x).to(x.dtype).split(1, 1)
        taps = zip(_taps(x, self.stride), factors, strict=True)
        unfolded = torch.cat([x_j * k_j for x_j, k_j in taps], 1)
        # The kernel as a 1 x 1 convolution of the unfolded picture: [out, 9 C, 1, 1].
        weight = self.conv.weight.flatten(2).transpose(1, 2).flatten(1)[..., None, None]
        return F.conv2d(unfolded, weight, self.conv.bias)

    def factors(self, x: Tensor) -> Tensor:
        """K: [B, C, h, w] -> [B, 9, ceil(h / stride), ceil(w / stride)] float32, row by row."""
        taps = _taps(self.query(x).float(), self.stride)
        centre = taps[4]  # the pixel itself
        score = torch.stack([(centre * q_j).sum(1) for q_j in taps], 1)
        return ADAPT[self.adapt](score / centre.shape[1] ** 0.5 + self.tap)


# What halves the picture in the encoder: (channels, out_channels) -> module.
SUPPRESSION: dict[str, Callable[[int, int], nn.Module]] = {
    'lip': lambda a, b: nn.Sequential(LIP(a), _conv(a, b)),
    'pac': lambda a, b: PAC(a, b, stride=2),
    'pac-sigmoid': lambda a, b: PAC(a, b, stride=2, adapt='sigmoid'),
    'pac-relu': lambda a, b: PAC(a, b, stride=2, adapt='relu'),
    'none': lambda a, b: _conv(a, b, stride=2),
}


class Encoder(nn.Module):
    """Five halvings, each followed by instance normalisation."""

    def __init__(self, width: int, suppression: str) -> None:
        super().__init__()
        channels = [width * n for n in (1, 2, 4, 8, 16, 16)]
        self.head = _conv(3, width, bias=False)
        self.stages = nn.ModuleList(
            SUPPRESSION[suppression](a, b) for a, b in itertools.pairwise(channels)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """[B, 3, h, w], sides multiples of 32 -> six feature maps, the smallest first.

        They go from [B, 16 width, h / 32, w / 32] to [B, width, h, w].
        """
        *stages, last = self.stages
        maps = [F.relu(instance_norm(self.head(x)), inplace=True)]
        for stage in stages:
            maps.append(F.relu(instance_norm(stage(maps[-1])), inplace=True))
        return [instance_norm(last(maps[-1])), *reversed(maps)]


# ---- replenishment ----


class SPADE(nn.Module):
    """Instance normalisation with scale and shift from a guide (Park et al., CVPR 2019).

    Scale and shift are computed per pixel, and the scale is 1 + gamma. HiFaceGAN's authors use
    gamma alone, which starts so close to 0 that an untrained network's pictures have a spread of
    1e-6 instead of 1e-2.
    """

    def __init__(self, channels: int, guide_channels: int) -> None:
        super().__init__()
        hidden = min(128, channels)
        self.shared = _conv(guide_channels, hidden)
        self.gamma = _conv(hidden, channels, bias=False)
        self.beta = _conv(hidden, channels, bias=False)

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        """x: [B, channels, h, w], guide: [B, guide_channels, h, w] -> like x."""
        hidden = F.relu(self.shared(guide), inplace=True)
        return instance_norm(x) * (1 + self.gamma(hidden)) + self.beta(hidden)


class Block(nn.Module):
    """Two convolutions after guided normalisations, with a skip.

    The skip has a convolution of its own where the number of channels changes.
    """

    def __init__(self, channels: int, out_channels: int, guide_channels: int) -> None:
        super().__init__()
        middle = min(channels, out_channels)
        self.norm1 = SPADE(channels, guide_channels)
        self.conv1 = _spectral(channels, middle, 3)
        self.norm2 = SPADE(middle, guide_channels)
        self.conv2 = _spectral(middle, out_channels, 3)
        self.skip = channels != out_channels
        if self.skip:
            self.norm_skip = SPADE(channels, guide_channels)
            self.conv_skip = _spectral(channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        """x: [B, channels, h, w], guide: [B, guide_channels, h, w] -> [B, out_channels, h, w]."""
        y = self.conv1(_leaky(self.norm1(x, guide)))
        y = self.conv2(_leaky(self.norm2(y, guide)))
        return y + (self.conv_skip(self.norm_skip(x, guide)) if self.skip else x)


# ---- the network ----


class HiFaceGAN(nn.Module):
    """A generator that keeps the size: the degraded picture comes in enlarged.

    The defaults have 130,568,012 parameters. Inside, pictures are in [-1, 1].

    suppression: 'lip'; or 'pac', 'pac-sigmoid', 'pac-relu': halve by pixel-adaptive convolutions;
        'none': by plain ones, to see what suppression is worth
    phase: 0, 1, 2: stop at 1/8, 1/4, 1/2 of the size, to begin a training with. The weights are
        those of the whole network, and those not in use are frozen. 3: the whole network
    residual: add the output to the degraded picture; the untrained network then returns the latter,
        and short trainings get further. Not in the paper, and only for the whole network

    Raises ValueError for other values.
    """

    def __init__(
        self, width: int = 64, suppression: str = 'lip', phase: int = 3, residual: bool = False
    ) -> None:
        super().__init__()
        _check(suppression, phase, residual)
        self.phase = phase
        # Output / input. It is an integer for the whole network, and so printed.
        self.scale = 1 if phase == 3 else 2.0 ** (phase - 3)
        self.residual = residual
        widest = 16 * width
        self.encoder = Encoder(width, suppression)
        self.fc = _conv(3, widest)
        self.bottom = Block(widest, widest, widest)  # at 1/32
        self.middle = nn.ModuleList(Block(widest, widest, widest) for _ in range(2))  # at 1/16

        # At 1/8, 1/4, 1/2 and the full size; each can end the network, by `to_rgb`.
        pairs = list(itertools.pairwise(width * n for n in (16, 8, 4, 2, 1)))
        self.up = nn.ModuleList(Block(a, b, b) for a, b in pairs)
        outputs = [_conv(b, 3) for _, b in pairs]
        self.to_rgb = nn.ModuleList(outputs)
        if residual:
            self.register_buffer('adds', torch.ones(()))  # so that the weights alone show it
            nn.init.zeros_(outputs[-1].weight)
        for n, (block, output) in enumerate(zip(self.up, outputs, strict=True)):
            block.requires_grad_(n <= phase)
            output.requires_grad_(n == phase)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, h, w] in [0, 1], any h and w -> [B, 3, h, w] float32 in [0, 1].

        The output is float32 under autocast, too. With `residual` it is not clamped; in an earlier
        phase it is [B, 3, ceil(h / 8), ceil(w / 8)] etc. Inside, sides are multiples of 32.
        Pictures of 32 x 32 pixels and less are a single pixel at the bottom, which normalisation
        turns into 0.
        """
        # Encode, and start the decoder from every 32nd pixel.
        h, w = x.shape[-2:]
        padded = F.pad(2 * x - 1, (0, -w % 32, 0, -h % 32), mode='replicate')
        lowest, low, *guides = self.encoder(padded)
        size = (padded.shape[2] // 32, padded.shape[3] // 32)
        y = self.fc(F.interpolate(padded, size, mode='nearest'))

        # Two resolutions that every phase has, then as many as the phase asks for.
        y = _double(self.bottom(y, lowest))
        for block in self.middle:
            y = block(y, low)
        for block, guide in zip(self.up[: self.phase + 1], guides, strict=False):
            y = block(_double(y), guide)

        # In bfloat16 this would round the image itself.
        with torch.autocast(x.device.type, enabled=False):
            y = torch.tanh(self.to_rgb[self.phase](_leaky(y.float())))
        part = 2 ** (3 - self.phase)
        y = y[..., : -(-h // part), : -(-w // part)]
        return x.float() + y if self.residual else (1 + y) / 2


# ---- parts ----


def _check(suppression: str, phase: int, residual: bool) -> None:
    if suppression not in SUPPRESSION:
        raise ValueError(
            f'HiFaceGAN: suppression is {suppression!r}; choose one of: {", ".join(SUPPRESSION)}'
        )
    if phase not in range(4):
        raise ValueError(f'HiFaceGAN: phase is {phase}, but must be 0, 1, 2 or 3')
    if residual and phase < 3:
        raise ValueError(
            f'HiFaceGAN: phase is {phase}; with residual it must be 3, the whole network'
        )


def _conv(channels: int, out_channels: int, bias: bool = True, stride: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(channels, out_channels, 3, stride, padding=1, bias=bias)
    _start(conv.weight, conv.bias)
    return conv


def _spectral(channels: int, out_channels: int, kernel: int, bias: bool = True) -> SpectralConv2d:
    return SpectralConv2d(
        channels, out_channels, kernel, padding=kernel // 2, bias=bias, start=_start
    )


def _start(weight: Tensor, bias: Tensor | None) -> None:
    nn.init.xavier_normal_(weight, gain=0.02)
    if bias is not None:
        nn.init.zeros_(bias)


def _taps(x: Tensor, stride: int) -> list[Tensor]:
    """Inputs of the nine taps of a 3 x 3 convolution, row by row; 0 outside the picture.

    x: [B, C, h, w] -> 9 x [B, C, ceil(h / stride), ceil(w / stride)]
    """
    h, w = x.shape[-2:]
    padded = F.pad(x, (1, 1, 1, 1))
    offsets = itertools.product(range(3), range(3))
    return [padded[..., v : v + h : stride, u : u + w : stride] for v, u in offsets]


def _window_mean(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode='nearest')


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2, inplace=True)


# ---- the catalogue, and weights of unknown origin ----


def _rebuild(weights: Weights) -> HiFaceGAN | None:
    if not {'bottom.norm1.gamma.weight', 'encoder.head.weight'} <= weights.keys():
        return None
    # The pixel-adaptive convolutions store what kind they are; a plain one is the stage itself.
    suppression = 'none' if 'encoder.stages.0.weight' in weights else 'lip'
    if (kind := weights.get('encoder.stages.0.kind')) is not None:
        suppression = ('pac', 'pac-sigmoid', 'pac-relu')[int(kind)]  # as ADAPT has them
    width = len(weights['encoder.head.weight'])
    return HiFaceGAN(width, suppression, residual='adds' in weights)


ENTRY = Entry(
    name='hifacegan',
    network=HiFaceGAN,
    kind='renovator',
    mark='bottom.norm1.gamma.weight',
    rebuild=_rebuild,
    variants=(*({'width': width} for width in (64, 32, 16, 8)), {'suppression': 'pac'}),
)
