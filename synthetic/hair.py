"""Hair of the synthetic faces: locks of single strands that fall from or stand on the scalp.

A style is a set of guide curves in face units. Strands of a lock share its guide, its colour and its shine.
"""

import numpy as np

from .canvas import blur, curve, lin, mix, step, stream
from .locks import at, crown, hair_light, hairline, scalp, shorten, tints, wave
from .shape import head_outline


def _fall(p, q, side, part, scatter, tuck, full):
    """Guide points [n, 7, 2] of hair that falls from a parting; q 0 next to the face .. 1 outer edge."""
    top = crown(p, 0.055 if p.man else 0.065)[20, 1]
    line = hairline(p)[20, 1]
    w = p.width
    ys = [
        mix(line, top, q) + 0.006 * scatter,
        mix(line + 0.004, top + 0.018, q),
        mix(0.235, 0.135, q),
        0.42 + 0 * q,
        0.64 + 0 * q,
        0.85 + 0 * q,
        1.1 + 0 * q,
    ]
    face = 0.262 * w
    xs = [
        part + 0.010 * side * scatter,
        mix(part + 0.09 * side, part + 0.105 * side, q),
        side * mix(0.215 * w, 0.275 * w, q),
        side * mix(face - tuck[0], 0.335 * w * full, q),
        side * mix(face - tuck[1], 0.362 * w * full, q),
        side * mix(0.225, 0.372 * full, q),
        side * mix(0.20, 0.375 * full, q),
    ]
    return np.stack([np.stack(np.broadcast_arrays(x, y), -1) for x, y in zip(xs, ys)], 1)


def _long_traits(p):
    """What front and back hair share: parting, share of the full length, waves, how far the hair hides the cheeks."""
    rng = stream(p.seed, 'long')
    long = {'bob': rng.uniform(0.58, 0.70), 'long': rng.uniform(0.84, 1.3)}[p.hair]
    wavy = rng.random() < 0.75
    full = rng.uniform(0.9, 1.04) if p.hair == 'bob' else rng.uniform(0.96, 1.2 if p.man else 1.4)
    return dict(
        full=full,
        part=float(rng.choice([0, -0.07, 0.07, 0.05, -0.05])),
        long=long,
        waves=rng.uniform(0.010, 0.028) if wavy else 0.005,
        turns=rng.uniform(2, 4.5) if wavy else 1.5,
        tight=0.004 if wavy and rng.random() < 0.35 else 0.0,
        tuck=[(rng.uniform(-0.02, 0.035), rng.uniform(-0.01, 0.05)) for _ in range(2)],
    )


def _mane(p, q_range, n, name):
    """Strands of long hair [n, m, 2], their lock numbers and widths; locks keep together towards the tip."""
    rng, tr = stream(p.seed, name), _long_traits(p)
    n_locks = 120
    lock = np.sort(rng.integers(0, n_locks, n))
    side = np.where(np.arange(n_locks) % 2, 1.0, -1.0)
    q_lock = rng.uniform(*q_range, n_locks)
    q = q_lock[lock] + rng.normal(0, 0.045, n)
    q = np.clip(q, q_range[0] - 0.03, q_range[1] + 0.04)
    s = side[lock]
    tuck = np.array([tr['tuck'][int(v > 0)] for v in side])[lock]
    guide = _fall(p, q, s, tr['part'], rng.normal(0.2, 1, n), tuck.T, tr['full'])
    guide[:, 2:, 0] += rng.normal(0, 0.004, (n, 1))
    guide[:, 3:, 0] += (rng.normal(0, 1, (n_locks, 4)) * (0.010, 0.018, 0.028, 0.036))[
        lock
    ]  # no two locks fall alike
    points = curve(guide, 6)
    points = wave(rng, points, lock, n_locks, tr['waves'], tr['turns'], tr['tight'])
    long = np.clip(
        tr['long'] * rng.uniform(0.86, 1.06, n_locks)[lock] * (1 - 0.16 * rng.random(n) ** 2),
        0.2,
        1,
    )
    if p.hair == 'bob':
        points[..., 0] -= (
            s[:, None] * 0.05 * np.clip(np.linspace(0, 1, points.shape[1]) - 0.5, 0, 1)[None, :]
        )
    points = shorten(points, long)
    order = np.argsort(
        -q + rng.normal(0, 0.10, n), kind='stable'
    )  # outer hair lies behind the inner
    return points[order], lock[order], n_locks, rng, rng.choice([1, 1, 2, 2, 2], n)


