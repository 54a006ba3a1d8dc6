"""Who is drawn: the person's traits, proportions and pose, and the 68 landmarks that follow.

The landmarks are in iBUG order. `side` is -1 for the left and 1 for the right of the picture.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .canvas import bell, curve, mix, stream


class Pose(NamedTuple):
    """The map between face units and picture units, both 0..1 over the picture.

    Yaw pushes sideways what is near; roll, scale and shift follow.
    """

    yaw: float  # push of the midline in face units
    roll: float  # radians
    scale: float
    dx: float
    dy: float

    def to_face(self, px: np.ndarray, py: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Picture -> face units, of arrays that broadcast."""
        c = np.float32(np.cos(self.roll) / self.scale)
        s = np.float32(np.sin(self.roll) / self.scale)
        qx, qy = px - 0.5 - self.dx, py - 0.5 - self.dy
        x, y = c * qx + s * qy, -s * qx + c * qy + 0.5
        return (x - self._push(x, y)).astype(np.float32), y.astype(np.float32)

    def to_picture(self, p: np.ndarray) -> np.ndarray:
        """[..., 2] face -> picture units, the inverse of to_face.

        It is found by fixed-point iteration: the push is a contraction.
        """
        x = p[..., 0]
        for _ in range(16):
            x = p[..., 0] + self._push(x, p[..., 1])
        y = p[..., 1] - 0.5
        c, s = np.cos(self.roll) * self.scale, np.sin(self.roll) * self.scale
        places = [c * x - s * y + 0.5 + self.dx, s * x + c * y + 0.5 + self.dy]
        return np.stack(places, -1).astype(np.float32)

    def _push(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The head is an ellipsoid with a nose: what stands out moves most."""
        head = np.maximum(0, 1 - np.square(x / 0.42))
        return np.float32(self.yaw) * (head + 0.35 * bell(x, 0, 0.10) * bell(y, 0.60, 0.08))


class Person(NamedTuple):
    """Traits and proportions; lengths in face units."""

    seed: int
    pose: Pose
    man: bool
    age: float  # 0 young .. 1 old
    tone: float  # 0 light .. 1 dark skin
    hair: str  # bald buzz short tied bob long afro
    hair_rgb: tuple[float, float, float]  # sRGB 0..255
    fringe: bool
    beard: str  # none stubble full moustache goatee
    hat: str  # none beanie cap brim
    glasses: str  # none clear dark
    earring: bool
    necklace: bool
    # Direction to the light: x, y, z (y down, z to the camera), of unit length.
    light: tuple[float, float, float]
    jaw: float  # widths and heights, factors about 1 or offsets about 0
    width: float
    chin: float
    nose_w: float
    nose_y: float
    eye_x: float  # centre
    eye_a: float  # half width
    eye_up: float  # opening above and below the centre
    eye_low: float
    eye_tilt: float
    brow_y: float
    arch: float  # rise of the brow
    mouth_y: float
    mouth_w: float  # half width
    lip: float  # fullness, a factor
    smile: float  # 0 .. 1
    gap: float  # opening between the lips
    hairline: float  # y on the midline


# fmt: off
# sRGB, and how often each occurs; lighter colours become rarer the darker the skin is.
HAIR = (
    ( 24,  20,  19),
    ( 38,  28,  24),
    ( 58,  40,  30),
    ( 84,  58,  40),
    (112,  78,  50),
    (150, 112,  70),
    (188, 150, 102),
    (204, 172, 128),
    (140,  62,  30),
    (104,  42,  26),
    (150, 146, 142),
    (205, 203, 198),
)
OFTEN = (3, 3, 3, 2, 2, 1.8, 1.8, 1.3, 1.2, 1, 0.1, 0.03)
LIGHTER = slice(3, 10)  # those that become rarer
GREY = 10  # the first of two
# fmt: on


# ---- drawing a person ----


def person(seed: int) -> Person:
    """The Person of this seed, a different one for each seed."""
    rng = stream(seed, 'person')

    def u(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    # Every draw comes from one stream, so their order is part of what a seed means.
    man = bool(rng.random() < 0.46)
    age = float(rng.beta(1.6, 2.2))
    tone = float(rng.beta(1.1, 1.8))
    style = _style(rng, man, age)
    light = np.array([rng.choice([-1, 1]) * u(0.15, 0.75), -u(0.25, 0.6), u(0.65, 1.0)])
    smile = float(np.clip(rng.beta(1.2, 1.2), 0, 1))
    open_ = _opens(rng, smile)
    return Person(
        seed=seed,
        pose=_pose(rng),
        man=man,
        age=age,
        tone=tone,
        hair_rgb=_hair_colour(rng, tone, age),
        **style,
        light=tuple((light / np.linalg.norm(light)).tolist()),
        jaw=u(0.98, 1.13) if man else u(0.86, 1.0),
        width=u(0.93, 1.05),
        chin=u(0.875, 0.925) + 0.008 * man,
        nose_w=u(0.84, 1.0) + 0.16 * tone + 0.06 * man,
        nose_y=u(-0.012, 0.012),
        eye_x=u(0.121, 0.131),
        eye_a=u(0.055, 0.063),
        eye_up=u(0.022, 0.029) - 0.003 * smile - 0.002 * man,
        eye_low=u(0.0115, 0.0155) - 0.002 * smile,
        eye_tilt=u(-0.004, 0.008),
        brow_y=u(0.388, 0.412) + 0.008 * man,
        arch=u(0.004, 0.018) + 0.006 * (not man),
        mouth_y=u(0.724, 0.742),
        mouth_w=u(0.086, 0.104) + 0.018 * smile,
        lip=u(1.0, 1.45) + 0.2 * tone - 0.25 * man,
        smile=smile,
        gap=u(0.022, 0.05) * (0.35 + 0.65 * smile) if open_ else 0.0,
        hairline=u(0.165, 0.22) - 0.01 * (not man),
    )


def _opens(rng: np.random.Generator, smile: float) -> bool:
    """Whether the mouth is open: often in a wide smile, sometimes without."""
    if smile > 0.5 and rng.random() < 0.75:
        return True
    return bool(rng.random() < 0.12)


def _pick(rng: np.random.Generator, weights: Mapping[str, float]) -> str:
    """One of the names, with these weights."""
    return list(weights)[_index(rng, list(weights.values()))]


def _index(rng: np.random.Generator, weights: Sequence[float] | np.ndarray) -> int:
    """Index into `weights`, drawn with these weights."""
    edges = np.cumsum(weights) / sum(weights)
    return int(np.searchsorted(edges, rng.random(), side='right'))


def _pose(rng: np.random.Generator) -> Pose:
    def clipped(sigma: float) -> float:
        return float(np.clip(rng.normal(0, sigma), -2.2 * sigma, 2.2 * sigma))

    return Pose(
        yaw=clipped(0.026),
        roll=clipped(0.045),
        scale=float(rng.uniform(0.94, 1.05)),
        dx=clipped(0.008),
        dy=clipped(0.008),
    )


def _hair_colour(rng: np.random.Generator, tone: float, age: float) -> tuple[float, float, float]:
    """sRGB 0..255: grey with age, otherwise one of HAIR that goes with the skin."""
    if age > 0.72 and rng.random() < 0.7:
        index = GREY + int(rng.random() < 0.4)
    else:
        weights = np.array(OFTEN)
        weights[LIGHTER] *= np.clip(1 - tone * 1.9, 0.02, 1)
        index = _index(rng, weights)
    # Vary brightness and hue a little.
    rgb = np.array(HAIR[index]) * rng.uniform(0.85, 1.15) * (1 + rng.normal(0, 0.018, 3))
    r, g, b = np.clip(rgb, 8, 235).tolist()
    return r, g, b


def _style(rng: np.random.Generator, man: bool, age: float) -> dict[str, Any]:
    """Hair, fringe, beard, hat, glasses and jewels, by the names of Person's fields."""
    if man:
        styles = {'short': 60, 'buzz': 12, 'bald': 6 + 12 * age, 'long': 7, 'afro': 7}
        beards = {'none': 40, 'stubble': 28, 'full': 18, 'moustache': 6, 'goatee': 8}
        hair, beard = _pick(rng, styles), _pick(rng, beards)
    else:
        hair = _pick(rng, {'long': 56, 'bob': 14, 'tied': 16, 'short': 7, 'afro': 7})
        beard = 'none'
    return dict(
        hair=hair,
        beard=beard,
        fringe=bool(hair in ('long', 'bob') and rng.random() < 0.28),
        hat=_pick(rng, {'none': 84, 'beanie': 6, 'cap': 5, 'brim': 5}),
        glasses=_pick(rng, {'none': 79, 'clear': 16, 'dark': 5}),
        earring=bool(rng.random() < (0.1 if man else 0.6)),
        necklace=bool(rng.random() < (0.08 if man else 0.42)),
    )


# ---- outlines ----

# Half outline of the head: y, half width; below the ears the jaw, above them the skull.
OUTLINE = (
    (0.905, 0.0),
    (0.899, 0.05),
    (0.874, 0.098),
    (0.82, 0.153),
    (0.75, 0.197),
    (0.67, 0.226),
    (0.58, 0.247),
    (0.48, 0.256),
    (0.38, 0.256),
    (0.28, 0.247),
    (0.19, 0.222),
    (0.125, 0.182),
    (0.08, 0.125),
    (0.058, 0.06),
    (0.053, 0.0),
)


def half_outline(p: Person) -> np.ndarray:
    """[m, 2] with x >= 0, from the chin to the top of the skull."""
    knots = []
    for y, w in OUTLINE:
        # The jaw's width and the chin's height act on the lower part alone.
        low = np.clip((y - 0.55) / 0.25, 0, 1)
        x = w * p.width * mix(1, p.jaw, low * (1 - 0.55 * (y > 0.86)))
        knots.append((x, mix(y, y + (p.chin - 0.905) * low, low)))
    return curve(knots, 8)


def head_outline(p: Person, grow: float = 0.0) -> np.ndarray:
    """Closed outline of head and skull [m, 2].

    `grow` pushes it outwards, as hair has thickness.
    """
    half = half_outline(p)
    if grow:
        away = half - (0, 0.45)
        half = half + grow * away / np.linalg.norm(away, axis=1, keepdims=True)
    return np.concatenate([half, half[::-1][1:-1] * (-1, 1)])


def half_width(p: Person, y: np.ndarray | float) -> np.ndarray:
    """Half width of the head at heights y; 0 above the skull and below the chin."""
    half = half_outline(p)[::-1]
    return np.interp(y, half[:, 1], half[:, 0], left=0, right=0).astype(np.float32)


def eye_centre(p: Person, side: int) -> np.ndarray:
    """[2] middle of an eye."""
    return np.array([side * p.eye_x, 0.468], np.float32)


def eye_lids(p: Person, side: int, n: int = 17) -> tuple[np.ndarray, np.ndarray]:
    """Upper and lower lid, each [n, 2] from the inner to the outer corner."""
    # The upper lid is highest towards the nose, the lower one lowest towards the temple.
    u = np.linspace(-1, 1, n)
    upper = -p.eye_up * np.maximum(0, 1 - np.abs(u + 0.14 * (1 - u * u)) ** 2.0) ** 0.95
    lower = p.eye_low * np.maximum(0, 1 - np.abs(u - 0.20 * (1 - u * u)) ** 2.0) ** 1.0
    base = 0.002 - (p.eye_tilt + 0.002) * (u + 1) / 2 - 0.0015 * u
    c = eye_centre(p, side)
    x = c[0] + side * u * p.eye_a
    return np.stack([x, c[1] + base + upper], -1), np.stack([x, c[1] + base + lower], -1)


def brow_line(p: Person, side: int) -> np.ndarray:
    """[5, 2] middle of the brow, from its inner to its outer end."""
    x = np.array([0.05, 0.085, 0.122, 0.16, 0.192])
    y = p.brow_y + np.array([0.008, 0.0, -p.arch * 0.6, -p.arch * 0.7, 0.006])
    return np.stack([side * x, y], -1)


def lips(p: Person) -> list[np.ndarray]:
    """Four open curves [9, 2] from the left to the right of the picture.

    Top of the upper lip, its lower edge, top of the lower lip, its lower edge.
    """
    w, y, f, g = p.mouth_w, p.mouth_y, p.lip, p.gap
    u = np.array([-1, -0.72, -0.45, -0.2, 0, 0.2, 0.45, 0.72, 1])
    bow = np.array([0, 0.0085, 0.0165, 0.0215, 0.0175, 0.0215, 0.0165, 0.0085, 0])
    bead = np.array([0, 0.2, 0, 0.3, 1.3, 0.3, 0, 0.2, 0])

    # A smile lifts the corners; an open mouth moves the lips apart.
    arch = 1 - u * u
    lift = -0.020 * p.smile * (u * u) + 0.006 * p.smile
    top = y + lift - g * 0.35 * arch - f * bow
    inner_top = y + lift - g * 0.35 * arch + 0.002 * f * bead
    inner_low = inner_top + g * arch**0.8 + 1e-4
    low = y + lift + g * 0.65 * arch + f * 0.030 * arch**0.75 * (1 - 0.1 * p.smile)
    return [np.stack([u * w, v], -1) for v in (top, inner_top, inner_low, low)]


# ---- landmarks ----


def landmarks(p: Person) -> np.ndarray:
    """[68, 2] float32 in face units, iBUG order."""
    # Jaw, brows, nose, eyes, and then the outer and the inner lips.
    parts = [
        _jaw_points(p),
        brow_line(p, -1)[::-1],
        brow_line(p, 1),
        *_nose_points(p),
        *(_eye_points(p, side) for side in (-1, 1)),
    ]
    top, inner_top, inner_low, low = lips(p)
    parts.append(np.concatenate([top[[0, 2, 3, 4, 5, 6, 8]], low[[6, 5, 4, 3, 2]]]))
    parts.append(np.concatenate([inner_top[[1, 3, 4, 5, 7]], inner_low[[5, 4, 3]]]))
    return np.concatenate([np.asarray(part, np.float32) for part in parts])


def _jaw_points(p: Person) -> np.ndarray:
    """[17, 2] at equal distances along the jaw."""
    half = half_outline(p)
    half = half[half[:, 1] > 0.45]
    jaw = np.concatenate([half[::-1] * (-1, 1), half[1:]])
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(jaw, axis=0), axis=1))])
    at = np.linspace(0, along[-1], 17)
    return np.stack([np.interp(at, along, jaw[:, 0]), np.interp(at, along, jaw[:, 1])], -1)


def _nose_points(p: Person) -> tuple[np.ndarray, np.ndarray]:
    """Bridge [4, 2] and lower edge [5, 2] of the nose."""
    bridge = [(0, mix(0.462, 0.606 + p.nose_y, t)) for t in (0, 1 / 3, 2 / 3, 1)]
    edge = (-0.045, 0.63), (-0.023, 0.637), (0, 0.641), (0.023, 0.637), (0.045, 0.63)
    return np.array(bridge), np.array([(x * p.nose_w, y + p.nose_y) for x, y in edge])


def _eye_points(p: Person, side: int) -> np.ndarray:
    """[6, 2] around an eye, from the corner at the left of the picture."""
    up, low = eye_lids(p, side)
    ring = np.array([up[0], up[5], up[11], up[16], low[11], low[5]])  # inner corner first
    return ring if side > 0 else ring[[3, 2, 1, 0, 5, 4]]
