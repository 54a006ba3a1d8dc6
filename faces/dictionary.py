"""Dictionaries of facial components (DFDNet, Li et al., ECCV 2020).

Entries are k-means centres of the features of training faces; the one most similar to the features
of a degraded face is transferred to it. An entry is stored with mean 0 and deviation 1 in every
channel, which is all that its transfer (AdaIN) needs.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from . import components

EPS = 1e-5  # added to variances


# ---- k-means ----


def kmeans_ref(
    x: np.ndarray | Tensor, k: int, seed: int = 0, rounds: int = 50
) -> tuple[np.ndarray, np.ndarray]:
    """Reference of `kmeans` in plain loops: [N, D] -> ([k, D] float64 centres, [N] labels)."""
    x = np.asarray(x, np.float64)
    centres = _first_centres_ref(x, _draws(k, seed))
    previous = None
    for _ in range(rounds):
        distance = np.array([[((p - c) ** 2).sum() for c in centres] for p in x])
        labels = distance.argmin(1)
        if previous is not None and (labels == previous).all():
            break
        previous = labels

        # A cluster without points restarts at the point furthest from its own centre.
        far = list(np.argsort(-distance.min(1), kind='stable'))
        for j in range(k):
            centres[j] = x[labels == j].mean(0) if (labels == j).any() else x[far.pop(0)]
    return centres, labels


def _first_centres_ref(x: np.ndarray, u: np.ndarray) -> np.ndarray:
    """k-means++: each next centre is drawn with the squared distance to the nearest as weight."""
    centres = [x[int(u[0] * len(x))]]
    while len(centres) < len(u):
        nearest = [min(((p - c) ** 2).sum() for c in centres) for p in x]
        goal = u[len(centres)] * sum(nearest)
        cumulated, i = 0.0, -1
        while cumulated <= goal:
            i += 1
            cumulated += nearest[i]
        centres.append(x[i])
    return np.array(centres)


@torch.no_grad()
def kmeans(x: Tensor, k: int, seed: int = 0, rounds: int = 50) -> tuple[Tensor, Tensor]:
    """Cluster x [N, D] float32 by Lloyd's algorithm, initialised by k-means++, on x's device.

    k:      clusters, up to the number of different points
    rounds: largest number of iterations; fewer once no label changes
    Returns ([k, D] float32 centres, [N] int64 labels). A cluster that loses all its points restarts
    at the point furthest from its own centre. The result is repeatable on one machine. Raises
    ValueError for fewer than k different points. k-means++: Arthur and Vassilvitskii, SODA 2007.
    """
    squares = x.square().sum(1)
    centres = _first_centres(x, _draws(k, seed))
    labels: Tensor | None = None
    for _ in range(rounds):
        distance, new = (squares[:, None] + centres.square().sum(1) - 2 * x @ centres.T).min(1)
        if labels is not None and torch.equal(new, labels):
            break
        labels = new

        # Means by a matrix product, which adds in the same order every time, unlike index_add.
        member = (labels == torch.arange(k, device=x.device)[:, None]).to(x.dtype)  # [k, N]
        counts = member.sum(1)
        centres = member @ x / counts.clamp_min(1)[:, None]

        far = distance.argsort(descending=True, stable=True)
        empty = torch.nonzero(counts == 0)[:, 0]
        centres[empty] = x[far[: len(empty)]]
    assert labels is not None, rounds
    return centres, labels


def _first_centres(x: Tensor, u: np.ndarray) -> Tensor:
    """As `_first_centres_ref`. Raises ValueError for too few different points."""
    chosen = [int(u[0] * len(x))]
    nearest = (x - x[chosen[0]]).square().sum(1)
    while len(chosen) < len(u):
        # On the CPU: on a GPU the order of additions, and so the sum, may change from run to run.
        sums = nearest.double().cpu().cumsum(0)
        if not sums[-1] > 0:
            raise ValueError(
                f'{len(u)} clusters are requested, but only {len(chosen)} of the {len(x)} points '
                'are different'
            )
        place = int(torch.searchsorted(sums, u[len(chosen)] * sums[-1], right=True))
        chosen.append(min(place, len(x) - 1))
        nearest = torch.minimum(nearest, (x - x[chosen[-1]]).square().sum(1))
    return x[chosen]


def _draws(k: int, seed: int) -> np.ndarray:
    """[k] float64 in [0, 1)."""
    return torch.rand(k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).numpy()


# ---- transfer and matching ----


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every channel of [B, C, h, w], [B, C, 1, 1] each."""
    return x.mean((2, 3), keepdim=True), (x.var((2, 3), keepdim=True, correction=0) + EPS).sqrt()


