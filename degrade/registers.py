"""What the compiled kernels take of a GPU's multiprocessors, found without a GPU.

    python -m degrade.registers [FILE.cu ...]

prints registers, shared memory and spills of every kernel of this folder, and of those in other
files that are named, on every architecture.
"""

import program

import importlib.util
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from errors import KernelError

from . import kernels

ARCHITECTURES = ('75', '80', '86', '89', '90', '100', '120')  # Turing to Blackwell


class Usage(NamedTuple):
    """What a compiled kernel takes of a multiprocessor."""

    file: str
    kernel: str
    architecture: str  # 90 for sm_90
    registers: int  # per thread
    shared: int  # bytes per block
    spilled: int  # bytes per thread


def report(files: Sequence[str | Path] = kernels.FILES) -> Iterator[Usage]:
    """Compile the files for every architecture, without a GPU, and yield what each kernel uses.

    Raises KernelError with the compiler's log.
    """
    for file in files:
        for architecture in ARCHITECTURES:
            log = _compile(file, architecture)
            compiled = re.findall(
                r"Compiling entry function '(\w+)'(.*?)(?=Compile time)", log, re.DOTALL
            )
            for name, text in compiled:
                yield Usage(
                    file=Path(file).name,
                    kernel=name,
                    architecture=architecture,
                    registers=_total(r'Used (\d+) registers', text),
                    shared=_total(r'(\d+) bytes smem', text),
                    spilled=_total(r'(\d+) bytes spill stores', text),
                )


def _compile(file: str | Path, architecture: str) -> str:
    """Log of ptxas, which the compiler runs, for one file and architecture."""
    from cupy.cuda import nvrtc

    program = nvrtc.createProgram(kernels.source(file), str(file), [], [])
    options = [f'--gpu-architecture=sm_{architecture}', '--ptxas-options=-v', *kernels.OPTIONS]
    try:
        nvrtc.compileProgram(program, options)
    except nvrtc.NVRTCError as e:
        log = nvrtc.getProgramLog(program)
        raise KernelError(f'{file} does not compile for sm_{architecture}:\n{log}') from e
    return nvrtc.getProgramLog(program)


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
