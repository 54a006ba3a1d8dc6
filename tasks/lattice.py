"""A picture of an architecture: its path through the resolutions over the weights of all ways, and its cell over the weights of all operations."""

import numpy as np
from matplotlib.figure import Figure

from models import decode

_INK, _BLUE, _GREY = '#222222', '#1f6fb4', '#8a8a8a'
_COLOURS = '#8a8a8a', '#1f6fb4', '#2e9e5b', '#d1662b'  # of decode.OPERATIONS


def figure(architecture, alpha, beta, start):
    """-> matplotlib Figure. alpha [9, 4], beta [L, 4, 3]: as they are trained; start: level of the input"""
    alpha, beta = (w.detach().double().cpu().numpy() for w in decode.normalise(alpha, beta, start))
    drawing = Figure(figsize=(10, 8), dpi=110, layout='constrained')
    path, cell, bars = drawing.subplot_mosaic(
        [['path', 'path'], ['cell', 'bars']], height_ratios=(1, 1.1)
    ).values()
    _path(path, architecture['path'], beta, start)
    _cell(cell, architecture['cell'])
    _bars(bars, architecture['cell'], alpha)
    return drawing


def _path(axes, path, beta, start):
    reached = {(-1, start)}
    for layer, ways in enumerate(beta):
        for source, way in zip(*np.nonzero(ways)):
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
    axes.plot(
        range(-1, len(path)),
        (start, *path),
        color=_BLUE,
        linewidth=2.5,
        marker='o',
        markersize=9,
        zorder=3,
    )
    axes.scatter(*zip(*reached), s=50, facecolor='white', edgecolor=_INK, zorder=2)
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


def _cell(axes, cell):
    """Inputs on the left, nodes in the middle, what they are joined to on the right; an edge has the colour of its operation."""
    places = [(0, 0.8), (0, -0.8), *((1.2 + n, 0.9 * (1 - n)) for n in range(decode.NODES))]
    for edge, operation in cell:
        node, source = decode.EDGES[edge]
        axes.annotate(
            '',
            places[2 + node],
            places[source],
            arrowprops=dict(
                arrowstyle='->',
                color=_COLOURS[operation],
                linewidth=2,
                shrinkA=16,
                shrinkB=16,
                connectionstyle='arc3,rad=0.12',
            ),
        )
        (x0, y0), (x1, y1) = places[source], places[2 + node]
        axes.text(
            x0 + 0.45 * (x1 - x0),
            y0 + 0.45 * (y1 - y0) - 0.1,
            decode.OPERATIONS[operation],
            color=_COLOURS[operation],
            fontsize=8,
            ha='center',
        )
    for (x, y), name in zip(
        places,
        ('layer\nbefore last', 'last\nlayer', *(f'node {n + 1}' for n in range(decode.NODES))),
    ):
        axes.text(
            x,
            y,
            name,
            fontsize=8,
            ha='center',
            va='center',
            bbox=dict(boxstyle='round', facecolor='white', edgecolor=_INK),
        )
    axes.set(xlim=(-0.6, 3.8), ylim=(-1.5, 1.5))
    axes.set_title('cell; its output is all nodes, one after the other', fontsize=10)
    axes.axis('off')


def _bars(axes, cell, alpha):
    """Weights of the operations on every edge; those of kept edges are framed."""
    left, kept = np.zeros(len(alpha)), dict(map(tuple, cell))
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
    names = 'before last', 'last', *(f'node {n + 1}' for n in range(decode.NODES))
    axes.set_yticks(
        range(len(alpha)),
        [
            f'{edge}: {names[source]} to {names[2 + node]}'
            for edge, (node, source) in enumerate(decode.EDGES)
        ],
        fontsize=8,
    )
    axes.set(xlim=(0, 1))
    axes.invert_yaxis()
    axes.set_title('weights of the operations; framed: taken', fontsize=10)
    axes.legend(frameon=False, fontsize=8, ncols=4, loc='upper center', bbox_to_anchor=(0.5, -0.06))
