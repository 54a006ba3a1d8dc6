"""NVIDIA DALI decodes and flips; the degradation follows on torch's stream.

The order, the flips and the bytes of every file come from us through external_source, numbered without end, so resume is exact and a file that cannot be
decoded, which would kill the pipeline for good, never enters it. PNG is decoded by the CPU operator (no library has another; ours is in pipe_png.py), and so is
JPEG, so that all pipes agree to the bit. What the cache holds does not enter either. Without a GPU the same graph runs on DALI's CPU operators, in step with the training.
"""

from collections import deque

import numpy as np
import torch

from degrade.upload import upload
from sources import jph, order

from .batch import assembled, flipped

LOOKAHEAD = (
    64  # batches that are looked through for the next one with an image that is not in the cache
)


class DaliLoader:
    """load() -> (Step, [B, 3, H, W] uint8); see `dali_pipes.make`. Raises ImportError where DALI is not installed."""

    def __init__(self, plan, options):
        self._plan, self._options, self._cache = plan, options, options.cache
        self._gpu = options.device.type == 'cuda'
        self._uniform, self._decoder = options.reader.uniform, 'mixed' if options.mixed else 'cpu'
        self._samples = order.shard(options.start, plan.batch, options.rank, options.world)
        self._planned, self._fed = (
            deque(),
            0,
        )  # [step, places to decode, images they are] not yet returned; how many of them DALI has seen
        self._error, self._copied = None, None
        self._pipe = self._graph()

    def _graph(self):
        try:
            from nvidia.dali import fn, pipeline_def, types
        except ImportError as e:
            raise ImportError(
                f'--pipe dali needs NVIDIA DALI ({e}): pip install -e .[cuda13], or [cuda12] for drivers 525-579; --pipe torch does without'
            ) from e

        # On a GPU two batches are decoded ahead; on a CPU nothing runs beside the training.
        ahead = (
            dict(prefetch_queue_depth=2)
            if self._gpu
            else dict(prefetch_queue_depth=1, exec_pipelined=False, exec_async=False)
        )

        @pipeline_def(
            batch_size=self._plan.batch,
            num_threads=self._options.threads,
            device_id=self._options.device.index or 0 if self._gpu else None,
            **ahead,
        )
        def graph():
            if not self._uniform:  # sizes differ, or are not known: fitted and flipped below
                data = fn.external_source(
                    source=lambda: self._next_files()[0], batch=True, dtype=types.UINT8
                )
                return fn.decoders.image(data, device='cpu', output_type=types.RGB)
            data, flip = fn.external_source(
                source=self._next_files, num_outputs=2, batch=True, dtype=[types.UINT8, types.INT32]
            )
            image = fn.decoders.image(data, device=self._decoder, output_type=types.RGB)
            return fn.flip(image.gpu() if self._gpu else image, horizontal=flip)

        pipe = graph()
        pipe.build()
        return pipe

    def _plan_one(self):
        step = self._plan(next(self._samples))
        places = self._cache.missing(step.index) if self._cache else np.arange(len(step.index))
        self._planned.append([step, places, None])

    def _next_files(self):
        """Called by DALI for every batch it begins: (encoded files, flips) of the next step that needs it."""
        try:
            for _ in range(LOOKAHEAD):
                if self._fed == len(self._planned):
                    self._plan_one()
                entry = self._planned[self._fed]
                self._fed += 1
                if len(entry[1]):
                    break
            else:  # the cache has filled meanwhile; DALI must be given something
                entry[1] = np.arange(1)
            step, places, _ = entry
            found = self._options.reader.encoded(step.index[places].tolist(), self._options.pool)
            if self._decoder == 'cpu' and jph.codec():
                self._decode_jph(found, step.index[places])
            entry[2] = np.array([used for _, used in found])
        except Exception as e:  # DALI would wrap it in a message of its own
            self._error = e
            raise
        return [np.frombuffer(data, np.uint8) for data, _ in found], [
            np.array(f, np.int32) for f in step.flip[places]
        ]

    def _decode_jph(self, found, index):
        """Put pictures without any compression, which DALI copies, in place of the JPH files in `found`."""
        places = [i for i, (data, _) in enumerate(found) if data[:12] == jph.SIGNATURE]
        for i, (image, used) in zip(
            places,
            self._options.reader.instead(
                [(int(index[i]), found[i][0]) for i in places], self._options.pool
            ),
        ):
            found[i] = b'P6 %d %d 255\n' % image.shape[1::-1] + image[..., :3].tobytes(), used

    def load(self):
        if not self._planned:
            self._plan_one()
        decoded = (
            self._decode(self._planned[0][0].flip[self._planned[0][1]])
            if len(self._planned[0][1])
            else None
        )
        step, places, used = self._planned.popleft()
        self._fed = max(self._fed - 1, 0)
        if self._cache is None:
            return step, decoded.permute(0, 3, 1, 2)
        rest = np.setdiff1d(np.arange(len(step.index)), places)
        kept = flipped(self._cache.take(step.index[rest]), step.flip[rest]) if len(rest) else None
        if len(places):
            self._cache.put(
                step.index[places], flipped(decoded, step.flip[places]), used
            )  # flipped back
        return step, assembled(kept, decoded, places, len(step.index)).permute(0, 3, 1, 2)

    def _decode(self, flip):
        """DALI's next output -> [k, H, W, 3] uint8 on the device, flipped."""
        if self._copied:
            self._copied.synchronize()  # of the output before, whose buffer DALI may use from now on
        try:
            (out,) = self._pipe.run()
        except RuntimeError as e:
            raise self._error or e
        if not self._uniform:
            images = torch.from_numpy(
                np.stack([self._options.reader.fit(np.asarray(image)) for image in out])
            )
            return flipped(images.to(self._options.device), flip)
        x = torch.from_dlpack(out.as_tensor())
        if self._gpu:
            x, self._copied = x.clone(), torch.cuda.current_stream().record_event()
        return x

    def close(self):
        self._pipe = None


