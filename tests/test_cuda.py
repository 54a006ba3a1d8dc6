"""The CUDA kernels without a GPU.

Every one compiles for every architecture, and its body runs on the CPU: against the reference,
under sanitizers, and mutated.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import cupy_stand_in
import kernel_cases
import numpy as np
import pytest
import torch

import degrade
import synthetic
from dali_pipes import png
from degrade import kernels, registers
from degrade.draw import Draw
from errors import KernelError
from tools import cuda_shim

ARCHITECTURES = '75', '86', '90', '120'  # python -m degrade.registers knows them all
ORDERS = 4  # forwards, backwards and two at random; kernel_cases.py tries more
CASES = {case.name: case for case in kernel_cases.cases()}

# (file, kernel) of the degradation; test_png.py runs the others.
OPS = {
    (file, name)
    for file in kernels.FILES
    for name, _ in cuda_shim.KERNEL.findall((kernels.FOLDER / file).read_text())
}
KERNELS = OPS | {
    (png.KERNELS.name, name) for name, _ in cuda_shim.KERNEL.findall(png.KERNELS.read_text())
}
needs_gxx = pytest.mark.skipif(
    not shutil.which('g++'), reason='g++ is not installed: it builds the kernels for the CPU'
)


def test_all_files_are_listed():
    assert {p.name for p in kernels.FOLDER.glob('*.cu')} == set(kernels.FILES)
    assert len(KERNELS) >= 15


def test_every_kernel_compiles(record_property):
    """Through NVRTC, which needs no GPU; no register is spilled."""
    pytest.importorskip('cupy')
    rows = list(registers.report([*kernels.FILES, png.KERNELS], ARCHITECTURES))
    assert {(file, name) for file, name, *_ in rows} == KERNELS
    assert {row[2] for row in rows} == set(ARCHITECTURES) <= set(registers.ARCHITECTURES)
    assert len(rows) == len(KERNELS) * len(ARCHITECTURES)
    assert all(shared <= 48 << 10 and spilled == 0 for *_, shared, spilled in rows), rows
    architectures = len(ARCHITECTURES)
    summary = f'{len(rows)} kernels compiled ({len(KERNELS)} for {architectures} architectures)'
    record_property('summary', summary)


def test_a_faulty_kernel_is_refused_with_the_compilers_words(monkeypatch):
    pytest.importorskip('cupy')
    monkeypatch.setattr(
        kernels, 'source', lambda file: 'extern "C" __global__ void broken() { missing(); }'
    )
    with pytest.raises(
        KernelError, match=r'(?s)bilateral.cu does not compile for sm_75.*missing.*undefined'
    ):
        list(registers.report())


@needs_gxx
@pytest.mark.parametrize('file', kernels.FILES)
def test_records_have_the_layout_of_the_structs(file):
    cases = [c for c in CASES.values() if c.name.startswith(file[:-3])]
    assert cases, f'no case in kernel_cases.py has a name that begins with {file[:-3]}'
    case = cases[0]
    record = case.op.record(case.params, np.array([i.shape[:2] for i in case.images]))
    struct = Path(file).stem.capitalize()
    assert cuda_shim.Shim().sizeof(file, struct) == record.dtype.itemsize
    text = (kernels.FOLDER / file).read_text()
    fields = re.search(rf'struct {struct} {{([^}}]*)}}', text)[1]
    declared = [
        name.split()[-1] for part in fields.split(';') for name in part.split(',') if name.split()
    ]
    assert declared == list(record.dtype.names)


@needs_gxx
@pytest.mark.parametrize('name', CASES)
def test_kernels_are_the_reference(name):
    """In every order of blocks and threads: forwards, backwards, and at random."""
    with cuda_shim.Shim():
        images = kernel_cases.run_kernels(CASES[name])
    for order in range(1, ORDERS):
        with cuda_shim.Shim(order):
            again = kernel_cases.run_kernels(CASES[name])
        assert all((a == b).all() for a, b in zip(images, again, strict=True)), f'order {order}'
    error, allowed = kernel_cases.errors(CASES[name], images)
    assert error <= allowed


@needs_gxx
@pytest.mark.parametrize(
    'threads, body, fault',
    [
        (64, '__syncthreads(); y[t] = t;', None),
        (64, 'if (t < 40) return; __syncthreads(); y[t] = t;', None),  # the ended are not awaited
        (
            64,
            'if (t < 32)\n __syncthreads();\n else\n __syncthreads();',
            'some threads wait at line 3, others at 5',
        ),
        (64, '__syncwarp();', 'line 2 waits for a part of a warp'),
        (32, '__syncwarp(); y[t] = t;', None),
        (32, '__syncwarp(0xffff);', 'line 2 waits for a part of a warp'),
        (32, 'if (t == 9) return;\n __syncwarp();', 'line 3: lane 9 has ended'),
        (32, 'y[t] = __shfl_up_sync(1u << t, t, 1);', 'line 2 waits for a part of a warp'),
    ],
)
def test_threads_that_do_not_meet_are_an_error(threads, body, fault, monkeypatch):
    """On a GPU they would wait for ever, or go on with what is not there."""
    text = (
        '#line 1\nextern "C" __global__ void mine(float* y)\n{ const int t = threadIdx.x; BODY }\n'
    )
    monkeypatch.setattr(kernels, 'source', lambda file: text.replace('BODY', body))
    shim, y = cuda_shim.Shim(), torch.full((threads,), -1.0)
    if fault:
        with pytest.raises(AssertionError, match=f'mine.cu mine: {fault}'):
            shim.launch('mine.cu', 'mine', (1,), (threads,), y)
    else:
        shim.launch('mine.cu', 'mine', (1,), (threads,), y)
        assert y[40:].tolist() == list(range(40, threads))


@needs_gxx
def test_shared_memory_begins_with_nothing(monkeypatch):
    """What the block before has left there is not what a GPU would have."""
    text = """extern "C" __global__ void mine(float* y)
    {
    __shared__ float kept[2][3], one;
        y[blockIdx.x] = kept[1][2] + one;
        __syncthreads();
        kept[1][2] = one = 1;
    }
    """
    monkeypatch.setattr(kernels, 'source', lambda file: text)
    y = torch.zeros(3)
    cuda_shim.Shim().launch('mine.cu', 'mine', (3,), (32,), y)
    assert y.isnan().all()


@needs_gxx
def test_random_orders_repeat_and_differ(monkeypatch):
    text = """extern "C" __global__ void mine(int* n, int* y)
    { y[4 * blockIdx.x + threadIdx.x] = (*n)++; }
    """
    monkeypatch.setattr(kernels, 'source', lambda file: text)

    def order(number):
        n, y = torch.zeros(1, dtype=torch.int32), torch.zeros(16, dtype=torch.int32)
        cuda_shim.Shim(number).launch('mine.cu', 'mine', (4,), (4,), n, y)
        return tuple(y.tolist())

    assert order(0) == tuple(range(16)) and order(1) == tuple(range(15, -1, -1))
    assert order(7) == order(7) and len({order(n) for n in range(20)}) == 20


@needs_gxx
@pytest.mark.parametrize(
    'recipe',
    # Without the parts of hifacegan.
    [name for name in degrade.RECIPES if not name.startswith('hifacegan_')],
)
def test_recipes_are_the_reference(recipe):
    """The whole chain on one ragged batch.

    One rounding may tip a pixel before noise or JPEG, which spread it.
    """
    x = torch.from_numpy(np.stack([synthetic.face(i, 64).image for i in range(6)])).permute(
        0, 3, 1, 2
    )
    recipe = degrade.recipe(recipe)
    params = degrade.sample(recipe, Draw(5, np.arange(6), tied=recipe.tied, batch=6), (64, 64))
    with cuda_shim.Shim():
        y = degrade.degrade(x, recipe, params, 'cuda')
    off = (y - degrade.degrade(x, recipe, params, 'ref')).abs() * 255
    assert y.shape == (6, 3, 64 // recipe.scale, 64 // recipe.scale)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert (off < 1.01).float().mean() >= 0.99 and (off.amax((1, 2, 3)) < 1.01).sum() >= 5


@needs_gxx
def test_sanitizers(record_property):
    """AddressSanitizer and UndefinedBehaviorSanitizer find nothing while every kernel runs.

    In a process of its own, since they must be loaded first. One order of the threads: what
    others change, the comparison with the reference finds.
    """
    done = _sanitized(kernel_cases.__file__, '--orders', '1')
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert done.stdout == f'{len(OPS)} kernels executed in 1 order under the sanitizers\n'
    record_property('summary', done.stdout.strip())


@needs_gxx
@pytest.mark.parametrize(
    'old, new, finding',
    [
        ('(size_t)b * H', '(size_t)(b + 1) * H', 'AddressSanitizer: heap-buffer-overflow'),
        (
            't = threadIdx.x;',
            't = threadIdx.x, u = 1 << (32 + t);',
            'runtime error: shift exponent',
        ),
    ],
)
def test_sanitizers_can_find(old, new, finding):
    """A read past the end of a canvas, and an undefined shift, planted in the source."""
    folders = [str(Path(kernel_cases.__file__).parent), str(kernels.FOLDER.parent)]
    code = (
        f'import sys; sys.path[:0] = {folders!r}\n'
        'import kernel_cases\nfrom tools import cuda_shim\n'
        'case = next(c for c in kernel_cases.cases() if c.name == "usm floats")\n'
        f'edit = lambda file, text: text.replace(*{(old, new)!r})\n'
        'with cuda_shim.Shim(sanitize=True, edit=edit):\n'
        '    kernel_cases.run_kernels(case)\n'
    )
    done = _sanitized('-c', code)
    assert done.returncode != 0 and finding in done.stderr, done.stderr[-4000:]


def _sanitized(*command):
    return subprocess.run(
        [sys.executable, *command],
        env=cuda_shim.sanitized(),
        capture_output=True,
        text=True,
        timeout=600,
    )


# (file, kernel, what to change, into what): a border off by one, axes swapped, a barrier removed.
# common.cuh belongs to every file.
EIGHT = 'for (int i = 0; i < 8; i++) '
MUTANTS = [
    (
        'blur',
        'make',
        'value(p, i % n - n / 2, i / n - n / 2)',
        'value(p, i / n - n / 2, i % n - n / 2)',
    ),
    ('blur', 'make', '        __syncthreads();\n        if (t < half)', '        if (t < half)'),
    ('blur', 'make', '2.5e-7 * sums[0]', '1e-3 * sums[0]'),
    ('blur', 'make', 'max(r - first, last - r)', 'r - first - 1'),
    ('blur', 'blur21', 'min(i, period - i)', 'min(i, period - i + 1)'),
    ('blur', 'blur21', 'k[(s.first + u) * columns + v]', 'k[v * columns + s.first + u]'),
    ('blur', 'blur21', '        __syncthreads();\n\n        if (p.kind', '        if (p.kind'),
    ('blur', 'blur21', 'column + n - 1 - 2 * v', 'column + n - 2 * v'),
    ('blur', 'blur21', '(above - r) * PITCH + left', '(left - r) * PITCH + left'),
    (
        'blur',
        'blur41',
        '                __syncthreads();\n                for',
        '                for',
    ),
    (
        'blur',
        'blur41',
        '            }\n            __syncthreads();\n        }\n        if (px',
        '            }\n        }\n        if (px',
    ),
    (
        'bilateral',
        'bilateral',
        'reflect(y0 + i / across - r, p.h)',
        'min(y0 + i / across, p.h - 1)',
    ),
    ('bilateral', 'bilateral', '    __syncthreads();\n    if (px >= p.w', '    if (px >= p.w'),
    ('bilateral', 'bilateral', 'u * u + v * v > r * r', 'u * u + v * v >= r * r'),
    ('bilateral', 'bilateral', 'fabsf(other[2] - m2)', 'fabsf(other[2] - m1)'),
    (
        'median',
        'median',
        'clamp(y0 + i / across - r, 0, p.h - 1)',
        'clamp(y0 + i / across - r, 0, p.h)',
    ),
    ('median', 'median', '    __syncthreads();\n    if (px >= p.w', '    if (px >= p.w'),
    ('median', 'median', '> n * n / 2', '>= n * n / 2'),
    ('usm', 'across', 'min(i, period - i)', 'min(i, period - i - 1)'),
    ('usm', 'across', '    __syncthreads();\n\n    float acc', '    float acc'),
    ('usm', 'across', '    __syncthreads();\n\n    // In rows', '    // In rows'),
    ('usm', 'across', '    __syncthreads();\n    float* to', '    float* to'),
    ('usm', 'down', 'reflect(y0 + i - R, p.h)', 'reflect(y0 + i - R, p.w)'),
    ('usm', 'down', '        __syncthreads();\n        slide(acc', '        slide(acc'),
    ('usm', 'down', '* 255 > 10', '* 255 > 12'),
    ('resize', 'weights', 'n = axis ? p.w : p.h', 'n = axis ? p.h : p.w'),
    ('resize', 'weights', 'return (int)floor(x) - 1;', 'return (int)floor(x);'),
    ('resize', 'weights', '(int)whole & 1 ? -x : x', 'x'),
    ('resize', 'weights', 'mode == LANCZOS ? 3 : 2', '2'),
    ('resize', 'resize', 'clamp(left + j, 0, w - 1)', 'clamp(left + j, 0, w)'),
    ('resize', 'resize', 'last = min(y0 + 31, p.H - 1)', 'last = min(y0 + 30, p.H - 1)'),
    ('resize', 'resize', '        __syncthreads();\n        #pragma', '        #pragma'),
    ('resize', 'resize', '        __syncthreads();\n    }\n    if (x0', '    }\n    if (x0'),
    ('resize', 'resize', 'max(row - j0, 0)', 'max(row - j0, 1)'),
    ('noise', 'occupied', '    __syncthreads();\n    if (t < 8 && mine', '    if (t < 8 && mine'),
    ('noise', 'occupied', 'j < 3 * p.w; j += 256', 'j < 3 * p.w - 3; j += 256'),
    ('noise', 'add', 'first / 32 + t, p.number', 'first / 32 + t / 2, p.number'),
    ('noise', 'add', 'at += 3 * (W - p.w)', 'at += 3 * (W - p.w) + 1'),
    ('noise', 'add', '-table[65535 - r16]', '-table[65534 - r16]'),
    ('noise', 'add', '    __syncthreads();\n\n    const void* table', '    const void* table'),
    ('noise', 'add', 'numbers[v / 4 % 4][v / 16])[v % 4]', 'numbers[v % 4][v / 16])[v / 4 % 4]'),
    (
        'jpeg',
        'planes',
        '__syncthreads();\n\n    int v[8];\n    code(blocks[k], steps[part',
        'int v[8];\n    code(blocks[k], steps[part',
    ),
    (
        'jpeg',
        'planes',
        EIGHT + 'block[line][i] = descale(v[i], 11);\n    __syncthreads();',
        EIGHT + 'block[line][i] = descale(v[i], 11);',
    ),
    (
        'jpeg',
        'planes',
        EIGHT + 'block[i][line] = descale(v[i], 11);\n    __syncthreads();',
        EIGHT + 'block[i][line] = descale(v[i], 11);',
    ),
    (
        'jpeg',
        'finer',
        '__syncthreads();\n\n    int v[8];\n    code(blocks[k], steps[k',
        'int v[8];\n    code(blocks[k], steps[k',
    ),
    ('jpeg', 'finer', 'min(top + y, p.h - 1)', 'min(top + y, p.h)'),
    ('jpeg', 'finer', 'up = x / 2 & 1;\n        blocks[half]', 'up = 1;\n        blocks[half]'),
    ('jpeg', 'finer', 'p.sampling == S444 ? 8 : 4', '8'),
    ('jpeg', 'colour', 'row[min(nx + 1, last)] + 2', 'row[min(nx + 1, last)] + 1'),
    ('jpeg', 'colour', 'copies = last < 2', 'copies = last < 3'),
    ('jpeg', 'planes', 'beyond = top + y > 2 * last', 'beyond = false'),
    ('jpeg', 'planes', 'min((top + y) / 2, last)', 'min((top + y) / 2, last + 1)'),
    ('jpeg', 'planes', '8 * i + line];', '8 * line + i];'),
    ('jpeg', 'planes', '0xffffffffu / eight + 1', '0xffffffffu / eight'),
    ('jpeg', 'colour', 'min(ny + 1, last_y)', 'min(ny + 1, last_y + 1)'),
    ('jpeg', 'colour', 's[2] + 7', 's[2] + 8'),
    ('quantize', 'quantize', 'unit(v), 255.0f', 'unit(v), 254.0f'),
    ('quantize', 'quantize', 'px >= p.w || py >= p.h', 'px >= p.w - 1 || py >= p.h'),
]


def test_every_kernel_has_mutants():
    assert {(f'{file}.cu', kernel) for file, kernel, *_ in MUTANTS} == OPS


@needs_gxx
@pytest.mark.parametrize(
    'file, kernel, old, new', MUTANTS, ids=[f'{f}-{k}-{i}' for i, (f, k, *_) in enumerate(MUTANTS)]
)
def test_mutants_fail(file, kernel, old, new):
    text = kernels.source(f'{file}.cu')
    assert text.count(old) == 1, 'the mutation no longer fits the source'

    def edit(name, source):
        return source.replace(old, new) if name == f'{file}.cu' else source

    for order in range(4):
        for case in CASES.values():
            if case.name.startswith(file):
                with cuda_shim.Shim(order, edit=edit):
                    error, allowed = kernel_cases.errors(case, kernel_cases.run_kernels(case))
                if not error <= allowed:
                    return
    pytest.fail('nobody noticed')


def test_cuda_on_a_cpu_tensor_is_an_error():
    recipe = degrade.recipe('bicubic')
    x = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    with pytest.raises(
        ValueError,
        match="impl='cuda' needs tensors on a CUDA GPU, but this one is on cpu: .* impl='torch'",
    ):
        degrade.degrade(x, recipe, degrade.sample(recipe, Draw(0, np.arange(1)), (64, 64)), 'cuda')


@pytest.mark.parametrize(
    'what, message',
    [
        ('old card', 'compute capability 7.0; the kernels need 7.5'),
        ('no compiler', r'does not find NVRTC.*libnvrtc.*pip install -e .\[cuda1[23]\]'),
        ('no CuPy', r'needs CuPy .*pip install -e .\[cuda1[23]\]'),
        ('no place', r'cannot keep compiled kernels .*set CUPY_CACHE_DIR to a writable folder'),
        (
            'old driver',
            r'driver is for CUDA 12.9, CuPy compiles for CUDA 13: pip install -e .\[cuda12\]',
        ),
        (
            'other torch',
            'torch is built for CUDA 12.8, CuPy for CUDA 13.0: a process must not mix them',
        ),
    ],
)
def test_a_machine_that_cannot_is_told_why(what, message, monkeypatch):
    cupy_stand_in.spoil(what, monkeypatch)
    with pytest.raises(KernelError, match='(?s)' + message):
        kernels._checked(0)


def test_headers_that_are_missing_are_named(monkeypatch):
    """CuPy adds CUDA's headers to every kernel, and says so where there are none."""
    cupy = pytest.importorskip('cupy')

    class Module:
        def __init__(self, **options):
            pass

        def compile(self):
            raise RuntimeError('Failed to find CUDA headers.')

    monkeypatch.setattr(cupy, 'RawModule', Module)
    kernels._module.cache_clear()
    with pytest.raises(KernelError, match='blur.cu cannot be compiled .*Failed to find CUDA head'):
        kernels._module('blur.cu', 0)


