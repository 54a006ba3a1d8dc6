"""Random numbers by address: NumPy's Philox to the bit, and what a draw depends on."""

import numpy as np
import pytest

from degrade import draw
from degrade.draw import Draw

WORD = 2**64


def test_philox_is_numpys():
    rng = np.random.default_rng(0)
    counters = [tuple(int(v) for v in rng.integers(0, WORD, 4, np.uint64)) for _ in range(200)]
    counters += [(0, 0, 0, 0), (0, 1, 0, 0), (0, WORD - 1, 3, 0), (WORD - 1,) * 4, (1, 0, 0, 0)]
    keys = [tuple(int(v) for v in rng.integers(0, WORD, 2, np.uint64)) for _ in counters[5:]]
    keys += [(0, 0), (WORD - 1, WORD - 1), (1, 0), (0, 1), (5, 7)]
    words = draw.philox(np.array(counters, np.uint64).T, np.array(keys, np.uint64).T)
    for i, (counter, key) in enumerate(zip(counters, keys, strict=True)):
        # NumPy counts up first.
        before = (sum(c << 64 * j for j, c in enumerate(counter)) - 1) % 2**256
        numpy_words = np.random.Philox(counter=before, key=key[0] + (key[1] << 64)).random_raw(4)
        assert [int(w[i]) for w in words] == numpy_words.tolist()


@pytest.mark.parametrize('seed', [0, 1, 2**63 - 1])
def test_uniform_is_numpys(seed):
    samples = [0, 1, 63, 10**6, 2**40]
    names = 'blur1/sigma_x', 'order', 'a', 'noise/field'
    assert {draw.stream(n) >= 2**63 for n in names} == {False, True}
    for name in names:
        # One integer: NumPy makes float64 of lists with words from 2**63 on.
        key = seed + (draw.stream(name) << 64)
        expected = [
            np.random.Generator(np.random.Philox(key=key, counter=[0, s, 0, 0])).random()
            for s in samples
        ]
        d = Draw(seed, samples)
        assert d.uniform(name).tolist() == expected
        assert d.at('x').uniform('y').tolist() == d.uniform('x/y').tolist()
        assert d.uniform(name, -2, 5).tolist() == [-2 + 7 * u for u in expected]


def test_draws_do_not_depend_on_the_batch_or_its_order():
    whole = Draw(3, np.arange(100)).uniform('a')
    picked = np.random.default_rng(0).permutation(100)[:17]
    assert (Draw(3, picked).uniform('a') == whole[picked]).all()
    assert Draw(3, [42]).uniform('a') == whole[42]


def test_another_name_leaves_the_others_as_they_were():
    d, longer = Draw(3, np.arange(9)), Draw(3, np.arange(9))
    longer.uniform('new')
    assert (d.uniform('a') == longer.uniform('a')).all()
    assert (d.uniform('b') == longer.uniform('b')).all()
    assert (d.uniform('a') != d.uniform('b')).all()
    assert (Draw(4, np.arange(9)).uniform('a') != d.uniform('a')).all()


@pytest.mark.parametrize('pool', [0, 24])
def test_names_evaluated_together_give_the_same_values(pool):
    names, known = ['a', 's/b', 's/c', 'd'], []
    how = dict(tied={'a', 's/c'}, batch=8, pool=pool)
    first = Draw(1, np.arange(64), known, **how)
    values = [first.uniform(n) for n in names]
    assert set(names) <= set(known)
    second = Draw(1, np.arange(64), known, **how)
    for name, value in zip(names, values, strict=True):
        assert (second.uniform(name) == value).all()
        assert (Draw(1, np.arange(64), **how).uniform(name) == value).all()


