"""MFPSNet (Yu et al., TNNLS 2023): FRSNet twice; the second time it sees its own result and the facial priors made for it.

A prior is a map of the size of the input: face parsing, landmark heatmaps, features of the most similar facial components of a dictionary.
"""
import torch
import torch.nn.functional as F
from torch import nn

from .frsnet import FRSNet, pad
from .searched import PAPER, Searched

PRIORS = {'parse': 19, 'heat': 71, 'dict': 256}      # channels


class MFPSNet(nn.Module):
    """The defaults have 17,538,367 parameters; the published network (spare=True) 18,356,043.

    Networks with fewer priors begin with the same FRSNet when made at the same seed, so their first passes are equal.

    architectures: {'sr': architecture, 'fusion': architecture, and one for each prior}
    priors: {name: channels}; 'dict' is looked at alone, others together with the picture; a prior left out has no weights
    scale:  1, 2 or 4; the second pass sees the first one's result at the size of the input
    spare:  also the weights that the published network has and never uses
    """

    def __init__(self, architectures=PAPER, priors=PRIORS, scale=1, spare=False):
        super().__init__()
        self.priors, self.scale = dict(priors), scale
        self.base = FRSNet(architectures['sr'], scale=scale, spare=spare)
        self.enter = nn.ModuleDict({name: entrance(name, channels) for name, channels in self.priors.items()})
        self.features = nn.ModuleDict({name: Searched(architectures[name], spare=spare) for name in priors})
        self.narrow = nn.Conv2d(24, 8, 3, padding=1) if priors else None      # one for all priors
        width = 24 + 8 * len(priors)
        self.fusion = Searched(architectures['fusion'], width, spare=spare)
        self.fuse1 = nn.Conv2d(3 * width, 48, 3, padding=1)
        self.fuse2 = nn.Conv2d(48, 24, 3, padding=1)
        if spare:
            self.spare = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in ((64, 50), (50, 38), (38, 24)))

    def forward(self, x, priors):
        """x: [B, 3, h, w] in [0, 1], any h, w; priors: {name: [B, channels, h, w]} -> [first, second] [B, 3, scale h, scale w] float32, not clamped; also under autocast.

        ValueError where the priors are not those that the network was made for.
        """
        given = {name: prior.shape[1] for name, prior in priors.items()}
        if given != self.priors:
            raise ValueError(f'MFPSNet was made for the priors {self.priors}, not for {given}')
        h, w = x.shape[-2:]
        shallow, deep = self.base.read(pad(x))
        first = self.base.write(self.base.sr(deep), shallow, deep)

        seen = F.avg_pool2d(first, self.scale)
        shallow, deep = self.base.read(seen)
        second = self.base.write(self._fuse(self.base.sr(deep), seen, priors), shallow, deep)
        return [y[..., :self.scale * h, :self.scale * w] for y in (first, second)]

    def _fuse(self, y, seen, priors):
        found = [y]
        for name in self.priors:
            prior = pad(priors[name])
            prior = self.enter[name](prior if name == 'dict' else torch.cat([seen, prior], 1))
            found.append(self.narrow(self.features[name](prior)))
        return self.fuse2(self.fuse1(self.fusion(torch.cat(found, 1))))


def entrance(name, channels):
    """From the channels of a prior, beside the picture's 3, to 8; from those of the dictionary alone, and in three steps: the published code forgets what is between its
    convolutions after the search."""
    if name != 'dict':
        return nn.Conv2d(3 + channels, 8, 3, padding=1)
    return nn.Sequential(nn.Conv2d(channels, 174, 3, padding=1), nn.LeakyReLU(0.2, inplace=True), nn.Conv2d(174, 90, 3, padding=1), nn.LeakyReLU(0.2, inplace=True),
                         nn.Conv2d(90, 8, 3, padding=1))