@needs_gxx
def test_too_many_taps():
    case = CASES['blur one']
    with (
        cuda_shim.Shim(),
        pytest.raises(KernelError, match="a blur of 43 taps: impl='cuda' takes up to 41"),
    ):
        kernel_cases.run_kernels(case._replace(params=case.params._replace(taps=np.array([43]))))


@needs_gxx
def test_out_of_memory_names_the_batch_that_fits(monkeypatch):
    recipe, x = degrade.recipe('bicubic'), torch.zeros(16, 3, 64, 64, dtype=torch.uint8)
    params = degrade.sample(recipe, Draw(0, np.arange(16)), (64, 64))
    monkeypatch.setattr(
        kernels,
        'blank',
        lambda *a: (_ for _ in ()).throw(torch.OutOfMemoryError('CUDA out of memory')),
    )
    monkeypatch.setattr(torch.cuda, 'memory_reserved', lambda device: 10**6)
    monkeypatch.setattr(torch.cuda, 'memory_allocated', lambda device: 0)
    monkeypatch.setattr(torch.cuda, 'mem_get_info', lambda device: (10**6, 0))
    message = (
        r'degrading 16 images of 64x64: .* A --batch of 10 would fit'  # 2 MB / (4 * 12 * 64 * 64)
    )
    with cuda_shim.Shim(), pytest.raises(KernelError, match=message):
        degrade.degrade(x, recipe, params, 'cuda')


