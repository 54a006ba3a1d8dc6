"""The definition: one image at a time, OpenCV's decoder, the float64 reference degradation."""
import numpy as np
import torch

from . import order


class ReferencePipe:
    """Endless iterator of Batch; see `dali_pipes.make`."""

    def __init__(self, plan, options):
        self._plan, self._options = plan, options
        self._samples = order.shard(options.start, plan.batch, options.rank, options.world)

    def __iter__(self):
        return self

    def __next__(self):
        step = self._plan(next(self._samples))
        images = []
        for index, flip in zip(step.index, step.flip):
            image, _ = self._options.reader.image(int(index))
            images.append(image[:, ::-1] if flip else image)
        x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).to(self._options.device)
        return self._plan.finish(x, step, 'ref')

    def close(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
