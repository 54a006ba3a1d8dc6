"""MFPSNet (Yu et al., TNNLS 2023): FRSNet twice; the second time it sees its own result and the facial priors made for it.

A prior is a map of the size of the input: face parsing, landmark heatmaps, features of the most similar facial components of a dictionary.
"""

import torch
import torch.nn.functional as F
from torch import nn

from .frsnet import FRSNet, pad
from .searched import PAPER, Searched

PRIORS = {'parse': 19, 'heat': 71, 'dict': 256}  # channels


class MFPSNet(nn.Module):
    """The defaults have 17,538,367 parameters; the published network (spare=True) 18,356,043.

    Networks with fewer priors begin with the same FRSNet when made at the same seed, so their first passes are equal.

    architectures: {'sr': architecture, 'fusion': architecture, and one for each prior}
    priors: {name: channels}; 'dict' is looked at alone, others together with the picture; a prior left out has no weights
    scale:  1, 2 or 4; the second pass sees the first one's result at the size of the input
    spare:  also the weights that the published network has and never uses
    gate:   each prior's features count by a weight of its own, which a small network finds from the means of all features, with sum 1; the published code lacks it
    """

    def __init__(self, architectures=PAPER, priors=PRIORS, scale=1, spare=False, gate=False):
        super().__init__()
        self.priors, self.scale = dict(priors), scale
        self.base = FRSNet(architectures['sr'], scale=scale, spare=spare)
        self.enter = nn.ModuleDict(
            {name: entrance(name, channels) for name, channels in self.priors.items()}
        )
        self.features = nn.ModuleDict(
            {name: Searched(architectures[name], spare=spare) for name in priors}
        )
        self.narrow = nn.Conv2d(24, 8, 3, padding=1) if priors else None  # one for all priors
        width = 24 + 8 * len(priors)
        self.fusion = Searched(architectures['fusion'], width, spare=spare)
        self.fuse1 = nn.Conv2d(3 * width, 48, 3, padding=1)
        self.fuse2 = nn.Conv2d(48, 24, 3, padding=1)
        self.gate = (
            nn.Sequential(nn.Linear(width, 16), nn.ReLU(inplace=True), nn.Linear(16, len(priors)))
            if gate and priors
            else None
        )
        if spare:
            self.spare = nn.ModuleList(
                nn.Conv2d(a, b, 3, padding=1) for a, b in ((64, 50), (50, 38), (38, 24))
            )

    def forward(self, x, priors, weights=False):
        """x: [B, 3, h, w] in [0, 1], any h, w; priors: {name: [B, channels, h, w]} -> [first, second] [B, 3, scale h, scale w] float32, not clamped; also under autocast.

        weights: also return what the gate found, [B, P] float32 in the order of the priors; None without a gate
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
        mixed, gated = self._fuse(self.base.sr(deep), seen, priors)
        second = self.base.write(mixed, shallow, deep)
        passes = [y[..., : self.scale * h, : self.scale * w] for y in (first, second)]
        return (passes, gated) if weights else passes

    def _fuse(self, y, seen, priors):
        found = [y]
        for name in self.priors:
            prior = pad(priors[name])
            prior = self.enter[name](prior if name == 'dict' else torch.cat([seen, prior], 1))
            found.append(self.narrow(self.features[name](prior)))
        weights = None
        if self.gate is not None:
            weights = self.gate(torch.cat([y.mean((2, 3)) for y in found], 1)).float().softmax(1)
            found[1:] = [
                y * weights[:, i, None, None, None].to(y.dtype) for i, y in enumerate(found[1:])
            ]
        return self.fuse2(self.fuse1(self.fusion(torch.cat(found, 1)))), weights


def entrance(name, channels):
    """From the channels of a prior, beside the picture's 3, to 8; from those of the dictionary alone, and in three steps: the published code forgets what is between its
    convolutions after the search."""
    if name != 'dict':
        return nn.Conv2d(3 + channels, 8, 3, padding=1)
    return nn.Sequential(
        nn.Conv2d(channels, 174, 3, padding=1),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(174, 90, 3, padding=1),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(90, 8, 3, padding=1),
    )
