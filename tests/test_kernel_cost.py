"""The kernels' machine code, executed on a CPU.

It gives what the reference gives, its counts follow from its loops and branches, and the default
recipe costs no more than was committed.
"""

import json
from pathlib import Path

import kernel_cases
import numpy as np
import pytest
import torch

from benchmarks import kernel_cost, sass, sass_machine
from degrade import kernels, registers
from errors import KernelError
from tools import cuda_shim

pytest.importorskip('cupy')
try:
    sass.disassembler()
except KernelError as e:
    pytest.skip(str(e), allow_module_level=True)

CASES = {case.name: case for case in kernel_cases.cases()}
COMMITTED = Path(kernel_cost.__file__).with_name('results') / 'kernel_cost.json'


# ---- the machine ----


@pytest.mark.parametrize('name', CASES)
def test_machine_code_gives_the_reference(name):
    """So loops and branches are taken as on a GPU, whatever the compiler made of them."""
    with cuda_shim.in_place(sass_machine.launch):
        images = kernel_cases.run_kernels(CASES[name])
    error, allowed = kernel_cases.errors(CASES[name], images)
    assert error <= allowed


def executed(monkeypatch, body, n, threads=64):
    """(instructions of all warps, y) of a kernel of this body for y [threads] and n."""
    text = f'extern "C" __global__ void mine(float* y, int n)\n{{\n    {body}\n}}\n'
    monkeypatch.setattr(kernels, 'source', lambda file: text)
    y = torch.zeros(threads)
    args = y, np.int32(n)
    kernel = sass.kernels_of.__wrapped__('mine.cu')['mine']  # past its cache, which is by name
    grid, block = (1,), (threads,)
    machine = sass_machine.Machine(kernel, grid, block, np.arange(1), *sass_machine.laid_out(args))
    return machine.run(), y


LOOP = """float v = 0;
    #pragma unroll 1
    for (int i = 0; i < {trips}; i++) v = v * 0.5f + 1;
    y[threadIdx.x] = v;"""


def count(run):
    return sum(run[0].instructions.values())


def test_a_loop_counts_by_its_trips(monkeypatch):
    runs = {n: executed(monkeypatch, LOOP.format(trips='n'), n) for n in (4, 5, 14)}
    one = count(runs[5]) - count(runs[4])
    assert one > 0 and count(runs[14]) - count(runs[4]) == 10 * one
    assert runs[4][1].tolist() == [1.875] * 64


def test_a_loop_lasts_as_long_as_its_longest_lane(monkeypatch):
    """Of the other warp, too: each counts for itself."""
    same = executed(monkeypatch, LOOP.format(trips='n * (31 | threadIdx.x >> 9)'), 10)
    longest = executed(monkeypatch, LOOP.format(trips='n * (31 & threadIdx.x)'), 10)
    assert count(longest) == pytest.approx(count(same), rel=0.1)
    first = executed(monkeypatch, LOOP.format(trips='(threadIdx.x < 32 ? n : 0)'), 1000)
    both = executed(monkeypatch, LOOP.format(trips='(threadIdx.x < 64 ? n : 0)'), 1000)
    assert count(first) == pytest.approx(count(both) / 2, rel=0.05)


def test_branches_count_where_lanes_take_both(monkeypatch):
    branch = """float v = 0;
    if ({condition}) {{ _Pragma("unroll 1") for (int i = 0; i < n; i++) v = v * 0.5f + 1; }}
    else {{ _Pragma("unroll 1") for (int i = 0; i < n; i++) v = v * 0.25f - 1; }}
    y[threadIdx.x] = v;"""
    by_warp = executed(monkeypatch, branch.format(condition='threadIdx.x & 32'), 100)
    by_lane = executed(monkeypatch, branch.format(condition='threadIdx.x & 1'), 100)
    assert count(by_lane) == pytest.approx(2 * count(by_warp), rel=0.1)
    assert (by_lane[1][1::2] == 2).all() and (by_lane[1][::2] < -1.3).all()


