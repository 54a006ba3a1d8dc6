"""PNG decoded: images per second of OpenCV, of DALI on the CPU, of the cache in place of both, and of png.cu on the GPU, stage by stage and beside a training; and of the
same pictures as lossless HTJ2K (JPH, extra htj2k), by OpenJPH, OpenCV and DALI on the CPU, by DALI on a GPU.

    python benchmarks/decode_throughput.py [--data FOLDER] [--streams 64,256,512,1024] [--json FILE]

Every decoder must have decoded every image to OpenCV's pixels before it is timed. Without a GPU the CPU's rows alone are timed.
"""

import argparse
import os
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import cv2
import numpy as np
import torch

import dali_pipes
import degrade
from benchmarks import nvcomp, timing
from benchmarks.pipe_throughput import load
from benchmarks.train_step import stepper
from dali_pipes import cache, pipe_dali, png
from degrade import kernels
from sources import files, jph


def read(images, size):
    """Files [bytes] that the device decodes."""
    out = []
    for image in images:
        data = files.read_bytes(*image.where)
        try:
            head = png.head(data)
        except png.Unfit:
            continue
        if (head.height, head.width) == (size, size):
            out.append(data)
    if not out:
        raise SystemExit(
            f'none of {len(images)} images is an 8-bit PNG of {size}x{size} pixels: nothing to time'
        )
    return out


def check(name, found, expected):
    """Refuse to time a decoder of other pixels."""
    if not all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True)):
        raise SystemExit(f'{name} decodes other pixels than OpenCV: not timed')


def on_cpu(data, expected, args, pool, device):
    """{decoder: callable that decodes all once}, of JPH on a GPU, too"""
    out, dali = (
        {'OpenCV': lambda: list(pool.map(files.decode, data))},
        timing.installed('nvidia.dali'),
    )
    if dali:
        out['DALI'] = pipe_dali.decoder(data, args.threads)
    if jph.codec():
        rewritten = list(pool.map(jph.encode, expected))
        print(
            f'as JPH the files take {sum(map(len, rewritten)) / sum(map(len, data)):.0%} of their size as PNG'
        )
        out |= {
            'JPH, OpenJPH': lambda: list(pool.map(files.decode, rewritten)),
            'JPH, OpenCV': lambda: list(pool.map(opencv, rewritten)),
        }
        if dali:
            out['JPH, DALI'] = pipe_dali.decoder(rewritten, args.threads)
            if device.type == 'cuda':
                out |= mixed(rewritten, args.threads, device)
    for name, run in out.items():
        found = run()
        check(name, found if isinstance(found, list) else pipe_dali.pixels(found), expected)
    return out


def mixed(rewritten, threads, device):
    """The same of JPH by DALI on a GPU; nothing where it cannot: its nvJPEG2000 may be older than HTJ2K."""
    try:
        run = pipe_dali.decoder(rewritten, threads, device)
        run()
        return {'JPH, DALI, GPU': run}
    except RuntimeError as e:
        print(f'DALI cannot decode JPH on this GPU: {str(e).splitlines()[0]}')
        return {}


def opencv(data):
    return cv2.cvtColor(
        cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB
    )


def cached(expected, device):
    """The same of the caches, batch by batch: no decoding, but what a cold decoder is to be compared with."""
    out, size = {}, len(expected[0])
    for where in ('host', 'gpu') if device.type == 'cuda' else ('host',):
        kept = cache.Memory(len(expected), size, device, where == 'gpu')
        kept.put(range(len(expected)), torch.from_numpy(np.stack(expected)))

        def run(kept=kept):
            for i in range(0, len(expected), 32):
                kept.take(range(i, min(i + 32, len(expected))))
            wait(device)

        out[f'cache, {where}'] = run
    return out


def wait(device):
    if device.type == 'cuda':
        torch.cuda.synchronize()


def packed(data, device, pool):
    return png.pack(data, [png.head(d) for d in data], device.type == 'cuda', pool)


