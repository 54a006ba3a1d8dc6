"""CUDA kernels: a .cu file compiled once per GPU by NVRTC (through CuPy, which keeps the result on disk), launched on torch's current stream and on torch's memory.

python -m degrade.kernels        registers, shared memory and spills of every kernel on every architecture; needs no GPU
"""

import importlib.util
import re
import sys
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from errors import KernelError

FOLDER = Path(__file__).parent
FILES = {
    **dict.fromkeys(
        ('blur.cu', 'median.cu', 'resize.cu', 'noise.cu', 'jpeg.cu', 'usm.cu', 'quantize.cu'),
        FOLDER,
    ),
    'png.cu': FOLDER.parent / 'dali_pipes',
}  # and where they are
ARCHITECTURES = (
    '75',
    '80',
    '86',
    '89',
    '90',
    '100',
    '120',
)  # Turing to Blackwell; older GPUs are refused
OPTIONS = ('--std=c++17',)


def source(file):
    """Text of a .cu file with what all of them share before it; error messages count lines in the file itself."""
    return (
        (FOLDER / 'common.cuh').read_text()
        + f'#line 1 "{file}"\n'
        + (FILES[file] / file).read_text()
    )


def launch(file, name, grid, block, *args):
    """Run kernel `name` of a file for grid x block threads on torch's current stream of the GPU that the first tensor is on; returns at once.

    args: tensors (a pointer to their first value), None (a null pointer), or NumPy scalars of the very type the kernel declares
    """
    import cupy

    device = next(a for a in args if isinstance(a, torch.Tensor)).device
    with cupy.cuda.Device(device.index), _stream(torch.cuda.current_stream(device).cuda_stream):
        _kernel(file, name, device.index)(grid, block, tuple(map(_argument, args)))


def _argument(a):
    if isinstance(a, torch.Tensor):
        return np.uint64(
            a.data_ptr()
        )  # torch and CuPy share the address space: no copy, no conversion
    return np.uint64(0) if a is None else a


class _Torch:
    """A stream of torch's by its handle, in the CUDA stream protocol."""

    def __init__(self, handle):
        self.handle = handle

    def __cuda_stream__(self):
        return 0, self.handle


@lru_cache(maxsize=None)
def _stream(handle):
    import cupy

    return cupy.cuda.Stream.from_external(_Torch(handle))


@lru_cache(maxsize=None)
def _kernel(file, name, index):
    return _module(file, index).get_function(name)


@lru_cache(maxsize=None)
def _module(file, index):
    """Compiled file on one GPU. Raises KernelError with the compiler's log."""
    import cupy

    module = cupy.RawModule(code=source(file), options=OPTIONS, backend='nvrtc')
    try:
        module.compile()
    except cupy.cuda.compiler.CompileException as e:
        raise KernelError(f'{file} does not compile for this GPU (cuda:{index}):\n{e}') from e
    return module


def need_gpu(x):
    """Raise ValueError for a tensor that is not on a CUDA GPU, KernelError where the kernels cannot run on its GPU."""
    if x.device.type != 'cuda':
        raise ValueError(
            f"impl='cuda' needs tensors on a CUDA GPU, this one is on {x.device}: move it there, or take impl='torch'"
        )
    _checked(x.device.index)


@lru_cache(maxsize=None)
def _checked(index):
    extra = 'cuda13' if (torch.version.cuda or '13').startswith('13') else 'cuda12'
    remedy = f'pip install -e .[{extra}]'
    major, minor = torch.cuda.get_device_capability(index)
    if (major, minor) < (7, 5):
        raise KernelError(
            f'{torch.cuda.get_device_name(index)} has compute capability {major}.{minor}; the kernels need 7.5 (Turing, 2018) or newer'
        )
    try:
        import cupy
        from cupy.cuda import nvrtc

        version = nvrtc.getVersion()
    except ImportError as e:
        raise KernelError(f'the GPU degradation needs CuPy ({e}): {remedy}') from e
    except (RuntimeError, OSError) as e:  # CuPy loads the compiler when it is first asked for it
        raise KernelError(
            f'CuPy {cupy.__version__} does not find NVRTC, which compiles the kernels ({e}): {remedy}'
        ) from e
    driver = cupy.cuda.runtime.driverGetVersion()
    if driver < 1000 * version[0]:
        raise KernelError(
            f'the driver is for CUDA {driver // 1000}.{driver % 1000 // 10}, CuPy compiles for CUDA {version[0]}: '
            'pip install -e .[cuda12] in a fresh environment, or update the driver'
        )
    if torch.version.cuda and int(torch.version.cuda.split('.')[0]) != version[0]:
        raise KernelError(
            f'torch is built for CUDA {torch.version.cuda}, CuPy for CUDA {version[0]}.{version[1]}: a process must not mix them; {remedy} in a fresh environment'
        )


