"""How a batch is planned: sample numbers -> images, flips, degradations and crops."""

from concurrent.futures import Executor
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

import degrade
from degrade.draw import Draw
from degrade.upload import upload
from sources import order

from .batch import Batch


class Step(NamedTuple):
    """Everything that is random about a batch; a pure function of its sample numbers."""

    sample: np.ndarray  # [B] int64
    # [B] int64 image numbers in the manifest; -1: the next image of a stream.
    index: np.ndarray  # type: ignore[assignment]  # hides a method of tuples that nobody needs
    flip: np.ndarray  # [B] bool, mirrored when decoded
    params: tuple[Any, ...]  # of the recipe's stages; of a parser (augment.Params, those or None)
    corner: np.ndarray  # [B, 2] int64 top and left of the crop in pixels of the input; 0 without
    # What the kernels are given of it, from `BatchPlan.records`: arrays of [B] structs, and tensors
    # once they are on the GPU. Empty where they are not made ahead.
    records: tuple[Any, ...] = ()


class BatchPlan(Protocol):
    """What loaders and pipes ask of a plan: how to draw a batch, and how to make it of pixels."""

    batch: int  # images per step
    size: int  # side in pixels
    seed: int
    channels: int  # of decoded images
    tall: int  # decoded images are this many times as high as wide

    @property
    def count(self) -> int | None:
        """Number of images in the manifest, None for a stream."""
        ...

    def __call__(self, samples: np.ndarray) -> Step:
        """Draw everything for [B] int64 sample numbers."""
        ...

    def records(self, step: Step) -> tuple[np.ndarray, ...]:
        """What the kernels are given of a step: arrays of [B] structs."""
        ...

    def finish(
        self, x: torch.Tensor, step: Step, impl: str = 'torch', pool: Executor | None = None
    ) -> Batch:
        """Make the batch of decoded images.

        x:    [B, channels, tall * size, size] uint8, flipped, on the device the batch is wanted on
        impl: of degrade.degrade
        pool: executor of threads over which the images of a CPU batch are spread
        """
        ...