def back(sheet, p):
    """Hair behind the neck and shoulders."""
    if p.hair not in ('long', 'bob'):
        return
    points, lock, n_locks, rng, widths = _mane(p, (-0.75, 0.95), 1100, 'back')
    low = float(np.median(points[:, -1, 1]))
    edge = np.array(
        [(0.2, 0.1), (0.29, 0.3), (0.315, 0.5), (0.32, min(0.7, low - 0.05)), (0.30, low - 0.02)]
    )
    edge = curve(edge, 8)
    dark = lin(np.array(p.hair_rgb) * 0.42)
    sheet.paint(
        sheet.cover(np.concatenate([edge, edge[::-1] * (-1, 1)]), soft=5),
        dark * np.ones((1, 1, 3), np.float32),
        13,
    )
    rgb, alpha = sheet.strands(points, tints(rng, p, lock, n_locks, points, 0.5) * 0.7, widths + 1)
    sheet.paint(alpha, rgb * hair_light(sheet, p), 13)


def front(sheet, p):
    """All hair that lies on the head or over the face."""
    if p.hair == 'bald':  # the shaved rest of it
        sides = step(np.abs(sheet.x), 0.12, 0.24) * step(sheet.y, 0.12, 0.30)
        return sheet.paint(
            0.20 * sides * scalp(sheet, p, -0.004, 0.45, soft=8), lin(np.array(p.hair_rgb) * 0.8)
        )
    if p.hair == 'buzz':
        return _buzz(sheet, p)
    layers = [_down(p)]
    layers += {'long': _long, 'bob': _long, 'short': _short, 'tied': _tied, 'afro': _afro}[p.hair](
        sheet, p
    )
    if p.fringe:
        layers = layers + _fringe(p)
    total = np.zeros(sheet.ids.shape, np.float32)
    painted, glow = [], hair_light(sheet, p)
    pressed = 1.0
    if p.hat != 'none':  # it presses the hair to the skull
        skull = head_outline(p, 0.03 if p.hair in ('long', 'bob') else 0.012)
        pressed = np.maximum(
            sheet.cover(skull, soft=3), step(sheet.y, p.hairline + 0.03, p.hairline + 0.10)
        )
    for cap, points, colours, widths in layers:
        rgb, alpha = sheet.strands(points, colours, widths)
        cap, alpha = np.zeros_like(alpha) if cap is None else cap * pressed, alpha * pressed
        total = np.maximum(total, np.maximum(cap, alpha))
        painted.append((cap, rgb * glow, alpha))
    _hair_shadow(sheet, p, total)
    dark = lin(np.array(p.hair_rgb) * 0.56) * np.ones((1, 1, 3), np.float32)
    for cap, rgb, alpha in painted:
        sheet.paint(cap, dark * glow, 13)
        sheet.paint(alpha, rgb, 13)


def _hair_shadow(sheet, p, total):
    """What hangs before the face shades it, away from the lamp and downwards."""
    s = sheet.size
    dx, dy = int(round(-0.022 * p.light[0] * s)), int(round(0.016 * s))
    cast = blur(np.roll(total, (dy, dx), (0, 1)), 7 * s / 512)
    skin = np.isin(sheet.ids, (1, 2, 4, 5, 6, 7, 8, 9, 11, 12, 17))
    near = blur(total, 3 * s / 512)
    sheet.shade(1 - skin * np.clip(0.62 * cast + 0.35 * near, 0, 0.8))


def _down(p):
    """Fine short hairs along the hairline, so that it does not end like a wig."""
    rng = stream(p.seed, 'down')
    n = 420
    u = rng.uniform(0.06, 0.94, n)
    line, rim = at(hairline(p), u), at(crown(p, 0.0), u)
    root = line + rng.normal(0, 0.006, (n, 2)) + (0, 0.006)
    go = (rim - line) / np.linalg.norm(rim - line, axis=1, keepdims=True) + rng.normal(
        0, 0.35, (n, 2)
    )
    long = rng.uniform(0.02, 0.05, (n, 1))
    points = curve(np.stack([root, root + go * long * 0.5, root + (go + (0.2, 0)) * long], 1), 4)
    colours = (np.array(p.hair_rgb) * rng.uniform(0.7, 1.3, (n, 1)))[:, None, :]
    return None, points, colours, np.ones(n)


def _long(sheet, p):
    """Long hair or a bob from a parting."""
    points, lock, n_locks, rng, widths = _mane(p, (0.0, 1.0), 3600, 'front')
    cap = scalp(sheet, p, 0.05, 0.42, soft=3)
    return [(cap, points, tints(rng, p, lock, n_locks, points), widths)]


