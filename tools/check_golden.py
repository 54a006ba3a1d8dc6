"""Check every degradation op, and the whole parity chain, against golden vectors of the original functions (Real-ESRGAN, BasicSR, OpenCV).

    python tools/check_golden.py FOLDER [--impl ref,torch,cuda-shim]

FOLDER holds kernels.npz, blur.npz, usm.npz, resize.npz, noise.npz, jpeg.npz and chain.npz. Prints a table, exits 1 if any row fails, 2 if the folder is unusable.
`torch` is the tensor path without OpenCV; `opencv` is the same with it; `cuda` are the kernels on a GPU, `cuda-shim` the kernels on the CPU (slow, needs g++).
"""

import argparse
import contextlib
import re
import sys
from pathlib import Path

import numpy as np
import torch

from degrade import blur, canvas, diffjpeg, jpeg, kernels, noise, quantize, resize, usm
from tools import cuda_shim

IMPLS = 'ref', 'torch', 'opencv', 'cuda', 'cuda-shim'
FILES = 'kernels', 'blur', 'usm', 'resize', 'noise', 'jpeg', 'chain'
MODES = {'area': resize.AREA, 'bilinear': resize.BILINEAR, 'bicubic': resize.BICUBIC}
CODES = resize.AREA, resize.BILINEAR, resize.BICUBIC  # the vectors' numbers for modes
MARGIN = 1e-4  # a DiffJPEG block with a coefficient nearer to a rounding tie may go either way


# ---- one sample through one op, whatever the implementation: x [3, h, w] float32 -> [3, h, w] ----


def run(op, impl, x, p):
    """p: Params of scalars."""
    if impl == 'ref':
        return op.run_ref(x.transpose(1, 2, 0).astype(np.float64), p).transpose(2, 0, 1)
    p = type(p)(*(np.array([f]) for f in p))
    if impl.startswith('cuda'):
        return kernel(op, impl, x, p, lambda c, r: op.run_cuda(c, p, r))
    c = op.run_torch(
        canvas.of(torch.from_numpy(x)[None].contiguous(memory_format=torch.channels_last)),
        p,
        impl == 'opencv',
    )
    return canvas.unit(c.pix)[0].numpy()


def kernel(op, impl, x, p, apply):
    """One sample through kernels: x [3, h, w], p Params of [1] arrays, apply(Canvas, record of p on the device) -> Canvas."""
    device = torch.device('cuda' if impl == 'cuda' else 'cpu')
    with cuda_shim.Shim() if impl == 'cuda-shim' else contextlib.nullcontext():
        c = canvas.of(
            torch.from_numpy(x)[None].contiguous(memory_format=torch.channels_last).to(device)
        )
        c = apply(c, *kernels.upload([op.record(p, c.size)], c.pix.device))
    return canvas.unit(c.pix)[0].cpu().numpy()


def correlate(impl, x, k):
    """x [3, h, w], explicit kernel k [n, n]."""
    if impl == 'ref':
        return blur.apply_ref(x.transpose(1, 2, 0).astype(np.float64), k).transpose(2, 0, 1)
    if impl.startswith('cuda'):
        taps = torch.from_numpy(np.ascontiguousarray(k, np.float32)).reshape(1, -1)
        p = blur.Params(
            *(np.array([v]) for v in (blur.ANISO, len(k), 1.0, 1.0, 0.0, 1.0, 1.0))
        )  # any kind that is not taken apart
        return kernel(blur, impl, x, p, lambda c, r: blur.apply_cuda(c, taps.to(c.pix.device), r))
    if impl == 'opencv':
        return blur.apply_opencv(np.ascontiguousarray(x.transpose(1, 2, 0)), k).transpose(2, 0, 1)
    return blur.apply_torch(torch.from_numpy(x)[None], torch.from_numpy(k)[None])[0].numpy()


def gaussian(impl, x, z, sigma):
    """x [3, h, w], z [3 or 1, h, w], sigma in image units."""
    if impl == 'ref':
        return noise.gaussian_ref(x.astype(np.float64), z, sigma)
    if impl.startswith('cuda'):
        return noisy(impl, x, z, noise.GAUSSIAN, len(z) == 1, sigma)
    return noise.gaussian_torch(
        torch.from_numpy(x)[None], torch.from_numpy(z)[None], torch.tensor([sigma]).float()
    )[0].numpy()


