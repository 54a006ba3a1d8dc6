"""Which lines of the GPU's path are executed without a GPU; exit status 1 if too few are.

    python tests/coverage_of_gpu.py            # runs the tests that count
    FACES_LINES=lines/ make test && python tests/coverage_of_gpu.py lines/

The tests run with a stand-in for CUDA, CuPy and DALI; see gpu_stand_in.py and lines.py.
"""

import os
import subprocess
import sys
import tempfile

import coverage
import lines

LEFT_OUT = 'not mutants and not sanitizers and not compiles'  # long, and of the kernels themselves
LEAST = 95  # percent of the lines of each file


def main(folder: str | None = None) -> int:
    """Print the table of what was counted in a folder -> exit status."""
    if folder:
        return _report(folder)
    with tempfile.TemporaryDirectory() as fresh:
        pytest = ['pytest', '-q', '-p', 'no:cacheprovider', '-n', 'logical', '--dist', 'loadfile']
        tests = [f'tests/{name}.py' for name in lines.TESTS]
        done = subprocess.run(
            [sys.executable, '-m', *pytest, '-k', LEFT_OUT, *tests],
            cwd=lines.ROOT,
            env={**os.environ, 'FACES_LINES': fresh},
        )
        return _report(fresh) or done.returncode


def _report(folder: str) -> int:
    found = lines.counter(folder)
    found.combine([folder], keep=True)
    files = [str(lines.ROOT / file) for file in lines.FILES]
    found.report(files, show_missing=True)
    poor = [file for file in files if _percent(found, file) < LEAST]
    for file in poor:
        print(f'{file}: less than {LEAST} % of its lines are executed')
    return 1 if poor else 0


def _percent(found: coverage.Coverage, file: str) -> float:
    _, statements, _, missing, _ = found.analysis2(file)
    return 100 * (1 - len(missing) / len(statements))


if __name__ == '__main__':
    sys.exit(main(*sys.argv[1:2]))
