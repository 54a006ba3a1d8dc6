"""LQ/GT pairs that were degraded beforehand: read, decoded, cached and mirrored as one array.

Of pairs stacked in one picture that array is the picture, which is cut in two at the end. Of pairs
from two folders it is the GT with the LQ in further channels of the same size: channel c of the LQ
fills the rows c, c + scale, ... of one of them, every value repeated over `scale` columns, so that
mirroring the GT mirrors the LQ as well.
"""

from concurrent.futures import Executor
from typing import Any

import numpy as np
import torch

import degrade
from errors import BadFile
from sources import reader
from sources.aliases import Say
from sources.files import decode, read_bytes
from sources.manifest import Pair, Stacked
from storage import shown

from .batch import Batch
from .plan import Plan, Step, cropped

# ---- readers ----


class LqGtReader(reader.PairedReader):
    """Reader of manifest.Pair whose GT are of the training size."""

    def __init__(self, pairs: list[Pair], size: int = 512, say: Say = print) -> None:
        """Take the scale, which all pairs share, from the first."""
        self.scale = pairs[0].gt.width // pairs[0].lq.width
        super().__init__(pairs, size, say)

    def paired(self, index: int) -> np.ndarray:
        """[size, size, planes(scale)] uint8: the LQ, packed. Raises OSError, BadFile."""
        lq = decode(read_bytes(*self.images[index].lq.where))
        side = self.size // self.scale
        if lq.shape[:2] != (side, side):
            raise BadFile(f'{lq.shape[1]}x{lq.shape[0]}, where {side}x{side} are wanted')
        return packed(lq, self.scale)

    def reason(self, index: int, error: Exception) -> str:
        """What is wrong with a pair whose LQ cannot be used, for a message."""
        return f'its LQ {shown(self.images[index].lq.path)}: {error}'


class StackedReader(reader.Reader):
    """Reader of manifest.Stacked of exactly the training size."""

    tall = 2

    def suits(self, width: int, height: int) -> None:
        """Raise BadFile for pictures of any other size in pixels."""
        if (width, height) != (self.size, 2 * self.size):
            raise BadFile(f'{width}x{height}, where {self.size}x{2 * self.size} are wanted')

    def fit(self, rgb: np.ndarray) -> np.ndarray:
        """Return a decoded picture as it is. Raises BadFile."""
        self.suits(*rgb.shape[1::-1])
        return rgb


# ---- plans ----


class PairedPlan(Plan):
    """The plan of pairs from two folders: order, flips and crops, but no degradation.

    count:   pairs
    scale:   side of the GT / side of the LQ
    options: keywords of Plan
    """

    def __init__(self, count: int, scale: int, **options: Any) -> None:
        """Plan with a recipe that has a scale and no stages."""
        nothing = degrade.recipe('bicubic')._replace(name='pairs', scale=scale, stages=())
        super().__init__(count, nothing, **options)
        self.channels = 3 + planes(scale)

    def records(self, step: Step) -> tuple[np.ndarray, ...]:
        """None: nothing is degraded."""
        return ()

    def finish(
        self, x: torch.Tensor, step: Step, impl: str = 'torch', pool: Executor | None = None
    ) -> Batch:
        """Make the batch of x [B, channels, tall * H, W] uint8; see BatchPlan."""
        # Channels-last, as every batch is.
        lq, gt = (
            degrade.canvas.unit(part.contiguous(memory_format=torch.channels_last))
            for part in self.parts(x)
        )

        # The corner is drawn in pixels of the input, where both sides lie on whole pixels.
        lq = cropped(lq, step.corner, self.crop // self.scale)
        gt = cropped(gt, step.corner * self.scale, self.crop)
        return Batch(lq, gt, torch.from_numpy(step.sample), gt, self.place(step, x.device))

    def parts(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Split x into LQ [B, 3, h, w] and GT [B, 3, H, W]."""
        return unpacked(x[:, 3:], self.scale), x[:, :3]


class StackedPlan(PairedPlan):
    """The plan of pairs that are stacked in one picture; x is [B, 3, 2 H, W]."""

    tall = 2

    def __init__(self, count: int, scale: int, **options: Any) -> None:
        """As PairedPlan, but nothing lies in further channels."""
        super().__init__(count, scale, **options)
        self.channels = 3

    def parts(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Split x into LQ, the upper half, and GT."""
        return x[:, :, : self.size], x[:, :, self.size :]


def planned(
    pairs: list[Pair] | list[Stacked],
    scale: int,
    *,
    size: int,
    say: Say,
    **options: Any,
) -> tuple[PairedPlan, reader.Reader]:
    """Return the plan and the reader of pairs. options: of Plan."""
    if isinstance(pairs[0], Stacked):
        stacked = StackedPlan(len(pairs), scale, size=size, **options)
        return stacked, StackedReader(pairs, size, say)
    return PairedPlan(len(pairs), scale, size=size, **options), LqGtReader(pairs, size, say)


# ---- an LQ in channels of the GT's size ----


def planes(scale: int) -> int:
    """Return the number of channels that an LQ takes: 3 / scale, rounded up."""
    return -(-3 // scale)


def packed(lq: np.ndarray, scale: int) -> np.ndarray:
    """Spread an LQ [h, w, 3] uint8 over [scale h, scale w, planes(scale)]."""
    h, w, _ = lq.shape
    # Repeated over columns, so that a mirrored plane is the plane of the mirrored LQ. Each channel
    # takes every scale-th row, so that a plane of the GT's height has room for `scale` channels.
    out = np.zeros((scale * h, scale * w, planes(scale)), np.uint8)
    for c in range(3):
        out[c % scale :: scale, :, c // scale] = lq[..., c].repeat(scale, 1)
    return out


def unpacked(x: torch.Tensor, scale: int) -> torch.Tensor:
    """Recover LQs [B, 3, h, w] from [B, planes(scale), scale h, scale w]."""
    return torch.stack([x[:, c // scale, c % scale :: scale, ::scale] for c in range(3)], 1)
