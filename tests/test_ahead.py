"""Steps planned many batches at a time, and ahead: the same as each planned alone."""

import threading
import types
from itertools import islice

import numpy as np
import pytest
import torch

import degrade
from dali_pipes.ahead import TOGETHER, Steps, planned
from dali_pipes.paired import PairedPlan, StackedPlan
from dali_pipes.parse_plan import ParsePlan, PointPlan
from dali_pipes.plan import Plan
from sources import order

SIZE, COUNT, SEED = 64, 10, 3
POINTS = np.random.default_rng(0).uniform(0, SIZE, (COUNT, 5, 2))
SHARED = dict(batch=3, size=SIZE, seed=SEED)
RECIPE = degrade.recipe('ai6126_2024')
POOLED = degrade.recipe('ai6126_2024_parity')._replace(pool=12)


def plans():
    """Functions that make a plan, by name."""
    for name in degrade.RECIPES:
        recipe = degrade.recipe(name)
        yield name, lambda recipe=recipe: Plan(COUNT, recipe, **SHARED)
        yield f'parse {name}', lambda recipe=recipe: ParsePlan(COUNT, recipe=recipe, **SHARED)
    yield 'pooled', lambda: Plan(COUNT, POOLED, **SHARED)
    yield 'crop', lambda: Plan(COUNT, RECIPE, crop=24, **SHARED)
    yield 'sharp target', lambda: Plan(COUNT, RECIPE, target_usm=True, **SHARED)
    yield 'plain input', lambda: Plan(COUNT, RECIPE, lq_from_usm=False, **SHARED)
    yield 'stream', lambda: Plan(None, RECIPE, **SHARED)
    yield 'parse', lambda: ParsePlan(COUNT, **SHARED)
    yield 'points', lambda: PointPlan(POINTS, **SHARED)
    yield 'pairs', lambda: PairedPlan(COUNT, 4, crop=24, **SHARED)
    yield 'stacked', lambda: StackedPlan(COUNT, 1, **SHARED)


PLANS = dict(plans())


def same(a, b):
    """Whether nested tuples of arrays are equal to the bit."""
    if a is None or b is None:
        return a is b
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))


@pytest.mark.parametrize('name', PLANS)
def test_planned_together_is_planned_alone(name):
    """From the beginning, resumed in the middle of a batch, and on the last of three ranks."""
    for start, rank, world in ((0, 0, 1), (1234, 0, 1), (30, 2, 3)):
        batches = list(islice(order.shard(start, 3, rank, world), TOGETHER))
        # Fresh plans, so that neither knows names of draws from the other.
        together, alone = PLANS[name](), PLANS[name]()
        for step, samples in zip(planned(together, batches, True), batches, strict=True):
            own = alone(samples)
            assert same(step, own._replace(records=alone.records(own)))


def test_passes_of_any_length_are_the_same():
    batches = list(islice(order.shard(5, 3), 20))
    whole = planned(PLANS['pooled'](), batches)
    for length in (1, 2, 7):
        parts = [batches[i : i + length] for i in range(0, 20, length)]
        plan = PLANS['pooled']()
        assert same(tuple(whole), tuple(s for part in parts for s in planned(plan, part)))


# ---- the thread ----


def steps(plan, device):
    options = types.SimpleNamespace(start=7, rank=1, world=2, device=torch.device(device))
    return Steps(plan, options)


def planners():
    return [t for t in threading.enumerate() if t.name.startswith('plan')]


def test_ahead_is_in_turn():
    """For a GPU by a thread, for a CPU without one; only a GPU's steps have records."""
    before = planners()
    on_cpu, on_gpu = steps(PLANS['crop'](), 'cpu'), steps(PLANS['crop'](), 'cuda')
    taken = [(next(on_cpu), next(on_gpu)) for _ in range(1600)]
    assert all(same(a, b._replace(records=())) for a, b in taken)
    assert all(len(b.records) == len(RECIPE.stages) for _, b in taken)
    assert [a.sample[0] for a, _ in taken[:3]] == [10, 16, 22]
    assert len(planners()) == len(before) + 1
    on_cpu.close()
    on_gpu.close()
    assert planners() == before


class Failing(Plan):
    """Fails from the second pass on."""

    def __call__(self, samples):
        if samples[0] > 10:
            raise ValueError(f'no plan for {samples[0]}')
        return super().__call__(samples)


@pytest.mark.parametrize('device', ['cpu', 'cuda'])
def test_a_fault_is_raised_where_its_step_is_asked_for(device):
    failing = steps(Failing(COUNT, RECIPE, **SHARED), device)
    first = list(islice(failing, max(TOGETHER, 2048 // 3)))
    with pytest.raises(ValueError, match='no plan for'):
        next(failing)
    assert len(first) == max(TOGETHER, 2048 // 3)
    failing.close()
