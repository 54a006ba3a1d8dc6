"""Architecture search: first-order and alternating (DARTS, Liu et al., ICLR 2019), judged as restoration is; what is found, in words, figures and a picture.

The images are split in halves: on one the weights of a supernet are trained, on the other, later, the parameters that say what each way and operation weighs.
"""

from typing import NamedTuple

import torch
from torch import nn

import models
from models import decode

from . import restore

METRIC, LOSSES, Criterion = restore.METRIC, restore.LOSSES, restore.Criterion
NETWORKS = models.SEARCHES


def halves(images):
    """-> (images of the weights, images of the architecture): those with even numbers and those with odd ones. ValueError where there are fewer than two."""
    if len(images) < 2:
        raise ValueError(
            f'a search needs at least two images, one for the weights and one for the architecture, not {len(images)}'
        )
    return images[::2], images[1::2]


def parts(net):
    """-> (weights, architecture) of a searched network: modules that hold its parameters between them, shared with it."""
    supernet = net.supernet
    architecture = nn.ParameterDict({'alpha': supernet.alpha, 'beta': supernet.beta})
    mine = {id(p) for p in architecture.values()}
    return nn.ParameterList(p for p in net.parameters() if id(p) not in mine), architecture


def entropies(supernet):
    """-> (of the operations of an edge, of the ways from a level): means of the entropies of their weights, as shares of the greatest one; 1 knows nothing, 0 has decided."""
    alpha, beta = (
        w.double().cpu()
        for w in decode.normalise(supernet.alpha.detach(), supernet.beta.detach(), supernet.start)
    )
    ways = beta[beta.sum(2) > 0]  # of levels that are reached
    return float(_entropy(alpha).mean()), float(_entropy(ways / ways.sum(1, keepdim=True)).mean())


def _entropy(p):
    """[n, k] probabilities, where 0 is impossible -> [n] as share of the logarithm of those possible"""
    return -torch.xlogy(p, p).sum(1) / (p > 0).sum(1).log()


def found(net):
    """-> {name of the part: architecture of greatest weight}, plain lists, ready for JSON: what arch.json holds and --arch takes."""
    return {net.part: net.supernet.architecture()}


class Scores(NamedTuple):
    restored: restore.Scores
    entropies: tuple  # see `entropies`
    architecture: dict  # of greatest weight so far

    def value(self, part=slice(None)):
        return self.restored.value(part)

    def row(self):
        alpha, beta = self.entropies
        return self.restored.row() | dict(
            alpha_entropy=alpha,
            beta_entropy=beta,
            path=self.architecture['path'],
            cell=self.architecture['cell'],
        )

    def pictures(self):
        return self.restored.pictures()

    def sentence(self):
        alpha, beta = self.entropies
        return (
            f'{self.restored.sentence()}\npath {self.architecture["path"]}, cell {self.architecture["cell"]}; '
            f'entropy of operations {alpha:.4f}, of ways {beta:.4f} (1: undecided, 0: decided)'
        )


class Middle:
    """Squares from the middle of a validation set's pictures, of the side trained on: the running statistics of a supernet's normalisations hold for maps of that size alone
    (borders are most of a small one). side: in pixels of the truth, a multiple of the scale, truth / input"""

    def __init__(self, data, side, scale):
        self._data, self._side, self._scale, self.name = data, side, scale, data.name

    def __len__(self):
        return len(self._data)

    def __getitem__(self, i):
        name, lq, gt = self._data[i]
        top, left = ((s - self._side) // 2 // self._scale for s in gt.shape[1:])
        one, many = self._side // self._scale, self._scale
        return (
            name,
            lq[:, top : top + one, left : left + one],
            gt[:, many * top : many * top + self._side, many * left : many * left + self._side],
        )


def validate(net, data, device, world=None, **more):
    """Score the supernet as restore.validate does, and tell where its architecture stands -> Scores."""
    return Scores(
        restore.validate(net, data, device, world, **more),
        entropies(net.supernet),
        net.supernet.architecture(),
    )