def poisson(impl, x, counts, gray, scale):
    """x [3, h, w], counts [3 or 1, h, w]; returns (noisy, number of levels as its power of two)."""
    if impl == 'ref':
        level, V = noise.level_ref(x.transpose(1, 2, 0).astype(np.float64), gray)
        return noise.poisson_ref(
            x.transpose(1, 2, 0).astype(np.float64), counts.transpose(1, 2, 0), level, V, scale
        ).transpose(2, 0, 1), V
    if impl.startswith('cuda'):
        seen = []
        y = noisy(
            impl,
            x,
            counts,
            noise.POISSON,
            bool(gray),
            scale,
            lambda c, r: seen.append(noise.occupied_cuda(c, r, 0.0)) or c,
        )
        return y, noise.levels(np.unpackbits(seen[0].cpu().numpy().view(np.uint8)).sum())
    level, V = noise.level_torch(torch.from_numpy(x)[None], torch.tensor([bool(gray)]))
    y = noise.poisson_torch(
        torch.from_numpy(x)[None],
        torch.from_numpy(counts.astype(np.float32))[None],
        level,
        V,
        torch.tensor([scale]).float(),
    )
    return y[0].numpy(), int(V)


def noisy(impl, x, field, kind, gray, amount, before=lambda c, r: c):
    """One sample through the noise kernel with an explicit field [3 or 1, h, w]."""
    p = noise.Params(*(np.array([v]) for v in (kind, gray, amount, np.uint64(0), np.uint64(0), 0)))
    values = torch.from_numpy(np.broadcast_to(field.astype(np.float32), x.shape).copy())[
        None
    ].contiguous(memory_format=torch.channels_last)
    return kernel(
        noise,
        impl,
        x,
        p,
        lambda c, r: noise.run_cuda(before(c, r), p, r, values.to(c.pix.device), nudge=0.0),
    )


def unit(u8):
    """[..., h, w, 3] uint8 -> [..., 3, h, w] float32 in [0, 1]."""
    return np.ascontiguousarray(np.moveaxis(u8.astype(np.float32) / np.float32(255), -1, -3))


def kernel_params(kind, size, row):
    sx, sy, theta, beta, omega = np.nan_to_num(row, nan=1.0)
    return blur.Params(
        int(kind),
        int(size),
        sx,
        sx if kind in (0, 2, 4) else sy,
        0.0 if kind in (0, 2, 4) else theta,
        beta,
        omega,
    )


# ---- the files; each check yields (row name, error, allowed) ----


def check_kernels(g, impl):
    for kind, name in enumerate(blur.KINDS[:7]):
        for i in range(len(g[f'{name}_size'])):
            p = kernel_params(kind, g[f'{name}_size'][i], g[f'{name}_params'][i])
            if impl == 'ref':
                k = blur.kernel_ref(p)
            elif impl.startswith('cuda'):
                k = made(impl, p)
            else:
                k = blur.kernels(blur.Params(*(np.array([f]) for f in p)))[0].numpy()
            yield (
                f'kernel {name}',
                np.abs(k - g[f'{name}_k{i:02d}']).max(),
                1e-10 if impl == 'ref' else 1e-7,
            )


def made(impl, p):
    """[n, n] kernel as the GPU makes it."""
    made, arrays = [], blur.Params(*(np.array([f]) for f in p))
    kernel(
        blur,
        impl,
        np.zeros((3, 1, 1), np.float32),
        arrays,
        lambda c, r: made.append(blur.kernels_cuda(arrays, r).cpu().numpy()[0]) or c,
    )
    n = int(p.taps)
    return np.outer(made[0][:n], made[0][:n]) if p.kind == blur.ISO else made[0].reshape(n, n)


def check_blur(g, impl):
    for case in sorted(k[0] for k in g if k.endswith('_img_u8')):
        for i, x in enumerate(unit(g[f'{case}_img_u8'])):
            y = correlate(impl, x, g[f'{case}_kernel'][min(i, len(g[f'{case}_kernel']) - 1)])
            yield 'blur filter2D', np.abs(y - g[f'{case}_filter2D'][i]).max(), 1e-5
            if f'{case}_cv2' in g:
                yield 'blur cv2', np.abs(y - g[f'{case}_cv2'][i]).max(), 1e-5


def check_usm(g, impl):
    for case in sorted(k[0] for k in g if k.endswith('_img_u8')):
        for i, x in enumerate(unit(g[f'{case}_img_u8'])):
            yield (
                'usm',
                np.abs(run(usm, impl, x, usm.Params(np.True_)) - g[f'{case}_usm'][i]).max(),
                1e-4,
            )


