"""NVIDIA DALI decodes and flips; the degradation follows on torch's stream.

The order, the flips and the bytes of every file come from us through external_source, numbered without end, so resume is exact and a file that cannot be
decoded, which would kill the pipeline for good, never enters it. PNG is decoded by the CPU operator (no library has another), and so is JPEG, so that all
pipes agree to the bit. Without a GPU the same graph runs on DALI's CPU operators, in step with the training (see pipe_torch.py).
"""
from collections import deque

import numpy as np
import torch

from . import order
from .files import fit
from .degrade import workers


class DaliPipe:
    """Endless iterator of Batch; see `dali_pipes.make`. Raises ImportError where DALI is not installed."""

    def __init__(self, plan, options):
        self._plan, self._options = plan, options
        self._gpu = options.device.type == 'cuda'
        self._uniform = all((i.width, i.height) == (plan.size, plan.size) for i in options.reader.images)
        self._samples = order.shard(options.start, plan.batch, options.rank, options.world)
        self._steps, self._error = deque(), None         # planned batches on their way through DALI
        self._pool = workers.make(options.threads)       # reads files; on a CPU it degrades, too
        self._pipe = self._graph()

    def _graph(self):
        try:
            from nvidia.dali import fn, pipeline_def, types
        except ImportError as e:
            raise ImportError(f'--pipe dali needs NVIDIA DALI ({e}): pip install -e .[cuda13], or [cuda12] for drivers 525-579; --pipe torch does without') from e

        # On a GPU two batches are decoded ahead; on a CPU nothing runs beside the training.
        ahead = dict(prefetch_queue_depth=2) if self._gpu else dict(prefetch_queue_depth=1, exec_pipelined=False, exec_async=False)

        @pipeline_def(batch_size=self._plan.batch, num_threads=self._options.threads, device_id=self._options.device.index or 0 if self._gpu else None, **ahead)
        def graph():
            if not self._uniform:                        # sizes differ: fitted and flipped below
                data = fn.external_source(source=lambda: self._next_files()[0], batch=True, dtype=types.UINT8)
                return fn.decoders.image(data, device='cpu', output_type=types.RGB)
            data, flip = fn.external_source(source=self._next_files, num_outputs=2, batch=True, dtype=[types.UINT8, types.INT32])
            image = fn.decoders.image(data, device='cpu', output_type=types.RGB)
            return fn.flip(image.gpu() if self._gpu else image, horizontal=flip)

        pipe = graph()
        pipe.build()
        return pipe

    def _next_files(self):
        """Called by DALI for every batch: (encoded files, flips)."""
        try:
            step = self._plan(next(self._samples))
            files = [np.frombuffer(data, np.uint8) for data, _ in self._pool.map(self._options.reader.read, step.index.tolist())]
        except Exception as e:                           # DALI would wrap it in a message of its own
            self._error = e
            raise
        self._steps.append(step)
        return files, [np.array(f, np.int32) for f in step.flip]

    def __iter__(self):
        return self

    def __next__(self):
        try:
            out, = self._pipe.run()
        except RuntimeError as e:
            raise self._error or e
        step = self._steps.popleft()
        return self._plan.finish(self._pixels(out, step), step, pool=None if self._gpu else self._pool)

    def _pixels(self, out, step):
        """DALI's output -> [B, 3, H, W] uint8 on the device, channels-last."""
        if not self._uniform:
            images = [fit(np.asarray(image), self._plan.size) for image in out]
            images = np.stack([image[:, ::-1] if flip else image for image, flip in zip(images, step.flip)])
            return torch.from_numpy(images).permute(0, 3, 1, 2).to(self._options.device)
        x = torch.from_dlpack(out.as_tensor()).permute(0, 3, 1, 2)
        if self._gpu:
            x = x.clone(memory_format=torch.preserve_format)
            torch.cuda.current_stream().synchronize()    # the copy is done before DALI may reuse its buffer
        return x

    def close(self):
        self._pipe = None
        self._pool.shutdown(cancel_futures=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
