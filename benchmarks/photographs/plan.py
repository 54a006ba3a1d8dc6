"""What a photograph is to show, drawn before anything is painted.

A photo is a function of the seed and its number, and of which aligned faces there are. An aligned
face is used once as it is and once mirrored, so that no face is there a second time but in the
copies that are planted.
"""

import functools
import zlib
from typing import NamedTuple

import numpy as np

from errors import DataError

from . import placing
from .flaws import Flaw
from .placing import Spot

# A photo of good faces; one with bad ones; one without any; a copy of an earlier one.
PLAIN, FLAWED, EMPTY, COPY = KINDS = 'plain', 'flawed', 'empty', 'copy'
SHARES = 0.60, 0.18, 0.10, 0.12
FACES = 0.55, 0.25, 0.12, 0.08  # shares of photos with one to four
SHARD = 250  # photos, as tools/build.py cuts a folder
NEAR = 0.5  # of the copies lie in the shard of their original
GRAY = 0.08
TRIES = 64  # at an original
LONGER = 400, 1600  # pixels of a photo's longer side
SHORTER = 300
WITH_FLAW = 540  # pixels of its shorter side at least where a face has a flaw
# Kinds of files and how often they come: few PNG, which are large.
FILES = {'.jpg': 0.73, '.png': 0.12, '.webp': 0.15}
QUALITY = 60, 95
TURNED = 0.25  # of the JPEG that tell an orientation
STRONG = 10, 30  # qualities that are to be dropped


class File(NamedTuple):
    """How a photo is stored."""

    suffix: str  # of FILES
    quality: int  # of JPEG and WebP
    orientation: int  # of EXIF, 1..8; only of JPEG
    gray: bool  # one channel


class Change(NamedTuple):
    """What was done to a copy."""

    crop: tuple[float, float, float, float]  # parts of the sides: left, top, right, bottom
    scale: float
    gain: float


class Plan(NamedTuple):
    """A photo."""

    number: int
    kind: str  # of KINDS
    width: int
    height: int
    spots: tuple[Spot, ...]
    noise: float  # of the camera, levels
    file: File
    original: int | None = None  # of which a copy is one
    change: Change | None = None


def stream(seed: int, number: int, name: str) -> np.random.Generator:
    """Random numbers of a photo by the name of what they are for."""
    key = np.array([seed, zlib.crc32(name.encode())], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=[0, number, 0, 0]))


# ---- which faces and which originals ----


class Deck:
    """Which kind each photo of a heap is, and which aligned faces it has.

    seed: of the heap; count: photos; faces: aligned faces, None for as many as are needed
    Raises DataError where there are too few.
    """

    def __init__(self, seed: int, count: int, faces: int | None) -> None:
        self.seed = seed
        # Of a larger heap the first photos are the same.
        self._kinds = _chosen(stream(seed, 0, 'kinds').random(count), SHARES)
        counts = 1 + _chosen(stream(seed, 0, 'counts').random(count), FACES)
        counts[self._kinds >= KINDS.index(EMPTY)] = 0
        self._ends = np.cumsum(counts)
        self._faces = faces
        if faces is not None and self._ends[-1] > 2 * faces:
            raise DataError(
                f'{faces:,} aligned faces are too few: {count:,} photographs take '
                f'{self._ends[-1]:,}, each once as it is and once mirrored; give '
                f'{-(-self._ends[-1] // 2):,} faces, or a smaller --count'
            )

    def kind(self, number: int) -> str:
        """Kind of a photo."""
        return KINDS[self._kinds[number]]

    def dealt(self, number: int) -> list[tuple[int, bool]]:
        """Aligned faces of a photo, and whether each is mirrored."""
        first = self._ends[number - 1] if number else 0
        return [self._card(int(i)) for i in range(first, self._ends[number])]

    def _card(self, i: int) -> tuple[int, bool]:
        if self._faces is None:
            return i, bool(i & 1)
        order, sides = self._shuffled
        again, i = divmod(i, self._faces)
        return int(order[i]), bool(sides[i] ^ again)

    @functools.cached_property
    def _shuffled(self) -> tuple[np.ndarray, np.ndarray]:
        rng = stream(self.seed, 0, 'order')
        return rng.permutation(self._faces or 0), rng.integers(0, 2, self._faces)

    def original(self, number: int) -> int | None:
        """Number of the plain photo that this one is a copy of, None where none was found."""
        rng = stream(self.seed, number, 'original')
        first = number - number % SHARD if rng.random() < NEAR else 0
        if first == number:
            return None
        for i in rng.integers(first, number, TRIES):
            if self.kind(int(i)) == PLAIN:
                return int(i)
        return None


