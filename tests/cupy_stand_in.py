"""What `degrade.kernels` asks of CuPy, without a GPU: compiled by NVRTC, executed by the shim.

    with Cupy() as cupy:
        kernels.launch('jpeg.cu', 'planes', grid, block, *arguments)

Modules are compiled by the real NVRTC with the options that CuPy gives it. Arguments are packed by
CuPy's own types, and the kernels read them from those bytes: what would be passed wrongly to a GPU
is read wrongly here. Every launch is held to the limits of CUDA.
"""

import builtins
import ctypes
import functools
import sys
import threading
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from gpu_stand_in import Gpu

from dali_pipes import png
from degrade import kernels, registers
from tools import cuda_shim

ARCHITECTURE = '90'
MOST_THREADS = 1024  # of a block
MOST_BLOCKS = (1 << 31) - 1, 65_535, 65_535
MOST_SHARED = 48 << 10  # bytes that a block has without asking for more
STREAM = 0x5EED  # handle of what is the current stream of torch


@functools.cache
def shared_memory(file: str | Path) -> dict[str, int]:
    """{kernel: bytes of shared memory of a block} of a file, as NVRTC compiles it."""
    return {usage.kernel: usage.shared for usage in registers.report([file], [ARCHITECTURE])}


class Launch(NamedTuple):
    """A launch as the driver would have seen it."""

    kernel: str
    device: int
    stream: int
    grid: tuple[int, ...]
    block: tuple[int, ...]


class Cupy:
    """Module `cupy` for as long as the block lasts; `launched` is what was run.

    gpu: on which the kernels' memory lies; without one, tensors on the CPU are taken for it
    """

    def __init__(self, gpu: Gpu | None = None) -> None:
        self.gpu = gpu
        self.launched: list[Launch] = []
        self.devices = _Stack(0)
        self.streams = _Stack(0)  # of it is CuPy's default stream, on which nothing of ours may run
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> 'Cupy':
        pytest.importorskip('cupy')
        # The compiler is loaded by CuPy itself, before anything stands in for it.
        from cupy._core._scalar import CScalar
        from cupy.cuda import nvrtc

        nvrtc.getVersion()
        self.packed = CScalar
        # Only what is named here exists: another call into CuPy fails as it is made.
        cuda = _Namespace(
            Device=lambda index: _Entered(self.devices, index),
            Stream=_Namespace(from_external=self._from_external),
            compiler=_Namespace(CompileException=CompileException),
        )
        stand_in = _Namespace(cuda=cuda, RawModule=lambda **how: RawModule(self, **how))
        for cached in (kernels._stream, kernels._kernel, kernels._module):
            cached.cache_clear()
        self._patch.setitem(sys.modules, 'cupy', stand_in)
        # CuPy loads this part lazily, as soon as anybody looks at it, and would miss CuPy.
        for name in [name for name in sys.modules if name.split('.')[0] == 'cupyx']:
            self._patch.delitem(sys.modules, name)
        self._patch.setattr(kernels, 'need_gpu', lambda x: None)
        if not self.gpu:
            current = _Namespace(cuda_stream=STREAM)
            self._patch.setattr(torch.cuda, 'current_stream', lambda device=None: current)
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.undo()
        for cached in (kernels._stream, kernels._kernel, kernels._module):
            cached.cache_clear()

    def _from_external(self, stream: Any) -> '_Entered':
        version, handle = stream.__cuda_stream__()
        assert version == 0
        return _Entered(self.streams, handle)


class CompileException(Exception):
    """As CuPy's."""


