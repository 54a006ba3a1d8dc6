"""Near-duplicates among faces: a hash that survives what copies go through, clusters, their best.

Measured on 1,426 aligned faces of 512 pixels, of which 713 were copied. Share of the copies whose
hash differs from the original's in up to so many bits, in percent:

    bits                                               31      40      48      56
    saved as JPEG (quality 30 to 90), rescaled to
    half, or blurred (sigma 1 to 2), each             100     100     100     100
    brightened by 10 to 30 %                          100     100     100     100
    moved by 1 to 2 % of the side                      42      74      92      99
    all of these kinds, as many of each                88      95      98.5    99.8
    moved, brightened, rescaled and saved at once      37      71      92      99
    found again by MTCNN in a JPEG of quality 30 or
    60, at half the size or blurred, and aligned anew  84      88      91      94

A million pairs of different photographs differ in 120 bits, with a standard deviation of 10: none
in up to 55 but one, which was the same photograph twice, at 48; one in 56, seven in up to 62, 45 in
up to 70, most of them pictures of one studio. With five copies of every other face among the 1,426,
98.5 % of the copies are in the cluster of their original at 48 bits, and two photographs (0.14 %)
in that of another one; at 56 bits 99.7 % and eight. The tail says one false pair in 1e8 or fewer
at 48: sets of many millions are better served by 31 to 40.

Zauner's 64 bits do not tell faces apart that are all aligned: moved copies need 12 bits of these,
up to which 960 of a million pairs of different photographs lie, too. Mirrored copies are none here.
"""

import itertools
import math
from collections.abc import Iterator, Sequence

import cv2
import numpy as np

from sources.aliases import Progress

SMALL = 64  # pixels of the picture that is hashed
SIDE = 16  # frequencies in each direction
BITS = SIDE * SIDE
MOST = 48  # bits in which copies differ at most, for sets of up to a million
WORD = 64  # bits
COMPARISON = 2.0  # times what a lookup takes