def decoder(files, threads, gpu=None):
    """callable that decodes all these files [bytes] on the CPU, or, JPH, on a GPU (torch.device), where they are left once they are there. `pixels` of what it gives
    are the images. Raises RuntimeError, here or when called, where DALI cannot decode them."""
    from nvidia.dali import fn, pipeline_def, types

    @pipeline_def(
        batch_size=len(files),
        num_threads=threads,
        device_id=gpu and gpu.index,
        prefetch_queue_depth=1,
        exec_pipelined=False,
        exec_async=False,
    )
    def graph():
        data = fn.external_source(
            source=lambda: [np.frombuffer(f, np.uint8) for f in files],
            batch=True,
            dtype=types.UINT8,
        )
        return fn.decoders.image(data, device='mixed' if gpu else 'cpu', output_type=types.RGB)

    pipe = graph()
    pipe.build()

    def run():
        (decoded,) = pipe.run()
        if gpu:
            torch.cuda.synchronize(gpu)
        return decoded

    return run


def pixels(decoded):
    """[[h, w, 3] uint8 RGB] of what a `decoder` gave."""
    return list(map(np.array, decoded.as_cpu()))


class DaliPairs(DaliLoader):
    """The same of pictures with something beside them: DALI decodes the pictures, our threads the rest, when DALI asks for their pictures."""

    def __init__(self, plan, options):
        self._beside = deque()  # of the batches that DALI has been given
        super().__init__(plan, options)

    def _next_files(self):
        files = super()._next_files()
        try:
            used = self._planned[self._fed - 1][2]
            self._beside.append(self._options.reader.read_paired(used.tolist(), self._options.pool))
        except Exception as e:
            self._error = e
            raise
        return files

    def _decode(self, flip):
        """[k, H, W, 3 + channels beside them] uint8"""
        images = super()._decode(flip)
        return torch.cat([images, flipped(upload(self._beside.popleft(), images.device), flip)], 3)