def _swept(p, rng, n, rise, grow, sweep, n_locks=170):
    """Short strands [n, m, 2] that stand off the scalp: up over the forehead, down at the temples, swept to a side."""
    a_lock, b_lock = rng.uniform(-1, 1, n_locks), rng.uniform(0, 1, n_locks) ** 0.8
    lock = rng.integers(0, n_locks, n)
    a = np.clip(a_lock[lock] + rng.normal(0, 0.035, n), -1, 1)
    b = np.clip(b_lock[lock] + rng.normal(0, 0.06, n), 0, 1)
    line, rim = hairline(p), crown(p, grow * 0.6)
    u = (a + 1) / 2
    root = mix(at(line, u), at(rim, u), b[:, None])
    away = at(rim, u) - at(line, u) + np.stack([0.12 * a, -0.05 + 0 * a], -1)
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    flank = step(np.abs(a), 0.5, 0.85)[:, None]
    down = np.stack([np.sign(a) * 0.25, np.ones(n)], -1)
    go = mix(away + np.array([sweep, 0.0]) * (1 - 0.8 * np.abs(a[:, None])), down, flank)
    go += rng.normal(0, 0.16, (n_locks, 2))[lock] + rng.normal(0, 0.10, (n, 2))
    long = (rise * mix(1.0, 0.42, flank[:, 0]) * rng.uniform(0.6, 1.15, n))[:, None]
    bend = np.stack([sweep * 0.8 * (1 - np.abs(a)), np.full(n, 0.35)], -1)
    bend = bend * long
    go = go * long
    points = np.stack(
        [root, root + go * 0.4, root + go * 0.75 + bend * 0.12, root + go + bend * 0.40], 1
    )
    order = np.argsort(-b + rng.normal(0, 0.12, n), kind='stable')
    return curve(points, 11)[order], lock[order], n_locks


def _short(sheet, p):
    """Short hair with a quiff or swept to one side."""
    rng = stream(p.seed, 'short')
    rise, grow = rng.uniform(0.045, 0.11), rng.uniform(0.015, 0.05)
    points, lock, n_locks = _swept(
        p, rng, 3000, rise, grow, float(rng.choice([-1, 1]) * rng.uniform(0.2, 1.1))
    )
    points = wave(rng, points, lock, n_locks, rng.choice([0.0, 0.003, 0.007]), 2)
    return [
        (
            scalp(sheet, p, grow * 0.8),
            points,
            tints(rng, p, lock, n_locks, points, 0.8),
            rng.choice([1, 2, 2, 3], len(points)),
        )
    ]


def _tied(sheet, p):
    """Hair combed back from the hairline and tied; some have a bun on top."""
    rng = stream(p.seed, 'tied')
    n, n_locks = 2200, 120
    a_lock = rng.uniform(-1, 1, n_locks)
    lock = rng.integers(0, n_locks, n)
    a = np.clip(a_lock[lock] + rng.normal(0, 0.02, n), -1, 1)
    u = (a + 1) / 2
    root, end = at(hairline(p), u), at(crown(p, 0.035), 0.5 + (u - 0.5) * 0.80)
    start = rng.uniform(0, 0.55, n)[:, None] * (rng.random(n) < 0.6)[:, None]
    side = np.stack([0.03 * a, 0 * a], -1)
    along = [
        mix(root, end, mix(start, 1, t)) + side * bow
        for t, bow in ((0, 0), (0.4, 1), (0.75, 0.6), (1, 0))
    ]
    points = curve(np.stack(along, 1), 12)
    points = wave(rng, points, lock, n_locks, 0.003, 1.5)
    out = []
    if rng.random() < 0.5 and p.hat == 'none':
        out.append(_bun(sheet, p, rng))
    loose = _wisps(rng)
    out.append(
        (
            scalp(sheet, p, 0.035),
            points,
            tints(rng, p, lock, n_locks, points, 1.3),
            rng.choice([1, 2, 2], n),
        )
    )
    out.append(
        (None, loose, tints(rng, p, np.zeros(len(loose), int), 1, loose, 0.3), np.ones(len(loose)))
    )
    return out


def _wisps(rng):
    """Loose hairs at the temples and around the head."""
    n = 46
    side = rng.choice([-1, 1], n)
    x, y = side * rng.uniform(0.235, 0.265, n), rng.uniform(0.30, 0.42, n)
    root = np.stack([x, y], -1)
    drop = rng.uniform(0.05, 0.2, n)
    out = np.stack([side * rng.normal(0.01, 0.012, n), drop], -1)
    return curve(
        np.stack(
            [root, root + out * (0.2, 0.5) + np.stack([side * 0.008, 0 * x], -1), root + out], 1
        ),
        8,
    )


def _bun(sheet, p, rng):
    """A knot on top of the head: arcs around its centre."""
    c, r = np.array([rng.normal(0, 0.02), 0.0 + rng.uniform(-0.01, 0.02)]), rng.uniform(0.085, 0.12)
    n = 500
    a0, span = rng.uniform(0, 6.3, n), rng.uniform(0.8, 2.4, n)
    t = np.linspace(0, 1, 12)[None, :]
    rad = (r * np.sqrt(rng.uniform(0.05, 1, n)))[:, None] * (1 + 0.08 * np.sin(3 * t))
    ang = a0[:, None] + span[:, None] * t
    points = np.stack([c[0] + rad * np.cos(ang), c[1] + 0.75 * rad * np.sin(ang)], -1)
    ring = np.linspace(0, 2 * np.pi, 40)
    cap = sheet.cover(c + np.stack([np.cos(ring), 0.75 * np.sin(ring)], -1) * r, soft=3)
    lock = rng.integers(0, 40, n)
    return cap, points, tints(rng, p, lock, 40, points, 0.8), rng.choice([1, 2, 2], n)


