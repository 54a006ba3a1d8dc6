"""Degraded pairs of aligned faces, by any recipe: an LQ tar and a GT tar for each input shard."""

import functools
from dataclasses import dataclass

import numpy as np
import torch

import degrade
from dali_pipes.plan import Plan
from errors import RunError
from sources import files
from tasks import images

from .accounts import Face
from .shard_task import Made

# Sample numbers of a shard; those of another one begin after so many.
SAMPLES = 1_000_000


@dataclass(frozen=True)
class Pairs:
    """Job: pairs as `prepare.py degrade` makes them, each with a degradation of its own.

    recipe: name, or path of a file that every worker reaches
    seed: of the degradations
    plain: degrade the plain face where the recipe degrades the sharpened one
    device: 'cpu', or 'cuda' for the kernels
    """

    recipe: str
    size: int
    seed: int
    plain: bool
    device: str

    kind = 'pairs'
    folders = 'LQ', 'GT'

    def made(self, name: str, data: bytes, shard: int, number: int) -> list[Made]:
        """See Job."""
        if number >= SAMPLES:
            raise RunError(f'shard {shard} has more than {SAMPLES:,} pictures: make smaller tars')
        rgb = files.decode_sound(data)
        height, width, _ = rgb.shape
        files.big_enough(width, height, self.size)
        x = torch.from_numpy(files.fit(rgb, self.size)).permute(2, 0, 1)[None]

        # A function of the place in the set alone, whoever makes it.
        plan, impl = _plan(self), 'cuda' if self.device != 'cpu' else 'torch'
        step = plan(np.array([shard * SAMPLES + number]))
        batch = plan.finish(x.to(self.device), step, impl)
        lq = (batch.input[0] * 255).round().to(torch.uint8).cpu()
        # PNG on both sides: what JPEG would do to them is the recipe's to say.
        key = f'{shard:06}-{number:06}'
        pair = {'LQ': lq, 'GT': x[0]}
        pictures = {side: {f'{key}.png': images.png(image)} for side, image in pair.items()}
        return [Made(Face(key, name), pictures)]

    def copies(self) -> None:
        """See Job: nothing is judged."""


@functools.cache
def _plan(job: Pairs) -> Plan:
    # There is a process for each core, and a GPU needs one thread to be told what to do.
    torch.set_num_threads(1)
    return Plan(
        None,
        degrade.recipe(job.recipe),
        batch=1,
        size=job.size,
        seed=job.seed,
        flip=0.0,
        lq_from_usm=not job.plain,
    )