def _chosen(draws: np.ndarray, shares: tuple[float, ...]) -> np.ndarray:
    """Indices of shares, which sum to 1, of numbers in [0, 1)."""
    return np.searchsorted(np.cumsum(shares)[:-1], draws, side='right')


# ---- a photo ----


def plan(deck: Deck, number: int) -> Plan:
    """Draw a photo of a heap."""
    if deck.kind(number) != COPY:
        return _fresh(deck, number, deck.kind(number))
    original = deck.original(number)
    return _fresh(deck, number, EMPTY) if original is None else _copy(deck, number, original)


def _fresh(deck: Deck, number: int, kind: str) -> Plan:
    rng = stream(deck.seed, number, 'photo')
    flaw = Flaw.drawn(rng) if kind == FLAWED else None
    width, height = _size(rng, WITH_FLAW if flaw else SHORTER)
    strong = flaw is not None and flaw.name == 'jpeg'
    # A file has one quality, which would spoil other faces, too.
    dealt = deck.dealt(number)[: 1 if strong else None]
    wanted = [
        placing.wanted(rng, which, mirrored, flaw if i == 0 else None)
        for i, (which, mirrored) in enumerate(dealt)
    ]
    spots = placing.placed(rng, wanted, width, height)
    # Little where detail is missing: noise is none, but may be taken for some.
    noise = rng.uniform(0, 1 if flaw else 3)
    file = _file(rng, bool(rng.random() < GRAY))
    if strong:
        file = file._replace(suffix='.jpg', quality=_whole(rng, STRONG))
    return Plan(number, kind, width, height, spots, noise, file)


def _size(rng: np.random.Generator, least: int) -> tuple[int, int]:
    longer = max(least, np.exp(rng.uniform(*np.log(LONGER))))
    shorter = max(least, longer * rng.uniform(0.56, 1))
    sides = round(longer), round(shorter)
    return sides if rng.random() < 0.6 else sides[::-1]


def _file(rng: np.random.Generator, gray: bool) -> File:
    suffix = str(rng.choice(list(FILES), p=list(FILES.values())))
    quality = _whole(rng, QUALITY)
    turned = rng.random() < TURNED
    orientation = int(rng.integers(1, 9))
    return File(suffix, quality, orientation if turned and suffix == '.jpg' else 1, gray)


def _whole(rng: np.random.Generator, span: tuple[int, int]) -> int:
    """A whole number of a range, both ends included."""
    return int(rng.integers(span[0], span[1] + 1))


def _copy(deck: Deck, number: int, original: int) -> Plan:
    rng = stream(deck.seed, number, 'copy')
    crop = rng.uniform(0, 0.04, 4) * (rng.random() < 0.5)
    scale = float(np.exp(rng.uniform(np.log(0.5), np.log(1.5)))) if rng.random() < 0.6 else 1.0
    gain = rng.uniform(0.85, 1.2) if rng.random() < 0.5 else 1.0
    of = plan(deck, original)
    left, top, right, bottom = crop.tolist()
    # Large enough for a face to be one.
    scale = max(scale, 200 / min(of.width, of.height))
    width = max(1, round(of.width * (1 - left - right) * scale))
    height = max(1, round(of.height * (1 - top - bottom) * scale))
    file = _file(rng, of.file.gray)._replace(suffix='.jpg', quality=_whole(rng, QUALITY))
    change = Change((left, top, right, bottom), scale, gain)
    return Plan(number, COPY, width, height, of.spots, 0.0, file, original, change)