def check_resize(g, impl):
    for case in sorted(k[0] for k in g if k.endswith('_img_u8')):
        x = unit(g[f'{case}_img_u8'])
        n = np.array(x.shape[1:])
        for key in (k for k in g if re.match(f'{case}_(torch|cv2)_', k)):
            _, family, what, mode = re.match(
                r'(\w)_(torch|cv2)_(scale\d+|size\d+)_(\w+)', key
            ).groups()
            size = np.array(g[key].shape[1:])
            step = n / size
            if what.startswith('scale') and (size != n).any():
                step = np.full(2, 1 / g['scales'][int(what[5:])])
            code = resize.AREA_CV if (family, mode) == ('cv2', 'area') else MODES[mode]
            y = run(resize, impl, x, resize.Params(np.int64(code), size, step))
            yield (
                f'resize {family} {what.rstrip("0123456789")} {mode}',
                np.abs(y - g[key]).max(),
                3e-5,
            )


def check_noise(g, impl):
    for i, x in enumerate(unit(g['img_u8'])):
        for kind in 'color', 'gray', 'mixed':
            z = g['z_gray'][None] if g[f'gauss_flag_{kind}'][i] else g['z_color'][i]
            yield (
                'noise gaussian',
                np.abs(gaussian(impl, x, z, g['sigma'][i] / 255) - g[f'gauss_out_{kind}'][i]).max(),
                1e-6,
            )
    for source, images in ('u8', unit(g['img_u8'])), ('float', g['poisson_float_img']):
        for i, x in enumerate(images):
            for kind in 'color', 'gray', 'mixed':
                gray = (
                    bool(g[f'poisson_flag_{kind}'][i])
                    if f'poisson_flag_{kind}' in g
                    else kind == 'gray'
                )
                counts = g[f'poisson_{source}_P_{"gray" if gray else "color"}'][i]
                y, _ = poisson(impl, x, counts, gray, g['poisson_scale'][i])
                yield 'noise poisson', np.abs(y - g[f'poisson_{source}_out_{kind}'][i]).max(), 1e-6
    for i in range(len(g['levels_color'])):
        x = unit(g[f'levels_img{i:02d}_u8'])
        for kind in 'color', 'gray':
            V = poisson(
                impl, x, np.zeros_like(x[:1] if kind == 'gray' else x), kind == 'gray', 1.0
            )[1]
            yield f'noise levels {kind}', abs(V - g[f'vals_{kind}'][i]), 0


def check_jpeg(g, impl):
    for key in (k for k in g if '_cv2_q' in k):
        name, q = re.match(r'(\w+?)_cv2_q(\d+)', key).groups()
        y = run(jpeg, impl, unit(g[f'{name}_u8']), jpeg.Params(np.int64(q)))
        yield 'jpeg cv2', np.abs(np.rint(y * 255).transpose(1, 2, 0) - g[key]).max(), 0
    for case in sorted(k[4] for k in g if re.match(r'diff\w_img_u8', k)):
        for i, x in enumerate(unit(g[f'diff{case}_img_u8'])):
            y = run(diffjpeg, impl, x, diffjpeg.Params(np.float64(g[f'diff{case}_q'][i])))
            yield (
                'jpeg DiffJPEG',
                safe_error(y, g[f'diff{case}_out'][i], g[f'diff{case}_margin'][i]),
                1e-5,
            )


def safe_error(y, expected, margin):
    """Largest error over the 16x16 blocks that are not on a rounding tie."""
    safe = (margin >= MARGIN).repeat(16, 0).repeat(16, 1)[: y.shape[1], : y.shape[2]]
    return np.abs((y - expected) * safe).max()


def check_chain(g, impl):
    wrong = []
    for plan in range(int(g['n_plans'])):
        p = {k[len(f'p{plan}_') :]: g[k] for k in g if k.startswith(f'p{plan}_')}
        for i in range(len(g['gt_u8'])):
            yield from chain_stages(g, p, i, impl)
            wrong.append(np.abs(chain(g, p, i, impl) - p['lq'][i]) * 255)
    # End to end, one float rounding can tip an 8-bit level, which Poisson noise and JPEG spread over a block: a share of all values may differ.
    yield 'chain lq, share off', (np.array(wrong) > 0.5).mean(), 0.005
    yield 'chain lq, share off by > 1/255', (np.array(wrong) > 1.5).mean(), 0.005


def chain_stages(g, p, i, impl):
    """Every stage fed with the recorded stage before it."""
    before, name_before = unit(g['gt_u8'])[i], 'gt'
    for name, out in stages(p, i, impl):
        expected = g['gt_usm'][i] if name == 'usm' else p[name][i]
        y = out(before)
        if name.startswith('jpeg'):
            error = safe_error(y, expected, p[f'{name}_margin'][i])
        else:
            error = np.abs(y - expected).max()
        allowed = {
            'usm': 1e-4,
            'jpeg1': 1e-5,
            'jpeg2': 1e-5,
            'blur1': 1e-5,
            'blur2': 1e-5,
            'sinc': 1e-5,
            'noise1': 1e-6,
            'noise2': 1e-6,
            'lq': 1e-6,
        }
        yield f'chain {name}', error, allowed.get(name, 3e-5)
        before = expected


