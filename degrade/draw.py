"""Random numbers as a pure function of (seed, sample, name): Philox4x64-10.

The generator is that of Salmon et al. (SC 2011), bit-equal to numpy.random.Philox. Every number is
addressed, none is "the next": key = (seed, 64-bit hash of the draw's name), counter = (block,
sample number, plane, 0). Hence a sample looks the same in every batch, on every rank and after
every resume, and a new draw leaves all others as they were.
"""

import hashlib
from collections.abc import Collection, Iterable, Sequence
from functools import cache

import numpy as np
from numpy.typing import ArrayLike

_M0, _M1 = np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157)  # round multipliers
_W0, _W1 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBB67AE8584CAA73B)  # key increments
_LOW, _32, _11 = np.uint64(0xFFFFFFFF), np.uint64(32), np.uint64(11)
BLOCK = 1 << 14  # numbers that are drawn at once


def _mulhilo(a: np.uint64, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """128-bit product of `a` and the uint64 array `b` as (high, low) words.

    It is put together from 32-bit halves, none of which can overflow.
    """
    # In place: most of the time of large arrays goes into fetching memory.
    a0, a1, low, high = a & _LOW, a >> _32, b & _LOW, b >> _32
    carry = low * a0
    carry >>= _32
    low *= a1
    low += carry  # the middle of the product, first part
    product = high * a1
    high *= a0
    high += low & _LOW  # second part
    low >>= _32
    high >>= _32
    product += low
    product += high
    return product, b * a


def philox(
    counter: Sequence[np.ndarray], key: Sequence[np.ndarray | np.uint64]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Philox4x64-10 of broadcastable uint64 arrays.

    counter: 4 words; key: 2 words. Returns 4 words of random bits.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    with np.errstate(over='ignore'):  # the key is meant to wrap around
        for _ in range(10):
            h0, l0 = _mulhilo(_M0, c0)
            h1, l1 = _mulhilo(_M1, c2)
            c0, c1, c2, c3 = h1 ^ c1 ^ k0, l1, h0 ^ c3 ^ k1, l0
            k0, k1 = k0 + _W0, k1 + _W1
    return c0, c1, c2, c3


@cache
def stream(name: str) -> int:
    """64-bit hash of a draw's name, the same in every process and version."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), 'little')


def bits16(seed: int, stream: int, number: int, plane: int, n: int) -> np.ndarray:
    """The first `n` uniform 16-bit integers, [n] uint16, of a field.

    The field is addressed by (seed, stream, number, plane) and comes from NumPy's own Philox, which
    increments the block counter before it uses it.
    """
    # As an array: of a list NumPy would make float64 where stream >= 2**63.
    key = np.array([seed, stream], np.uint64)
    source = np.random.Philox(key=key, counter=[0, number, plane, 0])

    # The full range of `integers` returns the raw words, twice as fast as `random_raw`.
    generator = np.random.Generator(source)
    words = generator.integers(0, 2**64, size=-(-n // 4), dtype=np.uint64)
    return words.view(np.uint16)[:n]


class Draw:
    """Scalar draws of one batch.

    seed:    seed of the run, 0 <= seed < 2**63
    samples: [B] sample numbers
    known:   names asked for in earlier batches, all of which are evaluated at once; the list grows
             as new names are asked for. Use one list per recipe.
    tied:    names drawn once per batch, that is for the number of the batch's first sample, which
             is what Real-ESRGAN's code does; see `numbers`.
    batch:   size of the batches that tied draws are tied to.
    pool:    >= batch: a sample takes its tied draws from any of the last pool // batch batches,
             which is what Real-ESRGAN's queue of training pairs does to a batch; here it remains a
             function of the sample number.
    prefix:  stage's name and a slash, put before every name; see `at`.
    """

    def __init__(
        self,
        seed: int,
        samples: ArrayLike,
        known: list[str] | None = None,
        *,
        tied: Collection[str] = (),
        batch: int = 1,
        pool: int = 0,
        prefix: str = '',
    ) -> None:
        """Evaluate the draws `known` from earlier batches in one vectorised pass."""
        self.seed = seed
        self.samples = np.asarray(samples, np.int64)
        self.tied = frozenset(tied)
        self.batch = batch
        self.pool = pool
        self.prefix = prefix
        self._known = [] if known is None else known
        self._cache: dict[str, np.ndarray] = {}
        self._evaluate(self._known)

    def at(self, prefix: str) -> 'Draw':
        """The same draws, named under a stage.

        draw.at('blur1').uniform('sigma') is draw.uniform('blur1/sigma').
        """
        return self._view(prefix + '/')

    def _view(self, prefix: str) -> 'Draw':
        view = object.__new__(Draw)
        view.__dict__.update(self.__dict__, prefix=prefix)
        return view

    def uniform(self, name: str, low: float = 0.0, high: float = 1.0) -> np.ndarray:
        """[B] float64 in [low, high)."""
        return low + (high - low) * self._unit(self.prefix + name)

    def integers(self, name: str, low: int, high: int) -> np.ndarray:
        """[B] int64 in low..high, both included."""
        return low + np.floor(self.uniform(name) * (high - low + 1)).astype(np.int64)

    def choice(self, name: str, weights: ArrayLike) -> np.ndarray:
        """[B] int64 index into `weights`, drawn with these relative weights."""
        edges = np.cumsum(np.asarray(weights, np.float64))
        index = np.searchsorted(edges / edges[-1], self.uniform(name), side='right')
        return np.minimum(index, len(edges) - 1)

    def order(self, name: str, n: int) -> np.ndarray:
        """[B, n] int64: a permutation of 0 .. n - 1 per sample, all equally likely."""
        ranks = np.stack([self.uniform(f'{name}/{i}') for i in range(n)], 1)
        return np.argsort(ranks, 1, kind='stable')

    def numbers(self, name: str) -> np.ndarray:
        """[B] int64 sample numbers that the draw `name` belongs to.

        These are the samples themselves or, for a tied name, the first of their batch.
        """
        if self.prefix + name not in self.tied:
            return self.samples
        # A tied name is drawn for the batch; with a pool, for one of the last few batches.
        group = self.samples // self.batch
        if self.pool:
            u = self.at('pool').uniform('pick')
            group = np.maximum(group - np.floor(u * (self.pool // self.batch)).astype(np.int64), 0)
        return group * self.batch

    def stream(self, name: str) -> tuple[int, int]:
        """Key of a noise field: (seed, stream) as two unsigned 64-bit integers."""
        return self.seed, stream(self.prefix + name)

    def _unit(self, full: str) -> np.ndarray:
        if full not in self._cache:
            self._known.append(full)
            self._evaluate([full])
        return self._cache[full]

    def _evaluate(self, names: Iterable[str]) -> None:
        """Draw [names, B] numbers in [0, 1) in one pass and cache them by name."""
        names = list(names)
        if not names:
            return
        # The sample numbers of tied draws depend on this draw.
        if self.pool and 'pool/pick' not in self._cache and names != ['pool/pick']:
            self._evaluate(['pool/pick'])

        # A few names at a time, whose numbers fit in the CPU's cache. The samples are the same for
        # all names that are not tied.
        root = self._view('')
        count = max(BLOCK // max(len(self.samples), 1), 1)
        for i in range(0, len(names), count):
            some = names[i : i + count]
            numbers = self.samples[None]
            if not self.tied.isdisjoint(some):
                numbers = np.stack([root.numbers(n) for n in some])
            self._cache.update(zip(some, self._units(some, numbers), strict=True))

    def _units(self, names: list[str], numbers: np.ndarray) -> np.ndarray:
        """[names, B] numbers in [0, 1) of sample numbers [names or 1, B]."""
        # NumPy's first block has the counter 1, so the first word here is NumPy's first, too.
        keys = np.array([stream(n) for n in names], np.uint64)[:, None]
        zero = np.zeros((1, 1), np.uint64)
        counter = zero + np.uint64(1), numbers.astype(np.uint64), zero, zero
        words = philox(counter, (np.uint64(self.seed), keys))[0]

        # 53 bits of mantissa, as numpy.random.Generator.random has them.
        return (words >> _11).astype(np.float64) * 2.0**-53
