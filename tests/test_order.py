"""Order of the samples: permutations, shards and resume."""

import itertools

import numpy as np
import pytest

from sources import order


@pytest.mark.parametrize('count', [1, 2, 63, 5000])
@pytest.mark.parametrize('seed', [0, 7, 2**63 - 1])
def test_each_epoch_is_a_permutation(count, seed):
    for epoch in (0, 1, 1000):
        image = order.index(np.arange(count) + epoch * count, count, seed)
        assert image.dtype == np.int64 and sorted(image) == list(range(count))


def test_a_number_alone_is_the_number_in_its_batch():
    count, samples = 17, np.random.default_rng(0).integers(0, 1000, 50)
    alone = [order.index(np.array([s]), count, 3)[0] for s in samples]
    assert (order.index(samples, count, 3) == alone).all()


def test_stable_over_versions():
    # Written down once: a change here changes what every resumed run sees.
    words = np.random.Philox(key=np.array([1, order.stream('order/1')], np.uint64)).random_raw(5)
    assert (order.index(np.arange(5, 10), 5, 1) == np.argsort(words)).all()
    assert order.index(np.arange(10), 5, 1).tolist() == [3, 1, 0, 4, 2, 4, 2, 3, 1, 0]


def test_epochs_and_seeds_are_uncorrelated():
    count = 5000
    orders = [
        order.index(np.arange(count) + e * count, count, s)
        for e, s in ((0, 0), (1, 0), (2, 0), (0, 1), (1, 1))
    ]
    for a, b in itertools.combinations(orders + [np.arange(count)], 2):
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.1
        assert (a == b).sum() < 10  # fixed points: 1 expected


@pytest.mark.parametrize('world', [1, 2, 8])
def test_ranks_together_are_the_single_order(world):
    batch, start, steps = 3, 11, 5
    ranks = [
        np.stack(list(itertools.islice(order.shard(start, batch, r, world), steps)))
        for r in range(world)
    ]
    assert all(r.dtype == np.int64 for r in ranks)
    whole = np.stack(list(itertools.islice(order.shard(start, batch * world), steps)))
    assert (np.concatenate(ranks, axis=1) == whole).all()
    assert (whole.ravel() == start + np.arange(batch * world * steps)).all()


def test_resume_is_skipping():
    batch, world, done = 4, 2, 6
    for rank in range(world):
        fresh = itertools.islice(order.shard(0, batch, rank, world), done, done + 5)
        resumed = order.shard(done * batch * world, batch, rank, world)
        assert all((a == b).all() for a, b in zip(fresh, resumed, strict=False))


@pytest.mark.parametrize(
    'wrong',
    [
        lambda: order.index([0], 0, 0),
        lambda: order.index([0], 5, -1),
        lambda: order.index([0], 5, 2**63),
        lambda: order.index([-1], 5, 0),
        lambda: order.shard(0, 4, 2, 2),
        lambda: order.shard(-1, 4),
        lambda: order.shard(0, 0),
    ],
)
def test_values_outside_are_refused(wrong):
    with pytest.raises(ValueError, match='needs'):
        wrong()


def test_the_shared_permutation_cannot_be_changed():
    with pytest.raises(ValueError, match='read-only'):
        order.permutation(0, 10, 0)[0] = 1