def on_gpu(data, expected, device, streams, pool):
    """{decoder: callable that decodes max(streams) images once}: sent, inflated, unfiltered, coloured, so many at once."""
    most, out = max(streams), {}
    many = (data * -(-most // len(data)))[:most]
    pixels, status = png.run_cuda(packed(data, device, pool), device)
    if status.any():
        raise SystemExit(f'the GPU refuses a file ({png.REFUSED[int(status.max())]}): not timed')
    check('the GPU', pixels.view(-1, *expected[0].shape).cpu().numpy(), expected)
    for n in streams:

        def run(n=n):
            for i in range(0, most, n):
                png.run_cuda(packed(many[i : i + n], device, pool), device)
            wait(device)

        out[f'GPU, {n} at once'] = run
    return out, most


def stages(data, device, count, rounds, pool):
    """{stage: milliseconds} of `count` images decoded at once, the copy to the device among them."""
    many, launch, seconds = (data * -(-count // len(data)))[:count], kernels.launch, {}

    def timed(name, run):
        wait(device)
        start = time.perf_counter()
        result = run()
        wait(device)
        seconds.setdefault(name, []).append(time.perf_counter() - start)
        return result

    try:
        kernels.launch = lambda file, name, *args: timed(name, lambda: launch(file, name, *args))
        for _ in range(rounds + 1):  # the first warms up
            whole = timed('packing', lambda: packed(many, device, pool))
            timed('copy', lambda: whole.data.to(device, non_blocking=True))
            png.run_cuda(whole, device)
    finally:
        kernels.launch = launch
    return {name: 1000 * timing.median(s[1:]) for name, s in seconds.items()}


def nvcomps(data, device, rounds):
    """Milliseconds that nvCOMP takes to inflate these files, or why it cannot be compared."""
    if device.type != 'cuda':
        return 'it needs a GPU'
    heads = [png.head(d) for d in data]
    zlibs = [b''.join(d[a:b] for a, b in h.pieces) for d, h in zip(data, heads)]
    try:
        run = nvcomp.inflater(zlibs, [h.raw for h in heads], device)
        statuses, out, places = run()
        if statuses.any():
            return f'status {int(statuses.max())}'
    except (OSError, AttributeError) as e:
        return str(e)
    for z, h, at in zip(zlibs, heads, places):
        if out[at : at + h.raw].cpu().numpy().tobytes() != zlib.decompress(z):
            return 'inflates to other bytes'

    def once():
        run()
        wait(device)

    return 1000 * timing.median(
        timing.rounds({'nvCOMP': once}, rounds, progress=lambda _: None)['nvCOMP']
    )


def beside(data, device, preset, batch, steps, count, pool):
    """(images per second trained alone, trained while `count` images at a time are decoded on a second stream, decoded meanwhile)"""
    size = png.head(data[0]).height
    many, step = (
        packed((data * -(-count // len(data)))[:count], device, pool),
        stepper(preset, device, 'bf16' if device.type == 'cuda' else 'fp32'),
    )
    plan = dali_pipes.Plan(1, degrade.recipe('bicubic'), batch=batch, size=size)
    resident = plan.finish(
        torch.zeros(batch, 3, size, size, dtype=torch.uint8, device=device),
        plan(np.arange(batch)),
        'cuda' if device.type == 'cuda' else 'torch',
    )
    side, rates, decoded = torch.cuda.Stream(device) if device.type == 'cuda' else None, [], 0
    for decoding in False, True:
        for warm in True, False:
            decoded, done, start = 0, None, time.perf_counter()
            for _ in range(3 if warm else steps):
                if decoding and (done is None or done.query()):
                    with torch.cuda.stream(side) if side else nullcontext():
                        png.run_cuda(many, device)
                        done = side and side.record_event()
                    decoded += count
                step(resident)
            wait(device)
            seconds = time.perf_counter() - start
        rates.append(batch * steps / seconds)
    return *rates, decoded / seconds


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--data', help='HQ faces: folder, list or glob (default: 64 synthetic ones, drawn once)'
    )
    parser.add_argument(
        '--size',
        type=int,
        default=512,
        help='side of the HQ images in pixels (default: %(default)s)',
    )
    parser.add_argument(
        '--count',
        type=int,
        default=256,
        help='images that are decoded, at most (default: %(default)s)',
    )
    parser.add_argument(
        '--streams',
        type=lambda s: [int(n) for n in s.split(',')],
        default=[64, 256, 512, 1024],
        help='images at once on the GPU (default: 64,256,512,1024)',
    )
    parser.add_argument(
        '--rounds', type=int, default=3, help='medians are reported (default: %(default)s)'
    )
    parser.add_argument('--threads', type=int, default=os.cpu_count(), help='default: all cores')
    parser.add_argument(
        '--preset',
        default='srresnet16',
        help='what is trained beside the decoding (default: %(default)s)',
    )
    parser.add_argument('--json', type=Path, help='also write the figures to this file')
    args = parser.parse_args()
    device = (
        torch.device('cuda', torch.cuda.current_device())
        if torch.cuda.is_available()
        else torch.device('cpu')
    )
    print(timing.header())
    data = read(load(args.data, args.size)[: args.count], args.size)
    expected = [files.decode(d) for d in data]
    with ThreadPoolExecutor(args.threads) as pool:
        figures = measure(data, expected, device, args, pool, device.type == 'cuda')
    if args.json:
        timing.write(args.json, images=len(data), threads=args.threads, **figures)


def measure(data, expected, device, args, pool, gpu):
    """Prints the tables -> figures."""
    contenders, counts = on_cpu(data, expected, args, pool, device) | cached(expected, device), {}
    if gpu:
        ours, most = on_gpu(data, expected, device, args.streams, pool)
        contenders, counts = contenders | ours, dict.fromkeys(ours, most)
    seconds = timing.rounds(contenders, args.rounds, progress=lambda _: None)
    rate = {name: counts.get(name, len(data)) / timing.median(s) for name, s in seconds.items()}
    pixels, ratio = expected[0].nbytes, sum(map(len, data)) / sum(e.nbytes for e in expected)
    print(
        f"\n{len(data)} PNG of {args.size} px, {ratio:.0%} of their pixels' size, {args.threads} threads; decoded to OpenCV's pixels by all\n"
        f'{"":20} {"img/s":>10} {"GB/s":>7} {"spread":>7} {"against OpenCV":>15}'
    )
    for name in rate:
        print(
            f'{name:20} {rate[name]:10.1f} {rate[name] * pixels / 1e9:7.2f} {timing.spread(seconds[name]):6.1f}% {rate[name] / rate["OpenCV"]:14.1f}x'
        )
    figures = {'images_per_second': rate}
    if not gpu:
        print('no GPU here: png.cu, nvCOMP and a training beside them were not timed')
        return figures
    count = max(args.streams)
    parts = stages(data, device, count, args.rounds, pool)
    print(
        f'\nstages of {count} images at once, each waited for: '
        + ', '.join(f'{name} {ms:.2f} ms' for name, ms in parts.items())
    )
    rival = nvcomps((data * -(-count // len(data)))[:count], device, args.rounds)
    print(
        f'nvCOMP inflates them in {rival:.2f} ms'
        if isinstance(rival, float)
        else f'nvCOMP could not be compared: {rival}'
    )
    alone, trained, decoded = beside(
        data, device, args.preset, 8, 10 * args.rounds, min(256, count), pool
    )
    print(
        f'{args.preset}, batch 8: {alone:.1f} images per second trained alone, {trained:.1f} while {decoded:,.0f} per second are decoded beside it'
    )
    return figures | {
        'stages_ms': parts,
        'nvcomp_inflate_ms': rival,
        'beside': {'alone': alone, 'trained': trained, 'decoded': decoded},
    }


if __name__ == '__main__':
    main()
