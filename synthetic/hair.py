"""Hair of the synthetic faces: locks of single strands that fall from or stand on the scalp.

A style is a set of guide curves in face units. Strands of a lock share its guide, its colour and
its shine. A style's painter returns layers, which `front` paints one over the other.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from . import labels
from .canvas import Sheet, blur, circle, curve, lin, mirrored, mix, step, stream
from .locks import at, crown, hair_light, hairline, scalp, shorten, tints, wave
from .shape import Person, head_outline


class Strands(NamedTuple):
    """Hairs of one style, by locks."""

    points: np.ndarray  # [n, m, 2] face units, in the order in which they are drawn
    lock: np.ndarray  # [n] number of each hair's lock
    n_locks: int


class Layer(NamedTuple):
    """What is painted at once."""

    cap: np.ndarray | None  # [s, s] cover between the strands
    points: np.ndarray  # [n, m, 2] strands
    colours: np.ndarray  # [n, c, 3] sRGB 0..255
    widths: np.ndarray  # [n] in 1/1024 of the picture


# ---- painting ----


def back(sheet: Sheet, p: Person) -> None:
    """Paint the hair behind the neck and shoulders."""
    if p.hair not in ('long', 'bob'):
        return
    rng = stream(p.seed, 'back')
    hair = _mane(rng, p, (-0.75, 0.95), 1100)
    widths = rng.choice([1, 1, 2, 2, 2], 1100)

    # A dark ground that ends where the strands do, so that nothing shines through between them.
    low = float(np.median(hair.points[:, -1, 1]))
    edge = [(0.2, 0.1), (0.29, 0.3), (0.315, 0.5), (0.32, min(0.7, low - 0.05)), (0.30, low - 0.02)]
    dark = lin(np.array(p.hair_rgb) * 0.42) * np.ones((1, 1, 3), np.float32)
    sheet.paint(sheet.cover(mirrored(curve(np.array(edge), 8)), soft=5), dark, labels.HAIR)

    colours = tints(rng, p, hair.lock, hair.n_locks, hair.points, 0.5) * 0.7
    rgb, alpha = sheet.strands(hair.points, colours, widths + 1)
    sheet.paint(alpha, rgb * hair_light(sheet, p), labels.HAIR)


def front(sheet: Sheet, p: Person) -> None:
    """Paint all hair that lies on the head or over the face."""
    if p.hair == 'bald':
        _shaved(sheet, p)
    elif p.hair == 'buzz':
        _buzz(sheet, p)
    else:
        styles: dict[str, Callable[[Sheet, Person], list[Layer]]]
        styles = {'long': _long, 'bob': _long, 'short': _short, 'tied': _tied, 'afro': _afro}
        layers = [_down(p), *styles[p.hair](sheet, p)]
        if p.fringe:
            layers.append(_fringe(p))
        _paint_layers(sheet, p, layers)


def _paint_layers(sheet: Sheet, p: Person, layers: list[Layer]) -> None:
    """The shadow of all layers together, and then each over the other."""
    pressed, glow = _pressed(sheet, p), hair_light(sheet, p)
    total = np.zeros(sheet.ids.shape, np.float32)
    painted = []
    for cap, points, colours, widths in layers:
        rgb, alpha = sheet.strands(points, colours, widths)
        cap = np.zeros_like(alpha) if cap is None else cap * pressed
        alpha = alpha * pressed
        total = np.maximum(total, np.maximum(cap, alpha))
        painted.append((cap, rgb * glow, alpha))

    _hair_shadow(sheet, p, total)
    dark = lin(np.array(p.hair_rgb) * 0.56) * np.ones((1, 1, 3), np.float32)
    for cap, rgb, alpha in painted:
        sheet.paint(cap, dark * glow, labels.HAIR)
        sheet.paint(alpha, rgb, labels.HAIR)


def _pressed(sheet: Sheet, p: Person) -> np.ndarray | float:
    """Share of the hair that a hat leaves: it presses the hair to the skull."""
    if p.hat == 'none':
        return 1.0
    skull = head_outline(p, 0.03 if p.hair in ('long', 'bob') else 0.012)
    below = step(sheet.y, p.hairline + 0.03, p.hairline + 0.10)
    return np.maximum(sheet.cover(skull, soft=3), below)


def _hair_shadow(sheet: Sheet, p: Person, total: np.ndarray) -> None:
    """What hangs before the face shades it, away from the lamp and downwards."""
    s = sheet.size
    dx, dy = int(round(-0.022 * p.light[0] * s)), int(round(0.016 * s))
    cast = blur(np.roll(total, (dy, dx), (0, 1)), 7 * s / 512)
    near = blur(total, 3 * s / 512)
    skin = np.isin(
        sheet.ids,
        (
            labels.SKIN,
            labels.NOSE,
            labels.LEFT_EYE,
            labels.RIGHT_EYE,
            labels.LEFT_BROW,
            labels.RIGHT_BROW,
            labels.LEFT_EAR,
            labels.RIGHT_EAR,
            labels.UPPER_LIP,
            labels.LOWER_LIP,
            labels.NECK,
        ),
    )
    sheet.shade(1 - skin * np.clip(0.62 * cast + 0.35 * near, 0, 0.8))


def _down(p: Person) -> Layer:
    """Fine short hairs along the hairline, so that it does not end like a wig."""
    rng = stream(p.seed, 'down')
    n = 420
    # From the hairline towards the crown.
    u = rng.uniform(0.06, 0.94, n)
    line, rim = at(hairline(p), u), at(crown(p, 0.0), u)
    root = line + rng.normal(0, 0.006, (n, 2)) + (0, 0.006)
    back = (rim - line) / np.linalg.norm(rim - line, axis=1, keepdims=True)
    go = back + rng.normal(0, 0.35, (n, 2))
    long = rng.uniform(0.02, 0.05, (n, 1))
    points = curve(np.stack([root, root + go * long * 0.5, root + (go + (0.2, 0)) * long], 1), 4)
    colours = (np.array(p.hair_rgb) * rng.uniform(0.7, 1.3, (n, 1)))[:, None, :]
    return Layer(None, points, colours, np.ones(n))


# ---- next to no hair ----


def _shaved(sheet: Sheet, p: Person) -> None:
    """The shaved rest of it at the sides."""
    sides = step(np.abs(sheet.x), 0.12, 0.24) * step(sheet.y, 0.12, 0.30)
    cover = 0.20 * sides * scalp(sheet, p, -0.004, 0.45, soft=8)
    sheet.paint(cover, lin(np.array(p.hair_rgb) * 0.8))


def _buzz(sheet: Sheet, p: Person) -> None:
    """Hair cut to the scalp: a dark veil of dots."""
    rng = stream(p.seed, 'buzz')
    cap = scalp(sheet, p, 0.004, 0.45, soft=7)
    n = 5200
    u, b = rng.uniform(0, 1, n), rng.uniform(0, 1, n) ** 0.9
    root = mix(at(hairline(p), u), at(crown(p, 0.006), u), b[:, None])
    root = root + rng.normal(0, 0.006, (n, 2)) * (1 - 0.85 * b[:, None])
    tip = root + rng.normal(0, 0.004, (n, 2)) + (0, -0.004)
    colours = (np.array(p.hair_rgb) * rng.uniform(0.5, 1.2, (n, 1)))[:, None, :]
    sheet.paint(cap * 0.62, lin(np.array(p.hair_rgb) * 0.8))
    sheet.hairs(np.stack([root, tip], 1), colours, np.ones(n), 0.75)
    sheet.ids[(cap > 0.5)] = labels.HAIR


# ---- long hair and bob ----


class _LongTraits(NamedTuple):
    """What front and back hair share."""

    full: float  # distance from the head, a factor
    part: float  # x of the parting
    long: float  # share of the full length
    waves: float
    turns: float
    tight: float  # curl of single hairs
    tuck: np.ndarray  # [2, 2] how far the hair hides the cheeks: per side, above and below


def _long_traits(p: Person) -> _LongTraits:
    rng = stream(p.seed, 'long')

    # Both lengths are drawn whatever the style, so that what follows does not depend on it.
    bob, long = rng.uniform(0.58, 0.70), rng.uniform(0.84, 1.3)
    wavy = rng.random() < 0.75
    full = rng.uniform(0.9, 1.04) if p.hair == 'bob' else rng.uniform(0.96, 1.2 if p.man else 1.4)
    return _LongTraits(
        full=full,
        part=float(rng.choice([0, -0.07, 0.07, 0.05, -0.05])),
        long=bob if p.hair == 'bob' else long,
        waves=rng.uniform(0.010, 0.028) if wavy else 0.005,
        turns=rng.uniform(2, 4.5) if wavy else 1.5,
        tight=0.004 if wavy and rng.random() < 0.35 else 0.0,
        tuck=np.array([(rng.uniform(-0.02, 0.035), rng.uniform(-0.01, 0.05)) for _ in range(2)]),
    )


def _mane(rng: np.random.Generator, p: Person, q_range: tuple[float, float], n: int) -> Strands:
    """n strands of long hair; locks keep together towards the tip.

    q_range: 0 next to the face .. 1 at the outer edge
    """
    traits, n_locks = _long_traits(p), 120
    lock = np.sort(rng.integers(0, n_locks, n))
    side = np.where(np.arange(n_locks) % 2, 1.0, -1.0)
    q = rng.uniform(*q_range, n_locks)[lock] + rng.normal(0, 0.045, n)
    q = np.clip(q, q_range[0] - 0.03, q_range[1] + 0.04)
    tuck = traits.tuck[(side > 0).astype(int)][lock]
    guide = _fall(p, q, side[lock], rng.normal(0.2, 1, n), tuck.T, traits)

    # No two locks fall alike.
    guide[:, 2:, 0] += rng.normal(0, 0.004, (n, 1))
    sway = rng.normal(0, 1, (n_locks, 4)) * (0.010, 0.018, 0.028, 0.036)
    guide[:, 3:, 0] += sway[lock]
    points = curve(guide, 6)
    points = wave(rng, points, lock, n_locks, traits.waves, traits.turns, traits.tight)

    long = traits.long * rng.uniform(0.86, 1.06, n_locks)[lock]
    long = np.clip(long * (1 - 0.16 * rng.random(n) ** 2), 0.2, 1)
    if p.hair == 'bob':
        # The tips turn in.
        turn = np.clip(np.linspace(0, 1, points.shape[1]) - 0.5, 0, 1)
        points[..., 0] -= side[lock][:, None] * 0.05 * turn[None, :]
    points = shorten(points, long)

    # Outer hair lies behind the inner.
    order = np.argsort(-q + rng.normal(0, 0.10, n), kind='stable')
    return Strands(points[order], lock[order], n_locks)


def _fall(
    p: Person,
    q: np.ndarray,
    side: np.ndarray,
    scatter: np.ndarray,
    tuck: np.ndarray,
    traits: _LongTraits,
) -> np.ndarray:
    """Guide points [n, 7, 2] of hair that falls from a parting.

    q [n] is 0 next to the face and 1 at the outer edge; side [n] -1 or 1; tuck [2, n].
    """
    top = crown(p, 0.055 if p.man else 0.065)[20, 1]
    line = hairline(p)[20, 1]
    ys = [
        mix(line, top, q) + 0.006 * scatter,
        mix(line + 0.004, top + 0.018, q),
        mix(0.235, 0.135, q),
        0.42 + 0 * q,
        0.64 + 0 * q,
        0.85 + 0 * q,
        1.1 + 0 * q,
    ]
    w, part, full = p.width, traits.part, traits.full
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
    return np.stack([np.stack(pair, -1) for pair in zip(xs, ys, strict=True)], 1)


def _long(sheet: Sheet, p: Person) -> list[Layer]:
    """Long hair or a bob from a parting."""
    rng = stream(p.seed, 'front')
    hair = _mane(rng, p, (0.0, 1.0), 3600)
    widths = rng.choice([1, 1, 2, 2, 2], 3600)
    cap = scalp(sheet, p, 0.05, 0.42, soft=3)
    colours = tints(rng, p, hair.lock, hair.n_locks, hair.points)
    return [Layer(cap, hair.points, colours, widths)]


# ---- short hair ----


def _short(sheet: Sheet, p: Person) -> list[Layer]:
    """Short hair with a quiff or swept to one side."""
    rng = stream(p.seed, 'short')
    rise, grow = rng.uniform(0.045, 0.11), rng.uniform(0.015, 0.05)
    sweep = float(rng.choice([-1, 1]) * rng.uniform(0.2, 1.1))
    points, lock, n_locks = _swept(p, rng, 3000, rise, grow, sweep)
    points = wave(rng, points, lock, n_locks, rng.choice([0.0, 0.003, 0.007]), 2)
    cap = scalp(sheet, p, grow * 0.8)
    colours = tints(rng, p, lock, n_locks, points, 0.8)
    return [Layer(cap, points, colours, rng.choice([1, 2, 2, 3], len(points)))]


def _swept(
    p: Person, rng: np.random.Generator, n: int, rise: float, grow: float, sweep: float
) -> Strands:
    """n short strands that stand off the scalp.

    Up over the forehead, down at the temples, swept to a side.
    """
    # Where a hair grows: a from one temple to the other, b from the hairline to the crown.
    n_locks = 170
    a_lock, b_lock = rng.uniform(-1, 1, n_locks), rng.uniform(0, 1, n_locks) ** 0.8
    lock = rng.integers(0, n_locks, n)
    a = np.clip(a_lock[lock] + rng.normal(0, 0.035, n), -1, 1)
    b = np.clip(b_lock[lock] + rng.normal(0, 0.06, n), 0, 1)
    u = (a + 1) / 2
    line, rim = at(hairline(p), u), at(crown(p, grow * 0.6), u)
    root = mix(line, rim, b[:, None])

    # Where it goes.
    away = rim - line + np.stack([0.12 * a, -0.05 + 0 * a], -1)
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    flank = step(np.abs(a), 0.5, 0.85)[:, None]
    down = np.stack([np.sign(a) * 0.25, np.ones(n)], -1)
    go = mix(away + np.array([sweep, 0.0]) * (1 - 0.8 * np.abs(a[:, None])), down, flank)
    go += rng.normal(0, 0.16, (n_locks, 2))[lock] + rng.normal(0, 0.10, (n, 2))

    # Its length, shorter at the sides, and how its tip bends.
    long = (rise * mix(1.0, 0.42, flank[:, 0]) * rng.uniform(0.6, 1.15, n))[:, None]
    bend = np.stack([sweep * 0.8 * (1 - np.abs(a)), np.full(n, 0.35)], -1) * long
    go = go * long
    guide = [root, root + go * 0.4, root + go * 0.75 + bend * 0.12, root + go + bend * 0.40]
    order = np.argsort(-b + rng.normal(0, 0.12, n), kind='stable')
    return Strands(curve(np.stack(guide, 1), 11)[order], lock[order], n_locks)


# ---- tied hair ----


def _tied(sheet: Sheet, p: Person) -> list[Layer]:
    """Hair combed back from the hairline and tied; some have a bun on top."""
    rng = stream(p.seed, 'tied')
    points, lock, n_locks = _combed(p, rng, 2200)
    layers = []
    if rng.random() < 0.5 and p.hat == 'none':
        layers.append(_bun(sheet, p, rng))
    loose = _wisps(rng)

    cap = scalp(sheet, p, 0.035)
    colours = tints(rng, p, lock, n_locks, points, 1.3)
    layers.append(Layer(cap, points, colours, rng.choice([1, 2, 2], len(points))))
    one_lock = np.zeros(len(loose), int)
    layers.append(Layer(None, loose, tints(rng, p, one_lock, 1, loose, 0.3), np.ones(len(loose))))
    return layers


def _combed(p: Person, rng: np.random.Generator, n: int) -> Strands:
    """n strands from the hairline over the head."""
    n_locks = 120
    a_lock = rng.uniform(-1, 1, n_locks)
    lock = rng.integers(0, n_locks, n)
    a = np.clip(a_lock[lock] + rng.normal(0, 0.02, n), -1, 1)
    u = (a + 1) / 2
    root, end = at(hairline(p), u), at(crown(p, 0.035), 0.5 + (u - 0.5) * 0.80)

    # Three of five hairs begin on the way, so that their roots do not form a line.
    start = rng.uniform(0, 0.55, n)[:, None] * (rng.random(n) < 0.6)[:, None]
    side = np.stack([0.03 * a, 0 * a], -1)
    guide = [
        mix(root, end, mix(start, 1, t)) + side * bow
        for t, bow in ((0, 0), (0.4, 1), (0.75, 0.6), (1, 0))
    ]
    points = curve(np.stack(guide, 1), 12)
    return Strands(wave(rng, points, lock, n_locks, 0.003, 1.5), lock, n_locks)


def _wisps(rng: np.random.Generator) -> np.ndarray:
    """[n, m, 2] loose hairs at the temples."""
    n = 46
    side = rng.choice([-1, 1], n)
    # Roots in front of the ears, tips below them.
    x, y = side * rng.uniform(0.235, 0.265, n), rng.uniform(0.30, 0.42, n)
    root = np.stack([x, y], -1)
    drop = rng.uniform(0.05, 0.2, n)
    out = np.stack([side * rng.normal(0.01, 0.012, n), drop], -1)
    bend = np.stack([side * 0.008, 0 * x], -1)
    return curve(np.stack([root, root + out * (0.2, 0.5) + bend, root + out], 1), 8)


def _bun(sheet: Sheet, p: Person, rng: np.random.Generator) -> Layer:
    """A knot on top of the head: arcs around its centre."""
    c = np.array([rng.normal(0, 0.02), 0.0 + rng.uniform(-0.01, 0.02)])
    r = rng.uniform(0.085, 0.12)
    n = 500
    # Arcs: where each begins, how far it goes around, and at which radius.
    first, span = rng.uniform(0, 6.3, n), rng.uniform(0.8, 2.4, n)
    t = np.linspace(0, 1, 12)[None, :]
    radius = (r * np.sqrt(rng.uniform(0.05, 1, n)))[:, None] * (1 + 0.08 * np.sin(3 * t))
    angle = first[:, None] + span[:, None] * t
    x, y = c[0] + radius * np.cos(angle), c[1] + 0.75 * radius * np.sin(angle)
    points = np.stack([x, y], -1)
    cap = sheet.cover(c + circle(40, down=0.75) * r, soft=3)
    lock = rng.integers(0, 40, n)
    colours = tints(rng, p, lock, 40, points, 0.8)
    return Layer(cap, points, colours, rng.choice([1, 2, 2], n))


# ---- curly hair ----


def _afro(sheet: Sheet, p: Person) -> list[Layer]:
    """Many small coils in a wide shape."""
    rng = stream(p.seed, 'afro')
    n, grow = 2600, rng.uniform(0.05, 0.17) * (0.7 if p.man else 1)
    u, b = rng.uniform(0, 1, n), rng.uniform(0, 1, n) ** 0.75
    rim = crown(p, grow, low=0.47 if p.man else 0.6)
    wider = np.interp(np.abs(np.linspace(-1, 1, 41)), [0, 0.6, 1], [0, 1, 1.5])
    rim[:, 0] *= 1 + (0.35 * grow + 0.02) * wider
    root = mix(at(hairline(p), u), at(rim, u), b[:, None])
    points = _coils(rng, root)

    # Roots first; the inner hair is darker.
    order = np.argsort(-b + rng.normal(0, 0.25, n), kind='stable')
    lock = rng.integers(0, 300, n)
    cap = sheet.cover(np.concatenate([hairline(p), rim[::-1]]), soft=4)
    shades = tints(rng, p, lock, 300, points, 0.5) * (0.75 + 0.35 * b[:, None, None])
    return [Layer(cap, points[order], shades[order], rng.choice([1, 2, 2], n))]


def _coils(rng: np.random.Generator, root: np.ndarray) -> np.ndarray:
    """[n, 14, 2] spirals that drift away from their roots [n, 2]."""
    n = len(root)
    t = np.linspace(0, 1, 14)[None, :]
    radius = rng.uniform(0.004, 0.011, n)[:, None]
    first, sense = rng.uniform(0, 6.3, n)[:, None], rng.choice([-1, 1], n)[:, None]
    turn = first + sense * 2 * np.pi * rng.uniform(0.7, 1.6, n)[:, None] * t
    # Gravity pulls all of them down a little.
    drift = rng.normal(0, 0.014, (n, 1, 2)) * t[..., None] + np.array([0, 0.006]) * t[..., None]
    spiral = radius[..., None] * np.stack([np.cos(turn), np.sin(turn)], -1)
    return root[:, None, :] + drift + spiral


# ---- fringe ----


def _fringe(p: Person) -> Layer:
    """Hair that falls over the forehead."""
    rng = stream(p.seed, 'fringe')
    n, n_locks, sweep = 1100, 46, rng.normal(0, 0.05)
    lock = rng.integers(0, n_locks, n)
    place = np.linspace(-1, 1, n_locks) + rng.normal(0, 0.03, n_locks)
    x = place[lock] * 0.2 + rng.normal(0, 0.010, n)

    # It ends above the brows, lower at the sides.
    uneven = rng.normal(0, 0.014, n_locks)[lock], rng.normal(0, 0.008, n)
    low = p.brow_y - 0.012 + uneven[0] + uneven[1] + 0.05 * np.square(place[lock])
    tip = mix(x, place[lock] * 0.2, 0.6) + sweep
    top = crown(p, 0.05)[20, 1]
    guide = [
        np.stack([x * 0.45, top + 0.03 + rng.uniform(0, 0.05, n)], -1),
        np.stack([x * 0.86, 0.155 + 0 * x], -1),
        np.stack([x + sweep * 0.3, 0.27 + 0 * x], -1),
        np.stack([tip, low], -1),
    ]
    points = wave(rng, curve(np.stack(guide, 1), 12), lock, n_locks, 0.003, 1.2)
    order = np.argsort(rng.normal(0, 1, n_locks)[lock], kind='stable')
    colours = tints(rng, p, lock, n_locks, points)[order]
    return Layer(None, points[order], colours, rng.choice([1, 2, 2, 3], n))
