"""Dictionaries of facial components: k-means over the features of training faces, and the entry that is most like what a degraded face has (DFDNet, Li et al., ECCV 2020).

An entry is kept with mean 0 and deviation 1 in every channel, which is all that its transfer (AdaIN) needs.
"""

import numpy as np
import torch
from torch import nn

from . import components

EPS = 1e-5  # of deviations


# ---- k-means ----


def kmeans_ref(x, k, seed=0, rounds=50):
    """[N, D] -> ([k, D] float64 centres, [N] labels): plain loops; as `kmeans` has it."""
    x, u = np.asarray(x, np.float64), _draws(k, seed)
    centres = [x[int(u[0] * len(x))]]
    while len(centres) < k:
        nearest = [min(((p - c) ** 2).sum() for c in centres) for p in x]
        goal, sum_, i = u[len(centres)] * sum(nearest), 0.0, -1
        while sum_ <= goal:
            i, sum_ = i + 1, sum_ + nearest[i + 1]
        centres.append(x[i])
    centres, old = np.array(centres), None
    for _ in range(rounds):
        distance = np.array([[((p - c) ** 2).sum() for c in centres] for p in x])
        labels = distance.argmin(1)
        if old is not None and (labels == old).all():
            break
        old, far = labels, list(np.argsort(-distance.min(1), kind='stable'))
        for j in range(k):
            centres[j] = x[labels == j].mean(0) if (labels == j).any() else x[far.pop(0)]
    return centres, labels


@torch.no_grad()
def kmeans(x, k, seed=0, rounds=50):
    """Lloyd's k-means from k-means++ (Arthur and Vassilvitskii, SODA 2007) on x's device; the same every time on one machine.

    x: [N, D] float32; k: clusters, up to the number of different points; rounds: at most so many, fewer once no label changes. A cluster that lost all its points starts
    again at the point that is furthest from its own.
    -> ([k, D] float32 centres, [N] int64 labels). ValueError for fewer than k different points.
    """
    u, squares = _draws(k, seed), x.square().sum(1)
    places = [int(u[0] * len(x))]
    nearest = (x - x[places[0]]).square().sum(1)
    while len(places) < k:
        sums = (
            nearest.double().cpu().cumsum(0)
        )  # on a GPU the order of additions, and so the sum, is not always the same
        if not sums[-1] > 0:
            raise ValueError(
                f'{k} clusters are asked for, {len(places)} of the {len(x)} points are different'
            )
        places.append(
            min(int(torch.searchsorted(sums, u[len(places)] * sums[-1], right=True)), len(x) - 1)
        )
        nearest = torch.minimum(nearest, (x - x[places[-1]]).square().sum(1))
    centres, labels = x[places], None
    for _ in range(rounds):
        distance, new = (squares[:, None] + centres.square().sum(1) - 2 * x @ centres.T).min(1)
        if labels is not None and torch.equal(new, labels):
            break
        labels = new
        member = (labels == torch.arange(k, device=x.device)[:, None]).to(
            x.dtype
        )  # [k, N]: a product adds in the same order every time
        counts = member.sum(1)
        far, empty = (
            distance.argsort(descending=True, stable=True),
            torch.nonzero(counts == 0)[:, 0],
        )
        centres = member @ x / counts.clamp_min(1)[:, None]
        centres[empty] = x[far[: len(empty)]]
    return centres, labels


def _draws(k, seed):
    """[k] float64 in [0, 1)"""
    return torch.rand(k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).numpy()


# ---- transfer and matching ----


def moments(x):
    """[B, C, h, w] -> mean and standard deviation of every channel, [B, C, 1, 1] each"""
    return x.mean((2, 3), keepdim=True), (x.var((2, 3), keepdim=True, correction=0) + EPS).sqrt()


def standardised(x):
    """[B, C, h, w] with mean 0 and deviation 1 in every channel; a constant one is 0"""
    mean, deviation = moments(x)
    return (x - mean) / deviation


def adain(content, style):
    """The content with each channel's mean and deviation of the style, both [B, C, h, w] (Huang and Belongie, ICCV 2017)."""
    mean, deviation = moments(style)
    return standardised(content) * deviation + mean


def match_ref(features, entries):
    """One crop [C, s, s] and entries [K, C, s, s] -> (number of the best, it transferred [C, s, s]): every entry is given the crop's moments, the largest product wins."""
    moved = [adain(entry[None].double(), features[None].double())[0] for entry in entries]
    best = int(np.argmax([float((features.double() * d).sum()) for d in moved]))
    return best, moved[best]


def match(features, entries):
    """Crops [B, C, s, s] and standardised entries [K, C, s, s] -> ([B] number of the best entry, [B, C, s, s] it with the crop's moments).

    The means of a crop add the same to every entry's product, so one product of the centred crop, times its deviations, with the entries ranks them all.
    """
    mean, deviation = moments(features)
    best = (((features - mean) * deviation).flatten(1) @ entries.flatten(1).T).argmax(1)
    return best, entries[best] * deviation + mean


class Dictionary(nn.Module):
    """Entries of every component, as parameters that are not trained.

    entries: {component: [K, C, s, s] standardised}, all of components.COMPONENTS, of one C; ValueError otherwise
    """

    def __init__(self, entries):
        super().__init__()
        if (
            list(entries) != list(components.COMPONENTS)
            or len({e.shape[1] for e in entries.values()}) != 1
            or any(e.dim() != 4 or e.shape[2] != e.shape[3] for e in entries.values())
        ):
            raise ValueError(
                f'dictionary of { ({name: tuple(e.shape) for name, e in entries.items()}) }: needs [K, C, s, s] of {", ".join(components.COMPONENTS)}, with one C'
            )
        self.entries = nn.ParameterDict(
            {name: nn.Parameter(e.float(), requires_grad=False) for name, e in entries.items()}
        )

    @property
    def channels(self):
        return self.entries['nose'].shape[1]

    def forward(self, features, boxes, there):
        """Features [B, C, h, w], boxes [B, 4, 4] in their pixels, [B, 4] bool -> ([B, C, h, w] features plus the best entries in the boxes, [B, 1, h, w] bool: the boxes)."""
        added, covered = (
            torch.zeros_like(features),
            torch.zeros_like(features[:, :1], dtype=torch.bool),
        )
        for i, name in enumerate(components.COMPONENTS):  # a ParameterDict has an order of its own
            entries = self.entries[name]
            _, found = match(
                components.roi_align(features, boxes[:, i], entries.shape[-1]),
                entries.to(features.dtype),
            )
            found, inside = components.pasted(found, boxes[:, i], features.shape[2:])
            inside = inside & there[:, i, None, None, None]
            added, covered = torch.where(inside, found, added), covered | inside
        return features + added, covered


def build(crops, count, seed=0):
    """Crops [N, C, s, s] of one component of N faces -> [min(count, N), C, s, s] entries: centres of crops whose channels were brought to mean 0, standardised."""
    centred = crops - crops.mean((2, 3), keepdim=True)
    centres, _ = kmeans(centred.flatten(1), min(count, len(crops)), seed)
    return standardised(centres.view(-1, *crops.shape[1:]))
