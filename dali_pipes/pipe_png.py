"""The dali pipe with PNG decoded on the GPU (png.py), in place of DALI's decoder on the CPU.

The files of many batches are sent and decoded at once on a stream of their own, while those before
them are trained on. Files that are not for the device (JPEG, other depths, another size than the
training's), and those whose pixels it refuses, go through the reader: judged, reported and replaced
as in every pipe.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

from degrade.upload import upload
from errors import DataError
from sources.aliases import Say
from sources.files import decode
from sources.reader import PairedReader

from . import pipe_dali, png
from .ahead import Steps
from .batch import assembled, rows_of
from .loader import Options, completed, to_decode
from .plan import BatchPlan, Step

# Images decoded at once, each by one warp: of fewer, a large GPU would be half idle. There are so
# many groups of them: one in use and the others under way. They take at most this share of the free
# GPU memory.
GROUP = 1024
FLYING = 3
SHARE = 0.1
# Steps planned beyond those, for steps whose images are all in the cache.
LOOKAHEAD = 8
# Files that `auto` decodes both ways.
TRIAL = 64


# ---- what decodes in the dali pipe ----


def decoder(how: str, plan: BatchPlan, options: Options, say: Say) -> str:
    """Return what decodes in the dali pipe.

    'cpu': DALI on the CPU; 'png': this file on the GPU; 'mixed': DALI on the GPU, where all files
    are JPH of the training's size.
    how: 'gpu', 'cpu', or 'auto', which decodes a few files both ways, compares the pixels, takes
         the faster and says so
    Raises DataError for a GPU that is not there, or on which DALI cannot decode JPH.
    """
    if options.device.type != 'cuda':
        if how == 'gpu':
            raise DataError('--decode gpu: there is no GPU to decode on; give cpu or auto')
        return 'cpu'
    if how == 'cpu':
        return 'cpu'
    if options.reader.jph:
        return 'mixed' if _jph_on_gpu(how, options, say) else 'cpu'
    # This file needs no DALI, and where that is missing there is nothing to compare with.
    if how == 'gpu' or not pipe_dali.installed():
        return 'png'
    return 'png' if _png_is_faster(plan, options, say) else 'cpu'


def _jph_on_gpu(how: str, options: Options, say: Say) -> bool:
    """Whether DALI decodes JPH on the GPU. Raises DataError.

    It is tried even where it was asked for: a failure now is better than one in the first batch.
    """
    files = options.reader.peek(TRIAL, options.pool)

    def on_cpu() -> list[np.ndarray]:
        return list(options.pool.map(decode, files))

    # The pixels have to be equal, since all pipes yield the same batch.
    fault = ''
    try:
        on_gpu = pipe_dali.decoder(files, options.threads, options.device)
        if not _equal(pipe_dali.pixels(on_gpu()), on_cpu()):
            fault = 'DALI decodes other pixels on the GPU, which should not be: please report it'
    except (RuntimeError, ImportError) as e:
        fault = f'DALI cannot decode JPH on this GPU ({str(e).splitlines()[0]})'

    if fault and how == 'gpu':
        raise DataError(f'--decode gpu: {fault}; give cpu or auto')
    if fault:
        say(f'decode: cpu; {fault}')
        return False
    if how == 'gpu':
        return True
    rates = _rate(on_gpu, len(files)), _rate(on_cpu, len(files))
    return _is_faster(*rates, f'on {options.threads} threads', say)


def _png_is_faster(plan: BatchPlan, options: Options, say: Say) -> bool:
    """Whether the GPU decodes PNG faster than DALI does on the CPU."""
    # Not worth a trial where most files are left to the CPU anyway.
    tried = options.reader.peek(TRIAL, options.pool)
    files = [f for f in tried if _head(f, plan)]
    if len(files) < len(tried) / 2:
        size = f'{plan.size}x{plan.tall * plan.size}'
        say(
            f'decode: cpu; of {len(tried)} files tried {len(files)} are 8-bit PNG of {size} '
            'pixels, which the GPU decodes'
        )
        return False

    # A damaged file would end DALI's pipeline: only those the GPU has not refused are compared.
    decoded = _decoded_on_gpu(files, options)
    files = [f for f, _ in decoded]
    fault = '' if files else 'the GPU refuses all files'
    if not _equal([pixels for _, pixels in decoded], [decode(f) for f in files]):
        fault = 'the GPU decodes other pixels'
    if fault:
        say(f'decode: cpu; {fault}, which should not be: please report it')
        return False

    # As many files as the pipe decodes at once, since a few would leave the GPU idle.
    count = group_size(plan, options.device)
    group = (files * count)[:count]

    def on_gpu() -> torch.Tensor:
        return png.run_cuda(_packed(group, options), options.device)[1].cpu()

    gpu = _rate(on_gpu, len(group))
    cpu = _rate(pipe_dali.decoder(files, options.threads), len(files))
    return _is_faster(gpu, cpu, f'by DALI on {options.threads} threads', say)


def _decoded_on_gpu(files: list[bytes], options: Options) -> list[tuple[bytes, np.ndarray]]:
    """(file, pixels [H, W, 3] uint8) of those files that the GPU does not refuse."""
    packed = _packed(files, options)
    out, status = png.run_cuda(packed, options.device)
    pictures = png.pictures(out.cpu(), packed.record)
    return [
        (file, picture.numpy())
        for file, picture, refused in zip(files, pictures, status.tolist(), strict=True)
        if not refused
    ]


def _equal(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> bool:
    return all(map(np.array_equal, a, b))


def _packed(files: list[bytes], options: Options) -> png.Packed:
    heads = [png.head(f) for f in files]
    return png.pack(files, heads, options.device.type == 'cuda', options.pool)


def _is_faster(gpu: float, cpu: float, where: str, say: Say) -> bool:
    """Whether the GPU is faster; says so. gpu, cpu: images per second; where: on the CPU."""
    faster = 'gpu' if gpu > cpu else 'cpu'
    say(f'decode: {faster}; {gpu:,.0f} images per second on the GPU, {cpu:,.0f} {where}')
    return gpu > cpu


def _rate(run: Callable[[], object], count: int) -> float:
    """Images per second of run(), the best of three calls after one that warms up."""
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return count / min(seconds[1:])


def _head(data: bytes, plan: BatchPlan) -> png.Head | None:
    """What the device must know of a file; None if it is left to the CPU."""
    try:
        head = png.head(data)
    except png.Unfit:
        return None
    return head if (head.height, head.width) == (plan.tall * plan.size, plan.size) else None


def group_size(plan: BatchPlan, device: torch.device) -> int:
    """Images in a group: a batch at least, and as many as the memory allows."""
    group = GROUP
    if device.type == 'cuda':
        # A pixel takes six bytes: three as the PNG has them, and three of the picture.
        each = FLYING * 6 * plan.tall * plan.size**2
        free = torch.cuda.mem_get_info(device)[0]
        group = min(GROUP, int(SHARE * free / each))
    return max(group, plan.batch)


# ---- the loader ----

# (bytes of a file, number of the image that it is); no bytes are kept once the CPU has decoded it
File = tuple[bytes, int]


class _Started(NamedTuple):
    """Images whose decoding has been started."""

    files: list[File]  # [n]
    on_device: np.ndarray  # places of those that the device decodes
    status: torch.Tensor | None  # png.REFUSED of each of these, on the host once it is ready
    pixels: torch.Tensor  # [n, H, W, C] uint8 on the device
    ready: torch.cuda.Event | None  # all this has been decoded


@dataclass(eq=False)  # a group is equal to itself alone
class _Group:
    """Images that are decoded together for the steps that need them."""

    index: list[int] = field(default_factory=list)  # [n] numbers of the images
    steps: int = 0  # that have not taken theirs
    started: 'Future[_Started] | None' = None
    done: tuple[torch.Tensor, np.ndarray] | None = None  # pixels, and [n] images that they are


class _Planned(NamedTuple):
    """A step that has not been returned."""

    step: Step
    places: np.ndarray  # [k] in the batch, of the images to decode
    group: _Group  # in which they are decoded,
    first: int  # from this place on


class PngLoader:
    """The Loader of the dali pipe where PNG is decoded on the GPU; see `dali_pipes.make`."""

    def __init__(self, plan: BatchPlan, options: Options) -> None:
        """Nothing is read before the first batch is asked for."""
        self._plan = plan
        self._options = options
        self._cache = options.cache
        self._reader = options.reader
        self._steps = Steps(plan, options)
        self._planned: deque[_Planned] = deque()
        self._flying: list[_Group] = []
        self._stream: torch.cuda.Stream | None = None
        if options.device.type == 'cuda':
            self._stream = torch.cuda.Stream(options.device)
        self._group = group_size(plan, options.device)
        steps_flying = FLYING * -(-self._group // plan.batch)
        self._most_planned = steps_flying + LOOKAHEAD

        # A single thread reads, in one order, so that a stream repeats.
        self._worker = ThreadPoolExecutor(1, 'png')

    # ---- reading and decoding ahead ----

    def _look_ahead(self) -> None:
        """Plan steps, and start groups of what they need, as far as is allowed."""
        while len(self._flying) < FLYING and len(self._planned) < self._most_planned:
            group = self._plan_group()
            if group.index:
                group.started = self._worker.submit(self._start, group.index)
                self._flying.append(group)

    def _plan_group(self) -> _Group:
        """Plan steps until a group is full, or there are enough of them."""
        group = _Group()
        while len(group.index) < self._group and len(self._planned) < self._most_planned:
            step = next(self._steps)
            places = to_decode(self._cache, step.index)
            self._planned.append(_Planned(step, places, group, len(group.index)))
            group.index += step.index[places].tolist()
            group.steps += len(places) > 0
        return group

    def _start(self, index: list[int]) -> _Started:
        """Read the images of these numbers, send them and start their decoding."""
        context: AbstractContextManager[object] = nullcontext()
        if self._stream:
            context = torch.cuda.stream(self._stream)
        with context:
            pool, device = self._options.pool, self._options.device
            files: list[File] = self._reader.encoded(index, pool, sound=False)
            heads = list(pool.map(lambda file: _head(file[0], self._plan), files))
            on_device = np.array([i for i, head in enumerate(heads) if head], np.int64)
            on_cpu = np.array([i for i, head in enumerate(heads) if not head], np.int64)

            # What is not for the device goes through the CPU meanwhile.
            pixels = status = None
            if len(on_device):
                chosen = [files[i][0] for i in on_device]
                pixels, status = self._decode(chosen, [heads[i] for i in on_device])
            if len(on_cpu):
                images = np.stack(self._replace(files, on_cpu, index))[..., :3]
                rows = upload(rows_of(on_cpu, len(files)), device)
                pixels = assembled(pixels, upload(images, device), rows)
            assert pixels is not None
            pixels = self._with_paired(pixels, [used for _, used in files])
            ready = self._stream.record_event() if self._stream else None
            return _Started(files, on_device, status, pixels, ready)

    def _decode(
        self, files: list[bytes], heads: list[png.Head]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Decode files on the device: ([n, H, W, 3] uint8 there, [n] int32 on their way here)."""
        plan, device = self._plan, self._options.device
        gpu = device.type == 'cuda'
        pixels, verdicts = png.run_cuda(png.pack(files, heads, gpu, self._options.pool), device)
        status = torch.empty(len(files), dtype=torch.int32, pin_memory=gpu)
        status.copy_(verdicts, non_blocking=True)
        return pixels.view(-1, plan.tall * plan.size, plan.size, 3), status

    def _with_paired(self, pixels: torch.Tensor, used: list[int]) -> torch.Tensor:
        """Add what is paired with pictures; here, nothing is. used: [n] images that they are."""
        return pixels

    def _replace(self, files: list[File], places: np.ndarray, index: list[int]) -> list[np.ndarray]:
        """Decode the files in these places on the CPU, or others in place of bad ones.

        Which they are is noted in `files`. index: [n] numbers that all files were read for
        """
        refused = [(index[i], files[i][0]) for i in places]
        decoded = self._reader.replace_refused(refused, self._options.pool)
        for i, (_, used) in zip(places, decoded, strict=True):
            files[i] = b'', used
        return [image for image, _ in decoded]

    # ---- batches ----

    def load(self) -> tuple[Step, torch.Tensor]:
        """Return the next step and its images; see Loader."""
        self._look_ahead()

        # A group is waited for by the first of its steps and given up by the last.
        step, places, group, first = self._planned.popleft()
        decoded = used = None
        if len(places):
            group.done = group.done or self._finish(group)
            pixels, images = group.done
            decoded = pixels[first : first + len(places)]
            used = images[first : first + len(places)]
            group.steps -= 1
            if not group.steps:
                self._flying.remove(group)
        device = self._options.device
        step, x = completed(self._cache, step, places, decoded, used, device)
        return step, x.permute(0, 3, 1, 2)

    def _finish(self, group: _Group) -> tuple[torch.Tensor, np.ndarray]:
        """(pixels, images that they are) of a group, once it is decoded."""
        assert group.started is not None
        files, on_device, status, pixels, ready = group.started.result()
        if ready:
            ready.synchronize()
            pixels.record_stream(torch.cuda.current_stream(pixels.device))

        # What the device refuses, the reader judges, on the thread that reads everything else.
        refused = on_device[status.numpy() != 0] if status is not None else on_device
        self._reader.mark_good([files[i] for i in np.setdiff1d(on_device, refused)])
        if len(refused):
            images = self._worker.submit(self._replace, files, refused, group.index).result()
            pixels[upload(refused, pixels.device)] = upload(np.stack(images), pixels.device)
        return pixels, np.array([used for _, used in files])

    def close(self) -> None:
        """End the worker. Nothing may be freed that the stream still fills."""
        # The reader is closed first, so that the worker waits for nothing more.
        self._steps.close()
        self._worker.shutdown(wait=False, cancel_futures=True)
        self._reader.close()
        self._worker.shutdown()
        if self._stream:
            self._stream.synchronize()
        self._planned.clear()
        self._flying.clear()


class PngPairs(PngLoader):
    """The same for pictures that something is paired with, which our threads decode."""

    def _with_paired(self, pixels: torch.Tensor, used: list[int]) -> torch.Tensor:
        """Add the paired channels. Raises DataError for what changed since it was judged."""
        assert isinstance(self._reader, PairedReader)
        paired = self._reader.read_paired(used, self._options.pool)
        return torch.cat([pixels, upload(paired, pixels.device)], 3)