def upload(records, device):
    """Structured arrays -> uint8 tensors of their bytes on the device, all by one asynchronous copy."""
    places = np.cumsum([0] + [-(-r.nbytes // 16) * 16 for r in records])  # kept aligned
    host = torch.empty(int(places[-1]), dtype=torch.uint8, pin_memory=device.type == 'cuda')
    for record, at in zip(records, places):
        host[at : at + record.nbytes] = torch.from_numpy(record.view(np.uint8))
    there = host.to(
        device, non_blocking=True
    )  # torch keeps the pinned memory until the copy is done
    return [there[at : at + r.nbytes] for r, at in zip(records, places)]


def record(fields, size, **values):
    """[B] structured array for a kernel: C's layout of `fields` (name, type), values by name, and `h`, `w` from size [B, 2]."""
    array = np.zeros(len(size), np.dtype([*fields, ('h', np.int32), ('w', np.int32)], align=True))
    for name, value in dict(values, h=size[:, 0], w=size[:, 1]).items():
        array[name] = value
    return array


def canvas_of(pix):
    """(pixels, whether they are bytes, H, W) as every kernel takes them; AssertionError unless they are channels-last."""
    assert pix.is_contiguous(memory_format=torch.channels_last) and pix.dtype in (
        torch.uint8,
        torch.float32,
    ), (pix.shape, pix.stride(), pix.dtype)
    return pix, np.bool_(pix.dtype == torch.uint8), np.int32(pix.shape[2]), np.int32(pix.shape[3])


def blank(pix, size=None, dtype=torch.float32):
    """Uninitialised channels-last pixels like `pix`, of another height and width if given."""
    h, w = pix.shape[2:] if size is None else (int(n) for n in size)
    return torch.empty(
        len(pix), 3, h, w, dtype=dtype, device=pix.device, memory_format=torch.channels_last
    )


def tiles(n, side):
    """Blocks of `side` that cover n."""
    return -(-int(n) // side)


def report():
    """Compile everything for every architecture without a GPU: yields (file, kernel, architecture, registers, shared bytes, spilled bytes). Raises KernelError."""
    from cupy.cuda import nvrtc

    for file in FILES:
        for arch in ARCHITECTURES:
            program = nvrtc.createProgram(source(file), file, [], [])
            try:
                nvrtc.compileProgram(
                    program, [f'--gpu-architecture=sm_{arch}', '--ptxas-options=-v', *OPTIONS]
                )
            except nvrtc.NVRTCError as e:
                raise KernelError(
                    f'{file} does not compile for sm_{arch}:\n{nvrtc.getProgramLog(program)}'
                ) from e
            log = nvrtc.getProgramLog(program)
            for name, text in re.findall(
                r"Compiling entry function '(\w+)'(.*?)(?=Compile time)", log, re.DOTALL
            ):
                number = lambda pattern: sum(map(int, re.findall(pattern, text)))
                yield (
                    file,
                    name,
                    arch,
                    number(r'Used (\d+) registers'),
                    number(r'(\d+) bytes smem'),
                    number(r'(\d+) bytes spill stores'),
                )


if __name__ == '__main__':
    if importlib.util.find_spec('cupy') is None:
        sys.exit('CuPy is missing: pip install -e .[cuda13]')
    print(f'{"file":12} {"kernel":10} {"sm":>4} {"registers":>10} {"shared":>8} {"spilled":>8}')
    for row in report():
        print('{:12} {:10} {:>4} {:10} {:8} {:8}'.format(*row))
