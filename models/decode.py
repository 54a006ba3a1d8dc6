"""From a continuous search space to one architecture (Liu et al., Auto-DeepLab, CVPR 2019): pure functions of tensors and lists.

Level 0 is full resolution, level l has 1/2^l of it and 2^l times the channels. A search starts at one level; each layer goes one level up, down, or stays.

alpha: [9, 4]    float; what each operation weighs on each edge of a cell; one cell serves all layers
beta:  [L, 4, 3] float; what the way from a level weighs in a layer: to the next higher resolution, to the same, to the next lower one
architecture: {'path': [L levels], 'cell': [[edge, operation], ...]}, plain lists of int, ready for JSON
"""

import torch

LEVELS = 4
OPERATIONS = 'skip', 'conv3', 'conv5', 'conv7'
NODES = 3
# Edge number -> (node, source): sources 0 and 1 are the outputs of two layers before and of the layer before, 2 and 3 the nodes 0 and 1.
EDGES = tuple((node, source) for node in range(NODES) for source in range(2 + node))


def levels(layer, start):
    """-> range of the levels that outputs of a layer can have; the stem is layer -1."""
    return range(max(0, start - layer - 1), min(LEVELS - 1, start + layer + 1) + 1)


def normalise(alpha, beta, start):
    """-> (alpha, beta) as weights: operations on an edge sum to 1; ways from a level to 1, to 2/3 from those at the ends, which have two ways; impossible ways are 0."""
    ways = torch.ones(LEVELS, 3, dtype=torch.bool, device=beta.device)
    ways[0, 0] = ways[-1, -1] = False
    distance = (torch.arange(LEVELS, device=beta.device) - start).abs()
    reached = distance[:, None] <= torch.arange(len(beta), device=beta.device)[:, None, None]
    share = ways.to(beta).sum(1, keepdim=True) / 3
    return alpha.softmax(1), beta.masked_fill(~ways, float('-inf')).softmax(2) * share * reached


def viterbi(beta, start):
    """-> list of L levels, the path with the greatest product of weights; beta: normalised"""
    beta = beta.tolist()
    best = {start: (1.0, [])}  # level -> weight of the best path that ends there, and the path
    for layer in beta:
        found = {}
        for source, (weight, path) in best.items():
            for way in range(3):
                level = source + way - 1
                if 0 <= level < LEVELS:
                    found.setdefault(level, []).append(
                        (weight * layer[source][way], [*path, level])
                    )
        best = {level: max(ends) for level, ends in found.items()}
    return max(best.values())[1]


def strongest_edges(alpha):
    """-> [[edge, operation], ...] in the order of edges: per node the two edges whose strongest convolution is strongest, and on each its strongest operation.

    alpha: normalised. A skip does not keep an edge alive, but where it outweighs the convolutions of a kept edge it is taken.
    """
    strength, operation = alpha[:, 1:].amax(1).tolist(), alpha.argmax(1).tolist()
    rows = []
    for node in range(NODES):
        edges = [edge for edge, (end, _) in enumerate(EDGES) if end == node]
        rows += [
            [edge, operation[edge]]
            for edge in sorted(sorted(edges, key=lambda edge: -strength[edge])[:2])
        ]
    return rows


def decode(alpha, beta, start):
    """-> architecture of greatest weight; alpha, beta: as they are trained, not normalised"""
    alpha, beta = normalise(alpha.detach().double().cpu(), beta.detach().double().cpu(), start)
    return {'path': viterbi(beta, start), 'cell': strongest_edges(alpha)}


def check(architecture, start):
    """Raise ValueError, saying what is wrong, unless an architecture is a path of neighbouring levels from `start` and a cell whose nodes all have an edge."""
    if set(architecture) != {'path', 'cell'}:
        raise ValueError(
            f'an architecture is {{"path": [levels], "cell": [[edge, operation], ...]}}, not {architecture}'
        )
    path, cell = architecture['path'], architecture['cell']
    for before, level in zip([start, *path], path):
        if not (0 <= level < LEVELS and abs(level - before) <= 1):
            raise ValueError(
                f'path {list(path)}: from level {start} on, each is to be at most one from the level before it, and within 0..{LEVELS - 1}'
            )
    edges = [edge for edge, _ in cell]
    if (
        not path
        or len(set(edges)) < len(edges)
        or not all(
            0 <= edge < len(EDGES) and 0 <= operation < len(OPERATIONS) for edge, operation in cell
        )
    ):
        raise ValueError(
            f'path {list(path)}, cell {cell}: at least one layer; edges 0..{len(EDGES) - 1}, each at most once, with operations 0..{len(OPERATIONS) - 1}'
        )
    if {EDGES[edge][0] for edge in edges} != set(range(NODES)):
        raise ValueError(f'cell {cell}: no edge leads to some of its {NODES} nodes')
