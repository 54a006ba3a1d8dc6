"""A restorer that wants facial priors, together with what makes them of a degraded picture: picture in, picture out, one set of weights."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

FEATURES = (
    2,
    4,
    5,
    6,
    7,
    10,
    11,
    12,
)  # classes of CelebAMask-HQ that are parts of a face: nose, eyes, brows, mouth, lips


class Attended(NamedTuple):
    """What a multi-prior loss needs."""

    passes: list  # [B, 3, H, W] of every pass
    weights: Any  # [B, P] of every prior that is not dropped, None of a network without a gate
    regions: dict  # {prior: [B, 1, h, w] in [0, 1]} where it looks


class Guided(nn.Module):
    """.net, which is trained, and .guides, which are not: their weights are part of the network's, so that a run needs nothing beside its own directory.

    net:     module of (x, {name: [B, channels, h, w]}), with .priors {name: channels}
    guides:  {name: module x [B, 3, h, w] in [0, 1] -> [B, channels, h, w]}, one for each of the priors
    dropped: names of priors that are zeros instead: the network stays the same and learns without them
    attend:  also give what a multi-prior loss needs while it trains; each guide then has .see(x) -> (map, [B, 1, h, w] in [0, 1], where it looks), and the network a gate or none
    """

    def __init__(self, net, guides, dropped=(), attend=False):
        super().__init__()
        if set(guides) != set(net.priors) or set(dropped) - set(guides):
            raise ValueError(
                f'{type(net).__name__} was made for the priors {", ".join(net.priors)}; given are {", ".join(guides) or "none"}'
                + (f', dropped {", ".join(dropped)}' if dropped else '')
            )
        self.net, self.dropped, self.attend = net, tuple(dropped), attend
        self.guides = nn.ModuleDict(guides).requires_grad_(False)
        self.train()

    def train(self, mode=True):
        super().train(mode)
        self.guides.eval()  # whoever trains the network, they stay as they are
        return self

    @property
    def supernet(self):
        return self.net.supernet

    @property
    def part(self):
        return self.net.part

    @property
    def scale(self):
        return self.net.scale

    @torch.no_grad()
    def maps(self, x):
        """x: [B, 3, h, w] in [0, 1] -> {name: [B, channels, h, w]}, without gradients"""
        return {
            name: x.new_zeros(len(x), channels, *x.shape[2:])
            if name in self.dropped
            else self.guides[name](x)
            for name, channels in self.net.priors.items()
        }

    @torch.no_grad()
    def seen(self, x):
        """x as of `maps` -> (the same maps, {name: [B, 1, h, w] in [0, 1]} where those priors look that are not dropped)"""
        found = {
            name: self.guides[name].see(x) for name in self.net.priors if name not in self.dropped
        }
        maps = {
            name: found[name][0] if name in found else x.new_zeros(len(x), channels, *x.shape[2:])
            for name, channels in self.net.priors.items()
        }
        return maps, {name: region for name, (_, region) in found.items()}

    def passes(self, x):
        """x: [B, 3, h, w] in [0, 1] -> [output of every pass], the last one what counts"""
        found = self.net(x, self.maps(x))
        return found if isinstance(found, list) else [found]

    def forward(self, x):
        """x: [B, 3, h, w] in [0, 1] -> [B, 3, scale h, scale w]; while it trains, the list of every pass of a network that has several, or what `attend` asks for"""
        if self.training and self.attend:
            maps, regions = self.seen(x)
            passes, weights = self.net(x, maps, weights=True)
            if (
                weights is not None and self.dropped
            ):  # a prior that looks nowhere would cost nothing
                weights = weights[:, [name in regions for name in self.net.priors]]
                weights = weights / weights.sum(1, keepdim=True).clamp_min(1e-6)
            return Attended(passes, weights, regions)
        found = self.passes(x)
        return found if self.training and len(found) > 1 else found[-1]


class ParsePrior(nn.Module):
    """Probabilities of the parts of a face, as a parser trained on degraded faces sees them.

    parser: picture [B, 3, H, W] -> logits [B, classes, H, W]
    factor: how much larger the faces were that the parser was trained on than the pictures that come
    """

    def __init__(self, parser, factor=1.0):
        super().__init__()
        self.parser = parser
        self._factor = float(factor)  # a GPU is not waited for to read it
        # Known from the weights alone.
        self.register_buffer('factor', torch.tensor(float(factor)))
        self.register_buffer('stride', torch.tensor(getattr(parser, 'stride', 1)))

    def forward(self, x):
        """x: [B, 3, h, w] in [0, 1] -> [B, classes, h, w] float32, sums 1 over the classes"""
        return means(self.parser(enlarged(x, self._factor)).float().softmax(1), sides(x))

    def see(self, x):
        """-> (maps as of `forward`, [B, 1, h, w] 0 or 1: where the parts of a face are, and a little around them)"""
        maps = self(x)
        likely = (maps[:, FEATURES].sum(1, keepdim=True) > 0.5).float()
        reach = max(1, round(3 * x.shape[2] / 128))  # pixels
        return maps, F.max_pool2d(likely, 2 * reach + 1, 1, reach)


class HeatPrior(nn.Module):
    """Heatmaps of landmarks, as a network trained on degraded faces finds them.

    finder: picture [B, 3, H, W] -> maps [B, K, h, w]
    factor: how much larger the faces were that it was trained on than the pictures that come
    """

    def __init__(self, finder, factor=1.0):
        super().__init__()
        self.finder, self._factor = finder, float(factor)

    def forward(self, x):
        """x: [B, 3, h, w] in [0, 1] -> [B, K, h, w] float32, about 0 to 1"""
        return sized(self.finder(enlarged(x, self._factor)), sides(x))

    def see(self, x):
        """-> (maps as of `forward`, [B, 1, h, w] in [0, 1]: their sum)"""
        maps = self(x)
        return maps, maps.sum(1, keepdim=True).clamp(0, 1)


def sides(x):
    """[B, C, h, w] -> [h, w], numbers also where the network is traced: a map that is resized has one size then"""
    return [int(side) for side in x.shape[2:]]


def enlarged(x, factor):
    """Pictures [B, 3, h, w] in [0, 1] -> [B, 3, factor h, factor w], bicubic; as they are where the size stays"""
    size = [round(side * factor) for side in sides(x)]
    return x if sides(x) == size else F.interpolate(x, size, mode='bicubic').clamp(0, 1)


def means(maps, size):
    """Maps [B, C, H, W] -> [B, C, *size]: each value the mean of what it covers"""
    steps = [old // new for old, new in zip(sides(maps), size)]
    if [step * new for step, new in zip(steps, size)] == sides(maps):
        return F.avg_pool2d(maps, steps)  # what follows does the same, but ONNX has no word for it
    return F.interpolate(maps, size, mode='area')


def sized(maps, size):
    """Maps [B, C, H, W] -> [B, C, *size]: means where that is smaller, bilinear where it is larger"""
    if sides(maps) == list(size):
        return maps
    return (
        means(maps, size)
        if maps.shape[2] >= size[0]
        else F.interpolate(maps, size, mode='bilinear')
    )