def standardised(x: Tensor) -> Tensor:
    """[B, C, h, w] with mean 0 and deviation 1 in every channel; a constant one becomes 0."""
    mean, deviation = moments(x)
    return (x - mean) / deviation


def adain(content: Tensor, style: Tensor) -> Tensor:
    """Give the content each channel's mean and deviation of the style, both [B, C, h, w].

    Adaptive instance normalisation: Huang and Belongie, ICCV 2017.
    """
    mean, deviation = moments(style)
    return standardised(content) * deviation + mean


def match_ref(features: Tensor, entries: Tensor) -> tuple[int, Tensor]:
    """Reference of `match` for one crop [C, s, s] and entries [K, C, s, s].

    Every entry is given the crop's moments; the one with the largest inner product wins. Returns
    its number and the transferred entry [C, s, s].
    """
    moved = [adain(entry[None].double(), features[None].double())[0] for entry in entries]
    best = int(np.argmax([float((features.double() * d).sum()) for d in moved]))
    return best, moved[best]


def match(features: Tensor, entries: Tensor) -> tuple[Tensor, Tensor]:
    """Find for each crop [B, C, s, s] the most similar of standardised entries [K, C, s, s].

    Returns [B] numbers of the entries, and [B, C, s, s] the entries with the crops' moments.
    """
    # The means of a crop add the same to every entry's product, so a single product of the centred
    # crop, times its deviations, with the entries ranks them all.
    mean, deviation = moments(features)
    best = (((features - mean) * deviation).flatten(1) @ entries.flatten(1).T).argmax(1)
    return best, entries[best] * deviation + mean


class Dictionary(nn.Module):
    """Entries of every component, as parameters that are not trained.

    entries: {component: [K, C, s, s] standardised}, all of components.COMPONENTS, with one C;
             ValueError otherwise
    """

    def __init__(self, entries: Mapping[str, Tensor]) -> None:
        super().__init__()
        # One C, since all entries are added to the same features.
        complete = list(entries) == list(components.COMPONENTS)
        square = all(e.dim() == 4 and e.shape[2] == e.shape[3] for e in entries.values())
        if not complete or not square or len({e.shape[1] for e in entries.values()}) != 1:
            shapes = {name: tuple(e.shape) for name, e in entries.items()}
            names = ', '.join(components.COMPONENTS)
            raise ValueError(f'dictionary of {shapes}: needs [K, C, s, s] of {names}, with one C')
        self.entries = nn.ParameterDict(
            {name: nn.Parameter(e.float(), requires_grad=False) for name, e in entries.items()}
        )

    @property
    def channels(self) -> int:
        """Channels of the features."""
        return self.entries['nose'].shape[1]

    def forward(self, features: Tensor, boxes: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Add the best entries to features [B, C, h, w].

        boxes:   [B, 4, 4] in pixels of the features
        present: [B, 4] bool
        Returns [B, C, h, w] features plus entries in the boxes, and [B, 1, h, w] bool, the boxes.
        """
        added = torch.zeros_like(features)
        covered = torch.zeros_like(features[:, :1], dtype=torch.bool)
        # By name: a ParameterDict has an order of its own. Where boxes overlap, the later one wins.
        for i, name in enumerate(components.COMPONENTS):
            entries = self.entries[name]
            crops = components.roi_align(features, boxes[:, i], entries.shape[-1])
            _, matched = match(crops, entries.to(features.dtype))
            pasted, inside = components.pasted(matched, boxes[:, i], features.shape[2:])
            inside = inside & present[:, i, None, None, None]
            added = torch.where(inside, pasted, added)
            covered = covered | inside
        return features + added, covered


def build(crops: Tensor, count: int, seed: int = 0) -> Tensor:
    """Entries [min(count, N), C, s, s] from crops [N, C, s, s] of one component of N faces.

    They are standardised centres of crops whose channels were brought to mean 0.
    """
    centred = crops - crops.mean((2, 3), keepdim=True)
    centres, _ = kmeans(centred.flatten(1), min(count, len(crops)), seed)
    return standardised(centres.view(-1, *crops.shape[1:]))
