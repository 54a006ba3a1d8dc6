"""MFPSNet (Yu et al., TNNLS 2023): FRSNet twice, the second time with facial priors.

The second pass takes the first one's result and the priors made for it. A prior is a map of the
input's size: face parsing, landmark heatmaps, or features of the most similar facial components in
a dictionary.
"""

import itertools
import re
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import parse_unet
from .decode import Architecture
from .entry import Entry, Weights, length
from .frsnet import FRSNet, pad
from .guided import Guided, ParsePrior
from .searched import PAPER, Searched, from_weights

PRIORS = {'parse': 19, 'heat': 71, 'dict': 256}  # channels


class MFPSNet(nn.Module):
    """The defaults have 17,538,367 parameters; the published network (spare=True) 18,356,043.

    Networks made with the same seed begin with the same FRSNet, whatever their priors, so that
    their first passes are equal.

    architectures: {'sr': architecture, 'fusion': architecture, and one for each prior}
    priors: {name: channels}; 'dict' is processed alone, the others together with the picture. There
        are no weights for priors that are left out
    scale: 1, 2 or 4; the second pass takes the first one's result at the size of the input
    spare: add the weights that the published network has and never uses
    gate: weight the features of each prior; a small network computes the weights, whose sum is 1,
        from the means of all features. The published code lacks it
    closed: the second pass begins as the first one again: it takes the same features, and adds what
        is fused, each channel multiplied by a weight that starts at 0 (ReZero, Bachlechner et al.,
        UAI 2021). What the priors say can then only be learnt where it helps. The published second
        pass reads the first one's result instead, and begins at random
    """

    fusion: nn.Module
    opening: nn.Parameter | None

    def __init__(
        self,
        architectures: Mapping[str, Architecture] = PAPER,
        priors: Mapping[str, int] = PRIORS,
        scale: int = 1,
        spare: bool = False,
        gate: bool = False,
        closed: bool = False,
    ) -> None:
        super().__init__()
        self.priors = dict(priors)
        self.scale = scale
        self.base = FRSNet(architectures['sr'], scale=scale, spare=spare)

        # Each prior goes to 8 channels, then through its module. One convolution that all priors
        # share takes the module's 24 channels to 8.
        self.enter = nn.ModuleDict(
            {name: entrance(name, channels) for name, channels in self.priors.items()}
        )
        self.features = nn.ModuleDict(
            {name: Searched(architectures[name], spare=spare) for name in priors}
        )
        self.narrow = nn.Conv2d(24, 8, 3, padding=1) if priors else None

        # All features together, then back to the 24 channels that FRSNet writes from.
        width = 24 + 8 * len(priors)
        self.fusion = Searched(architectures['fusion'], width, spare=spare)
        self.fuse1 = nn.Conv2d(3 * width, 48, 3, padding=1)
        self.fuse2 = nn.Conv2d(48, 24, 3, padding=1)
        self.gate = _gate(width, len(priors)) if gate and priors else None
        self.opening = nn.Parameter(torch.zeros(24, 1, 1)) if closed else None
        if spare:
            channels = itertools.pairwise((64, 50, 38, 24))
            self.spare = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in channels)
            self.spare.requires_grad_(False)

    def forward(
        self, x: Tensor, priors: Mapping[str, Tensor], weights: bool = False
    ) -> list[Tensor] | tuple[list[Tensor], Tensor | None]:
        """Restore twice -> [first pass, second pass], [B, 3, scale h, scale w] float32 each.

        They are not clamped, and float32 under autocast, too.

        x: [B, 3, h, w] in [0, 1], any h and w
        priors: {name: [B, channels, h, w]}; ValueError unless they are those of the network
        weights: return (passes, the gate's weights), [B, P] float32 in the order of the priors, or
            None without a gate
        """
        given = {name: prior.shape[1] for name, prior in priors.items()}
        if given != self.priors:
            raise ValueError(f'MFPSNet was made for the priors {self.priors}, not for {given}')
        # The first pass is FRSNet's, without any prior.
        h, w = x.shape[-2:]
        shallow, deep = self.base.read(pad(x))
        y = self.base.sr(deep)
        first = self.base.write(y, shallow, deep)

        # The second pass starts from the first one's result at the size of the input.
        restored = F.avg_pool2d(first, self.scale)
        if self.opening is None:
            shallow, deep = self.base.read(restored)
            y, gated = self._fuse(self.base.sr(deep), restored, priors)
        else:
            # Nothing is read a second time: what is fused is a correction.
            fused, gated = self._fuse(y, restored, priors)
            y = y + self.opening * fused
        second = self.base.write(y, shallow, deep)
        passes = [y[..., : self.scale * h, : self.scale * w] for y in (first, second)]
        return (passes, gated) if weights else passes

    def _fuse(
        self, y: Tensor, restored: Tensor, priors: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor | None]:
        """(the features of FRSNet and of all priors, fused; weights of the gate)."""
        # FRSNet's own features come first; the gate weights those of the priors only.
        features = [y, *(self._prior(name, restored, priors[name]) for name in self.priors)]
        weights = None
        if self.gate is not None:
            pooled = torch.cat([y.mean((2, 3)) for y in features], 1)
            weights = self.gate(pooled).float().softmax(1)
            features[1:] = [
                y * weights[:, i, None, None, None].to(y.dtype) for i, y in enumerate(features[1:])
            ]
        return self.fuse2(self.fuse1(self.fusion(torch.cat(features, 1)))), weights

    def _prior(self, name: str, restored: Tensor, prior: Tensor) -> Tensor:
        """Features of one prior, [B, 8, h, w]."""
        assert self.narrow is not None
        y = self.features[name](self.enter[name](entered(name, restored, pad(prior))))
        return self.narrow(y)


