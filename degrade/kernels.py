"""CUDA kernels: each .cu file is compiled once per GPU by NVRTC and launched on torch's stream.

CuPy does both and caches the compiled code on disk. The kernels work on torch's memory.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike

from errors import KernelError

FOLDER = Path(__file__).parent
FILES = tuple(sorted(path.name for path in FOLDER.glob('*.cu')))
OLDEST = (7, 5)  # compute capability of Turing, 2018
OPTIONS = ('--std=c++17',)
SIDE = 64  # sides of canvases are multiples of it where sizes are drawn
# Types of arrays on the device.
_TYPES = {
    np.dtype(name): getattr(torch, name)
    for name in ('bool', 'uint8', 'int16', 'int32', 'int64', 'float32', 'float64')
}

# CuPy is an optional dependency: it is imported where it is used, and its types are `Any` here.

# A kernel's argument: a tensor, None for a null pointer, or a scalar of the very type that the
# kernel declares.
Argument = torch.Tensor | np.generic | None


# ---- launching ----


def source(file: str | Path) -> str:
    """Text of a .cu file, preceded by what all of them share.

    file: name of one in this folder, or the path of one elsewhere
    The compiler's messages count lines in the file itself.
    """
    path = FOLDER / file
    common, own = (p.read_text('utf-8') for p in (FOLDER / 'common.cuh', path))
    return common + f'#line 1 "{path.name}"\n' + own


def launch(
    file: str | Path, name: str, grid: tuple[int, ...], block: tuple[int, ...], *args: Argument
) -> None:
    """Run the kernel `name` of a file (as `source` takes it) with grid x block threads.

    It runs on torch's current stream of the GPU that the first tensor is on, and the call returns
    at once.
    args: tensors (a pointer to their first value), None (a null pointer), or NumPy scalars of the
    very type that the kernel declares.
    """
    import cupy

    device = next(a for a in args if isinstance(a, torch.Tensor)).device
    with cupy.cuda.Device(device.index), _stream(torch.cuda.current_stream(device).cuda_stream):
        _kernel(file, name, device.index)(grid, block, tuple(map(_argument, args)))


def _argument(a: Argument) -> np.generic:
    if isinstance(a, torch.Tensor):
        # torch and CuPy share the address space: neither a copy nor a conversion is needed.
        return np.uint64(a.data_ptr())
    return np.uint64(0) if a is None else a


class _TorchStream:
    """A stream of torch's by its handle, in the CUDA stream protocol."""

    def __init__(self, handle: int) -> None:
        self.handle = handle

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.handle


@cache
def _stream(handle: int) -> Any:
    import cupy

    return cupy.cuda.Stream.from_external(_TorchStream(handle))


@cache
def _kernel(file: str | Path, name: str, index: int) -> Any:
    return _module(file, index).get_function(name)


@cache
def _module(file: str | Path, index: int) -> Any:
    """Compiled file on one GPU. Raises KernelError with the compiler's log."""
    import cupy

    module = cupy.RawModule(code=source(file), options=OPTIONS, backend='nvrtc')
    try:
        module.compile()
    except cupy.cuda.compiler.CompileException as e:
        raise KernelError(f'{file} does not compile for this GPU (cuda:{index}):\n{e}') from e
    except RuntimeError as e:  # headers that CuPy adds are missing, or the memory for the module
        raise KernelError(
            f'{file} cannot be compiled for this GPU (cuda:{index}): {e}: pip install -e .[cuda13] '
            'in a fresh environment, or end what else runs on the GPU'
        ) from e
    return module


# ---- what the kernels need ----


def need_gpu(x: torch.Tensor) -> None:
    """Make sure that the kernels can run where the tensor is.

    Raises ValueError unless it is on a CUDA GPU, and KernelError where the kernels cannot run on
    that GPU.
    """
    if x.device.type != 'cuda':
        raise ValueError(
            f"impl='cuda' needs tensors on a CUDA GPU, but this one is on {x.device}: "
            "move it there, or use impl='torch'"
        )
    _checked(x.device.index)


@cache
def _checked(index: int) -> None:
    """Raise KernelError unless GPU, driver, CuPy and torch fit together; done once per GPU."""
    capability = torch.cuda.get_device_capability(index)
    if capability < OLDEST:
        raise KernelError(
            f'{torch.cuda.get_device_name(index)} has compute capability '
            f'{capability[0]}.{capability[1]}; the kernels need 7.5 (Turing, 2018) or newer'
        )
    extra = 'cuda13' if (torch.version.cuda or '13').startswith('13') else 'cuda12'
    _check_versions(*_cuda_versions(extra), extra)