def chain(g, p, i, impl):
    """From the ground truth to the LQ image."""
    x = unit(g['gt_u8'])[i]
    for _, out in stages(p, i, impl):
        x = np.ascontiguousarray(out(x), np.float32)
    return x


def stages(p, i, impl):
    """(name, function) of every stage of one plan, in its order."""

    def resized(n):
        def out(x):
            size = np.array(p[f'resize{n}'].shape[-2:])
            step = np.array(x.shape[1:]) / size
            if n == 1 and (size != x.shape[1:]).any():
                step = np.full(2, 1 / float(p['resize1_scale']))
            return run(
                resize,
                impl,
                x,
                resize.Params(np.int64(CODES[int(p[f'resize{n}_mode'])]), size, step),
            )

        return f'resize{n}', out

    def noised(n):
        def out(x):
            gray = bool(p[f'noise{n}_gray'][i])
            if int(p[f'noise{n}_type']) == 0:
                z = p[f'noise{n}_z32_gray'][None] if gray else p[f'noise{n}_z32_color'][i]
                return gaussian(impl, x, z.astype(np.float32) / 32, p[f'noise{n}_sigma'][i] / 255)
            return poisson(
                impl,
                x,
                p[f'noise{n}_P_{"gray" if gray else "color"}'][i],
                gray,
                p[f'noise{n}_scale'][i],
            )[0]

        return f'noise{n}', out

    def compressed(n):
        return f'jpeg{n}', lambda x: run(
            diffjpeg, impl, x, diffjpeg.Params(np.float64(p[f'jpeg{n}_q'][i]))
        )

    def blurred(n):
        return f'blur{n}', lambda x: correlate(impl, x, p[f'kernel{n}'][i])

    sinc = 'sinc', lambda x: correlate(impl, x, p['sinc_kernel'][i])
    last = (
        (resized(3), sinc, compressed(2))
        if int(p['order']) == 0
        else (compressed(2), resized(3), sinc)
    )
    second = (blurred(2),) if int(p['second_blur']) else ()
    rounded = 'lq', lambda x: run(quantize, impl, x, quantize.Params(np.True_, np.False_))
    return (
        ('usm', lambda x: run(usm, impl, x, usm.Params(np.True_))),
        blurred(1),
        resized(1),
        noised(1),
        compressed(1),
        *second,
        resized(2),
        noised(2),
        *last,
        rounded,
    )


CHECKS = dict(
    kernels=check_kernels,
    blur=check_blur,
    usm=check_usm,
    resize=check_resize,
    noise=check_noise,
    jpeg=check_jpeg,
    chain=check_chain,
)


def table(folder, impls):
    """[(file, impl, row, cases, max error, allowed, ok)], rows in the order of the checks."""
    rows = []
    for file in FILES:
        with np.load(folder / f'{file}.npz') as z:
            g = dict(z)
        for impl in impls:
            found = {}
            for name, error, allowed in CHECKS[file](g, impl):
                found.setdefault(name, []).append((float(error), float(allowed)))
            for name, cases in found.items():
                worst = max(cases)
                rows.append(
                    (file, impl, name, len(cases), *worst, all(e <= a for e, a in cases))
                )  # NaN is not ok
    return rows


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('folder', type=Path, help='folder of the golden vectors')
    parser.add_argument(
        '--impl',
        default='ref,torch',
        help=f'comma-separated, of {", ".join(IMPLS)} (default: %(default)s)',
    )
    args = parser.parse_args()
    impls = args.impl.split(',')
    for impl in impls:
        if impl not in IMPLS:
            parser.error(f'--impl {impl}: there are {", ".join(IMPLS)}')
    for file in FILES:
        if not (args.folder / f'{file}.npz').is_file():
            parser.error(
                f'{args.folder / file}.npz is missing: the folder must hold {", ".join(f + ".npz" for f in FILES)}'
            )
    rows = table(args.folder, impls)
    print(f'{"file":8} {"impl":7} {"check":34} {"cases":>6} {"max error":>10} {"allowed":>8}')
    for file, impl, name, cases, error, allowed, ok in rows:
        print(
            f'{file:8} {impl:7} {name:34} {cases:6} {error:10.2e} {allowed:8.0e} {"ok" if ok else "FAILED"}'
        )
    failed = sum(not r[-1] for r in rows)
    print(f'{len(rows)} rows, {failed} failed')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
