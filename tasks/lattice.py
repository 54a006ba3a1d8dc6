"""A picture of an architecture: its path over the weights of all ways, and its cell over the
weights of all operations.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from models import decode

_INK = '#222222'
_BLUE = '#1f6fb4'
_GREY = '#8a8a8a'
_COLOURS = '#8a8a8a', '#1f6fb4', '#2e9e5b', '#d1662b'  # of decode.OPERATIONS


def figure(architecture: Mapping[str, Any], alpha: Tensor, beta: Tensor, start: int) -> Figure:
    """The drawing of an architecture.

    architecture: 'path': level of every layer; 'cell': (edge, operation) of what is kept
    alpha, beta: weights of operations [9, 4] and ways [L, 4, 3], see decode.normalise; start: level
        of the input
    """
    operations, ways = (w.detach().double().cpu().numpy() for w in (alpha, beta))
    drawing = Figure(figsize=(10, 8), dpi=110, layout='constrained')
    rows: Any = [['path', 'path'], ['cell', 'bars']]
    axes: dict[str, Any] = drawing.subplot_mosaic(rows, height_ratios=(1, 1.1))
    _path(axes['path'], architecture['path'], ways, start)
    _cell(axes['cell'], architecture['cell'])
    _bars(axes['bars'], architecture['cell'], operations)
    return drawing


def _path(axes: Axes, path: Sequence[int], beta: np.ndarray, start: int) -> None:
    # Every way, as wide as its weight.
    reached = {(-1, start)}
    for layer, ways in enumerate(beta):
        for source, way in zip(*np.nonzero(ways), strict=True):
            level = source + way - 1
            reached.add((layer, level))
            axes.plot(
                (layer - 1, layer),
                (source, level),
                color=_GREY,
                linewidth=0.5 + 8 * ways[source, way],
                alpha=0.35,
                solid_capstyle='round',
                zorder=1,
            )
    # The path that is taken, and every level that can be reached.
    axes.plot(
        range(-1, len(path)),
        (start, *path),
        color=_BLUE,
        linewidth=2.5,
        marker='o',
        markersize=9,
        zorder=3,
    )
    columns, levels = zip(*reached, strict=True)
    axes.scatter(columns, levels, s=50, facecolor='white', edgecolor=_INK, zorder=2)
    # Layers from left to right, resolutions from top to bottom.
    axes.set_xticks(
        range(-1, len(path)), ['stem', *(f'layer {n}' for n in range(1, len(path) + 1))]
    )
    axes.set_yticks(
        range(decode.LEVELS),
        ['full size', *(f'1/{1 << level}' for level in range(1, decode.LEVELS))],
    )
    axes.set_ylim(decode.LEVELS - 0.5, -0.5)
    axes.set_title(f'path {list(path)}; width of a line: weight of that way', fontsize=10)
    axes.spines[:].set_visible(False)


def _cell(axes: Axes, cell: Sequence[Sequence[int]]) -> None:
    """Inputs on the left, nodes on the right of them; an edge has the colour of its operation."""
    nodes = [(1.2 + n, 0.9 * (1 - n)) for n in range(decode.NODES)]
    places = [(0.0, 0.8), (0.0, -0.8), *nodes]
    for edge, operation in cell:
        node, source = decode.EDGES[edge]
        _edge(axes, places[source], places[2 + node], operation)
    names = ('layer\nbefore last', 'last\nlayer', *(f'node {n + 1}' for n in range(decode.NODES)))
    box = {'boxstyle': 'round', 'facecolor': 'white', 'edgecolor': _INK}
    for (x, y), name in zip(places, names, strict=True):
        axes.text(x, y, name, fontsize=8, ha='center', va='center', bbox=box)
    axes.set(xlim=(-0.6, 3.8), ylim=(-1.5, 1.5))
    axes.set_title('cell; its output is all nodes, concatenated', fontsize=10)
    axes.axis('off')


def _edge(axes: Axes, begin: tuple[float, float], end: tuple[float, float], operation: int) -> None:
    """An arrow with the name of its operation, a little before its middle, so that names do not
    meet.
    """
    colour = _COLOURS[operation]
    arrow = {
        'arrowstyle': '->',
        'color': colour,
        'linewidth': 2,
        'shrinkA': 16,
        'shrinkB': 16,
        'connectionstyle': 'arc3,rad=0.12',
    }
    axes.annotate('', end, begin, arrowprops=arrow)
    x = begin[0] + 0.45 * (end[0] - begin[0])
    y = begin[1] + 0.45 * (end[1] - begin[1]) - 0.1
    axes.text(x, y, decode.OPERATIONS[operation], color=colour, fontsize=8, ha='center')


def _bars(axes: Axes, cell: Sequence[Sequence[int]], alpha: np.ndarray) -> None:
    """Weights of the operations on every edge; those of kept edges are framed."""
    # Stacked bars: the operations of an edge share a width of 1.
    left = np.zeros(len(alpha))
    kept = {edge: operation for edge, operation in cell}
    for operation, name in enumerate(decode.OPERATIONS):
        bars = axes.barh(
            range(len(alpha)),
            alpha[:, operation],
            left=left,
            color=_COLOURS[operation],
            label=name,
            height=0.7,
        )
        for edge, bar in enumerate(bars):
            bar.set_alpha(0.9 if edge in kept else 0.35)
            if kept.get(edge) == operation:
                bar.set_edgecolor(_INK)
                bar.set_linewidth(1.5)
        left += alpha[:, operation]
    # From which input or node to which node an edge leads.
    names = ('before last', 'last', *(f'node {n + 1}' for n in range(decode.NODES)))
    edges = enumerate(decode.EDGES)
    labels = [f'{edge}: {names[source]} to {names[2 + node]}' for edge, (node, source) in edges]
    axes.set_yticks(range(len(alpha)), labels, fontsize=8)
    axes.set(xlim=(0, 1))
    axes.invert_yaxis()
    axes.set_title('weights of the operations; framed: taken', fontsize=10)
    axes.legend(frameon=False, fontsize=8, ncols=4, loc='upper center', bbox_to_anchor=(0.5, -0.06))