def phash(face: np.ndarray) -> int:
    """Return the hash of BITS bits of an aligned face [s, s, 3] uint8 RGB, the whole square.

    Averaged down to 64 pixels of luma; its cosine transform at the frequencies 1 to 16 in both
    directions, each above the median of them or not; the lowest frequency is the highest bit. That
    is PDQ (Facebook 2019, "The TMK+PDQF video-hashing algorithm and the PDQ image-hashing
    algorithm", ch. PDQ), the pHash of Zauner 2010 ("Implementation and benchmarking of perceptual
    image hash functions", sec. 3.2.1) with four times its bits, but for PDQ's blur.
    """
    gray = cv2.cvtColor(face, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(gray, (SMALL, SMALL), interpolation=cv2.INTER_AREA)
    part = cv2.dct(small.astype(np.float64))[1 : SIDE + 1, 1 : SIDE + 1]
    # What is nothing but the last bits of a sum is zero, on all machines.
    part = part.round(6)
    return int.from_bytes(np.packbits(part > np.median(part)).tobytes(), 'big')


def words(hashes: Sequence[int]) -> np.ndarray:
    """Return hashes as [n, BITS / 64] uint64, the highest bits first, as `clusters` takes them."""
    data = b''.join(each.to_bytes(BITS // 8, 'big') for each in hashes)
    return np.frombuffer(data, '>u8').astype(np.uint64).reshape(-1, BITS // WORD)


def clusters(hashes: np.ndarray, most: int, progress: Progress | None = None) -> np.ndarray:
    """Return for each hash [n] or [n, words] uint64 the first member of its cluster: [n] int64.

    Two hashes that differ in up to `most` bits are in one cluster, and so is whoever is linked by
    a chain of such pairs (single linkage, exact).

    By the pigeonhole principle: if the bits are cut into m bands whose radii r sum to most + 1 - m,
    then such a pair differs in up to r bits in some band, or it would differ in more than `most`.
    So only hashes are compared that share a band but for r bits, which a table of the band finds
    (multi-index hashing; Norouzi, Punjani and Fleet 2014, "Fast exact search in Hamming space with
    multi-index hashing", sec. 3). m is the one that takes least. Memory: some 300 bytes a hash.

    A slow core took for random hashes of 256 bits, 100,000 of them at 31 and 48 bits, 2 and 12 s;
    1,000,000 of them 68 s and 11 min. Those of faces are less evenly spread, and 2 to 9 times as
    many are compared.

    progress: takes (bands that are done, all)
    """
    if most < 0:
        raise ValueError(f'{most} bits: hashes differ in none at least')
    rows = hashes[:, None] if hashes.ndim == 1 else hashes
    # Of a picture that is there a million times, all pairs would be compared.
    distinct, which = np.unique(rows, axis=0, return_inverse=True)
    parent = np.arange(len(distinct))
    columns = np.ascontiguousarray(distinct.T)
    bands = _bands(WORD * len(columns), most, len(distinct))
    if progress:
        progress(0, len(bands))
    for done, (bits, radius) in enumerate(bands, 1):
        key = _key(columns, bits)
        # Neighbours in memory, too: what is compared lies close together.
        order = np.argsort(key, kind='stable')
        there = columns[:, order]
        for a, b in _candidates(key[order], len(bits), radius):
            a, b = _near(there, a, b, most)
            _join(parent, order[a], order[b])
        if progress:
            progress(done, len(bands))
    return _first_members(_roots(parent, parent)[which.reshape(-1)])


def best(labels: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """Return which to keep [n] bool: of every cluster the one of the highest rank, or the first.

    labels: [n], of `clusters`
    rank:   [n]; NaN is below all others
    """
    order = np.lexsort((-rank.astype(np.float64), labels))
    sorted_labels = labels[order]
    keep = np.ones(len(labels), bool)
    keep[order[1:]] = sorted_labels[1:] != sorted_labels[:-1]
    return keep


# ---- pairs that may be near ----


def _bands(bits: int, most: int, n: int) -> list[tuple[np.ndarray, int]]:
    """Bits and radius of every band, for n hashes, as cheap as can be."""
    plans = (_cut(bits, most, n, m) for m in range(1, min(most + 1, bits) + 1))
    return min(plans, key=lambda plan: _cost(plan, n))


def _cut(bits: int, most: int, n: int, m: int) -> list[tuple[np.ndarray, int]]:
    """The plan with m bands."""
    # A table of a band has a few places for each hash; more bits of it would not tell more.
    widest = n.bit_length() + 2
    each, over = divmod(most + 1, m)
    # Every m-th bit: neighbouring frequencies go together, and fall into different bands.
    return [(np.arange(i, bits, m)[:widest], each + (i < over) - 1) for i in range(m)]


def _cost(plan: list[tuple[np.ndarray, int]], n: int) -> float:
    """Lookups and, if all hashes were random, comparisons."""
    return sum(
        _masks_of(len(bits), radius) * (n + COMPARISON * n**2 / 2 ** len(bits) / 2)
        for bits, radius in plan
    )


def _masks_of(width: int, radius: int) -> int:
    return sum(math.comb(width, k) for k in range(radius + 1))


def _key(columns: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """[n] int64, these bits of hashes [words, n], the first one highest."""
    key = np.zeros(columns.shape[1], np.int64)
    for word, bit in zip(*np.divmod(bits, WORD), strict=True):
        one = columns[word] >> np.uint64(WORD - 1 - bit) & np.uint64(1)
        key = key << 1 | one.astype(np.int64)
    return key


def _candidates(
    key: np.ndarray, width: int, radius: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of places in sorted keys [n] that differ in up to `radius` of `width` bits, once each.

    Up to n at once.
    """
    start = np.zeros((1 << width) + 1, np.int64)
    np.cumsum(np.bincount(key, minlength=1 << width), out=start[1:])
    here = np.arange(len(key))
    yield from _crossed(here, here + 1, start[key + 1])
    for top in range(width):
        # Of the two that a pair is seen from, the one without the highest of the bits that differ.
        half = np.flatnonzero(key >> top & 1 == 0)
        own = key[half]
        for mask in _masks(top, radius):
            other = own ^ mask
            yield from _crossed(half, start[other], start[other + 1])


def _masks(top: int, radius: int) -> Iterator[int]:
    """Words of up to `radius` bits of which `top` is the highest."""
    for count in range(radius):
        for below in itertools.combinations(range(top), count):
            yield 1 << top | sum(1 << bit for bit in below)


def _crossed(
    a: np.ndarray, low: np.ndarray, high: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of each a with all from its low up to, and without, its high."""
    while True:
        on = np.flatnonzero(low < high)
        if not len(on):
            return
        a, low, high = a[on], low[on], high[on]
        yield a, low
        low = low + 1


def _near(
    columns: np.ndarray, a: np.ndarray, b: np.ndarray, most: int
) -> tuple[np.ndarray, np.ndarray]:
    """Those of the pairs whose hashes [words, n] differ in up to `most` bits."""
    distance = np.zeros(len(a), np.uint16)
    # Half of the words tell most of those that are not.
    for half in np.array_split(columns, 2):
        for column in half:
            distance += np.bitwise_count(column[a] ^ column[b])
        on = np.flatnonzero(distance <= most)
        a, b, distance = a[on], b[on], distance[on]
    return a, b


# ---- clusters ----


def _join(parent: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    """Put the clusters of each pair together, in place; no parent is above its child."""
    while len(a):
        a, b = _roots(parent, a), _roots(parent, b)
        apart = a != b
        a, b = np.minimum(a, b)[apart], np.maximum(a, b)[apart]
        # Where several are put onto one root, the least wins, and the others come again.
        np.minimum.at(parent, b, a)


def _roots(parent: np.ndarray, a: np.ndarray) -> np.ndarray:
    """The roots above these, onto which they are hung, so that the way is short next time."""
    root = parent[a]
    while True:
        above = parent[root]
        if (above == root).all():
            break
        root = above
    parent[a] = root
    return root


def _first_members(roots: np.ndarray) -> np.ndarray:
    """[n] the first place at which each root stands in [n]."""
    first = np.full(len(roots), len(roots))
    np.minimum.at(first, roots, np.arange(len(roots)))
    return first[roots]
