"""Eyes, lashes, brows and glasses of the synthetic faces."""

import numpy as np

from . import labels
from .canvas import Sheet, bell, curve, lin, mix, noise, one_of, step, stream
from .shape import Person, brow_line, eye_centre, eye_lids, half_width
from .skin import tone

IRIS = (
    (58, 36, 22),
    (84, 54, 30),
    (112, 78, 40),
    (96, 104, 70),
    (88, 108, 122),
    (112, 126, 130),
    (76, 94, 112),
    (40, 26, 18),
)
POWDERS = (70, 48, 48), (96, 66, 60), (52, 52, 64)
METALS = (150, 140, 120), (170, 138, 84), (60, 60, 64), (190, 190, 194)
HORNS = (22, 20, 20), (52, 30, 20), (96, 26, 30), (30, 40, 66), (120, 86, 52)
DARK_LENSES = (20, 20, 24), (46, 30, 22), (26, 38, 34)

RADIUS = np.float32(0.0262)  # of the iris, in face units


# ---- eyes ----


def eyes(sheet: Sheet, p: Person) -> None:
    """Paint both eyes; gaze and iris are shared."""
    rng = stream(p.seed, 'eyes')
    # Dark irises are the more frequent the darker the skin is; the gaze follows the head's yaw.
    dark = rng.random() < 0.35 + 1.2 * p.tone
    number = int(rng.choice([0, 1, 7]) if dark else rng.integers(0, 7))
    iris = np.array(IRIS[number]) * rng.uniform(0.85, 1.15)
    look = np.array([rng.normal(0, 0.004) - 0.12 * p.pose.yaw, rng.normal(0, 0.0015)])
    made_up = 0.0 if p.man else float(rng.uniform(0, 1))
    pupil = float(rng.uniform(0.32, 0.5))
    for side in (-1, 1):
        _lid(sheet, p, side, made_up)
        _ball(sheet, p, side, lin(iris), look, pupil)
        _lashes(sheet, p, side, made_up)


def _lid(sheet: Sheet, p: Person, side: int, made_up: float) -> None:
    """Shadow of the socket's fold, eye shadow, wet rim around the opening."""
    rng = stream(p.seed, 'lid')
    up, low = eye_lids(p, side)
    u = np.linspace(-1, 1, 17)
    fold = float(rng.uniform(0.006, 0.015))
    line = up - np.stack([0 * u, 0.003 + fold * np.maximum(0, 1 - u * u) ** 0.7], -1)
    # Shadows on skin leave some red: the fold, its soft rim, and what lies below the eye.
    red = np.array([0.85, 1, 1], np.float32)
    sheet.shade(1 - (0.62 * sheet.stroke(line[1:], 0.0025, soft=1.4))[..., None] * red)
    sheet.shade(1 - (0.25 * sheet.stroke(line[2:] - (0, 0.003), 0.006, soft=3.5))[..., None] * red)
    if made_up > 0.4:
        area = sheet.cover(np.concatenate([up, line[::-1] - (0, 0.004)]), soft=4)
        powder = one_of(rng, POWDERS)
        sheet.paint(area * (0.45 * made_up), powder * (1 - 0.5 * p.tone))
    sheet.shade(1 - (0.35 * sheet.stroke(low + (0, 0.009), 0.004, soft=2.6))[..., None] * red)
    rim = sheet.stroke(low[1:-1] + (0, 0.0012), 0.0032, soft=0.9)
    sheet.paint(rim * 0.55, tone(p) * np.array([1.0, 0.72, 0.70], np.float32))


def _ball(
    sheet: Sheet, p: Person, side: int, iris: np.ndarray, look: np.ndarray, pupil: float
) -> None:
    """Eyeball seen through the opening of the lids."""
    rng = stream(p.seed, f'ball{side}')
    up, low = eye_lids(p, side)
    up, low = curve(up, 4), curve(low, 4)
    opening = sheet.cover(np.concatenate([up, low[::-1]]), soft=0.55)
    sheet.ids[opening > 0.5] = labels.LEFT_EYE if side > 0 else labels.RIGHT_EYE

    # All is done in a small window around the eye; ix, iy count from the middle of the pupil.
    c = eye_centre(p, side)
    box = sheet.window(c[0], c[1], 0.085, 0.06)
    x, y = sheet.x[box] - c[0], sheet.y[box] - c[1]
    ix, iy = x - look[0], y - look[1] + 0.0015
    r = np.sqrt(ix * ix + iy * iy) / RADIUS
    px = 1 / sheet.size  # over which edges are smoothed

    rgb = _sclera(p, rng, side, x)
    disc = _iris(p, rng, iris, pupil, ix, iy, r)
    hole = step(r, pupil + 1.3 * px / 0.0235, pupil - 1.3 * px / 0.0235)
    disc += (0.004 - disc) * hole[..., None]
    rgb += (disc - rgb) * step(r, 1 + 1.8 * px / 0.0235, 1 - 1.8 * px / 0.0235)[..., None]

    # The upper lid and its lashes shade the ball; the lamp lights it from one side.
    top = np.interp(sheet.x[box] * side, up[:, 0] * side, up[:, 1]).astype(np.float32)
    shade = 0.22 + 0.78 * step(sheet.y[box] - top, -0.002, 0.014)
    lamp = 1 + 0.25 * np.sign(p.light[0]) * x / p.eye_a
    rgb *= shade[..., None] * lamp[..., None]
    rgb *= np.float32(0.95)
    _add_reflections(p, rgb, ix, iy)
    sheet.rgb[box] += (rgb.astype(np.float32) - sheet.rgb[box]) * opening[box][..., None]


