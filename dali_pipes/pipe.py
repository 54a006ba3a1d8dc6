"""Batches from a loader of decoded images.

On a CPU they are degraded in step with the training, on a GPU one batch ahead on a stream of their
own.
"""

import torch

from .batch import Batch
from .loader import Loader, Options
from .plan import BatchPlan, Step


class Pipe:
    """Endless iterator of Batch and context manager; close() ends its threads and processes.

    loader:  of the decoded images
    plan:    makes batches of them
    impl:    of degrade.degrade
    options: of the loader; its pool, which also degrades the images of a CPU batch, its reader and
             its cache are closed by close()
    """

    def __init__(self, loader: Loader, plan: BatchPlan, impl: str, options: Options) -> None:
        """Nothing is decoded before the first batch is asked for."""
        self._loader = loader
        self._plan = plan
        self._impl = impl
        self._options = options

        # The batch on its way on the stream, and the event that it is done.
        self._ahead: tuple[Batch, torch.cuda.Event] | None = None
        self._stream: torch.cuda.Stream | None = None
        if options.device.type == 'cuda':
            # The memory that the cache was given may still be in use on the current stream.
            self._stream = torch.cuda.Stream(options.device)
            self._stream.wait_stream(torch.cuda.current_stream(options.device))

    def __iter__(self) -> 'Pipe':
        """Return the pipe itself."""
        return self

    def __next__(self) -> Batch:
        """Return the next batch."""
        if self._stream is None:
            return self._make()
        batch, done = self._ahead or self._start(self._stream)

        # The GPU waits for the batch, the CPU does not. Recording the stream keeps the allocator
        # from reusing the batch's memory before the training is done with it.
        here = torch.cuda.current_stream(batch.target.device)
        here.wait_event(done)
        for tensor in filter(torch.is_tensor, (batch.input, batch.target, batch.plain)):
            tensor.record_stream(here)

        # The next batch is made while the network trains on this one.
        self._ahead = self._start(self._stream)
        return batch

    def load(self) -> tuple[Step, torch.Tensor]:
        """Return the next step and its decoded images alone, for benchmarks."""
        return self._loader.load()

    def _make(self) -> Batch:
        step, x = self._loader.load()
        return self._plan.finish(x, step, self._impl, self._options.pool)

    def _start(self, stream: torch.cuda.Stream) -> tuple[Batch, torch.cuda.Event]:
        """Start the next batch on the stream, which shares the GPU with the training's."""
        with torch.cuda.stream(stream):
            batch = self._make()
            return batch, stream.record_event()

    def interrupt(self) -> None:
        """Make whoever waits for data that may never come raise Interrupted.

        A signal's handler may call it.
        """
        self._options.reader.interrupt()

    def close(self) -> None:
        """End threads and processes and release the memory of the cache."""
        # Nothing may be freed that the stream still fills.
        if self._stream:
            self._stream.synchronize()
        self._ahead = None
        self._loader.close()
        self._options.reader.close()
        self._options.pool.shutdown(cancel_futures=True)
        if self._options.cache:
            self._options.cache.close()

    def __enter__(self) -> 'Pipe':
        """Return the pipe itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the pipe."""
        self.close()
