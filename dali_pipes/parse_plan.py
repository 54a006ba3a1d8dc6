"""How a parser's batch is planned: sample numbers -> pairs, augmentations, degradations; and finished: decoded pairs -> Batch."""

import numpy as np
import torch
import torch.nn.functional as F

import degrade
from degrade.draw import Draw
from degrade.upload import upload
from faces import augment, landmarks
from sources import order

from .batch import Batch, Step


class ParsePlan:
    """Sample numbers -> Step, and Step + pixels -> Batch(input [B, 3, H, W], target [B, H, W] uint8 ids, sample), the same for every pipe.

    count: pairs in the manifest; size: side in pixels
    recipe: degrade.Recipe of what the parser is to see, enlarged again (bicubic), or None for the faces as they are
    """

    channels = 4  # of decoded images: red, green, blue, id;
    tall = 1  # they are square

    def __init__(self, count, *, batch, size, seed=0, recipe=None):
        self.count, self.batch, self.size, self.seed, self.recipe = count, batch, size, seed, recipe
        self._tied = dict(tied=recipe.tied, batch=batch, pool=recipe.pool) if recipe else {}
        self._known = []

    def __call__(self, samples):
        draw, sides = Draw(self.seed, samples, self._known, **self._tied), (self.size, self.size)
        params = (
            augment.sample(draw.at('augment'), sides),
            degrade.sample(self.recipe, draw, sides) if self.recipe else None,
        )
        # Nothing is mirrored at decoding: the mask's ids are to be exchanged, too, and once.
        return Step(
            samples,
            order.index(samples, self.count, self.seed),
            np.zeros(len(samples), bool),
            params,
            np.zeros((len(samples), 2), np.int64),
        )

    def finish(self, x, step, impl='torch', pool=None):
        """x: [B, 4, H, W] uint8, pictures and ids, on the device the batch is wanted on -> Batch."""
        moved, image, mask = step.params[0], x[:, :3], x[:, 3]
        if impl == 'ref':
            done = [
                augment.run_ref(image[i].permute(1, 2, 0).numpy(), mask[i].numpy(), moved, i)
                for i in range(len(x))
            ]
            image, mask = (torch.from_numpy(np.stack(side)).to(x.device) for side in zip(*done))
            image = image.float().permute(0, 3, 1, 2)
        else:
            image, mask = augment.run_torch(image, mask, moved)
        if self.recipe:
            image = degraded(
                (255 * image).round().to(torch.uint8), self.recipe, step.params[1], impl, pool
            )
        return Batch(image, mask, torch.from_numpy(step.sample), None)


class PointPlan(ParsePlan):
    """The same of pictures and points: target [B, K, 3] float32, x and y in pixels and whether that is inside of the picture (1) or not (0).

    points: [N, K, 2] of every picture in the manifest, in pixels of the training size; K as of landmarks.mirror
    """

    channels = 3

    def __init__(self, points, **options):
        super().__init__(len(points), **options)
        self.points = points

    def finish(self, x, step, impl='torch', pool=None):
        """x: [B, 3, H, W] uint8 -> Batch."""
        batch, p = (
            super().finish(torch.cat([x, torch.zeros_like(x[:, :1])], 1), step, impl, pool),
            step.params[0],
        )
        points = landmarks.moved(self.points[step.index], p.matrix, p.flip, self.size)
        inside = ((points >= -0.5) & (points < self.size - 0.5)).all(2, keepdims=True)
        return batch._replace(
            target=upload(np.concatenate([points, inside], 2).astype(np.float32), x.device)
        )


def degraded(image, recipe, params, impl='torch', pool=None):
    """[B, 3, H, W] uint8 -> float32 of the same size, degraded and enlarged again: what a restorer that asks a parser sees."""
    lq = degrade.degrade(image, recipe, params, impl, pool=pool)
    return (
        F.interpolate(lq, image.shape[-2:], mode='bicubic')
        .clamp(0, 1)
        .contiguous(memory_format=torch.channels_last)
    )
