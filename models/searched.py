"""A decoded module (Liu et al., Auto-DeepLab, CVPR 2019): a path through four resolutions.

Every layer of the path is the same cell. The search shares the parts defined here.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import decode
from .decode import Architecture
from .entry import Weights

Sizes = Sequence[tuple[int, int]]  # (h, w) of each level

# The architectures that MFPSNet's authors published: path, cell.
# fmt: off
_PUBLISHED = {
    'sr':     ([2, 1, 1, 1, 0, 1], [[0, 0], [1, 0], [2, 2], [3, 0], [7, 1], [8, 3]]),
    'parse':  ([1, 2, 1, 0, 1, 0], [[0, 1], [1, 1], [3, 1], [4, 3], [5, 3], [7, 0]]),
    'heat':   ([0, 0, 0, 1, 0, 1], [[0, 3], [1, 1], [2, 2], [3, 2], [5, 1], [7, 2]]),
    'dict':   ([0, 0, 1, 2, 1, 0], [[0, 0], [1, 1], [2, 3], [4, 0], [6, 1], [7, 0]]),
    'fusion': ([0, 1, 2, 1, 1, 2], [[0, 0], [1, 0], [2, 2], [4, 2], [7, 2], [8, 3]]),
}
# fmt: on
PAPER: dict[str, Architecture] = {
    part: {'path': path, 'cell': cell} for part, (path, cell) in _PUBLISHED.items()
}


# ---- its parts ----


class ConvNorm(nn.Sequential):
    """Convolution, batch normalisation, ReLU; the size stays."""

    def __init__(self, before: int, after: int, kernel: int) -> None:
        conv = nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=False)
        super().__init__(conv, nn.BatchNorm2d(after), nn.ReLU(inplace=True))
        nn.init.kaiming_normal_(conv.weight, mode='fan_out', nonlinearity='relu')


class Head(nn.Module):
    """From any levels to full resolution.

    From level to level a 1x1 convolution halves the channels, then the size doubles. The maps that
    arrive are added up and mixed by one more convolution.

    width: channels of a node at full resolution; a level's output has decode.NODES times the
        level's width
    deepest: the lowest resolution that comes in
    spare: add the weights that the published network has here and never uses
    """

    def __init__(self, width: int, deepest: int = decode.LEVELS - 1, spare: bool = False) -> None:
        super().__init__()
        width *= decode.NODES
        # All are made, whatever `deepest` is, so that random numbers are drawn in the same order.
        halve = [
            ConvNorm(width << level, width << (level - 1), 1) for level in range(1, decode.LEVELS)
        ]
        self.halve = nn.ModuleList(halve[:deepest])
        self.final = nn.Conv2d(width, width, 1, bias=False)
        nn.init.kaiming_normal_(self.final.weight, mode='fan_out', nonlinearity='relu')
        if spare:
            self.spare = nn.ModuleList([*halve[deepest:], nn.BatchNorm2d(width)])
            self.spare.requires_grad_(False)  # several processes wait for every gradient

    def forward(
        self, maps: Mapping[int, Tensor], sizes: Sizes, weights: Tensor | None = None
    ) -> Tensor:
        """Mix the maps of some levels at full resolution -> [B, 3 width, *sizes[0]].

        maps: {level: [B, 3 width 2^level, h, w]}; sizes: (h, w) of each level; weights: [4] of the
        levels, None: all 1
        """
        lifted = {level: self._lift(y, level, sizes) for level, y in maps.items()}
        if weights is None:
            return self.final(total(lifted.values()))
        return self.final(total(weights[level] * y for level, y in lifted.items()))

    def _lift(self, y: Tensor, level: int, sizes: Sizes) -> Tensor:
        for above in reversed(range(level)):
            y = resize(self.halve[above](y), sizes[above])
        return y


class Cell(nn.Module):
    """Three nodes, each the sum of operations on the cell's two inputs and on earlier nodes.

    The output is the concatenation of all nodes.

    cell: [[edge, operation], ...], numbered as in decode.EDGES and decode.OPERATIONS
    width: channels of a node
    before, last: channels of the outputs of the layer before the last and of the last layer
    spare: add the weights that the published network has here and never uses
    """

    def __init__(
        self,
        cell: Sequence[Sequence[int]],
        width: int,
        before: int,
        last: int,
        spare: bool = False,
    ) -> None:
        super().__init__()
        # Per node: (edge, source) of what is added up.
        self.rows = [
            [(edge, decode.EDGES[edge][1]) for edge, _ in cell if decode.EDGES[edge][0] == node]
            for node in range(decode.NODES)
        ]
        self.enter = ConvNorm(last, width, 1)
        # The output of the layer before the last needs a convolution only where it is used.
        remembers = any(source == 0 for row in self.rows for _, source in row)
        self.remember: nn.Module = nn.Identity()
        if remembers and before != width:
            self.remember = ConvNorm(before, width, 1)
        self.edges = nn.ModuleDict({str(edge): operation(kind, width) for edge, kind in cell})
        if spare and isinstance(self.remember, nn.Identity):
            self.spare = ConvNorm(before, width, 1)

    def forward(self, before: Tensor, last: Tensor, size: tuple[int, int]) -> Tensor:
        """before, last: [B, C, h, w] of any size -> [B, 3 width, *size]."""
        maps = [self.remember(resize(before, size)), self.enter(resize(last, size))]
        for row in self.rows:
            maps.append(total(self.edges[str(edge)](maps[source]) for edge, source in row))
        return torch.cat(maps[2:], 1)


# ---- the module ----


class Searched(nn.Module):
    """A module of the search space, built from an architecture.

    At full resolution a node has `width` channels, at level l 2^l times as many.

    architecture: {'path': [levels], 'cell': [[edge, operation], ...]}, see decode; ValueError if it
        is none
    start: level of the input
    spare: add the weights that the published network has and never uses

    Loading weights of another architecture raises ValueError, even where names and shapes agree.
    """

    path: Tensor
    cell: Tensor

    def __init__(
        self, architecture: Architecture, width: int = 8, start: int = 0, spare: bool = False
    ) -> None:
        super().__init__()
        decode.check(architecture, start)
        self.start = start
        self.levels = list(architecture['path'])
        # Buffers, because edges that skip leave no trace in the other weights.
        self.register_buffer('path', torch.tensor(self.levels))
        self.register_buffer('cell', torch.tensor(architecture['cell']))
        self.register_load_state_dict_post_hook(
            _same_architecture(self.levels, [list(row) for row in architecture['cell']])
        )

        # Channels of the input, of the stem, and of every layer.
        outputs = [decode.NODES * width << level for level in (start, *self.levels)]
        channels = [width << start, *outputs]
        self.stem = ConvNorm(width << start, decode.NODES * width << start, 3)
        self.layers = nn.ModuleList(
            Cell(architecture['cell'], width << level, before, last, spare)
            for level, (before, last) in zip(
                self.levels, itertools.pairwise(channels), strict=False
            )
        )
        self.head = Head(width, self.levels[-1], spare)

    def forward(self, x: Tensor) -> Tensor:
        """[B, width 2^start, h, w] -> [B, 3 width, 2^start h, 2^start w].

        ValueError where the sides at full resolution are no multiples of 8.
        """
        # Each layer takes the outputs of the two before it, whatever their levels.
        sizes = level_sizes(x, self.start)
        before, last = x, self.stem(x)
        for layer, level in zip(self.layers, self.levels, strict=True):
            before, last = last, layer(before, last, sizes[level])
        return self.head({self.levels[-1]: last}, sizes)


# ---- what cells of the search need, too ----


def operation(kind: int, width: int) -> nn.Module:
    """Return the module of decode.OPERATIONS[kind]."""
    return ConvNorm(width, width, 2 * kind + 1) if kind else nn.Identity()


def total(maps: Iterable[Tensor]) -> Tensor:
    """Sum of one or more maps."""
    result = sum(maps)
    assert isinstance(result, Tensor)
    return result


def level_sizes(x: Tensor, start: int) -> list[tuple[int, int]]:
    """Return (h, w) of each level for an input [B, C, h, w] at level `start`.

    ValueError where a level would have no whole size.
    """
    h, w = (side << start for side in x.shape[-2:])
    deepest = 1 << (decode.LEVELS - 1)
    if h % deepest or w % deepest:
        raise ValueError(f'full resolution is {h}x{w}: the sides must be multiples of {deepest}')
    return [(h >> level, w >> level) for level in range(decode.LEVELS)]


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """[B, C, h, w] -> [B, C, *size], bilinear with aligned corners; x where the size is right."""
    if x.shape[-2:] == size:
        return x
    return F.interpolate(x, size, mode='bilinear', align_corners=True)


def from_weights(weights: Weights, module: str) -> Architecture:
    """Read the architecture of a Searched module back; `module` is its name in the weights."""
    # An average of weights holds these buffers as float32.
    return {part: weights[f'{module}.{part}'].int().tolist() for part in ('path', 'cell')}


def _same_architecture(path: list[int], cell: list[list[int]]) -> Callable[[Any, Any], None]:
    """Return a hook that refuses weights of another architecture."""

    def hook(module: Any, _: Any) -> None:
        if module.path.tolist() != path or module.cell.tolist() != cell:
            raise ValueError(
                f'the weights belong to path {module.path.tolist()}, cell {module.cell.tolist()}; '
                f'this network has path {path}, cell {cell}'
            )

    return hook
