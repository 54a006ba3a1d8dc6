"""The dali pipe with PNG decoded on the GPU (png.py), in place of DALI's decoder, which works on the CPU.

The files of many batches are sent and decoded at once on a stream of their own, while those before them are trained on. Files that are not for the device (JPEG,
other depths, another size than the training's), and those whose pixels it refuses, go through the reader: judged, reported and replaced as in every pipe.
"""

import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import numpy as np
import torch

from degrade.upload import upload
from errors import DataError
from sources import order
from sources.files import decode

from . import png
from .batch import assembled, flipped

GROUP = 256  # images decoded at once, each by one warp,
FLYING = 3  # in so many groups: one in use, the others under way
SHARE = 0.1  # of the free GPU memory that they take at most
LOOKAHEAD = 8  # steps planned beyond them, for those whose images are in the cache
TRIAL = 64  # files that auto decodes both ways


def decoder(how, plan, options, say):
    """Who decodes in the dali pipe: 'cpu', DALI there; 'png', this file on the GPU; 'mixed', DALI on the GPU, where all files are JPH of the training's size.

    how: 'gpu', 'cpu', or 'auto', which decodes a few files both ways, compares the pixels, takes the faster and says so
    Raises DataError for a GPU that is not there, or by which DALI cannot decode JPH.
    """
    if options.device.type != 'cuda':
        if how == 'gpu':
            raise DataError('--decode gpu: there is no GPU to decode on; give cpu or auto')
        return 'cpu'
    if how == 'cpu':
        return how
    if options.reader.jph:
        return 'mixed' if _mixed(how, options, say) else 'cpu'
    return 'png' if how == 'gpu' or _faster(plan, options, say) else 'cpu'


def _mixed(how, options, say):
    """Whether DALI is to decode JPH on the GPU. It is tried even if told to: better now than in the first batch."""
    from . import pipe_dali

    files = options.reader.peek(TRIAL, options.pool)
    run, fault = None, 'DALI decodes other pixels on the GPU, which should not be: please report it'
    try:
        run = pipe_dali.decoder(files, options.threads, options.device)
        if all(map(np.array_equal, pipe_dali.pixels(run()), options.pool.map(decode, files))):
            fault = None
    except RuntimeError as e:
        fault = f'DALI cannot decode JPH on this GPU ({str(e).splitlines()[0]})'
    if fault and how == 'gpu':
        raise DataError(f'--decode gpu: {fault}; give cpu or auto')
    if fault:
        say(f'decode: cpu; {fault}')
    if fault or how == 'gpu':
        return not fault
    return _told(
        _rate(run, len(files)),
        _rate(lambda: list(options.pool.map(decode, files)), len(files)),
        f'on {options.threads} threads',
        say,
    )


def _told(gpu, cpu, where, say):
    say(
        f'decode: {"gpu" if gpu > cpu else "cpu"}; {gpu:,.0f} images per second on the GPU, {cpu:,.0f} {where}'
    )
    return gpu > cpu


def _faster(plan, options, say):
    from .pipe_dali import decoder as decoder_of_dali

    tried = options.reader.peek(TRIAL, options.pool)
    files = [f for f in tried if _head(f, plan)]
    if len(files) < len(tried) / 2:
        say(
            f'decode: cpu; of {len(tried)} files tried {len(files)} are 8-bit PNG of {plan.size}x{plan.tall * plan.size} pixels, which the GPU decodes'
        )
        return False
    packed = _packed(files, options)
    out, status = png.run_cuda(packed, options.device)
    good = [
        (f, pixels)
        for f, pixels, refused in zip(
            files, png.pictures(out.cpu(), packed.record), status.tolist()
        )
        if not refused
    ]
    files = [f for f, _ in good]  # a damaged one would end DALI's pipeline
    if not files or not all(np.array_equal(pixels.numpy(), decode(f)) for f, pixels in good):
        say(
            f'decode: cpu; the GPU {"decodes other pixels" if files else "refuses all files"}, which should not be: please report it'
        )
        return False
    many = (files * GROUP)[:GROUP]
    ours = _rate(lambda: png.run_cuda(_packed(many, options), options.device)[1].cpu(), len(many))
    return _told(
        ours,
        _rate(decoder_of_dali(files, options.threads), len(files)),
        f'by DALI on {options.threads} threads',
        say,
    )


def _packed(files, options):
    return png.pack(
        files, [png.head(f) for f in files], options.device.type == 'cuda', options.pool
    )


def _rate(run, count):
    """Images per second, the better of three calls after one that warms up."""
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return count / min(seconds[1:])


def _head(data, plan):
    """What the device must know of a file, None if it is left to the CPU."""
    try:
        head = png.head(data)
    except png.Unfit:
        return None
    return head if (head.height, head.width) == (plan.tall * plan.size, plan.size) else None


class _Group:
    """Images that are decoded together, for the steps that need them."""

    def __init__(self, index, steps):
        self.index, self.steps = (
            index,
            steps,
        )  # [n] numbers of the images; steps that have not taken theirs
        self.begun = self.done = None  # future of PngLoader._begin, (pixels, images they are)