# ---- on the way to the driver ----

# A case of every kernel.
LAUNCHED = [*(f'{op} bytes' for op in ('blur', 'median', 'usm', 'jpeg', 'resize')), 'quantize']
LAUNCHED += ['noise bytes 256', 'noise floats tables', 'blur 41']


@needs_gxx
@pytest.mark.parametrize('name', LAUNCHED)
def test_a_launch_gives_what_the_kernels_give(name):
    case = CASES[name]
    with cuda_shim.Shim():
        expected = kernel_cases.run_kernels(case)
    with cupy_stand_in.Cupy() as cupy:
        found = kernel_cases.run_kernels(case)
    assert cupy.launched and all(launch.stream == cupy_stand_in.STREAM for launch in cupy.launched)
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(expected, found, strict=True))


@needs_gxx
def test_a_kernel_is_compiled_once():
    case = CASES['jpeg bytes']
    with cupy_stand_in.Cupy() as cupy:
        kernel_cases.run_kernels(case)
        first = len(cupy.launched)
        before = kernels._module.cache_info().misses
        kernel_cases.run_kernels(case)
        assert kernels._module.cache_info().misses == before
        assert len(cupy.launched) == 2 * first


@needs_gxx
@pytest.mark.parametrize(
    'grid, block', [((1,), (2048,)), ((1, 70_000), (32,)), ((0,), (32,)), ((1,), (32, 64))]
)
def test_what_the_driver_refuses_is_refused(grid, block):
    x = torch.zeros(8)
    with cupy_stand_in.Cupy(), pytest.raises(AssertionError):
        kernels.launch('quantize.cu', 'quantize', grid, block, x, x, np.int64(8))


@needs_gxx
@pytest.mark.parametrize('wrong', [np.int64(4), np.float64(4), np.float32(4)])
def test_an_argument_of_another_type_is_noticed(wrong):
    """Eight bytes where the kernel reads four."""
    seen = []
    with cupy_stand_in.Cupy(), pytest.MonkeyPatch.context() as patch:
        launch = kernels.launch

        def with_wrong(file, name, grid, block, *args):
            swapped = [wrong if isinstance(a, np.int32) and not seen else a for a in args]
            seen.append(name)
            launch(file, name, grid, block, *swapped)

        patch.setattr(kernels, 'launch', with_wrong)
        with pytest.raises(AssertionError, match='is given as'):
            kernel_cases.run_kernels(CASES['jpeg bytes'])
