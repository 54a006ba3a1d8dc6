"""A restorer that takes facial priors, together with the modules that make them.

The whole maps a picture to a picture and has one set of weights.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Classes of CelebAMask-HQ that are parts of a face: nose, eyes, brows, mouth, lips.
FEATURES = (2, 4, 5, 6, 7, 10, 11, 12)


class Guide(Protocol):
    """A module that makes one prior of degraded pictures [B, 3, h, w] in [0, 1]."""

    def __call__(self, x: Tensor) -> Tensor:
        """Return the prior's map, [B, channels, h, w]."""
        ...

    def map_and_region(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the map, and where the prior applies, [B, 1, h, w] in [0, 1]."""
        ...


class Attended(NamedTuple):
    """What a multi-prior loss needs."""

    # [B, 3, H, W] of every pass.
    passes: list[Tensor]
    # [B, P], one weight for each prior that is not dropped; None of a network without a gate.
    weights: Tensor | None
    # {prior: [B, 1, h, w] in [0, 1]}, where it applies.
    regions: dict[str, Tensor]


# ---- a network and its guides ----


class Guided(nn.Module):
    """A network that is trained (.net) and the guides that make its priors (.guides).

    The guides are not trained, but their weights are among the network's, so that a run needs
    nothing outside its own directory.

    net: module (x, {name: [B, channels, h, w]}) -> picture or list of passes, with .priors
        {name: channels} and .scale
    guides: {name: module x [B, 3, h, w] in [0, 1] -> [B, channels, h, w]}, one for each prior
    dropped: names of priors that are replaced by zeros: the network stays the same and learns
        without them
    attend: in training return what a multi-prior loss needs. Guides must then be a `Guide`, and the
        network must take `weights=True` and return (passes, weights of its gate or None)

    Raises ValueError unless there is a guide for each prior.
    """

    net: Any

    def __init__(
        self,
        net: nn.Module,
        guides: Mapping[str, nn.Module],
        dropped: Iterable[str] = (),
        attend: bool = False,
    ) -> None:
        super().__init__()
        self.net = net
        self.dropped = tuple(dropped)
        self.attend = attend
        self._check(guides)
        self.guides = nn.ModuleDict(guides).requires_grad_(False)
        self.train()

    def _check(self, guides: Mapping[str, nn.Module]) -> None:
        if set(guides) == set(self.net.priors) and set(self.dropped) <= set(guides):
            return
        message = (
            f'{type(self.net).__name__} was made for the priors {", ".join(self.net.priors)}; '
            f'given are {", ".join(guides) or "none"}'
        )
        raise ValueError(message + (f', dropped {", ".join(self.dropped)}' if self.dropped else ''))

    def train(self, mode: bool = True) -> 'Guided':
        """Switch to training, except for the guides, which stay in eval mode."""
        super().train(mode)
        self.guides.eval()
        return self

    @property
    def supernet(self) -> Any:
        """The supernet of a network that is searched."""
        return self.net.supernet

    @property
    def part(self) -> str:
        """The name of what is searched."""
        return self.net.part

    @property
    def scale(self) -> int:
        """Output / input in pixels."""
        return self.net.scale

    @torch.no_grad()
    def maps(self, x: Tensor) -> dict[str, Tensor]:
        """[B, 3, h, w] in [0, 1] -> {name: [B, channels, h, w]}, without gradients."""
        return {
            name: self._zeros(x, name) if name in self.dropped else self.guides[name](x)
            for name in self.net.priors
        }

    @torch.no_grad()
    def maps_and_regions(self, x: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the same maps as `maps`, and where the priors that are not dropped apply.

        The regions are {name: [B, 1, h, w] in [0, 1]}.
        """
        maps = {}
        regions = {}
        for name in self.net.priors:
            if name in self.dropped:
                maps[name] = self._zeros(x, name)
            else:
                guide = cast(Guide, self.guides[name])
                maps[name], regions[name] = guide.map_and_region(x)
        return maps, regions

    def _zeros(self, x: Tensor, name: str) -> Tensor:
        return x.new_zeros(len(x), self.net.priors[name], *x.shape[2:])

    def passes(self, x: Tensor) -> list[Tensor]:
        """[B, 3, h, w] in [0, 1] -> the output of every pass; the last one is the result."""
        passes = self.net(x, self.maps(x))
        return passes if isinstance(passes, list) else [passes]

    def forward(self, x: Tensor) -> Tensor | list[Tensor] | Attended:
        """[B, 3, h, w] in [0, 1] -> [B, 3, scale h, scale w].

        In training: the list of all passes of a network that has several, or `Attended` if
        `attend` asks for it.
        """
        if self.training and self.attend:
            return self._attended(x)
        # A loss on all passes is for training only; everyone else wants the picture.
        passes = self.passes(x)
        return passes if self.training and len(passes) > 1 else passes[-1]

    def _attended(self, x: Tensor) -> Attended:
        maps, regions = self.maps_and_regions(x)
        passes, weights = self.net(x, maps, weights=True)
        # A dropped prior has no region, so weight given to it would be free of cost. The weights of
        # the others are normalised without it.
        if weights is not None and self.dropped:
            weights = weights[:, [name in regions for name in self.net.priors]]
            weights = weights / weights.sum(1, keepdim=True).clamp_min(1e-6)
        return Attended(passes, weights, regions)


# ---- guides ----


class ParsePrior(nn.Module):
    """Probabilities of a face's parts, predicted by a parser that was trained on degraded faces.

    parser: picture [B, 3, H, W] -> logits [B, classes, H, W]
    factor: size of the faces that the parser was trained on, relative to that of the pictures
    """

    factor: Tensor
    stride: Tensor

    def __init__(self, parser: nn.Module, factor: float = 1.0) -> None:
        super().__init__()
        self.parser = parser
        # As a number, too: reading the buffer would wait for the GPU.
        self._factor = float(factor)
        # Buffers, so that the weights alone determine the module.
        self.register_buffer('factor', torch.tensor(float(factor)))
        self.register_buffer('stride', torch.tensor(getattr(parser, 'stride', 1)))

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, h, w] in [0, 1] -> [B, classes, h, w] float32, which sum to 1 over the classes."""
        return means(self.parser(enlarged(x, self._factor)).float().softmax(1), sides(x))

    def map_and_region(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return `forward`, and [B, 1, h, w] 0 or 1: a face's parts and a margin around them."""
        maps = self(x)
        likely = (maps[:, FEATURES].sum(1, keepdim=True) > 0.5).float()
        reach = max(1, round(3 * x.shape[2] / 128))  # pixels
        return maps, F.max_pool2d(likely, 2 * reach + 1, 1, reach)


