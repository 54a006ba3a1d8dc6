"""The host side of the kernels: what is sent to them, and canvases larger than needed."""

import json
import shutil
import types

import numpy as np
import pytest
import torch

import degrade
import synthetic
from benchmarks import host_cost, launches
from config import flags, rules
from dali_pipes import ahead, cache, loader, pipe_dali, pipe_png
from dali_pipes.parse_plan import ParsePlan
from dali_pipes.plan import Plan
from degrade import kernels
from degrade.draw import Draw
from degrade.upload import upload
from errors import FacesError
from tools import cuda_shim

CPU = torch.device('cpu')
needs_gxx = pytest.mark.skipif(not shutil.which('g++'), reason='g++ is not installed')


def drawn(recipe, count, size, start=0):
    draw = Draw(5, np.arange(start, start + count), tied=recipe.tied, batch=4, pool=recipe.pool)
    return degrade.sample(recipe, draw, size)


def test_arrays_arrive_as_they_are():
    """In one copy: every type and shape, empty ones, and structs as bytes."""
    structs = np.zeros(3, [('a', np.float64), ('b', np.int32)])
    structs['b'] = 7
    arrays = [
        np.array([True, False, True]),
        np.arange(5, dtype=np.int64),
        structs,
        np.zeros((0, 4), np.float32),
        np.arange(6, dtype=np.float64).reshape(2, 3).T,
        np.arange(7, dtype=np.uint8),
    ]
    there = kernels.upload(arrays, CPU)
    for array, tensor in zip(arrays, there, strict=True):
        assert tensor.data_ptr() % 16 == 0 or not tensor.numel()
        if array.dtype.names:
            assert tensor.numpy().tobytes() == array.tobytes()
        else:
            assert tensor.numpy().dtype == array.dtype and (tensor.numpy() == array).all()
            assert (upload(array, CPU).numpy() == array).all()


@pytest.mark.parametrize('recipe', degrade.RECIPES)
def test_records_of_many_samples_are_those_of_each(recipe):
    """They are made for many batches at once and then cut."""
    recipe, size = degrade.recipe(recipe), (96, 96)
    params = drawn(recipe, 12, size)
    together = degrade.records(recipe, params, size)
    for start in (0, 4, 8):
        part = slice(start, start + 4)
        own = degrade.records(recipe, degrade.take(params, part), size)
        assert [r[part].tobytes() for r in together] == [r.tobytes() for r in own]


@needs_gxx
@pytest.mark.parametrize('recipe', ['ai6126_2024', 'ai6126_2022', 'face_renovation', 'bicubic'])
def test_padding_changes_no_bit(recipe, monkeypatch):
    """Canvases of the very size, and rounded up to 64 with whatever the memory held before."""
    recipe, size = degrade.recipe(recipe), (60, 60)
    faces = np.stack([synthetic.face(i, 60).image for i in range(4)])
    x = torch.from_numpy(faces).permute(0, 3, 1, 2)
    params = drawn(recipe, 4, size)
    blank = kernels.blank

    def filled(value):
        return lambda *a, **k: blank(*a, **k).fill_(value)

    with cuda_shim.Shim():
        rounded = degrade.degrade(x, recipe, params, 'cuda')
        for value in (0, 200):
            monkeypatch.setattr(kernels, 'blank', filled(value))
            assert torch.equal(degrade.degrade(x, recipe, params, 'cuda'), rounded)
        monkeypatch.setattr(kernels, 'SIDE', 1)
        assert torch.equal(degrade.degrade(x, recipe, params, 'cuda'), rounded)
    assert rounded.shape[2:] == (60 // recipe.scale,) * 2
    assert rounded.is_contiguous(memory_format=torch.channels_last)


@needs_gxx
@pytest.mark.parametrize('kind', ['restore', 'sharp target', 'plain input', 'parse'])
def test_records_sent_ahead_are_those_sent_with_the_chain(kind, monkeypatch):
    """A loader sends them with everything else that is small, in one copy."""
    recipe, shared = degrade.recipe('ai6126_2024'), dict(batch=3, size=64)
    plan = {
        'restore': lambda: Plan(9, recipe, **shared),
        'sharp target': lambda: Plan(9, recipe, target_usm=True, **shared),
        'plain input': lambda: Plan(9, recipe, target_usm=True, lq_from_usm=False, **shared),
        'parse': lambda: ParsePlan(9, recipe=recipe, **shared),
    }[kind]()
    (step,) = ahead.planned(plan, [np.arange(3)], records=True)
    decoded = torch.randint(256, (3, 64, 64, plan.channels), dtype=torch.uint8)
    sent, original = [], kernels.upload

    def upload(arrays, device):
        sent.append(device)
        return original(arrays, CPU)

    monkeypatch.setattr(kernels, 'upload', upload)
    gpu = torch.device('cuda', 0)
    there, x = loader.completed(None, step, np.arange(3), decoded, np.arange(3), gpu)
    assert sent == [gpu] and all(map(torch.is_tensor, there.records))
    bare = step._replace(records=())
    with cuda_shim.Shim():
        expected = plan.finish(x.permute(0, 3, 1, 2), bare, 'cuda')
        before = len(sent)
        ours = plan.finish(x.permute(0, 3, 1, 2), there, 'cuda')
    assert len(sent) == before
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True) if a is not None)


