"""The golden vectors of the original functions, and that the check of them can fail."""

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tools import check_golden


@pytest.fixture(scope='module')
def folder():
    if 'FACES_GOLDEN' not in os.environ:
        pytest.skip('FACES_GOLDEN is not set: the folder of the golden vectors')
    return Path(os.environ['FACES_GOLDEN'])


@pytest.mark.parametrize('impl', check_golden.IMPLS)
def test_golden_vectors(folder, impl):
    if impl == 'cuda' and not torch.cuda.is_available():
        pytest.skip('no CUDA GPU here')
    if impl == 'cuda-shim' and not shutil.which('g++'):
        pytest.skip('g++ is not installed: it builds the kernels for the CPU')
    rows = check_golden.table(folder, (impl,))
    assert {r[0] for r in rows} == set(check_golden.FILES)
    failed = [
        f'{file} {name}: {error:.2e} > {allowed:.0e}'
        for file, _, name, _, error, allowed, ok in rows
        if not ok
    ]
    assert not failed, '\n'.join(failed)


@pytest.mark.parametrize(
    'file, array, change',
    [
        ('kernels', 'aniso_k03', 1e-5),
        ('usm', 'A_usm', np.nan),
        ('jpeg', 'tiny2_cv2_q75', 1),
        ('chain', 'p1_blur1', 1e-3),
    ],
)
def test_a_wrong_vector_is_found(folder, tmp_path, monkeypatch, capsys, file, array, change):
    shutil.copytree(folder, tmp_path / 'copy')
    monkeypatch.setattr(sys, 'argv', ['check_golden.py', str(tmp_path / 'copy'), '--impl', 'torch'])
    with np.load(folder / f'{file}.npz') as z:
        arrays = dict(z)
    assert array in arrays
    arrays[array] = arrays[array].copy()
    arrays[array].flat[arrays[array].size // 2] += arrays[array].dtype.type(change)
    np.savez(tmp_path / 'copy' / f'{file}.npz', **arrays)
    assert check_golden.main() == 1
    table = capsys.readouterr().out.splitlines()
    assert all(line.startswith(file) for line in table if 'FAILED' in line)
    assert any('FAILED' in line for line in table)


def test_an_unusable_folder_is_refused(tmp_path, monkeypatch, capsys):
    for arguments, message in (
        ([], 'kernels.npz is missing'),
        (['--impl', 'fast'], 'there are ref, torch, opencv, cuda, cuda-shim'),
    ):
        monkeypatch.setattr(sys, 'argv', ['check_golden.py', str(tmp_path), *arguments])
        with pytest.raises(SystemExit) as e:
            check_golden.main()
        assert e.value.code == 2 and message in capsys.readouterr().err
