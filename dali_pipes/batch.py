"""The one contract between data and network, and how a batch is planned: sample numbers -> images, flips, degradations."""

from typing import Any, NamedTuple

import cv2
import numpy as np
import torch

import degrade
from degrade.draw import Draw
from degrade.upload import upload
from sources import order


class Batch(NamedTuple):
    input: torch.Tensor  # [B, 3, h, w] float32 in [0, 1], RGB, channels-last; multiples of 1/255
    target: torch.Tensor  # [B, 3, H, W] float32 in [0, 1], RGB, channels-last; H = recipe.scale h; of a parser [B, H, W] uint8 ids
    sample: torch.Tensor  # [B] int64 sample numbers
    plain: torch.Tensor  # as target, never sharpened: what a discriminator takes for real; the same tensor where they are equal; None of a parser


class Step(NamedTuple):
    """Everything that is random about a batch; a pure function of its sample numbers."""

    sample: np.ndarray  # [B] int64
    index: (
        np.ndarray
    )  # [B] int64 image numbers in the manifest; -1 of a stream, which gives what comes next
    flip: np.ndarray  # [B] bool
    params: tuple  # degrade.sample
    corner: (
        np.ndarray
    )  # [B, 2] int64 top and left of the crop, in pixels of the input; 0 without one


class Plan:
    """Sample numbers -> Step, and Step + pixels -> Batch, the same for every pipe.

    count: images in the manifest, None of a stream; recipe: degrade.Recipe; size: side of the target in pixels
    flip: probability of a horizontal flip; lq_from_usm: degrade the sharpened target where the recipe says so; target_usm: train on it
    crop: side in pixels of random squares cut out of the degraded pairs, a multiple of the recipe's scale; None: whole images
    """

    channels = 3  # of decoded images,
    tall = 1  # and how many times as high as wide they are

    def __init__(
        self,
        count,
        recipe,
        *,
        batch,
        size,
        seed=0,
        flip=0.5,
        lq_from_usm=True,
        target_usm=False,
        crop=None,
    ):
        self.count, self.batch, self.size, self.scale, self.seed, self.flip = (
            count,
            batch,
            size,
            recipe.scale,
            seed,
            flip,
        )
        self.sharp_first = target_usm  # sharpened once, for both
        self.recipe = recipe if lq_from_usm and not target_usm else degrade.without_usm(recipe)
        self.sharp_input = lq_from_usm and any(s.op is degrade.usm for s in recipe.stages)
        self.crop = crop or size
        if size % self.scale:
            raise ValueError(f'size {size}: {recipe.name} needs a multiple of {self.scale}')
        if self.crop % self.scale or not 0 < self.crop <= size:
            raise ValueError(f'crop {crop}: needs a multiple of {self.scale} up to {size}')
        self._known = []

    def __call__(self, samples):
        draw = Draw(
            self.seed,
            samples,
            self._known,
            tied=self.recipe.tied,
            batch=self.batch,
            pool=self.recipe.pool,
        )
        index = (
            np.full(len(samples), -1)
            if self.count is None
            else order.index(samples, self.count, self.seed)
        )
        room = (self.size - self.crop) // self.scale
        corner = (
            np.stack([draw.integers('crop/' + name, 0, room) for name in ('top', 'left')], 1)
            if room
            else np.zeros((len(samples), 2), np.int64)
        )
        return Step(
            samples,
            index,
            draw.uniform('flip') < self.flip,
            degrade.sample(self.recipe, draw, (self.size, self.size)),
            corner,
        )

    def finish(self, x, step, impl='torch', pool=None):
        """x: [B, 3, H, W] uint8, decoded and flipped, on the device the batch is wanted on -> Batch."""
        sharp = degrade.sharpen(x, impl, pool=pool) if self.sharp_first else None
        source = sharp if self.sharp_first and self.sharp_input else x
        lq = degrade.degrade(source, self.recipe, step.params, impl, pool=pool)
        plain = cropped(degrade.canvas.unit(x), step.corner * self.scale, self.crop)
        target = cropped(sharp, step.corner * self.scale, self.crop) if self.sharp_first else plain
        return Batch(
            cropped(lq, step.corner, self.crop // self.scale),
            target,
            torch.from_numpy(step.sample),
            plain,
        )


class Options(NamedTuple):
    """What a pipe needs beside its plan."""

    reader: Any  # Reader of the manifest's images, or Stream of shards
    cache: Any  # cache.Memory or cache.Mapped of their pixels, or None
    pool: Any  # executor of threads
    start: int  # first sample number
    rank: int
    world: int
    device: torch.device
    threads: int  # CPU threads for decoding and degrading
    mixed: bool = False  # DALI decodes on the GPU


def cropped(x, corner, side):
    """Squares of x [B, C, H, W] at corner [B, 2] top, left; x itself if they are all of it."""
    if x.shape[-2:] == (side, side):
        return x
    return torch.stack(
        [
            image[:, top : top + side, left : left + side]
            for image, (top, left) in zip(x, corner.tolist())
        ]
    ).contiguous(memory_format=torch.channels_last)


def flipped(x, flip):
    """x [B, H, W, C] uint8 with the samples of flip [B] bool mirrored."""
    if x.device.type == 'cpu':
        x = x.clone()
        for i in np.flatnonzero(flip):
            x[i] = torch.from_numpy(cv2.flip(x[i].numpy(), 1)).view(
                x[i].shape
            )  # OpenCV drops the dimension of a single channel
        return x
    return torch.where(upload(flip, x.device)[:, None, None, None], x.flip(2), x)


def assembled(kept, decoded, places, count):
    """[count, ...] of which `decoded` [k, ...] are those at `places` [k] and `kept` the others in their order; either may be None where it has none."""
    if kept is None or decoded is None:
        return decoded if kept is None else kept
    order = np.empty(count, np.int64)
    order[np.setdiff1d(np.arange(count), places)] = np.arange(len(kept))
    order[places] = len(kept) + np.arange(len(decoded))
    return torch.cat([kept, decoded])[upload(order, decoded.device)]