def _afro(sheet, p):
    """Curly hair: many small coils in a wide shape."""
    rng = stream(p.seed, 'afro')
    n, grow = 2600, rng.uniform(0.05, 0.17) * (0.7 if p.man else 1)
    u, b = rng.uniform(0, 1, n), rng.uniform(0, 1, n) ** 0.75
    rim = crown(p, grow, low=0.47 if p.man else 0.6)
    rim[:, 0] *= 1 + (0.35 * grow + 0.02) * np.interp(
        np.abs(np.linspace(-1, 1, 41)), [0, 0.6, 1], [0, 1, 1.5]
    )
    root = mix(at(hairline(p), u), at(rim, u), b[:, None])
    t = np.linspace(0, 1, 14)[None, :]
    radius = rng.uniform(0.004, 0.011, n)[:, None]
    turn = (
        rng.uniform(0, 6.3, n)[:, None]
        + rng.choice([-1, 1], n)[:, None] * 2 * np.pi * rng.uniform(0.7, 1.6, n)[:, None] * t
    )
    drift = rng.normal(0, 0.014, (n, 1, 2)) * t[..., None] + np.array([0, 0.006]) * t[..., None]
    points = (
        root[:, None, :] + drift + radius[..., None] * np.stack([np.cos(turn), np.sin(turn)], -1)
    )
    order = np.argsort(-b + rng.normal(0, 0.25, n), kind='stable')
    lock = rng.integers(0, 300, n)
    line = hairline(p)
    cap = sheet.cover(np.concatenate([line, rim[::-1]]), soft=4)
    shades = tints(rng, p, lock, 300, points, 0.5) * (0.75 + 0.35 * b[:, None, None])
    return [(cap, points[order], shades[order], rng.choice([1, 2, 2], n))]


def _fringe(p):
    """Hair that falls over the forehead."""
    rng = stream(p.seed, 'fringe')
    n, n_locks, sweep = 1100, 46, rng.normal(0, 0.05)
    lock = rng.integers(0, n_locks, n)
    place = np.linspace(-1, 1, n_locks) + rng.normal(0, 0.03, n_locks)
    x = place[lock] * 0.2 + rng.normal(0, 0.010, n)
    low = (
        p.brow_y
        - 0.012
        + rng.normal(0, 0.014, n_locks)[lock]
        + rng.normal(0, 0.008, n)
        + 0.05 * np.square(place[lock])
    )
    top = crown(p, 0.05)[20, 1]
    tip = mix(x, place[lock] * 0.2, 0.6) + sweep
    points = np.stack(
        [
            np.stack([x * 0.45, top + 0.03 + rng.uniform(0, 0.05, n)], -1),
            np.stack([x * 0.86, 0.155 + 0 * x], -1),
            np.stack([x + sweep * 0.3, 0.27 + 0 * x], -1),
            np.stack([tip, low], -1),
        ],
        1,
    )
    points = wave(rng, curve(points, 12), lock, n_locks, 0.003, 1.2)
    order = np.argsort(rng.normal(0, 1, n_locks)[lock], kind='stable')
    return [
        (
            None,
            points[order],
            tints(rng, p, lock, n_locks, points)[order],
            rng.choice([1, 2, 2, 3], n),
        )
    ]


def _buzz(sheet, p):
    """Hair cut to the scalp: a dark veil of dots."""
    rng = stream(p.seed, 'buzz')
    cap = scalp(sheet, p, 0.004, 0.45, soft=7)
    n = 5200
    u, b = rng.uniform(0, 1, n), rng.uniform(0, 1, n) ** 0.9
    root = mix(at(hairline(p), u), at(crown(p, 0.006), u), b[:, None]) + rng.normal(
        0, 0.006, (n, 2)
    ) * (1 - 0.85 * b[:, None])
    tip = root + rng.normal(0, 0.004, (n, 2)) + (0, -0.004)
    colours = (np.array(p.hair_rgb) * rng.uniform(0.5, 1.2, (n, 1)))[:, None, :]
    sheet.paint(cap * 0.62, lin(np.array(p.hair_rgb) * 0.8), None)
    sheet.hairs(np.stack([root, tip], 1), colours, np.ones(n), 0.75)
    sheet.ids[(cap > 0.5)] = 13
