"""The CUDA kernels on a CPU, for tests: the same .cu files built by g++ against cuda_shim.h, launched with the same arguments.

    with cuda_shim.Shim() as shim:                     every launch of degrade.kernels now runs here, on CPU tensors
        degrade.degrade(x, recipe, params, 'cuda')

Threads of a block run one after the other from barrier to barrier, forwards or backwards: results that depend on a missing barrier differ between the two.
Slow (about a microsecond a thread); not a way to degrade on a CPU.
"""

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch

from degrade import kernels

KERNEL = re.compile(
    r'extern "C" __global__ void\s+(?:__launch_bounds__\(\d+\)\s+)?(\w+)\(([^)]*)\)'
)
SCALARS = {'int': np.int32, 'float': np.float32, 'bool': np.bool_}
SANITIZERS = (
    '-fsanitize=address,undefined',
    '-fno-sanitize-recover=undefined',
    '-fno-omit-frame-pointer',
    '-g',
)


class Shim:
    """A stand-in for `kernels.launch`. A context manager that puts it there.

    backwards: run blocks and threads from the last to the first
    sanitize:  build with AddressSanitizer and UndefinedBehaviorSanitizer; the process must have been started with libasan preloaded
    edit:      function of (file name, source) -> source, for tests that must fail
    Raises RuntimeError with the compiler's message.
    """

    built = {}  # of this process: source -> library

    def __init__(self, backwards=False, sanitize=False, edit=lambda file, text: text):
        self.backwards, self.sanitize, self.edit, self.launched = backwards, sanitize, edit, set()

    def launch(self, file, name, grid, block, *args):
        """As kernels.launch; every argument's type is checked against the kernel's declaration, which a GPU would take on trust."""
        library, declared = self.library(file)
        types = declared[name]
        assert len(types) == len(args), (
            f'{file} {name}: {len(types)} parameters, {len(args)} arguments'
        )
        values = [_argument(a, t, f'{file} {name}, {t}') for a, t in zip(args, types)]
        pointers = (ctypes.c_void_p * len(values))(*(v.ctypes.data for v in values))
        three = [
            (ctypes.c_int * 3)(*(int(n) for n in size), *(1,) * (3 - len(size)))
            for size in (grid, block)
        ]
        getattr(library, f'run_{name}')(*three, pointers, int(self.backwards))
        self.launched.add((file, name))

    def library(self, file):
        """(loaded library, {kernel: [declared type]}) of a .cu file, built once."""
        text = self.edit(file, kernels.source(file))
        declared = {
            name: [
                ' '.join(p.split()[:-1]) + '*' * p.split()[-1].count('*') for p in params.split(',')
            ]
            for name, params in KERNEL.findall(text)
        }
        key = text, self.sanitize
        if key not in self.built:
            self.built[key] = _build(text, declared, self.sanitize)
        return self.built[key], declared

    def sizeof(self, file, struct):
        """Bytes of a struct of a .cu file."""
        return getattr(self.library(file)[0], f'sizeof_{struct}')()

    def __enter__(self):
        self._kept = kernels.launch, kernels.need_gpu
        kernels.launch, kernels.need_gpu = self.launch, lambda x: None
        return self

    def __exit__(self, *_):
        kernels.launch, kernels.need_gpu = self._kept


def sanitized():
    """Environment for a process that is to load kernels built with `sanitize`."""
    first = [
        subprocess.run(
            ['g++', f'-print-file-name={name}'], capture_output=True, text=True
        ).stdout.strip()
        for name in ('libasan.so', 'libstdc++.so')
    ]
    # Both libraries from the start: libasan must find C++'s exceptions, which OpenCV throws inside.
    return {
        **os.environ,
        'LD_PRELOAD': ' '.join(first),
        'ASAN_OPTIONS': 'detect_leaks=0',
        'OMP_NUM_THREADS': '1',
    }


def _argument(a, declared, where):
    """0-d array with the argument's bytes."""
    if declared.endswith('*'):
        assert a is None or isinstance(a, torch.Tensor), (
            f'{where}: needs a tensor or None, is {type(a)}'
        )
        return np.array(0 if a is None else a.data_ptr(), np.uint64)
    assert type(a) is SCALARS[declared], (
        f'{where}: needs {SCALARS[declared].__name__}, is {type(a).__name__}'
    )
    return np.array(a)


def _build(text, declared, sanitize):
    if not shutil.which('g++'):
        raise RuntimeError('g++ is needed to run kernels on the CPU (Debian: apt install g++)')
    code = [f'#include "{Path(__file__).with_suffix(".h")}"', text]
    for name, types in declared.items():
        arguments = ', '.join(f'*({t}*)a[{i}]' for i, t in enumerate(types))
        code += [
            f'static void body_{name}(void** a) {{ {name}({arguments}); }}',
            f'extern "C" void run_{name}(const int* grid, const int* block, void** args, int backwards) {{ run(grid, block, body_{name}, args, backwards); }}',
        ]
    code += [
        f'extern "C" int sizeof_{struct}() {{ return sizeof({struct}); }}'
        for struct in re.findall(r'^struct (\w+) {', text, re.MULTILINE)
    ]
    name = hashlib.blake2b('\n'.join(code).encode(), digest_size=8).hexdigest()
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, f'{name}.cpp'), Path(folder, f'{name}.so')
        source.write_text('\n'.join(code))
        # No contraction: __fmul_rn and __fadd_rn must stay two roundings. Symbolic: zlib, which some builds of torch bring into the process, has an inflate, too.
        done = subprocess.run(
            [
                'g++',
                '-std=c++17',
                '-O1' if sanitize else '-O2',
                '-ffp-contract=off',
                '-fPIC',
                '-shared',
                '-Wl,-Bsymbolic',
                '-w',
                *(SANITIZERS if sanitize else ()),
                '-o',
                str(library),
                str(source),
            ],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f'g++ cannot build the kernels:\n{done.stderr[:4000]}')
        return ctypes.CDLL(str(library))