def test_cached_and_decoded_images_are_put_in_their_places():
    """Some of a batch come from the cache, the others go there; all are flipped."""
    images = torch.randint(256, (9, 8, 8, 3), dtype=torch.uint8)
    step = Plan(9, degrade.recipe('bicubic'), batch=9, size=8)(np.arange(9))
    flips = torch.from_numpy(step.flip)[:, None, None, None]
    ordered = images[step.index]
    expected = torch.where(flips, ordered.flip(2), ordered)
    memory = cache.Memory(9, 8, CPU, on_gpu=False)
    for places in (np.arange(9), np.array([7, 2]), np.arange(0), np.arange(9)):
        memory._full[step.index[places]] = False
        decoded = ordered[places] if len(places) else None
        used = step.index[places]
        _, x = loader.completed(memory, step, places, decoded, used, CPU)
        assert torch.equal(x, expected) and not len(memory.missing(step.index))


def test_sizes_of_canvases_repeat():
    """The largest sizes of 50 batches are few after rounding."""
    recipe = degrade.recipe('ai6126_2024')
    pix = torch.empty(1, 3, 512, 512, device='meta')
    seen = set()
    for i in range(50):
        params = drawn(recipe, 8, (512, 512), 8 * i)
        seen |= {kernels.blank(pix, p.size.max(0)).shape for p in params if hasattr(p, 'size')}
    assert len(seen) <= 40


# ---- without DALI ----


def test_png_on_a_gpu_needs_no_dali(monkeypatch):
    """Neither as an option nor in a pipe."""
    reader = types.SimpleNamespace(jph=False)
    options = types.SimpleNamespace(device=torch.device('cuda', 0), reader=reader)
    monkeypatch.setattr(pipe_dali, 'installed', lambda: False)
    assert pipe_png.decoder('auto', None, options, pytest.fail) == 'png'
    assert pipe_png.decoder('gpu', None, options, pytest.fail) == 'png'

    monkeypatch.setattr(flags, 'has_dali', lambda: False)
    assert flags._default_pipe('gpu') == 'dali' and flags._default_pipe('auto') == 'torch'
    refused = [
        decode
        for decode in ('auto', 'cpu', 'gpu')
        if any('needs NVIDIA DALI' in m for m in messages(decode))
    ]
    assert refused == ['auto', 'cpu']


def messages(decode):
    data = types.SimpleNamespace(pipe='dali', decode=decode)
    config = types.SimpleNamespace(data=data, run=types.SimpleNamespace(device='cuda'))
    return [rule.message(config) for rule in rules.MACHINE[1:] if rule.broken(config)]


# ---- the benchmark ----


def test_host_cost_times_what_it_has_checked(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(host_cost, 'BATCHES', (8, 16))
    monkeypatch.setattr(ahead, 'SAMPLES', 64)
    assert host_cost.main(['--rounds', '1', '--json', str(tmp_path / 'host.json')]) == 0
    rows = json.loads((tmp_path / 'host.json').read_text())['rows']
    assert [(row['batch'], row['launches']) for row in rows] == [(8, 27), (16, 27)]
    assert all(row[part] > 0 for row in rows for part in host_cost.PARTS)
    assert 'goal  60' in capsys.readouterr().out


def test_host_cost_refuses_a_batch_that_is_not_as_planned_alone(monkeypatch):
    case = host_cost.case_of(degrade.recipe('bicubic'), 4)
    with launches.left_out() as names:
        host_cost.check(case, names)
        case.steps[0].records[0]['step_x'] += 1
        with pytest.raises(FacesError, match='not as planned alone'):
            host_cost.check(case, names)
