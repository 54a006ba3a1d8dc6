"""Random numbers as a pure function of (seed, sample, name): Philox4x64-10 (Salmon et al., SC 2011), bit-equal to numpy.random.Philox.

Every number is addressed, none is "next": key = (seed, 64-bit hash of the draw's name), counter = (block, sample number, plane, 0). So a sample
looks the same in every batch, on every rank and after every resume, and a new draw leaves all others as they were.
"""

import hashlib
from functools import lru_cache

import numpy as np

_M0, _M1 = np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157)  # round multipliers
_W0, _W1 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBB67AE8584CAA73B)  # key increments
_LOW, _32, _11 = np.uint64(0xFFFFFFFF), np.uint64(32), np.uint64(11)


def _mulhilo(a, b):
    """128-bit product of uint64 `a` and uint64 array `b`, as (high, low) words; from 32-bit halves, none of which can overflow."""
    a0, a1, b0, b1 = a & _LOW, a >> _32, b & _LOW, b >> _32
    mid = a1 * b0 + (a0 * b0 >> _32)
    mid2 = a0 * b1 + (mid & _LOW)
    return a1 * b1 + (mid >> _32) + (mid2 >> _32), a * b


def philox(counter, key):
    """Philox4x64-10 of broadcastable uint64 arrays: counter = 4 words, key = 2 words -> 4 words of random bits."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    with np.errstate(over='ignore'):  # wrapping is the arithmetic meant here
        for _ in range(10):
            h0, l0 = _mulhilo(_M0, c0)
            h1, l1 = _mulhilo(_M1, c2)
            c0, c1, c2, c3 = h1 ^ c1 ^ k0, l1, h0 ^ c3 ^ k1, l0
            k0, k1 = k0 + _W0, k1 + _W1
    return c0, c1, c2, c3


@lru_cache(maxsize=None)
def stream(name):
    """64-bit hash of a draw's name, the same in every process and version."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), 'little')


def bits16(seed, stream, number, plane, n):
    """`n` uniform 16-bit integers [n] uint16 of the field (seed, stream, number, plane): NumPy's own Philox, which counts a block up before it uses it."""
    key = np.array(
        [seed, stream], np.uint64
    )  # as a list, NumPy would make float64 of it where stream >= 2**63
    source = np.random.Philox(key=key, counter=[0, number, plane, 0])
    words = np.random.Generator(source).integers(
        0, 2**64, size=-(-n // 4), dtype=np.uint64
    )  # full range = the raw words, twice as fast
    return words.view(np.uint16)[:n]


class Draw:
    """Scalar draws of one batch.

    seed:    run's seed, 0 <= seed < 2**63
    samples: [B] sample numbers
    known:   list of names asked before, which are evaluated together at once; grows as new names are asked. Keep one list per recipe.
    tied:    names drawn once per batch, i.e. for the number of the batch's first sample (what Real-ESRGAN's code does); see `numbers`.
    batch:   size of the batches that tied draws are tied to.
    pool:    >= batch: a sample takes its tied draws from any of the last pool // batch batches, which is what Real-ESRGAN's queue of training
             pairs does to a batch; here it stays a function of the sample number.
    """

    def __init__(self, seed, samples, known=None, *, tied=(), batch=1, pool=0, prefix=''):
        self.seed, self.samples, self.tied, self.batch, self.pool, self.prefix = (
            seed,
            np.asarray(samples, np.int64),
            tied,
            batch,
            pool,
            prefix,
        )
        self._known = [] if known is None else known
        self._cache = {}
        self._evaluate(self._known)

    def at(self, prefix):
        """The same draws under a stage's name: draw.at('blur1').uniform('sigma') is draw.uniform('blur1/sigma')."""
        view = object.__new__(Draw)
        view.__dict__.update(self.__dict__, prefix=prefix + '/')
        return view

    def uniform(self, name, low=0.0, high=1.0):
        """[B] float64 in [low, high)."""
        return low + (high - low) * self._unit(self.prefix + name)

    def integers(self, name, low, high):
        """[B] int64 in low..high, both included."""
        return low + np.floor(self.uniform(name) * (high - low + 1)).astype(np.int64)

    def choice(self, name, weights):
        """[B] int64 index into `weights`, drawn with these relative weights."""
        edges = np.cumsum(np.asarray(weights, np.float64))
        return np.minimum(
            np.searchsorted(edges / edges[-1], self.uniform(name), side='right'), len(edges) - 1
        )

    def order(self, name, n):
        """[B, n] int64: a permutation of 0 .. n - 1 per sample, all equally likely."""
        return np.argsort(
            np.stack([self.uniform(f'{name}/{i}') for i in range(n)], 1), 1, kind='stable'
        )

    def numbers(self, name):
        """[B] int64 sample numbers that the draw `name` belongs to: the samples themselves, or, for tied names, the first of their batch."""
        if self.prefix + name not in self.tied:
            return self.samples
        group = self.samples // self.batch
        if self.pool:
            u = self.at('pool').uniform('pick')
            group = np.maximum(group - np.floor(u * (self.pool // self.batch)).astype(np.int64), 0)
        return group * self.batch

    def stream(self, name):
        """Key of a noise field: (seed, stream) as two uint64 integers."""
        return self.seed, stream(self.prefix + name)

    def _unit(self, full):
        if full not in self._cache:
            self._known.append(full)
            self._evaluate([full])
        return self._cache[full]

    def _evaluate(self, names):
        names = list(names)
        if not names:
            return
        if self.pool and 'pool/pick' not in self._cache and names != ['pool/pick']:
            self._evaluate(['pool/pick'])  # tied numbers depend on it
        root = self.at('')
        root.prefix = ''
        numbers = np.stack([root.numbers(n) for n in names]).astype(np.uint64)  # [names, B]
        keys = np.array([stream(n) for n in names], np.uint64)[:, None]
        one, zero = np.uint64(1), np.zeros((1, 1), np.uint64)  # NumPy's first block has counter 1
        words = philox((zero + one, numbers, zero, zero), (np.uint64(self.seed), keys))[0]
        unit = (words >> _11).astype(np.float64) * 2.0**-53  # as numpy.random.Generator.random
        self._cache.update(zip(names, unit))