class RawModule:
    """Source that NVRTC has compiled; its kernels run as the shim builds them."""

    def __init__(self, cupy: Cupy, *, code: str, options: tuple[str, ...], backend: str) -> None:
        assert backend == 'nvrtc' and options == kernels.OPTIONS
        self._cupy = cupy
        self._code = code
        self._shared: dict[str, int] = {}

    def compile(self) -> None:
        """By the real compiler, with CuPy's options."""
        files = *kernels.FILES, png.KERNELS
        file = next(f for f in files if kernels.source(f) == self._code)
        self._shared = shared_memory(file)
        self._library, self._declared = cuda_shim.Shim().library(file)

    def get_function(self, name: str) -> Any:
        """The kernel: a function of grid, block and arguments."""
        assert name in self._shared, f'{name} is not among the compiled kernels'

        def run(grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...]) -> None:
            self._check(name, grid, block)
            launch = Launch(name, self._cupy.devices.last, self._cupy.streams.last, grid, block)
            self._cupy.launched.append(launch)
            current = torch.cuda.current_stream().cuda_stream
            assert launch.stream == current, 'not on the current stream of torch'
            self._run(name, grid, block, args)

        return run

    def _check(self, name: str, grid: tuple[int, ...], block: tuple[int, ...]) -> None:
        """The limits that the driver refuses a launch for."""
        assert 0 < np.prod(block) <= MOST_THREADS, (name, block)
        assert all(0 < n <= most for n, most in zip(grid, MOST_BLOCKS, strict=False)), (name, grid)
        assert self._shared[name] <= MOST_SHARED, name

    def _run(
        self, name: str, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...]
    ) -> None:
        declared = self._declared[name]
        assert len(args) == len(declared), f'{name}: {len(declared)} parameters, {len(args)} given'
        # CuPy passes every scalar in a buffer of the type that it takes it for.
        packed = [self._cupy.packed(a) for a in args]
        pointers = (ctypes.c_void_p * len(packed))(*(p.ptr for p in packed))
        for argument, kind in zip(args, declared, strict=True):
            wanted = np.uint64 if kind.endswith('*') else cuda_shim.SCALARS[kind]
            assert argument.dtype == wanted, f'{name}: {kind} is given as {argument.dtype}'
        if self._cupy.gpu:
            pointers_given = [
                (int(a), not kind.startswith('const'))
                for a, kind in zip(args, declared, strict=True)
                if kind.endswith('*')
            ]
            self._cupy.gpu.launched(name, pointers_given)
        fault = cuda_shim.run(self._library, name, grid, block, pointers)
        assert not fault, f'{name}: {fault}'


def spoil(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the machine one on which the kernels cannot run, though it has a GPU and CuPy."""
    cupy = pytest.importorskip('cupy')
    capability = (7, 0) if what == 'old card' else (9, 0)
    driver = 12090 if what == 'old driver' else 13000

    def version() -> tuple[int, int]:
        if what == 'no compiler':
            raise RuntimeError('libnvrtc.so.13: cannot open')
        return 13, 0

    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda *_: 'Some Card')
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda *_: capability)
    monkeypatch.setattr(cupy.cuda.nvrtc, 'getVersion', version)
    monkeypatch.setattr(cupy.cuda.runtime, 'driverGetVersion', lambda: driver)
    monkeypatch.setattr(torch.version, 'cuda', '12.8' if what == 'other torch' else '13.0')
    if what in ('no CuPy', 'no place'):
        monkeypatch.setitem(sys.modules, 'cupy', None)
    if what == 'no place':
        monkeypatch.setattr(builtins, '__import__', _without_a_place(builtins.__import__))
    kernels._checked.cache_clear()


def _without_a_place(original: Any) -> Any:
    """__import__ where CuPy, as it is imported, cannot make the folder of its kernels."""

    def wanted(name: str, *args: Any) -> Any:
        if name == 'cupy':
            raise PermissionError(13, 'Permission denied', '/.cupy')
        return original(name, *args)

    return wanted


class _Namespace:
    """An object with these attributes, and no others."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


class _Stack(threading.local):
    """What a thread has entered: devices or streams."""

    def __init__(self, first: int) -> None:
        self.entered = [first]

    @property
    def last(self) -> int:
        return self.entered[-1]


class _Entered:
    """Context that puts a value on a stack: the current device, or the current stream."""

    def __init__(self, stack: _Stack, value: int) -> None:
        self._stack, self._value = stack, value

    def __enter__(self) -> None:
        self._stack.entered.append(self._value)

    def __exit__(self, *_: object) -> None:
        self._stack.entered.pop()