# ---- what the search needs, too ----


def entrance(name: str, channels: int) -> nn.Module:
    """Return the convolutions from a prior's channels to 8.

    Other priors than 'dict' come together with the picture's 3 channels. 'dict' takes three steps;
    after the search the published code loses the activations between its convolutions.
    """
    if name != 'dict':
        return nn.Conv2d(3 + channels, 8, 3, padding=1)
    return nn.Sequential(
        nn.Conv2d(channels, 174, 3, padding=1),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(174, 90, 3, padding=1),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(90, 8, 3, padding=1),
    )


def entered(name: str, picture: Tensor, prior: Tensor) -> Tensor:
    """Input of `entrance`: [B, 3, h, w] and [B, channels, h, w], or the latter alone for 'dict'."""
    return prior if name == 'dict' else torch.cat([picture, prior], 1)


def _gate(width: int, priors: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 16), nn.ReLU(inplace=True), nn.Linear(16, priors))


# ---- the catalogue, and weights of unknown origin ----


def _rebuild(weights: Weights) -> Guided | None:
    """Restore the network together with the parser that makes its prior, as runs save it.

    Raises ValueError for other priors: what they are made with is only known from their run.
    """
    if 'net.base.sr.path' not in weights:
        return None
    names = sorted({m[1] for name in weights if (m := re.match(r'guides\.(\w+)\.', name))})
    if names != ['parse'] or 'guides.parse.parser.head.weight' not in weights:
        raise ValueError(
            f'an MFPSNet with the priors {", ".join(names) or "(none)"}: without the directory of '
            'its run only one with parsing maps of a parse_unet can be rebuilt; give --run'
        )
    # Stride and factor leave no trace in the shapes, so the guide stores them.
    stride = int(weights['guides.parse.stride'])
    parser = parse_unet.from_weights(weights, 'guides.parse.parser.', stride)
    guide = ParsePrior(parser, weights['guides.parse.factor'].item())

    # Each searched module stores its architecture.
    modules = {'sr': 'net.base.sr', 'fusion': 'net.fusion', 'parse': 'net.features.parse'}
    net = MFPSNet(
        {part: from_weights(weights, module) for part, module in modules.items()},
        {'parse': weights['net.enter.parse.weight'].shape[1] - 3},  # the picture takes 3 channels
        scale=2 ** (length(weights, 'net.base.up') - 3),  # three doublings undo the fold
        spare=length(weights, 'net.base.sr.head.spare') > 0,
        gate='net.gate.0.weight' in weights,
        closed='net.opening' in weights,
    )
    return Guided(net, {'parse': guide})


ENTRY = Entry(
    name='mfpsnet',
    network=MFPSNet,
    kind='guided',
    mark='base.sr.path',
    rebuild=_rebuild,
    variants=({}, {'spare': True}),
)
