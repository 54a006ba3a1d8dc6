"""Batches from a loader of decoded images: degraded in step on a CPU, one batch ahead on a stream of their own on a GPU."""

import torch


class Pipe:
    """Endless iterator of Batch and context manager; close() ends its threads and processes.

    loader: has load() -> (Step, [B, 3, H, W] uint8 decoded and flipped, on the device) and close()
    plan:   Plan; impl: of degrade.degrade; pool: threads that degrade the images of a CPU batch; it, the reader and the cache are ended by close()
    """

    def __init__(self, loader, plan, device, impl, pool, reader, cache=None):
        self._loader, self._plan, self._impl, self._pool, self._reader, self._cache = (
            loader,
            plan,
            impl,
            pool,
            reader,
            cache,
        )
        self._stream = torch.cuda.Stream(device) if device.type == 'cuda' else None
        self._ahead = None  # (batch, event that it is done) on its way on the stream
        if self._stream:
            self._stream.wait_stream(
                torch.cuda.current_stream(device)
            )  # the memory that the cache got may still be in use there

    def __iter__(self):
        return self

    def __next__(self):
        if self._stream is None:
            return self._make()
        batch, done = self._ahead or self._start()
        here = torch.cuda.current_stream(batch.target.device)
        here.wait_event(done)  # the GPU waits, the CPU does not
        for tensor in filter(torch.is_tensor, (batch.input, batch.target, batch.plain)):
            tensor.record_stream(here)  # its memory is free for others once `here` is done with it
        self._ahead = self._start()
        return batch

    def load(self):
        """The next (Step, decoded images) alone, for benchmarks."""
        return self._loader.load()

    def _make(self):
        step, x = self._loader.load()
        return self._plan.finish(x, step, self._impl, self._pool)

    def _start(self):
        # What the network computes meanwhile runs on another stream: the two share the GPU.
        with torch.cuda.stream(self._stream):
            batch = self._make()
            return batch, self._stream.record_event()

    def close(self):
        if self._stream:
            self._stream.synchronize()  # what it fills must not be given to others yet
        self._ahead = None
        self._loader.close()
        self._reader.close()
        self._pool.shutdown(cancel_futures=True)
        if self._cache:
            self._cache.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
