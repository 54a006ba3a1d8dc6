"""Pairs that were degraded before: read, decoded, kept and mirrored together as one array of bytes.

Of pairs above each other that is their picture, cut in two at last. Of those from two folders the GT is the picture; the LQ lies `beside` it, in further channels of the same
size: its channel c fills the rows c, c + scale, ... of one of them, every value repeated over `scale` columns, so that what mirrors the GT mirrors the LQ.
"""

import numpy as np
import torch

import degrade
from errors import BadFile
from sources import reader
from sources.files import decode, read_bytes, shown
from sources.manifest import Stacked

from .batch import Batch, Plan, cropped


class LqGtReader(reader.PairedReader):
    """Reader of manifest.Pair, whose GT are of the training size."""

    def __init__(self, pairs, size=512, say=print):
        self.scale = pairs[0].gt.width // pairs[0].lq.width
        super().__init__(pairs, size, say)

    def paired(self, index):
        lq, side = decode(read_bytes(*self.images[index].lq.where)), self.size // self.scale
        if lq.shape[:2] != (side, side):
            raise BadFile(f'{lq.shape[1]}x{lq.shape[0]}, where {side}x{side} are wanted')
        return packed(lq, self.scale)

    def reason(self, index, error):
        return f'its LQ {shown(self.images[index].lq.path)}: {error}'


class StackedReader(reader.Reader):
    """Reader of manifest.Stacked of exactly the training size."""

    tall = 2

    def suits(self, width, height):
        if (width, height) != (self.size, 2 * self.size):
            raise BadFile(f'{width}x{height}, where {self.size}x{2 * self.size} are wanted')

    def fit(self, rgb):
        self.suits(*rgb.shape[1::-1])
        return rgb


class PairedPlan(Plan):
    """Plan of pairs from two folders: nothing is degraded; flips, order and crops are those of Plan. scale: GT / LQ"""

    def __init__(self, count, scale, **options):
        super().__init__(
            count,
            degrade.recipe('bicubic')._replace(name='pairs', scale=scale, stages=()),
            **options,
        )
        self.channels = 3 + planes(scale)

    def finish(self, x, step, impl='torch', pool=None):
        """x: [B, channels, H, W] uint8, decoded and flipped -> Batch."""
        lq, gt = (
            degrade.canvas.unit(part.contiguous(memory_format=torch.channels_last))
            for part in self.parts(x)
        )
        gt = cropped(gt, step.corner * self.scale, self.crop)
        return Batch(
            cropped(lq, step.corner, self.crop // self.scale), gt, torch.from_numpy(step.sample), gt
        )

    def parts(self, x):
        """(LQ [B, 3, h, w], GT [B, 3, H, W])"""
        return unpacked(x[:, 3:], self.scale), x[:, :3]


class StackedPlan(PairedPlan):
    """The same of pairs above each other; x is [B, 3, 2 H, W]."""

    tall = 2

    def __init__(self, count, scale, **options):
        super().__init__(count, scale, **options)
        self.channels = 3

    def parts(self, x):
        return x[:, :, : self.size], x[:, :, self.size :]


def planned(pairs, scale, *, size, say, **options):
    """(plan, reader) of a list of manifest.Pair or of manifest.Stacked. options: of Plan"""
    Plan, Reader = (
        (StackedPlan, StackedReader) if isinstance(pairs[0], Stacked) else (PairedPlan, LqGtReader)
    )
    return Plan(len(pairs), scale, size=size, **options), Reader(pairs, size, say)


def planes(scale):
    """Channels that an LQ takes."""
    return -(-3 // scale)


def packed(lq, scale):
    """[h, w, 3] uint8 -> [scale h, scale w, planes(scale)]"""
    h, w, _ = lq.shape
    out = np.zeros((scale * h, scale * w, planes(scale)), np.uint8)
    for c in range(3):
        out[c % scale :: scale, :, c // scale] = lq[..., c].repeat(scale, 1)
    return out


def unpacked(x, scale):
    """[B, planes(scale), scale h, scale w] tensor -> [B, 3, h, w]"""
    return torch.stack([x[:, c // scale, c % scale :: scale, ::scale] for c in range(3)], 1)