class Plan:
    """The BatchPlan of images that are degraded while training, the same for every pipe.

    count:       images in the manifest, None for a stream
    recipe:      degradation
    batch:       images per step
    size:        side of the target in pixels
    seed:        of order, flips, crops and degradations
    flip:        probability of a horizontal flip
    lq_from_usm: degrade the sharpened target where the recipe says so
    target_usm:  train on the sharpened target
    target_gray: train on a target without colour where the recipe takes it away
    crop:        side in pixels of random squares cut out of the degraded pairs, a multiple of the
                 recipe's scale; None for whole images
    Raises ValueError for a size or a crop that the recipe's scale does not divide, and for
    target_gray where the recipe has no stage of that kind.
    """

    channels = 3
    tall = 1

    def __init__(
        self,
        count: int | None,
        recipe: degrade.Recipe,
        *,
        batch: int,
        size: int,
        seed: int = 0,
        flip: float = 0.5,
        lq_from_usm: bool = True,
        target_usm: bool = False,
        target_gray: bool = False,
        crop: int | None = None,
    ) -> None:
        """Check the sizes; nothing is drawn yet."""
        self.count = count
        self.batch = batch
        self.size = size
        self.scale = recipe.scale
        self.seed = seed
        self.flip = flip
        self.crop = crop or size
        if size % self.scale:
            raise ValueError(f'size {size}: {recipe.name} needs a multiple of {self.scale}')
        if self.crop % self.scale or not 0 < self.crop <= size:
            raise ValueError(f'crop {crop}: needs a multiple of {self.scale} up to {size}')

        if target_gray and not any(stage.op is degrade.gray for stage in recipe.stages):
            raise ValueError(f'--target-gray: {recipe.name} never takes the colour away (op gray)')

        # A sharpened target is sharpened once, for input and target: the chain then starts after
        # its own USM.
        self.sharp_first = target_usm
        self.target_gray = target_gray
        self.sharp_input = lq_from_usm and any(s.op is degrade.usm for s in recipe.stages)
        chain_sharpens = lq_from_usm and not target_usm
        self.recipe = recipe if chain_sharpens else degrade.without_usm(recipe)

        self._known: list[str] = []  # names of draws, learnt in the first batch

    def __call__(self, samples: np.ndarray) -> Step:
        """Draw everything for [B] int64 sample numbers."""
        draw = Draw(
            self.seed,
            samples,
            self._known,
            tied=self.recipe.tied,
            batch=self.batch,
            pool=self.recipe.pool,
        )
        return Step(
            samples,
            self._index(samples),
            draw.uniform('flip') < self.flip,
            degrade.sample(self.recipe, draw, (self.size, self.size)),
            self._corner(draw),
        )

    def _index(self, samples: np.ndarray) -> np.ndarray:
        """[B] image numbers; a stream has none and gives whatever comes next."""
        if self.count is None:
            return np.full(len(samples), -1)
        return order.index(samples, self.count, self.seed)

    def _corner(self, draw: Draw) -> np.ndarray:
        """[B, 2] top and left of the crops, in pixels of the input."""
        room = (self.size - self.crop) // self.scale
        if not room:
            return np.zeros((len(draw.samples), 2), np.int64)
        return np.stack([draw.integers(f'crop/{side}', 0, room) for side in ('top', 'left')], 1)

    def records(self, step: Step) -> tuple[np.ndarray, ...]:
        """Those of the sharpened target, if there is one, and then those of the recipe."""
        sides = (self.size, self.size)
        own = degrade.records(self.recipe, step.params, sides)
        if not self.sharp_first:
            return own
        every = degrade.sharpened(len(step.sample))
        return degrade.records(degrade.SHARPENING, every, sides) + own

    def finish(
        self, x: torch.Tensor, step: Step, impl: str = 'torch', pool: Executor | None = None
    ) -> Batch:
        """Make the batch of x [B, 3, H, W] uint8; see BatchPlan."""
        # Degrade whole images and crop afterwards, so that a crop equals the same part of the
        # whole pair.
        sharp, there = None, step.records or None
        if self.sharp_first:
            first = there and there[:1]
            sharp = degrade.sharpen(x, impl, pool=pool, there=first)
            there = there and there[1:]
        source = sharp if sharp is not None and self.sharp_input else x
        lq = degrade.degrade(source, self.recipe, step.params, impl, pool=pool, there=there)

        if self.target_gray:
            x = self._without_colour(x, step)
            sharp = sharp if sharp is None else self._without_colour(sharp, step)

        # The corner is drawn in pixels of the input, where both sides lie on whole pixels.
        corner = step.corner * self.scale
        plain = cropped(degrade.canvas.unit(x), corner, self.crop)
        target = plain if sharp is None else cropped(sharp, corner, self.crop)
        return Batch(
            cropped(lq, step.corner, self.crop // self.scale),
            target,
            torch.from_numpy(step.sample),
            plain,
            self.place(step, x.device),
        )

    def place(self, step: Step, device: torch.device) -> torch.Tensor | None:
        """[B, 4] float32 on the device: where in the pictures the crops lie; None without crops."""
        if self.crop == self.size:
            return None
        sides = np.full((len(step.corner), 2), self.crop / self.size)
        places = np.concatenate([step.corner[:, ::-1] * (self.scale / self.size), sides], 1)
        return upload(places.astype(np.float32), device)

    def _without_colour(self, x: torch.Tensor, step: Step) -> torch.Tensor:
        """Make the targets x [B, 3, H, W] grey whose inputs are."""
        # A recipe may have several such stages, each for some of the samples.
        stages = zip(self.recipe.stages, step.params, strict=True)
        on = np.logical_or.reduce([p.on for stage, p in stages if stage.op is degrade.gray])
        return degrade.gray.run_torch(degrade.canvas.of(x), degrade.gray.Params(on)).pix


def cropped(x: torch.Tensor, corner: np.ndarray, side: int) -> torch.Tensor:
    """Cut squares out of x [B, C, H, W]; x itself if they are all of it.

    corner: [B, 2] int64 top and left in pixels
    """
    if x.shape[-2:] == (side, side):
        return x
    squares = [
        image[:, top : top + side, left : left + side]
        for image, (top, left) in zip(x, corner.tolist(), strict=True)
    ]
    return torch.stack(squares).contiguous(memory_format=torch.channels_last)
