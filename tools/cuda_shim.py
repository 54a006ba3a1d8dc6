"""The CUDA kernels on a CPU, for tests: g++ builds the same .cu files against cuda_shim.h.

    with cuda_shim.Shim() as shim:
        degrade.degrade(x, recipe, params, 'cuda')

Within the block every launch of degrade.kernels runs here, on CPU tensors, with the same arguments.

The threads of a block run one after the other from barrier to barrier, forwards, backwards or in a
random order: results that depend on a missing barrier differ. Shared memory is NaN at the beginning
of every block. Threads that wait at different barriers, and a warp that waits for a part of itself,
are errors. It is slow (about a microsecond a thread) and not meant for degrading images on a CPU.
"""

import contextlib
import ctypes
import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from degrade import kernels

KERNEL = re.compile(
    r'extern "C" __global__ void\s+(?:__launch_bounds__\([\d, ]+\)\s+)?(\w+)\(([^)]*)\)'
)
# Declarations of shared memory, each in a line of its own.
SHARED = re.compile(r'^ *__shared__ \w+ ([^;]+);', re.MULTILINE)
SCALARS: dict[str, type[np.generic]] = {'int': np.int32, 'float': np.float32, 'bool': np.bool_}
SANITIZERS = (
    '-fsanitize=address,undefined',
    '-fno-sanitize-recover=undefined',
    '-fno-omit-frame-pointer',
    '-g',
)
FLAGS = (
    '-std=c++17',
    '-ffp-contract=off',  # __fmul_rn and __fadd_rn must remain two roundings
    '-fPIC',
    '-fvisibility=hidden',
    '-U_FORTIFY_SOURCE',  # which takes jumps between stacks for mistakes
    '-w',
)
HERE = Path(__file__).parent


@contextlib.contextmanager
def in_place(launch: Callable[..., None]) -> Iterator[None]:
    """Put a function in the place of `kernels.launch`, as if there were a GPU for CPU tensors."""
    replaced = kernels.launch, kernels.need_gpu
    kernels.launch, kernels.need_gpu = launch, lambda x: None
    try:
        yield
    finally:
        kernels.launch, kernels.need_gpu = replaced


class Shim:
    """A stand-in for `kernels.launch`; as a context manager it replaces that function.

    order:    of blocks, and of threads after every barrier: 0 forwards, 1 backwards, any other
              number seeds a random one
    sanitize: build with AddressSanitizer and UndefinedBehaviorSanitizer; the process must have
              been started with libasan preloaded (see `sanitized`)
    edit:     function of (file name, source) -> source, for tests that must fail
    Raises RuntimeError with the compiler's message.
    """

    built: dict[tuple[str, bool], ctypes.CDLL] = {}  # of this process, by (source, sanitize)

    def __init__(
        self,
        order: int = 0,
        sanitize: bool = False,
        edit: Callable[[str, str], str] = lambda file, text: text,
    ) -> None:
        """Nothing is built before a kernel is launched."""
        self.order = order
        self.sanitize = sanitize
        self.edit = edit
        self.launched: set[tuple[str, str]] = set()  # (file name, kernel)

    def launch(
        self,
        file: str | Path,
        name: str,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        *args: kernels.Argument,
    ) -> None:
        """Do what `kernels.launch` does, on the CPU.

        The type of every argument is checked against the kernel's declaration, which a GPU would
        take on trust.
        """
        library, declared = self.library(file)
        types = declared[name]
        where = f'{Path(file).name} {name}'
        assert len(types) == len(args), f'{where}: {len(types)} parameters, {len(args)} arguments'
        values = [_argument(a, t, f'{where}, {t}') for a, t in zip(args, types, strict=True)]
        pointers = (ctypes.c_void_p * len(values))(*(v.ctypes.data for v in values))
        fault = run(library, name, grid, block, pointers, self.order)
        assert not fault, f'{where}: {fault}'
        self.launched.add((Path(file).name, name))

    def library(self, file: str | Path) -> tuple[ctypes.CDLL, dict[str, list[str]]]:
        """(loaded library, {kernel: [declared type]}) of a .cu file, built once."""
        text = self.edit(Path(file).name, kernels.source(file))
        declared = {
            name: [_declared_type(parameter) for parameter in parameters.split(',')]
            for name, parameters in KERNEL.findall(text)
        }
        key = text, self.sanitize
        if key not in self.built:
            self.built[key] = _build(text, declared, self.sanitize)
        return self.built[key], declared

    def sizeof(self, file: str | Path, struct: str) -> int:
        """Bytes of a struct of a .cu file."""
        return getattr(self.library(file)[0], f'sizeof_{struct}')()

    def __enter__(self) -> 'Shim':
        """Put this object's launch in place of the GPU's."""
        self._entered = in_place(self.launch)
        self._entered.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the GPU's launch."""
        self._entered.__exit__(None, None, None)


