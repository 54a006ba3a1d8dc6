"""The definition: one image at a time, OpenCV's decoder, no cache; the pipe degrades what comes from here by the float64 reference."""

import numpy as np
import torch

from sources import order


class ReferenceLoader:
    """load() -> (Step, [B, 3, H, W] uint8); see `dali_pipes.make`."""

    def __init__(self, plan, options):
        self._plan, self._options = plan, options
        self._samples = order.shard(options.start, plan.batch, options.rank, options.world)

    def load(self):
        step = self._plan(next(self._samples))
        found = self._options.reader.decoded(step.index.tolist())
        images = [image[:, ::-1] if flip else image for (image, _), flip in zip(found, step.flip)]
        return step, torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).to(self._options.device)

    def close(self):
        pass
