"""Which lines of the GPU's path are executed without a GPU; exit status 1 if too few are.

    python tests/coverage_of_gpu.py

A minute. The tests run with a stand-in for CUDA, CuPy and DALI; see gpu_stand_in.py.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import coverage

ROOT = Path(__file__).resolve().parents[1]
FILES = (
    'degrade/kernels.py',
    'degrade/upload.py',
    'dali_pipes/ahead.py',
    'dali_pipes/batch.py',
    'dali_pipes/cache.py',
    'dali_pipes/loader.py',
    'dali_pipes/mixed.py',
    'dali_pipes/pipe.py',
    'dali_pipes/pipe_dali.py',
    'dali_pipes/pipe_png.py',
    'dali_pipes/pipe_torch.py',
    'dali_pipes/png.py',
)
TESTS = 'test_gpu_path', 'test_cuda', 'test_png', 'test_cache', 'test_mixed'
LEFT_OUT = 'not mutants and not sanitizers and not compiles'  # long, and of the kernels themselves
LEAST = 95  # percent of the lines of each file


def main() -> int:
    """Run the tests, print the table -> exit status."""
    with tempfile.TemporaryDirectory() as folder:
        data = str(Path(folder, 'lines'))
        measured = ['coverage', 'run', f'--data-file={data}', f'--include={",".join(FILES)}']
        tests = [f'tests/{name}.py' for name in TESTS]
        pytest = ['pytest', '-q', '-p', 'no:cacheprovider', '-k', LEFT_OUT, *tests]
        done = subprocess.run([sys.executable, '-m', *measured, '-m', *pytest], cwd=ROOT)
        lines = coverage.Coverage(data_file=data)
        lines.load()
        lines.report([str(ROOT / file) for file in FILES], show_missing=True)
        poor = [file for file in FILES if _percent(lines, ROOT / file) < LEAST]
    for file in poor:
        print(f'{file}: less than {LEAST} % of its lines are executed')
    return 1 if poor or done.returncode else 0


def _percent(lines: coverage.Coverage, file: Path) -> float:
    _, statements, _, missing, _ = lines.analysis2(str(file))
    return 100 * (1 - len(missing) / len(statements))


if __name__ == '__main__':
    sys.exit(main())