def test_tied_draws_are_equal_within_a_batch_and_differ_between():
    d = Draw(1, np.arange(40), tied={'s/a'}, batch=8)
    a = d.at('s').uniform('a').reshape(5, 8)
    assert (a == a[:, :1]).all() and len(set(a[:, 0])) == 5
    assert (a[:, 0] == Draw(1, np.arange(0, 40, 8)).uniform('s/a')).all()
    assert len(set(d.uniform('a'))) == 40  # another name: not tied
    # Alone as in its batch.
    assert (Draw(1, [19], tied={'s/a'}, batch=8).uniform('s/a') == a[2, 0]).all()


def test_pool_takes_ties_from_its_last_batches():
    batch, pool, samples = 4, 15, np.arange(4000)  # 15 // 4 = 3 batches
    d = Draw(1, samples, tied={'a', 'b'}, batch=batch, pool=pool)
    number = d.numbers('a')
    age = samples // batch - number // batch
    assert (number % batch == 0).all() and (number >= 0).all()
    assert set(age) == {0, 1, 2} and all(abs((age == n).mean() - 1 / 3) < 0.03 for n in range(3))
    assert (age[:batch] == 0).all()  # nothing before the first
    assert (d.numbers('b') == number).all()  # a pair leaves the queue whole
    assert (d.uniform('a') == Draw(1, number).uniform('a')).all()
    assert (d.uniform('free') == Draw(1, samples).uniform('free')).all()
    assert (
        Draw(1, samples[77:80], tied={'a'}, batch=batch, pool=pool).uniform('a')
        == d.uniform('a')[77:80]
    ).all()


def test_choice_follows_its_weights():
    n, weights = 40000, np.array([1, 0, 3, 2, 0])
    drawn = np.bincount(Draw(1, np.arange(n)).choice('a', weights), minlength=5) / n
    share = weights / weights.sum()
    # 0 where the weight is 0.
    assert (np.abs(drawn - share) <= 4.5 * np.sqrt(share * (1 - share) / n)).all()


def test_integers_include_both_ends():
    n = 20000
    shares = np.bincount(Draw(1, np.arange(n)).integers('a', 3, 10), minlength=12) / n
    assert shares[:3].sum() == shares[11:].sum() == 0
    assert (np.abs(shares[3:11] - 1 / 8) < 4.5 * np.sqrt(7 / 64 / n)).all()


@pytest.mark.parametrize('n', [1, 3, 4, 4097])
def test_bits16_are_numpys_raw_words(n):
    for stream in 7, 2**63 + 1025, 2**64 - 3:
        raw = np.random.Philox(key=5 + (stream << 64), counter=[0, 11, 1, 0]).random_raw(-(-n // 4))
        expected = (
            raw[:, None] >> np.arange(0, 64, 16, dtype=np.uint64) & np.uint64(0xFFFF)
        ).ravel()[:n]
        bits = draw.bits16(5, stream, 11, 1, n)
        assert bits.dtype == np.uint16 and (bits == expected).all()

        # And the same as this module's own.
        counters = np.arange(1, -(-len(raw) // 4) + 1, dtype=np.uint64)
        address = (counters, *(np.uint64(v) for v in (11, 1, 0)))
        words = draw.philox(address, (np.uint64(5), np.uint64(stream)))
        assert (np.stack(words, 1).ravel()[: len(raw)] == raw).all()


def test_uniform_draws_are_uniform_and_uncorrelated():
    u = np.stack([Draw(s, np.arange(10000)).uniform(n) for s in (0, 1) for n in ('a', 'b')])
    assert (np.abs(u.mean(1) - 0.5) < 4.5 / np.sqrt(12 * 10000)).all()
    assert u.min() >= 0
    assert u.max() < 1
    assert np.abs(np.corrcoef(u) - np.eye(4)).max() < 0.045


def test_orders_are_permutations_and_all_come():
    order = Draw(2, np.arange(4800)).at('x').order('y', 4)
    assert (np.sort(order, 1) == np.arange(4)).all()
    orders, counts = np.unique(order, axis=0, return_counts=True)
    assert len(orders) == 24 and np.abs(counts - 200).max() < 70  # 5 standard deviations of a count
    assert (Draw(2, [4711]).order('x/y', 4) == order[4711]).all()
