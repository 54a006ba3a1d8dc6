"""A restorer that wants facial priors, together with what makes them of a degraded picture: picture in, picture out, one set of weights."""
import torch
import torch.nn.functional as F
from torch import nn


class Guided(nn.Module):
    """.net, which is trained, and .guides, which are not: their weights are part of the network's, so that a run needs nothing beside its own directory.

    net:     module of (x, {name: [B, channels, h, w]}), with .priors {name: channels}
    guides:  {name: module x [B, 3, h, w] in [0, 1] -> [B, channels, h, w]}, one for each of the priors
    dropped: names of priors that are zeros instead: the network stays the same and learns without them
    """

    def __init__(self, net, guides, dropped=()):
        super().__init__()
        if set(guides) != set(net.priors) or set(dropped) - set(guides):
            raise ValueError(f'{type(net).__name__} was made for the priors {", ".join(net.priors)}; given are {", ".join(guides) or "none"}'
                             + (f', dropped {", ".join(dropped)}' if dropped else ''))
        self.net, self.dropped = net, tuple(dropped)
        self.guides = nn.ModuleDict(guides).requires_grad_(False)
        self.train()

    def train(self, mode=True):
        super().train(mode)
        self.guides.eval()                       # whoever trains the network, they stay as they are
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
        return {name: x.new_zeros(len(x), channels, *x.shape[2:]) if name in self.dropped else self.guides[name](x) for name, channels in self.net.priors.items()}

    def passes(self, x):
        """x: [B, 3, h, w] in [0, 1] -> [output of every pass], the last one what counts"""
        found = self.net(x, self.maps(x))
        return found if isinstance(found, list) else [found]

    def forward(self, x):
        """x: [B, 3, h, w] in [0, 1] -> [B, 3, scale h, scale w]; while it trains, the list of every pass of a network that has several"""
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
        self._factor = float(factor)             # a GPU is not waited for to read it
        # Known from the weights alone.
        self.register_buffer('factor', torch.tensor(float(factor)))
        self.register_buffer('stride', torch.tensor(getattr(parser, 'stride', 1)))

    def forward(self, x):
        """x: [B, 3, h, w] in [0, 1] -> [B, classes, h, w] float32, sums 1 over the classes"""
        size = [round(side * self._factor) for side in x.shape[2:]]
        seen = x if list(x.shape[2:]) == size else F.interpolate(x, size, mode='bicubic').clamp(0, 1)
        return F.interpolate(self.parser(seen).float().softmax(1), x.shape[2:], mode='area')