def _sclera(p: Person, rng: np.random.Generator, side: int, x: np.ndarray) -> np.ndarray:
    """Grey-pink ball, darker to the corners, with veins and a red inner corner."""
    # A ball: darker towards the corners.
    edge = np.abs(x) / p.eye_a
    rgb = lin(204, 192, 186) * ((0.84 - 0.58 * edge**2) * (1 - 0.25 * p.tone))[..., None]
    rgb *= 1 + 0.03 * noise(rng, x.shape, 9)[..., None] * np.array([0.3, 1, 1], np.float32)
    inner = bell(x * side, -p.eye_a * 0.97, 0.011)
    rgb += (lin(196, 118, 110) * 0.75 - rgb) * (0.8 * inner)[..., None]
    return rgb


def _iris(
    p: Person,
    rng: np.random.Generator,
    colour: np.ndarray,
    pupil: float,
    ix: np.ndarray,
    iy: np.ndarray,
    r: np.ndarray,
) -> np.ndarray:
    """Iris in polar coordinates: fibres along the angle, a warm ring, a dark rim."""
    # Two scales of fibres, 96 and 40 around the circle.
    angle = (np.arctan2(iy, ix) / (2 * np.pi) + 0.5).astype(np.float32)
    fibre, fine = _fibres(rng, angle, 96), _fibres(rng, angle, 40)
    bright = 0.85 + 0.20 * fibre + 0.12 * fine * r + 0.55 * step(r, 0.95, 0.45)
    disc = colour * bright[..., None]
    warm = np.array([0.6, 0.35, 0.1], np.float32)
    disc += colour * warm * bell(r, pupil + 0.12, 0.16)[..., None]
    disc *= (1 - 0.8 * step(r, 0.74, 1.0))[..., None]

    # The lens gathers light opposite the lamp.
    gather = bell(ix * -p.light[0] + iy * 0.6, 0.012, 0.010) * step(r, 0.4, 0.7)
    disc *= (1 + 0.9 * gather)[..., None]
    return disc


def _fibres(rng: np.random.Generator, angle: np.ndarray, n: int) -> np.ndarray:
    """Noise along the angle 0..1, with n values around the circle."""
    values = rng.standard_normal(n)
    around = np.linspace(0, 1, n + 1)
    return np.interp(angle, around, np.r_[values, values[0]]).astype(np.float32)


def _add_reflections(p: Person, rgb: np.ndarray, ix: np.ndarray, iy: np.ndarray) -> None:
    """A window's reflection on the lamp's side, and the wet edge below."""
    # A square of light with soft edges, above the pupil.
    across = np.abs((ix - 0.009 * np.sign(p.light[0])) / 0.0042)
    spot = np.maximum(across, np.abs((iy + 0.0085) / 0.0052))
    rgb += (0.95 - rgb) * (0.92 * step(spot, 1.3, 0.7))[..., None]
    rgb += 0.10 * (bell(iy, 0.013, 0.004) * bell(ix, -0.004, 0.012))[..., None]