def test_sectors_are_those_that_a_warp_touches(monkeypatch):
    assert executed(monkeypatch, 'y[threadIdx.x] = n;', 1)[0].sectors == 2 * 4
    spread = executed(monkeypatch, 'y[threadIdx.x % 8 * 8] = n;', 1)[0]
    assert (spread.sectors, spread.distinct) == (2 * 8, 8)


def test_what_a_gpu_would_not_survive_is_an_error(monkeypatch):
    with pytest.raises(AssertionError, match='mine: access out of bounds'):
        executed(monkeypatch, 'y[threadIdx.x + n] = 1;', 1)
    with pytest.raises(AssertionError, match='mine does not end'):
        executed(monkeypatch, 'while (n) y[0] = threadIdx.x;', 1, threads=32)


def test_without_the_disassembler_there_is_a_remedy(monkeypatch):
    monkeypatch.setattr(sass.shutil, 'which', lambda name: None)
    monkeypatch.setattr(sass.importlib.util, 'find_spec', lambda name: None)
    sass.disassembler.cache_clear()
    with pytest.raises(KernelError, match='pip install nvidia-cuda-nvdisasm'):
        sass.disassembler()


# ---- the model ----


def test_blocks_are_chosen_evenly():
    assert kernel_cost._chosen(7, 8).tolist() == list(range(7))
    chosen = kernel_cost._chosen(3 * 16 * 16 * 64, 256)
    assert len(chosen) == 256 and chosen.max() < 3 * 16 * 16 * 64
    samples, columns = np.bincount(chosen // 768), np.bincount(chosen % 16)
    assert len(samples) == 64 and samples.min() >= 3 and samples.max() <= 5
    assert len(columns) == 16 and columns.min() >= 6 and columns.max() <= 30


@pytest.mark.parametrize(
    'architecture, registers_, shared, threads, share',
    [
        ('90', 32, 0, 256, 1.0),
        ('90', 48, 38400, 128, 5 * 4 / 64),  # shared memory
        ('90', 64, 0, 256, 0.5),  # registers
        ('90', 16, 0, 32, 0.5),  # blocks
        ('86', 40, 45000, 512, 2 * 16 / 48),
    ],
)
def test_occupancy(architecture, registers_, shared, threads, share):
    usage = registers.Usage('a.cu', 'a', architecture, registers_, shared, 0)
    assert kernel_cost.occupancy(usage, threads) == share


def test_every_kernel_keeps_two_fifths_of_the_warps_and_spills_nothing():
    threads = {}
    for case in CASES.values():
        with cuda_shim.Shim() as shim:
            launch = shim.launch

            def noted(file, name, grid, block, *args, _launch=launch):
                threads[file, name] = int(np.prod(block))
                _launch(file, name, grid, block, *args)

            kernels.launch = noted
            kernel_cases.run_kernels(case)
    used = kernel_cost.usages()
    assert set(threads) == set(used)
    for place, usage in used.items():
        assert usage.spilled == 0 and kernel_cost.occupancy(usage, threads[place]) >= 0.4, usage


def test_the_default_recipe_is_no_dearer_than_committed():
    """An instruction more in an inner loop shows here, before a GPU sees it."""
    committed = json.loads(COMMITTED.read_text())[f'of the first {kernel_cost.FIRST} images']
    found = kernel_cost.costs(kernel_cost.named('ai6126_2024'), kernel_cost.FIRST, 1)
    assert kernel_cost.millions(found) <= 1.05 * committed['ai6126_2024']

    # Nothing was forgotten: most of what is executed are products and sums of the filters.
    assert {cost.stage for cost in found} >= {'usm', 'blur1', 'noise1', 'jpeg1', 'sinc'}
    assert sum(cost.moved for cost in found) > 12e6
    assert all(cost.sectors * 32 >= 0.5 * cost.moved for cost in found if cost.moved > 1e6)
    lines = list(kernel_cost.table(found))
    assert len(lines) == len(found) + 2 and lines[-1].startswith('sum')
