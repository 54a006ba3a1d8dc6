"""Small ragged batches that use every kernel and every branch of it, and what must come out.

    python tests/kernel_cases.py --plain --orders 22

runs them all forwards, backwards and in 20 random orders. Without --plain the kernels are built
with sanitizers; test_cuda.py starts that, with libasan preloaded.
"""

import argparse
import math
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from degrade import (
    bilateral,
    blur,
    canvas,
    chroma_blur,
    grain,
    jpeg,
    kernels,
    median,
    noise,
    quantize,
    resize,
    unsharp,
    usm,
)

SIZES = (63, 17), (33, 40), (22, 65), (64, 64), (21, 22), (40, 33), (25, 24), (48, 31)


class Case(NamedTuple):
    name: str
    op: Any
    images: list  # [h, w, 3] uint8, or float32 in [0, 1]
    params: Any  # of all of them
    exact: bool = False  # equal to the reference, not just near


def picture(h, w, seed, levels=256):
    """[h, w, 3] uint8: a slope, edges and noise."""
    rng = np.random.default_rng([seed, h, w])
    y, x = np.mgrid[0:h, 0:w]
    shade = (
        90
        + 80 * np.sin(x / 5 + seed)[..., None]
        + 60 * (((x // 6 + y // 9) % 2)[..., None] - 0.5)
        + rng.normal(0, 12, (h, w, 3))
    )
    return (
        np.clip(shade, 0, 255).astype(int) * levels // 256 * (255 // max(levels - 1, 1))
    ).astype(np.uint8)


def pictures(sizes, as_bytes, levels=256):
    u8 = [picture(h, w, i, levels) for i, (h, w) in enumerate(sizes)]
    return u8 if as_bytes else [p.astype(np.float32) / np.float32(255) for p in u8]


def on_canvas(images, spare=(3, 2)):
    """Canvas of images [h, w, 3] that is larger than needed; beyond a sample lies poison."""
    sizes = np.array([i.shape[:2] for i in images])
    H, W = sizes.max(0) + spare
    pix = torch.full(
        (len(images), 3, H, W),
        255 if images[0].dtype == np.uint8 else math.nan,
        dtype=torch.from_numpy(images[0]).dtype,
    )
    pix = pix.contiguous(memory_format=torch.channels_last)
    for i, image in enumerate(images):
        pix[i, :, : image.shape[0], : image.shape[1]] = torch.from_numpy(image).permute(2, 0, 1)
    return canvas.Canvas(pix, sizes)


def _blur(taps, kinds, rng):
    n, sigma = len(taps), rng.uniform(0.3, 3, len(taps))
    iso = np.isin(kinds, (blur.ISO, blur.GEN_ISO, blur.PLATEAU_ISO))
    return blur.Params(
        np.array(kinds),
        np.where(np.array(kinds) == blur.DELTA, 1, taps),
        sigma,
        np.where(iso, sigma, rng.uniform(0.3, 3, n)),
        rng.uniform(-math.pi, math.pi, n),
        rng.uniform(0.5, 3, n),
        rng.uniform(math.pi / 5, math.pi, n),
    )


def _noise(kinds, gray, amount):
    n = len(kinds)
    return noise.Params(
        np.array(kinds),
        np.array(gray),
        np.array(amount),
        np.full(n, 5, np.uint64),
        np.full(n, 2**63 + 7, np.uint64),
        np.arange(40, 40 + n),
    )


def cases():
    """Every case; the same each time."""
    rng = np.random.default_rng(1)
    for as_bytes in True, False:
        kind = 'bytes' if as_bytes else 'floats'
        yield Case(
            f'blur {kind}',
            blur,
            pictures(SIZES, as_bytes),
            _blur([7, 9, 21, 15, 19, 11, 13, 1], range(8), rng),
        )
        yield Case(
            f'bilateral {kind}',
            bilateral,
            pictures(SIZES, as_bytes),
            bilateral.Params(
                np.array([0.5, 1.0, 1.4, 2.0, 2.7, 3.4, 4.9, 3.0]),
                np.array([0.05, 0.3, 0.0, 0.2, 1.0, 0.1, 0.4, 0.02]),
            ),
        )
        yield Case(
            f'grain {kind}',
            grain,
            pictures(SIZES[:5], as_bytes),
            grain.Params(
                np.array([0.4, 1.0, 2.5, 1.0, 0.8]),
                np.array([0.1, 0.02, 0.05, 0.0, 0.3]),
                np.array([1.0, 0.0, 0.4, 1.0, 1.0]),
                np.array([True, False, False, True, False]),
                *_noise([noise.GAUSSIAN] * 5, [False] * 5, [1.0] * 5)[3:],
            ),
        )
        yield Case(
            f'median {kind}',
            median,
            pictures(SIZES, as_bytes),
            median.Params(np.array([15, 7, 3, 13, 1, 11, 9, 15])),
            exact=True,
        )
        yield Case(
            f'usm {kind}',
            usm,
            pictures([(97, 63), (61, 70), (52, 57)], as_bytes),
            usm.Params(np.array([True, False, True])),
        )
        yield Case(
            f'jpeg {kind}',
            jpeg,
            pictures(SIZES, as_bytes),
            jpeg.Params(np.array([1, 50, 100, 10, 95, 75, 49, 30]), np.zeros(8, int)),
            exact=True,
        )
        modes = [
            resize.AREA,
            resize.BILINEAR,
            resize.BICUBIC,
            resize.AREA_CV,
            resize.BICUBIC_AA,
            resize.AREA,
            resize.AREA_CV,
            resize.BICUBIC,
        ]
        out = np.array(
            [(20, 29), (40, 15), (31, 65), (16, 21), (9, 13), (60, 35), (20, 31), (77, 64)]
        )
        yield Case(
            f'resize {kind}',
            resize,
            pictures(SIZES, as_bytes),
            resize.Params(np.array(modes), out, np.array(SIZES) / out),
        )
        for levels in 256, 5:
            yield Case(
                f'noise {kind} {levels}',
                noise,
                pictures(SIZES[:5], as_bytes, levels),
                _noise(
                    [noise.GAUSSIAN, noise.POISSON, noise.NONE, noise.POISSON, noise.GAUSSIAN],
                    [True, False, False, True, False],
                    [0.05, 0.7, 1.0, 1.9, 0.01],
                ),
            )
        yield Case(
            f'noise {kind} tables',
            noise,
            pictures(SIZES[:6], as_bytes),
            _noise(
                [
                    noise.LAPLACE,
                    noise.SIGNED,
                    noise.NONE,
                    noise.SIGNED,
                    noise.LAPLACE,
                    noise.SIGNED,
                ],
                [True, False, False, True, False, False],
                [0.05, 15 / 255, 1.0, 32 / 255, 0.01, 1 / 255],
            ),
        )
    # A fifth level in the last, or the first, place makes V 8.
    corner = [picture(33, 17, 1, 4), picture(33, 17, 2, 4)]
    corner[0][-1, -1, 2] = 7
    corner[1][0, 0, 0] = 7
    yield Case(
        'noise corner', noise, corner, _noise([noise.POISSON] * 2, [False, False], [1.0, 1.0])
    )
    yield Case(
        'blur 41',
        blur,
        pictures([(42, 67), (64, 21), (45, 50), (40, 70), (30, 33)], False),
        _blur(
            [41, 19, 41, 33, 7],
            [blur.ISO, blur.ANISO, blur.SINC, blur.ISO, blur.PLATEAU_ANISO],
            rng,
        ),
    )
    # More than one tile in each direction, and kernels far smaller than their frames.
    yield Case(
        'blur tiles',
        blur,
        pictures([(70, 131), (130, 66), (67, 65), (65, 129)], True),
        blur.Params(
            np.array([blur.ISO, blur.ANISO, blur.GEN_ISO, blur.SINC]),
            np.array([21, 19, 17, 5]),
            np.array([0.4, 2.5, 0.3, 1.0]),
            np.array([0.4, 0.3, 0.3, 1.0]),
            np.array([0, 0.7, 0, 0]),
            np.array([1.0, 1, 0.5, 1]),
            np.full(4, 1.2),
        ),
    )
    yield Case(
        'usm tiles',
        usm,
        pictures([(131, 70), (28, 141)], False),
        usm.Params(np.array([True, True])),
    )
    yield Case('blur one', blur, pictures([(23, 37)], False), _blur([21], [blur.ANISO], rng))
    yield Case(
        'blur motion',
        blur,
        pictures([(42, 67), (30, 33), (23, 37), (40, 41)], True),
        blur.Params(
            np.array([blur.MOTION] * 3 + [blur.ISO]),
            np.array([21, 11, 17, 9]),
            np.array([10.0, 5, 8, 1.5]),
            np.full(4, 1.5),
            np.array([0.3, -2.0, math.pi / 2, 0]),
            np.array([0.1, 0.5, 1.0, 1.0]),
            np.ones(4),
        ),
    )
    yield Case(
        'median all',
        median,
        pictures([(5, 40), (33, 9)], False),
        median.Params(np.array([15, 5])),
        exact=True,
    )
    yield Case(
        'unsharp',
        unsharp,
        pictures(SIZES[:5], False),
        unsharp.Params(np.array([0.4, 1.0, 2.5, 1.0, 0.8]), np.array([2.0, 0.5, 1.0, 0.0, 1.5])),
    )
    yield Case(
        'chroma_blur',
        chroma_blur,
        pictures(SIZES[:4], True),
        chroma_blur.Params(np.array([0.4, 0.0, 2.5, 1.0])),
    )
    before, after = (
        np.array([(33, 40), (40, 33), (25, 24)]),
        np.array([(9, 13), (70, 50), (24, 31)]),
    )
    yield Case(
        'resize lanczos',
        resize,
        pictures(before, False),
        resize.Params(np.array([resize.LANCZOS] * 3), after, before / after),
    )
    yield Case(
        'resize nearest',
        resize,
        pictures([(4, 5), (31, 17), (40, 41)], True),
        resize.Params(
            np.array([resize.NEAREST] * 3),
            np.array([(64, 80), (10, 40), (40, 41)]),
            np.array([(1 / 16, 1 / 16), (3.1, 17 / 40), (1, 1)]),
        ),
    )
    yield Case(
        'resize by scale',
        resize,
        pictures([(40, 41), (30, 31)], False),
        resize.Params(
            np.array([resize.BILINEAR, resize.BICUBIC]),
            np.array([(19, 20), (31, 32)]),
            np.array([(2.07, 2.07), (0.95, 0.95)]),
        ),
    )
    yield Case(
        'resize much',
        resize,
        pictures([(64, 65), (63, 65)], False),
        resize.Params(
            np.array([resize.AREA_CV, resize.AREA]),
            np.array([(4, 5), (4, 4)]),
            np.array([(16, 13), (63 / 4, 65 / 4)]),
        ),
    )
    tiny = [(h, w) for h in (1, 2, 3, 8, 9, 17) for w in (1, 2, 4, 5, 6, 16, 17)]
    yield Case(
        'jpeg tiny',
        jpeg,
        pictures(tiny, True),
        jpeg.Params(np.arange(len(tiny)) * 5 % 100 + 1, np.arange(len(tiny)) // 3 % 3),
        exact=True,
    )
    # Sizes around the rule for narrow planes, and wider than a block of threads.
    shapes = [(h, w) for h in (1, 7, 17) for w in (1, 3, 4, 5, 31, 66, 129)]
    for n, sampling in enumerate(jpeg.SAMPLINGS[1:], 1):
        yield Case(
            f'jpeg {sampling}',
            jpeg,
            pictures(shapes, n == 1),
            jpeg.Params(np.arange(len(shapes)) * 5 % 100 + 1, np.full(len(shapes), n)),
            exact=True,
        )
    yield Case(
        'jpeg some',
        jpeg,
        pictures(SIZES[:4], False),
        jpeg.Params(np.array([0, 60, 0, 90]), np.array([1, 0, 2, 0])),
        exact=True,
    )
    yield Case(
        'quantize',
        quantize,
        [p * np.float32(1.1) - np.float32(0.03) for p in pictures(SIZES[:4], False)],
        quantize.Params(np.array([True, False, True, True]), np.array([False, False, True, False])),
        exact=True,
    )


def run_kernels(case):
    """[h, w, 3] float32 of every sample, by whatever `kernels.launch` is."""
    c = on_canvas(case.images)
    (r,) = kernels.upload([case.op.record(case.params, c.size)], c.pix.device)
    out = case.op.run_cuda(c, case.params, r)
    return [
        canvas.unit(out.pix[i, :, :h, :w]).permute(1, 2, 0).numpy()
        for i, (h, w) in enumerate(out.size)
    ]


def errors(case, images):
    """(largest error of `images`, what is allowed), both against the float64 reference.

    Twice the error of torch in float32, and a little, is allowed.
    """
    worst, torchs = 0.0, 0.0
    for i, image in enumerate(case.images):
        p = type(case.params)(*(f[i] for f in case.params))
        expected = case.op.run_ref(
            image / np.float64(255) if image.dtype == np.uint8 else image.astype(np.float64), p
        )
        assert images[i].shape == expected.shape
        off = np.abs(images[i] - expected)
        worst = max(worst, np.inf if np.isnan(off).any() else off.max())
        one = case.op.run_torch(
            canvas.of(canvas.nchw(image)), type(p)(*(np.asarray(f)[None] for f in p))
        )
        torchs = max(torchs, np.abs(canvas.hwc(canvas.unit(one.pix)) - expected).max())
    return worst, 1e-7 if case.exact else 2 * torchs + 1e-6


def main():
    from storage import counted
    from tools import cuda_shim

    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--orders', type=int, default=2, help='orders of threads (default: %(default)s)')
    p.add_argument('--plain', action='store_true', help='without the sanitizers')
    args = p.parse_args()
    for order in range(args.orders):
        with cuda_shim.Shim(order, sanitize=not args.plain) as shim:
            for case in cases():
                images = run_kernels(case)
                if args.plain:
                    error, allowed = errors(case, images)
                    assert error <= allowed, (case.name, order, error)
    how = 'as the reference has it' if args.plain else 'under the sanitizers'
    orders = counted(args.orders, 'order')
    print(len(shim.launched), f'kernels executed in {orders} {how}')


if __name__ == '__main__':
    main()
