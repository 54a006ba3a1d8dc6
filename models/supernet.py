"""Search space of FRSNet and MFPSNet: all paths and operations at once, each with a weight.

Yu et al., TNNLS 2023; Liu et al., Auto-DeepLab, CVPR 2019. Every layer has a cell at each level
that can be reached. A cell takes up to three levels of the layer before; it is evaluated once for
each of them, with the same operations, and the results are added with the weights of those ways.
Its second input is the output of its own level two layers before, where there is one.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from . import decode
from .searched import ConvNorm, Head, level_sizes, operation, resize, total

# ---- its parts ----


class MixedCell(nn.Module):
    """A cell whose edges all carry all operations, each with a weight.

    width: channels of a node
    sources: {level of the layer before: channels of its output}
    remembers: whether there is an output of this level two layers before; without it the edges from
        there do not exist
    """

    def __init__(self, width: int, sources: Mapping[int, int], remembers: bool) -> None:
        super().__init__()
        self.enter = nn.ModuleDict(
            {str(level): ConvNorm(channels, width, 1) for level, channels in sources.items()}
        )
        self.remember = ConvNorm(decode.NODES * width, width, 1) if remembers else None
        kinds = range(len(decode.OPERATIONS))
        self.edges = nn.ModuleDict(
            {
                str(edge): nn.ModuleList(operation(kind, width) for kind in kinds)
                for edge, (_, source) in enumerate(decode.EDGES)
                if source or remembers
            }
        )

    def forward(
        self,
        before: Tensor | None,
        last: Mapping[int, Tensor],
        alpha: Tensor,
        size: tuple[int, int],
    ) -> dict[int, Tensor]:
        """Evaluate the cell once per source -> {level: [B, 3 width, *size]}.

        before: [B, 3 width, *size] or None; last: {level: [B, C, h, w]}; alpha: [9, 4] weights
        """
        # The older input is the same for all sources, so it is convolved once.
        memory = None if self.remember is None else self.remember(before)
        return {
            int(level): self._nodes(memory, enter(resize(last[int(level)], size)), alpha)
            for level, enter in self.enter.items()
        }

    def _nodes(self, memory: Tensor | None, y: Tensor, alpha: Tensor) -> Tensor:
        maps = {1: y} if memory is None else {0: memory, 1: y}  # by number of the source
        for node in range(decode.NODES):
            maps[2 + node] = total(
                self._mixed(edge, maps[source], alpha[edge])
                for edge, (end, source) in enumerate(decode.EDGES)
                if end == node and source in maps
            )
        return torch.cat([maps[2 + node] for node in range(decode.NODES)], 1)

    def _mixed(self, edge: int, y: Tensor, weights: Tensor) -> Tensor:
        operations: Any = self.edges[str(edge)]
        return total(weight * op(y) for weight, op in zip(weights, operations, strict=True))


# ---- supernets ----


class Supernet(nn.Module):
    """All architectures of `layers` layers that start at one level.

    .alpha, .beta and .ends are what is searched; all other parameters are weights of the network.
    .temperature, a buffer, divides them before they become weights: 1 as published; towards 0 the
    greatest weight of each choice goes towards 1.

    width: channels of a node at full resolution; level l has 2^l times as many
    start: level of the input
    spare: add the weights that the published network has and never uses
    arriving: compare the ways into a level, and the levels at the end, see decode.arriving; the
        published search compares the ways out of a level, and all levels at the end count alike
    """

    temperature: Tensor
    ends: nn.Parameter | None

    def __init__(
        self,
        width: int,
        start: int,
        layers: int = 6,
        spare: bool = False,
        arriving: bool = False,
    ) -> None:
        super().__init__()
        self.start = start
        self.register_buffer('temperature', torch.tensor(1.0))
        self.stem = ConvNorm(width << start, decode.NODES * width << start, 3)
        self.layers = nn.ModuleList(self._layer(width, layer) for layer in range(layers))
        self.head = Head(width, max(decode.levels(layers - 1, start)), spare)
        # All but equal, so that the search starts undecided and without ties.
        self.alpha = nn.Parameter(1e-3 * torch.randn(len(decode.EDGES), len(decode.OPERATIONS)))
        self.beta = nn.Parameter(1e-3 * torch.randn(layers, decode.LEVELS, 3))
        self.ends = nn.Parameter(1e-3 * torch.randn(decode.LEVELS)) if arriving else None

    def _layer(self, width: int, layer: int) -> nn.ModuleDict:
        reached = decode.levels(layer, self.start)
        return nn.ModuleDict({str(level): self._cell(width, layer, level) for level in reached})

    def _cell(self, width: int, layer: int, level: int) -> MixedCell:
        # Ways lead at most one level up or down.
        sources = {
            source: decode.NODES * width << source
            for source in decode.levels(layer - 1, self.start)
            if abs(source - level) <= 1
        }
        remembers = layer > 0 and level in decode.levels(layer - 2, self.start)
        return MixedCell(width << level, sources, remembers)

    def forward(self, x: Tensor) -> Tensor:
        """[B, width 2^start, h, w] -> [B, 3 width, 2^start h, 2^start w].

        ValueError where the sides at full resolution are no multiples of 8.
        """
        return self.mix(x, *self.weights())

    def weights(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Weights of the operations [9, 4], the ways [L, 4, 3] and, where they are compared, the
        levels at the end [4].
        """
        t = self.temperature
        alpha, beta = decode.normalise(self.alpha / t, self.beta / t, self.start)
        if self.ends is None:
            return alpha, beta, None
        return alpha, *decode.arriving(self.beta / t, self.ends / t, self.start)

    def mix(self, x: Tensor, alpha: Tensor, beta: Tensor, ends: Tensor | None = None) -> Tensor:
        """Compute `forward` with given weights, see `weights`."""
        sizes = level_sizes(x, self.start)
        before: dict[int, Tensor] = {}
        last = {self.start: self.stem(x)}
        for layer, ways in zip(self.layers, beta, strict=True):
            before, last = last, self._mix_layer(layer, before, last, alpha, ways, sizes)
        return self.head(last, sizes, ends)

    @staticmethod
    def _mix_layer(
        cells: Any,
        before: Mapping[int, Tensor],
        last: Mapping[int, Tensor],
        alpha: Tensor,
        ways: Tensor,
        sizes: list[tuple[int, int]],
    ) -> dict[int, Tensor]:
        """Outputs of one layer by level. cells: the layer's ModuleDict; ways: [4, 3] weights"""
        outputs = {}
        for name, cell in cells.items():
            level = int(name)
            results = cell(before.get(level), last, alpha, sizes[level])
            # A way's column says where it leads: 0 one level up, 1 straight on, 2 one level down.
            outputs[level] = total(
                ways[source, level - source + 1] * y for source, y in results.items()
            )
        return outputs

    def architecture(self) -> dict[str, list[Any]]:
        """Return the architecture of greatest weight, as searched.Searched takes it."""
        t = self.temperature
        ends = None if self.ends is None else self.ends / t
        return decode.decode(self.alpha / t, self.beta / t, self.start, ends)


class AutoSR(Supernet):
    """A supernet that enlarges by 8: 22,833,372 parameters with `spare`.

    The published one has 22,637,628. There, from the fourth layer on, the cell at half the size
    takes neither full resolution nor its own output two layers before, although the path that the
    authors found goes from full resolution to half in the end.

    width: channels of the input, a multiple of 8
    """

    def __init__(
        self, width: int = 64, layers: int = 6, spare: bool = False, arriving: bool = False
    ) -> None:
        super().__init__(width // 8, 3, layers, spare, arriving)


class AutoPrior(Supernet):
    """A supernet that keeps the size: 15,013,644 parameters with `spare`, as published.

    It serves the maps of a prior (width 8) and their fusion (width 48).
    """

    def __init__(
        self, width: int = 8, layers: int = 6, spare: bool = False, arriving: bool = False
    ) -> None:
        super().__init__(width, 0, layers, spare, arriving)
