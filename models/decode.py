"""From a continuous search space to one architecture (Liu et al., Auto-DeepLab, CVPR 2019).

Pure functions of tensors and lists. Level 0 is full resolution; level l has 1/2^l of it and 2^l
times the channels. A search starts at one level; each layer goes one level up or down, or stays.

    alpha         [9, 4]    float; weight of each operation on each edge of a cell; all layers share
                            one cell
    beta          [L, 4, 3] float; weight, in each layer, of the ways from each level: to the next
                            higher resolution, to the same, to the next lower one
    ends          [4]       float; weight of each level as the last one; None as published, where
                            all count alike
    architecture  {'path': [L levels], 'cell': [[edge, operation], ...]}, plain lists of int that
                  can be written as JSON
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Architecture = Mapping[str, Any]  # 'path' and 'cell' as above

LEVELS = 4
OPERATIONS = ('skip', 'conv3', 'conv5', 'conv7')
NODES = 3
# Edge number -> (node, source). Sources 0 and 1 are the outputs of the layer before the last and of
# the last layer; 2 and 3 are nodes 0 and 1.
EDGES = tuple((node, source) for node in range(NODES) for source in range(2 + node))


# ---- from weights to an architecture ----


def levels(layer: int, start: int) -> range:
    """Return the levels that outputs of a layer can have; the stem is layer -1."""
    return range(max(0, start - layer - 1), min(LEVELS - 1, start + layer + 1) + 1)


def normalise(alpha: Tensor, beta: Tensor, start: int) -> tuple[Tensor, Tensor]:
    """Turn (alpha, beta) as they are trained into weights.

    Operations on an edge sum to 1. Ways from a level sum to 1, or to 2/3 for the levels at the
    ends, which have two ways only. Impossible ways are 0.
    """
    ways, reached = _possible(beta, start)
    share = ways.to(beta).sum(1, keepdim=True) / 3
    return alpha.softmax(1), beta.masked_fill(~ways, float('-inf')).softmax(2) * share * reached


def arriving(beta: Tensor, ends: Tensor, start: int) -> tuple[Tensor, Tensor]:
    """Turn (beta, ends) as they are trained into weights of which those into a level sum to 1.

    Every map of a supernet is normalised right after it is summed up, so that its size does not
    matter, but only in which proportions it is made of others. Weights that compare the ways out
    of a level, as published, leave the first layer's, and much of all others, without a gradient.
    Of those that compare the ways into a level, and the levels at the end, each has one. Impossible
    ways are 0, and so are ends that no path reaches.
    """
    ways, reached = _possible(beta, start)
    # A way's column says where it leads: column 0 one level up, 2 one level down.
    into = _shifted(beta.masked_fill(~(ways & reached), -torch.inf), -1)
    known = into.isfinite()
    # A level that no way reaches has no weights, rather than none that can be computed.
    weights = into.masked_fill(~known.any(2, keepdim=True), 0).softmax(2) * known
    last = torch.zeros_like(ends, dtype=torch.bool)
    reachable = levels(len(beta) - 1, start)
    last[reachable.start : reachable.stop] = True
    return _shifted(weights, 1), ends.masked_fill(~last, -torch.inf).softmax(0)


def entropy(beta: Tensor, ends: Tensor, start: int) -> float:
    """Entropy of the paths under `arriving` weights, as share of that of all paths alike.

    1: undecided, 0: decided. Levels that the likely paths do not pass do not count.
    """

    def of(weights: Tensor, last: Tensor) -> float:
        # From the end: the chance to stand at a level, times what is undecided there.
        found = float(-torch.xlogy(last, last).sum())
        for layer in reversed(_shifted(weights, -1)):
            undecided = -torch.xlogy(layer, layer).sum(1)
            found += float((last * undecided).sum())
            spread = last[:, None] * layer
            last = _shifted(spread[None], 1)[0].sum(1)
        return found

    beta, ends = beta.double(), ends.double()
    # All paths alike: each way as likely as there are paths that come by it.
    count = torch.zeros(LEVELS, dtype=torch.float64)
    count[start] = 1
    ways, reached = _possible(beta, start)
    for layer in reached:
        arrived = _shifted((count[:, None] * ways * layer)[None], -1)[0]
        count = arrived.sum(1)
    return of(beta, ends) / float(count.sum().log())


def _possible(beta: Tensor, start: int) -> tuple[Tensor, Tensor]:
    """([4, 3] ways that stay within the levels, [L, 4, 1] levels that each layer can come from)."""
    ways = torch.ones(LEVELS, 3, dtype=torch.bool, device=beta.device)
    ways[0, 0] = False
    ways[-1, -1] = False
    distance = (torch.arange(LEVELS, device=beta.device) - start).abs()
    reached = distance[:, None] <= torch.arange(len(beta), device=beta.device)[:, None, None]
    return ways, reached


def _shifted(beta: Tensor, by: int) -> Tensor:
    """[L, 4, 3] with rows by the level that a way leaves -> by the one it leads to, for -1; and
    back, for 1."""
    return torch.stack([beta[..., way].roll(by * (1 - way), 1) for way in range(3)], 2)


def viterbi(beta: Tensor, start: int, ends: Tensor | None = None) -> list[int]:
    """Return the levels of the path with the greatest product of normalised weights."""
    # Level -> (weight of the best path that ends there, the path).
    best: dict[int, tuple[float, list[int]]] = {start: (1.0, [])}
    for layer in beta.tolist():
        paths: dict[int, list[tuple[float, list[int]]]] = {}
        for source, (weight, path) in best.items():
            for way in range(3):
                level = source + way - 1
                if 0 <= level < LEVELS:
                    longer = (weight * layer[source][way], [*path, level])
                    paths.setdefault(level, []).append(longer)
        best = {level: max(candidates) for level, candidates in paths.items()}
    at_end = [1.0] * LEVELS if ends is None else ends.tolist()
    return max((weight * at_end[level], path) for level, (weight, path) in best.items())[1]


def strongest_edges(alpha: Tensor) -> list[list[int]]:
    """Return [[edge, operation], ...], two edges per node, in the order of edges.

    alpha: as trained, not normalised: weights close to 1 would all be the same number. A node
    keeps the two edges whose strongest convolution is strongest, each with its strongest operation.
    A skip does not decide whether an edge is kept, but where it outweighs the convolutions of a
    kept edge, it is the operation.
    """
    # Odds in place of weights: the greater the one, the greater the other.
    best = alpha[:, 1:].argmax(1, keepdim=True) + 1
    others = alpha.scatter(1, best, -torch.inf).logsumexp(1)
    strength = (alpha.gather(1, best)[:, 0] - others).tolist()
    operation = alpha.argmax(1).tolist()
    cell = []
    for node in range(NODES):
        edges = [edge for edge, (end, _) in enumerate(EDGES) if end == node]
        strongest = sorted(edges, key=lambda edge: -strength[edge])[:2]
        cell += [[edge, operation[edge]] for edge in sorted(strongest)]
    return cell


def decode(
    alpha: Tensor, beta: Tensor, start: int, ends: Tensor | None = None
) -> dict[str, list[Any]]:
    """Return the architecture of greatest weight; alpha, beta, ends: as trained, not normalised."""
    alpha, raw = alpha.detach().double().cpu(), beta.detach().double().cpu()
    _, beta = normalise(alpha, raw, start)
    if ends is not None:
        beta, ends = arriving(raw, ends.detach().double().cpu(), start)
    return {'path': viterbi(beta, start, ends), 'cell': strongest_edges(alpha)}


# ---- is it an architecture? ----


def check(architecture: Architecture, start: int) -> None:
    """Raise ValueError, with the reason, unless this is an architecture.

    Its path must consist of neighbouring levels beginning at `start`, and every node of its cell
    must have an edge.
    """
    if set(architecture) != {'path', 'cell'}:
        raise ValueError(
            'an architecture is {"path": [levels], "cell": [[edge, operation], ...]}, '
            f'not {architecture}'
        )
    _check_path(architecture['path'], start)
    _check_cell(architecture['path'], architecture['cell'])


def _check_path(path: Sequence[int], start: int) -> None:
    for before, level in zip([start, *path], path, strict=False):
        if not (0 <= level < LEVELS and abs(level - before) <= 1):
            raise ValueError(
                f'path {list(path)}: beginning at level {start}, each level must be at most one '
                f'from the level before it, and within 0..{LEVELS - 1}'
            )


def _check_cell(path: Sequence[int], cell: Sequence[Sequence[int]]) -> None:
    edges = [edge for edge, _ in cell]
    known = all(0 <= edge < len(EDGES) and 0 <= kind < len(OPERATIONS) for edge, kind in cell)
    if not path or not known or len(set(edges)) < len(edges):
        raise ValueError(
            f'path {list(path)}, cell {cell}: there must be at least one layer, and edges '
            f'0..{len(EDGES) - 1}, each at most once, with operations 0..{len(OPERATIONS) - 1}'
        )
    if {EDGES[edge][0] for edge in edges} != set(range(NODES)):
        raise ValueError(f'cell {cell}: no edge leads to some of its {NODES} nodes')
