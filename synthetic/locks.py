"""Locks of hair, which all hair styles are made of.

Where hair grows and ends, waves, and the shades and light of strands.
"""

import numpy as np

from .canvas import Sheet, bell, curve, mix, step, stream
from .shape import Person, half_outline, half_width

CREASE = 10  # stretches of different shade along a strand


# ---- where hair grows ----


def hairline(p: Person, n: int = 41) -> np.ndarray:
    """[n, 2] edge of the hair on the forehead.

    From the temple at the left of the picture over the middle to the right.
    """
    a = np.linspace(-1, 1, n)
    back = 0.05 * p.man * p.age  # it recedes with age
    # (share of the head's half width, height below the middle of the hairline).
    knots = np.array(
        [
            (0, 0),
            (0.27, 0.004 - back),
            (0.54, 0.018 - 1.4 * back),
            (0.77, 0.055 - back),
            (0.90, 0.125),
            (0.955, 0.20),
            (1.0, 0.28),
        ]
    )
    half = curve(knots * (half_width(p, 0.36), 1) + (0, p.hairline), 8)
    along = np.linspace(0, 1, len(half))
    x, y = (np.interp(np.abs(a), along, half[:, k]) for k in (0, 1))
    return np.stack([x * np.sign(a), y], -1)


def crown(p: Person, grow: float, n: int = 41, low: float = 0.45) -> np.ndarray:
    """[n, 2] outer edge of the hair over the skull, in the same order as hairline."""
    half = half_outline(p)
    half = half[half[:, 1] < low][::-1]  # from the top of the skull down to the ears
    along = np.linspace(0, 1, len(half))
    fine = np.linspace(0, 1, n // 2 + 1)
    half = np.stack([np.interp(fine, along, half[:, 0]), np.interp(fine, along, half[:, 1])], -1)

    # Away from the middle of the head, less at the sides.
    away = half - (0, 0.42)
    far = grow * np.interp(fine, [0, 0.6, 1], [1, 0.9, 0.35])[:, None]
    half = half + away / np.linalg.norm(away, axis=1, keepdims=True) * far
    return np.concatenate([half[::-1] * (-1, 1), half[1:]])


def scalp(sheet: Sheet, p: Person, grow: float, low: float = 0.45, soft: float = 3.0) -> np.ndarray:
    """Cover between hairline and crown, [s, s]: what is seen between the strands."""
    jitter = stream(p.seed, 'cap').normal(0, 0.004, 41)
    line = hairline(p) + np.stack([0 * jitter, jitter], -1)
    return sheet.cover(np.concatenate([line, crown(p, grow, low=low)[::-1]]), soft=soft)


# ---- colour and light ----


def tints(
    rng: np.random.Generator,
    p: Person,
    lock: np.ndarray,
    n_locks: int,
    points: np.ndarray,
    shine: float = 1.0,
) -> np.ndarray:
    """sRGB shade of each stretch of each strand, [n, CREASE, 3].

    lock:   [n] number of each strand's lock
    points: [n, m, 2] strands
    shine:  strength of the gloss
    Locks and hairs vary, some locks are streaked, roots are darker, and shine runs in bands.
    """
    n = len(lock)
    vary = 1 + rng.normal(0, 0.12, n_locks)[lock] + rng.normal(0, 0.12, n)
    base = np.array(p.hair_rgb) * vary[:, None]
    streak = (rng.random(n_locks) < 0.3)[lock]
    base *= 1 + streak[:, None] * np.array([0.16, 0.10, 0.03])
    t = (np.arange(CREASE) + 0.5)[None, :] / CREASE
    out = base[:, None, :] * np.interp(t, [0, 0.15, 1], [0.78, 0.95, 1.02])[..., None]

    # Two bands of gloss: on the top of the head, and a weaker one where long hair bends.
    height = _middles(points)[..., 1]
    top = bell(height, 0.11 + rng.normal(0, 0.025, n_locks)[lock][:, None], 0.055)
    low = 0.75 * bell(height, 0.62 + rng.normal(0, 0.07, n_locks)[lock][:, None], 0.08)
    of_lock = np.clip(rng.normal(0.6, 0.5, n_locks), 0, 2)[lock][:, None]
    gloss = (top + low) * of_lock * rng.uniform(0.5, 1.3, (n, 1)) * shine
    white = np.array([44, 41, 39]) * (1 - max(p.hair_rgb) / 280)
    return out + gloss[..., None] * (0.30 * out + white)


def _middles(points: np.ndarray) -> np.ndarray:
    """[n, CREASE, 2] middle of each of the stretches of curves [n, m, 2]."""
    index = np.linspace(0, points.shape[1] - 1, 2 * CREASE + 1)[1::2].round().astype(int)
    return points[:, index]


def hair_light(sheet: Sheet, p: Person) -> np.ndarray:
    """Linear light on hair [s, s, 1].

    It is brighter towards the lamp, and dim where hair hangs between cheek and shoulder.
    """
    out = 0.86 + 0.38 * np.sign(p.light[0]) * np.tanh(sheet.x / 0.25)
    deep = bell(np.abs(sheet.x), 0.235, 0.06) * step(sheet.y, 0.35, 0.65)
    return (out * (1 - 0.55 * deep) * (1 - 0.25 * step(sheet.y, 0.55, 1.0)))[..., None]


# ---- the form of strands ----


def at(line: np.ndarray, u: np.ndarray) -> np.ndarray:
    """[..., 2] points of a curve [m, 2] at parameters u in 0..1 of any shape."""
    t = np.linspace(0, 1, len(line))
    return np.stack([np.interp(u, t, line[:, 0]), np.interp(u, t, line[:, 1])], -1)


def wave(
    rng: np.random.Generator,
    points: np.ndarray,
    lock: np.ndarray,
    n_locks: int,
    amount: float,
    turns: float,
    tight: float = 0.0,
) -> np.ndarray:
    """Lay the strands [n, m, 2] of locks in waves.

    amount: displacement across the strand, which grows from the root
    turns:  waves along the strand
    tight:  displacement of each hair's own curl
    """
    n, m, _ = points.shape
    t = np.linspace(0, 1, m)[None, :]
    # Locks differ in phase and frequency, their hairs hardly.
    phase = rng.uniform(0, 2 * np.pi, n_locks)[lock][:, None] + rng.normal(0, 0.35, (n, 1))
    often = (turns * rng.uniform(0.8, 1.25, n_locks))[lock][:, None]
    # The direction across the strand at each of its points.
    along = np.gradient(points, axis=1)
    along /= np.linalg.norm(along, axis=-1, keepdims=True) + 1e-6
    across = np.stack([-along[..., 1], along[..., 0]], -1)
    push = amount * np.clip(t * 2.2, 0, 1) * np.sin(2 * np.pi * often * t + phase)
    if tight:
        own = rng.uniform(0, 6.3, (n, 1))
        push = push + tight * np.sin(2 * np.pi * often * 3.1 * t + own)
    return points + push[..., None] * across


def shorten(points: np.ndarray, long: np.ndarray) -> np.ndarray:
    """Shorten strands [n, m, 2] to the share `long` [n] of their length, with as many points."""
    m = points.shape[1]
    place = np.linspace(0, 1, m)[None, :] * long[:, None] * (m - 1)
    # Linear interpolation between the points k and k + 1.
    k = np.minimum(place.astype(int), m - 2)
    i = np.arange(len(points))[:, None]
    return mix(points[i, k], points[i, k + 1], (place - k)[..., None])