class HeatPrior(nn.Module):
    """Heatmaps of landmarks, predicted by a network that was trained on degraded faces.

    finder: picture [B, 3, H, W] -> maps [B, K, h, w]
    factor: size of the faces that it was trained on, relative to that of the pictures
    """

    def __init__(self, finder: nn.Module, factor: float = 1.0) -> None:
        super().__init__()
        self.finder = finder
        self._factor = float(factor)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, h, w] in [0, 1] -> [B, K, h, w] float32, about 0 to 1."""
        return sized(self.finder(enlarged(x, self._factor)), sides(x))

    def map_and_region(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return `forward`, and the sum of the maps, [B, 1, h, w] in [0, 1]."""
        maps = self(x)
        return maps, maps.sum(1, keepdim=True).clamp(0, 1)


# ---- sizes ----


def sides(x: Tensor) -> list[int]:
    """Return [h, w] of [B, C, h, w] as plain numbers.

    They are constants also where the network is traced, so that resized maps have one size there.
    """
    return [int(side) for side in x.shape[2:]]


def enlarged(x: Tensor, factor: float) -> Tensor:
    """[B, 3, h, w] in [0, 1] -> [B, 3, factor h, factor w], bicubic; x where the size stays."""
    size = [round(side * factor) for side in sides(x)]
    if sides(x) == size:
        return x
    return F.interpolate(x, size, mode='bicubic').clamp(0, 1)


def means(maps: Tensor, size: Sequence[int]) -> Tensor:
    """[B, C, H, W] -> [B, C, *size]: each value is the mean of what it covers."""
    steps = [old // new for old, new in zip(sides(maps), size, strict=True)]
    whole = [step * new for step, new in zip(steps, size, strict=True)]
    if whole == sides(maps):
        # The same as below, but ONNX has an operator for it.
        return F.avg_pool2d(maps, steps)
    return F.interpolate(maps, size, mode='area')


def sized(maps: Tensor, size: Sequence[int]) -> Tensor:
    """[B, C, H, W] -> [B, C, *size]: means where that is smaller, bilinear where it is larger."""
    if sides(maps) == list(size):
        return maps
    if maps.shape[2] >= size[0]:
        return means(maps, size)
    return F.interpolate(maps, size, mode='bilinear')
