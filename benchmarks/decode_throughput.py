"""Decoding: images per second of PNG and of the same pictures as lossless HTJ2K (JPH).

python benchmarks/decode_throughput.py --data FOLDER --streams 64,256,512,1024 --json FILE

PNG by OpenCV, by DALI on the CPU and by png.cu on the GPU, stage by stage and during a training,
with the cache in place of them all; JPH (extra htj2k) by OpenJPH, OpenCV and DALI on the CPU and by
DALI on a GPU. Every decoder must have decoded every image to OpenCV's pixels before it is timed.
Without a GPU only the CPU's rows are timed.
"""

import program

import argparse
import os
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch

import dali_pipes
import degrade
from benchmarks import launches, nvcomp
from benchmarks.pipe_throughput import FACES, load
from benchmarks.train_step import stepper
from dali_pipes import cache, pipe_dali, png
from dali_pipes.batch import Batch
from errors import DataError, FacesError
from sources import files, jph, manifest
from tools import arguments, timing
from training import outputs

CACHE_BATCH = 32  # images that a cache is asked for at once
TRAIN_BATCH = 8  # of the training during which the GPU decodes
WARM_UP = 3  # steps of it that are not timed
BASELINE = 'OpenCV'

Decoder = Callable[[], Any]  # decodes everything once


