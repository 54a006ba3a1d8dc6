"""A decoded module: a path through four resolutions with one cell in every layer (Liu et al., Auto-DeepLab, CVPR 2019), and what the search shares with it."""

import torch
import torch.nn.functional as F
from torch import nn

from . import decode

# The architectures found by MFPSNet's authors.
PAPER = {
    'sr': {'path': [2, 1, 1, 1, 0, 1], 'cell': [[0, 0], [1, 0], [2, 2], [3, 0], [7, 1], [8, 3]]},
    'parse': {'path': [1, 2, 1, 0, 1, 0], 'cell': [[0, 1], [1, 1], [3, 1], [4, 3], [5, 3], [7, 0]]},
    'heat': {'path': [0, 0, 0, 1, 0, 1], 'cell': [[0, 3], [1, 1], [2, 2], [3, 2], [5, 1], [7, 2]]},
    'dict': {'path': [0, 0, 1, 2, 1, 0], 'cell': [[0, 0], [1, 1], [2, 3], [4, 0], [6, 1], [7, 0]]},
    'fusion': {
        'path': [0, 1, 2, 1, 1, 2],
        'cell': [[0, 0], [1, 0], [2, 2], [4, 2], [7, 2], [8, 3]],
    },
}


class ConvNorm(nn.Sequential):
    """ReLU(BatchNorm(conv(x))), same size"""

    def __init__(self, before, after, kernel):
        super().__init__(
            nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(inplace=True),
        )
        nn.init.kaiming_normal_(self[0].weight, mode='fan_out', nonlinearity='relu')


class Head(nn.Module):
    """From any levels to full resolution: per level a 1x1 convolution halves the channels, then the size doubles; what arrives is added up and mixed once.

    width:   channels of a node at full resolution; a level's output has decode.NODES times the level's width
    deepest: the lowest resolution that is to come in
    spare:   also the weights that the published network has here and never uses
    """

    def __init__(self, width, deepest=decode.LEVELS - 1, spare=False):
        super().__init__()
        width *= decode.NODES
        halve = [
            ConvNorm(width << level, width << (level - 1), 1) for level in range(1, decode.LEVELS)
        ]
        self.halve = nn.ModuleList(halve[:deepest])
        self.final = nn.Conv2d(width, width, 1, bias=False)
        nn.init.kaiming_normal_(self.final.weight, mode='fan_out', nonlinearity='relu')
        if spare:
            self.spare = nn.ModuleList([*halve[deepest:], nn.BatchNorm2d(width)])

    def forward(self, found, sizes):
        """found: {level: [B, 3 width 2^level, h, w]}; sizes: [(h, w) of each level] -> [B, 3 width, *sizes[0]]"""
        return self.final(sum(self._lift(y, level, sizes) for level, y in found.items()))

    def _lift(self, y, level, sizes):
        for level in range(level, 0, -1):
            y = resize(self.halve[level - 1](y), sizes[level - 1])
        return y


class Cell(nn.Module):
    """Three nodes, each the sum of operations on the cell's two inputs and on the nodes before it; the output is all of them, one after the other.

    cell:   [[edge, operation], ...], numbered as in decode.EDGES and decode.OPERATIONS
    width:  channels of a node
    before, last: channels of the outputs of two layers before and of the layer before
    spare:  also the weights that the published network has here and never uses
    """

    def __init__(self, cell, width, before, last, spare=False):
        super().__init__()
        self.rows = [
            [(edge, decode.EDGES[edge][1]) for edge, _ in cell if decode.EDGES[edge][0] == node]
            for node in range(decode.NODES)
        ]
        self.enter = ConvNorm(last, width, 1)
        remembers = any(source == 0 for row in self.rows for _, source in row)
        self.remember = (
            ConvNorm(before, width, 1) if remembers and before != width else nn.Identity()
        )
        self.edges = nn.ModuleDict({str(edge): operation(kind, width) for edge, kind in cell})
        if spare and isinstance(self.remember, nn.Identity):
            self.spare = ConvNorm(before, width, 1)

    def forward(self, before, last, size):
        """before, last: [B, C, h, w] of any size -> [B, 3 width, *size]"""
        found = [self.remember(resize(before, size)), self.enter(resize(last, size))]
        for row in self.rows:
            found.append(sum(self.edges[str(edge)](found[source]) for edge, source in row))
        return torch.cat(found[2:], 1)


class Searched(nn.Module):
    """A module of the search space, as an architecture says. At full resolution a node has `width` channels, at level l 2^l times as many.

    architecture: {'path': [levels], 'cell': [[edge, operation], ...]}, see decode; ValueError if it is none
    start: level of the input
    spare: also the weights that the published network has and never uses
    """

    def __init__(self, architecture, width=8, start=0, spare=False):
        super().__init__()
        decode.check(architecture, start)
        self.start, self.levels = start, list(architecture['path'])
        # Known from the weights alone: edges that skip have none.
        self.register_buffer('path', torch.tensor(self.levels))
        self.register_buffer('cell', torch.tensor(architecture['cell']))
        self.register_load_state_dict_post_hook(
            _same_architecture(self.levels, [list(row) for row in architecture['cell']])
        )

        self.stem = ConvNorm(width << start, decode.NODES * width << start, 3)
        # Channels of the input, of the stem, and of every layer.
        channels = [
            width << start,
            *(decode.NODES * width << level for level in (start, *self.levels)),
        ]
        self.layers = nn.ModuleList(
            Cell(architecture['cell'], width << level, before, last, spare)
            for level, before, last in zip(self.levels, channels, channels[1:])
        )
        self.head = Head(width, self.levels[-1], spare)

    def forward(self, x):
        """x: [B, width 2^start, h, w] -> [B, 3 width, 2^start h, 2^start w]; ValueError where full resolution is no multiple of 8"""
        sizes = level_sizes(x, self.start)
        before, last = x, self.stem(x)
        for layer, level in zip(self.layers, self.levels):
            before, last = last, layer(before, last, sizes[level])
        return self.head({self.levels[-1]: last}, sizes)


def operation(kind, width):
    """-> module of decode.OPERATIONS[kind]"""
    return ConvNorm(width, width, 2 * kind + 1) if kind else nn.Identity()


def level_sizes(x, start):
    """-> [(h, w) of each level] for an input [B, C, h, w] at level `start`; ValueError where a level would have no whole size"""
    h, w = (side << start for side in x.shape[-2:])
    deepest = 1 << (decode.LEVELS - 1)
    if h % deepest or w % deepest:
        raise ValueError(f'full resolution is {h}x{w}: the sides must be multiples of {deepest}')
    return [(h >> level, w >> level) for level in range(decode.LEVELS)]


def resize(x, size):
    """-> [B, C, *size], bilinear, corners kept; x itself where the size is right"""
    return (
        x if x.shape[-2:] == size else F.interpolate(x, size, mode='bilinear', align_corners=True)
    )


def _same_architecture(path, cell):
    """-> hook that refuses weights of another architecture: their names and shapes may be the same."""

    def hook(module, _):
        if module.path.tolist() != path or module.cell.tolist() != cell:
            raise ValueError(
                f'the weights belong to path {module.path.tolist()}, cell {module.cell.tolist()}; this network has path {path}, cell {cell}'
            )

    return hook
