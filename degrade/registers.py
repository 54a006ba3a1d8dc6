"""What the compiled kernels take of a GPU's multiprocessors, found without a GPU.

    python -m degrade.registers [FILE.cu ...]

prints registers, shared memory and spills of every kernel of this folder, and of those in other
files that are named, on every architecture.
"""

import program

import functools
import importlib.util
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from errors import KernelError

from . import kernels

ARCHITECTURES = ('75', '80', '86', '89', '90', '100', '120')  # Turing to Blackwell
# What cupy.RawModule adds to `kernels.OPTIONS`.
CUPY_OPTIONS = ('-ftz=true', '--device-as-default-execution-space')


class Usage(NamedTuple):
    """What a compiled kernel takes of a multiprocessor."""

    file: str
    kernel: str
    architecture: str  # 90 for sm_90
    registers: int  # per thread
    shared: int  # bytes per block
    spilled: int  # bytes per thread


def report(
    files: Sequence[str | Path] = kernels.FILES, architectures: Sequence[str] = ARCHITECTURES
) -> Iterator[Usage]:
    """Compile the files for some architectures, without a GPU, and yield what each kernel uses.

    Raises KernelError with the compiler's log.
    """
    for file in files:
        for architecture in architectures:
            _, log = compiled(file, architecture)
            kernels_found = re.findall(
                r"Compiling entry function '(\w+)'(.*?)(?=Compile time)", log, re.DOTALL
            )
            for name, text in kernels_found:
                yield Usage(
                    file=Path(file).name,
                    kernel=name,
                    architecture=architecture,
                    registers=_total(r'Used (\d+) registers', text),
                    shared=_total(r'(\d+) bytes smem', text),
                    spilled=_total(r'(\d+) bytes spill stores', text),
                )


def compiled(file: str | Path, architecture: str) -> tuple[bytes, str]:
    """Compile a file as CuPy does: (machine code, log of ptxas, which the compiler runs).

    Raises KernelError with the compiler's log.
    """
    return _compiled(kernels.source(file), str(file), architecture)


# By its text, which may be edited: a second of compiling for each kernel is not spent twice.
@functools.cache
def _compiled(source: str, file: str, architecture: str) -> tuple[bytes, str]:
    from cupy.cuda import nvrtc

    program = nvrtc.createProgram(source, file, [], [])
    options = [f'--gpu-architecture=sm_{architecture}', '--ptxas-options=-v']
    try:
        nvrtc.compileProgram(program, [*options, *kernels.OPTIONS, *CUPY_OPTIONS])
    except nvrtc.NVRTCError as e:
        log = nvrtc.getProgramLog(program)
        raise KernelError(f'{file} does not compile for sm_{architecture}:\n{log}') from e
    # CuPy takes the last byte for the end of a string; it belongs to the file and is always zero.
    return bytes(nvrtc.getCUBIN(program)) + b'\0', nvrtc.getProgramLog(program)


def _total(pattern: str, text: str) -> int:
    return sum(map(int, re.findall(pattern, text)))


@program.entry
def main(argv: Sequence[str] | None = None) -> int:
    """Print the report of the kernels here and in the files of the command line -> exit status."""
    if importlib.util.find_spec('cupy') is None:
        raise KernelError('CuPy is missing: pip install -e .[cuda13]')
    files = sys.argv[1:] if argv is None else argv
    print(f'{"file":12} {"kernel":10} {"sm":>4} {"registers":>10} {"shared":>8} {"spilled":>8}')
    for row in report([*kernels.FILES, *(Path(file).resolve() for file in files)]):
        print('{:12} {:10} {:>4} {:10} {:8} {:8}'.format(*row))
    return 0


if __name__ == '__main__':
    sys.exit(main())