class Pictures(NamedTuple):
    """What is decoded, and where."""

    data: list[bytes]  # 8-bit PNG files of one size
    pixels: list[np.ndarray]  # [H, W, 3] uint8 of each, by OpenCV
    device: torch.device
    threads: int
    pool: Executor  # of so many threads

    @property
    def side(self) -> int:
        """Of a picture, in pixels."""
        return len(self.pixels[0])

    def files(self, count: int) -> list[bytes]:
        """`count` files, repeated where there are fewer."""
        return (self.data * -(-count // len(self.data)))[:count]

    def check(self, name: str, decoded: Sequence[np.ndarray]) -> None:
        """Refuse to time a decoder of other pixels. Raises FacesError."""
        pairs = zip(decoded, self.pixels, strict=True)
        if not all(np.array_equal(a, b) for a, b in pairs):
            raise FacesError(f'{name} decodes other pixels than OpenCV: not timed')

    def packed(self, data: Sequence[bytes]) -> png.Packed:
        """Files on their way to the device."""
        heads = [png.head(d) for d in data]
        return png.pack(data, heads, self.device.type == 'cuda', self.pool)

    def wait(self) -> None:
        """Until the GPU has finished."""
        if self.device.type == 'cuda':
            torch.cuda.synchronize()


def read(images: Sequence[manifest.Image], size: int) -> list[bytes]:
    """The files among `images` that the device decodes. Raises DataError if there are none."""
    fit = []
    for image in images:
        data = files.read_bytes(*image.where)
        try:
            head = png.head(data)
        except png.Unfit:
            continue
        if (head.height, head.width) == (size, size):
            fit.append(data)
    if not fit:
        raise DataError(
            f'none of {len(images)} images is an 8-bit PNG of {size}x{size} pixels: nothing to time'
        )
    return fit


# ---- on the CPU, and JPH everywhere ----


def on_cpu(p: Pictures) -> dict[str, Decoder]:
    """Decoders by name, each of which has been checked. Raises FacesError."""
    # Threads over the files, except DALI, which has threads of its own.
    decoders: dict[str, Decoder] = {BASELINE: lambda: list(p.pool.map(files.decode, p.data))}
    if timing.installed('nvidia.dali'):
        decoders['DALI'] = pipe_dali.decoder(p.data, p.threads)
    if jph.codec():
        decoders |= _of_jph(p)
    for name, run in decoders.items():
        decoded = run()
        p.check(name, decoded if isinstance(decoded, list) else pipe_dali.pixels(decoded))
    return decoders


def _of_jph(p: Pictures) -> dict[str, Decoder]:
    """Decoders of the same pictures as JPH."""
    # Encoded here rather than read, so that the pictures are the same.
    rewritten = list(p.pool.map(jph.encode, p.pixels))
    share = sum(map(len, rewritten)) / sum(map(len, p.data))
    print(f'as JPH the files take {share:.0%} of their size as PNG')
    decoders: dict[str, Decoder] = {
        'JPH, OpenJPH': lambda: list(p.pool.map(files.decode, rewritten)),
        'JPH, OpenCV': lambda: list(p.pool.map(opencv, rewritten)),
    }
    if timing.installed('nvidia.dali'):
        decoders['JPH, DALI'] = pipe_dali.decoder(rewritten, p.threads)
        if p.device.type == 'cuda':
            decoders |= _of_jph_on_gpu(rewritten, p)
    return decoders


def _of_jph_on_gpu(rewritten: list[bytes], p: Pictures) -> dict[str, Decoder]:
    """DALI's; nothing where it cannot: its nvJPEG2000 may be older than HTJ2K."""
    try:
        run = pipe_dali.decoder(rewritten, p.threads, p.device)
        run()
    except RuntimeError as e:
        print(f'DALI cannot decode JPH on this GPU: {str(e).splitlines()[0]}')
        return {}
    return {'JPH, DALI, GPU': run}


def opencv(data: bytes) -> np.ndarray:
    """[H, W, 3] uint8 RGB by OpenCV, whatever files.decode would take."""
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert bgr is not None
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def cached(p: Pictures) -> dict[str, Decoder]:
    """The caches, batch by batch: no decoding, but what a cold decoder has to be compared with."""
    places = ('host', 'gpu') if p.device.type == 'cuda' else ('host',)
    return {f'cache, {place}': _cached(p, place == 'gpu') for place in places}


def _cached(p: Pictures, on_gpu: bool) -> Decoder:
    """Fill one cache, and take everything from it."""
    count = len(p.pixels)
    # Filled in one go; what is timed is how a loader takes batches from it.
    memory = cache.Memory(count, p.side, p.device, on_gpu)
    memory.put(range(count), torch.from_numpy(np.stack(p.pixels)))

    def run() -> None:
        for i in range(0, count, CACHE_BATCH):
            memory.take(range(i, min(i + CACHE_BATCH, count)))
        p.wait()

    return run


# ---- PNG on the GPU ----


def on_gpu(p: Pictures, streams: Sequence[int]) -> dict[str, Decoder]:
    """png.cu with so many files at once; each decodes max(streams) files. Raises FacesError."""
    # All files at once, since each has to be right.
    pixels, status = png.run_cuda(p.packed(p.data), p.device)
    if status.any():
        reason = png.REFUSED[int(status.max())]
        raise FacesError(f'the GPU refuses a file ({reason}): not timed')
    p.check('the GPU', list(pixels.view(-1, p.side, p.side, 3).cpu().numpy()))
    data = p.files(max(streams))

    def run(at_once: int) -> None:
        for i in range(0, len(data), at_once):
            png.run_cuda(p.packed(data[i : i + at_once]), p.device)
        p.wait()

    return {f'GPU, {n} at once': partial(run, n) for n in streams}


def stages(p: Pictures, count: int, rounds: int) -> dict[str, float]:
    """Milliseconds of each stage of decoding `count` images at once, with the copy to the device.

    Each stage is waited for.
    """
    data = p.files(count)
    seconds: dict[str, list[float]] = {}

    def timed(name: str, run: Callable[[], Any]) -> Any:
        p.wait()
        start = time.perf_counter()
        result = run()
        p.wait()
        seconds.setdefault(name, []).append(time.perf_counter() - start)
        return result

    with launches.intercepted(timed):
        for _ in range(rounds + 1):  # the first warms up
            packed = timed('packing', lambda: p.packed(data))
            timed('copy', partial(packed.data.to, p.device, non_blocking=True))
            png.run_cuda(packed, p.device)
    return {name: 1000 * timing.median(s[1:]) for name, s in seconds.items()}


def time_nvcomp(p: Pictures, data: Sequence[bytes], rounds: int) -> float | str:
    """Milliseconds that nvCOMP takes to inflate these files, or why it cannot be compared."""
    if p.device.type != 'cuda':
        return 'it needs a GPU'

    # A file may hold its zlib stream in pieces; nvCOMP wants it whole.
    heads = [png.head(d) for d in data]
    streams = [
        b''.join(d[a:b] for a, b in head.pieces) for d, head in zip(data, heads, strict=True)
    ]
    sizes = [head.raw for head in heads]
    try:
        run = nvcomp.inflater(streams, sizes, p.device)
        inflated = run()
        if inflated.statuses.any():
            return f'status {int(inflated.statuses.max())}'
    except (OSError, AttributeError) as e:
        return str(e)

    # Checked before it is timed, too.
    for stream, size, at in zip(streams, sizes, inflated.places[:-1], strict=True):
        if inflated.data[at : at + size].cpu().numpy().tobytes() != zlib.decompress(stream):
            return 'inflates to other bytes'

    def once() -> None:
        run()
        p.wait()

    seconds = timing.rounds({'nvCOMP': once}, rounds, progress=lambda _: None)
    return 1000 * timing.median(seconds['nvCOMP'])


# ---- decoding during a training ----


class Together(NamedTuple):
    """Images per second of a training and of decoding on a second stream."""

    alone: float  # trained without decoding
    trained: float  # trained while the GPU decodes
    decoded: float  # decoded meanwhile


class _Background:
    """Decoding on a stream of its own, again whenever it has finished."""

    def __init__(self, p: Pictures, packed: png.Packed) -> None:
        self.begun = 0
        self._device = p.device
        self._packed = packed
        self._stream = torch.cuda.Stream(p.device) if p.device.type == 'cuda' else None
        self._done: torch.cuda.Event | None = None

    def poll(self) -> None:
        """Begin again if the last time is over."""
        if self._done is not None and not self._done.query():
            return
        with torch.cuda.stream(self._stream) if self._stream else nullcontext():
            png.run_cuda(self._packed, self._device)
            if self._stream:
                self._done = self._stream.record_event()
        self.begun += 1


def together(p: Pictures, preset: str, steps: int, count: int) -> Together:
    """Train for some steps with and without decoding `count` images at a time."""
    background = _Background(p, p.packed(p.files(count)))
    step = stepper(preset, p.device, 'bf16' if p.device.type == 'cuda' else 'fp32')
    resident = _resident_batch(p)

    def train(steps: int, decoding: bool) -> None:
        for _ in range(steps):
            if decoding:
                background.poll()
            step(resident)
        p.wait()

    # Without and then with decoding; both are warmed up, and the second alone counts decodings.
    rates = []
    for decoding in (False, True):
        train(WARM_UP, decoding)
        begun, start = background.begun, time.perf_counter()
        train(steps, decoding)
        seconds = time.perf_counter() - start
        rates.append(TRAIN_BATCH * steps / seconds)
    alone, trained = rates
    return Together(alone, trained, count * (background.begun - begun) / seconds)


def _resident_batch(p: Pictures) -> Batch:
    """A black batch on the device: its values take the same time as any others."""
    plan = dali_pipes.Plan(1, degrade.recipe('bicubic'), batch=TRAIN_BATCH, size=p.side)
    black = torch.zeros(TRAIN_BATCH, 3, p.side, p.side, dtype=torch.uint8, device=p.device)
    impl = 'cuda' if p.device.type == 'cuda' else 'torch'
    return plan.finish(black, plan(np.arange(TRAIN_BATCH)), impl)


# ---- everything ----


def measure(
    p: Pictures, streams: Sequence[int], rounds: int, preset: str, gpu: bool
) -> dict[str, Any]:
    """Check and time everything, print the tables -> figures."""
    # All in turn, so that a slow moment of the machine hits everyone.
    decoders = on_cpu(p) | cached(p)
    counts = dict.fromkeys(decoders, len(p.data))
    if gpu:
        ours = on_gpu(p, streams)
        decoders |= ours
        counts |= dict.fromkeys(ours, max(streams))
    seconds = timing.rounds(decoders, rounds, progress=lambda _: None)
    rates = {name: counts[name] / timing.median(s) for name, s in seconds.items()}
    _print_rates(p, rates, seconds)
    figures: dict[str, Any] = {'images_per_second': rates}
    if not gpu:
        print('no GPU here: png.cu, nvCOMP and a training during them were not timed')
        return figures
    return figures | _measure_gpu(p, max(streams), rounds, preset)


def _measure_gpu(p: Pictures, count: int, rounds: int, preset: str) -> dict[str, Any]:
    """Time what only a GPU does, `count` images at once, and print it -> figures."""
    of_stages = stages(p, count, rounds)
    listed = ', '.join(f'{name} {ms:.2f} ms' for name, ms in of_stages.items())
    print(f'\nstages of {count} images at once, each waited for: {listed}')

    rival = time_nvcomp(p, p.files(count), rounds)
    if isinstance(rival, float):
        print(f'nvCOMP inflates them in {rival:.2f} ms')
    else:
        print(f'nvCOMP could not be compared: {rival}')

    rates = together(p, preset, 10 * rounds, min(256, count))
    print(
        f'{preset}, batch {TRAIN_BATCH}: {rates.alone:.1f} images per second trained alone, '
        f'{rates.trained:.1f} while {rates.decoded:,.0f} per second are decoded'
    )
    return {'stages_ms': of_stages, 'nvcomp_inflate_ms': rival, 'beside': rates._asdict()}


def _print_rates(p: Pictures, rates: dict[str, float], seconds: dict[str, list[float]]) -> None:
    """Print the table of all decoders."""
    size = p.pixels[0].nbytes
    ratio = sum(map(len, p.data)) / sum(pixels.nbytes for pixels in p.pixels)
    print(
        f"\n{len(p.data)} PNG of {p.side} px, {ratio:.0%} of their pixels' size, {p.threads} "
        "threads; decoded to OpenCV's pixels by all\n"
        f'{"":20} {"img/s":>10} {"GB/s":>7} {"spread":>7} {"against OpenCV":>15}'
    )
    for name, rate in rates.items():
        print(
            f'{name:20} {rate:10.1f} {rate * size / 1e9:7.2f} '
            f'{timing.spread(seconds[name]):6.1f}% {rate / rates[BASELINE]:14.1f}x'
        )


def parser() -> argparse.ArgumentParser:
    """Flags of decode_throughput.py."""
    p = arguments.described(__doc__)
    p.add_argument(
        '--data', help=f'HQ faces: folder, list or glob (default: {FACES} synthetic ones)'
    )
    p.add_argument(
        '--size',
        type=program.ranges.SIDE,
        default=512,
        help='side of the HQ images, pixels (default: %(default)s)',
    )
    p.add_argument(
        '--count',
        type=program.ranges.COUNT,
        default=256,
        help='images that are decoded, at most (default: %(default)s)',
    )
    p.add_argument(
        '--streams',
        type=program.Several(program.ranges.COUNT),
        default=[64, 256, 512, 1024],
        help='images at once on the GPU, comma-separated (default: 64,256,512,1024)',
    )
    p.add_argument(
        '--rounds',
        type=program.ranges.ROUNDS,
        default=3,
        help='medians are reported (default: %(default)s)',
    )
    p.add_argument(
        '--threads',
        type=program.ranges.THREADS,
        default=os.cpu_count(),
        help='CPU threads (default: all cores)',
    )
    p.add_argument(
        '--preset',
        default='srresnet16',
        help='what is trained while the GPU decodes (default: %(default)s)',
    )
    p.add_argument('--json', type=Path, help='also write the figures to this file')
    return p


@program.entry
def main(argv: Sequence[str] | None = None) -> int:
    """Measure what this machine has -> exit status."""
    args = parser().parse_args(argv)
    outputs.check({'--json': args.json}, {'--data': args.data})
    gpu = torch.cuda.is_available()
    device = torch.device('cuda', torch.cuda.current_device()) if gpu else torch.device('cpu')
    print(timing.header())
    data = read(load(args.data, args.size)[: args.count], args.size)
    pixels = [files.decode(d) for d in data]
    with ThreadPoolExecutor(args.threads) as pool:
        pictures = Pictures(data, pixels, device, args.threads, pool)
        figures = measure(pictures, args.streams, args.rounds, args.preset, gpu)
    if args.json:
        timing.write(args.json, images=len(data), threads=args.threads, **figures)
    return 0


if __name__ == '__main__':
    sys.exit(main())
