"""NVIDIA DALI decodes and flips; the degradation follows on torch's stream.

The order, the flips and the bytes of every file come from us through external_source, numbered
without end. Resuming is therefore exact, and a file that cannot be decoded, which would end the
pipeline for good, never enters it; nor does what the cache holds.

PNG is decoded by the CPU operator, because DALI has no other (ours is in pipe_png.py), and so is
JPEG, so that all pipes agree to the bit; other kinds of files, and other colours than sRGB, are
left to `files.decode`. Without a GPU the same graph runs on DALI's CPU operators, in step with the
training.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from degrade.upload import upload
from sources import jph
from sources.files import for_any_decoder
from sources.reader import PairedReader

from .ahead import Steps
from .batch import flipped
from .loader import Options, completed, sent, to_decode
from .plan import BatchPlan, Step

# Batches searched for the next one with an image that is not in the cache.
LOOKAHEAD = 64
# Options of a pipeline that decodes when it is run and not before.
_IN_STEP: dict[str, Any] = dict(prefetch_queue_depth=1, exec_pipelined=False, exec_async=False)


@dataclass(eq=False)  # a step is equal to itself alone
class _Planned:
    """A step on its way through DALI."""

    step: Step
    places: np.ndarray  # [k] in the batch, of the images that DALI decodes
    used: np.ndarray | None = None  # [k] numbers of the images that they really are, once read


class DaliLoader:
    """The Loader of the dali pipe; see `dali_pipes.make`.

    Raises ImportError where DALI is not installed.
    """

    def __init__(self, plan: BatchPlan, options: Options) -> None:
        """Build DALI's pipeline; on a GPU it begins to read ahead with the first batch."""
        self._plan = plan
        self._options = options
        self._cache = options.cache
        self._gpu = options.device.type == 'cuda'
        self._uniform = options.reader.uniform
        self._decoder = 'mixed' if options.mixed else 'cpu'
        self._steps = Steps(plan, options)

        # Steps that are not yet returned, and how many of them have been given to DALI.
        self._planned: deque[_Planned] = deque()
        self._fed = 0

        self._error: Exception | None = None  # raised by us where DALI asked for files
        self._copied: torch.cuda.Event | None = None  # DALI's last output has been copied
        self._pipe = self._pipeline()

    # ---- DALI's graph ----

    def _pipeline(self) -> Any:
        """Build the pipeline. Raises ImportError."""
        try:
            from nvidia.dali import pipeline_def
        except ImportError as e:
            raise ImportError(
                f'--pipe dali needs NVIDIA DALI ({e}): pip install -e .[cuda13], or [cuda12] for '
                'drivers 525-579; --pipe torch does without'
            ) from e

        # On a GPU two batches are decoded ahead; on a CPU nothing runs alongside the training.
        where: dict[str, Any] = dict(device_id=None, **_IN_STEP)
        if self._gpu:
            where = dict(device_id=self._options.device.index or 0, prefetch_queue_depth=2)

        @pipeline_def(batch_size=self._plan.batch, num_threads=self._options.threads, **where)
        def graph() -> Any:
            return self._graph()

        pipe = graph()
        pipe.build()
        return pipe

    def _graph(self) -> Any:
        """Return the output node."""
        from nvidia.dali import fn, types

        # Where sizes differ, or are not known, images are fitted and flipped in `_decode`.
        if not self._uniform:
            data = fn.external_source(
                source=lambda: self._next_files()[0], batch=True, dtype=types.DALIDataType.UINT8
            )
            return fn.decoders.image(data, device='cpu', output_type=types.DALIImageType.RGB)

        data, flip = fn.external_source(
            source=self._next_files,
            num_outputs=2,
            batch=True,
            dtype=[types.DALIDataType.UINT8, types.DALIDataType.INT32],
        )
        image = fn.decoders.image(data, device=self._decoder, output_type=types.DALIImageType.RGB)
        return fn.flip(image.gpu() if self._gpu else image, horizontal=flip)

    # ---- what DALI is given ----

    def _next_files(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """(encoded files, flips) of the next step that needs any.

        DALI calls this for every batch that it begins.
        """
        try:
            # A file that the CPU's decoder would choke on has been replaced in `encoded`.
            planned = self._next_to_decode()
            step, places = planned.step, planned.places
            files = self._options.reader.encoded(step.index[places].tolist(), self._options.pool)
            if self._decoder == 'cpu':
                self._decode_others(files, step.index[places])
            planned.used = np.array([used for _, used in files])
        except Exception as e:
            self._error = e  # DALI will wrap it in a message of its own
            raise
        data = [np.frombuffer(encoded, np.uint8) for encoded, _ in files]
        return data, [np.array(flip, np.int32) for flip in step.flip[places]]

    def _next_to_decode(self) -> _Planned:
        """The next step with an image that is not in the cache."""
        for _ in range(LOOKAHEAD):
            if self._fed == len(self._planned):
                self._plan_one()
            planned = self._planned[self._fed]
            self._fed += 1
            if len(planned.places):
                return planned

        # The cache has filled in the meantime, but DALI has to be given something.
        planned.places = np.arange(1)
        return planned

    def _plan_one(self) -> None:
        step = next(self._steps)
        self._planned.append(_Planned(step, to_decode(self._cache, step.index)))

    def _decode_others(self, files: list[tuple[bytes, int]], index: np.ndarray) -> None:
        """Replace what is not for DALI by uncompressed pictures (PPM), which it only copies.

        index: [k] numbers of the images that the files were read for
        """
        places = [i for i, (data, _) in enumerate(files) if not _is_for_dali(data)]
        wanted = [(int(index[i]), files[i][0]) for i in places]
        decoded = self._options.reader.replace_refused(wanted, self._options.pool)
        for i, (image, used) in zip(places, decoded, strict=True):
            header = b'P6 %d %d 255\n' % image.shape[1::-1]
            files[i] = header + image[..., :3].tobytes(), used

    # ---- what comes back ----

    def load(self) -> tuple[Step, torch.Tensor]:
        """Return the next step and its images; see Loader."""
        if not self._planned:
            self._plan_one()
        first = self._planned[0]
        decoded = None
        if len(first.places):
            decoded = self._decode(first.step.flip[first.places])

        # DALI has been given this step, unless nothing of it was to be decoded and DALI has not
        # looked any further.
        self._planned.popleft()
        self._fed = max(self._fed - 1, 0)
        step, x = self._completed(first, decoded)
        return step, x.permute(0, 3, 1, 2)

    def _completed(
        self, planned: _Planned, decoded: torch.Tensor | None
    ) -> tuple[Step, torch.Tensor]:
        """Add the cached images of a step to those decoded and flipped, and cache the latter."""
        step, places, device = planned.step, planned.places, self._options.device
        if self._cache is None:
            assert decoded is not None
            return sent(step, device)[0], decoded

        # The cache holds images that are not flipped, and those of DALI are.
        upright = None if decoded is None else flipped(decoded, step.flip[places])
        return completed(self._cache, step, places, upright, planned.used, device)

    def _decode(self, flip: np.ndarray) -> torch.Tensor:
        """DALI's next output: [k, H, W, 3] uint8 on the device, flipped."""
        # DALI reuses the buffer of its last output from now on.
        if self._copied:
            self._copied.synchronize()
        try:
            (out,) = self._pipe.run()
        except RuntimeError as e:
            raise self._error or e from None

        if not self._uniform:
            fitted = [self._options.reader.fit(np.asarray(image)) for image in out]
            return flipped(upload(np.stack(fitted), self._options.device), flip)

        # The buffer is DALI's own. On a GPU it is copied, and the copy waited for before the next
        # run; on a CPU the batch has been made of it by then.
        x = torch.from_dlpack(out.as_tensor())
        if self._gpu:
            x = x.clone()
            self._copied = torch.cuda.current_stream().record_event()
        return x

    def close(self) -> None:
        """End DALI's threads, which live as long as the pipeline."""
        self._pipe = None
        self._steps.close()


def _is_for_dali(data: bytes) -> bool:
    """Whether DALI decodes a file on the CPU."""
    # OpenJPH, where it is installed, is faster than DALI's decoder on the CPU (OpenJPEG).
    if data[:12] == jph.SIGNATURE:
        return not jph.codec()
    return for_any_decoder(data)


class DaliPairs(DaliLoader):
    """The same for pictures that something is paired with, in further channels.

    DALI decodes the pictures, and our threads decode the rest when DALI asks for the pictures.
    """

    def __init__(self, plan: BatchPlan, options: Options) -> None:
        """Build DALI's pipeline."""
        self._paired: deque[np.ndarray] = deque()  # of the batches that DALI has been given
        super().__init__(plan, options)

    def _next_files(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        files = super()._next_files()
        reader, used = self._options.reader, self._planned[self._fed - 1].used
        assert isinstance(reader, PairedReader) and used is not None
        try:
            self._paired.append(reader.read_paired(used.tolist(), self._options.pool))
        except Exception as e:
            self._error = e  # DALI will wrap it in a message of its own
            raise
        return files

    def _decode(self, flip: np.ndarray) -> torch.Tensor:
        """[k, H, W, 3 + paired channels] uint8 on the device, flipped."""
        images = super()._decode(flip)
        paired = upload(self._paired.popleft(), images.device)
        return torch.cat([images, flipped(paired, flip)], 3)


def installed() -> bool:
    """Whether DALI can be imported."""
    try:
        import nvidia.dali  # noqa: F401
    except ImportError:
        return False
    return True


# ---- DALI's decoder alone, for comparisons ----


def decoder(
    files: Sequence[bytes], threads: int, gpu: torch.device | None = None
) -> Callable[[], Any]:
    """Return a callable that decodes all these files; `pixels` reads what it returns.

    It decodes on the CPU or, JPH, on a GPU, where the images are left once they are there.
    Raises RuntimeError, here or when called, where DALI cannot decode them.
    """
    from nvidia.dali import fn, pipeline_def, types

    where: dict[str, Any] = dict(device_id=gpu.index if gpu else None, **_IN_STEP)

    @pipeline_def(batch_size=len(files), num_threads=threads, **where)
    def graph() -> Any:
        data = fn.external_source(
            source=lambda: [np.frombuffer(f, np.uint8) for f in files],
            batch=True,
            dtype=types.DALIDataType.UINT8,
        )
        return fn.decoders.image(
            data, device='mixed' if gpu else 'cpu', output_type=types.DALIImageType.RGB
        )

    pipe = graph()
    pipe.build()

    def run() -> Any:
        (decoded,) = pipe.run()
        if gpu:
            torch.cuda.synchronize(gpu)
        return decoded

    return run


def pixels(decoded: Any) -> list[np.ndarray]:
    """[[h, w, 3] uint8 RGB] of what a `decoder` returned."""
    return [np.array(image) for image in decoded.as_cpu()]