def _lashes(sheet: Sheet, p: Person, side: int, made_up: float) -> None:
    """Dark line of the upper lid, and single lashes above and below."""
    rng = stream(p.seed, f'lash{side}')
    up, low = eye_lids(p, side)
    line = curve(up, 4)
    dark = lin(26, 18, 16)
    wide = 0.0032 + 0.0030 * made_up
    sheet.paint(sheet.stroke(line[6:] - (0, 0.0005), wide, soft=0.8) * 0.85, dark)
    sheet.paint(sheet.stroke(line[:8], 0.0015, soft=0.8) * 0.45, dark)

    # Lashes grow from three quarters before the middle of the upper lid, and from the outer part
    # of the lower one.
    n = int(34 + 26 * made_up)
    upper = _row(rng, up, side, -1, 0.010 + 0.009 * made_up, n)
    lower = _row(rng, low, side, 1, 0.005 + 0.003 * made_up, n // 2)
    hairs = curve(np.concatenate([upper, lower]), 3)
    colours = np.full((len(hairs), 1, 3), 28.0) * np.array([1, 0.8, 0.75])
    sheet.hairs(hairs, colours, np.ones(len(hairs)), 0.55 + 0.35 * made_up)


def _row(
    rng: np.random.Generator, lid: np.ndarray, side: int, sign: int, long: float, n: int
) -> np.ndarray:
    """Guide points [n, 3, 2] of lashes on one lid; sign -1 up, 1 down."""
    # Longer towards the outer corner, where they also spread more.
    u = np.sort(rng.uniform(-0.75 if sign < 0 else -0.2, 1.0, n))
    x = np.interp(u, np.linspace(-1, 1, 17), lid[:, 0])
    y = np.interp(u, np.linspace(-1, 1, 17), lid[:, 1])
    size = long * rng.uniform(0.6, 1.1, n) * (0.55 + 0.45 * np.maximum(0, u))
    out = side * (0.15 + 0.8 * u) * size
    root = np.stack([x, y], -1)
    middle = root + np.stack([out * 0.4, sign * 0.35 * size], -1)
    tip = root + np.stack([out, sign * 0.9 * size], -1)
    return np.stack([root, middle, tip], 1)


# ---- brows ----


def brows(sheet: Sheet, p: Person) -> None:
    """Paint brows of single hairs over a soft shade."""
    rng = stream(p.seed, 'brow')
    wide = (0.0155 if p.man else 0.0118) * rng.uniform(0.8, 1.25)
    rgb = np.array([120, 92, 68])  # of blond hair
    if p.hair_rgb[0] < 190:
        rgb = np.minimum(np.array(p.hair_rgb) * 0.62 + 6, 120)
    thick = rng.uniform(0.75, 1.1)
    for side in (-1, 1):
        # The brow is an area around its middle line, widest near its inner end.
        middle = curve(brow_line(p, side), 8)
        u = np.linspace(0, 1, len(middle))
        half = wide * np.interp(u, [0, 0.12, 0.45, 0.8, 1], [0.35, 0.95, 0.88, 0.55, 0.08])
        above, below = middle - np.stack([0 * u, half], -1), middle + np.stack([0 * u, half], -1)
        cover = sheet.cover(np.concatenate([above, below[::-1]]), soft=2.8)
        sheet.ids[cover > 0.45] = labels.LEFT_BROW if side > 0 else labels.RIGHT_BROW
        sheet.paint(cover * 0.60 * thick, lin(rgb * 0.9))

        n = int(420 * thick)
        points = _brow_hairs(rng, middle, half, side, n)
        colours = (rgb * rng.uniform(0.55, 1.25, (n, 1)))[:, None, :]
        sheet.hairs(points, colours, np.ones(n), 0.82)


def _brow_hairs(
    rng: np.random.Generator, middle: np.ndarray, half: np.ndarray, side: int, n: int
) -> np.ndarray:
    """Curves [n, m, 2] of hairs: upright at the inner end of the brow, lying at the outer end."""
    at, off = rng.beta(1.0, 1.15, n), rng.uniform(-1, 1, n)
    u = np.linspace(0, 1, len(middle))
    x, y, h = (np.interp(at, u, v) for v in (middle[:, 0], middle[:, 1], half))
    root = np.stack([x, y + off * h], -1)
    # Angles from the horizontal; the outer ends lie down.
    lean = mix(1.25, 0.10, np.clip(at * 1.6, 0, 1)) + rng.normal(0, 0.18, n) + 0.35 * off
    lean = np.where(at > 0.6, lean - 0.55 * (at - 0.6) / 0.4, lean)
    long = rng.uniform(0.012, 0.022, n) * (1 - 0.45 * at)
    tip = root + np.stack([side * np.cos(lean) * long, -np.sin(lean) * long], -1)
    bend = mix(root, tip, 0.5) + np.stack([side * 0.0 * long, -0.10 * long], -1)
    tip = tip + np.stack([side * 0.12 * long, 0.1 * long], -1)
    return curve(np.stack([root, bend, tip], 1), 3)


# ---- glasses ----


def glasses(sheet: Sheet, p: Person) -> None:
    """Paint frame, bridge, temples, and lenses with a reflection.

    Dark lenses hide the eyes and take their class.
    """
    rng = stream(p.seed, 'glasses')
    # Form, material and colour.
    kind, size = ('round', 'square', 'cat', 'pilot')[int(rng.integers(4))], rng.uniform(0.86, 1.02)
    thin = kind == 'pilot' or rng.random() < 0.35
    wide = rng.uniform(0.004, 0.006) if thin else rng.uniform(0.010, 0.016)
    colour = one_of(rng, METALS if thin else HORNS)
    eyes_now = (sheet.ids >= labels.LEFT_EYE) & (sheet.ids <= labels.RIGHT_BROW)
    stripes = (sheet.x * 0.7 + sheet.y) * rng.uniform(12, 30) + rng.uniform(0, 6)
    bands = step(np.sin(stripes), 0.75, 1.0)

    rings = [_lens(side, kind, size) for side in (-1, 1)]
    lines = [(ring, True) for ring in rings] + _bridge_and_temples(p, size)
    frame = np.zeros(sheet.ids.shape, np.float32)
    for line, closed in lines:
        frame = np.maximum(frame, sheet.stroke(line, wide, soft=0.5, closed=closed))
    _cast_shadow(sheet, p, lines[:3], wide)
    _paint_lenses(sheet, rng, rings, bands, eyes_now, p.glasses == 'dark')

    # The frame is round: bright where it faces up, with a shine on the lamp's side.
    top = np.clip(1.15 + 26 * (np.roll(frame, -1, 0) - np.roll(frame, 1, 0)) * 0.03, 0.6, 1.8)
    shine = bell(sheet.x * np.sign(p.light[0]) + 0.3 * sheet.y, 0.27, 0.05)
    rgb = colour * top[..., None] + (0.10 if thin else 0.05) * shine[..., None]
    sheet.paint(frame, rgb.astype(np.float32), labels.GLASSES)


def _lens(side: int, kind: str, size: float) -> np.ndarray:
    """Outline of one lens [m, 2], a superellipse."""
    a = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    power, w, h, drop = {
        'round': (2.0, 0.082, 0.080, 0.004),
        'square': (3.6, 0.094, 0.062, 0.0),
        'cat': (2.6, 0.094, 0.064, 0.0),
        'pilot': (2.5, 0.096, 0.084, 0.012),
    }[kind]
    # |x|^power + |y|^power = 1: 2 is round, larger is squarer.
    x = np.sign(np.cos(a)) * np.abs(np.cos(a)) ** (2 / power)
    y = np.sign(np.sin(a)) * np.abs(np.sin(a)) ** (2 / power)
    x, y = x * w * size, y * h * size
    if kind == 'pilot':
        x = x * (1 - 0.16 * np.maximum(0, y / h)) - 0.008 * np.maximum(0, y / h)
    if kind == 'cat':
        y = y - 0.012 * np.maximum(0, x / w) ** 2
    return np.stack([side * (0.132 + x), 0.476 + drop + y], -1)


def _bridge_and_temples(p: Person, size: float) -> list[tuple[np.ndarray, bool]]:
    """(line, whether it is closed) of what holds the lenses."""
    inner, outer = 0.132 - 0.088 * size, 0.132 + 0.088 * size
    edge = float(half_width(p, 0.45))
    bridge = [(-0.132 + 0.088 * size, 0.470), (-0.02, 0.458), (0.02, 0.458), (inner, 0.470)]
    lines = [(curve(bridge, 5), False)]
    for side in (-1, 1):
        lines.append((np.array([(side * outer, 0.458), (side * (edge + 0.004), 0.452)]), False))
    return lines


def _cast_shadow(
    sheet: Sheet, p: Person, lines: list[tuple[np.ndarray, bool]], wide: float
) -> None:
    """Shadow of the frame on the face, away from the lamp."""
    shadow = np.zeros(sheet.ids.shape, np.float32)
    for line, closed in lines:
        moved = line + (-0.012 * p.light[0], 0.012)
        shadow = np.maximum(shadow, sheet.stroke(moved, wide * 1.1, soft=3, closed=closed))
    sheet.shade(1 - 0.35 * shadow)


def _paint_lenses(
    sheet: Sheet,
    rng: np.random.Generator,
    rings: list[np.ndarray],
    bands: np.ndarray,
    eyes_now: np.ndarray,
    dark: bool,
) -> None:
    """Tint and reflections of both lenses.

    bands:    [s, s] of what is reflected
    eyes_now: [s, s] bool: eyes and brows, which clear lenses leave their class
    """
    for ring in rings:
        lens = sheet.cover(ring)
        if dark:
            tint = one_of(rng, DARK_LENSES) if ring is rings[0] else lin(*DARK_LENSES[0])
            fade = 0.95 - 0.25 * step(sheet.y, 0.44, 0.56)
            sheet.paint(lens * fade, tint * np.ones((1, 1, 3), np.float32))
        glare = step(bands + 0.3 * bell(sheet.y, 0.42, 0.03), 0.2, 1.2) * lens
        sheet.paint(glare * (0.22 if dark else 0.12), lin(226, 234, 244))
        sheet.ids[(lens > 0.5) & ~(eyes_now & (not dark))] = labels.GLASSES
