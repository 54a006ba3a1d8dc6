"""The definition: one image at a time, OpenCV's decoder, no cache.

The pipe degrades what comes from here by the float64 reference.
"""

import numpy as np
import torch

from sources import order

from .loader import Options
from .plan import BatchPlan, Step


class ReferenceLoader:
    """The Loader of the reference pipe; see `dali_pipes.make`."""

    def __init__(self, plan: BatchPlan, options: Options) -> None:
        """Nothing is read yet."""
        self._plan = plan
        self._options = options
        self._samples = order.shard(options.start, plan.batch, options.rank, options.world)

    def load(self) -> tuple[Step, torch.Tensor]:
        """Return the next step and its images; see Loader."""
        step = self._plan(next(self._samples))
        images = []
        decoded = self._options.reader.decoded(step.index.tolist())
        for (image, _), flip in zip(decoded, step.flip, strict=True):
            images.append(image[:, ::-1] if flip else image)
        x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
        return step, x.to(self._options.device)

    def close(self) -> None:
        """There are no threads and no processes to end."""
