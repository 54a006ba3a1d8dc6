"""Search of the module of one facial prior (Yu et al., TNNLS 2023)."""

import itertools
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .entry import Entry
from .frsnet import FRSNet, pad
from .mfpsnet import PRIORS, entered, entrance
from .supernet import AutoPrior


class SearchPrior(nn.Module):
    """FRSNet with one prior, whose module is a supernet of 8 channels.

    A plain enlarging branch of three convolutions takes the place of FRSNet's searched module.

    priors: {name: channels} of one prior, ValueError for more
    layers, arriving: of the supernet; the rest as of FRSNet
    """

    def __init__(
        self,
        priors: Mapping[str, int] | tuple[tuple[str, int], ...] = (('parse', PRIORS['parse']),),
        width: int = 64,
        growth: int = 32,
        scale: int = 1,
        layers: int = 6,
        arriving: bool = False,
    ) -> None:
        super().__init__()
        self.priors = dict(priors)
        self.scale = scale
        if len(self.priors) != 1:
            raise ValueError(
                'SearchPrior searches the module of one prior at a time; given are '
                f'{", ".join(self.priors) or "none"}'
            )
        (self.part,) = self.priors
        # FRSNet's module is made and removed, so that all else is initialised as in FRSNet.
        self.base = FRSNet(width=width, growth=growth, scale=scale)
        del self.base.sr
        out = 3 * width // 8
        channels = itertools.pairwise((width, 50, 38, out))
        self.branch = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in channels)
        self.enter = entrance(self.part, self.priors[self.part])
        self.features = AutoPrior(8, layers, arriving=arriving)
        self.fuse = nn.Conv2d(out + 24, out, 3, padding=1)

    @property
    def supernet(self) -> AutoPrior:
        """The module that is searched."""
        return self.features

    def forward(self, x: Tensor, priors: Mapping[str, Tensor]) -> Tensor:
        """Restore once -> [B, 3, scale h, scale w] float32, not clamped.

        x: [B, 3, h, w] in [0, 1], any h and w; priors: {name: [B, channels, h, w]}
        """
        # The branch undoes FRSNet's fold by 8.
        h, w = x.shape[-2:]
        x = pad(x)
        shallow, deep = self.base.read(x)
        y = deep
        for conv in self.branch:
            y = conv(F.interpolate(y, scale_factor=2, mode='nearest'))
            y = F.leaky_relu(y, 0.2, inplace=True)

        prior = self.features(self.enter(entered(self.part, x, pad(priors[self.part]))))
        y = self.base.write(self.fuse(torch.cat([y, prior], 1)), shallow, deep)
        return y[..., : self.scale * h, : self.scale * w]


ENTRY = Entry(name='search_prior', network=SearchPrior, kind='search')