def _cuda_versions(extra: str) -> tuple[int, tuple[int, int]]:
    """CUDA version of the driver, as 1000 major + 10 minor, and (major, minor) of NVRTC."""
    remedy = f'pip install -e .[{extra}]'
    try:
        import cupy
        from cupy.cuda import nvrtc
    except ImportError as e:
        raise KernelError(f'the GPU degradation needs CuPy ({e}): {remedy}') from e
    except OSError as e:  # CuPy makes the folder of its compiled kernels when it is imported
        raise KernelError(
            f'CuPy cannot keep compiled kernels ({e}): set CUPY_CACHE_DIR to a writable folder'
        ) from e
    try:
        version = nvrtc.getVersion()
    except (RuntimeError, OSError) as e:  # the compiler is loaded when it is first asked for
        raise KernelError(
            f'CuPy {cupy.__version__} does not find NVRTC, which compiles the kernels ({e}): '
            f'{remedy}'
        ) from e
    return cupy.cuda.runtime.driverGetVersion(), version


def _check_versions(driver: int, nvrtc: tuple[int, int], extra: str) -> None:
    if driver < 1000 * nvrtc[0]:
        raise KernelError(
            f'the driver is for CUDA {driver // 1000}.{driver % 1000 // 10}, '
            f'CuPy compiles for CUDA {nvrtc[0]}: '
            'pip install -e .[cuda12] in a fresh environment, or update the driver'
        )
    if torch.version.cuda and int(torch.version.cuda.split('.')[0]) != nvrtc[0]:
        raise KernelError(
            f'torch is built for CUDA {torch.version.cuda}, CuPy for CUDA '
            f'{nvrtc[0]}.{nvrtc[1]}: a process must not mix them; '
            f'pip install -e .[{extra}] in a fresh environment'
        )


# ---- arguments of the kernels ----


def upload(arrays: Sequence[np.ndarray], device: torch.device) -> list[torch.Tensor]:
    """Copy small arrays to the device; structured ones arrive as their bytes, in uint8.

    All of them travel in one asynchronous copy out of pinned memory, which torch uses again once
    the copy is done.
    """
    # Each begins at a multiple of 16 bytes, which satisfies the alignment of every type.
    places = [0]
    for a in arrays:
        places.append(places[-1] + -(-a.nbytes // 16) * 16)
    host = torch.empty(places[-1], dtype=torch.uint8, pin_memory=device.type == 'cuda')
    room = host.numpy()
    for a, at in zip(arrays, places, strict=False):
        np.copyto(room[at : at + a.nbytes], np.ascontiguousarray(a).reshape(-1).view(np.uint8))

    there = host.to(device, non_blocking=True)
    return [_typed(there[at : at + a.nbytes], a) for a, at in zip(arrays, places, strict=False)]


def _typed(data: torch.Tensor, array: np.ndarray) -> torch.Tensor:
    """Bytes on the device as what the array is; those of structs as they are."""
    if array.dtype.names:
        return data
    return data.view(_TYPES[array.dtype]).view(array.shape)


def record(
    fields: Sequence[tuple[str, DTypeLike]], size: np.ndarray, **values: np.ndarray
) -> np.ndarray:
    """[B] structured array for a kernel, in C's layout.

    fields: (name, type) in the order of the struct, which ends in int `h, w`
    size:   [B, 2] true height and width, for `h` and `w`
    values: [B] array of every field
    """
    dtype = np.dtype([*fields, ('h', np.int32), ('w', np.int32)], align=True)
    array = np.zeros(len(size), dtype)
    for name, value in dict(values, h=size[:, 0], w=size[:, 1]).items():
        array[name] = value
    return array


def canvas_of(pix: torch.Tensor) -> tuple[torch.Tensor, np.bool_, np.int32, np.int32]:
    """Return (pixels, whether they are bytes, H, W) as every kernel takes them.

    Raises AssertionError unless they are channels-last and uint8 or float32.
    """
    assert pix.is_contiguous(memory_format=torch.channels_last), (pix.shape, pix.stride())
    assert pix.dtype in (torch.uint8, torch.float32), pix.dtype
    return pix, np.bool_(pix.dtype == torch.uint8), np.int32(pix.shape[2]), np.int32(pix.shape[3])


def blank(
    pix: torch.Tensor,
    size: Sequence[int] | np.ndarray | None = None,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Uninitialised channels-last pixels for the samples of `pix`, at least of this height, width.

    The size is that of `pix` by default.
    """
    h, w = pix.shape[2:]
    if size is not None:
        # Sizes are drawn: of rounded ones there are few, so that the memory of one batch fits the
        # next and a small card is not cut into pieces.
        h, w = (tiles(n, SIDE) * SIDE for n in size)
    shape = (len(pix), 3, h, w)
    return torch.empty(shape, dtype=dtype, device=pix.device, memory_format=torch.channels_last)


def tiles(n: int | np.integer, side: int) -> int:
    """Number of blocks of `side` that cover n."""
    return -(-int(n) // side)
