"""Check every degradation, and the whole parity chain, against vectors of the original functions.

    python tools/check_golden.py FOLDER [--impl ref,torch,cuda-shim]

The originals are Real-ESRGAN, BasicSR and OpenCV. FOLDER holds kernels.npz, blur.npz, usm.npz,
resize.npz, noise.npz, jpeg.npz and chain.npz. Prints a table; exits with 1 if any row fails, with 2
if the folder is unusable.

`torch` is the tensor path without OpenCV, `opencv` the same with it; `cuda` are the kernels on a
GPU, `cuda-shim` the kernels on the CPU (slow, needs g++).
"""

import program

import argparse
import contextlib
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from degrade import Op, blur, canvas, diffjpeg, jpeg, kernels, noise, quantize, resize, usm
from degrade.canvas import Canvas
from tools import arguments, cuda_shim

IMPLS = 'ref', 'torch', 'opencv', 'cuda', 'cuda-shim'
FILES = 'kernels', 'blur', 'usm', 'resize', 'noise', 'jpeg', 'chain'
MODES = {'area': resize.AREA, 'bilinear': resize.BILINEAR, 'bicubic': resize.BICUBIC}
CODES = resize.AREA, resize.BILINEAR, resize.BICUBIC  # the vectors' numbers for modes

# A DiffJPEG block with a coefficient nearer to a rounding tie than this may go either way.
MARGIN = 1e-4

