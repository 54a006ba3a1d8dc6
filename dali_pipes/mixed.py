"""Batches of degraded faces with a share of real LQ/GT pairs among them.

Whether a sample is a pair, and which, is drawn from its number, as everything else is; mirroring
and cropping are those of its number, too.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch

from degrade.draw import Draw
from degrade.upload import upload
from sources import manifest, order
from sources.aliases import Say

from .batch import Batch, flipped
from .paired import planned
from .pipe import Pipe
from .plan import Step


class Pairs(NamedTuple):
    """What is mixed in."""

    images: list[manifest.Pair]
    share: float  # probability of a sample


def drawn(samples: np.ndarray, pairs: Pairs, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """([k] places of the samples that are pairs, [k] which pairs) of [B] sample numbers."""
    draw = Draw(seed, samples)
    places = np.flatnonzero(draw.uniform('mix') < pairs.share)
    return places, draw.integers('mix/pair', 0, len(pairs.images) - 1)[places]


class MixedPipe:
    """A Pipe some of whose samples are replaced by pairs, which are read one batch ahead.

    pipe:  of degraded faces; closed by close()
    scale: of the pairs
    The others are those of dali_pipes.make, and of this pipe.
    """

    def __init__(
        self,
        pipe: Pipe,
        pairs: Pairs,
        scale: int,
        *,
        batch: int,
        size: int,
        seed: int = 0,
        start: int = 0,
        rank: int = 0,
        world: int = 1,
        flip: float = 0.5,
        crop: int | None = None,
        device: str | torch.device = 'cpu',
        say: Say = print,
    ) -> None:
        """Nothing is read before the first batch is asked for."""
        self._pipe = pipe
        self._pairs = pairs
        self._pinned = torch.device(device).type == 'cuda'
        self._seed = seed
        self._plan, self._reader = planned(
            pairs.images, scale, say=say, batch=batch, size=size, seed=seed, flip=flip, crop=crop
        )
        self._samples = order.shard(start, batch, rank, world)
        self._thread = ThreadPoolExecutor(1, 'pairs')
        self._coming: Future[tuple[np.ndarray, Step, torch.Tensor | None]] | None = None

    def __iter__(self) -> 'MixedPipe':
        """Return the pipe itself."""
        return self

    def __next__(self) -> Batch:
        """Return the next batch."""
        # The pairs are read while the faces are degraded, and the next ones while it is trained.
        coming = self._coming or self._thread.submit(self._read)
        batch = next(self._pipe)
        places, step, x = coming.result()
        self._coming = self._thread.submit(self._read)
        if x is None:
            return batch
        # On a GPU this is queued behind the batch, which is on the current stream by now.
        device = batch.target.device
        there = x.to(device, non_blocking=True)
        own = self._plan.finish(flipped(there, step.flip).permute(0, 3, 1, 2), step)
        rows = upload(places, device)

        # Without sharpening, target and plain target are one tensor.
        plain = batch.plain
        batch.input.index_copy_(0, rows, own.input)
        batch.target.index_copy_(0, rows, own.target)
        if plain is not None and plain is not batch.target:
            plain.index_copy_(0, rows, own.target)
        return batch

    def _read(self) -> tuple[np.ndarray, Step, torch.Tensor | None]:
        """Places in the next batch, what was drawn for them, and their decoded pairs."""
        samples = next(self._samples)
        places, index = drawn(samples, self._pairs, self._seed)
        if not len(places):
            return places, self._plan(samples[:0]), None
        # Mirroring and crop are those of the sample; which pair it is has been drawn.
        step = self._plan(samples[places])._replace(index=index)
        images = np.stack([image for image, _ in self._reader.decoded(index.tolist())])
        x = torch.from_numpy(images)
        return places, step, x.pin_memory() if self._pinned else x

    def load(self) -> tuple[Step, torch.Tensor]:
        """Return the next step and its decoded faces alone, for benchmarks."""
        return self._pipe.load()

    def interrupt(self) -> None:
        """Make whoever waits for data that may never come raise Interrupted."""
        self._pipe.interrupt()

    def close(self) -> None:
        """End threads and processes."""
        self._thread.shutdown(cancel_futures=True)
        self._reader.close()
        self._pipe.close()

    def __enter__(self) -> 'MixedPipe':
        """Return the pipe itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the pipe."""
        self.close()


def split(word: str) -> tuple[str, float | None]:
    """Split PAIRS:SHARE; the share may be missing."""
    path, _, share = word.rpartition(':')
    try:
        return (path, float(share)) if path else (word, None)
    except ValueError:
        return word, None
