"""Networks in which an architecture is searched (Yu et al., TNNLS 2023): one module at a time is a supernet, everything around it stands."""

import torch
import torch.nn.functional as F
from torch import nn

from .frsnet import FRSNet, pad
from .mfpsnet import PRIORS, MFPSNet, entrance
from .searched import PAPER
from .supernet import AutoPrior, AutoSR

# Each has .part, the name of what is searched in an architecture, and .supernet.


class SearchSR(FRSNet):
    """FRSNet whose enlarging module is searched. width, growth, scale: as of FRSNet; layers: of the supernet"""

    part = 'sr'

    def __init__(self, width=64, growth=32, scale=1, layers=6):
        super().__init__(width=width, growth=growth, scale=scale)
        self.sr = AutoSR(width, layers)

    @property
    def supernet(self):
        return self.sr


class SearchPrior(nn.Module):
    """The module of one prior is searched, beside a plain enlarging branch of three convolutions instead of a found one.

    priors: {name: channels} of one prior; channels of its supernet: 8; the rest as of FRSNet
    """

    def __init__(
        self, priors=(('parse', PRIORS['parse']),), width=64, growth=32, scale=1, layers=6
    ):
        super().__init__()
        self.priors, self.scale = dict(priors), scale
        if len(self.priors) != 1:
            raise ValueError(
                f'SearchPrior searches the module of one prior at a time, not of {", ".join(self.priors) or "none"}'
            )
        (self.part,) = self.priors
        self.base = FRSNet(width=width, growth=growth, scale=scale)
        del self.base.sr  # the branch below stands for it
        out = 3 * width // 8
        self.branch = nn.ModuleList(
            nn.Conv2d(a, b, 3, padding=1) for a, b in ((width, 50), (50, 38), (38, out))
        )
        self.enter = entrance(self.part, self.priors[self.part])
        self.features = AutoPrior(8, layers)
        self.fuse = nn.Conv2d(out + 24, out, 3, padding=1)

    @property
    def supernet(self):
        return self.features

    def forward(self, x, priors):
        """x: [B, 3, h, w] in [0, 1], any h, w; priors: {name: [B, channels, h, w]} -> [B, 3, scale h, scale w] float32, not clamped."""
        h, w = x.shape[-2:]
        seen, prior = pad(x), pad(priors[self.part])
        shallow, deep = self.base.read(seen)
        y = deep
        for conv in self.branch:
            y = F.leaky_relu(
                conv(F.interpolate(y, scale_factor=2, mode='nearest')), 0.2, inplace=True
            )
        prior = self.features(
            self.enter(prior if self.part == 'dict' else torch.cat([seen, prior], 1))
        )
        return self.base.write(self.fuse(torch.cat([y, prior], 1)), shallow, deep)[
            ..., : self.scale * h, : self.scale * w
        ]


class SearchFusion(MFPSNet):
    """MFPSNet whose fusion is searched, all other modules being as `architectures` says.

    width:  channels of the supernet, by default those that come in: 24 and 8 for every prior, as published, which takes 540 million weights for three priors; what is
            found does not depend on it, so 8 or 16 search in a thirtieth or a tenth of the time
    layers: of the supernet
    """

    part = 'fusion'

    def __init__(self, architectures=PAPER, priors=PRIORS, scale=1, width=None, layers=6):
        super().__init__(architectures, priors, scale)
        before = 24 + 8 * len(self.priors)
        width = width or before
        narrow, widen = (
            nn.Conv2d(a, b, 1) if width != before else nn.Identity()
            for a, b in ((before, width), (3 * width, 3 * before))
        )
        self.fusion = nn.Sequential(narrow, AutoPrior(width, layers), widen)

    @property
    def supernet(self):
        return self.fusion[1]
