"""How the batch of a parser or of a landmark network is planned and finished.

Sample numbers -> pairs, pasting, augmentations, degradations; decoded pairs -> Batch.
"""

from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

import degrade
from degrade.draw import Draw
from degrade.op import ChainParams
from degrade.upload import upload
from faces import augment, landmarks, masks
from sources import order

from .batch import Batch
from .plan import Step


class ParsePlan:
    """The BatchPlan of pictures and masks, the same for every pipe.

    count:  pairs in the manifest
    batch:  pairs per step
    size:   side in pixels
    seed:   of order, augmentations and degradations
    recipe: what the parser has to see through: faces are degraded and enlarged again (bicubic);
            None for clean faces
    epoch:  [M] int64 numbers of the pairs in an epoch, some of them more than once; None: each once
    paste:  probability that a face is given what its partner wears (Ghiasi et al., CVPR 2021):
            glasses, hat, earrings, necklace. Faces are aligned, so that these lie where they
            belong. Partners are the samples 2k and 2k + 1, in even batches on whatever process
    """

    channels = 4  # of decoded images: red, green, blue, class id
    tall = 1

    def __init__(
        self,
        count: int,
        *,
        batch: int,
        size: int,
        seed: int = 0,
        recipe: degrade.Recipe | None = None,
        epoch: np.ndarray | None = None,
        paste: float = 0.0,
    ) -> None:
        """Nothing is drawn yet."""
        self.count = count
        self.batch = batch
        self.size = size
        self.seed = seed
        self.recipe = recipe
        self.epoch = np.arange(count) if epoch is None else epoch
        self.paste = paste

        # Draws that a recipe makes once per batch.
        self._tied: dict[str, Any] = {}
        if recipe:
            self._tied = dict(tied=recipe.tied, batch=batch, pool=recipe.pool)
        self._known: list[str] = []  # names of draws, learnt in the first batch

    def __call__(self, samples: np.ndarray) -> Step:
        """Draw everything for [B] int64 sample numbers."""
        draw = Draw(self.seed, samples, self._known, **self._tied)
        sides = (self.size, self.size)
        pasted = draw.uniform('paste') < self.paste
        moved = augment.sample(draw.at('augment'), sides)
        chain = degrade.sample(self.recipe, draw, sides) if self.recipe else None

        # Nothing is mirrored when decoded: the augmentation mirrors, because left and right of the
        # mask's ids have to be exchanged as well, and once.
        return Step(
            samples,
            self.epoch[order.index(samples, len(self.epoch), self.seed)],
            np.zeros(len(samples), bool),
            (pasted, moved, chain),
            np.zeros((len(samples), 2), np.int64),
        )

    def records(self, step: Step) -> tuple[np.ndarray, ...]:
        """Those of the recipe, where there is one."""
        *_, chain = step.params
        return degrade.records(self.recipe, chain, (self.size, self.size)) if self.recipe else ()

    def finish(
        self, x: torch.Tensor, step: Step, impl: str = 'torch', pool: Executor | None = None
    ) -> Batch:
        """Make the batch of x [B, 4, H, W] uint8, pictures and ids; see BatchPlan."""
        pasted, moved, chain = step.params
        x = _worn(x, np.where(pasted, partners(step.sample), -1))
        image, mask = _augmented(x[:, :3], x[:, 3], moved, impl)

        # The chain starts from 8-bit images, as it does for a restorer.
        if self.recipe:
            grey_levels = (255 * image).round().to(torch.uint8)
            there = step.records or None
            image = degraded(grey_levels, self.recipe, chain, impl, pool, there)
        return Batch(image, mask, torch.from_numpy(step.sample), None)


class PointPlan(ParsePlan):
    """The BatchPlan of pictures and landmarks.

    The target is [B, K, 3] float32: x and y in pixels, and 1 where that lies inside the picture,
    else 0.
    points:  [N, K, 2] of every picture in the manifest, in pixels of the training size; K as in
             landmarks.mirror
    options: keywords of ParsePlan
    """

    channels = 3

    def __init__(self, points: np.ndarray, **options: Any) -> None:
        """As ParsePlan, of as many pictures as there are points."""
        super().__init__(len(points), **options)
        self.points = points

    def finish(
        self, x: torch.Tensor, step: Step, impl: str = 'torch', pool: Executor | None = None
    ) -> Batch:
        """Make the batch of x [B, 3, H, W] uint8; see BatchPlan."""
        # Pictures go the way of a parser's, with an empty mask.
        empty = torch.zeros_like(x[:, :1])
        batch = super().finish(torch.cat([x, empty], 1), step, impl, pool)

        # A pixel's centre has whole coordinates, so that the picture ends half a pixel further out.
        _, moved, _ = step.params
        points = landmarks.moved(self.points[step.index], moved.matrix, moved.flip, self.size)
        inside = ((points >= -0.5) & (points < self.size - 0.5)).all(2, keepdims=True)
        target = np.concatenate([points, inside], 2).astype(np.float32)
        return batch._replace(target=upload(target, x.device))


def partners(samples: np.ndarray) -> np.ndarray:
    """[B] sample numbers -> [B] places of their partners in the batch, -1 for those without."""
    place = {number: i for i, number in enumerate(samples.tolist())}
    return np.array([place.get(number ^ 1, -1) for number in samples.tolist()])


def _worn(x: torch.Tensor, givers: np.ndarray) -> torch.Tensor:
    """Give faces what others wear.

    x: [B, 4, H, W] uint8, pictures and ids; givers: [B] places of the others, -1 for none
    """
    places = np.flatnonzero(givers >= 0).tolist()
    if not places:
        return x
    # A copy, since the pixels may belong to a cache.
    given = x.clone()
    for i in places:
        other = x[int(givers[i])]
        there = torch.stack([other[3] == n for n in masks.WORN]).any(0)
        given[i] = torch.where(there, other, x[i])
    return given


def _augmented(
    image: torch.Tensor, mask: torch.Tensor, moved: augment.Params, impl: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Move and tint pictures [B, 3, H, W] uint8 and move their masks [B, H, W] uint8.

    Returns [B, 3, H, W] float32 in [0, 1], channels-last, and [B, H, W] uint8.
    """
    if impl != 'ref':
        return augment.run_torch(image, mask, moved)

    # The definition: one sample at a time, in float64.
    pictures, ids = [], []
    for i in range(len(image)):
        hwc = image[i].permute(1, 2, 0).numpy()
        picture, own = augment.run_ref(hwc, mask[i].numpy(), moved, i)
        pictures.append(picture)
        ids.append(own)
    moved_image, moved_mask = (
        torch.from_numpy(np.stack(side)).to(image.device) for side in (pictures, ids)
    )
    return moved_image.float().permute(0, 3, 1, 2), moved_mask


def degraded(
    image: torch.Tensor,
    recipe: degrade.Recipe,
    params: ChainParams,
    impl: str = 'torch',
    pool: Executor | None = None,
    there: Sequence[torch.Tensor] | None = None,
) -> torch.Tensor:
    """Degrade [B, 3, H, W] uint8 and enlarge the result to the same size, float32 in [0, 1].

    This is what a parser is given by a restorer that asks it about a degraded face. The arguments
    are those of degrade.degrade.
    """
    lq = degrade.degrade(image, recipe, params, impl, pool=pool, there=there)
    large = F.interpolate(lq, image.shape[-2:], mode='bicubic').clamp(0, 1)
    return large.contiguous(memory_format=torch.channels_last)