def run(
    library: ctypes.CDLL,
    name: str,
    grid: Sequence[int],
    block: Sequence[int],
    pointers: ctypes.Array,
    order: int = 0,
) -> str:
    """Run a kernel of a built library -> what is wrong with it, or nothing.

    pointers: to the arguments
    """
    function = getattr(library, f'run_{name}')
    function.restype = ctypes.c_char_p
    return (function(_three(grid), _three(block), pointers, order) or b'').decode()


def sanitized() -> dict[str, str]:
    """Environment for a process that is to load kernels built with `sanitize`."""
    # Both libraries must be there from the start: libasan looks for C++'s exceptions, which OpenCV
    # throws internally, when it is loaded.
    libraries = [_library_path(name) for name in ('libasan.so', 'libstdc++.so')]
    return {
        **os.environ,
        'LD_PRELOAD': ' '.join(libraries),
        'ASAN_OPTIONS': 'detect_leaks=0',
        'OMP_NUM_THREADS': '1',
    }


def _library_path(name: str) -> str:
    command = ['g++', f'-print-file-name={name}']
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


# ---- arguments ----


def _poisoned(declaration: re.Match[str]) -> str:
    """A declaration of shared memory, and what makes it of no use to begin with."""
    names = re.findall(r'(\w+)(?:\[[^,]*\])*(?:,|$)', declaration[1])
    return declaration[0] + ''.join(f' FRESH({name})' for name in names)


def _three(size: Sequence[int]) -> ctypes.Array:
    """Grid or block as int[3]."""
    return (ctypes.c_int * 3)(*(int(n) for n in size), *(1,) * (3 - len(size)))


def _declared_type(parameter: str) -> str:
    """Type of a C parameter without its name: 'const float* x' and 'const float *x' alike."""
    *words, name = parameter.split()
    return ' '.join(words) + '*' * name.count('*')


def _argument(a: kernels.Argument, declared: str, where: str) -> np.ndarray:
    """0-d array with the argument's bytes."""
    if declared.endswith('*'):
        if a is None:
            return np.array(0, np.uint64)
        assert isinstance(a, torch.Tensor), f'{where}: needs a tensor or None, is {type(a)}'
        return np.array(a.data_ptr(), np.uint64)
    wanted = SCALARS[declared]
    assert type(a) is wanted, f'{where}: needs {wanted.__name__}, is {type(a).__name__}'
    return np.array(a)


# ---- building ----


def _build(text: str, declared: dict[str, list[str]], sanitize: bool) -> ctypes.CDLL:
    """Compile and load a .cu file."""
    code = '\n'.join(_code(text, declared))
    name = hashlib.blake2b(code.encode(), digest_size=8).hexdigest()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, f'{name}.cpp')
        library = Path(folder, f'{name}.so')
        threads = Path(folder, 'threads.o')
        source.write_text(code)
        threads.write_bytes(_threads(sanitize))
        _compile(sanitize, '-shared', str(source), str(threads), '-o', str(library))
        return ctypes.CDLL(str(library))


@functools.cache
def _threads(sanitize: bool) -> bytes:
    """Object file of cuda_shim.cpp, which is the same for all kernels."""
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder, 'threads.o')
        _compile(sanitize, '-c', str(HERE / 'cuda_shim.cpp'), '-o', str(built))
        return built.read_bytes()


def _compile(sanitize: bool, *how: str) -> None:
    """Raises RuntimeError with the compiler's message."""
    if not shutil.which('g++'):
        raise RuntimeError('g++ is needed to run kernels on the CPU (Debian: apt install g++)')
    optimise = ('-O1', *SANITIZERS) if sanitize else ('-O2',)
    command = ['g++', *FLAGS, *optimise, *how]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f'g++ cannot build the kernels:\n{done.stderr[:4000]}')


def _code(text: str, declared: dict[str, list[str]]) -> Iterator[str]:
    """Parts of the C++ source: the shim, the kernels, and what calls them from Python."""
    yield f'#include "{HERE / "cuda_shim.h"}"'
    yield SHARED.sub(_poisoned, text)
    for name, types in declared.items():
        arguments = ', '.join(f'*({t}*)a[{i}]' for i, t in enumerate(types))
        yield f'static void body_{name}(void** a) {{ {name}({arguments}); }}'
        yield (
            f'EXPORTED const char* run_{name}'
            '(const int* grid, const int* block, void** args, int order) '
            f'{{ return run(grid, block, body_{name}, args, order); }}'
        )
    for struct in re.findall(r'^struct (\w+) {', text, re.MULTILINE):
        yield f'EXPORTED int sizeof_{struct}() {{ return sizeof({struct}); }}'