class PngLoader:
    """load() -> (Step, [B, 3, H, W] uint8); see `dali_pipes.make`."""

    def __init__(self, plan, options):
        self._plan, self._options, self._cache, self._reader = (
            plan,
            options,
            options.cache,
            options.reader,
        )
        self._samples = order.shard(options.start, plan.batch, options.rank, options.world)
        self._planned, self._flying = (
            deque(),
            [],
        )  # (step, places to decode, their group, first place in it), in order; groups
        gpu, per_image = options.device.type == 'cuda', FLYING * 6 * plan.tall * plan.size**2
        self._stream = torch.cuda.Stream(options.device) if gpu else None
        self._group = max(
            min(
                GROUP,
                int(SHARE * torch.cuda.mem_get_info(options.device)[0] / per_image)
                if gpu
                else GROUP,
            ),
            plan.batch,
        )
        self._most = FLYING * -(-self._group // plan.batch) + LOOKAHEAD
        self._worker = ThreadPoolExecutor(
            1, 'png'
        )  # all reading in one order, so that a stream repeats

    def _look_ahead(self):
        """Plan steps, and begin groups of what they need, as far as is allowed."""
        while len(self._flying) < FLYING and len(self._planned) < self._most:
            group, wanted = _Group(None, 0), []
            while len(wanted) < self._group and len(self._planned) < self._most:
                step = self._plan(next(self._samples))
                places = (
                    self._cache.missing(step.index) if self._cache else np.arange(len(step.index))
                )
                self._planned.append((step, places, group, len(wanted)))
                wanted += step.index[places].tolist()
                group.steps += len(places) > 0
            if wanted:
                group.index = wanted
                group.begun = self._worker.submit(self._begin, wanted)
                self._flying.append(group)

    def _begin(self, wanted):
        """Read and send files and have them decoded: ([(bytes, image they are)], places decoded by the device, its verdicts, pixels, event that they are there)."""
        with torch.cuda.stream(self._stream) if self._stream else nullcontext():
            pool, plan, device = self._options.pool, self._plan, self._options.device
            found = self._reader.encoded(wanted, pool, sound=False)
            heads = list(pool.map(lambda f: _head(f[0], plan), found))
            ours, others = (
                np.array([i for i, h in enumerate(heads) if bool(h) == fit], np.int64)
                for fit in (True, False)
            )
            pixels = status = None
            if len(ours):
                packed = png.pack(
                    [found[i][0] for i in ours],
                    [heads[i] for i in ours],
                    device.type == 'cuda',
                    pool,
                )
                pixels, verdicts = png.run_cuda(packed, device)
                pixels = pixels.view(-1, plan.tall * plan.size, plan.size, 3)
                status = torch.empty(
                    len(ours), dtype=torch.int32, pin_memory=device.type == 'cuda'
                ).copy_(verdicts, non_blocking=True)
            if len(others):
                images = self._instead(found, others, wanted)
                pixels = assembled(
                    pixels, upload(np.stack(images)[..., :3], device), others, len(found)
                )
            pixels = self._complete(pixels, [used for _, used in found])
            return found, ours, status, pixels, self._stream and self._stream.record_event()

    def _complete(self, pixels, used):
        return pixels

    def _instead(self, found, places, wanted):
        """What the CPU makes of the files in these places of `found`, or of others in place of bad ones, which is noted there: [image]."""
        made = self._reader.instead([(wanted[i], found[i][0]) for i in places], self._options.pool)
        for i, (_, used) in zip(places, made):
            found[i] = None, used
        return [image for image, _ in made]

    def _finish(self, group):
        """(pixels, images they are) of a group, once it is decoded."""
        found, ours, status, pixels, event = group.begun.result()
        if event:
            event.synchronize()
            pixels.record_stream(torch.cuda.current_stream(pixels.device))
        refused = (
            np.array([i for i, s in zip(ours, status.tolist()) if s], np.int64)
            if len(ours)
            else ours
        )
        self._reader.proven([found[i] for i in np.setdiff1d(ours, refused)])
        if len(refused):
            images = self._worker.submit(self._instead, found, refused, group.index).result()
            pixels[upload(refused, pixels.device)] = upload(np.stack(images), pixels.device)
        return pixels, np.array([used for _, used in found])

    def load(self):
        self._look_ahead()
        step, places, group, at = self._planned.popleft()
        decoded = None
        if len(places):
            group.done = group.done or self._finish(group)
            decoded, used = (part[at : at + len(places)] for part in group.done)
            group.steps -= 1
            if not group.steps:
                self._flying.remove(group)
        if self._cache:
            rest = np.setdiff1d(np.arange(len(step.index)), places)
            kept = self._cache.take(step.index[rest]) if len(rest) else None
            if len(places):
                self._cache.put(step.index[places], decoded, used)
            decoded = assembled(kept, decoded, places, len(step.index))
        return step, flipped(decoded, step.flip).permute(0, 3, 1, 2)

    def close(self):
        self._worker.shutdown(wait=False, cancel_futures=True)
        self._reader.close()  # so that the worker waits for nothing more
        self._worker.shutdown()
        if self._stream:
            self._stream.synchronize()  # nothing may be freed that it still fills
        self._planned.clear()
        self._flying.clear()


class PngPairs(PngLoader):
    """The same of pictures with something beside them, which our threads decode."""

    def _complete(self, pixels, used):
        return torch.cat(
            [pixels, upload(self._reader.read_paired(used, self._options.pool), pixels.device)], 3
        )
