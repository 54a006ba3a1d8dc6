"""Where the faces of a photograph are: apart from each other, and within its borders or cut."""

from typing import NamedTuple

import numpy as np

from . import aligned
from .flaws import Flaw

FACE = 350.0  # pixels of an aligned face's box along its longer side, in the mean
SIDES = 40.0, 400.0  # pixels of such boxes in a photo
FLAWED = 210.0, 300.0  # of those with a flaw, which no other measure shall hide
SMALL = 24.0, 36.0
ANGLE = 35.0  # degrees, at most
CUT_ANGLE = 8.0
CUT = 0.18, 0.30  # of the square that lies outside
ROOM = 1.2  # squares between the borders for a face that is not cut
APART = 0.98  # of a square, for the middles of two equal faces
TRIES = 40
SMALLER = 0.75  # a face that finds no place is tried again so much smaller


class Spot(NamedTuple):
    """A face in a photo."""

    number: int  # aligned face
    mirrored: bool
    square: float  # pixels of the photo that the aligned square is wide
    angle: float  # degrees
    centre: tuple[float, float]  # of the aligned square, x and y
    flaw: Flaw | None

    @property
    def matrix(self) -> np.ndarray:
        """[2, 3] from the aligned face to the photo."""
        return aligned.turned(self.square / aligned.SIDE, self.angle, self.mirrored, self.centre)


def wanted(rng: np.random.Generator, number: int, mirrored: bool, flaw: Flaw | None) -> Spot:
    """Draw a face that has no place yet."""
    span = SIDES if flaw is None else SMALL if flaw.name == 'small' else FLAWED
    side = float(np.exp(rng.uniform(*np.log(span))))
    most = CUT_ANGLE if flaw and flaw.name == 'cut' else ANGLE
    angle = rng.uniform(-most, most)
    return Spot(number, mirrored, side * aligned.SIDE / FACE, angle, (0, 0), flaw)


def placed(
    rng: np.random.Generator, spots: list[Spot], width: int, height: int
) -> tuple[Spot, ...]:
    """Give each face a place, smaller ones where there is no other; some may find none."""
    least = SIDES[0] * aligned.SIDE / FACE
    done: list[Spot] = []
    for spot in spots:
        # A photo may be too small for the face that was drawn.
        most = min(width, height) / ROOM
        spot = spot._replace(square=min(spot.square, most))
        while (free := _tried(rng, spot, done, width, height)) is None:
            spot = spot._replace(square=spot.square * SMALLER)
            if spot.square < least:
                break
        if free:
            done.append(spot._replace(centre=free))
    return tuple(done)


def _tried(
    rng: np.random.Generator, spot: Spot, others: list[Spot], width: int, height: int
) -> tuple[float, float] | None:
    for _ in range(TRIES):
        x, y = _somewhere(rng, spot, width, height)
        away = [np.hypot(x - other.centre[0], y - other.centre[1]) for other in others]
        need = [APART * (spot.square + other.square) / 2 for other in others]
        if all(a >= b for a, b in zip(away, need, strict=True)):
            return x, y
    return None


def _somewhere(
    rng: np.random.Generator, spot: Spot, width: int, height: int
) -> tuple[float, float]:
    """A middle of the square, so that the face is within the borders or cut as it shall be."""
    half = ROOM / 2 * spot.square
    x, y = (half + rng.random() * (side - 2 * half) for side in (width, height))
    if not (spot.flaw and spot.flaw.name == 'cut'):
        return float(x), float(y)
    # From the border to the middle; not below, where a mouth would be lost.
    inside = (0.5 - spot.flaw.within(CUT)) * spot.square
    return ((inside, y), (width - 1 - inside, y), (x, inside))[rng.integers(3)]
