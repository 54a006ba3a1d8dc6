"""Locks of hair: where hair grows and ends, waves, shades and light of strands; what all hair styles are made of."""

import numpy as np

from .canvas import bell, curve, mix, step, stream
from .shape import half_outline, half_width

CREASE = 10  # stretches of different shade along a strand


def hairline(p, n=41):
    """[n, 2] edge of the hair on the forehead, from the picture left temple (-1) over the middle to the right."""
    a = np.linspace(-1, 1, n)
    back = 0.05 * p.man * p.age
    w = half_width(p, 0.36)
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
    half = curve(knots * (w, 1) + (0, p.hairline), 8)
    along = np.linspace(0, 1, len(half))
    x, y = (np.interp(np.abs(a), along, half[:, k]) for k in (0, 1))
    return np.stack([x * np.sign(a), y], -1)


def crown(p, grow, n=41, low=0.45):
    """[n, 2] outer edge of the hair over the skull, same order as hairline."""
    half = half_outline(p)
    half = half[half[:, 1] < low][::-1]  # top of the skull down to the ears
    along = np.linspace(0, 1, len(half))
    fine = np.linspace(0, 1, n // 2 + 1)
    half = np.stack([np.interp(fine, along, half[:, 0]), np.interp(fine, along, half[:, 1])], -1)
    away = half - (0, 0.42)
    far = grow * np.interp(fine, [0, 0.6, 1], [1, 0.9, 0.35])[:, None]
    half = half + away / np.linalg.norm(away, axis=1, keepdims=True) * far
    return np.concatenate([half[::-1] * (-1, 1), half[1:]])


def at(line, u):
    """Points of a curve [m, 2] at parameters u in 0..1 (any shape) -> [..., 2]."""
    t = np.linspace(0, 1, len(line))
    return np.stack([np.interp(u, t, line[:, 0]), np.interp(u, t, line[:, 1])], -1)


def tints(rng, p, lock, n_locks, points, shine=1.0):
    """sRGB shade of each stretch of each strand [n, CREASE, 3]: lock and hair vary, roots are darker, shine runs in bands."""
    n = len(lock)
    base = (
        np.array(p.hair_rgb)
        * (1 + rng.normal(0, 0.12, n_locks)[lock] + rng.normal(0, 0.12, n))[:, None]
    )
    streak = (rng.random(n_locks) < 0.3)[lock]
    base *= 1 + streak[:, None] * np.array([0.16, 0.10, 0.03])
    mid = _cells(points)  # [n, CREASE, 2]
    t = (np.arange(CREASE) + 0.5)[None, :] / CREASE
    light = np.interp(t, [0, 0.15, 1], [0.78, 0.95, 1.02])
    top = bell(mid[..., 1], 0.11 + rng.normal(0, 0.025, n_locks)[lock][:, None], 0.055)
    low = 0.75 * bell(mid[..., 1], 0.62 + rng.normal(0, 0.07, n_locks)[lock][:, None], 0.08)
    gloss = (
        (top + low)
        * np.clip(rng.normal(0.6, 0.5, n_locks), 0, 2)[lock][:, None]
        * rng.uniform(0.5, 1.3, (n, 1))
        * shine
    )
    out = base[:, None, :] * light[..., None]
    return out + gloss[..., None] * (
        0.30 * out + np.array([44, 41, 39]) * (1 - max(p.hair_rgb) / 280)
    )


def hair_light(sheet, p):
    """Linear light on hair [s, s, 1]: brighter to the lamp, dim where it hangs between cheek and shoulder."""
    out = 0.86 + 0.38 * np.sign(p.light[0]) * np.tanh(sheet.x / 0.25)
    deep = bell(np.abs(sheet.x), 0.235, 0.06) * step(sheet.y, 0.35, 0.65)
    return (out * (1 - 0.55 * deep) * (1 - 0.25 * step(sheet.y, 0.55, 1.0)))[..., None]


def _cells(points):
    """Middle of each of the CREASE stretches of [n, m, 2] curves."""
    at = np.linspace(0, points.shape[1] - 1, 2 * CREASE + 1)[1::2].round().astype(int)
    return points[:, at]


def wave(rng, points, lock, n_locks, amount, turns, tight=0.0):
    """Waves of a lock: displacement across the strand that grows from the root; tight adds each hair's own curl."""
    m = points.shape[1]
    t = np.linspace(0, 1, m)[None, :]
    phase = rng.uniform(0, 2 * np.pi, n_locks)[lock][:, None] + rng.normal(0, 0.35, (len(lock), 1))
    often = (turns * rng.uniform(0.8, 1.25, n_locks))[lock][:, None]
    along = np.gradient(points, axis=1)
    along /= np.linalg.norm(along, axis=-1, keepdims=True) + 1e-6
    across = np.stack([-along[..., 1], along[..., 0]], -1)
    push = amount * np.clip(t * 2.2, 0, 1) * np.sin(2 * np.pi * often * t + phase)
    if tight:
        push = push + tight * np.sin(
            2 * np.pi * often * 3.1 * t + rng.uniform(0, 6.3, (len(lock), 1))
        )
    return points + push[..., None] * across


def shorten(points, long):
    """Strands [n, m, 2] shortened to the share `long` [n] of their length, sampled anew."""
    m = points.shape[1]
    at = np.linspace(0, 1, m)[None, :] * long[:, None] * (m - 1)
    k = np.minimum(at.astype(int), m - 2)
    i = np.arange(len(points))[:, None]
    return mix(points[i, k], points[i, k + 1], (at - k)[..., None])


def scalp(sheet, p, grow, low=0.45, soft=3.0, edge=0.0):
    """Cover between hairline and crown: what is seen between the strands."""
    rng = stream(p.seed, 'cap')
    line = hairline(p) + np.stack([0 * (n := rng.normal(0, 0.004, 41)), n - edge], -1)
    return sheet.cover(np.concatenate([line, crown(p, grow, low=low)[::-1]]), soft=soft)