# What the errors of the chain's stages may be; of the resizes 3e-5.
STAGE_ERRORS = {
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

Vectors = dict[str, np.ndarray]  # the arrays of one file
Check = tuple[str, float, float]  # name of the row, error, what is allowed
Launch = Callable[[Canvas, torch.Tensor], Canvas]


class Row(NamedTuple):
    """One row of the table."""

    file: str
    impl: str
    name: str
    cases: int
    error: float  # of the worst case
    allowed: float
    ok: bool


# ---- one sample through one op, whatever the implementation ----
#
# Images are [3, h, w] float32 here, which is how the vectors hold them.


def run(op: Op[Any], impl: str, x: np.ndarray, p: Any) -> np.ndarray:
    """Apply an operation with Params of scalars to one image."""
    if impl == 'ref':
        return op.run_ref(_hwc(x), p).transpose(2, 0, 1)
    batch = _batched(p)
    if impl.startswith('cuda'):
        return kernel(op, impl, x, batch, lambda c, r: op.run_cuda(c, batch, r))
    c = op.run_torch(canvas.of(_tensor(x)), batch, impl == 'opencv')
    return canvas.unit(c.pix)[0].numpy()


def kernel(op: Op[Any], impl: str, x: np.ndarray, p: Any, apply: Launch) -> np.ndarray:
    """Send one image through kernels.

    p:     Params of [1] arrays
    apply: called with the Canvas and the record of p, both on the device
    """
    device = torch.device('cuda' if impl == 'cuda' else 'cpu')
    with cuda_shim.Shim() if impl == 'cuda-shim' else contextlib.nullcontext():
        c = canvas.of(_tensor(x).to(device))
        (r,) = kernels.upload([op.record(p, c.size)], c.pix.device)
        c = apply(c, r)
    h, w = c.size[0]  # of the image, which may lie in a larger canvas
    return canvas.unit(c.pix)[0, :, :h, :w].cpu().numpy()


def _hwc(x: np.ndarray) -> np.ndarray:
    """[3, h, w] -> [h, w, 3] float64, as the references take it."""
    return x.transpose(1, 2, 0).astype(np.float64)


def _tensor(x: np.ndarray) -> torch.Tensor:
    """[3, h, w] -> [1, 3, h, w], channels-last."""
    return torch.from_numpy(x)[None].contiguous(memory_format=torch.channels_last)


def _one(params: Callable[..., Any], *values: Any) -> Any:
    """Params of one sample: scalars where their fields are declared as [B] arrays."""
    return params(*values)


def _batched(p: Any) -> Any:
    """Params of scalars -> Params of [1] arrays."""
    return type(p)(*(np.array([value]) for value in p))


def unit(u8: np.ndarray) -> np.ndarray:
    """[..., h, w, 3] uint8 -> [..., 3, h, w] float32 in [0, 1]."""
    return np.ascontiguousarray(np.moveaxis(u8.astype(np.float32) / np.float32(255), -1, -3))


def _error(y: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(y - expected).max())


# ---- ops with an explicit kernel or field ----


def correlate(impl: str, x: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Correlate x [3, h, w] with an explicit kernel [n, n]."""
    if impl == 'ref':
        return blur.apply_ref(_hwc(x), k).transpose(2, 0, 1)
    if impl.startswith('cuda'):
        # Any kind that the kernel does not take for separable will do.
        p = _batched(_one(blur.Params, blur.ANISO, len(k), 1.0, 1.0, 0.0, 1.0, 1.0))
        taps = torch.from_numpy(np.ascontiguousarray(k, np.float32)).reshape(1, -1)
        return kernel(blur, impl, x, p, lambda c, r: blur.apply_cuda(c, taps.to(c.pix.device), r))
    if impl == 'opencv':
        return blur.apply_opencv(np.ascontiguousarray(x.transpose(1, 2, 0)), k).transpose(2, 0, 1)
    return blur.apply_torch(torch.from_numpy(x)[None], torch.from_numpy(k)[None])[0].numpy()


def gaussian(impl: str, x: np.ndarray, z: np.ndarray, sigma: float) -> np.ndarray:
    """Add sigma z to x [3, h, w]; z [3 or 1, h, w], sigma in image units."""
    if impl == 'ref':
        return noise.gaussian_ref(x.astype(np.float64), z, sigma)
    if impl.startswith('cuda'):
        return noisy(impl, x, z, noise.GAUSSIAN, len(z) == 1, sigma)
    y = noise.gaussian_torch(
        torch.from_numpy(x)[None], torch.from_numpy(z)[None], torch.tensor([sigma]).float()
    )
    return y[0].numpy()


def poisson(
    impl: str, x: np.ndarray, counts: np.ndarray, gray: bool, scale: float
) -> tuple[np.ndarray, int]:
    """Add Poisson noise of explicit counts [3 or 1, h, w] to x [3, h, w].

    Returns the noisy image and the number of its levels, as a power of two.
    """
    if impl == 'ref':
        level, V = noise.level_ref(_hwc(x), gray)
        y = noise.poisson_ref(_hwc(x), counts.transpose(1, 2, 0), level, V, scale)
        return y.transpose(2, 0, 1), V
    if impl.startswith('cuda'):
        return _poisson_cuda(impl, x, counts, gray, scale)
    levels, powers = noise.level_torch(torch.from_numpy(x)[None], torch.tensor([gray]))
    numbers = torch.from_numpy(counts.astype(np.float32))[None]
    amount = torch.tensor([scale]).float()
    out = noise.poisson_torch(torch.from_numpy(x)[None], numbers, levels, powers, amount)
    return out[0].numpy(), int(powers)


def _poisson_cuda(
    impl: str, x: np.ndarray, counts: np.ndarray, gray: bool, scale: float
) -> tuple[np.ndarray, int]:
    occupied = []

    def count_levels(c: Canvas, r: torch.Tensor) -> None:
        occupied.append(noise.occupied_cuda(c, r, 0.0).cpu().numpy())

    y = noisy(impl, x, counts, noise.POISSON, gray, scale, count_levels)
    return y, noise.levels(np.unpackbits(occupied[0].view(np.uint8)).sum())


def noisy(
    impl: str,
    x: np.ndarray,
    field: np.ndarray,
    kind: int,
    gray: bool,
    amount: float,
    before: Callable[[Canvas, torch.Tensor], None] = lambda c, r: None,
) -> np.ndarray:
    """Send one image through the noise kernel with an explicit field [3 or 1, h, w].

    before: called with the Canvas and the record on the device
    """
    zero = np.uint64(0)
    p = noise.Params(*(np.array([v]) for v in (kind, gray, amount, zero, zero, 0)))
    values = _tensor(np.broadcast_to(field.astype(np.float32), x.shape).copy())

    def add(c: Canvas, r: torch.Tensor) -> Canvas:
        before(c, r)
        return noise.run_cuda(c, p, r, values.to(c.pix.device), nudge=0.0)

    return kernel(noise, impl, x, p, add)


# ---- the files ----


def check_kernels(g: Vectors, impl: str) -> Iterator[Check]:
    """Blur kernels of every kind."""
    allowed = 1e-10 if impl == 'ref' else 1e-7
    for kind, name in enumerate(blur.KINDS[:7]):
        for i in range(len(g[f'{name}_size'])):
            p = kernel_params(kind, g[f'{name}_size'][i], g[f'{name}_params'][i])
            if impl == 'ref':
                k = blur.kernel_ref(p)
            elif impl.startswith('cuda'):
                k = made(impl, p)
            else:
                k = blur.kernels(_batched(p))[0].numpy()
            yield f'kernel {name}', _error(k, g[f'{name}_k{i:02d}']), allowed


def kernel_params(kind: int, size: int, row: np.ndarray) -> blur.Params:
    """Parameters of a kernel; the vectors have NaN where a kind has no such parameter."""
    sx, sy, theta, beta, omega = np.nan_to_num(row, nan=1.0)
    if kind in (blur.ISO, blur.GEN_ISO, blur.PLATEAU_ISO):
        sy, theta = sx, 0.0
    return _one(blur.Params, kind, int(size), sx, sy, theta, beta, omega)


def made(impl: str, p: blur.Params) -> np.ndarray:
    """[n, n] kernel as the GPU makes it."""
    values, batch = [], _batched(p)

    def make(c: Canvas, r: torch.Tensor) -> Canvas:
        values.append(blur.kernels_cuda(batch, r).cpu().numpy()[0])
        return c

    kernel(blur, impl, np.zeros((3, 1, 1), np.float32), batch, make)
    n = int(p.taps)
    if p.kind == blur.ISO:  # the kernel of an isotropic Gaussian is stored as its margin
        return np.outer(values[0][:n], values[0][:n])
    return values[0].reshape(n, n)


def _images(g: Vectors) -> Iterator[tuple[str, int, np.ndarray]]:
    """(case, number, image) of the batches in a file."""
    for case in sorted(k[0] for k in g if k.endswith('_img_u8')):
        for i, x in enumerate(unit(g[f'{case}_img_u8'])):
            yield case, i, x


def check_blur(g: Vectors, impl: str) -> Iterator[Check]:
    """Correlations with one kernel per image, or one for all."""
    for case, i, x in _images(g):
        own = g[f'{case}_kernel']
        y = correlate(impl, x, own[min(i, len(own) - 1)])
        yield 'blur filter2D', _error(y, g[f'{case}_filter2D'][i]), 1e-5
        if f'{case}_cv2' in g:
            yield 'blur cv2', _error(y, g[f'{case}_cv2'][i]), 1e-5


def check_usm(g: Vectors, impl: str) -> Iterator[Check]:
    """Sharpening."""
    for case, i, x in _images(g):
        yield (
            'usm',
            _error(run(usm, impl, x, _one(usm.Params, np.True_)), g[f'{case}_usm'][i]),
            1e-4,
        )


def check_resize(g: Vectors, impl: str) -> Iterator[Check]:
    """Resizes by size and by scale, of torch and OpenCV."""
    for case in sorted(k[0] for k in g if k.endswith('_img_u8')):
        x = unit(g[f'{case}_img_u8'])
        for key in g:
            match = re.match(rf'{case}_(torch|cv2)_(scale\d+|size\d+)_(\w+)', key)
            if match:
                family, what, mode = match.groups()
                p = _resize_params(g, key, np.array(x.shape[1:]), family, what, mode)
                name = f'resize {family} {what.rstrip("0123456789")} {mode}'
                yield name, _error(run(resize, impl, x, p), g[key]), 3e-5


def _resize_params(
    g: Vectors, key: str, now: np.ndarray, family: str, what: str, mode: str
) -> resize.Params:
    size = np.array(g[key].shape[1:])
    step = now / size
    if what.startswith('scale') and (size != now).any():
        step = np.full(2, 1 / g['scales'][int(what[5:])])
    code = resize.AREA_CV if (family, mode) == ('cv2', 'area') else MODES[mode]
    return _one(resize.Params, np.int64(code), size, step)


def check_noise(g: Vectors, impl: str) -> Iterator[Check]:
    """Gaussian and Poisson noise, coloured, grey and mixed, and the counts of levels."""
    for i, x in enumerate(unit(g['img_u8'])):
        for kind in 'color', 'gray', 'mixed':
            z = g['z_gray'][None] if g[f'gauss_flag_{kind}'][i] else g['z_color'][i]
            y = gaussian(impl, x, z, g['sigma'][i] / 255)
            yield 'noise gaussian', _error(y, g[f'gauss_out_{kind}'][i]), 1e-6
    yield from _check_poisson(g, impl, 'u8', unit(g['img_u8']))
    yield from _check_poisson(g, impl, 'float', g['poisson_float_img'])
    for i in range(len(g['levels_color'])):
        x = unit(g[f'levels_img{i:02d}_u8'])
        for kind, planes in ('color', 3), ('gray', 1):
            _, V = poisson(impl, x, np.zeros_like(x[:planes]), kind == 'gray', 1.0)
            yield f'noise levels {kind}', abs(V - g[f'vals_{kind}'][i]), 0


def _check_poisson(g: Vectors, impl: str, source: str, images: np.ndarray) -> Iterator[Check]:
    for i, x in enumerate(images):
        for kind in 'color', 'gray', 'mixed':
            gray = kind == 'gray'
            if f'poisson_flag_{kind}' in g:
                gray = bool(g[f'poisson_flag_{kind}'][i])
            counts = g[f'poisson_{source}_P_{"gray" if gray else "color"}'][i]
            y, _ = poisson(impl, x, counts, gray, g['poisson_scale'][i])
            yield 'noise poisson', _error(y, g[f'poisson_{source}_out_{kind}'][i]), 1e-6


def check_jpeg(g: Vectors, impl: str) -> Iterator[Check]:
    """libjpeg, whose 8-bit values must be equal, and DiffJPEG."""
    for key in g:
        match = re.match(r'(\w+?)_cv2_q(\d+)', key)
        if match:
            name, q = match.groups()
            p = _one(jpeg.Params, np.int64(q), np.int64(0))
            y = run(jpeg, impl, unit(g[f'{name}_u8']), p)
            yield 'jpeg cv2', _error(np.rint(y * 255).transpose(1, 2, 0), g[key]), 0
    for case in sorted(k[4] for k in g if re.match(r'diff\w_img_u8', k)):
        for i, x in enumerate(unit(g[f'diff{case}_img_u8'])):
            y = _compressed(impl, x, g[f'diff{case}_q'][i])
            error = safe_error(y, g[f'diff{case}_out'][i], g[f'diff{case}_margin'][i])
            yield 'jpeg DiffJPEG', error, 1e-5


def _compressed(impl: str, x: np.ndarray, quality: float) -> np.ndarray:
    return run(diffjpeg, impl, x, _one(diffjpeg.Params, np.float64(quality)))


def safe_error(y: np.ndarray, expected: np.ndarray, margin: np.ndarray) -> float:
    """Largest error over the 16x16 blocks that are not on a rounding tie."""
    safe = (margin >= MARGIN).repeat(16, 0).repeat(16, 1)[: y.shape[1], : y.shape[2]]
    return float(np.abs((y - expected) * safe).max())


# ---- the chain ----


def check_chain(g: Vectors, impl: str) -> Iterator[Check]:
    """Every stage of every plan, and then the plans end to end."""
    wrong = []
    for plan in range(int(g['n_plans'])):
        p = {k[len(f'p{plan}_') :]: g[k] for k in g if k.startswith(f'p{plan}_')}
        for i in range(len(g['gt_u8'])):
            yield from chain_stages(g, p, i, impl)
            wrong.append(np.abs(chain(g, p, i, impl) - p['lq'][i]) * 255)

    # End to end, one float rounding can tip an 8-bit level, which Poisson noise and JPEG spread
    # over a block: a share of all values may differ.
    off = np.array(wrong)
    yield 'chain lq, share off', float((off > 0.5).mean()), 0.005
    yield 'chain lq, share off by > 1/255', float((off > 1.5).mean()), 0.005


def chain_stages(g: Vectors, p: Vectors, i: int, impl: str) -> Iterator[Check]:
    """Feed every stage with what is recorded of the stage before it."""
    before = unit(g['gt_u8'])[i]
    for name, apply in Plan(p, i, impl).stages():
        expected = g['gt_usm'][i] if name == 'usm' else p[name][i]
        y = apply(before)
        if name.startswith('jpeg'):
            error = safe_error(y, expected, p[f'{name}_margin'][i])
        else:
            error = _error(y, expected)
        yield f'chain {name}', error, STAGE_ERRORS.get(name, 3e-5)
        before = expected


def chain(g: Vectors, p: Vectors, i: int, impl: str) -> np.ndarray:
    """From the ground truth to the LQ image."""
    x = unit(g['gt_u8'])[i]
    for _, apply in Plan(p, i, impl).stages():
        x = np.ascontiguousarray(apply(x), np.float32)
    return x


class Plan(NamedTuple):
    """Recorded draws of one chain, for one of its images."""

    p: Vectors
    i: int
    impl: str

    def stages(self) -> Iterator[tuple[str, Callable[[np.ndarray], np.ndarray]]]:
        """(name, function) of every stage, in this plan's order."""
        yield 'usm', lambda x: run(usm, self.impl, x, _one(usm.Params, np.True_))
        yield 'blur1', lambda x: self.blurred('kernel1', x)
        yield 'resize1', lambda x: self.resized(1, x)
        yield 'noise1', lambda x: self.noised(1, x)
        yield 'jpeg1', lambda x: self.compressed(1, x)
        if int(self.p['second_blur']):
            yield 'blur2', lambda x: self.blurred('kernel2', x)
        yield 'resize2', lambda x: self.resized(2, x)
        yield 'noise2', lambda x: self.noised(2, x)

        # A coin: JPEG after the last resize and sinc, or before them.
        last = int(self.p['order']) == 0
        if not last:
            yield 'jpeg2', lambda x: self.compressed(2, x)
        yield 'resize3', lambda x: self.resized(3, x)
        yield 'sinc', lambda x: self.blurred('sinc_kernel', x)
        if last:
            yield 'jpeg2', lambda x: self.compressed(2, x)
        yield (
            'lq',
            lambda x: run(quantize, self.impl, x, _one(quantize.Params, np.True_, np.False_)),
        )

    def blurred(self, kernels: str, x: np.ndarray) -> np.ndarray:
        """Correlate with the kernel recorded under this name."""
        return correlate(self.impl, x, self.p[kernels][self.i])

    def resized(self, n: int, x: np.ndarray) -> np.ndarray:
        """Resize to the recorded size; the first resize maps coordinates by its scale."""
        size = np.array(self.p[f'resize{n}'].shape[-2:])
        step = np.array(x.shape[1:]) / size
        if n == 1 and (size != x.shape[1:]).any():
            step = np.full(2, 1 / float(self.p['resize1_scale']))
        mode = np.int64(CODES[int(self.p[f'resize{n}_mode'])])
        return run(resize, self.impl, x, _one(resize.Params, mode, size, step))

    def noised(self, n: int, x: np.ndarray) -> np.ndarray:
        """Add the recorded numbers or counts."""
        gray = bool(self.p[f'noise{n}_gray'][self.i])
        if int(self.p[f'noise{n}_type']) == 0:
            # The vectors hold the normal numbers in 32nds.
            numbers = self.p[f'noise{n}_z32_{"gray" if gray else "color"}']
            z = (numbers[None] if gray else numbers[self.i]).astype(np.float32) / 32
            return gaussian(self.impl, x, z, self.p[f'noise{n}_sigma'][self.i] / 255)
        counts = self.p[f'noise{n}_P_{"gray" if gray else "color"}'][self.i]
        return poisson(self.impl, x, counts, gray, self.p[f'noise{n}_scale'][self.i])[0]

    def compressed(self, n: int, x: np.ndarray) -> np.ndarray:
        """Compress at the recorded quality."""
        return _compressed(self.impl, x, self.p[f'jpeg{n}_q'][self.i])


# ---- the table ----

CHECKS: dict[str, Callable[[Vectors, str], Iterator[Check]]] = {
    'kernels': check_kernels,
    'blur': check_blur,
    'usm': check_usm,
    'resize': check_resize,
    'noise': check_noise,
    'jpeg': check_jpeg,
    'chain': check_chain,
}


def table(folder: Path, impls: tuple[str, ...] | list[str]) -> list[Row]:
    """Rows in the order of the checks."""
    rows = []
    for file in FILES:
        with np.load(folder / f'{file}.npz') as z:
            g = dict(z)
        for impl in impls:
            by_name: dict[str, list[tuple[float, float]]] = {}
            for name, error, allowed in CHECKS[file](g, impl):
                by_name.setdefault(name, []).append((float(error), float(allowed)))
            for name, cases in by_name.items():
                # Written so that NaN is not ok.
                ok = all(error <= allowed for error, allowed in cases)
                rows.append(Row(file, impl, name, len(cases), *max(cases), ok))
    return rows


@program.entry
def main(argv: Sequence[str] | None = None) -> int:
    """Print the table and return the exit status."""
    folder, impls = _arguments(argv)
    rows = table(folder, impls)
    print(f'{"file":8} {"impl":7} {"check":34} {"cases":>6} {"max error":>10} {"allowed":>8}')
    for file, impl, name, cases, error, allowed, ok in rows:
        verdict = 'ok' if ok else 'FAILED'
        print(f'{file:8} {impl:7} {name:34} {cases:6} {error:10.2e} {allowed:8.0e} {verdict}')
    failed = sum(not row.ok for row in rows)
    print(f'{len(rows)} rows, {failed} failed')
    return 1 if failed else 0


def parser() -> argparse.ArgumentParser:
    """Flags of check_golden.py."""
    p = arguments.described(__doc__)
    p.add_argument('folder', type=Path, help='folder of the golden vectors')
    p.add_argument(
        '--impl',
        default='ref,torch',
        help=f'comma-separated, of {", ".join(IMPLS)} (default: %(default)s)',
    )
    return p


def _arguments(argv: Sequence[str] | None) -> tuple[Path, list[str]]:
    """Folder and implementations, checked."""
    flags = parser()
    args = flags.parse_args(argv)
    impls = args.impl.split(',')
    for impl in impls:
        if impl not in IMPLS:
            flags.error(f'--impl {impl}: there are {", ".join(IMPLS)}')
    names = [f'{file}.npz' for file in FILES]
    for name in names:
        if not (args.folder / name).is_file():
            flags.error(f'{args.folder / name} is missing: the folder must hold {", ".join(names)}')
    return args.folder, impls


if __name__ == '__main__':
    sys.exit(main())
