"""Search space of FRSNet and MFPSNet (Yu et al., TNNLS 2023; Liu et al., Auto-DeepLab, CVPR 2019): all paths and operations at once, weighted.

Every layer has a cell at every level that can be reached. A cell hears up to three levels of the layer before and is run once for each of them, with the
same operations; the results are added with the weights of those ways. Its second input is the output of its own level two layers before, where there is one.
"""

import torch
from torch import nn

from . import decode
from .searched import ConvNorm, Head, level_sizes, operation, resize


class MixedCell(nn.Module):
    """A cell whose edges all carry all operations, weighted.

    width:     channels of a node
    sources:   {level of the layer before: channels of its output}
    remembers: whether there is an output of this level two layers before; without it its edges do not exist
    """

    def __init__(self, width, sources, remembers):
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

    def forward(self, before, last, alpha, size):
        """before: [B, 3 width, *size] or None; last: {level: [B, C, h, w]}; alpha: [9, 4] weights -> {level: [B, 3 width, *size]}, one result per source"""
        memory = None if self.remember is None else self.remember(before)
        return {
            int(level): self._nodes(memory, enter(resize(last[int(level)], size)), alpha)
            for level, enter in self.enter.items()
        }

    def _nodes(self, memory, y, alpha):
        found = [memory, y]
        for node in range(decode.NODES):
            found.append(
                sum(
                    self._mixed(edge, found[source], alpha[edge])
                    for edge, (end, source) in enumerate(decode.EDGES)
                    if end == node and found[source] is not None
                )
            )
        return torch.cat(found[2:], 1)

    def _mixed(self, edge, y, weights):
        return sum(
            weight * operation(y) for weight, operation in zip(weights, self.edges[str(edge)])
        )


class Supernet(nn.Module):
    """All architectures of `layers` layers that start at a level; .alpha and .beta are what is searched, all else are weights.

    width: channels of a node at full resolution; level l has 2^l times as many
    start: level of the input
    spare: also the weights that the published network has and never uses
    """

    def __init__(self, width, start, layers=6, spare=False):
        super().__init__()
        self.start = start
        self.stem = ConvNorm(width << start, decode.NODES * width << start, 3)
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    str(level): self._cell(width, layer, level)
                    for level in decode.levels(layer, start)
                }
            )
            for layer in range(layers)
        )
        self.head = Head(width, max(decode.levels(layers - 1, start)), spare)
        self.alpha = nn.Parameter(1e-3 * torch.randn(len(decode.EDGES), len(decode.OPERATIONS)))
        self.beta = nn.Parameter(1e-3 * torch.randn(layers, decode.LEVELS, 3))

    def _cell(self, width, layer, level):
        sources = {
            s: decode.NODES * width << s
            for s in decode.levels(layer - 1, self.start)
            if abs(s - level) <= 1
        }
        return MixedCell(
            width << level,
            sources,
            remembers=layer > 0 and level in decode.levels(layer - 2, self.start),
        )

    def forward(self, x):
        """x: [B, width 2^start, h, w] -> [B, 3 width, 2^start h, 2^start w]; ValueError where full resolution is no multiple of 8"""
        return self.mix(x, *decode.normalise(self.alpha, self.beta, self.start))

    def mix(self, x, alpha, beta):
        """The same with the weights given: alpha [9, 4], beta [L, 4, 3], see decode.normalise"""
        sizes = level_sizes(x, self.start)
        before, last = {}, {self.start: self.stem(x)}
        for cells, ways in zip(self.layers, beta):
            found = {}
            for level, cell in ((int(name), cell) for name, cell in cells.items()):
                results = cell(before.get(level), last, alpha, sizes[level])
                found[level] = sum(
                    ways[source, level - source + 1] * y for source, y in results.items()
                )
            before, last = last, found
        return self.head(last, sizes)

    def architecture(self):
        """-> {'path': ..., 'cell': ...} of greatest weight, for searched.Searched"""
        return decode.decode(self.alpha, self.beta, self.start)


class AutoSR(Supernet):
    """Enlarges by 8: 22,833,372 parameters with `spare`.

    Those published are 22,637,628: there, from the fourth layer on, the cell at half the size hears neither full resolution nor itself two layers before,
    though the path that the authors found goes from full resolution to half in the end.

    width: channels of the input, a multiple of 8
    """

    def __init__(self, width=64, layers=6, spare=False):
        super().__init__(width // 8, 3, layers, spare)


class AutoPrior(Supernet):
    """Keeps the size: 15,013,644 parameters with `spare`, as published; for the maps of a prior (width 8) and for their fusion (width 48)."""

    def __init__(self, width=8, layers=6, spare=False):
        super().__init__(width, 0, layers, spare)
